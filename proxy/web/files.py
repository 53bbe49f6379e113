"""Files and their metadata, private and upstream, by the same decision as their page."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from proxy.cache.files import metadata_record
from proxy.domain.addresses import File
from proxy.domain.pages import FileRecord
from proxy.errors import NoSuchFile, StoreUnavailable
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
        opened = _open(cached.path)
        if opened is not None:
            hit = {**headers, **problems.decided(answer.decision, cache="hit")}
            return await replies.file(request, opened, cached.size, f'"{cached.sha256}"', hit)
    headers |= problems.decided(answer.decision, cache="fwd=uri-miss; stored")
    etag = f'"{record.sha256}"' if record.sha256 else None
    if etag is not None and replies.matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    if request.method == "HEAD" and record.size is not None:
        return _head(headers, etag, record)
    transfer = instance.files.join(source.upstream, record)
    await transfer.started()
    if request.method != "HEAD":
        # Nothing is promised before there is something to send: a small file is verified by then.
        await transfer.past(0)
    if not await instance.index.file_holds(answer):
        return None
    if request.method == "HEAD":
        return _head(headers, etag, record, transfer.size)
    return await replies.arriving(request, transfer, etag, headers)


def _head(
    headers: dict[str, str], etag: str | None, record: FileRecord, size: int | None = None
) -> web.Response:
    sent = {**headers, "Content-Type": "application/octet-stream"}
    if etag is not None:
        sent["ETag"] = etag
    length = record.size if record.size is not None else size
    if length is not None:
        sent["Content-Length"] = str(length)
    return web.Response(headers=sent)


def _open(path: str) -> BinaryIO | None:
    """Open a cached file; None where it was evicted since the look: then it is fetched like any other."""
    try:
        return Path(path).open("rb")
    except OSError:
        return None
