"""`claim`: which names are owned here, by whom and why; and giving tombstoned ones free."""

from __future__ import annotations

from functools import partial

import click

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.policy import Rule
from proxy.index.instance import Instance
from proxy.registry import claims as registry
from proxy.storage.audit import By


@click.group(cls=Branch)
def claims() -> None:
    """List claimed names; give tombstoned ones free."""


@claims.command("list", short_help="List claimed names and patterns.")
@click.argument("tenant", type=NAMESPACE, required=False)
@pass_invocation
def list_all(invocation: Invocation, tenant: NamespacePath | None) -> None:
    """List the names that are never asked upstream: published, deleted or reserved here.

    TENANT is a top-level group, or / for the instance itself; without one, all are listed. Shadows names the
    upstream that had a name when it was first published here, or says that none could be asked.

    \b
    pypi-overlay claim list
    pypi-overlay claim list acme
    """  # noqa: D301

    async def act(instance: Instance) -> list[Item]:
        tree = instance.snapshot.tree
        wanted = None if tenant is None else registry.find_tenant(tree, tenant)
        listed = await instance.registry.read(
            partial(registry.list_claims, tree=tree, tenant=wanted, now=instance.now())
        )
        return [*listed]

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
            "Shadows": lambda item: item.get("shadows"),
            "Until": lambda item: item.get("until"),
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
        owner = registry.find_tenant(tree, tenant)
        give_free = partial(
            registry.release, tree=tree, owner=owner, wanted=name, by=By(OPERATOR, instance.now())
        )
        released = await instance.registry.change(give_free)
        return released, tree.reserved(owner, released, instance.now())

    released, reserved = run(invocation, act)
    if invocation.json:
        output.print_json({"tenant": tenant or "/", "name": released})
    elif reserved is None:
        output.tell(f"{released} is no longer claimed by {tenant or 'the instance'}")
    else:
        output.tell(f"{released} has no tombstone any more, but stays reserved: {registry.place(reserved)}")
