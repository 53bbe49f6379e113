"""Looking through the file cache: every file against the digest that it is named by, the ledger against the disk.

A damaged file is one whose content has another sha256, or cannot be read. The ledger is bookkeeping: a row
that is missing, wrong or left over harms no answer, but bytes are then counted that are not there, or not
counted that are. Core metadata lie among the files and are looked at with them; pages and documents carry a digest
of their own and are checked whenever they are read.

`recount` is the quick half of it: it believes the contents, and sets the accounts right.

Works beside a running server, shard by shard, so that neither memory nor the writer's lock is held for long.
A file that comes or goes meanwhile is nobody's fault: the ledger is judged by the disk as it is at that moment, in
the transaction that mends it. What is still arriving lies elsewhere and is left alone.

What was found damaged and left is noted down, so that whoever asks how the cache is gets told without reading it all.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH116, PTH118, PTH123, PTH208

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import msgspec
from sqlalchemy import Connection

from proxy.cache.eviction import delete_file
from proxy.cache.ledger import correct, forget, sizes_between
from proxy.storage.database import Change, Database
from proxy.storage.disk import Stamp, stamp_of, write_whole
from proxy.storage.layout import Layout

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many files have been looked at, of how many."""

_SHARDS = tuple(f"{number:02x}" for number in range(256))
_DIGEST = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_THREADS = min(4, os.cpu_count() or 1)
"""Hashing leaves the interpreter's lock alone, so it takes as many cores as there are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found, and whether it was mended.

    Attributes:
        checked: files whose content was compared with their digest.
        bytes: of those files.
        damaged: the digests that files with other content stood under, in order.
        unlisted: sound files that the ledger did not know, or with another size.
        missing: rows of the ledger without a file.
        repaired: whether it was asked to mend, and all of this was.
        lost: digests of held files whose bytes are damaged or gone, in order: no upstream has them any more.
    """

    checked: int
    bytes: int
    damaged: tuple[str, ...]
    unlisted: int
    missing: int
    repaired: bool
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    """One file as it was when it was read."""

    size: int
    stamp: Stamp
    is_sound: bool


@dataclass(slots=True)
class _Tally:
    checked: int = 0
    bytes: int = 0
    damaged: dict[str, Stamp] = field(default_factory=dict)
    deleted: int = 0
    unlisted: int = 0
    missing: int = 0
    lost: set[str] = field(default_factory=set)


def verify(
    layout: Layout,
    database: Database,
    held: Collection[str],
    *,
    repair: bool = False,
    progress: Progress | None = None,
) -> Verified:
    """Look at every file of the cache; synchronous, for commands and threads.

    Args:
        layout: of a prepared data directory.
        database: the cache database, migrated.
        held: digests of files that are held, which have to be there.
        repair: delete what is damaged, so that it is fetched anew, and make the ledger agree with the disk.
            Else nothing is changed.
        progress: called in this thread after each file. What it raises ends the look, and leaves by here; what was
            mended until then stays so.

    Raises:
        StorageError: the cache database cannot be used. What was mended until then stays so.
    """
    total = sum(len(_listed(layout, shard)) for shard in _SHARDS)
    tally = _Tally(lost=set(held))

    def seen_one() -> None:
        tally.checked += 1
        if progress is not None:
            # Files may have come since they were counted.
            progress(tally.checked, max(total, tally.checked))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:
        try:
            for shard in _SHARDS:
                digests = _listed(layout, shard)
                seen: dict[str, _Seen] = {}
                looks = pool.map(lambda digest: _look(layout.cached_file(digest), digest), digests)
                for digest, one in zip(digests, looks, strict=True):
                    if one is not None:
                        seen[digest] = one
                        tally.bytes += one.size
                        if one.is_sound:
                            tally.lost.discard(digest)
                        seen_one()
                _settle(layout, database, shard, seen, tally, repair=repair)
        except BaseException:
            # Whoever breaks it off does not wait for all that is still to be read.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _note_damaged(layout, tally.damaged)
    repaired = repair and tally.deleted == len(tally.damaged)
    return Verified(
        tally.checked,
        tally.bytes,
        tuple(tally.damaged),
        tally.unlisted,
        tally.missing,
        repaired,
        tuple(sorted(tally.lost)),
    )


