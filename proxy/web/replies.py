"""Pages and files on the wire: validators, ranges, streaming, and the headers of contract 2."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import BinaryIO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.cache.transfers import Bypass, Transfer
from proxy.domain.decide import Decision, Word
from proxy.domain.negotiate import Representation
from proxy.errors import StorageError
from proxy.index.variants import StreamedVariant, Variant
from proxy.web.notes import SENT
from proxy.web.problems import NO_STORE, decided

_CHUNK = 256 << 10
_SMALL = 256 << 10
"""Files up to here are read at once, inline: cheaper than a thread."""

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z", re.ASCII)
IMMUTABLE = "private, max-age=31536000, immutable"
_VARY = "Accept, Accept-Encoding, Authorization"
_TYPES = {
    Representation.HTML: "text/html; charset=utf-8",
    Representation.HTML_V1: str(Representation.HTML_V1),
    Representation.JSON: str(Representation.JSON),
}


class _Streamed(web.StreamResponse):
    """An answer that is sent in pieces; `notes.SENT` says how far it came, also where it breaks off."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._noted = request
        return await super().prepare(request)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await super().write(data)
        self._noted[SENT] = self._noted.get(SENT, 0) + len(data)


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
    decision: Decision,
    *,
    status: str = "",
    client_max_age: timedelta = timedelta(0),
    is_public: bool = False,
) -> web.Response:
    """A page: 200, or 304 where the client has these bytes.

    Args:
        status: what the cache says.
        client_max_age: how long the client may keep an upstream page; others are asked for each time.
    """
    return _tagged(request, variant, _TYPES[representation], decision, status, client_max_age, is_public)


async def name_list(
    request: web.Request,
    variant: Variant | StreamedVariant,
    representation: Representation,
    *,
    is_public: bool = False,
) -> web.StreamResponse:
    """A list of names, as `page`; a long one leaves while it is made, so its length is not told before."""
    known = variant if isinstance(variant, Variant) else Variant(b"", variant.etag, variant.is_gzip)
    whole = _tagged(request, known, _TYPES[representation], None, "", timedelta(0), is_public)
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
    decision: Decision,
    *,
    status: str = "",
    client_max_age: timedelta = timedelta(0),
    is_public: bool = False,
) -> web.Response:
    """A document of the JSON API, as `page`."""
    return _tagged(request, variant, "application/json", decision, status, client_max_age, is_public)


def _tagged(
    request: web.Request,
    variant: Variant,
    content_type: str,
    decision: Decision | None,
    status: str,
    client_max_age: timedelta,
    is_public: bool,
) -> web.Response:
    age = int(client_max_age.total_seconds()) if decision and decision.word is Word.UPSTREAM else 0
    headers = {
        "Cache-Control": f"private, max-age={age}, must-revalidate",
        "Vary": _VARY,
        "ETag": variant.etag,
        **public(is_public),
    }
    if decision is not None:
        headers |= decided(decision, cache=status)
    if matches(request.headers.get("If-None-Match"), variant.etag):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = content_type
    if variant.is_gzip:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=variant.body, headers=headers)


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
    request: web.Request, opened: BinaryIO, size: int, etag: str, headers: Mapping[str, str]
) -> web.StreamResponse:
    """A whole file that lies on disk: 200, 206, 304 or 416. Closes `opened`."""
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
        if request.method == "HEAD":
            return web.Response(status=status, headers=sent)
        if length <= _SMALL:
            return web.Response(status=status, headers=sent, body=os.pread(opened.fileno(), length, first))
        response = _Streamed(status=status, headers=sent)
        await response.prepare(request)
        await _copy(response, opened, first, first + length)
        return response


async def _copy(response: web.StreamResponse, opened: BinaryIO, first: int, end: int) -> None:
    while first < end:
        chunk = await asyncio.to_thread(os.pread, opened.fileno(), min(_CHUNK, end - first), first)
        if not chunk:
            raise ConnectionResetError("the file became shorter while it was sent")
        await response.write(chunk)
        first += len(chunk)


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
    await response.prepare(request)
    position = 0
    # An error from here on breaks the connection off (web.app): this is no whole file, and no status can say so.
    try:
        while (ready := await transfer.past(position)) > position:
            await _copy(response, opened, position, ready)
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


def _streamed(etag: str | None, size: int | None, headers: Mapping[str, str]) -> web.StreamResponse:
    response = _Streamed(headers=_described(etag, size, headers))
    if size is None:
        response.enable_chunked_encoding()
    return response
