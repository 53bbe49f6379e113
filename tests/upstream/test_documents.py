"""Documents of an upstream's JSON API: what is taken, and what a hostile one comes to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.domain.documents import MAX_DESCRIPTION, FileNote, UpstreamDocument, Vulnerability
from proxy.domain.names import Name
from proxy.domain.snapshot import UpstreamSettings
from proxy.errors import UpstreamFaulty
from proxy.observe.metrics import Metrics
from proxy.upstream.client import Found, Upstream
from proxy.upstream.documents import MAX_ITEMS, MAX_TEXT, parse_document
from proxy.upstream.parse import Unusable
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

GEARS = Name("gears")
SHA = "a" * 64
INFO: dict[str, Any] = {"name": "Gears", "version": "1.0"}


def parse(document: object, *, version: str | None = None) -> UpstreamDocument:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_document(body, "application/json; charset=utf-8", GEARS, version)


def entry(**said: Any) -> dict[str, Any]:
    return {"digests": {"sha256": SHA}, **said}


def test_what_is_on_the_list_is_taken() -> None:
    found = parse(
        {
            "info": {
                **INFO,
                "summary": "turn",
                "classifiers": ["A"],
                "requires_dist": ["cogs"],
                "project_urls": {"Home": "https://gears.example/"},
                "unheard_of": "x",
            },
            "last_serial": 3,
            "releases": {
                "0.9": [entry(digests={"sha256": "B" * 64, "md5": "C" * 32}, url="https://files.example/x")],
                "1.0": [entry(comment_text="old", packagetype="bdist_egg", python_version="2.7")],
            },
            "urls": [entry(comment_text="new", upload_time="2020-01-02T03:04:05")],
            "vulnerabilities": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "link": "https://osv.example/1"}],
        }
    )
    assert (found.name, found.version, found.about.name) == (GEARS, "1.0", "Gears")
    assert (found.about.summary, found.about.classifiers) == ("turn", ("A",))
    assert found.about.requires_dist == ("cogs",)
    assert found.about.project_urls == {"Home": "https://gears.example/"}
    assert found.files == (
        FileNote("b" * 64, md5="c" * 32),
        FileNote(SHA, comment="new", uploaded=datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
    )
    assert found.vulnerabilities == (
        Vulnerability("PYSEC-1", link="https://osv.example/1", aliases=("CVE-1",)),
    )


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"info": []}',
        b'{"info": {"name": "gears", "version": "1.0"}',
        b'{"info": {"name": "\xff", "version": "1.0"}}',
        b'{"info": ' + b"[" * 100_000,
        {},
        {"info": {"name": "gears"}},
        {"info": {"version": "1.0"}},
        {"info": {"name": None, "version": "1.0"}},
        {"info": {"name": "gears", "version": 1}},
        {"info": {"name": "gears", "version": ""}},
        {"info": {"name": "gears", "version": "1" * 300}},
        {"info": {"name": "gears\n", "version": "1.0"}},
    ],
    ids=str,
)
def test_T_POIS3_what_is_no_document_is_unusable(document: object) -> None:
    with pytest.raises(Unusable):
        parse(document)


def test_T_POIS3_another_projects_document_is_unusable() -> None:
    with pytest.raises(Unusable, match="it is that of cogs"):
        parse({"info": {"name": "cogs", "version": "1.0"}})


def test_T_POIS3_another_versions_document_is_unusable() -> None:
    assert parse({"info": INFO}, version="1.0.0").version == "1.0"
    with pytest.raises(Unusable, match="another version"):
        parse({"info": INFO}, version="1.1")


def test_another_content_type_is_unusable() -> None:
    with pytest.raises(Unusable, match="application/json"):
        parse_document(json.dumps({"info": INFO}).encode(), "text/html", GEARS, None)


@pytest.mark.parametrize("odd", [None, 1, True, "text", [], {}, [[]], [None], {"a": 1}, [{}], -1.5])
def test_a_value_of_another_type_counts_as_absent(odd: object) -> None:
    keys = ("summary", "description", "classifiers", "requires_dist", "home_page", "license", "project_urls")
    info = dict.fromkeys(keys, odd) | INFO
    found = parse(
        {
            "info": info,
            "releases": {"1.0": odd} if isinstance(odd, list) else odd,
            "urls": odd,
            "vulnerabilities": odd,
        }
    )
    about = found.about
    assert isinstance(about.summary, str)
    assert about.home_page == ""
    assert about.classifiers in ((), ("text",))
    assert about.project_urls is None
    assert (found.files, found.vulnerabilities) == ((), ())


@pytest.mark.parametrize(
    "broken",
    [
        *({}, [], None, "x", {"digests": None}, {"digests": {"sha256": "short"}}, {"digests": {"sha256": 5}}),
        {"digests": {"sha256": "g" * 64}},
    ],
    ids=str,
)
def test_a_bad_file_spoils_no_other(broken: object) -> None:
    found = parse({"info": INFO, "releases": {"1.0": [broken, entry()], "2.0": [broken]}, "urls": [broken]})
    assert found.files == (FileNote(SHA),)


def test_of_a_file_only_what_makes_sense_is_noted() -> None:
    (note,) = parse(
        {
            "info": INFO,
            "urls": [
                entry(
                    digests={"sha256": SHA, "md5": "../x", "blake2b_256": 7},
                    md5_digest=["x"],
                    comment_text={"a": 1},
                    packagetype="evil",
                    python_version="<script>",
                    upload_time="yesterday",
                    upload_time_iso_8601=12,
                )
            ],
        }
    ).files
    assert note == FileNote(SHA)


def test_T_SSRF2_only_web_addresses_are_taken() -> None:
    info: dict[str, Any] = {
        **INFO,
        "home_page": "javascript:alert(1)",
        "download_url": "file:///etc/passwd",
        "project_urls": {"Bad": "data:text/html,x", "Worse": ["https://x/"], "Good": "https://x/"},
    }
    advisory = {"id": "PYSEC-1", "link": "javascript:alert(1)"}
    found = parse({"info": info, "vulnerabilities": [advisory]})
    assert (found.about.home_page, found.about.download_url) == ("", "")
    assert found.about.project_urls == {"Good": "https://x/"}
    assert found.vulnerabilities[0].link == ""


def test_what_is_huge_is_cut() -> None:
    long = "x" * (MAX_DESCRIPTION + 1)
    found = parse(
        {"info": {**INFO, "description": long, "license": long, "classifiers": ["A"] * (MAX_ITEMS + 1)}}
    )
    assert len(found.about.description) == MAX_DESCRIPTION
    assert len(found.about.license) == MAX_TEXT
    assert len(found.about.classifiers) == MAX_ITEMS


def test_a_lone_surrogate_gets_nowhere() -> None:
    with pytest.raises(Unusable):
        parse(b'{"info": {"name": "gears", "version": "1.0", "summary": "\\ud800"}}')


async def test_a_json_api_may_have_an_address_of_its_own_and_gets_no_credentials(
    upstream: FakeUpstream,
) -> None:
    upstream.add_file("gears", *make_wheel("gears", "1.0"))
    settings = UpstreamSettings(
        "pypi",
        "http://127.0.0.9:9/simple/",
        json_url=f"{upstream.url}/pypi/",
        username="bob",
        password="secret",
    )
    metrics = Metrics("0").upstream("pypi")
    client = Upstream(
        settings,
        max_page_size=1 << 20,
        user_agent="pypi-overlay/test",
        metrics=metrics,
        now=lambda: datetime.now(UTC),
    )
    try:
        found = await client.document(GEARS, "1.0")
        assert isinstance(found, Found)
        assert found.value.version == "1.0"
        (request,) = upstream.requests()
        assert (request.path, request.header("Authorization")) == ("/pypi/gears/1.0/json", None)
        assert request.header("Accept") == "application/json"
        upstream.fault("/pypi/*", redirect=f"{upstream.url}/simple/gears/")
        with pytest.raises(UpstreamFaulty, match="the document of gears is unusable"):
            await client.document(GEARS)
        upstream.fault("/pypi/*", redirect="http://127.0.0.3:9/pypi/gears/json")
        with pytest.raises(UpstreamFaulty, match="not in file_hosts"):
            await client.document(GEARS)
    finally:
        await client.close()
