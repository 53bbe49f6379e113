"""Core metadata of a wheel that lies at an upstream, without fetching the wheel (contract 7).

Two ways lead to them: the `.metadata` file beside the wheel, where the upstream has one, and METADATA inside the
wheel, read by ranges. Both are read into memory within limits of bytes and time. Which way to try, and what to
believe, is the business of `index.metadata`; how a wheel is read, that of `archive.inspect`.
"""

from __future__ import annotations

import asyncio
import io
import os
from typing import BinaryIO, cast
from urllib.parse import urldefrag

from proxy.archive.inspect import MAX_METADATA_SIZE, inspect_file
from proxy.domain.filenames import Distribution
from proxy.domain.pages import FileRecord
from proxy.errors import ContentMismatch, RangesRefused, UpstreamFaulty
from proxy.upstream.client import FileStream, Upstream

MAX_SECONDS = 60
"""How long reading one wheel's metadata may take, however steadily the bytes trickle."""

_TAIL = 80 << 10
"""The end of the archive is looked for in the last 64 KiB; before them lie most directories, and METADATA."""
_STEP = 32 << 10
"""What is asked for at least: behind a member's header lies the member."""
_MAX_RANGES = 9
_MAX_BYTES = 16 << 20
"""A wheel that takes more is cheaper to fetch as a whole, and goes to disk then, not to memory."""


async def fetch_beside(upstream: Upstream, record: FileRecord) -> bytes:
    """The `.metadata` file that `record` describes (`cache.files.metadata_record`), whatever its digest.

    Raises:
        UpstreamError: as `Upstream.file`; `UpstreamFaulty` also where it is larger than metadata may be.
    """
    with upstream.translated(record.filename):
        async with asyncio.timeout(MAX_SECONDS), upstream.file(urldefrag(record.url).url) as stream:
            return await _read(upstream, stream, MAX_METADATA_SIZE, record.filename)


async def read_metadata(upstream: Upstream, record: FileRecord, distribution: Distribution) -> bytes:
    """METADATA of the wheel that `record` describes, from a few ranges of it.

    Nothing but the archive's own checksum covers them: only the whole wheel can be compared with its digest.

    Args:
        distribution: what the wheel's filename says.

    Raises:
        RangesRefused: it cannot be read in parts, or not in few enough of them.
        InvalidArchive: it is no sound wheel, or has no METADATA of this name and version.
        ContentMismatch: it has another size than its page says.
        UpstreamError: as `Upstream.file`.
    """
    wheel = _RemoteWheel(upstream, record)
    with upstream.translated(f"parts of {record.filename}"):
        async with asyncio.timeout(MAX_SECONDS):
            await wheel.begin()
            while True:
                try:
                    # The reader asks for nothing of a file but to seek and to read.
                    file = cast("BinaryIO", wheel.parts)
                    return (await asyncio.to_thread(inspect_file, file, distribution)).metadata
                except _Missing as missing:
                    await wheel.fetch(missing.start, missing.end)


class _Missing(Exception):
    """The reader came to bytes that are not here: from `start` up to before `end`."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start = start
        self.end = end


class _Parts(io.RawIOBase):
    """The parts of a file that are here, as a file; reading anything else raises `_Missing`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._place = 0
        self._parts: list[tuple[int, bytes]] = []

    def add(self, start: int, content: bytes) -> None:
        self._parts.append((start, content))

    def next_after(self, offset: int) -> int:
        """Where the next part behind `offset` begins, or else the file ends."""
        return min((start for start, _ in self._parts if start > offset), default=self._size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = offset + (self._size if whence == os.SEEK_END else 0)
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        end = min(self._place + size, self._size)
        content = bytearray()
        place = self._place
        while place < end:
            found = next((part for part in self._parts if part[0] <= place < part[0] + len(part[1])), None)
            if found is None:
                raise _Missing(place, end)
            start, held = found
            content += held[place - start : end - start]
            place = start + len(held)
        self._place = max(self._place, end)
        return bytes(content)


class _RemoteWheel:
    """One wheel at its upstream: which ranges of it were fetched, and how many more may be."""

    def __init__(self, upstream: Upstream, record: FileRecord) -> None:
        self.parts = _Parts(0)
        self._upstream = upstream
        self._record = record
        self._size = record.size
        self._etag: str | None = None
        self._requests = 0
        self._bytes = 0

    async def begin(self) -> None:
        """Learn how long the wheel is, and fetch its end."""
        head = await self._get(0, 3) if self._size is None else None
        size = self._size or 0
        self.parts = _Parts(size)
        if head is not None:
            self.parts.add(0, head)
        if size:
            await self._add(max(0, size - _TAIL), size)

    async def fetch(self, start: int, end: int) -> None:
        """Fetch what lies from `start` up to before `end`, and some more while at it."""
        # The first four bytes are read of every archive, and nothing behind them.
        enough = end if end <= 4 else max(end, start + _STEP)
        await self._add(start, min(enough, self.parts.next_after(start)))

    async def _add(self, start: int, end: int) -> None:
        self.parts.add(start, await self._get(start, end - 1))

    async def _get(self, first: int, last: int) -> bytes:
        name, upstream = self._record.filename, self._upstream
        wanted = last - first + 1
        self._requests += 1
        self._bytes += wanted
        if self._requests > _MAX_RANGES or self._bytes > _MAX_BYTES:
            raise RangesRefused(upstream.name, f"{name} of {upstream.name} cannot be read in few parts")
        async with upstream.file(self._record.url, start=first, end=last, etag=self._etag) as stream:
            if not stream.is_part or stream.size is None:
                raise RangesRefused(upstream.name, f"{upstream.name} gives no part of {name}")
            if self._size is not None and stream.size != self._size:
                raise ContentMismatch(
                    upstream.name,
                    f"{name} of {upstream.name}: it has {stream.size} bytes where {self._size} were expected",
                )
            self._size = stream.size
            self._etag = stream.etag
            content = await _read(upstream, stream, wanted, name)
        # A file of less than four bytes ends before the first range does.
        if len(content) != min(wanted, self._size - first):
            raise UpstreamFaulty(
                upstream.name, f"{upstream.name} sent fewer bytes of {name} than it announced"
            )
        return content


async def _read(upstream: Upstream, stream: FileStream, limit: int, what: str) -> bytes:
    content = bytearray()
    async for piece in stream.chunks():
        content += piece
        if len(content) > limit:
            raise UpstreamFaulty(upstream.name, f"{upstream.name} sent more bytes of {what} than it may")
    return bytes(content)
