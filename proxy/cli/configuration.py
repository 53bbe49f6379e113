"""`config`: is the file in order, does it fit the data, what holds by it, its schema; and loading it anew."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from proxy.cache.sightings import undated_upstreams
from proxy.cli import output
from proxy.cli.advice import Seen, advise
from proxy.cli.opening import load_snapshot
from proxy.cli.options import NAMESPACE, Branch, Invocation, config_file, pass_invocation
from proxy.cli.replay import replay
from proxy.config.compile import compile_snapshot
from proxy.config.load import Loaded, json_schema, load
from proxy.domain.namespaces import NamespacePath
from proxy.domain.policy import text_of
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, Problem, StorageError
from proxy.index.crew import Reloaded
from proxy.index.effective import effective_policy
from proxy.registry import listing, namespaces
from proxy.server.assembly import utc_now
from proxy.server.control import order_reload
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.migrations import HEADS, current_revision, upgrade


@click.group(cls=Branch)
def configuration() -> None:
    """Check the configuration file, show what it means, load it anew."""


configuration.add_command(replay)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with a configuration, and what is only worth a look."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@configuration.command("check", short_help="Say all that is wrong with the file.")
@pass_invocation
def check(invocation: Invocation) -> None:
    """Say everything that is wrong with the configuration, by file, line and path.

    Where the data directory exists, also whether a namespace that holds packages, claims or tokens would
    vanish; nothing is changed there. Warnings are worth a look: they stop nothing. Exit status 1 where there
    are errors.

    \b
    pypi-overlay config check --config new.yaml
    """  # noqa: D301
    found = find_problems(config_file(invocation))
    counted = f"{output.count(len(found.errors), 'error')}, {output.count(len(found.warnings), 'warning')}"
    _print(invocation, found.errors, found.warnings, counted)


@configuration.command("reload", short_help="Have the running server load the file anew.")
@pass_invocation
def reload(invocation: Invocation) -> None:
    """Have the running server load its configuration file anew; return once every worker has it.

    Every request that begins later is answered by it. A faulty file changes nothing: all that is wrong is said, and
    the exit status is 1. What takes effect at the next start only is a warning: server.listen, server.workers,
    whether server.tls is there, log and storage.

    \b
    pypi-overlay config reload
    """  # noqa: D301
    try:
        done = order_reload(Layout(load_snapshot(invocation).data_dir))
    except ConfigError as error:
        # Where the server's data lies stands in the same file: what is wrong with it is told from here.
        done = Reloaded(errors=error.problems)
    said = "refused; the configuration in force stays" if done.errors else "the new configuration is in force"
    _print(invocation, done.errors, done.warnings, said)


def _print(
    invocation: Invocation, errors: tuple[Problem, ...], warnings: tuple[Problem, ...], said: str
) -> None:
    """Print problems in the shape of contract 12, or in lines with `said` below; fail where there are errors."""
    if invocation.json:
        output.print_json(
            {
                "ok": not errors,
                "errors": [asdict(problem) for problem in errors],
                "warnings": [asdict(problem) for problem in warnings],
            }
        )
    else:
        for problem in errors:
            click.echo(f"error: {problem}")
        for problem in warnings:
            click.echo(f"warning: {problem}")
        click.echo(said)
    if errors:
        output.stop(output.FAILED)


@configuration.command("schema", short_help="Print the JSON Schema of the file.")
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors.

    \b
    pypi-overlay config schema > pypi-overlay.schema.json
    """  # noqa: D301
    output.print_json(json_schema())


@configuration.command("show", short_help="Show the policy in force.")
@click.argument("namespace", type=NAMESPACE, default="/")
@pass_invocation
def show(invocation: Invocation, namespace: NamespacePath) -> None:
    """Show the policy that holds at NAMESPACE, and which line says so; without one, at the root.

    Each entry of a list is a line of its own. What stands in "shipped defaults" is said by no file of yours.

    \b
    pypi-overlay config show
    pypi-overlay config show acme/platform --json
    """  # noqa: D301
    tree = load_snapshot(invocation).tree
    shape = effective_policy(tree, tree.find(namespace))
    if invocation.json:
        output.print_json(shape)
        return
    columns = {"Key": "key", "Value": "value", "Origin": "origin", "Locked by": "locked_by"}
    output.print_table([*_rows(shape)], columns)


