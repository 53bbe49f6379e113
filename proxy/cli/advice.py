"""What `config check` warns of: entries without effect, and rules that reach further than they look. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from proxy.config.load import Loaded
from proxy.config.models import Config, Group, Policy, Project
from proxy.domain.names import Name, PatternSet
from proxy.domain.namespaces import ROOT, NamespacePath, Tree, Visibility
from proxy.errors import Problem
from proxy.registry.listing import Claim

Keys = tuple[str | int, ...]

_LISTS = ("reserve", "allow", "deny", "lock")
_ADDING_UP = ("reserve", "deny")
"""Lists whose entries hold below as well, so that an equal entry below adds nothing."""


def advise(loaded: Loaded, tree: Tree, claims: Sequence[Claim]) -> Iterator[Problem]:
    """Warnings about a configuration that is in order.

    Args:
        loaded: the file that `tree` was compiled from.
        claims: what the data holds; empty where that is not known.
    """
    config = loaded.config
    yield from _doubled(loaded, (), config.policy)
    below_root = {"deny": config.policy.deny or ()}
    yield from _below(loaded, tree, (), ROOT, config.groups, below_root)
    yield from _narrowed(loaded, tree, (), ROOT, config)
    yield from _covering(tree, claims)


def covers(wide: str, narrow: str) -> bool:
    """Whether one normalised pattern surely matches all that another, or a name, matches."""
    if wide == narrow:
        return True
    prefix, star, rest = wide.partition("*")
    if star and not rest:
        return narrow.startswith(prefix)
    return "*" not in narrow and PatternSet.of((wide,)).match(Name(narrow)) is not None


def _below(
    loaded: Loaded,
    tree: Tree,
    keys: Keys,
    path: NamespacePath,
    groups: Mapping[str, Group],
    above: Mapping[str, tuple[str, ...]],
) -> Iterator[Problem]:
    """Entries of policies below `path`; `above`: list → its entries that hold there already."""
    for segment, group in groups.items():
        at = (*keys, "groups", segment)
        here = _join(path, segment)
        yield from _doubled(loaded, at, group.policy)
        for key in _ADDING_UP:
            for position, entry in enumerate(getattr(group.policy, key) or ()):
                wider = next((each for each in above.get(key, ()) if covers(each, entry)), None)
                if wider is not None:
                    message = f"{entry} has no effect: {wider} stands above already"
                    yield _problem(loaded, (*at, "policy", key, position), message)
        yield from _never_allowed(loaded, tree, at, path, group.policy)
        # A tenant's reserve holds in the whole tenant; the root's is another claim, of the instance.
        inherited = {key: (*above.get(key, ()), *(getattr(group.policy, key) or ())) for key in _ADDING_UP}
        yield from _below(loaded, tree, at, here, group.groups, inherited)


def _doubled(loaded: Loaded, keys: Keys, policy: Policy) -> Iterator[Problem]:
    for key in _LISTS:
        entries: tuple[str, ...] = getattr(policy, key) or ()
        for position, entry in enumerate(entries):
            if entry in entries[:position]:
                message = f"{entry} stands twice"
            else:
                others = (other for other in entries if other != entry and covers(other, entry))
                wider = next(others, None)
                if wider is None:
                    continue
                message = f"{entry} has no effect: {wider} covers it"
            yield _problem(loaded, (*keys, "policy", key, position), message)


def _never_allowed(
    loaded: Loaded, tree: Tree, keys: Keys, parent: NamespacePath, policy: Policy
) -> Iterator[Problem]:
    above = tree.find(parent).policy
    for position, entry in enumerate(policy.allow or ()):
        if "*" in entry:
            continue
        name = Name(entry)
        denied = above.deny.match(name)
        if denied is not None:
            message = f"{entry} has no effect: {denied.namespace or 'the root'} denies {denied.value}"
        elif narrow := next((each for each in above.allow if each.patterns.match(name) is None), None):
            message = f"{entry} has no effect: {narrow.namespace or 'the root'} does not allow it"
        else:
            continue
        yield _problem(loaded, (*keys, "policy", "allow", position), message)


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


def _covering(tree: Tree, claims: Sequence[Claim]) -> Iterator[Problem]:
    """Patterns of a tenant that cover names of others: those cannot publish them any more, nor the root show them."""
    for owner, rule in tree.all_reserves():
        if owner == ROOT or rule.origin is None:
            continue  # the root's reserve hinders no tenant
        pattern = PatternSet.of((rule.value,))
        for claim in claims:
            if tree.owner(claim.project) != owner and pattern.match(claim.name) is not None:
                origin = rule.origin
                message = f"{rule.value} covers {claim.name}, which {claim.project or 'the instance'} owns"
                yield Problem(origin.file, origin.line, origin.path, message)


def _join(above: NamespacePath, segment: str) -> NamespacePath:
    return NamespacePath(f"{above}/{segment}" if above else segment)


def _problem(loaded: Loaded, keys: Keys, message: str) -> Problem:
    origin = loaded.origin(keys)
    return Problem(origin.file, origin.line, origin.path, message)
