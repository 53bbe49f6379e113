"""Upstream project pages on disk (`cache.revalidated` has the rules), and what upstreams do not have.

"No such project" is kept in the cache database, for a short time and bounded in number.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH108, PTH110

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import bindparam, delete, func, insert, select

from proxy.cache.files import metadata_record
from proxy.cache.ledger import contents_of
from proxy.cache.revalidated import Cached, Revalidated
from proxy.domain.names import Name
from proxy.domain.pages import Page
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.errors import StorageError
from proxy.storage.board import EVERYTHING_BORROWED, Board, page_topic
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.tables import negatives
from proxy.upstream.client import Found, NoSuchProject, NotModified, Upstream

NoteReplaced: TypeAlias = Callable[[str, Name, Page | None, Page | None], Awaitable[None]]
"""Told what an upstream says now: its name, the project's, the page that was kept, and the one that takes its place.

The first is None where none was kept, the second where the upstream has no such project. May raise StorageError.
"""

NEGATIVES_AT_MOST = 50_000
_CLEAN_EVERY = 500
# Made once: making it costs as much as asking.
_UNTIL = select(negatives.c.until).where(
    negatives.c.upstream == bindparam("of"), negatives.c.name == bindparam("called")
)

_log = logging.getLogger(__name__)


class Pages(Revalidated[Name, Page]):
    """The page cache of one process. `get` and `close` belong to one event loop; the rest is for any thread."""

    def __init__(
        self,
        layout: Layout,
        locks: Locks,
        board: Board,
        database: Database,
        upstreams: Mapping[str, Upstream],
        settings: CacheSettings,
        now: Callable[[], datetime],
        note_replaced: NoteReplaced,
    ) -> None:
        """Take a prepared layout, locks, board and the migrated cache database; touches neither disk nor loop.

        Args:
            note_replaced: awaited before a page is shown for the first time, and before one is not shown any more.
        """
        super().__init__(layout, locks, board, upstreams, settings, now, Page)
        self._database = database
        self._note = note_replaced
        self._negatives_written = 0

    async def get(self, upstream: str, name: Name) -> Cached[Page] | None:
        """The page of `name` at `upstream`, or None for a valid "no such project".

        Cancelling the caller does not cancel the fetch, which others may wait for.

        Raises:
            UpstreamError: no valid answer, and no page that may still be shown.
            StorageError: as `get_cached`.
        """
        return await self.get_cached(upstream, name)

    async def has_kept(self, upstream: str, name: Name) -> bool:
        """Whether a page of `name` lies on disk, however old. Nobody is asked."""
        return await self._look(upstream, name) is not None

    def absent_until(self, upstream: str, name: Name) -> float | None:
        """Seconds of the epoch until which `upstream` is believed to have no project `name`; None: it may have.

        For how long an answer may be kept that was made of a None.
        """
        until = self._absent_until(upstream, name)
        return None if until is None else until.timestamp()

    def count(self) -> tuple[int, int]:
        """Numbers of kept pages and of kept "no such project"s. Also for commands."""
        query = select(func.count()).select_from(negatives).where(negatives.c.until > self._now())
        absent = self._database.read_now(lambda connection: connection.execute(query).scalar_one())
        return sum(1 for _ in self._paths(None)), int(absent)

    def purge(self, name: Name | None) -> int:
        """Forget what all upstreams said about `name`, or about everything; return how many pages that were.

        For commands; takes effect in a running server at once.

        Raises:
            StorageError: the cache database cannot be changed.
        """
        gone = 0
        upstreams = {*self._upstreams, *(directory.name for directory in self._directories())}
        for path in self._paths(name):
            with contextlib.suppress(OSError):
                os.unlink(path)
                gone += 1
        statement = delete(negatives)
        if name is not None:
            statement = statement.where(negatives.c.name == name)
        self._database.change_now(lambda change: change.connection.execute(statement).rowcount)
        if name is None:
            self._board.renew(EVERYTHING_BORROWED)
        else:
            self._board.renew(*(page_topic(upstream, name) for upstream in upstreams))
        return gone

    def keys_of(self, name: Name) -> set[str]:
        """Keys under which the file cache may hold what the kept pages of `name` list, `.metadata` included."""
        keys: set[str] = set()
        for path in self._paths(name):
            kept = self._read(path)
            if kept is None:
                continue
            for record in self._values.decode(kept.encoded).files:
                keys.add(record.key)
                keys.add(metadata_record(record).key)
        return keys

    def is_needed(self, path: str) -> bool:
        """Whether the kept page at `path`, though it may not be shown any more, lists files that the cache has.

        What becomes of those is told by comparing it with the upstream's next page. Blocks; for threads.
        """
        kept = self._read(path)
        if kept is None:
            return False
        keys = [record.key for record in self._values.decode(kept.encoded).files]
        try:
            digests = self._database.read_now(lambda connection: contents_of(connection, keys))
        except StorageError:
            return True
        return any(os.path.exists(self._layout.cached_file(digest)) for digest in digests)

    def _paths(self, name: Name | None) -> Iterator[str]:
        """The files of kept pages at all upstreams, also those that have left the configuration."""
        for directory in self._directories():
            if name is not None:
                path = self._layout.cached_page(directory.name, name)
                if os.path.exists(path):
                    yield path
                continue
            with contextlib.suppress(OSError), os.scandir(directory.path) as entries:
                yield from (entry.path for entry in entries)

    def _directories(self) -> Iterator[os.DirEntry[str]]:
        """Those of upstreams, also such as a running server has and this configuration has not."""
        with contextlib.suppress(OSError), os.scandir(self._layout.cached_pages) as directories:
            yield from directories

    def _path(self, upstream: str, key: Name) -> str:
        return self._layout.cached_page(upstream, key)

    def _name(self, key: Name) -> str:
        return key

    def _topic(self, upstream: str, key: Name) -> str:
        return page_topic(upstream, key)

    def _source(self, settings: UpstreamSettings) -> str:
        return settings.index_url

    async def _ask(
        self, client: Upstream, key: Name, etag: str | None
    ) -> Found[Page] | NotModified | NoSuchProject:
        return await client.page(key, etag)

    async def _note_replaced(
        self, upstream: str, key: Name, before: Cached[Page] | None, after: Page | None
    ) -> bool:
        try:
            await self._note(upstream, key, None if before is None else await before.decoded(), after)
        except StorageError as error:
            _log.warning("what an upstream removed or replaced cannot be recorded: %s", error)
            return False
        return True

    def _absent_until(self, upstream: str, key: Name) -> datetime | None:
        about = {"of": self._asked_at(upstream), "called": key}
        try:
            until = self._database.read_now(lambda connection: connection.execute(_UNTIL, about).scalar())
        except StorageError:
            return None
        now = self._now()
        # An end further away than any that could have been set comes from a clock that has been put back.
        return until if until is not None and now < until <= now + self._settings.not_found_for else None

    async def _keep_absent(self, upstream: str, key: Name, until: datetime) -> None:
        now = self._now()
        asked_at = self._asked_at(upstream)
        self._negatives_written += 1
        cleans = self._negatives_written % _CLEAN_EVERY == 1

        def act(change: Change) -> None:
            run = change.connection.execute
            run(delete(negatives).where(negatives.c.upstream == asked_at, negatives.c.name == key))
            run(insert(negatives).values(upstream=asked_at, name=key, until=until))
            if cleans:
                run(delete(negatives).where(negatives.c.until <= now))
                newest = select(negatives.c.until).order_by(negatives.c.until.desc())
                oldest_kept = run(newest.offset(NEGATIVES_AT_MOST - 1).limit(1)).scalar()
                if oldest_kept is not None:
                    run(delete(negatives).where(negatives.c.until < oldest_kept))

        try:
            await self._database.change(act)
        except StorageError as error:
            _log.warning("an absent name cannot be kept: %s", error)
