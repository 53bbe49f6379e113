"""Which files of an upstream page are served, and which are withheld by which rule (contract 4.7).

The order for a file is fixed: quarantined or held; `deny` with a specifier; `allow` with specifiers, level by level;
`file_types`; `yanked`; `uploaded_before`; `min_age`; `vulnerable`. The first rule that it does not pass is told.

Reasons are told in steps (an age in whole hours, then days), so a page comes out the same, to the letter, at every
moment before its `good_until`.

`Screened` is also what a page of private files comes as: a quarantined project withholds all of its own.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

import msgspec
from packaging.version import Version

from proxy.domain.advisories import Advisory, Severity, affecting
from proxy.domain.decision import FileRules
from proxy.domain.filenames import file_type, version_of
from proxy.domain.moments import aged, dated, iso, lasting, later, next_aged, told, told_until
from proxy.domain.pages import FileRecord, Page, Status
from proxy.domain.policy import Origin
from proxy.domain.versions import known_version


@dataclass(frozen=True, slots=True)
class Withheld:
    """A file that its upstream or a project has and that is not served, with the rule and a sentence for people.

    Attributes:
        until: when it will be served, as far as its rule says; aware.
        key: of the file's address, where there may be several files of this name; None: every one of them.
        is_listed: it stands on the page, marked as yanked.
        is_held: its upstream removed it, or quarantined its project, and we have it.
        source: whose it is, where that is not the upstream whose page this is: a project, or another upstream.
        origin: where the rule stands, if it stands in the configuration.
    """

    filename: str
    version: str | None
    rule: str
    reason: str
    until: datetime | None = None
    key: str | None = None
    is_listed: bool = False
    is_held: bool = False
    source: str | None = None
    origin: Origin | None = None


class Why(StrEnum):
    """Why a file is held: its upstream lists it no more, or has quarantined its project."""

    REMOVED = "removed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file that its upstream no longer offers and that we have.

    Attributes:
        since: when it was noticed.
        is_released: an owner has said that it is to be served all the same.
    """

    record: FileRecord
    why: Why
    since: datetime
    is_released: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of an upstream's files of one name beyond its page.

    Attributes:
        first_seen: key of a file without upload time → when we first saw it. Missing: now.
        held: files that the page does not have, or whose project is quarantined.
        advisories: of the name.
    """

    first_seen: Mapping[str, datetime] = field(default_factory=dict)
    held: tuple[HeldFile, ...] = ()
    advisories: tuple[Advisory, ...] = ()

    @property
    def token(self) -> str:
        """Equal for equal circumstances; empty where there are none."""
        if not self.first_seen and not self.held and not self.advisories:
            return ""
        told = msgspec.msgpack.encode((sorted(self.first_seen.items()), self.held, self.advisories))
        return hashlib.blake2b(told, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Screened:
    """A page as this index serves it, and what was left out of it.

    Attributes:
        page: what is listed: files that are served, and withheld ones that are marked as yanked.
        withheld: all that is not served.
        warned: what would be withheld, were its rule enforced (`warn`); it is served.
        good_until: when the clock alone will change this; None: never.
    """

    page: Page
    withheld: tuple[Withheld, ...] = ()
    warned: tuple[Withheld, ...] = ()
    good_until: datetime | None = None

    def withheld_file(self, filename: str, key: str | None = None) -> Withheld | None:
        """Why `filename` is withheld, or None. Of a quarantined project every file is, listed or not.

        Args:
            key: of the address that is asked for; None: any.
        """
        for file in self.withheld:
            if file.filename == filename and (key is None or file.key is None or file.key == key):
                return file
        if self.page.status.status is Status.QUARANTINED and all(
            file.filename != filename for file in self.page.files
        ):
            return _quarantined(self.page, filename)
        return None

    def served_file(self, filename: str, key: str) -> FileRecord | None:
        """The file at an address, if it is served."""
        for record in self.page.files:
            if record.filename == filename and record.answers_to(key):
                return None if self.withheld_file(filename, record.key) is not None else record
        return None


def screen(page: Page, rules: FileRules, circumstances: Circumstances, now: datetime) -> Screened:
    """Apply `rules` to an upstream's page.

    A project that its upstream has quarantined offers no files at all (PEP 792), also none that were cached
    before, but those that an owner has released. What was released, or is kept (`removed: keep`), is subject to all
    other rules.

    `min_age_fixes`: a young version passes where it is a fix. The versions of a page are gone through in the order
    of their upload; what would be served instead of a young one is the highest final version below it, not yanked,
    that is served by then, be it as a fix itself (or would be, but for `vulnerable`). It is a fix if known
    vulnerabilities of that, of `severity` and above and not exempted, are none of its own, and it has no others. So
    the fix of an older line passes beside that of the newest, and what follows a fix waits like everything else; so
    does a file that was not seen before, or that is added to a fix later than `min_age`.

    Pure; raises nothing.

    Args:
        rules: none of those that end has ended.
        circumstances: of the same upstream and name.
        now: aware. Between two calls without a `good_until` between them nothing changes.

    Returns:
        Of a dated view (`rules.as_of`) only what was uploaded, or first seen, before: other files are not there at
        all. The page itself where all of it passes.
    """
    return _Screening(page, rules, circumstances, now).screened()


@dataclass(frozen=True, slots=True)
class _Finding:
    """A rule that a file does not pass. `may_be_listed`: it is marked on the page, where policy says so."""

    rule: str
    reason: str
    origin: Origin | None
    until: datetime | None = None
    may_be_listed: bool = True


_Check: TypeAlias = Callable[[FileRecord], _Finding | None]
_EVERY_TYPE = frozenset({"wheel", "sdist", "other"})
_SUMMARY = 100
"""Characters of an advisory's summary that a reason has."""


