"""Negotiation (protocol 9.1), through the server."""

from __future__ import annotations

import pytest

from tests.web.house import House, Stored
from tests.web.wire import HTML, HTML_V1, JSON

PIP = f"{JSON}, {HTML_V1}; q=0.1, text/html; q=0.01"
UV = f"{JSON}, {HTML_V1};q=0.2, text/html;q=0.01"
POETRY = f"{JSON}, */*;q=0.1"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

ROWS = [
    (None, HTML),
    ("*/*", HTML),
    ("text/html", HTML),
    ("text/*", HTML),
    (BROWSER, HTML),
    (PIP, JSON),
    (UV, JSON),
    (POETRY, JSON),
    ("application/vnd.pypi.simple.latest+json", JSON),
    (HTML_V1, HTML_V1),
    ("application/vnd.pypi.simple.latest+html", HTML_V1),
    (f"{JSON};q=0, text/html", HTML),
    (f"{JSON};q=0.1, text/html;q=0.9", HTML),
    ("application/vnd.pypi.simple.v2+json", HTML),
    (f"application/vnd.pypi.simple.v2+json, {JSON};q=0.5", JSON),
    ("application/json", HTML),
    ("application/*", JSON),
    ("garbage;;;", HTML),
    ("text/html;q=abc", HTML),
    ("", HTML),
    (",,;q=,", HTML),
    ("\xff\xfe", HTML),
    ("a/" * 4000, HTML),
]


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel that anybody may read."""
    return house.publish("open/tools")


@pytest.fixture(scope="module")
def places(house: House, private: Stored) -> list[str]:
    """Give an address of everything that is sent in several types: pages of ours and of an upstream's, lists."""
    offered = house.offer()
    pages = [
        f"/open/simple/{private.name}/",
        f"/open/tools/simple/{private.name}/",
        f"/simple/{offered.name}/",
    ]
    return [*pages, "/open/simple/", "/simple/"]


@pytest.mark.parametrize(("accept", "expected"), ROWS)
def test_the_type_that_is_sent(house: House, places: list[str], accept: str | None, expected: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    for target in places:
        answer = house.wire.get(target, headers=headers)
        assert answer.status == 200
        assert (answer["Content-Type"] or "").split(";")[0] == expected, target
        assert {"Accept", "Accept-Encoding"} <= set((answer["Vary"] or "").split(", "))


def test_several_Accept_headers_count_as_one(house: House, private: Stored) -> None:
    answer = house.wire.get(
        f"/open/simple/{private.name}/", headers=[("Accept", "text/html;q=0.5"), ("Accept", JSON)]
    )
    assert answer["Content-Type"] == JSON


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"format={JSON}", JSON),
        (f"format={JSON.replace('+', '%2B')}", JSON),
        (f"format={HTML_V1}", HTML_V1),
        ("format=text/html", HTML),
        ("format=application/vnd.pypi.simple.latest%2Bjson", JSON),
        ("format=xml", HTML_V1),
        ("format=", HTML_V1),
        ("format=application/json", HTML_V1),
        (f"Format={JSON}", HTML_V1),
    ],
)
def test_format_wins_over_Accept_where_it_is_known(
    house: House, places: list[str], query: str, expected: str
) -> None:
    for target in places:
        answer = house.wire.get(f"{target}?{query}", headers={"Accept": HTML_V1})
        assert (answer["Content-Type"] or "").split(";")[0] == expected, target


def test_T_POIS2_a_304_varies_as_the_page_does(house: House, places: list[str]) -> None:
    for target in places:
        for kind in (HTML, HTML_V1, JSON):
            page = house.wire.get(target, headers={"Accept": kind})
            again = house.wire.get(target, headers={"Accept": kind, "If-None-Match": page["ETag"] or ""})
            assert (again.status, again["Vary"]) == (304, page["Vary"]), target


def test_a_list_of_names_in_every_type_has_the_same_names(house: House, private: Stored) -> None:
    as_json = house.wire.get("/open/simple/", headers={"Accept": JSON}).json
    as_html = house.wire.get("/open/simple/").text
    assert as_json["meta"]["api-version"] == "1.4"
    names = [entry["name"] for entry in as_json["projects"]]
    assert private.name in names
    assert names == sorted(set(names))
    for name in names:
        assert f'<a href="{name}/">{name}</a>' in as_html
