"""`claim`: which names are owned here, by whom and why; and giving tombstoned ones free."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import click
from sqlalchemy import Connection

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR
from proxy.domain.decide import NameFacts, OwnedKind, owner_at_root
from proxy.domain.names import Name, parse_name, parse_pattern
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.policy import Rule
from proxy.errors import NoSuchName, NoSuchNamespace, StillInUse
from proxy.index.instance import Instance
from proxy.registry import packages
from proxy.storage import audit
from proxy.storage.database import Change


@click.group(cls=Branch)
def claims() -> None:
    """List claimed names; give tombstoned ones free."""


@claims.command("list", short_help="List claimed names and patterns.")
@click.argument("tenant", type=NAMESPACE, required=False)
@pass_invocation
def list_all(invocation: Invocation, tenant: NamespacePath | None) -> None:
    """List the names that are never asked upstream: published, deleted or reserved here.

    TENANT is a top-level group, or / for the instance itself; without one, all are listed.

    \b
    pypi-overlay claim list
    pypi-overlay claim list acme
    """  # noqa: D301

    async def act(instance: Instance) -> list[Item]:
        tree = instance.snapshot.tree
        wanted = None if tenant is None else find_tenant(tree, tenant)
        return await instance.registry.read(partial(list_claims, tree=tree, tenant=wanted))

    output.print_items(
        invocation,
        run(invocation, act),
        {
            "Tenant": "tenant",
            "Name": lambda item: item.get("name") or item.get("pattern"),
            "Kind": "kind",
            "Project": "project",
            "Since": "since",
            "By": "by",
            "At root": "at_root",
            "Origin": _place,
        },
        empty="no names are claimed",
    )


def _place(item: Item) -> str | None:
    match item["origin"]:
        case {"file": file, "line": line}:
            return f"{file}:{line}"
        case _:
            return None


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


def list_claims(connection: Connection, tree: Tree, tenant: NamespacePath | None) -> list[Item]:
    """Every claim of one tenant, or of all, in the shape of contract 12: names first, then patterns."""
    facts = packages.all_facts(connection)
    named: list[tuple[NamespacePath, Item]] = []
    for claim in packages.claims(connection):
        owner = tree.owner(claim.project)
        item = {
            "tenant": owner or "/",
            "name": claim.name,
            "kind": "package" if claim.kind is OwnedKind.FILES else "tombstone",
            "project": claim.project or "/",
            "since": output.iso(claim.since),
            "by": claim.by,
            "at_root": owner_at_root(claim.name, facts[claim.name], tree) == owner,
            "origin": None,
        }
        named.append((owner, item))
    for owner, rule in tree.all_reserves():
        named.append((owner, _reserved(owner, rule, facts, tree)))
    return [item for owner, item in named if tenant is None or owner == tenant]


def _reserved(owner: NamespacePath, rule: Rule, facts: Mapping[Name, NameFacts], tree: Tree) -> Item:
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


@claims.command("release", short_help="Give a tombstoned name free.")
@click.argument("tenant", type=NAMESPACE)
@click.argument("name")
@may_ask
@pass_invocation
def release(invocation: Invocation, tenant: NamespacePath, name: str, yes: bool) -> None:
    """Give the tombstoned NAME of TENANT free: from then on a public package may take its place.

    A name with files is refused, and so is one that the configuration reserves: take it out of there.

    \b
    pypi-overlay claim release acme widgets
    pypi-overlay claim release / left-over --yes
    """  # noqa: D301
    output.confirm(f"Give {name} free, so that a public package may take its place?", yes=yes)

    async def act(instance: Instance) -> tuple[Name, Rule | None]:
        tree = instance.snapshot.tree
        owner = find_tenant(tree, tenant)
        if "*" in name:
            raise _refusal(owner, parse_pattern(name), tree)
        wanted = parse_name(name)
        await instance.registry.change(partial(_release, instance=instance, owner=owner, name=wanted))
        return wanted, tree.reserved(owner, wanted)

    released, reserved = run(invocation, act)
    if invocation.json:
        output.print_json({"tenant": tenant or "/", "name": released})
    elif reserved is None:
        output.tell(f"{released} is no longer claimed by {tenant or 'the instance'}")
    else:
        output.tell(f"{released} has no tombstone any more, but stays reserved: {_where(reserved)}")


def _release(change: Change, *, instance: Instance, owner: NamespacePath, name: Name) -> None:
    """Take away every tombstone of `name` that counts for `owner`."""
    tree = instance.snapshot.tree
    owned = [
        item for item in packages.facts(change.connection, name).owned if tree.owner(item.project) == owner
    ]
    if not owned:
        raise _refusal(owner, name, tree)
    for item in owned:
        packages.release_claim(change, item.project, name)
        audit.record(
            change.connection,
            at=instance.now(),
            action="claim.release",
            who=OPERATOR,
            namespace=item.project,
            name=name,
            detail={"since": output.iso(item.since)},
        )


def _refusal(owner: NamespacePath, wanted: str, tree: Tree) -> StillInUse | NoSuchName:
    """Why there is no tombstone to take away: a pattern of the file, or no claim at all."""
    for tenant, rule in tree.all_reserves():
        if tenant == owner and rule.value == wanted:
            return StillInUse(
                f"{wanted} is reserved in the configuration: {_where(rule)}", hint="take it out of that list"
            )
    covering = None if "*" in wanted else tree.reserved(owner, Name(wanted))
    if covering is not None:
        return StillInUse(
            f"{wanted} is reserved by {covering.value} in the configuration: {_where(covering)}",
            hint="narrow that pattern, or take it out",
        )
    return NoSuchName(f"{owner or 'the instance'} does not claim {wanted}")


def _where(rule: Rule) -> str:
    return f"{rule.origin}: {rule.origin.path}" if rule.origin is not None else rule.text
