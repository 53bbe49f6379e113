"""Whether somebody may publish or delete a name in a project: the ownership rules of contract 6, and `protect`.

Whether the caller may publish to, or delete from, the project at all is `access.may`; here it is about the *name*.
What upstreams have is a fact that is brought in: nobody is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from proxy.domain.access import Action, Caller, may, role_of
from proxy.domain.decide import is_owned
from proxy.domain.decision import NameFacts
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Namespace, Tree, lineage
from proxy.domain.policy import Protection
from proxy.domain.roles import Role
from proxy.errors import NotPermitted

UNCHECKED = "unchecked"
"""What is recorded in place of an upstream where none could be asked in time."""

NOBODY = "nobody"
"""The value of `shadow_upstream` by which no role is enough."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """What upstreams said of a name before its first publication.

    `upstream`: the first in the order of the policy that has it; `UNCHECKED` where they gave no answer; None: none
    has it.
    """

    upstream: str | None


@dataclass(frozen=True, slots=True)
class Admission:
    """That a name may be published, as far as is known.

    Attributes:
        must_ask: it is not settled before somebody found out whether an upstream has the name.
        is_first: nobody whose claims count for the project has owned it so far.
        shadows: what is to be recorded of `Shadow.upstream`.
    """

    must_ask: bool = False
    is_first: bool = False
    shadows: str | None = None


def admit(
    project: Namespace,
    name: Name,
    caller: Caller,
    facts: NameFacts,
    tree: Tree,
    now: datetime,
    shadow: Shadow | None = None,
) -> Admission:
    """Say whether `caller` may publish `name` in `project`; judged again inside the transaction that publishes.

    Upstreams do not matter for what the project's tenant or the instance claims by a package, a tombstone or a
    pattern, nor where no index that shows the project forwards anything.

    Args:
        facts: what the registry holds of the name, everywhere.
        now: aware; rules whose time is over are void.
        shadow: what the upstreams said; None: they were not asked so far.

    Raises:
        NotPermitted: another project of the tenant, another tenant's pattern, or the instance owns the name and the
            caller may not publish there; or the name is protected, or an upstream has it, and the caller lacks the
            role for that. The message names no project that the caller may not know of.
    """
    _check_owner(project, name, caller, facts, tree, now)
    check_protected(project, name, caller, Action.PUBLISH)
    is_first = not any(tree.owner(one.project) in (tree.owner(project.path), ROOT) for one in facts.owned)
    if not shadowed_upstreams(project, tree) or is_owned(project, name, facts, tree, now):
        return Admission(is_first=is_first)
    if shadow is None:
        return Admission(must_ask=True, is_first=is_first)
    if shadow.upstream is not None and shadow.upstream != UNCHECKED:
        _check_shadow(project, name, caller, shadow.upstream, tree)
    return Admission(is_first=is_first, shadows=shadow.upstream)


def shadowed_upstreams(project: Namespace, tree: Tree) -> tuple[str, ...]:
    """The upstreams whose packages a name of this project takes the place of, those of its own policy first.

    A claim holds in the whole tenant, so it shadows those of every index above the project, whatever its own policy
    forwards; those of the root, where the names of the tenant count there.
    """
    found: dict[str, None] = {}
    for path in lineage(project.path):
        namespace = tree.get(path)
        is_shown = path != ROOT or tree.counts_at_root(tree.owner(project.path))
        if namespace is not None and is_shown and namespace.policy.forward:
            found.update(dict.fromkeys(namespace.policy.upstreams))
    return tuple(found)


def _check_owner(
    project: Namespace, name: Name, caller: Caller, facts: NameFacts, tree: Tree, now: datetime
) -> None:
    owner = tree.owner(project.path)
    for owned in facts.owned:
        if owned.project == project.path:
            continue
        holder = tree.get(owned.project) or tree.root
        claimant = tree.owner(owned.project)
        if claimant not in (owner, ROOT) or may(caller, Action.PUBLISH, holder, tree):
            continue
        if claimant == owner and owner != ROOT:
            raise NotPermitted(f"{name} belongs to another project of {owner}")
        raise NotPermitted(f"{name} belongs to the instance")
    for tenant, rule in tree.reserving(name):
        if tenant not in (owner, ROOT) and not rule.is_void(now):
            raise NotPermitted(f"{name} is reserved by another group of this server")


def _check_shadow(project: Namespace, name: Name, caller: Caller, upstream: str, tree: Tree) -> None:
    rule = project.policy.rule("shadow_upstream")
    wanted = project.policy.shadow_upstream
    if wanted == NOBODY:
        raise NotPermitted(
            f"{name} exists on {upstream}, and {rule.at} lets nobody publish such a name",
            hint="take another name, or have this one reserved in the configuration",
        )
    role = role_of(caller, project)
    if role is None or role < Role[wanted.upper()]:
        whose = tree.owner(project.path) or "the instance"
        raise NotPermitted(f"{name} exists on {upstream}; {_a(wanted)} of {whose} must publish it first")


def check_protected(
    project: Namespace, name: Name, caller: Caller, action: Literal[Action.PUBLISH, Action.DELETE]
) -> None:
    """Return if no entry of `protect` keeps `caller`, who may otherwise, from `action` on `name` in `project`.

    Of all entries that match, the one with the highest role counts.

    Raises:
        NotPermitted: the caller's role is too low.
    """
    strictest: Protection | None = None
    wanted: Role | None = None
    for entry in project.policy.protect.covering(name):
        lowest = entry.publish if action is Action.PUBLISH else entry.delete
        if lowest is not None and (wanted is None or lowest > wanted):
            strictest, wanted = entry, lowest
    if strictest is None or wanted is None or (role_of(caller, project) or 0) >= wanted:
        return
    rule = strictest.rule
    raise NotPermitted(
        f"{name} is protected by {rule.at} ({rule.pattern}); only {_a(wanted.name.lower())} of {project.path} "
        f"may {action} it"
    )


def _a(role: str) -> str:
    return f"{'an' if role == 'owner' else 'a'} {role}"
