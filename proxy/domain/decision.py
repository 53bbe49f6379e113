"""What is asked about a name, what is known of it, and the answer: the types of the one decision (contract 4).

`decide` makes a `Decision`. What the upstreams said is folded in afterwards, purely: `Decision.as_found`,
`as_unknown`, `as_unavailable` and their like, or `screen` for a page by the decision's `FileRules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from proxy.domain.access import Sight
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, NamespacePath
from proxy.domain.policy import Exemption, FilePolicy, Origin, Rule


class Word(StrEnum):
    """What an index answers for a name; `withheld` is said of single files only."""

    PRIVATE = "private"
    UPSTREAM = "upstream"
    MERGED = "merged"
    CLAIMED = "claimed"
    DENIED = "denied"
    NOT_FORWARDED = "not-forwarded"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"
    WITHHELD = "withheld"


class Trouble(StrEnum):
    """Why an upstream gave no valid answer: which 5xx the caller gets (contract 4.9)."""

    FAULTY = "faulty"
    BUSY = "busy"
    TIMEOUT = "timeout"


class OwnedKind(StrEnum):
    """How a project owns a name."""

    FILES = "files"
    TOMBSTONE = "tombstone"


@dataclass(frozen=True, slots=True)
class Owned:
    """A project owns the name: by files, or by a tombstone where all were deleted.

    `project` is the root's empty path where a dropped namespace left its claim to the instance. `first_upload`: of
    the oldest of its files that are still there; None: as `since`.
    """

    project: NamespacePath
    kind: OwnedKind
    since: datetime
    first_upload: datetime | None = None

    def had_files_at(self, moment: datetime) -> bool:
        """Whether a file that is still there had been uploaded before `moment`."""
        return self.kind is OwnedKind.FILES and (self.first_upload or self.since) < moment


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What the registry holds of one name, in every namespace, oldest claim first.

    Projects out of the caller's sight are included: unseen is not absent.
    """

    owned: tuple[Owned, ...] = ()


@dataclass(frozen=True, slots=True)
class PackageOrigin:
    """A package of the registry that settled a step."""

    package: Name
    project: NamespacePath


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the trail. `outcome`: `pass` (went on), `stop` (settled it), `skip` (not reached)."""

    step: str
    outcome: str
    because: str
    origin: Origin | PackageOrigin | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: this name, at this index, by somebody with this sight. That the index may be asked is checked.

    `as_of`: the index as of that instant, for dated views (contract 2); None: as it is now.
    """

    index: Namespace
    name: Name
    sight: Sight
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class FileRules(FilePolicy):
    """What `screen` needs of the policy at the index: the rules about files of one name.

    Attributes:
        deny: rules with a specifier that cover the name; none of them is void.
        allow: for each level that restricts the versions of the name, the rules of which one has to admit a version.
        exempt: entries of `min_age_exempt` that cover the name; none of them is void.
        vulnerable_exempt: entries for the name; none of them is void.
        as_of: of a dated view: only files that are older.
    """

    index: NamespacePath
    deny: tuple[Rule, ...] = ()
    allow: tuple[tuple[Rule, ...], ...] = ()
    exempt: tuple[Rule, ...] = ()
    vulnerable_exempt: tuple[Exemption, ...] = ()
    as_of: datetime | None = None

    @property
    def token(self) -> str:
        """Equal for rules that screen every page alike and give the same reasons, at whatever index.

        The same in every process and at every start: what is made of a page is kept on disk under it.
        """
        patterns = [
            [(rule.text, rule.namespace, rule.reason, rule.until) for rule in rules]
            for rules in (self.deny, self.exempt, *self.allow)
        ]
        spared = [(one.advisory, one.namespace, one.reason, one.until) for one in self.vulnerable_exempt]
        values = (
            *(self.min_age, self.min_age_fixes, self.uploaded_before, sorted(self.file_types), self.yanked),
            *(self.withheld, self.removed, self.vulnerable, self.severity, sorted(self.warn), self.as_of),
        )
        whose = [self.said[key].namespace if key in self.said else "" for key in _TOLD]
        return repr((patterns, spared, values, whose))


