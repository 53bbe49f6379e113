"""Names that are served from both sides (contract 4.3, `merge`), on every route: what of the public side is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.wheels import make_sdist, make_wheel
from tests.web.house import House, Stored, keep_house
from tests.web.wire import HTML, JSON, Answer

MIXED: dict[str, Any] = {
    "mixed": {
        "id": 8,
        "visibility": "public",
        "policy": {"merge": ["mix*"]},
        "projects": {"parts": {"id": 44}, "hidden": {"visibility": "private"}},
    }
}
BASES = (
    "/mixed",
    "/api/v4/groups/8/-/packages/pypi",
    "/mixed/parts",
    "/api/v4/projects/44/packages/pypi",
    "",
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a server with a group that merges names, and its root too."""
    directory = tmp_path_factory.mktemp("mixed")
    yield from keep_house(directory, groups=MIXED, policy={"merge": ["mix*"]})


def both(house: House, *others: Stored) -> Stored:
    """Publish version 1.0 of a name; the upstream has 2.0 of it and `others` before anybody asks there."""
    name = others[0].name if others else house.name("mix")
    house.offer(name, "2.0")
    for stored in others:
        house.upstream.add_file(name, stored.filename, stored.content)
    return house.publish("mixed/parts", name)


def word(answer: Answer) -> str:
    return (answer["X-Overlay-Decision"] or "").partition(";")[0]


def gotten(house: House, base: str, stored: Stored) -> list[Answer]:
    """A file and its metadata, twice each, by GET and HEAD."""
    target = f"{base}/files/{stored.sha256}/{stored.filename}"
    return [
        house.wire.send(method, target + suffix)
        for suffix in ("", ".metadata")
        for _ in range(2)
        for method in ("GET", "HEAD")
    ]


@pytest.mark.parametrize("base", BASES)
def test_files_of_both_sides_stand_on_one_page_and_are_served(mixed: House, base: str) -> None:
    ours = both(mixed)
    theirs = mixed.wheel(ours.name, "2.0")
    for _ in range(2):
        page = mixed.wire.get(f"{base}/simple/{ours.name}/", headers={"Accept": JSON})
        assert (page.status, page["X-Overlay-Decision"]) == (200, 'merged;rule="merge mix*"')
        assert [file["filename"] for file in page.json["files"]] == [ours.filename, theirs.filename]
        assert page.json["versions"] == ["1.0", "2.0"]
        html = mixed.wire.get(f"{base}/simple/{ours.name}/", headers={"Accept": HTML}).text
        assert html.index(ours.filename) < html.index(theirs.filename)
        document = mixed.wire.get(f"{base}/pypi/{ours.name}/json").json
        assert set(document["releases"]) == {"1.0", "2.0"}
    for stored in (ours, theirs):
        answers = gotten(mixed, base, stored)
        assert {(answer.status, word(answer)) for answer in answers} == {(200, "merged")}
        assert answers[0].body == stored.content


@pytest.mark.parametrize("base", BASES)
def test_T_CONF5_a_public_local_version_of_a_private_one_is_on_no_route(mixed: House, base: str) -> None:
    name = mixed.name("mix")
    evil = mixed.wheel(name, "1.0+evil")
    sdist = Stored(name, "1.0", *make_sdist(name, "1.0"))
    ours = both(mixed, evil, sdist)
    page = mixed.wire.get(f"{base}/simple/{ours.name}/", headers={"Accept": JSON}).json
    assert [file["filename"] for file in page["files"]] == [ours.filename, make_wheel(ours.name, "2.0")[0]]
    assert page["versions"] == ["1.0", "2.0"]
    told = {file["filename"]: file for file in page["_withheld"]}
    assert set(told) == {evil.filename, sdist.filename}
    assert {file["rule"] for file in told.values()} == {"merge"}
    html = mixed.wire.get(f"{base}/simple/{ours.name}/", headers={"Accept": HTML}).text
    assert "evil" not in html
    assert sdist.filename not in html
    assert "1.0+evil" not in mixed.wire.get(f"{base}/pypi/{ours.name}/json").json["releases"]
    assert mixed.wire.get(f"{base}/pypi/{ours.name}/1.0+evil/json").status == 404
    for stored in (evil, sdist):
        answers = gotten(mixed, base, stored)
        assert {(answer.status, answer["X-Overlay-Decision"]) for answer in answers} == {
            (403, 'withheld;rule="merge"')
        }
        assert stored.content not in {answer.body for answer in answers}
    explained = mixed.wire.get(
        f"/api/v1/explain?index=/mixed&name={ours.name}&filename={quote(evil.filename)}"
    ).json
    assert [(file["served"], file["source"], file["rule"]) for file in explained["files"]] == [
        (False, "pypi", "merge")
    ]


def test_T_CONF5_nor_where_the_private_version_is_out_of_sight(mixed: House) -> None:
    ours = both(mixed)
    hidden = mixed.publish("mixed/hidden", ours.name, "2.0")
    page = mixed.wire.get(f"/mixed/simple/{ours.name}/", headers={"Accept": JSON})
    assert [file["filename"] for file in page.json["files"]] == [ours.filename]
    assert "hidden" not in page.text
    assert {answer.status for answer in gotten(mixed, "/mixed", hidden)} == {403}


@pytest.mark.parametrize("base", BASES)
def test_T_CONF6_other_bytes_of_a_private_filename_are_served_nowhere(mixed: House, base: str) -> None:
    theirs = mixed.wheel(mixed.name("mix"), "1.0", size=5000)
    ours = both(mixed, theirs)
    assert ours.filename == theirs.filename
    page = mixed.wire.get(f"{base}/simple/{ours.name}/", headers={"Accept": JSON}).json
    listed = {file["filename"]: file["hashes"]["sha256"] for file in page["files"]}
    assert listed[ours.filename] == ours.sha256
    assert {answer.status for answer in gotten(mixed, base, theirs)} == {403}
    assert {answer.status for answer in gotten(mixed, base, ours)} == {200}


def test_T_CONF7_trouble_upstream_takes_the_page_and_no_private_file(mixed: House) -> None:
    name = mixed.name("mix")
    mixed.upstream.fault(f"/simple/{name}/", status=503)
    ours = both(mixed, mixed.wheel(name, "3.0"))
    try:
        for base in BASES:
            page = mixed.wire.get(f"{base}/simple/{ours.name}/")
            assert (page.status, word(page), page["Cache-Control"]) == (503, "unavailable", "no-store")
            assert mixed.wire.get(f"{base}/pypi/{ours.name}/json").status == 503
            assert {(answer.status, word(answer)) for answer in gotten(mixed, base, ours)} == {
                (200, "merged")
            }
    finally:
        mixed.upstream.clear_faults()
