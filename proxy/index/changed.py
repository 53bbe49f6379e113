"""What upstreams did to files that were known already, put where the owner finds it: log, audit, and what is held."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from proxy.cache.files import Files
from proxy.cache.held import Unlisted, changes, held_files, hold, unlisted
from proxy.cache.sightings import Sightings
from proxy.domain.names import Name
from proxy.domain.pages import ChangedFile, Page, Status, changed_files
from proxy.domain.screen import HeldFile
from proxy.storage import audit
from proxy.storage.database import Change, Database

_log = logging.getLogger(__name__)


class Watch:
    """Hears of every page that takes the place of another. Owned by one event loop."""

    def __init__(
        self, registry: Database, files: Files, sightings: Sightings, now: Callable[[], datetime]
    ) -> None:
        """Take the registry, which holds the audit and what is held, and the cache of files."""
        self._registry = registry
        self._files = files
        self._sightings = sightings
        self._now = now

    async def note_replaced(self, upstream: str, name: Name, before: Page | None, after: Page | None) -> None:
        """Record what an upstream's new page of `name` means for files that are known, each thing once.

        Files that it names with another sha256 than before go into the audit as `changed`. Cached files that it
        does not list any more, or whose project it has quarantined, become held; what is offered again is not.

        Args:
            before: the page that was kept; None: none was, and then nobody can tell what was removed.
            after: the page that is about to be shown; None: the upstream has no such project.

        Raises:
            StorageError: a database cannot be read or changed.
        """
        if after is not None:
            self._sightings.note(upstream, name, after)
        known = await self._registry.read(partial(held_files, upstream=upstream, name=name))
        changed: Sequence[ChangedFile] = ()
        gone: Sequence[Unlisted] = ()
        if before is not None or (after is not None and after.status.status is Status.QUARANTINED):
            changed, gone = await asyncio.to_thread(self._compared, before, after)
        if not changed and not gone and not changes(known, after):
            return
        at = self._now()

        def act(change: Change) -> tuple[HeldFile, ...]:
            if changed:
                audit.record_changed(change.connection, at, upstream, name, changed)
            return hold(change, upstream, name, gone, after, at)

        newly = await self._registry.change(act)
        _tell(upstream, name, changed, newly)

    def _compared(
        self, before: Page | None, after: Page | None
    ) -> tuple[Sequence[ChangedFile], Sequence[Unlisted]]:
        """What was replaced, and what of the files that are not offered any more lies in the cache."""
        changed = () if before is None or after is None else changed_files(before, after)
        gone = unlisted(before, after)
        here = self._files.lying_here(record.key for record in gone)
        return changed, [Unlisted(record, here[record.key]) for record in gone if record.key in here]


def _tell(upstream: str, name: Name, changed: Sequence[ChangedFile], newly: Sequence[HeldFile]) -> None:
    if changed:
        _log.warning(
            "%s replaced files of %s under their names: %d, first of all %s",
            upstream,
            name,
            len(changed),
            changed[0].filename,
        )
    if newly:
        _log.warning(
            "%s %s files of %s that the cache has: %d, first of all %s; an owner may release what is held of them",
            upstream,
            newly[0].why,
            name,
            len(newly),
            newly[0].record.filename,
        )
