"""A server with an owner token that is known beforehand, in front of an upstream that misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Answer, Wire

T = TypeVar("T")

HOLD_BACK = 64 << 10
TOKEN = "an-owner-token-of-the-tests-1"
GROUPS: dict[str, Any] = {
    "groups": {
        "acme": {
            "visibility": "public",
            "projects": {"widgets": {}, "sandbox": {}},
            "groups": {
                "closed": {
                    "visibility": "public",
                    "policy": {"forward": False},
                    "projects": {"gears": {}},
                }
            },
        }
    }
}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_server(
    upstream: FakeUpstream,
    directory: Path,
    config: Mapping[str, Any] | None = None,
    *,
    kind: type[OverlayServer] = ForkedServer,
    **settings: Any,
) -> OverlayServer:
    """A server that is not started yet, which asks its upstream as often as by default.

    `settings` are more keys of that upstream.
    """
    whole = {**base_config(upstream, **{"retries": 2, **settings}), **GROUPS, **(config or {})}
    return kind(whole, directory, env={"PYPI_OVERLAY_OWNER_TOKEN": TOKEN})


def publish(server: OverlayServer, filename: str, content: bytes, project: str = "acme/widgets") -> Answer:
    body = upload(filename, content)
    return Wire(server.url).send("POST", f"/{project}", token=TOKEN, headers=FORM_TYPE, body=body)


def published(server: OverlayServer, filename: str, content: bytes, project: str = "acme/widgets") -> None:
    done = publish(server, filename, content, project)
    assert done.status == 201, done.text


def address(filename: str, content: bytes, index: str = "") -> str:
    """Where an index serves a file."""
    return f"{index}/files/{sha256(content)}/{filename}"


def outcome(server: OverlayServer, target: str) -> Answer | None:
    """What a client gets; None where the connection ended before an answer."""
    try:
        return Wire(server.url).get(target)
    except (ConnectionError, http.client.HTTPException):
        return None


def assert_incomplete(answer: Answer | None, length: int | None) -> None:
    """See that a client got no answer, an error, or a part of a file that nobody can take for the whole.

    Args:
        length: of the file, where the server could know it: then all of its end was held back.
    """
    if answer is None or answer.status in {502, 503, 504}:
        return
    assert answer.status == 200
    assert not answer.whole
    if length is not None:
        assert len(answer.body) <= length - HOLD_BACK


class Background:
    """Runs calls in threads; `pool.call(get, url)` gives a future."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def call(self, act: Callable[..., T], *arguments: Any, **options: Any) -> Future[T]:
        return self._pool.submit(act, *arguments, **options)


@pytest.fixture
def background() -> Iterator[Background]:
    with ThreadPoolExecutor(64) as pool:
        yield Background(pool)


@pytest.fixture(scope="module")
def upstream_of_module() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server_of_module(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OverlayServer]:
    with make_server(upstream_of_module, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def shared(upstream_of_module: FakeUpstream, server_of_module: OverlayServer) -> Iterator[OverlayServer]:
    """The module's server; what its upstream was asked and told to do is forgotten before each test.

    Projects stay, so tests give theirs names of their own.
    """
    upstream_of_module.clear_faults()
    upstream_of_module.reset_requests()
    yield server_of_module
    assert server_of_module.is_running
