"""SQL of packages: facts, pages, duplicates, deletion, tombstones, and the shapes that commands print."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import select, update

from proxy.domain.decide import NameFacts, OwnedKind
from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.versions import version_key
from proxy.errors import AlreadyExists, NoSuchFile, NoSuchName, StillInUse
from proxy.registry import packages
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
    page = registry.read_now(lambda c: packages.page(c, projects, GEARS))
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
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
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
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    [file] = page.files
    assert (file.sha256, file.size) == (digest(wheel("gears", "1.0")), 4321)
    assert (file.requires_python, file.uploaded, file.yanked) == (">=3.11", NOW, False)
    assert file.core_metadata == digest("metadata of " + wheel("gears", "1.0"))


def test_metadata_that_may_change_in_the_build_is_kept_but_not_advertised(registry: Database) -> None:
    publish(registry, WIDGETS, "gears-1.0.tar.gz", final=False)
    sha256 = digest("gears-1.0.tar.gz")
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    found = registry.read_now(lambda c: packages.find_file(c, [WIDGETS], GEARS, "gears-1.0.tar.gz", sha256))
    assert not page.files[0].core_metadata
    assert found is not None
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
    page = registry.read_now(lambda c: packages.page(c, projects, GEARS))
    assert [file.sha256 for file in page.files] == [digest(newest)]
    for project in projects:
        query = partial(packages.find_file, projects=projects, name=GEARS, filename=filename)
        found = registry.read_now(partial(query, sha256=digest(project)))
        assert found is not None
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
    shown = registry.read_now(lambda c: packages.show_package(c, WIDGETS, GEARS))
    assert [release["version"] for release in shown["releases"]] == ["1.0"]  # type: ignore[attr-defined]
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
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
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


def test_claims_say_who_holds_a_name_how_since_when_and_by_whom(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), by="alice")
    publish(registry, WIDGETS, wheel("gears", "2.0"), by="bob", at=LATER)
    publish(registry, GLOBEX, wheel("cogs", "1.0"), at=LATER)
    remove(registry, GLOBEX, "cogs")
    found = registry.read_now(packages.claims)
    assert [(claim.project, claim.name, claim.kind, claim.since) for claim in found] == [
        (GLOBEX, "cogs", OwnedKind.TOMBSTONE, LATER),
        (WIDGETS, "gears", OwnedKind.FILES, NOW),
    ]
    assert found[1].by == "alice"


def test_usage_counts_packages_claims_and_bytes_of_each_project(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), size=10)
    publish(registry, WIDGETS, wheel("gears", "2.0"), size=20)
    publish(registry, WIDGETS, wheel("cogs", "1.0"), size=300)
    publish(registry, GLOBEX, wheel("gears", "1.0"), size=5)
    remove(registry, WIDGETS, "cogs")
    assert registry.read_now(packages.usage) == {WIDGETS: (1, 2, 30), GLOBEX: (1, 1, 5)}


def test_the_list_of_packages_has_the_shape_that_is_promised(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), size=10)
    publish(registry, WIDGETS, "gears-1.0.tar.gz", size=5)
    publish(registry, WIDGETS, wheel("gears", "1.1rc1"), size=1)
    publish(registry, GLOBEX, wheel("cogs", "2.0"), size=7)
    publish(registry, GLOBEX, wheel("gone", "1.0"))
    remove(registry, GLOBEX, "gone")
    assert registry.read_now(packages.list_packages) == [
        {
            "project": "acme/widgets",
            "name": "gears",
            "status": "active",
            "latest": "1.0",
            "releases": 2,
            "files": 3,
            "bytes": 16,
        },
        {
            "project": "globex/widgets",
            "name": "cogs",
            "status": "active",
            "latest": "2.0",
            "releases": 1,
            "files": 1,
            "bytes": 7,
        },
    ]


@pytest.mark.parametrize(
    ("versions", "yanked", "latest"),
    [
        (["1.9", "1.10"], [], "1.10"),
        (["1.0", "2.0rc1"], [], "1.0"),
        (["1.0rc1", "1.0rc2"], [], "1.0rc2"),
        (["1.0", "2.0"], ["2.0"], "1.0"),
        (["1.0rc1", "2.0"], ["2.0"], "1.0rc1"),
        (["1.0", "2.0"], ["1.0", "2.0"], "2.0"),
    ],
)
def test_the_latest_version_is_what_an_installer_would_choose(
    registry: Database, versions: list[str], yanked: list[str], latest: str
) -> None:
    for version in versions:
        publish(registry, WIDGETS, wheel("gears", version))
    _yank(registry, *yanked)
    [shown] = registry.read_now(packages.list_packages)
    assert shown["latest"] == latest


def test_a_package_is_shown_with_releases_newest_first(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.9"), size=10)
    publish(registry, WIDGETS, wheel("gears", "1.10"), size=20, by="bob", at=LATER)
    _yank(registry, "1.9", reason="broken")
    assert registry.read_now(lambda c: packages.show_package(c, WIDGETS, GEARS)) == {
        "project": "acme/widgets",
        "name": "gears",
        "status": "active",
        "releases": [
            {
                "version": "1.10",
                "yanked": False,
                "files": [
                    {
                        "filename": wheel("gears", "1.10"),
                        "sha256": digest(wheel("gears", "1.10")),
                        "size": 20,
                        "uploaded_at": iso(LATER),
                        "by": "bob",
                    }
                ],
            },
            {
                "version": "1.9",
                "yanked": "broken",
                "files": [
                    {
                        "filename": wheel("gears", "1.9"),
                        "sha256": digest(wheel("gears", "1.9")),
                        "size": 10,
                        "uploaded_at": iso(NOW),
                        "by": "alice",
                    }
                ],
            },
        ],
    }


def test_a_tombstone_has_nothing_to_show(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    remove(registry, WIDGETS, "gears")
    with pytest.raises(NoSuchName):
        registry.read_now(lambda c: packages.show_package(c, WIDGETS, GEARS))


def test_a_yanked_file_stays_listed_with_its_reason(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, WIDGETS, wheel("gears", "2.0"))
    _yank(registry, "1.0", reason="broken")
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    assert [file.yanked for file in page.files] == ["broken", False]
    _yank(registry, "2.0", reason=None)
    page = registry.read_now(lambda c: packages.page(c, [WIDGETS], GEARS))
    assert page.files[1].yanked is True


def _yank(registry: Database, *versions: str, reason: str | None = "broken") -> None:
    """No function yanks yet; what the table holds must be read right all the same."""
    from packaging.version import Version

    keys = [version_key(Version(version)) for version in versions]
    statement = (
        update(releases).where(releases.c.version_key.in_(keys)).values(yanked=True, yanked_reason=reason)
    )
    registry.change_now(lambda change: change.connection.execute(statement) and None)
