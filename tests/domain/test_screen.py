"""Which files of an upstream page are served: all of them, unless its project is quarantined there."""

from __future__ import annotations

import pytest

from proxy.domain.decide import FileRules
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.domain.screen import Withheld, screen

RULES = FileRules(NamespacePath("acme"))
FILES = (
    FileRecord("widgets-1.0.tar.gz", sha256="a" * 64, version="1.0", yanked="broken"),
    FileRecord("widgets-2.0-py3-none-any.whl", sha256="b" * 64, version="2.0"),
    FileRecord("widgets.egg", sha256="c" * 64, version=None),
)


def page(status: ProjectStatus) -> Page:
    return Page(Name("widgets"), FILES, ("1.0", "2.0"), status)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUARANTINED])
def test_a_page_passes_as_it_is(status: Status) -> None:
    given = page(ProjectStatus(status, "why"))
    screened = screen(given, RULES)
    assert screened.page == given
    assert screened.withheld == ()


def test_a_quarantined_project_offers_no_file_and_says_which_and_why() -> None:
    screened = screen(page(ProjectStatus(Status.QUARANTINED, "malware")), RULES)
    assert screened.page.files == ()
    assert screened.page.status == ProjectStatus(Status.QUARANTINED, "malware")
    assert screened.page.versions == ("1.0", "2.0")
    reason = "widgets is quarantined upstream: malware"
    assert screened.withheld == tuple(
        Withheld(file.filename, file.version, "quarantined", reason) for file in FILES
    )


def test_a_quarantine_without_a_reason_is_told_without_one() -> None:
    screened = screen(page(ProjectStatus(Status.QUARANTINED)), RULES)
    assert {file.reason for file in screened.withheld} == {"widgets is quarantined upstream"}
