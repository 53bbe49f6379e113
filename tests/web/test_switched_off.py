"""`packages: false`: every package address answers 404, the names stay claimed, the files are shown nowhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web import forms
from tests.web.house import GROUPS, House, Stored, config, keep_house
from tests.web.wire import Wire

OFF = "acme/widgets"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Stored]]:
    """Give a house in which a project with a package was switched off, and that package."""
    for house in keep_house(tmp_path_factory.mktemp("switched")):
        stored = house.publish(OFF)
        house.upstream.add_file(stored.name, stored.filename, stored.content)
        acme = {
            **GROUPS["acme"],
            "projects": {"widgets": {"id": 42, "packages": False}, "sandbox": {"id": 43}},
        }
        house.server.configure(config(house.upstream, groups={**GROUPS, "acme": acme}))
        house.server.restart()
        house.wire = Wire(house.server.url)
        yield house, stored


@pytest.mark.parametrize("base", ["/acme/widgets", "/api/v4/projects/42/packages/pypi"])
def test_every_address_below_it_is_404_and_401_without_credentials(
    left: tuple[House, Stored], base: str
) -> None:
    house, stored = left
    for target in (
        f"{base}/simple/",
        f"{base}/simple/{stored.name}/",
        f"{base}/+simple/{stored.name}/",
        f"{base}/files/{stored.sha256}/{stored.filename}",
        f"{base}/files/{stored.sha256}/{stored.filename}.metadata",
        f"{base}/pypi/{stored.name}/json",
    ):
        assert house.wire.get(target, token=house.owner).status == 404, target
        assert house.wire.get(target).status == 401, target
    wheel = house.wheel(stored.name, "2.0")
    answer = house.wire.send(
        "POST",
        base,
        token=house.owner,
        headers=forms.FORM_TYPE,
        body=forms.upload(wheel.filename, wheel.content),
    )
    assert answer.status == 404, answer
    assert house.wire.get("/api/v4/projects/42/packages", token=house.owner).status == 404


@pytest.mark.parametrize("base", ["", "/acme"])
def test_its_names_stay_claimed_and_its_files_are_shown_nowhere(
    left: tuple[House, Stored], base: str
) -> None:
    house, stored = left
    begin = len(house.upstream.requests())
    page = house.wire.get(f"{base}/simple/{stored.name}/", token=house.owner)
    assert (page.status, page["X-Overlay-Decision"]) == (451, f'claimed;rule="package {OFF}"')
    file = house.wire.get(f"{base}/files/{stored.sha256}/{stored.filename}", token=house.owner)
    assert file.status == 403
    listed = house.wire.get(f"{base}/simple/", token=house.owner, headers={"Accept": "text/html"})
    assert stored.name not in listed.text
    assert len(house.upstream.requests()) == begin


def test_its_claims_are_listed_and_released_all_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    for house in keep_house(tmp_path_factory.mktemp("off")):
        name = house.publish(OFF).name
        house.delete(OFF, name)
        acme = {**GROUPS["acme"], "packages": False}
        house.server.configure(config(house.upstream, groups={**GROUPS, "acme": acme}))
        house.server.restart()
        house.wire = Wire(house.server.url)
        listed = house.wire.get("/api/v1/claims?tenant=acme", token=house.owner)
        assert name in {each.get("name") for each in listed.json["items"]}
        released = house.wire.send("DELETE", f"/api/v1/claims/acme/{name}", token=house.owner)
        assert released.status == 204, released


@pytest.mark.parametrize(
    "target", ["/api/v4/groups/7/packages?package_name={}", "/api/v1/packages?namespace=acme&name={}"]
)
def test_lists_of_packages_leave_it_out(left: tuple[House, Stored], target: str) -> None:
    house, stored = left
    nearby = house.publish("acme/sandbox").name
    assert nearby in house.wire.get(target.format(nearby), token=house.owner).text
    answer = house.wire.get(target.format(stored.name), token=house.owner)
    assert answer.json in ([], {"items": [], "next": None})
