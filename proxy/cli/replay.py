"""`config replay`: what another configuration would change for requests that were recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli import output
from proxy.cli.opening import load_snapshot, run
from proxy.cli.options import Invocation, Leaf, pass_invocation
from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, NoSuchFile
from proxy.index.instance import Instance
from proxy.index.replay import Change, distinct
from proxy.index.replay import replay as replay_requests
from proxy.observe.requests import Recorded, read_lines, recorded_files
from proxy.server.assembly import offline_instance, retire_instance, tried_instance
from proxy.storage.layout import Layout

_FILE = click.Path(exists=True, dir_okay=False)


@click.command(cls=Leaf, short_help="Say what another file would change.")
@click.argument("new_file", type=_FILE)
@click.argument("requests", type=_FILE, required=False)
@pass_invocation
def replay(invocation: Invocation, new_file: str, requests: str | None) -> None:
    """Say which of the recorded requests would be decided differently under NEW_FILE.

    REQUESTS is a file that log.requests had written; without it, all that are kept. No upstream is asked: what is
    kept of one is what counts, and where nothing is kept, whether it would be asked. Pages are compared by their
    decision, files each by its own. A faulty NEW_FILE is told as config check tells it, with exit status 1.

    \b
    pypi-overlay config replay new.yaml
    pypi-overlay config replay new.yaml requests.jsonl --json
    """  # noqa: D301
    try:
        snapshot = compile_snapshot(load(new_file, os.environ))
        files = [requests] if requests is not None else _kept(load_snapshot(invocation))
        counted = distinct(one for file in files for one in _read(file))

        async def act(instance: Instance) -> list[Change]:
            with output.progress("Deciding") as show, tried_instance(instance, snapshot) as after:
                before = offline_instance(instance)
                report = None if show is None else lambda done, total: show(done, total, "")
                try:
                    return await replay_requests(counted, before, after, report)
                finally:
                    for one in (before, after):
                        await retire_instance(one)

        changed = run(invocation, act)
    except ConfigError as error:
        _refuse(invocation, error)
        return
    if invocation.json:
        output.print_json({"requests": counted.total(), "changed": [change.shape for change in changed]})
        return
    if changed:
        output.print_table(
            [{**change.shape, "times": change.times} for change in changed],
            {
                "Index": "index",
                "Name": "name",
                "File": "filename",
                "Caller": "caller",
                "Before": "before",
                "After": "after",
                "Rule": "rule",
                "Requests": "times",
            },
        )
    different = sum(change.times for change in changed)
    output.tell(f"{different} of {output.count(counted.total(), 'request')} would be decided differently")


def _kept(snapshot: Snapshot) -> list[str]:
    """The files with all requests that are kept.

    Raises:
        NoSuchFile: none are recorded.
    """
    requests = snapshot.log.requests
    found = [] if requests is None else recorded_files(Layout(snapshot.data_dir).request_log(requests))
    if not found:
        wanted = "set log.requests" if requests is None else "wait until some came"
        raise NoSuchFile("no requests are recorded", hint=f"{wanted}, or name a file with some")
    return found


def _read(file: str) -> Iterator[Recorded | None]:
    with Path(file).open("rb") as lines:
        yield from read_lines(lines)


def _refuse(invocation: Invocation, error: ConfigError) -> None:
    if invocation.json:
        errors = [asdict(problem) for problem in error.problems]
        output.print_json({"ok": False, "errors": errors, "warnings": []})
    else:
        for problem in error.problems:
            click.echo(f"error: {problem}")
    output.stop(output.FAILED)
