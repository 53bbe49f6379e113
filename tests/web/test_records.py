"""What is recorded of requests: downloads, warnings and the requests themselves, whichever way an answer went."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.names import Name
from proxy.storage.downloads import Wanted, list_downloads
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Link, Reply, Stand, head
from tests.web.wire import basic

JSON = "application/vnd.pypi.simple.v1+json"
FILENAME = "demo-1.0-py3-none-any.whl"
AWAY = {"X-Unknown": "1"}
"""A header with which a request takes the long way."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    """Give an upstream with a few files."""
    with FakeUpstream() as upstream:
        for name in ("demo", "spied"):
            upstream.add_file(name, *make_wheel(name, "1.0"))
        upstream.add_project("bare", hashes=["md5"])
        upstream.add_file("bare", *make_wheel("bare", "1.0"))
        yield upstream


@pytest.fixture(scope="module")
def config(upstream: FakeUpstream) -> dict[str, Any]:
    """Give the configuration of the stand."""
    return {
        **base_config(upstream),
        "server": {"trusted_proxies": ["127.0.0.0/8"]},
        "log": {"requests": "requests.jsonl"},
        "users": {"rita": {}},
        "policy": {"deny": ["spied"], "warn": ["deny"]},
        "groups": {
            "acme": {"visibility": "public", "members": {"rita": "maintainer"}, "projects": {"widgets": {}}}
        },
    }


def address_of(link: Link, name: str, base: str = "", **headers: str) -> str:
    page = json.loads(link.get(f"{base}/simple/{name}/", Accept=JSON, **headers).body)
    return f"{base}/" + str(page["files"][0]["url"]).removeprefix("../../")


def warmed(link: Link, target: str, **headers: str) -> None:
    """Ask until the answer comes from the front, which counts its ids."""

    def is_counted() -> bool:
        one, other = (link.get(target, **headers)["X-Request-Id"] for _ in range(2))
        return int(other, 16) == int(one, 16) + 1

    wait_until(is_counted, what="a kept answer")


def fetched(stand: Stand, name: str, **wanted: Any) -> list[dict[str, Any]]:
    """What is on record of a name."""
    stand.call(stand.fronts.tell)
    stand.do(stand.instance.downloads.flush)
    query = partial(list_downloads, wanted=Wanted(Name(name), **wanted), limit=1000)
    return stand.instance.cache.read_now(query)


def recorded(stand: Stand) -> list[dict[str, Any]]:
    """The lines of the record of requests."""
    log = stand.instance.request_log
    assert log is not None
    stand.call(stand.fronts.tell)
    stand.do(log.flush)
    lines = Path(stand.instance.layout.request_log("requests.jsonl")).read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def test_a_download_says_who_fetched_what_and_from_where(stand: Stand, link: Link) -> None:
    text, number = stand.token("rita")
    headers = {"Authorization": basic(text), "X-Forwarded-For": "192.0.2.7"}
    target = address_of(link, "demo", "/acme")
    assert link.get(target, **headers).status == 200

    one = fetched(stand, "demo", since=stand.instance.started_at)[0]
    assert one.pop("at") >= "2026-01-01"
    assert one == {
        "name": "demo",
        "version": "1.0",
        "filename": FILENAME,
        "sha256": target.split("/")[-2],
        "source": "pypi",
        "index": "acme",
        "token_id": number,
        "user": "rita",
        "address": "192.0.2.7",
    }


def test_each_way_of_an_answer_is_counted_once(stand: Stand, link: Link) -> None:
    target = address_of(link, "demo")
    warmed(link, target)
    before = len(fetched(stand, "demo"))
    for _ in range(3):
        link.get(target)
        link.get(target, **AWAY)
    link.get(target, Range="bytes=0-9", **AWAY)
    assert len(fetched(stand, "demo")) == before + 7


@pytest.mark.skipif(sys.platform == "darwin", reason="one loopback address alone")
def test_the_same_head_from_elsewhere_is_recorded_with_that_address(stand: Stand, link: Link) -> None:
    target = address_of(link, "demo")
    warmed(link, target)
    before = len(fetched(stand, "demo"))
    with stand.link("127.0.0.2") as other:
        for asking in (link, other, link, other, other):
            assert asking.get(target).status == 200
    found = fetched(stand, "demo")
    assert len(found) == before + 5
    assert sorted(one["address"] for one in found[:5]) == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 3


def test_what_takes_no_bytes_of_a_file_is_no_download(stand: Stand, link: Link) -> None:
    target = address_of(link, "demo")
    warmed(link, target)
    etag = link.get(target)["ETag"]
    before = len(fetched(stand, "demo"))
    for headers in ({}, AWAY):
        assert link.ask(head(target, method="HEAD", **headers)).status == 200
        assert link.get(target, If_None_Match=etag, **headers).status == 304
        assert link.get(target + ".metadata", **headers).status == 200
        assert link.get(target.replace("1.0", "2.0"), **headers).status == 404
    assert len(fetched(stand, "demo")) == before


def test_a_private_file_names_its_project(stand: Stand, link: Link) -> None:
    credentials = {"Authorization": basic(stand.token("rita")[0])}
    body = forms.upload(*make_wheel("own", "1.0"))
    sent = forms.FORM_TYPE | credentials
    begun = head("/acme/widgets/", method="POST", Content_Length=str(len(body)), **sent)
    with stand.link() as other:
        # Behind a body a connection is aiohttp's for good.
        assert other.ask(begun + body).status == 201
    target = address_of(link, "own")
    warmed(link, target)

    found = fetched(stand, "own")
    assert {(one["source"], one["index"], one["user"]) for one in found} == {("acme/widgets", "/", None)}


def test_a_file_whose_page_names_no_digest_has_that_of_its_content(stand: Stand, link: Link) -> None:
    target = address_of(link, "bare")
    assert "/url-" in target
    assert link.get(target).status == 200
    warmed(link, target)

    found = fetched(stand, "bare")
    assert {len(one["sha256"]) for one in found} == {64}
    assert len({one["sha256"] for one in found}) == 1


def test_a_rule_that_only_warns_stands_in_the_log_whichever_way_the_answer_went(
    stand: Stand, link: Link
) -> None:
    def line(reply: Reply) -> dict[str, Any]:
        assert reply.status == 200
        stand.call(stand.fronts.tell)
        return stand.line_of(reply)

    for target in ("/simple/spied/", address_of(link, "spied")):
        warmed(link, target)
        said = [line(link.get(target)), line(link.get(target, **AWAY))]
        assert [one.get("warned") for one in said] == ["deny spied"] * 2
    assert "warned" not in line(link.get("/simple/demo/"))


def test_warnings_are_counted(stand: Stand, link: Link) -> None:
    def count() -> float:
        stand.call(stand.fronts.tell)
        text = link.get("/metrics").body.decode()
        found = [line for line in text.splitlines() if line.startswith("pypi_overlay_warned_total")]
        return float(found[0].split()[-1]) if found else 0.0

    warmed(link, "/simple/spied/")
    before = count()
    link.get("/simple/spied/")
    link.get("/simple/spied/", **AWAY)
    assert count() == before + 2


def test_every_decided_request_is_recorded_whichever_way_its_answer_went(stand: Stand, link: Link) -> None:
    text, number = stand.token("rita", scopes=["read_api"])
    target = address_of(link, "demo")
    warmed(link, target)
    before = len(recorded(stand))
    link.get(target)
    link.get(f"{target}.metadata", **AWAY)
    link.get("/acme/simple/nothing/", Authorization=basic(text))
    link.get("/pypi/spied/json")
    link.get("/healthz")
    link.get("/simple/")
    found = recorded(stand)[before:]

    assert all(one.pop("at").endswith("Z") for one in found)
    nobody = {"kind": "anonymous"}
    key = target.split("/")[-2]
    file = {"index": "", "name": "demo", "caller": nobody, "decision": "upstream"}
    rita = {"kind": "user", "user": "rita", "token": number, "scopes": ["read_api"]}
    spied = {"index": "", "name": "spied", "caller": nobody, "decision": "upstream"}
    assert sorted(found, key=str) == sorted(
        [
            {**file, "filename": FILENAME, "key": key},
            {**file, "filename": FILENAME, "key": key},
            {"index": "acme", "name": "nothing", "caller": rita, "decision": "unknown"},
            spied,
        ],
        key=str,
    )
    assert text not in json.dumps(found)


def test_downloads_that_are_kept_for_no_time_are_not_recorded(stand: Stand, link: Link) -> None:
    target = address_of(link, "demo")
    stand.reload(audit={"downloads": "0s"})
    try:
        warmed(link, target)
        before = len(fetched(stand, "demo"))
        link.get(target)
        link.get(target, **AWAY)
        assert len(fetched(stand, "demo")) == before
    finally:
        stand.reload()
