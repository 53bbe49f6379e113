"""Two ways lead to an answer, the handlers' and that of the front, and nobody can tell them apart.

However a client asks, whatever it sends at once or in pieces, on one connection: it is answered what a handler
answers, each request its own, in the order in which they were sent.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.web.heads import READ, read_head
from proxy.web.notes import KEEP
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Link, Reply, Stand, head
from tests.web.wire import basic

JSON = "application/vnd.pypi.simple.v1+json"
DEMO, WIDE = "/simple/demo/", "/simple/wide/"
OWN = "/acme/simple/secret/"
LARGE = 400_000
NOT_SAID = {"x-request-id", "date", "cache-status"}
"""Headers in which two answers with one meaning may differ."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Give a server with pages and files of an upstream, and with one of its own that is private."""
    with FakeUpstream() as upstream:
        upstream.add_file("demo", *make_wheel("demo", "1.0"))
        upstream.add_file("large", *make_wheel("large", "1.0", size=LARGE))
        upstream.add_project("wide", [{"make": "wheel", "version": f"{number}.0"} for number in range(300)])
        acme = {"visibility": "private", "members": {"rita": "maintainer"}, "projects": {"widgets": {}}}
        config = {
            **base_config(upstream),
            "users": {"rita": {}, "otto": {}},
            "groups": {"acme": acme},
            "limits": {"failed_logins": "100000/1m"},
        }
        with Stand(tmp_path_factory.mktemp("stand"), config) as stand:
            yield stand


@pytest.fixture(scope="module")
def rita(stand: Stand) -> dict[str, str]:
    """Give the credentials of somebody who has published a package."""
    credentials = {"Authorization": basic(stand.token("rita")[0])}
    body = forms.upload(*make_wheel("secret", "1.0"))
    size = str(len(body))
    begun = head("/acme/widgets/", method="POST", Content_Length=size, **(forms.FORM_TYPE | credentials))
    with stand.link() as link:
        assert link.ask(begun + body).status == 201
    return credentials


@pytest.fixture(scope="module")
def credentials(stand: Stand, rita: dict[str, str]) -> dict[str, str | None]:
    """Give values of `Authorization`: of somebody who may read everything, of others, and of nobody."""
    (value,) = rita.values()
    text = base64.b64decode(value.partition(" ")[2]).decode().partition(":")[2]
    other = stand.token("otto")[0]
    return {
        "none": None,
        "rita": value,
        "in other letters": value.replace("Basic", "bAsIC"),
        "bearer": f"Bearer {text}",
        "her name": basic(text, "rita"),
        "his name": basic(text, "otto"),
        "otto": basic(other),
        "both": f"{value}, {basic(other)}",
        "wrong": basic(text[:-1]),
        "empty": "",
        "no token": "Basic Og==",
        "no scheme": text,
        "no letters": "Basic \xff",
    }


@pytest.fixture(scope="module")
def files(stand: Stand, rita: dict[str, str]) -> dict[str, str]:
    """Give the addresses of files that lie here."""
    with stand.link() as link:
        files = {name: file_of(link, name) for name in ("demo", "large")}
        for target in files.values():
            wait_until(partial(is_cached, link, target), what="the file in the cache")
        return files | {"secret": file_of(link, "secret", "/acme", **rita)}


def file_of(link: Link, name: str, base: str = "", **headers: str) -> str:
    page = json.loads(link.get(f"{base}/simple/{name}/", Accept=JSON, **headers).body)
    return f"{base}/" + str(page["files"][0]["url"]).removeprefix("../../")


def is_cached(link: Link, target: str) -> bool:
    return link.get(target)["Cache-Status"].endswith("; hit")


