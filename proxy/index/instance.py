"""`Instance`: the wired parts that routes and commands receive. `server.assembly` makes it, nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.archive.sandbox import Sandbox
from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.domain.snapshot import Snapshot
from proxy.identity.oidc import Issuers
from proxy.identity.throttle import Throttle
from proxy.identity.tokens import LastUse
from proxy.index.answers import Index
from proxy.index.documents import Documents
from proxy.index.metadata import Metadata
from proxy.index.names import NameLists
from proxy.index.variants import Variants
from proxy.observe.metrics import Metrics
from proxy.registry.publish import Publisher
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.objects import DiskObjects
from proxy.upstream.client import Upstream
from proxy.upstream.issuers import IssuerDocuments


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
    upstream_documents: UpstreamDocuments
    files: Files
    metadata: Metadata
    known_names: KnownNames
    index: Index
    names: NameLists
    variants: Variants
    documents: Documents
    sandbox: Sandbox
    publisher: Publisher
    last_use: LastUse
    issuers: Issuers
    issuer_documents: IssuerDocuments
    throttle: Throttle
    metrics: Metrics
    version: str
    started_at: datetime
    now: Callable[[], datetime]
