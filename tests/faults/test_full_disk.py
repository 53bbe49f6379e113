"""A disk that takes no more: uploads are told so, and everything else goes on (contract 8).

No test may fill a real disk, so the system limits the size of every file that the server writes
(RLIMIT_FSIZE): the write fails in its middle, as on a full disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import (
    TOKEN,
    Background,
    address,
    assert_incomplete,
    make_server,
    outcome,
    publish,
    published,
    sha256,
)
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import JSON, Wire, receive

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no resource limits")

LIMIT = 2 << 20
WRAPPER = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (%d, resource.RLIM_INFINITY))
sys.argv = ["proxy", *sys.argv[1:]]
runpy.run_module("proxy", run_name="__main__")
"""


class Cramped(OverlayServer):
    """A server that can write no file larger than `LIMIT`."""

    def _command(self, *arguments: str) -> list[str]:
        command = super()._command(*arguments)
        place = command.index("-m")
        return [*command[:place], "-c", WRAPPER % LIMIT, *command[place + 2 :]]


@pytest.fixture(scope="module")
def cramped(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OverlayServer]:
    with make_server(upstream_of_module, tmp_path_factory.mktemp("cramped"), kind=Cramped) as server:
        yield server


@pytest.fixture
def upstream(upstream_of_module: FakeUpstream) -> FakeUpstream:
    """The upstream of `cramped`, empty. Tests give their projects names of their own: pages are cached."""
    upstream_of_module.reset()
    return upstream_of_module


def test_an_upload_that_finds_no_room_is_told_507_and_leaves_nothing(cramped: OverlayServer) -> None:
    small, big = make_wheel("small", "1.0"), make_wheel("big", "1.0", size=LIMIT + 100_000)
    published(cramped, *small)
    done = publish(cramped, *big)
    assert done.status == 507
    assert "no space is left on the server" in done.reason
    assert "no space is left on the server" in done.text
    assert str(cramped.data_dir) not in done.text
    assert list((cramped.data_dir / "incoming").iterdir()) == []
    wire = Wire(cramped.url)
    assert wire.get("/acme/simple/big/").status == 404
    assert wire.get(address(*small, "/acme")).body == small[1]
    assert wire.get("/readyz").status == 200
    published(cramped, *make_wheel("big", "1.0"))
    assert "Traceback" not in cramped.log_text()


numbers = itertools.count(1)
BIG = make_wheel("gears", "1.0", size=LIMIT + 1_000_000)


def test_a_file_that_cannot_be_kept_is_passed_through(
    cramped: OverlayServer, upstream: FakeUpstream, background: Background
) -> None:
    small = make_wheel("cogs", "1.0")
    for name, made in (("cogs", small), ("gears", BIG)):
        upstream.add_file(name, *made)
    wire = Wire(cramped.url)
    assert wire.get(address(*small)).body == small[1]
    for _ in range(2):
        clients = [background.call(wire.get, address(*BIG)) for _ in range(3)]
        for client in clients:
            got = client.result(30)
            assert (got.status, got.whole) == (200, True)
            assert sha256(got.body) == sha256(BIG[1])
    assert wire.head(address(*BIG))["Content-Length"] == str(len(BIG[1]))
    arriving = cramped.data_dir / "cache" / "partial"
    wait_until(lambda: not list(arriving.iterdir()), what="the last traces to go")
    assert "no space is left" in cramped.log_text()
    assert 'pypi_overlay_transfers_total{event="unkept"} 0.0' not in wire.get("/metrics").text
    upstream.stop()
    assert wire.get(address(*small)).body == small[1]
    assert wire.get("/readyz").status == 200


@pytest.mark.parametrize(
    ("about", "fault", "served"),
    [
        ({}, {"ignore_range": True}, True),
        ({}, {"chunked": True}, True),
        ({"size": False}, {}, True),
        ({}, {"alter": 1}, False),
        ({}, {"alter": -1}, False),
        ({}, {"truncate": 400_000, "nth": 2}, False),
        ({"hashes": []}, {}, True),
        ({"hashes": []}, {"alter": -1}, False),
    ],
    ids=str,
)
def test_what_is_passed_through_is_verified_all_the_same(
    cramped: OverlayServer,
    upstream: FakeUpstream,
    about: dict[str, Any],
    fault: dict[str, Any],
    served: bool,
) -> None:
    """Where the page names no digest, the address does."""
    name, content = f"gears{next(numbers)}", BIG[1]
    filename = f"{name}-1.0-py3-none-any.whl"
    upstream.add_file(name, filename, content)
    upstream.change_project(name, **about)
    if fault:
        upstream.fault(f"/packages/*{filename}", **fault)
    target = address(filename, content)
    if about.get("hashes") == []:
        target = only_link(cramped, name)
    answer = outcome(cramped, target)
    if served:
        assert answer is not None
        assert answer.whole
        assert answer.body == content
    else:
        assert_incomplete(answer, len(content))


