"""Who owns a name, and why: the one decision that every route, command and upload asks (contract 4).

`decide` never waits and never asks anybody. It ends with a word, or with *whom to ask, in which order, under
which file rules*. What the upstreams said is folded in afterwards, again pure: `Decision.as_unknown`,
`Decision.as_unavailable`, or `screen` for a page.

Left to others: whether the index may be asked at all (`access`), which files pass (`screen`), who may
publish (`admit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from proxy.domain.decision import (
    Asked,
    Decision,
    FileRules,
    NameFacts,
    Owned,
    OwnedKind,
    PackageOrigin,
    Step,
    Warned,
    Word,
    published_in,
)
from proxy.domain.moments import new_year, told
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Kind, Namespace, NamespacePath, Tree, is_within
from proxy.domain.policy import (
    Origin,
    Policy,
    Rule,
    live,
)


@dataclass(frozen=True, slots=True)
class _Cause:
    """One reason for which a name is claimed: `at` is the namespace that owns it or reserves it."""

    at: NamespacePath
    rule: str
    reason: str
    origin: Origin | PackageOrigin | None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """A question with what belongs to it.

    Attributes:
        owned: what counts at this index of who owns the name.
        reserved: the rules by which its owners at this index reserve the name; none of them is void.
        is_mergeable: whether nobody reserves it whose patterns count here.
    """

    asked: Asked
    tree: Tree
    now: datetime
    owned: tuple[Owned, ...]
    reserved: tuple[Rule, ...]
    is_mergeable: bool

    @property
    def name(self) -> Name:
        return self.asked.name

    @property
    def policy(self) -> Policy:
        return self.asked.index.policy


def decide(asked: Asked, facts: NameFacts, tree: Tree, now: datetime) -> Decision:
    """Say who owns `asked.name` at `asked.index`, as seen by `asked.sight`, and why.

    Pure: equal arguments give an equal decision. Steps follow the contract, section 4; the first that settles
    the matter wins, and every step passed stands in `trail`.

    Args:
        asked: an index that may be asked; that has been checked.
        facts: everything the registry holds of this name, read anew after every wait.
        tree: the configuration in force.
        now: aware; rules whose time is over are void.

    Returns:
        A decision whose `ask` is empty unless the word is upstream or merged. Only then may an upstream be asked,
        in that order, and its files must pass `screen` with `rules`.

    Sources: contract 4.3-4.6. Raises nothing.
    """
    reserves = _in_force(tree, asked.name, now)
    case = _case(asked, facts, tree, now, reserves)
    decision = _decided(case)
    policy = asked.index.policy
    end = _earliest(decision.good_until, *(rule.until for _, rule in reserves))
    if end is not None or asked.as_of is not None:
        # Such moments are told with their year, where that is not the present one.
        end = _earliest(end, new_year(now.astimezone(UTC).year + 1))
    settled = (decision.refused, decision.not_forwarded, decision.good_until)
    if settled == (policy.refused, policy.not_forwarded, end):
        return decision
    return replace(decision, refused=policy.refused, not_forwarded=policy.not_forwarded, good_until=end)


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


def _case(
    asked: Asked,
    facts: NameFacts,
    tree: Tree,
    now: datetime,
    reserves: tuple[tuple[NamespacePath, Rule], ...],
) -> _Case:
    """What counts at the index of a question: of its tenant and of the instance; at the root of one owner."""
    owned, reserved = _owning(asked.index, facts, tree, reserves)
    # At the root a name has one owner, but an upstream that is asked there learns it of all who reserve it.
    barring = any(tree.counts_at_root(at) for at, _ in reserves) if asked.index.is_root else bool(reserved)
    return _Case(asked, tree, now, owned, reserved, not barring)


def _owning(
    index: Namespace, facts: NameFacts, tree: Tree, reserves: tuple[tuple[NamespacePath, Rule], ...]
) -> tuple[tuple[Owned, ...], tuple[Rule, ...]]:
    """Whose packages, and whose patterns, count at an index, of all that there are of a name."""
    if index.is_root:
        owner = _owner_at_root(facts, tree, reserves)
        owners: tuple[NamespacePath, ...] = () if owner is None else (owner,)
    else:
        tenant = tree.owner(index.path)
        owners = (tenant,) if tenant == ROOT else (tenant, ROOT)
    owned = tuple(one for one in facts.owned if tree.owner(one.project) in owners)
    return owned, tuple(rule for owner in owners for at, rule in reserves if at == owner)


def is_owned(index: Namespace, name: Name, facts: NameFacts, tree: Tree, now: datetime) -> bool:
    """Whether somebody owns a name at an index, so that an upstream has a say there only if it is merged.

    The arguments are those of `decide`.
    """
    owned, reserved = _owning(index, facts, tree, _in_force(tree, name, now))
    return bool(owned or reserved)


def _in_force(tree: Tree, name: Name, now: datetime) -> tuple[tuple[NamespacePath, Rule], ...]:
    return tuple((owner, rule) for owner, rule in tree.reserving(name) if not rule.is_void(now))


def _decided(case: _Case) -> Decision:
    projects = _private_projects(case)
    if projects:
        return _private(case, projects)
    asked, index = case.asked, case.asked.index
    trail = [
        Step("private", "pass", f"no readable project at or below {index.title} has files of {asked.name}")
    ]
    claimed = _claimed(case, trail)
    if claimed is not None:
        return claimed
    trail.append(Step("claimed", "pass", f"nobody owns or reserves {asked.name} for {index.title}"))
    return _forwarded(case, trail)


def owner_at_root(name: Name, facts: NameFacts, tree: Tree, now: datetime) -> NamespacePath | None:
    """To whom the name belongs at the root: the one owner of contract 4.4; '' is the instance, None nobody.

    The instance, where a project of its own has or had files; else the first tenant whose `reserve` matches,
    in file order; else the tenant that published first; else the root's `reserve`. Tenants whose names do not
    count at the root (`at_root: false`) are passed over.
    """
    return _owner_at_root(facts, tree, _in_force(tree, name, now))


def _owner_at_root(
    facts: NameFacts, tree: Tree, reserves: Iterable[tuple[NamespacePath, Rule]]
) -> NamespacePath | None:
    owners = [owner for one in facts.owned if tree.counts_at_root(owner := tree.owner(one.project))]
    if ROOT in owners:
        return ROOT
    reserving = [owner for owner, _ in reserves if tree.counts_at_root(owner)]
    for tenant in reserving:
        if tenant != ROOT:
            return tenant
    if owners:
        return owners[0]
    return ROOT if reserving else None


def shows(tree: Tree, project: NamespacePath) -> bool:
    """Whether a project's packages are shown at all (contract 3, `packages`)."""
    namespace = tree.get(project)
    return namespace is not None and namespace.packages


