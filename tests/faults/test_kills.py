"""kill -9 at any moment: after the next start nothing half-made is visible, and everything else is served."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.conftest import TOKEN, address, make_server, publish, published, sha256
from tests.support.server import OverlayServer, ServerFailed
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import JSON, Wire

PIECE = 64 << 10


@dataclass
class Upload:
    """An upload that may be interrupted. `started` and `sent` tell how far it came; `status` what was answered."""

    name: str
    filename: str
    content: bytes
    pause: float = 0.0
    started: threading.Event = field(default_factory=threading.Event)
    sent: threading.Event = field(default_factory=threading.Event)
    status: int | None = None

    def run(self, server: OverlayServer) -> None:
        body = upload(self.filename, self.content)

        def pieces() -> Iterator[bytes]:
            head = f"POST /acme/widgets/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
            head += f"Authorization: Bearer {TOKEN}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n\r\n"
            yield head.encode()
            for start in range(0, len(body), PIECE):
                yield body[start : start + PIECE]
                self.started.set()
                if self.pause:
                    time.sleep(self.pause)
            self.sent.set()

        with contextlib.suppress(OSError, ValueError):
            self.status = Wire(server.url).exchange(pieces(), method="POST").status
        self.started.set()
        self.sent.set()


def check_disk(server: OverlayServer) -> None:
    """What lies on disk after a start: whole objects under their digests, nothing in flight, sound databases."""
    data = server.data_dir
    for folder in (data / "incoming", data / "cache" / "partial"):
        assert list(folder.iterdir()) == []
    for path in [*data.glob("objects/*/*"), *data.glob("cache/files/*/*")]:
        assert path.name == sha256(path.read_bytes())
    for database in data.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_upload(server: OverlayServer, one: Upload) -> bool:
    """See that an upload is there as a whole or not at all, by every route. Says which."""
    wire = Wire(server.url)
    page = wire.get(f"/acme/simple/{one.name}/", headers={"Accept": JSON})
    names = wire.get("/acme/simple/", headers={"Accept": JSON}).json["projects"]
    is_listed = one.name in {project["name"] for project in names}
    file = wire.get(address(one.filename, one.content, "/acme"))
    metadata = wire.get(address(one.filename, one.content, "/acme") + ".metadata")
    if page.status == 200:
        [found] = page.json["files"]
        assert (found["filename"], found["hashes"]) == (one.filename, {"sha256": sha256(one.content)})
        assert is_listed
        assert file.body == one.content
        assert metadata.status == 200
        assert sha256(metadata.body) == found["core-metadata"]["sha256"]
        return True
    assert page.status == 404
    assert not is_listed
    assert (file.status, metadata.status) == (404, 404)
    return False


def prepare(server: OverlayServer) -> Upload:
    """Publish what has to survive everything."""
    first = Upload("precious", *make_wheel("precious", "1.0", size=200_000))
    published(server, first.filename, first.content)
    return first


@pytest.fixture(scope="module")
def lasting(
    upstream_of_module: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[OverlayServer, Upload]]:
    """Give a server that is killed many times, and what has to survive that."""
    with make_server(upstream_of_module, tmp_path_factory.mktemp("lasting")) as server:
        yield server, prepare(server)


@pytest.fixture
def survivor(
    upstream_of_module: FakeUpstream, lasting: tuple[OverlayServer, Upload]
) -> tuple[OverlayServer, Upload]:
    """Give it running, and its upstream running and empty. Tests give their projects names of their own."""
    upstream_of_module.reset()
    if not lasting[0].is_running:
        lasting[0].start()
    return lasting


@pytest.mark.slow
def test_killed_during_uploads_each_is_there_as_a_whole_or_not_at_all(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Several uploads at every stage, from the first piece of the body to the commit, at random moments."""
    dice = random.Random("kills")
    missing = survived = 0
    with make_server(upstream, tmp_path) as server, ThreadPoolExecutor(8) as pool:
        first = prepare(server)
        for round_ in range(8):
            uploads = [
                Upload(name, *make_wheel(name, "1.0", size=dice.choice([1_000, 400_000, 3_000_000])))
                for name in (f"gears{round_}-{number}" for number in range(6))
            ]
            for one in uploads[:2]:
                one.pause = 0.01  # still in the middle of its body when the others are done
            running = [pool.submit(one.run, server) for one in uploads]
            assert uploads[-1].sent.wait(20) if round_ % 2 else uploads[0].started.wait(20)
            # Later from round to round: from the first pieces on to the commits.
            time.sleep(dice.uniform(0, 0.04 * round_))
            server.kill()
            wait(running, 20)
            server.start()
            check_disk(server)
            assert check_upload(server, first)
            for one in uploads:
                is_there = check_upload(server, one)
                # Who was told 201 finds it. One who was told nothing may find it, if only the answer was lost.
                assert is_there or one.status is None
                survived += is_there
                missing += not is_there
                again = publish(server, one.filename, one.content).status
                assert again == (400 if is_there else 201)
                assert check_upload(server, one)
    assert missing, "no kill came in time: this test has shown nothing"
    assert survived, "no upload came through: the kills came too early to show anything about commits"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_killed_in_the_middle_of_a_body_nothing_of_it_is_left(
    survivor: tuple[OverlayServer, Upload], share: float
) -> None:
    """Not by chance: the body stops at a point, the server has written what came, and is killed there."""
    server, first = survivor
    name = f"halves{share * 10:.0f}"
    one = Upload(name, *make_wheel(name, "1.0", size=4_000_000))
    body = upload(one.filename, one.content)
    cut = int((len(body) - 100) * share)  # never the final boundary
    reached, killed = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        head = f"POST /acme/widgets/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {TOKEN}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n\r\n"
        yield head.encode()
        yield body[:cut]
        reached.set()
        killed.wait(20)

    def send() -> None:
        with contextlib.suppress(OSError, ValueError):
            Wire(server.url).exchange(pieces(), method="POST")

    thread = threading.Thread(target=send)
    thread.start()
    assert reached.wait(20)
    incoming = server.data_dir / "incoming"
    if cut > 2 << 20:
        wait_until(lambda: any(path.stat().st_size for path in incoming.iterdir()), what="bytes on disk")
    server.kill()
    killed.set()
    thread.join(20)
    server.start()
    check_disk(server)
    assert not check_upload(server, one)
    assert check_upload(server, first)
    published(server, one.filename, one.content)
    assert check_upload(server, one)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_killed_during_a_cache_fill_nothing_of_the_file_is_kept(
    survivor: tuple[OverlayServer, Upload], upstream_of_module: FakeUpstream, share: float
) -> None:
    server, first = survivor
    upstream, suffix = upstream_of_module, f"{share * 10:.0f}"
    filename, content = make_wheel(f"gears{suffix}", "1.0", size=3_000_000)
    small, small_content = make_wheel(f"cogs{suffix}", "1.0", size=100_000)
    upstream.add_file(f"gears{suffix}", filename, content)
    upstream.add_file(f"cogs{suffix}", small, small_content)
    wire = Wire(server.url)
    with ThreadPoolExecutor(4) as pool:
        assert wire.get(address(small, small_content)).body == small_content
        cut = int(len(content) * share)
        upstream.fault(f"/packages/*{filename}", truncate=cut, hang=True)
        clients = [pool.submit(wire.get, address(filename, content)) for _ in range(3)]
        begun = server.data_dir / "cache" / "partial"
        digest = sha256(content)
        wait_until(
            lambda: [file.stat().st_size for file in begun.glob(f"{digest}*") if not file.suffix] == [cut],
            what="the bytes before the cut",
        )
        server.kill()
        for client in clients:
            got = client.result(20) if client.exception(20) is None else None
            assert got is None or (not got.whole and content.startswith(got.body) and got.body != content)

    upstream.clear_faults()
    server.start()
    check_disk(server)
    assert not list(server.data_dir.glob(f"cache/files/*/{sha256(content)}"))
    wire = Wire(server.url)
    assert wire.get(address(filename, content)).body == content
    assert check_upload(server, first)
    # A client may have all of a file before that is safe on disk.
    kept = server.data_dir / "cache" / "files" / digest[:2] / digest
    wait_until(kept.exists, what="the file to be kept")
    # What was whole before the kill needs no upstream.
    upstream.stop()
    server.kill()
    server.start()
    wire = Wire(server.url)
    assert wire.get(address(small, small_content)).body == small_content
    assert wire.get(address(filename, content)).body == content
    assert small in wire.get(f"/simple/cogs{suffix}/").text


