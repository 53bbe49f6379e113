"""The JSON API: documents of private and upstream packages, by the same decision as their pages (protocol 5)."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest
from aiohttp.test_utils import TestClient, TestServer

from proxy.index.instance import Running
from proxy.observe.logs import make_logger
from proxy.server.assembly import close_instance, open_instance
from proxy.web.app import build
from tests.registry.making import snapshot_of
from tests.web.house import REALM, House, Stored, config, spellings
from tests.web.wire import Answer

PAGE_CACHE = "private, max-age=0, must-revalidate"
VARY = "Accept, Accept-Encoding, Authorization"
STRINGS = (
    *("author", "author_email", "description", "download_url", "home_page", "keywords", "license"),
    *("maintainer", "maintainer_email", "name", "package_url", "project_url", "release_url", "summary"),
    "version",
)
NULLABLE = (
    *("description_content_type", "dynamic", "license_expression", "license_files", "platform"),
    *("project_urls", "provides_extra", "requires_dist", "requires_python", "yanked_reason"),
)
FILE_KEYS = {
    *("comment_text", "core-metadata", "digests", "downloads", "filename", "has_sig", "md5_digest"),
    *("packagetype", "python_version", "requires_python", "size", "upload_time", "upload_time_iso_8601"),
    *("url", "yanked", "yanked_reason"),
}


def addresses(path: str, name: str, version: str | None = "1.0") -> list[str]:
    """Every address of a package's documents at a namespace; without a version those of the project alone."""
    found = []
    for base in spellings(path):
        found += [f"{base}/pypi/{name}/json", f"{base}/{name}/json"]
        if version is not None:
            found.append(f"{base}/pypi/{name}/{version}/json")
    return found


def page_of(target: str, name: str) -> str:
    """The page beside a document."""
    base = target.removesuffix("/json").rpartition(f"/{name}")[0].removesuffix("/pypi")
    if "/api/v4/" in target:
        base = target.partition("/packages/pypi")[0] + "/packages/pypi"
    return f"{base}/simple/{name}/"


