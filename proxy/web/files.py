"""Files and their metadata, private and upstream, by the same decision as their page."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from proxy.cache.files import metadata_record
from proxy.cache.transfers import Transfer
from proxy.domain.addresses import File
from proxy.errors import NoSuchFile, StorageError, StoreUnavailable
from proxy.index.answers import Borrowed, FileAnswer
from proxy.index.instance import Instance
from proxy.registry.packages import StoredFile
from proxy.web import problems, replies
from proxy.web.callers import Callers
from proxy.web.notes import DECIDED

_ATTEMPTS = 5


async def file(
    request: web.Request, address: File, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/files/{key}/{filename}` and `.metadata` beside it."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    shown = address.filename + address.suffix
    for _ in range(_ATTEMPTS):
        answer = await instance.index.file(index, sight, address.key, address.filename)
        if answer is None:
            raise NoSuchFile(f"no file {shown} at this address")
        request[DECIDED] = answer.decision
        headers = {
            "Cache-Control": replies.IMMUTABLE,
            **problems.decided(answer.decision),
            **replies.public(sight.anonymous),
        }
        source = answer.source
        if source is None:
            return problems.refusal_of_file(request, answer.decision, answer.withheld, shown)
        if address.suffix == ".provenance":
            raise NoSuchFile(f"there is no provenance of {address.filename} here")
        if isinstance(source, StoredFile):
            reply = await _ours(request, source, answer, instance, headers, is_metadata=bool(address.suffix))
        else:
            reply = await _borrowed(
                request, source, answer, instance, headers, is_metadata=bool(address.suffix)
            )
        if reply is not None:
            return reply
    raise StoreUnavailable(f"{shown} changes faster than it can be answered")


async def _ours(
    request: web.Request,
    stored: StoredFile,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
    *,
    is_metadata: bool,
) -> web.StreamResponse | None:
    """A private file; None where it changed while it was opened."""
    digest = stored.metadata_sha256 if is_metadata else stored.sha256
    if digest is None:
        raise NoSuchFile(f"{stored.record.filename} has no metadata")
    try:
        opened = instance.objects.open(digest)
    except NoSuchFile:
        if await instance.index.file_holds(answer):
            raise
        return None
    size = stored.size if not is_metadata else opened.seek(0, 2)
    return await replies.file(request, opened, size, f'"{digest}"', headers)


async def _borrowed(
    request: web.Request,
    source: Borrowed,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
    *,
    is_metadata: bool,
) -> web.StreamResponse | None:
    """An upstream's file, from the cache or while it arrives; None where the decision changed meanwhile."""
    record = source.record
    if is_metadata:
        if not record.core_metadata:
            raise NoSuchFile(f"{source.upstream} advertises no metadata of {record.filename}")
        record = metadata_record(record)
    cached = instance.files.cached(record)
    if cached is not None:
        whole = _open(cached.path)
        if whole is not None:
            hit = {**headers, **problems.decided(answer.decision, cache="hit")}
            return await replies.file(request, whole, cached.size, f'"{cached.sha256}"', hit)
    headers |= problems.decided(answer.decision, cache="fwd=uri-miss; stored")
    etag = f'"{record.sha256}"' if record.sha256 else None
    if etag is not None and replies.matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    if request.method == "HEAD" and record.size is not None:
        return replies.head(etag, record.size, headers)
    transfer = instance.files.join(source.upstream, record)
    with contextlib.ExitStack() as closing:
        opened: BinaryIO | None = None
        try:
            await transfer.started()
            if request.method != "HEAD":
                # Nothing is promised before there is something to send: a small file is verified by then.
                await transfer.past(0)
                opened = closing.enter_context(transfer.open())
        except StorageError:
            headers |= problems.decided(answer.decision, cache="fwd=uri-miss")
            return await _bypassed(request, transfer, answer, instance, etag, headers)
        if not await instance.index.file_holds(answer):
            return None
        if opened is None:
            return replies.head(etag, transfer.size, headers)
        return await replies.arriving(request, transfer, opened, etag, headers)


async def _bypassed(
    request: web.Request,
    transfer: Transfer,
    answer: FileAnswer,
    instance: Instance,
    etag: str | None,
    headers: dict[str, str],
) -> web.StreamResponse | None:
    """A file that cannot be kept, straight from its upstream; None where the decision changed meanwhile."""
    async with transfer.bypass() as passed:
        first = await anext(passed.pieces)
        if not await instance.index.file_holds(answer):
            return None
        if request.method == "HEAD":
            return replies.head(etag, passed.size, headers)
        return await replies.bypassing(request, passed, first, etag, headers)


def _open(path: str) -> BinaryIO | None:
    """Open a cached file; None where it was evicted since the look: then it is fetched like any other."""
    try:
        return Path(path).open("rb")
    except OSError:
        return None
