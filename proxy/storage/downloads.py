"""Who fetched what, and when: gathered in memory, written in batches to the cache database.

Files leave by the ten thousand a second, so nothing is written for one of them. What is alike, one file fetched from
one place by one caller within a second, is counted; some seconds of that are one row of `download_batches`, encoded
and compressed off the event loop. Which names are in it stands beside as a row of hashes: who asks for a name reads
those of all batches, and few batches. An index by name would be written all over by each batch. A process that is
killed loses what it has not written: `EVERY` seconds at most. Each process writes batches of its own; once a day one
of them joins old small ones (`join_old`) and deletes those that the configuration no longer keeps (`forget_before`).

Times are kept to the second.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import count, groupby, islice, repeat
from typing import NamedTuple, Self

import msgspec
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select

from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath, is_within
from proxy.domain.versions import is_same
from proxy.errors import StorageError
from proxy.storage.database import Change, Database
from proxy.storage.tables import download_batches

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EVERY = 5.0
"""Seconds after which what was gathered is written, at the latest."""

_FULL = 4000
"""Entries that are written at once: to encode them takes some milliseconds."""
_MOST = 100_000
"""Entries that wait for a database that cannot be written; beyond them downloads are lost."""
_LEVEL = 1
_LIST = b"\xdd"
"""Begins a list in msgpack (array 32); the number of its items follows in four bytes, and they."""
_HASH = 4
"""Bytes of the hash of a name: of names that meet only the time of looking is lost."""
_SMALL = 64 << 10
"""Bytes from which a batch is large enough; smaller ones are joined once they are old."""
_OLD = timedelta(hours=1)
_AT_ONCE = 500
"""Batches that are deleted or joined in one transaction."""

_log = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """A file as it was fetched.

    Attributes:
        sha256: None where the upstream names none and its content was not at hand.
        source: the upstream, or the project that has it.
        asked_at: the index where it was asked for.
    """

    name: Name
    version: str | None
    filename: str
    sha256: str | None
    source: str
    asked_at: NamespacePath


class Client(NamedTuple):
    """Who fetched it: the caller's token and user or user name, and the address it came from in the network."""

    token: int | None
    user: str | None
    address: str


