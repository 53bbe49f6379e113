"""One server and one upstream for each module, a person's empty home for each test, and the table at the end.

    pytest -m matrix tests/clients/matrix

The table is written only where this directory is named: pytest's controlling process reads no other conftest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.matrix.table import CELL, draw
from tests.clients.talking import fetch, log_of
from tests.support.clients import Client
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import free_port, wait_until
from tests.support.wheels import make_sdist, make_wheel

HERE = Path(__file__).parent
LAST = "the-last"  # agent of a request behind which nothing is waited for
TIMEOUT = 600.0  # of one test: the first that needs a client makes its environment

GROUPS = {
    "acme": {"members": {"reader": "reporter"}, "projects": {"widgets": {"id": 42}, "sandbox": {}}},
    "strict": {"policy": {"local_versions": "reject"}, "projects": {"widgets": {}}},
    "lenient": {"policy": {"identical_upload": "accept"}, "projects": {"widgets": {}}},
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cell(client, column): the cell of the table that a test stands for")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.matrix)
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(TIMEOUT))
        item.user_properties += [(CELL, list(mark.args)) for mark in item.iter_markers("cell")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, value in report.user_properties:
                if key == CELL:
                    outcomes[value[0], value[1]].append(outcome)
    if outcomes:
        terminalreporter.section("clients")
        for line in draw(outcomes):
            terminalreporter.write_line(line)


@dataclass(frozen=True, slots=True)
class Site:
    """A server with private groups and a public project, its upstream, and tokens that read and write in each."""

    server: OverlayServer
    upstream: FakeUpstream
    tokens: dict[str, str]

    @property
    def host(self) -> str:
        return self.server.url.removeprefix("http://")

    def index(self, base: str = "acme", *, user: str = "", password: str = "") -> str:
        """Return the address of the index of a namespace, empty for the root, with these credentials in it."""
        login = f"{user}:{password}@" if password else f"{user}@" if user else ""
        return f"http://{login}{self.host}/{base}{'/' if base else ''}simple/"

    def token(self, base: str) -> str:
        """Return the token of a project's group, or of the project at the root."""
        return self.tokens[base.partition("/")[0]]

    def records(self, begin: int) -> list[dict[str, Any]]:
        """Return the requests in the access log from a byte offset on; all that were answered by now stand in it."""
        fetch(f"{self.server.url}/healthz", headers={"User-Agent": LAST})
        return wait_until(lambda: _up_to_last(log_of(self.server, begin)), what="the last request in the log")

    def posts(self, begin: int) -> list[int]:
        """Return the statuses of all uploads since then."""
        return [record["status"] for record in self.records(begin) if record["method"] == "POST"]

    def asked(self, begin: int, path: str, agent: str) -> list[int]:
        """Return the statuses of a client's requests of a path since then."""
        return [
            record["status"]
            for record in self.records(begin)
            if record["path"] == path and record.get("agent", "").startswith(agent)
        ]


def _up_to_last(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records if any(record.get("agent") == LAST for record in records) else []


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    """Serve a public application whose newest release cannot be resolved, and a library as sdist alone."""
    public.add_file("app", *make_wheel("app", "1.0", requires=["lib"]))
    public.add_file("app", *make_wheel("app", "1.1", requires=["lib>=2"]))
    public.add_file("app", *make_wheel("app", "2.0", requires=["lib>=3"]))
    public.add_file("lib", *make_wheel("lib", "1.0"))
    public.add_file("lib", *make_wheel("lib", "2.0"))
    public.add_file("lib", *make_sdist("lib", "2.0"))
    public.add_file("source-only", *make_sdist("source-only", "1.0", requires=["lib"]))
    # pip-compile believes the digests of the JSON API where its addresses are those of the page, absolute.
    host = f"127.0.0.1:{free_port()}"
    settings = {
        "server": {"external_url": f"http://{host}"},
        "log": {"format": "json"},
        "users": {"reader": {}},
        "groups": GROUPS,
    }
    with OverlayServer(base_config(public) | settings, place / "server", listen=host) as server:
        yield Site(server, public, {place: server.deploy_token(place) for place in (*GROUPS, "default")})


@pytest.fixture
def person(tmp_path: Path) -> Client:
    """Give somebody at a wide terminal, with an empty home, whose clients do not try again."""
    return Client(tmp_path / "home", COLUMNS="300", UV_HTTP_RETRIES="0", PIP_RETRIES="0")
