"""SIGTERM: what is under way ends, `/readyz` says no meanwhile, and then the server is gone."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import TOKEN, Background, address, make_server, published, sha256
from tests.server.conftest import await_log
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Answer, Wire


@pytest.fixture
def server(upstream: FakeUpstream, tmp_path: Path) -> Iterator[OverlayServer]:
    with make_server(upstream, tmp_path) as running:
        yield running


def ask_to_stop(server: OverlayServer) -> None:
    assert server._process is not None
    server._process.send_signal(signal.SIGTERM)
    await_log(server, "stopping")


def test_a_download_and_an_upload_under_way_end_well(
    server: OverlayServer, upstream: FakeUpstream, background: Background
) -> None:
    filename, content = make_wheel("gears", "1.0", size=2_000_000)
    upstream.add_file("gears", filename, content)
    upstream.fault(f"/packages/*{filename}", rate=1_000_000)
    ours, our_content = make_wheel("ours", "1.0", size=300_000)
    body = upload(ours, our_content)
    half_sent, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        head = f"POST /acme/widgets/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {TOKEN}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n\r\n"
        yield head.encode() + body[:100_000]
        half_sent.set()
        go_on.wait(20)
        yield body[100_000:]

    def send() -> Answer:
        return Wire(server.url).exchange(pieces(), method="POST")

    wire = Wire(server.url)
    downloading, uploading = background.call(wire.get, address(filename, content)), background.call(send)
    upstream.await_requests("/packages/")
    assert half_sent.wait(20)
    incoming = server.data_dir / "incoming"
    wait_until(lambda: list(incoming.iterdir()), what="the upload to have begun")

    ask_to_stop(server)
    ready = wire.get("/readyz")
    assert (ready.status, ready["Cache-Control"]) == (503, "no-store")
    assert ready["Retry-After"] is not None
    assert wire.get("/healthz").status == 200
    go_on.set()
    assert uploading.result(20).status == 201
    assert sha256(downloading.result(20).body) == sha256(content)
    assert server.stop() == 0

    upstream.stop()
    server.start()
    wire = Wire(server.url)
    assert wire.get(address(ours, our_content, "/acme")).body == our_content
    assert wire.get(address(filename, content)).body == content


def test_with_nothing_under_way_it_ends_at_once_whoever_keeps_a_connection(server: OverlayServer) -> None:
    wire = Wire(server.url)
    with contextlib.ExitStack() as open_ones:
        for _ in range(5):
            connection = open_ones.enter_context(socket.create_connection(wire.address))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        silent = open_ones.enter_context(socket.create_connection(wire.address))
        assert server.stop(timeout=5) == 0
        assert silent.recv(100) == b""


def test_a_fill_that_nobody_waits_for_does_not_delay_the_end(
    server: OverlayServer, upstream: FakeUpstream
) -> None:
    filename, content = make_wheel("gears", "1.0", size=2_000_000)
    upstream.add_file("gears", filename, content)
    upstream.fault("/simple/slow/", hang=True)
    upstream.fault(f"/packages/*{filename}", truncate=1_000_000, hang=True)
    wire = Wire(server.url)
    with socket.create_connection(wire.address) as connection:
        connection.sendall(f"GET {address(filename, content)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.stop(timeout=15) == 0
    assert list((server.data_dir / "cache" / "partial").iterdir()) == []


def test_what_was_published_is_there_after_a_second_signal(server: OverlayServer) -> None:
    """An impatient operator presses Ctrl-C twice."""
    made = make_wheel("gears", "1.0")
    published(server, *made)
    assert server._process is not None
    for _ in range(2):
        server._process.send_signal(signal.SIGINT)
    assert server.stop() == 0
    server.start()
    assert Wire(server.url).get(address(*made, "/acme")).body == made[1]
