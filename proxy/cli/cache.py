"""`cache`: how much is kept of what upstreams answered, whether it is sound, forgetting it, and fetching it ahead."""

from __future__ import annotations

from pathlib import Path

import click

from proxy.cache.purge import Purged
from proxy.cache.verify import Verified
from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Branch, Invocation, may_ask, pass_invocation
from proxy.domain.access import OPERATOR
from proxy.domain.names import parse_name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.requirements import (
    LeftOut,
    Need,
    Needs,
    limited,
    parse_lock,
    parse_requirement,
    parse_requirements,
)
from proxy.errors import InvalidInput
from proxy.index import upkeep
from proxy.index.instance import Instance
from proxy.index.warm import Warmed, warm
from proxy.storage.audit import By

_LONGEST_FILE = 64 << 20
"""Bytes of a requirements or lock file."""
_MOST_FILES = 100
"""Requirements files that may name each other."""


@click.group(cls=Branch)
def cache() -> None:
    """Show, check, fill and empty the cache of pages and files."""


@cache.command("stats", short_help="Show how much is cached.")
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Show how much the cache holds."""
    found = run(invocation, upkeep.stats)
    if invocation.json:
        output.print_json(found)
        return
    output.print_fields(
        {
            "Files": found["files"],
            "Size": f"{output.size(found['bytes'])} of {output.size(found['max_bytes'])}",
            "Pages": found["pages"],
            "Names known to be absent": found["negative"],
            "Longest unused since": found["oldest_use"],
            "Found damaged, and left": found["damaged"],
        }
    )


@cache.command("verify", short_help="Compare every cached file with its digest.")
@click.option("--repair", is_flag=True, help="Delete what is damaged and put the accounts in order.")
@pass_invocation
def verify(invocation: Invocation, repair: bool) -> None:
    """Read every cached file and compare it with its sha256, and the accounts with what is there.

    Ends with status 1 if files are damaged and were not deleted. What is deleted is fetched again when it is
    asked for; but a held file that is damaged or gone is lost, and --repair forgets that it was held.
    """

    async def act(instance: Instance) -> Verified:
        with output.progress("Verifying") as show:
            progress = None if show is None else lambda done, total: show(done, total, "")
            return upkeep.verify(instance, repair=repair, progress=progress)

    found = run(invocation, act)
    if invocation.json:
        output.print_json(
            {
                "checked": found.checked,
                "bytes": found.bytes,
                "damaged": list(found.damaged),
                "unlisted": found.unlisted,
                "missing": found.missing,
                "repaired": found.repaired,
                "lost": list(found.lost),
            }
        )
    else:
        output.print_fields(
            {
                "Checked": f"{output.count(found.checked, 'file')}, {output.size(found.bytes)}",
                "Damaged": found.damaged,
                "Files not in the accounts": found.unlisted,
                "Accounts without a file": found.missing,
                "Held files lost": found.lost,
                "Repaired": found.repaired,
            }
        )
    if (found.damaged or found.lost) and not found.repaired:
        if not repair:
            output.tell("--repair deletes damaged files, and forgets held ones that are lost")
        output.stop(output.FAILED)


@cache.command("purge", short_help="Forget cached pages and files.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Forget all pages and files.")
@may_ask
@pass_invocation
def purge(invocation: Invocation, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Forget the pages of each NAME and the files they list; what is asked for again is fetched again.

    Private packages are never touched, nor files that are held or were released.

    \b
    pypi-overlay cache purge requests urllib3
    pypi-overlay cache purge --all
    """  # noqa: D301
    if bool(names) == everything:
        raise click.UsageError("expected names, or --all")
    what = "the whole cache" if everything else ", ".join(names)
    output.confirm(f"Purge {what}? Files come back only while their upstream has them.", yes=yes)

    async def act(instance: Instance) -> Purged:
        wanted = None if everything else [parse_name(name) for name in names]
        return upkeep.purge(instance, wanted, By(OPERATOR, instance.now()))

    purged = run(invocation, act)
    if invocation.json:
        output.print_json({"pages": purged.pages, "files": purged.files, "held": purged.held})
    else:
        output.tell(f"{output.count(purged.pages, 'page')} and {output.count(purged.files, 'file')} purged")
        if purged.held:
            output.tell(f"{output.count(purged.held, 'held file')} stayed: no upstream has them any more")


_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


