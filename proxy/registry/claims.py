"""Claims as people deal with them: all of them listed, and tombstoned names given free (contract 4.4, 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from proxy.domain.decide import owner_at_root
from proxy.domain.decision import NameFacts, OwnedKind
from proxy.domain.moments import iso
from proxy.domain.names import Name, parse_name, parse_pattern
from proxy.domain.namespaces import ROOT, NamespacePath, Tree
from proxy.domain.policy import Rule
from proxy.errors import NoSuchName, NoSuchNamespace, StillInUse
from proxy.registry import listing, packages
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change


class Kind(StrEnum):
    """How a name is claimed."""

    PACKAGE = "package"
    TOMBSTONE = "tombstone"
    RESERVE = "reserve"


def kind_of(claim: listing.Claim) -> Kind:
    """How a project claims a name."""
    return Kind.PACKAGE if claim.kind is OwnedKind.FILES else Kind.TOMBSTONE


def find_tenant(tree: Tree, path: NamespacePath) -> NamespacePath:
    """The tenant at this path; the root stands for the instance.

    Raises:
        NoSuchNamespace: there is nothing, or something that is no tenant.
    """
    namespace = tree.find(path)
    owner = tree.owner(namespace.path)
    if owner != namespace.path:
        raise NoSuchNamespace(f"{namespace.title} is not a tenant", hint=f"it belongs to {owner or '/'}")
    return owner


def list_claims(
    connection: Connection, tree: Tree, tenant: NamespacePath | None, now: datetime
) -> list[dict[str, object]]:
    """Every claim of one tenant, or of all, in the shape of contract 12: names first, then patterns in force.

    Two keys stand only where they say something: `shadows` of a name (an upstream had it when it was first
    published, or `unchecked`), and `until` of a pattern.
    """
    facts = packages.all_facts(connection)
    named: list[tuple[NamespacePath, dict[str, object]]] = []
    for claim in listing.claims(connection):
        owner = tree.owner(claim.project)
        item: dict[str, object] = {
            "tenant": owner or "/",
            "name": claim.name,
            "kind": kind_of(claim),
            "project": claim.project or "/",
            "since": iso(claim.since),
            "by": claim.by,
            "at_root": owner_at_root(claim.name, facts[claim.name], tree, now) == owner,
            "origin": None,
        }
        if claim.shadows is not None:
            item["shadows"] = claim.shadows
        named.append((owner, item))
    reserves = [(owner, rule) for owner, rule in tree.all_reserves() if not rule.is_void(now)]
    first = _first_reserving(reserves, tree)
    named.extend((owner, _reserved(owner, rule, facts, first, tree, now)) for owner, rule in reserves)
    return [item for owner, item in named if tenant is None or owner == tenant]


def _reserved(
    owner: NamespacePath,
    rule: Rule,
    facts: Mapping[Name, NameFacts],
    first: Mapping[str, NamespacePath],
    tree: Tree,
    now: datetime,
) -> dict[str, object]:
    origin = rule.origin
    if "*" in rule.pattern:
        # It counts for every name that nobody owned before, unless another's like it goes before.
        counts = first.get(rule.pattern) == owner
    else:
        name = Name(rule.pattern)
        counts = owner_at_root(name, facts.get(name, NameFacts()), tree, now) == owner
    item: dict[str, object] = {
        "tenant": owner or "/",
        "pattern": rule.pattern,
        "kind": Kind.RESERVE,
        "project": None,
        "since": None,
        "by": None,
        "at_root": counts,
        "origin": None if origin is None else origin.shape,
    }
    if rule.until is not None:
        item["until"] = iso(rule.until)
    return item


def _first_reserving(reserves: Iterable[tuple[NamespacePath, Rule]], tree: Tree) -> dict[str, NamespacePath]:
    """Pattern → to whom it belongs at the root: tenants in file order go before the instance (contract 4.4)."""
    first: dict[str, NamespacePath] = {}
    for owner, rule in reserves:
        if tree.counts_at_root(owner) and first.get(rule.pattern, ROOT) == ROOT:
            first[rule.pattern] = owner
    return first


def release(change: Change, *, tree: Tree, owner: NamespacePath, wanted: str, by: By) -> Name:
    """Take away every tombstone of a name that counts for `owner`: a public package may take its place then.

    Args:
        wanted: a name in any spelling, or a pattern, which is always refused.

    Returns:
        The name, which may still be reserved by a pattern.

    Raises:
        InvalidName: `wanted` is neither.
        StillInUse: it has files, or the configuration reserves it; the message says where.
        NoSuchName: nobody of this tenant claims it.
    """
    if "*" in wanted:
        raise _refusal(owner, parse_pattern(wanted), tree, by.at)
    name = parse_name(wanted)
    owned = [
        item for item in packages.facts(change.connection, name).owned if tree.owner(item.project) == owner
    ]
    if not owned:
        raise _refusal(owner, name, tree, by.at)
    for item in owned:
        packages.release_claim(change, item.project, name)
        audit.record(
            change.connection,
            by,
            "claim.release",
            namespace=item.project,
            name=name,
            detail={"since": iso(item.since)},
        )
    return name


def _refusal(owner: NamespacePath, wanted: str, tree: Tree, now: datetime) -> StillInUse | NoSuchName:
    """Why there is no tombstone to take away: a pattern of the file, or no claim at all."""
    for tenant, rule in tree.all_reserves():
        if tenant == owner and rule.value == wanted:
            return StillInUse(
                f"{wanted} is reserved in the configuration: {place(rule)}", hint="take it out of that list"
            )
    covering = None if "*" in wanted else tree.reserved(owner, Name(wanted), now)
    if covering is not None:
        return StillInUse(
            f"{wanted} is reserved by {covering.value} in the configuration: {place(covering)}",
            hint="narrow that pattern, or take it out",
        )
    return NoSuchName(f"{owner or 'the instance'} does not claim {wanted}")


def place(rule: Rule) -> str:
    """Where a rule stands, for messages to the operator."""
    return f"{rule.origin}: {rule.origin.path}" if rule.origin is not None else rule.text
