"""What upstreams' JSON APIs say of projects and releases, on disk (`cache.revalidated` has the rules).

These documents adorn pages and decide nothing: without one, an answer is made from the page. So that an upstream
does not have one is kept in memory alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache

from proxy.cache.revalidated import Cached, Revalidated
from proxy.domain.documents import UpstreamDocument
from proxy.domain.names import Name
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.storage.layout import Layout
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
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
    ) -> None:
        """Take a prepared layout; touches neither disk nor loop."""
        super().__init__(layout, upstreams, settings, now, UpstreamDocument)
        self._absent: LRUCache[tuple[str, Part], datetime] = LRUCache(10_000)

    async def get(
        self, upstream: str, name: Name, version: str | None = None
    ) -> Cached[UpstreamDocument] | None:
        """The document of `name`, or of its release `version`, at `upstream`; None where it has none.

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and no document that may still be shown.
        """
        if self._upstreams[upstream].settings.json_url is None:
            return None
        return await self.get_cached(upstream, Part(name, version))

    def purge(self, name: Name | None) -> None:
        """Forget what all upstreams said of `name`, or of everything.

        For commands; what a running server knows to be absent it believes for `not_found_for` at most.
        """
        with contextlib.suppress(OSError), os.scandir(self._layout.cached_documents) as directories:
            for directory in directories:
                path = directory.path if name is None else self._layout.documents_of(directory.name, name)
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, upstream: str, key: Part) -> str:
        return self._layout.cached_document(upstream, key.name, key.version)

    def _name(self, key: Part) -> str:
        return key.name if key.version is None else f"{key.name} {key.version}"

    def _source(self, settings: UpstreamSettings) -> str:
        return settings.json_url or ""

    async def _ask(
        self, client: Upstream, key: Part, etag: str | None
    ) -> Found[UpstreamDocument] | NotModified | NoSuchProject:
        return await client.document(key.name, key.version, etag)

    def _is_known_absent(self, upstream: str, key: Part) -> bool:
        until = self._absent.get((upstream, key))
        now = self._now()
        return until is not None and now < until <= now + self._settings.not_found_for

    async def _keep_absent(self, upstream: str, key: Part, until: datetime) -> None:
        self._absent[upstream, key] = until
