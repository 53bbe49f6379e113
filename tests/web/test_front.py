"""The front on real sockets: what it answers, what it leaves to aiohttp, and that both answer alike."""

from __future__ import annotations

import fcntl
import gzip
import json
import re
import socket
import ssl
import sys
import termios
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.server.assembly import admit_owner
from proxy.web import front
from proxy.web.notes import UNDER_WAY
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Link, Reply, Stand, head
from tests.web.wire import basic

JSON = "application/vnd.pypi.simple.v1+json"
PAGE = "/simple/demo/"
PRIVATE = "/acme/simple/secret/"
AGENT = 'pip/26.3 {"ci":null}'
NOT_SAID = {"x-request-id", "date", "cache-status"}
"""Headers in which two answers with one meaning may differ."""

_numbers = count(1)


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    """Give an upstream with a page of two files."""
    with FakeUpstream() as upstream:
        for version in ("1.0", "2.0"):
            upstream.add_file("demo", *make_wheel("demo", version))
        upstream.add_file("large", *make_wheel("large", "1.0", size=400_000))
        upstream.add_project("wide", [{"make": "wheel", "version": f"{number}.0"} for number in range(1000)])
        yield upstream


@pytest.fixture(scope="module")
def config(upstream: FakeUpstream) -> dict[str, Any]:
    """Give the configuration of all stands here."""
    return {
        **base_config(upstream),
        "server": {"trusted_proxies": ["127.0.0.0/8"]},
        "users": {"rita": {}, "otto": {}},
        "groups": {
            "acme": {
                "visibility": "private",
                "members": {"rita": "maintainer"},
                "projects": {"widgets": {}},
            }
        },
    }


@pytest.fixture(scope="module")
def rita(stand: Stand) -> dict[str, str]:
    """Give the credentials of a maintainer of acme, who has published a package there."""
    credentials = {"Authorization": basic(stand.token("rita")[0])}
    publish(stand, "secret", **credentials)
    return credentials


def publish(stand: Stand, name: str, version: str = "1.0", **headers: str) -> None:
    """Upload a wheel to acme/widgets."""
    body = forms.upload(*make_wheel(name, version))
    size = str(len(body))
    with stand.link() as link:
        begun = head(
            "/acme/widgets/",
            method="POST",
            Content_Length=size,
            **(forms.FORM_TYPE | headers),
        )
        assert link.ask(begun + body).status == 201


def is_finished(reply: Reply, stand: Stand) -> bool:
    """Whether an answer came from the front: its ids count, those of handlers are random."""
    with stand.link() as link:
        for _ in range(2):
            known = link.get(PAGE)["X-Request-Id"]
    return reply["X-Request-Id"][:8] == known[:8]


def warmed(stand: Stand, link: Link, target: str, **headers: str) -> Reply:
    """Ask until the answer is kept. A file is on its way into the cache for a moment longer than to its reader."""

    def asked() -> Reply | None:
        reply = link.get(target, **headers)
        assert reply.status == 200, reply
        return reply if is_finished(reply, stand) else None

    reply = wait_until(asked, what="a kept answer")
    assert reply is not None
    return reply


def said(reply: Reply) -> tuple[int, set[tuple[str, str]], bytes]:
    """All that an answer means."""
    headers = {(key, value) for key, value in reply.headers.items() if key not in NOT_SAID}
    return reply.status, headers, reply.body


def file_of(link: Link, name: str, base: str = "", **headers: str) -> str:
    """The address of the first file of a page."""
    page = json.loads(link.get(f"{base}/simple/{name}/", Accept=JSON, **headers).body)
    return f"{base}/" + str(page["files"][0]["url"]).removeprefix("../../")


# What it answers


