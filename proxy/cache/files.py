"""Upstream files on disk, by content: open one that is here, or join the transfer of one that is not.

A file lies under its sha256 once it was verified, never before; a file whose page names no digest lies under
the digest that it turned out to have, and `urls` in the ledger says so. One transfer per file serves everybody
in this process (`cache.transfers`). Whether a file may be served at all is not asked here.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH116

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import msgspec
from cachetools import LRUCache

from proxy.cache.eviction import delete_file, evict
from proxy.cache.ledger import FileStats, Ledger, contents_of, forget, forget_all
from proxy.cache.transfers import Transfer
from proxy.domain.pages import FileRecord
from proxy.domain.snapshot import CacheSettings
from proxy.errors import ContentMismatch, OverlayError, StorageError, UpstreamUnreachable
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.upstream.client import Upstream

QUARANTINE = timedelta(seconds=10)
"""How long an address that gave wrong bytes is not asked again."""
FLUSH_SECONDS = 5.0
"""How long last uses wait in memory."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A verified file on disk. Open `path` at once: it may be evicted later, a descriptor stays valid."""

    path: str
    size: int
    sha256: str


def metadata_record(record: FileRecord) -> FileRecord:
    """The record of the `.metadata` file beside `record` (PEP 658), fetched and kept like any file.

    Its digest is known where the page names one. A query stays behind the path, as uv builds the address.
    """
    parts = urlsplit(record.url)
    url = urlunsplit(parts._replace(path=parts.path + ".metadata"))
    digest = record.core_metadata if isinstance(record.core_metadata, str) else None
    return msgspec.structs.replace(
        FileRecord(filename=record.filename + ".metadata"), sha256=digest, url=url, version=record.version
    )


class Files:
    """The file cache of one process. All methods but `purge`, `recover` and `stats` belong to one event loop."""

    def __init__(
        self,
        layout: Layout,
        database: Database,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout and the migrated cache database; touches neither disk nor loop."""
        self._layout = layout
        self._database = database
        self._ledger = Ledger(database)
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._transfers: dict[tuple[str, str, str], Transfer] = {}
        self._leaders: set[asyncio.Task[None]] = set()
        self._flushing: asyncio.Task[None] | None = None
        self._quarantined: LRUCache[str, tuple[datetime, ContentMismatch]] = LRUCache(1000)
        # The size of a digest's content never changes, so what was once read may be kept.
        self._sizes: LRUCache[str, int] = LRUCache(20_000)

    def cached(self, record: FileRecord) -> CachedFile | None:
        """The file of `record` if it lies here whole; None means: `join`.

        A file of the wrong size is damaged: it is deleted and counts as missing. Marks the last use. Blocks
        for a look at the file system and at most two point queries.
        """
        try:
            digest = record.sha256 or self._ledger.content_of(record.key)
            if digest is None:
                return None
            path = self._layout.cached_file(digest)
            size = os.stat(path).st_size
            expected = self._sizes.get(digest)
            if expected is None:
                expected = self._ledger.size_of(digest)
        except (OSError, StorageError):
            return None
        if expected is None:
            expected = record.size
        if expected is not None and size != expected:
            _log.warning(
                "a cached file had %d bytes in place of %d and was deleted: %s", size, expected, digest
            )
            delete_file(self._layout, digest)
            return None
        self._sizes[digest] = size
        self._ledger.mark(digest, size, self._now())
        self._flush_soon()
        return CachedFile(path, size, digest)

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
            return transfer
        quarantined = self._quarantined.get(record.url)
        if quarantined is not None:
            since, error = quarantined
            if timedelta(0) <= self._now() - since < QUARANTINE:
                raise error.with_traceback(None)
            del self._quarantined[record.url]
        transfer = Transfer(self._upstreams[upstream], record, self._layout)
        self._transfers[key] = transfer
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
                forget(change.connection, digests)
            return sum(delete_file(self._layout, digest) for digest in digests)

        return self._database.change_now(act)

    def _on_disk(self) -> set[str]:
        return {name for _, _, names in os.walk(self._layout.cached_files) for name in names}

    async def _lead(self, transfer: Transfer, record: FileRecord) -> None:
        """Run a transfer to its end and tell its readers what became of it."""
        try:
            digest, size = await transfer.fill()
            url_key = record.key if record.sha256 is None else None
            await self._keep_account(digest, size, url_key)
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

    async def _keep_account(self, digest: str, size: int, url_key: str | None) -> None:
        """Enter a stored file and make room. The file is there already; trouble here harms nobody."""
        self._sizes[digest] = size

        at = self._now()

        def act(change: Change) -> list[str]:
            # Last uses first: what was read a moment ago must not look old.
            self._ledger.write_marks(change)
            self._ledger.enter(change, digest, size, at, url_key)
            return evict(change, self._layout, self._settings.max_size)

        try:
            evicted = await self._database.change(act)
        except StorageError as error:
            _log.warning("the cache ledger cannot be written: %s", error)
            return
        if evicted:
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
