"""Upstream files: fetched once, verified before anybody has all of them, kept, evicted, purged."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.cache import transfers
from proxy.cache.files import Files, metadata_record
from proxy.cache.known_names import KnownNames
from proxy.cache.purge import Parts, Purged, purge
from proxy.cache.transfers import HOLD_BACK
from proxy.cache.variants import AtRest, Place, VariantFiles
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, url_key
from proxy.errors import (
    ContentMismatch,
    DiskFull,
    StorageError,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.storage.database import Database
from proxy.storage.disk import write_all
from tests.cache.conftest import Clock, Rig, follow
from tests.cache.test_counted import counted
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_wheel

FILES = "/packages/*"
BIG = random.Random(1).randbytes(500_000)
SMALL = b"not much"
WHEEL = "widgets-1.0-py3-none-any.whl"


def publish(rig: Rig, content: bytes, filename: str = WHEEL, **said: Any) -> FileRecord:
    rig.upstream.add_file("widgets", filename, content)
    return rig.record(filename, content, **said)


def stored(rig: Rig) -> list[str]:
    return sorted(name for _, _, names in os.walk(rig.layout.cached_files) for name in names)


def transfers_counted(rig: Rig, event: str) -> int:
    """How many transfers of this kind were counted, over all files of the rig."""
    return counted(rig, f'transfers_total{{event="{event}"}}')


def partial(rig: Rig) -> list[str]:
    return [path.name for path in Path(rig.layout.partial_files).iterdir()]


async def test_an_address_that_hangs_does_not_hold_up_another_of_the_same_digest(rig: Rig) -> None:
    record = publish(rig, BIG)
    other = publish(rig, BIG, "gadgets-1.0-py3-none-any.whl")
    assert (other.sha256, other.url == record.url) == (record.sha256, False)
    rig.upstream.fault(f"*{WHEEL}", truncate=100_000, hang=True)
    stuck = rig.files.join("pypi", record)
    await stuck.started()
    assert await rig.fetch(other) == BIG
    assert not stuck.done


@pytest.mark.parametrize("content", [BIG, SMALL, b"x" * HOLD_BACK, b"y" * (HOLD_BACK + 1)])
async def test_a_file_is_fetched_once_also_over_a_restart(rig: Rig, content: bytes) -> None:
    record = publish(rig, content)
    assert rig.files.cached(record) is None
    assert await rig.fetch(record) == content
    await rig.settle()
    await rig.reopen()
    rig.upstream.stop()
    cached = rig.files.cached(record)
    assert cached is not None
    assert (cached.sha256, cached.size) == (record.sha256, len(content))
    assert Path(cached.path).read_bytes() == content
    assert rig.asked("/packages/") == 1
    assert partial(rig) == []


async def test_an_empty_file_is_a_file(rig: Rig) -> None:
    record = publish(rig, b"", "widgets-1.0.tar.gz")
    assert await rig.fetch(record) == b""


async def test_fifty_readers_cause_one_request(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, delay=0.1)
    contents = await asyncio.gather(*(rig.fetch(record) for _ in range(50)))
    assert set(contents) == {BIG}
    assert rig.asked("/packages/") == 1


async def test_the_size_is_known_when_the_transfer_has_started(rig: Rig) -> None:
    record = publish(rig, BIG, size=None)
    transfer = rig.files.join("pypi", record)
    await transfer.started()
    assert transfer.size == len(BIG)
    await follow(transfer)


@pytest.mark.parametrize("chunked", [False, True])
async def test_nobody_gets_the_last_64_KiB_before_they_are_verified(rig: Rig, chunked: bool) -> None:
    # Everything but the last byte arrives, then silence: so nothing can have been verified.
    rig.options = {"read_timeout": timedelta(seconds=0.5)}
    await rig.reopen()
    record = publish(rig, BIG, size=None)
    rig.upstream.fault(FILES, truncate=len(BIG) - 1, hang=True, chunked=chunked, ignore_range=True)
    transfer = rig.files.join("pypi", record)
    received: list[bytes] = []
    reader = asyncio.create_task(follow(transfer, received))
    held_back = len(BIG) - HOLD_BACK - (1 if chunked else 0)
    await wait_until_async(lambda: sum(map(len, received)) >= held_back)
    assert b"".join(received) == BIG[:held_back]
    assert not transfer.done
    with pytest.raises(UpstreamTimeout):
        await reader
    assert sum(map(len, received)) == held_back


async def test_the_first_bytes_are_readable_long_before_the_last_arrive(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, truncate=100_000, hang=True)
    transfer = rig.files.join("pypi", record)
    await transfer.started()
    with transfer.open() as source:
        allowed = 0
        while allowed < 100_000:
            allowed = await transfer.past(allowed)
        assert source.read(allowed) == BIG[:100_000]


@pytest.mark.parametrize("content", [BIG, SMALL])
async def test_wrong_bytes_are_never_read_whole_and_never_kept(rig: Rig, content: bytes) -> None:
    record = publish(rig, content)
    rig.upstream.fault(FILES, alter=-1)
    received: list[bytes] = []
    with pytest.raises(ContentMismatch):
        await follow(rig.files.join("pypi", record), received)
    assert sum(map(len, received)) <= max(0, len(content) - HOLD_BACK)
    await rig.settle()
    assert (stored(rig), partial(rig)) == ([], [])
    assert rig.files.cached(record) is None
    rig.upstream.clear_faults()
    with pytest.raises(ContentMismatch):
        rig.files.join("pypi", record)
    assert rig.asked("/packages/") == 1
    rig.clock.advance(seconds=11)
    assert await rig.fetch(record) == content


async def believe_addresses(rig: Rig) -> None:
    """Name the upstream's host in `file_hosts`, as the shipped configuration names PyPI's."""
    rig.options = {"file_hosts": (rig.upstream.host,)}
    await rig.reopen()


def moved(rig: Rig, record: FileRecord, digest: str) -> FileRecord:
    """Have the upstream serve the file of `record` below another digest too."""
    path = f"/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{record.filename}"
    rig.upstream.fault(path, redirect=record.url)
    return msgspec.structs.replace(record, url=rig.upstream.url + path)


async def test_wrong_bytes_are_told_by_the_address_alone_where_it_names_a_blake2b(rig: Rig) -> None:
    await believe_addresses(rig)
    record = publish(rig, BIG, sha256=None)
    rig.upstream.fault(FILES, alter=-1, nth=1)
    received: list[bytes] = []
    with pytest.raises(ContentMismatch, match="BLAKE2b-256"):
        await follow(rig.files.join("pypi", record), received)
    assert sum(map(len, received)) <= len(BIG) - HOLD_BACK
    await rig.settle()
    assert (stored(rig), partial(rig)) == ([], [])
    rig.clock.advance(seconds=11)
    assert await rig.fetch(record) == BIG


async def test_both_digests_are_checked(rig: Rig) -> None:
    await believe_addresses(rig)
    record = publish(rig, BIG)
    with pytest.raises(ContentMismatch, match="BLAKE2b-256"):
        await rig.fetch(moved(rig, record, "0" * 64))
    await rig.settle()
    with pytest.raises(ContentMismatch, match="sha256"):
        await rig.fetch(msgspec.structs.replace(record, sha256="0" * 64))
    rig.clock.advance(seconds=11)
    assert await rig.fetch(record) == BIG


async def test_an_address_promises_nothing_where_its_digest_means_something_else(rig: Rig) -> None:
    record = publish(rig, BIG)
    # The host is the index's own, and is not listed.
    assert await rig.fetch(moved(rig, record, "0" * 64)) == BIG
    await believe_addresses(rig)
    assert record.sha256 is not None
    rig.files.purge(None)
    assert await rig.fetch(moved(rig, record, record.sha256)) == BIG
    # Metadata lie below the digest of their file.
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    cached = await rig.pages.get("pypi", Name("widgets"))
    assert cached is not None
    assert b"Name: widgets" in await rig.fetch(metadata_record(cached.value.files[0]))


async def test_a_broken_connection_is_continued_where_the_address_alone_tells_the_halves_together(
    rig: Rig,
) -> None:
    await believe_addresses(rig)
    record = publish(rig, BIG, sha256=None)
    rig.upstream.fault(FILES, nth=1, truncate=200_000, headers={"ETag": None})
    assert await rig.fetch(record) == BIG
    assert rig.asked("/packages/") == 2


@pytest.mark.parametrize("size", [len(BIG) + 1, len(BIG) - 1, 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_another_size_than_the_page_names_is_a_mismatch(rig: Rig, size: int, chunked: bool) -> None:
    record = publish(rig, BIG, size=size)
    rig.upstream.fault(FILES, chunked=chunked)
    with pytest.raises(ContentMismatch):
        await rig.fetch(record)
    await rig.settle()
    assert (stored(rig), partial(rig)) == ([], [])


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 404}, UpstreamFaulty),
        ({"status": 500}, UpstreamFaulty),
        ({"drop": True}, UpstreamUnreachable),
        ({"hang": True}, UpstreamTimeout),
    ],
)
async def test_trouble_before_the_first_byte_is_told_at_the_start(
    rig: Rig, fault: dict[str, Any], expected: type[UpstreamError]
) -> None:
    rig.options = {"read_timeout": timedelta(seconds=0.3), "retries": 0}
    await rig.reopen()
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, **fault)
    with pytest.raises(expected):
        await rig.files.join("pypi", record).started()
    await rig.settle()
    # aiohttp itself repeats a request whose connection was closed without any answer.
    assert rig.asked("/packages/") == (2 if "drop" in fault else 1)
    rig.upstream.clear_faults()
    assert await rig.fetch(record) == BIG


async def test_a_broken_connection_is_continued_by_range(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, nth=1, truncate=200_000)
    assert await rig.fetch(record) == BIG
    first, second = (request for request in rig.upstream.requests() if "/packages/" in request.path)
    assert first.header("Range") is None
    assert second.header("Range") == "bytes=200000-"


@pytest.mark.parametrize("ignore_range", [False, True])
async def test_a_connection_that_keeps_breaking_is_given_up(rig: Rig, ignore_range: bool) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, truncate=200_000, ignore_range=ignore_range)
    with pytest.raises(UpstreamUnreachable):
        await rig.fetch(record)
    await rig.settle()
    assert rig.asked("/packages/") == 2
    assert (stored(rig), partial(rig)) == ([], [])


async def test_a_cancelled_reader_does_not_stop_the_fill(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, rate=1_000_000)
    transfer = rig.files.join("pypi", record)
    await transfer.started()
    reader = asyncio.create_task(follow(transfer))
    await transfer.past(0)
    reader.cancel()
    await asyncio.wait((reader,))
    await wait_until_async(lambda: rig.files.cached(record))
    assert rig.asked("/packages/") == 1


async def test_a_late_reader_gets_the_whole_file(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, rate=1_000_000)
    transfer = rig.files.join("pypi", record)
    await transfer.past(300_000)
    assert rig.files.join("pypi", record) is transfer
    assert await rig.fetch(record) == BIG


async def test_a_reader_keeps_its_descriptor_when_the_file_is_renamed_and_deleted(rig: Rig) -> None:
    record = publish(rig, BIG)
    transfer = rig.files.join("pypi", record)
    await transfer.started()
    with transfer.open() as source:
        await rig.settle()
        assert rig.files.purge(None) == 1
        assert await transfer.past(0) == len(BIG)
        assert source.read() == BIG


async def test_a_file_without_digest_is_found_again_by_its_address(rig: Rig) -> None:
    record = publish(rig, BIG, sha256=None, size=None)
    assert record.key.startswith("url-")
    assert await rig.fetch(record) == BIG
    await rig.settle()
    await rig.reopen()
    cached = rig.files.cached(record)
    assert cached is not None
    assert cached.sha256 == hashlib.sha256(BIG).hexdigest()
    assert rig.asked("/packages/") == 1


async def test_a_chunked_file_without_any_size_is_read_to_its_end(rig: Rig) -> None:
    record = publish(rig, BIG, size=None)
    rig.upstream.fault(FILES, chunked=True)
    transfer = rig.files.join("pypi", record)
    assert await follow(transfer) == BIG
    assert transfer.size == len(BIG)


async def test_a_damaged_file_of_the_wrong_size_is_fetched_anew(rig: Rig) -> None:
    record = publish(rig, BIG)
    await rig.fetch(record)
    await rig.settle()
    cached = rig.files.cached(record)
    assert cached is not None
    with Path(cached.path).open("ab") as file:
        file.write(b"!")
    assert rig.files.cached(record) is None
    assert stored(rig) == []
    assert await rig.fetch(record) == BIG


async def test_a_file_that_the_ledger_does_not_know_is_adopted(rig: Rig) -> None:
    record = rig.record(WHEEL, BIG)
    assert record.sha256 is not None
    path = Path(rig.layout.cached_file(record.sha256))
    path.parent.mkdir()
    path.write_bytes(BIG)
    assert rig.files.stats().files == 0
    assert rig.files.cached(record) is not None
    await rig.reopen()
    assert (rig.files.stats().files, rig.files.stats().bytes) == (1, len(BIG))


async def test_an_unknown_file_of_another_size_than_its_page_names_is_not_adopted(rig: Rig) -> None:
    record = rig.record(WHEEL, BIG)
    assert record.sha256 is not None
    path = Path(rig.layout.cached_file(record.sha256))
    path.parent.mkdir()
    path.write_bytes(BIG[:-1])
    assert rig.files.cached(record) is None
    assert stored(rig) == []


async def test_metadata_is_a_file_beside_the_file(rig: Rig) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    cached = await rig.pages.get("pypi", Name("widgets"))
    assert cached is not None
    record = metadata_record(cached.value.files[0])
    assert record.filename == WHEEL + ".metadata"
    assert b"Name: widgets" in await rig.fetch(record)
    await rig.settle()
    assert rig.files.cached(record) is not None


async def test_wrong_metadata_is_not_served(rig: Rig) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"), metadata_sha256="0" * 64)
    cached = await rig.pages.get("pypi", Name("widgets"))
    assert cached is not None
    with pytest.raises(ContentMismatch):
        await rig.fetch(metadata_record(cached.value.files[0]))


def test_the_metadata_address_keeps_a_query_behind_the_path() -> None:
    record = FileRecord(filename=WHEEL, url=f"https://files.test/{WHEEL}?t=1", core_metadata=True)
    assert metadata_record(record).url == f"https://files.test/{WHEEL}.metadata?t=1"


def test_metadata_without_a_digest_belong_to_one_content_at_their_address() -> None:
    record = FileRecord(filename=WHEEL, sha256="1" * 64, url=f"https://files.test/{WHEEL}?t=1")
    assert metadata_record(record).url == f"https://files.test/{WHEEL}.metadata?t=1#of={'1' * 64}"
    changed = FileRecord(filename=WHEEL, sha256="2" * 64, url=record.url)
    assert metadata_record(record).key != metadata_record(changed).key


async def test_a_small_content_is_kept_under_its_digest_and_under_every_key(rig: Rig) -> None:
    keys = [url_key("one"), url_key("two")]
    await rig.files.keep(b"older", keys)
    kept = await rig.files.keep(SMALL, keys)
    await rig.reopen()
    assert [rig.files.kept(key) for key in (*keys, kept.sha256)] == [kept] * 3
    assert Path(kept.path).read_bytes() == SMALL
    assert rig.files.stats().bytes == len(SMALL) + len(b"older")
    assert rig.files.purge([keys[0]]) == 1
    assert rig.files.kept(keys[1]) is None
    assert partial(rig) == []


async def test_small_contents_make_room_like_files(rig: Rig) -> None:
    await rig.reopen(max_size=250)
    for number in range(4):
        await rig.files.keep(bytes([number]) * 100, [])
        rig.clock.advance(seconds=1)
    assert rig.files.stats().bytes == 200


async def test_a_whole_file_can_be_had_open_and_its_size_before_it(rig: Rig) -> None:
    record = publish(rig, BIG, sha256=None, size=None)
    assert await rig.files.size_at("pypi", record) == len(BIG)
    (opened, digest), *others = await asyncio.gather(*(rig.files.fetch("pypi", record) for _ in range(5)))
    for one, _ in others:
        one.close()
    with opened:
        assert (opened.read(), digest) == (BIG, hashlib.sha256(BIG).hexdigest())
    assert rig.asked("/packages/") == 2
    rig.upstream.fault(FILES, status=416)
    assert await rig.files.size_at("pypi", record) is None


async def test_the_least_recently_used_files_go_first(rig: Rig) -> None:
    await rig.reopen(max_size=350)
    records = [publish(rig, bytes([number]) * 100, f"widgets-{number}.0.tar.gz") for number in range(5)]
    for record in records[:3]:
        await rig.fetch(record)
        await rig.settle()
        rig.clock.advance(seconds=1)
    assert rig.files.cached(records[0]) is not None  # used again, so the second is now the oldest
    rig.clock.advance(seconds=1)
    await rig.fetch(records[3])
    await rig.settle()
    assert [rig.files.cached(record) is not None for record in records] == [True, False, True, True, False]
    assert rig.files.stats().bytes == 300
    rig.clock.advance(seconds=1)
    await rig.fetch(records[4])
    await rig.settle()
    assert len(stored(rig)) == 3
    assert rig.files.cached(records[4]) is not None


async def test_held_files_stay_however_full_it_is_and_whatever_is_purged(rig: Rig) -> None:
    await rig.reopen(max_size=350)
    kept = []
    for number in range(3):
        kept.append((await rig.files.keep(bytes([number]) * 100, [url_key(str(number))])).sha256)
        rig.clock.advance(seconds=1)
    rig.held.update(kept[:2])
    for number in range(3, 6):
        kept.append((await rig.files.keep(bytes([number]) * 100, [url_key(str(number))])).sha256)
        rig.clock.advance(seconds=1)
    # The two that were not used for longest are there, and of the others there is room for one.
    assert stored(rig) == sorted([kept[0], kept[1], kept[5]])
    assert rig.files.purge([url_key("0"), kept[5]]) == 1
    assert rig.files.kept(url_key("0")) is not None
    await rig.files.keep(b"another", [url_key("another")])
    assert rig.files.purge(None) == 1
    assert (stored(rig), rig.files.stats().files) == (sorted(kept[:2]), 2)
    assert [rig.files.content_of(url_key(which)) for which in ("1", "another")] == [kept[1], None]


async def test_eviction_does_not_touch_a_reader(rig: Rig) -> None:
    await rig.reopen(max_size=100)
    record = publish(rig, BIG)
    transfer = rig.files.join("pypi", record)
    await transfer.started()
    with transfer.open() as source:
        await rig.settle()
        assert stored(rig) == []
        assert source.read() == BIG


async def test_last_uses_survive_a_restart(rig: Rig) -> None:
    record = publish(rig, BIG)
    await rig.fetch(record)
    await rig.settle()
    rig.clock.advance(hours=1)
    rig.files.cached(record)
    await rig.reopen()
    assert rig.files.stats().oldest_use == rig.clock.time == Clock().time.replace(hour=13)


async def test_a_purge_deletes_pages_and_the_files_they_list(rig: Rig, registry: Database) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    rig.upstream.add_file("gadgets", *make_wheel("gadgets", "1.0"))
    for name in ("widgets", "gadgets"):
        cached = await rig.pages.get("pypi", Name(name))
        assert cached is not None
        await rig.fetch(cached.value.files[0])
        await rig.fetch(metadata_record(cached.value.files[0]))
    await rig.settle()
    known_names = KnownNames(rig.layout, rig.locks, rig.board, {"pypi": rig.client}, rig.clock)
    variants = VariantFiles(rig.layout)
    places = [Place("pypi", Name(name), "json", "gzip") for name in ("widgets", "gadgets")]
    for place in places:
        variants.put(place, "token", AtRest("tag", b"made of it"))
    cache = Parts(rig.pages, rig.documents, variants, rig.files, known_names, registry)
    assert purge(cache, [Name("widgets")]) == Purged(pages=1, files=2, held=0)
    assert (len(stored(rig)), rig.files.stats().files) == (2, 2)
    assert [await variants.get(place, "token") is None for place in places] == [True, False]
    assert purge(cache, None) == Purged(pages=1, files=2, held=0)
    assert (stored(rig), rig.files.stats().files) == ([], 0)
    assert await variants.get(places[1], "token") is None


async def test_T_BOMB_a_file_without_end_whose_size_nobody_names_is_broken_off(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "LARGEST_UNSIZED", 1_000_000)
    rig.upstream.fault(FILES, endless=True, rate=20_000_000)
    with pytest.raises(ContentMismatch, match="after 1000000 bytes"):
        await rig.fetch(publish(rig, BIG, sha256=None, size=None))
    await wait_until_async(lambda: not partial(rig), what="the partial file to go")
    assert stored(rig) == []


async def test_a_full_disk_is_said_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    record = publish(rig, BIG)

    def full(descriptor: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("proxy.cache.partials.write_all", full)
    with pytest.raises(DiskFull):
        await rig.fetch(record)
    await rig.settle()
    assert (stored(rig), partial(rig)) == ([], [])
    monkeypatch.undo()
    assert await rig.fetch(record) == BIG


@pytest.fixture
async def other(rig: Rig) -> AsyncIterator[Files]:
    """Files as they are in another process, under another configuration: nothing is shared but what lies on disk."""
    other = rig.other_files()
    yield other
    await other.close()


def requests_of(rig: Rig) -> list[str | None]:
    """The ranges that were asked for, one for each request of a file."""
    return [asked.header("Range") for asked in rig.upstream.requests() if "/packages/" in asked.path]


@pytest.mark.parametrize("content", [BIG, SMALL])
@pytest.mark.parametrize("said", [{}, {"sha256": None, "size": None}], ids=["digest", "no digest"])
async def test_two_processes_cost_one_request(
    rig: Rig, other: Files, content: bytes, said: dict[str, Any]
) -> None:
    record = publish(rig, content, **said)
    rig.upstream.fault(FILES, rate=5_000_000, delay=0.05)
    one = rig.files.join("pypi", record)
    await wait_until_async(lambda: rig.locks.holder(one.lock))
    followers = [asyncio.create_task(follow(other.join("pypi", record))) for _ in range(3)]
    assert await asyncio.gather(follow(one), *followers) == [content] * 4
    assert requests_of(rig) == [None]
    await rig.settle()
    assert [transfers_counted(rig, event) for event in ("begun", "joined", "failed")] == [1, 3, 0]
    assert partial(rig) == []
    # What one has brought the other has.
    assert other.cached(record) is not None


async def test_a_follower_is_told_the_size_and_reads_before_the_end(rig: Rig, other: Files) -> None:
    record = publish(rig, BIG, size=None)
    rig.upstream.fault(FILES, truncate=300_000, hang=True)
    rig.files.join("pypi", record)
    transfer = other.join("pypi", record)
    await transfer.started()
    assert transfer.size == len(BIG)
    received: list[bytes] = []
    reader = asyncio.create_task(follow(transfer, received))
    await wait_until_async(lambda: sum(map(len, received)) == 300_000)
    assert b"".join(received) == BIG[:300_000]
    assert not transfer.done
    reader.cancel()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"alter": -1}, ContentMismatch),
        ({"status": 404}, UpstreamFaulty),
        ({"status": 429, "retry_after": 100}, UpstreamBusy),
        ({"truncate": 300_000, "ignore_range": True}, UpstreamUnreachable),
    ],
)
async def test_what_a_leader_fails_by_its_followers_fail_by(
    rig: Rig, other: Files, fault: dict[str, Any], expected: type[UpstreamError]
) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, delay=0.1, **fault)
    leader = asyncio.create_task(rig.fetch(record))
    await asyncio.to_thread(rig.upstream.await_requests, "/packages/")
    asked = rig.asked("/packages/")
    received: list[bytes] = []
    with pytest.raises(expected) as caught:
        await follow(other.join("pypi", record), received)
    with pytest.raises(expected) as told:
        await leader
    assert (str(caught.value), caught.value.upstream) == (str(told.value), "pypi")
    assert sum(map(len, received)) <= len(BIG) - HOLD_BACK
    assert rig.asked("/packages/") == asked + ("truncate" in fault)
    await rig.settle()
    assert (stored(rig), partial(rig), transfers_counted(rig, "failed")) == ([], [], 1)


async def test_who_asks_after_a_failure_begins_anew(rig: Rig, other: Files) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, status=404, nth=1)
    with pytest.raises(UpstreamFaulty):
        await rig.fetch(record)
    # At once, while the leader still tells of its failure.
    assert await follow(other.join("pypi", record)) == BIG


@pytest.mark.parametrize(
    ("said", "ranges"), [({}, [None, "bytes=300000-"]), ({"sha256": None}, [None, None])], ids=str
)
async def test_a_follower_goes_on_where_the_leader_ended(
    rig: Rig, other: Files, said: dict[str, Any], ranges: list[str | None]
) -> None:
    record = publish(rig, BIG, **said)
    rig.upstream.fault(FILES, nth=1, truncate=300_000, hang=True)
    ours = asyncio.create_task(follow(rig.files.join("pypi", record)))
    received: list[bytes] = []
    theirs = asyncio.create_task(follow(other.join("pypi", record), received))
    await wait_until_async(lambda: received)
    await rig.files.close()
    with pytest.raises(UpstreamUnreachable):
        await ours
    # With a digest the rest is enough; without one all of it tells whether it is the same file.
    assert await theirs == BIG
    assert requests_of(rig) == ranges
    await asyncio.gather(*other._leaders)
    assert partial(rig) == []


async def test_a_leader_shows_that_it_lives_while_nothing_comes(rig: Rig) -> None:
    """Else its followers would take it for one whose process stands still."""
    transfer = rig.files.join("pypi", publish(rig, BIG))
    rig.upstream.fault(FILES, hang=True)
    path = Path(transfer.path)
    await wait_until_async(path.exists)
    os.utime(path, (0, 0))
    await wait_until_async(lambda: path.stat().st_mtime > 0)


async def test_a_reader_never_gets_parts_of_two_contents(rig: Rig, other: Files) -> None:
    """What comes after a take-over begins otherwise, and no digest says which of the two is right."""
    record = publish(rig, BIG, sha256=None)
    rig.upstream.fault(FILES, nth=1, truncate=300_000, hang=True)
    rig.upstream.fault(FILES, after=1, alter=1)
    rig.files.join("pypi", record)
    received: list[bytes] = []
    theirs = asyncio.create_task(follow(other.join("pypi", record), received))
    await wait_until_async(lambda: received)
    await rig.files.close()
    with pytest.raises(UpstreamUnreachable):
        await theirs
    assert BIG.startswith(b"".join(received))
    await asyncio.gather(*other._leaders)
    assert (stored(rig), partial(rig)) == ([], [])
    rig.upstream.clear_faults()
    assert await follow(other.join("pypi", record)) == BIG


async def test_what_a_dead_leader_left_is_not_blamed_on_the_upstream(rig: Rig, other: Files) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, nth=1, truncate=300_000, hang=True)
    rig.files.join("pypi", record)
    received: list[bytes] = []
    theirs = asyncio.create_task(follow(other.join("pypi", record), received))
    await wait_until_async(lambda: received)
    (path,) = (path for path in Path(rig.layout.partial_files).iterdir() if path.suffix != ".head")
    with path.open("r+b") as file:
        file.write(b"other")
    await rig.files.close()
    with pytest.raises(UpstreamUnreachable):
        await theirs
    assert await follow(other.join("pypi", record)) == BIG


async def test_where_nobody_follows_a_transfer_that_is_stopped_leaves_nothing(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, truncate=300_000, hang=True)
    await rig.files.join("pypi", record).past(0)
    assert len(partial(rig)) == 2
    await rig.files.close()
    assert partial(rig) == []


async def test_what_somebody_works_at_is_not_swept_up(rig: Rig, other: Files) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, rate=2_000_000)
    transfer = rig.files.join("pypi", record)
    await transfer.past(0)
    other.recover()
    assert len(partial(rig)) == 2
    assert await follow(transfer) == BIG


async def test_files_that_no_client_waits_for_take_turns(rig: Rig) -> None:
    rig.options = {"max_connections": 10}
    await rig.reopen()
    records = [publish(rig, bytes([number]) * 100, f"widgets-{number}.0.tar.gz") for number in range(5)]
    rig.upstream.fault(FILES, hang=True)
    warming = [asyncio.create_task(rig.files.fetch("pypi", record, background=True)) for record in records]
    await asyncio.to_thread(rig.upstream.await_requests, "/packages/", 2)
    rig.upstream.clear_faults()
    # A client comes between them.
    waited = publish(rig, BIG)
    assert await rig.fetch(waited) == BIG
    assert rig.asked("/packages/") == 3
    for task in warming:
        task.cancel()
    await asyncio.wait(warming)


async def test_the_ledger_is_put_in_order_after_a_kill(rig: Rig) -> None:
    await rig.reopen(max_size=350)
    for number in range(3):
        await rig.files.keep(bytes([number]) * 100, [])
        rig.clock.advance(seconds=1)
    (lost, *_), (unknown, content) = stored(rig), (hashlib.sha256(SMALL * 30).hexdigest(), SMALL * 30)
    Path(rig.layout.cached_file(lost)).unlink()
    path = Path(rig.layout.cached_file(unknown))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    await rig.files.put_in_order()
    # A row has gone and one has come, and what is too much by that has been evicted.
    on_disk = [Path(rig.layout.cached_file(name)).stat().st_size for name in stored(rig)]
    assert (rig.files.stats().files, rig.files.stats().bytes) == (len(on_disk), sum(on_disk))
    assert rig.files.stats().bytes <= 350 * 0.95


async def test_what_was_purged_since_its_last_use_is_not_counted_again(rig: Rig) -> None:
    record = publish(rig, BIG)
    await rig.fetch(record)
    await rig.settle()
    assert rig.files.cached(record) is not None
    assert rig.other_files().purge(None) == 1
    await rig.reopen()
    assert rig.files.stats().files == 0


async def test_a_transfer_that_nobody_reads_stands_back_where_connections_are_few(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "ABANDONED_SECONDS", 0.0)
    rig.options = {"max_connections": 2}
    await rig.reopen()
    left, wanted = publish(rig, BIG), publish(rig, BIG[1:], "gadgets-1.0-py3-none-any.whl")
    rig.upstream.fault(f"*{WHEEL}", rate=500_000, nth=1)
    transfer = rig.files.join("pypi", left)
    await transfer.past(0)
    assert await rig.fetch(wanted) == BIG[1:]
    assert not transfer.done
    # It comes to its end all the same.
    await rig.settle()
    assert rig.files.cached(left) is not None
    ranges = [(asked.path.rpartition("/")[2], asked.header("Range")) for asked in rig.upstream.requests()]
    assert [name for name, _ in ranges] == [left.filename, wanted.filename, left.filename]
    assert (ranges[0][1], ranges[1][1]) == (None, None)
    assert ranges[2][1] is not None


def full_while(
    monkeypatch: pytest.MonkeyPatch, is_full: Callable[[], bool], number: int = errno.ENOSPC
) -> None:
    """Have nothing of an arriving file be written while `is_full`."""

    def limited(descriptor: int, content: bytes) -> None:
        # Heads are small, and find room.
        if len(content) > 1000 and is_full():
            write_all(descriptor, content[:500])
            raise OSError(number, os.strerror(number))
        write_all(descriptor, content)

    monkeypatch.setattr("proxy.cache.partials.write_all", limited)


async def test_where_the_disk_is_full_what_was_not_used_for_long_makes_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.reopen(max_size=10_000_000)
    older = [publish(rig, bytes([number]) * 300_000, f"widgets-{number}.0.tar.gz") for number in range(4)]
    for record in older:
        await rig.fetch(record)
        await rig.settle()
        rig.clock.advance(seconds=1)
    assert rig.files.cached(older[0]) is not None
    full_while(monkeypatch, lambda: len(stored(rig)) == 4)
    record = publish(rig, BIG)
    assert await rig.fetch(record) == BIG
    await rig.settle()
    # What is wanted and 1 % of the room: two of 300,000 bytes, and not the one that was used last.
    assert [rig.files.cached(one) is not None for one in older] == [True, False, False, True]
    assert Path(rig.layout.cached_file(str(record.sha256))).read_bytes() == BIG
    assert rig.files.stats().bytes == len(BIG) + 600_000


async def test_what_deleting_does_not_help_against_costs_no_file(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of one file is no disk that is full."""
    older = publish(rig, SMALL, "widgets-0.1.tar.gz")
    await rig.fetch(older)
    await rig.settle()
    full_while(monkeypatch, lambda: True, errno.EFBIG)
    with pytest.raises(DiskFull):
        await rig.fetch(publish(rig, BIG))
    await rig.settle()
    assert rig.files.cached(older) is not None


