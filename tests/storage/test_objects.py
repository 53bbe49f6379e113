"""The compliance suite of `ObjectStore`, run against every implementation, and what is particular to the disk."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from proxy.errors import NoSuchFile, StorageError
from proxy.storage.disk import write_all
from proxy.storage.layout import Layout
from proxy.storage.objects import DiskObjects, ObjectStore
from tests.storage.children import Child

CONTENT = b"a wheel, nearly" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ABSENT = "00" * 32


@pytest.fixture(params=["disk"])
def store(request: pytest.FixtureRequest, layout: Layout) -> ObjectStore:
    return {"disk": DiskObjects}[request.param](layout)


def receive(store: ObjectStore, content: bytes) -> str:
    with store.incoming() as incoming:
        incoming.write(content[:7])
        incoming.write(content[7:])
        incoming.finish()
        return store.keep(incoming)


def contents(store: ObjectStore, digest: str) -> bytes:
    with store.open(digest) as file:
        return file.read()


async def test_what_was_received_is_kept_under_its_sha256(store: ObjectStore) -> None:
    assert receive(store, CONTENT) == DIGEST
    assert await store.size(DIGEST) == len(CONTENT)
    assert contents(store, DIGEST) == CONTENT


async def test_keeping_the_same_bytes_again_is_no_error(store: ObjectStore) -> None:
    receive(store, CONTENT)
    assert receive(store, CONTENT) == DIGEST
    assert store.put_bytes(CONTENT) == DIGEST
    assert await store.size(DIGEST) == len(CONTENT)


def test_small_things_are_kept_at_once(store: ObjectStore) -> None:
    digest = store.put_bytes(b"Metadata-Version: 2.1\n")
    assert contents(store, digest) == b"Metadata-Version: 2.1\n"
    assert contents(store, store.put_bytes(b"")) == b""


def test_dropping_waits_for_a_thread_that_still_writes(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its bytes could land in whatever file has the number of the descriptor next."""
    within, go_on = threading.Event(), threading.Event()

    def slowly(descriptor: int, content: bytes) -> None:
        within.set()
        assert go_on.wait(20)
        write_all(descriptor, content)

    monkeypatch.setattr("proxy.storage.objects.write_all", slowly)
    incoming = store.incoming()
    failures: list[StorageError] = []

    def write() -> None:
        try:
            incoming.write(CONTENT)
        except StorageError as error:
            failures.append(error)

    writing = threading.Thread(target=write)
    dropping = threading.Thread(target=incoming.discard)
    writing.start()
    assert within.wait(20)
    dropping.start()
    dropping.join(0.1)
    go_on.set()
    writing.join(20)
    dropping.join(20)
    assert failures == []
    assert incoming.size == len(CONTENT)
    assert not Path(incoming.path).exists()


async def test_what_is_not_there_is_said_to_be_absent(store: ObjectStore) -> None:
    assert await store.size(ABSENT) is None
    with pytest.raises(NoSuchFile):
        store.open(ABSENT)


async def test_deleting_drops_the_bytes_and_may_be_repeated(store: ObjectStore) -> None:
    receive(store, CONTENT)
    store.delete(DIGEST)
    store.delete(DIGEST)
    store.delete(ABSENT)
    assert await store.size(DIGEST) is None
    receive(store, CONTENT)
    assert contents(store, DIGEST) == CONTENT


def test_an_open_file_stays_readable_when_it_is_deleted(store: ObjectStore) -> None:
    receive(store, CONTENT)
    with store.open(DIGEST) as file:
        store.delete(DIGEST)
        assert file.read() == CONTENT


def test_a_local_path_leads_to_the_bytes(store: ObjectStore) -> None:
    receive(store, CONTENT)
    path = store.path(DIGEST)
    assert path is None or Path(path).read_bytes() == CONTENT


async def test_bytes_that_are_not_complete_cannot_be_kept(store: ObjectStore) -> None:
    with store.incoming() as incoming:
        incoming.write(CONTENT)
        with pytest.raises(StorageError):
            store.keep(incoming)
    assert await store.size(DIGEST) is None


def test_an_incoming_file_hashes_and_counts_what_it_is_given(store: ObjectStore) -> None:
    with store.incoming() as incoming:
        for start in range(0, len(CONTENT), 4096):
            incoming.write(CONTENT[start : start + 4096])
        incoming.finish()
        incoming.finish()
        assert incoming.size == len(CONTENT)
        assert incoming.sha256 == DIGEST
        assert incoming.blake2b == hashlib.blake2b(CONTENT, digest_size=32).hexdigest()
        assert incoming.md5 == hashlib.md5(CONTENT).hexdigest()
        assert Path(incoming.path).read_bytes() == CONTENT
        with pytest.raises(StorageError):
            incoming.write(b"more")


async def test_a_discarded_upload_leaves_nothing(store: ObjectStore, layout: Layout) -> None:
    def broken_off() -> None:
        with store.incoming() as incoming:
            incoming.write(CONTENT)
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        broken_off()
    assert not any(Path(layout.incoming).iterdir())
    assert await store.size(DIGEST) is None


async def test_leftovers_of_killed_uploads_are_dropped_and_kept_objects_are_not(
    store: ObjectStore, layout: Layout
) -> None:
    receive(store, CONTENT)
    code = """
incoming = DiskObjects(layout).incoming()
incoming.write(b"half of it")
say("writing")
input()
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "writing"
        child.kill()
    assert len(list(Path(layout.incoming).iterdir())) == 1
    with store.incoming() as ours:
        store.clear_incoming()
        assert [str(path) for path in Path(layout.incoming).iterdir()] == [ours.path]
        store.clear_incoming(of_all=True)
        assert not any(Path(layout.incoming).iterdir())
    assert await store.size(DIGEST) == len(CONTENT)


def test_free_space_is_known(store: ObjectStore) -> None:
    assert store.free_space() > 1 << 20


@pytest.mark.parametrize("digest", ["", "../../registry.sqlite", DIGEST + "/", "AB" * 32])
async def test_what_is_no_digest_is_refused(store: ObjectStore, digest: str) -> None:
    with pytest.raises(StorageError):
        store.open(digest)
    with pytest.raises(StorageError):
        await store.size(digest)
    with pytest.raises(StorageError):
        store.delete(digest)


def test_on_disk_a_damaged_object_is_healed_by_keeping_it_again(layout: Layout) -> None:
    store = DiskObjects(layout)
    receive(store, CONTENT)
    Path(layout.object(DIGEST)).write_bytes(b"bit rot")
    receive(store, CONTENT)
    assert contents(store, DIGEST) == CONTENT


def test_on_disk_files_are_closed_to_others(layout: Layout) -> None:
    receive(DiskObjects(layout), CONTENT)
    assert Path(layout.object(DIGEST)).stat().st_mode & 0o777 == 0o600


def test_on_disk_no_room_is_told_and_leaves_nothing(layout: Layout) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    with DiskObjects(layout).incoming() as incoming:
        for _ in range(200):
            incoming.write(b"x" * 1000)
except OverlayError as error:
    say(type(error).__name__)
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "DiskFull"
        assert child.end() == 0
    assert not any(Path(layout.incoming).iterdir())