@pytest.mark.parametrize("what", ["json", "html", "packed", "private", "file", "metadata", "own file"])
@pytest.mark.parametrize("form", ["GET", "HEAD", "unchanged"])
def test_a_kept_answer_is_the_handlers_answer(
    stand: Stand, link: Link, rita: dict[str, str], what: str, form: str
) -> None:
    headers = {"User-Agent": AGENT}
    target = PAGE
    match what:
        case "json":
            headers["Accept"] = JSON
        case "packed":
            headers["Accept-Encoding"] = "gzip"
        case "private":
            target, headers = PRIVATE, headers | rita
        case "file" | "metadata":
            target = file_of(link, "demo") + (".metadata" if what == "metadata" else "")
        case "own file":
            target = file_of(link, "secret", "/acme", **rita)
            headers |= rita
    first = warmed(stand, link, target, **headers)
    method = "HEAD" if form == "HEAD" else "GET"
    if form == "unchanged":
        headers["If-None-Match"] = first["ETag"]
    answers = [link.ask(head(target, method=method, **headers)) for _ in range(3)]
    # A header that nobody knows takes the long way.
    handled = link.ask(head(target, "X-Unknown: 1", method=method, **headers))
    assert [is_finished(answer, stand) for answer in [*answers, handled]] == [True, True, True, False]
    assert {answer["Cache-Status"].partition("; detail")[0] for answer in answers} == {"pypi-overlay; hit"}
    assert [said(answer) for answer in answers] == [said(handled)] * 3
    assert handled.status == (304 if form == "unchanged" else 200)
    assert bool(handled.body) is (form == "GET")


def test_every_answer_has_an_id_of_its_own(link: Link) -> None:
    ids = [link.get(PAGE)["X-Request-Id"] for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)


def test_log_and_metrics_tell_of_a_kept_answer_what_they_tell_of_any(
    stand: Stand, link: Link, rita: dict[str, str]
) -> None:
    secret = "pyo_pat_" + "x" * 43
    link.get(f"/simple/{secret}/")
    headers = {"User-Agent": AGENT, "X-Forwarded-For": "203.0.113.9, 127.0.0.3"} | rita
    replies = [link.get(PRIVATE, **headers) for _ in range(3)]
    replies.append(link.get(PRIVATE, "X-Unknown: 1", **headers))
    lines = [stand.line_of(reply) for reply in replies]
    apart = [{key: line.pop(key) for key in ("time", "request_id", "ms")} for line in lines]
    assert [line == lines[3] for line in lines] == [True] * 4
    assert [list(line) for line in lines] == [list(lines[3])] * 4
    about = {"method": "GET", "path": PRIVATE, "status": 200, "client": "203.0.113.9", "agent": "pip/26.3"}
    about |= {"caller": "user:rita", "decision": "private", "bytes": len(replies[0].body)}
    assert lines[0].items() >= about.items()
    assert all(0 <= one["ms"] < 1000 for one in apart)
    before = pages_counted(stand)
    for _ in range(7):
        link.get(PAGE)
    wait_until(lambda: pages_counted(stand) == before + 7, what="seven more requests in the metrics")


def pages_counted(stand: Stand) -> float:
    with stand.link() as link:
        text = link.get("/metrics", "X-Unknown: 1").body.decode()
    pattern = r'pypi_overlay_requests_total\{[^}]*route="page"[^}]*\} (\S+)'
    return sum(float(number) for number in re.findall(pattern, text))


def test_a_kept_answer_counts_as_a_use_of_the_token(stand: Stand, rita: dict[str, str]) -> None:
    credentials = {"Authorization": basic(stand.token("rita")[0])}
    with stand.link() as link:
        for _ in range(2):
            link.get(PRIVATE, **credentials)
        stand.do(lambda: stand.instance.registry.change(stand.instance.last_use.flush))
        stand.clock += 3600
        try:
            assert is_finished(link.get(PRIVATE, **credentials), stand)
            wait_until(lambda: stand.instance.last_use.is_waiting, what="the token's use")
        finally:
            stand.clock -= 3600