class Download(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A file that some caller fetches, ready to be written: who keeps it notes each time with hardly any work.

    One is the same as another only if it is the other; each has counts of its own.
    """

    packed: bytes
    called: bytes
    client: Client

    @classmethod
    def of(cls, fetched: Fetched, client: Client) -> Self:
        """Pack it, once for all times that it is fetched."""
        return cls(msgspec.msgpack.encode(fetched), _hash(fetched.name), client)


class _Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Some seconds of downloads.

    Attributes:
        files: a list of `Fetched`.
        entries: second after `begins`, places of file and client, how many.
    """

    begins: int
    files: msgspec.Raw
    clients: list[Client]
    entries: list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which downloads are asked for.

    Attributes:
        version: in any spelling; None: all.
        since: aware; not before the second in which that lies.
        within: namespaces; only what was asked for at one of them or below, or comes from a project below. None: all.
    """

    name: Name
    version: str | None = None
    since: datetime | None = None
    within: tuple[NamespacePath, ...] | None = None

    def has(self, fetched: Fetched) -> bool:
        """Whether downloads of this file are asked for."""
        if fetched.name != self.name:
            return False
        if self.version is not None and not is_same(fetched.version or "", self.version):
            return False
        if self.within is None:
            return True
        places = [fetched.asked_at]
        # A project's path; the name of an upstream has no slash.
        if "/" in fetched.source:
            places.append(NamespacePath(fetched.source))
        return any(is_within(place, path) for place in places for path in self.within)


class Downloads:
    """What this process has to write. Owned by one event loop."""

    def __init__(self, database: Database) -> None:
        """Take the cache database, migrated."""
        self._database = database
        self._waiting: dict[int, Counter[Download]] = {}
        # What `ready` made since the last writing.
        self._alike: dict[tuple[Fetched, Client], Download] = {}
        self._encoded: list[_Encoded] = []
        self._size = 0
        self._is_full = asyncio.Event()
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._lost = 0

    def ready(self, fetched: Fetched, client: Client) -> Download:
        """The file and who fetches it as one to be noted: the same until it was written, whoever asks for it."""
        alike = fetched, client
        download = self._alike.get(alike)
        if download is None:
            download = self._alike[alike] = Download.of(fetched, client)
        return download

    def note(self, fetched: Fetched, client: Client, second: int, times: int = 1) -> None:
        """Remember that a file has left in a second of the epoch, so many times."""
        self.note_all({self.ready(fetched, client): times}, second)

    def note_all(self, downloads: Iterable[Download] | Mapping[Download, int], second: int) -> None:
        """Remember what has left in a second of the epoch: each once, or so many times."""
        if self._size >= _MOST:
            self._lost += Counter(downloads).total()
            return
        counted = self._waiting.get(second)
        if counted is None:
            counted = self._waiting[second] = Counter()
        before = len(counted)
        counted.update(downloads)
        self._size += len(counted) - before
        if self._size >= _FULL:
            self._is_full.set()

    async def keep_written(self) -> None:
        """Write what gathers, for ever."""
        while True:
            try:
                async with asyncio.timeout(EVERY):
                    await self._is_full.wait()
            except TimeoutError:
                pass
            # Broken off in the middle, nobody would know whether it was written.
            self._writing = asyncio.create_task(self.flush())
            try:
                await asyncio.shield(self._writing)
            except StorageError as error:
                _log.warning("downloads could not be recorded yet: %s", error)
                await asyncio.sleep(EVERY)

    async def flush(self) -> None:
        """Write all that was noted so far.

        Raises:
            StorageError: it cannot be written now; it waits on.
        """
        async with self._turn:
            self._is_full.clear()
            self._alike = {}
            if self._waiting:
                waiting, self._waiting = self._waiting, {}
                self._encoded.append(await asyncio.to_thread(_encoded, waiting))
            while self._encoded:
                await self._database.change(self._encoded[0].insert)
                self._size -= self._encoded.pop(0).entries
        if self._lost:
            lost, self._lost = self._lost, 0
            _log.warning("%d downloads were not recorded: the database could not be written", lost)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A batch on its way into the database; `entries` were counted one by one before they were encoded."""

    begins: datetime
    ends: datetime
    downloads: int
    names: bytes
    content: bytes
    entries: int

    def insert(self, change: Change) -> None:
        values = {
            "begins": self.begins,
            "ends": self.ends,
            "downloads": self.downloads,
            "names": self.names,
            "content": self.content,
        }
        change.connection.execute(insert(download_batches).values(values))


def _encoded(waiting: Mapping[int, Mapping[Download, int]]) -> _Encoded:
    """A batch of what was counted, by seconds, which is something. For any thread."""
    begins, ends = min(waiting), max(waiting)
    files: defaultdict[bytes, int] = defaultdict(count().__next__)
    clients: defaultdict[Client, int] = defaultdict(count().__next__)
    names: set[bytes] = set()
    entries: list[tuple[int, int, int, int]] = []
    # Loops of the interpreter's own: thousands of entries a second come this way, none of them in the caches.
    for second in sorted(waiting):
        counted = waiting[second]
        packed = [download.packed for download in counted]
        callers = [download.client for download in counted]
        names.update([download.called for download in counted])
        places = map(files.__getitem__, packed), map(clients.__getitem__, callers)
        entries.extend(zip(repeat(second - begins), *places, counted.values(), strict=False))
    content = _Batch(
        begins,
        msgspec.Raw(_LIST + len(files).to_bytes(4) + b"".join(files)),
        list(clients),
        entries,
    )
    return _Encoded(
        datetime.fromtimestamp(begins, UTC),
        datetime.fromtimestamp(ends, UTC),
        sum(times for *_, times in entries),
        b"".join(sorted(names)),
        zstd.compress(msgspec.msgpack.encode(content), _LEVEL),
        sum(map(len, waiting.values())),
    )


@lru_cache(maxsize=4096)
def _hash(name: Name) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=_HASH).digest()


def _holds(names: bytes, wanted: bytes) -> bool:
    """Whether a row of hashes has this one, at a place where one begins."""
    at = names.find(wanted)
    while at % _HASH and at >= 0:
        at = names.find(wanted, at + 1)
    return at >= 0


def _decoded(content: bytes) -> _Batch:
    return msgspec.msgpack.decode(zstd.decompress(content), type=_Batch)


def list_downloads(
    connection: Connection, wanted: Wanted, *, limit: int, offset: int = 0
) -> list[dict[str, object]]:
    """Who fetched files of a name, the newest first, in the shape `download` of contract 12.

    Args:
        connection: of the cache database.
        limit: at most so many, after the first `offset`.
    """
    return list(islice(_newest_first(connection, wanted), offset, offset + limit))


def _newest_first(connection: Connection, wanted: Wanted) -> Iterator[dict[str, object]]:
    batches = download_batches.c
    query = select(batches.id, batches.ends, batches.names).order_by(batches.ends.desc(), batches.id.desc())
    # Asked for by itself: of a batch that is passed over the content is not read.
    content = select(batches.content).where(batches.id == bindparam("batch"))
    called = _hash(wanted.name)
    if wanted.since is not None:
        query = query.where(batches.ends >= wanted.since.replace(microsecond=0))
    # Batches of several processes overlap: what is found waits until nothing later can follow.
    found: list[tuple[int, int, dict[str, object], int]] = []
    number = 0
    for row in connection.execute(query):
        if not _holds(row.names, called):
            continue
        latest = row.ends.timestamp()
        while found and -found[0][0] >= latest:
            yield from _repeated(heapq.heappop(found))
        for second, shape, times in _matching(
            _decoded(connection.execute(content, {"batch": row.id}).scalar_one()), wanted
        ):
            number += 1
            heapq.heappush(found, (-second, number, shape, times))
    while found:
        yield from _repeated(heapq.heappop(found))


