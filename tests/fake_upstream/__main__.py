"""Run the fake upstream until it is killed, or until its standard input ends where `--with-parent` is given."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from pathlib import Path

import yaml
from aiohttp import web

from tests.fake_upstream.app import FakeUpstream


async def _serve(scenario: Path | None, port: int, workshop: Path) -> None:
    upstream = FakeUpstream(workshop)
    if scenario is not None:
        upstream.load(yaml.safe_load(scenario.read_text(encoding="utf-8")) or {}, scenario.parent)
    # Handlers are cancelled when their client goes, so that one told to hang does not stay for ever.
    runner = web.AppRunner(upstream.application(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    upstream.base = "http://{}:{}".format(*runner.addresses[0][:2])
    print(f"listening on {upstream.base}", flush=True)
    await asyncio.Event().wait()


def _die_with_parent() -> None:
    """End when standard input does: the program that held its other end is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.fake_upstream", description=__doc__)
    parser.add_argument("--scenario", type=Path, help="YAML or JSON; without it an empty index")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    if options.with_parent:
        threading.Thread(target=_die_with_parent, daemon=True).start()
    with (
        tempfile.TemporaryDirectory(prefix="fake-upstream-") as workshop,
        contextlib.suppress(KeyboardInterrupt),
    ):
        asyncio.run(_serve(options.scenario, options.port, Path(workshop)))


if __name__ == "__main__":
    main()
