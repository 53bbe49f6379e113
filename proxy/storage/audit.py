"""The audit: who changed what, when and from where. Rows are appended, in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select

from proxy.domain.access import Caller
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import ChangedFile
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
    person = describe(by.who)
    connection.execute(
        insert(audit).values(
            at=by.at,
            action=action,
            who_kind=person["kind"],
            who_id=person["id"],
            who_user=person["user"],
            address=by.address,
            namespace=namespace,
            name=name,
            version=version,
            filename=filename,
            detail=dict(detail or {}),
            request_id=by.request_id,
        )
    )


def record_changed(
    connection: Connection, at: datetime, upstream: str, name: Name, changed: Sequence[ChangedFile]
) -> None:
    """Append an event `changed` for each file that an upstream replaced under its name.

    The upstream did it, not a caller: it stands as `{"kind": "upstream", "id": null, "user": its name}`. The
    same replacement is recorded once, however many processes notice it and however often.

    Args:
        connection: of a `Change` of the registry.
        at: when it was noticed; aware.
    """
    query = select(audit.c.filename, audit.c.detail).where(audit.c.name == name, audit.c.action == CHANGED)
    recorded = [(row.filename, row.detail) for row in connection.execute(query)]
    for file in changed:
        detail = {"upstream": upstream, "before": file.before, "after": file.after}
        if (file.filename, detail) in recorded:
            continue
        connection.execute(
            insert(audit).values(
                at=at,
                action=CHANGED,
                who_kind="upstream",
                who_user=upstream,
                name=name,
                version=file.version,
                filename=file.filename,
                detail=detail,
            )
        )
