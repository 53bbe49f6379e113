"""`held`: files that their upstream removed or quarantined and that the cache has; and having them served again."""

from __future__ import annotations

from functools import partial

import click

from proxy.cache import held as cache
from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import Branch, Invocation, may_ask, pass_invocation
from proxy.cli.output import Item
from proxy.domain.access import OPERATOR
from proxy.domain.names import Name
from proxy.index.instance import Instance
from proxy.storage.audit import By


@click.group(cls=Branch)
def held() -> None:
    """List files that upstreams removed; release them."""


@held.command("list", short_help="List held files.")
@pass_invocation
def list_all(invocation: Invocation) -> None:
    """List the cached files that their upstream no longer lists, or whose project it has quarantined.

    Their bytes are kept. They answer 403 until they are released, but where the policy says `removed: keep`.
    """

    async def act(instance: Instance) -> list[Item]:
        return [*await instance.registry.read(cache.list_held)]

    output.print_items(
        invocation,
        run(invocation, act),
        {
            "Upstream": "upstream",
            "Name": "name",
            "Version": "version",
            "Filename": "filename",
            "Why": "why",
            "Since": "since",
            "SHA-256": "sha256",
        },
        empty="no files are held",
    )


@held.command("release", short_help="Have a held file served again.")
@click.argument("upstream")
@click.argument("name")
@click.argument("filename")
@may_ask
@pass_invocation
def release(invocation: Invocation, upstream: str, name: str, filename: str, yes: bool) -> None:
    """Have a held file served again, by every index whose policy has nothing else against it.

    See to it first why the upstream removed or quarantined it: malware is removed, too.

    \b
    pypi-overlay held release pypi requests requests-2.1.0-py3-none-any.whl
    """  # noqa: D301
    output.confirm(f"Serve {filename} again, though {upstream} does not?", yes=yes)

    async def act(instance: Instance) -> Name:
        by = By(OPERATOR, instance.now())
        free = partial(cache.release, upstream=upstream, wanted=name, filename=filename, by=by)
        return await instance.registry.change(free)

    released = run(invocation, act)
    if invocation.json:
        output.print_json({"upstream": upstream, "name": released, "filename": filename})
    else:
        output.tell(f"{filename} of {released} is served again")
