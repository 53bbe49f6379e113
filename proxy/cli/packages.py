"""`package`: list, show and delete what is published here."""

from __future__ import annotations

from functools import partial

import click

from proxy.cli import output
from proxy.cli.opening import find_project, run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR
from proxy.domain.names import parse_name
from proxy.domain.namespaces import ROOT, NamespacePath, is_within
from proxy.index.instance import Instance
from proxy.registry.packages import Removed, list_packages, show_package


@click.group(cls=Branch)
def packages() -> None:
    """List, show and delete private packages."""


@packages.command("list", short_help="List published packages.")
@click.argument("namespace", type=NAMESPACE, default="/")
@pass_invocation
def list_all(invocation: Invocation, namespace: NamespacePath) -> None:
    """List the packages published at and below NAMESPACE; without one, all.

    \b
    pypi-overlay package list
    pypi-overlay package list acme/platform
    """  # noqa: D301

    async def act(instance: Instance) -> list[Item]:
        path = instance.snapshot.tree.find(namespace).path
        found = await instance.registry.read(list_packages)
        return [item for item in found if is_within(str(item["project"]), path)]

    output.print_items(
        invocation,
        run(invocation, act),
        {
            "Project": "project",
            "Name": "name",
            "Status": "status",
            "Latest": "latest",
            "Releases": "releases",
            "Files": "files",
            "Size": lambda item: output.size(item["bytes"]),
        },
        empty="there are no packages" + ("" if namespace == ROOT else f" in {namespace}"),
    )


@packages.command("show", short_help="Show releases and files.")
@click.argument("project", type=NAMESPACE)
@click.argument("name")
@pass_invocation
def show(invocation: Invocation, project: NamespacePath, name: str) -> None:
    """Show the releases and files of the package NAME in PROJECT, newest release first.

    \b
    pypi-overlay package show acme/widgets widgets
    """  # noqa: D301

    async def act(instance: Instance) -> Item:
        path = find_project(instance.snapshot.tree, project).path
        return await instance.registry.read(partial(show_package, project=path, name=parse_name(name)))

    package = run(invocation, act)
    if invocation.json:
        output.print_json(package)
        return
    output.print_fields({"Project": package["project"], "Name": package["name"], "Status": package["status"]})
    click.echo()
    output.print_table(
        _files(package),
        {
            "Version": "version",
            "Yanked": "yanked",
            "Filename": "filename",
            "Size": lambda item: output.size(item["size"]),
            "Uploaded": "uploaded_at",
            "By": "by",
            "SHA-256": "sha256",
        },
    )


def _files(package: Item) -> list[Item]:
    releases = package["releases"]
    assert isinstance(releases, list)  # noqa: S101 - the shape of contract 12
    return [
        {**file, "version": release["version"], "yanked": release["yanked"]}
        for release in releases
        for file in release["files"]
    ]


@packages.command("delete", short_help="Delete files; the name stays claimed.")
@click.argument("project", type=NAMESPACE)
@click.argument("name")
@click.argument("version", required=False)
@click.argument("filename", required=False)
@may_ask
@pass_invocation
def delete(
    invocation: Invocation,
    project: NamespacePath,
    name: str,
    version: str | None,
    filename: str | None,
    yes: bool,
) -> None:
    """Delete the package NAME in PROJECT, one VERSION of it, or one FILENAME of that version.

    The name stays claimed, so that no public package takes its place: `claim release` gives it free.

    \b
    pypi-overlay package delete acme/widgets widgets 1.0
    pypi-overlay package delete acme/widgets widgets --yes
    """  # noqa: D301
    what = filename or (f"{name} {version}" if version is not None else f"all of {name}")
    output.confirm(f"Delete {what} from {project}?", yes=yes)

    async def act(instance: Instance) -> Removed:
        return await instance.publisher.delete(
            find_project(instance.snapshot.tree, project),
            parse_name(name),
            version,
            filename,
            caller=OPERATOR,
        )

    removed = run(invocation, act)
    if invocation.json:
        output.print_json({"files": list(removed.filenames), "tombstone": removed.tombstone})
        return
    for deleted in removed.filenames:
        click.echo(f"deleted {deleted}")
    if removed.tombstone:
        output.tell(f"{name} has no files left and stays claimed")
