"""The audit: who changed what, when and from where. Rows are appended, in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert

from proxy.domain.access import Caller
from proxy.domain.namespaces import NamespacePath
from proxy.storage.tables import audit


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