def _repeated(found: tuple[int, int, dict[str, object], int]) -> Iterator[dict[str, object]]:
    for _ in range(found[3]):
        yield found[2]


def _matching(batch: _Batch, wanted: Wanted) -> Iterator[tuple[int, dict[str, object], int]]:
    files = msgspec.msgpack.decode(batch.files, type=list[Fetched])
    places = {place: fetched for place, fetched in enumerate(files) if wanted.has(fetched)}
    since = 0 if wanted.since is None else int(wanted.since.timestamp())
    for offset, place, client, times in batch.entries:
        second = batch.begins + offset
        if place in places and second >= since:
            yield second, _shape(places[place], batch.clients[client], second), times


def _shape(fetched: Fetched, client: Client, second: int) -> dict[str, object]:
    return {
        "at": iso(datetime.fromtimestamp(second, UTC)),
        "name": fetched.name,
        "version": fetched.version,
        "filename": fetched.filename,
        "sha256": fetched.sha256,
        "source": fetched.source,
        "index": fetched.asked_at or "/",
        "token_id": client.token,
        "user": client.user,
        "address": client.address or None,
    }


def has_before(connection: Connection, before: datetime) -> bool:
    """Whether there are batches that ended before then."""
    return connection.execute(_ended(before).limit(1)).first() is not None


def forget_before(connection: Connection, before: datetime) -> None:
    """Delete some hundred of the batches that ended before then, at most.

    Args:
        connection: of a `Change` of the cache database.
    """
    oldest = _ended(before).order_by(download_batches.c.ends).limit(_AT_ONCE)
    connection.execute(delete(download_batches).where(download_batches.c.id.in_(oldest)))


def _ended(before: datetime) -> Select[tuple[int]]:
    return select(download_batches.c.id).where(download_batches.c.ends < before)


def join_old(database: Database, now: datetime) -> int:
    """Make few batches of the many small ones of days gone by; return how many were joined. Blocks.

    A question for a name that is fetched all the time would else have to read thousands of batches a day. To be
    called by one process at a time.

    Raises:
        StorageError: the database cannot be used.
    """
    joined = 0
    for group in _groups(database.read_now(partial(_small, before=now - _OLD))):
        waiting: defaultdict[int, Counter[Download]] = defaultdict(Counter)
        for content in database.read_now(partial(_contents, group=group)):
            for second, download, times in _noted(_decoded(content)):
                waiting[second][download] = times
        database.change_now(partial(_put_for, encoded=_encoded(waiting), group=group))
        joined += len(group)
    return joined


def _small(connection: Connection, before: datetime) -> list[tuple[int, datetime, int]]:
    size = func.length(download_batches.c.content)
    query = select(download_batches.c.id, download_batches.c.ends, size)
    query = query.where(download_batches.c.ends < before, size < _SMALL)
    rows = connection.execute(query.order_by(download_batches.c.ends, download_batches.c.id))
    return [(batch_id, ends, length) for batch_id, ends, length in rows]


def _contents(connection: Connection, group: Sequence[int]) -> list[bytes]:
    query = select(download_batches.c.content).where(download_batches.c.id.in_(group))
    return list(connection.execute(query).scalars())


def _groups(small: Iterable[tuple[int, datetime, int]]) -> Iterator[list[int]]:
    """The batches that are to become one: of one day, and not too large together."""
    for _, of_day in groupby(small, key=lambda row: row[1].date()):
        group: list[int] = []
        size = 0
        for batch_id, _, length in of_day:
            group.append(batch_id)
            size += length
            if size >= _SMALL or len(group) >= _AT_ONCE:
                yield group
                group, size = [], 0
        if len(group) > 1:
            yield group


def _noted(batch: _Batch) -> Iterator[tuple[int, Download, int]]:
    """What a batch was made of, with its seconds and how often."""
    files = msgspec.msgpack.decode(batch.files, type=list[Fetched])
    made: dict[tuple[int, int], Download] = {}
    for offset, file, client, times in batch.entries:
        download = made.get((file, client))
        if download is None:
            download = made[file, client] = Download.of(files[file], batch.clients[client])
        yield batch.begins + offset, download, times


def _put_for(change: Change, *, encoded: _Encoded, group: Sequence[int]) -> None:
    encoded.insert(change)
    change.connection.execute(delete(download_batches).where(download_batches.c.id.in_(group)))