def _private_projects(case: _Case) -> tuple[NamespacePath, ...]:
    asked = case.asked
    return tuple(
        owned.project
        for owned in case.owned
        if owned.kind is OwnedKind.FILES
        and is_within(owned.project, asked.index.path)
        and owned.project in asked.sight.readable
        and shows(case.tree, owned.project)
        and (asked.as_of is None or owned.had_files_at(asked.as_of))
    )


def _private(case: _Case, projects: tuple[NamespacePath, ...]) -> Decision:
    name = case.name
    reason = published_in(name, projects)
    alone = Decision(
        Word.PRIVATE,
        reason,
        (Step("private", "stop", reason, PackageOrigin(name, projects[0])),),
        projects=projects,
        tenant=_known_owner(case, projects[0]),
    )
    merging, end = live(case.policy.merge.covering(name), case.now)
    if not merging:
        return alone
    alone = replace(alone, good_until=end)
    if not case.is_mergeable:
        because = f"{reason}; it is not merged, since it is reserved"
        return replace(alone, trail=(replace(alone.trail[0], because=because),))
    rule = merging[0]
    because = f"{reason}, and {rule.at} has it in merge ({rule.value})"
    trail = [Step("private", "pass", because, rule.origin)]
    forwarded = _forwarded(case, trail)
    joined = replace(alone, trail=forwarded.trail, good_until=_earliest(end, forwarded.good_until))
    if not forwarded.ask:
        return joined
    return replace(
        joined,
        word=Word.MERGED,
        rule=rule.text,
        until=rule.until,
        ask=forwarded.ask,
        known_only=forwarded.known_only,
        rules=forwarded.rules,
        warned=forwarded.warned,
        taken_by=tuple(owned.project for owned in case.owned if owned.kind is OwnedKind.FILES),
    )


def _known_owner(case: _Case, path: NamespacePath) -> NamespacePath | None:
    owner = case.tree.owner(path)
    return owner if owner in case.asked.sight.askable else None


def _claimed(case: _Case, trail: list[Step]) -> Decision | None:
    causes = [*_causes(case)]
    if not causes:
        return None
    sight = case.asked.sight
    challenge = sight.anonymous and any(cause.at not in sight.readable for cause in causes)
    for cause in causes:
        if cause.at in sight.askable:
            step = Step("claimed", "stop", cause.reason, cause.origin)
            return Decision(
                Word.CLAIMED,
                cause.reason,
                (*trail, step),
                rule=cause.rule,
                until=cause.until,
                tenant=_known_owner(case, cause.at),
                challenge=challenge,
            )
    # Whoever owns it is out of this caller's sight: not even its existence is told.
    reason = f"{case.name} is reserved on this server"
    return Decision(Word.CLAIMED, reason, (*trail, Step("claimed", "stop", reason)), challenge=challenge)


