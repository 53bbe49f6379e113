"""Held files as rows: what an upstream's new page makes of them; releasing, listing and counting them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from proxy.cache import held
from proxy.cache.held import Unlisted, count_held, held_digests, held_files, list_held, unlisted
from proxy.domain.access import OPERATOR
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.errors import InvalidName, NoSuchFile
from proxy.storage.audit import By
from proxy.storage.board import held_topic
from proxy.storage.database import Database
from proxy.storage.tables import audit
from tests.cache.conftest import EPOCH, Rig

WIDGETS = Name("widgets")
QUARANTINED = ProjectStatus(Status.QUARANTINED, "malware")


def record(version: str, digit: str = "") -> FileRecord:
    digit = digit or version[0]
    return FileRecord(f"widgets-{version}.zip", sha256=digit * 64, url=f"https://u/{digit}", version=version)


ONE, TWO = record("1.0"), record("2.0")


def page(*files: FileRecord, quarantined: bool = False) -> Page:
    return Page(WIDGETS, files, status=QUARANTINED if quarantined else ProjectStatus())


class Upstream:
    """An upstream that says one thing after another, a day between them, and a registry that hears it."""

    def __init__(self, rig: Rig, registry: Database) -> None:
        self.rig = rig
        self.registry = registry
        self.before: Page | None = None

    def says(self, after: Page | None) -> list[str]:
        """Have it say something; all its files lie in the cache. Returns the filenames that become held."""
        gone = [Unlisted(file, str(file.sha256)) for file in unlisted(self.before, after)]
        self.rig.clock.advance(days=1)
        at = self.rig.clock.time
        self.before = after
        newly = self.registry.change_now(lambda change: held.hold(change, "pypi", WIDGETS, gone, after, at))
        return [each.record.filename for each in newly]

    @property
    def rows(self) -> list[tuple[FileRecord, str, int, bool]]:
        """Of each row the record, why, since which day, and whether it is released."""
        found = self.registry.read_now(partial(held_files, upstream="pypi", name=WIDGETS))
        days = timedelta(days=1)
        return [(each.record, each.why, (each.since - EPOCH) // days, each.is_released) for each in found]

    def release(self, filename: str, **other: str) -> Name:
        given: dict[str, Any] = {"upstream": "pypi", "wanted": "Widgets", "filename": filename, **other}
        by = By(OPERATOR, self.rig.clock.time)
        return self.registry.change_now(partial(held.release, by=by, **given))

    @property
    def audited(self) -> list[tuple[str, str, str, str]]:
        """Action, kind and name of who did it, and filename of all events."""
        rows = self.registry.read_now(
            lambda connection: connection.execute(audit.select().order_by(audit.c.id)).all()
        )
        assert {(row.name, row.detail["upstream"]) for row in rows} <= {("widgets", "pypi")}
        return [(row.action, row.who_kind, row.who_user, row.filename) for row in rows]


@pytest.fixture
def upstream_says(rig: Rig, registry: Database) -> Upstream:
    return Upstream(rig, registry)


def test_what_a_page_lists_no_more_is_held_once_until_it_is_back(upstream_says: Upstream) -> None:
    says = upstream_says.says
    assert says(page(ONE, TWO)) == []
    assert says(page(TWO)) == [ONE.filename]
    upstream_says.before = page(ONE, TWO)  # as another process has it
    assert says(page(TWO)) == []
    assert upstream_says.rows == [(ONE, "removed", 2, False)]
    assert says(None) == [TWO.filename]
    assert says(page(TWO)) == []
    assert upstream_says.rows == [(ONE, "removed", 2, False)]
    assert says(page(ONE, TWO)) == []
    assert upstream_says.rows == []
    assert upstream_says.audited == [
        ("removed", "upstream", "pypi", ONE.filename),
        ("removed", "upstream", "pypi", TWO.filename),
        ("returned", "upstream", "pypi", TWO.filename),
        ("returned", "upstream", "pypi", ONE.filename),
    ]


def test_a_file_is_its_name_with_its_key(upstream_says: Upstream) -> None:
    upstream_says.says(page(ONE))
    # Replaced under its name: that is another matter.
    assert upstream_says.says(page(record("1.0", "f"))) == []
    assert upstream_says.says(None) == ["widgets-1.0.zip"]
    # The same name with other bytes is not what was removed.
    upstream_says.says(page(record("1.0", "e")))
    assert [(row[0].sha256 or "")[0] for row in upstream_says.rows] == ["f"]
    # A digest that becomes known later makes no other file of it.
    without = FileRecord(TWO.filename, url=TWO.url, version="2.0")
    upstream_says.registry.change_now(
        lambda change: held.hold(change, "pypi", WIDGETS, [Unlisted(without, "2" * 64)], None, EPOCH)
    )
    upstream_says.says(page(record("1.0", "e"), TWO))
    assert [(row[0].sha256 or "")[0] for row in upstream_says.rows] == ["f"]


def test_a_file_that_a_page_names_twice_is_held_once(upstream_says: Upstream) -> None:
    twice = FileRecord(ONE.filename, url="https://u/1a"), FileRecord(ONE.filename, url="https://u/1b")
    gone = [Unlisted(file, "1" * 64) for file in twice]
    upstream_says.registry.change_now(lambda change: held.hold(change, "pypi", WIDGETS, gone, None, EPOCH))
    assert [row[0] for row in upstream_says.rows] == [twice[0]]


def test_of_a_quarantined_project_everything_is_held_listed_or_not(upstream_says: Upstream) -> None:
    says = upstream_says.says
    says(page(ONE, TWO))
    assert says(page(TWO)) == [ONE.filename]
    assert says(page(TWO, quarantined=True)) == [ONE.filename, TWO.filename]
    assert says(page(quarantined=True)) == []
    assert [row[1:] for row in upstream_says.rows] == [("quarantined", 3, False)] * 2
    # What goes after a quarantine was not just removed.
    assert says(None) == []
    assert [row[1:] for row in upstream_says.rows] == [("quarantined", 3, False)] * 2
    # And what is lacking after its end was.
    assert says(page(TWO)) == [ONE.filename]
    assert upstream_says.rows == [(ONE, "removed", 6, False)]


def test_a_release_for_a_removal_is_void_in_a_quarantine_but_not_the_other_way(
    upstream_says: Upstream,
) -> None:
    says = upstream_says.says
    says(page(ONE, TWO))
    says(page(TWO))
    assert upstream_says.release(ONE.filename) == WIDGETS
    assert says(page()) == [TWO.filename]
    assert [row[1:] for row in upstream_says.rows] == [("removed", 2, True), ("removed", 3, False)]
    assert says(page(quarantined=True)) == [ONE.filename, TWO.filename]
    upstream_says.release(ONE.filename)
    assert says(page()) == [TWO.filename]
    assert [row[1:] for row in upstream_says.rows] == [("removed", 5, True), ("removed", 5, False)]


def test_a_release_is_recorded_and_told_on_the_board(upstream_says: Upstream) -> None:
    board, topic = upstream_says.rig.board, held_topic("pypi", "widgets")
    upstream_says.says(page(ONE))
    stamp = board.stamp([topic])
    upstream_says.says(page())
    assert not board.holds(stamp)
    stamp = board.stamp([topic])
    upstream_says.says(page())
    assert board.holds(stamp)
    upstream_says.release(ONE.filename)
    assert not board.holds(stamp)
    assert upstream_says.audited[-1] == ("held.release", "owner", "operator", ONE.filename)
    with pytest.raises(NoSuchFile, match="is held"):
        upstream_says.release(ONE.filename)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"filename": TWO.filename}, NoSuchFile),
        ({"upstream": "mirror"}, NoSuchFile),
        ({"wanted": "gadgets"}, NoSuchFile),
        ({"wanted": "-"}, InvalidName),
    ],
)
def test_what_is_not_held_cannot_be_released(
    upstream_says: Upstream, other: dict[str, str], error: type[Exception]
) -> None:
    upstream_says.says(page(ONE))
    upstream_says.says(page())
    with pytest.raises(error):
        upstream_says.release(**{"filename": ONE.filename, **other})
    assert upstream_says.rows == [(ONE, "removed", 2, False)]


def test_what_is_released_is_listed_and_counted_no_more_but_stays(upstream_says: Upstream) -> None:
    registry = upstream_says.registry
    assert registry.read_now(count_held) == {"removed": 0, "quarantined": 0}
    upstream_says.says(page(ONE, TWO))
    upstream_says.says(None)
    assert registry.read_now(count_held) == {"removed": 2, "quarantined": 0}
    upstream_says.release(TWO.filename)
    assert registry.read_now(count_held) == {"removed": 1, "quarantined": 0}
    assert registry.read_now(list_held) == [
        {
            "upstream": "pypi",
            "name": "widgets",
            "version": "1.0",
            "filename": ONE.filename,
            "sha256": "1" * 64,
            "why": "removed",
            "since": "2026-11-23T12:00:00Z",
        }
    ]
    assert registry.read_now(held_digests) == {"1" * 64, "2" * 64}
    assert registry.read_now(partial(held.digests_of, names={Name("gadgets")})) == frozenset()


def test_the_list_comes_in_pieces_the_latest_first(upstream_says: Upstream) -> None:
    files = [record(f"{number}.0", str(number)) for number in range(1, 6)]
    upstream_says.says(page(*files))
    for number in range(1, 6):
        upstream_says.says(page(*files[number:]))
    pieces = [
        [
            item["version"]
            for item in upstream_says.registry.read_now(partial(list_held, limit=2, offset=offset))
        ]
        for offset in (0, 2, 4, 6)
    ]
    assert pieces == [["5.0", "4.0"], ["3.0", "2.0"], ["1.0"], []]


def test_what_is_lost_is_held_no_more(upstream_says: Upstream) -> None:
    upstream_says.says(page(ONE, TWO))
    upstream_says.says(None)
    stamp = upstream_says.rig.board.stamp([held_topic("pypi", "widgets")])
    upstream_says.registry.change_now(partial(held.forget_held, digests=["1" * 64]))
    assert [row[0] for row in upstream_says.rows] == [TWO]
    assert not upstream_says.rig.board.holds(stamp)
