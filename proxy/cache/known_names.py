"""The names that upstreams have: one kept list per upstream, refreshed behind the answers that need it.

A list is fetched in a task of its own, streamed to disk, read and sorted by a process of its own
(`cache.names_file`), and renamed into place only when it is whole and sound. So what is kept is always the last
good one, and it is kept for as long as its upstream fails. The file's time says when the upstream last sent or
confirmed it. One process of the instance refreshes a list; all map the same file, and look whether it was replaced;
whoever keeps what was made of a list hears of another through the board.

Where only known names are asked for (`ask: known`), a name that is not on the list is unknown to everybody. So a list
without any name never takes the place of one that has some, and a much shorter one only when the kept one has grown
old. Whose upstream did lose its names purges the cache.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH105, PTH108, PTH116, PTH118

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from proxy.cache import names_file
from proxy.cache.bounded import REFUSED, UNWRITABLE, ordered
from proxy.cache.names_file import MAX_LIST, KeptList, Order, count_list, open_list
from proxy.domain.names import Name, look_alike_key
from proxy.domain.sorted_names import SortedNames
from proxy.errors import (
    OverlayError,
    StorageError,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
)
from proxy.storage.board import Board, names_topic
from proxy.storage.disk import translated, write_all
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.upstream.client import FoundNames, NotModified, Upstream

PATIENCE = timedelta(seconds=8)
"""How long a caller waits for the first list of all: less than clients wait for a byte (protocol 4)."""
FAILURE_SHARED = timedelta(seconds=5)
"""After a failure without any list, callers are told of it for so long instead of asking again."""
FIRST_BACK_OFF = timedelta(minutes=1)
LONGEST_BACK_OFF = timedelta(hours=1)
"""After failures in a row the upstream is left alone for 1, 2, 4 … minutes, an hour at most."""
MANY_NAMES = 1000
"""A kept list of so many is not replaced by one of less than half of them; a broken index may well send such."""
BELIEVED_AFTER = 7
"""… unless the kept one was not confirmed for so many of the upstream's refresh intervals; by an empty one, never."""

