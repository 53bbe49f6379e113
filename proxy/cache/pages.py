"""Upstream project pages on disk: parsed, revalidated one at a time, shown stale while the upstream fails.

One file per upstream and name holds the parsed page in an envelope that says whose page it is and when it was
last confirmed; it is written aside and renamed, and read only if every part of it is in order. Files are the
truth: the decoded copies in memory count only while the file is still the same one, so a purge by another
process takes effect at once. "No such project" is kept apart, in the cache database, and for a short time.

Trouble is never kept as an answer and never becomes "no such project": it is told to everybody who waits for
the same fetch, and remembered for seconds so that a failing upstream is not asked by every request.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH103, PTH105, PTH108, PTH110, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec
from cachetools import LRUCache
from sqlalchemy import delete, func, insert, select

from proxy.cache.files import metadata_record
from proxy.domain.freshness import Freshness, freshness_lifetime, judge
from proxy.domain.names import Name
from proxy.domain.pages import Page
from proxy.domain.snapshot import CacheSettings
from proxy.errors import OverlayError, StorageError, UpstreamBusy, UpstreamError
from proxy.storage.database import Change, Database
from proxy.storage.disk import write_all
from proxy.storage.layout import Layout
from proxy.storage.tables import negatives
from proxy.upstream.client import FoundPage, NoSuchProject, NotModified, Upstream

FORMAT = 1
"""Of the envelope. The layout's directory name changes with what older code could misread."""
STALE_BACK_OFF = timedelta(seconds=5)
"""After a failure a stale page is shown for so long without asking again."""
LONGEST_BACK_OFF = timedelta(seconds=60)
"""However long an upstream asks to be left alone."""
FAILURE_SHARED = timedelta(seconds=1)
"""After a failure without any page to show, others are told of it for so long instead of asking."""
NEGATIVES_AT_MOST = 50_000

_MEMORY_BYTES = 8 << 20
"""Encoded size of the pages whose decoded form, about three times as big, stays in memory."""
_INLINE_BYTES = 256 << 10
_CLEAN_EVERY = 500

_log = logging.getLogger(__name__)
_Key = tuple[str, Name]


@dataclass(frozen=True, slots=True)
class CachedPage:
    """An upstream's page as it may be shown now.

    Attributes:
        stored_at: when the upstream last sent or confirmed it.
        status: parameters for `Cache-Status` (RFC 9211) behind the cache's name.
        token: equal for equal content of the page; for keeping what was made from it.
    """

    page: Page
    stored_at: datetime
    status: str
    token: str


class _Envelope(msgspec.Struct, frozen=True):
    """What a file of the page cache holds. `token` is the digest of `page` as encoded."""

    format: int
    index_url: str
    name: str
    validated_at: datetime
    token: str
    page: msgspec.Raw
    etag: str | None = None
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A decoded page with what its envelope says, and which file it came from; `stamp` None: from none."""

    page: Page
    index_url: str
    validated_at: datetime
    token: str
    etag: str | None
    max_age: timedelta | None
    stamp: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a fetch came to: a page, none (both None), or trouble."""

    kept: _Kept | None = None
    error: OverlayError | None = None
    status: str = ""


