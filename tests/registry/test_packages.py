"""SQL of packages: facts, pages, duplicates, deletion, tombstones, yanks and statuses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import select

from proxy.domain.decision import NameFacts, OwnedKind
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import ProjectStatus, Status
from proxy.domain.screen import Withheld
from proxy.domain.versions import parse_version, version_key
from proxy.errors import AlreadyExists, NoSuchFile, NoSuchName, NotPermitted, StillInUse
from proxy.registry import packages
from proxy.registry.packages import StoredFile
from proxy.storage.database import Change, Database
from proxy.storage.tables import releases
from tests.registry.making import (
    DEFAULT,
    GLOBEX,
    NOW,
    SANDBOX,
    WIDGETS,
    digest,
    new_file,
    publish,
    remove,
    wheel,
)

LATER = NOW + timedelta(hours=1)
GEARS = Name("gears")


def facts(registry: Database, name: str = "gears") -> list[tuple[str, OwnedKind]]:
    found = registry.read_now(lambda c: packages.facts(c, Name(name)))
    return [(owned.project, owned.kind) for owned in found.owned]


def listed(registry: Database, *projects: NamespacePath) -> list[str]:
    page = registry.read_now(lambda c: packages.page(c, projects, GEARS).page)
    return [file.filename for file in page.files]


def then(registry: Database, as_of: datetime, *projects: NamespacePath) -> list[str]:
    """What was listed at a moment."""
    page = registry.read_now(lambda c: packages.page(c, projects, GEARS, as_of).page)
    return [file.filename for file in page.files]


def topics(registry: Database, act: object) -> frozenset[str]:
    def run(change: Change) -> frozenset[str]:
        act(change)  # type: ignore[operator]
        return change.topics

    return registry.change_now(run)


def test_nobody_holds_a_name_that_was_never_published(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears_extra", "1.0"))
    assert facts(registry) == []


def test_facts_name_every_holder_oldest_claim_first(registry: Database) -> None:
    publish(registry, GLOBEX, wheel("gears", "1.0"), at=LATER)
    publish(registry, WIDGETS, wheel("gears", "1.0"), at=NOW)
    publish(registry, SANDBOX, wheel("gears", "2.0"), at=LATER + timedelta(hours=1))
    assert [project for project, _ in facts(registry)] == [WIDGETS, GLOBEX, SANDBOX]


def test_a_claim_dates_from_the_first_upload_whatever_comes_and_goes(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    remove(registry, WIDGETS, "gears")
    publish(registry, WIDGETS, wheel("gears", "2.0"), at=LATER)
    found = registry.read_now(lambda c: packages.facts(c, GEARS))
    assert [owned.since for owned in found.owned] == [NOW]


def test_the_first_upload_is_that_of_the_oldest_file_that_is_still_there(registry: Database) -> None:
    def first() -> datetime | None:
        [owned] = registry.read_now(lambda c: packages.facts(c, GEARS)).owned
        return owned.first_upload

    publish(registry, WIDGETS, wheel("gears", "2.0"), at=NOW)
    publish(registry, WIDGETS, wheel("gears", "1.0"), at=LATER)
    assert first() == NOW
    remove(registry, WIDGETS, "gears", "2")
    assert first() == LATER
    remove(registry, WIDGETS, "gears")
    assert first() is None
    assert facts(registry) == [(WIDGETS, OwnedKind.TOMBSTONE)]


def test_a_dated_page_has_the_files_uploaded_before(registry: Database) -> None:
    old, new = wheel("gears", "1.0"), wheel("gears", "2.0")
    publish(registry, WIDGETS, old, at=NOW)
    publish(registry, WIDGETS, new, at=LATER)
    assert [then(registry, at, WIDGETS) for at in (NOW, LATER, LATER + timedelta(seconds=1))] == [
        [],
        [old],
        [old, new],
    ]
    remove(registry, WIDGETS, "gears", "1")
    assert then(registry, LATER, WIDGETS) == [], "what was deleted since stays deleted"


def test_a_dated_page_lists_what_a_later_upload_elsewhere_displaced(registry: Database) -> None:
    filename = wheel("gears", "1.0")
    publish(registry, WIDGETS, filename, at=NOW, content="old")
    publish(registry, SANDBOX, filename, at=LATER, content="new")

    def listed_at(as_of: datetime | None) -> list[str | None]:
        page = registry.read_now(lambda c: packages.page(c, [WIDGETS, SANDBOX], GEARS, as_of).page)
        return [file.sha256 for file in page.files]

    assert (listed_at(LATER), listed_at(None)) == ([digest("old")], [digest("new")])


def test_a_file_has_no_address_in_a_view_before_its_upload(registry: Database) -> None:
    filename = wheel("gears", "1.0")
    publish(registry, WIDGETS, filename, at=NOW)

    def find(as_of: datetime) -> object:
        sha256 = digest(filename)
        return registry.read_now(
            lambda c: packages.find_file(c, [WIDGETS], GEARS, filename, sha256, as_of=as_of)
        )

    assert find(NOW) is None
    assert isinstance(find(LATER), StoredFile)


def test_T_CONF5_versions_are_taken_whatever_their_local_part_and_spelling(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0.0+acme"))
    publish(registry, WIDGETS, wheel("gears", "2.0rc1"))
    publish(registry, SANDBOX, wheel("gears", "3.0"))
    publish(registry, GLOBEX, wheel("gears", "4.0"))
    publish(registry, WIDGETS, wheel("other", "5.0"))
    publish(registry, SANDBOX, wheel("gears", "6.0"))
    remove(registry, SANDBOX, "gears", "6")
    taken = registry.read_now(lambda c: packages.taken_versions(c, GEARS, [WIDGETS, SANDBOX]))
    assert taken == {"1", "2rc1", "3"}
    assert registry.read_now(lambda c: packages.taken_versions(c, GEARS, [])) == frozenset()


def test_all_facts_are_the_facts_of_each_name(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"), at=LATER)
    publish(registry, DEFAULT, wheel("cogs", "1.0"))
    remove(registry, GLOBEX, "gears")
    together = registry.read_now(packages.all_facts)
    assert set(together) == {"gears", "cogs"}
    for name, found in together.items():
        assert found == registry.read_now(partial(packages.facts, name=name))
    assert together[GEARS] != NameFacts()


def test_a_page_stands_by_version_then_filename(registry: Database) -> None:
    for filename in (
        wheel("gears", "1.10"),
        wheel("gears", "1.9"),
        "gears-1.9.tar.gz",
        wheel("gears", "2.0rc1"),
        wheel("gears", "1.9", "cp311-cp311-linux_x86_64"),
    ):
        publish(registry, WIDGETS, filename)
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    assert [file.filename for file in page.files] == [
        wheel("gears", "1.9", "cp311-cp311-linux_x86_64"),
        wheel("gears", "1.9"),
        "gears-1.9.tar.gz",
        wheel("gears", "1.10"),
        wheel("gears", "2.0rc1"),
    ]
    assert page.versions == ("1.9", "1.10", "2.0rc1")


def test_a_page_shows_only_the_projects_that_are_asked_for(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "9.0"))
    assert listed(registry, WIDGETS) == [wheel("gears", "1.0")]
    assert listed(registry, WIDGETS, GLOBEX) == [wheel("gears", "1.0"), wheel("gears", "9.0")]
    assert listed(registry) == []


def test_a_page_says_of_a_file_what_was_published(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), requires_python=">=3.11", size=4321)
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    [file] = page.files
    assert (file.sha256, file.size) == (digest(wheel("gears", "1.0")), 4321)
    assert (file.requires_python, file.uploaded, file.yanked) == (">=3.11", NOW, False)
    assert file.core_metadata == digest("metadata of " + wheel("gears", "1.0"))


def test_metadata_that_may_change_in_the_build_is_kept_but_not_advertised(registry: Database) -> None:
    publish(registry, WIDGETS, "gears-1.0.tar.gz", final=False)
    sha256 = digest("gears-1.0.tar.gz")
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    found = registry.read_now(lambda c: packages.find_file(c, [WIDGETS], GEARS, "gears-1.0.tar.gz", sha256))
    assert not page.files[0].core_metadata
    assert isinstance(found, StoredFile)
    assert found.metadata_sha256 == digest("metadata of gears-1.0.tar.gz")


@pytest.mark.parametrize("newest", [WIDGETS, SANDBOX])
def test_of_equal_filenames_the_newest_upload_is_listed_and_the_other_stays_at_its_address(
    registry: Database, newest: NamespacePath
) -> None:
    filename = wheel("gears", "1.0")
    for project in (WIDGETS, SANDBOX):
        at = LATER if project == newest else NOW
        publish(registry, project, filename, content=project, at=at)
    projects = [WIDGETS, SANDBOX]
    page = registry.read_now(lambda c: packages.page(c, projects, GEARS).page)
    assert [file.sha256 for file in page.files] == [digest(newest)]
    for project in projects:
        query = partial(packages.find_file, projects=projects, name=GEARS, filename=filename)
        found = registry.read_now(partial(query, sha256=digest(project)))
        assert isinstance(found, StoredFile)
        assert (found.project, found.sha256) == (project, digest(project))


def test_a_file_is_found_by_name_filename_and_digest_together_or_not_at_all(registry: Database) -> None:
    filename, other = wheel("gears", "1.0"), wheel("gears", "2.0")
    publish(registry, WIDGETS, filename)
    publish(registry, WIDGETS, other)

    def find(
        name: str = "gears",
        filename: str = filename,
        sha256: str = digest(filename),
        project: NamespacePath = WIDGETS,
    ) -> bool:
        found = registry.read_now(lambda c: packages.find_file(c, [project], Name(name), filename, sha256))
        return found is not None

    assert find()
    assert not find(name="cogs")
    assert not find(filename=other)
    assert not find(sha256=digest(other))
    assert not find(project=GLOBEX)


TWINS = [
    ("gears-1.0-py3-none-any.whl", "gears-1.0-py3-none-any.whl"),
    ("gears-1.0-py3-none-any.whl", "Gears-1.0-py3-none-any.whl"),
    ("gears-1.0-py3-none-any.whl", "gears-1.0.0-py3-none-any.whl"),
    ("gears-1.0-py2.py3-none-any.whl", "gears-1.0-py3.py2-none-any.whl"),
    ("gears-1.0.tar.gz", "gears-1.0.zip"),
    ("gears-1.0.tar.gz", "gears-1.tar.gz"),
    ("gears-1.0+a.1-py3-none-any.whl", "gears-1.0+a.1-py3-none-any.whl"),
]


@pytest.mark.parametrize(("first", "second"), TWINS)
def test_a_duplicate_is_refused_however_it_is_spelled(registry: Database, first: str, second: str) -> None:
    publish(registry, WIDGETS, first)
    with pytest.raises(AlreadyExists, match="already exists") as caught:
        publish(registry, WIDGETS, second, content="other bytes")
    assert first in str(caught.value)
    assert listed(registry, WIDGETS) == [first]


@pytest.mark.parametrize(
    "second",
    [
        "gears-1.0-py2-none-any.whl",
        "gears-1.0-1-py3-none-any.whl",
        "gears-1.0+local-py3-none-any.whl",
        "gears-1.0.post1-py3-none-any.whl",
        "gears-1.0.tar.gz",
    ],
)
def test_other_tags_builds_kinds_and_versions_are_no_duplicates(registry: Database, second: str) -> None:
    publish(registry, WIDGETS, "gears-1.0-py3-none-any.whl")
    publish(registry, WIDGETS, second)
    assert sorted(listed(registry, WIDGETS)) == sorted(["gears-1.0-py3-none-any.whl", second])


def test_two_projects_may_hold_the_same_filename(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    assert len(facts(registry)) == 2


def test_equal_versions_are_one_release(registry: Database) -> None:
    publish(registry, WIDGETS, "gears-1.0-py3-none-any.whl")
    publish(registry, WIDGETS, "gears-1.0.0.tar.gz")
    versions = registry.read_now(lambda c: c.execute(select(releases.c.version)).scalars().all())
    assert versions == ["1.0"]
    remove(registry, WIDGETS, "gears", "1")
    assert facts(registry) == [(WIDGETS, OwnedKind.TOMBSTONE)]


def test_a_refused_file_takes_everything_of_its_transaction_along(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))

    def act(change: Change) -> None:
        packages.insert_file(change, WIDGETS, new_file(wheel("cogs", "1.0")))
        packages.insert_file(change, WIDGETS, new_file(wheel("gears", "1.0")))

    with pytest.raises(AlreadyExists):
        registry.change_now(act)
    assert facts(registry, "cogs") == []


def test_deleting_everything_leaves_a_tombstone(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, WIDGETS, wheel("gears", "2.0"))
    removed = remove(registry, WIDGETS, "gears")
    assert sorted(removed.filenames) == [wheel("gears", "1.0"), wheel("gears", "2.0")]
    assert removed.tombstone
    assert facts(registry) == [(WIDGETS, OwnedKind.TOMBSTONE)]
    assert listed(registry, WIDGETS) == []


def test_deleting_a_release_leaves_the_others(registry: Database) -> None:
    for filename in (wheel("gears", "1.0"), "gears-1.0.tar.gz", wheel("gears", "2.0")):
        publish(registry, WIDGETS, filename)
    removed = remove(registry, WIDGETS, "gears", "1")
    assert sorted(removed.filenames) == [wheel("gears", "1.0"), "gears-1.0.tar.gz"]
    assert not removed.tombstone
    assert listed(registry, WIDGETS) == [wheel("gears", "2.0")]
    assert facts(registry) == [(WIDGETS, OwnedKind.FILES)]


def test_deleting_one_file_leaves_its_release_until_the_last(registry: Database) -> None:
    for filename in (wheel("gears", "1.0"), "gears-1.0.tar.gz"):
        publish(registry, WIDGETS, filename)
    assert not remove(registry, WIDGETS, "gears", "1", "gears-1.0.tar.gz").tombstone
    assert registry.read_now(lambda c: c.execute(select(releases.c.version)).scalars().all()) == ["1.0"]
    assert remove(registry, WIDGETS, "gears", "1", wheel("gears", "1.0")).tombstone
    assert registry.read_now(lambda c: c.execute(select(releases.c.version)).scalars().all()) == []


def test_deletion_touches_no_other_project(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"), at=LATER)
    remove(registry, WIDGETS, "gears")
    assert facts(registry) == [(WIDGETS, OwnedKind.TOMBSTONE), (GLOBEX, OwnedKind.FILES)]


def test_what_is_not_there_cannot_be_deleted(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    with pytest.raises(NoSuchName):
        remove(registry, WIDGETS, "cogs")
    with pytest.raises(NoSuchName):
        remove(registry, SANDBOX, "gears")
    with pytest.raises(NoSuchFile):
        remove(registry, WIDGETS, "gears", "2")
    with pytest.raises(NoSuchFile):
        remove(registry, WIDGETS, "gears", "1", wheel("gears", "1.0", "py2-none-any"))
    assert listed(registry, WIDGETS) == [wheel("gears", "1.0")]
    remove(registry, WIDGETS, "gears")
    with pytest.raises(NoSuchName):
        remove(registry, WIDGETS, "gears")


def test_the_filename_may_be_published_again_after_deletion(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), content="first")
    remove(registry, WIDGETS, "gears")
    publish(registry, WIDGETS, wheel("gears", "1.0"), content="second")
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    assert [file.sha256 for file in page.files] == [digest("second")]


def test_objects_go_only_when_the_last_file_that_names_them_goes(registry: Database) -> None:
    filename = wheel("gears", "1.0")
    for project in (WIDGETS, GLOBEX):
        publish(registry, project, filename, content="same", metadata="same metadata")
    publish(registry, WIDGETS, wheel("gears", "2.0"), content="two", metadata="same metadata")
    assert remove(registry, WIDGETS, "gears").digests == (digest("two"),)
    assert set(remove(registry, GLOBEX, "gears").digests) == {digest("same"), digest("same metadata")}


def test_a_tombstone_is_released_and_the_name_is_free(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    remove(registry, WIDGETS, "gears")
    registry.change_now(lambda change: packages.release_claim(change, WIDGETS, GEARS))
    assert facts(registry) == [(GLOBEX, OwnedKind.FILES)]


def test_a_name_with_files_is_not_released(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    with pytest.raises(StillInUse):
        registry.change_now(lambda change: packages.release_claim(change, WIDGETS, GEARS))
    assert facts(registry) == [(WIDGETS, OwnedKind.FILES)]


def test_a_name_that_is_not_claimed_is_not_released(registry: Database) -> None:
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    remove(registry, GLOBEX, "gears")
    with pytest.raises(NoSuchName):
        registry.change_now(lambda change: packages.release_claim(change, WIDGETS, GEARS))
    assert facts(registry) == [(GLOBEX, OwnedKind.TOMBSTONE)]


def test_whoever_changes_a_name_touches_its_topics(registry: Database) -> None:
    wanted = {"name:acme/gears", "name:*/gears", f"names:{WIDGETS}"}
    new = new_file(wheel("gears", "1.0"))
    assert topics(registry, lambda change: packages.insert_file(change, WIDGETS, new)) >= wanted
    assert topics(registry, lambda change: packages.delete_files(change, WIDGETS, GEARS)) >= wanted
    assert topics(registry, lambda change: packages.release_claim(change, WIDGETS, GEARS)) >= wanted


def test_a_yanked_file_stays_listed_with_its_reason(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, WIDGETS, wheel("gears", "2.0"))
    _yank(registry, "1.0", reason="broken")
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    assert [file.yanked for file in page.files] == ["broken", False]
    _yank(registry, "2.0", reason=None)
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    assert page.files[1].yanked is True


@pytest.fixture
def three(registry: Database) -> Database:
    """A registry with three files of gears in two releases."""
    for filename in (wheel("gears", "1.0"), "gears-1.0.tar.gz", wheel("gears", "2.0")):
        publish(registry, WIDGETS, filename)
    return registry


def marked(registry: Database) -> dict[str, bool | str]:
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS).page)
    return {file.filename: file.yanked for file in page.files}


def test_a_yank_marks_every_file_of_the_release_and_can_be_undone(three: Database) -> None:
    _yank(three, "1.0", reason="broken")
    yanked = {wheel("gears", "1.0"): "broken", "gears-1.0.tar.gz": "broken", wheel("gears", "2.0"): False}
    assert marked(three) == yanked
    _yank(three, "1.0", reason=None)
    assert marked(three) == {filename: "2.0" not in filename for filename in yanked}, (
        "the reason given last counts"
    )
    for _ in range(2):
        three.change_now(lambda change: packages.unyank(change, WIDGETS, GEARS, "1"))
        assert set(marked(three).values()) == {False}


def test_only_what_is_published_can_be_marked(three: Database) -> None:
    marks: list[tuple[type[Exception], Callable[[Change], None]]] = [
        (NoSuchFile, lambda change: packages.yank(change, WIDGETS, GEARS, "3")),
        (NoSuchName, lambda change: packages.yank(change, WIDGETS, Name("cogs"), "1")),
        (NoSuchName, lambda change: packages.yank(change, GLOBEX, GEARS, "1")),
        (NoSuchFile, lambda change: packages.unyank(change, WIDGETS, GEARS, "3")),
        (NoSuchName, lambda change: packages.set_status(change, GLOBEX, GEARS, Status.ARCHIVED)),
    ]
    remove(three, WIDGETS, "gears", "2")
    for error, mark in marks:
        with pytest.raises(error):
            three.change_now(mark)
    remove(three, WIDGETS, "gears")
    with pytest.raises(NoSuchName):
        _set_status(three, WIDGETS, Status.QUARANTINED)


def test_a_page_tells_the_status_and_its_reason(three: Database) -> None:
    for status, reason in ((Status.DEPRECATED, "use cogs"), (Status.ARCHIVED, None), (Status.ACTIVE, None)):
        _set_status(three, WIDGETS, status, reason)
        found = three.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
        assert found.page.status == ProjectStatus(status, reason)
        assert (len(found.page.files), found.withheld) == (3, ())


def test_a_quarantined_package_lists_nothing_withholds_everything_and_stays_claimed(three: Database) -> None:
    _set_status(three, WIDGETS, Status.QUARANTINED, "malware")
    found = three.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    assert found.page.files == ()
    assert found.page.status == ProjectStatus(Status.QUARANTINED, "malware")
    assert {file.filename for file in found.withheld} == {
        wheel("gears", "1.0"),
        "gears-1.0.tar.gz",
        wheel("gears", "2.0"),
    }
    filename = wheel("gears", "2.0")
    file = three.read_now(lambda c: packages.find_file(c, [WIDGETS], GEARS, filename, digest(filename)))
    assert file == Withheld(
        filename, "2.0", "quarantined", "gears is quarantined in acme/widgets: malware", source="acme/widgets"
    )
    assert file in found.withheld
    assert facts(three) == [(WIDGETS, OwnedKind.FILES)]
    _set_status(three, WIDGETS, Status.ACTIVE)
    assert len(listed(three, WIDGETS)) == 3


def test_a_quarantine_in_one_project_leaves_the_files_of_another(registry: Database) -> None:
    shared, own = wheel("gears", "1.0"), wheel("gears", "2.0")
    publish(registry, SANDBOX, shared, content="ours", at=NOW)
    publish(registry, WIDGETS, shared, content="theirs", at=LATER)
    publish(registry, WIDGETS, own)
    _set_status(registry, WIDGETS, Status.QUARANTINED)
    both = [SANDBOX, WIDGETS]
    found = registry.read_now(lambda c: packages.page(c, both, GEARS))
    assert [file.sha256 for file in found.page.files] == [digest("ours")]
    assert found.page.status == ProjectStatus(), "a quarantined page has no files on it (PEP 792)"
    assert [file.filename for file in found.withheld] == [own]
    for content, served in (("ours", True), ("theirs", False)):
        query = partial(packages.find_file, projects=both, name=GEARS, filename=shared)
        file = registry.read_now(partial(query, sha256=digest(content)))
        assert isinstance(file, StoredFile if served else Withheld), content
    _set_status(registry, SANDBOX, Status.QUARANTINED)
    assert registry.read_now(lambda c: packages.page(c, both, GEARS)).page.status.status == "quarantined"


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ((Status.ACTIVE, Status.ARCHIVED), Status.ARCHIVED),
        ((Status.DEPRECATED, Status.ARCHIVED), Status.DEPRECATED),
        ((Status.QUARANTINED, Status.DEPRECATED), Status.DEPRECATED),
    ],
)
def test_of_several_projects_the_worst_status_is_told(
    registry: Database, statuses: tuple[Status, Status], told: Status
) -> None:
    for project, status in zip((WIDGETS, SANDBOX), statuses, strict=True):
        publish(registry, project, wheel("gears", "1.0"))
        _set_status(registry, project, status)
    for order in ([WIDGETS, SANDBOX], [SANDBOX, WIDGETS]):
        assert (
            registry.read_now(partial(packages.page, projects=order, name=GEARS)).page.status.status is told
        )


@pytest.mark.parametrize("status", [Status.ARCHIVED, Status.QUARANTINED])
def test_an_archived_or_quarantined_package_takes_no_files(three: Database, status: Status) -> None:
    _set_status(three, WIDGETS, status)
    with pytest.raises(NotPermitted, match=f"gears is {status} in acme/widgets"):
        publish(three, WIDGETS, wheel("gears", "3.0"))
    publish(three, SANDBOX, wheel("gears", "3.0"))
    _set_status(three, WIDGETS, Status.DEPRECATED)
    publish(three, WIDGETS, wheel("gears", "3.0"))


def test_a_status_lasts_as_long_as_there_are_files(three: Database) -> None:
    _set_status(three, WIDGETS, Status.QUARANTINED, "malware")
    remove(three, WIDGETS, "gears", "1")
    with pytest.raises(NotPermitted):
        publish(three, WIDGETS, wheel("gears", "3.0"))
    remove(three, WIDGETS, "gears")
    assert facts(three) == [(WIDGETS, OwnedKind.TOMBSTONE)]
    publish(three, WIDGETS, wheel("gears", "3.0"))
    found = three.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    assert (found.page.status, len(found.page.files)) == (ProjectStatus(), 1)


def test_marks_name_the_topics_that_answers_depend_on(three: Database) -> None:
    expected = {"name:acme/gears", "name:*/gears", "names:acme/widgets"}
    for mark in (
        lambda change: packages.yank(change, WIDGETS, GEARS, "1"),
        lambda change: packages.unyank(change, WIDGETS, GEARS, "1"),
        lambda change: packages.set_status(change, WIDGETS, GEARS, Status.ARCHIVED),
    ):
        assert topics(three, mark) == expected


def _yank(registry: Database, *versions: str, reason: str | None = "broken") -> None:
    for version in versions:
        key = version_key(parse_version(version))
        registry.change_now(
            partial(packages.yank, project=WIDGETS, name=GEARS, version_key=key, reason=reason)
        )


def _set_status(
    registry: Database, project: NamespacePath, status: Status, reason: str | None = None
) -> None:
    registry.change_now(lambda change: packages.set_status(change, project, GEARS, status, reason))
