"""`Instance`: the wired parts that routes and commands receive. `server.assembly` makes it, nobody else.

An instance belongs to one configuration. Where that is loaded anew, another is made beside it, on the same
foundations, and `Running` says which one a request begins with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from proxy.archive.sandbox import Sandbox
from proxy.cache.advisories import Advisories
from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.cache.sightings import Sightings
from proxy.cache.variants import VariantFiles
from proxy.domain.snapshot import Snapshot
from proxy.errors import StoreUnavailable
from proxy.identity.oidc import Issuers
from proxy.identity.throttle import Throttle
from proxy.identity.tokens import LastUse
from proxy.index.answers import Index
from proxy.index.crew import Crew
from proxy.index.documents import Documents
from proxy.index.jobs import Jobs
from proxy.index.metadata import Metadata
from proxy.index.names import NameLists
from proxy.index.radar import Radar
from proxy.index.variants import Variants
from proxy.observe.metrics import Metrics
from proxy.observe.requests import RequestLog
from proxy.registry.publish import Publisher
from proxy.storage.board import Board
from proxy.storage.database import Database
from proxy.storage.downloads import Downloads
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.objects import DiskObjects
from proxy.upstream.client import Upstream
from proxy.upstream.issuers import IssuerDocuments

_LOOK = 0.001
"""Seconds between looks whether a configuration is in force again: a commit is waited for."""
_LONGEST_MOMENT = 10.0


@dataclass(frozen=True, slots=True)
class Foundations:
    """What lives as long as the process, whatever its configuration."""

    layout: Layout
    locks: Locks
    board: Board
    registry: Database
    cache: Database
    objects: DiskObjects
    sandbox: Sandbox
    last_use: LastUse
    downloads: Downloads
    request_log: RequestLog | None
    jobs: Jobs
    metrics: Metrics
    crew: Crew
    version: str
    started_at: datetime
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Instance(Foundations):
    """Everything that answers under one configuration, and what it stands on.

    Attributes:
        serial: stands on the board for as long as this configuration is in force; None: of a command, which is
            not asked anew when that changes.
        loaded_at: when the configuration was loaded.
    """

    snapshot: Snapshot
    serial: int | None
    loaded_at: datetime
    upstreams: Mapping[str, Upstream]
    pages: Pages
    sightings: Sightings
    upstream_documents: UpstreamDocuments
    files: Files
    metadata: Metadata
    known_names: KnownNames
    advisories: Advisories
    radar: Radar
    index: Index
    names: NameLists
    variant_files: VariantFiles
    variants: Variants
    documents: Documents
    publisher: Publisher
    issuers: Issuers
    issuer_documents: IssuerDocuments
    throttle: Throttle


class Running:
    """The instances of a serving process: the one in force, and one that is to follow it. Owned by one event loop."""

    def __init__(self, first: Instance) -> None:
        """Take the instance whose configuration is in force; one without a serial is never followed by another."""
        self._board = first.board
        self._current = first
        self._prepared: dict[int | None, Instance] = {first.serial: first}
        self._uses: Counter[int | None] = Counter()

    @property
    def instance(self) -> Instance:
        """What a request is to begin with now: wholly of the configuration in force.

        Raises:
            StoreUnavailable: a configuration is in force that this process was not given: it is about to be replaced.
                Or none is, for a moment; see `in_force`.
        """
        serial = self._board.serial
        if serial != self._current.serial is not None:
            found = self._prepared.get(serial)
            if found is None:
                raise StoreUnavailable("this worker missed a new configuration", hint="try again in a moment")
            self._current = found
        return self._current

    @property
    def latest(self) -> Instance:
        """The instance that requests began with last; for what may be of either, while one follows another."""
        return self._current

    async def in_force(self) -> Instance:
        """`instance`, after the moment in which one configuration follows another.

        Raises:
            StoreUnavailable: as `instance`.
        """
        waited = 0.0
        while self._board.is_suspended and waited < _LONGEST_MOMENT:
            await asyncio.sleep(_LOOK)
            waited += _LOOK
        return self.instance

    @contextlib.contextmanager
    def used(self, instance: Instance) -> Iterator[Instance]:
        """Keep an instance from being closed for the length of a `with` block, though another be in force."""
        self._uses[instance.serial] += 1
        try:
            yield instance
        finally:
            self._uses[instance.serial] -= 1
            if not self._uses[instance.serial]:
                del self._uses[instance.serial]

    def is_used(self, instance: Instance) -> bool:
        """Whether a request, or other work, that began with an instance is still under way."""
        return self._uses[instance.serial] > 0

    def prepare(self, instance: Instance) -> None:
        """Hold an instance ready for the moment in which the board shows its serial."""
        self._prepared[instance.serial] = instance

    def retire(self) -> list[Instance]:
        """Forget, and return, all instances that are not in force: those before, and those that never came to be."""
        current = self.instance
        gone = [instance for instance in self._prepared.values() if instance is not current]
        self._prepared = {current.serial: current}
        return gone