def _rows(shape: Mapping[str, Any]) -> Iterator[output.Item]:
    """The lines of a policy: one for a value, one for each entry of a list."""
    for key, said in shape["values"].items():
        for entry in said.get("entries") or [said]:
            origin = entry["origin"]
            end = "" if not entry.get("until") else f" until {entry['until'].removesuffix('T00:00:00Z')}"
            reason = f": {entry['reason']}" if entry.get("reason") else ""
            yield {
                "key": key,
                "value": _written(entry["value"]) + end + reason,
                "origin": None if origin is None else f"{origin['file']}:{origin['line']}",
                "locked_by": said["locked_by"],
            }


def _written(value: object) -> str:
    """A value as the file has it, but for the quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "[]" if value == "" else text_of(value)


def find_problems(file: str | None) -> Findings:
    """Check the file by itself, then against the data that its data directory holds."""
    now = utc_now()
    try:
        loaded = load(file, os.environ)
        snapshot = compile_snapshot(loaded)
        seen = _try_on_data(snapshot)
    except ConfigError as error:
        return Findings(errors=error.problems)
    except StorageError as error:
        unseen = Problem(file or "", 0, "storage.data_dir", f"not checked against the data: {error}")
        return Findings(
            warnings=(*advise(loaded, snapshot.tree, Seen(), now), *_missing_files(loaded), unseen)
        )
    warnings = (*advise(loaded, snapshot.tree, seen, now), *_missing_files(loaded))
    return Findings(warnings=tuple(sorted(warnings, key=lambda each: each.line)))


def _missing_files(loaded: Loaded) -> Iterator[Problem]:
    """What the configuration names and is not here; a warning, since it may be meant for elsewhere."""
    config = loaded.config
    named: dict[tuple[str, ...], str | None] = {
        ("upstreams", name, "ca_file"): upstream.ca_file
        for name, upstream in config.upstreams.items()
        if upstream is not None
    }
    if config.server.tls is not None:
        named["server", "tls", "certificate"] = config.server.tls.certificate
        named["server", "tls", "key"] = config.server.tls.key
    for keys, path in named.items():
        if path is not None and not Path(path).is_file():
            origin = loaded.origin(keys)
            yield Problem(origin.file, origin.line, origin.path, "there is no such file here")
    osv_dir = config.advisories.osv_dir
    if osv_dir is not None and not Path(osv_dir).is_dir():
        origin = loaded.origin(("advisories", "osv_dir"))
        yield Problem(origin.file, origin.line, origin.path, "there is no such directory here")


class _Tried(Exception):
    """Rolls back what was only tried, and carries out what was seen there."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen


def _try_on_data(snapshot: Snapshot) -> Seen:
    """What the data tells under this configuration; empty where there is no data yet.

    The start that would follow is made in a transaction and undone, so both judge alike.

    Raises:
        ConfigError: the start would be refused.
        StorageError: the data cannot be looked at.
    """
    layout = Layout(snapshot.data_dir)
    if not Path(layout.registry_database).exists():
        return Seen()

    def attempt(change: Change) -> None:
        if current_revision(change.connection) != HEADS["registry"]:
            upgrade(change.connection, "registry")
        namespaces.settle(change, snapshot.tree, utc_now(), file=snapshot.source)
        raise _Tried(Seen(listing.claims(change.connection), undated_upstreams(change.connection)))

    locks = Locks(layout)
    try:
        registry = Database(layout.registry_database, locks, name="registry")
        try:
            registry.change_now(attempt)
        except _Tried as tried:
            return tried.seen
        finally:
            registry.close()
    finally:
        locks.close()
    return Seen()
