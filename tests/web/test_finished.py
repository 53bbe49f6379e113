"""The store of finished answers: what is kept, for how long, for whom, and in how much memory."""

from __future__ import annotations

import gc
import os
import secrets
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy.domain.access import ANONYMOUS, Caller, CallerKind, Sight
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT
from proxy.storage.board import Board, Stamp, token_topic
from proxy.storage.downloads import Client, Download, Fetched
from proxy.storage.layout import Layout
from proxy.web import finished as module
from proxy.web.callers import Known
from proxy.web.finished import Finished, Kept
from proxy.web.heads import Head, read_head
from proxy.web.notes import CALLER, KEEP, SUBJECT, Keepable, Subject
from proxy.web.sendfile import is_in_memory

ETAG = '"e"'
BODY = b"the page"


class Shelf:
    """A store with callers whose names are their credentials."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.now = 1000.0
        self.known: dict[bytes | None, Known] = {}
        self.add(None, ANONYMOUS)
        self.finished = Finished(board, self.known.get, self.sight, lambda: self.now)

    def add(self, authorization: bytes | None, caller: Caller, *, until: float | None = None) -> None:
        """Let a caller be known by an `Authorization`; the name makes the sight."""
        sights = {known.caller.name: known.sight for known in self.known.values()}
        nothing: frozenset[Any] = frozenset()
        sight = sights.get(caller.name) or Sight(nothing, nothing, nothing, caller is ANONYMOUS)
        stamp = () if caller.token is None else self.board.stamp([token_topic(caller.token)])
        self.known[authorization] = Known(caller, sight, stamp, until)

    def sight(self, caller: Caller) -> Sight:
        return next(known.sight for known in self.known.values() if known.caller == caller)

    def answer(
        self,
        head: bytes,
        *,
        caller: Caller = ANONYMOUS,
        stamp: Stamp = (),
        until: float | None = None,
        body: bytes = BODY,
        path: str = "",
        used: Any = None,
        status: int = 200,
        length: int | None = None,
        subject: Subject | None = None,
    ) -> None:
        """Let a handler answer a head, and offer that to the store."""
        request = make_mocked_request("GET", "/")
        kept_body = None if path else body
        request[KEEP] = Keepable(stamp, until, ETAG, kept_body, path, len(body) if path else 0, used)
        if caller is not ANONYMOUS:
            request[CALLER] = caller
        if subject is not None:
            request[SUBJECT] = subject
        headers = {
            "ETag": ETAG,
            "Content-Type": "text/html",
            "Cache-Status": "pypi-overlay; fwd=uri-miss; stored",
            "Content-Length": str(len(body) if length is None else length),
        }
        self.finished.keep(read(head), request, web.Response(status=status, headers=headers))

    def ask(self, head: bytes) -> bytes | None:
        """Ask as a connection does; returns head and body in one."""
        found = self.finished.by_head(head, "peer") or self.finished.by_parts(read(head), "peer")
        return None if found is None else b"".join(found)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Give an empty store."""
    layout = Layout(str(tmp_path))
    layout.prepare()
    board = Board(layout)
    shelf = Shelf(board)
    yield shelf
    board.close()


def read(data: bytes) -> Head:
    head = read_head(data)
    assert head is not None
    assert head.is_plain
    return head


def asked(target: str = "/simple/x/", *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


# What is kept, and for whom


def test_an_answer_is_given_again_as_a_hit_with_an_id_of_its_own(shelf: Shelf) -> None:
    assert shelf.ask(asked()) is None
    shelf.answer(asked())
    first, second = shelf.ask(asked()), shelf.ask(asked())
    assert first is not None
    assert second is not None
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"\r\n\r\n" + BODY)
    assert b"Cache-Status: pypi-overlay; hit\r\n" in first
    given = shelf.finished.taken()
    ids = [one.request_id for one in given]
    assert len(set(ids)) == 2
    assert all(ids[at] in answer for at, answer in enumerate((first, second)))
    assert [(one.peer, one.at, one.kept.form.sent) for one in given] == [("peer", 1000.0, len(BODY))] * 2
    assert shelf.finished.taken() == []


