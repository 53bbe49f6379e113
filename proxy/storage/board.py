"""The board: numbers shared by all processes of an instance, which say within 0.2 µs that nothing changed.

What an answer depends on is named by *topics* (`name:*/widgets`, `page:pypi/requests`). A topic stands for one of
the *slots* of a file that every process of the instance maps, commands included. Whoever keeps an answer notes the
numbers in its slots (a *stamp*) before reading any fact, and may use the answer for as long as they stand there. Two
topics in one slot cost a needless miss, never a wrong hit.

Four rules make that safe; `storage.database` follows them for the registry:

- Before its commit a change puts an odd number into every slot it touches, after it an even one, both random: no
  number ever comes back. It holds the writer's lock all the while.
- An answer whose stamp has an odd number may be sent but not kept: what it was made of may be older than the change.
- The last thing before an answer's first byte is to compare its stamp once more.
- What a killed writer left odd is slow, never wrong; `settle_all` mends it under the writer's lock.

Slot 0 holds the serial of the configuration in force, an even number; an odd one for the moment in which one
follows another. The lower half belongs to the registry, the upper half to what
is borrowed, whose files are the truth: there a change writes one even number once the file is in place (`renew`).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import TypeAlias

from proxy.storage.disk import translated
from proxy.storage.layout import Layout

Stamp: TypeAlias = tuple[tuple[int, int], ...]
"""Slots with the numbers that stood in them."""

_SLOTS = 1 << 16
_HALF = _SLOTS // 2
_BYTES = 8 * _SLOTS
_CONFIG = 0
_BORROWED = ("page:", "document:", "names-of:", "advisories", "cache")
_TOPICS_KNOWN = 50_000
_LOW_BYTE = 0 if sys.byteorder == "little" else 7
_LAST_BITS = bytes(number & 1 for number in range(256))

NAMESPACES = "namespaces"
"""Which namespaces the registry knows: every answer depends on it."""
ADVISORIES = "advisories"
"""The advisories in force."""
HELD = "held"
"""Which names have files that are held, or were released, at which upstream."""
EVERYTHING_BORROWED = "cache"
"""Touched where all of the cache is purged: every answer made of what is borrowed depends on it."""


def name_topic(name: str) -> str:
    """What is published, deleted, yanked or claimed of `name`, wherever."""
    return f"name:*/{name}"


def token_topic(token: int) -> str:
    """A token: revoked, rotated."""
    return f"token:{token}"


def page_topic(upstream: str, name: str) -> str:
    """What `upstream` is kept to have said of `name`: its page, or that there is none."""
    return f"page:{upstream}/{name}"


def held_topic(upstream: str, name: str) -> str:
    """Which files of `name` that `upstream` removed are held, and which of those are released."""
    return f"held:{upstream}/{name}"


def document_topic(upstream: str, name: str) -> str:
    """What the JSON API of `upstream` is kept to have said of `name` and of its releases."""
    return f"document:{upstream}/{name}"


def names_topic(upstream: str) -> str:
    """The kept list of all names of `upstream`."""
    return f"names-of:{upstream}"


class Board:
    """The board as this process sees it. Safe for threads; no call waits or reaches the disk."""

    def __init__(self, layout: Layout) -> None:
        """Map the board of a prepared data directory, which is made where it is missing.

        Raises:
            StorageError: it cannot be opened; `DiskFull` if there is no room.
        """
        with translated("the board cannot be opened"):
            descriptor = os.open(layout.board, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_size < _BYTES:
                    # Never shrinks, so that two first processes may both do it. Room is taken now: a hole that
                    # cannot be filled later would end the process (SIGBUS).
                    os.ftruncate(descriptor, _BYTES)
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(descriptor, 0, _BYTES)
                self._map = mmap.mmap(descriptor, _BYTES)
                state = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        self._path, self._file = layout.board, (state.st_dev, state.st_ino)
        # Aligned numbers of eight bytes are read and written whole.
        self._slots = memoryview(self._map).cast("Q")

    @property
    def is_shared(self) -> bool:
        """Whether a process that opens the board now opens this one: not where somebody has deleted its file."""
        try:
            state = os.stat(self._path)  # noqa: PTH116 - paths are plain strings below `storage.layout`
        except FileNotFoundError:
            return False
        return (state.st_dev, state.st_ino) == self._file

    @property
    def serial(self) -> int:
        """The serial of the configuration in force; 0 before the first."""
        return self._slots[_CONFIG]

    @property
    def is_suspended(self) -> bool:
        """Whether no configuration is in force for the moment."""
        return bool(self._slots[_CONFIG] & 1)

    def put_in_force(self, serial: int) -> None:
        """Put the configuration with this serial (`new_serial`) into force, in every process at once."""
        self._slots[_CONFIG] = serial

    def suspend(self) -> None:
        """Put no configuration into force, until `put_in_force`: nothing that was decided by one holds any more."""
        self._slots[_CONFIG] = _random() | 1

    def stamp(self, topics: Iterable[str], *, serial: int | None = None) -> Stamp:
        """The stamp of `topics` and the configuration now. To be taken before any fact is read.

        Args:
            serial: of the configuration that the facts are judged by; the stamp holds only while that is in force.
                None: of the one in force now.
        """
        slots = self._slots
        found = [(_CONFIG, slots[_CONFIG] if serial is None else serial)]
        for topic in topics:
            slot = _slot_of(topic)
            found.append((slot, slots[slot]))
        return tuple(found)

    def holds(self, stamp: Stamp) -> bool:
        """Whether nothing that the stamp names has changed."""
        slots = self._slots
        for slot, number in stamp:  # noqa: SIM110 - a generator would triple the cost
            if slots[slot] != number:
                return False
        return True

    def is_settled(self, stamp: Stamp) -> bool:
        """Whether no change was under way when the stamp was taken: only then may its answer be kept."""
        return not any(number & 1 for _, number in stamp)

    def unsettle(self, topics: Collection[str]) -> list[int]:
        """Put a new odd number into the slots of `topics`. For `Database`, before a commit.

        Returns:
            The slots, for `settle`.
        """
        touched = sorted({_slot_of(topic) for topic in topics})
        for slot in touched:
            self._slots[slot] = _random() | 1
        return touched

    def settle(self, touched: Iterable[int]) -> None:
        """Put a new even number into slots: what `unsettle` announced is over, done or not."""
        for slot in touched:
            self._slots[slot] = new_serial()

    def unsettled(self) -> frozenset[tuple[int, int]]:
        """The slots of the registry that are odd now, with their numbers: a change is under way, or was killed."""
        # The last bit of each number, without a loop of Python's over all of them.
        odd = self._map[_LOW_BYTE : 8 * _HALF : 8].translate(_LAST_BITS)
        found = set()
        slot = odd.find(1, 1)
        while slot > 0:
            found.add((slot, self._slots[slot]))
            slot = odd.find(1, slot + 1)
        return frozenset(found)

    def settle_all(self) -> int:
        """Settle what killed writers left, and return how many slots that were. Under the writer's lock alone."""
        left = [slot for slot, _ in self.unsettled()]
        self.settle(left)
        return len(left)

    def renew(self, *topics: str) -> None:
        """Make every stamp of these topics, all of the upper half, fail. Once what they stand for is in place."""
        for topic in topics:
            self._slots[_slot_of(topic)] = new_serial()

    def close(self) -> None:
        """Unmap it. Using it afterwards raises `ValueError`."""
        self._slots.release()
        self._map.close()


def new_serial() -> int:
    """A fresh random even number, never 0: for a slot that is settled, or a configuration."""
    return (_random() & ~1) or 2


def _random() -> int:
    return int.from_bytes(os.urandom(8))


@lru_cache(_TOPICS_KNOWN)
def _slot_of(topic: str) -> int:
    number = int.from_bytes(hashlib.blake2b(topic.encode(), digest_size=8).digest())
    if topic.startswith(_BORROWED):
        return _HALF + number % _HALF
    return 1 + number % (_HALF - 1)
