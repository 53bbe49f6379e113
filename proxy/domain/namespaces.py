"""Groups and projects: the tree, who owns what lies in it, and who reserves a name.

Pure data, made by `config.compile`. The root is a group with the empty path. A *tenant* is a top-level group
with all below it; projects directly below the root belong to the *instance*, written as the empty path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import NewType

from proxy.domain.names import Name
from proxy.domain.policy import Policy, Rule, RuleSet
from proxy.domain.roles import Role
from proxy.domain.trust import TrustRule
from proxy.errors import NoSuchNamespace

NamespacePath = NewType("NamespacePath", str)
"""`acme/platform/widgets`; the empty string is the root, and as an owner the instance."""

ROOT = NamespacePath("")

RESERVED_SEGMENTS = frozenset(
    {"api", "simple", "files", "legacy", "pypi", "json", "ui", "static", "metrics", "healthz", "readyz"}
    | {"integrity", "_", "-", "favicon.ico", "robots.txt"}
)
"""Words that no segment of a path may be: they begin what follows a namespace in an address (contract 2)."""

SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", re.ASCII)


class Kind(StrEnum):
    """What a namespace is."""

    GROUP = "group"
    PROJECT = "project"


class Visibility(IntEnum):
    """Who may read without a role; the narrowest at and above counts."""

    PRIVATE = 0
    INTERNAL = 1
    PUBLIC = 2


class Jobs(StrEnum):
    """Whose job tokens may read a project: those of its tenant, or only its own."""

    TENANT = "tenant"
    SELF = "self"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A group or project with everything that holds there.

    Attributes:
        number: GitLab's id, where the configuration gives one.
        policy: effective; a project has that of its group.
        visibility: effective.
        roles: user → role here, given here or above.
        aliases: former paths.
        packages: effective; False: no package address at or below it answers.
        jobs: effective; counts for projects.
        trust: of a project: whose identities may publish there.
        at_root: of a tenant: whether the root shows and counts its names; elsewhere without meaning.
    """

    path: NamespacePath
    kind: Kind
    policy: Policy
    visibility: Visibility
    number: int | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    aliases: tuple[NamespacePath, ...] = ()
    packages: bool = True
    jobs: Jobs = Jobs.TENANT
    trust: tuple[TrustRule, ...] = ()
    at_root: bool = True

    @property
    def is_root(self) -> bool:
        return self.path == ROOT

    @property
    def title(self) -> str:
        """The path as people are shown it: `/` for the root."""
        return self.path or "/"


def tenant_of(path: NamespacePath) -> NamespacePath:
    """The first segment of `path`. For a project directly below the root, `Tree.owner` says the instance."""
    return NamespacePath(path.partition("/")[0])


def is_within(path: str, above: str) -> bool:
    """Whether `path` is `above` or lies below it; everything lies below the root."""
    return not above or path == above or path.startswith(above + "/")


def lineage(path: NamespacePath) -> Iterator[NamespacePath]:
    """`path`, then what lies above it, nearest first, the root last."""
    yield path
    while path:
        path = NamespacePath(path.rpartition("/")[0])
        yield path


class Tree:
    """All namespaces of one configuration. Immutable after construction.

    Args:
        namespaces: in the order of the file, parents before children, the root first.
        reserves: owner (a tenant's path; '' for the root's own) → its reserved patterns, in file order.
    """

    def __init__(
        self, namespaces: Iterable[Namespace], reserves: Mapping[NamespacePath, tuple[Rule, ...]]
    ) -> None:
        self._by_path = {namespace.path: namespace for namespace in namespaces}
        self._by_number = {
            (namespace.kind, namespace.number): namespace
            for namespace in self._by_path.values()
            if namespace.number is not None
        }
        self._aliases = {alias: item.path for item in self._by_path.values() for alias in item.aliases}
        below: dict[NamespacePath, list[Namespace]] = {path: [] for path in self._by_path}
        for namespace in self._by_path.values():
            if namespace.kind is Kind.PROJECT:
                for above in lineage(namespace.path):
                    below[above].append(namespace)
        self._projects = {path: tuple(projects) for path, projects in below.items()}
        self._reserves = RuleSet.of(rule for rules in reserves.values() for rule in rules)
        self._reservers = tuple(owner for owner, rules in reserves.items() for _ in rules)

    def __iter__(self) -> Iterator[Namespace]:
        return iter(self._by_path.values())

    @property
    def root(self) -> Namespace:
        """The instance's own group."""
        return self._by_path[ROOT]

    def get(self, path: str) -> Namespace | None:
        """The namespace at exactly this path, or at the path that a former one leads to; None if there is none."""
        found = self._by_path.get(NamespacePath(path))
        if found is None and self._aliases:
            found = self._by_path.get(self.current_path(NamespacePath(path)))
        return found

    def current_path(self, path: NamespacePath) -> NamespacePath:
        """Where a former path leads today: the nearest alias at or above it is replaced; else `path` itself."""
        for above in lineage(path):
            if above and above in self._aliases:
                return NamespacePath(self._aliases[above] + path[len(above) :])
        return path

    def find(self, path: str) -> Namespace:
        """As `get`.

        Raises:
            NoSuchNamespace: there is none.
        """
        found = self.get(path)
        if found is None:
            raise NoSuchNamespace(f"there is no group or project {path[:200]!a}")
        return found

    def by_number(self, kind: Kind, number: int) -> Namespace | None:
        """The namespace to which the configuration gave this number."""
        return self._by_number.get((kind, number))

    def nearest(self, path: str) -> Namespace:
        """The nearest existing namespace at or above `path`: an unknown path answers as it does (4.1)."""
        for above in lineage(NamespacePath(path)):
            found = self.get(above)
            if found is not None:
                return found
        return self.root

    def owner(self, path: NamespacePath) -> NamespacePath:
        """Who owns what lies at `path`: a tenant's path, or '' for the instance.

        Paths that no longer exist (of a dropped namespace) belong to the instance.
        """
        top = self._by_path.get(tenant_of(path))
        return top.path if top is not None and top.kind is Kind.GROUP else ROOT

    def projects(self, namespace: Namespace) -> tuple[Namespace, ...]:
        """The projects at and below it, in file order."""
        return self._projects[namespace.path]

    def paths_within(self, namespace: Namespace) -> tuple[NamespacePath, ...]:
        """Its path, and the former paths of it and of all below: whatever lies at or below one of them is its own."""
        below = (each for each in self if is_within(each.path, namespace.path))
        return (namespace.path, *(alias for each in below for alias in each.aliases))

    def reserving(self, name: Name) -> Iterator[tuple[NamespacePath, Rule]]:
        """Who reserves `name`, by which rules, void ones too: owner by owner in file order, the root's first."""
        for position in self._reserves.positions(name):
            yield self._reservers[position], self._reserves[position]

    def reserved(self, owner: NamespacePath, name: Name, now: datetime) -> Rule | None:
        """The first rule in force by which this owner reserves `name`."""
        return next((r for at, r in self.reserving(name) if at == owner and not r.is_void(now)), None)

    def all_reserves(self) -> Iterator[tuple[NamespacePath, Rule]]:
        """Every reserve rule with its owner."""
        return zip(self._reservers, self._reserves, strict=True)

    def counts_at_root(self, owner: NamespacePath) -> bool:
        """Whether the names of an owner count at the root (contract 3, `at_root`)."""
        tenant = self._by_path.get(owner)
        return tenant is None or tenant.at_root