@cache.command("warm", short_help="Fetch pages and files before anybody asks.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--index", type=NAMESPACE, default="/", metavar="I", help="By the rules of this index. [/]")
@click.option(
    "-r",
    "--requirement",
    "requirements",
    type=_FILE,
    multiple=True,
    help="A requirements.txt; may be repeated.",
)
@click.option(
    "--lock", type=_FILE, multiple=True, help="A uv.lock, poetry.lock or pylock.toml; may be repeated."
)
@pass_invocation
def warm_up(
    invocation: Invocation,
    names: tuple[str, ...],
    index: NamespacePath,
    requirements: tuple[Path, ...],
    lock: tuple[Path, ...],
) -> None:
    """Fetch into the cache what installing needs: pages, files, and their metadata.

    Of a lock file exactly the files that it names. Of a NAME or a requirement the page, and all files of the newest
    version that meets it: wheels for every machine, and the sdist. What that depends on is not looked for; a
    lock file has it all. Environment markers, and where a file says that things come from, count for nothing.

    What the index does not serve from an upstream (private, claimed, refused by policy) is skipped. Ends with
    status 1 if something could not be fetched.

    \b
    pypi-overlay cache warm requests 'django>=4.2,<6'
    pypi-overlay cache warm --index acme --lock uv.lock
    """  # noqa: D301
    wanted = _wanted(names, requirements, lock)

    async def act(instance: Instance) -> Warmed:
        async def current() -> Instance:
            return instance

        with output.progress("Warming") as show:
            if show is None:
                return await warm(current, index, wanted)
            return await warm(
                current,
                index,
                wanted,
                lambda warmed: show(
                    warmed.done, warmed.total, f"{output.size(warmed.bytes)} {warmed.latest}"
                ),
            )

    warmed = run(invocation, act)
    if invocation.json:
        output.print_json(warmed.shape)
    else:
        for name, reason in warmed.skipped:
            output.tell(f"skipped {output.shown(name)}: {output.shown(reason)}")
        for name, reason in warmed.errors:
            output.tell(f"error: {output.shown(name)}: {output.shown(reason)}")
        found = f"{output.count(warmed.names, 'name')}, {output.count(warmed.files, 'file')}"
        output.tell(f"{found}, {output.size(warmed.bytes)}; {warmed.fetched} fetched now")
    if warmed.errors:
        output.stop(output.FAILED)


def _wanted(names: tuple[str, ...], requirements: tuple[Path, ...], locks: tuple[Path, ...]) -> Needs:
    """All that the arguments ask for.

    Raises:
        UsageError: of click; they ask for nothing.
        InvalidInput: a file cannot be read, or is not in order.
    """
    if not (names or requirements or locks):
        raise click.UsageError("expected names, --requirement or --lock")
    needs = [parse_requirement(name) for name in names]
    left_out: list[LeftOut] = []
    for path in requirements:
        found = _requirements_in(path)
        needs += found.needs
        left_out += found.left_out
    for path in locks:
        try:
            found = parse_lock(_text_of(path))
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error.message}", hint=error.hint) from error
        needs += found.needs
        left_out += found.left_out
    return Needs(tuple(needs), tuple(left_out))


def _requirements_in(first: Path) -> Needs:
    """What a requirements file asks for, and those that it names with `-r`, within what they limit with `-c`."""
    needs: list[Need] = []
    limits: list[Need] = []
    left_out: list[LeftOut] = []
    seen: set[tuple[Path, bool]] = set()
    waiting = [(first, False)]
    while waiting:
        path, only_limits = waiting.pop()
        if (path.resolve(), only_limits) in seen:
            continue
        seen.add((path.resolve(), only_limits))
        if len(seen) > _MOST_FILES:
            raise InvalidInput(f"{first} leads to more than {_MOST_FILES} files")
        found = parse_requirements(_text_of(path), str(path))
        (limits if only_limits else needs).extend(found.needs.needs)
        left_out += [] if only_limits else found.needs.left_out
        for nested in found.nested:
            if "://" in nested.path:
                left_out.append(LeftOut(str(path), "names a file that lies at an address; it is not fetched"))
            else:
                waiting.append((path.parent / nested.path, only_limits or nested.only_limits))
    return Needs(limited(needs, limits), tuple(left_out))


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise InvalidInput(f"{path} is larger than {output.size(_LONGEST_FILE)}")
        return content.decode()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8") from error