def test_a_hit_runs_nothing_but_the_store_the_board_and_the_socket(stand: Stand, link: Link) -> None:
    wheel = file_of(link, "demo")
    heads = [head(PAGE, User_Agent="a"), head(PAGE, User_Agent="b"), head(wheel, User_Agent="a")]
    warmed(stand, link, wheel)
    for one in heads * 3:
        link.ask(one)
    called = calls_of(stand, lambda: [link.ask(one) for one in heads])
    # Not one statement, file or parser.
    store = {"proxy.web.front", "proxy.web.finished", "proxy.storage.board"}
    assert called["modules"] <= store, called
    assert not {"open", "read", "stat", "execute", "feed_data"} & called["functions"], called
    # Another client costs the reading of its head and a look who it is, and no more.
    called = calls_of(stand, lambda: link.get(PAGE, User_Agent="c"))
    more = {"proxy.web.heads", "proxy.web.callers", "proxy.web.app", "proxy.index.instance"}
    assert called["modules"] <= store | more, called
    assert not {"open", "read", "stat", "execute"} & called["functions"], called


def calls_of(stand: Stand, act: Callable[[], object]) -> dict[str, set[str]]:
    """What the server's thread calls while `act` waits for it, but for the telling of log and metrics."""
    called: dict[str, set[str]] = {"modules": set(), "functions": set()}

    def note(frame: Any, event: str, function: Any) -> None:
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            if module.split(".")[0] in {"proxy", "aiohttp", "sqlalchemy"}:
                called["modules"].add(module)
        elif event == "c_call":
            called["functions"].add(function.__name__)

    stand.call(stand.fronts.tell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "_GATHERING", 3600.0)
        stand.call(lambda: sys.setprofile(note))
        act()
        stand.call(lambda: sys.setprofile(None))
    stand.call(stand.fronts.tell)
    called["functions"].discard("setprofile")
    return called


# What it leaves to aiohttp


@pytest.mark.parametrize(
    "lines",
    [
        ["PRIVATE-TOKEN: {token}"],
        ["JOB-TOKEN: x"],
        ["Authorization: Bearer x", "Authorization: Bearer {token}"],
        ["Cookie: a=b"],
        ["X-Whatever: 1"],
        ["Range: bytes=0-1"],
        ["If-None-Match: *"],
        ['If-None-Match: "x", {etag}'],
        ["If-None-Match: W/{etag}"],
        ["Accept: text/html", "Accept: text/html"],
    ],
)
def test_a_header_that_might_matter_is_never_overlooked(stand: Stand, link: Link, lines: list[str]) -> None:
    kept = warmed(stand, link, PAGE)
    token, _ = stand.token("rita")
    given = [line.format(token=token, etag=kept["ETag"]) for line in lines]
    for _ in range(3):
        assert not is_finished(link.get(PAGE, *given), stand)
    # Nor does it end what the front may do on the connection.
    assert is_finished(link.get(PAGE), stand)


def test_another_single_tag_gets_the_whole_answer(stand: Stand, link: Link) -> None:
    for _ in range(2):
        link.get(PAGE)
    reply = link.get(PAGE, If_None_Match='"another"')
    assert (reply.status, is_finished(reply, stand)) == (200, True)


def test_queries_are_answered_by_handlers(stand: Stand, link: Link) -> None:
    for _ in range(3):
        reply = link.get(f"{PAGE}?format={JSON}")
        assert (reply["Content-Type"], is_finished(reply, stand)) == (JSON, False)


@pytest.mark.parametrize("ending", [b"HTTP/1.0\r\nConnection: keep-alive", b"HTTP/1.1\r\nConnection: close"])
def test_old_clients_and_those_that_want_to_close_are_aiohttps(stand: Stand, ending: bytes) -> None:
    for _ in range(3):
        with stand.link() as link:
            reply = link.ask(b"GET " + PAGE.encode() + b" " + ending + b"\r\nHost: h\r\n\r\n")
            assert (reply.status, is_finished(reply, stand)) == (200, False)
            assert b"close" not in ending or link.is_ended()