async def test_a_disk_that_stays_full_is_complained_of_once_a_minute(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = publish(rig, BIG)
    full_while(monkeypatch, lambda: True)
    for seconds in (0, 1, 1, 60):
        rig.clock.advance(seconds=seconds)
        with pytest.raises(DiskFull):
            await rig.fetch(record)
        await rig.settle()
    assert caplog.text.count("no space is left on the server; files are passed through and not kept") == 2


async def test_what_an_earlier_process_left_half_done_is_deleted(rig: Rig) -> None:
    record = publish(rig, BIG)
    Path(rig.layout.partial_file(record.key, record.url)).write_bytes(b"half")
    Path(rig.layout.partial_files, "page-1").write_bytes(b"half")
    await rig.reopen()
    assert partial(rig) == []
    assert await rig.fetch(record) == BIG


async def test_closing_ends_transfers_and_tells_their_readers(rig: Rig) -> None:
    record = publish(rig, BIG)
    rig.upstream.fault(FILES, truncate=300_000, hang=True)
    reader = asyncio.create_task(follow(rig.files.join("pypi", record)))
    await asyncio.to_thread(rig.upstream.await_requests, "/packages/")
    await rig.files.close()
    with pytest.raises(UpstreamUnreachable):
        await reader
    assert partial(rig) == []


async def test_a_key_that_is_no_key_is_nowhere(rig: Rig) -> None:
    assert (
        rig.files.cached(FileRecord(filename=WHEEL, sha256="../../etc/passwd", url="https://x.test/")) is None
    )
    assert rig.files.purge(["../../etc/passwd"]) == 0
    with pytest.raises(StorageError):
        rig.files.join("pypi", FileRecord(filename=WHEEL, sha256="../x", url="https://x.test/"))
