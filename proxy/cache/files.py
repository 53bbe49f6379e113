"""Upstream files on disk, by content: open one that is here, or join the transfer of one that is not.

A file lies under its sha256 once it was verified, never before; a file whose page names no digest lies under
the digest that it turned out to have, and `urls` in the ledger says so. One transfer per file serves everybody
in the instance (`cache.transfers`): whoever holds its lock leads, the others follow. Whether a file may be served at
all is not asked here.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH110, PTH116, PTH118, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
from cachetools import LRUCache

from proxy.cache.eviction import delete_file, evict, free
from proxy.cache.ledger import FileStats, Ledger, content_by_key, contents_of, forget, forget_all
from proxy.cache.partials import lock_of
from proxy.cache.transfers import HANDED_OVER, Transfer
from proxy.cache.verify import recount
from proxy.domain.pages import FileRecord, url_key
from proxy.domain.snapshot import CacheSettings
from proxy.errors import (
    ContentMismatch,
    DiskFull,
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
from proxy.storage.locks import Locks
from proxy.upstream.client import Upstream

QUARANTINE = timedelta(seconds=10)
"""How long an address that gave wrong bytes is not asked again."""
FLUSH_SECONDS = 5.0
"""How long last uses wait in memory."""
_SAY_AGAIN = timedelta(minutes=1)
"""How often a disk that stays full is complained of."""
_ADD_UP_SHARE = 0.001
"""After so much of the room was filled anew the ledger is added up: not for every one of many small files."""
_SPARE_SHARE = 0.01
"""So much of the room is made free, beside what is wanted, where the disk is full."""
_BACKGROUND_SHARE = 0.2
"""Share of an upstream's connections that files may hold for which no client waits."""
_SIGN_OF_LIFE = 1.0
"""Seconds between the signs that a leader gives, by the time of its partial file, also while nothing comes."""
_LIFELESS = 10.0
"""Seconds without one after which a leader is not waited for: it holds its lock, but its process stands still."""
_RECOUNT = "recount"
"""Held by the process that compares the ledger with the disk."""

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
    """The file cache, under one configuration. All but `purge`, `recover` and `stats` belong to one event loop."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        database: Database,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
        metrics: CacheMetrics,
        held: Callable[[], Collection[str]],
    ) -> None:
        """Take a prepared layout and the migrated cache database; touches neither disk nor loop.

        Args:
            held: says which digests stay, however full it is and whatever is purged; may raise StorageError.
        """
        self._layout = layout
        self._locks = locks
        self._database = database
        self._ledger = Ledger(database, self._lies_here)
        self._upstreams = upstreams
        self._settings = settings
        self._now = now
        self._metrics = metrics
        self._held = held
        self._transfers: dict[tuple[str, str, str], Transfer] = {}
        self._leaders: dict[asyncio.Task[None], Transfer] = {}
        self._left_behind: list[Transfer] = []
        self._background = {
            name: asyncio.Semaphore(max(1, int(upstream.settings.max_connections * _BACKGROUND_SHARE)))
            for name, upstream in upstreams.items()
        }
        self._closing = threading.Event()
        self._recounting: asyncio.Future[tuple[int, int]] | None = None
        self._added: float = settings.max_size
        self._complained: datetime | None = None
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
        cached = CachedFile(path, found, digest)
        self.use(cached)
        return cached

    def use(self, cached: CachedFile) -> None:
        """Mark the use of a file that was found before; it is not looked for."""
        self._ledger.mark(cached.sha256, cached.size, self._now())
        self._flush_soon()

    @property
    def is_idle(self) -> bool:
        """Whether no transfer is under way here."""
        return not self._leaders

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
            # Whoever sweeps up leaves alone what is locked.
            lock = lock_of(aside)
            self._locks.try_hold(lock)
            try:
                with translated("core metadata cannot be kept"):
                    write_whole(aside, content)
                    place(aside, path)
            finally:
                self._locks.release(lock)
            return CachedFile(path, len(content), digest)

        kept = await asyncio.to_thread(write)
        await self._keep_account(kept.sha256, kept.size, keys)
        return kept

    async def fetch(
        self, upstream: str, record: FileRecord, *, background: bool = False
    ) -> tuple[BinaryIO, str]:
        """The whole file of `record`, verified, and its sha256; by the transfer that everybody else would join.

        The caller closes the file.

        Args:
            background: no client waits for it, so it takes its turn among few of that kind; returns when it lies in
                the cache, not just when all of it may be read.

        Raises:
            UpstreamError: as readers of the transfer are told.
            StoreUnavailable: it cannot be kept, and so cannot be had whole.
        """
        async with self._background[upstream] if background else contextlib.nullcontext():
            try:
                transfer = self.join(upstream, record)
                offset = 0
                while not transfer.done:
                    offset = await transfer.past(offset)
                leaders = [leader for leader, led in self._leaders.items() if led is transfer]
                if background and leaders:
                    await asyncio.wait(leaders)
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
        """The transfer of `record` that is under way, or a new one, which this process leads unless another does.

        Args:
            upstream: name of the upstream whose page holds `record`.

        Raises:
            ContentMismatch: its address gave wrong bytes a moment ago.
        """
        key = _key(upstream, record)
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
        self._give_place(self._upstreams[upstream])
        transfer = Transfer(self._upstreams[upstream], record, self._layout, self._make_room)
        self._transfers[key] = transfer
        leader = asyncio.create_task(self._bring(transfer, record), name=f"transfer {record.key}")
        self._leaders[leader] = transfer
        leader.add_done_callback(self._leaders.pop)
        return transfer

    async def close(self) -> None:
        """Stop transfers under way, whose readers are told so, and write the last uses.

        Other processes that follow such a transfer go on with it.
        """
        self._closing.set()
        if self._flushing is not None:
            self._flushing.cancel()
        if self._recounting is not None:
            await asyncio.wait((self._recounting,))
        for leader in self._leaders:
            leader.cancel()
        await asyncio.gather(*self._leaders, return_exceptions=True)
        if self._left_behind:
            await asyncio.sleep(HANDED_OVER)
            for transfer in self._left_behind:
                if self._locks.try_hold(transfer.lock):
                    transfer.sweep()
                    self._locks.release(transfer.lock)
        await self._flush()

    def recover(self) -> None:
        """Delete what processes that were killed left half done. At start; what somebody still works at stays.

        After a power cut nobody could tell which of its bytes ever reached the disk, so it is fetched anew.
        """
        with contextlib.suppress(OSError), os.scandir(self._layout.partial_files) as entries:
            for entry in entries:
                lock = lock_of(self._layout.partial_of(entry.path))
                if self._locks.try_hold(lock):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
                    self._locks.release(lock)

    async def put_in_order(self) -> None:
        """Make the ledger agree with the disk, and the files fit into their room. In the background of each start.

        A process that is killed may leave a file that nobody counts, or a row without a file. Takes a look at each
        file's entry, in a thread; where another process is at it already it does nothing.
        """
        if not self._locks.try_hold(_RECOUNT):
            return
        try:
            # Whoever closes this waits for the thread, also where this call is cancelled.
            self._recounting = asyncio.ensure_future(
                asyncio.to_thread(recount, self._layout, self._database, self._closing.is_set)
            )
            unlisted, missing = await asyncio.shield(self._recounting)
            if unlisted or missing:
                _log.info("the cache ledger lacked %d files and had %d that are gone", unlisted, missing)
            self._note_evicted(await self._database.change(self._evict))
        except StorageError as error:
            _log.warning("the cache ledger cannot be put in order: %s", error)
        finally:
            self._locks.release(_RECOUNT)

    def stats(self) -> FileStats:
        """Number, bytes and oldest use of the files here. Also for commands."""
        return self._ledger.stats()

    def purge(self, keys: Iterable[str] | None) -> int:
        """Delete the files of these keys (`FileRecord.key`), or all files, but held ones; return how many there were.

        For commands; takes effect in a running server at once, since it looks at the disk for every answer.

        Raises:
            StorageError: the cache database cannot be changed, or nobody can tell what is held.
        """
        held = self._held()

        def act(change: Change) -> int:
            if keys is None:
                digests = self._on_disk().difference(held)
                forget_all(change.connection, held)
            else:
                digests = contents_of(change.connection, keys)
                digests |= contents_of(change.connection, [metadata_key(digest) for digest in digests])
                digests.difference_update(held)
                forget(change.connection, digests)
            return sum(delete_file(self._layout, digest) for digest in digests)

        return self._database.change_now(act)

    def lying_here(self, keys: Iterable[str]) -> dict[str, str]:
        """Of these keys those whose content lies here, each with its digest. Blocks for a look at each; for threads.

        Raises:
            StorageError: nobody can tell what lies behind `url-…` keys.
        """
        found = self._database.read_now(lambda connection: content_by_key(connection, keys))
        return {key: digest for key, digest in found.items() if self._lies_here(digest)}

    def _on_disk(self) -> set[str]:
        return {name for _, _, names in os.walk(self._layout.cached_files) for name in names}

    def _give_place(self, upstream: Upstream) -> None:
        """Have a transfer that nobody reads any more stand back where all connections for files are taken."""
        under_way = [transfer for transfer in self._transfers.values() if transfer.upstream == upstream.name]
        if len(under_way) >= upstream.file_places:
            abandoned = next((transfer for transfer in under_way if transfer.is_abandoned), None)
            if abandoned is not None:
                abandoned.stand_back()

    async def _bring(self, transfer: Transfer, record: FileRecord) -> None:
        """See a transfer to its end, and tell its readers in this process what became of it."""
        try:
            if await self._followed(transfer):
                self._metrics.joined.inc()
                return
            try:
                await self._lead(transfer, record)
            finally:
                self._locks.release(transfer.lock)
        except ContentMismatch as error:
            _log.warning("wrong bytes from an upstream: %s", error)
            self._quarantined[record.url] = (self._now(), error)
            transfer.fail(error)
        except StorageError as error:
            self._complain(error)
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
            self._forget(transfer, record)

    async def _followed(self, transfer: Transfer) -> bool:
        """Follow whoever leads `transfer` to its end: True. False: nobody does, and this process holds its lock now.

        Raises:
            StoreUnavailable: its leader stands still; readers are to go past the cache.
            OverlayError: what its leader failed by.
        """
        began = time.time()
        while not self._locks.try_hold(transfer.lock):
            if transfer.look():
                return True
            if time.time() - _sign_of_life(transfer, began) > _LIFELESS:
                raise StoreUnavailable(f"a transfer from {transfer.upstream} stands still")
            await transfer.rest()
        return False

    async def _lead(self, transfer: Transfer, record: FileRecord) -> None:
        """Fetch, or find that another leader has just done so. Holding its lock; raises what came of it."""
        here = self.kept(record.key, record.size)
        if here is not None:
            transfer.find(here.sha256, here.size)
            self._metrics.joined.inc()
            return
        self._metrics.begun.inc()
        _show_life(transfer)
        living = asyncio.create_task(_live(transfer))
        try:
            digest, size = await transfer.fill()
        except asyncio.CancelledError:
            self._left_behind.append(transfer)
            self._metrics.failed.inc()
            raise
        except OverlayError as error:
            # Who asks from now on begins anew; who has waited so far hears of this one.
            self._forget(transfer, record)
            if not transfer.done:
                self._metrics.failed.inc()
            transfer.fail(error)
            await transfer.tell_others(error)
            raise
        finally:
            living.cancel()
        await self._keep_account(digest, size, [record.key] if record.sha256 is None else [])

    def _forget(self, transfer: Transfer, record: FileRecord) -> None:
        """Let the next who asks for it begin another transfer."""
        key = _key(transfer.upstream, record)
        if self._transfers.get(key) is transfer:
            del self._transfers[key]

    def _complain(self, error: StorageError) -> None:
        """Say that files cannot be kept, now and then: while a disk is full every request could say so."""
        self._metrics.unkept.inc()
        if not isinstance(error, DiskFull):
            _log.warning("%s", error)
        elif self._complained is None or not timedelta(0) <= self._now() - self._complained < _SAY_AGAIN:
            self._complained = self._now()
            _log.warning("%s; files are passed through and not kept", error)

    async def _keep_account(self, digest: str, size: int, keys: Sequence[str]) -> None:
        """Enter a stored file and make room. The file is there already; trouble here harms nobody."""
        self._sizes[digest] = size
        self._added += size
        at = self._now()
        is_due = self._added >= self._settings.max_size * _ADD_UP_SHARE
        if is_due:
            self._added = 0.0

        def act(change: Change) -> list[str]:
            # Last uses first: what was read a moment ago must not look old.
            self._ledger.write_marks(change)
            for key in keys or (None,):
                self._ledger.enter(change, digest, size, at, key)
            return self._evict(change) if is_due else []

        try:
            self._note_evicted(await self._database.change(act))
        except StorageError as error:
            _log.warning("the cache ledger cannot be written: %s", error)

    def _evict(self, change: Change) -> list[str]:
        return evict(change, self._layout, self._settings.max_size, self._held())

    def _make_room(self, wanted: int) -> bool:
        """Delete what was not used for long, since the disk is full. For threads; True: there may be room now."""

        def act(change: Change) -> list[str]:
            self._ledger.write_marks(change)
            wished = wanted + self._settings.max_size * _SPARE_SHARE
            return free(change, self._layout, wished, self._held())

        try:
            evicted = self._database.change_now(act)
        except StorageError:
            return False
        self._note_evicted(evicted)
        return bool(evicted)

    def _note_evicted(self, evicted: Sequence[str]) -> None:
        if evicted:
            self._metrics.evicted.inc(len(evicted))
            _log.info("%d files left the cache to make room", len(evicted))

    def _lies_here(self, digest: str) -> bool:
        return os.path.exists(self._layout.cached_file(digest))

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


async def _live(transfer: Transfer) -> None:
    """Show again and again that this process leads a transfer, until its file is whole."""
    while not transfer.done:
        await asyncio.sleep(_SIGN_OF_LIFE)
        _show_life(transfer)


def _show_life(transfer: Transfer) -> None:
    if not transfer.done:
        with contextlib.suppress(OSError):
            os.utime(transfer.path)


def _sign_of_life(transfer: Transfer, began: float) -> float:
    """Seconds since 1970 of the last sign that its leader gave; where there is no file yet, `began`."""
    try:
        return os.stat(transfer.path).st_mtime
    except OSError:
        return began


def _key(upstream: str, record: FileRecord) -> tuple[str, str, str]:
    # By address as well: an upstream that names the digest of another's file must not hold up its readers.
    return upstream, record.key, record.url
