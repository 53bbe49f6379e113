"""Large files on the wire: whole and in parts, to many, to slow ones and to those that leave; also through TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import parse_headers
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import trustme

from proxy.web import sendfile
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until, wait_until_async
from tests.support.wheels import make_wheel
from tests.web.house import config
from tests.web.wire import Answer, receive

MiB = 1 << 20
OPEN = 400
"""Downloads that nobody reads on."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server with a large wheel in its cache."""

    server: OverlayServer
    target: str
    content: bytes
    context: ssl.SSLContext | None

    @property
    def pid(self) -> int:
        return self.server.pids[-1]

    def connect(self, *, buffer: int | None = None) -> socket.socket:
        """Connect; `buffer` is what the system may take in advance."""
        parts = urlsplit(self.server.url)
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(20)
        connection.connect((parts.hostname, parts.port))
        if self.context is not None:
            return self.context.wrap_socket(connection, server_hostname="127.0.0.1")
        return connection

    def head(self, target: str | None = None, **headers: str) -> bytes:
        """Write a head; `_` in names stands for `-`."""
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return f"GET {target or self.target} HTTP/1.1\r\nHost: files\r\n{more}\r\n".encode()

    def get(self, **headers: str) -> Answer:
        with self.connect() as connection:
            connection.sendall(self.head(**headers))
            return receive(connection)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - no paths are needed

    def threads(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"^Threads:\s+(\d+)$", status, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def broken_off(self) -> list[int]:
        """How many bytes were sent of each answer that was broken off, as the log has it."""
        lines = [json.loads(line) for line in self.server.log_text().splitlines()]
        return [line["bytes"] for line in lines if line.get("status") == 499]


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def wheel(upstream: FakeUpstream) -> tuple[str, bytes]:
    filename, content = make_wheel("large", "1.0", size=20 * MiB)
    upstream.add_file("large", filename, content)
    return filename, content


def serve(
    upstream: FakeUpstream, wheel: tuple[str, bytes], directory: Path, *, over_tls: bool
) -> Iterator[Served]:
    filename, content = wheel
    settings = config(upstream)
    context = None
    if over_tls:
        authority = trustme.CA()
        pem = directory / "pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
        settings["server"] = {"tls": {"certificate": str(pem), "key": str(pem)}}
        context = ssl.create_default_context()
        authority.configure_trust(context)
    with ForkedServer(settings, directory) as server:
        target = f"/files/{hashlib.sha256(content).hexdigest()}/{filename}"
        served = Served(server, target, content, context)
        wait_until(lambda: served.get()["Cache-Status"] == "pypi-overlay; hit", what="the wheel in the cache")
        yield served


@pytest.fixture(scope="module")
def plain(
    upstream: FakeUpstream, wheel: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    yield from serve(upstream, wheel, tmp_path_factory.mktemp("plain"), over_tls=False)


@pytest.fixture(scope="module")
def through_tls(
    upstream: FakeUpstream, wheel: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    yield from serve(upstream, wheel, tmp_path_factory.mktemp("tls"), over_tls=True)


@pytest.fixture(params=["plain", "through_tls"])
def served(request: pytest.FixtureRequest) -> Served:
    return cast("Served", request.getfixturevalue(request.param))


def test_a_large_file_comes_whole(served: Served) -> None:
    answer = served.get()
    assert (answer.status, answer.whole) == (200, True)
    assert answer["Content-Length"] == str(len(served.content))
    assert answer.body == served.content


@pytest.mark.parametrize(
    ("first", "last"), [(1, 2 * MiB + 7), (5 * MiB, 5 * MiB + 300_000), (19 * MiB, None)]
)
def test_a_large_part_comes_to_the_byte(served: Served, first: int, last: int | None) -> None:
    answer = served.get(Range=f"bytes={first}-{'' if last is None else last}")
    assert answer.status == 206
    assert answer.body == served.content[first : None if last is None else last + 1]


def test_a_connection_goes_on_after_a_large_file(served: Served) -> None:
    with served.connect() as connection, connection.makefile("rb") as received:

        def body() -> bytes:
            assert received.readline() == b"HTTP/1.1 200 OK\r\n"
            return received.read(int(parse_headers(received)["Content-Length"]))

        # Two at once: the second head has come before the first answer begins.
        connection.sendall(served.head() * 2)
        assert [body(), body()] == [served.content] * 2
        for target in (served.target + ".metadata", served.target):
            connection.sendall(served.head(target))
            assert body().startswith(b"Metadata-Version" if target.endswith(".metadata") else served.content)


def test_many_clients_get_a_large_file_beside_one_that_reads_slowly(served: Served) -> None:
    with served.connect(buffer=4096) as slow, ThreadPoolExecutor(8) as pool:
        slow.sendall(served.head())
        begin = slow.recv(5000)
        answers = [pool.submit(served.get) for _ in range(8)]
        assert {answer.result(20).body for answer in answers} == {served.content}
        # It gets everything in its own time.
        left = begin.find(b"\r\n\r\n") + 4 + len(served.content) - len(begin)
        assert receive_some(slow, left)[-15 * MiB :] == served.content[-15 * MiB :]


def test_a_client_that_leaves_midway_leaves_nothing_behind(served: Served) -> None:
    before, known = served.descriptors(), len(served.broken_off())
    for _ in range(10):
        with served.connect(buffer=4096) as connection:
            connection.sendall(served.head())
            assert len(receive_some(connection, MiB)) >= MiB
    wait_until(lambda: len(served.broken_off()) == known + 10, what="the ends in the log")
    assert all(0 < sent < len(served.content) for sent in served.broken_off())
    wait_until(lambda: served.descriptors() <= before, what="the descriptors to be closed")


def test_many_open_downloads_take_neither_threads_nor_memory_and_hold_up_nobody(plain: Served) -> None:
    threads, memory = plain.threads(), plain.server.rss()
    with contextlib.ExitStack() as downloads:
        opened = [downloads.enter_context(plain.connect(buffer=4096)) for _ in range(OPEN)]
        for connection in opened:
            connection.sendall(plain.head())
        for connection in opened:
            assert connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        assert plain.get().body == plain.content
        assert plain.threads() - threads < 10
        assert (plain.server.rss() - memory) / OPEN < 80_000


def receive_some(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (piece := connection.recv(1 << 18)):
        received += piece
    return bytes(received)


# What a server can hardly be brought to.


@contextlib.asynccontextmanager
async def an_outlet() -> AsyncIterator[tuple[sendfile.Outlet, asyncio.Transport, socket.socket]]:
    """An outlet, its transport, and the other end of its connection."""
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=here.dup())
        try:
            yield sendfile.Outlet(transport, here.fileno()), transport, there
        finally:
            transport.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """Give a file of 8 MiB, open and in no memory but the kernel's."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 * MiB))
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


async def test_a_client_that_takes_nothing_is_given_up(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sendfile, "PATIENCE", 0.05)
    async with an_outlet() as (outlet, _, _):
        with pytest.raises(ConnectionResetError, match="takes nothing"):
            await outlet.send(file, 0, 8 * MiB)
        assert 0 < outlet.sent < 8 * MiB


async def test_a_client_that_closes_ends_what_is_sent(file: int) -> None:
    async with an_outlet() as (outlet, _, there):
        sending = asyncio.create_task(outlet.send(file, 0, 8 * MiB))
        await wait_until_async(lambda: outlet.sent, what="the first bytes")
        there.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(sending, 10)


async def test_what_is_sent_ends_where_the_transport_is_closed(file: int) -> None:
    async with an_outlet() as (outlet, transport, there):
        sending = asyncio.create_task(outlet.send(file, 0, 8 * MiB))
        await wait_until_async(lambda: outlet.sent, what="the first bytes")
        transport.abort()
        await asyncio.get_running_loop().sock_recv(there, MiB)
        with pytest.raises(ConnectionResetError, match="was closed"):
            await asyncio.wait_for(sending, 10)


async def test_a_file_that_became_shorter_breaks_the_connection_off(file: int) -> None:
    os.truncate(file, 1000)
    async with an_outlet() as (outlet, _, _):
        with pytest.raises(ConnectionResetError, match="became shorter"):
            await outlet.send(file, 0, 2000)


async def test_what_only_the_disk_has_is_sent_like_the_rest(file: int) -> None:
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    if sendfile.is_in_memory(file, 5 * MiB):
        pytest.skip("this file system keeps everything in memory, or does not tell")
    async with an_outlet() as (outlet, _, there):
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(outlet.send(file, 1000, 8 * MiB))
        received = bytearray()
        while len(received) < 8 * MiB - 1000:
            received += await loop.sock_recv(there, MiB)
        await sending
    assert bytes(received) == os.pread(file, 8 * MiB, 1000)
    assert sendfile.is_in_memory(file, 5 * MiB)
