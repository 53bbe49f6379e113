"""One upstream file on its way to disk, and everybody who reads it meanwhile.

A `Transfer` has one leader, a task of its own that no reader can stop, and any number of followers, each
with a descriptor of its own. Followers are let up to what is on disk less the last 64 KiB; those come free
when size and digests are right. So a reader may hold bytes of a file that turns out wrong, but never the whole
of it (protocol 6.3: hold-back).

    join -> started() -> open() -> loop: past(offset) -> read and send up to there -> until done

Where the file cannot be kept, since the disk is full or fails, `past` raises a `StorageError`; a reader then goes
on by `bypass`, which fetches for it alone and keeps nothing, with the same hold-back.

The leader reads from the network while a thread writes what has come: under load the pieces join to larger
ones by themselves, and the first bytes are not delayed.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO

from proxy.domain.pages import FileRecord
from proxy.errors import ContentMismatch, OverlayError, StoreUnavailable, UpstreamTimeout, UpstreamUnreachable
from proxy.storage.disk import place, translated, write_all
from proxy.storage.layout import Layout
from proxy.upstream.client import FileStream, Upstream

HOLD_BACK = 64 << 10
"""Bytes at the end that nobody gets before the file is verified."""
LARGEST_UNSIZED = 5 << 30
"""Bytes of a file whose size neither its page nor its upstream names: one without an end must have one (T-BOMB)."""
_WRONG_SHA256 = "its sha256 is not the one that the page names"
_WRONG_BLAKE2B = "its BLAKE2b-256 is not the one in its address"
_PENDING_AT_MOST = 1 << 20
"""Bytes that wait for the writing thread before the network has to wait."""


@dataclass(frozen=True, slots=True)
class _Promised:
    """The digests that a file must have, as far as its page and its address name them; lower-case hex."""

    sha256: str | None
    blake2b: str | None

    @property
    def is_any(self) -> bool:
        return self.sha256 is not None or self.blake2b is not None


class _Digests:
    """The digests of what has come so far; BLAKE2b only where one was promised. One call at a time."""

    def __init__(self, promised: _Promised) -> None:
        self._promised = promised
        self._sha256 = hashlib.sha256()
        self._blake2b = None if promised.blake2b is None else hashlib.blake2b(digest_size=32)

    def update(self, content: bytes) -> None:
        self._sha256.update(content)
        if self._blake2b is not None:
            self._blake2b.update(content)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def fault(self) -> str | None:
        """What is wrong with them, as a clause; None if they are those promised."""
        if self._promised.sha256 not in {None, self.sha256()}:
            return _WRONG_SHA256
        if self._blake2b is not None and self._blake2b.hexdigest() != self._promised.blake2b:
            return _WRONG_BLAKE2B
        return None


class _Sink:
    """The partial file: written and hashed in threads, one call at a time."""

    def __init__(self, path: str, promised: _Promised) -> None:
        self._path = path
        self.digests = _Digests(promised)
        # A cancelled leader leaves its thread behind for a moment; closing must not overtake it.
        self._lock = threading.Lock()
        self.received = 0
        with translated("an upstream file cannot be kept"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, content: bytes) -> None:
        with self._lock, translated("an upstream file cannot be kept"):
            if self._descriptor < 0:
                return
            self.digests.update(content)
            write_all(self._descriptor, content)
            self.received += len(content)

    def keep(self, target: str) -> None:
        """Sync and rename into place."""
        with self._lock, translated("an upstream file cannot be kept"):
            os.fsync(self._descriptor)
            place(self._path, target)
            self._close()

    def discard(self) -> None:
        """Close and delete what has not been kept."""
        with self._lock:
            if self._descriptor >= 0:
                self._close()
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


class _Batches:
    """Pieces between the network and the writing thread; they join while the thread is busy."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, piece: bytes) -> None:
        await self._room.wait()
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= _PENDING_AT_MOST:
            self._room.clear()
        self._filled.set()

    async def take(self) -> bytes | None:
        """Everything that waits, as one; None when it has ended."""
        await self._filled.wait()
        if not self._pieces:
            return None
        batch = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._room.set()
        if not self._ended:
            self._filled.clear()
        return batch

    def end(self) -> None:
        """Nothing more will come, or be taken."""
        self._ended = True
        self._filled.set()
        self._room.set()


