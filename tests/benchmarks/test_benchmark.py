"""The benchmark runs from end to end, and what it writes can be read. No time is asserted."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
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


def test_an_earlier_run_stands_beside_by_the_names_of_its_rows() -> None:
    before = Row(name="a", workload="b", unit="/s", ours=9.0, target=0.5, measured=0.25, work=(480.4, None))
    gone = Row(name="c", workload="d", unit="MB", ours=9.0, target=0.5, measured=97.0, measured_unit="MB")
    read = {row.name: Row.from_json(json.loads(json.dumps(row.as_json()))) for row in (before, gone)}
    now = [
        Row(name=name, workload="b", unit="/s", ours=90.0, target=0.5, measured=0.9)
        for name in ("a", "new", "c")
    ]

    assert [line.split("|")[-2].strip() for line in table(now, read).splitlines()] == [
        "before",
        "---",
        "0.25, 480 µs",
        "—",
        "97 MB",
    ]


def test_heads_that_come_in_pieces_and_bodies_of_every_length_are_told_apart() -> None:
    """A server that answers in odd pieces: what came must be counted to the byte."""
    sizes = [0, 1, 5000, 20_000, 20_000, 300_000]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        answering = threading.Thread(target=_answer_in_pieces, args=(listening, sizes), daemon=True)
        answering.start()
        done = run(Job(port, [head("/")] * len(sizes)))
        answering.join(10)

    assert (done.requests, done.errors, done.bytes) == (len(sizes), 0, sum(sizes))


def test_a_body_that_is_hashed_must_have_its_digest() -> None:
    size = 300_000
    digest = hashlib.sha256(b"y" * size).hexdigest()
    errors = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for sha256 in ("", digest, "0" * 64):
            answering = threading.Thread(target=_answer_in_pieces, args=(listening, [size]), daemon=True)
            answering.start()
            errors.append(run(Job(port, [head("/")], bulk=True, sha256=sha256)).errors)
            answering.join(10)

    assert errors == [0, 0, 1]


def _answer_in_pieces(listening: socket.socket, sizes: list[int]) -> None:
    link, _ = listening.accept()
    with link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, size in enumerate(sizes):
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += link.recv(4096)
            filler = b"X-Filler: " + b"x" * number
            answer = b"HTTP/1.1 200 OK\r\n%s\r\ncontent-length: %d\r\n\r\n" % (filler, size) + b"y" * size
            # One of them in one piece; the heads of the others byte by byte, so that some are read in parts.
            cut = 0 if number == 1 else answer.index(b"\r\n\r\n") + number
            for place in range(cut):
                link.sendall(answer[place : place + 1])
            link.sendall(answer[cut:])
