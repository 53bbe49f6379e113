"""Files that their upstream offers no longer and the cache has: held, until an owner releases them (contract 4.7).

Owns the SQL of `held_files`. A row says that the bytes lie in the cache and are to stay there; whether they are
served is for `screen` to say, by the policy of each index, so rows are kept under every policy.

A file is held by its filename with its key, so the row goes when the upstream's page has exactly that file again. Of
a quarantined project all cached files are held, listed or not; a file that was removed before is quarantined from
then on, and a release that was given before is void, since it was given knowing less. What is quarantined stays so
where the whole project goes afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from proxy.domain.moments import iso
from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page, Status
from proxy.domain.screen import HeldFile, Why
from proxy.errors import NoSuchFile
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.board import HELD, held_topic
from proxy.storage.database import Change
from proxy.storage.tables import held_files as held

_DIGESTS_PER_STATEMENT = 500
_HELD = (
    select(held)
    .where(held.c.upstream == bindparam("of"), held.c.name == bindparam("called"))
    .order_by(held.c.id)
)
_decoder = msgspec.msgpack.Decoder(FileRecord)


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A cached file that its upstream offers no longer: what its page last said of it, and its content's sha256."""

    record: FileRecord
    sha256: str


def held_files(connection: Connection, upstream: str, name: Name) -> tuple[HeldFile, ...]:
    """The files of `name` that `upstream` no longer offers and we have, released ones too, oldest first."""
    rows = connection.execute(_HELD, {"of": upstream, "called": name})
    return tuple(_held(row) for row in rows)


def held_names(connection: Connection) -> frozenset[tuple[str, str]]:
    """The upstreams and names of which `held_files` has something to say."""
    rows = connection.execute(select(held.c.upstream, held.c.name).distinct())
    return frozenset((row.upstream, row.name) for row in rows)


def held_digests(connection: Connection) -> frozenset[str]:
    """The sha256 of all files that are to stay in the cache: held ones, and those that were released."""
    return frozenset(connection.execute(select(held.c.sha256)).scalars())


def digests_of(connection: Connection, names: Collection[Name]) -> frozenset[str]:
    """As `held_digests`, of these names alone."""
    rows = connection.execute(select(held.c.name, held.c.sha256))
    return frozenset(row.sha256 for row in rows if row.name in names)


def count_held(connection: Connection) -> dict[str, int]:
    """How many files are held and not released, by why."""
    query = select(held.c.why, func.count()).where(held.c.released_at.is_(None)).group_by(held.c.why)
    return {str(why): 0 for why in Why} | {why: int(number) for why, number in connection.execute(query)}


def list_held(
    connection: Connection, *, limit: int | None = None, offset: int = 0
) -> list[dict[str, object]]:
    """The files that are held and not released, in the shape of contract 12; the latest first."""
    query = select(held).where(held.c.released_at.is_(None)).order_by(held.c.since.desc(), held.c.id.desc())
    rows = connection.execute(query.limit(limit).offset(offset))
    return [
        {
            "upstream": row.upstream,
            "name": row.name,
            "version": row.version,
            "filename": row.filename,
            "sha256": row.sha256,
            "why": row.why,
            "since": iso(row.since),
        }
        for row in rows
    ]


def is_listed(page: Page | None, record: FileRecord) -> bool:
    """Whether a page offers exactly this file. A quarantined project offers none, whatever it lists."""
    if page is None or page.status.status is Status.QUARANTINED:
        return False
    return any(
        file.filename == record.filename and (file.answers_to(record.key) or record.answers_to(file.key))
        for file in page.files
    )


def unlisted(before: Page | None, after: Page | None) -> list[FileRecord]:
    """The files that an upstream offered before and offers no longer.

    A filename that is there with another digest is not among them: its file was replaced. Of a quarantined project
    all files are, also those that its page still lists.

    Args:
        before: the page that was kept; None: none was.
        after: the upstream's new page; None: it has no such project.
    """
    files = () if before is None else before.files
    if after is None:
        return list(files)
    if after.status.status is Status.QUARANTINED:
        known = {(file.filename, file.key) for file in files}
        return [*files, *(file for file in after.files if (file.filename, file.key) not in known)]
    there = {file.filename for file in after.files}
    return [file for file in files if file.filename not in there]


def changes(known: Iterable[HeldFile], after: Page | None) -> bool:
    """Whether the new page of an upstream makes another row of one that is there, or takes it away."""
    return any(_next(each, after) != each.why for each in known)