def test_a_head_in_two_pieces_is_answered_and_the_connection_is_aiohttps_from_then_on(
    stand: Stand, link: Link
) -> None:
    whole = head(PAGE)
    warmed(stand, link, PAGE)
    link.send(whole[:20])
    stand.call(lambda: None)
    # The second piece is the end of that request, whatever it looks like by itself.
    link.send(whole[20:])
    assert link.receive().status == 200
    assert not is_finished(link.ask(whole), stand)


def test_requests_in_one_piece_are_answered_in_their_order(stand: Stand, link: Link) -> None:
    warmed(stand, link, PAGE)
    link.send(head(PAGE) + head("/simple/large/") + head("/simple/", method="HEAD") + head(PAGE))
    assert b"demo-1.0" in link.receive().body
    assert b"large-1.0" in link.receive().body
    assert link.receive(is_head=True).status == 200
    assert b"demo-1.0" in link.receive().body


def test_a_request_that_comes_before_the_last_is_answered_waits_for_its_turn(
    stand: Stand, link: Link, upstream: FakeUpstream
) -> None:
    warmed(stand, link, PAGE)
    for name in ("first", "second"):
        upstream.fault(f"/simple/{name}/", delay=0.1)
    link.send(head("/simple/first/"))
    stand.call(lambda: None)
    link.send(head("/simple/second/"))
    assert b"first" in link.receive().body
    link.send(head(PAGE))
    assert b"second" in link.receive().body
    assert b"demo-1.0" in link.receive().body


def test_a_kept_head_inside_an_upload_is_never_answered(stand: Stand, link: Link) -> None:
    whole = head(PAGE)
    warmed(stand, link, PAGE)
    begun = head(
        "/acme/widgets/", method="POST", Content_Length=str(20 * len(whole)), Content_Type="text/plain"
    )
    link.send(begun)
    for _ in range(20):
        # Each as a chunk of its own.
        stand.call(lambda: None)
        link.send(whole)
    assert link.receive().status == 401
    # And a GET may have a body as well.
    with stand.link() as other:
        other.send(head(PAGE, Content_Length=str(len(whole))))
        stand.call(lambda: None)
        other.send(whole)
        assert other.receive().status == 200
        assert other.ask(head("/healthz")).body == b"ok\n"


def test_garbage_is_refused_and_harms_nobody(stand: Stand, link: Link) -> None:
    for garbage in (
        b"\x16\x03\x01\x00\xa5\x01\x00",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\0\0",
    ):
        with stand.link() as other:
            other.send(garbage + b"\r\n\r\n")
            assert other.receive().status == 400
            assert other.is_ended()
    with stand.link() as other:
        other.send(head(PAGE).replace(b"\r\n", b"\n"))
        assert other.receive().status == 400
    assert link.get(PAGE).status == 200


def test_a_client_that_says_no_more_gets_its_answer(stand: Stand) -> None:
    with stand.link() as link:
        warmed(stand, link, PAGE)
    with stand.link() as link:
        link.send(head(PAGE))
        link.socket.shutdown(socket.SHUT_WR)
        assert is_finished(link.receive(), stand)
        assert link.is_ended()


def test_nothing_piles_up_for_a_client_that_does_not_read(stand: Stand) -> None:
    target = "/simple/wide/"
    with stand.link() as link:
        for _ in range(3):
            size = len(link.get(target, Accept=JSON).body)
        begun = len(stand.log())
        asked = 100
        for _ in range(asked):
            link.send(head(target, Accept=JSON))
            # Each is a chunk of its own, as long as they are read at all.
            stand.call(lambda: None)
        stand.call(stand.fronts.tell)
        answered = len(stand.log(begun))
        assert 0 < answered < asked / 2
        # Once it reads, it gets every one.
        assert {len(link.receive().body) for _ in range(asked)} == {size}
        assert link.get("/healthz").status == 200


# What ends a kept answer