@pytest.mark.parametrize(
    ("other", "is_shared"),
    [
        (asked("/simple/x/", "User-Agent: other"), True),
        (asked("/simple/x/", "Accept-Language: cy", "Cache-Control: no-cache"), True),
        (asked("/simple/y/"), False),
        (asked("/simple/x/", "Accept: text/html"), False),
        (asked("/simple/x/", "Accept-Encoding: gzip"), False),
        (asked("/simple/x/", "Authorization: alice"), False),
        (asked("/simple/x/", "Authorization: nobody"), False),
    ],
)
def test_an_answer_is_shared_by_all_heads_that_mean_the_same(
    shelf: Shelf, other: bytes, is_shared: bool
) -> None:
    shelf.add(b"alice", Caller(CallerKind.USER, "alice", 1))
    shelf.answer(asked())
    assert (shelf.ask(other) is not None) is is_shared
    assert shelf.ask(asked()) is not None


def test_callers_of_one_sight_share_answers_and_others_never_see_them(shelf: Shelf) -> None:
    alice, twin, bob = (
        Caller(CallerKind.USER, name, token) for name, token in (("alice", 1), ("alice", 2), ("bob", 3))
    )
    for name, caller in ((b"a", alice), (b"t", twin), (b"b", bob)):
        shelf.add(name, caller)
    shelf.answer(asked("/simple/x/", "Authorization: a"), caller=alice)
    for credentials, is_given in (("a", True), ("t", True), ("b", False)):
        assert (shelf.ask(asked("/simple/x/", f"Authorization: {credentials}")) is not None) is is_given
    assert shelf.ask(asked()) is None
    assert [one.kept.caller.token for one in shelf.finished.taken()] == [1, 2]


def test_an_answer_to_another_caller_than_the_head_names_is_not_kept(shelf: Shelf) -> None:
    alice = Caller(CallerKind.USER, "alice", 1)
    shelf.add(b"alice", alice)
    shelf.answer(asked(), caller=alice)
    shelf.answer(asked("/simple/x/", "Authorization: alice"))
    assert shelf.finished.size == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": 404},
        {"status": 206},
        {"status": 304},
        {"length": 3},
        {"body": b"x" * (module._LARGEST + 1)},
        {"body": b"x" * (module._READ + 1), "path": "/some/file"},
    ],
)
def test_what_is_no_whole_answer_of_200_or_too_long_is_not_kept(shelf: Shelf, wrong: dict[str, Any]) -> None:
    shelf.answer(asked(), **wrong)
    assert shelf.finished.size == 0


@pytest.mark.parametrize(
    ("method", "condition", "status"),
    [
        ("GET", None, b"200"),
        ("HEAD", None, b"200"),
        ("GET", ETAG, b"304"),
        ("HEAD", ETAG, b"304"),
        ("GET", '"other"', b"200"),
        ("GET", '""', b"200"),
        ("GET", "e", None),
        ("GET", '"', None),
        ("GET", "*", None),
        ("GET", f"W/{ETAG}", None),
        ("GET", f'"other", {ETAG}', None),
    ],
)
def test_the_other_forms_are_made_of_the_answer(
    shelf: Shelf, method: str, condition: str | None, status: bytes | None
) -> None:
    shelf.answer(asked())
    lines = [] if condition is None else [f"If-None-Match: {condition}"]
    for _ in range(3):
        answer = shelf.ask(asked("/simple/x/", *lines, method=method))
        if status is None:
            assert answer is None
            continue
        assert answer is not None
        assert answer[9:12] == status
        assert answer.endswith(BODY) is (status == b"200" and method == "GET")
        assert (b"Content-Length: 8\r\n" in answer) is (status == b"200")
        assert (b"Content-Type" in answer) is (status == b"200")
        assert b"ETag: " + ETAG.encode() in answer
    told = {(one.kept.form.method, b"%d" % one.kept.form.status) for one in shelf.finished.taken()}
    assert told == (set() if status is None else {(method, status)})


# How long


