"""Numbers that grow, in rows by labels; and how the workers of one instance add theirs up.

A row is a list of numbers: a count has one, a row of times one for each of its bounds and their sum. What they are
called and what they mean is known to `observe.metrics` alone. Rows are only ever added: bucket by bucket, worker by
worker.

Each worker writes its rows to a file of its own from time to time (`Shared.write`), whole and by renaming, so that
whichever worker is asked can add up what all have counted. A worker that takes the place of a dead one goes on from
that one's numbers: no sum ever goes back, and there are never more files than workers. Counting itself knows nothing
of files.

Safe in any thread. Nothing here raises: a number that cannot be told must not cost an answer.
"""

# Paths are plain strings here, as everywhere below `storage.layout`.
# ruff: noqa: PTH105, PTH108, PTH118, PTH123, PTH208

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

Rows: TypeAlias = dict[str, dict[tuple[str, ...], list[float]]]
"""Rows by what they count and the values of their labels."""


class Count:
    """One number that grows."""

    __slots__ = ("_lock", "_row")

    def __init__(self, row: list[float], lock: threading.Lock) -> None:
        """For `Counts` alone."""
        self._row = row
        self._lock = lock

    def inc(self, number: float = 1) -> None:
        """Add `number`."""
        with self._lock:
            self._row[0] += number


class Times:
    """How often something took how long: counted by upper bounds, in seconds, and added up."""

    __slots__ = ("_bounds", "_lock", "_row")

    def __init__(self, row: list[float], bounds: Sequence[float], lock: threading.Lock) -> None:
        """For `Counts` alone."""
        self._row = row
        self._bounds = bounds
        self._lock = lock

    def observe(self, seconds: float, number: int = 1) -> None:
        """Note that it took `seconds`, so many times."""
        at = bisect.bisect_left(self._bounds, seconds)
        with self._lock:
            self._row[at] += number
            self._row[-1] += seconds * number


class Counts:
    """All rows of one process. A row appears, at zero, when it is first asked for."""

    def __init__(self) -> None:
        """Begin with none."""
        self._rows: Rows = {}
        self._lock = threading.Lock()

    def count(self, what: str, *labels: str) -> Count:
        """The count of `what` under these labels; to be kept by whoever counts often."""
        return Count(self._row(what, labels, 1), self._lock)

    def times(self, what: str, bounds: Sequence[float], *labels: str) -> Times:
        """The times of `what` under these labels. `bounds` ascend, and are always the same for one `what`."""
        return Times(self._row(what, labels, len(bounds) + 2), bounds, self._lock)

    def begin_with(self, rows: Rows) -> None:
        """Add what a predecessor counted. To be called before anybody counts."""
        self._rows = added([self._rows, rows])

    def copy(self) -> Rows:
        """All rows as they are at one moment."""
        with self._lock:
            return {what: {key: row[:] for key, row in by.items()} for what, by in self._rows.items()}

    def _row(self, what: str, labels: tuple[str, ...], width: int) -> list[float]:
        with self._lock:
            row = self._rows.setdefault(what, {}).setdefault(labels, [])
            # Of another width: counted by another version of the program. Such numbers cannot be gone on from.
            if len(row) != width:
                row[:] = [0.0] * width
            return row


def added(many: Iterable[Rows]) -> Rows:
    """The sums of rows, in new ones."""
    sums: Rows = {}
    for rows in many:
        for what, by_labels in rows.items():
            into = sums.setdefault(what, {})
            for labels, row in by_labels.items():
                before = into.get(labels)
                if before is None or len(before) != len(row):
                    into[labels] = row[:]
                else:
                    into[labels] = [one + other for one, other in zip(before, row, strict=True)]
    return sums


class Said(msgspec.Struct, frozen=True):
    """What one worker says to the others. `under_way`: requests that it is answering; it ends with the process."""

    pid: int
    under_way: int
    rows: Rows


class Shared:
    """The files of all workers of one instance, as one of them sees them."""

    def __init__(self, directory: str, worker: int) -> None:
        """Take the directory, which exists and holds these files alone, and the worker's own number."""
        self.worker = worker
        self._directory = directory
        self._written = b""
        self._lock = threading.Lock()

    def predecessor(self) -> Rows:
        """What was counted before in this worker's place."""
        found = self._read(str(self.worker))
        return {} if found is None else found.rows

    def write(self, said: Said) -> None:
        """Let the others see this from now on. What did not change is not written again."""
        written = msgspec.msgpack.encode(said)
        path = os.path.join(self._directory, str(self.worker))
        with self._lock:
            if written == self._written:
                return
            try:
                # Not synced: these numbers are for as long as the instance runs.
                aside = f"{path}.new"
                with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(written)
                os.replace(aside, path)
            except OSError:
                return  # no room: the others see older numbers until there is some
            self._written = written

    def others(self) -> dict[int, Said]:
        """What the other workers said last, by their numbers; also those that ended and were not replaced yet."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return {}
        numbers = sorted(int(name) for name in names if name.isdecimal() and int(name) != self.worker)
        said = ((number, self._read(str(number))) for number in numbers)
        return {number: found for number, found in said if found is not None}

    def _read(self, name: str) -> Said | None:
        try:
            with open(os.path.join(self._directory, name), "rb") as file:
                return msgspec.msgpack.decode(file.read(), type=Said)
        except (OSError, msgspec.DecodeError):
            return None


def is_alive(said: Said) -> bool:
    """Whether the process that said this still runs."""
    try:
        os.kill(said.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def forget_all(directory: str) -> None:
    """Delete what the workers of an earlier run said: to be called before the first worker of this one starts."""
    try:
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
    except OSError:
        return
