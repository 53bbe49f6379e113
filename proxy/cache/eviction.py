"""Keeping the file cache below its size: the least recently used files go first.

Files that are still arriving are not in the ledger and so never go, nor do files that are held: nobody could fetch
them again. They count, so where there are many of them less of everything else is kept. An open descriptor outlives
the deletion of its file, so a reader that has begun is served to the end.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection

from proxy.cache.ledger import forget, least_recently_used, total_bytes
from proxy.errors import StorageError
from proxy.storage.database import Change
from proxy.storage.layout import Layout

_LOW_WATER = 0.95
"""Down to this share of the limit, so that not every further file has to evict one."""
_BATCH = 200


def evict(change: Change, layout: Layout, max_size: int, held: Collection[str]) -> list[str]:
    """Delete files until the ledger's sum is at most 95 % of `max_size`, if it is above `max_size` at all.

    Args:
        held: digests of files that stay.

    Returns:
        The digests of the files deleted, in that order.
    """
    total = total_bytes(change.connection)
    return free(change, layout, total - max_size * _LOW_WATER, held) if total > max_size else []


def free(change: Change, layout: Layout, wanted: float, held: Collection[str]) -> list[str]:
    """Delete the least recently used files until `wanted` bytes have gone, or all have that are not held.

    A file goes before its row does: a crash in between leaves a row without a file, which is a miss, not a
    file that nobody counts.

    Returns:
        As `evict`.
    """
    gone: list[str] = []
    while wanted > 0:
        batch: list[str] = []
        for digest, size in least_recently_used(change.connection, _BATCH, held):
            if wanted <= 0:
                break
            delete_file(layout, digest)
            batch.append(digest)
            wanted -= size
        forget(change.connection, batch)
        gone.extend(batch)
        if not batch:
            break
    return gone


def delete_file(layout: Layout, digest: str) -> bool:
    """Delete one cached file; False if there is none, or the file system will not."""
    # A name that is no key is not one of ours, and stays.
    with contextlib.suppress(OSError, StorageError):
        os.unlink(layout.cached_file(digest))
        return True
    return False
