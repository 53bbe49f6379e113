from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from proxy.domain.access import OPERATOR, Caller, CallerKind
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import ChangedFile
from proxy.errors import NotPermitted
from proxy.storage.audit import (
    By,
    Wanted,
    describe,
    events,
    forget_before,
    has_before,
    record,
    record_changed,
)
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


def write(registry: Database, action: str, minutes: int = 0, **about: Any) -> None:
    by = By(ALICE, NOW + timedelta(minutes=minutes), "192.0.2.1", "r1")
    registry.change_now(lambda change: record(change.connection, by, action, **about))


def actions(registry: Database, *, limit: int = 100, offset: int = 0, **wanted: Any) -> list[object]:
    query = partial(events, wanted=Wanted(**wanted), limit=limit, offset=offset)
    return [event["action"] for event in registry.read_now(query)]


def test_an_event_is_told_in_the_shape_of_the_contract(registry: Database) -> None:
    write(
        registry,
        "file.upload",
        namespace=NamespacePath(""),
        name="widgets",
        version="1.0",
        filename="widgets-1.0.tar.gz",
        detail={"sha256": "ab"},
    )
    assert registry.read_now(partial(events, wanted=Wanted(), limit=5)) == [
        {
            "at": "2026-05-01T08:00:00Z",
            "action": "file.upload",
            "who": {"kind": "user", "id": 7, "user": "alice"},
            "address": "192.0.2.1",
            "namespace": "/",
            "name": "widgets",
            "version": "1.0",
            "filename": "widgets-1.0.tar.gz",
            "detail": {"sha256": "ab"},
            "request_id": "r1",
        }
    ]


def test_the_newest_events_come_first_piece_by_piece(registry: Database) -> None:
    for number in range(5):
        write(registry, f"act.{number}", number)
    assert actions(registry, limit=2) == ["act.4", "act.3"]
    assert actions(registry, limit=2, offset=2) == ["act.2", "act.1"]
    assert actions(registry, since=NOW + timedelta(minutes=3)) == ["act.4", "act.3"]


def test_events_are_found_by_name_and_by_a_version_in_any_spelling(registry: Database) -> None:
    for name, version in (("widgets", "1.0"), ("widgets", "1.0.0"), ("widgets", "2.0"), ("gears", "1.0")):
        write(registry, f"{name} {version}", name=name, version=version)
    write(registry, "none")
    widgets = Name("widgets")
    assert actions(registry, name=widgets) == ["widgets 2.0", "widgets 1.0.0", "widgets 1.0"]
    assert actions(registry, name=widgets, version="1") == ["widgets 1.0.0", "widgets 1.0"]
    assert actions(registry, name=widgets, version="3") == []


def test_events_of_a_namespace_are_those_at_and_below_it(registry: Database) -> None:
    paths = ["acme", "acme/widgets", "acme_x/widgets", "acmeXx", "Acme/widgets", "", None]
    for path in paths:
        write(registry, str(path), namespace=None if path is None else NamespacePath(path))
    assert actions(registry, within=(NamespacePath("acme"),)) == ["acme/widgets", "acme"]
    assert actions(registry, within=(NamespacePath("acme_x"),)) == ["acme_x/widgets"]
    assert actions(registry, within=(NamespacePath("acme/widgets"), NamespacePath("acmeXx"))) == [
        "acmeXx",
        "acme/widgets",
    ]
    assert actions(registry, within=()) == []


def test_what_an_upstream_did_is_told_of_it_once(registry: Database) -> None:
    changed = [ChangedFile("widgets-1.0.tar.gz", "1.0", "a" * 64, "b" * 64)]
    for _ in range(2):
        registry.change_now(
            lambda change: record_changed(change.connection, NOW, "pypi", Name("widgets"), changed)
        )
    [event] = registry.read_now(partial(events, wanted=Wanted(), limit=5))
    assert (event["action"], event["who"]) == ("changed", {"kind": "upstream", "id": None, "user": "pypi"})
    assert event["detail"] == {"upstream": "pypi", "before": "a" * 64, "after": "b" * 64}


def test_old_events_are_deleted_some_at_a_time(registry: Database) -> None:
    for number in range(5):
        write(registry, f"act.{number}", number)
    end = NOW + timedelta(minutes=3)
    for left in (3, 2, 2):
        registry.change_now(lambda change: forget_before(change.connection, end, 2))
        assert len(actions(registry)) == left
        assert registry.read_now(lambda connection: has_before(connection, end)) is (left == 3)
