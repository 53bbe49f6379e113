"""Fixtures for all tests: a fake upstream, servers, and clients with an empty home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.clients import Client
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream


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
            server = OverlayServer(config, directory or tmp_path / f"server-{next(numbers)}", **options)
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
