"""Core metadata of upstream files: every wheel has some, whatever its upstream offers (contract 7).

In this order: what is kept; METADATA out of the verified wheel, where that is cached; the `.metadata` file that the
upstream advertises; METADATA read from the remote wheel by ranges; the whole wheel, fetched by the transfer that
serves everybody, where its upstream gives no ranges. What a page names the digest of must have it, from wherever
it comes. What no digest covers is believed until the wheel itself is here: then the wheel counts, and what differs
is dropped. One search per file serves all who wait for it.

Metadata of private files lie in the object store and are no concern of this module; nor is whether a file may be
served at all, which `index.answers` decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, TypeAlias

from cachetools import LRUCache

from proxy.archive.inspect import inspect_file
from proxy.cache.files import CachedFile, Files, metadata_key, metadata_record
from proxy.domain.filenames import parse_distribution
from proxy.domain.names import parse_name
from proxy.domain.versions import parse_version
from proxy.errors import (
    ContentMismatch,
    InvalidFilename,
    InvalidInput,
    OverlayError,
    RangesRefused,
    StorageError,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
)
from proxy.index.answers import Borrowed
from proxy.storage.disk import translated
from proxy.upstream import remote_wheel
from proxy.upstream.client import Upstream

UNUSABLE_FOR = timedelta(seconds=10)
"""How long a wheel without usable metadata is not read again."""

_READS_AT_ONCE = 16
"""Wheels read by ranges or beside them at the same time: each may hold some MiB in memory."""

_HEADER_BYTES = 64 << 10
"""Name and version stand among the first fields, whatever follows."""

_log = logging.getLogger(__name__)
_Key: TypeAlias = tuple[str, str, str, bool | str | None]


@dataclass(frozen=True, slots=True)
class CoreMetadata:
    """Core metadata of one file.

    Attributes:
        content: METADATA as it stands in the wheel.
        kept: where it lies on disk; None where it could not be written.
        status: parameters for `Cache-Status` (RFC 9211).
    """

    content: bytes
    sha256: str
    kept: CachedFile | None
    status: str


class Metadata:
    """Finds core metadata for one process. All methods belong to one event loop."""

    def __init__(self, files: Files, upstreams: Mapping[str, Upstream], now: Callable[[], datetime]) -> None:
        """Take what files are fetched with; touches neither disk nor loop."""
        self._files = files
        self._upstreams = upstreams
        self._now = now
        self._searches: dict[_Key, asyncio.Task[CoreMetadata | OverlayError]] = {}
        self._failed: LRUCache[_Key, tuple[datetime, OverlayError]] = LRUCache(1000)
        # By digest of wheels that lie here: their bytes do not change, so nor does this.
        self._damaged: LRUCache[str, bool] = LRUCache(1000)
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)

    def kept(self, source: Borrowed) -> CachedFile | None:
        """The metadata of a file where they lie on disk; None means: `read`. Blocks as `Files.kept`."""
        record = source.record
        beside = metadata_record(record)
        if beside.sha256 is not None:
            return self._files.cached(beside)
        wheel = self._files.content_of(record.key)
        if wheel is not None:
            verified = self._files.kept(metadata_key(wheel))
            if verified is not None:
                return verified
            if wheel not in self._damaged and self._files.cached(record) is not None:
                return None
        return self._files.kept(beside.key)

    def is_final(self, source: Borrowed, kept: CachedFile) -> bool:
        """Whether nothing that is still to come gives a file other metadata than `kept`. Blocks as `Files.kept`."""
        if isinstance(source.record.core_metadata, str):
            return True
        wheel = self._files.content_of(source.record.key)
        verified = None if wheel is None else self._files.kept(metadata_key(wheel))
        return verified is not None and verified.sha256 == kept.sha256

    async def read(self, source: Borrowed) -> CoreMetadata:
        """The metadata of a file whose `advertised` is true, from wherever they can be had.

        Cancelling the caller does not cancel the search, which others may wait for.

        Raises:
            UpstreamFaulty: the upstream has none that can be used; `ContentMismatch` where their digest is not
                the one that its page names.
            UpstreamError, StorageError: they cannot be had now.
        """
        record = source.record
        key = (source.upstream, record.key, record.url, record.core_metadata)
        search = self._searches.get(key)
        if search is None:
            self._check_usable(key)
            search = asyncio.create_task(self._search(key, source), name=f"metadata of {record.key}")
            self._searches[key] = search
            search.add_done_callback(lambda _: self._searches.pop(key, None))
        found = await asyncio.shield(search)
        if isinstance(found, OverlayError):
            # Many may wait for the same object; without this its traceback would grow with each.
            raise found.with_traceback(None)
        return found

    async def close(self) -> None:
        """Stop searches under way."""
        searches = list(self._searches.values())
        for search in searches:
            search.cancel()
        await asyncio.gather(*searches, return_exceptions=True)

    def _check_usable(self, key: _Key) -> None:
        failed = self._failed.get(key)
        if failed is not None and timedelta(0) <= self._now() - failed[0] < UNUSABLE_FOR:
            raise failed[1].with_traceback(None)

    async def _search(self, key: _Key, source: Borrowed) -> CoreMetadata | OverlayError:
        """Find them, or say why not. Never raises on purpose: perhaps nobody waits any more."""
        try:
            return await self._found(source)
        except OverlayError as error:
            _log.info("no core metadata: %s", error)
            if isinstance(error, ContentMismatch) or isinstance(error.__cause__, InvalidInput):
                self._failed[key] = (self._now(), error)
            return error

    async def _found(self, source: Borrowed) -> CoreMetadata:
        kept = self.kept(source)
        if kept is not None:
            content = await asyncio.to_thread(_content, kept)
            if content is not None:
                return CoreMetadata(content, kept.sha256, kept, "hit")
        record = source.record
        if not record.filename.endswith(".whl"):
            return await self._beside(source)
        unusable: UpstreamFaulty | None = None
        try:
            found = await self._of_cached_wheel(source)
        except UpstreamFaulty as error:
            unusable = error
        else:
            if found is not None:
                return found
        if record.core_metadata:
            try:
                return await self._beside(source)
            except UpstreamTimeout:
                # Waiting as long once more would outlast every client.
                raise
            except UpstreamError as error:
                _log.warning("advertised metadata cannot be used: %s", error)
        if unusable is not None:
            raise unusable
        return await self._of_remote_wheel(source)

    async def _beside(self, source: Borrowed) -> CoreMetadata:
        """What the upstream serves beside the file, as it advertises."""
        record = source.record
        async with self._reads:
            content = await remote_wheel.fetch_beside(
                self._upstreams[source.upstream], metadata_record(record)
            )
        if record.core_metadata is True and not _speaks_of(content, record.filename):
            raise UpstreamFaulty(
                source.upstream,
                f"what {source.upstream} sent as metadata of {record.filename} is something else",
            )
        return await self._accepted(source, content, "fwd=uri-miss")

    async def _of_cached_wheel(self, source: Borrowed) -> CoreMetadata | None:
        """METADATA of the wheel, if that lies here."""
        wheel = self._files.cached(source.record)
        opened = None if wheel is None else wheel.open()
        if wheel is None or opened is None:
            return None
        return await self._inside(source, opened, wheel.sha256, "hit")

    async def _of_remote_wheel(self, source: Borrowed) -> CoreMetadata:
        """METADATA of the wheel at its upstream: in parts, or where it gives none, out of the whole."""
        record, upstream = source.record, self._upstreams[source.upstream]
        try:
            async with self._reads:
                content = await remote_wheel.read_metadata(
                    upstream, record, parse_distribution(record.filename)
                )
        except RangesRefused as error:
            _log.info("a wheel is fetched whole for its metadata: %s", error)
            opened, sha256 = await self._files.fetch(source.upstream, record)
            return await self._inside(source, opened, sha256, "fwd=uri-miss")
        except InvalidInput as error:
            raise _unusable(source, error) from error
        return await self._accepted(source, content, "fwd=uri-miss")

    async def _inside(self, source: Borrowed, opened: BinaryIO, wheel: str, status: str) -> CoreMetadata:
        """METADATA out of the verified wheel with this digest; closes it."""
        with opened:
            try:
                distribution = parse_distribution(source.record.filename)
                with translated("a cached wheel cannot be read"):
                    inspected = await asyncio.to_thread(inspect_file, opened, distribution)
            except InvalidInput as error:
                self._damaged[wheel] = True
                raise _unusable(source, error) from error
        return await self._accepted(source, inspected.metadata, status, wheel)

    async def _accepted(
        self, source: Borrowed, content: bytes, status: str, wheel: str | None = None
    ) -> CoreMetadata:
        """Metadata that were found, once they have the digest that the page names; kept where that is possible.

        Args:
            wheel: digest of the verified wheel that they stood in.
        """
        record = source.record
        sha256 = await asyncio.to_thread(_digest, content)
        if isinstance(record.core_metadata, str):
            if sha256 != record.core_metadata:
                raise ContentMismatch(
                    source.upstream,
                    f"the metadata of {record.filename} do not have the sha256 that {source.upstream} names",
                )
            keys = []
        else:
            keys = [metadata_record(record).key]
            if wheel is not None:
                believed = self._files.kept(keys[0])
                if believed is not None and believed.sha256 != sha256:
                    _log.warning(
                        "the metadata of %s that %s gave were not those of the wheel and are dropped",
                        record.filename,
                        source.upstream,
                    )
                keys.append(metadata_key(wheel))
        try:
            kept = await self._files.keep(content, keys)
        except StorageError as error:
            _log.warning("%s", error)
            return CoreMetadata(content, sha256, None, status)
        return CoreMetadata(content, sha256, kept, status if status == "hit" else f"{status}; stored")


def _content(kept: CachedFile) -> bytes | None:
    opened = kept.open()
    if opened is None:
        return None
    with opened:
        return opened.read()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _unusable(source: Borrowed, error: InvalidInput) -> UpstreamFaulty:
    return UpstreamFaulty(
        source.upstream,
        f"{source.record.filename} of {source.upstream} has no usable metadata: {error.message}",
    )


def _speaks_of(content: bytes, filename: str) -> bool:
    """Whether `content` begins as metadata of the name and version in `filename`, as far as that tells them.

    Nothing else would tell a page that says "sorry" with status 200 from metadata without a digest.
    """
    fields: dict[str, str] = {}
    for line in content[:_HEADER_BYTES].decode("utf-8", "replace").splitlines():
        if not line:
            break
        field, _, value = line.partition(":")
        fields.setdefault(field.lower(), value.strip())
    try:
        distribution = parse_distribution(filename)
        return (
            parse_name(fields.get("name", "")) == distribution.name
            and parse_version(fields.get("version", "")) == distribution.version
        )
    except InvalidFilename:
        return "metadata-version" in fields
    except InvalidInput:
        return False
