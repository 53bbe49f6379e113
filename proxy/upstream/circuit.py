"""Whether an origin is asked at all: one that fails and fails, or asks to be left alone, is spared for a while.

A circuit breaker. It opens after failures in a row of several addresses, since a single broken page says nothing of
the others; then one request at a time tries, after a growing pause; the first answer closes it. `Retry-After` is
the origin's own word for the same. No I/O and no clock of its own; owned by one event loop, each process has its own.

Some addresses fail always, and whoever knows a few could ask for them again and again. So those that failed have
tries of their own, which keep nobody else waiting; and what goes on failing while others are answered opens nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import LRUCache

OPENS_AFTER = 5
"""Failures in a row …"""
ADDRESSES = 3
"""… of at least so many addresses …"""
WITHIN = timedelta(seconds=30)
"""… within this time."""
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)
"""Between tries of an open circuit: 1, 2, 4 … seconds."""
LONGEST_REST = timedelta(seconds=60)
"""However long an origin asks to be left alone."""
BLAMED_FOR = timedelta(minutes=10)
"""So long it is known of an address that it failed."""

_BLAMED_AT_MOST = 1000
_OWN_FAULT = 2
"""Times that an address failed, was followed by answers of others, and failed again: then the fault is its own."""


class Resting(Exception):
    """The origin is not to be asked now; `seconds` says for how long at least, 1 or more."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Trial:
    """One request with all its repetitions; whoever makes it says how it ended, or nothing where it proves nothing.

    Attributes:
        is_probe: whether all others wait for what becomes of it: then it is not repeated.
    """

    __slots__ = ("has_answered", "has_failed", "is_probe", "rest")

    def __init__(self, *, is_probe: bool) -> None:
        self.is_probe = is_probe
        self.has_answered = False
        self.has_failed = False
        self.rest = timedelta(0)


@dataclass(slots=True)
class _Tries:
    """Those of an open circuit: the pause before the next, and whether one is under way."""

    since: datetime | None = None
    pause: timedelta = timedelta(0)
    is_probed: bool = False

    def put_off(self, now: datetime, pause: timedelta) -> None:
        self.since, self.pause = now, min(pause, LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class _Blame:
    """An address failed.

    Attributes:
        answers: of the origin that had come by then.
        times: that it failed, was followed by answers of others, and failed again.
    """

    at: datetime
    answers: int
    times: int


class Circuit:
    """What is known of the health of one origin."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._failures: deque[tuple[datetime, str]] = deque(maxlen=OPENS_AFTER)
        self._is_open = False
        self._tries = _Tries()
        self._tries_of_blamed = _Tries()
        self._blamed: LRUCache[str, _Blame] = LRUCache(_BLAMED_AT_MOST)
        self._answers = 0
        self._rests: tuple[datetime, timedelta] | None = None

    @contextlib.contextmanager
    def trial(self, address: str) -> Iterator[Trial]:
        """Let the enclosed steps ask `address`, and learn from what they note in the `Trial`.

        Raises:
            Resting: they must not.
        """
        is_open, tries = self._is_open, self._tries
        if self._blame(address) is not None:
            tries = self._tries_of_blamed
        waits = self._left(self._rests)
        if is_open and tries.since is not None:
            waits = max(waits, self._left((tries.since, tries.pause)))
        if waits or (is_open and tries.is_probed):
            raise Resting(max(1, math.ceil(waits.total_seconds())))
        trial = Trial(is_probe=is_open)
        tries.is_probed = is_open
        try:
            yield trial
        finally:
            if is_open:
                tries.is_probed = False
            self._learn(trial, address, tries)

    def _learn(self, trial: Trial, address: str, tries: _Tries) -> None:
        now = self._now()
        if trial.rest:
            self._rests = (now, min(trial.rest, LONGEST_REST))
        if trial.has_answered:
            self._failures.clear()
            self._is_open = False
            self._answers += 1
            self._blamed.pop(address, None)
        elif trial.has_failed:
            is_own_fault = self._is_own_fault(address, now)
            if trial.is_probe:
                pause = 2 * tries.pause
                self._tries_of_blamed.put_off(now, pause)
                if tries is self._tries:
                    tries.put_off(now, pause)
            elif not (self._is_open or is_own_fault):
                self._failures.append((now, address))
                if self._is_enough(now):
                    self._is_open = True
                    self._tries.put_off(now, FIRST_PAUSE)
                    self._tries_of_blamed.put_off(now, FIRST_PAUSE)
        # What fails while others have opened the circuit began before, and proves nothing new.

    def _blame(self, address: str) -> _Blame | None:
        blame = self._blamed.get(address)
        return blame if blame is not None and timedelta(0) <= self._now() - blame.at < BLAMED_FOR else None

    def _is_own_fault(self, address: str, now: datetime) -> bool:
        """Note a failure; whether the address fails by itself, since others are answered."""
        before = self._blame(address)
        times = 0 if before is None else before.times + (before.answers < self._answers)
        self._blamed[address] = _Blame(now, self._answers, times)
        return times >= _OWN_FAULT

    def _is_enough(self, now: datetime) -> bool:
        recent = [address for at, address in self._failures if timedelta(0) <= now - at < WITHIN]
        return len(recent) == OPENS_AFTER and len(set(recent)) >= ADDRESSES

    def _left(self, pause: tuple[datetime, timedelta] | None) -> timedelta:
        """What is left of a pause; nothing where the clock has been put back before it."""
        if pause is None:
            return timedelta(0)
        since, length = pause
        passed = self._now() - since
        return length - passed if timedelta(0) <= passed < length else timedelta(0)