def test_an_answer_ends_with_its_stamp_its_credentials_or_the_clock(shelf: Shelf) -> None:
    board, alice = shelf.board, Caller(CallerKind.USER, "alice", 7)
    shelf.add(b"alice", alice, until=1200.0)
    mine = asked("/simple/x/", "Authorization: alice")

    def keep() -> None:
        shelf.answer(mine, caller=alice, stamp=board.stamp(["name:*/x"]), until=1100.0)
        assert [shelf.ask(mine) is not None for _ in range(3)] == [True] * 3

    keep()
    shelf.now = 1099.9
    assert shelf.ask(mine) is not None
    shelf.now = 1100.0
    assert shelf.ask(mine) is None
    shelf.now = 1000.0
    assert shelf.ask(mine) is None, "forgotten"
    keep()
    board.settle(board.unsettle(["name:*/y"]))
    assert shelf.ask(mine) is not None
    touched = board.unsettle(["name:*/x"])
    assert shelf.ask(mine) is None
    board.settle(touched)
    assert shelf.ask(mine) is None
    keep()
    board.settle(board.unsettle([token_topic(7)]))
    assert shelf.ask(mine) is None
    shelf.add(b"alice", alice, until=1050.0)
    keep()
    shelf.now = 1050.0
    assert shelf.ask(mine) is None
    assert shelf.finished.size == 0


def test_a_newer_answer_takes_the_place_of_the_one_before_for_every_head(shelf: Shelf) -> None:
    heads = [asked("/simple/x/", f"User-Agent: {name}") for name in "ab"]
    shelf.answer(heads[0])
    for head in heads * 3:
        assert shelf.ask(head) is not None
    size = shelf.finished.size
    shelf.answer(heads[0], body=b"THE PAGE")
    for head in heads * 3:
        answer = shelf.ask(head)
        assert answer is not None
        assert answer.endswith(b"THE PAGE")
    assert shelf.finished.size == size


def test_nothing_is_left_after_all_was_forgotten(shelf: Shelf) -> None:
    for _ in range(3):
        shelf.answer(asked())
        shelf.ask(asked())
    shelf.finished.forget_all()
    assert shelf.finished.size == 0
    assert shelf.ask(asked()) is None
    assert len(shelf.finished.taken()) == 3


# Files


