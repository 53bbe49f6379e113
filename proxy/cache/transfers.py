"""One upstream file on its way to disk, and everybody who reads it meanwhile, in every process of the instance.

A transfer has one leader: whoever holds its lock, in a task of its own that no reader can stop. In every other
process that wants the file a `Transfer` follows: it looks at the partial file (`cache.partials`) every few
milliseconds. Readers, each with a descriptor of its own, do not know which of the two theirs is. They are let up to
what is on disk less the last 64 KiB; those come free when size and digests are right. So a reader may hold bytes of
a file that turns out wrong, but never the whole of it (protocol 6.3: hold-back).

    join -> started() -> open() -> loop: past(offset) -> read and send up to there -> until done

Where a leader dies, the kernel frees its lock, and the first follower to find it free takes over. It hashes what is
there and goes on by range, in the same file, so that every reader goes on too. Where no digest is promised it asks
for all of it and compares the beginning. A leader that stops with its process leaves its file to be taken over
likewise; one that fails tells why in the head, and keeps the lock until everybody has had time to look.

Where the file cannot be kept, since the disk is full or fails, `past` raises a `StorageError`; a reader then goes
on by `bypass`, which fetches for it alone and keeps nothing, with the same hold-back.

The leader reads from the network while a thread writes what has come: under load the pieces join to larger
ones by themselves, and the first bytes are not delayed.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH116, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import BinaryIO

from proxy.cache.partials import Digests, Head, Partial, Promised, Sink, Trouble
from proxy.domain.pages import FileRecord
from proxy.errors import ContentMismatch, OverlayError, StoreUnavailable, UpstreamTimeout, UpstreamUnreachable
from proxy.storage.layout import Layout
from proxy.upstream.client import FileStream, Upstream

HOLD_BACK = 64 << 10
"""Bytes at the end that nobody gets before the file is verified."""
LARGEST_UNSIZED = 5 << 30
"""Bytes of a file whose size neither its page nor its upstream names: one without an end must have one (T-BOMB)."""
HANDED_OVER = 0.05
"""Seconds in which every follower has looked: so long a failure is told, and what was left behind waits for one."""
ABANDONED_SECONDS = 5.0
"""After so long without a reader that waits, a transfer may be made to wait for those that have some."""
_LOOK_WAITING = 0.005
_LOOK_IDLE = 0.02
"""Seconds between the looks of a follower: while readers wait, and while none does."""
_PENDING_AT_MOST = 1 << 20
"""Bytes that wait for the writing thread before the network has to wait."""
_ENOUGH = 256 << 10
_GATHER_SECONDS = 0.004
"""So many bytes, or so long, are worth waking a thread and every reader for."""


class _Batches:
    """Pieces between the network and the writing thread; they gather while that is busy, and a moment longer."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._ended = False
        self._is_first = True
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, piece: bytes) -> None:
        await self._room.wait()
        self._pieces.append(piece)
        self._size += len(piece)
        self._filled.set()
        if self._size >= _ENOUGH:
            self._enough.set()
        if self._size >= _PENDING_AT_MOST:
            self._room.clear()

    async def take(self) -> list[bytes]:
        """Everything that waits; nothing when it has ended. The first piece is given at once."""
        if not self._is_first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GATHER_SECONDS):
                    await self._enough.wait()
        await self._filled.wait()
        batch, self._pieces = self._pieces, []
        self._size, self._is_first = 0, False
        self._room.set()
        if not self._ended:
            self._filled.clear()
            self._enough.clear()
        return batch

    def end(self) -> None:
        """Nothing more will come, or be taken."""
        self._ended = True
        for event in (self._filled, self._enough, self._room):
            event.set()


@dataclass(frozen=True, slots=True)
class Bypass:
    """Bytes on their way from the upstream to one reader, in at least one piece; `size`: of the file, if known."""

    size: int | None
    pieces: AsyncGenerator[bytes, None]