def only_link(server: OverlayServer, name: str) -> str:
    """Where a page says that its one file is."""
    path: str = Wire(server.url).get(f"/simple/{name}/", headers={"Accept": JSON}).json["files"][0]["url"]
    return "/" + path.lstrip("./")


def test_without_any_digest_there_is_no_second_half(cramped: OverlayServer, upstream: FakeUpstream) -> None:
    """Nothing could tell whether the two are of one file."""
    name, content = f"gears{next(numbers)}", BIG[1]
    filename = f"{name}-1.0-py3-none-any.whl"
    blake = hashlib.blake2b(content, digest_size=32).hexdigest()
    upstream.add_file(name, filename, content, url=f"{upstream.url}/plain/{filename}")
    upstream.change_project(name, hashes=[])
    upstream.fault(
        f"/plain/{filename}",
        redirect=f"{upstream.url}/packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{filename}",
    )
    assert_incomplete(outcome(cramped, only_link(cramped, name)), len(content))


@contextlib.contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """Put a file where a directory should be: nothing can be written below it."""
    aside = directory.with_name(f"{directory.name}.aside")
    directory.rename(aside)
    directory.write_text("no directory")
    try:
        yield
    finally:
        directory.unlink()
        aside.rename(directory)


@pytest.fixture(scope="module")
def roomy(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OverlayServer]:
    """Give a server that may write whatever its disk takes."""
    limits = {"limits": {"max_file_size": 1 << 62}}
    with make_server(upstream_of_module, tmp_path_factory.mktemp("roomy"), limits) as server:
        yield server


@pytest.mark.parametrize("size", [1_000, 400_000])
def test_where_nothing_at_all_can_be_written_files_pass_from_the_first_byte(
    roomy: OverlayServer, upstream: FakeUpstream, size: int
) -> None:
    filename, content = make_wheel(f"gears{next(numbers)}", "1.0", size=size)
    bad, bad_content = make_wheel(f"cogs{next(numbers)}", "1.0", size=size)
    upstream.add_file(filename.split("-")[0], filename, content)
    upstream.add_file(bad.split("-")[0], bad, bad_content)
    upstream.fault(f"/packages/*{bad}", alter=True)
    wire = Wire(roomy.url)
    with unwritable(roomy.data_dir / "cache" / "partial"):
        got = wire.get(address(filename, content))
        assert (got.status, got.body) == (200, content)
        assert got["Cache-Status"] == "pypi-overlay; fwd=uri-miss"
        assert got["ETag"] == f'"{sha256(content)}"'
        assert_incomplete(outcome(roomy, address(bad, bad_content)), len(bad_content))
    assert wire.get(address(filename, content)).body == content
    wait_until(
        lambda: list(roomy.data_dir.glob(f"cache/files/*/{sha256(content)}")), what="the file to be kept"
    )


def test_a_page_that_cannot_be_kept_is_shown(roomy: OverlayServer, upstream: FakeUpstream) -> None:
    upstream.add_file("shown", *make_wheel("shown", "1.0"))
    with unwritable(roomy.data_dir / "cache" / "pages-v1"):
        for _ in range(2):
            assert "shown-1.0" in Wire(roomy.url).get("/simple/shown/").text
    assert len(upstream.asked_for("shown")) == 2


def test_an_upload_that_is_larger_than_what_is_free_is_refused_at_once(
    roomy: OverlayServer, tmp_path: Path
) -> None:
    """Not one byte of the body is sent: Content-Length alone is enough, and the client need not wait."""
    room = os.statvfs(tmp_path)
    length = room.f_blocks * room.f_frsize + 1
    wire = Wire(roomy.url)

    def head(authorization: str) -> bytes:
        lines = [
            "POST /acme/widgets/ HTTP/1.1",
            "Host: x",
            f"Content-Length: {length}",
            f"Content-Type: {FORM_TYPE['Content-Type']}",
            *([f"Authorization: Bearer {authorization}"] if authorization else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    with socket.create_connection(wire.address, 10) as connection:
        connection.sendall(head(TOKEN))
        answer = receive(connection)
    assert answer.status == 507
    assert "no room for this upload" in answer.text
    # 401 comes first; but a client that goes on sending is read on, so here it only must not be 507.
    body = upload(*make_wheel("gears", "1.0"))
    denied = wire.send("POST", "/acme/widgets/", headers=FORM_TYPE, body=body)
    assert denied.status == 401