class _Screening:
    """One page, as it is screened at one moment."""

    def __init__(self, page: Page, rules: FileRules, circumstances: Circumstances, now: datetime) -> None:
        self._page = page
        self._rules = rules
        self._circumstances = circumstances
        self._now = now
        self._is_quarantined = page.status.status is Status.QUARANTINED
        self._ends: set[datetime] = set()
        self._files: Sequence[FileRecord] = ()
        self._versions: dict[str | None, Version | None] = {None: None}
        self._twins: frozenset[str] | None = None
        self._concerns: Mapping[str, Sequence[Advisory]] = {}
        self._hard: list[_Check] = []
        self._fixing: Mapping[Version, datetime] | None = None
        # Before it a file must have been uploaded to be old enough.
        self._youngest = later(now, -rules.min_age) or datetime.min.replace(tzinfo=UTC)

    def screened(self) -> Screened:
        page, rules = self._page, self._rules
        withheld, kept = self._held()
        own = page.files
        if rules.as_of is not None:
            own = tuple(record for record in own if self._is_older(record, rules.as_of))
        files = own
        if self._is_quarantined:
            gone = {(file.filename, file.key) for file in withheld} | {
                (one.filename, one.key) for one in kept
            }
            withheld += [
                _quarantined(page, record.filename, self._key(record))
                for record in own
                if (record.filename, record.key) not in gone
            ]
            files = ()
        self._files = (*files, *kept) if kept else files
        checks = self._checks()
        shown, warned = self._judged(checks, withheld) if checks else (self._files, [])
        ends = [end for end in self._ends if end > self._now]
        return Screened(self._with(shown, own, kept), tuple(withheld), tuple(warned), min(ends, default=None))

    def _with(
        self, shown: Sequence[FileRecord], own: Sequence[FileRecord], kept: Sequence[FileRecord]
    ) -> Page:
        """The page with these files."""
        page, versions = self._page, self._page.versions
        if self._rules.as_of is None:
            if shown is page.files:
                return page
        else:
            there = {record.version for record in own}
            versions = tuple(version for version in versions if version in there)
        if kept:
            more = [record.version for record in kept if record.version is not None]
            versions = tuple(dict.fromkeys((*versions, *more)))
        return Page(page.name, tuple(shown), versions, page.status)

    def _judged(
        self, checks: Sequence[tuple[str, _Check]], withheld: list[Withheld]
    ) -> tuple[Sequence[FileRecord], list[Withheld]]:
        """What is shown of the files, and what is warned of; what is withheld goes to `withheld`."""
        soft = self._soft
        shown: list[FileRecord] = []
        warned: list[Withheld] = []
        changed = False
        for record in self._files:
            unenforced: list[Withheld] = []
            for key, check in checks:
                finding = check(record)
                if finding is None:
                    continue
                if key in soft:
                    unenforced.append(self._withheld(record, finding))
                    continue
                changed = True
                is_listed = finding.may_be_listed and self._rules.withheld == "mark"
                withheld.append(self._withheld(record, finding, is_listed=is_listed))
                if is_listed:
                    is_marked = record.yanked is not False
                    shown.append(
                        record if is_marked else msgspec.structs.replace(record, yanked=finding.reason)
                    )
                break
            else:
                shown.append(record)
                warned += unenforced
        return shown if changed else self._files, warned

    @property
    def _soft(self) -> frozenset[str]:
        """The keys that are not enforced."""
        rules = self._rules
        return rules.warn | {"vulnerable"} if rules.vulnerable == "warn" else rules.warn

    def _checks(self) -> list[tuple[str, _Check]]:
        """The rules that there are, in the order in which a file has to pass them."""
        rules, checks = self._rules, list[tuple[str, _Check]]()
        self._ends.update(rule.until for rule in rules.deny if rule.until is not None)
        if rules.deny:
            checks.append(("deny", _once_per_version(self._denied)))
        if rules.allow:
            checks.append(("allow", _once_per_version(self._not_allowed)))
        types = rules.file_types
        if not types >= _EVERY_TYPE and [
            record for record in self._files if file_type(record.filename) not in types
        ]:
            checks.append(("file_types", self._of_other_type))
        if rules.yanked == "hide":
            checks.append(("yanked", self._yanked))
        if rules.uploaded_before is not None:
            checks.append(("uploaded_before", self._too_late))
        self._hard = [check for key, check in checks if key not in self._soft]
        if rules.min_age > timedelta(0):
            self._ends.update(rule.until for rule in rules.exempt if rule.until is not None)
            if all(rule.specifier is not None for rule in rules.exempt):
                checks.append(("min_age", self._young))
        if self._advises():
            checks.append(("vulnerable", _once_per_version(self._vulnerable)))
        return checks

    def _held(self) -> tuple[list[Withheld], list[FileRecord]]:
        """Of the files that the upstream offers no more: what is withheld, and what is served all the same."""
        page, rules, found = self._page, self._rules, self._circumstances.held
        withheld: list[Withheld] = []
        served: list[FileRecord] = []
        if not found:
            return withheld, served
        own = () if self._is_quarantined else page.files
        offered = {(one.filename, one.key) for one in own}
        # A page has one file of a name: the upstream's, else the one that went last.
        listed = {one.filename for one in own}
        for held in sorted(found, key=lambda held: held.since, reverse=True):
            record = held.record
            if (record.filename, record.key) in offered:
                continue
            if rules.as_of is not None and not self._is_older(record, rules.as_of):
                continue
            is_kept = rules.removed == "keep" and held.why is Why.REMOVED and not self._is_quarantined
            if held.is_released or is_kept:
                if record.filename not in listed:
                    listed.add(record.filename)
                    served.append(record)
                continue
            withheld.append(
                Withheld(
                    record.filename,
                    record.version,
                    held.why,
                    self._why_held(held),
                    key=record.key,
                    is_held=True,
                    origin=rules.rule("removed").origin if held.why is Why.REMOVED else None,
                )
            )
        return withheld, served

    def _why_held(self, held: HeldFile) -> str:
        what = self._subject(held.record)
        if held.why is Why.QUARANTINED and self._is_quarantined:
            return f"{_quarantined(self._page, held.record.filename).reason}; an owner may release {what}"
        self._note(told_until(self._now, held.since))
        return f"{what} was {held.why} upstream on {dated(held.since, self._now)}; an owner may release it"

    def _denied(self, record: FileRecord) -> _Finding | None:
        version = self._version(record)
        for rule in self._rules.deny:
            if rule.denies(version):
                reason = f"{self._subject(record)} is denied by {rule.at} ({rule.value})"
                if version is None:
                    reason += ", which covers what has no readable version"
                if rule.until is not None:
                    reason += f" until {self._told(rule.until)}"
                if rule.reason is not None:
                    reason += f": {rule.reason}"
                return _Finding(rule.text, reason, rule.origin, rule.until)
        return None

    def _not_allowed(self, record: FileRecord) -> _Finding | None:
        version = self._version(record)
        for level in self._rules.allow:
            if not any(rule.admits(version) for rule in level):
                allowed = " and ".join(rule.value for rule in level)
                reason = f"{self._subject(record)} is not allowed by {level[0].at}, which allows {allowed}"
                return _Finding("allow", reason, level[0].origin)
        return None

    def _of_other_type(self, record: FileRecord) -> _Finding | None:
        found = file_type(record.filename)
        if found in self._rules.file_types:
            return None
        rule = self._rules.rule("file_types")
        what = "neither a wheel nor an sdist" if found == "other" else f"a {found}"
        if found == "sdist":
            what = "an sdist"
        reason = f"{record.filename} is {what}; {rule.at} serves only: {rule.value}"
        return _Finding(rule.text, reason, rule.origin, may_be_listed=False)

    def _yanked(self, record: FileRecord) -> _Finding | None:
        if record.yanked is False:
            return None
        rule = self._rules.rule("yanked")
        reason = f"{rule.at} hides what is yanked, and {self._subject(record)} was yanked upstream"
        if isinstance(record.yanked, str):
            reason += f": {record.yanked}"
        return _Finding(rule.text, reason, rule.origin, may_be_listed=False)

    def _too_late(self, record: FileRecord) -> _Finding | None:
        bound, since = self._rules.uploaded_before, self._since(record)
        assert bound is not None  # noqa: S101 - there is no such check without one
        if since is None and self._now < bound:
            self._note(bound)
            return None
        if since is not None and since < bound:
            return None
        rule = self._rules.rule("uploaded_before")
        if record.uploaded is not None:
            when = f"was uploaded on {_day(record.uploaded)}"
        elif since is not None:
            when = f"has no upload time and was first seen here on {_day(since)}"
        else:
            when = "has no upload time and was not seen here before"
        reason = f"{self._subject(record)} {when}; {rule.at} serves only files from before {rule.value}"
        return _Finding(rule.text, reason, rule.origin, may_be_listed=False)

    def _young(self, record: FileRecord) -> _Finding | None:
        since = record.uploaded or self._since(record)
        if since is not None and since <= self._youngest:
            return None
        version = self._version(record)
        if self._is_exempt(version) or (since is not None and self._fixes(version, since)):
            return None
        rule = self._rules.rule("min_age")
        what, wait = self._subject(record), lasting(self._rules.min_age)
        if since is None:
            reason = f"{what} was not seen here before; {rule.at} holds files back for {wait}"
            return _Finding(rule.text, reason, rule.origin)
        age = aged(self._now - since)
        self._note(next_aged(since, self._now))
        if record.uploaded is None:
            reason = f"{what} was first seen here {age} ago; {rule.at} holds files back for {wait} from then"
        else:
            reason = f"{what} is {age} old; {rule.at} holds files back for {wait}"
        until = later(since, self._rules.min_age)
        if until is not None:
            self._note(until)
            reason += f", until {self._told(_whole_minute(until))}"
        return _Finding(rule.text, reason, rule.origin, until)

    def _vulnerable(self, record: FileRecord) -> _Finding | None:
        known = self._concerns.get(record.version or "")
        if not known:
            return None
        worst = max(known, key=lambda one: one.counts_as)
        rule = self._rules.rule("vulnerable")
        rating = "unrated" if worst.severity is None else worst.counts_as.name.lower()
        reason = f"{self._subject(record)} is affected by {worst.id} ({rating})"
        if len(known) > 1:
            reason += f" and {len(known) - 1} more"
        if worst.summary:
            reason += f": {_cut(worst.summary)}"
        version = self._version(record)
        fixed = None if version is None else worst.fixed_behind(version)
        if fixed is not None:
            reason += f"; fixed in {fixed}"
        acts = "only warns of" if self._rules.vulnerable == "warn" else "withholds"
        return _Finding(
            f"vulnerable {worst.id}", f"{reason}; {rule.at} {acts} vulnerable versions", rule.origin
        )

    def _advises(self) -> bool:
        """Find out which versions have known vulnerabilities that count; whether these are withheld or warned of."""
        rules, advisories = self._rules, self._circumstances.advisories
        self._ends.update(one.until for one in rules.vulnerable_exempt)
        if not advisories:
            return False
        least = Severity[rules.severity.upper()]
        counted = [
            advisory
            for advisory in advisories
            if advisory.counts_as >= least
            and not any(advisory.is_called(exempt.advisory) for exempt in rules.vulnerable_exempt)
        ]
        # What has no version is asked for by an empty text: an advisory on all of them concerns it too.
        self._concerns = affecting(counted, [record.version or "" for record in self._files])
        return rules.vulnerable != "off" and bool(self._concerns)

    def _is_exempt(self, version: Version | None) -> bool:
        return any(rule.admits(version) for rule in self._rules.exempt)

    def _fixes(self, version: Version | None, since: datetime) -> bool:
        """Whether a young file passes as one of a fix."""
        if version is None or not self._rules.min_age_fixes or not self._concerns:
            return False
        if self._fixing is None:
            self._fixing = self._find_fixes()
        # A file that is added to an old release is young all the same.
        first = self._fixing.get(version)
        return first is not None and since - first < self._rules.min_age

    def _find_fixes(self) -> Mapping[Version, datetime]:
        """The versions that were fixes when they came, with the upload of their first file; see `screen`."""
        first: dict[Version, datetime] = {}
        concerns: dict[Version, frozenset[str]] = {}
        for record in self._files:
            version, since = self._version(record), self._since(record)
            if version is None or version.is_prerelease or since is None or record.yanked is not False:
                continue
            if any(check(record) is not None for check in self._hard):
                continue
            first[version] = min(since, first.get(version, since))
            concerns[version] = frozenset(one.id for one in self._concerns.get(record.version or "", ()))
        served: list[Version] = []
        fixing: dict[Version, datetime] = {}
        for version in sorted(first, key=lambda version: (first[version], version)):
            place = bisect_right(served, version)
            if place and concerns[version] < concerns[served[place - 1]]:
                fixing[version] = first[version]
            elif first[version] > self._youngest and not self._is_exempt(version):
                continue
            insort(served, version)
        return fixing

    def _since(self, record: FileRecord) -> datetime | None:
        """When it was uploaded, else first seen; None: it has not been seen before now."""
        return record.uploaded or self._circumstances.first_seen.get(record.key)

    def _is_older(self, record: FileRecord, moment: datetime) -> bool:
        since = self._since(record)
        return since is not None and since < moment

    def _version(self, record: FileRecord) -> Version | None:
        text = record.version
        if text not in self._versions:
            self._versions[text] = known_version(text)
        return self._versions[text]

    def _subject(self, record: FileRecord) -> str:
        return record.filename if record.version is None else f"{self._page.name} {record.version}"

    def _told(self, moment: datetime) -> str:
        self._note(told_until(self._now, moment))
        return told(moment, self._now)

    def _note(self, moment: datetime | None) -> None:
        """At `moment` something may come out otherwise."""
        if moment is not None:
            self._ends.add(moment)

    def _withheld(self, record: FileRecord, finding: _Finding, *, is_listed: bool = False) -> Withheld:
        return Withheld(
            record.filename,
            record.version,
            finding.rule,
            finding.reason,
            finding.until,
            self._key(record),
            is_listed,
            origin=finding.origin,
        )

    def _key(self, record: FileRecord) -> str | None:
        """The key of a file, where its filename alone does not tell it."""
        if self._twins is None:
            self._twins = self._find_twins()
        return record.key if record.filename in self._twins else None

    def _find_twins(self) -> frozenset[str]:
        """Filenames that stand for several files, which only their keys tell apart."""
        names = Counter(record.filename for record in self._page.files)
        names.update(held.record.filename for held in self._circumstances.held)
        return frozenset(name for name, times in names.items() if times > 1)


def _once_per_version(check: _Check) -> _Check:
    """The same for all files of a version that can be told; for others it names the file."""
    known: dict[str, _Finding | None] = {}

    def checked(record: FileRecord) -> _Finding | None:
        version = record.version
        if version is None:
            return check(record)
        if version not in known:
            known[version] = check(record)
        return known[version]

    return checked


def _whole_minute(moment: datetime) -> datetime:
    """The next whole minute: what is told as the end of something is not before it."""
    whole = moment.replace(second=0, microsecond=0)
    return whole if whole == moment else later(whole, timedelta(minutes=1)) or whole


def _day(moment: datetime) -> str:
    return iso(moment)[:10]


def _cut(summary: str) -> str:
    return summary if len(summary) <= _SUMMARY else f"{summary[: _SUMMARY - 3].rstrip()}..."


def _quarantined(page: Page, filename: str, key: str | None = None) -> Withheld:
    reason = f"{page.name} is quarantined upstream"
    if page.status.reason:
        reason += f": {page.status.reason}"
    return Withheld(filename, version_of(filename, page.name), "quarantined", reason, key=key)
