"""`Instance`: the wired parts that routes and commands receive. `server.assembly` makes it, nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.cache.files import Files
from proxy.cache.pages import Pages
from proxy.domain.snapshot import Snapshot
from proxy.identity.tokens import LastUse
from proxy.index.answers import Index
from proxy.index.variants import Variants
from proxy.registry.publish import Publisher
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.objects import DiskObjects
from proxy.upstream.client import Upstream


@dataclass(frozen=True, slots=True)
class Instance:
    """Everything that lives as long as the process does."""

    snapshot: Snapshot
    layout: Layout
    locks: Locks
    registry: Database
    cache: Database
    upstreams: Mapping[str, Upstream]
    objects: DiskObjects
    pages: Pages
    files: Files
    index: Index
    variants: Variants
    publisher: Publisher
    last_use: LastUse
    now: Callable[[], datetime]
