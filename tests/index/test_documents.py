"""Documents from pages, metadata and upstreams' own documents: what is told when which of them fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.names import Name
from proxy.domain.negotiate import Coding
from proxy.index import documents as module
from proxy.index.variants import Variant
from proxy.registry.packages import NewFile
from tests.index.conftest import CONFIG, House, OpenHouse
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

METADATA = "Metadata-Version: 2.1\nName: W.Idgets\nVersion: 1.0\nSummary: {}\nRequires-Dist: cogs\n\nturn\n"


async def made(
    house: House, name: str, version: str | None = None, *, index: str = "", base: str = "../.."
) -> Variant | None:
    answer = await house.page(index, name)
    return await house.instance.documents.get(answer, version, base=base, coding=Coding.IDENTITY)


async def document(house: House, name: str, version: str | None = None, index: str = "") -> dict[str, Any]:
    variant = await made(house, name, version, index=index)
    assert variant is not None
    found: dict[str, Any] = json.loads(variant.body)
    return found


def publish(house: House, filename: str, summary: str, project: str = "open/tools") -> NewFile:
    """Publish a file whose metadata lie in the object store."""
    metadata = METADATA.format(summary)
    house.instance.objects.put_bytes(metadata.encode())
    return house.publish(project, filename, metadata=metadata)


def asked(upstream: FakeUpstream) -> list[str]:
    return [request.path for request in upstream.requests()]


@pytest.fixture
def offered(upstream: FakeUpstream) -> None:
    for version in ("1.0", "2.0"):
        upstream.add_file(
            "widgets", *make_wheel("widgets", version, requires=[f"gears=={version}"], description="turn")
        )
    upstream.change_project("widgets", info={"author": "Ada"}, vulnerabilities=[{"id": "PYSEC-1"}])


async def test_a_wheel_speaks_for_its_private_release(house: House) -> None:
    # Pages are sorted, and capitals come first.
    publish(house, "Widgets-1.0.tar.gz", "sdist")
    publish(house, "widgets-1.0-py3-none-any.whl", "wheel")
    told = await document(house, "widgets", index="open")
    assert told["info"]["summary"] == "wheel"
    assert (told["info"]["name"], told["info"]["description"]) == ("widgets", "turn\n")
    assert [file["packagetype"] for file in told["urls"]] == ["sdist", "bdist_wheel"]


async def test_an_sdist_speaks_where_it_is_alone_also_if_its_metadata_are_not_final(house: House) -> None:
    metadata = METADATA.format("sdist")
    house.instance.objects.put_bytes(metadata.encode())
    house.publish("open/tools", "widgets-1.0.tar.gz", metadata=metadata, final=False)
    told = await document(house, "widgets", "1", index="open")
    assert told["info"]["requires_dist"] == ["cogs"]
    assert told["urls"][0]["core-metadata"] is False


async def test_private_documents_ask_no_upstream(house: House, upstream: FakeUpstream) -> None:
    publish(house, "widgets-1.0-py3-none-any.whl", "ours")
    await document(house, "widgets", index="open")
    await document(house, "widgets", "1.0", index="")
    assert asked(upstream) == []


async def test_lost_metadata_cost_what_they_say_and_no_more(house: House) -> None:
    house.publish("open/tools", "widgets-1.0-py3-none-any.whl", requires_python=">=3.8")
    told = await document(house, "widgets", index="open")
    assert (told["info"]["summary"], told["info"]["requires_python"]) == ("", ">=3.8")
    assert len(told["urls"]) == 1


@pytest.mark.usefixtures("offered")
async def test_the_upstreams_own_document_adorns_the_page(house: House, upstream: FakeUpstream) -> None:
    told = await document(house, "widgets")
    assert (told["info"]["author"], told["info"]["version"]) == ("Ada", "2.0")
    assert [known["id"] for known in told["vulnerabilities"]] == ["PYSEC-1"]
    assert {"md5", "sha256", "blake2b_256"} == set(told["releases"]["1.0"][0]["digests"])
    assert asked(upstream) == ["/simple/widgets/", "/pypi/widgets/json"]
    told = await document(house, "widgets", "1.0.0")
    assert told["info"]["requires_dist"] == ["gears==1.0"]
    assert asked(upstream)[2:] == ["/pypi/widgets/1.0/json"]


@pytest.mark.usefixtures("offered")
async def test_a_document_of_another_release_than_the_shown_one_speaks_not_for_it(
    house: House, upstream: FakeUpstream
) -> None:
    # The page has a newer file than the document, which is kept longer: what it says is not said of 3.0.
    upstream.add_file("widgets", *make_wheel("widgets", "3.0", requires=["gears==3.0"]))
    old = json.dumps({"info": {"name": "widgets", "version": "2.0", "requires_dist": ["gears==2.0"]}})
    upstream.fault("/pypi/widgets/json", status=200, body=old, headers={"Content-Type": "application/json"})
    told = await document(house, "widgets")
    assert (told["info"]["version"], told["info"]["requires_dist"]) == ("3.0", ["gears==3.0"])
    assert asked(upstream)[1:] == ["/pypi/widgets/json", "/pypi/widgets/3.0/json"]


@pytest.mark.usefixtures("offered")
async def test_without_a_json_api_the_metadata_of_a_wheel_speak(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    upstream.change_project("widgets", json_api=False)
    house = open_house(base_config(upstream) | CONFIG)
    for version in (None, "2.0"):
        told = await document(house, "widgets", version)
        assert told["info"]["requires_dist"] == ["gears==2.0"]
        assert told["info"]["description"].strip() == "turn"
        assert set(told["urls"][0]["digests"]) == {"sha256"}
    assert not [path for path in asked(upstream) if path.endswith(".whl")]


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 403},
        {"html_error": True},
        {"drop": True},
        {"gzip_bomb": 64 << 20},
        {"as_project": "gadgets"},
        {"redirect": "http://127.0.0.3:9/pypi/widgets/json"},
        {"truncate": 100},
    ],
    ids=lambda fault: str(next(iter(fault.items()))),
)
async def test_a_document_that_cannot_be_had_costs_what_it_says_and_no_more(
    house: House, upstream: FakeUpstream, fault: dict[str, Any]
) -> None:
    upstream.add_file("gadgets", *make_wheel("gadgets", "2.0"))
    upstream.fault("/pypi/*", **fault)
    told = await document(house, "widgets")
    assert (told["info"]["author"], told["vulnerabilities"]) == ("", [])
    assert told["info"]["requires_dist"] == ["gears==2.0"]
    assert set(told["releases"]) == {"1.0", "2.0"}


@pytest.mark.usefixtures("offered")
async def test_what_does_not_come_is_not_waited_for(
    house: House, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOCUMENT_PATIENCE", 0.1)
    monkeypatch.setattr(module, "METADATA_PATIENCE", 0.1)
    upstream.fault("/pypi/*", hang=True)
    upstream.fault("/packages/*", hang=True)
    told = await document(house, "widgets")
    assert (told["info"]["version"], told["info"]["summary"]) == ("2.0", "")


@pytest.mark.usefixtures("offered")
async def test_with_the_upstream_dead_the_kept_documents_are_shown(
    house: House, upstream: FakeUpstream
) -> None:
    before = await made(house, "widgets")
    upstream.stop()
    house.clock.advance(days=3)
    assert await made(house, "widgets") == before


@pytest.mark.usefixtures("offered")
async def test_a_hostile_document_adds_no_file_and_no_address(house: House, upstream: FakeUpstream) -> None:
    evil = {"filename": "widgets-9.0-py3-none-any.whl", "digests": {"sha256": "a" * 64}, "url": upstream.url}
    body = {
        "info": {
            **dict.fromkeys(("package_url", "project_url", "release_url", "docs_url"), upstream.url),
            "name": "widgets",
            "version": "2.0",
            "yanked": True,
            "yanked_reason": upstream.url,
        },
        "releases": {"9.0": [evil], "2.0": [evil]},
        "urls": [evil],
        "ownership": {"roles": [{"role": "Owner", "user": upstream.url}]},
        "last_serial": upstream.url,
    }
    upstream.fault("/pypi/*", status=200, body=json.dumps(body), headers={"Content-Type": "application/json"})
    variant = await made(house, "widgets")
    assert variant is not None
    assert str(upstream.port).encode() not in variant.body
    told = json.loads(variant.body)
    assert set(told["releases"]) == {"1.0", "2.0"}
    assert (told["info"]["yanked"], told["info"]["yanked_reason"]) == (False, None)


@pytest.mark.usefixtures("offered")
async def test_of_a_quarantined_project_nothing_is_told(house: House, upstream: FakeUpstream) -> None:
    upstream.change_project("widgets", status="quarantined")
    told = await document(house, "widgets")
    assert (told["urls"], told["info"]["author"], told["info"]["version"]) == ([], "", "")
    assert asked(upstream) == ["/simple/widgets/"]


@pytest.mark.usefixtures("offered")
async def test_of_a_version_without_files_nothing_is_told(house: House, upstream: FakeUpstream) -> None:
    upstream.change_project("widgets", versions=["3.0"])
    told = await document(house, "widgets", "3.0")
    assert (told["urls"], told["info"]["author"], told["info"]["version"]) == ([], "", "3.0")
    assert asked(upstream) == ["/simple/widgets/"]
    assert (await document(house, "widgets"))["info"]["version"] == "2.0"


@pytest.mark.usefixtures("offered")
async def test_a_version_that_the_page_does_not_have_is_none_and_asked_of_nobody(
    house: House, upstream: FakeUpstream
) -> None:
    assert await made(house, "widgets", "2.1") is None
    assert await made(house, "widgets", "../../x") is None
    assert asked(upstream) == ["/simple/widgets/"]


async def test_what_is_no_version_is_matched_as_it_is_and_not_asked_for(
    house: House, upstream: FakeUpstream
) -> None:
    _, content = make_wheel("relics", "1.0")
    upstream.add_file("relics", "relics-dev-r12.zip", content)
    told = await document(house, "relics", "dev-r12")
    assert (told["info"]["version"], len(told["urls"])) == ("dev-r12", 1)
    assert not [path for path in asked(upstream) if "/pypi/" in path]


async def test_a_page_without_digests_has_a_document_without_digests(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.configure(form="html", hashes=[])
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    (file,) = (await document(house, "widgets"))["urls"]
    assert (file["digests"], file["md5_digest"], file["size"]) == ({}, "", None)
    assert "/files/url-" in file["url"]


@pytest.mark.usefixtures("offered")
async def test_a_finished_document_is_kept_while_page_and_documents_are_the_same(
    house: House, upstream: FakeUpstream
) -> None:
    first = await made(house, "widgets")
    assert await made(house, "widgets") is first
    assert await made(house, "widgets", base="..") is not first
    upstream.change_project("widgets", info={"author": "Bob"})
    house.clock.advance(hours=1)
    assert (await document(house, "widgets"))["info"]["author"] == "Bob"


async def test_a_private_document_is_made_anew(house: House) -> None:
    publish(house, "widgets-1.0-py3-none-any.whl", "first")
    assert (await document(house, "widgets", index="open"))["info"]["version"] == "1.0"
    publish(house, "widgets-2.0-py3-none-any.whl", "second")
    assert (await document(house, "widgets", index="open"))["info"]["version"] == "2.0"


async def test_a_purge_forgets_documents_too(house: House, upstream: FakeUpstream) -> None:
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    await document(house, "widgets")
    house.instance.upstream_documents.purge(Name("widgets"))
    assert list(Path(house.instance.layout.cached_documents).rglob("project")) == []
