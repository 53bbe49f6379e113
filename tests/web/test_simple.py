"""Simple pages: forms, validators, codings, links, redirects."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable
from urllib.parse import urljoin

import pytest

from tests.support.wheels import make_wheel
from tests.web.house import House, Stored, keep_house, spellings
from tests.web.wire import HTML, HTML_V1, JSON, Wire

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGE_CACHE = "private, max-age=0, must-revalidate"
VARY = "Accept, Accept-Encoding, Authorization"
TYPES = {HTML: "text/html; charset=utf-8", HTML_V1: HTML_V1, JSON: JSON}


@pytest.fixture(scope="module")
def offered(house: House) -> Stored:
    """Give an upstream wheel of a project large enough to be worth compressing."""
    stored = house.offer()
    for minor in range(1, 12):
        house.upstream.add_file(stored.name, *make_wheel(stored.name, f"1.{minor}"))
    return stored


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel of open/tools whose page is worth compressing."""
    stored = house.publish("open/tools", requires_python=">=3.8")
    for minor in range(1, 8):
        house.publish("open/tools", stored.name, f"1.{minor}", requires_python=">=3.8")
    return stored


@pytest.fixture(params=["upstream", "private"])
def page(request: pytest.FixtureRequest, offered: Stored, private: Stored) -> str:
    """Give the address of a page, one of an upstream's and one of ours."""
    return f"/open/simple/{(offered if request.param == 'upstream' else private).name}/"


@pytest.mark.parametrize("representation", [HTML, HTML_V1, JSON])
def test_a_page_has_exactly_the_headers_of_the_contract(wire: Wire, page: str, representation: str) -> None:
    answer = wire.get(page, headers={"Accept": representation})
    assert answer.status == 200
    assert answer["Content-Type"] == TYPES[representation]
    assert answer["Cache-Control"] == PAGE_CACHE
    assert answer["Vary"] == VARY
    assert re.fullmatch(r'"[!#-~]+"', answer["ETag"] or "")
    assert answer["Last-Modified"] is None
    assert answer["Content-Length"] == str(len(answer.body))


def test_a_list_of_names_has_the_headers_of_a_page(house: House, private: Stored) -> None:
    for representation in (HTML, JSON):
        answer = house.wire.get("/open/simple/", headers={"Accept": representation})
        assert answer.status == 200
        assert answer["Content-Type"] == TYPES[representation]
        assert (answer["Cache-Control"], answer["Vary"]) == (PAGE_CACHE, VARY)
        again = house.wire.get(
            "/open/simple/", headers={"Accept": representation, "If-None-Match": answer["ETag"] or ""}
        )
        assert (again.status, again.body) == (304, b"")
        assert private.name in answer.text


def test_every_representation_and_coding_has_a_tag_of_its_own(wire: Wire, page: str) -> None:
    tags = {
        (kind, coding): wire.get(page, headers={"Accept": kind, "Accept-Encoding": coding})["ETag"]
        for kind in (HTML, JSON)
        for coding in ("identity", "gzip")
    }
    assert len(set(tags.values())) == len(tags)


