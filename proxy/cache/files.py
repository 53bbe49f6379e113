"""Upstream files on disk, by content: open one that is here, or join the transfer of one that is not.

A file lies under its sha256 once it was verified, never before; a file whose page names no digest lies under
the digest that it turned out to have, and `urls` in the ledger says so. One transfer per file serves everybody
in this process (`cache.transfers`). Whether a file may be served at all is not asked here.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH116, PTH118, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
from cachetools import LRUCache

from proxy.cache.eviction import delete_file, evict
from proxy.cache.ledger import FileStats, Ledger, contents_of, forget, forget_all
from proxy.cache.transfers import Transfer
from proxy.domain.pages import FileRecord, url_key
from proxy.domain.snapshot import CacheSettings
from proxy.errors import (
    ContentMismatch,
    OverlayError,
    RangesRefused,
    StorageError,
    StoreUnavailable,
    UpstreamUnreachable,
)
from proxy.observe.metrics import CacheMetrics
from proxy.storage.database import Change, Database
from proxy.storage.disk import place, translated, write_whole
from proxy.storage.layout import Layout
from proxy.upstream.client import Upstream

QUARANTINE = timedelta(seconds=10)
"""How long an address that gave wrong bytes is not asked again."""
FLUSH_SECONDS = 5.0
"""How long last uses wait in memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A verified file on disk. Open it at once: it may be evicted later, a descriptor stays valid."""

    path: str
    size: int
    sha256: str

    def open(self) -> BinaryIO | None:
        """The file, for the caller to close; None where it was evicted since the look: then it is not here."""
        try:
            return open(self.path, "rb")
        except OSError:
            return None


def metadata_record(record: FileRecord) -> FileRecord:
    """The record of the `.metadata` file beside `record` (PEP 658), fetched and kept like any file.

    Its digest is known where the page names one. Where it names only the file's, that stands as a fragment behind
    the address: it is never sent, but another file at the same address then has other metadata.
    A query stays behind the path, as uv builds the address.
    """
    parts = urlsplit(record.url)
    digest = record.core_metadata if isinstance(record.core_metadata, str) else None
    fragment = f"of={record.sha256}" if digest is None and record.sha256 is not None else ""
    url = urlunsplit(parts._replace(path=parts.path + ".metadata", fragment=fragment))
    return msgspec.structs.replace(
        FileRecord(filename=record.filename + ".metadata"), sha256=digest, url=url, version=record.version
    )


def metadata_key(sha256: str) -> str:
    """The key of the metadata that were read out of the verified file with this digest."""
    return url_key(f"METADATA of {sha256}")


class Files:
    """The file cache of one process. All methods but `purge`, `recover` and `stats` belong to one event loop."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
        metrics: CacheMetrics,
    ) -> None:
        """Take a prepared layout and the migrated cache database; touches neither disk nor loop."""
        self._layout = layout
        self._database = database
        self._ledger = Ledger(database)
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._metrics = metrics
        self._transfers: dict[tuple[str, str, str], Transfer] = {}
        self._leaders: set[asyncio.Task[None]] = set()
        self._flushing: asyncio.Task[None] | None = None
        self._quarantined: LRUCache[str, tuple[datetime, ContentMismatch]] = LRUCache(1000)
        # The size of a digest's content never changes, so what was once read may be kept.
        self._sizes: LRUCache[str, int] = LRUCache(20_000)

    def cached(self, record: FileRecord) -> CachedFile | None:
        """The file of `record` if it lies here whole; None means: `join`. The rest is as for `kept`."""
        return self.kept(record.key, record.size)

    def kept(self, key: str, size: int | None = None) -> CachedFile | None:
        """What is kept under `key`, a sha256 or a `url-…` key, if it lies here whole.

        A file of the wrong size is damaged: it is deleted and counts as missing. Marks the last use. Blocks
        for a look at the file system and at most two point queries.

        Args:
            size: bytes that it should have, as far as anybody but the ledger says so.
        """
        digest = self.content_of(key)
        if digest is None:
            return None
        try:
            path = self._layout.cached_file(digest)
            found = os.stat(path).st_size
            expected = self._sizes.get(digest)
            if expected is None:
                expected = self._ledger.size_of(digest)
        except (OSError, StorageError):
            return None
        if expected is None:
            expected = size
        if expected is not None and found != expected:
            _log.warning(
                "a cached file had %d bytes in place of %d and was deleted: %s", found, expected, digest
            )
            delete_file(self._layout, digest)
            return None
        self._sizes[digest] = found
        self._ledger.mark(digest, found, self._now())
        self._flush_soon()
        return CachedFile(path, found, digest)

    def content_of(self, key: str) -> str | None:
        """The sha256 behind `key`, whether its content lies here or not; None where that is not known."""
        if not key.startswith("url-"):
            return key
        try:
            return self._ledger.content_of(key)
        except StorageError:
            return None

    async def keep(self, content: bytes, keys: Sequence[str]) -> CachedFile:
        """Keep `content`, a small thing, under its sha256 and these `url-…` keys; what they led to is forgotten.

        Raises:
            StorageError: it cannot be written; `DiskFull` if there is no room.
        """

        def write() -> CachedFile:
            digest = hashlib.sha256(content).hexdigest()
            aside = os.path.join(self._layout.partial_files, f"small-{secrets.token_hex(8)}")
            path = self._layout.cached_file(digest)
            with translated("core metadata cannot be kept"):
                write_whole(aside, content)
                place(aside, path)
            return CachedFile(path, len(content), digest)

        kept = await asyncio.to_thread(write)
        await self._keep_account(kept.sha256, kept.size, keys)
        return kept

    async def fetch(self, upstream: str, record: FileRecord) -> tuple[BinaryIO, str]:
        """The whole file of `record`, verified, and its sha256; by the transfer that everybody else would join.

        The caller closes the file.

        Raises:
            UpstreamError: as readers of the transfer are told.
            StoreUnavailable: it cannot be kept, and so cannot be had whole.
        """
        try:
            transfer = self.join(upstream, record)
            offset = 0
            while not transfer.done:
                offset = await transfer.past(offset)
            # A transfer that is done knows the digest of what it brought.
            return transfer.open(), cast("str", transfer.sha256)
        except StorageError as error:
            raise StoreUnavailable(f"{record.filename} cannot be kept, and so cannot be read") from error

    async def size_at(self, upstream: str, record: FileRecord) -> int | None:
        """Bytes of the file of `record` as its upstream tells them, which is asked; None where it does not.

        Raises:
            UpstreamError: it does not give the file at all.
        """
        try:
            async with self._upstreams[upstream].file(record.url, end=0) as stream:
                return stream.size
        except RangesRefused:
            return None

    def join(self, upstream: str, record: FileRecord) -> Transfer:
        """The transfer of `record` that is under way, or a new one with a leader of its own.

        Args:
            upstream: name of the upstream whose page holds `record`.

        Raises:
            ContentMismatch: its address gave wrong bytes a moment ago.
        """
        # By address as well: an upstream that names the digest of another's file must not hold up its readers.
        key = (upstream, record.key, record.url)
        transfer = self._transfers.get(key)
        if transfer is not None:
            self._metrics.joined.inc()
            return transfer
        quarantined = self._quarantined.get(record.url)
        if quarantined is not None:
            since, error = quarantined
            if timedelta(0) <= self._now() - since < QUARANTINE:
                raise error.with_traceback(None)
            del self._quarantined[record.url]
        transfer = Transfer(self._upstreams[upstream], record, self._layout)
        self._transfers[key] = transfer
        self._metrics.begun.inc()
        leader = asyncio.create_task(self._lead(transfer, record), name=f"transfer {record.key}")
        self._leaders.add(leader)
        leader.add_done_callback(self._leaders.discard)
        return transfer

    async def close(self) -> None:
        """Stop transfers under way, whose readers are told so, and write the last uses."""
        if self._flushing is not None:
            self._flushing.cancel()
        for leader in self._leaders:
            leader.cancel()
        await asyncio.gather(*self._leaders, return_exceptions=True)
        await self._flush()

    def recover(self) -> None:
        """Delete what transfers of an earlier process left half done. At start, before any transfer."""
        with contextlib.suppress(OSError), os.scandir(self._layout.partial_files) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)

    def stats(self) -> FileStats:
        """Number, bytes and oldest use of the files here. Also for commands."""
        return self._ledger.stats()

    def purge(self, keys: Iterable[str] | None) -> int:
        """Delete the files of these keys (`FileRecord.key`), or all files; return how many there were.

        For commands; takes effect in a running server at once, since it looks at the disk for every answer.

        Raises:
            StorageError: the cache database cannot be changed.
        """

        def act(change: Change) -> int:
            if keys is None:
                digests = self._on_disk()
                forget_all(change.connection)
            else:
                digests = contents_of(change.connection, keys)
                digests |= contents_of(change.connection, [metadata_key(digest) for digest in digests])
                forget(change.connection, digests)
            return sum(delete_file(self._layout, digest) for digest in digests)

        return self._database.change_now(act)

    def _on_disk(self) -> set[str]:
        return {name for _, _, names in os.walk(self._layout.cached_files) for name in names}

    async def _lead(self, transfer: Transfer, record: FileRecord) -> None:
        """Run a transfer to its end and tell its readers what became of it."""
        try:
            digest, size = await transfer.fill()
            await self._keep_account(digest, size, [record.key] if record.sha256 is None else [])
        except ContentMismatch as error:
            _log.warning("wrong bytes from an upstream: %s", error)
            self._quarantined[record.url] = (self._now(), error)
            transfer.fail(error)
        except StorageError as error:
            _log.warning("%s", error)
            transfer.fail(error)
        except OverlayError as error:
            _log.info("a transfer failed: %s", error)
            transfer.fail(error)
        except BaseException:
            transfer.fail(
                UpstreamUnreachable(transfer.upstream, f"{record.filename} was not fetched to its end")
            )
            raise
        finally:
            del self._transfers[transfer.upstream, record.key, record.url]
            if not transfer.done:
                self._metrics.failed.inc()

    async def _keep_account(self, digest: str, size: int, keys: Sequence[str]) -> None:
        """Enter a stored file and make room. The file is there already; trouble here harms nobody."""
        self._sizes[digest] = size

        at = self._now()

        def act(change: Change) -> list[str]:
            # Last uses first: what was read a moment ago must not look old.
            self._ledger.write_marks(change)
            for key in keys or (None,):
                self._ledger.enter(change, digest, size, at, key)
            return evict(change, self._layout, self._settings.max_size)

        try:
            evicted = await self._database.change(act)
        except StorageError as error:
            _log.warning("the cache ledger cannot be written: %s", error)
            return
        if evicted:
            self._metrics.evicted.inc(len(evicted))
            _log.info("%d files left the cache to make room", len(evicted))

    def _flush_soon(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_SECONDS)
        await self._flush()

    async def _flush(self) -> None:
        try:
            await self._ledger.flush()
        except StorageError as error:
            _log.warning("last uses cannot be written: %s", error)
