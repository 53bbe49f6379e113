"""`audit`: who changed what, who fetched what, and which claimed names upstreams have too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import groupby

import click

from proxy.cli import output
from proxy.cli.opening import run
from proxy.cli.options import NAMESPACE, Branch, Invocation, pass_invocation
from proxy.cli.output import Column, Item
from proxy.cli.radar import confusion
from proxy.domain.moments import parse_since
from proxy.domain.names import parse_name
from proxy.domain.namespaces import NamespacePath
from proxy.index.instance import Instance
from proxy.storage import audit
from proxy.storage import downloads as fetched

_LIMIT = 1000

_since = click.option(
    "--since", metavar="TIME", help="Not before then: how long ago, such as 7d, or a date such as 2026-05-01."
)
_limit = click.option(
    "--limit",
    type=click.IntRange(1),
    default=_LIMIT,
    show_default=True,
    metavar="N",
    help="At most so many, the newest.",
)


@click.group(cls=Branch)
def group() -> None:
    """Say who changed what, and who fetched what."""


group.add_command(confusion)


@group.command("log", short_help="List what was changed.")
@_since
@click.option("--name", metavar="NAME", help="Of this package alone.")
@click.option("--namespace", type=NAMESPACE, help="Of what lies at and below this group or project alone.")
@_limit
@pass_invocation
def log(
    invocation: Invocation, since: str | None, name: str | None, namespace: NamespacePath | None, limit: int
) -> None:
    """List what was changed, by whom, when and from where, the newest first.

    What upstreams did to files that were known already stands there too.

    \b
    pypi-overlay audit log --since 7d
    pypi-overlay audit log --name widgets --json
    """  # noqa: D301

    async def act(instance: Instance) -> list[Item]:
        tree = instance.snapshot.tree
        wanted = audit.Wanted(
            _moment(since, instance.now()),
            None if name is None else parse_name(name),
            within=None if not namespace else tree.paths_within(tree.find(namespace)),
        )
        return [*await instance.registry.read(partial(audit.events, wanted=wanted, limit=limit + 1))]

    _print(
        invocation,
        run(invocation, act),
        limit,
        {
            "At": "at",
            "Action": "action",
            "Who": _who,
            "Address": "address",
            "Namespace": "namespace",
            "What": _what,
            "Detail": _detail,
        },
        empty="nothing was changed",
    )


@group.command("downloads", short_help="List who fetched a package.")
@click.argument("name")
@click.argument("version", required=False)
@_since
@_limit
@pass_invocation
def downloads(invocation: Invocation, name: str, version: str | None, since: str | None, limit: int) -> None:
    """List who fetched files of NAME, or of its release VERSION, when and from where, the newest first.

    A running server writes what it has given some seconds later, five at most; one that is killed loses as much.

    \b
    pypi-overlay audit downloads requests 2.99.0
    pypi-overlay audit downloads requests --since 2026-05-01 --json
    """  # noqa: D301

    async def act(instance: Instance) -> list[Item]:
        wanted = fetched.Wanted(parse_name(name), version, _moment(since, instance.now()))
        return [*await instance.cache.read(partial(fetched.list_downloads, wanted=wanted, limit=limit + 1))]

    found = run(invocation, act)
    columns: dict[str, Column] = {
        "At": "at",
        "File": "filename",
        "Who": _client,
        "Address": "address",
        "Index": "index",
        "Source": "source",
    }
    if invocation.json:
        _print(invocation, found, limit, columns, empty="")
        return
    alike = [*_counted(found[:limit])]
    if any(item["times"] != 1 for item in alike):
        columns["Times"] = "times"
    _print_table(alike, columns, empty=f"no download of {name} is on record")
    _tell_of_more(found, limit)


def _moment(since: str | None, now: datetime) -> datetime | None:
    return None if since is None else parse_since(since, now)


def _print(
    invocation: Invocation, found: list[Item], limit: int, columns: Mapping[str, Column], *, empty: str
) -> None:
    """Print what was found; where it is more than `limit`, the last is left out, and that there is more is told."""
    if invocation.json:
        output.print_json({"items": found[:limit], "next": 2 if len(found) > limit else None})
        return
    _print_table(found[:limit], columns, empty=empty)
    _tell_of_more(found, limit)


def _print_table(items: list[Item], columns: Mapping[str, Column], *, empty: str) -> None:
    if items:
        output.print_table(items, columns)
    else:
        output.tell(empty)


def _tell_of_more(found: list[Item], limit: int) -> None:
    if len(found) > limit:
        output.tell(f"there is more: these are the newest {limit}; --limit and --since choose others")


def _counted(found: Iterable[Item]) -> Iterator[Item]:
    """Downloads that are alike, one behind the other, as one, with how many they are."""
    for item, alike in groupby(found):
        yield {**item, "times": sum(1 for _ in alike)}


def _who(item: Item) -> str:
    who = item["who"]
    assert isinstance(who, dict)  # noqa: S101 - the shape of contract 12
    name = f"{who['kind']} {who['user']}" if who["user"] else str(who["kind"])
    return name if who["id"] is None else f"{name} (token {who['id']})"


def _client(item: Item) -> str:
    if item["token_id"] is None:
        return str(item["user"] or "anonymous")
    return f"{item['user'] or 'owner'} (token {item['token_id']})"


def _what(item: Item) -> str:
    return str(item["filename"] or " ".join(str(item[key]) for key in ("name", "version") if item[key]))


def _detail(item: Item) -> str:
    detail = item["detail"]
    assert isinstance(detail, dict)  # noqa: S101 - the shape of contract 12
    return "; ".join(f"{key}: {output.shown(value)}" for key, value in detail.items() if value is not None)
