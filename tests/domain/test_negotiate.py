"""Negotiation: what real clients send, the vectors of protocol 9.1, and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.negotiate import Coding, Representation, coding, negotiate, wants_json_error

HTML, HTML_V1, JSON = Representation.HTML, Representation.HTML_V1, Representation.JSON

PIP = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01"
UV = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, HTML),
        ("", HTML),
        ("*/*", HTML),
        ("text/html", HTML),
        ("text/*", HTML),
        (BROWSER, HTML),
        (PIP, JSON),
        (UV, JSON),
        ("application/vnd.pypi.simple.v1+json, */*;q=0.1", JSON),
        ("application/vnd.pypi.simple.v1+json;q=0.1, */*", JSON),
        ("application/vnd.pypi.simple.latest+json", JSON),
        ("Application/VND.pypi.simple.V1+JSON", JSON),
        ("application/vnd.pypi.simple.v1+html", HTML_V1),
        ("application/vnd.pypi.simple.latest+html", HTML_V1),
        ("application/vnd.pypi.simple.v1+json;q=0, text/html", HTML),
        ("application/vnd.pypi.simple.v1+json;q=0", HTML),
        ("application/vnd.pypi.simple.v1+json;q=0, application/*", HTML_V1),
        ("application/vnd.pypi.simple.v1+json;q=0.1, text/html;q=0.9", HTML),
        ("application/vnd.pypi.simple.v1+json;charset=utf-8;q=0.1, text/html;q=0.9", HTML),
        ("text/html, application/vnd.pypi.simple.v1+html, application/vnd.pypi.simple.v1+json", JSON),
        ("text/html, application/vnd.pypi.simple.v1+html", HTML_V1),
        ("application/vnd.pypi.simple.v2+json", HTML),
        ("application/vnd.pypi.simple.v2+json, application/vnd.pypi.simple.v1+json;q=0.5", JSON),
        ("application/json", HTML),
        ("application/*", JSON),
        ("application/*, */*;q=0.1", JSON),
        ("application/*;q=0.1, text/*;q=0.2", HTML),
        ("image/*", HTML),
        ("garbage;;;", HTML),
        ("garbage;;;, application/vnd.pypi.simple.v1+json", JSON),
        ("text/html;q=abc", HTML),
        ("application/vnd.pypi.simple.v1+json;q=abc, application/vnd.pypi.simple.v1+html", HTML_V1),
        ("application/vnd.pypi.simple.v1+json;q=2, application/vnd.pypi.simple.v1+html", HTML_V1),
        ("application/vnd.pypi.simple.v1+json;q=nan, application/vnd.pypi.simple.v1+html", HTML_V1),
        ("application/vnd.pypi.simple.v1+json ; Q = 1.000 , text/html", JSON),
    ],
)
def test_accept_chooses_the_representation(accept: str | None, expected: Representation) -> None:
    assert negotiate(accept, None) is expected


@pytest.mark.parametrize(
    ("accept", "wanted", "expected"),
    [
        ("text/html", "application/vnd.pypi.simple.v1+json", JSON),
        ("text/html", "application/vnd.pypi.simple.v1 json", JSON),
        ("text/html", "application/vnd.pypi.simple.latest+json", JSON),
        (PIP, "text/html", HTML),
        (PIP, "application/vnd.pypi.simple.latest+html", HTML_V1),
        ("text/html", "xml", HTML),
        (PIP, "application/json", JSON),
        (PIP, "*/*", JSON),
        (PIP, "", JSON),
        (None, "text/html, application/vnd.pypi.simple.v1+json", HTML),
    ],
)
def test_a_known_format_wins_over_accept_and_another_is_ignored(
    accept: str | None, wanted: str, expected: Representation
) -> None:
    assert negotiate(accept, wanted) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, Coding.IDENTITY),
        ("", Coding.IDENTITY),
        ("gzip", Coding.GZIP),
        ("gzip, deflate, br", Coding.GZIP),
        ("GZIP", Coding.GZIP),
        ("x-gzip", Coding.GZIP),
        ("br", Coding.IDENTITY),
        ("identity", Coding.IDENTITY),
        ("*", Coding.GZIP),
        ("*;q=0", Coding.IDENTITY),
        ("gzip;q=0", Coding.IDENTITY),
        ("gzip;q=0.000, *", Coding.IDENTITY),
        ("gzip; q=0.5, identity", Coding.IDENTITY),
        ("gzip;q=0.5, identity;q=0.5", Coding.GZIP),
        ("gzip;q=0.5, *;q=0", Coding.GZIP),
        ("gzip;q=x", Coding.IDENTITY),
        ("gzip, deflate, br, zstd", Coding.ZSTD),
        ("zstd", Coding.ZSTD),
        ("ZSTD;q=0.9, gzip;q=0.9", Coding.ZSTD),
        ("zstd;q=0.9, gzip", Coding.GZIP),
        ("zstd, gzip;q=0.9", Coding.ZSTD),
        ("zstd;q=0, gzip", Coding.GZIP),
        ("zstd;q=0, gzip;q=0", Coding.IDENTITY),
        ("zstd;q=0.5, identity", Coding.IDENTITY),
        ("*, zstd;q=0", Coding.GZIP),
        ("*;q=0.5, zstd;q=0.4", Coding.GZIP),
    ],
)
def test_the_best_liked_coding_is_taken_and_zstd_among_equals(
    accept_encoding: str | None, expected: Coding
) -> None:
    assert coding(accept_encoding) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("*/*", False),
        ("application/*", False),
        (PIP, False),
        ("application/problem+json", False),
        ("application/json", True),
        ("text/html, Application/JSON;q=0.1", True),
        ("application/json;q=0", False),
    ],
)
def test_errors_are_json_for_who_names_it(accept: str | None, expected: bool) -> None:
    assert wants_json_error(accept) is expected


_PIECES = st.lists(
    st.sampled_from(
        [
            "text/html",
            "application/vnd.pypi.simple.v1+json",
            "*/*",
            "text/*",
            "*",
            ";",
            ",",
            "q=",
            "0.5",
            "1",
            " ",
            '"',
            "\x00",
            "é",
        ]
    ),
    max_size=12,
).map("".join)


@given(st.none() | st.text() | _PIECES, st.none() | st.text() | _PIECES)
def test_no_header_at_all_is_an_error(header: str | None, wanted: str | None) -> None:
    assert negotiate(header, wanted) in Representation
    assert coding(header) in Coding
    assert wants_json_error(header) in (True, False)
