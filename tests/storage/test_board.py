"""The board: stamps fail for every change of what they name, in every process, and for no other."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from proxy.errors import StorageError
from proxy.storage.board import (
    EVERYTHING_BORROWED,
    NAMESPACES,
    Board,
    Stamp,
    name_topic,
    new_serial,
    page_topic,
    token_topic,
)
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.tables import namespaces
from tests.storage.children import Child

TOPIC = name_topic("widgets")
OTHER = name_topic("gadgets")


@pytest.fixture
def board(layout: Layout) -> Iterator[Board]:
    board = Board(layout)
    yield board
    board.close()


@pytest.fixture
def watched(layout: Layout, locks: Locks, board: Board) -> Iterator[Database]:
    database = Database(layout.registry_database, locks, name="registry", board=board)
    database.migrate()
    yield database
    database.close()


def add(change: Change, path: str = "acme") -> None:
    row = {"path": path, "kind": "group", "created_at": datetime.now(UTC)}
    change.connection.execute(insert(namespaces).values(**row))
    change.touch(TOPIC)


def test_a_stamp_holds_until_its_topic_changes(board: Board) -> None:
    stamp, other = board.stamp([TOPIC]), board.stamp([OTHER])
    assert board.holds(stamp)
    board.settle(board.unsettle([TOPIC]))
    assert not board.holds(stamp)
    assert board.holds(other)


def test_a_stamp_of_many_topics_fails_with_any_of_them(board: Board) -> None:
    topics = [TOPIC, NAMESPACES, token_topic(1), page_topic("pypi", "widgets"), EVERYTHING_BORROWED]
    for topic in topics:
        stamp = board.stamp(topics)
        if topic in topics[3:]:
            board.renew(topic)
        else:
            board.settle(board.unsettle([topic]))
        assert not board.holds(stamp), topic


def test_numbers_never_come_back(board: Board) -> None:
    seen: set[Stamp] = {board.stamp([TOPIC])}
    for _ in range(1000):
        touched = board.unsettle([TOPIC])
        seen.add(board.stamp([TOPIC]))
        board.settle(touched)
        seen.add(board.stamp([TOPIC]))
    assert len(seen) == 2001


def test_a_stamp_taken_during_a_change_is_not_settled(board: Board) -> None:
    touched = board.unsettle([TOPIC])
    during = board.stamp([TOPIC, OTHER])
    assert not board.is_settled(during)
    assert board.is_settled(board.stamp([OTHER]))
    board.settle(touched)
    assert not board.holds(during)
    assert board.is_settled(board.stamp([TOPIC, OTHER]))


def test_every_stamp_names_the_configuration(board: Board) -> None:
    first, second = new_serial(), new_serial()
    board.put_in_force(first)
    now, of_second = board.stamp([TOPIC]), board.stamp([TOPIC], serial=second)
    assert board.holds(now)
    assert not board.holds(of_second)
    board.put_in_force(second)
    assert not board.holds(now)
    assert board.holds(of_second)
    assert board.serial == second


def test_serials_are_even_and_never_that_of_an_empty_board(board: Board) -> None:
    assert board.serial == 0
    serials = [new_serial() for _ in range(1000)]
    assert all(serial % 2 == 0 and serial for serial in serials)
    assert len(set(serials)) == 1000


def test_all_boards_of_a_data_directory_are_one(layout: Layout, board: Board) -> None:
    stamp = board.stamp([TOPIC])
    second = Board(layout)
    assert second.holds(stamp)
    second.settle(second.unsettle([TOPIC]))
    second.close()
    assert not board.holds(stamp)


def test_another_process_sees_a_change_at_once(board: Board, layout: Layout, registry: Database) -> None:
    del registry
    stamp = board.stamp([TOPIC])
    code = """
from proxy.storage.board import Board
board = Board(layout)
watched = Database(layout.registry_database, locks, name="registry", board=board)
def act(change):
    add(change, "acme")
    change.touch("name:*/widgets")
    say("inside")
    input()
watched.change_now(act)
say("done")
input()
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "inside"
        assert board.holds(stamp)  # Nothing is committed: what was read before is still what is so.
        child.tell()
        assert child.hear() == "done"
        assert not board.holds(stamp)
        assert board.is_settled(board.stamp([TOPIC]))


def test_a_change_moves_its_topics_and_no_other(watched: Database, board: Board) -> None:
    stamp, other = board.stamp([TOPIC]), board.stamp([OTHER])
    watched.change_now(add)
    assert not board.holds(stamp)
    assert board.holds(other)
    assert board.is_settled(board.stamp([TOPIC]))


def test_slots_are_odd_while_the_commit_runs(watched: Database, board: Board) -> None:
    seen: list[bool] = []

    def look(change: Change) -> None:
        add(change)
        driver = change.connection.connection.driver_connection
        assert driver is not None
        # SQLite calls this for each page of the log that it writes, which is after `act` and before the commit ends.
        driver.set_trace_callback(
            lambda text: seen.append(board.is_settled(board.stamp([TOPIC]))) if text == "COMMIT" else None
        )

    watched.change_now(look)
    assert seen == [False]


def test_a_change_that_fails_leaves_its_slots_settled(watched: Database, board: Board) -> None:
    watched.change_now(add)
    with pytest.raises(Exception, match="UNIQUE"):
        watched.change_now(add)
    assert board.is_settled(board.stamp([TOPIC]))


def test_what_a_killed_writer_left_is_settled_under_the_writers_lock(
    watched: Database, board: Board, layout: Layout
) -> None:
    code = """
import os
from proxy.storage.board import Board
board = Board(layout)
watched = Database(layout.registry_database, locks, name="registry", board=board)
def act(change):
    add(change, "acme")
    change.touch("name:*/widgets")
real = board.unsettle
def unsettle(topics):
    real(topics)
    os.kill(os.getpid(), signal.SIGKILL)
board.unsettle = unsettle
watched.change_now(act)
"""
    with Child(layout.data_dir, code) as child:
        assert child.end() == -9
    assert not board.is_settled(board.stamp([TOPIC]))
    assert watched.settle() == 1
    assert board.is_settled(board.stamp([TOPIC]))
    assert watched.settle() == 0


def test_settling_waits_for_a_writer_that_lives(watched: Database, board: Board, layout: Layout) -> None:
    code = """
from proxy.storage.board import Board
board = Board(layout)
locks.hold("write:registry", timedelta(seconds=5))
board.unsettle(["name:*/widgets"])
say("odd")
input()
"""
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "odd"
        assert not board.is_settled(board.stamp([TOPIC]))
        child.kill()
        # Only the end of the other process lets this one have the lock, and so call its slots leftovers.
        assert watched.settle() == 1


def test_what_is_borrowed_never_shares_a_slot_with_what_is_ours(board: Board) -> None:
    ours = {board.stamp([name_topic(f"n{number}")])[1][0] for number in range(5000)}
    ours |= {board.stamp([token_topic(number)])[1][0] for number in range(5000)}
    borrowed = {board.stamp([page_topic("pypi", f"n{number}")])[1][0] for number in range(5000)}
    assert not ours & borrowed
    assert 0 not in ours | borrowed
    assert len(borrowed) > 4500  # They spread.


def test_the_board_is_readable_by_this_user_alone(layout: Layout, board: Board) -> None:
    del board
    assert stat.S_IMODE(Path(layout.board).stat().st_mode) == 0o600


def test_a_board_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    Path(layout.board).mkdir()
    with pytest.raises(StorageError, match="board"):
        Board(layout)
