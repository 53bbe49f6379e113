"""Policy: what a group's configuration says of names and files, how it is inherited, and where each rule stands.

`OwnPolicy` is what one group's `policy` says, as written; `Policy` is what holds there after inheritance and
locks (contract 3). Both carry the `Origin` of every rule, so that an answer can name the line that decided.

What a key does is said elsewhere: `decide` and `screen` for what is read, `admit` for what is published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from proxy.domain.filenames import FileType
from proxy.domain.moments import iso, spelled
from proxy.domain.names import Name, PatternSet
from proxy.domain.roles import Role
from proxy.domain.versions import is_admitted, is_denied

POLICY_KEYS = (
    *("forward", "not_forwarded", "refused", "upstreams", "list_upstream", "ask", "reserve"),
    *("shadow_upstream", "allow", "deny", "merge", "min_age", "min_age_exempt", "min_age_fixes"),
    *("uploaded_before", "file_types", "yanked", "withheld", "removed"),
    *("vulnerable", "severity", "vulnerable_exempt", "warn"),
    *("protect", "identical_upload", "local_versions", "lock"),
)
"""Every key that may stand in a `policy`, in the order in which they are shown; all but `lock` may be locked."""

SINGLE = (
    *("forward", "not_forwarded", "refused", "upstreams", "list_upstream", "ask", "shadow_upstream"),
    *("min_age", "min_age_fixes", "uploaded_before", "file_types", "yanked", "withheld", "removed"),
    *("vulnerable", "severity", "identical_upload", "local_versions"),
)
"""The keys of which the nearest group's value holds."""

Ask: TypeAlias = Literal["any", "known"]
Yanked: TypeAlias = Literal["keep", "hide"]
Marking: TypeAlias = Literal["mark", "hide"]
Removed: TypeAlias = Literal["hold", "keep"]
Vulnerable: TypeAlias = Literal["off", "warn", "deny"]
Rating: TypeAlias = Literal["low", "medium", "high", "critical"]
Shadowing: TypeAlias = Literal["developer", "maintainer", "owner", "nobody"]
Consent: TypeAlias = Literal["accept", "reject"]
"""The words that a policy may say; `Policy` tells what they mean."""

WARNABLE = ("allow", "deny", "min_age", "uploaded_before", "file_types")
"""The keys that `warn` may name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A place in the configuration: the file as named by the operator, the line from 1, the dotted path."""

    file: str
    line: int
    path: str

    def __str__(self) -> str:
        return f"{self._name}:{self.line}"

    @property
    def shape(self) -> dict[str, object]:
        """As contract 12 has it: of the file its name alone, since no path leaves the process (contract 10)."""
        return {"file": self._name, "line": self.line, "path": self.path}

    @property
    def _name(self) -> str:
        return self.file.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a policy key with the value that applies, and the path it stands at ('' is the root).

    Attributes:
        value: as text; of patterns the normalised pattern with its specifier: `django<4.2`.
        pattern: the part of it that names are compared with; empty where the key has no patterns.
        specifier: the versions it speaks of; None: all.
        reason: what its author says about it, for people.
        until: the moment from which it is void; None: never. Aware.
    """

    key: str
    value: str
    namespace: str
    origin: Origin | None = None
    pattern: str = ""
    specifier: SpecifierSet | None = None
    reason: str | None = None
    until: datetime | None = None

    @property
    def text(self) -> str:
        """`reserve acme-*`, `forward false`: printable ASCII, as in `X-Overlay-Decision` and trails."""
        return f"{self.key} {self.value}"

    @property
    def at(self) -> str:
        """Where it stands, as people are told: a path, or `the instance`."""
        return self.namespace or "the instance"

    def is_void(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.until is not None and now >= self.until

    def admits(self, version: Version | None) -> bool:
        """Whether it covers a version, read as an allowance or exemption (`versions.is_admitted`)."""
        return is_admitted(self.specifier, version)

    def denies(self, version: Version | None) -> bool:
        """Whether it covers a version, read as a denial (`versions.is_denied`)."""
        return is_denied(self.specifier, version)


_Row: TypeAlias = tuple[
    str, str, str, str, str | None, str | None, datetime | None, str | None, int, str, int | None
]
"""A rule in plain values: key, value, namespace, pattern, specifier, reason, until; of its origin the file (None: it
has none), the line, the path up to the last number, and that number."""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Name patterns of one key, each with its rule; finds those that cover a name.

    Rules are kept as plain values and made when they are asked for: a hundred thousand objects with all that belongs
    to them would take seconds to hand from process to process, and to walk over in search of garbage.
    """

    _rows: tuple[_Row, ...]
    _patterns: PatternSet
    _made: dict[int, Rule] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> RuleSet:
        """Compile rules that have patterns."""
        shared: dict[str, str] = {}
        rows = tuple(_row(rule, shared) for rule in rules)
        return cls(rows, PatternSet.of(row[3] for row in rows))

    def __reduce__(self) -> tuple[type[RuleSet], tuple[tuple[_Row, ...], PatternSet]]:
        return RuleSet, (self._rows, self._patterns)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> Rule:
        rule = self._made.get(position)
        if rule is None:
            rule = self._made[position] = _rule(self._rows[position])
        return rule

    def __iter__(self) -> Iterator[Rule]:
        return map(_rule, self._rows)

    def positions(self, name: Name) -> list[int]:
        """The positions of the rules whose patterns cover `name`, void ones too, in order."""
        return self._patterns.matches(name)

    def covering(self, name: Name) -> tuple[Rule, ...]:
        """The rules whose patterns cover `name`, void ones too, in their order."""
        return tuple(map(self.__getitem__, self._patterns.matches(name)))