def test_a_claim_takes_effect_on_the_next_request_of_the_same_connection(
    stand: Stand, link: Link, upstream: FakeUpstream, rita: dict[str, str]
) -> None:
    name = f"taken{next(_numbers)}"
    upstream.add_file(name, *make_wheel(name, "9.0"))
    assert b"9.0" in warmed(stand, link, f"/acme/simple/{name}/", **rita).body
    address = file_of(link, name, "/acme", **rita)
    warmed(stand, link, address, **rita)
    publish(stand, name, "1.0", **rita)
    reply = link.get(f"/acme/simple/{name}/", **rita)
    assert (b"1.0" in reply.body, b"9.0" in reply.body) == (True, False)
    assert link.get(address, **rita).status == 404


def test_a_revoked_token_ends_with_the_next_request(stand: Stand, link: Link, rita: dict[str, str]) -> None:
    text, number = stand.token("rita")
    credentials = {"Authorization": basic(text)}
    warmed(stand, link, PRIVATE, **credentials)
    with stand.link() as other:
        owner = basic(owner_of(stand))
        assert other.ask(head(f"/api/v1/tokens/{number}", method="DELETE", Authorization=owner)).status == 204
    assert link.get(PRIVATE, **credentials).status == 401
    assert is_finished(link.get(PRIVATE, **rita), stand)


def owner_of(stand: Stand) -> str:
    if not stand.owner:
        stand.owner = stand.call(lambda: admit_owner(stand.instance, None)) or ""
    return stand.owner


def test_an_expired_token_ends_by_the_clock(stand: Stand, link: Link, rita: dict[str, str]) -> None:
    ends = datetime.fromtimestamp(stand.time(), UTC) + timedelta(minutes=2)
    credentials = {"Authorization": basic(stand.token("rita", expires_at=ends)[0])}
    warmed(stand, link, PRIVATE, **credentials)
    stand.clock += 121
    try:
        assert link.get(PRIVATE, **credentials).status == 401
        assert link.get(PRIVATE, **rita).status == 200
    finally:
        stand.clock -= 121


def test_a_page_whose_time_is_over_is_asked_for_anew(
    stand: Stand, link: Link, upstream: FakeUpstream
) -> None:
    name = f"old{next(_numbers)}"
    upstream.add_file(name, *make_wheel(name, "1.0"))
    warmed(stand, link, f"/simple/{name}/")
    upstream.add_file(name, *make_wheel(name, "2.0"))
    assert b"2.0" not in link.get(f"/simple/{name}/").body
    stand.clock += 3600
    try:
        assert not is_finished(link.get(f"/simple/{name}/"), stand)
    finally:
        stand.clock -= 3600


def test_another_configuration_holds_from_the_next_request_on(
    stand: Stand, link: Link, config: dict[str, Any]
) -> None:
    warmed(stand, link, PAGE)
    stand.reload(policy={"deny": ["demo"]})
    try:
        assert link.get(PAGE).status == 451
        assert stand.finished.size == 0
    finally:
        stand.reload()
    assert link.get(PAGE).status == 200


def test_a_file_that_is_gone_from_the_disk_is_fetched_anew(
    stand: Stand, link: Link, upstream: FakeUpstream
) -> None:
    name = f"gone{next(_numbers)}"
    # Too long to be held in memory, too short for another way.
    upstream.add_file(name, *make_wheel(name, "1.0", size=100_000))
    address = file_of(link, name)
    content = warmed(stand, link, address).body
    for path in Path(stand.instance.layout.cached_files).rglob("*"):
        if path.is_file():
            path.unlink()
    assert link.get(address).body == content


# Time-outs and the end


def test_connections_that_come_to_nothing_are_ended(stand: Stand) -> None:
    def look(at: float) -> None:
        stand.call(lambda: stand.fronts.look(at))

    with stand.link() as silent, stand.link() as idle, stand.link() as creeping, stand.link() as busy:
        for link in (idle, busy, creeping):
            assert link.get(PAGE).status == 200
        creeping.send(b"GET /simp")
        wait_until(lambda: stand.call(lambda: True))
        begun = stand.loop.time() + 10
        look(begun)
        look(begun + 1)
        for passed in range(5, int(front.INCOMPLETE), 5):
            creeping.send(b"l")
            look(begun + 1 + passed)
        assert busy.get(PAGE).status == 200
        look(begun + 1 + front.INCOMPLETE)
        assert creeping.is_ended()
        assert idle.get(PAGE).status == 200
        look(begun + front.INCOMPLETE + 2)
        look(begun + front.IDLE + 1)
        assert silent.is_ended()
        assert busy.get(PAGE).status == 200
        look(begun + front.IDLE + front.INCOMPLETE + 3)
        assert idle.is_ended()
        look(begun + front.IDLE + front.INCOMPLETE + 4)
        assert busy.get(PAGE).status == 200


