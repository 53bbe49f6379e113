"""What upstreams answered, parsed and on disk: revalidated one at a time, shown stale while the upstream fails.

One file per answer holds the parsed value in an envelope that says of what it is and when it was last confirmed;
it is written aside and renamed, and read only if every part of it is in order. Files are the truth: the copies in
memory count only while the file is still the same one, so a purge by another process takes effect at once. Whoever
keeps what was made of an answer may do so for as long as that is fresh, and hears through the board where another
takes its place or it goes: a topic is renewed once that is so on disk. What comes where nothing was, or is
confirmed, makes nothing wrong that was kept. A value is decoded when somebody first needs it; most requests need its
token alone.

In the whole instance one at a time asks for the same thing: it holds the lock of that name, which the kernel frees
when it dies. All others, in this process and in others, wait for it and take what it came to: an answer, that there
is none, or trouble (`cache.notes`). Two objects of one process, before and after a new configuration, are to each
other as two processes are.

Trouble is never kept as an answer and never becomes "no such project": it is told to everybody who waits for
the same fetch, and remembered for seconds so that a failing upstream is not asked by every request.

`cache.pages` and `cache.documents` say what is asked for, where it lies, and how its absence is kept.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH116, PTH118, PTH123

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
from typing import Generic, NamedTuple, TypeVar

import msgspec
import msgspec.inspect
from cachetools import LRUCache

from proxy.cache.notes import Note, Notes
from proxy.domain.freshness import Freshness, freshness_lifetime, judge
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.errors import OverlayError, StorageError, UpstreamBusy, UpstreamError, UpstreamTimeout
from proxy.storage.board import Board
from proxy.storage.disk import Stamp, stamp_of, write_unsynced
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
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
"""Encoded size of the answers that stay in memory, and of those whose decoded form does, about three times as big."""
_INLINE_BYTES = 256 << 10
"""Encoded answers up to this size are read and decoded on the loop: about a millisecond."""
_FIRST_LOOK = 0.005
_LAST_LOOK = 0.05
"""Seconds between looks whether another process has let go: more and more."""
_PATIENCE = 5.0
"""Seconds that an answer is waited for where an older one can be shown: clients give up after ten to thirty."""
_LONGEST_WAIT = timedelta(minutes=3)
"""For another process: longer than any fetch may take. A leader that was stopped must not stop everybody."""

_log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cached(Generic[Value]):
    """An upstream's answer as it may be shown now.

    Attributes:
        token: equal for equal content; for keeping what was made from it.
        stored_at: when the upstream last sent or confirmed it.
        status: parameters for `Cache-Status` (RFC 9211) behind the cache's name.
        good_until: seconds of the epoch until which it may be shown as a fresh `hit`; None: what is made of it must
            not be kept, since it is stale, or not on disk.
    """

    __slots__ = ("_encoded", "_values", "good_until", "status", "stored_at", "token")

    def __init__(
        self, kept: _Kept, values: _Values[Value], status: str, good_until: float | None = None
    ) -> None:
        """`values`: where decoded ones stay for a while."""
        self._encoded = kept.encoded
        self._values = values
        self.token = kept.token
        self.stored_at = kept.validated_at
        self.status = status
        self.good_until = good_until

    @property
    def size(self) -> int:
        """Bytes that this object keeps in memory for as long as it lives, decoded or not."""
        return len(self._encoded)

    @property
    def value(self) -> Value:
        """What the upstream said. Decoded at the first use, and again once others have pushed it out of memory."""
        found = self._values.get(self.token)
        return self._keep(self._values.decode(self._encoded)) if found is None else found

    async def decoded(self) -> Value:
        """`value`, decoded in a thread where it is long."""
        if len(self._encoded) > _INLINE_BYTES and self._values.get(self.token) is None:
            return self._keep(await asyncio.to_thread(self._values.decode, self._encoded))
        return self.value

    def _keep(self, value: Value) -> Value:
        self._values.put(self.token, value, len(self._encoded))
        return value


class _Sized(NamedTuple, Generic[Value]):
    """A decoded value with its encoded size, which stands for its own."""

    value: Value
    size: int


class _Values(Generic[Value]):
    """Decoded values by token, in bounded memory. It belongs to one event loop, but for `decode`."""

    def __init__(self, kind: type[Value]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._values: LRUCache[str, _Sized[Value]] = LRUCache(_MEMORY_BYTES, getsizeof=lambda one: one.size)

    def decode(self, encoded: bytes | memoryview) -> Value:
        # Its token was right, and so was its form: these are the bytes that a value was encoded to.
        return self._decoder.decode(encoded)

    def get(self, token: str) -> Value | None:
        found = self._values.get(token)
        return None if found is None else found.value

    def put(self, token: str, value: Value, size: int) -> None:
        if size <= _MEMORY_BYTES:
            self._values[token] = _Sized(value, size)


class _Envelope(msgspec.Struct, frozen=True):
    """What a file of the cache holds.

    Attributes:
        format: of this envelope.
        form: of the value: that of another version of this program may be another.
        name: of what the value is.
        token: the digest of the value as encoded.
    """

    format: int
    form: str
    index_url: str
    name: str
    validated_at: datetime
    token: str
    page: msgspec.Raw
    etag: str | None = None
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """An encoded value with what its envelope says, and which file it came from; `stamp` None: from none."""

    encoded: bytes | memoryview
    source: str
    name: str
    validated_at: datetime
    token: str
    etag: str | None
    max_age: timedelta | None
    stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a fetch came to: an answer, none (both None), or trouble."""

    kept: _Kept | None = None
    error: OverlayError | None = None
    status: str = ""


