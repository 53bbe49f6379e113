"""Lists of names with those of upstreams: on the wire, for different callers, and while the upstream fails."""

from __future__ import annotations

import gzip
import re
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.forked import ForkedServer
from tests.support.upstream import FakeUpstream
from tests.web.house import House, config
from tests.web.wire import HTML, HTML_V1, JSON, Answer, receive

COUNT = 9000
"""Made-up names of the upstream: more than fit into one piece."""
LIST = "/listed/simple/"
GROUPS: dict[str, Any] = {
    "listed": {
        "visibility": "public",
        "policy": {"list_upstream": True, "reserve": ["listed-*"]},
        "projects": {"tools": {}, "hidden": {"visibility": "private"}},
    },
    "broken": {
        "visibility": "public",
        "policy": {"list_upstream": True, "upstreams": ["second"]},
        "projects": {"tools": {}},
    },
    "other": {"visibility": "public", "projects": {"tools": {}}},
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("names")
    with FakeUpstream(names=COUNT) as upstream:
        for name in ("Zope.Interface", "acme", "listed-not"):
            upstream.add_project(name)
        settings = config(upstream, groups=GROUPS)
        settings["upstreams"]["second"] = {"index_url": f"{upstream.url}/second/simple/"}
        with ForkedServer(settings, directory) as server:
            yield House(server, upstream)


def names(answer: Answer) -> list[str]:
    """The names on a list, packed or not, in its order."""
    body = gzip.decompress(answer.body) if answer["Content-Encoding"] else answer.body
    answer = Answer(answer.status, answer.reason, answer.headers, body)
    if answer["Content-Type"] == JSON:
        return [project["name"] for project in answer.json["projects"]]
    links = re.findall(r'<a href="([^"]*)/">([^<]*)</a>', answer.text)
    assert all(href == text for href, text in links)
    return [text for _, text in links]


def test_a_list_has_the_upstreams_names_and_ours_in_order_each_once(house: House) -> None:
    mine = [
        house.publish("listed/tools", name).name for name in ("made-up-0000007", "aaa", "made-up-0004000x")
    ]
    answer = house.wire.get(LIST, headers={"Accept": JSON})
    shown = names(answer)
    assert (answer.status, answer.json["meta"]) == (200, {"api-version": "1.4"})
    assert shown == sorted(set(shown))
    assert {"acme", "zope-interface", "made-up-0000000", f"made-up-{COUNT - 1:07}", *mine} <= set(shown)
    assert "listed-not" not in shown
    assert names(house.wire.get(LIST, headers={"Accept": HTML})) == shown


def test_only_where_it_is_on_are_upstreams_names_listed(house: House) -> None:
    theirs = house.publish("other/tools")
    assert names(house.wire.get("/other/simple/")) == [theirs.name]
    assert "acme" not in names(house.wire.get("/simple/"))


def test_a_name_that_the_caller_may_not_see_is_left_out_and_no_other(house: House) -> None:
    house.publish("listed/hidden", "made-up-0000100")
    secret = house.publish("listed/hidden")
    for token, sees in ((None, False), (house.owner, True)):
        shown = names(house.wire.get(LIST, token=token))
        assert ("made-up-0000100" in shown, secret.name in shown) == (sees, sees)
        assert "made-up-0000101" in shown


@pytest.mark.parametrize("kind", [HTML, HTML_V1, JSON])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_long_list_has_the_headers_of_a_page(house: House, kind: str, coding: str) -> None:
    asked = {"Accept": kind, "Accept-Encoding": coding}
    answer = house.wire.get(LIST, headers=asked)
    assert answer.whole
    assert (answer["Content-Type"] or "").partition(";")[0] == kind
    assert answer["Content-Encoding"] == (None if coding == "identity" else "gzip")
    assert answer["Cache-Control"] == "private, max-age=0, must-revalidate"
    assert answer["Vary"] == "Accept, Accept-Encoding, Authorization"
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert re.fullmatch(r'"[!#-~]+"', answer["ETag"] or "")
    head = house.wire.head(LIST, headers=asked)
    assert (head.status, head.body) == (200, b"")
    for header in ("Content-Type", "Content-Encoding", "ETag", "Vary", "Cache-Control"):
        assert head[header] == answer[header]


def test_every_form_of_a_long_list_has_a_tag_of_its_own(house: House) -> None:
    tags = {
        house.wire.head(LIST, headers={"Accept": kind, "Accept-Encoding": coding})["ETag"]
        for kind in (HTML, JSON)
        for coding in ("identity", "gzip")
    }
    assert len(tags) == 4


def test_a_packed_list_is_one_gzip_member_with_the_same_bytes(house: House) -> None:
    plain = house.wire.get(LIST, headers={"Accept": JSON})
    packed = house.wire.get(LIST, headers={"Accept": JSON, "Accept-Encoding": "gzip"})
    inflater = zlib.decompressobj(wbits=31)
    assert inflater.decompress(packed.body) + inflater.flush() == plain.body
    assert (inflater.eof, inflater.unused_data) == (True, b"")
    assert house.wire.get(LIST, headers={"Accept": JSON, "Accept-Encoding": "gzip"}).body == packed.body


@pytest.mark.parametrize("kind", [HTML, JSON])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_T_POIS2_a_list_that_the_client_has_is_304_until_something_is_published(
    house: House, kind: str, coding: str
) -> None:
    asked = {"Accept": kind, "Accept-Encoding": coding}
    tag = house.wire.get(LIST, headers=asked)["ETag"] or ""
    for method in ("GET", "HEAD"):
        again = house.wire.send(method, LIST, headers={**asked, "If-None-Match": tag})
        assert (again.status, again.body, again["ETag"]) == (304, b"", tag)
        assert again["Vary"] == "Accept, Accept-Encoding, Authorization"
    mine = house.publish("listed/tools")
    after = house.wire.get(LIST, headers={**asked, "If-None-Match": tag})
    assert after.status == 200
    assert mine.name in names(after)


def test_a_client_of_the_last_century_gets_a_list_too(house: House) -> None:
    with socket.create_connection(house.wire.address, 10) as connection:
        connection.sendall(f"GET {LIST} HTTP/1.0\r\nHost: {house.wire.host}\r\n\r\n".encode())
        answer = receive(connection)
    assert (answer.status, answer["Transfer-Encoding"]) == (200, None)
    assert names(answer) == names(house.wire.get(LIST))


def test_a_client_that_leaves_in_the_middle_of_a_list_leaves_no_trace(house: House) -> None:
    begin = house.log_end()
    with socket.create_connection(house.wire.address, 10) as connection:
        connection.sendall(f"GET {LIST} HTTP/1.1\r\nHost: {house.wire.host}\r\n\r\n".encode())
        connection.recv(100)
    assert house.wire.get(LIST).whole
    assert not [line for line in house.log(begin) if line["level"] in {"error", "critical"}]


def test_T_DOS_lists_never_make_the_upstream_work(house: House) -> None:
    house.upstream.reset_requests()
    for _ in range(5):
        assert house.wire.get(LIST).status == 200
    assert house.upstream.requests() == []


def test_a_list_stays_while_the_upstream_fails_also_over_a_restart(house: House) -> None:
    before = house.wire.get(LIST)
    house.upstream.stop()
    try:
        house.server.restart()
        after = house.wire.get(LIST)
        assert (after.status, after.body, after["ETag"]) == (200, before.body, before["ETag"])
    finally:
        house.upstream.start()


def test_without_any_list_yet_trouble_is_told_as_trouble(house: House) -> None:
    """The second upstream answers 404 for its list: that says nothing of the names it has."""
    mine = house.publish("broken/tools")
    for kind in (HTML, JSON, "application/json"):
        answer = house.wire.get("/broken/simple/", headers={"Accept": kind})
        assert (answer.status, answer["Cache-Control"]) == (502, "no-store")
        assert 0 < int(answer["Retry-After"] or 0) <= 5
        assert mine.name not in answer.text
    assert house.wire.get(f"/broken/simple/{mine.name}/").status == 200
    assert house.wire.get("/broken/tools/simple/").status == 502
    assert house.wire.get("/simple/").status == 200