class Pages:
    """The page cache of one process. `get` and `close` belong to one event loop; the rest is for any thread."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout and the migrated cache database; touches neither disk nor loop."""
        self._layout = layout
        self._database = database
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._flights: dict[_Key, asyncio.Task[_Outcome]] = {}
        self._failures: LRUCache[_Key, tuple[datetime, OverlayError]] = LRUCache(10_000)
        self._memory: LRUCache[str, _Kept] = LRUCache(_MEMORY_BYTES, getsizeof=_encoded_size)
        self._negatives_written = 0

    async def get(self, upstream: str, name: Name) -> CachedPage | None:
        """The page of `name` at `upstream`, or None for a valid "no such project".

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and no page that may still be shown.
        """
        key = (upstream, name)
        kept = await self._look(upstream, name)
        if kept is None:
            if self._is_known_absent(upstream, name):
                return None
            return await self._fetched(key, None)
        freshness = self._judge(kept)
        if freshness is Freshness.FRESH:
            return _shown(kept, "hit")
        if freshness is Freshness.EXPIRED:
            return await self._fetched(key, kept)
        backs_off = self._recent_failure(key, STALE_BACK_OFF) is not None
        if freshness is Freshness.STALE_WHILE_REVALIDATE or backs_off:
            if not backs_off:
                self._flight(key, kept)
            return _shown(kept, f"hit; detail={freshness}")
        try:
            return await self._fetched(key, kept)
        except UpstreamError:
            return _shown(kept, "fwd=stale; detail=stale-if-error")

    async def close(self) -> None:
        """Stop fetches under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def count(self) -> tuple[int, int]:
        """Numbers of kept pages and of kept "no such project"s. Also for commands."""
        query = select(func.count()).select_from(negatives).where(negatives.c.until > self._now())
        absent = self._database.read_now(lambda connection: connection.execute(query).scalar_one())
        return sum(1 for _ in self._paths(None)), int(absent)

    def purge(self, name: Name | None) -> int:
        """Forget what all upstreams said about `name`, or about everything; return how many pages that were.

        For commands; takes effect in a running server at once.

        Raises:
            StorageError: the cache database cannot be changed.
        """
        gone = 0
        for path in self._paths(name):
            with contextlib.suppress(OSError):
                os.unlink(path)
                gone += 1
        statement = delete(negatives)
        if name is not None:
            statement = statement.where(negatives.c.name == name)
        self._database.change_now(lambda change: change.connection.execute(statement).rowcount)
        return gone

    def keys_of(self, name: Name) -> set[str]:
        """Keys under which the file cache may hold what the kept pages of `name` list, `.metadata` included."""
        keys: set[str] = set()
        for path in self._paths(name):
            kept = _read(path)
            if kept is None:
                continue
            for record in kept.page.files:
                keys.add(record.key)
                keys.add(metadata_record(record).key)
        return keys

    def _paths(self, name: Name | None) -> Iterator[str]:
        """The files of kept pages at all upstreams, also those that have left the configuration."""
        with contextlib.suppress(OSError), os.scandir(self._layout.cached_pages) as directories:
            for directory in directories:
                if name is not None:
                    path = self._layout.cached_page(directory.name, name)
                    if os.path.exists(path):
                        yield path
                    continue
                with contextlib.suppress(OSError), os.scandir(directory.path) as entries:
                    yield from (entry.path for entry in entries)

    def _judge(self, kept: _Kept) -> Freshness:
        settings = self._settings
        return judge(
            kept.validated_at,
            self._now(),
            lifetime=freshness_lifetime(kept.max_age, settings.fresh_for),
            stale_while_revalidate=settings.stale_while_revalidate,
            stale_if_error=settings.stale_if_error,
        )

    async def _look(self, upstream: str, name: Name) -> _Kept | None:
        """What lies on disk for this page, if it is sound and of the upstream as configured now."""
        path = self._layout.cached_page(upstream, name)
        try:
            state = os.stat(path)
        except OSError:
            return None
        kept = self._memory.get(path)
        if kept is None or kept.stamp != _stamp(state):
            big = state.st_size > _INLINE_BYTES
            kept = await asyncio.to_thread(_read, path) if big else _read(path)
            self._remember(path, kept)
        if kept is None or kept.page.name != name:
            return None
        return kept if kept.index_url == self._upstreams[upstream].settings.index_url else None

    def _remember(self, path: str, kept: _Kept | None) -> None:
        self._memory.pop(path, None)
        if kept is not None and kept.stamp is not None and kept.stamp[1] <= _MEMORY_BYTES:
            self._memory[path] = kept

    async def _fetched(self, key: _Key, kept: _Kept | None) -> CachedPage | None:
        """Fetch or revalidate now, together with all who want the same, and show what came of it."""
        joins = key in self._flights
        if not joins and (failure := self._recent_failure(key, FAILURE_SHARED)) is not None:
            raise failure.with_traceback(None)
        outcome = await asyncio.shield(self._flight(key, kept))
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        if outcome.kept is None:
            return None
        return _shown(outcome.kept, f"{outcome.status}; collapsed" if joins else outcome.status)

    def _flight(self, key: _Key, kept: _Kept | None) -> asyncio.Task[_Outcome]:
        """The one fetch of this page that is under way, or a new one. Its task never raises."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fetch(key, kept), name=f"page {key[0]}/{key[1]}")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _fetch(self, key: _Key, kept: _Kept | None) -> _Outcome:
        name, client = key[1], self._upstreams[key[0]]
        try:
            result = await client.page(name, kept.etag if kept is not None else None)
        except UpstreamError as error:
            _log.info("an upstream failed: %s", error)
            self._failures[key] = (self._now(), error)
            return _Outcome(error=error)
        self._failures.pop(key, None)
        now = self._now()
        match result:
            case NoSuchProject():
                await self._keep_absent(key, now)
                return _Outcome()
            case NotModified(max_age) if kept is not None:
                status = "fwd=stale; fwd-status=304"
                # A 304 without a word about ages leaves the old one in force (RFC 9111 3.2).
                kept = replace(kept, validated_at=now, max_age=kept.max_age if max_age is None else max_age)
            case FoundPage(page, etag, max_age):
                status = "fwd=uri-miss" if kept is None else "fwd=stale; fwd-status=200"
                kept = _Kept(page, client.settings.index_url, now, "", etag, max_age)
            case _:  # Without a page at hand no validator is sent, so there is nothing to be unmodified.
                raise AssertionError(result)
        kept, stored = await self._store(key, kept)
        return _Outcome(kept, status=f"{status}; stored" if stored else status)

    async def _store(self, key: _Key, kept: _Kept) -> tuple[_Kept, bool]:
        """Write a page to disk. One that cannot be written is still shown."""
        path = self._layout.cached_page(*key)
        aside = os.path.join(self._layout.partial_files, f"page-{secrets.token_hex(8)}")
        kept, error = await asyncio.to_thread(_write, path, aside, kept)
        if error is not None:
            # The older copy, if any, stays: it is right to show it, and it will be asked about again.
            _log.warning("a page cannot be kept: %s", error.strerror)
            return kept, False
        self._remember(path, kept)
        return kept, True

    def _recent_failure(self, key: _Key, window: timedelta) -> OverlayError | None:
        failure = self._failures.get(key)
        if failure is None:
            return None
        at, error = failure
        if window == STALE_BACK_OFF and isinstance(error, UpstreamBusy) and error.retry_after is not None:
            window = max(window, min(timedelta(seconds=error.retry_after), LONGEST_BACK_OFF))
        return error if timedelta(0) <= self._now() - at < window else None

    def _is_known_absent(self, upstream: str, name: Name) -> bool:
        query = select(negatives.c.until).where(negatives.c.upstream == upstream, negatives.c.name == name)
        try:
            until = self._database.read_now(lambda connection: connection.execute(query).scalar())
        except StorageError:
            return False
        now = self._now()
        # An end further away than any that could have been set comes from a clock that has been put back.
        return until is not None and now < until <= now + self._settings.not_found_for

    async def _keep_absent(self, key: _Key, now: datetime) -> None:
        upstream, name = key
        until = now + self._settings.not_found_for
        self._negatives_written += 1
        cleans = self._negatives_written % _CLEAN_EVERY == 1

        def act(change: Change) -> None:
            run = change.connection.execute
            run(delete(negatives).where(negatives.c.upstream == upstream, negatives.c.name == name))
            run(insert(negatives).values(upstream=upstream, name=name, until=until))
            if cleans:
                run(delete(negatives).where(negatives.c.until <= now))
                newest = select(negatives.c.until).order_by(negatives.c.until.desc())
                oldest_kept = run(newest.offset(NEGATIVES_AT_MOST - 1).limit(1)).scalar()
                if oldest_kept is not None:
                    run(delete(negatives).where(negatives.c.until < oldest_kept))

        try:
            await self._database.change(act)
        except StorageError as error:
            _log.warning("an absent name cannot be kept: %s", error)
        # Only now: until here the old page is what another process would show, not another fetch.
        path = self._layout.cached_page(upstream, name)
        self._memory.pop(path, None)
        with contextlib.suppress(OSError):
            os.unlink(path)


