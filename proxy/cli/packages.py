"""`package`: list and show what is published here, delete it, yank releases, give packages a status."""

from __future__ import annotations

from functools import partial

import click

from proxy.cli import output
from proxy.cli.opening import find_project, run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR
from proxy.domain.names import parse_name
from proxy.domain.namespaces import ROOT, NamespacePath
from proxy.domain.pages import Status
from proxy.index.instance import Instance
from proxy.registry import marks
from proxy.registry.listing import list_packages, show_package
from proxy.registry.packages import Removed
from proxy.storage.audit import By


@click.group(cls=Branch)
def packages() -> None:
    """List, show, delete, yank and mark private packages."""


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
        tree = instance.snapshot.tree
        projects = [project.path for project in tree.projects(tree.find(namespace))]
        return [*await instance.registry.read(partial(list_packages, projects=projects))]

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
            by=By(OPERATOR, instance.now()),
        )

    removed = run(invocation, act)
    if invocation.json:
        output.print_json({"files": list(removed.filenames), "tombstone": removed.tombstone})
        return
    for deleted in removed.filenames:
        click.echo(f"deleted {deleted}")
    if removed.tombstone:
        output.tell(f"{name} has no files left and stays claimed")


@packages.command("yank", short_help="Yank a release, or undo it.")
@click.argument("project", type=NAMESPACE)
@click.argument("name")
@click.argument("version")
@click.option("--reason", metavar="R", help="Shown to whoever installs the release all the same.")
@click.option("--undo", is_flag=True, help="Take the mark away.")
@pass_invocation
def yank(
    invocation: Invocation, project: NamespacePath, name: str, version: str, reason: str | None, undo: bool
) -> None:
    """Yank the release VERSION of the package NAME in PROJECT.

    Resolvers leave a yanked release out unless it is asked for exactly, as lock files do; nothing is deleted.

    \b
    pypi-overlay package yank acme/widgets widgets 1.0 --reason "loses data"
    pypi-overlay package yank acme/widgets widgets 1.0 --undo
    """  # noqa: D301
    if undo and reason is not None:
        raise click.UsageError("--undo takes no --reason")

    async def act(instance: Instance) -> Item:
        found, wanted = find_project(instance.snapshot.tree, project).path, parse_name(name)
        by = By(OPERATOR, instance.now())
        yanked: str | bool = False
        if undo:
            take_away = partial(marks.unyank, project=found, name=wanted, version=version, by=by)
            await instance.registry.change(take_away)
        else:
            mark = partial(marks.yank, project=found, name=wanted, version=version, reason=reason, by=by)
            yanked = await instance.registry.change(mark)
        return {"project": found, "name": wanted, "version": version, "yanked": yanked}

    marked = run(invocation, act)
    if invocation.json:
        output.print_json(marked)
    else:
        output.tell(f"{marked['name']} {version} is {'no longer yanked' if undo else 'yanked'}")


@packages.command("status", short_help="Say how it stands with a package.")
@click.argument("project", type=NAMESPACE)
@click.argument("name")
@click.argument("status", type=click.Choice([str(status) for status in Status]))
@click.option("--reason", metavar="R", help="Shown to whoever asks for the package.")
@pass_invocation
def set_status(
    invocation: Invocation, project: NamespacePath, name: str, status: str, reason: str | None
) -> None:
    """Set the STATUS of the package NAME in PROJECT.

    archived packages take no more files; quarantined ones neither take nor serve any, and their name stays
    claimed; deprecated ones are marked as such.

    \b
    pypi-overlay package status acme/widgets widgets deprecated --reason "use gears"
    pypi-overlay package status acme/widgets widgets active
    """  # noqa: D301

    async def act(instance: Instance) -> Item:
        found, wanted = find_project(instance.snapshot.tree, project).path, parse_name(name)
        by = By(OPERATOR, instance.now())
        mark = partial(marks.set_status, project=found, name=wanted, status=status, reason=reason, by=by)
        said = await instance.registry.change(mark)
        return {"project": found, "name": wanted, "status": str(said.status), "reason": said.reason}

    marked = run(invocation, act)
    if invocation.json:
        output.print_json(marked)
    else:
        output.tell(f"{marked['name']} is {status}")
