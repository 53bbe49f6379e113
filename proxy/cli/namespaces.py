"""`namespace`: what groups and projects hold; and dropping one that left the file with its packages in it.

Both commands look at the data as it is, without the check that nothing vanished: they are what mends that.
"""

from __future__ import annotations

from functools import partial

import click

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.domain.access import OPERATOR
from proxy.domain.namespaces import NamespacePath
from proxy.index.instance import Instance
from proxy.registry import namespaces as registry
from proxy.registry.packages import Removed
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change


@click.group(cls=Branch)
def namespaces() -> None:
    """List groups and projects; drop what left the file."""


@namespaces.command("list", short_help="List groups and projects.")
@pass_invocation
def list_all(invocation: Invocation) -> None:
    """List groups and projects with what lies at and below them.

    One that the file has no longer, but the data still, is listed without a visibility.
    """
    items = run(
        invocation,
        lambda instance: instance.registry.read(
            partial(registry.list_namespaces, tree=instance.snapshot.tree)
        ),
        settled=False,
    )
    output.print_items(
        invocation,
        items,
        {
            "Path": "path",
            "Kind": "kind",
            "Id": "id",
            "Visibility": lambda item: item["visibility"] or "gone from the file",
            "Packages": "packages",
            "Claims": "claims",
            "Size": lambda item: output.size(item["bytes"]),
        },
        empty="there are no namespaces",
    )


@namespaces.command("drop", short_help="Delete what a vanished one holds.")
@click.argument("path", type=NAMESPACE)
@may_ask
@pass_invocation
def drop(invocation: Invocation, path: NamespacePath, yes: bool) -> None:
    """Delete all packages and tokens at and below PATH, a group or project that left the file.

    The names stay claimed, by the instance: `claim release / NAME` gives one free. To keep the packages,
    give the group that replaces it `aliases: [PATH]` in place of this.

    \b
    pypi-overlay namespace drop acme
    """  # noqa: D301
    output.confirm(f"Delete all packages and tokens at and below {path or '/'}?", yes=yes)

    async def act(instance: Instance) -> Removed:
        removed = await instance.registry.change(partial(_drop, instance=instance, path=path))
        await instance.publisher.sweep(removed.digests)
        return removed

    removed = run(invocation, act, settled=False)
    if invocation.json:
        output.print_json({"path": path, "files": list(removed.filenames)})
    else:
        files = output.count(len(removed.filenames), "file")
        output.tell(f"{path} is dropped: {files} deleted; its names stay claimed by the instance")


def _drop(change: Change, *, instance: Instance, path: NamespacePath) -> Removed:
    by = By(OPERATOR, instance.now())
    removed = registry.drop(change, instance.snapshot.tree, path, by.at)
    audit.record(
        change.connection, by, "namespace.drop", namespace=path, detail={"files": list(removed.filenames)}
    )
    return removed
