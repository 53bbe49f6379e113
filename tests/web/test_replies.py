"""Which answers may be kept finished, and as what; a large file behind what its connection still has to send."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request

from proxy.domain.access import sight
from proxy.domain.decision import Asked, Decision, Word
from proxy.domain.names import Name
from proxy.domain.negotiate import Coding, Representation
from proxy.domain.pages import Page
from proxy.domain.screen import Screened
from proxy.index.answers import PageAnswer
from proxy.index.variants import Variant
from proxy.web import replies
from proxy.web.notes import KEEP, Keepable
from tests.support.trees import OWNER, tree_of

TREE = tree_of("groups: {}")
STAMP = ((0, 2), (77, 4))
VARIANT = Variant(b"packed", '"tag-json-gzip"', Coding.GZIP)


async def _no_files() -> Screened:
    return Screened(Page(Name("gears")))


def answer(*, is_keepable: bool = True) -> PageAnswer:
    asked = Asked(TREE.root, Name("gears"), sight(OWNER, TREE))
    decision = Decision(Word.UPSTREAM, "", (), upstream="pypi")
    good_until = 1e9 if is_keepable else 0.0
    return PageAnswer(asked, decision, STAMP[:1], STAMP, _no_files, is_keepable, good_until, "hit")


def test_a_page_may_be_kept_as_the_bytes_that_it_was_sent_as() -> None:
    request = make_mocked_request("GET", "/simple/gears/")
    reply = replies.page(request, VARIANT, Representation.JSON, answer())
    assert (reply.status, reply.body) == (200, b"packed")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert request[KEEP] == Keepable(STAMP, 1e9, '"tag-json-gzip"', b"packed")


@pytest.mark.parametrize(
    ("method", "tag", "is_keepable"),
    [("GET", "", False), ("GET", '"tag-json-gzip"', True), ("HEAD", "", True)],
)
def test_a_page_is_not_kept_without_its_bytes_or_a_settled_stamp(
    method: str, tag: str, is_keepable: bool
) -> None:
    request = make_mocked_request(method, "/simple/gears/", headers={"If-None-Match": tag})
    replies.page(request, VARIANT, Representation.JSON, answer(is_keepable=is_keepable))
    assert KEEP not in request


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"Range": "bytes=0-1"}, 206),
        ("GET", {"Range": "bytes=9-"}, 416),
        ("GET", {"If-None-Match": '"digest"'}, 304),
        ("HEAD", {}, 200),
    ],
)
async def test_a_file_may_be_kept_where_all_of_it_is_sent(
    tmp_path: Path, method: str, headers: dict[str, str], status: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    request = make_mocked_request(method, "/files/", headers=headers)
    keepable = Keepable(STAMP, None, '"digest"', None, str(path), 7)
    reply = await replies.file(request, path.open("rb"), 7, '"digest"', {}, keepable)
    assert reply.status == status
    assert request.get(KEEP) == (keepable if (method, status) == ("GET", 200) else None)


async def test_a_large_file_never_overtakes_what_its_connection_still_has_to_send(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 << 20))
    limits, stuffed = [], 0

    async def answer_behind_zeros(request: web.Request) -> web.StreamResponse:
        nonlocal stuffed
        transport = request.transport
        assert transport is not None
        limits.append(transport.get_write_buffer_limits())
        full = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        with full:
            try:
                while True:
                    stuffed += full.send(bytes(1 << 16))
            except BlockingIOError:
                pass
        reply = await replies.file(request, path.open("rb"), 3 << 20, '"digest"', {})
        limits.append(transport.get_write_buffer_limits())
        return reply

    application = web.Application()
    application.router.add_get("/", answer_behind_zeros)
    async with TestServer(application) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n")
        received = await reader.read()
        writer.close()
    head, _, body = received[stuffed:].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == path.read_bytes()
    assert limits[0] == limits[1]
