"""`audit confusion`: which names of upstreams meet a claim, or look like a claimed name."""

from __future__ import annotations

import click

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import Invocation, Leaf, pass_invocation
from proxy.cli.output import Item
from proxy.index.instance import Instance
from proxy.index.radar import MOST_OF_ONE, Checked, Excess, Match, list_confusions


@click.command("confusion", cls=Leaf, short_help="List claimed names that an upstream also has.")
@pass_invocation
def confusion(invocation: Invocation) -> None:
    """List the names of upstreams that are claimed here, or that look like a claimed name.

    Lists of names that are missing or due are fetched first, whole: no upstream is asked for a single claimed
    name. FIRST SEEN is when a server or this command first found it. Ends with status 1 if the names of an
    upstream are not known.

    \b
    pypi-overlay audit confusion
    pypi-overlay audit confusion --json
    """  # noqa: D301

    async def act(instance: Instance) -> tuple[Checked, list[Item]]:
        with output.progress("Looking") as show:
            checked = await instance.radar.check(show)
        return checked, [*await instance.registry.read(list_confusions)]

    checked, found = run(invocation, act)
    output.print_items(
        invocation,
        found,
        {
            "Tenant": "tenant",
            "Claim": "claim",
            "Kind": "kind",
            "Upstream": "upstream",
            "Name": "name",
            "Match": "match",
            "First seen": "first_seen",
        },
        empty="no upstream has a claimed name" if not checked.failed else "nothing was found",
    )
    for excess in checked.excess:
        output.tell(_told(excess))
    if not invocation.json:
        _advise({str(item["match"]) for item in found})
    for upstream, error in checked.failed.items():
        output.tell(f"warning: the names of {upstream} are not known: {error.message}")
    if checked.failed:
        output.stop(output.FAILED)


def _told(excess: Excess) -> str:
    claim = excess.claim
    return (
        f"{claim.text} of {claim.tenant or 'the instance'} meets {excess.names} names of {excess.upstream}; "
        f"the first {MOST_OF_ONE} are listed"
    )


def _advise(matches: set[str]) -> None:
    if Match.SAME in matches:
        output.tell(
            "same: this server never forwards such a name, but whoever asks the upstream too (extra-index-url, "
            "a laptop without your settings) may get the stranger's package. See that clients ask this server alone."
        )
    if Match.LOOK_ALIKE in matches:
        output.tell(
            "look-alike: a slip of the finger installs the stranger's package. If nobody needs it, put its name "
            "into deny of the policy."
        )
