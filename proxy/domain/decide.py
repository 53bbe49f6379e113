"""Who owns a name, and why: the one decision that every route, command and upload asks (contract 4).

`decide` never waits and never asks anybody. It ends with a word, or with *whom to ask, in which order, under
which file rules*. What the upstreams said is folded in afterwards, again pure: `Decision.as_unknown`,
`Decision.as_unavailable`, or `screen` for a page.

Left to others: whether the index may be asked at all (`access`), which files pass (`screen`), who may
publish (`admit`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum

from proxy.domain.access import Sight
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Kind, Namespace, NamespacePath, Tree, is_within
from proxy.domain.policy import Origin, Policy, Rule


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

    `project` is the root's empty path where a dropped namespace left its claim to the instance.
    """

    project: NamespacePath
    kind: OwnedKind
    since: datetime


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
    """A question: this name, at this index, by somebody with this sight. That the index may be asked is checked."""

    index: Namespace
    name: Name
    sight: Sight


@dataclass(frozen=True, slots=True)
class FileRules:
    """What `screen` needs of the policy at the index."""

    index: NamespacePath

    @property
    def token(self) -> str:
        """Equal for rules that screen every page alike at every index: all fields but where they come from."""
        return repr([getattr(self, each.name) for each in fields(self) if each.name != "index"])


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to `Asked`.

    Attributes:
        projects: whose files are served, where the word is private or merged.
        ask: upstreams to ask, in order; empty unless the word is upstream or merged. Only they may be asked.
        rules: what the files of upstream pages must pass.
        rule: the deciding rule in printable ASCII, where there is one that the caller may know of.
        reason: a sentence for people.
        tenant: who owns the name, where the caller may know; '' is the instance.
        challenge: the owner cannot be read anonymously and the caller is anonymous: answer 401.
        upstream: the upstream that answered, or failed.
        trouble: why the word is unavailable.
        retry_after: seconds, at most 5, where the word is unavailable.
    """

    word: Word
    reason: str
    trail: tuple[Step, ...]
    projects: tuple[NamespacePath, ...] = ()
    ask: tuple[str, ...] = ()
    rules: FileRules | None = None
    rule: str | None = None
    tenant: NamespacePath | None = None
    challenge: bool = False
    upstream: str | None = None
    trouble: Trouble | None = None
    retry_after: int | None = None

    def as_found(self, name: Name, upstream: str, detail: str) -> Decision:
        """The same, with the upstream that knows the name; `detail` says how we know."""
        step = Step("upstream", "pass", f"{upstream} has it ({detail})")
        return replace(self, upstream=upstream, reason=f"{upstream} has {name}", trail=(*self.trail, step))

    def as_unknown(self, name: Name) -> Decision:
        """No upstream knows the name."""
        asked = ", ".join(self.ask)
        reason = f"{name} is neither published here nor known to {asked}"
        step = Step("upstream", "stop", f"no such project at {asked}")
        return replace(self, word=Word.UNKNOWN, reason=reason, ask=(), rules=None, trail=(*self.trail, step))

    def as_unavailable(
        self, name: Name, upstream: str, trouble: Trouble, because: str, retry_after: int | None = None
    ) -> Decision:
        """An upstream failed and nothing usable is kept: never 'not found', never an empty page."""
        step = Step("upstream", "stop", f"{upstream}: {because}")
        return replace(
            self,
            word=Word.UNAVAILABLE,
            reason=f"{upstream} gives no usable answer for {name} now: {because}",
            ask=(),
            rules=None,
            upstream=upstream,
            trouble=trouble,
            retry_after=min(5, max(1, retry_after or 2)),
            trail=(*self.trail, step),
        )


@dataclass(frozen=True, slots=True)
class _Cause:
    """One reason for which a name is claimed: `at` is the namespace that owns it or reserves it."""

    at: NamespacePath
    rule: str
    reason: str
    origin: Origin | PackageOrigin | None


def decide(asked: Asked, facts: NameFacts, tree: Tree) -> Decision:
    """Say who owns `asked.name` at `asked.index`, as seen by `asked.sight`, and why.

    Pure: equal arguments give an equal decision. Steps follow the contract, section 4; the first that settles
    the matter wins, and every step passed stands in `trail`.

    Args:
        asked: an index that may be asked; that has been checked.
        facts: everything the registry holds of this name, read anew after every wait.
        tree: the configuration in force.

    Returns:
        A decision whose `ask` is empty unless the word is upstream. Only then may an upstream be asked, in
        that order, and its files must pass `screen` with `rules`.

    Sources: contract 4.3-4.6. Raises nothing.
    """
    index, name = asked.index, asked.name
    owner = tree.owner(index.path)
    if index.is_root:
        root_owner = owner_at_root(name, facts, tree)
        relevant = tuple(
            o for o in facts.owned if root_owner is not None and tree.owner(o.project) == root_owner
        )
        claimants: tuple[NamespacePath, ...] = () if root_owner is None else (root_owner,)
    else:
        relevant = tuple(o for o in facts.owned if tree.owner(o.project) in (owner, ROOT))
        claimants = (owner,) if owner == ROOT else (owner, ROOT)

    private = _private(asked, relevant, tree)
    if private is not None:
        return replace(private, tenant=_known_owner(asked, tree, private.projects[0]))
    trail = [Step("private", "pass", f"no readable project at or below {index.title} has files of {name}")]

    claimed = _claimed(asked, relevant, claimants, tree, trail)
    if claimed is not None:
        return claimed
    trail.append(Step("claimed", "pass", f"nobody owns or reserves {name} for {index.title}"))
    return _forwarded(asked, index.policy, trail)


def owner_at_root(name: Name, facts: NameFacts, tree: Tree) -> NamespacePath | None:
    """To whom the name belongs at the root: the one owner of contract 4.4; '' is the instance, None nobody.

    The instance, where a project of its own has or had files; else the first tenant whose `reserve` matches,
    in file order; else the tenant that published first; else the root's `reserve`.
    """
    owners = [tree.owner(owned.project) for owned in facts.owned]
    if ROOT in owners:
        return ROOT
    for tenant, _ in tree.reserving_tenants(name):
        return tenant
    if owners:
        return owners[0]
    return ROOT if tree.reserved(ROOT, name) is not None else None


def shows(tree: Tree, project: NamespacePath) -> bool:
    """Whether a project's packages are shown at all (contract 3, `packages`)."""
    namespace = tree.get(project)
    return namespace is not None and namespace.packages


