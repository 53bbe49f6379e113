from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.errors import StoreUnavailable
from proxy.storage import downloads as module
from proxy.storage.database import Database
from proxy.storage.downloads import (
    Client,
    Download,
    Downloads,
    Fetched,
    Wanted,
    forget_before,
    has_before,
    join_old,
    list_downloads,
)
from proxy.storage.tables import download_batches

NOW = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
SECOND = int(NOW.timestamp())
ALICE = Client(7, "alice", "192.0.2.1")
NOBODY = Client(None, None, "")


def file_of(name: str, version: str = "1.0") -> Fetched:
    return Fetched(Name(name), version, f"{name}-{version}.tar.gz", "ab" * 32, "pypi", NamespacePath("acme"))


def write(database: Database, *noted: tuple[Fetched, Client, int]) -> None:
    """Write downloads as one batch."""
    downloads = Downloads(database)
    for fetched, client, second in noted:
        downloads.note(fetched, client, second)
    asyncio.run(downloads.flush())


def found(database: Database, name: str, limit: int = 1000, offset: int = 0, **wanted: Any) -> list[Any]:
    query = partial(list_downloads, wanted=Wanted(Name(name), **wanted), limit=limit, offset=offset)
    return database.read_now(query)


def seconds(items: Iterable[dict[str, Any]]) -> list[int]:
    return [int(datetime.fromisoformat(item["at"]).timestamp()) - SECOND for item in items]


def count(database: Database, table: Any) -> int:
    return database.read_now(
        lambda connection: connection.execute(select(func.count(table.c[0]))).scalar_one()
    )


def test_a_download_comes_back_as_it_was_noted(cache: Database) -> None:
    write(cache, (file_of("widgets"), ALICE, SECOND))
    assert found(cache, "widgets") == [
        {
            "at": "2026-05-01T08:00:00Z",
            "name": "widgets",
            "version": "1.0",
            "filename": "widgets-1.0.tar.gz",
            "sha256": "ab" * 32,
            "source": "pypi",
            "index": "acme",
            "token_id": 7,
            "user": "alice",
            "address": "192.0.2.1",
        }
    ]
    assert found(cache, "gears") == []


def test_what_is_kept_ready_is_noted_again_and_again(cache: Database) -> None:
    downloads = Downloads(cache)
    by_alice, by_nobody = (Download.of(file_of("widgets"), client) for client in (ALICE, NOBODY))
    # The same for another reader: files and callers are told apart by what they are.
    again = Download.of(file_of("widgets"), ALICE)
    for second, left in ((0, [by_alice, by_alice, by_nobody]), (1, [again, by_alice]), (0, [again])):
        downloads.note_all(left, SECOND + second)
    asyncio.run(downloads.flush())
    told = Counter((one["at"][-3:-1], one["user"]) for one in found(cache, "widgets"))
    assert told == {("00", "alice"): 3, ("00", None): 1, ("01", "alice"): 2}
    downloads.note_all([by_alice], SECOND + 2)
    asyncio.run(downloads.flush())
    assert len(found(cache, "widgets")) == 7


def test_what_is_alike_is_made_ready_once_until_it_is_written(cache: Database) -> None:
    downloads = Downloads(cache)
    made = {downloads.ready(file_of("widgets"), client) for client in (ALICE, NOBODY, ALICE)}
    assert len(made) == 2
    downloads.note_all(made, SECOND)
    asyncio.run(downloads.flush())
    # Else a server would keep one of each file that was ever fetched.
    assert downloads.ready(file_of("widgets"), ALICE) not in made


def test_the_root_and_unknown_addresses_are_told_as_such(cache: Database) -> None:
    write(
        cache,
        (
            file_of("widgets")._replace(asked_at=NamespacePath(""), sha256=None),
            NOBODY,
            SECOND,
        ),
    )
    [one] = found(cache, "widgets")
    assert [one[key] for key in ("index", "sha256", "token_id", "user", "address")] == ["/", *[None] * 4]


def test_every_single_download_counts_however_many_are_alike(cache: Database) -> None:
    downloads = Downloads(cache)
    for _ in range(3):
        downloads.note(file_of("widgets"), ALICE, SECOND, 2)
    downloads.note(file_of("widgets"), NOBODY, SECOND)
    for _ in range(2):
        asyncio.run(downloads.flush())
    assert Counter(one["token_id"] for one in found(cache, "widgets")) == {7: 6, None: 1}
    assert count(cache, download_batches) == 1


