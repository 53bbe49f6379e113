"""What upstreams did to files that were known already, put where the owner finds it: log and audit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from proxy.domain.names import Name
from proxy.domain.pages import ChangedFile
from proxy.storage import audit
from proxy.storage.database import Database

_log = logging.getLogger(__name__)


async def note_changed(
    database: Database,
    now: Callable[[], datetime],
    upstream: str,
    name: Name,
    changed: Sequence[ChangedFile],
) -> None:
    """Record files whose page at `upstream` names another sha256 than before, each replacement once.

    Args:
        database: the registry, which holds the audit.

    Raises:
        StorageError: the registry cannot be changed.
    """
    _log.warning(
        "%s replaced %d files of %s under their names, first of all %s",
        upstream,
        len(changed),
        name,
        changed[0].filename,
    )
    at = now()
    await database.change(lambda change: audit.record_changed(change.connection, at, upstream, name, changed))
