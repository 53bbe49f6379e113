"""Pages and files on the wire: validators, ranges, streaming, and the headers of contract 2."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import BinaryIO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.cache.transfers import Bypass, Transfer
from proxy.domain.decision import Word
from proxy.domain.negotiate import Coding, Representation
from proxy.errors import StorageError
from proxy.index.answers import PageAnswer
from proxy.index.variants import StreamedVariant, Variant
from proxy.web.notes import KEEP, SENT, Keepable
from proxy.web.problems import NO_STORE, decided
from proxy.web.sendfile import PATIENCE, Outlet, is_in_memory, load, outlet

_CHUNK = 256 << 10
_SMALL = 256 << 10
"""Files up to here leave with their head."""

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)
IMMUTABLE = "private, max-age=31536000, immutable"
_VARY = "Accept, Accept-Encoding, Authorization"
_TYPES = {
    Representation.HTML: "text/html; charset=utf-8",
    Representation.HTML_V1: str(Representation.HTML_V1),
    Representation.JSON: str(Representation.JSON),
}


class _Streamed(web.StreamResponse):
    """An answer that is sent in pieces; `notes.SENT` says how far it came, also where it breaks off.

    It waits for its client; one that takes nothing for `PATIENCE` has its connection broken off.
    """

    _outlet: Outlet | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._noted = request
        return await super().prepare(request)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await super().write(data)
        except TimeoutError:
            raise ConnectionResetError("the client takes nothing any more") from None
        self._note(len(data))

    @contextlib.asynccontextmanager
    async def of_file(self, request: web.Request) -> AsyncIterator[None]:
        """Send the head; inside, `send` alone gives the body, by the shortest way that there is."""
        writer = await self.prepare(request)
        if writer is None or self.content_length is None:
            yield
            return
        async with outlet(request.transport, writer) as way:
            self._outlet = way
            try:
                yield
            finally:
                self._outlet = None

    async def send(self, opened: BinaryIO, first: int, end: int) -> None:
        """Send the bytes of a file from `first` up to `end`, all of which are there.

        Raises:
            ConnectionResetError: the client is gone; or the file became shorter.
        """
        file, way = opened.fileno(), self._outlet
        if way is not None:
            before = way.sent
            try:
                await way.send(file, first, end)
            finally:
                self._note(way.sent - before)
            return
        for start in range(first, end, _CHUNK):
            stop = min(start + _CHUNK, end)
            if not is_in_memory(file, stop - 1):
                await asyncio.to_thread(load, file, start, stop)
            await self.write(_read(file, start, stop - start))
            # Where the transport takes everything at once nothing waits, and nobody would hear that the client left.
            await asyncio.sleep(0)

    def _note(self, sent: int) -> None:
        self._noted[SENT] = self._noted.get(SENT, 0) + sent


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` names `etag` (weak comparison, RFC 9110 13.1.2)."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def public(is_public: bool) -> dict[str, str]:
    """Answers that anybody may have are open to scripts of any origin."""
    return {"Access-Control-Allow-Origin": "*"} if is_public else {}


def page(
    request: web.Request,
    variant: Variant,
    representation: Representation,
    answer: PageAnswer,
    *,
    client_max_age: timedelta = timedelta(0),
    is_public: bool = False,
) -> web.Response:
    """A page: 200, or 304 where the client has these bytes. It may be kept finished where its answer may be kept.

    Args:
        client_max_age: how long the client may keep an upstream page; others are asked for each time.
    """
    reply = _tagged(request, variant, _TYPES[representation], answer, client_max_age, is_public)
    if answer.is_keepable:
        keep(request, reply, Keepable(answer.stamp, answer.good_until, variant.etag, variant.body))
    return reply


async def name_list(
    request: web.Request,
    variant: Variant | StreamedVariant,
    representation: Representation,
    *,
    is_public: bool = False,
) -> web.StreamResponse:
    """A list of names, as `page`; a long one leaves while it is made, so its length is not told before."""
    known = variant if isinstance(variant, Variant) else Variant(b"", variant.etag, variant.coding)
    whole = _tagged(request, known, _TYPES[representation], None, timedelta(0), is_public)
    if isinstance(variant, Variant) or whole.status == 304 or request.method == "HEAD":
        return whole
    response = _Streamed(headers=whole.headers)
    await response.prepare(request)
    async for piece in variant.pieces():
        await response.write(piece)
    return response


def document(
    request: web.Request,
    variant: Variant,
    answer: PageAnswer,
    *,
    client_max_age: timedelta = timedelta(0),
    is_public: bool = False,
) -> web.Response:
    """A document of the JSON API, as `page`; never kept finished, since it has more parts than its answer."""
    return _tagged(request, variant, "application/json", answer, client_max_age, is_public)


def _tagged(
    request: web.Request,
    variant: Variant,
    content_type: str,
    answer: PageAnswer | None,
    client_max_age: timedelta,
    is_public: bool,
) -> web.Response:
    is_borrowed = answer is not None and answer.decision.word is Word.UPSTREAM
    age = int(client_max_age.total_seconds()) if is_borrowed else 0
    headers = {
        "Cache-Control": f"private, max-age={age}, must-revalidate",
        "Vary": _VARY,
        "ETag": variant.etag,
        **public(is_public),
    }
    if answer is not None:
        headers |= decided(answer.decision, cache=answer.cache_status)
    if matches(request.headers.get("If-None-Match"), variant.etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = content_type
    if variant.coding is not Coding.IDENTITY:
        headers["Content-Encoding"] = variant.coding
    return web.Response(body=variant.body, headers=headers)


def keep(request: web.Request, reply: web.StreamResponse, keepable: Keepable) -> None:
    """Say that an answer may be kept finished, if it is one whose other forms can be made of it."""
    if reply.status == 200 and request.method == "GET":
        request[KEEP] = keepable


def wanted_range(
    request: web.Request, size: int, etag: str, headers: Mapping[str, str]
) -> tuple[int, int] | web.Response | None:
    """The single range that is asked for, as first byte and length; None: all of it; or the 416 with `headers`.

    Several ranges, other units, a stale `If-Range`, and methods but GET mean all of it (RFC 9110 14.2).
    """
    header = request.headers.get("Range") if request.method == "GET" else None
    condition = request.headers.get("If-Range")
    found = _ONE_RANGE.match(header.strip()) if header else None
    if found is None or (condition is not None and condition.strip() != etag) or found.group(0) == "bytes=-":
        return None
    first_text, last_text = found.groups()
    # Python refuses to read numbers of thousands of digits; no file is that long.
    if len(first_text) > 18 or len(last_text) > 18:
        return _unsatisfiable(size, headers)
    if not first_text:
        length = min(int(last_text), size)
        return (size - length, length) if length else _unsatisfiable(size, headers)
    first = int(first_text)
    last = min(int(last_text), size - 1) if last_text else size - 1
    if first >= size:
        return _unsatisfiable(size, headers)
    # A last position before the first makes the header invalid, so it counts as absent.
    return (first, last - first + 1) if last >= first else None


def _unsatisfiable(size: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=416, headers={**headers, **NO_STORE, "Content-Range": f"bytes */{size}"})


async def file(
    request: web.Request,
    opened: BinaryIO,
    size: int,
    etag: str,
    headers: Mapping[str, str],
    keepable: Keepable | None = None,
) -> web.StreamResponse:
    """A whole file that lies on disk: 200, 206, 304 or 416. Closes `opened`.

    Args:
        keepable: what it is kept finished as, if it may be.
    """
    with opened:
        if matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers={**headers, "ETag": etag})
        part = wanted_range(request, size, etag, headers)
        if isinstance(part, web.Response):
            return part
        status, (first, length) = (200, (0, size)) if part is None else (206, part)
        sent = {
            "Content-Type": "application/octet-stream",
            **headers,
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Content-Length": str(length),
        }
        if part is not None:
            sent["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
        reply: web.StreamResponse
        if request.method == "HEAD":
            return web.Response(status=status, headers=sent)
        file = opened.fileno()
        # Nothing may be waited for before the head is out: who asks has looked whether the answer still holds.
        if length <= _SMALL and (not length or is_in_memory(file, first + length - 1)):
            reply = web.Response(status=status, headers=sent, body=_read(file, first, length))
        else:
            reply = _Streamed(status=status, headers=sent)
            async with reply.of_file(request):
                await reply.send(opened, first, first + length)
        if keepable is not None:
            keep(request, reply, keepable)
        return reply


def _read(file: int, first: int, length: int) -> bytes:
    """A part of an open file, all of which is there.

    Raises:
        ConnectionResetError: the file became shorter: what was told of it is no longer so.
    """
    content = os.pread(file, length, first)
    if len(content) < length:
        raise ConnectionResetError("the file became shorter while it was sent")
    return content


async def arriving(
    request: web.Request,
    transfer: Transfer,
    opened: BinaryIO,
    etag: str | None,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """A file that is still arriving: streamed from its first byte, the last ones after they are verified.

    A range is answered with all of it, which RFC 9110 14.2 allows: what is not verified is not served in parts.
    Call it once the transfer has bytes to give; `opened` is what it gave to read them from.
    """
    response = _streamed(etag, transfer.size, headers)
    position = 0
    # An error from here on breaks the connection off (web.app): this is no whole file, and no status can say so.
    try:
        async with response.of_file(request):
            while (ready := await transfer.past(position)) > position:
                await response.send(opened, position, ready)
                position = ready
    except StorageError:
        async with transfer.bypass(opened, position) as rest:
            await _pass_on(response, rest)
    return response


async def bypassing(
    request: web.Request, passed: Bypass, first: bytes, etag: str | None, headers: Mapping[str, str]
) -> web.StreamResponse:
    """A file that cannot be kept, as `arriving`; `first` is the piece that was taken from it already."""
    response = _streamed(etag, passed.size, headers)
    await response.prepare(request)
    await response.write(first)
    await _pass_on(response, passed)
    return response


async def _pass_on(response: web.StreamResponse, passed: Bypass) -> None:
    async for piece in passed.pieces:
        await response.write(piece)


def head(etag: str | None, size: int | None, headers: Mapping[str, str]) -> web.Response:
    """What is known of a file that has not arrived yet, for HEAD; no ranges are promised of it."""
    return web.Response(headers=_described(etag, size, headers))


def _described(etag: str | None, size: int | None, headers: Mapping[str, str]) -> dict[str, str]:
    described = {**headers, "Content-Type": "application/octet-stream"}
    if etag is not None:
        described["ETag"] = etag
    if size is not None:
        described["Content-Length"] = str(size)
    return described


def _streamed(etag: str | None, size: int | None, headers: Mapping[str, str]) -> _Streamed:
    return _Streamed(headers=_described(etag, size, headers))
