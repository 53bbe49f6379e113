"""A lock file of uv's own making, warmed into an empty cache: then uv installs with the upstream gone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.talking import fetch, index_url, links, succeeded
from tests.support.clients import Client, find_uv, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel

PROJECT = '[project]\nname = "shop"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = ["app"]\n'
TREE = {"app-3.0", "framework-1.5", "leaf-0.9"}
# Nothing is fresh, so that every page is asked for again at an upstream that is not there any more.
NEVER_FRESH = {"cache": {"fresh_for": "0s", "stale_while_revalidate": "0s"}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        upstream.add_file("app", *make_wheel("app", "2.0"))
        upstream.add_file("app", *make_wheel("app", "3.0", requires=["framework>=1"]))
        upstream.add_file("framework", *make_wheel("framework", "1.5", requires=["leaf<1"]))
        upstream.add_file("framework", *make_sdist("framework", "1.5"))
        for version in ("0.9", "1.0"):
            upstream.add_file("leaf", *make_wheel("leaf", version))
        yield upstream


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, place: Path) -> Iterator[OverlayServer]:
    with ForkedServer(base_config(upstream) | NEVER_FRESH, place / "server") as server:
        yield server


def fetched(upstream: FakeUpstream) -> list[str]:
    """The files that the upstream was asked for, without metadata."""
    names = [
        request.path.rpartition("/")[2] for request in upstream.requests() if "/packages/" in request.path
    ]
    return sorted(name for name in names if not name.endswith(".metadata"))


def test_what_a_lock_file_names_is_installed_with_the_upstream_gone(
    upstream: FakeUpstream, server: OverlayServer, place: Path
) -> None:
    client = Client(place / "home")
    (client.home / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    succeeded(client.run(find_uv(), "lock", "--default-index", index_url(server)))
    succeeded(client.run(find_uv(), "export", "--no-emit-project", "-o", "pylock.toml"))
    server.json("cache", "purge", "--all", "--yes")
    upstream.reset_requests()

    found = server.json("cache", "warm", "--lock", str(client.home / "uv.lock"))

    assert (found["names"], found["files"], found["fetched"], found["errors"]) == (3, 4, 4, [])
    assert found["skipped"] == [{"name": "shop", "reason": "comes from a directory, not from an index"}]
    whole = ["app-3.0-py3-none-any.whl", "framework-1.5-py3-none-any.whl", "framework-1.5.tar.gz"]
    assert fetched(upstream) == [*whole, "leaf-0.9-py3-none-any.whl"]
    again = server.json("cache", "warm", "--lock", str(client.home / "pylock.toml"))
    assert (again["files"], again["fetched"], again["errors"]) == (4, 0, [])

    upstream.stop()
    client.forget()
    succeeded(client.run(find_uv(), "sync", "--frozen", "--default-index", index_url(server)))
    (site,) = (client.home / ".venv" / "lib").glob("python*/site-packages")
    assert installed(site) == TREE
    upstream.start()


def test_a_file_that_is_warmed_and_downloaded_at_once_comes_once(
    upstream: FakeUpstream, server: OverlayServer
) -> None:
    filename, content = make_wheel("large", "1.0", size=300 << 10)
    upstream.add_file("large", filename, content)
    upstream.reset_requests()
    upstream.fault("/packages/*large-1.0*.whl", rate=1 << 20)
    (link,) = links(f"{index_url(server)}large/")

    with ThreadPoolExecutor(2) as pool:
        warming = pool.submit(server.json, "cache", "warm", "large")
        upstream.await_requests("/packages/", timeout=30)
        answer = fetch(link)
        found = warming.result()

    assert (answer.status, answer.body == content) == (200, True)
    assert (found["files"], found["errors"]) == (1, [])
    assert fetched(upstream) == [filename]
    upstream.clear_faults()


def test_progress_is_shown_on_a_terminal_alone(upstream: FakeUpstream, server: OverlayServer) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "proxy",
            "cache",
            "warm",
            "leaf",
            "--json",
            "--config",
            str(server.config_file),
        ],
        stdout=subprocess.PIPE,
        stderr=follower,
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "120", "LANG": "C.UTF-8"},
    ) as process:
        assert process.stdout is not None
        assert b'"files": 1' in process.stdout.read()
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert process.returncode == 0
    assert "Warming" in shown
    assert "leaf" in shown
