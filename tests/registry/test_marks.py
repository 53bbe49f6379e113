"""Yanks and statuses as people give them: in any spelling, with a reason, and audited."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import select

from proxy.domain.access import Caller, CallerKind
from proxy.domain.names import Name
from proxy.domain.pages import ProjectStatus, Status
from proxy.errors import InvalidInput, InvalidVersion, NoSuchFile
from proxy.registry import marks
from proxy.registry.listing import show_package
from proxy.storage.audit import By
from proxy.storage.database import Database
from proxy.storage.tables import audit
from tests.registry.making import NOW, WIDGETS, publish, wheel

GEARS = Name("gears")
ALICE = Caller(CallerKind.USER, "alice", token=7)
BY = By(ALICE, NOW, "192.0.2.9", "request-1")

yank = partial(marks.yank, project=WIDGETS, name=GEARS, by=BY)
unyank = partial(marks.unyank, project=WIDGETS, name=GEARS, by=BY)
set_status = partial(marks.set_status, project=WIDGETS, name=GEARS, by=BY)


@pytest.fixture
def registry(registry: Database) -> Database:
    """A registry with one release of gears."""
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    return registry


def events(registry: Database) -> list[tuple[object, ...]]:
    columns = (audit.c.action, audit.c.version, audit.c.detail)
    return [tuple(row) for row in registry.read_now(lambda c: c.execute(select(*columns)).all())]


def yanked(registry: Database) -> object:
    shown = registry.read_now(partial(show_package, project=WIDGETS, name=GEARS))
    return shown["releases"][0]["yanked"]  # type: ignore[index]  # the shape of contract 12


def test_a_release_is_yanked_in_any_spelling_and_with_or_without_a_reason(registry: Database) -> None:
    assert registry.change_now(partial(yank, version="v1.0.0", reason="  loses data ")) == "loses data"
    assert yanked(registry) == "loses data"
    assert registry.change_now(partial(yank, version="1", reason="")) is True
    assert yanked(registry) is True
    registry.change_now(partial(unyank, version="1.0"))
    assert yanked(registry) is False
    assert events(registry) == [
        ("package.yank", "v1.0.0", {"reason": "loses data"}),
        ("package.yank", "1", {"reason": None}),
        ("package.unyank", "1.0", {}),
    ]


def test_an_event_says_who_did_it_when_and_from_where(registry: Database) -> None:
    told = registry.change_now(partial(set_status, status="deprecated", reason="use cogs"))
    assert told == ProjectStatus(Status.DEPRECATED, "use cogs")
    [row] = registry.read_now(lambda c: c.execute(select(audit)).mappings().all())
    assert {key: value for key, value in row.items() if key not in {"id", "version", "filename"}} == {
        "at": NOW,
        "action": "package.status",
        "who_kind": "user",
        "who_id": 7,
        "who_user": "alice",
        "address": "192.0.2.9",
        "namespace": "acme/widgets",
        "name": "gears",
        "detail": {"status": "deprecated", "reason": "use cogs"},
        "request_id": "request-1",
    }


def test_what_cannot_be_marked_is_refused_and_leaves_no_event(registry: Database) -> None:
    for error, mark in (
        (InvalidVersion, partial(yank, version="new", reason=None)),
        (InvalidVersion, partial(unyank, version="new")),
        (NoSuchFile, partial(yank, version="2.0", reason=None)),
        (NoSuchFile, partial(unyank, version="2.0")),
        (InvalidInput, partial(set_status, status="Archived", reason=None)),
    ):
        with pytest.raises(error):
            registry.change_now(mark)
    assert events(registry) == []


@pytest.mark.parametrize("reason", ["two\nlines", "bell \a", "\x1b[31m", "half a pair \ud800", "x" * 1001])
def test_a_reason_is_one_line_that_can_be_shown(registry: Database, reason: str) -> None:
    for mark in (partial(yank, version="1.0"), partial(set_status, status="archived")):
        with pytest.raises(InvalidInput, match="the reason is not valid"):
            registry.change_now(partial(mark, reason=reason))
    assert registry.change_now(partial(yank, version="1.0", reason="x" * 1000)) == "x" * 1000
