"""Which files of an upstream page are served, which are withheld by which rule, in which words and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.advisories import Advisory, Affected, Severity
from proxy.domain.decision import FileRules
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.domain.policy import Exemption, Rule, text_of
from proxy.domain.screen import Circumstances, HeldFile, Screened, Why, Withheld, screen
from proxy.domain.versions import parse_specifier
from tests.support.trees import NOW

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RULES = FileRules(NamespacePath("acme"))
ACTIVE = ProjectStatus()
NOTHING = Circumstances()
LATEST = datetime.max.replace(tzinfo=UTC)
FILES = (
    FileRecord("widgets-1.0.tar.gz", sha256="a" * 64, version="1.0", yanked="broken"),
    FileRecord("widgets-2.0-py3-none-any.whl", sha256="b" * 64, version="2.0"),
)
EGG = FileRecord("widgets.egg", sha256="c" * 64, version=None)


def page(*files: FileRecord, status: ProjectStatus = ACTIVE) -> Page:
    versions = dict.fromkeys(file.version for file in files if file.version is not None)
    return Page(Name("widgets"), files, tuple(versions), status)


def wheel(version: str, age: timedelta | None = 100 * DAY, **more: Any) -> FileRecord:
    """A wheel that was uploaded so long before `NOW`; None: when is not known."""
    filename = f"widgets-{version}-py3-none-any.whl"
    uploaded = None if age is None else NOW - age
    return FileRecord(
        filename, url=f"https://files.example/{filename}", uploaded=uploaded, version=version, **more
    )


def entry(key: str, specifier: str | None, namespace: str = "acme", **more: Any) -> Rule:
    said = None if specifier is None else parse_specifier(specifier)
    return Rule(key, f"widgets{specifier or ''}", namespace, pattern="widgets", specifier=said, **more)


def rules(**values: Any) -> FileRules:
    """Rules of which `acme` says every value."""
    said = {
        key: Rule(key, text_of(value), "acme")
        for key, value in values.items()
        if not isinstance(value, tuple)
    }
    return replace(RULES, said=said, **values)


def versions(screened: Screened) -> list[str | None]:
    return [file.version for file in screened.page.files if screened.served_file(file.filename, file.key)]


def told(screened: Screened) -> Mapping[str, str]:
    return {file.version or file.filename: file.reason for file in screened.withheld}


def only(screened: Screened) -> Withheld:
    (found,) = screened.withheld
    return found


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUARANTINED])
def test_a_page_passes_as_it_is_where_no_rule_speaks_of_it(status: Status) -> None:
    given = page(*FILES, status=ProjectStatus(status, "why"))
    screened = screen(
        given, rules(min_age=3 * DAY, yanked="keep"), Circumstances(dict.fromkeys(["x"], NOW)), NOW
    )
    assert screen(given, RULES, NOTHING, NOW) == Screened(given)
    assert screen(given, RULES, NOTHING, NOW).page is given
    assert len(screened.withheld) == 2


class TestQuarantine:
    QUARANTINED = page(*FILES, EGG, status=ProjectStatus(Status.QUARANTINED, "malware"))

    def test_offers_no_file_and_says_which_and_why(self) -> None:
        screened = screen(self.QUARANTINED, RULES, NOTHING, NOW)
        assert screened.page.files == ()
        assert screened.page.status == ProjectStatus(Status.QUARANTINED, "malware")
        assert screened.page.versions == ("1.0", "2.0")
        reason = "widgets is quarantined upstream: malware"
        assert screened.withheld == tuple(
            Withheld(file.filename, file.version, "quarantined", reason) for file in (*FILES, EGG)
        )

    def test_is_told_without_a_reason_where_there_is_none(self) -> None:
        screened = screen(page(*FILES, status=ProjectStatus(Status.QUARANTINED)), RULES, NOTHING, NOW)
        assert {file.reason for file in screened.withheld} == {"widgets is quarantined upstream"}

    def test_covers_files_that_the_page_does_not_list(self) -> None:
        screened = screen(self.QUARANTINED, RULES, NOTHING, NOW)
        found = screened.withheld_file("widgets-0.1.tar.gz")
        assert found is not None
        assert found.rule == "quarantined"

    @pytest.mark.parametrize("removed", ["hold", "keep"])
    def test_spares_what_an_owner_released_and_nothing_else(self, removed: str) -> None:
        gone = wheel("0.5")
        held = tuple(HeldFile(file, Why.QUARANTINED, NOW - DAY) for file in (*FILES, gone))
        released = (replace(held[0], is_released=True), held[1], replace(held[2], is_released=True))
        screened = screen(self.QUARANTINED, rules(removed=removed), Circumstances(held=released), NOW)
        assert versions(screened) == ["1.0", "0.5"]
        assert screened.page.versions == ("1.0", "2.0", "0.5")
        assert [(file.filename, file.is_held) for file in screened.withheld] == [
            (FILES[1].filename, True),
            (EGG.filename, False),
        ]
        assert told(screened)["2.0"] == (
            "widgets is quarantined upstream: malware; an owner may release widgets 2.0"
        )

    def test_of_equal_filenames_the_released_one_alone_is_spared(self) -> None:
        before = replace_record(FILES[1], sha256="d" * 64)
        held = (HeldFile(before, Why.QUARANTINED, NOW, is_released=True),)
        screened = screen(self.QUARANTINED, RULES, Circumstances(held=held), NOW)
        assert screened.served_file(before.filename, before.key) == before
        assert screened.withheld_file(before.filename, FILES[1].key) is not None


def replace_record(record: FileRecord, **changes: Any) -> FileRecord:
    return FileRecord(**{**{key: getattr(record, key) for key in record.__struct_fields__}, **changes})


class TestRemoved:
    GONE = wheel("2.1", 50 * DAY)
    SINCE = datetime(2026, 11, 21, 9, tzinfo=UTC)

    def screened(self, *, removed: str = "hold", on: Page | None = None, **more: Any) -> Screened:
        held = HeldFile(self.GONE, Why.REMOVED, more.pop("since", self.SINCE), **more)
        return screen(on or page(*FILES), rules(removed=removed), Circumstances(held=(held,)), NOW)

    def test_is_held_and_says_who_may_release_it(self) -> None:
        screened = self.screened()
        assert screened.page == page(*FILES)
        assert only(screened) == Withheld(
            self.GONE.filename,
            "2.1",
            "removed",
            "widgets 2.1 was removed upstream on 21 Nov; an owner may release it",
            key=self.GONE.key,
            is_held=True,
        )
        assert screened.good_until == datetime(2027, 1, 1, tzinfo=UTC)

    def test_is_told_with_its_year_in_another(self) -> None:
        screened = self.screened(since=datetime(2025, 2, 3, tzinfo=UTC))
        assert "removed upstream on 3 Feb 2025;" in only(screened).reason
        assert screened.good_until is None

    @pytest.mark.parametrize(("removed", "is_released"), [("keep", False), ("hold", True)])
    def test_is_listed_and_served_once_released_or_where_it_is_kept(
        self, removed: str, is_released: bool
    ) -> None:
        screened = self.screened(removed=removed, is_released=is_released)
        assert screened.page.files == (*FILES, self.GONE)
        assert screened.page.versions == ("1.0", "2.0", "2.1")
        assert screened.withheld == ()

    def test_is_not_held_once_the_page_has_it_again(self) -> None:
        assert self.screened(on=page(*FILES, self.GONE)) == Screened(page(*FILES, self.GONE))

    def test_another_file_of_its_name_is_served_beside_it(self) -> None:
        other = replace_record(self.GONE, sha256="e" * 64)
        screened = self.screened(on=page(other))
        assert screened.served_file(other.filename, other.key) == other
        assert screened.withheld_file(other.filename, other.key) is None
        assert screened.withheld_file(other.filename, self.GONE.key) is not None

    @pytest.mark.parametrize(("removed", "is_released"), [("keep", False), ("hold", True)])
    def test_stands_on_the_page_but_once_whatever_bytes_it_had(self, removed: str, is_released: bool) -> None:
        earlier, later, other = (replace_record(self.GONE, sha256=digit * 64) for digit in "def")
        held = tuple(
            HeldFile(record, Why.REMOVED, self.SINCE - age, is_released=is_released)
            for record, age in ((earlier, DAY), (later, timedelta(0)))
        )
        for on, listed in ((page(other), other), (page(), later)):
            screened = screen(on, rules(removed=removed), Circumstances(held=held), NOW)
            assert screened.page.files == (listed,)
            assert screened.served_file(earlier.filename, earlier.key) is None

    def test_is_subject_to_the_other_rules_where_it_is_served(self) -> None:
        held = (HeldFile(self.GONE, Why.REMOVED, self.SINCE, is_released=True),)
        screened = screen(page(), rules(deny=(entry("deny", "==2.1"),)), Circumstances(held=held), NOW)
        assert only(screened).rule == "deny widgets==2.1"

    def test_stays_held_of_a_project_that_was_quarantined_and_vanished(self) -> None:
        held = (HeldFile(self.GONE, Why.QUARANTINED, self.SINCE),)
        screened = screen(page(), rules(removed="keep"), Circumstances(held=held), NOW)
        assert only(screened).rule == "quarantined"
        assert only(screened).reason == (
            "widgets 2.1 was quarantined upstream on 21 Nov; an owner may release it"
        )


class TestSpecifiers:
    def test_denied_versions_are_withheld_with_reason_and_end(self) -> None:
        until = datetime(2026, 11, 24, 8, tzinfo=UTC)
        deny = entry("deny", "==2.*", reason="breaks the build", until=until)
        screened = screen(page(*FILES), rules(deny=(deny,)), NOTHING, NOW)
        assert only(screened) == Withheld(
            FILES[1].filename,
            "2.0",
            "deny widgets==2.*",
            "widgets 2.0 is denied by acme (widgets==2.*) until 24 Nov 08:00 UTC: breaks the build",
            until=until,
            is_listed=True,
        )
        assert screened.good_until == until

    def test_an_end_in_another_year_is_told_with_it_for_as_long_as_it_is_another(self) -> None:
        deny = entry("deny", "==2.*", until=datetime(2027, 3, 1, tzinfo=UTC))
        screened = screen(page(*FILES), rules(deny=(deny,)), NOTHING, NOW)
        assert "until 1 Mar 2027 00:00 UTC" in only(screened).reason
        assert screened.good_until == datetime(2027, 1, 1, tzinfo=UTC)

    def test_what_has_no_readable_version_is_denied_by_every_specifier_and_allowed_by_none(self) -> None:
        odd = wheel("2004-snapshot")
        for file in (EGG, odd):
            denied = screen(page(file), rules(deny=(entry("deny", "==9"),), file_types=ALL), NOTHING, NOW)
            assert only(denied).reason.endswith("(widgets==9), which covers what has no readable version")
            allow = ((entry("allow", ">=0"),),)
            assert only(screen(page(file), rules(allow=allow, file_types=ALL), NOTHING, NOW)).rule == "allow"

    def test_every_level_has_to_allow_a_version(self) -> None:
        allow = (
            (entry("allow", ">=1", ""), entry("allow", "==0.5", "")),
            (entry("allow", "<2"),),
        )
        screened = screen(
            page(wheel("0.4"), wheel("0.5"), *FILES, wheel("1.5")), rules(allow=allow), NOTHING, NOW
        )
        assert versions(screened) == ["0.5", "1.0", "1.5"]
        assert told(screened) == {
            "0.4": "widgets 0.4 is not allowed by the instance, which allows widgets>=1 and widgets==0.5",
            "2.0": "widgets 2.0 is not allowed by acme, which allows widgets<2",
        }

    def test_deny_wins_over_allow(self) -> None:
        both = rules(deny=(entry("deny", "==2.0"),), allow=((entry("allow", "<1"),),))
        assert [file.rule for file in screen(page(*FILES), both, NOTHING, NOW).withheld] == [
            "allow",
            "deny widgets==2.0",
        ]


ALL = frozenset({"wheel", "sdist", "other"})


class TestMarks:
    @pytest.mark.parametrize("key", ["deny", "allow", "min_age", "vulnerable"])
    @pytest.mark.parametrize("withheld", ["mark", "hide"])
    def test_what_may_be_had_one_day_or_elsewhere_is_marked_on_the_page(
        self, key: str, withheld: str
    ) -> None:
        cases: dict[str, dict[str, Any]] = {
            "deny": {"deny": (entry("deny", "==2.0"),)},
            "allow": {"allow": ((entry("allow", "!=2.0"),),)},
            "min_age": {"min_age": 3 * DAY},
            "vulnerable": {"vulnerable": "deny"},
        }
        first, second = wheel("1.0"), wheel("2.0", DAY)
        circumstances = Circumstances(advisories=(Advisory("GHSA-1", versions=("2",)),))
        screened = screen(page(first, second), rules(withheld=withheld, **cases[key]), circumstances, NOW)
        found = only(screened)
        assert found.is_listed is (withheld == "mark")
        shown = [replace_record(second, yanked=found.reason)] if found.is_listed else []
        assert screened.page == Page(Name("widgets"), (first, *shown), ("1.0", "2.0"))
        assert screened.served_file(second.filename, second.key) is None

    @pytest.mark.parametrize(
        ("values", "record", "rule", "reason"),
        [
            (
                {"file_types": frozenset({"wheel"})},
                FILES[0],
                "file_types wheel",
                "widgets-1.0.tar.gz is an sdist; acme serves only: wheel",
            ),
            (
                {"file_types": frozenset({"sdist"})},
                FILES[1],
                "file_types sdist",
                "widgets-2.0-py3-none-any.whl is a wheel; acme serves only: sdist",
            ),
            (
                {"file_types": frozenset({"wheel", "sdist"})},
                EGG,
                "file_types sdist, wheel",
                "widgets.egg is neither a wheel nor an sdist; acme serves only: sdist, wheel",
            ),
            (
                {"yanked": "hide"},
                FILES[0],
                "yanked hide",
                "acme hides what is yanked, and widgets 1.0 was yanked upstream: broken",
            ),
            (
                {"yanked": "hide"},
                wheel("3.0", yanked=True),
                "yanked hide",
                "acme hides what is yanked, and widgets 3.0 was yanked upstream",
            ),
            (
                {"uploaded_before": datetime(2026, 5, 1, tzinfo=UTC)},
                wheel("3.0", DAY),
                "uploaded_before 2026-05-01",
                "widgets 3.0 was uploaded on 2026-11-20; acme serves only files from before 2026-05-01",
            ),
        ],
    )
    def test_what_is_left_out_for_good_is_never_marked(
        self, values: dict[str, Any], record: FileRecord, rule: str, reason: str
    ) -> None:
        screened = screen(page(record), rules(**values), NOTHING, NOW)
        assert screened.page.files == ()
        assert only(screened) == Withheld(record.filename, record.version, rule, reason)
        assert screened.good_until is None

    def test_what_is_yanked_upstream_keeps_its_own_mark(self) -> None:
        screened = screen(page(FILES[0]), rules(deny=(entry("deny", "<2"),)), NOTHING, NOW)
        assert screened.page.files == (FILES[0],)
        assert only(screened).is_listed

    def test_of_several_files_of_one_name_the_withheld_one_is_told_by_its_key(self) -> None:
        young, old = (
            replace_record(wheel("2.0", age), sha256=16 * sha)
            for age, sha in ((DAY, "beef"), (9 * DAY, "feed"))
        )
        screened = screen(page(young, old), rules(min_age=3 * DAY), NOTHING, NOW)
        assert screened.served_file(old.filename, old.key) == old
        assert screened.served_file(young.filename, young.key) is None


class TestAge:
    RULES = rules(min_age=3 * DAY)

    def test_a_young_file_is_withheld_in_words_that_say_why_and_until_when(self) -> None:
        until = NOW + 3 * DAY - 4 * HOUR
        screened = screen(page(wheel("2.99.0", 4 * HOUR)), self.RULES, NOTHING, NOW)
        assert only(screened) == Withheld(
            "widgets-2.99.0-py3-none-any.whl",
            "2.99.0",
            "min_age 3d",
            "widgets 2.99.0 is 4 hours old; acme holds files back for 3 days, until 24 Nov 08:00 UTC",
            until=until,
            is_listed=True,
        )
        assert screened.good_until == NOW + HOUR

    @pytest.mark.parametrize(
        ("age", "words", "next_step"),
        [
            (-5 * HOUR, "less than an hour old", 6 * HOUR),
            (timedelta(0), "less than an hour old", HOUR),
            (timedelta(minutes=59), "less than an hour old", timedelta(minutes=1)),
            (HOUR, "1 hour old", HOUR),
            (47.5 * HOUR, "47 hours old", HOUR / 2),
            (48 * HOUR, "2 days old", DAY),
            (71 * HOUR, "2 days old", HOUR),
            (96 * HOUR, "4 days old", DAY),
        ],
    )
    def test_ages_are_told_in_whole_hours_and_from_two_days_on_in_days(
        self, age: timedelta, words: str, next_step: timedelta
    ) -> None:
        screened = screen(page(wheel("2.0", age)), rules(min_age=5 * DAY), NOTHING, NOW)
        assert words in only(screened).reason
        assert screened.good_until == NOW + next_step

    def test_it_is_served_from_the_very_moment_on_at_which_it_is_old_enough(self) -> None:
        tick = timedelta(microseconds=1)
        early = screen(page(wheel("2.0", 3 * DAY - tick)), self.RULES, NOTHING, NOW)
        assert early.good_until == NOW + tick
        assert early.withheld[0].reason.endswith("until 21 Nov 12:01 UTC")
        assert (
            screen(page(wheel("2.0", HOUR)), rules(min_age=1.5 * HOUR), NOTHING, NOW).good_until
            == NOW + HOUR / 2
        )
        late = screen(page(wheel("2.0", 3 * DAY)), self.RULES, NOTHING, NOW)
        assert late == Screened(page(wheel("2.0", 3 * DAY)))

    def test_a_file_without_upload_time_is_as_old_as_its_first_sight(self) -> None:
        old, young, new = (wheel(version, None) for version in ("1.0", "2.0", "3.0"))
        circumstances = Circumstances({old.key: NOW - 3 * DAY, young.key: NOW - DAY})
        screened = screen(page(old, young, new), self.RULES, circumstances, NOW)
        assert versions(screened) == ["1.0"]
        assert told(screened) == {
            "2.0": "widgets 2.0 was first seen here 24 hours ago; acme holds files back for 3 days from then,"
            " until 23 Nov 12:00 UTC",
            "3.0": "widgets 3.0 was not seen here before; acme holds files back for 3 days",
        }

    def test_exempted_versions_pass_and_only_they(self) -> None:
        until = NOW + DAY
        exempt = (entry("min_age_exempt", "==2.1", until=until),)
        young = [wheel(version, DAY) for version in ("2.0", "2.1", "2.1+evil", "odd!")]
        screened = screen(page(*young), replace(self.RULES, exempt=exempt), NOTHING, NOW)
        assert versions(screened) == ["2.1"]
        everything = replace(self.RULES, exempt=(entry("min_age_exempt", None, until=until),))
        screened = screen(page(*young), everything, NOTHING, NOW)
        assert (screened.withheld, screened.good_until) == ((), until)

    @pytest.mark.parametrize("uploaded", [LATEST, datetime.min.replace(tzinfo=UTC)])
    def test_no_upload_time_is_too_far_off(self, uploaded: datetime) -> None:
        record = replace_record(wheel("2.0"), uploaded=uploaded)
        for min_age in (3 * DAY, timedelta(days=999_999_999)):
            screened = screen(page(record), rules(min_age=min_age), NOTHING, NOW)
            assert len(screened.withheld) == (uploaded == LATEST)

    def test_undated_files_count_for_a_date_too(self) -> None:
        bound = NOW - 10 * DAY
        before, after, new = (wheel(version, None) for version in ("1.0", "2.0", "3.0"))
        circumstances = Circumstances({before.key: bound - DAY, after.key: bound})
        given = rules(uploaded_before=bound)
        assert told(screen(page(before, after, new), given, circumstances, NOW)) == {
            "2.0": "widgets 2.0 has no upload time and was first seen here on 2026-11-11;"
            " acme serves only files from before 2026-11-11T12:00:00Z",
            "3.0": "widgets 3.0 has no upload time and was not seen here before;"
            " acme serves only files from before 2026-11-11T12:00:00Z",
        }
        ahead = screen(page(new), rules(uploaded_before=NOW + DAY), NOTHING, NOW)
        assert (ahead.withheld, ahead.good_until) == ((), NOW + DAY)


def advisory(
    name: str, *affected: tuple[str, str | None], severity: Severity | None = Severity.HIGH
) -> Advisory:
    ranges = tuple(Affected(introduced, fixed) for introduced, fixed in affected)
    return Advisory(name, f"{name} in widgets", severity=severity, affected=ranges)


class TestVulnerable:
    OLD = tuple(wheel(version) for version in ("1.0", "1.1", "2.0"))

    def test_affected_versions_are_withheld_and_told_where_it_is_fixed(self) -> None:
        known = (
            advisory("GHSA-1", ("0", "1.1")),
            advisory("GHSA-2", ("1.0", None), severity=Severity.CRITICAL),
        )
        screened = screen(page(*self.OLD), rules(vulnerable="deny"), Circumstances(advisories=known), NOW)
        assert [file.rule for file in screened.withheld] == 3 * ["vulnerable GHSA-2"]
        screened = screen(page(*self.OLD), rules(vulnerable="deny"), Circumstances(advisories=known[:1]), NOW)
        assert told(screened) == {
            "1.0": "widgets 1.0 is affected by GHSA-1 (high): GHSA-1 in widgets; fixed in 1.1;"
            " acme withholds vulnerable versions"
        }

    @pytest.mark.parametrize(
        ("least", "withheld"),
        [("low", "1111"), ("medium", "0111"), ("high", "0011"), ("critical", "0001")],
    )
    def test_severity_says_from_which_on(self, least: str, withheld: str) -> None:
        given = page(*(wheel(str(number)) for number in range(1, 5)))
        known = tuple(
            advisory(f"GHSA-{severity}", (str(severity.value), str(severity + 1)), severity=severity)
            for severity in Severity
        )
        screened = screen(
            given, rules(vulnerable="deny", severity=least), Circumstances(advisories=known), NOW
        )
        assert {file.version for file in screened.withheld} == {
            str(number) for number, one in enumerate(withheld, 1) if one == "1"
        }

    @pytest.mark.parametrize(("least", "withheld"), [("high", 3), ("critical", 0)])
    def test_an_unrated_one_counts_as_high(self, least: str, withheld: int) -> None:
        known = Circumstances(advisories=(advisory("GHSA-1", ("0", None), severity=None),))
        screened = screen(page(*self.OLD), rules(vulnerable="deny", severity=least), known, NOW)
        assert len(screened.withheld) == withheld
        assert all("(unrated)" in file.reason for file in screened.withheld)

    @pytest.mark.parametrize("called", ["ghsa-1", "CVE-2026-1"])
    def test_an_exempted_one_does_not_count_until_its_end(self, called: str) -> None:
        exempt = (Exemption(called, Name("widgets"), NOW + DAY, "not reachable", "acme"),)
        known = Circumstances(
            advisories=(Advisory("GHSA-1", aliases=("CVE-2026-1",), affected=(Affected("0"),)),)
        )
        screened = screen(page(*self.OLD), rules(vulnerable="deny", vulnerable_exempt=exempt), known, NOW)
        assert (screened.withheld, screened.good_until) == ((), NOW + DAY)

    def test_they_are_only_told_of_where_policy_only_warns(self) -> None:
        known = Circumstances(advisories=(advisory("GHSA-1", ("0", "2.0")),))
        screened = screen(page(*self.OLD), rules(vulnerable="warn"), known, NOW)
        assert screened.page.files == self.OLD
        assert (screened.withheld, [file.version for file in screened.warned]) == ((), ["1.0", "1.1"])
        assert screened.warned[0].reason.endswith("; acme only warns of vulnerable versions")
        assert screen(page(*self.OLD), RULES, known, NOW) == Screened(page(*self.OLD))


class TestFixes:
    """`min_age_fixes`; every page has 1.0 and 2.0, which are old, and the advisory GHSA-1, fixed in 1.1 and 2.1."""

    BOTH_LINES = advisory("GHSA-1", ("0", "1.1"), ("2.0", "2.1"))

    def passing(
        self, *young: FileRecord, known: tuple[Advisory, ...] = (BOTH_LINES,), **more: Any
    ) -> list[str]:
        given = page(wheel("1.0"), wheel("2.0"), *young)
        policy = rules(min_age=10 * DAY, vulnerable="deny", **more)
        screened = screen(given, policy, Circumstances(advisories=known), NOW)
        served = versions(screened)
        return [file.version or "" for file in young if file.version in served]

    def test_a_young_version_passes_that_fixes_what_would_be_served_instead(self) -> None:
        assert self.passing(wheel("2.1", DAY)) == ["2.1"]
        assert self.passing(wheel("2.1", DAY), min_age_fixes=False) == []

    def test_so_does_the_fix_of_an_older_line(self) -> None:
        assert self.passing(wheel("1.1", DAY), wheel("2.1", DAY)) == ["1.1", "2.1"]

    def test_one_that_is_affected_itself_does_not(self) -> None:
        assert self.passing(wheel("2.0.1", DAY)) == []

    def test_what_follows_a_fix_waits(self) -> None:
        assert self.passing(wheel("2.2", HOUR), wheel("2.1", DAY)) == ["2.1"]

    def test_what_comes_before_a_fix_in_the_order_of_versions_but_later_takes_nothing_away(self) -> None:
        assert self.passing(wheel("2.1", DAY), wheel("2.0.9", HOUR)) == ["2.1"]
        known = (advisory("GHSA-1", ("0", "2.0.5")),)
        assert self.passing(wheel("2.1", DAY), wheel("2.0.9", HOUR), known=known) == ["2.1", "2.0.9"]

    def test_a_version_before_the_vulnerability_is_no_fix(self) -> None:
        assert self.passing(wheel("1.9", DAY), known=(advisory("GHSA-1", ("2.0", "2.1")),)) == []

    def test_one_that_brings_another_vulnerability_is_no_fix(self) -> None:
        known = (self.BOTH_LINES, advisory("MAL-2", ("2.1", "2.2"), severity=Severity.CRITICAL))
        assert self.passing(wheel("2.1", DAY), known=known) == []

    def test_one_that_leaves_others_open_is_a_fix(self) -> None:
        known = (self.BOTH_LINES, advisory("GHSA-2", ("0", None)))
        # Vulnerable all the same, and denied as such where policy says so.
        assert self.passing(wheel("2.1", DAY), known=known) == []
        given = page(wheel("2.0"), wheel("2.1", DAY))
        screened = screen(given, rules(min_age=10 * DAY), Circumstances(advisories=known), NOW)
        assert versions(screened) == ["2.0", "2.1"]

    @pytest.mark.parametrize("severity", [Severity.LOW, Severity.MEDIUM])
    def test_only_vulnerabilities_that_count_are_worth_a_fix(self, severity: Severity) -> None:
        assert (
            self.passing(wheel("2.1", DAY), known=(advisory("GHSA-1", ("0", "2.1"), severity=severity),))
            == []
        )
        exempt = (Exemption("GHSA-1", Name("widgets"), NOW + DAY, "not reachable", "acme"),)
        assert self.passing(wheel("2.1", DAY), vulnerable_exempt=exempt) == []

    @pytest.mark.parametrize("other", [wheel("2.2rc1", DAY), wheel("2.1", DAY, yanked=True)])
    def test_pre_releases_and_yanked_ones_are_no_fixes(self, other: FileRecord) -> None:
        assert self.passing(other) == []

    def test_a_file_added_to_an_old_version_is_no_fix(self) -> None:
        late = replace_record(wheel("2.0", HOUR), filename="widgets-2.0-py2-none-any.whl")
        given = page(wheel("1.0"), wheel("2.0"), late)
        known = Circumstances(advisories=(advisory("GHSA-1", ("1.0", "1.1")),))
        assert only(screen(given, rules(min_age=DAY), known, NOW)).filename == late.filename

    def test_files_that_follow_the_first_of_a_fix_pass_with_it_and_go_on_to(self) -> None:
        first, second = (
            wheel("2.1", 2 * DAY),
            replace_record(wheel("2.1", DAY), filename="widgets-2.1.tar.gz"),
        )
        known = Circumstances(advisories=(self.BOTH_LINES,))
        for moment in (NOW, NOW + 1.5 * DAY):
            screened = screen(page(wheel("2.0"), first, second), rules(min_age=3 * DAY), known, moment)
            assert versions(screened) == ["2.0", "2.1", "2.1"]

    def test_an_exempted_version_may_be_what_is_served_instead(self) -> None:
        exempt = (entry("min_age_exempt", "==2.0.1"),)
        assert self.passing(wheel("2.0.1", 2 * DAY), wheel("2.1", DAY), exempt=exempt) == ["2.1"]
        assert self.passing(
            wheel("2.1", 2 * DAY), wheel("2.2", DAY), exempt=(entry("min_age_exempt", "==2.1"),)
        ) == ["2.1"]

    def test_a_file_that_was_not_seen_before_is_no_fix(self) -> None:
        assert self.passing(wheel("2.1", None)) == []

    def test_what_is_served_instead_is_only_what_other_rules_let_through(self) -> None:
        deny = (entry("deny", "==2.0"),)
        known = (advisory("GHSA-1", ("2.0", "2.1")),)
        assert self.passing(wheel("2.1", DAY), known=known) == ["2.1"]
        assert self.passing(wheel("2.1", DAY), known=known, deny=deny) == []


class TestDryRun:
    def test_rules_that_are_only_warned_of_let_pass_and_say_what_they_would_refuse(self) -> None:
        given = page(wheel("1.0"), wheel("2.0", DAY), FILES[0])
        policy = rules(
            deny=(entry("deny", "==2.0"),),
            min_age=3 * DAY,
            file_types=frozenset({"wheel"}),
            warn=frozenset({"deny", "min_age"}),
        )
        screened = screen(given, policy, NOTHING, NOW)
        assert versions(screened) == ["1.0", "2.0"]
        assert [file.rule for file in screened.warned] == ["deny widgets==2.0", "min_age 3d"]
        assert not any(file.is_listed for file in screened.warned)
        assert only(screened).rule == "file_types wheel"
        assert screened.good_until == NOW + HOUR

    def test_what_another_rule_withholds_is_not_warned_of_besides(self) -> None:
        policy = rules(
            min_age=3 * DAY,
            yanked="hide",
            warn=frozenset({"min_age", "allow"}),
            allow=((entry("allow", "<1"),),),
        )
        screened = screen(page(wheel("2.0", DAY, yanked=True)), policy, NOTHING, NOW)
        assert (screened.warned, only(screened).rule) == ((), "yanked hide")


class TestAsOf:
    AT = NOW - 20 * DAY

    def test_later_files_are_not_there_at_all(self) -> None:
        seen, unseen, late = wheel("1.1", None), wheel("1.2", None), wheel("2.0", 20 * DAY)
        given = Page(Name("widgets"), (wheel("1.0"), seen, unseen, late), ("0.9", "1.0", "1.1", "1.2", "2.0"))
        circumstances = Circumstances(
            {seen.key: self.AT - DAY}, held=(HeldFile(wheel("3.0", DAY), Why.REMOVED, NOW, is_released=True),)
        )
        screened = screen(given, rules(as_of=self.AT), circumstances, NOW)
        assert screened.page.files == (wheel("1.0"), seen)
        assert screened.page.versions == ("1.0", "1.1")
        assert (screened.withheld, screened.warned) == ((), ())
        for record in (unseen, late):
            assert screened.served_file(record.filename, record.key) is None
            assert screened.withheld_file(record.filename, record.key) is None

    def test_todays_rules_hold_for_what_is_there(self) -> None:
        screened = screen(
            page(wheel("1.0"), wheel("2.0", DAY)),
            rules(as_of=self.AT, deny=(entry("deny", "<9"),)),
            NOTHING,
            NOW,
        )
        assert [file.version for file in screened.withheld] == ["1.0"]

    def test_an_empty_page_names_no_version(self) -> None:
        assert (
            screen(Page(Name("widgets"), (), ("1.0",)), rules(as_of=self.AT), NOTHING, NOW).page.versions
            == ()
        )


class TestToken:
    def test_tells_circumstances_apart(self) -> None:
        held = HeldFile(FILES[0], Why.REMOVED, NOW)
        different = [
            NOTHING,
            Circumstances({"a": NOW}),
            Circumstances({"a": NOW - HOUR}),
            Circumstances(held=(held,)),
            Circumstances(held=(replace(held, is_released=True),)),
            Circumstances(advisories=(Advisory("GHSA-1"),)),
        ]
        assert len({each.token for each in different}) == len(different)
        assert NOTHING.token == ""
        assert Circumstances({"a": NOW, "b": NOW}).token == Circumstances({"b": NOW, "a": NOW}).token


moments = st.integers(-200, 24 * 20).map(lambda hours: NOW - hours * HOUR / 2)
spans = st.integers(1, 200).map(lambda hours: hours * HOUR / 2)
records = st.builds(
    lambda version, uploaded, yanked, suffix: FileRecord(
        f"widgets-{version}{suffix}",
        f"{hash((version, suffix)) & 0xFFFF:064x}",
        uploaded=uploaded,
        version=version,
        yanked=yanked,
    ),
    st.sampled_from(["1.0", "1.1", "1.2rc1", "2.0", "2.1", "2.2", "3.0+local", "odd!"]),
    moments | st.none(),
    st.sampled_from([False, False, True, "broken"]),
    st.sampled_from([".tar.gz", "-py3-none-any.whl", ".exe"]),
)
ends = st.none() | spans.map(lambda span: NOW + span)
policies = st.builds(
    lambda deny, exempt, spared, **values: rules(
        deny=tuple(entry("deny", specifier, until=until) for specifier, until in deny),
        exempt=tuple(entry("min_age_exempt", specifier, until=until) for specifier, until in exempt),
        vulnerable_exempt=tuple(
            Exemption("GHSA-1", Name("widgets"), NOW + span, "why", "acme") for span in spared
        ),
        **values,
    ),
    deny=st.lists(st.tuples(st.sampled_from(["==1.*", ">=2.1"]), ends), max_size=2),
    exempt=st.lists(st.tuples(st.sampled_from(["==2.0", "<1.1"]), ends), max_size=2),
    spared=st.lists(spans, max_size=1),
    min_age=st.sampled_from([timedelta(0), 0.7 * HOUR, 3 * DAY, 40 * DAY]),
    uploaded_before=st.none() | moments,
    file_types=st.sampled_from([ALL, frozenset({"wheel", "sdist"})]),
    yanked=st.sampled_from(["keep", "hide"]),
    withheld=st.sampled_from(["mark", "hide"]),
    removed=st.sampled_from(["hold", "keep"]),
    vulnerable=st.sampled_from(["off", "warn", "deny"]),
    warn=st.frozensets(st.sampled_from(["deny", "min_age", "uploaded_before", "file_types"]), max_size=2),
    as_of=st.none() | moments.filter(lambda moment: moment <= NOW),
)
known = st.lists(
    st.sampled_from(
        [TestFixes.BOTH_LINES, advisory("GHSA-2", ("2.0", "2.2")), advisory("GHSA-3", ("1.0", "1.1"))]
    ),
    unique_by=lambda one: one.id,
)
held_files = st.builds(HeldFile, records, st.sampled_from(["removed", "quarantined"]), moments, st.booleans())


@given(
    files=st.lists(records, max_size=5),
    policy=policies,
    advisories=known,
    held=st.lists(held_files, max_size=2),
    sights=st.lists(moments, max_size=5),
    status=st.sampled_from([Status.ACTIVE, Status.ACTIVE, Status.QUARANTINED]),
    part=st.floats(0, 1, exclude_max=True),
)
def test_between_two_moments_at_which_something_changes_nothing_does(
    files: list[FileRecord],
    policy: FileRules,
    advisories: list[Advisory],
    held: list[HeldFile],
    sights: list[datetime],
    status: Status,
    part: float,
) -> None:
    given = page(*files, status=ProjectStatus(status))
    first_seen = {file.key: seen for file, seen in zip(files, sights, strict=False)}
    circumstances = Circumstances(first_seen, tuple(held), tuple(advisories))
    before = screen(given, policy, circumstances, NOW)
    end = before.good_until or NOW + 1000 * DAY
    assert end > NOW
    last = end - timedelta(microseconds=1)
    for moment in (min(last, NOW + part * (end - NOW)), last):
        assert screen(given, policy, circumstances, moment) == before
    # What is withheld is not served, and everything else that is not of later than the view is.
    for file in before.page.files:
        found = next(
            (one for one in before.withheld if one.filename == file.filename and one.key in {None, file.key}),
            None,
        )
        assert (before.served_file(file.filename, file.key) is None) is (found is not None)
    assert all(one.rule.isascii() and one.rule.isprintable() and one.reason for one in before.withheld)
