"""The records of changes and of downloads as a whole: what is too old is deleted, old batches are joined."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxy.errors import StorageError
from proxy.index.instance import Instance
from proxy.storage import audit, downloads

_AT_ONCE = 2000
"""Events that are deleted in one transaction: writers wait for some milliseconds."""

_log = logging.getLogger(__name__)


def forget_old_records(instance: Instance, is_over: Callable[[], bool]) -> None:
    """Delete what the configuration no longer keeps (`audit`), and join old batches of downloads.

    For one process at a time, once a day; in a thread. What cannot be done now waits for the next day.

    Args:
        is_over: asked again and again; True: leave the rest.
    """
    kept, now = instance.snapshot.audit, instance.now()
    events_end, downloads_end = now - kept.events, now - kept.downloads
    registry, cache = instance.registry, instance.cache
    try:
        # Looked at first: mostly there is nothing to be done, and writers need not wait for that.
        while not is_over() and registry.read_now(
            lambda connection: audit.has_before(connection, events_end)
        ):
            registry.change_now(lambda change: audit.forget_before(change.connection, events_end, _AT_ONCE))
        while not is_over() and cache.read_now(
            lambda connection: downloads.has_before(connection, downloads_end)
        ):
            cache.change_now(lambda change: downloads.forget_before(change.connection, downloads_end))
        if not is_over():
            downloads.join_old(cache, now)
    except StorageError as error:
        _log.warning("old records could not be put in order: %s", error)
