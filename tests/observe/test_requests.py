"""The record of requests: whole lines of several processes, bounded on disk."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from proxy.domain.access import CallerKind, Scope
from proxy.observe import requests as module
from proxy.observe.requests import Recorded, RequestLog, Who, line_of, read_lines, recorded_files

SECOND = int(datetime(2026, 5, 1, 8, 0, tzinfo=UTC).timestamp())
ROBOT = Who(CallerKind.DEPLOY, "ci", 7, (Scope.READ_PACKAGES,), ("acme/widgets",))
FILE = Recorded("acme", "widgets", ROBOT, "private", "widgets-1.0.tar.gz", "ab" * 32, rule="merge widgets")
PAGE = Recorded("", "gears", Who(CallerKind.ANONYMOUS), "upstream", as_of=datetime(2026, 1, 2, tzinfo=UTC))


def write(path: Path, *noted: tuple[Recorded, int], rounds: int = 1) -> None:
    log = RequestLog(str(path))
    for _ in range(rounds):
        for recorded, times in noted:
            log.note(line_of(recorded), SECOND, times)
        asyncio.run(log.flush())


def read(path: Path) -> list[Recorded | None]:
    with path.open("rb") as lines:
        return list(read_lines(lines))


def test_a_request_is_a_line_of_json_and_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    write(path, (FILE, 2), (PAGE, 1))
    assert read(path) == [FILE, FILE, PAGE]
    first, _, last = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert first["at"] == "2026-05-01T08:00:00Z"
    assert (last["as_of"], last["caller"]) == ("2026-01-02T00:00:00Z", {"kind": "anonymous"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"x", b'{"index":"","name":"x","caller":{"kind":"king"}}', b"\xff"]
)
def test_a_line_that_tells_of_no_request_is_passed_over(line: bytes) -> None:
    whole = b'{"at":""' + line_of(FILE)
    assert list(read_lines([whole, line, whole])) == [FILE, None, FILE]


def test_a_file_that_is_too_large_is_put_aside_and_two_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 3 * len(b'{"at":"2026-05-01T08:00:00Z"' + line_of(FILE)))
    path = tmp_path / "requests.jsonl"
    write(path, (FILE, 1), rounds=11)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "requests.jsonl",
        "requests.jsonl.1",
        "requests.jsonl.2",
    ]
    kept = recorded_files(str(path))
    assert [Path(each).suffix for each in kept] == [".2", ".1", ".jsonl"]
    assert [len(read(Path(each))) for each in kept] == [3, 3, 2]


def append(path: Path, name: str) -> None:
    write(path, (Recorded("", name * 50, ROBOT, "upstream"), 20), rounds=50)


def test_lines_of_several_processes_stay_whole_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 400_000)
    path = tmp_path / "requests.jsonl"
    processes = [
        multiprocessing.get_context("fork").Process(target=append, args=(path, name)) for name in "ab"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [one for each in recorded_files(str(path)) for one in read(Path(each))]
    assert {one.name[0] for one in found if one is not None} == {"a", "b"}
    assert len(found) == 2000
    assert None not in found


def test_what_cannot_be_written_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "there" / "requests.jsonl"
    write(path, (FILE, 1))
    os.mkdir(path.parent)  # noqa: PTH102 - beside the code's own spelling
    write(path, (FILE, 1))
    assert read(path) == [FILE]


def test_more_than_may_wait_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 1000)
    path = tmp_path / "requests.jsonl"
    write(path, *[(FILE, 1)] * 100)
    assert 2 < len(read(path)) < 10
