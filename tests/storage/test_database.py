from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError, StatementError

from proxy.errors import DiskFull, NoSuchName, StoreUnavailable
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.tables import namespaces, packages
from tests.storage.children import Child

NOW = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)


def add(change: Change, path: str) -> int:
    row = insert(namespaces).values(path=path, kind="group", created_at=NOW)
    number: int = change.connection.execute(row.returning(namespaces.c.id)).scalar_one()
    return number


def paths(connection: Connection) -> list[str]:
    return list(connection.scalars(select(namespaces.c.path).order_by(namespaces.c.path)))


async def test_what_a_change_did_is_read_afterwards(registry: Database) -> None:
    assert await registry.read(paths) == []
    number = await registry.change(lambda change: add(change, "acme"))
    assert number == 1
    assert await registry.read(paths) == ["acme"]
    assert registry.read_now(paths) == ["acme"]


async def test_a_change_that_fails_changes_nothing(registry: Database) -> None:
    def act(change: Change) -> None:
        add(change, "acme")
        raise NoSuchName("there is no such name")

    with pytest.raises(NoSuchName):
        await registry.change(act)
    assert await registry.read(paths) == []
    await registry.change(lambda change: add(change, "beta"))
    assert await registry.read(paths) == ["beta"]


async def test_a_hurt_constraint_reaches_the_caller_and_rolls_back(registry: Database) -> None:
    await registry.change(lambda change: add(change, "acme"))

    def twice(change: Change) -> None:
        add(change, "beta")
        add(change, "acme")

    with pytest.raises(IntegrityError):
        await registry.change(twice)
    assert await registry.read(paths) == ["acme"]


async def test_foreign_keys_hold(registry: Database) -> None:
    row = {"namespace_id": 7, "name": "six", "display_name": "six", "claimed_since": NOW}
    with pytest.raises(IntegrityError):
        await registry.change(lambda change: change.connection.execute(insert(packages).values(row)))


async def test_numbers_are_never_given_out_again(registry: Database) -> None:
    first = await registry.change(lambda change: add(change, "acme"))
    await registry.change(lambda change: change.connection.execute(namespaces.delete()))
    assert await registry.change(lambda change: add(change, "acme")) > first


async def test_reading_cannot_write(registry: Database) -> None:
    with pytest.raises(StoreUnavailable):
        await registry.read(lambda connection: add(Change(connection), "acme"))
    assert await registry.read(paths) == []


def test_a_read_sees_one_state_from_its_first_to_its_last_statement(registry: Database) -> None:
    registry.change_now(lambda change: add(change, "acme"))

    def query(connection: Connection) -> tuple[list[str], list[str]]:
        before = paths(connection)
        writer = threading.Thread(target=registry.change_now, args=(lambda change: add(change, "beta"),))
        writer.start()
        writer.join(10)
        return before, paths(connection)

    assert registry.read_now(query) == (["acme"], ["acme"])
    assert registry.read_now(paths) == ["acme", "beta"]


def test_an_exception_in_a_query_ends_its_view_of_the_database(registry: Database) -> None:
    def query(connection: Connection) -> None:
        paths(connection)
        raise NoSuchName("there is no such name")

    with pytest.raises(NoSuchName):
        registry.read_now(query)
    registry.change_now(lambda change: add(change, "acme"))
    assert registry.read_now(paths) == ["acme"]


def test_reading_keeps_its_connection(registry: Database) -> None:
    def connection_of(connection: Connection) -> int:
        return id(connection.connection.driver_connection)

    assert len({registry.read_now(connection_of) for _ in range(5)}) == 1


def test_faults_of_a_query_stay_what_they_are(registry: Database) -> None:
    with pytest.raises(StatementError):
        registry.change_now(
            lambda change: change.connection.execute(
                insert(namespaces).values(path="x", kind="group", created_at=datetime(2026, 5, 1))  # noqa: DTZ001
            )
        )
    with pytest.raises(ProgrammingError):
        registry.read_now(lambda connection: connection.exec_driver_sql("SELECT ?"))


