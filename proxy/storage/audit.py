"""The audit: who changed what, when and from where. Rows are appended, in the transaction of the change.

Nothing here changes a row. What is older than the configuration keeps it (`audit.events`) is deleted once a day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Row, delete, false, func, insert, or_, select

from proxy.domain.access import Caller
from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import ChangedFile
from proxy.domain.versions import is_same
from proxy.storage.tables import audit

CHANGED = "changed"
"""The action of what upstreams do: other bytes under a known filename."""


@dataclass(frozen=True, slots=True)
class By:
    """Who does something, when and from where.

    Attributes:
        at: aware.
        address: the client's address of the network; like `request_id` None for commands on the machine.
    """

    who: Caller
    at: datetime
    address: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for: those that meet every condition given.

    Attributes:
        since: aware; not before then.
        version: of a release in any spelling.
        within: namespaces; events of one of them, or of one below.
    """

    since: datetime | None = None
    name: Name | None = None
    version: str | None = None
    within: tuple[NamespacePath, ...] | None = None


def describe(caller: Caller) -> dict[str, str | int | None]:
    """How the database and the interfaces name a caller: `{"kind", "id", "user"}` (contract 12)."""
    return {"kind": str(caller.kind), "id": caller.token, "user": caller.name or None}


def record(
    connection: Connection,
    by: By,
    action: str,
    *,
    namespace: NamespacePath | None = None,
    name: str | None = None,
    version: str | None = None,
    filename: str | None = None,
    detail: Mapping[str, object] | None = None,
) -> None:
    """Append one event.

    Args:
        connection: of the `Change` that the event speaks of, so that both happen or neither.
        action: object and verb: `file.upload`, `token.revoke`.
        detail: what JSON can hold. Never a secret.
    """
    _append(
        connection,
        describe(by.who),
        at=by.at,
        action=action,
        address=by.address,
        namespace=namespace,
        name=name,
        version=version,
        filename=filename,
        detail=dict(detail or {}),
        request_id=by.request_id,
    )


def record_upstream(
    connection: Connection,
    at: datetime,
    upstream: str,
    action: str,
    name: Name,
    version: str | None,
    filename: str,
    detail: Mapping[str, object],
) -> None:
    """Append an event of what an upstream did to a file.

    It did it, not a caller: it stands as `{"kind": "upstream", "id": null, "user": its name}`.

    Args:
        connection: of a `Change` of the registry.
        at: when it was noticed; aware.
        detail: what JSON can hold; the upstream's name is put before it.
    """
    _append(
        connection,
        {"kind": "upstream", "id": None, "user": upstream},
        at=at,
        action=action,
        name=name,
        version=version,
        filename=filename,
        detail={"upstream": upstream, **detail},
    )


def record_changed(
    connection: Connection, at: datetime, upstream: str, name: Name, changed: Sequence[ChangedFile]
) -> None:
    """Append an event `changed` for each file that an upstream replaced under its name (`record_upstream`).

    The same replacement is recorded once, however many processes notice it and however often.
    """
    query = select(audit.c.filename, audit.c.detail).where(audit.c.name == name, audit.c.action == CHANGED)
    recorded = [(row.filename, row.detail) for row in connection.execute(query)]
    for file in changed:
        detail = {"before": file.before, "after": file.after}
        if (file.filename, {"upstream": upstream, **detail}) not in recorded:
            record_upstream(connection, at, upstream, CHANGED, name, file.version, file.filename, detail)


def _append(connection: Connection, who: Mapping[str, object], **values: object) -> None:
    connection.execute(
        insert(audit).values(who_kind=who["kind"], who_id=who["id"], who_user=who["user"], **values)
    )


def events(connection: Connection, wanted: Wanted, *, limit: int, offset: int = 0) -> list[dict[str, object]]:
    """The events that are asked for, the newest first, in the shape `audit` of contract 12.

    Args:
        limit: at most so many, after the first `offset`.
    """
    query = select(audit).where(*_conditions(connection, wanted)).order_by(audit.c.id.desc())
    return [_shape(row) for row in connection.execute(query.limit(limit).offset(offset))]


def latest(connection: Connection, actions: Sequence[str]) -> dict[str, object] | None:
    """The detail of the newest event with one of these actions; None if there is none."""
    query = select(audit.c.detail).where(audit.c.action.in_(actions)).order_by(audit.c.id.desc()).limit(1)
    found: dict[str, object] | None = connection.execute(query).scalar()
    return found


def has_before(connection: Connection, before: datetime) -> bool:
    """Whether there are events that are older."""
    return connection.execute(select(audit.c.id).where(audit.c.at < before).limit(1)).first() is not None


def forget_before(connection: Connection, before: datetime, at_most: int) -> None:
    """Delete events that are older, at most so many, since writers wait meanwhile.

    Args:
        connection: of a `Change` of the registry.
    """
    oldest = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(at_most)
    connection.execute(delete(audit).where(audit.c.id.in_(oldest)))


def _conditions(connection: Connection, wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(audit.c.at >= wanted.since)
    if wanted.name is not None:
        conditions.append(audit.c.name == wanted.name)
    if wanted.version is not None:
        spelled = connection.execute(select(audit.c.version).where(*conditions).distinct()).scalars()
        equal = [version for version in spelled if version is not None and is_same(version, wanted.version)]
        conditions.append(audit.c.version.in_(equal))
    if wanted.within is not None:
        conditions.append(or_(false(), *(_is_within(path) for path in wanted.within)))
    return conditions


def _is_within(path: NamespacePath) -> ColumnElement[bool]:
    if not path:
        return audit.c.namespace.is_not(None)
    # Not LIKE, which takes `_` for any letter and regards no case.
    begins = func.substr(audit.c.namespace, 1, len(path) + 1) == f"{path}/"
    return or_(audit.c.namespace == path, begins)


def _shape(row: Row[tuple[object, ...]]) -> dict[str, object]:
    return {
        "at": iso(row.at),
        "action": row.action,
        "who": {"kind": row.who_kind, "id": row.who_id, "user": row.who_user},
        "address": row.address,
        "namespace": None if row.namespace is None else row.namespace or "/",
        "name": row.name,
        "version": row.version,
        "filename": row.filename,
        "detail": row.detail,
        "request_id": row.request_id,
    }