def hold(
    change: Change, upstream: str, name: Name, gone: Iterable[Unlisted], after: Page | None, at: datetime
) -> tuple[HeldFile, ...]:
    """Make the rows of `name` those that follow from the upstream's new page; idempotent, in whichever process.

    Each file that becomes held is recorded in the audit, as `removed` or `quarantined`, and each that is
    offered again as `returned`: the upstream did it.

    Args:
        gone: cached files that the page does not offer.
        after: the page; None: there is no such project.

    Returns:
        The files that have become held now.
    """
    rows = change.connection.execute(_HELD, {"of": upstream, "called": name}).all()
    hand = _Hand(change.connection, upstream, name, at)
    newly = [*hand.follow(rows, after), *hand.add(rows, gone, _why(after))]
    if hand.has_written:
        change.touch(HELD)
        change.touch(held_topic(upstream, name))
    return tuple(newly)


class _Hand:
    """Writes the rows of one name, and what it writes into the audit."""

    def __init__(self, connection: Connection, upstream: str, name: Name, at: datetime) -> None:
        self._connection = connection
        self._upstream = upstream
        self._name = name
        self._at = at
        self.has_written = False

    def follow(self, rows: Iterable[Row[Any]], after: Page | None) -> Iterator[HeldFile]:
        """Change and delete rows by the upstream's new page; yield the files that are held by it only now."""
        for row in rows:
            then = _held(row)
            why = _next(then, after)
            if why is then.why:
                continue
            this = held.c.id == row.id
            if why is None:
                self._connection.execute(delete(held).where(this))
                self._tell("returned", then.record, row.sha256)
                continue
            released_at = row.released_at if why is Why.REMOVED else None
            changed = update(held).where(this).values(why=str(why), since=self._at, released_at=released_at)
            self._connection.execute(changed)
            self._tell(str(why), then.record, row.sha256)
            if released_at is None:
                yield HeldFile(then.record, why, self._at)

    def add(self, rows: Iterable[Row[Any]], gone: Iterable[Unlisted], why: Why) -> Iterator[HeldFile]:
        """Insert the files that have no row yet, and yield them."""
        known = {(row.filename, row.sha256) for row in rows}
        for file in gone:
            record, place = file.record, (file.record.filename, file.sha256)
            if place in known:
                continue
            known.add(place)
            self._connection.execute(
                insert(held).values(
                    upstream=self._upstream,
                    name=self._name,
                    filename=record.filename,
                    version=record.version,
                    sha256=file.sha256,
                    why=str(why),
                    since=self._at,
                    record=msgspec.msgpack.encode(record),
                )
            )
            self._tell(str(why), record, file.sha256)
            yield HeldFile(record, why, self._at)

    def _tell(self, action: str, record: FileRecord, sha256: str) -> None:
        self.has_written = True
        audit.record_upstream(
            self._connection,
            self._at,
            self._upstream,
            action,
            name=self._name,
            version=record.version,
            filename=record.filename,
            detail={"sha256": sha256},
        )


def release(change: Change, *, upstream: str, wanted: str, filename: str, by: By) -> Name:
    """Have a held file served again by every index that its policy does not keep it from.

    Args:
        wanted: the project's name in any spelling.

    Returns:
        The name.

    Raises:
        InvalidName: `wanted` is none.
        NoSuchFile: it is not held.
    """
    name = parse_name(wanted)
    those = (held.c.upstream == upstream, held.c.name == name, held.c.filename == filename)
    rows = change.connection.execute(select(held).where(*those, held.c.released_at.is_(None))).all()
    if not rows:
        raise NoSuchFile(f"no file {filename} of {name} from {upstream} is held")
    change.connection.execute(update(held).where(*those).values(released_at=by.at))
    for row in rows:
        audit.record(
            change.connection,
            by,
            "held.release",
            name=name,
            version=row.version,
            filename=filename,
            detail={"upstream": upstream, "sha256": row.sha256, "why": row.why, "since": iso(row.since)},
        )
    change.touch(held_topic(upstream, name))
    return name


def forget_held(change: Change, digests: Sequence[str]) -> None:
    """Strike out files whose bytes are lost: they are not held any more, whatever anybody hopes for."""
    for place in range(0, len(digests), _DIGESTS_PER_STATEMENT):
        those = held.c.sha256.in_(digests[place : place + _DIGESTS_PER_STATEMENT])
        for row in change.connection.execute(select(held.c.upstream, held.c.name).where(those)).all():
            change.touch(HELD)
            change.touch(held_topic(row.upstream, row.name))
        change.connection.execute(delete(held).where(those))


def _why(after: Page | None) -> Why:
    is_quarantined = after is not None and after.status.status is Status.QUARANTINED
    return Why.QUARANTINED if is_quarantined else Why.REMOVED


def _next(each: HeldFile, after: Page | None) -> Why | None:
    """Why a file is held after its upstream's new page; None: it is offered again."""
    if is_listed(after, each.record):
        return None
    return each.why if after is None else _why(after)


def _held(row: Row[Any]) -> HeldFile:
    return HeldFile(_decoder.decode(row.record), Why(row.why), row.since, row.released_at is not None)