def _row(rule: Rule, shared: dict[str, str]) -> _Row:
    """`shared` keeps one of equal texts."""
    said = None if rule.specifier is None else rule.value.removeprefix(rule.pattern)
    pattern = rule.value if rule.pattern == rule.value else rule.pattern
    head = (rule.key, rule.value, rule.namespace, pattern, said, rule.reason, rule.until)
    if rule.origin is None:
        return (*head, None, 0, "", None)
    path, _, last = rule.origin.path.rpartition(".")
    if not (last.isascii() and last.isdigit()):
        return (*head, rule.origin.file, rule.origin.line, rule.origin.path, None)
    return (*head, rule.origin.file, rule.origin.line, shared.setdefault(path, path), int(last))


def _rule(row: _Row) -> Rule:
    key, value, namespace, pattern, said, reason, until, file, line, path, number = row
    origin = None if file is None else Origin(file, line, path if number is None else f"{path}.{number}")
    specifier = None if said is None else SpecifierSet(said)
    return Rule(key, value, namespace, origin, pattern, specifier, reason, until)


EMPTY = RuleSet.of(())


@dataclass(frozen=True, slots=True)
class Layers:
    """The rules of a key that adds up downwards: one set per group that has any, the topmost first.

    Groups share the sets of those above them, so that a thousand groups below a hundred thousand rules cost little.
    """

    sets: tuple[RuleSet, ...] = ()

    def __iter__(self) -> Iterator[Rule]:
        for rules in self.sets:
            yield from rules

    def covering(self, name: Name) -> tuple[Rule, ...]:
        """The rules whose patterns cover `name`, void ones too, the topmost first."""
        if not self.sets:
            return ()
        return tuple(rule for rules in self.sets for rule in rules.covering(name))

    def and_below(self, rules: tuple[Rule, ...]) -> Layers:
        """These, and the rules of a group below."""
        return Layers((*self.sets, RuleSet.of(rules))) if rules else self


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the `allow` of one group lets through, and where it stands. An empty one lets nothing through."""

    patterns: RuleSet
    namespace: str
    origin: Origin | None = None

    @property
    def at(self) -> str:
        """As `Rule.at`."""
        return self.namespace or "the instance"


@dataclass(frozen=True, slots=True)
class Exemption:
    """An entry of `vulnerable_exempt`: an advisory that is not counted against a name for a time.

    `advisory`: an id or alias, compared without regard to case. `origin` and `namespace` are those of `Rule`.
    """

    advisory: str
    name: Name
    until: datetime
    reason: str
    namespace: str
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Exemptions:
    """The entries of `vulnerable_exempt` at a group and above, by name; groups share those of the groups above."""

    sets: tuple[Mapping[Name, tuple[Exemption, ...]], ...] = ()

    def __iter__(self) -> Iterator[Exemption]:
        return (one for names in self.sets for spared in names.values() for one in spared)

    def of(self, name: Name) -> tuple[Exemption, ...]:
        """Those for `name`, void ones too, the topmost first."""
        return tuple(one for names in self.sets for one in names.get(name, ()))

    def and_below(self, exemptions: Iterable[Exemption]) -> Exemptions:
        """These, and those of a group below."""
        names: dict[Name, tuple[Exemption, ...]] = {}
        for one in exemptions:
            names[one.name] = (*names.get(one.name, ()), one)
        return Exemptions((*self.sets, names)) if names else self


@dataclass(frozen=True, slots=True)
class Protection:
    """An entry of `protect`: the lowest roles that may publish and delete what `rule` covers; None: as usual."""

    rule: Rule
    publish: Role | None = None
    delete: Role | None = None


@dataclass(frozen=True, slots=True)
class Protections:
    """The entries of `protect` at a group and above; groups share those of the groups above."""

    sets: tuple[tuple[PatternSet, tuple[Protection, ...]], ...] = ()

    def __iter__(self) -> Iterator[Protection]:
        return (one for _, protections in self.sets for one in protections)

    def covering(self, name: Name) -> tuple[Protection, ...]:
        """Those whose patterns cover `name`, the topmost first; the strictest counts."""
        return tuple(
            protections[position]
            for patterns, protections in self.sets
            for position in patterns.matches(name)
        )

    def and_below(self, protections: tuple[Protection, ...]) -> Protections:
        """These, and those of a group below."""
        patterns = PatternSet.of(one.rule.pattern for one in protections)
        return Protections((*self.sets, (patterns, protections))) if protections else self


@dataclass(frozen=True, slots=True)
class OwnPolicy:
    """What one group says itself. None: the key does not stand there. What the values mean: `Policy`."""

    forward: bool | None = None
    not_forwarded: int | None = None
    refused: int | None = None
    upstreams: tuple[str, ...] | None = None
    list_upstream: bool | None = None
    ask: Ask | None = None
    reserve: tuple[Rule, ...] = ()
    shadow_upstream: Shadowing | None = None
    allow: tuple[Rule, ...] | None = None
    deny: tuple[Rule, ...] = ()
    merge: tuple[Rule, ...] = ()
    min_age: timedelta | None = None
    min_age_exempt: tuple[Rule, ...] = ()
    min_age_fixes: bool | None = None
    uploaded_before: datetime | None = None
    file_types: frozenset[FileType] | None = None
    yanked: Yanked | None = None
    withheld: Marking | None = None
    removed: Removed | None = None
    vulnerable: Vulnerable | None = None
    severity: Rating | None = None
    vulnerable_exempt: tuple[Exemption, ...] = ()
    warn: tuple[str, ...] = ()
    protect: tuple[Protection, ...] = ()
    identical_upload: Consent | None = None
    local_versions: Consent | None = None
    lock: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def standing(self) -> tuple[str, ...]:
        """The keys that stand here, `lock` aside."""
        return tuple(key for key in POLICY_KEYS if key in self.origins and key != "lock")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePolicy:
    """What holds for the files of every name alike: values, and who says them.

    Attributes:
        min_age: younger files of upstreams are withheld.
        min_age_fixes: a young version passes that fixes a known vulnerability of what would be served instead.
        uploaded_before: files of upstreams that are not older than this are left out. Aware.
        file_types: which of `wheel`, `sdist`, `other` are served of upstreams.
        yanked: `keep` or `hide` yanked files of upstreams.
        withheld: `mark`: withheld files are listed as yanked, or `hide`.
        removed: `hold` what an upstream removed and we have, or `keep` serving it.
        vulnerable: what is done about versions with known vulnerabilities: `off`, `warn` or `deny`.
        severity: from which on: `low`, `medium`, `high`, `critical`.
        warn: keys whose rules are not enforced, but told of.
        said: key → the rule that says its value, for all of `SINGLE`; its `value` is the text of it. For `allow` the
            nearest `*`, which is not among the lists of `allow`.
    """

    min_age: timedelta = timedelta(0)
    min_age_fixes: bool = True
    uploaded_before: datetime | None = None
    file_types: frozenset[FileType] = frozenset({"wheel", "sdist"})
    yanked: Yanked = "keep"
    withheld: Marking = "mark"
    removed: Removed = "hold"
    vulnerable: Vulnerable = "off"
    severity: Rating = "high"
    warn: frozenset[str] = frozenset()
    said: Mapping[str, Rule] = field(default_factory=dict)

    def rule(self, key: str) -> Rule:
        """The rule that says the value of a key of `SINGLE`; of the defaults where nothing does.

        Of `allow`: the rule by which everything is allowed, where no list restricts that.
        """
        return self.said.get(key) or Rule(key, "*" if key == "allow" else text_of(getattr(self, key)), "")

    def of_files(self) -> dict[str, Any]:
        """The values of this class alone, by their names."""
        return {key: getattr(self, key) for key in _OF_FILES}


_OF_FILES = tuple(each.name for each in fields(FilePolicy))


@dataclass(frozen=True, slots=True)
class Policy(FilePolicy):
    """What holds at a group (and at its projects).

    Attributes:
        forward: whether names that are not private may be asked upstream.
        not_forwarded: status of the page of a name that is not forwarded: 404 or 451.
        refused: status of the page of a claimed or denied name: 451 or 403.
        upstreams: names of the upstreams, in the order in which they are asked.
        list_upstream: whether lists of names hold those of the upstreams too.
        ask: `any`, or `known`: only names that stand in an upstream's kept list are asked for.
        shadow_upstream: lowest role that may first publish a name that an upstream has, or `nobody`.
        allow: one list per level that restricts; a name must be covered by every one.
        deny, merge, min_age_exempt: what stands here and above.
        protect: who may publish and delete some names.
        identical_upload: `reject` or `accept` a file that is published already with the same bytes.
        local_versions: `accept` or `reject` versions such as `1.0+acme`.
        locked: key → path of the group that locked it.
        words: the entries of `warn` and `lock`, here and above, as rules whose value is a key.
    """

    forward: bool = True
    not_forwarded: int = 404
    refused: int = 451
    upstreams: tuple[str, ...] = ()
    list_upstream: bool = False
    ask: Ask = "any"
    shadow_upstream: Shadowing = "maintainer"
    allow: tuple[AllowList, ...] = ()
    deny: Layers = Layers()
    merge: Layers = Layers()
    min_age_exempt: Layers = Layers()
    vulnerable_exempt: Exemptions = Exemptions()
    protect: Protections = Protections()
    identical_upload: Consent = "reject"
    local_versions: Consent = "accept"
    locked: Mapping[str, str] = field(default_factory=dict)
    words: tuple[Rule, ...] = ()


def root_policy(own: OwnPolicy) -> Policy:
    """The policy of the root, whose file (or the shipped defaults below it) says every single-valued key."""
    return inherit(Policy(), own, "")


def inherit(above: Policy, own: OwnPolicy, namespace: str) -> Policy:
    """What holds at `namespace`: `above` is the effective policy of its parent, `own` what it says itself.

    Keys locked above are ignored here; `config.checks` reports them, and nothing starts with such a file.
    """
    own_keys = frozenset(own.standing()) - above.locked.keys()
    plain = {key: getattr(own, key) for key in SINGLE if key in own_keys}
    # An end of time may be taken back below (`uploaded_before: null`); other keys have no null.
    plain = {key: value for key, value in plain.items() if value is not None or key == "uploaded_before"}
    said = {key: Rule(key, text_of(value), namespace, own.origins.get(key)) for key, value in plain.items()}
    allow = above.allow
    if own.allow is not None and "allow" in own_keys:
        everything = next(
            (rule for rule in own.allow if rule.pattern == "*" and rule.specifier is None), None
        )
        if everything is None:
            allow = (*allow, AllowList(RuleSet.of(own.allow), namespace, own.origins.get("allow")))
        else:
            said["allow"] = everything
    added = {
        key: getattr(above, key).and_below(getattr(own, key))
        for key in ("deny", "merge", "min_age_exempt", "vulnerable_exempt", "protect")
        if key in own_keys
    }
    warn = own.warn if "warn" in own_keys else ()
    words = tuple(
        Rule(key, word, namespace, own.origins.get(key))
        for key, listed in (("warn", warn), ("lock", own.lock))
        for word in dict.fromkeys(listed)
    )
    return replace(
        above,
        **plain,
        **added,
        allow=allow,
        warn=above.warn.union(warn),
        words=above.words + words,
        said={**above.said, **said} if said else above.said,
        locked={**above.locked, **{key: namespace for key in own.lock if key not in above.locked}},
    )


def text_of(value: object) -> str:
    """The value of a policy key as people write it: `false`, `3d`, `2026-05-01`, `wheel, sdist`."""
    match value:
        case bool():
            return str(value).lower()
        case timedelta():
            return spelled(value)
        case datetime():
            return iso(value).removesuffix("T00:00:00Z")
        case frozenset():
            return ", ".join(sorted(value))
        case tuple():
            return ", ".join(map(str, value))
        case None:
            return "null"
    return str(value)


def live(rules: Iterable[Rule], now: datetime) -> tuple[tuple[Rule, ...], datetime | None]:
    """The rules that are not void, and the first moment at which one of them will be; None: never."""
    found = tuple(rule for rule in rules if not rule.is_void(now))
    return found, min((rule.until for rule in found if rule.until is not None), default=None)
