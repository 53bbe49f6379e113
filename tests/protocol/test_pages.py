"""Traps of pages (protocol 1.3, 1.4, 2.2, 2.3), over the whole corpus and over what upstreams send."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.domain.names import Name
from proxy.domain.negotiate import Representation
from proxy.domain.render import render_page
from proxy.upstream.parse import parse_page
from tests.protocol.corpus import NAMES, PAGES, bodies

BASE = "https://index.example.org/simple/gears/"
SHA = "0123456789abcdef" * 4
UPLOAD_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
HATCH = re.compile(r"<a [^>]+>([^<]+)</a>")
"""How hatch reads a page before it publishes."""

STRANGE_KEYS = {
    "_last-serial": 7,
    "namespaces": ["gears-*"],
    "alternate-locations": ["https://evil.example.org/simple/gears/"],
    "tracks": ["https://evil.example.org/simple/gears/"],
    "unheard-of": {"of": "evil.example.org"},
}
JSON_PAGE = {
    "meta": {"api-version": "1.5", "_last-serial": 7, "tracks": ["https://evil.example.org/simple/gears/"]},
    "name": "gears",
    "versions": ["1.0"],
    **STRANGE_KEYS,
    "files": [
        {
            "filename": "gears-1.0.tar.gz",
            "url": "https://files.example.org/gears-1.0.tar.gz",
            "hashes": {"blake2b_256": SHA, "md5": SHA[:32], "sha256": SHA},
            "size": 1,
            "gpg-sig": True,
            "comment": "evil.example.org",
            **STRANGE_KEYS,
        }
    ],
}
HTML_PAGE = f"""<!DOCTYPE html><html><head><title>Links for gears</title>
<meta name="pypi:repository-version" content="1.4">
<meta name="pypi:tracks" content="https://evil.example.org/simple/gears/">
<meta name="pypi:alternate-locations" content="https://evil.example.org/simple/gears/">
</head><body><h1>Links for gears</h1><a href="../../gears-1.0.tar.gz#sha256={SHA}" data-gpg-sig="true"
 onclick="evil.example.org">gears-1.0.tar.gz</a></body></html><!--SERIAL 7-->"""
HANDED_ON = re.compile("serial|namespaces|alternate-locations|tracks|evil|gpg|md5|blake", re.IGNORECASE)


@pytest.mark.parametrize("form", [Representation.JSON, Representation.HTML])
@pytest.mark.parametrize("representation", [Representation.JSON, Representation.HTML])
def test_of_an_upstreams_page_nothing_is_handed_on_but_what_is_on_the_list(
    form: Representation, representation: Representation
) -> None:
    sent = json.dumps(JSON_PAGE) if form is Representation.JSON else HTML_PAGE
    assert HANDED_ON.search(sent)
    page = parse_page(sent.encode(), str(form), BASE, Name("gears"))
    assert [file.sha256 for file in page.files] == [SHA]
    written = render_page(page, representation).decode()
    assert HANDED_ON.search(written) is None
    # PyPI's 1.5 is not ours to say.
    assert "1.5" not in written


def values(said: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a JSON document with the keys that lead to it."""
    if isinstance(said, dict):
        for key, value in said.items():
            yield from values(value, (*path, key))
    elif isinstance(said, list):
        for value in said:
            yield from values(value, path)
    else:
        yield path, said


def written(representation: Representation) -> Iterator[tuple[str, str]]:
    for title, body in bodies(representation):
        yield title, body.decode()


def test_no_key_that_a_client_reads_is_null_or_an_empty_text() -> None:
    """uv refuses a whole page for a null, and pip and uv differ on an empty `yanked` (protocol 1.4)."""
    for title, text in written(Representation.JSON):
        for path, value in values(json.loads(text)):
            assert path[0] == "_withheld" or value not in {None, ""}, (title, path)


def test_the_only_digest_of_a_file_is_its_sha256() -> None:
    """pip verifies the first digest alone, and stops at one that it does not know (protocol 1.4)."""
    for title, text in written(Representation.JSON):
        for file in json.loads(text).get("files", ()):
            assert set(file["hashes"]) <= {"sha256"}, title
    for title, text in written(Representation.HTML):
        for href in re.findall(r'<a href="([^"]*)"', text):
            assert re.fullmatch(r"(sha256=[0-9a-f]{64})?", href.partition("#")[2]), (title, href)


def test_times_have_a_zone_and_no_more_than_six_digits() -> None:
    """One that is otherwise ends pip, and makes uv refuse the page (protocol 1.4)."""
    found = [
        value
        for _, text in written(Representation.JSON)
        for path, value in values(json.loads(text))
        if path[-1] == "upload-time"
    ]
    assert found
    assert all(map(UPLOAD_TIME.fullmatch, found))


def test_a_link_has_no_query_and_ends_in_the_filename() -> None:
    """pip and uv build the address of metadata differently from one with a query, and pip reads names from it."""
    for title, text in written(Representation.JSON):
        for file in json.loads(text).get("files", ()):
            assert not {"?", "#", ":"} & set(file["url"]), title
            assert file["url"].rpartition("/")[2].replace("%2B", "+") == file["filename"], title
    for title, text in written(Representation.HTML):
        for href, shown in re.findall(r'<a href="([^"#]*)[^>]*>([^<]*)</a>', text):
            assert not {"?", ":"} & set(href), title
            if title in PAGES:
                assert href.rpartition("/")[2].replace("%2B", "+") == shown, title


def test_hatch_reads_every_page_by_its_expression() -> None:
    for title, text in written(Representation.HTML):
        if title in PAGES:
            found = [html.unescape(shown) for shown in HATCH.findall(text)]
            assert found == [file.filename for file in PAGES[title].files], title


def test_poetry_takes_the_links_of_a_list_for_names() -> None:
    for title, text in written(Representation.HTML):
        if title in NAMES:
            assert [href.rstrip("/") for href in re.findall(r'href="([^"]*)"', text)] == sorted(NAMES[title])


def test_a_page_says_no_base_and_no_address_of_a_host() -> None:
    for title, text in written(Representation.HTML):
        assert "<base" not in text, title
        assert re.search(r'href="(?:[a-z]+:|//)', text) is None, title
