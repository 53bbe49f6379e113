"""Claims as people deal with them: all of them listed, and tombstoned names given free (contract 4.4, 6)."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from proxy.domain.decide import NameFacts, OwnedKind, owner_at_root
from proxy.domain.moments import iso
from proxy.domain.names import Name, parse_name, parse_pattern
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.policy import Rule
from proxy.errors import NoSuchName, NoSuchNamespace, StillInUse
from proxy.registry import listing, packages
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change


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


def list_claims(connection: Connection, tree: Tree, tenant: NamespacePath | None) -> list[dict[str, object]]:
    """Every claim of one tenant, or of all, in the shape of contract 12: names first, then patterns."""
    facts = packages.all_facts(connection)
    named: list[tuple[NamespacePath, dict[str, object]]] = []
    for claim in listing.claims(connection):
        owner = tree.owner(claim.project)
        item: dict[str, object] = {
            "tenant": owner or "/",
            "name": claim.name,
            "kind": "package" if claim.kind is OwnedKind.FILES else "tombstone",
            "project": claim.project or "/",
            "since": iso(claim.since),
            "by": claim.by,
            "at_root": owner_at_root(claim.name, facts[claim.name], tree) == owner,
            "origin": None,
        }
        named.append((owner, item))
    for owner, rule in tree.all_reserves():
        named.append((owner, _reserved(owner, rule, facts, tree)))
    return [item for owner, item in named if tenant is None or owner == tenant]


def _reserved(
    owner: NamespacePath, rule: Rule, facts: Mapping[Name, NameFacts], tree: Tree
) -> dict[str, object]:
    origin = rule.origin
    counts = True  # a pattern counts for every name of it that nobody owned before
    if "*" not in rule.value:
        name = Name(rule.value)
        counts = owner_at_root(name, facts.get(name, NameFacts()), tree) == owner
    return {
        "tenant": owner or "/",
        "pattern": rule.value,
        "kind": "reserve",
        "project": None,
        "since": None,
        "by": None,
        "at_root": counts,
        "origin": None if origin is None else {"file": origin.file, "line": origin.line, "path": origin.path},
    }


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
        raise _refusal(owner, parse_pattern(wanted), tree)
    name = parse_name(wanted)
    owned = [
        item for item in packages.facts(change.connection, name).owned if tree.owner(item.project) == owner
    ]
    if not owned:
        raise _refusal(owner, name, tree)
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


def _refusal(owner: NamespacePath, wanted: str, tree: Tree) -> StillInUse | NoSuchName:
    """Why there is no tombstone to take away: a pattern of the file, or no claim at all."""
    for tenant, rule in tree.all_reserves():
        if tenant == owner and rule.value == wanted:
            return StillInUse(
                f"{wanted} is reserved in the configuration: {place(rule)}", hint="take it out of that list"
            )
    covering = None if "*" in wanted else tree.reserved(owner, Name(wanted))
    if covering is not None:
        return StillInUse(
            f"{wanted} is reserved by {covering.value} in the configuration: {place(covering)}",
            hint="narrow that pattern, or take it out",
        )
    return NoSuchName(f"{owner or 'the instance'} does not claim {wanted}")


def place(rule: Rule) -> str:
    """Where a rule stands, for messages to the operator."""
    return f"{rule.origin}: {rule.origin.path}" if rule.origin is not None else rule.text
