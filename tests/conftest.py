"""Fixtures for all tests: a fake upstream, servers, and clients with an empty home; in which order tests run.

Properties are tried on few examples, so that everybody waits little; CI tries them once on many, by
`--hypothesis-profile thorough`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings

from tests.support.clients import Client
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream

HERE = Path(__file__).parent

settings.register_profile("quick", max_examples=50)
settings.register_profile("thorough", max_examples=500)
settings.load_profile("quick")

LONG_ONES = ("clients", "faults", "server", "cli", "protocol", "web", "properties")
"""Directories with modules that take long. They go first: the short ones fill up what is left at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests in order by their directory; within one they keep theirs."""

    def place(item: pytest.Item) -> int:
        directory = item.path.relative_to(HERE).parts[0]
        return LONG_ONES.index(directory) if directory in LONG_ONES else len(LONG_ONES)

    items.sort(key=place)


class Serve(Protocol):
    """What the fixture `serve` is: `serve(config, **options)` starts a server, options as of OverlayServer."""

    def __call__(
        self, config: Mapping[str, Any], *, directory: Path | None = None, **options: Any
    ) -> OverlayServer: ...


@pytest.fixture(scope="session")
def _upstream_of_session() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream_of_session: FakeUpstream) -> FakeUpstream:
    """Give a running fake upstream, empty and well-behaved, that has received nothing.

    Its process and port serve all tests of the session in turn; fixtures of a wider scope make their own.
    """
    _upstream_of_session.reset()
    return _upstream_of_session


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give a function that starts a server on a configuration; all are stopped when the test ends."""
    with ExitStack() as servers:
        numbers = count(1)

        def start(
            config: Mapping[str, Any], *, directory: Path | None = None, **options: Any
        ) -> OverlayServer:
            server = ForkedServer(config, directory or tmp_path / f"server-{next(numbers)}", **options)
            servers.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture
def tmp_home(tmp_path: Path) -> Path:
    """Give an empty HOME."""
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def client(tmp_home: Path) -> Client:
    """Give pip, uv and twine with that HOME."""
    return Client(tmp_home)
