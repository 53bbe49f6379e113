"""What upstreams' JSON APIs say of projects and releases, on disk (`cache.revalidated` has the rules).

These documents adorn pages and decide nothing: without one, an answer is made from the page. So that an upstream
does not have one is kept as a note (`cache.notes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from proxy.cache.notes import Note
from proxy.cache.revalidated import Cached, Revalidated
from proxy.domain.documents import UpstreamDocument
from proxy.domain.names import Name
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.storage.board import EVERYTHING_BORROWED, Board, document_topic
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.upstream.client import Found, NoSuchProject, NotModified, Upstream


class Part(NamedTuple):
    """A project's document, or that of its release `version`."""

    name: Name
    version: str | None


class UpstreamDocuments(Revalidated[Part, UpstreamDocument]):
    """The cache of documents in one process. All but `purge` belongs to one event loop."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        board: Board,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout, locks and board; touches neither disk nor loop."""
        super().__init__(layout, locks, board, upstreams, settings, now, UpstreamDocument)

    async def get(
        self, upstream: str, name: Name, version: str | None = None
    ) -> Cached[UpstreamDocument] | None:
        """The document of `name`, or of its release `version`, at `upstream`; None where it has none.

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and no document that may still be shown.
            StorageError: as `get_cached`.
        """
        if self._upstreams[upstream].settings.json_url is None:
            return None
        return await self.get_cached(upstream, Part(name, version))

    def absent_until(self, upstream: str, name: Name, version: str | None = None) -> float | None:
        """Seconds of the epoch until which `upstream` is believed to have no such document; None: it may have.

        For how long an answer may be kept that was made of a None.
        """
        if self._upstreams[upstream].settings.json_url is None:
            return math.inf
        until = self._absent_until(upstream, Part(name, version))
        return None if until is None else until.timestamp()

    def purge(self, name: Name | None) -> None:
        """Forget what all upstreams said of `name`, or of everything.

        For commands; what a running server knows to be absent it believes for `not_found_for` at most.
        """
        with contextlib.suppress(OSError), os.scandir(self._layout.cached_documents) as directories:
            for directory in directories:
                path = directory.path if name is None else self._layout.documents_of(directory.name, name)
                shutil.rmtree(path, ignore_errors=True)
        if name is None:
            self._board.renew(EVERYTHING_BORROWED)
        else:
            self._board.renew(*(document_topic(upstream, name) for upstream in self._upstreams))

    def _path(self, upstream: str, key: Part) -> str:
        return self._layout.cached_document(upstream, key.name, key.version)

    def _name(self, key: Part) -> str:
        return key.name if key.version is None else f"{key.name} {key.version}"

    def _topic(self, upstream: str, key: Part) -> str:
        return document_topic(upstream, key.name)

    def _source(self, settings: UpstreamSettings) -> str:
        return settings.json_url or ""

    async def _ask(
        self, client: Upstream, key: Part, etag: str | None
    ) -> Found[UpstreamDocument] | NotModified | NoSuchProject:
        return await client.document(key.name, key.version, etag)

    def _absent_until(self, upstream: str, key: Part) -> datetime | None:
        note = self._notes.read(self._absence(upstream, key))
        return None if note is None else note.absent_until(self._now(), self._settings.not_found_for)

    async def _keep_absent(self, upstream: str, key: Part, until: datetime) -> None:
        note = Note(self._absence(upstream, key), self._now(), until=until)
        await asyncio.to_thread(self._notes.write, note)

    def _absence(self, upstream: str, key: Part) -> str:
        return f"{self._name(key)} at {self._asked_at(upstream)}"
