"""Made-up worlds: a configuration with groups, projects and policies, what the registry holds, who may ask.

Namespaces are called by letters with a number (`ga1`, `pb2`), which no sentence and no package name holds, so
that a search for a path finds nothing but the path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from proxy.domain.access import ANONYMOUS, Caller, Scope
from proxy.domain.decision import NameFacts
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import Kind, Tree, is_within
from tests.support.trees import OWNER, deploy, facts_of, job, tree_of, user

NAMES = tuple(
    parse_name(name)
    for name in ("widgets", "widgets-core", "widgets-core-api", "corp", "corp-tools", "numpy", "kivy2", "x-1")
)
"""Names that are cut differently at their dashes, so that filenames of one look like those of another."""

PATTERNS = ("widgets", "widgets-*", "corp*", "*-core", "x-1", "k*2", "numpy", "w*-c*", "nothing-*")

USERS = ("ua1", "ub2")

_ROLES = ("reporter", "developer", "maintainer", "owner")
_VISIBILITIES = ("private", "internal", "public")


@dataclass(frozen=True)
class World:
    """A configuration, what is claimed in it, and callers.

    Attributes:
        config: the configuration as a mapping; upstreams are the shipped ones.
        tree: what it compiles to.
        owned: name → projects that own it, oldest first; `-` before one that has a tombstone.
        callers: some who may ask.
        names: which names to ask for.
    """

    config: Mapping[str, Any]
    tree: Tree = field(repr=False)
    owned: Mapping[Name, tuple[str, ...]]
    callers: tuple[Caller, ...]
    names: tuple[Name, ...] = NAMES

    def facts(self, name: Name) -> NameFacts:
        """What the registry holds of a name."""
        return facts_of(*self.owned.get(name, ()))

    def is_claimed(self, index: str, name: Name, owned: Mapping[Name, tuple[str, ...]] | None = None) -> bool:
        """Whether a name is owned at an index; read straight from the configuration and the claims.

        A claim counts in its tenant and, unless that keeps off it, at the root; one of the instance counts everywhere
        (contract 1, 3).

        Args:
            index: the path of a namespace.
            name: what is asked for.
            owned: as the attribute, in its place.
        """
        claims = (self.owned if owned is None else owned).get(name, ())
        owners = {_owner(self.config, claim.removeprefix("-")) for claim in claims}
        return bool((owners | self._reserving(name)) & self._counting(index))

    def is_merged(self, index: str, name: Name, owned: Mapping[Name, tuple[str, ...]] | None = None) -> bool:
        """Whether upstreams may be asked at an index for a name that is claimed: it is published there, and merged.

        Somebody who cannot read those files is refused all the same. Args: as `is_claimed`.
        """
        claims = (self.owned if owned is None else owned).get(name, ())
        if not any(not claim.startswith("-") and is_within(claim, index) for claim in claims):
            return False
        patterns = _merges(self.config, index)
        return any(_covers(pattern.split("*"), name) for pattern in patterns) and not (
            self._reserving(name) & self._counting(index)
        )

    def _reserving(self, name: Name) -> set[str]:
        return {owner for owner, pattern in _reserves(self.config) if _covers(pattern.split("*"), name)}

    def _counting(self, index: str) -> set[str]:
        """Whose claims count at an index."""
        if index:
            return {"", _owner(self.config, index)}
        return {"", *(top for top, group in self.config["groups"].items() if group.get("at_root", True))}


def _owner(config: Mapping[str, Any], path: str) -> str:
    """The tenant that a path lies in, or the instance: the empty text."""
    top = path.partition("/")[0]
    return top if top in config["groups"] else ""


def _reserves(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Who reserves which pattern, wherever it stands."""

    def within(owner: str, group: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for pattern in group.get("policy", {}).get("reserve", ()):
            yield owner, pattern
        for below in group.get("groups", {}).values():
            yield from within(owner, below)

    for pattern in config.get("policy", {}).get("reserve", ()):
        yield "", pattern
    for top, group in config["groups"].items():
        yield from within(top, group)


def _merges(config: Mapping[str, Any], index: str) -> Iterator[str]:
    """The patterns of `merge` that hold at an index: those of its group and of all above."""
    group = config
    yield from group.get("policy", {}).get("merge", ())
    for segment in filter(None, index.split("/")):
        group = group.get("groups", {}).get(segment, {})
        yield from group.get("policy", {}).get("merge", ())


def _covers(parts: list[str], name: str) -> bool:
    """Whether a pattern, split at its stars, covers a name; by trying every place."""
    if len(parts) == 1:
        return name == parts[0]
    if not name.startswith(parts[0]):
        return False
    rest = name[len(parts[0]) :]
    return any(_covers(parts[1:], rest[skip:]) for skip in range(len(rest) + 1))


def _rarely(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """None three times in four, so that most names can be forwarded at most places."""
    return st.integers(0, 3).flatmap(lambda chance: st.none() if chance else strategy)


@st.composite
def _policies(draw: st.DrawFn, locked: frozenset[str]) -> dict[str, Any]:
    """A policy that respects what is locked above."""
    some_patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2, unique=True)
    policy: dict[str, Any] = {
        "forward": draw(_rarely(st.booleans())),
        "reserve": draw(st.none() | some_patterns),
        "allow": draw(_rarely(some_patterns)),
        "deny": draw(_rarely(some_patterns)),
        "merge": draw(_rarely(some_patterns)),
        "lock": draw(_rarely(st.sampled_from((["forward"], ["reserve", "deny"])))),
    }
    return {key: value for key, value in policy.items() if value is not None and key not in locked}


@st.composite
def _members(draw: st.DrawFn) -> dict[str, str]:
    return draw(st.dictionaries(st.sampled_from(USERS), st.sampled_from(_ROLES), max_size=1) | st.just({}))


class _Numbers:
    """Counts namespaces, for their names and GitLab's numbers."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


@st.composite
def _projects(draw: st.DrawFn, numbers: _Numbers, most: int) -> dict[str, Any]:
    projects = {}
    for _ in range(draw(st.integers(0, most))):
        number = numbers.next()
        project: dict[str, Any] = {"id": number, "members": draw(_members())}
        visibility = draw(st.none() | st.sampled_from(_VISIBILITIES))
        if visibility is not None:
            project["visibility"] = visibility
        projects[f"p{'abc'[number % 3]}{number}"] = project
    return projects


@st.composite
def _groups(draw: st.DrawFn, numbers: _Numbers, depth: int, locked: frozenset[str]) -> dict[str, Any]:
    groups = {}
    for _ in range(draw(st.integers(1 if not depth else 0, 3 - depth))):
        number = numbers.next()
        policy = draw(_policies(locked))
        apart = {} if depth or draw(st.integers(0, 3)) else {"at_root": False}
        groups[f"g{'abc'[number % 3]}{number}"] = {
            "id": number,
            **apart,
            "visibility": draw(st.sampled_from((*_VISIBILITIES, "public"))),
            "members": draw(_members()),
            "policy": policy,
            "projects": draw(_projects(numbers, 2)),
            "groups": (
                draw(_groups(numbers, depth + 1, locked | set(policy.get("lock", ())))) if depth < 2 else {}
            ),
        }
    return groups


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw a world."""
    numbers = _Numbers()
    policy = draw(_policies(frozenset()))
    config: dict[str, Any] = {
        "users": {name: {} for name in USERS},
        "visibility": draw(st.sampled_from(("public",) * 6 + ("internal", "private"))),
        "members": draw(_members()),
        "policy": policy,
        "projects": draw(_projects(numbers, 2)),
        "groups": draw(_groups(numbers, 0, frozenset(policy.get("lock", ())))),
    }
    tree = tree_of(config)
    return World(config, tree, draw(claims(tree)), draw(callers(tree)))


@st.composite
def claims(draw: st.DrawFn, tree: Tree) -> dict[Name, tuple[str, ...]]:
    """Draw who owns which names: files, tombstones, and what dropped namespaces left to the instance."""
    paths = [namespace.path for namespace in tree if namespace.kind is Kind.PROJECT]
    places = [*paths, *(f"-{path}" for path in paths), "-"]
    owners = st.lists(
        st.sampled_from(places), min_size=1, max_size=3, unique_by=lambda place: place.removeprefix("-")
    )
    return draw(st.dictionaries(st.sampled_from(NAMES), owners.map(tuple), max_size=4))


def callers(tree: Tree) -> st.SearchStrategy[tuple[Caller, ...]]:
    """Draw two callers behind an anonymous one and the owner of the instance, who sees everything."""
    paths = [namespace.path for namespace in tree if namespace.path]
    projects = [namespace.path for namespace in tree if namespace.kind is Kind.PROJECT]
    kinds: list[st.SearchStrategy[Caller]] = [
        st.builds(user, st.sampled_from((*USERS, "nobody")), st.sampled_from((Scope.API, Scope.READ_API))),
        st.sampled_from(paths).map(deploy),
        st.sampled_from(paths).map(lambda path: deploy(path, Scope.READ_PACKAGES)),
        st.sampled_from(paths).map(lambda path: deploy(path, Scope.WRITE_PACKAGES)),
    ]
    if projects:
        kinds.append(st.sampled_from(projects).map(job))
    return st.tuples(st.just(ANONYMOUS), st.just(OWNER), st.one_of(kinds), st.one_of(kinds))
