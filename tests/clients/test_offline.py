"""A tree of packages, installed once; then the upstream is gone, the server new and the clients' caches empty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import index_url, succeeded
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel

# Nothing is fresh, so that every page is asked for again at an upstream that is not there any more.
NEVER_FRESH = {"cache": {"fresh_for": "0s", "stale_while_revalidate": "0s"}}
TREE = {"app-3.0", "framework-1.5", "toolkit-2.0", "leaf-0.9"}
FORMS: dict[str, dict[str, Any]] = {
    "json": {},
    "html": {"form": "html"},
    "html-without-sha256-and-metadata": {"form": "html", "hashes": ["md5"], "core_metadata": False},
}


@pytest.fixture(scope="module", params=FORMS)
def gone(request: pytest.FixtureRequest, place: Path) -> Iterator[tuple[FakeUpstream, OverlayServer, Client]]:
    """Give a server that once served the tree, started anew without its upstream, and empty clients."""
    with FakeUpstream(**FORMS[request.param]) as upstream:
        upstream.add_file("app", *make_wheel("app", "2.0", requires=["framework"]))
        upstream.add_file("app", *make_wheel("app", "3.0", requires=["framework>=1", "toolkit"]))
        upstream.add_file("framework", *make_wheel("framework", "1.5", requires=["leaf<1"]))
        upstream.add_file("toolkit", *make_sdist("toolkit", "2.0", requires=["leaf"]))
        upstream.add_file("leaf", *make_wheel("leaf", "0.9"))
        upstream.add_file("leaf", *make_wheel("leaf", "1.0"))
        client = Client(place / f"home-{request.param}")
        with ForkedServer(base_config(upstream) | NEVER_FRESH, place / f"server-{request.param}") as server:
            for name, install in (("pip", client.pip_install), ("uv", client.uv_pip_install)):
                target = place / f"{request.param}-{name}"
                succeeded(install(target, index_url(server), "app"))
                assert installed(target) == TREE
            upstream.stop()
            server.restart()
            client.forget()
            yield upstream, server, client


def test_pip_installs_the_tree_from_disk_when_the_upstream_is_gone(
    gone: tuple[FakeUpstream, OverlayServer, Client], fresh: Callable[[], Path]
) -> None:
    _, server, client = gone
    target = fresh()
    succeeded(client.pip_install(target, index_url(server), "app"))
    assert installed(target) == TREE


def test_uv_installs_the_tree_from_disk_when_the_upstream_is_gone(
    gone: tuple[FakeUpstream, OverlayServer, Client], fresh: Callable[[], Path]
) -> None:
    _, server, client = gone
    target = fresh()
    succeeded(client.uv_pip_install(target, index_url(server), "app"))
    assert installed(target) == TREE


def test_what_was_never_asked_for_is_unavailable_and_not_unknown(
    gone: tuple[FakeUpstream, OverlayServer, Client], fresh: Callable[[], Path]
) -> None:
    """Also the other file of a page that is kept: its bytes never came."""
    _, server, client = gone
    quick = Client(client.home, UV_HTTP_RETRIES="0", COLUMNS="300")
    done = quick.uv_pip_install(fresh(), index_url(server), "other")
    assert done.returncode != 0
    assert "502" in done.stderr
    target = fresh()
    done = quick.uv_pip_install(target, index_url(server), "leaf==1.0")
    assert done.returncode != 0
    assert installed(target) == set()
