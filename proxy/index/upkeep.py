"""What is done to the cache as a whole: counted, purged, verified, warmed. For commands and for jobs alike.

What ends in `_work` makes jobs (`index.jobs`): they ask for the instance in force when their turn comes, so that a
configuration loaded meanwhile counts, and say what went wrong in sentences.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TypeAlias

from proxy.cache.held import forget_held, held_digests
from proxy.cache.purge import Parts, Purged
from proxy.cache.purge import purge as purge_cache
from proxy.cache.verify import Progress as Checked
from proxy.cache.verify import Verified, count_damaged
from proxy.cache.verify import verify as verify_cache
from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.requirements import Needs
from proxy.errors import StoreUnavailable
from proxy.index.instance import Instance
from proxy.index.jobs import Progress, Work, in_thread
from proxy.index.warm import Warmed, warm
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.board import EVERYTHING_BORROWED

Current: TypeAlias = Callable[[], Awaitable[Instance]]
"""Gives the instance in force now."""

_log = logging.getLogger(__name__)


async def stats(instance: Instance) -> dict[str, object]:
    """How much the cache holds: the shape `cache` of contract 12.

    Raises:
        StorageError: the cache database cannot be read.
    """

    def count() -> dict[str, object]:
        files = instance.files.stats()
        pages, negative = instance.pages.count()
        return {
            "files": files.files,
            "bytes": files.bytes,
            "max_bytes": instance.snapshot.cache.max_size,
            "pages": pages,
            "negative": negative,
            "oldest_use": iso(files.oldest_use),
            "damaged": count_damaged(instance.layout),
        }

    return await asyncio.to_thread(count)


def purge(instance: Instance, names: Sequence[Name] | None, by: By) -> Purged:
    """Forget the pages of `names` and the files they list; None: everything. What is held stays.

    Synchronous, for any thread.

    Once it has returned, no server of this data directory answers by what is forgotten.

    Raises:
        StorageError: a database cannot be changed.
    """
    parts = Parts(
        instance.pages,
        instance.upstream_documents,
        instance.variant_files,
        instance.files,
        instance.known_names,
        instance.registry,
    )
    purged = purge_cache(parts, names)
    detail = {"names": "all" if names is None else list(names), **asdict(purged)}
    instance.registry.change_now(
        lambda change: audit.record(change.connection, by, "cache.purge", detail=detail)
    )
    return purged


def verify(instance: Instance, *, repair: bool, progress: Checked | None) -> Verified:
    """Compare every cached file with its digest (`cache.verify`). Synchronous, for any thread.

    Once it has returned, no server of this data directory answers by what it deleted. Of held files whose bytes are
    lost, `repair` forgets that they were held: there is nothing to release any more.

    Raises:
        StorageError: a database cannot be used.
    """
    held = instance.registry.read_now(held_digests)
    try:
        found = verify_cache(instance.layout, instance.cache, held, repair=repair, progress=progress)
        if repair and found.lost:
            instance.registry.change_now(partial(forget_held, digests=found.lost))
        return found
    finally:
        if repair:
            # Bytes of what was damaged may be kept in memory.
            instance.board.renew(EVERYTHING_BORROWED)


def purge_work(current: Current, names: Sequence[Name] | None, by: By) -> Work:
    """The job that purges."""

    async def work(progress: Progress) -> list[str]:
        instance = await current()
        purged = await in_thread(lambda: purge(instance, names, by))
        progress.tell(purged.pages + purged.files, purged.pages + purged.files)
        return []

    return work


def verify_work(current: Current, *, repair: bool) -> Work:
    """The job that verifies."""

    async def work(progress: Progress) -> list[str]:
        instance = await current()

        def checked(done: int, total: int) -> None:
            if progress.is_stopping:
                raise StoreUnavailable("the server is stopping")
            progress.tell(done, total)

        found = await in_thread(lambda: verify(instance, repair=repair, progress=checked))
        if found.repaired:
            return []
        return [
            *(f"the cached file {digest} is damaged" for digest in found.damaged),
            *(f"the held file {digest} is lost" for digest in found.lost),
        ]

    return work


def warm_work(current: Current, index: NamespacePath, wanted: Needs) -> Work:
    """The job that warms."""

    async def work(progress: Progress) -> list[str]:
        def report(warmed: Warmed) -> None:
            progress.tell(warmed.done, warmed.total)

        warmed = await warm(current, index, wanted, report)
        for name, reason in warmed.skipped:
            _log.info("not warmed: %s: %s", name, reason)
        return [f"{name}: {reason}" for name, reason in warmed.errors]

    return work
