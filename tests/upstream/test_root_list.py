"""The list of all names of an index: JSON and HTML, other spellings, and what is none (T-POIS3, T-BOMB)."""

from __future__ import annotations

import gzip
import json
import os
from typing import Any

import pytest

from proxy.upstream import parse
from proxy.upstream.parse import JSON_TYPE, Unusable, parse_names, unzip

BASE = "https://index.example/root/simple/"


def as_json(*projects: Any, version: str = "1.4") -> bytes:
    return json.dumps({"meta": {"api-version": version, "_last-serial": 7}, "projects": projects}).encode()


def as_html(*links: str, head: str = "") -> bytes:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{''.join(links)}</body></html><!--SERIAL 7-->".encode()


def names(body: bytes, content_type: str = JSON_TYPE) -> list[str]:
    return [str(name) for name in parse_names(body, content_type, BASE)]


def test_json_names_are_normalised_and_what_is_none_is_left_out() -> None:
    entries = [{"name": "Acme.SDK", "_last-serial": 3}, {"name": "a b"}, {"name": None}, {}, 5, None]
    assert names(as_json(*entries, {"name": "zope"})) == ["acme-sdk", "zope"]
    assert names(as_json()) == []


@pytest.mark.parametrize(
    "href",
    [
        "acme-sdk/",
        "acme-sdk",
        "./Acme_SDK/",
        "/root/simple/acme-sdk/",
        "https://index.example/root/simple/acme-sdk/",
        "HTTPS://INDEX.example:443/root/simple/acme%2Dsdk/",
        "../simple/acme-sdk/#x",
    ],
)
def test_html_names_are_those_of_links_to_right_below_the_list(href: str) -> None:
    link = f'<a class="x" href="{href}">any text…</a>'
    assert names(as_html(link, '<A HREF="zope/">zope</A>'), "text/html; charset=utf-8") == [
        "acme-sdk",
        "zope",
    ]


@pytest.mark.parametrize(
    "href",
    [
        "../",
        "/help/",
        "https://elsewhere.example/root/simple/acme/",
        "acme/1.0/",
        "?C=N&O=D",
        "a%2Fb/",
        "",
        "#top",
    ],
)
def test_links_to_elsewhere_are_no_names(href: str) -> None:
    assert names(as_html(f'<a href="{href}">acme</a>', '<a href="zope/">zope</a>'), "text/html") == ["zope"]


def test_a_base_is_honoured() -> None:
    head = '<base href="https://index.example/other/">'
    assert names(as_html('<a href="/other/acme/">acme</a>', head=head), "text/html") == ["acme"]


def test_html_is_read_in_pieces_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [f"name-{number}" for number in range(200)]
    body = as_html(*(f'<a href="{name}/">{name}</a>\n' for name in wanted))
    monkeypatch.setattr(parse, "_PIECE", 64)
    assert names(body, "text/html") == wanted


def test_a_marked_list_may_be_empty() -> None:
    marked = as_html(head='<meta name="pypi:repository-version" content="1.4">')
    assert names(marked, "application/vnd.pypi.simple.v1+html") == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (as_json({"name": "acme"})[:-2], JSON_TYPE),
        (b'{"meta": {"api-version": "1.4"}, "name": "acme", "files": []}', JSON_TYPE),
        (as_json({"name": "acme"}, version="2.0"), JSON_TYPE),
        (as_json({"name": "acme"}), "application/json"),
        (as_html('<a href="acme/">acme</a>')[:60], "text/html"),
        (as_html("<h1>We'll be right back</h1>"), "text/html"),
        (as_html('<a href="https://elsewhere.example/sign-in">Sign in</a>'), "text/html"),
        (
            as_html('<a href="a/">a</a>', head='<meta name="pypi:repository-version" content="2.0">'),
            "text/html",
        ),
        (b"", JSON_TYPE),
        (b"", "text/html"),
        (b"acme\n", "text/plain"),
    ],
)
def test_T_POIS3_what_is_no_whole_list_is_unusable(body: bytes, content_type: str) -> None:
    with pytest.raises(Unusable):
        names(body, content_type)


@pytest.mark.parametrize("content", [b"", b"x" * 5_000_000, os.urandom(3_000_000)], ids=len)
def test_gzip_is_undone(content: bytes) -> None:
    assert unzip(gzip.compress(content, 1), 5_000_000) == content


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"plain",
        gzip.compress(os.urandom(3_000_000))[:-1],
        gzip.compress(b"x" * 100) + b"more",
        gzip.compress(os.urandom(1 << 20)) + gzip.compress(b"a second member"),
        gzip.compress(b"x" * 1001),
        gzip.compress(b"x" * (9 << 20)),
    ],
    ids=["empty", "plain", "cut off", "followed", "two members", "a little too much", "far too much"],
)
def test_T_BOMB_what_is_damaged_or_unpacks_to_too_much_is_unusable(body: bytes) -> None:
    with pytest.raises(Unusable):
        unzip(body, 1000 if len(body) < 100 else 1 << 30)