def test_the_newest_come_first_though_batches_of_processes_overlap(cache: Database) -> None:
    for noted in ([0, 10, 20], [5, 15], [12], [21, 1]):
        write(cache, *((file_of("widgets"), ALICE, SECOND + second) for second in noted))
    every = [21, 20, 15, 12, 10, 5, 1, 0]
    assert seconds(found(cache, "widgets")) == every
    pages = [found(cache, "widgets", limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [seconds(page) for page in pages] == [every[:3], every[3:6], every[6:], []]
    since = NOW + timedelta(seconds=12, microseconds=5)
    assert seconds(found(cache, "widgets", since=since)) == every[:4]


def test_a_version_is_the_same_in_any_spelling(cache: Database) -> None:
    write(cache, *((file_of("widgets", version), ALICE, SECOND) for version in ("1.0", "1.0.0", "1.1", "x")))
    wanted = {version: len(found(cache, "widgets", version=version)) for version in ("1", "1.1", "x", "2")}
    assert wanted == {"1": 2, "1.1": 1, "x": 1, "2": 0}


async def test_what_gathers_is_written_at_once_where_it_is_much(
    cache: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FULL", 4)
    downloads = Downloads(cache)
    writing = asyncio.create_task(downloads.keep_written())
    for second in range(4):
        downloads.note(file_of("widgets"), ALICE, SECOND + second)
    async with asyncio.timeout(4):  # less than the time after which it would be written anyway
        while not found(cache, "widgets"):
            await asyncio.sleep(0.01)
    writing.cancel()


def rename(database: Database, table: str, other: str) -> None:
    statement = f"ALTER TABLE {table} RENAME TO {other}"
    database.change_now(lambda change: change.connection.exec_driver_sql(statement))


def test_what_cannot_be_written_waits_and_is_bounded(
    cache: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    downloads = Downloads(cache)
    for second in range(5):
        downloads.note(file_of("widgets"), ALICE, SECOND + second)
    rename(cache, "download_batches", "elsewhere")
    with pytest.raises(StoreUnavailable):
        asyncio.run(downloads.flush())
    rename(cache, "elsewhere", "download_batches")
    asyncio.run(downloads.flush())
    assert len(found(cache, "widgets")) == 3


def test_what_is_alike_is_one_entry_whoever_noted_it(cache: Database) -> None:
    write(
        cache, *[(file_of("widgets"), ALICE, SECOND) for _ in range(3)], (file_of("widgets"), NOBODY, SECOND)
    )
    [content] = cache.read_now(
        lambda connection: connection.execute(select(download_batches.c.content)).scalars().all()
    )
    batch = module._decoded(content)
    assert bytes(batch.files).count(b"widgets-1.0.tar.gz") == 1
    assert sorted(entry[3] for entry in batch.entries) == [1, 3]
    assert len(found(cache, "widgets")) == 4


def test_a_name_is_found_among_those_whose_hashes_meet(
    cache: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = {"widgets": b"abcd", "gears": b"bcda", "cogs": b"abcd", "wheels": b"dabc"}
    monkeypatch.setattr(module, "_hash", hashes.__getitem__)
    for name in ("widgets", "wheels"):
        write(cache, (file_of("gears"), ALICE, SECOND), (file_of(name), ALICE, SECOND))
    assert len(found(cache, "widgets")) == len(found(cache, "wheels")) == 1
    assert len(found(cache, "gears")) == 2
    assert found(cache, "cogs") == []


def test_old_batches_are_deleted(cache: Database) -> None:
    for day in range(5):
        write(cache, (file_of("widgets"), ALICE, SECOND + day * 86_400))
    end = NOW + timedelta(days=2)
    assert cache.read_now(lambda connection: has_before(connection, end))
    cache.change_now(lambda change: forget_before(change.connection, end))
    assert not cache.read_now(lambda connection: has_before(connection, end))
    assert [day // 86_400 for day in seconds(found(cache, "widgets"))] == [4, 3, 2]


def test_small_batches_of_a_day_become_one_and_tell_the_same(cache: Database) -> None:
    for second in range(0, 3 * 86_400, 7200):
        write(
            cache,
            (file_of("widgets"), ALICE, SECOND + second),
            (file_of("widgets"), ALICE, SECOND + second),
            (file_of(f"gears{second}"), NOBODY, SECOND + second + 1),
        )
    before = found(cache, "widgets")
    assert len(before) == 72
    now = NOW + timedelta(days=3)
    assert join_old(cache, now) == 36
    assert count(cache, download_batches) == 4  # eight in the morning, to eight three days later
    assert found(cache, "widgets") == before
    assert len(found(cache, "gears7200")) == 1
    assert join_old(cache, now) == 0


def test_what_is_young_stays_as_it_is(cache: Database) -> None:
    for second in (0, 1):
        write(cache, (file_of("widgets"), ALICE, SECOND + second))
    assert join_old(cache, NOW + timedelta(minutes=10)) == 0
