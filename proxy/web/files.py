"""Files and their metadata, private and upstream, by the same decision as their page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from aiohttp import HttpVersion11, web

from proxy.cache.files import CachedFile
from proxy.cache.transfers import Transfer
from proxy.domain.addresses import File
from proxy.errors import NoSuchFile, StorageError, StoreUnavailable
from proxy.index.answers import ATTEMPTS, Borrowed, FileAnswer, never_still
from proxy.index.instance import Instance
from proxy.registry.packages import StoredFile
from proxy.web import problems, replies, simple
from proxy.web.callers import Callers
from proxy.web.notes import Keepable, note_content, note_file

_PROVENANCE = {
    "Content-Type": "application/vnd.pypi.integrity.v1+json",
    "Cache-Control": "private, max-age=600",
}
"""Attestations may be added later (PEP 740)."""

_WORTH_WAITING = 2.0
"""Seconds that a part is waited for; who gets all of a file in its place may have gigabytes more to read."""
_LOOK_AGAIN = 0.2
"""Seconds after which it can be told how fast a file comes."""


async def file(
    request: web.Request, address: File, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/files/{key}/{filename}`, and beside it `.metadata` and, for private files, `.provenance`."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    simple.check_past(address.as_of, instance)
    shown = address.filename + address.suffix
    for _ in range(ATTEMPTS):
        answer = await instance.index.file(index, sight, address.key, address.filename, address.as_of)
        if answer is None:
            raise NoSuchFile(f"no file {shown} at this address")
        note_file(request, answer, address.key, address.filename, address.suffix)
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
        if instance.index.holds(answer):
            raise
        return None
    size = opened.seek(0, 2) if suffix else stored.size
    path = instance.objects.path(digest)
    keepable = None if path is None else _keepable(answer, digest, path, size)
    return await replies.file(request, opened, size, f'"{digest}"', headers, keepable)


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
        is_final = instance.metadata.is_final(source, kept)
        return await _cached(request, kept, opened, answer, instance, headers, is_final=is_final)
    found = await instance.metadata.read(source)
    if not instance.index.holds(answer):
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


async def _cached(
    request: web.Request,
    cached: CachedFile,
    opened: BinaryIO,
    answer: FileAnswer,
    instance: Instance,
    headers: dict[str, str],
    *,
    is_final: bool = True,
) -> web.StreamResponse:
    """What lies in the cache, whole; closes `opened`. Kept finished only if nothing else can take its place."""
    note_content(request, cached.sha256)
    hit = {**headers, **problems.decided(answer.decision, cache="hit")}
    used = partial(instance.files.use, cached)
    keepable = _keepable(answer, cached.sha256, cached.path, cached.size, used) if is_final else None
    return await replies.file(request, opened, cached.size, f'"{cached.sha256}"', hit, keepable)


def _keepable(
    answer: FileAnswer, digest: str, path: str, size: int, used: Callable[[], None] | None = None
) -> Keepable | None:
    """What a whole file is kept finished as: where it lies, since most are asked for once."""
    if not answer.is_keepable:
        return None
    return Keepable(answer.stamp, answer.good_until, f'"{digest}"', None, path, size, used)


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
            return await _cached(request, cached, whole, answer, instance, headers)
    headers |= problems.decided(answer.decision, cache="fwd=uri-miss; stored")
    etag = f'"{record.sha256}"' if record.sha256 else None
    if etag is not None and replies.matches(request.headers.get("If-None-Match"), etag):
        return web.Response(status=304, headers={**headers, "ETag": etag})
    if request.method == "HEAD":
        size = record.size
        if size is None:
            size = await instance.files.size_at(source.upstream, record)
            if not instance.index.holds(answer):
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
                await _wait_for_parts(request, transfer, etag)
                opened = closing.enter_context(transfer.open())
        except StorageError:
            headers |= problems.decided(answer.decision, cache="fwd=uri-miss")
            return await _bypassed(request, transfer, answer, instance, etag, headers)
        if not instance.index.holds(answer):
            return None
        if opened is None:
            return replies.head(etag, transfer.size, headers)
        if transfer.done and transfer.size is not None:
            note_content(request, transfer.sha256)
            return await replies.file(request, opened, transfer.size, f'"{transfer.sha256}"', headers)
        arrived = await replies.arriving(request, transfer, opened, etag, headers)
        note_content(request, transfer.sha256)
        return arrived


async def _wait_for_parts(request: web.Request, transfer: Transfer, etag: str | None) -> None:
    """Wait until all of an arriving file is verified, where only then it can be given as it was asked for.

    What is not verified is never given in parts, since nobody could tell of a part that it is wrong. So a range is
    waited for, if the rest comes soon; else it is answered with all of the file, which RFC 9110 14.2 allows.
    """
    size = transfer.size
    if request.version < HttpVersion11 and size is None:
        # Of this client's answer the end of the connection is the end: nothing could tell it that it broke off.
        position = 0
        while not transfer.done:
            position = await transfer.past(position)
    elif size is not None and replies.wanted_range(request, size, etag or "", {}) is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WORTH_WAITING):
                await _past_soon(transfer, size)


async def _past_soon(transfer: Transfer, size: int) -> None:
    """Wait until all of a file is there, or it shows that it comes too slowly to be worth that."""
    clock = asyncio.get_running_loop().time
    began, first = clock(), await transfer.past(0)
    position = first
    while not transfer.done:
        position = await transfer.past(position)
        took = clock() - began
        left = _WORTH_WAITING - took
        if took > _LOOK_AGAIN and (size - position) * took > (position - first) * left:
            return


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
        if passed.size is None and request.version < HttpVersion11:
            raise StoreUnavailable("a file of unknown size that cannot be kept needs HTTP/1.1")
        first = await anext(passed.pieces)
        if not instance.index.holds(answer):
            return None
        if request.method == "HEAD":
            return replies.head(etag, passed.size, headers)
        return await replies.bypassing(request, passed, first, etag, headers)