def _private(asked: Asked, relevant: tuple[Owned, ...], tree: Tree) -> Decision | None:
    projects = tuple(
        owned.project
        for owned in relevant
        if owned.kind is OwnedKind.FILES
        and is_within(owned.project, asked.index.path)
        and owned.project in asked.sight.readable
        and shows(tree, owned.project)
    )
    if not projects:
        return None
    reason = f"{', '.join(projects)} publishes {asked.name}"
    step = Step("private", "stop", reason, PackageOrigin(asked.name, projects[0]))
    return Decision(Word.PRIVATE, reason, (step,), projects=projects)


def _known_owner(asked: Asked, tree: Tree, path: NamespacePath) -> NamespacePath | None:
    owner = tree.owner(path)
    return owner if owner in asked.sight.askable else None


def _claimed(
    asked: Asked,
    relevant: tuple[Owned, ...],
    claimants: tuple[NamespacePath, ...],
    tree: Tree,
    trail: list[Step],
) -> Decision | None:
    causes = [*_causes(asked, relevant, claimants, tree)]
    if not causes:
        return None
    challenge = asked.sight.anonymous and any(cause.at not in asked.sight.readable for cause in causes)
    for cause in causes:
        if cause.at in asked.sight.askable:
            step = Step("claimed", "stop", cause.reason, cause.origin)
            return Decision(
                Word.CLAIMED,
                cause.reason,
                (*trail, step),
                rule=cause.rule,
                tenant=_known_owner(asked, tree, cause.at),
                challenge=challenge,
            )
    # Whoever owns it is out of this caller's sight: not even its existence is told.
    reason = f"{asked.name} is reserved on this server"
    return Decision(Word.CLAIMED, reason, (*trail, Step("claimed", "stop", reason)), challenge=challenge)


def _causes(
    asked: Asked, relevant: tuple[Owned, ...], claimants: tuple[NamespacePath, ...], tree: Tree
) -> Iterator[_Cause]:
    name = asked.name
    for owned in relevant:
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
        else:
            yield _Cause(
                at, f"package {at}", f"{name} belongs to {at}, which this index does not show", origin
            )
    for owner in claimants:
        rule = tree.reserved(owner, name)
        if rule is not None:
            at = NamespacePath(rule.namespace)
            where = at or "the instance"
            yield _Cause(
                at,
                rule.text,
                f"{name} is reserved by {where} ({rule.value}) and not published here",
                rule.origin,
            )


def _forwarded(asked: Asked, policy: Policy, trail: list[Step]) -> Decision:
    name, index = asked.name, asked.index
    if not policy.forward or not policy.upstreams:
        rule = policy.forward_rule if not policy.forward else policy.upstreams_rule
        key = "forward" if not policy.forward else "upstreams"
        what = "forwarding is off" if not policy.forward else "there is no upstream"
        reason = (
            f"{name} is not published here, and {what} for {index.title}{_whence(rule, key, index, policy)}"
        )
        step = Step("forward", "stop", reason, rule.origin)
        return Decision(Word.NOT_FORWARDED, reason, (*trail, step), rule=rule.text.strip())
    trail.append(
        Step("forward", "pass", f"forwards to {', '.join(policy.upstreams)}", policy.forward_rule.origin)
    )
    denied = policy.deny.match(name)
    if denied is not None:
        reason = f"{name} is denied by {denied.namespace or 'the instance'} ({denied.value})"
        step = Step("allow", "stop", reason, denied.origin)
        return Decision(Word.DENIED, reason, (*trail, step), rule=denied.text)
    for allowed in policy.allow:
        if allowed.patterns.match(name) is None:
            reason = f"{name} is not in the allow list of {allowed.namespace or 'the instance'}"
            step = Step("allow", "stop", reason, allowed.origin)
            return Decision(Word.DENIED, reason, (*trail, step), rule="allow")
    trail.append(Step("allow", "pass", "allowed, and not denied"))
    return Decision(
        Word.UPSTREAM,
        f"{name} is asked of {', '.join(policy.upstreams)}",
        tuple(trail),
        ask=policy.upstreams,
        rules=FileRules(index.path),
    )


def _whence(rule: Rule, key: str, index: Namespace, policy: Policy) -> str:
    """Where the value comes from: the index itself (or its project's group), above it, or a lock."""
    at = rule.namespace or "the instance"
    if policy.locked.get(key) == rule.namespace and rule.namespace != index.path:
        return f", locked by {at}"
    if rule.namespace == index.path:
        return ""
    return f", by {at}" if index.kind is Kind.PROJECT else f", inherited from {at}"
