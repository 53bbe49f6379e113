"""What lies in the file cache: sizes, last uses, and which content an address without a digest turned out to be.

The ledger is bookkeeping, never the truth: the files on disk are. It may be lost or lag behind; a file that
it does not know is entered when it is next opened. Owns the SQL of `files` and `urls` in the cache database.

Last uses are collected in memory and written by `flush`, so that reading a cached file writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from proxy.storage.database import Change, Database
from proxy.storage.tables import cached_files, cached_urls

T = TypeVar("T")

_MARKS_AT_MOST = 100_000
_KEYS_PER_STATEMENT = 500
_USED = (
    update(cached_files)
    .where(cached_files.c.key == bindparam("digest"))
    .values(last_used=bindparam("used"), size=bindparam("bytes"))
)
_STORED = insert(cached_files).values(
    key=bindparam("digest"), size=bindparam("bytes"), last_used=bindparam("used"), stored_at=bindparam("used")
)


@dataclass(frozen=True, slots=True)
class FileStats:
    """Number and bytes of the files that the ledger knows, and the longest unused one's last use."""

    files: int
    bytes: int
    oldest_use: datetime | None


class Ledger:
    """The ledger of one instance. Its queries run inline; what changes it runs in the writing thread."""

    def __init__(self, database: Database, is_here: Callable[[str], bool]) -> None:
        """Take the cache database, already migrated, and who knows whether the file of a digest lies on disk."""
        self._database = database
        self._is_here = is_here
        self._marks: dict[str, tuple[datetime, int]] = {}

    def size_of(self, sha256: str) -> int | None:
        """Bytes of a file that was verified and stored under this digest; None if the ledger has none."""
        query = select(cached_files.c.size).where(cached_files.c.key == sha256)
        return self._database.read_now(lambda connection: connection.execute(query).scalar())

    def content_of(self, url_key: str) -> str | None:
        """The sha256 of what an address without a named digest led to; None if that is not known."""
        query = select(cached_urls.c.sha256).where(cached_urls.c.url_key == url_key)
        return self._database.read_now(lambda connection: connection.execute(query).scalar())

    def mark(self, sha256: str, size: int, at: datetime) -> None:
        """Note that a file was used; enters it at the next `flush` if the ledger does not know it."""
        if len(self._marks) < _MARKS_AT_MOST or sha256 in self._marks:
            self._marks[sha256] = (at, size)

    async def flush(self) -> None:
        """Write the collected marks. Raises StorageError; the marks are then lost, which costs nothing."""
        if self._marks:
            await self._database.change(self.write_marks)

    def write_marks(self, change: Change) -> None:
        """Write the collected marks as a part of `change`."""
        marks, self._marks = self._marks, {}
        # Listed at once: the event loop may be adding one.
        uses = [{"digest": key, "used": at, "bytes": size} for key, (at, size) in list(marks.items())]
        for part in _parts(uses):
            # What was deleted since it was used has no row any more, and must not get one again.
            _enter_many(change.connection, part, self._is_here)

    def enter(self, change: Change, sha256: str, size: int, at: datetime, url_key: str | None) -> None:
        """Enter a stored file, and the address it came from if its page named no digest."""
        _enter(change.connection, sha256, size, at)
        if url_key is not None:
            change.connection.execute(delete(cached_urls).where(cached_urls.c.url_key == url_key))
            change.connection.execute(insert(cached_urls).values(url_key=url_key, sha256=sha256))

    def stats(self) -> FileStats:
        """What the ledger knows, for people."""
        query = select(
            func.count(), func.coalesce(func.sum(cached_files.c.size), 0), func.min(cached_files.c.last_used)
        ).select_from(cached_files)
        files, size, oldest = self._database.read_now(
            lambda connection: tuple(connection.execute(query).one())
        )
        return FileStats(int(files), int(size), oldest)


def _enter(connection: Connection, sha256: str, size: int, at: datetime) -> None:
    _enter_many(connection, [{"digest": sha256, "used": at, "bytes": size}], lambda _: True)


