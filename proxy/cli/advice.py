"""What `config check` warns of: entries without effect, and rules that reach further than they look. Pure.

An entry is looked up among the others by its pattern, so that a hundred thousand take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from proxy.config.load import Loaded
from proxy.config.models import Config, Exemption, Group, Policy, Project
from proxy.config.values import Entry
from proxy.domain.moments import told
from proxy.domain.names import Name, PatternSet
from proxy.domain.namespaces import ROOT, NamespacePath, Tree, Visibility
from proxy.errors import Problem
from proxy.registry.listing import Claim

Keys = tuple[str | int, ...]

_PATTERNS = ("reserve", "allow", "deny", "merge", "min_age_exempt")
_WORDS = ("file_types", "warn", "lock")
_ADDING_UP = ("reserve", "deny", "merge", "min_age_exempt")
"""Lists whose entries hold below as well, so that an equal entry below adds nothing."""
_LOOSENING = {
    "min_age_exempt": "min_age",
    "min_age_fixes": "min_age",
    "severity": "vulnerable",
    "vulnerable_exempt": "vulnerable",
}
"""Keys by which a group may weaken another that is locked above it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the data directory tells of a configuration.

    Attributes:
        claims: the names that are owned there.
        undated: upstreams of whose files some have no upload time.
    """

    claims: Sequence[Claim] = ()
    undated: frozenset[str] = frozenset()


def advise(loaded: Loaded, tree: Tree, seen: Seen, now: datetime) -> Iterator[Problem]:
    """Warnings about a configuration that is in order, in no particular order.

    Args:
        loaded: the file that `tree` was compiled from.
        now: aware; entries whose time is over are void.
    """
    advice = _Advice(loaded, tree, seen, now)
    policy = loaded.config.policy
    yield from advice.of_policy((), ROOT, policy)
    above = {key: (_Wider.of(_entries(policy, key), now),) for key in _ADDING_UP if key != "reserve"}
    yield from advice.below((), ROOT, loaded.config.groups, above)
    yield from _narrowed(loaded, tree, (), ROOT, loaded.config)
    yield from _covering(tree, seen.claims, now)


class _Wider:
    """The entries of one list that are not void, to find those that cover all of another entry."""

    def __init__(self, entries: Mapping[str, Mapping[str, Entry]]) -> None:
        self._entries = entries
        self._patterns = PatternSet.of(entries)

    @classmethod
    def of(cls, entries: Iterable[Entry], now: datetime) -> _Wider:
        """Of several with equal patterns and versions the one that holds longest counts."""
        found: dict[str, dict[str, Entry]] = {}
        for entry in entries:
            if not _is_void(entry, now):
                alike = found.setdefault(entry.pattern, {})
                longest = alike.setdefault(_versions(entry), entry)
                if _outlasts(entry, longest):
                    alike[_versions(entry)] = entry
        return cls(found)

    def than(self, entry: Entry) -> Entry | None:
        """One that covers all that `entry` does, for as long, and is not the same."""
        return self._covering(entry, besides=entry.text)

    def like(self, entry: Entry) -> Entry | None:
        """As `than`; it may be the same."""
        return self._covering(entry, besides=None)

    def _covering(self, entry: Entry, *, besides: str | None) -> Entry | None:
        # The star of a glob stands in no literal part of another, so what matches its text matches all it covers.
        for position in self._patterns.matches(Name(entry.pattern)):
            alike = self._entries[self._patterns.patterns[position]]
            for versions in ("", _versions(entry)):
                wider = alike.get(versions)
                if wider is not None and wider.text != besides and _outlasts(wider, entry):
                    return wider
        return None


def _entries(policy: Policy, key: str) -> tuple[Entry, ...]:
    found: tuple[Entry, ...] = getattr(policy, key) or ()
    return found


def _versions(entry: Entry) -> str:
    return entry.text[len(entry.pattern) :]


def _is_void(entry: Entry | Exemption, now: datetime) -> bool:
    return entry.until is not None and now >= entry.until


def _outlasts(entry: Entry, other: Entry) -> bool:
    return entry.until is None or (other.until is not None and entry.until >= other.until)


@dataclass(frozen=True, slots=True)
class _Advice:
    """What there is to say of the policies of one configuration."""

    loaded: Loaded
    tree: Tree
    seen: Seen
    now: datetime

    def of_policy(self, keys: Keys, path: NamespacePath, policy: Policy) -> Iterator[Problem]:
        """What there is to say of a policy that does not come of those above it, but for locks and inheritance."""
        here = (*keys, "policy")
        for key in _PATTERNS:
            yield from self._doubled((*here, key), _entries(policy, key))
        for key in _WORDS:
            words: tuple[str, ...] = getattr(policy, key) or ()
            for position, word in enumerate(words):
                if word in words[:position]:
                    yield self._problem((*here, key, position), f"{word} stands twice")
        for position, exempt in enumerate(policy.vulnerable_exempt or ()):
            if _is_void(exempt, self.now):
                yield self._problem(
                    (*here, "vulnerable_exempt", position), self._over(exempt.id, exempt.until)
                )
        for position, key in enumerate(policy.warn or ()):
            yield self._problem(
                (*here, "warn", position), f"a dry run: {key} refuses nothing, it is only warned of"
            )
        yield from self._undated(here, path, policy)
        yield from self._not_merged(here, path, policy)

    def below(
        self,
        keys: Keys,
        path: NamespacePath,
        groups: Mapping[str, Group],
        above: Mapping[str, tuple[_Wider, ...]],
    ) -> Iterator[Problem]:
        """The groups below `path`; `above`: list → its entries that hold there already, group by group."""
        for segment, group in groups.items():
            at = (*keys, "groups", segment)
            here = _join(path, segment)
            policy = group.policy
            yield from self.of_policy(at, here, policy)
            for key in _ADDING_UP:
                for position, entry in enumerate(_entries(policy, key)):
                    found = (wider.like(entry) for wider in above.get(key, ()))
                    wider = next((each for each in found if each is not None), None)
                    if wider is not None and not _is_void(entry, self.now):
                        message = f"{entry.text} has no effect: {wider.text} stands above already"
                        yield self._problem((*at, "policy", key, position), message)
            yield from self._never_allowed(at, path, policy)
            yield from self._loosened(at, path, policy)
            # A tenant's reserve holds in the whole tenant; the root's is another claim, of the instance.
            inherited = {
                key: (*above.get(key, ()), *self._widers(_entries(policy, key))) for key in _ADDING_UP
            }
            yield from self.below(at, here, group.groups, inherited)

    def _widers(self, entries: tuple[Entry, ...]) -> tuple[_Wider, ...]:
        return (_Wider.of(entries, self.now),) if entries else ()

    def _doubled(self, keys: Keys, entries: tuple[Entry, ...]) -> Iterator[Problem]:
        if not entries:
            return
        widers = _Wider.of(entries, self.now)
        texts: set[str] = set()
        for position, entry in enumerate(entries):
            wider = None if _is_void(entry, self.now) else widers.than(entry)
            if _is_void(entry, self.now):
                message = self._over(entry.text, entry.until)
            elif entry.text in texts:
                message = f"{entry.text} stands twice"
            elif wider is not None:
                message = f"{entry.text} has no effect: {wider.text} covers it"
            else:
                texts.add(entry.text)
                continue
            yield self._problem((*keys, position), message)

    def _over(self, what: str, until: datetime | None) -> str:
        ended = "" if until is None else f" since {told(until, self.now)}"
        return f"{what} is void{ended}: take it out, or give it another end"

    def _never_allowed(self, keys: Keys, parent: NamespacePath, policy: Policy) -> Iterator[Problem]:
        above = self.tree.find(parent).policy
        for position, entry in enumerate(_entries(policy, "allow")):
            if "*" in entry.pattern:
                continue
            name = Name(entry.pattern)
            denying = (rule for rule in above.deny.covering(name) if rule.specifier is None)
            denied = next((rule for rule in denying if not rule.is_void(self.now)), None)
            if denied is not None:
                message = (
                    f"{entry.text} has no effect: {denied.namespace or 'the root'} denies {denied.value}"
                )
            elif narrow := next((each for each in above.allow if not each.patterns.covering(name)), None):
                message = f"{entry.text} has no effect: {narrow.namespace or 'the root'} does not allow it"
            else:
                continue
            yield self._problem((*keys, "policy", "allow", position), message)

    def _loosened(self, keys: Keys, parent: NamespacePath, policy: Policy) -> Iterator[Problem]:
        """Keys that weaken one that a group above locked, and are not locked themselves."""
        locked = self.tree.find(parent).policy.locked
        for key, weakened in _LOOSENING.items():
            if key in policy.model_fields_set and weakened in locked:
                by = locked[weakened] or "the root"
                message = f"it weakens {weakened}, which {by} locked; to forbid that, lock {key} there too"
                yield self._problem((*keys, "policy", key), message)

    def _undated(self, keys: Keys, path: NamespacePath, policy: Policy) -> Iterator[Problem]:
        """Rules about age for upstreams that do not say how old their files are."""
        effective = self.tree.find(path).policy
        rules = {
            "min_age": bool(effective.min_age),
            "uploaded_before": effective.uploaded_before is not None,
            "upstreams": bool(effective.min_age) or effective.uploaded_before is not None,
        }
        key = next((key for key, counts in rules.items() if counts and key in policy.model_fields_set), None)
        if key is None:
            return
        for upstream in effective.upstreams:
            if upstream in self.seen.undated:
                message = (
                    f"{upstream} names no upload time of some files: their first sight here counts as theirs"
                )
                yield self._problem((*keys, key), message)

    def _not_merged(self, keys: Keys, path: NamespacePath, policy: Policy) -> Iterator[Problem]:
        owners = (self.tree.owner(path), ROOT)
        for position, entry in enumerate(_entries(policy, "merge")):
            if "*" in entry.pattern:
                continue
            reserving = self.tree.reserving(Name(entry.pattern))
            rule = next((r for at, r in reserving if at in owners and not r.is_void(self.now)), None)
            if rule is not None:
                message = f"{entry.text} is not merged: {rule.namespace or 'the root'} reserves {rule.value}"
                yield self._problem((*keys, "merge", position), message)

    def _problem(self, keys: Keys, message: str) -> Problem:
        origin = self.loaded.origin(keys)
        return Problem(origin.file, origin.line, origin.path, message)


def _narrowed(
    loaded: Loaded, tree: Tree, keys: Keys, path: NamespacePath, body: Config | Group
) -> Iterator[Problem]:
    """Visibilities below `path` that a group above narrows."""
    below: tuple[tuple[str, Mapping[str, Group] | Mapping[str, Project]], ...] = (
        ("projects", body.projects),
        ("groups", body.groups),
    )
    for section, members in below:
        for segment, member in members.items():
            here = _join(path, segment)
            effective = tree.find(here).visibility
            word = member.visibility
            if word is not None and Visibility[word.upper()] > effective:
                message = f"{here} is {effective.name.lower()}, not {word}: a group above narrows it"
                yield _problem(loaded, (*keys, section, segment, "visibility"), message)
    for segment, group in body.groups.items():
        yield from _narrowed(loaded, tree, (*keys, "groups", segment), _join(path, segment), group)


def _covering(tree: Tree, claims: Sequence[Claim], now: datetime) -> Iterator[Problem]:
    """Patterns of a tenant that cover names of others: those cannot publish them any more, nor the root show them."""
    # The root's reserve hinders no tenant.
    reserves = [
        (owner, rule) for owner, rule in tree.all_reserves() if owner != ROOT and not rule.is_void(now)
    ]
    patterns = PatternSet.of(rule.pattern for _, rule in reserves)
    for claim in claims:
        for position in patterns.matches(claim.name):
            owner, rule = reserves[position]
            if tree.owner(claim.project) != owner and rule.origin is not None:
                message = f"{rule.value} covers {claim.name}, which {claim.project or 'the instance'} owns"
                yield Problem(rule.origin.file, rule.origin.line, rule.origin.path, message)


def _join(above: NamespacePath, segment: str) -> NamespacePath:
    return NamespacePath(f"{above}/{segment}" if above else segment)


def _problem(loaded: Loaded, keys: Keys, message: str) -> Problem:
    origin = loaded.origin(keys)
    return Problem(origin.file, origin.line, origin.path, message)
