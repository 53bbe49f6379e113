"""The audit: who changed what, when and from where. Rows are appended, in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, insert

from proxy.domain.access import Caller
from proxy.domain.namespaces import NamespacePath
from proxy.storage.tables import audit


def describe(caller: Caller) -> dict[str, str | int | None]:
    """How the database and the interfaces name a caller: `{"kind", "id", "user"}` (contract 12)."""
    return {"kind": str(caller.kind), "id": caller.token, "user": caller.name or None}


def record(
    connection: Connection,
    *,
    at: datetime,
    action: str,
    who: Caller,
    address: str | None = None,
    namespace: NamespacePath | None = None,
    name: str | None = None,
    version: str | None = None,
    filename: str | None = None,
    detail: Mapping[str, object] | None = None,
    request_id: str | None = None,
) -> None:
    """Append one event.

    Args:
        connection: of the `Change` that the event speaks of, so that both happen or neither.
        at: aware.
        action: object and verb: `file.upload`, `token.revoke`.
        address: the client's address of the network; None for commands on the machine.
        detail: what JSON can hold. Never a secret.
    """
    person = describe(who)
    connection.execute(
        insert(audit).values(
            at=at,
            action=action,
            who_kind=person["kind"],
            who_id=person["id"],
            who_user=person["user"],
            address=address,
            namespace=namespace,
            name=name,
            version=version,
            filename=filename,
            detail=dict(detail or {}),
            request_id=request_id,
        )
    )
