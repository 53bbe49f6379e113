"""Pages that are joined: what private files shadow, and what a page of several projects says of itself."""

from __future__ import annotations

import pytest

from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status, overlay, shadowed, together

NAME = Name("gears")


def record(
    version: str | None, filename: str | None = None, *, url: str = "https://files.test/x"
) -> FileRecord:
    return FileRecord(filename or f"gears-{version}.tar.gz", sha256="a" * 64, url=url, version=version)


def page(*versions: str | None, status: Status = Status.ACTIVE) -> Page:
    known = tuple(version for version in versions if version is not None)
    return Page(NAME, tuple(map(record, versions)), known, ProjectStatus(status))


@pytest.mark.parametrize(
    ("version", "is_shadowed"),
    [
        ("1.0", True),
        ("1", True),
        ("v1.0.0", True),
        ("1.0+evil", True),
        ("1.0.0+acme.2", True),
        # Its version cannot be told, so nobody can say that it is another.
        (None, True),
        ("1.0.post1", False),
        ("1.0rc1", False),
        ("1!1.0", False),
        ("1.0.1", False),
        ("2.0", False),
        ("1.0-unknown-scheme", False),
    ],
)
def test_T_CONF5_a_version_that_equals_a_private_one_but_for_its_local_part_is_shadowed(
    version: str | None, is_shadowed: bool
) -> None:
    left, dropped = shadowed(page(version, "3.0"), (), {"1"})
    assert [file.version for file in dropped] == [version] * is_shadowed
    assert [file.version for file in left.files] == [*[version] * (not is_shadowed), "3.0"]
    assert left.versions == (("3.0",) if is_shadowed or version is None else (version, "3.0"))


def test_T_CONF6_a_filename_that_is_private_is_shadowed_whatever_its_version() -> None:
    ours = record("2.0", "gears-2.0.tar.gz")
    left, dropped = shadowed(page("2.0", "3.0"), {ours.filename}, ())
    assert [file.filename for file in dropped] == ["gears-2.0.tar.gz"]
    assert [file.filename for file in left.files] == ["gears-3.0.tar.gz"]


def test_a_page_that_nothing_shadows_is_left_as_it_is() -> None:
    given = page("1.0", "2.0")
    assert shadowed(given, {"gears-3.0.tar.gz"}, {"3"}) == (given, ())


def test_private_files_stand_first_and_each_version_once() -> None:
    ours = Page(NAME, (record("2.0", url=""),), ("2.0",))
    joined = overlay(ours, Page(NAME, (record("1.0"),), ("0.9", "1.0", "2.0")))
    assert [file.version for file in joined.files] == ["2.0", "1.0"]
    assert joined.versions == ("2.0", "0.9", "1.0")


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((), Status.ACTIVE),
        ((Status.ACTIVE, Status.ARCHIVED), Status.ARCHIVED),
        ((Status.DEPRECATED, Status.ARCHIVED), Status.DEPRECATED),
        ((Status.QUARANTINED, Status.ACTIVE), Status.ACTIVE),
        ((Status.ARCHIVED, Status.QUARANTINED), Status.ARCHIVED),
        ((Status.QUARANTINED, Status.QUARANTINED), Status.QUARANTINED),
    ],
)
def test_the_worst_is_said_of_joined_projects_and_quarantine_only_of_all(
    statuses: tuple[Status, ...], said: Status
) -> None:
    assert together(map(ProjectStatus, statuses)).status is said