def test_a_client_that_takes_nothing_is_let_go(stand: Stand) -> None:
    asked = 200
    with stand.link() as link, stand.link() as other:
        link.get("/simple/wide/", Accept=JSON)
        other.get(PAGE)
        for _ in range(asked):
            link.send(head("/simple/wide/", Accept=JSON))
        come_to_rest(link)
        begun = stand.loop.time()
        for passed in (0.0, front.STUCK - 1):
            stand.call(partial(stand.fronts.look, begun + passed))
        # Taking something is enough to go on.
        received = [link.receive() for _ in range(asked // 2)]
        come_to_rest(link)
        for passed in (front.STUCK, 2 * front.STUCK):
            stand.call(partial(stand.fronts.look, begun + passed))
        with pytest.raises(ConnectionError):
            receive_all(link, received)
        assert asked // 2 < len(received) < asked
        assert other.get(PAGE).status == 200


def come_to_rest(link: Link) -> None:
    """Wait until no more arrives: the system goes on filling the client's buffers for a while."""
    unread, seen = array("i", [0]), deque[int](maxlen=10)

    def is_still() -> bool:
        fcntl.ioctl(link.socket, termios.FIONREAD, unread)
        seen.append(unread[0])
        return len(seen) == 10 and len(set(seen)) == 1

    wait_until(is_still, what="the client's buffers to be full")


def receive_all(link: Link, received: list[Reply]) -> None:
    while True:
        received.append(link.receive())


def test_at_the_end_idle_connections_close_at_once_and_others_with_their_answer(
    tmp_path: Path, config: dict[str, Any], upstream: FakeUpstream
) -> None:
    upstream.add_file("slow", *make_wheel("slow", "1.0"))
    upstream.fault("/simple/slow/", delay=0.5)
    with Stand(tmp_path, config) as stand:
        with stand.link() as idle, stand.link() as kept, stand.link() as asking, stand.link() as piping:
            for _ in range(2):
                reply = kept.get(PAGE)
            asking.send(head("/simple/slow/"))
            # What is behind an answer that is out is an answer that is owed as well.
            piping.send(head("/healthz") + head("/simple/slow/"))
            assert piping.receive().status == 200
            wait_until(lambda: len(stand.app[UNDER_WAY]) == 2, what="both requests")
            stand.end()
            assert idle.is_ended()
            assert kept.is_ended()
            for owed in (asking, piping):
                assert owed.receive().status == 200
                assert owed.is_ended()
        assert is_logged(tmp_path, reply)


def is_logged(directory: Path, reply: Reply) -> bool:
    wait_until(lambda: reply["X-Request-Id"] in (directory / "log").read_text(), what="the line in the log")
    return True


def test_the_same_through_TLS(tmp_path: Path, config: dict[str, Any]) -> None:
    authority = trustme.CA()
    server, client = (ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with (
        Stand(tmp_path, config, tls=server) as stand,
        socket.create_connection(stand.address) as plain,
        closing(client.wrap_socket(plain, server_hostname="127.0.0.1")) as wrapped,
    ):
        link = Link(wrapped)
        ids = [link.get(PAGE)["X-Request-Id"][:8] for _ in range(4)]
        assert ids[1] == ids[2] == ids[3] != ids[0]
        packed = link.get(PAGE, Accept_Encoding="gzip")
        assert b"demo-1.0" in gzip.decompress(packed.body)