def _enter_many(
    connection: Connection, uses: Sequence[Mapping[str, Any]], is_here: Callable[[str], bool]
) -> None:
    """Enter uses of files: `digest`, `used` and `bytes` of each; those not known are stored now, if they lie here.

    Statements of many rows, since a busy server uses thousands of files between two writings.
    """
    wanted = cached_files.c.key.in_([use["digest"] for use in uses])
    known = set(connection.execute(select(cached_files.c.key).where(wanted)).scalars())
    if known:
        connection.execute(_USED, [use for use in uses if use["digest"] in known])
    stored = [use for use in uses if use["digest"] not in known and is_here(use["digest"])]
    if stored:
        connection.execute(_STORED, stored)


def total_bytes(connection: Connection) -> int:
    """Bytes of all files that the ledger knows."""
    return int(connection.execute(select(func.coalesce(func.sum(cached_files.c.size), 0))).scalar_one())


def least_recently_used(
    connection: Connection, limit: int, but: Collection[str] = ()
) -> list[tuple[str, int]]:
    """Digest and size of at most `limit` files, the longest unused first; none of the digests in `but`."""
    query = select(cached_files.c.key, cached_files.c.size).order_by(
        cached_files.c.last_used, cached_files.c.stored_at, cached_files.c.key
    )
    rows = connection.execute(query.limit(limit + len(but)))
    return [(row.key, row.size) for row in rows if row.key not in but][:limit]


def sizes_between(connection: Connection, first: str, end: str) -> dict[str, int]:
    """Bytes of each file whose digest is at least `first` and below `end`, by digest."""
    query = select(cached_files.c.key, cached_files.c.size).where(
        cached_files.c.key >= first, cached_files.c.key < end
    )
    return {row.key: row.size for row in connection.execute(query)}


def correct(connection: Connection, sha256: str, size: int, stored_at: datetime) -> None:
    """Give a stored file its true size; one that is not known is entered, as unused since `stored_at`."""
    known = connection.execute(update(cached_files).where(cached_files.c.key == sha256).values(size=size))
    if known.rowcount == 0:
        _enter(connection, sha256, size, stored_at)


def contents_of(connection: Connection, keys: Iterable[str]) -> set[str]:
    """The digests behind `keys`, which are digests or `url-…` keys."""
    return set(content_by_key(connection, keys).values())


def content_by_key(connection: Connection, keys: Iterable[str]) -> dict[str, str]:
    """The digest behind each of `keys`, which are digests or `url-…` keys; those not known are left out."""
    wanted = list(keys)
    found = {key: key for key in wanted if not key.startswith("url-")}
    for part in _parts([key for key in wanted if key.startswith("url-")]):
        query = select(cached_urls.c.url_key, cached_urls.c.sha256).where(cached_urls.c.url_key.in_(part))
        found.update((row.url_key, row.sha256) for row in connection.execute(query))
    return found


def forget(connection: Connection, digests: Iterable[str]) -> None:
    """Strike out files that are no longer on disk, and the addresses that led to them."""
    for part in _parts(list(digests)):
        connection.execute(delete(cached_urls).where(cached_urls.c.sha256.in_(part)))
        connection.execute(delete(cached_files).where(cached_files.c.key.in_(part)))


def forget_all(connection: Connection, but: Collection[str]) -> None:
    """Strike out everything but these digests, and the addresses that led to them."""
    if but:
        known = set(connection.execute(select(cached_files.c.key)).scalars())
        known.update(connection.execute(select(cached_urls.c.sha256)).scalars())
        forget(connection, known.difference(but))
        return
    connection.execute(delete(cached_urls))
    connection.execute(delete(cached_files))


def _parts(items: list[T]) -> Iterable[list[T]]:
    # Engines bound the number of parameters of one statement.
    return (items[place : place + _KEYS_PER_STATEMENT] for place in range(0, len(items), _KEYS_PER_STATEMENT))
