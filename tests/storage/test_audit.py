from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from proxy.domain.access import OPERATOR, Caller, CallerKind
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NotPermitted
from proxy.storage.audit import By, describe, record
from proxy.storage.database import Change, Database
from proxy.storage.tables import audit

NOW = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)
ALICE = Caller(CallerKind.USER, "alice", token=7)


def test_an_event_keeps_everything_it_was_told(registry: Database) -> None:
    registry.change_now(
        lambda change: record(
            change.connection,
            By(ALICE, NOW, "192.0.2.1", "r1"),
            "file.upload",
            namespace=NamespacePath("acme/widgets"),
            name="widgets",
            version="1.0",
            filename="widgets-1.0.tar.gz",
            detail={"sha256": "ab"},
        )
    )
    row = dict(registry.read_now(lambda connection: connection.execute(select(audit)).mappings().one()))
    assert row.pop("id") == 1
    assert row == {
        "at": NOW,
        "action": "file.upload",
        "who_kind": "user",
        "who_id": 7,
        "who_user": "alice",
        "address": "192.0.2.1",
        "namespace": "acme/widgets",
        "name": "widgets",
        "version": "1.0",
        "filename": "widgets-1.0.tar.gz",
        "detail": {"sha256": "ab"},
        "request_id": "r1",
    }


def test_an_event_of_the_machine_needs_little(registry: Database) -> None:
    registry.change_now(lambda change: record(change.connection, By(OPERATOR, NOW), "token.create"))
    row = registry.read_now(lambda connection: connection.execute(select(audit)).mappings().one())
    assert (row["who_kind"], row["who_id"], row["who_user"]) == ("owner", None, "operator")
    assert row["detail"] == {}
    assert row["address"] is None


def test_an_event_goes_with_the_change_it_speaks_of(registry: Database) -> None:
    def act(change: Change) -> None:
        record(change.connection, By(ALICE, NOW), "file.delete")
        raise NotPermitted("no")

    with pytest.raises(NotPermitted):
        registry.change_now(act)
    assert registry.read_now(lambda connection: connection.execute(select(audit)).all()) == []


def test_callers_are_described_as_the_contract_says() -> None:
    assert describe(ALICE) == {"kind": "user", "id": 7, "user": "alice"}
    assert describe(Caller(CallerKind.JOB, token=3)) == {"kind": "job", "id": 3, "user": None}