def test_the_body_of_a_file_is_read_from_it_and_then_held(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILES_ROOM", 2500)
    heads = []
    for number in range(3):
        (tmp_path / str(number)).write_bytes(BODY * 125)
        heads.append(asked(f"/files/{number}"))
        shelf.answer(heads[-1], body=BODY * 125, path=str(tmp_path / str(number)))
    for head in heads * 3:
        answer = shelf.ask(head)
        assert answer is not None
        assert answer.endswith(b"\r\n\r\n" + BODY * 125)
    # Two find room in memory, the two that were used last.
    for number in range(3):
        (tmp_path / str(number)).unlink()
    assert [shelf.ask(head) is not None for head in heads] == [False, True, True]


@pytest.mark.parametrize("content", [b"shorter", b"longer than the page", None])
def test_a_file_that_is_not_what_it_was_is_left_to_its_handler(
    shelf: Shelf, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    shelf.answer(asked(), path=str(path))
    assert shelf.ask(asked()) is not None
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert shelf.ask(asked()) is None
    assert shelf.finished.size == 0


def test_a_file_that_only_the_disk_has_is_left_to_its_handler(shelf: Shelf, tmp_path: Path) -> None:
    content = secrets.token_bytes(100_000)
    paths = [tmp_path / name for name in ("wheel", "another")]
    for path in paths:
        path.write_bytes(content)
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    # Of the other one, since whoever looks has it read.
    with paths[1].open("rb") as opened:
        if is_in_memory(opened.fileno(), len(content) - 1):
            pytest.skip("this file system keeps everything in memory, or does not tell")
    shelf.answer(asked(), body=content, path=str(paths[0]))
    assert shelf.ask(asked()) is None


def test_uses_are_told_once_for_many(shelf: Shelf) -> None:
    used: list[str] = []
    shelf.answer(asked("/x"), used=lambda: used.append("x"))
    shelf.answer(asked("/y"), used=lambda: used.append("y"))
    for _ in range(5):
        shelf.ask(asked("/x"))
    assert used == []
    shelf.finished.taken()
    assert used == ["x"]


# How much


def test_heads_of_which_no_two_are_alike_take_no_room(shelf: Shelf) -> None:
    shelf.answer(asked())
    size = shelf.finished.size
    for number in range(3000):
        assert shelf.ask(asked("/simple/x/", f"X-Request-Id: {number}-{secrets.token_hex(8)}")) is not None
        shelf.finished.taken()
    # A byte is remembered of each: some pass for known, not one in thirty.
    assert shelf.finished.size - size < 100 * 700
    # What comes again is kept.
    again = asked("/simple/x/", "User-Agent: pip")
    assert [shelf.finished.by_head(again, "") is not None, shelf.ask(again) is not None] == [False, True]
    shelf.ask(again)
    assert shelf.finished.by_head(again, "") is not None


@pytest.mark.parametrize("limit", ["_ROOM", "_HEADS_ROOM"])
def test_what_was_used_last_stays_within_bounds(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(module, limit, 50_000)
    hot = asked("/simple/hot/")
    shelf.answer(hot)
    for number in range(300):
        head = asked(f"/simple/{number}/")
        shelf.answer(head)
        for one in (head, head, hot):
            assert shelf.ask(one) is not None
        shelf.finished.taken()
    assert shelf.finished.size < (50_000 if limit == "_ROOM" else 300 * 1500) + 300 * 700
    known = [shelf.finished.by_head(asked(f"/simple/{number}/"), "") is not None for number in range(300)]
    assert known[-10:] == [True] * 10
    assert not any(known[:200])
    assert shelf.finished.by_head(hot, "") is not None


def about(*, is_file: bool) -> Subject:
    """What a request was about, with strings of its own where those of real ones are."""
    name = Name(secrets.token_hex(10))
    if not is_file:
        return Subject(ROOT, name)
    filename, key = f"{name}-1.0-py3-none-any.whl", secrets.token_hex(32)
    fetched = Fetched(name, "1.0" + secrets.token_hex(1), filename, key, "pypi", ROOT)
    return Subject(ROOT, name, None, filename, key, fetched)


def recorded(kept: Kept) -> Download:
    """What the log of downloads keeps beside a head."""
    assert kept.fetched is not None
    return kept.download or Download.of(kept.fetched, Client(None, None, ""))


@pytest.mark.parametrize(
    ("header", "length", "is_file"),
    [("Accept", 40, False), ("Accept", 40, True), ("Accept", 7000, False), ("User-Agent", 1700, False)],
)
def test_what_is_counted_is_what_it_takes(shelf: Shelf, header: str, length: int, is_file: bool) -> None:
    heads = [
        asked(f"/simple/{number}-{secrets.token_hex(40)}/", f"{header}: {secrets.token_hex(length // 2)}")
        for number in range(100)
    ]
    topics = [[f"name:*/{number}", "namespaces", f"page:pypi/{number}"] for number in range(100)]
    for head, named in zip(heads, topics, strict=True):
        # Beforehand, since slots of topics are remembered elsewhere.
        shelf.board.stamp(named)
        shelf.answer(head)
    shelf.finished.forget_all()
    tracemalloc.start()
    try:
        for head, named in zip(heads, topics, strict=True):
            shelf.answer(
                bytes(bytearray(head)),
                stamp=shelf.board.stamp(named),
                body=secrets.token_bytes(500),
                subject=about(is_file=is_file),
            )
            for _ in range(3):
                shelf.ask(bytes(bytearray(head)))
            for given in shelf.finished.taken():
                if is_file:
                    given.kept.download = recorded(given.kept)
        gc.collect()  # the requests that are made for a test are full of cycles
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.7 < taken / shelf.finished.size < 1.1


def test_heads_that_come_by_turns_do_not_hide_each_other(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PLACES", (1 << 11) - 1)
    shelf.finished = Finished(shelf.board, shelf.known.get, shelf.sight, lambda: shelf.now)
    heads = [asked("/simple/x/", f"User-Agent: {number}") for number in range(300)]
    shelf.answer(heads[0])
    for _ in range(6):
        for head in heads:
            shelf.ask(head)
    known = sum(shelf.finished.by_head(head, "") is not None for head in heads)
    assert known > 290


def test_ids_begin_anew_when_their_numbers_are_used_up(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.answer(asked())
    monkeypatch.setattr(module, "_LAST", 3)
    shelf.finished = Finished(shelf.board, shelf.known.get, shelf.sight, lambda: shelf.now)
    shelf.answer(asked())
    for _ in range(8):
        shelf.ask(asked())
    ids = [one.request_id for one in shelf.finished.taken()]
    assert len(set(ids)) == 8
    assert len({one[:8] for one in ids}) == 3
    assert all(len(one) == 16 for one in ids)
