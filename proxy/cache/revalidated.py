"""What upstreams answered, parsed and on disk: revalidated one at a time, shown stale while the upstream fails.

One file per answer holds the parsed value in an envelope that says of what it is and when it was last confirmed;
it is written aside and renamed, and read only if every part of it is in order. Files are the truth: the decoded
copies in memory count only while the file is still the same one, so a purge by another process takes effect at
once. What an upstream does not have is kept apart, and for a short time.

Trouble is never kept as an answer and never becomes "no such project": it is told to everybody who waits for
the same fetch, and remembered for seconds so that a failing upstream is not asked by every request.

`cache.pages` and `cache.documents` say what is asked for, where it lies, and how its absence is kept.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH103, PTH105, PTH108, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import msgspec
from cachetools import LRUCache

from proxy.domain.freshness import Freshness, freshness_lifetime, judge
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.errors import OverlayError, UpstreamBusy, UpstreamError
from proxy.storage.disk import Stamp, stamp_of, write_all
from proxy.storage.layout import Layout
from proxy.upstream.client import Found, NoSuchProject, NotModified, Upstream

FORMAT = 1
"""Of the envelope. The layout's directory names change with what older code could misread."""
STALE_BACK_OFF = timedelta(seconds=5)
"""After a failure a stale answer is shown for so long without asking again."""
LONGEST_BACK_OFF = timedelta(seconds=60)
"""However long an upstream asks to be left alone."""
FAILURE_SHARED = timedelta(seconds=1)
"""After a failure without any answer to show, others are told of it for so long instead of asking."""

_MEMORY_BYTES = 8 << 20
"""Encoded size of the answers whose decoded form, about three times as big, stays in memory."""
_INLINE_BYTES = 256 << 10

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Cached(Generic[Value]):
    """An upstream's answer as it may be shown now.

    Attributes:
        stored_at: when the upstream last sent or confirmed it.
        status: parameters for `Cache-Status` (RFC 9211) behind the cache's name.
        token: equal for equal content; for keeping what was made from it.
    """

    value: Value
    stored_at: datetime
    status: str
    token: str


class _Envelope(msgspec.Struct, frozen=True):
    """What a file of the cache holds. `token` is the digest of the value as encoded; `name` says of what it is."""

    format: int
    index_url: str
    name: str
    validated_at: datetime
    token: str
    page: msgspec.Raw
    etag: str | None = None
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Value]):
    """A decoded value with what its envelope says, and which file it came from; `stamp` None: from none."""

    value: Value
    source: str
    name: str
    validated_at: datetime
    token: str
    etag: str | None
    max_age: timedelta | None
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Value]):
    """What a fetch came to: an answer, none (both None), or trouble."""

    kept: _Kept[Value] | None = None
    error: OverlayError | None = None
    status: str = ""