class Revalidated(ABC, Generic[Key, Value]):
    """The cache of one kind of answer in one process. It belongs to one event loop, but for `read`."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        board: Board,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
        kind: type[Value],
    ) -> None:
        """Take a prepared layout, and the locks and the board of the same instance; touches neither disk nor loop.

        Args:
            kind: the type of the values, which msgspec can encode.
        """
        self._layout = layout
        self._locks = locks
        self._board = board
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._notes = Notes(layout)
        self._flights: dict[tuple[str, Key], asyncio.Task[_Outcome]] = {}
        self._failures: LRUCache[tuple[str, Key], tuple[datetime, OverlayError]] = LRUCache(10_000)
        self._memory: LRUCache[str, _Kept] = LRUCache(_MEMORY_BYTES, getsizeof=lambda kept: len(kept.encoded))
        self._values: _Values[Value] = _Values(kind)
        self._form = _token(repr(msgspec.inspect.type_info(kind)).encode())

    @abstractmethod
    def _path(self, upstream: str, key: Key) -> str:
        """Where the answer lies."""

    @abstractmethod
    def _name(self, key: Key) -> str:
        """What the answer is of: stands in its envelope and is compared when it is read."""

    @abstractmethod
    def _topic(self, upstream: str, key: Key) -> str:
        """What is renewed on the board when the answer changes or is confirmed."""

    @abstractmethod
    def _source(self, settings: UpstreamSettings) -> str:
        """The base of the addresses that are asked: where the configuration changes it, nothing kept counts."""

    @abstractmethod
    async def _ask(
        self, client: Upstream, key: Key, etag: str | None
    ) -> Found[Value] | NotModified | NoSuchProject:
        """Ask the upstream; raises `UpstreamError`."""

    @abstractmethod
    def _absent_until(self, upstream: str, key: Key) -> datetime | None:
        """Until when the upstream is believed to have no such thing; None: it may have."""

    @abstractmethod
    async def _keep_absent(self, upstream: str, key: Key, until: datetime) -> None:
        """Keep that the upstream has no such thing."""

    async def _note_replaced(
        self,
        upstream: str,
        key: Key,
        before: Cached[Value] | None,
        after: Value | None,
    ) -> bool:
        """Hear what an upstream says now, before that takes the place of what is kept. Must not raise.

        Args:
            before: what is kept; None: nothing.
            after: None: the upstream has no such thing any more.

        Returns:
            Whether it may: else it is shown and not kept, so that what is kept is compared once more.
        """
        del upstream, key, before, after
        return True

    async def get_cached(self, upstream: str, key: Key) -> Cached[Value] | None:
        """The answer, from disk or from the upstream, or None for a valid "no such project".

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and none that may still be shown.
            StorageError: nobody can tell whether another process fetches it, and there is none to be shown.
        """
        flight = (upstream, key)
        kept = await self._look(upstream, key)
        if kept is None:
            if self._absent_until(upstream, key) is not None:
                return None
            return await self._fetched(flight, None)
        freshness = self._judge(kept)
        if freshness is Freshness.FRESH:
            return self._shown(kept, "hit")
        if freshness is Freshness.EXPIRED:
            return await self._fetched(flight, kept)
        backs_off = self._recent_failure(flight, STALE_BACK_OFF) is not None
        if freshness is Freshness.STALE_WHILE_REVALIDATE or backs_off:
            if not backs_off:
                self._flight(flight, kept)
            return Cached(kept, self._values, f"hit; detail={freshness}")
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._fetched(flight, kept)
        except TimeoutError:
            # Who comes meanwhile need not wait as long. The fetch goes on, and may yet succeed.
            late = UpstreamTimeout(upstream, f"{upstream} takes long to answer for {self._name(key)}")
            self._failures[flight] = (self._now(), late)
        except (UpstreamError, StorageError):
            pass
        return Cached(kept, self._values, "fwd=stale; detail=stale-if-error")

    async def close(self) -> None:
        """Stop fetches under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _read(self, path: str) -> _Kept | None:
        """Read one file of the cache; None unless it is sound in every part. For any thread."""
        try:
            with open(path, "rb") as file:
                state = os.fstat(file.fileno())
                envelope = msgspec.msgpack.decode(file.read(), type=_Envelope)
        except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        encoded = memoryview(envelope.page)
        if (envelope.format, envelope.form, envelope.token) != (FORMAT, self._form, _token(encoded)):
            return None
        if envelope.validated_at.tzinfo is None:
            return None
        max_age = None if envelope.max_age is None else timedelta(seconds=envelope.max_age)
        return _Kept(
            encoded,
            envelope.index_url,
            envelope.name,
            envelope.validated_at,
            envelope.token,
            envelope.etag,
            max_age,
            stamp_of(state),
        )

    def _lifetime(self, kept: _Kept) -> timedelta:
        return freshness_lifetime(kept.max_age, self._settings.fresh_for)

    def _judge(self, kept: _Kept) -> Freshness:
        return judge(
            kept.validated_at,
            self._now(),
            lifetime=self._lifetime(kept),
            stale_while_revalidate=self._settings.stale_while_revalidate,
            stale_if_error=self._settings.stale_if_error,
        )

    def _shown(self, kept: _Kept, status: str) -> Cached[Value]:
        """`kept`, which is fresh or has just been confirmed."""
        good_until = (kept.validated_at + self._lifetime(kept)).timestamp()
        return Cached(kept, self._values, status, good_until if kept.stamp is not None else None)

    async def _look(self, upstream: str, key: Key) -> _Kept | None:
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

    def _remember(self, path: str, kept: _Kept | None) -> None:
        self._memory.pop(path, None)
        if kept is not None and len(kept.encoded) <= _MEMORY_BYTES:
            self._memory[path] = kept

    async def _fetched(self, flight: tuple[str, Key], kept: _Kept | None) -> Cached[Value] | None:
        """Fetch or revalidate now, together with all who want the same, and show what came of it."""
        joins = flight in self._flights
        if not joins and (failure := self._recent_failure(flight, FAILURE_SHARED)) is not None:
            raise failure.with_traceback(None)
        outcome = await asyncio.shield(self._flight(flight, kept))
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        if outcome.kept is None:
            return None
        return self._shown(outcome.kept, f"{outcome.status}; collapsed" if joins else outcome.status)

    def _flight(self, flight: tuple[str, Key], kept: _Kept | None) -> asyncio.Task[_Outcome]:
        """The one fetch of this that is under way, or a new one. Its task never raises."""
        task = self._flights.get(flight)
        if task is None:
            task = asyncio.create_task(self._fetch(*flight, kept), name=f"fetch {flight[0]}/{flight[1]}")
            self._flights[flight] = task
            task.add_done_callback(lambda _: self._flights.pop(flight, None))
        return task

    async def _fetch(self, upstream: str, key: Key, kept: _Kept | None) -> _Outcome:
        """Have an answer that takes the place of `kept`, by whichever process."""
        lock = self._lock(upstream, key)
        began = self._now()
        try:
            leads = await self._wait_for(lock)
            try:
                kept, news = await self._news(upstream, key, kept, began)
                return await self._asked(upstream, key, kept) if news is None else news
            finally:
                if leads:
                    self._locks.release(lock)
        except StorageError as error:
            return _Outcome(error=error)

    def _asked_at(self, upstream: str) -> str:
        """The upstream and its address: what is absent at one address may be there at the next."""
        return f"{upstream} {self._source(self._upstreams[upstream].settings)}"

    def _lock(self, upstream: str, key: Key) -> str:
        return f"{self._topic(upstream, key)} {self._name(key)}"

    async def _wait_for(self, lock: str) -> bool:
        """Hold `lock`, after others who do; False where they do for longer than any fetch takes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LONGEST_WAIT.total_seconds()
        pause = _FIRST_LOOK
        while not self._locks.try_hold(lock):
            if loop.time() > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)
        return True

    async def _news(
        self, upstream: str, key: Key, kept: _Kept | None, began: datetime
    ) -> tuple[_Kept | None, _Outcome | None]:
        """What is kept now, and what others came to since `kept` was read, if that spares asking again."""
        found = await self._look(upstream, key)
        if found is None and self._absent_until(upstream, key) is not None:
            return None, _Outcome()
        is_new = found is not None and (kept is None or found.stamp != kept.stamp)
        if (
            found is not None
            and is_new
            and (found.validated_at >= began or self._judge(found) is Freshness.FRESH)
        ):
            return found, _Outcome(found, status=f"{_forwarded(kept)}; collapsed")
        window = (
            FAILURE_SHARED if found is None or self._judge(found) is Freshness.EXPIRED else STALE_BACK_OFF
        )
        note = self._notes.read(self._lock(upstream, key))
        if note is not None and note.kind:
            self._failures[upstream, key] = (note.at, note.trouble(upstream))
            failure = self._recent_failure((upstream, key), window)
            if failure is not None:
                return found, _Outcome(error=failure)
        return found, None

    async def _asked(self, upstream: str, key: Key, kept: _Kept | None) -> _Outcome:
        """Ask the upstream, and keep what it says. The caller holds the lock."""
        client = self._upstreams[upstream]
        try:
            result = await self._ask(client, key, kept.etag if kept is not None else None)
        except UpstreamError as error:
            _log.info("an upstream failed: %s", error)
            note = Note.of_trouble(self._lock(upstream, key), self._now(), error)
            # As it was noted: the error itself holds on to all that was received when it was raised.
            trouble = note.trouble(upstream)
            self._failures[upstream, key] = (note.at, trouble)
            await asyncio.to_thread(self._notes.write, note)
            return _Outcome(error=trouble)
        self._failures.pop((upstream, key), None)
        now = self._now()
        path = self._path(upstream, key)
        match result:
            case NoSuchProject():
                gone = None if kept is None else Cached(kept, self._values, "")
                if gone is not None and not await self._note_replaced(upstream, key, gone, None):
                    return _Outcome()
                await self._keep_absent(upstream, key, now + self._settings.not_found_for)
                # Only now: until here the old answer is what another process would show, not another fetch.
                self._memory.pop(path, None)
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    self._board.renew(self._topic(upstream, key))
                return _Outcome()
            case NotModified(max_age) if kept is not None:
                status = f"{_forwarded(kept)}; fwd-status=304"
                # A 304 without a word about ages leaves the old one in force (RFC 9111 3.2).
                new = replace(kept, validated_at=now, max_age=kept.max_age if max_age is None else max_age)
            case Found(value, etag, max_age):
                status = _forwarded(kept) if kept is None else f"{_forwarded(kept)}; fwd-status=200"
                new = _Kept(b"", self._source(client.settings), self._name(key), now, "", etag, max_age)
                if kept is None:
                    # Nothing is lost where this cannot be recorded: there is nothing to compare it with.
                    await self._note_replaced(upstream, key, None, value)
                else:
                    new = await asyncio.to_thread(_encoded, new, value)
                    before = Cached(kept, self._values, "")
                    is_other = new.token != kept.token
                    if is_other and not await self._note_replaced(upstream, key, before, value):
                        return _Outcome(new, status=status)
            case _:  # Without an answer at hand no validator is sent, so there is nothing to be unmodified.
                raise AssertionError(result)
        new = await self._store(path, new, result.value if isinstance(result, Found) else None)
        stored = new.stamp is not None
        if stored and kept is not None and kept.token != new.token:
            self._board.renew(self._topic(upstream, key))
        return _Outcome(new, status=f"{status}; stored" if stored else status)

    async def _store(self, path: str, kept: _Kept, value: Value | None) -> _Kept:
        """Write an answer to disk. One that cannot be written is still shown, but has no stamp.

        Args:
            value: what is to be encoded for it, unless that has been done.
        """
        aside = os.path.join(self._layout.partial_files, f"page-{secrets.token_hex(8)}")
        kept, error = await asyncio.to_thread(self._write, path, aside, kept, value)
        if value is not None:
            self._values.put(kept.token, value, len(kept.encoded))
        if error is not None:
            # The older copy, if any, stays: it is right to show it, and it will be asked about again.
            _log.warning("an upstream's answer cannot be kept: %s", error.strerror)
        else:
            self._remember(path, kept)
        return kept

    def _write(self, path: str, aside: str, kept: _Kept, value: Value | None) -> tuple[_Kept, OSError | None]:
        """Rename `kept` into place; returns it with the stamp of its file, if that worked.

        Not synced: an answer lost in a power cut is fetched again, and a torn one fails its token.
        """
        kept = replace(kept, stamp=None)
        if value is not None and not kept.token:
            kept = _encoded(kept, value)
        envelope = _Envelope(
            format=FORMAT,
            form=self._form,
            index_url=kept.source,
            name=kept.name,
            validated_at=kept.validated_at,
            token=kept.token,
            page=msgspec.Raw(kept.encoded),
            etag=kept.etag,
            max_age=None if kept.max_age is None else kept.max_age.total_seconds(),
        )
        try:
            state = write_unsynced(path, aside, msgspec.msgpack.encode(envelope))
        except OSError as error:
            return kept, error
        return replace(kept, stamp=stamp_of(state)), None

    def _recent_failure(self, flight: tuple[str, Key], window: timedelta) -> OverlayError | None:
        failure = self._failures.get(flight)
        if failure is None:
            return None
        at, error = failure
        if window == STALE_BACK_OFF and isinstance(error, UpstreamBusy) and error.retry_after is not None:
            window = max(window, min(timedelta(seconds=error.retry_after), LONGEST_BACK_OFF))
        return error if timedelta(0) <= self._now() - at < window else None


def _forwarded(kept: _Kept | None) -> str:
    """Why the upstream was asked, in the words of RFC 9211."""
    return "fwd=uri-miss" if kept is None else "fwd=stale"


def _encoded(kept: _Kept, value: object) -> _Kept:
    """What is to be kept of `value`, with its token."""
    encoded = msgspec.msgpack.encode(value)
    return replace(kept, encoded=encoded, token=_token(encoded))


def _token(encoded: bytes | memoryview) -> str:
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()