def files_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    listed = [file for files in document.get("releases", {}).values() for file in files]
    return [*listed, *document["urls"]]


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel of acme/widgets that says much of itself."""
    return house.publish(
        "acme/widgets",
        requires_python=">=3.8",
        requires=["gears>=2", "cogs; extra == 'all'"],
        description="# Widgets\n\nTurn, <b>turn</b>.",
        fields=[
            ("Author", "Zoë"),
            ("Keywords", "turning,things"),
            ("Classifier", "Topic :: Utilities"),
            ("Project-URL", "Home, https://widgets.example/"),
            ("Project-URL", "Bad, javascript:alert(1)"),
            ("Provides-Extra", "all"),
            ("License-Expression", "MIT"),
        ],
    )


@pytest.fixture(scope="module")
def offered(house: House) -> Stored:
    """Give an upstream wheel whose document names the upstream wherever it can."""
    stored = house.offer(house.name("up"), requires_python=">=3.9")
    house.upstream.change_project(
        stored.name,
        info={
            "author": "Ada",
            "home_page": "javascript:alert(1)",
            "project_urls": {"Source": "https://code.example/x", "Odd": "file:///etc/passwd"},
        },
        vulnerabilities=[
            {
                "id": "PYSEC-1",
                "source": "osv",
                "link": "https://osv.example/PYSEC-1",
                "aliases": ["CVE-2026-1"],
                "details": "It breaks.",
                "summary": None,
                "fixed_in": ["2.0"],
                "withdrawn": None,
            }
        ],
    )
    return stored


@pytest.mark.parametrize("path", ["acme/widgets", "acme", ""])
def test_a_private_package_has_documents_wherever_it_has_a_page(
    house: House, private: Stored, path: str
) -> None:
    for target in addresses(path, private.name):
        answer = house.wire.get(target, token=house.tokens["rita"])
        assert answer.status == 200, target
        assert answer["Content-Type"] == "application/json"
        assert answer["X-Overlay-Decision"] == "private"
        (file,) = answer.json["urls"]
        served = house.wire.get(urljoin(target, file["url"]), token=house.tokens["rita"])
        assert served.body == private.content, f"{target}: {file['url']}"
        assert ("releases" in answer.json) == ("/1.0/" not in target), target


@pytest.mark.parametrize("path", ["open", "open/tools", ""])
def test_an_upstream_package_has_documents_that_lead_back_to_us(
    house: House, offered: Stored, path: str
) -> None:
    for target in addresses(path, offered.name):
        answer = house.wire.get(target)
        assert (answer.status, answer["X-Overlay-Decision"]) == (200, "upstream"), target
        assert str(house.upstream.port).encode() not in answer.body, "an address of the upstream's"
        assert files_of(answer.json)
        for file in files_of(answer.json):
            assert file["filename"] == offered.filename
            assert house.wire.get(urljoin(target, file["url"])).body == offered.content, target


def test_a_private_document_says_what_the_metadata_say(house: House, private: Stored) -> None:
    document = house.wire.get(f"/acme/pypi/{private.name}/json", token=house.tokens["rita"]).json
    info = document["info"]
    assert {key: type(info[key]) for key in STRINGS} == dict.fromkeys(STRINGS, str)
    assert set(info) == {
        *STRINGS,
        *NULLABLE,
        *("bugtrack_url", "classifiers", "docs_url", "downloads", "yanked"),
    }
    assert (info["name"], info["version"], info["author"]) == (private.name, "1.0", "Zoë")
    assert info["description"].rstrip("\n") == "# Widgets\n\nTurn, <b>turn</b>."
    assert info["requires_dist"] == ["gears>=2", "cogs; extra == 'all'"]
    assert info["project_urls"] == {"Home": "https://widgets.example/"}
    assert (info["requires_python"], info["license_expression"]) == (">=3.8", "MIT")
    assert (info["keywords"], info["classifiers"]) == ("turning,things", ["Topic :: Utilities"])
    assert (info["bugtrack_url"], info["yanked"], info["yanked_reason"]) == (None, False, None)
    assert document["ownership"] == {"organization": None, "roles": []}
    assert document["vulnerabilities"] == []
    assert set(document) == {"info", "ownership", "releases", "urls", "vulnerabilities"}
    (file,) = document["urls"]
    assert set(file) == FILE_KEYS
    assert file["digests"] == {"sha256": private.sha256}
    assert (file["packagetype"], file["python_version"]) == ("bdist_wheel", "py3")
    assert (file["size"], file["yanked"], file["has_sig"]) == (len(private.content), False, False)
    assert file["upload_time_iso_8601"].startswith(file["upload_time"])
    assert file["upload_time_iso_8601"].endswith("Z")
    assert set(file["core-metadata"]) == {"sha256"}


def test_an_upstream_document_takes_what_may_be_taken(house: House, offered: Stored) -> None:
    for target in (f"/pypi/{offered.name}/json", f"/pypi/{offered.name}/1.0/json"):
        document = house.wire.get(target).json
        info = document["info"]
        assert (info["name"], info["author"], info["requires_python"]) == (offered.name, "Ada", ">=3.9")
        assert (info["home_page"], info["project_urls"]) == ("", {"Source": "https://code.example/x"})
        assert [known["id"] for known in document["vulnerabilities"]] == ["PYSEC-1"]
        assert document["vulnerabilities"][0]["aliases"] == ["CVE-2026-1"]
        assert "last_serial" not in document
        (file,) = document["urls"]
        assert set(file["digests"]) == {"sha256", "md5", "blake2b_256"}
        assert file["digests"]["sha256"] == offered.sha256
        assert file["md5_digest"] == file["digests"]["md5"]
        assert file["comment_text"] == f"about {offered.filename}"
        assert file["upload_time"] == "2024-01-01T00:00:00"
        assert file["upload_time_iso_8601"] == "2024-01-01T00:00:00.000000Z"


def test_documents_are_written_as_pypi_writes_them(house: House, private: Stored) -> None:
    body = house.wire.get(f"/acme/pypi/{private.name}/json", token=house.tokens["rita"]).body
    whole = json.dumps(json.loads(body), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert body == whole.encode() + b"\n"


def test_pip_compile_finds_the_digests_of_a_version(house: House) -> None:
    # As pip-tools reads it: the key is the version that pip pinned, and only wheels and sdists count.
    name = house.name()
    wheel = house.publish("open/tools", name, "1.0.post2")
    sdist = house.publish("open/tools", name, "1.0.post2", sdist=True)
    house.publish("open/tools", name, "1.1")
    files = house.wire.get(f"/open/{name}/json").json["releases"]["1.0.post2"]
    hashes = {file["digests"]["sha256"] for file in files if file["packagetype"] in {"bdist_wheel", "sdist"}}
    assert hashes == {wheel.sha256, sdist.sha256}


@pytest.mark.parametrize("spelling", ["2.0", "v2", "2.0.0", "02.0", "2.0%2b"])
def test_versions_are_matched_as_pep_440_has_it(house: House, spelling: str) -> None:
    name = house.offer(version="2.0").name
    answer = house.wire.get(f"/pypi/{name}/{spelling}/json")
    if spelling == "2.0%2b":
        assert (answer.status, answer.json) == (404, {"message": "Not Found"})
    else:
        assert (answer.status, answer.json["info"]["version"]) == (200, "2.0")


def test_a_version_that_the_page_does_not_have_is_404(house: House, private: Stored, offered: Stored) -> None:
    for target, word in (
        (f"/acme/pypi/{private.name}/9.9/json", "private"),
        (f"/acme/pypi/{private.name}/garbage/json", "private"),
        (f"/pypi/{offered.name}/9.9/json", "upstream"),
    ):
        answer = house.wire.get(target, token=house.tokens["rita"])
        assert (answer.status, answer.body) == (404, b'{"message": "Not Found"}'), target
        assert (answer["Content-Type"], answer["Cache-Control"]) == ("application/json", "no-store")
        assert answer["X-Overlay-Decision"] == word
        assert answer["Cache-Status"] is not None
    assert not [asked for asked in house.upstream.asked_for(offered.name) if "9.9" in asked.path]


def test_a_projects_document_tells_of_the_best_release(house: House) -> None:
    name = house.offer(version="1.0").name
    house.offer(name, "3.0", yanked="broken")
    house.offer(name, "2.0rc1")
    document = house.wire.get(f"/pypi/{name}/json").json
    assert (document["info"]["version"], document["info"]["yanked"]) == ("1.0", False)
    assert [file["filename"] for file in document["urls"]] == [f"{name}-1.0-py3-none-any.whl"]
    assert set(document["releases"]) == {"1.0", "2.0rc1", "3.0"}
    (broken,) = document["releases"]["3.0"]
    assert (broken["yanked"], broken["yanked_reason"]) == (True, "broken")
    told = house.wire.get(f"/pypi/{name}/3.0/json").json["info"]
    assert (told["yanked"], told["yanked_reason"]) == (True, "broken")


@pytest.mark.parametrize("which", ["private", "offered"])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_documents_have_the_headers_of_pages(
    house: House, which: str, coding: str, request: pytest.FixtureRequest
) -> None:
    stored: Stored = request.getfixturevalue(which)
    target = f"/pypi/{stored.name}/json"
    options: dict[str, Any] = {"token": house.tokens["rita"], "headers": {"Accept-Encoding": coding}}
    answer = house.wire.get(target, **options)
    assert (answer["Cache-Control"], answer["Vary"]) == (PAGE_CACHE, VARY)
    assert answer["Cache-Status"] is not None
    assert answer["Content-Encoding"] == ("gzip" if coding == "gzip" else None)
    assert json.loads(gzip.decompress(answer.body) if coding == "gzip" else answer.body)["urls"]
    etag = answer["ETag"]
    assert etag is not None
    assert etag.startswith('"')
    head = house.wire.head(target, **options)
    assert (head.status, head.body) == (200, b"")
    for header in ("Content-Length", "Content-Type", "ETag", "Content-Encoding", "Vary", "Cache-Control"):
        assert head[header] == answer[header], header
    options["headers"] |= {"If-None-Match": etag}
    unchanged = house.wire.get(target, **options)
    assert (unchanged.status, unchanged.body, unchanged["ETag"]) == (304, b"", etag)
    assert (unchanged["Vary"], unchanged["Cache-Control"]) == (VARY, PAGE_CACHE)


def test_the_codings_have_tags_of_their_own(house: House, private: Stored) -> None:
    tags = {
        house.wire.get(
            f"/pypi/{private.name}/json", token=house.tokens["rita"], headers={"Accept-Encoding": coding}
        )["ETag"]
        for coding in ("gzip", "identity")
    }
    assert len(tags) == 2


def test_documents_of_public_packages_are_open_to_scripts(house: House, offered: Stored) -> None:
    assert house.wire.get(f"/open/pypi/{offered.name}/json")["Access-Control-Allow-Origin"] == "*"


def test_a_name_in_any_spelling_is_answered_in_place(house: House) -> None:
    stored = house.publish("open/tools", house.name("json-api-"))
    for spelling in (stored.name.upper(), stored.name.replace("-", "_"), stored.name.replace("-", "-._")):
        for target in (f"/open/pypi/{spelling}/json", f"/open/pypi/{spelling}/1.0/json"):
            answer = house.wire.get(target)
            assert (answer.status, answer.json["info"]["version"]) == (200, "1.0"), target


def test_a_slash_at_the_end_redirects_to_the_address_without(house: House, offered: Stored) -> None:
    for target in addresses("open", offered.name):
        answer = house.wire.get(f"{target}/")
        assert answer.status == 301
        assert urljoin(f"{target}/", answer["Location"] or "") == target


@pytest.mark.parametrize("raw", ["a%20b", "%2e%2e", "-a", "a-", quote("\u212aivy"), "a%00", "a%2fb"])
def test_T_NAME2_what_is_no_name_has_no_document(house: House, raw: str) -> None:
    house.upstream.reset_requests()
    answer = house.wire.get(f"/open/pypi/{raw}/json")
    assert answer.status == 404
    assert house.upstream.requests() == []


def check_as_page(
    house: House, path: str, name: str, token: str | None, statuses: set[int]
) -> list[tuple[str, Answer]]:
    """See that every document answers as its page does, for GET and HEAD; return the answers to GET."""
    found = []
    for target in addresses(path, name):
        page = house.wire.get(page_of(target, name), token=token)
        answer = house.wire.get(target, token=token)
        head = house.wire.head(target, token=token)
        assert {page.status, answer.status, head.status} == statuses, target
        for header in ("X-Overlay-Decision", "WWW-Authenticate", "Cache-Control", "Retry-After"):
            assert answer[header] == page[header], f"{target}: {header}"
        assert answer["ETag"] is None
        found.append((target, answer))
    return found


def test_T_CONF9_a_claimed_name_is_claimed_for_the_json_api_too(house: House, private: Stored) -> None:
    house.upstream.add_file(private.name, private.filename, private.content)
    reserved = house.offer(house.name("acme-")).name
    for path, name, user in (
        ("acme/sandbox", private.name, "rita"),
        ("", private.name, "otto"),
        ("acme", reserved, "rita"),
        ("acme/widgets", reserved, "rita"),
    ):
        for target, answer in check_as_page(house, path, name, house.tokens[user], {451}):
            assert answer["Content-Type"] == "application/problem+json", target
            assert answer.json["decision"] == "claimed"
        assert house.upstream.asked_for(name) == [], name


def test_T_CONF9_a_denied_name_has_no_document(house: House) -> None:
    name = house.offer(house.name("evil-")).name
    for _, answer in check_as_page(house, "open", name, None, {451}):
        assert (answer.json["decision"], answer.json["rule"]) == ("denied", "deny evil-*")
    assert house.upstream.asked_for(name) == []


def test_T_CONF9_a_name_that_is_not_forwarded_has_no_document(house: House) -> None:
    name = house.offer().name
    for _, answer in check_as_page(house, "vault", name, None, {404}):
        assert (answer.body, answer["Content-Type"]) == (b'{"message": "Not Found"}', "application/json")
    assert house.upstream.asked_for(name) == []


def test_T_CONF9_a_name_that_nobody_has_is_404(house: House) -> None:
    for _, answer in check_as_page(house, "open", house.name(), None, {404}):
        assert (answer.body, answer["Content-Type"]) == (b'{"message": "Not Found"}', "application/json")
        assert answer["Cache-Control"] == "no-store"


def test_T_CONF9_anonymous_callers_get_401_wherever_a_page_is(house: House, private: Stored) -> None:
    for path in ("acme/widgets", "acme", ""):
        for _, answer in check_as_page(house, path, private.name, None, {401}):
            assert answer["WWW-Authenticate"] == REALM
    for _, answer in check_as_page(house, "acme", house.name(), None, {401}):
        assert answer["WWW-Authenticate"] == REALM


def test_T_CONF9_an_unseen_namespace_is_404(house: House, private: Stored) -> None:
    for _, answer in check_as_page(house, "acme", private.name, house.tokens["otto"], {404}):
        assert answer["X-Overlay-Decision"] is None


@pytest.mark.parametrize(
    ("fault", "status"),
    [({"status": 500}, 502), ({"status": 429}, 503), ({"hang": True}, 504)],
    ids=["500", "429", "no answer"],
)
def test_an_upstream_that_fails_is_never_not_found(house: House, fault: dict[str, Any], status: int) -> None:
    name = house.offer().name
    house.upstream.fault(f"/simple/{name}/", **fault)
    for target in (f"/open/pypi/{name}/json", f"/open/{name}/json", f"/open/pypi/{name}/1.0/json"):
        answer = house.wire.get(target)
        assert (answer.status, answer["X-Overlay-Decision"]) == (status, "unavailable"), target
        assert 1 <= int(answer["Retry-After"] or 99) <= 5
    assert not [asked for asked in house.upstream.asked_for(name) if "/pypi/" in asked.path]


def test_at_ones_own_project_a_refusal_is_an_empty_document(house: House, private: Stored) -> None:
    answer = house.wire.get(f"/acme/sandbox/pypi/{private.name}/json", token=house.tokens["alice"])
    assert (answer.status, answer["X-Overlay-Decision"]) == (200, 'claimed;rule="package acme/widgets"')
    assert (answer.json["urls"], answer.json["releases"]) == ([], {})
    assert "acme/widgets" in answer.json["info"]["summary"]
    version = house.wire.get(f"/acme/sandbox/pypi/{private.name}/1.0/json", token=house.tokens["alice"])
    assert version.status == 451


def test_other_methods_are_405(house: House, offered: Stored) -> None:
    answer = house.wire.send("POST", f"/open/pypi/{offered.name}/json")
    assert (answer.status, answer["Allow"]) == (405, "GET, HEAD")


async def test_with_an_external_url_addresses_are_absolute(
    tmp_path: Path, house: House, offered: Stored
) -> None:
    told = config(house.upstream, server={"external_url": "https://packages.example/index"})
    instance = open_instance(snapshot_of(told, tmp_path), serving=True)
    app = build(Running(instance), make_logger("text", "error", io.StringIO()))
    try:
        async with TestClient(TestServer(app)) as client:
            for path in ("open", "open/tools", ""):
                base = "https://packages.example/index" + (f"/{path}" if path else "")
                for target in addresses(path, offered.name):
                    async with client.get(target) as answer:
                        document = json.loads(await answer.read())
                    assert {file["url"] for file in files_of(document)} == {
                        f"{base}/files/{offered.sha256}/{offered.filename}"
                    }, target
                    assert document["info"]["package_url"] == f"{base}/simple/{offered.name}/"
    finally:
        await close_instance(instance)