def _shown(kept: _Kept, status: str) -> CachedPage:
    return CachedPage(kept.page, kept.validated_at, status, kept.token)


def _encoded_size(kept: _Kept) -> int:
    return kept.stamp[1] if kept.stamp is not None else 0


def _stamp(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_mtime_ns, state.st_size, state.st_ino


def _token(encoded: bytes | memoryview) -> str:
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _read(path: str) -> _Kept | None:
    """Decode one file of the page cache; None unless it is sound in every part."""
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            envelope = msgspec.msgpack.decode(file.read(), type=_Envelope)
        if envelope.format != FORMAT or envelope.token != _token(memoryview(envelope.page)):
            return None
        page = msgspec.msgpack.decode(envelope.page, type=Page)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if envelope.name != page.name or envelope.validated_at.tzinfo is None:
        return None
    max_age = None if envelope.max_age is None else timedelta(seconds=envelope.max_age)
    return _Kept(
        page,
        envelope.index_url,
        envelope.validated_at,
        envelope.token,
        envelope.etag,
        max_age,
        _stamp(state),
    )


def _write(path: str, aside: str, kept: _Kept) -> tuple[_Kept, OSError | None]:
    """Encode `kept` and rename it into place; returns it with its token and, if that worked, its stamp.

    Not synced: a page lost in a power cut is fetched again, and a torn one fails its token.
    """
    encoded = msgspec.msgpack.encode(kept.page)
    kept = replace(kept, token=_token(encoded), stamp=None)
    envelope = _Envelope(
        format=FORMAT,
        index_url=kept.index_url,
        name=kept.page.name,
        validated_at=kept.validated_at,
        token=kept.token,
        page=msgspec.Raw(encoded),
        etag=kept.etag,
        max_age=None if kept.max_age is None else kept.max_age.total_seconds(),
    )
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(descriptor, msgspec.msgpack.encode(envelope))
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            state = os.fstat(descriptor)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        return kept, error
    return replace(kept, stamp=_stamp(state)), None