def recount(layout: Layout, database: Database, is_over: Callable[[], bool]) -> tuple[int, int]:
    """Make the ledger agree with the disk, without reading files; synchronous, for threads.

    Args:
        is_over: asked now and then; True breaks it off.

    Returns:
        How many files it did not know, or with another size, and how many rows had no file.

    Raises:
        StorageError: as `verify`.
    """
    tally = _Tally()
    for shard in _SHARDS:
        if is_over():
            break
        stamps = {digest: _stamp(layout.cached_file(digest)) for digest in _listed(layout, shard)}
        seen = {
            digest: _Seen(stamp[1], stamp, is_sound=True)
            for digest, stamp in stamps.items()
            if stamp is not None
        }
        _settle(layout, database, shard, seen, tally, repair=True)
    return tally.unlisted, tally.missing


def count_damaged(layout: Layout) -> int:
    """How many of the files that `verify` last found damaged are still there: not deleted, not fetched anew."""
    try:
        with open(layout.damaged_files, "rb") as file:
            noted = msgspec.json.decode(file.read(), type=dict[str, Stamp])
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return 0
    return sum(
        _stamp(os.path.join(layout.cached_files, digest[:2], digest)) == stamp
        for digest, stamp in noted.items()
    )


def _note_damaged(layout: Layout, damaged: Mapping[str, Stamp]) -> None:
    left = {digest: stamp for digest, stamp in damaged.items() if _stamp(layout.cached_file(digest)) == stamp}
    try:
        write_whole(layout.damaged_files, msgspec.json.encode(left))
    except OSError as error:
        _log.warning("what was found damaged cannot be noted: %s", error.strerror)


def _settle(
    layout: Layout, database: Database, shard: str, seen: Mapping[str, _Seen], tally: _Tally, *, repair: bool
) -> None:
    """Add what is wrong in one shard to the tally, and mend it if that is asked."""
    damaged = {digest: one.stamp for digest, one in seen.items() if not one.is_sound}
    tally.damaged |= damaged
    unlisted, missing = database.read_now(lambda connection: _disagreement(connection, layout, shard, seen))
    if repair and (damaged or unlisted or missing):

        def act(change: Change) -> tuple[int, Mapping[str, _Seen], list[str]]:
            # One that was fetched anew since it was read is another file, and stays.
            same = [digest for digest in damaged if _stamp(layout.cached_file(digest)) == damaged[digest]]
            gone = [digest for digest in same if delete_file(layout, digest)]
            forget(change.connection, gone)
            unlisted, missing = _disagreement(change.connection, layout, shard, seen)
            for digest, one in unlisted.items():
                modified = datetime.fromtimestamp(one.stamp[0] / 1e9, UTC)
                correct(change.connection, digest, one.size, modified)
            forget(change.connection, missing)
            return len(damaged) - len(same) + len(gone), unlisted, missing

        deleted, unlisted, missing = database.change_now(act)
        tally.deleted += deleted
    tally.unlisted += len(unlisted)
    tally.missing += len(missing)


def _disagreement(
    connection: Connection, layout: Layout, shard: str, seen: Mapping[str, _Seen]
) -> tuple[Mapping[str, _Seen], list[str]]:
    """Sound files that their row does not describe, and digests of rows without a file, both as of now.

    Files come before their rows and go before them too, so the disk is looked at after the rows.
    """
    rows = sizes_between(connection, shard, shard + "g")
    unlisted = {
        digest: one
        for digest, one in seen.items()
        if one.is_sound and rows.get(digest) != one.size and _stamp(layout.cached_file(digest)) == one.stamp
    }
    missing = [digest for digest in rows if _stamp(layout.cached_file(digest)) is None]
    return unlisted, missing


def _listed(layout: Layout, shard: str) -> list[str]:
    """The digests that stand in one directory of the cache. A name that is none is not one of ours."""
    with contextlib.suppress(OSError):
        return sorted(
            name for name in os.listdir(os.path.join(layout.cached_files, shard)) if _DIGEST.match(name)
        )
    return []


def _look(path: str, digest: str) -> _Seen | None:
    """Read one file whole; None if it has left the cache."""
    try:
        with open(path, "rb", buffering=0) as file:
            state = os.fstat(file.fileno())
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError:
        # What cannot be read cannot be served either.
        try:
            state = os.stat(path)
        except OSError:
            return None
        found = ""
    return _Seen(state.st_size, stamp_of(state), found == digest)


def _stamp(path: str) -> Stamp | None:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
