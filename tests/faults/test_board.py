"""Kept answers under fire: processes write and are killed at random, others read with answers that they keep.

Told apart are what is known (`known`: a number that a change had reached before it returned, or that some reader
was answered) and what a reader is answered. An answer older than what was known before the question is the fault
that the board is there to prevent (`storage.board`).
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.storage.board import Board
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from tests.support.server import ROOT

KEYS = 4
WRITERS = 3
READERS = 2

CODE = """
import mmap, random, sys, time
from functools import partial
from sqlalchemy import text
from proxy.errors import StoreUnavailable
from proxy.storage.board import Board, name_topic
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks

layout = Layout(sys.argv[1])
until = time.monotonic() + float(sys.argv[3])
locks, board = Locks(layout), Board(layout)
registry = Database(layout.registry_database, locks, name="registry", board=board)
with open(sys.argv[2], "r+b") as file:
    known = memoryview(mmap.mmap(file.fileno(), 8 * KEYS)).cast("Q")
READ = text("SELECT value FROM raced WHERE key = :key")

def learn(key, value):
    # Two at once may lose the higher number, which makes the test a little weaker, never wrong.
    if known[key] < value:
        known[key] = value

def linger(act, *given):
    # The machine may take the processor away at any step: here it often does, at those that matter.
    time.sleep(0.001)
    done = act(*given)
    time.sleep(0.001)
    return done

def write():
    choose = random.Random()
    board.unsettle, board.settle = partial(linger, board.unsettle), partial(linger, board.settle)
    while time.monotonic() < until:
        key = choose.randrange(KEYS)
        def act(change):
            change.connection.execute(text("UPDATE raced SET value = value + 1 WHERE key = :key"), {"key": key})
            change.touch(name_topic(f"n{key}"))
            return change.connection.execute(READ, {"key": key}).scalar_one()
        learn(key, registry.change_now(act))

def read():
    kept, answered, kept_used, wrong, lingering = {}, 0, 0, 0, 0.0
    choose = random.Random()
    while time.monotonic() < until:
        for key in range(KEYS):
            before = known[key]
            # Stores are bounded: now and then an answer has to make room.
            entry = kept.get(key) if choose.random() > 0.02 else None
            if entry is not None and board.holds(entry[0]):
                value = entry[1]
                kept_used += 1
            else:
                while True:
                    stamp = board.stamp([name_topic(f"n{key}")])
                    value = registry.read_now(lambda c: c.execute(READ, {"key": key}).scalar_one())
                    if board.holds(stamp):
                        break
                if board.is_settled(stamp):
                    kept[key] = stamp, value
                elif not lingering:
                    lingering = time.monotonic()
                elif time.monotonic() - lingering > 0.3:
                    registry.settle()
                    lingering = 0.0
            answered += 1
            wrong += value < before
            learn(key, value)
    print(answered, kept_used, wrong, flush=True)

{"write": write, "read": read}[sys.argv[4]]()
""".replace("KEYS", str(KEYS))


def _start(kind: str, layout: Layout, shared: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, layout.data_dir, str(shared), str(seconds), kind],
        cwd=ROOT,
        stdout=subprocess.PIPE if kind == "read" else subprocess.DEVNULL,
        text=True,
    )


def race(directory: Path, seconds: float) -> tuple[int, int, int, int]:
    """Let them race; return answers, kept ones among them, wrong ones, and writers killed."""
    layout = Layout(str(directory / "data"))
    layout.prepare()
    locks = Locks(layout)
    board = Board(layout)
    registry = Database(layout.registry_database, locks, name="registry", board=board)
    registry.migrate()

    def prepare(change: object) -> None:
        run = change.connection.exec_driver_sql  # type: ignore[attr-defined]
        run("CREATE TABLE raced (key INTEGER PRIMARY KEY, value INTEGER NOT NULL)")
        for key in range(KEYS):
            run(f"INSERT INTO raced VALUES ({key}, 1)")

    registry.change_now(prepare)
    registry.close()
    board.close()
    locks.close()
    shared = directory / "known"
    shared.write_bytes(bytes(8 * KEYS))
    end = time.monotonic() + seconds
    readers = [_start("read", layout, shared, seconds) for _ in range(READERS)]
    writers = [_start("write", layout, shared, seconds) for _ in range(WRITERS)]
    choose, killed = random.Random(), 0
    try:
        while time.monotonic() < end - 0.5:
            victim = choose.randrange(WRITERS)
            try:
                # Long enough for it to be in the midst of writing.
                writers[victim].wait(choose.uniform(0.4, 0.8))
            except subprocess.TimeoutExpired:
                writers[victim].kill()
                writers[victim].wait()
                killed += 1
            left = max(0.1, end - time.monotonic())
            writers[victim] = _start("write", layout, shared, left)
        told = [reader.communicate(timeout=seconds + 30)[0].split() for reader in readers]
    finally:
        for process in (*writers, *readers):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    answers, kept, wrong = (sum(int(words[place]) for words in told) for place in range(3))
    return answers, kept, wrong, killed


def test_no_kept_answer_is_older_than_what_was_known(tmp_path: Path) -> None:
    answers, kept, wrong, killed = race(tmp_path, 4.0)
    assert wrong == 0
    assert answers > 10_000
    assert kept > 1_000
    assert killed > 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nor_in_half_a_minute(tmp_path: Path) -> None:
    answers, kept, wrong, killed = race(tmp_path, 30.0)
    assert wrong == 0
    assert answers > 100_000
    assert kept > 10_000
    assert killed > 5
