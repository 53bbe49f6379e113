"""A cache on a fresh data directory before the fake upstream, under a clock that the test sets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.pages import Pages
from proxy.cache.transfers import Transfer
from proxy.domain.names import Name
from proxy.domain.pages import ChangedFile, FileRecord, Page, changed_files
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.observe.metrics import Metrics
from proxy.storage.board import Board
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.upstream.client import Upstream
from tests.support.upstream import FakeUpstream

EPOCH = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Clock:
    """Says what it was set to."""

    time: datetime = EPOCH

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


@dataclass
class Rig:
    """The cache of one process: open, close, open again on the same data."""

    directory: Path
    upstream: FakeUpstream
    settings: CacheSettings = field(default_factory=CacheSettings)
    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)
    changed: list[tuple[str, Name, ChangedFile]] = field(default_factory=list)
    replaced: list[tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    pages: Pages = field(init=False)
    documents: UpstreamDocuments = field(init=False)
    files: Files = field(init=False)
    layout: Layout = field(init=False)

    def open(self) -> None:
        self.layout = Layout(str(self.directory))
        self.layout.prepare()
        self.locks = Locks(self.layout)
        self.board = Board(self.layout)
        self.database = Database(self.layout.cache_database, self.locks, name="cache")
        self.database.migrate()
        timeouts = {"connect_timeout": timedelta(seconds=2), "read_timeout": timedelta(seconds=2)}
        said = {**timeouts, "json_url": f"{self.upstream.url}/pypi/", **self.options}
        about = UpstreamSettings("pypi", **{"index_url": self.upstream.index_url, **said})
        self.metrics = Metrics("0")
        self.client = Upstream(
            about,
            max_page_size=10 << 20,
            user_agent="pypi-overlay/test",
            metrics=self.metrics.upstream("pypi"),
            now=self.clock,
        )
        self.pages, self.documents = self.another()
        self.files = self.other_files()
        self.files.recover()

    def another(self) -> tuple[Pages, UpstreamDocuments]:
        """Pages and documents as they are in another process, or in this one under another configuration."""
        shared = (self.layout, self.locks, self.board)
        common = ({"pypi": self.client}, self.settings, self.clock)
        pages = Pages(*shared, self.database, *common, self.note_replaced)
        return pages, UpstreamDocuments(*shared, *common)

    def other_files(self) -> Files:
        """Files as they are in another process, or in this one under another configuration."""
        upstreams = {"pypi": self.client}
        basis = (self.layout, self.locks, self.database, upstreams, self.settings)
        return Files(*basis, self.clock, self.metrics.cache, lambda: self.held)

    async def note_replaced(self, upstream: str, name: Name, before: Page | None, after: Page | None) -> None:
        """Remember what was replaced: the versions of both pages, and the files that changed."""
        old, new = (None if page is None else page.versions for page in (before, after))
        self.replaced.append((old, new))
        if before is not None and after is not None:
            self.changed += [(upstream, name, file) for file in changed_files(before, after)]

    async def close(self) -> None:
        await self.pages.close()
        await self.documents.close()
        await self.files.close()
        await self.client.close()
        self.database.close()
        self.board.close()
        self.locks.close()

    async def reopen(self, **settings: Any) -> None:
        await self.close()
        if settings:
            self.settings = CacheSettings(**settings)
        self.open()

    def asked(self, path_part: str) -> int:
        return sum(path_part in request.path for request in self.upstream.requests())

    def record(self, filename: str, content: bytes, **more: Any) -> FileRecord:
        """The record of a file at the address that the upstream serves it from."""
        blake = hashlib.blake2b(content, digest_size=32).hexdigest()
        url = f"{self.upstream.url}/packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{filename}"
        about = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), **more}
        return FileRecord(filename=filename, url=url, **about)

    async def fetch(self, record: FileRecord) -> bytes:
        """Read a file as a client would, from its transfer."""
        return await follow(self.files.join("pypi", record))

    async def settle(self) -> None:
        """Wait until no transfer is under way."""
        await asyncio.gather(*self.files._leaders)


async def follow(transfer: Transfer, received: list[bytes] | None = None) -> bytes:
    """Read all of a transfer; what was read before it failed stands in `received`."""
    pieces = [] if received is None else received
    await transfer.started()
    offset = 0
    with transfer.open() as source:
        while (allowed := await transfer.past(offset)) > offset:
            pieces.append(read_exactly(source, allowed - offset))
            offset = allowed
    return b"".join(pieces)


def read_exactly(source: BinaryIO, size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = source.read(size - len(content))
        assert piece, "fewer bytes on disk than were promised"
        content += piece
    return content


@pytest.fixture
def rig_parts(tmp_path: Path, upstream: FakeUpstream) -> Rig:
    return Rig(tmp_path / "data", upstream)


@pytest.fixture
async def rig(rig_parts: Rig) -> AsyncIterator[Rig]:
    rig_parts.open()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(rig_parts.close)
        yield rig_parts


@pytest.fixture
def registry(rig: Rig) -> Iterator[Database]:
    """The registry beside the cache of `rig`, migrated."""
    registry = Database(rig.layout.registry_database, rig.locks, name="registry", board=rig.board)
    registry.migrate()
    yield registry
    registry.close()
