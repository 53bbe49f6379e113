"""Upstream pages: what is taken over, what is left out, and what is refused whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, Status
from proxy.upstream.links import Links, urljoin_safely
from proxy.upstream.parse import HTML_TYPES, JSON_TYPE, Unusable, parse_page

BASE = "https://index.test/simple/widgets/"
NAME = Name("widgets")
SHA = "0123456789abcdef" * 4
WHEEL = "widgets-1.0-py3-none-any.whl"


def json_page(*files: Any, **more: Any) -> Page:
    body = {"meta": {"api-version": "1.4"}, "name": "widgets", "files": list(files), **more}
    return parse_page(json.dumps(body).encode(), JSON_TYPE, BASE, NAME)


def json_file(**more: Any) -> FileRecord:
    entry = {"filename": WHEEL, "url": f"https://files.test/{WHEEL}", "hashes": {"sha256": SHA}, **more}
    (record,) = json_page(entry).files
    return record


def html_page(markup: str) -> Page:
    return parse_page(markup.encode(), "text/html; charset=UTF-8", BASE, NAME)


def html_file(attributes: str) -> FileRecord:
    (record,) = html_page(f"<a {attributes}>x</a>").files
    return record


def test_a_full_json_entry_is_taken_over() -> None:
    record = json_file(
        **{
            "size": 5,
            "upload-time": "2026-01-02T03:04:05.678900Z",
            "requires-python": ">=3.8",
            "core-metadata": {"sha256": SHA.upper()},
            "yanked": "broken",
            "provenance": "https://index.test/integrity/x",
            "_private": 1,
        }
    )
    assert record == FileRecord(
        filename=WHEEL,
        sha256=SHA,
        url=f"https://files.test/{WHEEL}",
        size=5,
        uploaded=datetime(2026, 1, 2, 3, 4, 5, 678900, UTC),
        requires_python=">=3.8",
        core_metadata=SHA,
        yanked="broken",
        provenance="https://index.test/integrity/x",
        version="1.0",
    )


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("size", -1, "size", None),
        ("size", True, "size", None),
        ("size", 1.5, "size", None),
        ("size", "5", "size", None),
        ("size", None, "size", None),
        ("size", 1 << 70, "size", None),
        ("upload-time", "garbage", "uploaded", None),
        ("upload-time", "2026-01-01T00:00:00", "uploaded", None),
        ("upload-time", "0001-01-01T00:00:00+23:00", "uploaded", None),
        ("upload-time", "2026-01-01T02:00:00+02:00", "uploaded", datetime(2026, 1, 1, tzinfo=UTC)),
        ("requires-python", None, "requires_python", None),
        ("requires-python", 3, "requires_python", None),
        ("requires-python", ">=3\n.8", "requires_python", ">=3 .8"),
        ("yanked", "", "yanked", True),
        ("yanked", None, "yanked", False),
        ("yanked", True, "yanked", True),
        ("yanked", "\x00", "yanked", True),
        ("yanked", {"odd": 1}, "yanked", True),
        ("core-metadata", True, "core_metadata", True),
        ("core-metadata", False, "core_metadata", False),
        ("core-metadata", {}, "core_metadata", True),
        ("core-metadata", {"md5": "aa"}, "core_metadata", True),
        ("core-metadata", {"sha256": "nonsense"}, "core_metadata", True),
        ("core-metadata", "odd", "core_metadata", None),
        ("dist-info-metadata", {"sha256": SHA}, "core_metadata", SHA),
        ("data-dist-info-metadata", {"sha256": SHA}, "core_metadata", SHA),
        ("provenance", "http://index.test/p", "provenance", None),
        ("provenance", "/integrity/p", "provenance", None),
        ("provenance", None, "provenance", None),
        ("hashes", {"sha256": SHA.upper()}, "sha256", SHA),
        ("hashes", {"md5": "d41d8cd98f00b204e9800998ecf8427e"}, "sha256", None),
        ("hashes", None, "sha256", None),
    ],
)
def test_each_json_value_is_checked_by_itself(key: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(json_file(**{key: value}), attribute) == expected


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        None,
        {},
        {"filename": WHEEL},
        {"filename": WHEEL, "url": 1},
        {"filename": WHEEL, "url": "https://files.test/other-1.0.tar.gz"},
        {"filename": "../x-1.0.tar.gz", "url": "https://files.test/../x-1.0.tar.gz"},
        {"filename": "a/b-1.0.tar.gz", "url": "https://files.test/a%2Fb-1.0.tar.gz"},
        {"filename": "\u212aivy-1.0.tar.gz", "url": "https://files.test/%E2%84%AAivy-1.0.tar.gz"},
        {"filename": WHEEL, "url": f"file:///etc/{WHEEL}"},
        {"filename": WHEEL, "url": f"ftp://files.test/{WHEEL}"},
        {"filename": WHEEL, "url": f"javascript:{WHEEL}"},
        {"filename": WHEEL, "url": f"https://[bad/{WHEEL}"},
        {"filename": WHEEL, "url": f"https://files.test:99999/{WHEEL}"},
        {"filename": WHEEL, "url": f"https://f\u00fcr.test/{WHEEL}"},
        {"filename": WHEEL, "url": f"https://files.test/{WHEEL}", "hashes": {"sha256": "not hex"}},
        {"filename": "x" * 300 + "-1.0.tar.gz", "url": "https://files.test/" + "x" * 300 + "-1.0.tar.gz"},
    ],
)
def test_a_bad_entry_costs_itself_and_not_the_page(entry: Any) -> None:
    good = {"filename": "widgets-2.0.tar.gz", "url": "https://files.test/widgets-2.0.tar.gz", "hashes": {}}
    assert [record.filename for record in json_page(entry, good).files] == ["widgets-2.0.tar.gz"]


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        (f"../../packages/{WHEEL}#sha256={SHA}", f"https://index.test/packages/{WHEEL}"),
        (f"//mirror.test/{WHEEL}", f"https://mirror.test/{WHEEL}"),
        (f"HTTPS://User:Secret@FILES.test:443/a/{WHEEL}", f"https://files.test/a/{WHEEL}"),
        (f"https://files.test:8443/{WHEEL}?token=1#x", f"https://files.test:8443/{WHEEL}?token=1"),
        (f"https://files.test/a b/{WHEEL}", f"https://files.test/a%20b/{WHEEL}"),
    ],
)
def test_addresses_become_absolute_and_lose_fragment_and_user(href: str, expected: str) -> None:
    assert json_file(url=href).url == expected
    assert html_file(f'href="{href}"').url == expected


def test_of_equal_filenames_the_first_counts_and_the_order_stays() -> None:
    def entry(filename: str, digest: str) -> dict[str, Any]:
        return {
            "filename": filename,
            "url": f"https://files.test/{filename}",
            "hashes": {"sha256": digest},
        }

    names = ["widgets-2.0.tar.gz", WHEEL]
    page = json_page(entry(names[0], SHA), entry(names[1], SHA), entry(names[0], "f" * 64))
    assert [record.filename for record in page.files] == names
    assert page.files[0].sha256 == SHA


def test_versions_are_those_listed_and_those_of_the_files() -> None:
    entry = {"filename": WHEEL, "url": f"https://files.test/{WHEEL}", "hashes": {}}
    page = json_page(entry, versions=["0.9", "0.9", "not a version", "", 3, None, "bad\x00"])
    assert page.versions == ("0.9", "not a version", "1.0")


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        ({"status": "quarantined", "reason": "malware"}, Status.QUARANTINED, "malware"),
        ({"status": "archived"}, Status.ARCHIVED, None),
        ({"status": "invented"}, Status.ACTIVE, None),
        ({"status": ["archived"]}, Status.ACTIVE, None),
        (None, Status.ACTIVE, None),
        ("archived", Status.ACTIVE, None),
    ],
)
def test_project_status_is_taken_over_where_it_is_known(
    said: Any, status: Status, reason: str | None
) -> None:
    found = json_page(**{"project-status": said}).status
    assert (found.status, found.reason) == (status, reason)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON_TYPE),
        (b"{", JSON_TYPE),
        (b'{"name": "widgets", "files": [', JSON_TYPE),
        (b"[]", JSON_TYPE),
        (b"{}", JSON_TYPE),
        (b'{"projects": [], "meta": {"api-version": "1.4"}}', JSON_TYPE),
        (b'{"name": "widgets", "files": null}', JSON_TYPE),
        (b'{"name": "widgets", "files": {}}', JSON_TYPE),
        (b'{"name": "gadgets", "files": []}', JSON_TYPE),
        (b'{"name": 7, "files": []}', JSON_TYPE),
        (b'{"name": "not a name", "files": []}', JSON_TYPE),
        (b'{"name": "widgets", "files": [], "meta": {"api-version": "2.0"}}', JSON_TYPE),
        (b"[" * 100_000, JSON_TYPE),
        (b'{"name": "widgets", "files": []}', "application/json"),
        (b'{"name": "widgets", "files": []}', ""),
        (b"<!DOCTYPE html><h1>Links for widgets</h1>", "text/plain"),
        (b"", "text/html"),
        (b"<html><title>Sign in</title><a href='/login'>Log in</a></html>", "text/html"),
        (b"<html><a href='/static/app-1.0.js'>x</a></html>", "text/html"),
        (b"<title>Links for gadgets</title><a href='widgets-1.0.tar.gz'>x</a>", "text/html"),
        (
            b"<meta name='pypi:repository-version' content='1.0'><a href='/simple/widgets/'>widgets</a>",
            "text/html",
        ),
        (
            b"<meta name='pypi:repository-version' content='2.0'><a href='widgets-1.0.tar.gz'>x</a>",
            "text/html",
        ),
    ],
)
def test_T_POIS3_what_is_not_the_page_of_this_project_is_unusable(body: bytes, content_type: str) -> None:
    with pytest.raises(Unusable):
        parse_page(body, content_type, BASE, NAME)


@pytest.mark.parametrize(
    "markup",
    [
        "<title>Links for Widgets</title>",
        "<h1>root/pypi: links for widgets</h1>",
        "<h1>Index of /simple/widgets/</h1><a href='../'>up</a>",
        "<meta name='pypi:repository-version' content='1.4'>",
    ],
)
def test_an_html_page_that_shows_what_it_is_may_be_empty(markup: str) -> None:
    assert html_page(markup).files == ()


def test_html_attributes_are_read_with_their_entities() -> None:
    record = html_file(
        f'href="https://files.test/{WHEEL}#sha256={SHA.upper()}" data-requires-python="&gt;=3.8,&lt;4"'
        f' data-yanked="&quot;bad&quot; &amp; ugly" data-core-metadata="sha256={SHA}"'
        ' data-provenance="https://index.test/p" data-upload-time="2026-01-01T00:00:00Z"'
    )
    assert record.sha256 == SHA
    assert record.requires_python == ">=3.8,<4"
    assert record.yanked == '"bad" & ugly'
    assert record.core_metadata == SHA
    assert record.provenance == "https://index.test/p"
    assert record.uploaded == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attributes", "attribute", "expected"),
    [
        ("data-yanked", "yanked", True),
        ('data-yanked=""', "yanked", True),
        ("", "yanked", False),
        ("data-core-metadata=true", "core_metadata", True),
        ("data-core-metadata", "core_metadata", True),
        ("data-core-metadata=false", "core_metadata", False),
        ("data-core-metadata=md5=aa", "core_metadata", True),
        (f"data-dist-info-metadata=sha256={SHA}", "core_metadata", SHA),
        ("", "core_metadata", None),
        ("", "size", None),
    ],
)
def test_html_attributes_without_or_with_odd_values(attributes: str, attribute: str, expected: Any) -> None:
    assert getattr(html_file(f"href={WHEEL} {attributes}"), attribute) == expected


def test_an_md5_fragment_is_no_digest() -> None:
    record = html_file(f'href="{WHEEL}#md5=d41d8cd98f00b204e9800998ecf8427e"')
    assert (record.sha256, record.url) == (None, f"{BASE}{WHEEL}")
    assert record.key.startswith("url-")


def test_base_href_is_what_links_are_relative_to() -> None:
    page = html_page(f'<base href="/files/"><a href="{WHEEL}">x</a>')
    assert page.files[0].url == f"https://index.test/files/{WHEEL}"


def test_links_that_are_no_distributions_are_left_out() -> None:
    page = html_page(f'<a href="../">up</a><a href="{WHEEL}.asc">sig</a><a href="{WHEEL}">file</a><a>no</a>')
    assert [record.filename for record in page.files] == [WHEEL]


def test_html_project_status_is_read() -> None:
    page = html_page(
        '<meta name="pypi:repository-version" content="1.4">'
        '<meta name="pypi:project-status" content="quarantined">'
        '<meta name="pypi:project-status-reason" content="looked at">'
    )
    assert (page.status.status, page.status.reason) == (Status.QUARANTINED, "looked at")


CONTENT_TYPES = st.sampled_from([JSON_TYPE, *sorted(HTML_TYPES)])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        "filename",
        "url",
        "hashes",
        "size",
        "upload-time",
        "requires-python",
        "yanked",
        "core-metadata",
        "provenance",
    ]
)
ENTRIES = st.dictionaries(KEYS, VALUES).map(
    lambda odd: {"filename": WHEEL, "url": f"https://files.test/{WHEEL}", **odd}
)


@given(st.binary(), CONTENT_TYPES)
def test_arbitrary_bytes_are_a_page_or_unusable(body: bytes, content_type: str) -> None:
    try:
        page = parse_page(body, content_type, BASE, NAME)
    except Unusable:
        return
    assert page.name == NAME


@given(st.lists(ENTRIES, max_size=4), VALUES, VALUES, VALUES)
def test_whatever_is_read_can_be_kept_and_read_again(
    files: list[Any], versions: Any, status: Any, meta: Any
) -> None:
    body = {"files": files, "versions": versions, "project-status": status, "meta": meta}
    try:
        page = parse_page(json.dumps(body).encode(), JSON_TYPE, BASE, NAME)
    except Unusable:
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=Page) == page


@given(st.text(), st.text())
def test_any_text_in_html_attributes_can_be_kept(href: str, reason: str) -> None:
    markup = f'<a href="{href}">x</a><a href="{WHEEL}" data-yanked="{reason}">x</a>'
    try:
        page = html_page(markup)
    except (Unusable, UnicodeEncodeError):
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=Page) == page


BASES = st.sampled_from(
    [
        BASE,
        "http://127.0.0.1:8080/a/b/c/d/?x=1",
        "https://index.test",
        "https://[::1]:8443/simple/x y/",
        "https://Index.test/a//b/./c;d/%41/",
        "ftp://files.test/simple/",
        "",
    ]
)
STARTS = st.sampled_from(
    [
        *("", "/", "//", "./", "../", "../../", "../../../../../../", "?", "#", " "),
        *(
            "https://files.test/",
            "HTTPS://Files.test/",
            "https://files.test:8443/",
            "https://files.test:99999/",
        ),
        *(
            "http://files.test:80/",
            "https://user@files.test/",
            "https://-.test/",
            "https://files.test.",
            "ftp://x/",
        ),
    ]
)
PIECES = st.lists(
    st.sampled_from(
        [*"/.~%@!$&'()*+,;=:#?-_a0 \n\t", "..", "ab", WHEEL, "%2F", "\u00e9", "#sha256=" + SHA, "#md5=0", "&"]
    ),
    max_size=8,
).map("".join)


@given(BASES, st.lists(st.builds(str.__add__, STARTS, PIECES), min_size=1, max_size=4))
def test_plain_links_are_made_absolute_as_all_others_are(base: str, hrefs: list[str]) -> None:
    links = Links(base)
    absolute = [urljoin_safely(base, href) for href in hrefs]
    assert [links.absolute(href) for href in hrefs] == absolute
    assert links.all_absolute(hrefs) == absolute


@pytest.mark.parametrize("start", ["", "../../", "/", "https://files.test/"])
def test_usual_links_are_plain_up_to_the_limit_of_all(start: str) -> None:
    links = Links(BASE)
    assert links.plain(f"{start}packages/ab/{WHEEL}#sha256={SHA}") is not None
    assert links.absolute(start + "a" * 5000) is None


@pytest.mark.parametrize("start", ["", "../../", "/", "https://files.test/x/"])
@pytest.mark.parametrize(
    "odd",
    [
        "b/c",
        "-b",
        "../b",
        "./b",
        "b/..",
        "b//c",
        "b/",
        "",
        "/b",
        "//h/b",
        "b c",
        "b#c=d",
        "b?c",
        "b:c",
        "\u00e9",
    ],
)
def test_one_link_unlike_the_others_changes_none(start: str, odd: str) -> None:
    hrefs = [f"{start}a", f"{start}{odd}", f"{start}b"]
    assert Links(BASE).all_absolute(hrefs) == [urljoin_safely(BASE, href) for href in hrefs]


USUAL = {
    "filename": WHEEL,
    "url": f"../../files/ab/{WHEEL}",
    "hashes": {"sha256": SHA},
    "requires-python": ">=3.9",
    "size": 5,
    "upload-time": "2026-01-02T03:04:05.678900Z",
    "yanked": False,
    "core-metadata": {"sha256": SHA},
}
ODD: dict[str, list[Any]] = {
    "filename": ["widgets-1.0+a.zip", "widgets-2.0.tar.gz", "gadgets-1.0.tar.gz", "x", 7],
    "url": [f"https://a.test/{WHEEL}", f"//x/{WHEEL}?a=b", f"a/{WHEEL}#sha256={SHA}", "\u00e9", "", None],
    "hashes": [{}, {"sha256": SHA.upper()}, {"sha256": "0"}, {"sha256": SHA[1:] + " "}, {"sha256": 1}, None],
    "requires-python": [None, "\n>=3 ", "", 7, []],
    "size": [None, -1, 1.5, "5", True],
    "upload-time": [None, "2026-01-02T03:04:05+02:00", "2026-01-02T03:04:05", "x", 7],
    "yanked": [None, True, "", "broken", "\n", []],
    "core-metadata": [None, True, False, {}, {"sha256": "0"}, {"sha256": SHA.upper()}, "x"],
    "data-dist-info-metadata": [True, {"sha256": SHA}],
    "provenance": [None, "https://index.test/p", "http://index.test/p", 7],
}


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in ODD.items()}),
        min_size=1,
        max_size=4,
    )
)
def test_an_entry_is_read_alike_whatever_stands_beside_it(differences: list[dict[str, Any]]) -> None:
    """Together with usual ones values are checked otherwise than alone."""
    entries = [USUAL | difference for difference in differences]
    alone: dict[str, FileRecord] = {}
    for entry in [USUAL, *entries]:
        for record in json_page(entry).files:
            alone.setdefault(record.filename, record)
    assert json_page(USUAL, *entries).files == tuple(alone.values())


@pytest.mark.parametrize("odd", [None, 7, "text", []])
def test_an_entry_that_is_none_costs_no_other(odd: Any) -> None:
    entry = {"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": SHA}}
    assert json_page(entry, odd) == json_page(entry)