_LONGEST_FETCH = timedelta(minutes=15)
_LOCK_LOOK = 0.05
"""Seconds between looks whether another process has ended its refresh."""
_WRITE_FROM = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is told of a kept list: how many names it has, and when its upstream last sent or confirmed it."""

    names: int
    confirmed: datetime


@dataclass(frozen=True, slots=True)
class _Failure:
    """The last of `times` failures in a row."""

    error: OverlayError
    at: datetime
    times: int


class KnownNames:
    """The lists of one process. Owned by one event loop."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        board: Board,
        upstreams: Mapping[str, Upstream],
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout, and the locks and the board of the same instance; touches neither disk nor loop."""
        self._layout = layout
        self._locks = locks
        self._board = board
        self._upstreams = upstreams
        self._now = now
        self._lists: dict[str, KeptList] = {}
        self._flights: dict[str, asyncio.Task[OverlayError | None]] = {}
        self._failures: dict[str, _Failure] = {}

    async def get(self, upstream: str) -> SortedNames:
        """The names of `upstream`, as it listed them when it was last asked with success.

        Where there is no list yet, the caller waits up to `PATIENCE` for the first one, which is then fetched
        whether anybody waits or not: a list without the upstream's names would tell that it has none.

        Raises:
            UpstreamError: there was never a list, and there is none now; busy where it is still on its way.
            StorageError: it cannot be kept.
        """
        kept = await self._look(upstream)
        if kept is not None:
            return kept.names
        failure = self._failures.get(upstream)
        if failure is not None and timedelta(0) <= self._now() - failure.at < FAILURE_SHARED:
            raise failure.error.with_traceback(None)
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                error = await asyncio.shield(self._flight(upstream))
        except TimeoutError:
            raise UpstreamBusy(upstream, f"the list of names of {upstream} is still on its way") from None
        if error is not None:
            raise error.with_traceback(None)
        kept = await self._look(upstream)
        if kept is None:
            raise StoreUnavailable(f"the list of names of {upstream} cannot be kept")
        return kept.names

    async def peek(self, upstream: str) -> SortedNames | None:
        """As `get`, of what is kept: nobody is asked, and nothing is waited for. None: there is no list."""
        kept = await self._look(upstream)
        return None if kept is None else kept.names

    async def look_alikes(self, upstream: str, name: Name) -> tuple[Name, ...]:
        """The names on the kept list of `upstream` that people take for `name`, itself left out (protocol T-HOMO).

        Nobody is asked; where no list is kept, none is known. Some ten milliseconds of a thread.
        """
        names = await self.peek(upstream)
        if names is None:
            return ()
        found = await asyncio.to_thread(lambda: tuple(names.alike({look_alike_key(name)})))
        return tuple(each for each in found if each != name)

    def kept(self) -> dict[str, Kept]:
        """What is told of every list that is kept, by upstream. Reaches the disk; for any thread."""
        found = {}
        for upstream in self._upstreams:
            path = self._layout.names_of(upstream)
            with contextlib.suppress(OSError):
                count = count_list(path, self._index_url(upstream))
                if count is not None:
                    found[upstream] = Kept(count, datetime.fromtimestamp(os.stat(path).st_mtime, UTC))
        return found

    async def refresh(self, upstreams: Iterable[str]) -> None:
        """Fetch the lists of these upstreams that are missing or due, unless their upstream failed just now.

        What fails is told in the log, and by `failure`; a list that was kept stays.
        """
        due = [upstream for upstream in upstreams if await self._is_due(upstream)]
        await asyncio.gather(*(asyncio.shield(self._flight(upstream)) for upstream in due))

    def failure(self, upstream: str) -> OverlayError | None:
        """Why this process could not have the list of `upstream` when it last tried; None: it could, or never did."""
        failure = self._failures.get(upstream)
        return None if failure is None else failure.error

    def purge(self) -> None:
        """Delete every kept list. For commands; a running server looks at the disk for every answer."""
        for upstream in self._upstreams:
            with _keeping(), contextlib.suppress(FileNotFoundError):
                os.unlink(self._layout.names_of(upstream))
            self._board.renew(names_topic(upstream))

    async def close(self) -> None:
        """Stop fetches under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _is_due(self, upstream: str) -> bool:
        failure = self._failures.get(upstream)
        if failure is not None:
            back_off = min(FIRST_BACK_OFF * 2 ** min(failure.times - 1, 10), LONGEST_BACK_OFF)
            if timedelta(0) <= self._now() - failure.at < back_off:
                return False
        return await self._look(upstream) is None or self._age(upstream) >= self._interval(upstream)

    def _interval(self, upstream: str) -> timedelta:
        return self._upstreams[upstream].settings.root_list

    def _age(self, upstream: str) -> timedelta:
        """How long ago the kept list was sent or confirmed; very long where that lies ahead or is unknown."""
        try:
            confirmed = os.stat(self._layout.names_of(upstream)).st_mtime
        except OSError:
            return timedelta.max
        age = self._now() - datetime.fromtimestamp(confirmed, UTC)
        return age if age >= -FIRST_BACK_OFF else timedelta.max

    async def _look(self, upstream: str) -> KeptList | None:
        """The list that lies on disk now, if it is sound and of the upstream as configured now."""
        path = self._layout.names_of(upstream)
        try:
            inode = os.stat(path).st_ino
        except OSError:
            self._lists.pop(upstream, None)
            return None
        # The number of a file that is mapped here cannot be that of another.
        kept = self._lists.get(upstream)
        if kept is None or kept.inode != inode:
            kept = await asyncio.to_thread(open_list, path, self._index_url(upstream))
            if kept is None:
                self._lists.pop(upstream, None)
                return None
            self._lists[upstream] = kept
        return kept

    def _index_url(self, upstream: str) -> str:
        return self._upstreams[upstream].settings.index_url

    def _flight(self, upstream: str) -> asyncio.Task[OverlayError | None]:
        """The one fetch of this list that is under way, or a new one. Its task raises nothing."""
        flight = self._flights.get(upstream)
        if flight is None:
            flight = asyncio.create_task(self._fetch(upstream), name=f"names of {upstream}")
            self._flights[upstream] = flight
            flight.add_done_callback(lambda _: self._flights.pop(upstream, None))
        return flight

    async def _fetch(self, upstream: str) -> OverlayError | None:
        """Have a list that is not due, by whichever process; return why there is none."""
        key = f"names:{upstream}"
        try:
            # Another process that lets go sets off no event of ours, so it is looked for.
            while not self._locks.try_hold(key):  # noqa: ASYNC110
                await asyncio.sleep(_LOCK_LOOK)
            try:
                kept = await self._look(upstream)
                if kept is None or self._age(upstream) >= self._interval(upstream):
                    await self._renew(upstream, kept)
            finally:
                self._locks.release(key)
        except (UpstreamError, StorageError) as error:
            _log.warning("the list of names of %s cannot be refreshed: %s", upstream, error)
            before = self._failures.get(upstream)
            self._failures[upstream] = _Failure(error, self._now(), 1 if before is None else before.times + 1)
            return error
        self._failures.pop(upstream, None)
        return None

    async def _renew(self, upstream: str, kept: KeptList | None) -> None:
        path = self._layout.names_of(upstream)
        received = os.path.join(self._layout.partial_files, f"names-{secrets.token_hex(8)}")
        made = f"{received}-made"
        try:
            async with (
                asyncio.timeout(_LONGEST_FETCH.total_seconds()),
                self._upstreams[upstream].names(None if kept is None else kept.etag) as found,
            ):
                if isinstance(found, NotModified):
                    self._confirm(path)
                    return
                await self._receive(upstream, found, received)
            order = Order(
                source=received,
                target=made,
                is_zipped=found.is_zipped,
                content_type=found.content_type,
                base_url=found.base_url,
                index_url=self._index_url(upstream),
                etag=found.etag,
            )
            await _made(upstream, order)
            await self._put(upstream, made, kept)
        except TimeoutError as error:
            raise UpstreamTimeout(
                upstream, f"{upstream} did not send its list of names in {_LONGEST_FETCH}"
            ) from error
        finally:
            for leftover in (received, made):
                with contextlib.suppress(OSError):
                    os.unlink(leftover)

    async def _receive(self, upstream: str, found: FoundNames, path: str) -> None:
        """Write the body to `path` as it comes."""
        received, pending = 0, bytearray()
        with _keeping():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            async for piece in found.body.chunks():
                received += len(piece)
                if received > MAX_LIST:
                    raise UpstreamFaulty(upstream, f"{upstream}: its list of names is too long")
                pending += piece
                if len(pending) >= _WRITE_FROM:
                    await _write(descriptor, bytes(pending))
                    pending.clear()
            await _write(descriptor, bytes(pending))
        finally:
            os.close(descriptor)

    async def _put(self, upstream: str, made: str, kept: KeptList | None) -> None:
        """Put a list that was made into the place of the one kept.

        Raises:
            UpstreamFaulty: it is too short to be believed.
            StorageError: it cannot be put there.
        """
        new = await asyncio.to_thread(open_list, made, self._index_url(upstream))
        if new is None:
            raise StoreUnavailable(f"the list of names of {upstream} was not kept as it was made")
        before = 0 if kept is None else len(kept.names)
        is_young = self._age(upstream) < BELIEVED_AFTER * self._interval(upstream)
        is_short = before >= MANY_NAMES and len(new.names) < before / 2
        if (before and not new.names) or (is_short and is_young):
            raise UpstreamFaulty(upstream, f"{upstream} lists {len(new.names)} names instead of {before}")
        self._confirm(made)
        with _keeping():
            os.replace(made, self._layout.names_of(upstream))
        self._board.renew(names_topic(upstream))
        self._lists[upstream] = new

    def _confirm(self, path: str) -> None:
        now = self._now().timestamp()
        with _keeping():
            os.utime(path, (now, now))


async def _made(upstream: str, order: Order) -> None:
    """Have the file of `order` made.

    Raises:
        UpstreamFaulty: what the upstream sent is no list of names.
        StorageError: the file cannot be written, or no process can be started.
    """
    with _keeping():
        ended = await ordered(names_file.__name__, order)
    if ended.status == REFUSED:
        raise UpstreamFaulty(upstream, f"{upstream}: its list of names is unusable: {ended.said.decode()}")
    if ended.status == UNWRITABLE:
        raise StoreUnavailable(f"the list of names of {upstream} cannot be kept")
    if ended.status:
        # By the limits of its memory or time, which an honest list does not reach.
        _log.warning("reading a list of names ended with status %s: %s", ended.status, ended.complaint)
        raise UpstreamFaulty(upstream, f"{upstream}: its list of names could not be read")


async def _write(descriptor: int, content: bytes) -> None:
    """Write in a thread, and be done with it also when cancelled: the caller then closes the descriptor."""
    writing = asyncio.create_task(asyncio.to_thread(write_all, descriptor, content))
    with _keeping():
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait((writing,))
            raise


def _keeping() -> contextlib.AbstractContextManager[None]:
    return translated("a list of names cannot be kept")