@dataclass(frozen=True, slots=True)
class Bypass:
    """Bytes on their way from the upstream to one reader, in at least one piece; `size`: of the file, if known."""

    size: int | None
    pieces: AsyncGenerator[bytes, None]


def _hash_start(opened: BinaryIO, length: int, seen: _Digests) -> None:
    for start in range(0, length, _PENDING_AT_MOST):
        seen.update(os.pread(opened.fileno(), min(_PENDING_AT_MOST, length - start), start))


class Transfer:
    """One fill of one file. Made by `cache.files`; `fill` runs in its leader's task, the rest is for readers.

    Attributes:
        size: bytes of the whole file; known after `started` unless neither page nor upstream names it.
        done: every byte is on disk, verified, and free for readers.
        sha256: the digest: the page's, or once `done` that of the content.
        upstream: name of the upstream that it comes from.
    """

    def __init__(self, upstream: Upstream, record: FileRecord, layout: Layout) -> None:
        self._client = upstream
        self.upstream = upstream.name
        self._record = record
        self._layout = layout
        self._promised = _Promised(record.sha256, upstream.blake2b_of(record))
        self._partial = layout.partial_file(record.key, f"{upstream.name} {record.url}")
        self._readable = 0
        self._error: OverlayError | None = None
        self._begun = False
        self._news = asyncio.Event()
        self.size: int | None = None
        self.sha256 = record.sha256
        self.done = False

    @property
    def path(self) -> str:
        """Where the bytes lie: the partial file, or the final one as soon as all of it is verified."""
        return self._layout.cached_file(self.sha256) if self.done and self.sha256 else self._partial

    async def started(self) -> None:
        """Wait until the upstream has begun to answer, so that `size` is known as far as it will be.

        Raises:
            UpstreamError: it answered with an error, or not at all; `ContentMismatch` if sizes disagree already.
            StorageError: the file cannot be kept; `DiskFull` if there is no room.
        """
        while not self._begun and self._error is None:
            await self._news.wait()
        self._check()

    async def past(self, offset: int) -> int:
        """Wait until bytes beyond `offset` may be read, or there are no more.

        Returns:
            How many bytes from the start of the file readers may have now. Equal to `offset` only when
            `done`: then the reader has everything.

        Raises:
            ContentMismatch: what came is not what the page named. The reader must break its connection off.
            UpstreamError, StorageError: the transfer failed otherwise; the same holds.
        """
        while True:
            self._check()
            if self.done:
                return self._readable
            total = self._readable if self.size is None else self.size
            allowed = min(self._readable, total - HOLD_BACK)
            if allowed > offset:
                return allowed
            await self._news.wait()

    def open(self) -> BinaryIO:
        """A descriptor of the reader's own, valid to the end whatever becomes of the path. After `started`.

        Raises:
            StoreUnavailable: the file has been deleted since.
        """
        # Renaming may happen between the two; the other order could miss both names.
        for path in (self._partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                return open(path, "rb", buffering=0)
        self._check()
        raise StoreUnavailable(f"{self._record.filename} left the cache before it was read", hint="ask again")

    @contextlib.asynccontextmanager
    async def bypass(self, opened: BinaryIO | None = None, position: int = 0) -> AsyncIterator[Bypass]:
        """The rest of the file for one reader, straight from the upstream: where it cannot be kept.

        Args:
            opened: what `open` gave, where the reader has bytes already: they are hashed from there.
            position: how many bytes it has.

        Raises:
            UpstreamError: as `started`.
            StorageError: no digest would tell whether the two halves are of one file.
        """
        if position and not self._promised.is_any:
            self._check()
        async with self._client.file(self._record.url, start=position) as stream:
            self._take_head(stream)
            seen = _Digests(self._promised)
            if opened is not None:
                await asyncio.to_thread(_hash_start, opened, position, seen)
            async with contextlib.aclosing(self._rest(stream, position, seen)) as pieces:
                yield Bypass(self.size, pieces)

    async def _rest(self, stream: FileStream, position: int, seen: _Digests) -> AsyncGenerator[bytes, None]:
        """What follows `position`, with the end held back until all of it is verified."""
        place, held = stream.start, bytearray()
        async for piece in stream.chunks():
            # The upstream may have begun at the start in spite of the range.
            fresh = piece[max(0, position - place) :]
            place += len(piece)
            self._bound(place)
            seen.update(fresh)
            held += fresh
            if len(held) > HOLD_BACK:
                yield bytes(held[:-HOLD_BACK])
                del held[:-HOLD_BACK]
        if self.size is not None and place != self.size:
            raise self._mismatch(f"it ended after {place} of {self.size} bytes")
        if (fault := seen.fault()) is not None:
            raise self._mismatch(fault)
        yield bytes(held)

    async def fill(self) -> tuple[str, int]:
        """Fetch, verify and put into place. For the leader.

        Returns:
            sha256 and size of the file, which lies in the cache now.

        Raises:
            ContentMismatch, UpstreamError, StorageError: as readers are told. If only the last step fails,
                readers have been served all the same.
        """
        sink = await asyncio.to_thread(_Sink, self._partial, self._promised)
        try:
            await self._receive(sink)
            digest = self._verified(sink)
            self.sha256, self.size = digest, sink.received
            self._tell(readable=sink.received, done=True)
            await asyncio.to_thread(sink.keep, self._layout.cached_file(digest))
        except BaseException:
            await asyncio.to_thread(sink.discard)
            raise
        return digest, sink.received

    def fail(self, error: OverlayError) -> None:
        """Tell readers that it came to nothing. For the leader; without effect once `done`."""
        if not self.done:
            self._error = error
            self._tell()

    async def _receive(self, sink: _Sink) -> None:
        """Copy the whole file into `sink`; a connection that breaks midway is continued once, by range."""
        etag: str | None = None
        broken: OverlayError | None = None
        for _ in range(2):
            try:
                async with self._client.file(self._record.url, start=sink.received, etag=etag) as stream:
                    if broken is not None and stream.start != sink.received:
                        raise broken
                    self._take_head(stream)
                    etag = stream.etag
                    await self._copy(stream, sink)
                break
            except (UpstreamUnreachable, UpstreamTimeout) as error:
                if self.size is not None and sink.received == self.size:
                    break
                # Without digest or validator nothing would tell two halves of different files.
                may_resume = self._begun and (self._promised.is_any or etag is not None or not sink.received)
                if broken is not None or not may_resume:
                    raise
                broken = error
        if self.size is not None and sink.received != self.size:
            raise self._mismatch(f"it ended after {sink.received} of {self.size} bytes")

    def _verified(self, sink: _Sink) -> str:
        if (fault := sink.digests.fault()) is not None:
            raise self._mismatch(fault)
        return sink.digests.sha256()

    def _take_head(self, stream: FileStream) -> None:
        expected = self._record.size if self.size is None else self.size
        if stream.size is not None and expected is not None and stream.size != expected:
            raise self._mismatch(f"it has {stream.size} bytes where {expected} were expected")
        self.size = expected if stream.size is None else stream.size
        self._begun = True
        self._tell()

    def _bound(self, received: int) -> None:
        """Return if so many bytes may belong to the file.

        Raises:
            ContentMismatch: they are too many.
        """
        limit = LARGEST_UNSIZED if self.size is None else self.size
        if received > limit:
            raise self._mismatch(f"it goes on after {limit} bytes")

    async def _copy(self, stream: FileStream, sink: _Sink) -> None:
        batches = _Batches()
        writing = asyncio.create_task(self._write(batches, sink))
        received = stream.start
        try:
            async for piece in stream.chunks():
                received += len(piece)
                self._bound(received)
                await batches.put(piece)
                if writing.done():
                    break
        finally:
            # What has come is on disk before anybody decides how to go on; trouble of the disk comes first.
            batches.end()
            await writing

    async def _write(self, batches: _Batches, sink: _Sink) -> None:
        try:
            while (batch := await batches.take()) is not None:
                await asyncio.to_thread(sink.write, batch)
                self._tell(readable=sink.received)
        finally:
            batches.end()

    def _mismatch(self, why: str) -> ContentMismatch:
        return ContentMismatch(self.upstream, f"{self._record.filename} of {self.upstream}: {why}")

    def _tell(self, *, readable: int | None = None, done: bool = False) -> None:
        """Publish progress and wake every reader."""
        if readable is not None:
            self._readable = readable
        self.done = self.done or done
        self._news.set()
        self._news = asyncio.Event()

    def _check(self) -> None:
        if self._error is not None:
            # Many readers raise the same object; without this its traceback would grow with each.
            raise self._error.with_traceback(None)
