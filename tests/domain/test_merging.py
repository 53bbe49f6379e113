"""Merged names: private files joined by what screening leaves of an upstream's page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.domain.decision import FileRules
from proxy.domain.merging import Ours, merge
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.domain.screen import Circumstances, HeldFile, Screened, Why, Withheld
from tests.support.trees import NOW

NAME = Name("gears")
RULES = FileRules(NamespacePath("acme"))


def record(version: str, sha: str, *, url: str = "https://files.test/x", kind: str = ".tar.gz") -> FileRecord:
    return FileRecord(f"gears-{version}{kind}", sha256=sha * 64, url=url, version=version)


PRIVATE = record("1.0", "a", url="")
OURS = Ours(Screened(Page(NAME, (PRIVATE,), ("1.0",))), frozenset({"1", "5"}))


def merged(
    *files: FileRecord,
    rules: FileRules = RULES,
    held: tuple[HeldFile, ...] = (),
    status: Status = Status.ACTIVE,
    ours: Ours = OURS,
) -> Screened:
    versions = tuple(dict.fromkeys(file.version for file in files if file.version is not None))
    page = Page(NAME, files, versions, ProjectStatus(status))
    return merge(ours, page, "pypi", rules, Circumstances(held=held), NOW)


def test_both_are_on_one_page() -> None:
    other = record("2.0", "b")
    screened = merged(other)
    assert screened.page.files == (PRIVATE, other)
    assert screened.withheld == ()
    assert screened.served_file(other.filename, "b" * 64) == other


@pytest.mark.parametrize("version", ["1.0+evil", "5.0"])
def test_what_is_shadowed_is_withheld_by_a_rule_that_names_no_project(version: str) -> None:
    theirs = record(version, "b")
    screened = merged(theirs)
    assert screened.page.files == (PRIVATE,)
    found = screened.withheld_file(theirs.filename, "b" * 64)
    assert found is not None
    assert (found.rule, found.is_listed) == ("merge", False)
    assert found.reason == (
        f"gears {version} of pypi is not served beside the private files that have its version or filename"
    )


def test_T_CONF6_other_bytes_of_a_private_filename_are_withheld_and_the_private_ones_are_not() -> None:
    screened = merged(record("1.0", "b"))
    assert screened.page.files == (PRIVATE,)
    assert screened.served_file(PRIVATE.filename, "a" * 64) == PRIVATE
    assert screened.withheld_file(PRIVATE.filename, "a" * 64) is None
    assert screened.withheld_file(PRIVATE.filename, "b" * 64) is not None


def test_what_rules_withhold_of_the_upstream_stays_withheld() -> None:
    screened = merged(record("2.0", "b"), rules=replace(RULES, file_types=frozenset({"wheel"})))
    assert screened.page.files == (PRIVATE,)
    assert [(file.filename, file.rule) for file in screened.withheld] == [
        ("gears-2.0.tar.gz", "file_types wheel")
    ]


def test_a_removed_file_that_was_released_is_shadowed_as_any_other() -> None:
    held = tuple(
        HeldFile(record(version, sha), Why.REMOVED, NOW, is_released=True)
        for version, sha in (("1.0+evil", "b"), ("2.0", "c"))
    )
    screened = merged(record("3.0", "d"), held=held)
    assert [file.version for file in screened.page.files] == ["1.0", "3.0", "2.0"]
    assert [(file.version, file.rule) for file in screened.withheld] == [("1.0+evil", "merge")]


def test_an_upstream_that_quarantined_the_name_leaves_the_private_files_alone() -> None:
    screened = merged(record("2.0", "b"), status=Status.QUARANTINED)
    assert screened.page.files == (PRIVATE,)
    assert screened.page.status.status is Status.ACTIVE
    assert [file.rule for file in screened.withheld] == ["quarantined"]


def test_a_private_file_in_quarantine_stays_withheld_and_still_shadows() -> None:
    withheld = Withheld(PRIVATE.filename, "1.0", "quarantined", "gears is quarantined in acme/widgets")
    page = Page(NAME, (), ("1.0",), ProjectStatus(Status.QUARANTINED))
    screened = merged(
        record("1.0", "b"), record("2.0", "c"), ours=Ours(Screened(page, (withheld,)), frozenset())
    )
    assert [file.version for file in screened.page.files] == ["2.0"]
    assert screened.page.status.status is Status.ACTIVE
    assert [file.rule for file in screened.withheld] == ["quarantined", "merge"]
