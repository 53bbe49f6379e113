"""Which versions an advisory concerns, what it is called, and how much it counts."""

from __future__ import annotations

import pytest
from packaging.version import Version

from proxy.domain.advisories import Advisory, Affected, Severity, affecting, named


def hit(versions: str, *affected: Affected, also: tuple[str, ...] = ()) -> str:
    """The versions, of some divided by blanks, that an advisory affects."""
    found = affecting([Advisory("GHSA-1", affected=affected, versions=also)], versions.split())
    return " ".join(version for version in versions.split() if version in found)


@pytest.mark.parametrize(
    ("affected", "expected"),
    [
        (Affected("0"), "1.0.dev1 1.0 1.5 2.0rc1 2.0 2.0.post1 10.0"),
        (Affected("0", fixed="1.5"), "1.0.dev1 1.0"),
        (Affected("1.0", fixed="2.0"), "1.0 1.5 2.0rc1"),
        (Affected("1.0", last="2.0"), "1.0 1.5 2.0rc1 2.0"),
        (Affected("1.5"), "1.5 2.0rc1 2.0 2.0.post1 10.0"),
        (Affected("3", fixed="2"), ""),
    ],
)
def test_a_range_begins_with_introduced_and_ends_before_fixed_or_behind_last(
    affected: Affected, expected: str
) -> None:
    assert hit("1.0.dev1 1.0 1.5 2.0rc1 2.0 2.0.post1 10.0", affected) == expected
    assert hit("10.0 2.0.post1 2.0 2.0rc1 1.5 1.0 1.0.dev1", affected).split() == expected.split()[::-1]


def test_ranges_and_versions_add_up() -> None:
    versions = "0.9 1.0 1.1 2.0 2.1 3.0"
    two = (Affected("1.0", "1.1"), Affected("2.0", "2.1"))
    assert hit(versions, *two, also=("3", "0.9")) == "0.9 1.0 2.0 3.0"


def test_versions_are_named_in_any_spelling_and_what_is_none_letter_by_letter() -> None:
    also = tuple(map(named, ("1.0", "v2.0.0", "2004-snapshot")))
    assert hit("1 1.0.0 1.0.1 v2 2004-snapshot 2004-SNAPSHOT", also=also) == "1 1.0.0 v2 2004-snapshot"
    assert hit("2004-snapshot", Affected("0", fixed="3000"), Affected("0.0")) == ""


def test_an_advisory_on_all_versions_concerns_what_has_no_readable_one_too() -> None:
    # As those on malware: a name of a file must not get it past them.
    assert hit("1.0 1.0-evil 2004-snapshot", Affected("0")) == "1.0 1.0-evil 2004-snapshot"
    assert list(affecting([Advisory("MAL-1", affected=(Affected("0"),))], [""])) == [""]


def test_a_local_version_is_as_affected_as_what_it_is_made_of() -> None:
    assert hit("2.0+cu118 2.1+cu118", Affected("0", last="2.0")) == "2.0+cu118"
    assert hit("2.0+cu118 2.1+cu118", Affected("2.1")) == "2.1+cu118"
    assert hit("2.0+cu118 2.1+cu118", also=("2",)) == "2.0+cu118"
    assert hit("2.0+cu118 2.0", also=(named("2.0+cu118"),)) == "2.0+cu118"


def test_a_version_is_told_every_advisory_once_and_in_order() -> None:
    many = [Advisory(f"GHSA-{number}", affected=(Affected("0"), Affected("1"))) for number in range(3)]
    many.append(Advisory("GHSA-0", affected=(Affected("5"),)))
    assert [one.id for one in affecting(many, ["2.0", "2.0"])["2.0"]] == ["GHSA-0", "GHSA-1", "GHSA-2"]


def test_an_advisory_goes_by_its_id_and_its_aliases_in_any_case() -> None:
    one = Advisory("GHSA-x84v-xcm2-53pg", aliases=("CVE-2018-18074",))
    assert one.is_called("ghsa-X84V-xcm2-53pg")
    assert one.is_called("cve-2018-18074")
    assert not one.is_called("CVE-2018-1807")


def test_the_fix_of_a_version_is_the_lowest_behind_it() -> None:
    one = Advisory(
        "GHSA-1", affected=(Affected("2.0", "2.10"), Affected("0", "1.5"), Affected("3.0", last="3.1"))
    )
    for version, fix in (("1.0", "1.5"), ("1.5", "2.10"), ("2.9", "2.10"), ("3.0", None)):
        assert one.fixed_behind(Version(version)) == fix


def test_an_unrated_advisory_counts_as_high() -> None:
    assert Advisory("GHSA-1").counts_as is Severity.HIGH
    assert Advisory("GHSA-1", severity=Severity.LOW).counts_as is Severity.LOW
