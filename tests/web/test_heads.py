"""What the front takes for one whole request, and what of it for a plain one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.web.heads import read_head

PLAIN = b"GET /simple/x/ HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nUser-Agent: pip\r\n\r\n"


def with_line(line: bytes) -> bytes:
    return PLAIN[:-2] + line + b"\r\n\r\n"


def test_a_plain_head_says_what_its_answer_depends_on() -> None:
    head = read_head(with_line(b'IF-None-Match:  "a" \r\nAuthorization: Bearer t\r\nAccept-Encoding: gzip'))
    assert head is not None
    assert (head.target, head.is_head, head.is_plain) == (b"/simple/x/", False, True)
    assert head.headers[b"if-none-match"] == b'"a"'
    assert head.headers[b"authorization"] == b"Bearer t"
    assert head.headers[b"accept"] == b"text/html"
    other = read_head(PLAIN.replace(b"GET", b"HEAD"))
    assert other is not None
    assert (other.is_head, other.is_plain) == (True, True)


@pytest.mark.parametrize(
    "line",
    [
        b"Range: bytes=0-1",
        b"If-Range: x",
        b"If-Modified-Since: Sat, 21 Nov 2026 18:48:54 GMT",
        b"Cookie: a=b",
        b"PRIVATE-TOKEN: x",
        b"DEPLOY-TOKEN: x",
        b"JOB-TOKEN: x",
        b"X-Something: x",
        b"accept: text/html",
        b"Connection: close",
        b"Connection: keep-alive, x",
        b"Connection:",
        b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2",
    ],
)
def test_a_head_that_says_more_is_not_plain(line: bytes) -> None:
    head = read_head(with_line(line))
    assert head is not None
    assert not head.is_plain


@pytest.mark.parametrize(
    "target", [b"/simple/x/?format=a", b"http://h/simple/x/", b"*", b"//h/x?", b"h:80", b"x"]
)
def test_a_target_that_is_no_mere_path_is_not_plain(target: bytes) -> None:
    head = read_head(PLAIN.replace(b"/simple/x/", target))
    assert head is None or not head.is_plain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        PLAIN[:-1],
        PLAIN + b"x",
        PLAIN + PLAIN,
        b"\r\n" + PLAIN,
        PLAIN.replace(b"GET", b"POST"),
        PLAIN.replace(b"GET", b"get"),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"\r\nAccept", b"\nAccept"),
        PLAIN.replace(b"\r\nAccept", b"\rAccept"),
        PLAIN.replace(b"\r\nAccept", b"\r\n Accept"),
        PLAIN.replace(b"Accept:", b"Accept :"),
        PLAIN.replace(b"pip", b"p\0p"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/2.0"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.1 x"),
        PLAIN.replace(b" HTTP/1.1", b""),
        with_line(b"Content-Length: 0"),
        with_line(b"Content-Length: 5"),
        with_line(b"Transfer-Encoding: chunked"),
        with_line(b"Expect: 100-continue"),
        with_line(b"Upgrade: h2c\r\nConnection: Upgrade"),
        with_line(b"Upgrade: h2c"),
        with_line(b"Cookie: " + b"x" * 9000),
    ],
)
def test_what_is_not_one_whole_request_without_a_body_is_nothing(data: bytes) -> None:
    assert read_head(data) is None


def test_a_head_without_host_is_left_to_aiohttp_which_refuses_it() -> None:
    head = read_head(PLAIN.replace(b"Host: h\r\n", b""))
    assert head is not None
    assert not head.is_plain


def test_an_older_version_is_not_plain() -> None:
    head = read_head(PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert head is not None
    assert not head.is_plain


BEGINNINGS = [
    b"GET /x HTTP/1.1",
    b"HEAD /x/%2F HTTP/1.1",
    b"GET /x HTTP/1.0",
    b"GET /x?y HTTP/1.1",
    b"POST /x HTTP/1.1",
]
LINES = [
    *(
        b"Host: h",
        b"Host: h",
        b"Host: h",
        b"Accept: a",
        b"accept: b",
        b"X-Y: \xff",
        b"A:\tb \t",
        b"A:",
        b"Connection: keep-alive",
    ),
    *(b"Connection: close", b"Content-Length: 3", b"Content-Length: 0", b"Transfer-Encoding: chunked"),
    *(
        b"Upgrade: x",
        b"Connection: upgrade",
        b"Expect: 100-continue",
        b" folded",
        b"A : b",
        b"",
        b"GET / HTTP/1.1",
    ),
    *(b"A: \0", b"A: b\r", b"A: b\nC: d", b"\n", b"abc"),
]
ENDS = [b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\n", b"\r\n", b"\n\n", b"\r\n\r\nabc"]


@settings(max_examples=400)
@given(st.sampled_from(BEGINNINGS), st.lists(st.sampled_from(LINES), max_size=4), st.sampled_from(ENDS))
def test_aiohttp_takes_every_head_for_the_same_single_request(
    beginning: bytes, lines: list[bytes], end: bytes
) -> None:
    data = b"\r\n".join([beginning, *lines]) + end
    head = read_head(data)
    if head is None:
        return
    loop = asyncio.new_event_loop()
    try:
        parser: Any = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        try:
            messages, is_upgraded, tail = parser.feed_data(data)
        except HttpProcessingError:
            # It refuses it; then it is never answered, and nothing of it kept.
            assert not head.is_plain
            return
        ((message, payload),) = messages
    finally:
        loop.close()
    assert (is_upgraded, tail, payload) == (False, b"", EMPTY_PAYLOAD)
    assert message.path.encode("utf-8", "surrogateescape") == head.target
    assert message.method == ("HEAD" if head.is_head else "GET")
    if head.is_plain:
        assert message.version == (1, 1)
        assert not message.should_close
        names = [name.lower() for name, _ in message.raw_headers]
        assert len(names) == len(set(names))
        assert {name.lower(): value.strip() for name, value in message.raw_headers} == head.headers
