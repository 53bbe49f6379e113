"""Run the benchmark: `python -m tests.benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.cores import can_pin
from tests.benchmarks.report import Row, table
from tests.benchmarks.stage import Stage
from tests.benchmarks.workloads import WORKLOADS

OPEN_FILES = 8192


def main() -> None:
    """Read the command line, measure, print the table and what else there is to say."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a measurement of a rate [3]")
    parser.add_argument("--runs", type=int, default=5, help="how often each is repeated; medians count [5]")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the real sizes, for a trial [1]")
    parser.add_argument(
        "--workers", type=int, default=2, help="workers of the rows that are about several [2]"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="what an earlier run wrote with --json: shown beside"
    )
    options = parser.parse_args()
    earlier = {"rows": [], "scale": options.scale}
    if options.compare is not None:
        earlier = json.loads(options.compare.read_text(encoding="utf-8"))
    before = {row["name"]: Row.from_json(row) for row in earlier["rows"]}
    _allow_connections()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends as well
    begun = time.monotonic()
    rows: list[Row] = []
    failed: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as directory,
        Stage(
            Path(directory),
            seconds=options.seconds,
            runs=options.runs,
            scale=options.scale,
            workers=options.workers,
        ) as stage,
    ):
        if not can_pin():
            stage.notices.append("processes are not pinned: this machine has one core, or is not Linux")
        if options.scale != 1.0:
            stage.notices.append(f"sizes are {options.scale:g} of the real ones")
        if earlier["scale"] != options.scale:
            stage.notices.append(f"in the earlier run they were {earlier['scale']:g}: not to be compared")
        for name in options.only or WORKLOADS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                rows += WORKLOADS[name](stage)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed.append(name)  # the others are measured all the same
                stage.notices.append(f"{name} failed: {error}")
    if any(row.disturbed for row in rows):
        stage.notices.append(
            "disturbed: other programs had these cores for much of the time; trust the CPU µs"
        )
    took = time.monotonic() - begun
    print(table(rows, before))
    for notice in stage.notices:
        print(f"- {notice}")
    print(f"- {options.runs} runs, {took:.0f} s in all")
    if options.json is not None:
        about = {
            "machine": {
                "system": platform.platform(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
            },
            "runs": options.runs,
            "seconds": options.seconds,
            "scale": options.scale,
            "workers": options.workers,
            "took": took,
            "notices": stage.notices,
            "rows": [row.as_json() for row in rows],
        }
        options.json.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _allow_connections() -> None:
    """Let this process and those that it starts have a thousand connections open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


if __name__ == "__main__":
    main()