class Revalidated(ABC, Generic[Key, Value]):
    """The cache of one kind of answer in one process. It belongs to one event loop, but for `read`."""

    def __init__(
        self,
        layout: Layout,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
        kind: type[Value],
    ) -> None:
        """Take a prepared layout; touches neither disk nor loop.

        Args:
            kind: the type of the values, which msgspec can encode.
        """
        self._layout = layout
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._kind = kind
        self._flights: dict[tuple[str, Key], asyncio.Task[_Outcome[Value]]] = {}
        self._failures: LRUCache[tuple[str, Key], tuple[datetime, OverlayError]] = LRUCache(10_000)
        self._memory: LRUCache[str, _Kept[Value]] = LRUCache(_MEMORY_BYTES, getsizeof=_encoded_size)

    @abstractmethod
    def _path(self, upstream: str, key: Key) -> str:
        """Where the answer lies."""

    @abstractmethod
    def _name(self, key: Key) -> str:
        """What the answer is of: stands in its envelope and is compared when it is read."""

    @abstractmethod
    def _source(self, settings: UpstreamSettings) -> str:
        """The base of the addresses that are asked: where the configuration changes it, nothing kept counts."""

    @abstractmethod
    async def _ask(
        self, client: Upstream, key: Key, etag: str | None
    ) -> Found[Value] | NotModified | NoSuchProject:
        """Ask the upstream; raises `UpstreamError`."""

    @abstractmethod
    def _is_known_absent(self, upstream: str, key: Key) -> bool:
        """Whether the upstream said a short time ago that it has no such thing."""

    @abstractmethod
    async def _keep_absent(self, upstream: str, key: Key, until: datetime) -> None:
        """Keep that the upstream has no such thing."""

    async def _note_replaced(self, upstream: str, key: Key, before: Value, after: Value) -> None:
        """Hear that an upstream's new answer takes the place of the one kept. Must not raise."""

    async def get_cached(self, upstream: str, key: Key) -> Cached[Value] | None:
        """The answer, from disk or from the upstream, or None for a valid "no such project".

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and none that may still be shown.
        """
        flight = (upstream, key)
        kept = await self._look(upstream, key)
        if kept is None:
            if self._is_known_absent(upstream, key):
                return None
            return await self._fetched(flight, None)
        freshness = self._judge(kept)
        if freshness is Freshness.FRESH:
            return _shown(kept, "hit")
        if freshness is Freshness.EXPIRED:
            return await self._fetched(flight, kept)
        backs_off = self._recent_failure(flight, STALE_BACK_OFF) is not None
        if freshness is Freshness.STALE_WHILE_REVALIDATE or backs_off:
            if not backs_off:
                self._flight(flight, kept)
            return _shown(kept, f"hit; detail={freshness}")
        try:
            return await self._fetched(flight, kept)
        except UpstreamError:
            return _shown(kept, "fwd=stale; detail=stale-if-error")

    async def close(self) -> None:
        """Stop fetches under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _read(self, path: str) -> _Kept[Value] | None:
        """Decode one file of the cache; None unless it is sound in every part. For any thread."""
        try:
            with open(path, "rb") as file:
                state = os.fstat(file.fileno())
                envelope = msgspec.msgpack.decode(file.read(), type=_Envelope)
            if envelope.format != FORMAT or envelope.token != _token(memoryview(envelope.page)):
                return None
            value = msgspec.msgpack.decode(envelope.page, type=self._kind)
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        if envelope.validated_at.tzinfo is None:
            return None
        max_age = None if envelope.max_age is None else timedelta(seconds=envelope.max_age)
        return _Kept(
            value,
            envelope.index_url,
            envelope.name,
            envelope.validated_at,
            envelope.token,
            envelope.etag,
            max_age,
            stamp_of(state),
        )

    def _judge(self, kept: _Kept[Value]) -> Freshness:
        settings = self._settings
        return judge(
            kept.validated_at,
            self._now(),
            lifetime=freshness_lifetime(kept.max_age, settings.fresh_for),
            stale_while_revalidate=settings.stale_while_revalidate,
            stale_if_error=settings.stale_if_error,
        )

    async def _look(self, upstream: str, key: Key) -> _Kept[Value] | None:
        """What lies on disk of this, if it is sound and of the upstream as configured now."""
        path = self._path(upstream, key)
        try:
            state = os.stat(path)
        except OSError:
            return None
        kept = self._memory.get(path)
        if kept is None or kept.stamp != stamp_of(state):
            big = state.st_size > _INLINE_BYTES
            kept = await asyncio.to_thread(self._read, path) if big else self._read(path)
            self._remember(path, kept)
        if kept is None or kept.name != self._name(key):
            return None
        return kept if kept.source == self._source(self._upstreams[upstream].settings) else None

    def _remember(self, path: str, kept: _Kept[Value] | None) -> None:
        self._memory.pop(path, None)
        if kept is not None and kept.stamp is not None and kept.stamp[1] <= _MEMORY_BYTES:
            self._memory[path] = kept

    async def _fetched(self, flight: tuple[str, Key], kept: _Kept[Value] | None) -> Cached[Value] | None:
        """Fetch or revalidate now, together with all who want the same, and show what came of it."""
        joins = flight in self._flights
        if not joins and (failure := self._recent_failure(flight, FAILURE_SHARED)) is not None:
            raise failure.with_traceback(None)
        outcome = await asyncio.shield(self._flight(flight, kept))
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        if outcome.kept is None:
            return None
        return _shown(outcome.kept, f"{outcome.status}; collapsed" if joins else outcome.status)

    def _flight(self, flight: tuple[str, Key], kept: _Kept[Value] | None) -> asyncio.Task[_Outcome[Value]]:
        """The one fetch of this that is under way, or a new one. Its task never raises."""
        task = self._flights.get(flight)
        if task is None:
            task = asyncio.create_task(self._fetch(*flight, kept), name=f"fetch {flight[0]}/{flight[1]}")
            self._flights[flight] = task
            task.add_done_callback(lambda _: self._flights.pop(flight, None))
        return task

    async def _fetch(self, upstream: str, key: Key, kept: _Kept[Value] | None) -> _Outcome[Value]:
        client = self._upstreams[upstream]
        before = kept
        try:
            result = await self._ask(client, key, kept.etag if kept is not None else None)
        except UpstreamError as error:
            _log.info("an upstream failed: %s", error)
            self._failures[upstream, key] = (self._now(), error)
            return _Outcome(error=error)
        self._failures.pop((upstream, key), None)
        now = self._now()
        match result:
            case NoSuchProject():
                await self._keep_absent(upstream, key, now + self._settings.not_found_for)
                # Only now: until here the old answer is what another process would show, not another fetch.
                path = self._path(upstream, key)
                self._memory.pop(path, None)
                with contextlib.suppress(OSError):
                    os.unlink(path)
                return _Outcome()
            case NotModified(max_age) if kept is not None:
                status = "fwd=stale; fwd-status=304"
                # A 304 without a word about ages leaves the old one in force (RFC 9111 3.2).
                kept = replace(kept, validated_at=now, max_age=kept.max_age if max_age is None else max_age)
            case Found(value, etag, max_age):
                status = "fwd=uri-miss" if kept is None else "fwd=stale; fwd-status=200"
                source, name = self._source(client.settings), self._name(key)
                kept = _Kept(value, source, name, now, "", etag, max_age)
            case _:  # Without an answer at hand no validator is sent, so there is nothing to be unmodified.
                raise AssertionError(result)
        kept, stored = await self._store(self._path(upstream, key), kept)
        if before is not None and before.token != kept.token:
            await self._note_replaced(upstream, key, before.value, kept.value)
        return _Outcome(kept, status=f"{status}; stored" if stored else status)

    async def _store(self, path: str, kept: _Kept[Value]) -> tuple[_Kept[Value], bool]:
        """Write an answer to disk. One that cannot be written is still shown."""
        aside = os.path.join(self._layout.partial_files, f"page-{secrets.token_hex(8)}")
        kept, error = await asyncio.to_thread(_write, path, aside, kept)
        if error is not None:
            # The older copy, if any, stays: it is right to show it, and it will be asked about again.
            _log.warning("an upstream's answer cannot be kept: %s", error.strerror)
            return kept, False
        self._remember(path, kept)
        return kept, True

    def _recent_failure(self, flight: tuple[str, Key], window: timedelta) -> OverlayError | None:
        failure = self._failures.get(flight)
        if failure is None:
            return None
        at, error = failure
        if window == STALE_BACK_OFF and isinstance(error, UpstreamBusy) and error.retry_after is not None:
            window = max(window, min(timedelta(seconds=error.retry_after), LONGEST_BACK_OFF))
        return error if timedelta(0) <= self._now() - at < window else None


def _shown(kept: _Kept[Value], status: str) -> Cached[Value]:
    return Cached(kept.value, kept.validated_at, status, kept.token)


def _encoded_size(kept: _Kept[Value]) -> int:
    return kept.stamp[1] if kept.stamp is not None else 0


def _token(encoded: bytes | memoryview) -> str:
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _write(path: str, aside: str, kept: _Kept[Value]) -> tuple[_Kept[Value], OSError | None]:
    """Encode `kept` and rename it into place; returns it with its token and, if that worked, its stamp.

    Not synced: an answer lost in a power cut is fetched again, and a torn one fails its token.
    """
    encoded = msgspec.msgpack.encode(kept.value)
    kept = replace(kept, token=_token(encoded), stamp=None)
    envelope = _Envelope(
        format=FORMAT,
        index_url=kept.source,
        name=kept.name,
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
    return replace(kept, stamp=stamp_of(state)), None
