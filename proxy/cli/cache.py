"""`cache`: how much is kept of what upstreams answered, and forgetting it."""

from __future__ import annotations

import click

from proxy.cache.purge import Purged
from proxy.cache.purge import purge as purge_cache
from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.moments import iso
from proxy.domain.names import parse_name
from proxy.index.instance import Instance


@click.group(cls=Branch)
def cache() -> None:
    """Show and empty the cache of upstream pages and files."""


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
            "damaged": 0,
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
        }
    )


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