# However it is asked


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([DEMO, WIDE, OWN, "demo", "secret"]),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(
        [None, "", "*/*", "text/html", JSON, f"{JSON};q=0.1, text/html", "x;;", "\xe9", "application/*"]
    ),
    st.sampled_from(
        [None, "", "gzip", "zstd", "gzip, zstd", "identity", "*", "gzip;q=0", "zstd;q=0.5,gzip", "br"]
    ),
    st.sampled_from(
        [None, None, "same", "of another coding", '"x"', "", '"', '"a,b"', "*", "W/same", "same, same"]
    ),
    st.data(),
)
def test_a_kept_answer_says_what_a_handler_says(
    stand: Stand,
    credentials: dict[str, str | None],
    files: dict[str, str],
    target: str,
    method: str,
    accept: str | None,
    coding: str | None,
    condition: str | None,
    data: Any,
) -> None:
    target = files.get(target, target)
    headers = {}
    # Mostly those who may read what is asked for.
    who = data.draw(st.sampled_from(["rita", "none"]) | st.sampled_from(sorted(credentials)))
    authorization = credentials[who]
    if authorization is not None:
        headers["Authorization"] = authorization
    if accept is not None:
        headers["Accept"] = accept
    if coding is not None:
        headers["Accept-Encoding"] = coding
    with stand.link() as link:
        if condition is not None:
            tags = {"same": link.get(target, **headers)["ETag"]}
            tags["of another coding"] = link.get(target, **headers, Accept_Encoding="gzip")["ETag"]
            for word, tag in tags.items():
                condition = condition.replace(word, tag)
            headers["If-None-Match"] = condition
        request = head(target, method=method, **headers)
        given = [said(link.ask(request)) for _ in range(3)]
        # A header that nobody knows takes the long way.
        assert given == [said(link.ask(head(target, "X-Unknown: 1", method=method, **headers)))] * 3


def said(reply: Reply) -> tuple[int, set[tuple[str, str]], bytes]:
    """All that an answer means; of errors, which tell ids, not the words."""
    headers = {(key, value) for key, value in reply.headers.items() if key not in NOT_SAID}
    return reply.status, headers, reply.body if reply.status < 400 else b""


# What it depends on

TOLD = {"method", "raw_path", "query", "headers", "version"}
"""Attributes of requests of which a plain head tells all."""
WITHIN = {"app", "get", "transport"}
FOR_THE_LOG = "proxy.web.observed"


@dataclass
class Readers:
    """What the code of this package reads of one request, but for the log."""

    attributes: set[str] = field(default_factory=set)
    headers: set[str] = field(default_factory=set)


class Noted:
    """Headers whose readers are noted."""

    def __init__(self, headers: Any, readers: Readers) -> None:
        self._headers = headers
        self._readers = readers

    def get(self, name: str, default: Any = None) -> Any:
        self._readers.headers.add(name.lower())
        return self._headers.get(name, default)

    def getall(self, name: str, default: Any = None) -> Any:
        self._readers.headers.add(name.lower())
        return self._headers.getall(name, default)

    # `__getitem__`, `items` and the like are missing: whoever comes to use them is to be noted as well.


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[web.Request, Readers]]:
    """Give a list that takes up each request from now on, with what is read of it."""
    noted: list[tuple[web.Request, Readers]] = []
    found = web.Request.__getattribute__

    def note(request: web.Request, name: str) -> Any:
        value = found(request, name)
        modules = list(modules_above(2))
        if not modules[0].startswith("proxy.") or FOR_THE_LOG in modules:
            return value
        readers = next((readers for one, readers in noted if one is request), None)
        if readers is None:
            readers = Readers()
            noted.append((request, readers))
        readers.attributes.add(name)
        return Noted(value, readers) if name == "headers" else value

    monkeypatch.setattr(web.Request, "__getattribute__", note)
    return noted


def modules_above(depth: int) -> Iterator[str]:
    """The modules of all callers, the nearest first."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back


def test_no_kept_answer_depends_on_what_a_plain_head_may_say_besides(
    stand: Stand, rita: dict[str, str], files: dict[str, str], noted: list[tuple[web.Request, Readers]]
) -> None:
    beside = [files[name] + ".metadata" for name in ("demo", "secret")]
    targets = [
        DEMO,
        OWN,
        "/acme/widgets/simple/secret/",
        "/acme/widgets/+simple/secret/",
        *files.values(),
        *beside,
    ]
    with stand.link() as link:
        link.get(beside[0])
        for target in targets:
            for headers in ({}, {"Accept": JSON, "Accept-Encoding": "gzip"}, {"If-None-Match": '"x"'}):
                link.get(target, "X-Unknown: 1", **headers, **rita)
    kept = [readers for request, readers in noted if request.get(KEEP) is not None]
    assert len(kept) >= 3 * len(targets)
    for readers in kept:
        assert readers.attributes <= TOLD | WITHIN
        for name in readers.headers - {name.decode() for name in READ}:
            found = read_head(head("/", f"{name}: x"))
            assert found is None or not found.is_plain, name
    assert {name.decode() for name in READ} <= set.union(*(readers.headers for readers in kept))


# Many requests at once


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, and what of its answer tells it from those to the others."""

    data: bytes
    status: int
    etag: str
    body: bytes
    is_last: bool
    """The connection ends behind it."""

    @property
    def is_head(self) -> bool:
        return self.data.startswith(b"HEAD")


