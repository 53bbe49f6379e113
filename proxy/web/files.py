"""Files and their metadata, private and upstream, by the same decision as their page."""

from __future__ import annotations

import contextlib
from typing import BinaryIO

from aiohttp import web

from proxy.cache.transfers import Transfer
from proxy.domain.addresses import File
from proxy.errors import NoSuchFile, StorageError
from proxy.index.answers import ATTEMPTS, Borrowed, FileAnswer, never_still
from proxy.index.instance import Instance
from proxy.registry.packages import StoredFile
from proxy.web import problems, replies
from proxy.web.callers import Callers
from proxy.web.notes import DECIDED

_PROVENANCE = {
    "Content-Type": "application/vnd.pypi.integrity.v1+json",
    "Cache-Control": "private, max-age=600",
}
"""Attestations may be added later (PEP 740)."""


async def file(
    request: web.Request, address: File, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/files/{key}/{filename}`, and beside it `.metadata` and, for private files, `.provenance`."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    shown = address.filename + address.suffix
    for _ in range(ATTEMPTS):
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
        if isinstance(source, StoredFile):
            reply = await _ours(request, source, address.suffix, answer, instance, headers)
        elif address.suffix == ".metadata":
            reply = await _metadata(request, source, answer, instance, headers)
        elif address.suffix:
            raise NoSuchFile(f"there is no {address.suffix[1:]} of {address.filename} here")
        else:
            reply = await _borrowed(request, source, answer, instance, headers)
        if reply is not None:
            return reply
    raise never_still(shown)


async def _ours(
    request: web.Request,
    stored: StoredFile,
    suffix: str,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
) -> web.StreamResponse | None:
    """A private file or what lies beside it; None where it changed while it was opened."""
    digest: str | None = stored.sha256
    if suffix == ".metadata":
        digest = stored.metadata_sha256
    elif suffix == ".provenance":
        digest = stored.provenance_sha256
        headers |= _PROVENANCE
    if digest is None:
        raise NoSuchFile(f"{stored.record.filename} has no {suffix[1:]}")
    try:
        opened = instance.objects.open(digest)
    except NoSuchFile:
        if await instance.index.file_holds(answer):
            raise
        return None
    size = opened.seek(0, 2) if suffix else stored.size
    return await replies.file(request, opened, size, f'"{digest}"', headers)


async def _metadata(
    request: web.Request,
    source: Borrowed,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
) -> web.StreamResponse | None:
    """Core metadata of an upstream's file; None where the decision changed meanwhile."""
    record = source.record
    if not record.advertised:
        raise NoSuchFile(f"{source.upstream} advertises no metadata of {record.filename}")
    kept = instance.metadata.kept(source)
    opened = None if kept is None else kept.open()
    if kept is not None and opened is not None:
        headers |= problems.decided(answer.decision, cache="hit")
        return await replies.file(request, opened, kept.size, f'"{kept.sha256}"', headers)
    found = await instance.metadata.read(source)
    if not await instance.index.file_holds(answer):
        return None
    headers |= problems.decided(answer.decision, cache=found.status)
    opened = None if found.kept is None else found.kept.open()
    etag = f'"{found.sha256}"'
    if opened is not None:
        return await replies.file(request, opened, len(found.content), etag, headers)
    response = replies.head(etag, len(found.content), headers)
    if request.method != "HEAD":
        response.body = found.content
    return response


async def _borrowed(
    request: web.Request,
    source: Borrowed,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
) -> web.StreamResponse | None:
    """An upstream's file, from the cache or while it arrives; None where the decision changed meanwhile."""
    record = source.record
    cached = instance.files.cached(record)
    if cached is not None:
        whole = cached.open()
        if whole is not None:
            hit = {**headers, **problems.decided(answer.decision, cache="hit")}
            return await replies.file(request, whole, cached.size, f'"{cached.sha256}"', hit)
    headers |= problems.decided(answer.decision, cache="fwd=uri-miss; stored")
    etag = f'"{record.sha256}"' if record.sha256 else None
    if etag is not None and replies.matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    if request.method == "HEAD":
        size = record.size
        if size is None:
            size = await instance.files.size_at(source.upstream, record)
            if not await instance.index.file_holds(answer):
                return None
        if size is not None:
            headers |= problems.decided(answer.decision, cache="fwd=uri-miss")
            return replies.head(etag, size, headers)
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