def _causes(case: _Case) -> Iterator[_Cause]:
    name, index, as_of = case.name, case.asked.index, case.asked.as_of
    for owned in case.owned:
        at, origin = owned.project, PackageOrigin(name, owned.project)
        if at == ROOT:
            yield _Cause(
                at,
                "tombstone /",
                f"{name} stays claimed by the instance after its namespace was dropped",
                origin,
            )
        elif owned.kind is OwnedKind.TOMBSTONE:
            reason = f"{name} was deleted from {at} and stays claimed; an owner may release it"
            yield _Cause(at, f"tombstone {at}", reason, origin)
        elif as_of is not None and is_within(at, index.path) and not owned.had_files_at(as_of):
            reason = f"{name} belongs to {at}, which published it after {told(as_of, case.now)}"
            yield _Cause(at, f"package {at}", reason, origin)
        else:
            yield _Cause(
                at, f"package {at}", f"{name} belongs to {at}, which this index does not show", origin
            )
    for rule in case.reserved:
        reason = f"{name} is reserved by {rule.at} ({rule.value}) and not published here"
        yield _Cause(
            NamespacePath(rule.namespace),
            rule.text,
            reason + _behind(rule, case.now),
            rule.origin,
            rule.until,
        )


def _forwarded(case: _Case, trail: list[Step]) -> Decision:
    name, index, policy = case.name, case.asked.index, case.policy
    if not policy.forward or not policy.upstreams:
        key = "forward" if not policy.forward else "upstreams"
        rule = policy.rule(key)
        what = "forwarding is off" if not policy.forward else "there is no upstream"
        reason = (
            f"{name} is not published here, and {what} for {index.title}{_whence(rule, key, index, policy)}"
        )
        step = Step("forward", "stop", reason, rule.origin)
        return Decision(Word.NOT_FORWARDED, reason, (*trail, step), rule=rule.text.strip())
    forward = policy.rule("forward")
    trail.append(Step("forward", "pass", f"forwards to {', '.join(policy.upstreams)}", forward.origin))
    denying, end = live(policy.deny.covering(name), case.now)
    warned: list[Warned] = []
    for rule in denying:
        if rule.specifier is not None:
            continue
        reason = f"{name} is denied by {rule.at} ({rule.value}){_behind(rule, case.now)}"
        if "deny" not in policy.warn:
            step = Step("allow", "stop", reason, rule.origin)
            return Decision(
                Word.DENIED, reason, (*trail, step), rule=rule.text, until=rule.until, good_until=end
            )
        warned.append(Warned(rule.text, reason))
        trail.append(Step("allow", "pass", f"{reason}; only warned of", rule.origin))
        break
    levels: list[tuple[Rule, ...]] = []
    for allowed in policy.allow:
        admitting = allowed.patterns.covering(name)
        if admitting:
            if all(rule.specifier is not None for rule in admitting):
                levels.append(admitting)
            continue
        reason = f"{name} is not in the allow list of {allowed.at}"
        if "allow" not in policy.warn:
            step = Step("allow", "stop", reason, allowed.origin)
            return Decision(Word.DENIED, reason, (*trail, step), rule="allow", good_until=end)
        warned.append(Warned("allow", reason))
        trail.append(Step("allow", "pass", f"{reason}; only warned of", allowed.origin))
    if not warned:
        trail.append(Step("allow", "pass", "allowed, and not denied"))
    specific = tuple(rule for rule in denying if rule.specifier is not None)
    rules, rules_end = _file_rules(case, specific, tuple(levels))
    return Decision(
        Word.UPSTREAM,
        f"{name} is asked of {', '.join(policy.upstreams)}",
        tuple(trail),
        ask=policy.upstreams,
        known_only=policy.ask == "known",
        rules=rules,
        warned=tuple(warned),
        good_until=_earliest(end, rules_end),
    )


def _file_rules(
    case: _Case, deny: tuple[Rule, ...], allow: tuple[tuple[Rule, ...], ...]
) -> tuple[FileRules, datetime | None]:
    """The rules about the files of a name, and when the clock alone changes which they are."""
    policy, now = case.policy, case.now
    exempt, end = live(policy.min_age_exempt.covering(case.name), now)
    spared = tuple(one for one in policy.vulnerable_exempt.of(case.name) if now < one.until)
    rules = FileRules(
        case.asked.index.path,
        deny=deny,
        allow=allow,
        exempt=exempt,
        vulnerable_exempt=spared,
        as_of=case.asked.as_of,
        **policy.of_files(),
    )
    return rules, _earliest(end, *(one.until for one in spared))


def _behind(rule: Rule, now: datetime) -> str:
    """What stands behind a sentence about a long entry: its end and its author's reason."""
    end = "" if rule.until is None else f" until {told(rule.until, now)}"
    return end + ("" if rule.reason is None else f": {rule.reason}")


def _whence(rule: Rule, key: str, index: Namespace, policy: Policy) -> str:
    """Where the value comes from: the index itself (or its project's group), above it, or a lock."""
    if policy.locked.get(key) == rule.namespace and rule.namespace != index.path:
        return f", locked by {rule.at}"
    if rule.namespace == index.path:
        return ""
    return f", by {rule.at}" if index.kind is Kind.PROJECT else f", inherited from {rule.at}"
