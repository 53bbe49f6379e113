"""The advisories in force: read of an OSV database on disk, kept as one file, and found by name in microseconds.

A process of its own (`cache.advisories_file`) reads the database and writes the file, which is renamed into place
only when it is whole. So what is kept is always the last good one, and it is kept for as long as the database cannot
be read. The file's time says when the database was last found to be what the file was made of. One process of the
instance looks at the database; all map the same file, and hear through the board that there is another.

As long as nothing was read yet nobody is told that nothing is known: `of` refuses. That is for some seconds after the
first start with a database, and for as long as it is none. The file goes with its directory: one that was made of
another directory does not count.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH100, PTH108, PTH116, PTH118

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
from cachetools import LRUCache

from proxy.cache import advisories_file
from proxy.cache.advisories_file import UNCHANGED, KeptAdvisories, Made, Order, open_advisories
from proxy.cache.bounded import REFUSED, UNWRITABLE, ordered
from proxy.domain.advisories import Advisory
from proxy.domain.names import Name
from proxy.domain.snapshot import AdvisorySettings
from proxy.errors import StorageError, StoreUnavailable
from proxy.storage.board import ADVISORIES, Board, Stamp
from proxy.storage.disk import place, translated
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks

FIRST_BACK_OFF = timedelta(minutes=1)
"""After failures in a row the database is left alone for 1, 2, 4 … minutes, `refresh` at most."""

_LONGEST = timedelta(minutes=15)
_LOCK = "advisories"
_NAMES_KEPT = 1024

_log = logging.getLogger(__name__)


class Advisories:
    """The advisories as one process sees them. Owned by one event loop."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        board: Board,
        settings: AdvisorySettings,
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout, and the locks and the board of the same instance; touches neither disk nor loop."""
        self._layout = layout
        self._locks = locks
        self._board = board
        self._source = None if settings.osv_dir is None else os.path.abspath(settings.osv_dir)
        self._refresh = settings.refresh
        self._now = now
        self._stamp: Stamp = ()
        self._kept: KeptAdvisories | None = None
        self._told: LRUCache[Name, tuple[Advisory, ...]] = LRUCache(_NAMES_KEPT)
        self._failures = 0
        self._failed_at: datetime | None = None

    def of(self, name: Name) -> tuple[Advisory, ...]:
        """What is known of `name`, the worst first; nothing where no database is configured.

        To be called after the stamp of `ADVISORIES` was taken: then this is as new as that.

        Raises:
            StoreUnavailable: nothing was read yet, or what was cannot be.
        """
        if self._source is None:
            return ()
        kept = self._look()
        if kept is None:
            raise StoreUnavailable(
                "the advisories have not been read yet",
                hint="the server reads them when it starts; its log says if it cannot",
            )
        told = self._told.get(name)
        if told is None:
            try:
                told = kept.of(name)
            except ValueError as error:
                _log.error("the kept advisories are damaged and are made anew: %s", error)
                self._drop()
                raise StoreUnavailable("the advisories cannot be read", hint="they are made anew") from error
            self._told[name] = told
        return told

    def newest(self) -> datetime | None:
        """When the newest file at the top of the database was written; None: there is none, or none can be seen.

        Reads the directory: for a thread.
        """
        try:
            with os.scandir(self._source or "") as entries:
                newest = max((entry.stat().st_mtime for entry in entries if entry.is_file()), default=None)
        except OSError:
            return None
        return None if newest is None else datetime.fromtimestamp(newest, UTC)

    async def refresh(self) -> None:
        """Look at the database if that is due and no other process does; read it if it changed. Trouble is logged."""
        source = self._source
        if source is None or not self._is_due() or not self._locks.try_hold(_LOCK):
            return
        try:
            await self._renew(source)
        except StorageError as error:
            self._failures += 1
            self._failed_at = self._now()
            _log.warning("the advisories cannot be read anew: %s", error)
        else:
            self._failures = 0
        finally:
            self._locks.release(_LOCK)

    def _look(self) -> KeptAdvisories | None:
        """The file in force, if it is sound and made of the database as configured now."""
        stamp = self._board.stamp((ADVISORIES,))[1:]
        if stamp != self._stamp and self._source is not None:
            self._stamp = stamp
            self._told.clear()
            self._kept = open_advisories(self._layout.advisories, self._source)
        return self._kept

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._layout.advisories)
        self._board.renew(ADVISORIES)

    def _is_due(self) -> bool:
        if self._failures and self._failed_at is not None:
            back_off = min(FIRST_BACK_OFF * 2 ** min(self._failures - 1, 10), self._refresh)
            if timedelta(0) <= self._now() - self._failed_at < back_off:
                return False
        if self._look() is None:
            return True
        try:
            confirmed = os.stat(self._layout.advisories).st_mtime
        except OSError:
            return True
        age = self._now() - datetime.fromtimestamp(confirmed, UTC)
        return not -FIRST_BACK_OFF <= age < self._refresh

    async def _renew(self, source: str) -> None:
        """Have the file made where the database changed, and put it in place.

        Raises:
            StorageError: there is none, or it cannot be kept.
        """
        aside = os.path.join(self._layout.partial_files, f"advisories-{secrets.token_hex(8)}")
        kept = self._look()
        try:
            made = await _made(Order(source, aside, None if kept is None else kept.fingerprint))
            if made is None:
                self._confirm(self._layout.advisories)
                return
            self._confirm(aside)
            with _keeping():
                await asyncio.to_thread(place, aside, self._layout.advisories)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        self._board.renew(ADVISORIES)
        _log.info("%s advisories about %s names are in force", made.advisories, made.names)
        if made.unreadable:
            _log.warning("%s advisories could not be read and were left out", made.unreadable)

    def _confirm(self, path: str) -> None:
        now = self._now().timestamp()
        with _keeping():
            os.utime(path, (now, now))


async def _made(order: Order) -> Made | None:
    """Have the file of `order` made; None where the database is as it was.

    Raises:
        StorageError: it cannot be read, the file cannot be written, or no process can be started.
    """
    try:
        async with asyncio.timeout(_LONGEST.total_seconds()):
            with _keeping():
                ended = await ordered(advisories_file.__name__, order)
    except TimeoutError as error:
        raise StoreUnavailable(f"{order.source}: it was not read in {_LONGEST}") from error
    if ended.status == UNCHANGED:
        return None
    if ended.status == REFUSED:
        raise StoreUnavailable(f"{order.source}: {ended.said.decode()}")
    if ended.status == UNWRITABLE:
        raise StoreUnavailable("the file of advisories cannot be kept")
    if ended.status:
        # By the limits of its memory or time, which an honest database does not reach.
        _log.warning("reading the advisories ended with status %s: %s", ended.status, ended.complaint)
        raise StoreUnavailable(f"{order.source}: it could not be read")
    return msgspec.json.decode(ended.said, type=Made)


def _keeping() -> contextlib.AbstractContextManager[None]:
    return translated("the advisories cannot be kept")