@pytest.mark.parametrize("representation", [HTML, HTML_V1, JSON])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_page_that_the_client_has_is_304(wire: Wire, page: str, representation: str, coding: str) -> None:
    asked = {"Accept": representation, "Accept-Encoding": coding}
    first = wire.get(page, headers=asked)
    for tags in (first["ETag"], f'"other", {first["ETag"]}', f"W/{first['ETag']}", "*"):
        for method in ("GET", "HEAD"):
            again = wire.send(method, page, headers={**asked, "If-None-Match": str(tags)})
            assert (again.status, again.body) == (304, b"")
            for header in ("ETag", "Vary", "Cache-Control", "X-Overlay-Decision"):
                assert again[header] == first[header], header
    other = wire.get(page, headers={**asked, "If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, first.body)


def test_a_tag_of_one_representation_does_not_match_another(wire: Wire, page: str) -> None:
    html = wire.get(page, headers={"Accept": HTML})
    answer = wire.get(page, headers={"Accept": JSON, "If-None-Match": html["ETag"] or ""})
    assert (answer.status, answer["Content-Type"]) == (200, JSON)


@pytest.mark.parametrize(
    ("asked", "coding", "unpack"),
    [("gzip, deflate", "gzip", gzip.decompress), ("gzip, deflate, zstd", "zstd", zstd.decompress)],
)
def test_a_page_is_packed_for_those_who_ask_and_unpacks_to_the_same(
    wire: Wire, page: str, asked: str, coding: str, unpack: Callable[[bytes], bytes]
) -> None:
    plain = wire.get(page, headers={"Accept": JSON})
    packed = wire.get(page, headers={"Accept": JSON, "Accept-Encoding": asked})
    assert (plain["Content-Encoding"], packed["Content-Encoding"]) == (None, coding)
    assert packed["ETag"] == f'{(plain["ETag"] or "")[:-1]}-{coding}"'
    assert unpack(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
    unwanted = wire.get(page, headers={"Accept": JSON, "Accept-Encoding": "gzip;q=0, identity"})
    assert (unwanted["Content-Encoding"], unwanted.body) == (None, plain.body)


def test_an_equal_page_has_the_same_bytes_and_tag_in_every_spelling(house: House, private: Stored) -> None:
    answers = [house.wire.get(f"{base}/simple/{private.name}/") for base in spellings("open")]
    assert len(answers) == 3
    assert {(answer.status, answer.body, answer["ETag"]) for answer in answers} == {
        (200, answers[0].body, answers[0]["ETag"])
    }


@pytest.mark.parametrize("base", spellings("open/tools") + spellings("open") + spellings(""))
@pytest.mark.parametrize("kind", [HTML, JSON])
@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
def test_links_are_relative_and_lead_to_the_file_behind_any_prefix(
    house: House, private: Stored, base: str, kind: str, prefix: str
) -> None:
    target = f"{base}/simple/{private.name}/"
    answer = house.wire.get(target, headers={"Accept": kind})
    if kind == JSON:
        link = next(file["url"] for file in answer.json["files"] if file["filename"] == private.filename)
    else:
        link = re.findall(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', answer.text)
        link = next(href for href, digest in link if digest == private.sha256)
    assert not re.match(r"[a-z]+:|/", link)
    address = urljoin(f"http://in.front{prefix}{target}", link).removeprefix(f"http://in.front{prefix}")
    found = house.wire.get(address)
    assert (found.status, found.body) == (200, private.content)


@pytest.mark.parametrize("base", spellings("open/tools") + spellings("open") + spellings(""))
@pytest.mark.parametrize(
    ("below", "leads_to"),
    [
        ("simple", "simple/"),
        ("simple?format=x", "simple/?format=x"),
        ("simple/flask", "simple/flask/"),
        ("simple/Flask_SQL.alchemy", "simple/flask-sql-alchemy/"),
        ("simple/Flask_SQL.alchemy/", "simple/flask-sql-alchemy/"),
        ("simple/FLASK/?format=y", "simple/flask/?format=y"),
    ],
)
def test_redirects_are_relative_permanent_and_one_hop(
    wire: Wire, base: str, below: str, leads_to: str
) -> None:
    target = f"{base}/{below}"
    for method in ("GET", "HEAD"):
        answer = wire.send(method, target)
        location = answer["Location"] or ""
        assert (answer.status, answer["Cache-Control"]) == (301, "no-store")
        assert not re.match(r"[a-z]+:|/", location)
        for prefix in ("", "/some/prefix"):
            reached = urljoin(f"http://in.front{prefix}{target}", location)
            assert reached == f"http://in.front{prefix}{base}/{leads_to}"


@pytest.mark.parametrize("below", ["simple", "simple/flask", "simple/Flask/"])
def test_redirects_of_a_private_namespace_are_for_those_who_may_read_it(house: House, below: str) -> None:
    assert house.wire.get(f"/acme/{below}").status == 401
    assert house.wire.get(f"/acme/{below}", token=house.tokens["otto"]).status == 404
    assert house.wire.get(f"/acme/{below}", token=house.tokens["rita"]).status == 301


def test_the_query_is_ignored_but_for_the_format(wire: Wire, page: str) -> None:
    plain = wire.get(page)
    for query in (
        "?",
        "?x=1",
        "?name=other&index=acme",
        "?format=xml",
        "?format=",
        "?%00=%ff",
        "?a=b&&&=;#f",
    ):
        answer = wire.get(page + query)
        assert (answer.status, answer.body, answer["ETag"]) == (200, plain.body, plain["ETag"]), query
    as_json = wire.get(f"{page}?x=1&format=application/vnd.pypi.simple.v1%2Bjson")
    assert as_json["Content-Type"] == JSON
    assert wire.get(f"{page}?format=application/vnd.pypi.simple.v1+json").body == as_json.body


def test_a_page_that_was_asked_for_says_hit_the_second_time(house: House) -> None:
    stored = house.offer()
    first, second = (house.wire.get(f"/simple/{stored.name}/")["Cache-Status"] for _ in range(2))
    assert first == "pypi-overlay; fwd=uri-miss; stored"
    assert second == "pypi-overlay; hit"


def test_a_private_page_says_that_no_upstream_took_part(house: House, private: Stored) -> None:
    for target in (
        f"/open/simple/{private.name}/",
        f"/open/files/{private.sha256}/{private.filename}",
        f"/open/files/{private.sha256}/{private.filename}.metadata",
    ):
        assert house.wire.get(target)["Cache-Status"] == "pypi-overlay; hit; detail=private", target


def test_an_upload_is_seen_at_once_whatever_was_shown_before(house: House) -> None:
    name = house.name()
    first = house.publish("open/tools", name)
    before = house.wire.get(f"/open/simple/{name}/")
    second = house.publish("open/tools", name, "2.0")
    after = house.wire.get(f"/open/simple/{name}/", headers={"If-None-Match": before["ETag"] or ""})
    assert after.status == 200
    assert second.filename in after.text
    assert first.filename in after.text


def test_a_name_that_upstream_answered_is_private_as_soon_as_it_is_published(house: House) -> None:
    offered = house.offer(version="99.0")
    assert house.wire.get(f"/open/simple/{offered.name}/")["X-Overlay-Decision"] == "upstream"
    mine = house.publish("open/tools", offered.name)
    page = house.wire.get(f"/open/simple/{offered.name}/", headers={"Accept": JSON})
    assert page["X-Overlay-Decision"] == "private"
    assert [file["filename"] for file in page.json["files"]] == [mine.filename]
    file = house.wire.get(f"/open/files/{offered.sha256}/{offered.filename}")
    assert (file.status, file["X-Overlay-Decision"]) == (404, "private")


def test_client_max_age_counts_for_upstream_pages_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    keeping = keep_house(tmp_path_factory.mktemp("kept"), cache={"client_max_age": "90s"})
    house = next(keeping)
    try:
        stored, mine = house.offer(), house.publish("open/tools")
        upstream = house.wire.get(f"/open/simple/{stored.name}/")
        assert upstream["Cache-Control"] == "private, max-age=90, must-revalidate"
        assert house.wire.get(f"/open/simple/{mine.name}/")["Cache-Control"] == PAGE_CACHE
        assert house.wire.get("/open/simple/")["Cache-Control"] == PAGE_CACHE
    finally:
        keeping.close()


def test_a_page_without_sizes_does_not_claim_more_than_it_holds(house: House) -> None:
    name = house.name("up")
    house.upstream.add_project(name, form="html")
    house.upstream.add_file(name, *make_wheel(name, "1.0"))
    page = house.wire.get(f"/simple/{name}/", headers={"Accept": JSON})
    assert json.loads(page.body)["meta"]["api-version"] == "1.0"
    assert page["X-Overlay-Decision"] == "upstream"


def test_T_HDR_nothing_that_an_upstream_sends_in_a_header_is_passed_on(house: House) -> None:
    stored = house.offer()
    house.upstream.fault(
        "/*" + stored.name + "*",
        headers={
            "Set-Cookie": "a=b",
            "X-Evil": "yes",
            "X-PyPI-Last-Serial": "7",
            "Content-Disposition": 'attachment; filename="evil.whl"',
        },
    )
    page = house.wire.get(f"/simple/{stored.name}/")
    file = house.wire.get(f"/files/{stored.sha256}/{stored.filename}")
    for answer in (page, file):
        assert answer.status == 200
        for header in ("Set-Cookie", "X-Evil", "X-PyPI-Last-Serial", "Content-Disposition"):
            assert answer[header] is None


def test_T_TOK1_credentials_of_a_client_never_reach_an_upstream(house: House) -> None:
    stored = house.offer()
    token = house.tokens["rita"]
    sent = {"Cookie": "session=abc", "PRIVATE-TOKEN": token, "X-Mine": "1"}
    assert house.wire.get(f"/simple/{stored.name}/", token=token, headers=sent).status == 200
    assert (
        house.wire.get(f"/files/{stored.sha256}/{stored.filename}", token=token, headers=sent).status == 200
    )
    asked = house.upstream.asked_for(stored.name)
    assert len(asked) == 2
    for request in asked:
        assert not {"Authorization", "Cookie", "PRIVATE-TOKEN", "X-Mine"} & set(request.headers)
        assert token not in str(request.headers)
