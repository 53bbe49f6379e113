"""When files without upload time were first seen on an upstream's pages: they are as old as that (contract 4.7).

Kept in the registry, since they cannot be had again. A file is its filename with its key, so other bytes under a
known name are a new file. Whoever looks first, in whichever process, counts; nothing makes a file older than it is.

First sights are written behind the answer, together, within a second. One that is lost makes a file younger, and is
made good when the page is next filled, or when somebody misses it (`Sightings.note`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select

from proxy.domain.names import Name
from proxy.domain.pages import Page
from proxy.errors import StorageError
from proxy.storage.board import held_topic
from proxy.storage.database import Change, Database
from proxy.storage.tables import first_sights

GATHER_SECONDS = 0.25
"""How long first sights wait in memory for others."""
_GONE_AT_MOST = 10_000
"""Files of a name that are remembered though its page has them no longer: of an upstream that names a file anew
whenever it is asked there would else be ever more."""
_KEY = 64
_ENTRY = _KEY + 16
"""Hexadecimal digits of an entry: the digest in a file's key, and one of its filename."""
_URL = "url-"

_SEEN = select(first_sights.c.seen).where(
    first_sights.c.upstream == bindparam("of"), first_sights.c.name == bindparam("called")
)

_log = logging.getLogger(__name__)


class _File(NamedTuple):
    """A file as it is remembered: its key, and 16 digits that stand for its filename."""

    key: str
    called: str


_Sights: TypeAlias = dict[_File, datetime]


class _Moment(msgspec.Struct, frozen=True, array_like=True):
    """All files that were first seen at one moment: most of a page are.

    Attributes:
        named: their entries, one behind the other, where the key is a sha256.
        addressed: where it is `url-…`.
    """

    at: datetime
    named: bytes
    addressed: bytes

    @property
    def entries(self) -> tuple[tuple[str, str], ...]:
        """The entries in hexadecimal digits, with what stands before their keys."""
        return ("", self.named.hex()), (_URL, self.addressed.hex())


_decoder = msgspec.msgpack.Decoder(tuple[_Moment, ...])


class Sightings:
    """The first sights that one process has still to write. It belongs to one event loop."""

    def __init__(self, registry: Database, now: Callable[[], datetime]) -> None:
        """Take the registry, already migrated; touches nothing."""
        self._registry = registry
        self._now = now
        self._waiting: list[tuple[str, Name, Page, datetime]] = []
        self._writing: asyncio.Task[None] | None = None

    def note(self, upstream: str, name: Name, page: Page) -> None:
        """Remember that `page` was seen now: those of its files that have no upload time and were not seen before.

        Never waits, never fails, and costs microseconds: it is written within a second.
        """
        self._waiting.append((upstream, name, page, self._now()))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_soon())

    async def close(self) -> None:
        """Write what waits."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    async def _write_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            await self._write()

    async def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            # Almost every page has only dated files, and is done with here.
            news = await asyncio.to_thread(self._news, waiting)
            if news:
                await self._registry.change(partial(_merge, news=news))
        except StorageError as error:
            _log.warning("first sights of files without upload time cannot be written: %s", error)

    def _news(
        self, waiting: Iterable[tuple[str, Name, Page, datetime]]
    ) -> Mapping[tuple[str, Name], _Sights]:
        """What has no upload time, of each name of which something was not seen before."""
        found: dict[tuple[str, Name], _Sights] = {}
        for upstream, name, page, at in waiting:
            sights = found.setdefault((upstream, name), {})
            for file in page.files:
                if file.uploaded is None:
                    sights.setdefault(_file(file.filename, file.key), at)
        undated = {place: sights for place, sights in found.items() if sights}
        if not undated:
            return {}
        known = self._registry.read_now(
            lambda connection: {place: _read(connection, *place) for place in undated}
        )
        return {place: sights for place, sights in undated.items() if sights.keys() - known[place].keys()}


def first_seen(connection: Connection, upstream: str, name: Name) -> dict[str, datetime]:
    """When each file without upload time was first seen on `upstream`'s page of `name`, by its key; aware.

    Where files of several names have one key, the youngest counts.
    """
    found: dict[str, datetime] = {}
    for moment in _moments(connection, upstream, name):
        for prefix, entries in moment.entries:
            keys = [prefix + entries[place : place + _KEY] for place in range(0, len(entries), _ENTRY)]
            found.update(dict.fromkeys(keys, moment.at))
    return found


def undated_upstreams(connection: Connection) -> frozenset[str]:
    """The upstreams of which some file without upload time was seen."""
    return frozenset(connection.scalars(select(first_sights.c.upstream).distinct()))


def _merge(change: Change, news: Mapping[tuple[str, Name], _Sights]) -> None:
    """Add first sights to those that are there: of two the earlier counts."""
    for (upstream, name), seen in news.items():
        known = _read(change.connection, upstream, name)
        merged = dict(known)
        for file, at in seen.items():
            merged[file] = min(at, merged.get(file, at))
        if merged == known:
            continue
        gone = sorted(merged.keys() - seen.keys(), key=lambda file: merged[file])
        for file in gone[: max(0, len(gone) - _GONE_AT_MOST)]:
            del merged[file]
        change.connection.execute(
            delete(first_sights).where(first_sights.c.upstream == upstream, first_sights.c.name == name)
        )
        change.connection.execute(
            insert(first_sights).values(upstream=upstream, name=name, seen=_encoded(merged))
        )
        change.touch(held_topic(upstream, name))


def _moments(connection: Connection, upstream: str, name: Name) -> tuple[_Moment, ...]:
    seen = connection.execute(_SEEN, {"of": upstream, "called": name}).scalar()
    return () if seen is None else _decoder.decode(seen)


def _read(connection: Connection, upstream: str, name: Name) -> _Sights:
    found: _Sights = {}
    for moment in _moments(connection, upstream, name):
        for prefix, entries in moment.entries:
            for place in range(0, len(entries), _ENTRY):
                key, called = entries[place : place + _KEY], entries[place + _KEY : place + _ENTRY]
                found[_File(prefix + key, called)] = moment.at
    return found


def _encoded(sights: _Sights) -> bytes:
    """The moments in their order, so that of equal keys the youngest is read last."""
    moments: dict[datetime, tuple[list[str], list[str]]] = {}
    for file, at in sorted(sights.items(), key=lambda one: one[1]):
        named, addressed = moments.setdefault(at, ([], []))
        digest = file.key.removeprefix(_URL)
        (named if digest == file.key else addressed).append(digest + file.called)
    return msgspec.msgpack.encode(
        [
            _Moment(at, bytes.fromhex("".join(named)), bytes.fromhex("".join(addressed)))
            for at, (named, addressed) in moments.items()
        ]
    )


def _file(filename: str, key: str) -> _File:
    return _File(key, hashlib.blake2b(filename.encode(), digest_size=8).hexdigest())
