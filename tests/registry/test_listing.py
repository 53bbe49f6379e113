"""Lists of packages, releases and files: shapes, order, filters and windows."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

from proxy.domain.decision import OwnedKind
from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.versions import parse_version, version_key
from proxy.errors import NoSuchFile, NoSuchName
from proxy.registry import packages
from proxy.registry.listing import (
    Order,
    Wanted,
    Window,
    claims,
    find_release,
    find_release_file,
    list_files,
    list_packages,
    list_releases,
    show_package,
    usage,
)
from proxy.storage.database import Database
from tests.registry.making import GLOBEX, NOW, SANDBOX, WIDGETS, digest, publish, remove, wheel

LATER = NOW + timedelta(hours=1)
GEARS = Name("gears")
ALL = [WIDGETS, SANDBOX, GLOBEX]


def yank(registry: Database, *versions: str) -> None:
    for version in versions:
        key = version_key(parse_version(version))
        mark = partial(packages.yank, project=WIDGETS, name=GEARS, version_key=key, reason="broken")
        registry.change_now(mark)


def versions(registry: Database, wanted: Wanted, window: Window = Window()) -> list[str]:  # noqa: B008 - immutable
    _, found = registry.read_now(partial(list_releases, projects=ALL, wanted=wanted, window=window))
    return [f"{release.name} {release.version}" for release in found]


def test_the_list_of_packages_has_the_shape_that_is_promised(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), size=10)
    publish(registry, WIDGETS, "gears-1.0.tar.gz", size=5)
    publish(registry, WIDGETS, wheel("gears", "1.1rc1"), size=1)
    publish(registry, GLOBEX, wheel("cogs", "2.0"), size=7)
    publish(registry, GLOBEX, wheel("gone", "1.0"))
    remove(registry, GLOBEX, "gone")
    assert registry.read_now(partial(list_packages, projects=ALL)) == [
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
    yank(registry, *yanked)
    [shown] = registry.read_now(partial(list_packages, projects=ALL))
    assert shown["latest"] == latest


def test_a_package_is_shown_with_releases_newest_first(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.9"), size=10)
    publish(registry, WIDGETS, wheel("gears", "1.10"), size=20, by="bob", at=LATER)
    yank(registry, "1.9")
    assert registry.read_now(lambda c: show_package(c, WIDGETS, GEARS)) == {
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
        registry.read_now(lambda c: show_package(c, WIDGETS, GEARS))


def test_a_list_of_packages_may_be_of_some_projects_of_one_name_and_of_a_piece(registry: Database) -> None:
    for project in (WIDGETS, GLOBEX):
        for name in ("gears", "cogs"):
            publish(registry, project, wheel(name, "1.0"))

    def found(*projects: str, **more: object) -> list[tuple[object, object]]:
        query = partial(list_packages, projects=projects, **more)  # type: ignore[arg-type]
        return [(item["project"], item["name"]) for item in registry.read_now(query)]

    whole = [(WIDGETS, "cogs"), (WIDGETS, "gears"), (GLOBEX, "cogs"), (GLOBEX, "gears")]
    assert found(*ALL) == whole
    assert found(GLOBEX) == whole[2:]
    assert found() == []
    assert found(*ALL, name=GEARS) == [whole[1], whole[3]]
    assert found(*ALL, window=Window(2, 1)) == whole[1:3]
    assert found(*ALL, window=Window(2, 4)) == []


@pytest.fixture
def shelf(registry: Database) -> Database:
    """Releases of two names in two projects, published in an order that is no other."""
    publish(registry, WIDGETS, wheel("gears", "1.10"), at=NOW)
    publish(registry, GLOBEX, wheel("big_cogs", "1.9"), at=LATER)
    publish(registry, WIDGETS, wheel("gears", "1.9"), at=LATER + timedelta(hours=1))
    publish(registry, GLOBEX, wheel("big_cogs", "2.0rc1"), at=LATER - timedelta(hours=2))
    return registry


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.CREATED_AT, ["big-cogs 2.0rc1", "gears 1.10", "big-cogs 1.9", "gears 1.9"]),
        (Order.NAME, ["big-cogs 1.9", "big-cogs 2.0rc1", "gears 1.10", "gears 1.9"]),
        (Order.VERSION, ["big-cogs 1.9", "gears 1.9", "gears 1.10", "big-cogs 2.0rc1"]),
        (Order.TYPE, ["gears 1.10", "big-cogs 1.9", "gears 1.9", "big-cogs 2.0rc1"]),
        (Order.PROJECT_PATH, ["gears 1.10", "gears 1.9", "big-cogs 1.9", "big-cogs 2.0rc1"]),
    ],
)
def test_releases_are_sorted_as_wanted_and_cut_after_that(
    shelf: Database, order: Order, expected: list[str]
) -> None:
    assert versions(shelf, Wanted(order=order)) == expected
    assert versions(shelf, Wanted(order=order, descending=True)) == expected[::-1]
    assert versions(shelf, Wanted(order=order), Window(2, 1)) == expected[1:3]
    assert versions(shelf, Wanted(order=order), Window(2, 9)) == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted("cog"), 2),
        (Wanted("BIG-C"), 2),
        (Wanted("g"), 4),
        (Wanted("%"), 0),
        (Wanted("i_c"), 0),
        (Wanted(version="1.9"), 2),
        (Wanted(version="v1.9.0"), 2),
        (Wanted("gears", version="1.9"), 1),
        (Wanted(version="1"), 0),
        (Wanted(version="new"), 0),
    ],
)
def test_releases_are_found_by_a_part_of_the_name_and_by_version(
    shelf: Database, wanted: Wanted, expected: int
) -> None:
    total, found = shelf.read_now(partial(list_releases, projects=ALL, wanted=wanted))
    assert (total, len(found)) == (expected, expected)


def test_a_name_is_found_as_it_was_published_too(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), display_name="Ge.Ars")
    for part, count in (("ge.a", 1), ("gear", 1), ("ge-a", 0)):
        total, found = registry.read_now(partial(list_releases, projects=ALL, wanted=Wanted(part)))
        assert (total, [release.title for release in found]) == (count, ["Ge.Ars"][:count])


def test_the_total_counts_beyond_the_window_but_not_beyond_the_projects(shelf: Database) -> None:
    query = partial(list_releases, wanted=Wanted(), window=Window(1, 0))
    total, found = shelf.read_now(partial(query, projects=[WIDGETS]))
    assert (total, [release.version for release in found]) == (2, ["1.10"])
    assert shelf.read_now(partial(query, projects=[])) == (0, [])


def test_releases_and_files_are_found_by_number_in_their_own_place_alone(shelf: Database) -> None:
    publish(shelf, WIDGETS, "gears-1.9.tar.gz", size=7)
    _, (first, second) = shelf.read_now(partial(list_releases, projects=[WIDGETS], wanted=Wanted()))
    assert shelf.read_now(partial(find_release, project=WIDGETS, number=first.number)) == first
    total, found = shelf.read_now(partial(list_files, release=second.number))
    assert (total, [file.filename for file in found]) == (2, [wheel("gears", "1.9"), "gears-1.9.tar.gz"])
    assert shelf.read_now(partial(list_files, release=second.number, window=Window(1, 1))) == (2, found[1:])
    sdist = found[1]
    assert (sdist.size, sdist.sha256, sdist.uploaded_at) == (7, digest("gears-1.9.tar.gz"), NOW)
    find = partial(find_release_file, number=sdist.number)
    assert shelf.read_now(partial(find, release=second.number)) == sdist
    with pytest.raises(NoSuchFile):
        shelf.read_now(partial(find, release=first.number))
    for project, number in ((GLOBEX, first.number), (WIDGETS, 10**17)):
        with pytest.raises(NoSuchName):
            shelf.read_now(partial(find_release, project=project, number=number))


def test_claims_say_who_holds_a_name_how_since_when_and_by_whom(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), by="alice")
    publish(registry, WIDGETS, wheel("gears", "2.0"), by="bob", at=LATER)
    publish(registry, GLOBEX, wheel("cogs", "1.0"), at=LATER)
    remove(registry, GLOBEX, "cogs")
    found = registry.read_now(claims)
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
    assert registry.read_now(usage) == {WIDGETS: (1, 2, 30), GLOBEX: (1, 1, 5)}