@pytest.fixture(scope="module")
def requests(stand: Stand, files: dict[str, str]) -> list[Sent]:
    """Give requests of every kind, each with what it is answered on a connection of its own."""
    with stand.link() as link:
        etag = link.get(DEMO)["ETag"]
    small, large = files["demo"], files["large"]
    inside = head(DEMO) * 3
    lines = [
        head(DEMO),
        head(DEMO, Accept=JSON),
        head(DEMO, method="HEAD"),
        head(DEMO, If_None_Match=etag),
        head(WIDE),
        head(small),
        head(small, method="HEAD"),
        head(large),
        head(large, Range="bytes=5-399000"),
        head(large, method="HEAD"),
        head("/simple/demo"),
        head("/healthz"),
        head(f"{DEMO}?format={JSON}"),
        head("/nothing/at/all/"),
        head("http://h/simple/demo/"),
        head("/acme/../simple/demo/"),
        head(DEMO, Content_Length=str(len(inside))) + inside,
        head(DEMO, Transfer_Encoding="chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(inside), inside),
        head("/acme/widgets/", method="POST", Content_Length=str(len(inside)), Content_Type="text/plain")
        + inside,
        head("/acme/widgets/", method="DELETE"),
        head(DEMO, method="get"),
        head(DEMO, Connection="close"),
        head(DEMO).replace(b"Host: h\r\n", b""),
        head(DEMO).replace(b"HTTP/1.1", b"HTTP/1.0"),
        head(DEMO).replace(b"\r\n", b"\n"),
        head(DEMO, "A : b"),
        head(DEMO, Content_Length="0", Transfer_Encoding="chunked") + inside,
    ]
    return [answered(stand, one) for one in lines]


def answered(stand: Stand, data: bytes) -> Sent:
    with stand.link() as link:
        reply = link.ask(data)
        try:
            is_last = link.get(DEMO).status != 200
        except ConnectionError:
            is_last = True
        return Sent(data, reply.status, reply["ETag"], meant(reply), is_last)


def meant(reply: Reply) -> bytes:
    """The body; of errors only that there is one: they tell ids."""
    return reply.body if reply.status < 400 else b"error"


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_each_request_gets_its_own_answer_wherever_the_bytes_are_cut(
    stand: Stand, requests: list[Sent], data: Any
) -> None:
    going_on = [one for one in requests if not one.is_last]
    sent = data.draw(st.lists(st.sampled_from(going_on), min_size=1, max_size=7))
    before = b"".join(one.data for one in sent)
    last = data.draw(st.sampled_from(requests))
    ends = [sum(len(one.data) for one in sent[:number]) for number in range(1, len(sent) + 1)]
    # Mostly between two requests, where the front has its say.
    cuts = data.draw(st.sets(st.sampled_from(ends) | st.integers(1, len(before)), max_size=8))
    places = [0, *sorted(cuts | {len(before)})]
    with stand.link() as link:
        for begin, end in pairwise(places):
            send_as_chunk(stand, link, before[begin:end])
        # What cannot be read comes alone: of what stands before it in one chunk aiohttp forgets the rest.
        send_as_chunk(stand, link, last.data)
        for one in [*sent, last]:
            reply = link.receive(is_head=one.is_head)
            assert (reply.status, reply["ETag"], meant(reply)) == (one.status, one.etag, one.body), one.data
        assert link.is_ended() if last.is_last else link.get(DEMO, Accept=JSON).body.startswith(b"{")


def send_as_chunk(stand: Stand, link: Link, data: bytes) -> None:
    """Send it, and let the server read it before anything else comes."""
    link.send(data)
    stand.call(lambda: None)