_TOLD = ("min_age", "uploaded_before", "file_types", "yanked", "removed", "vulnerable")
"""The keys of which a reason names the group that says them."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A rule that would have refused, were its key not in `warn`, with a sentence for people."""

    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to `Asked`.

    Attributes:
        projects: whose files are served, where the word is private or merged; they stay where merging fails.
        taken_by: of a merged name: projects whose versions shadow those of upstreams, readable or not.
        ask: upstreams to ask, in order; empty unless the word is upstream or merged. Only they may be asked.
        known_only: they are asked only if the name stands in their kept list.
        rules: what the files of upstream pages must pass.
        rule: the deciding rule in printable ASCII, where there is one that the caller may know of.
        reason: a sentence for people.
        until: when the deciding rule becomes void; None: never.
        tenant: who owns the name, where the caller may know; '' is the instance.
        challenge: the owner cannot be read anonymously and the caller is anonymous: answer 401.
        upstream: the upstream that answered, or failed.
        trouble: why the word is unavailable.
        retry_after: seconds, at most 5, where the word is unavailable.
        refused, not_forwarded: the statuses of `policy.Policy`.
        warned: rules that would have refused the name, were they enforced.
        good_until: when the clock alone may change this decision; None: never.
    """

    word: Word
    reason: str
    trail: tuple[Step, ...]
    projects: tuple[NamespacePath, ...] = ()
    taken_by: tuple[NamespacePath, ...] = ()
    ask: tuple[str, ...] = ()
    known_only: bool = False
    rules: FileRules | None = None
    rule: str | None = None
    until: datetime | None = None
    tenant: NamespacePath | None = None
    challenge: bool = False
    upstream: str | None = None
    trouble: Trouble | None = None
    retry_after: int | None = None
    refused: int = 451
    not_forwarded: int = 404
    warned: tuple[Warned, ...] = ()
    good_until: datetime | None = None

    def as_found(self, name: Name, upstream: str, detail: str) -> Decision:
        """The same, with the upstream that knows the name; `detail` says how we know."""
        step = found_step(upstream, detail)
        reason = f"{upstream} has {name}"
        if self.word is Word.MERGED:
            reason = f"{published_in(name, self.projects)}, and {reason}"
        return replace(self, upstream=upstream, reason=reason, trail=(*self.trail, step))

    def as_not_listed(self, name: Name, upstream: str) -> Decision:
        """The same, after an upstream was not asked, since the name does not stand in its kept list."""
        step = Step("upstream", "pass", f"{name} is not on the kept list of {upstream}, so it is not asked")
        return replace(self, trail=(*self.trail, step))

    def as_absent(self, name: Name, upstream: str) -> Decision:
        """The same, after an upstream said that it has no such project."""
        step = Step("upstream", "pass", f"{upstream} has no project {name}")
        return replace(self, trail=(*self.trail, step))

    def as_held(self, name: Name, upstream: str) -> Decision:
        """As `as_found`, where the upstream has the project no more, but files of it are kept and served."""
        step = Step("upstream", "pass", f"files of {name} that {upstream} removed are kept and served")
        found = self.as_found(name, upstream, "")
        reason = found.reason.removesuffix(f"{upstream} has {name}") + f"{upstream} had {name}"
        return replace(found, reason=reason, trail=(*self.trail, step))

    def as_unknown(self, name: Name) -> Decision:
        """No upstream knows the name: private files stand alone, where there are any."""
        asked = ", ".join(self.ask)
        step = Step("upstream", "stop", f"no such project at {asked}")
        is_alone = self.word is Word.MERGED
        reason = f"{name} is neither published here nor known to {asked}"
        if self.known_only:
            reason += (
                "; only names on a kept list are asked for, and a new one comes onto it with the next refresh"
            )
        return replace(
            self,
            word=Word.PRIVATE if is_alone else Word.UNKNOWN,
            reason=self.reason if is_alone else reason,
            ask=(),
            rules=None,
            taken_by=(),
            rule=None,
            until=None,
            warned=(),
            trail=(*self.trail, step),
        )

    def as_unavailable(
        self, name: Name, upstream: str, trouble: Trouble, because: str, retry_after: int | None = None
    ) -> Decision:
        """An upstream failed and nothing usable is kept: never 'not found', never an empty or half a page."""
        step = Step("upstream", "stop", f"{upstream}: {because}")
        return replace(
            self,
            word=Word.UNAVAILABLE,
            reason=f"{upstream} gives no usable answer for {name} now: {because}",
            ask=(),
            rules=None,
            rule=None,
            until=None,
            upstream=upstream,
            trouble=trouble,
            retry_after=min(5, max(1, retry_after or 2)),
            trail=(*self.trail, step),
        )


def found_step(upstream: str, detail: str) -> Step:
    """The step of an upstream that knows the name, with which the trail of `Decision.as_found` ends."""
    return Step("upstream", "pass", f"{upstream} has it ({detail})")


def published_in(name: Name, projects: tuple[NamespacePath, ...]) -> str:
    return f"{', '.join(projects)} {'publishes' if len(projects) == 1 else 'publish'} {name}"
