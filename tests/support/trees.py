"""Trees, snapshots, callers and facts for tests of rules, by the real loader and compiler.

Configurations are written as YAML text, where a test asks for lines, or as mappings, where it makes them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import Any

import yaml

from proxy.config.compile import compile_snapshot
from proxy.config.load import load_bytes
from proxy.domain.access import Caller, CallerKind, Scope, sight
from proxy.domain.decide import decide
from proxy.domain.decision import Asked, Decision, NameFacts, Owned, OwnedKind
from proxy.domain.names import parse_name
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError

FILE = "pypi-overlay.yaml"
"""The name under which every configuration here is loaded."""

FIRST_CLAIM = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
"""The time at which names are decided here, unless a test says another."""

OWNER = Caller(CallerKind.OWNER, "first", token=1, scopes=frozenset({Scope.API}))
"""Whoever holds the owner token."""


def snapshot_of(config: str | Mapping[str, Any]) -> Snapshot:
    """Compile a configuration; text may be indented as a whole.

    Raises:
        ConfigError: it is not valid.
    """
    text = dedent(config) if isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False)
    return compile_snapshot(load_bytes(text.encode(), FILE, {}))


def tree_of(config: str | Mapping[str, Any]) -> Tree:
    """Return the tree of a configuration."""
    return snapshot_of(config).tree


def problems_of(config: str | Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong with a configuration, as people are shown it; nothing where it is valid."""
    try:
        snapshot_of(config)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def line_of(config: str, marker: str) -> int:
    """Return the number of the one line of a configuration that has `marker` in it."""
    (line,) = [number for number, text in enumerate(dedent(config).splitlines(), 1) if marker in text]
    return line


def facts_of(*owned: str) -> NameFacts:
    """Return what the registry holds of a name: projects with files, `-` before one that has a tombstone.

    Each claim is a day younger than the one before it; `-` alone is the instance's claim to the name of a
    namespace that was dropped.
    """
    return NameFacts(
        tuple(
            Owned(
                NamespacePath(project.removeprefix("-")),
                OwnedKind.TOMBSTONE if project.startswith("-") else OwnedKind.FILES,
                FIRST_CLAIM + timedelta(days=age),
            )
            for age, project in enumerate(owned)
        )
    )


def user(name: str, scope: Scope = Scope.API) -> Caller:
    """Return somebody with a personal token."""
    return Caller(CallerKind.USER, name, token=2, scopes=frozenset({scope}))


def deploy(home: str, *scopes: Scope) -> Caller:
    """Return a deploy token; unless scopes are given, it may read and write."""
    granted = frozenset(scopes or (Scope.READ_PACKAGES, Scope.WRITE_PACKAGES))
    return Caller(CallerKind.DEPLOY, "pyo+deploy-3", token=3, scopes=granted, homes=(NamespacePath(home),))


def job(project: str) -> Caller:
    """Return a job of a project."""
    scopes = frozenset({Scope.READ_PACKAGES, Scope.WRITE_PACKAGES})
    return Caller(CallerKind.JOB, "pyo+job-4", token=4, scopes=scopes, homes=(NamespacePath(project),))


def decided(
    tree: Tree, index: str, name: str, who: Caller = OWNER, facts: NameFacts | None = None
) -> Decision:
    """Decide a name at the index of a path, `/` for the root; the caller may ask that index."""
    namespace = tree.find(index.strip("/"))
    asked = Asked(namespace, parse_name(name), sight(who, tree))
    assert namespace.path in asked.sight.askable, f"{who.label} may not ask {index}"
    return decide(asked, facts or NameFacts(), tree, NOW)