async def test_a_cancelled_change_has_ended_when_the_cancellation_arrives(registry: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def act(change: Change) -> None:
        begun.set()
        go_on.wait(10)
        add(change, "acme")
        done.append("acted")

    task = asyncio.create_task(registry.change(act))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # impatience changes nothing
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["acted"]
    assert await registry.read(paths) == ["acme"]


async def test_the_failure_of_a_cancelled_change_is_not_lost(registry: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def act(change: Change) -> None:
        add(change, "acme")
        begun.set()
        go_on.wait(10)
        raise NoSuchName("there is no such name")

    async def publish() -> None:
        try:
            await registry.change(act)
        except asyncio.CancelledError as error:
            causes.append(error.__cause__)
            raise

    causes: list[BaseException | None] = []
    task = asyncio.create_task(publish())
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(causes[0], NoSuchName)
    assert await registry.read(paths) == []


async def test_a_change_that_is_cancelled_before_it_begins_never_happens(registry: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block(_: Change) -> None:
        begun.set()
        go_on.wait(10)

    first = asyncio.create_task(registry.change(block))
    await asyncio.to_thread(begun.wait, 10)
    second = asyncio.create_task(registry.change(lambda change: add(change, "never")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    assert await registry.read(paths) == []


async def test_changes_from_loop_and_threads_take_turns(registry: Database) -> None:
    def count_up(change: Change) -> None:
        seen = change.connection.scalar(select(func.count()).select_from(namespaces))
        add(change, f"n{seen}")  # unique: two that saw the same number would fail

    by_loop = [registry.change(count_up) for _ in range(20)]
    by_thread = [asyncio.to_thread(registry.change_now, count_up) for _ in range(20)]
    await asyncio.gather(*by_loop, *by_thread)
    assert len(await registry.read(paths)) == 40


def test_a_change_keeps_out_writers_that_know_nothing_of_our_locks(
    layout: Layout, registry: Database
) -> None:
    def act(_: Change) -> None:
        with contextlib.closing(sqlite3.connect(layout.registry_database, timeout=0)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="the registry database is busy"):
        registry.change_now(act)


def test_touched_topics_are_collected(registry: Database) -> None:
    def act(change: Change) -> frozenset[str]:
        change.touch("name:acme/widgets")
        change.touch("name:*/widgets")
        change.touch("name:acme/widgets")
        return change.topics

    assert registry.change_now(act) == {"name:acme/widgets", "name:*/widgets"}


def test_reads_see_what_another_process_committed(layout: Layout, registry: Database) -> None:
    assert registry.read_now(paths) == []
    code = "registry.change_now(lambda change: add(change, 'acme')); say('done')"
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "done"
        assert registry.read_now(paths) == ["acme"]


def test_two_processes_change_at_once_and_none_is_refused_or_lost(layout: Layout, registry: Database) -> None:
    code = """
say("ready")
input()
for _ in range(40):
    def count_up(change):
        seen = change.connection.scalar(select(func.count()).select_from(namespaces))
        add(change, f"n{seen}")
    registry.change_now(count_up)
"""
    with Child(layout.data_dir, code) as one, Child(layout.data_dir, code) as two:
        for child in (one, two):
            child.hear()
        for child in (one, two):
            child.tell()
        assert (one.end(), two.end()) == (0, 0)
    assert len(registry.read_now(paths)) == 80


def test_a_process_killed_in_a_transaction_leaves_nothing_of_it(layout: Layout, registry: Database) -> None:
    registry.change_now(lambda change: add(change, "before"))
    code = """
def act(change):
    for number in range(5000):
        add(change, f"half-{number}")
    say("halfway")
    input()
registry.change_now(act)
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "halfway"
        assert registry.read_now(paths) == ["before"]
        child.kill()
        registry.change_now(lambda change: add(change, "after"))  # the lock is free at once
    assert registry.read_now(paths) == ["after", "before"]


def test_what_was_committed_survives_kill_9(layout: Layout, registry: Database) -> None:
    code = """
for number in range(10**9):
    registry.change_now(lambda change: add(change, f"n{number:06}"))
    say(number)
"""
    with Child(layout.data_dir, code) as child:
        while int(child.hear()) < 20:
            pass
        child.kill()
    kept = registry.read_now(paths)
    assert len(kept) > 20
    assert kept == [f"n{number:06}" for number in range(len(kept))]


def test_a_full_disk_is_told_and_changes_nothing(registry: Database) -> None:
    def grow(change: Change) -> None:
        pages = change.connection.scalar(text("PRAGMA page_count"))
        change.connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}")
        for number in range(2000):
            add(change, f"{number:0200}")

    registry.change_now(lambda change: add(change, "acme"))
    with pytest.raises(DiskFull):
        registry.change_now(grow)
    assert registry.read_now(paths) == ["acme"]
    registry.change_now(lambda change: add(change, "beta"))  # once there is room again
    assert registry.read_now(paths) == ["acme", "beta"]


def test_a_file_that_cannot_grow_breaks_nothing(layout: Layout, registry: Database) -> None:
    registry.change_now(lambda change: add(change, "acme"))
    code = """
import resource
registry.read_now(lambda connection: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    registry.change_now(lambda change: [add(change, f"{number:0500}") for number in range(2000)])
except OverlayError as error:
    say(type(error).__name__)
say(registry.read_now(lambda c: c.scalar(select(func.count()).select_from(namespaces))))
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() in {"StoreUnavailable", "DiskFull"}
        assert child.hear() == "1"
    assert registry.read_now(paths) == ["acme"]


def test_a_damaged_database_is_unavailable(layout: Layout, locks: Locks) -> None:
    Path(layout.registry_database).write_bytes(b"this is no database" * 1000)
    database = Database(layout.registry_database, locks, name="registry")
    with pytest.raises(StoreUnavailable, match="the registry database is damaged"):
        database.migrate()
    database.close()


def test_a_database_that_cannot_be_opened_is_unavailable(layout: Layout, locks: Locks) -> None:
    database = Database(f"{layout.data_dir}/absent/registry.sqlite", locks, name="registry")
    with pytest.raises(StoreUnavailable) as caught:
        database.read_now(paths)
    assert layout.data_dir not in str(caught.value)
    database.close()


async def test_closing_lets_the_changes_asked_for_end(registry: Database) -> None:
    def adding(path: str) -> Callable[[Change], int]:
        return lambda change: add(change, path)

    changes = [asyncio.create_task(registry.change(adding(f"n{number}"))) for number in range(20)]
    await asyncio.sleep(0)  # each has been handed to the writing thread
    await asyncio.to_thread(registry.close)
    assert len(await asyncio.gather(*changes)) == 20


async def test_a_closed_database_is_unavailable(registry: Database) -> None:
    registry.read_now(paths)
    registry.close()
    with pytest.raises(StoreUnavailable):
        await registry.read(paths)
    with pytest.raises(StoreUnavailable):
        await registry.change(lambda change: add(change, "acme"))
    with pytest.raises(StoreUnavailable):
        registry.change_now(lambda change: add(change, "acme"))


def test_databases_can_be_named_by_url(layout: Layout, locks: Locks) -> None:
    database = Database(f"sqlite:///{layout.data_dir}/other.sqlite", locks, name="registry")
    database.migrate()
    database.change_now(lambda change: add(change, "acme"))
    assert database.read_now(paths) == ["acme"]
    database.close()


@pytest.mark.parametrize("location", ["postgresql://db/overlay", "://nonsense"])
def test_other_engines_are_refused(locks: Locks, location: str) -> None:
    with pytest.raises(StoreUnavailable):
        Database(location, locks, name="registry")


def test_the_registry_is_synced_at_every_commit_and_the_cache_is_not(
    registry: Database, cache: Database
) -> None:
    def level(change: Change) -> object:
        return change.connection.scalar(text("PRAGMA synchronous"))

    assert registry.change_now(level) == 2  # FULL
    assert cache.change_now(level) == 1  # NORMAL


def test_readers_do_not_hinder_the_writer(registry: Database) -> None:
    mode = registry.change_now(lambda change: change.connection.scalar(text("PRAGMA journal_mode")))
    assert mode == "wal"
