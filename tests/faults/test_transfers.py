"""Many clients, slow ones and leaving ones on one cold file; an upstream that lies about it (contract 7)."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.domain.pages import FileRecord
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from tests.faults.conftest import (
    HOLD_BACK,
    Background,
    address,
    assert_incomplete,
    make_server,
    outcome,
    sha256,
)
from tests.faults.downloaders import Download, Downloader
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.wire import Answer, Wire, receive

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server_of_module(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OverlayServer]:
    """As everywhere, but soon tired of an upstream that says nothing."""
    with make_server(upstream_of_module, tmp_path_factory.mktemp("server"), read_timeout="5s") as server:
        yield server


MiB = 1 << 20


@pytest.fixture
def cold(shared: OverlayServer, upstream_of_module: FakeUpstream) -> Iterator[tuple[str, bytes]]:
    """A 4 MB wheel that only the upstream has."""
    name = f"gears{next(numbers)}"
    filename, content = make_wheel(name, "1.0", size=4_000_000)
    upstream_of_module.add_file(name, filename, content)
    yield filename, content
    upstream_of_module.remove_project(name)


def files_asked(upstream: FakeUpstream, filename: str) -> list[str]:
    """The requests of one file: transfers that tests before left behind may still ask for theirs."""
    return [request.path for request in upstream.requests() if request.path.endswith(f"/{filename}")]


def request(server: OverlayServer, target: str) -> socket.socket:
    """Send a request and read nothing; the system buffers as little as it can."""
    parts = urlsplit(server.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((parts.hostname, parts.port))
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
    return connection


def test_fifty_clients_of_one_cold_file_cost_the_upstream_one_request(
    shared: OverlayServer, upstream_of_module: FakeUpstream, background: Background
) -> None:
    filename, content = make_wheel("popular", "1.0", size=20_000_000)
    upstream_of_module.add_file("popular", filename, content)
    digest = sha256(content)

    def download() -> str:
        return sha256(Wire(shared.url).get(address(filename, content)).body)

    clients = [background.call(download) for _ in range(50)]
    assert {client.result() for client in clients} == {digest}
    asked = [found.path for found in upstream_of_module.asked_for("popular")]
    assert len([path for path in asked if path.endswith(".whl")]) == 1
    assert len([path for path in asked if "/simple/" in path]) == 1
    upstream_of_module.remove_project("popular")


def test_a_client_that_leaves_does_not_stop_the_fill(
    shared: OverlayServer, upstream_of_module: FakeUpstream, cold: tuple[str, bytes]
) -> None:
    filename, content = cold
    upstream_of_module.fault(f"/packages/*{filename}", rate=8_000_000)
    with request(shared, address(filename, content)) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    kept = shared.data_dir / "cache" / "files" / sha256(content)[:2] / sha256(content)
    wait_until(kept.exists, what="the transfer to end without a reader")
    assert Wire(shared.url).get(address(filename, content)).body == content
    assert len(files_asked(upstream_of_module, filename)) == 1


def test_a_slow_reader_holds_up_nobody(
    shared: OverlayServer, upstream_of_module: FakeUpstream, cold: tuple[str, bytes], background: Background
) -> None:
    filename, content = cold
    with request(shared, address(filename, content)) as slow:
        slow.recv(100)
        quick = [background.call(Wire(shared.url).get, address(filename, content)) for _ in range(3)]
        assert all(client.result(20).body == content for client in quick)
        assert len(files_asked(upstream_of_module, filename)) == 1
        # It gets everything in its own time, also long after the transfer ended.
        got = bytearray()
        while piece := slow.recv(1 << 16):
            got += piece
    assert bytes(got).endswith(content[-50_000:])


def test_bytes_stream_from_the_first_on_and_the_last_are_held_back(
    shared: OverlayServer, upstream_of_module: FakeUpstream, cold: tuple[str, bytes]
) -> None:
    """The upstream stops 1000 bytes before the end: the client has all but the last 64 KiB, and no more."""
    filename, content = cold
    upstream_of_module.fault(f"/packages/*{filename}", truncate=len(content) - 1000, hang=True)
    with request(shared, address(filename, content)) as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        got = answer.read(len(content) - HOLD_BACK)
        assert got == content[:-HOLD_BACK]
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            answer.read(1)
        answer.close()


@pytest.mark.parametrize("size", [1_000, 4_000_000])
@pytest.mark.parametrize(
    "fault",
    [{"alter": True}, {"alter": -1}, {"alter": 1}, {"truncate": 900}, {"truncate": 900, "chunked": True}],
    ids=str,
)
def test_wrong_bytes_are_never_a_whole_file(
    shared: OverlayServer,
    upstream_of_module: FakeUpstream,
    background: Background,
    size: int,
    fault: dict[str, Any],
) -> None:
    name = f"gears{next(numbers)}"
    filename, content = make_wheel(name, "1.0", size=size)
    upstream_of_module.add_file(name, filename, content)
    upstream_of_module.fault(f"/packages/*{filename}", **fault)
    clients = [background.call(outcome, shared, address(filename, content)) for _ in range(3)]
    for client in clients:
        assert_incomplete(client.result(30), len(content))
    assert_incomplete(outcome(shared, address(filename, content)), len(content))
    digest = sha256(content)
    assert not list(shared.data_dir.glob(f"cache/files/*/{digest}"))
    begun = shared.data_dir / "cache" / "partial"
    wait_until(lambda: not list(begun.glob(f"{digest}*")), what="the partial file to go")
    assert Wire(shared.url).get("/readyz").status == 200


def test_a_connection_that_breaks_once_is_continued(
    shared: OverlayServer, upstream_of_module: FakeUpstream, cold: tuple[str, bytes]
) -> None:
    filename, content = cold
    upstream_of_module.fault(f"/packages/*{filename}", truncate=2_000_000, nth=1)
    assert Wire(shared.url).get(address(filename, content)).body == content
    assert len(files_asked(upstream_of_module, filename)) == 2


@dataclass(frozen=True)
class Crew:
    """Processes on one data directory that nobody serves."""

    upstream: FakeUpstream
    data_dir: Path
    others: Sequence[Downloader]

    def one_more(self) -> Downloader:
        return Downloader(self.data_dir, self.upstream.index_url)

    def publish(self) -> tuple[FileRecord, bytes]:
        """A 4 MB file of a name of its own."""
        name = f"gears{next(numbers)}"
        filename, content = make_wheel(name, "1.0", size=4_000_000)
        self.upstream.add_file(name, filename, content)
        blake = hashlib.blake2b(content, digest_size=32).hexdigest()
        url = f"{self.upstream.url}/packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{filename}"
        return FileRecord(filename=filename, url=url, sha256=sha256(content), size=len(content)), content

    def partial(self) -> dict[str, int]:
        """What is arriving, and how much of it is there."""
        found = (self.data_dir / "cache" / "partial").iterdir()
        return {path.name: path.stat().st_size for path in found if path.suffix != ".head"}

    def kept(self, content: bytes) -> bool:
        digest = sha256(content)
        return (self.data_dir / "cache" / "files" / digest[:2] / digest).exists()


@pytest.fixture(scope="module")
def crew_of_module(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crew]:
    data_dir = tmp_path_factory.mktemp("crew") / "data"
    layout = Layout(str(data_dir))
    layout.prepare()
    locks = Locks(layout)
    database = Database(layout.cache_database, locks, name="cache")
    database.migrate()
    database.close()
    locks.close()
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Downloader(data_dir, upstream_of_module.index_url)) for _ in range(3)]
        yield Crew(upstream_of_module, data_dir, others)


@pytest.fixture
def crew(crew_of_module: Crew) -> Crew:
    crew_of_module.upstream.clear_faults()
    crew_of_module.upstream.reset_requests()
    return crew_of_module


def test_a_leader_that_is_killed_is_succeeded_by_a_follower(crew: Crew) -> None:
    """It dies with 40 % on disk. The others have read what they might; one goes on, and all have the whole file."""
    record, content = crew.publish()
    share = len(content) * 2 // 5
    crew.upstream.fault(f"/packages/*{record.filename}", nth=1, truncate=share, hang=True)
    with crew.one_more() as leader:
        leader.begin(record)
        wait_until(lambda: list(crew.partial().values()) == [share], what="40 % of the file")
        for other in crew.others:
            other.begin(record)
        leader.kill()
    digest = sha256(content)
    for other in crew.others:
        assert other.end() == Download(len(content), digest, "")
    ranges = [
        asked.header("Range") for asked in crew.upstream.requests() if asked.path.endswith(record.filename)
    ]
    assert ranges == [None, f"bytes={share}-"]
    wait_until(lambda: not crew.partial(), what="the partial file to go")
    assert crew.kept(content)


def test_a_leader_that_stands_still_is_not_waited_for(crew: Crew) -> None:
    """It holds its lock: the others are told to help themselves, those that have waited and those that come."""
    record, content = crew.publish()
    share = len(content) * 2 // 5
    crew.upstream.fault(f"/packages/*{record.filename}", nth=1, truncate=share, hang=True)
    with crew.one_more() as leader:
        leader.begin(record)
        wait_until(lambda: list(crew.partial().values()) == [share], what="40 % of the file")
        first, second, _ = crew.others
        first.begin(record)
        leader.stop()
        (partial,) = crew.partial()
        os.utime(crew.data_dir / "cache" / "partial" / partial, (0, 0))
        assert first.end().error == "StoreUnavailable"
        second.begin(record)
        assert second.end() == Download(0, sha256(b""), "StoreUnavailable")
    first.begin(record)
    assert first.end() == Download(len(content), sha256(content), "")


def test_one_request_serves_every_process(crew: Crew) -> None:
    record, content = crew.publish()
    crew.upstream.fault(f"/packages/*{record.filename}", rate=20_000_000)
    for other in crew.others:
        other.begin(record)
    for other in crew.others:
        assert other.end() == Download(len(content), sha256(content), "")
    assert len(files_asked(crew.upstream, record.filename)) == 1


def test_wrong_bytes_are_whole_in_no_process(crew: Crew) -> None:
    record, content = crew.publish()
    crew.upstream.fault(f"/packages/*{record.filename}", alter=-1, delay=0.3)
    for other in crew.others:
        other.begin(record)
    for other in crew.others:
        got = other.end()
        assert got.error == "ContentMismatch"
        assert got.size <= len(content) - HOLD_BACK
    assert len(files_asked(crew.upstream, record.filename)) == 1
    wait_until(lambda: not crew.partial(), what="the partial file to go")
    assert not crew.kept(content)


class Liar(threading.Thread):
    """A file host that answers every request with the same bytes, whatever they say of themselves."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.answer = b""
        self.asked = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                self.asked += 1
                connection.sendall(self.answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join(5)


FILENAME, CONTENT = make_wheel("lies", "1.0", size=300_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


def framed(length: int, body: bytes = CONTENT) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % length + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + end


LIES = {
    "shorter than it is": framed(len(CONTENT) - 1),
    "longer than it is": framed(len(CONTENT) + 1),
    "far longer": framed(len(CONTENT) * 100),
    "nothing": framed(0, b""),
    "more than the page says": framed(len(CONTENT) + 4, CONTENT + b"more"),
    "more, chunked": chunked(CONTENT, b"more"),
    "less, chunked": chunked(CONTENT[:-1]),
    "chunks without end": chunked(CONTENT[:-1], end=b""),
    "until it closes, less": HEAD + b"Connection: close\r\n\r\n" + CONTENT[:-1],
    "until it closes, more": HEAD + b"Connection: close\r\n\r\n" + CONTENT + b"more",
    "same length, other bytes": framed(len(CONTENT), bytes(len(CONTENT))),
    "no HTTP": b"\x00" * 1000,
    "encoded": HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT,
}
TRUTHS = {
    "length": framed(len(CONTENT)),
    "chunked": chunked(CONTENT[:1000], CONTENT[1000:]),
    "until it closes": HEAD + b"Connection: close\r\n\r\n" + CONTENT,
}


@dataclass(frozen=True)
class LiedTo:
    """A server whose upstream's page links to a liar; each test has a name of its own."""

    server: OverlayServer
    upstream: FakeUpstream
    liar: Liar

    def get(self, answer: bytes, *, names_size: bool, names_digest: bool = True) -> Answer | None:
        """What a client gets while the liar says `answer`."""
        name = f"lies{next(numbers)}"
        filename = f"{name}-1.0-py3-none-any.whl"
        url = f"http://{self.liar.host}/{filename}"
        # The fake upstream knows the truth of the content, and says it on the page.
        self.upstream.add_file(name, filename, CONTENT, url=url)
        hashes = ["sha256"] if names_digest else []
        self.upstream.change_project(name, size=names_size, hashes=hashes, core_metadata=False)
        self.liar.answer, self.liar.asked = answer, 0
        key = sha256(CONTENT) if names_digest else f"url-{sha256(url.encode())}"
        got = outcome(self.server, f"/files/{key}/{filename}")
        assert self.liar.asked, "it never came to the lie"
        return got


@pytest.fixture(scope="module")
def lied_to(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiedTo]:
    liar = Liar()
    liar.start()
    directory = tmp_path_factory.mktemp("lied-to")
    with (
        FakeUpstream() as upstream,
        make_server(upstream, directory, file_hosts=[liar.host], read_timeout="5s") as server,
    ):
        yield LiedTo(server, upstream, liar)
    liar.close()


@pytest.mark.parametrize("names_size", [True, False], ids=["size on the page", "no size on the page"])
@pytest.mark.parametrize("lie", LIES)
def test_a_host_that_lies_about_a_file_never_gets_it_served(
    lied_to: LiedTo, lie: str, names_size: bool
) -> None:
    answer = lied_to.get(LIES[lie], names_size=names_size)
    assert_incomplete(answer, len(CONTENT) if names_size else None)
    assert not list(lied_to.server.data_dir.glob("cache/files/*/*"))


@pytest.mark.parametrize("lie", ["shorter than it is", "longer than it is", "chunks without end", "no HTTP"])
def test_without_a_digest_what_contradicts_itself_is_not_served_either(lied_to: LiedTo, lie: str) -> None:
    answer = lied_to.get(LIES[lie], names_size=True, names_digest=False)
    assert_incomplete(answer, len(CONTENT))


@pytest.mark.parametrize("truth", TRUTHS)
def test_a_host_that_tells_the_truth_is_believed_however_it_frames_it(lied_to: LiedTo, truth: str) -> None:
    answer = lied_to.get(TRUTHS[truth], names_size=False)
    assert answer is not None
    assert answer.body == CONTENT
    assert lied_to.server.run("cache", "purge", "--all", "--yes").returncode == 0


def test_hanging_requests_hold_up_nobody_else(
    upstream: FakeUpstream, tmp_path: Path, background: Background
) -> None:
    """Pages and files that never come, more of them than connections are allowed; others are answered."""
    known, known_content = make_wheel("known", "1.0")
    other, other_content = make_wheel("other", "1.0", size=300_000)
    stuck, stuck_content = make_wheel("stuck", "1.0", size=300_000)
    for name, filename, content in (
        ("known", known, known_content),
        ("other", other, other_content),
        ("stuck", stuck, stuck_content),
    ):
        upstream.add_file(name, filename, content)
    upstream.fault("/simple/hanging*", hang=True)
    upstream.fault(f"/packages/*{stuck}", hang=True)
    with make_server(upstream, tmp_path, max_connections=20) as server:
        wire = Wire(server.url)
        assert wire.get(address(known, known_content)).body == known_content
        for number in range(10):
            background.call(outcome, server, f"/simple/hanging{number}/")
            background.call(outcome, server, address(stuck, stuck_content))
        upstream.await_requests("/simple/hanging", 10)
        upstream.await_requests(f"/{stuck}")
        began = time.monotonic()
        assert wire.get("/healthz").status == 200
        assert wire.get("/simple/known/").status == 200
        assert wire.get(address(known, known_content)).body == known_content
        assert wire.get("/simple/other/").status == 200
        assert wire.get(address(other, other_content)).body == other_content
        assert wire.get("/simple/nobody-has-it/").status == 404
        assert time.monotonic() - began < 3
        server.kill()  # and with it the clients that still wait


def test_a_gzip_bomb_is_refused_and_costs_no_memory(
    shared: OverlayServer, upstream_of_module: FakeUpstream
) -> None:
    wire = Wire(shared.url)
    upstream_of_module.add_file("small", *make_wheel("small", "1.0"))
    assert wire.get("/simple/small/").status == 200
    before = shared.peak_rss()
    upstream_of_module.fault("/simple/bomb/", gzip_bomb=500 * MiB)
    upstream_of_module.add_project("bomb")
    answer = wire.get("/simple/bomb/")
    assert answer.status == 502
    assert answer["X-Overlay-Decision"] == "unavailable"
    assert shared.peak_rss() - before < 50 * MiB


def test_two_hundred_clients_at_once_are_answered(
    shared: OverlayServer, upstream_of_module: FakeUpstream
) -> None:
    """All connections are open before the first request is sent, and stay open for a second one."""
    upstream_of_module.add_file("crowded", *make_wheel("crowded", "1.0"))
    parts = urlsplit(shared.url)
    clients = [http.client.HTTPConnection(parts.netloc, timeout=30) for _ in range(200)]
    try:
        for client in clients:
            client.connect()
        for _ in range(2):
            for client in clients:
                client.request("GET", "/simple/crowded/")
            for client in clients:
                answer = client.getresponse()
                assert (answer.status, b"crowded-1.0" in answer.read()) == (200, True)
    finally:
        for client in clients:
            client.close()
    assert len(upstream_of_module.asked_for("crowded")) == 1


def test_a_raw_client_that_asks_and_closes_leaves_the_server_sound(
    shared: OverlayServer, upstream_of_module: FakeUpstream, cold: tuple[str, bytes]
) -> None:
    filename, content = cold
    for _ in range(20):
        request(shared, address(filename, content)).close()
    with request(shared, address(filename, content)) as connection:
        assert receive(connection).body == content
    assert "Traceback" not in shared.log_text()
