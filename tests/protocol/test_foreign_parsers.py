"""Parsers that we did not write read every page of the corpus and real answers, and find in them what was said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from urllib.parse import urljoin

import html5lib
import mousebender.simple
import pytest
from pypi_simple import DistributionPackage, IndexPage, ProjectPage

from proxy.domain.negotiate import Representation
from tests.protocol.corpus import NAMES, PAGES, bodies
from tests.support.attestations import attest
from tests.web import forms
from tests.web.house import House, Stored, keep_house
from tests.web.wire import HTML, HTML_V1, JSON, Answer

# mousebender knows version 1.3 and says so of a later minor one, as the specification tells clients to.
pytestmark = pytest.mark.filterwarnings("ignore::mousebender.simple.APIVersionWarning")

BASE = "https://pypi.example.org/acme/simple/gears/"
REPRESENTATIONS = (Representation.JSON, Representation.HTML)


@cache
def corpus(representation: Representation) -> dict[str, bytes]:
    return dict(bodies(representation))


def body(title: str, representation: Representation) -> bytes:
    return corpus(representation)[title]


@pytest.mark.parametrize("title", PAGES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_pypi_simple_reads_project_pages(title: str, representation: Representation) -> None:
    said = PAGES[title]
    raw = body(title, representation)
    if representation is Representation.JSON:
        page = ProjectPage.from_json_data(json.loads(raw), base_url=BASE)
        assert tuple(page.versions or ()) == said.versions
    else:
        page = ProjectPage.from_html(said.name, raw.decode(), base_url=BASE)
    assert page.repository_version == (
        "1.4" if representation is Representation.HTML else json.loads(raw)["meta"]["api-version"]
    )
    assert [package.filename for package in page.packages] == [file.filename for file in said.files]
    for package, file in zip(page.packages, said.files, strict=True):
        assert package.url.partition("#")[0] == urljoin(
            BASE, f"../../files/{file.key}/"
        ) + file.filename.replace("+", "%2B")
        assert package.digests.get("sha256") == file.sha256
        assert bool(package.is_yanked) == bool(file.yanked)
        assert package.has_metadata in ({True} if file.filename.endswith(".whl") else {None, False})
        if representation is Representation.JSON:
            assert (package.size, package.upload_time) == (file.size, file.uploaded)


@pytest.mark.parametrize("title", PAGES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_mousebender_reads_project_pages(title: str, representation: Representation) -> None:
    said = PAGES[title]
    raw = body(title, representation)
    details = mousebender.simple.parse_project_details(raw.decode(), content_type(representation), said.name)
    assert [file["filename"] for file in details["files"]] == [file.filename for file in said.files]
    assert [file["hashes"].get("sha256") for file in details["files"]] == [file.sha256 for file in said.files]


@pytest.mark.parametrize("title", NAMES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_both_read_lists_of_names(title: str, representation: Representation) -> None:
    raw = body(title, representation)
    if representation is Representation.JSON:
        page = IndexPage.from_json_data(json.loads(raw))
    else:
        page = IndexPage.from_html(raw.decode())
    assert page.projects == sorted(NAMES[title])
    index = mousebender.simple.parse_project_index(raw.decode(), content_type(representation))
    assert sorted(project["name"] for project in index["projects"]) == sorted(NAMES[title])


@pytest.mark.parametrize("title", [*PAGES, *NAMES])
def test_every_page_is_html5_without_an_error_of_syntax(title: str) -> None:
    html5lib.HTMLParser(strict=True).parse(body(title, Representation.HTML))


def content_type(representation: Representation) -> str:
    """What the answer names; parsers look at the type alone."""
    return "text/html" if representation is Representation.HTML else str(representation)


# Real answers

EXTERNAL_URL = "https://pypi.example.org"
KINDS = (JSON, HTML_V1, HTML)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house that knows its own https address, without which no page leads to provenance."""
    yield from keep_house(tmp_path_factory.mktemp("outside"), server={"external_url": EXTERNAL_URL})


def read(target: str, answer: Answer, name: str) -> ProjectPage:
    """What pypi-simple makes of an answer by its content type, after strict HTML5 parsing where it is HTML."""
    assert answer.status == 200, answer
    base_url = EXTERNAL_URL + target
    if answer["Content-Type"] == JSON:
        return ProjectPage.from_json_data(answer.json, base_url=base_url)
    html5lib.HTMLParser(strict=True).parse(answer.body, transport_encoding="utf-8")
    return ProjectPage.from_html(name, answer.text, base_url=base_url)


