"""`config`: is the file in order, does it fit the data, what does its schema say; and loading it anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from proxy.cli import output
from proxy.cli.advice import advise
from proxy.cli.opening import load_snapshot
from proxy.cli.options import Branch, Invocation, config_file, pass_invocation
from proxy.config.compile import compile_snapshot
from proxy.config.load import Loaded, json_schema, load
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, Problem, StorageError
from proxy.index.crew import Reloaded
from proxy.registry import listing, namespaces
from proxy.registry.listing import Claim
from proxy.server.assembly import utc_now
from proxy.server.control import order_reload
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.migrations import HEADS, current_revision, upgrade


@click.group(cls=Branch)
def configuration() -> None:
    """Check the configuration file; load it anew."""


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


def find_problems(file: str | None) -> Findings:
    """Check the file by itself, then against the data that its data directory holds."""
    try:
        loaded = load(file, os.environ)
        snapshot = compile_snapshot(loaded)
        claims = _try_on_data(snapshot)
    except ConfigError as error:
        return Findings(errors=error.problems)
    except StorageError as error:
        unseen = Problem(file or "", 0, "storage.data_dir", f"not checked against the data: {error}")
        return Findings(warnings=(*advise(loaded, snapshot.tree, []), *_missing_files(loaded), unseen))
    warnings = (*advise(loaded, snapshot.tree, claims), *_missing_files(loaded))
    return Findings(warnings=tuple(sorted(warnings, key=lambda each: each.line)))


def _missing_files(loaded: Loaded) -> Iterator[Problem]:
    """Files that the configuration names and that are not here; a warning, since it may be meant for elsewhere."""
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


class _Tried(Exception):
    """Rolls back what was only tried, and carries out what was seen there."""

    def __init__(self, claims: list[Claim]) -> None:
        super().__init__()
        self.claims = claims


def _try_on_data(snapshot: Snapshot) -> list[Claim]:
    """What the data claims under this configuration; empty where there is no data yet.

    The start that would follow is made in a transaction and undone, so both judge alike.

    Raises:
        ConfigError: the start would be refused.
        StorageError: the data cannot be looked at.
    """
    layout = Layout(snapshot.data_dir)
    if not Path(layout.registry_database).exists():
        return []

    def attempt(change: Change) -> None:
        if current_revision(change.connection) != HEADS["registry"]:
            upgrade(change.connection, "registry")
        namespaces.settle(change, snapshot.tree, utc_now(), file=snapshot.source)
        raise _Tried(listing.claims(change.connection))

    locks = Locks(layout)
    try:
        registry = Database(layout.registry_database, locks, name="registry")
        try:
            registry.change_now(attempt)
        except _Tried as tried:
            return tried.claims
        finally:
            registry.close()
    finally:
        locks.close()
    return []