class _Again:
    """The start of a file that comes a second time: compared with what is here, not kept."""

    def __init__(self, length: int, sha256: str) -> None:
        self._left = length
        self._sha256 = sha256
        self._seen = hashlib.sha256()
        self.differs = False

    def beyond(self, piece: bytes) -> bytes:
        """What of `piece` is new."""
        if not self._left:
            return piece
        known = piece[: self._left]
        self._seen.update(known)
        self._left -= len(known)
        self.differs = not self._left and self._seen.hexdigest() != self._sha256
        return piece[len(known) :]

    @property
    def is_over(self) -> bool:
        """Whether it came to its end."""
        return not self._left


class Transfer:
    """One fill of one file, as one process sees it. Made by `cache.files`, which leads it or has it follow.

    `started`, `past`, `open` and `bypass` are for readers, the other methods for `cache.files`.

    Attributes:
        size: bytes of the whole file; known after `started` unless neither page nor upstream names it.
        done: every byte is on disk, verified, and free for readers.
        sha256: the digest: the page's, or once `done` that of the content.
        upstream: name of the upstream that it comes from.
        lock: key of the lock that makes a leader of who holds it.
    """

    def __init__(
        self, upstream: Upstream, record: FileRecord, layout: Layout, make_room: Callable[[int], bool]
    ) -> None:
        """Begin nothing yet.

        Args:
            make_room: called in a thread where the disk is full, with the bytes that are wanted; True: there may be
                room now.

        Raises:
            StorageError: the key of `record` is none.
        """
        self._client = upstream
        self.upstream = upstream.name
        self._record = record
        self._layout = layout
        self._make_room = make_room
        self._made_room = False
        self._promised = Promised(record.sha256, upstream.blake2b_of(record))
        self._partial = Partial(layout, record.key, f"{upstream.name} {record.url}")
        self.lock = self._partial.lock
        self._made_at = time.time()
        self._generation: str | None = None
        self._inode = 0
        self._readable = 0
        self._error: OverlayError | None = None
        self._begun = False
        self._etag: str | None = None
        self._news = asyncio.Event()
        self._waiting = 0
        self._waited_at = time.monotonic()
        self._leads = False
        self._stands_back = False
        self.size: int | None = None
        self.sha256 = record.sha256
        self.done = False

    @property
    def path(self) -> str:
        """Where the bytes lie: the partial file, or the final one as soon as all of it is verified."""
        return self._layout.cached_file(self.sha256) if self.done and self.sha256 else self._partial.path

    async def started(self) -> None:
        """Wait until the upstream has begun to answer, so that `size` is known as far as it will be.

        Raises:
            UpstreamError: it answered with an error, or not at all; `ContentMismatch` if sizes disagree already.
            StorageError: the file cannot be kept; `DiskFull` if there is no room.
        """
        while not self._begun and self._error is None:
            await self._wait()
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
            await self._wait()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            await self._news.wait()
        finally:
            self._waiting -= 1
            self._waited_at = time.monotonic()

    def open(self) -> BinaryIO:
        """A descriptor of the reader's own, valid to the end whatever becomes of the path. After `started`.

        Raises:
            StoreUnavailable: the file has been deleted since.
            OverlayError: why the leader in another process gave it up a moment ago.
        """
        # Renaming may happen between the two; the other order could miss both names.
        for path in (self._partial.path, self.path):
            with contextlib.suppress(FileNotFoundError):
                return open(path, "rb", buffering=0)
        if not self._leads:
            self.look()
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
            seen = Digests(self._promised)
            if opened is not None:
                await asyncio.to_thread(seen.take_start, opened.fileno(), position)
            async with contextlib.aclosing(self._rest(stream, position, seen)) as pieces:
                yield Bypass(self.size, pieces)

    async def _rest(self, stream: FileStream, position: int, seen: Digests) -> AsyncGenerator[bytes, None]:
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

    def look(self) -> bool:
        """Take over what the leader has done since the last look. For a follower.

        Returns:
            Whether that was all of it.

        Raises:
            OverlayError: why the leader gave it up.
            UpstreamUnreachable: another file arrives now in place of the one that readers have begun.
        """
        head = self._partial.head()
        if head is None or (head.trouble is not None and head.trouble.at < self._made_at):
            return False  # nothing is known yet, or no more; the lock will say how to go on
        if self._begun and head.generation != self._generation:
            raise self._given_up()
        if head.trouble is not None:
            raise head.trouble.error(self.upstream)
        here = self._partial.size()
        self._adopt(head)
        if head.sha256 is not None and head.size is not None:
            self._finish(head.sha256, head.size)
        elif here is not None and here > self._readable:
            self._tell(readable=here)
        return self.done

    async def rest(self) -> None:
        """Wait until it is time for another look."""
        await asyncio.sleep(_LOOK_WAITING if self._waiting else _LOOK_IDLE)

    def find(self, sha256: str, size: int) -> None:
        """Take note that the whole file lies in the cache: another leader has brought it.

        Raises:
            UpstreamUnreachable: it is not the file that readers have begun.
        """
        if self._begun:
            try:
                inode = os.stat(self._layout.cached_file(sha256)).st_ino
            except OSError:
                inode = 0
            if inode != self._inode:
                raise self._given_up()
        self._begun = True
        self._finish(sha256, size)

    async def fill(self) -> tuple[str, int]:
        """Fetch, or finish, verify and put into place. For the leader.

        Returns:
            sha256 and size of the file, which lies in the cache now.

        Raises:
            ContentMismatch, UpstreamError, StorageError: as readers are told. If only the last step fails,
                readers have been served all the same.
        """
        self._leads = True
        sink = await self._opened()
        try:
            await self._receive(sink)
            digest = self._verified(sink)
            self._finish(digest, sink.received)
            self._say(sink, digest)
            await asyncio.to_thread(sink.keep, self._layout.cached_file(digest))
        except asyncio.CancelledError:
            # It did not fail, its process ends: somebody else may go on with what is there.
            await asyncio.to_thread(sink.close)
            raise
        except BaseException as error:
            # The fault may lie in what an earlier leader left: then there is nothing to blame the upstream for.
            is_inherited = isinstance(error, ContentMismatch) and sink.inherited
            failure = self._given_up() if is_inherited else error
            if isinstance(failure, OverlayError):
                # Before the file goes: who looks for it then must find out why it is not there.
                self._say_trouble(failure)
            await asyncio.to_thread(sink.discard)
            if failure is not error:
                raise failure from error
            raise
        self._partial.forget()
        return digest, sink.received

    @property
    def is_abandoned(self) -> bool:
        """Whether this process goes on with it only to keep it: nobody has waited for it for some time."""
        return self._leads and not self._waiting and time.monotonic() - self._waited_at >= ABANDONED_SECONDS

    def stand_back(self) -> None:
        """Let go of the connection, and go on behind all others that wait for one; where it can be continued."""
        can_go_on = self._promised.is_any or self._etag is not None
        self._stands_back = self.size is not None and can_go_on

    def fail(self, error: OverlayError) -> None:
        """Tell readers of this process that it came to nothing. Without effect once that, or `done`, is known."""
        if not self.done and self._error is None:
            self._error = error
            self._tell()

    async def tell_others(self, error: OverlayError) -> None:
        """Tell followers in other processes so. For the leader, which has to keep the lock meanwhile."""
        self._say_trouble(error)
        try:
            await asyncio.sleep(HANDED_OVER)
        finally:
            self._partial.forget()

    def _say_trouble(self, error: OverlayError) -> None:
        if not self.done:
            self._partial.say(Head(self._generation or "", self._inode, self.size, trouble=Trouble.of(error)))

    def sweep(self) -> None:
        """Delete what a leader left behind and nobody went on with. For the holder of the lock."""
        self._partial.remove()

    async def _opened(self) -> Sink:
        """The partial file: a new one, or what another leader left of it."""
        head = self._partial.head()
        if head is not None and head.trouble is None and self._generation in {None, head.generation}:
            try:
                sink = await asyncio.to_thread(Sink, self._partial.path, self._promised, self._room, head)
            except FileNotFoundError:
                pass
            else:
                self._adopt(head)
                self._tell(readable=sink.received)
                return sink
        if self._begun:
            raise self._given_up()
        sink = Sink(self._partial.path, self._promised, self._room, None)
        self._generation, self._inode = sink.generation, sink.inode
        return sink

    async def _receive(self, sink: Sink) -> None:
        """Copy the whole file into `sink`; a connection that breaks midway is continued once."""
        if sink.inherited and self._is_whole(sink):
            return
        broken: OverlayError | None = None
        while True:
            # Without digest or validator only a comparison tells two halves of different files.
            start = sink.received if self._promised.is_any or self._etag is not None else 0
            try:
                async with self._client.file(self._record.url, start=start, etag=self._etag) as stream:
                    self._take_head(stream)
                    self._say(sink)
                    await self._copy(stream, sink)
                if not self._stands_back or sink.received == self.size:
                    break
                self._stands_back = False
            except (UpstreamUnreachable, UpstreamTimeout) as error:
                if self.size is not None and sink.received == self.size:
                    break
                if broken is not None or not self._begun:
                    raise
                broken = error
        if self.size is not None and sink.received != self.size:
            raise self._mismatch(f"it ended after {sink.received} of {self.size} bytes")

    def _is_whole(self, sink: Sink) -> bool:
        """Whether what another leader left needs no more than to be verified."""
        if self._promised.is_any:
            return sink.received == self.size
        head = self._partial.head()
        return head is not None and head.sha256 == sink.digests.sha256()

    def _verified(self, sink: Sink) -> str:
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

    async def _copy(self, stream: FileStream, sink: Sink) -> None:
        batches = _Batches()
        writing = asyncio.create_task(self._write(batches, sink))
        again = _Again(sink.received - stream.start, sink.digests.sha256())
        received = sink.received
        try:
            async for piece in stream.chunks():
                fresh = again.beyond(piece)
                if again.differs:
                    break
                if not fresh:
                    continue
                # The validator of other bytes than ours would join two halves of different files.
                self._etag = stream.etag
                received += len(fresh)
                self._bound(received)
                await batches.put(fresh)
                if writing.done() or self._stands_back:
                    break
        finally:
            # What has come is on disk before anybody decides how to go on; trouble of the disk comes first.
            batches.end()
            await writing
        if again.differs or not (again.is_over or self._stands_back):
            raise self._given_up()

    async def _write(self, batches: _Batches, sink: Sink) -> None:
        try:
            while batch := await batches.take():
                await asyncio.to_thread(sink.write, batch)
                self._tell(readable=sink.received)
        finally:
            batches.end()

    def _room(self, received: int) -> bool:
        """Make room for what is still to come, once."""
        if self._made_room:
            return False
        self._made_room = True
        return self._make_room(max(0, (self.size or 0) - received))

    def _adopt(self, head: Head) -> None:
        """Take over what another leader said of the file."""
        if not self._begun:
            self._generation, self._inode, self._begun = head.generation, head.inode, True
            self.size = head.size
            self._tell()

    def _say(self, sink: Sink, sha256: str | None = None) -> None:
        self._partial.say(Head(sink.generation, sink.inode, self.size, sha256))

    def _finish(self, sha256: str, size: int) -> None:
        self.sha256, self.size = sha256, size
        self._tell(readable=size, done=True)

    def _given_up(self) -> UpstreamUnreachable:
        return UpstreamUnreachable(self.upstream, f"{self._record.filename} was not fetched to its end")

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