def by_filename(page: ProjectPage) -> dict[str, DistributionPackage]:
    return {package.filename: package for package in page.packages}


def serves(house: House, package: DistributionPackage, stored: Stored) -> bool:
    """Whether the link leads back to us, and there to the very bytes, with the metadata that it promises."""
    target = package.url.removeprefix(EXTERNAL_URL).partition("#")[0]
    assert target.startswith("/"), package.url
    assert package.digests == {"sha256": stored.sha256}
    if package.has_metadata:
        assert house.wire.get(f"{target}.metadata").status == 200
    return house.wire.get(target).body == stored.content


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_page_is_read_with_its_yank_status_and_provenance(outside: House, kind: str) -> None:
    old = outside.publish("open/tools", requires_python=">=3.8,<4")
    new = outside.wheel(old.name, "1.0+local.1")
    attestations = json.dumps([attest(new.filename, new.content)])
    form = forms.upload(new.filename, new.content, attestations=attestations)
    assert outside.upload("open/tools", form, token=outside.owner).status == 201
    package = f"/api/v1/packages/open%2Ftools/{old.name}"
    for address, said in (
        (f"{package}/1.0/yank", {"reason": 'broken: 1 < 2 & "so on"'}),
        (f"{package}/status", {"status": "deprecated", "reason": "use <gears>"}),
    ):
        changed = outside.wire.send("PUT", address, token=outside.owner, body=json.dumps(said).encode())
        assert changed.status == 204, changed
    target = f"/open/simple/{old.name}/"
    answer = outside.wire.get(target, headers={"Accept": kind})
    page = read(target, answer, old.name)
    assert page.project == old.name
    assert (page.status, page.status_reason) == ("deprecated", "use <gears>")
    files = by_filename(page)
    assert list(files) == [old.filename, new.filename]
    assert files[old.filename].is_yanked
    assert files[old.filename].yanked_reason == 'broken: 1 < 2 & "so on"'
    assert files[old.filename].requires_python == ">=3.8,<4"
    assert (files[new.filename].is_yanked, files[new.filename].version) == (False, "1.0+local.1")
    assert files[old.filename].provenance_url is None
    provenance = files[new.filename].provenance_url or ""
    assert outside.wire.get(provenance.removeprefix(EXTERNAL_URL)).json["version"] == 1
    for stored in (old, new):
        assert serves(outside, files[stored.filename], stored)
        if kind == JSON:
            assert files[stored.filename].size == len(stored.content)
            assert files[stored.filename].upload_time is not None
    found = mousebender.simple.parse_project_details(answer.text, answer["Content-Type"] or "", old.name)
    assert [file["filename"] for file in found["files"]] == list(files)


@pytest.mark.parametrize("form", ["json", "html"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_upstream_page_is_read_whatever_form_its_upstream_has(
    outside: House, form: str, kind: str
) -> None:
    first = outside.offer(requires_python=">=3.8", yanked="broken & gone")
    second = outside.offer(first.name, "1.0+local.1")
    outside.upstream.change_project(first.name, form=form)
    target = f"/open/simple/{first.name}/"
    answer = outside.wire.get(target, headers={"Accept": kind})
    page = read(target, answer, first.name)
    files = by_filename(page)
    assert set(files) == {first.filename, second.filename}
    assert files[first.filename].yanked_reason == "broken & gone"
    assert files[first.filename].requires_python == ">=3.8"
    for stored in (first, second):
        assert files[stored.filename].has_metadata
        assert serves(outside, files[stored.filename], stored)
        if kind == JSON:
            # HTML has neither sizes nor times, and what is not known is not made up.
            assert files[stored.filename].size == (len(stored.content) if form == "json" else None)
            assert page.repository_version == ("1.4" if form == "json" else "1.0")
    found = mousebender.simple.parse_project_details(answer.text, answer["Content-Type"] or "", first.name)
    assert {file["filename"] for file in found["files"]} == set(files)


@pytest.mark.parametrize("kind", KINDS)
def test_the_list_of_an_index_is_read(outside: House, kind: str) -> None:
    stored = outside.publish("open/tools")
    answer = outside.wire.get("/open/simple/", headers={"Accept": kind})
    if kind == JSON:
        page = IndexPage.from_json_data(answer.json)
    else:
        html5lib.HTMLParser(strict=True).parse(answer.body, transport_encoding="utf-8")
        page = IndexPage.from_html(answer.text)
    assert stored.name in page.projects
    assert page.projects == sorted(page.projects)
    index = mousebender.simple.parse_project_index(answer.text, answer["Content-Type"] or "")
    assert [project["name"] for project in index["projects"]] == page.projects
