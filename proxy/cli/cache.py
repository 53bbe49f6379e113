"""`cache`: how much is kept of what upstreams answered, whether it is sound, and forgetting it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click

from proxy.cache.purge import Purged
from proxy.cache.purge import purge as purge_cache
from proxy.cache.verify import Progress, Verified, count_damaged
from proxy.cache.verify import verify as verify_cache
from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.moments import iso
from proxy.domain.names import parse_name
from proxy.index.instance import Instance


@click.group(cls=Branch)
def cache() -> None:
    """Show, check and empty the cache of upstream pages and files."""


@cache.command("stats", short_help="Show how much is cached.")
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Show how much the cache holds."""

    async def act(instance: Instance) -> Item:
        files = instance.files.stats()
        pages, negative = instance.pages.count()
        return {
            "files": files.files,
            "bytes": files.bytes,
            "max_bytes": instance.snapshot.cache.max_size,
            "pages": pages,
            "negative": negative,
            "oldest_use": iso(files.oldest_use),
            "damaged": count_damaged(instance.layout),
        }

    found = run(invocation, act)
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
    asked for.
    """

    async def act(instance: Instance) -> Verified:
        with _progress("Verifying") as progress:
            return verify_cache(instance.layout, instance.cache, repair=repair, progress=progress)

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
            }
        )
    else:
        output.print_fields(
            {
                "Checked": f"{output.count(found.checked, 'file')}, {output.size(found.bytes)}",
                "Damaged": found.damaged,
                "Files not in the accounts": found.unlisted,
                "Accounts without a file": found.missing,
                "Repaired": found.repaired,
            }
        )
    if found.damaged and not found.repaired:
        if not repair:
            output.tell("damaged files are deleted by --repair, and fetched again when they are asked for")
        output.stop(output.FAILED)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Progress | None]:
    """Show how far something is, where there is a terminal to show it on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@cache.command("purge", short_help="Forget cached pages and files.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Forget all pages and files.")
@may_ask
@pass_invocation
def purge(invocation: Invocation, names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Forget the pages of each NAME and the files they list; what is asked for again is fetched again.

    Private packages are never touched.

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
        return purge_cache(
            instance.pages, instance.upstream_documents, instance.files, instance.known_names, wanted
        )

    purged = run(invocation, act)
    if invocation.json:
        output.print_json({"pages": purged.pages, "files": purged.files})
    else:
        output.tell(f"{output.count(purged.pages, 'page')} and {output.count(purged.files, 'file')} purged")
