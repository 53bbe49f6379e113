"""The benchmark runs from end to end, and what it writes can be read. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.load import Job, run
from tests.benchmarks.report import Row, table
from tests.benchmarks.stage import head
from tests.benchmarks.workloads import WORKLOADS
from tests.support.server import ROOT
from tests.support.upstream import FakeUpstream

NUMBERS = {"ours": float, "target": float, "errors": int}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory and computing time come from /proc")
@pytest.mark.timeout(300)
def test_a_short_benchmark_runs_every_workload_without_an_error(tmp_path: Path) -> None:
    written = tmp_path / "rows.json"
    arguments = ["--scale", "0.01", "--seconds", "0.1", "--runs", "1", "--json", str(written)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    said = json.loads(written.read_text(encoding="utf-8"))
    assert said.keys() >= {"machine", "runs", "seconds", "scale", "took", "notices", "rows"}
    assert len(said["rows"]) >= len(WORKLOADS)
    for row in said["rows"]:
        assert {name: type(row[name]) for name in NUMBERS} == NUMBERS, row
        assert row["errors"] == 0, row
        assert row["ours"] > 0, row
        assert (row["met"] is None) == (row["measured"] is None), row
        assert len(row["runs"]) == 1, row
        assert f"| {row['workload']} " in done.stdout


def test_a_wrong_answer_counts_as_an_error_and_not_as_an_answer(upstream: FakeUpstream) -> None:
    asked = head("/simple/nothing-of-the-kind/")
    port = int(upstream.host.rpartition(":")[2])

    refused = run(Job(port, [asked] * 4, connections=2))
    wanted = run(Job(port, [asked] * 4, connections=2, expect=404))

    assert (refused.requests, refused.errors) == (0, 2)
    assert (wanted.requests, wanted.errors) == (4, 0)


def test_a_row_with_an_error_meets_no_target_and_one_with_nothing_beside_it_says_neither() -> None:
    row = Row(name="a", workload="b", unit="/s", ours=9.0, target=0.5, at_least=True, measured=0.9)
    failed = Row(
        name="a", workload="b", unit="/s", ours=9.0, target=0.5, at_least=True, measured=0.9, errors=1
    )
    alone = Row(name="a", workload="b", unit="/s", ours=9.0, target=0.5, at_least=True)

    assert [one.is_met for one in (row, failed, alone)] == [True, False, None]
    assert [line.split("|")[6].strip() for line in table([row, failed, alone]).splitlines()[2:]] == [
        "yes",
        "no, 1 errors",
        "?",
    ]