def test_killed_between_a_file_and_its_entry_the_file_is_counted_after_the_next_start(
    survivor: tuple[OverlayServer, Upload],
) -> None:
    server, _ = survivor
    server.kill()
    content = b"verified, and in its place"
    path = server.data_dir / "cache" / "files" / sha256(content)[:2] / sha256(content)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    on_disk = sum(1 for _ in server.data_dir.glob("cache/files/*/*"))
    server.start()
    counted = f"\npypi_overlay_cache_files {on_disk}.0\n"
    wait_until(lambda: counted in Wire(server.url).get("/metrics").text, what="the file to be counted")


@pytest.mark.slow
def test_killed_at_random_moments_of_fills_the_cache_never_lies(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    dice = random.Random("fills")
    made = {number: make_wheel(f"gears{number}", "1.0", size=1_500_000) for number in range(12)}
    for number, (filename, content) in made.items():
        upstream.add_file(f"gears{number}", filename, content)
    with make_server(upstream, tmp_path) as server, ThreadPoolExecutor(12) as pool:
        for _ in range(5):
            wire = Wire(server.url)
            asked = {number: pool.submit(wire.get, address(*made[number])) for number in made}
            time.sleep(dice.uniform(0.02, 0.25))
            server.kill()
            for number, client in asked.items():
                got = client.result(20) if client.exception(20) is None else None
                assert got is None or not got.whole or got.body == made[number][1]
            server.start()
            check_disk(server)
        wire = Wire(server.url)
        for number, (filename, content) in made.items():
            assert wire.get(address(filename, content)).body == content
            assert filename in wire.get(f"/simple/gears{number}/").text


def test_a_second_server_on_the_data_directory_is_refused_with_the_firsts_number(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with make_server(upstream, tmp_path) as first:
        precious = prepare(first)
        assert first._process is not None
        number = first._process.pid
        second = make_server(upstream, tmp_path)
        with pytest.raises(ServerFailed) as caught:
            second.start()
        assert caught.value.returncode == 1
        assert f"another pypi-overlay serves this data directory (process {number})" in caught.value.log
        assert "Traceback" not in caught.value.log
        assert check_upload(first, precious)
        # Commands are no servers.
        assert first.json("package", "list")["items"][0]["name"] == "precious"
        assert check_upload(first, precious)
        # The lock dies with its process, however that ends.
        first.kill()
        second.start()
        try:
            assert check_upload(second, precious)
        finally:
            second.stop()
