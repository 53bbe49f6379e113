"""GitLab's packages API: shapes, filters, order, pages, numbers (contract 12; gitlab.md 1.1 A1-A3, 1.13)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.house import House, Stored, keep_house
from tests.web.wire import Answer

OUTSIDE = "https://packages.example.com/index"
WIDGETS = "/api/v4/projects/42/packages"
ACME = "/api/v4/groups/7/packages"
OPEN = "/api/v4/groups/open/packages"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server of these tests alone, so that lists hold what is published here and nothing else."""
    yield from keep_house(tmp_path_factory.mktemp("shop"), server={"external_url": OUTSIDE})


@pytest.fixture(scope="module")
def stock(shop: House) -> list[Stored]:
    """What the lists show, in the order in which it was published."""
    return [
        shop.publish("acme/widgets", "gears", "1.10"),
        shop.publish("acme/sandbox", "big-cogs", "1.9"),
        shop.publish("acme/widgets", "gears", "1.9"),
        shop.publish("acme/widgets", "gears", "1.9", sdist=True),
        shop.publish("acme/widgets", "axles", "2.0rc1"),
        shop.publish("open/tools", "nails"),
        shop.publish("open/hidden", "screws"),
    ]


def get(shop: House, target: str, token: str | None = "") -> Answer:
    return shop.wire.get(target, token=shop.owner if token == "" else token)


def named(answer: Answer) -> list[str]:
    assert answer.status == 200, answer
    return [f"{item['name']} {item['version']}" for item in answer.json]


@pytest.mark.usefixtures("stock")
def test_a_project_lists_its_releases_oldest_first(shop: House) -> None:
    answer = get(shop, WIDGETS)
    assert named(answer) == ["gears 1.10", "gears 1.9", "axles 2.0rc1"]
    assert answer["Content-Type"] == "application/json"
    assert answer["Cache-Control"] == "no-store"
    first = answer.json[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["created_at"])
    assert first == {
        "id": first["id"],
        "name": "gears",
        "version": "1.10",
        "package_type": "pypi",
        "status": "default",
        "created_at": first["created_at"],
        "last_downloaded_at": None,
        "_links": {
            "web_path": "/index/acme/widgets/simple/gears/",
            "delete_api_path": f"{OUTSIDE}{WIDGETS}/{first['id']}",
        },
        "pipelines": [],
        "tags": [],
    }
    assert get(shop, first["_links"]["web_path"].removeprefix("/index")).status == 200
    assert get(shop, f"{WIDGETS}/{first['id']}").json == first
    assert get(shop, "/api/v4/projects/acme%2Fwidgets/packages").json == answer.json
    assert shop.wire.head(WIDGETS, token=shop.owner).status == 200


@pytest.mark.usefixtures("stock")
def test_a_group_lists_what_the_caller_can_read_below_it_with_its_project(shop: House) -> None:
    whole = get(shop, ACME)
    assert named(whole) == ["gears 1.10", "big_cogs 1.9", "gears 1.9", "axles 2.0rc1"]
    assert [(item["project_id"], item["project_path"]) for item in whole.json[:2]] == [
        (42, "acme/widgets"),
        (43, "acme/sandbox"),
    ]
    dan = get(shop, ACME, shop.tokens["dan"])
    assert named(dan) == ["gears 1.10", "gears 1.9", "axles 2.0rc1"], "the sandbox is hidden from dan"
    assert dan["X-Total"] == "3"
    assert named(get(shop, OPEN)) == ["nails 1.0", "screws 1.0"]
    hidden = get(shop, OPEN).json[1]
    assert (hidden["project_id"], hidden["project_path"]) == (None, "open/hidden")
    address = hidden["_links"]["delete_api_path"].removeprefix(OUTSIDE)
    assert get(shop, address).json["name"] == "screws", "a project without a number is named by its path"
    assert named(get(shop, OPEN, None)) == ["nails 1.0"]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("package_name=EAR", ["gears 1.10", "gears 1.9"]),
        ("package_name=BIG_C", ["big_cogs 1.9"]),
        ("package_name=g-c", ["big_cogs 1.9"]),
        ("package_name=%25", []),
        ("package_version=1.9", ["big_cogs 1.9", "gears 1.9"]),
        ("package_version=1.9.0&package_name=gears", ["gears 1.9"]),
        ("package_version=1", []),
        ("package_type=pypi&package_name=axles", ["axles 2.0rc1"]),
        ("package_type=npm", []),
        ("order_by=version", ["big_cogs 1.9", "gears 1.9", "gears 1.10", "axles 2.0rc1"]),
        ("order_by=version&sort=desc&per_page=2", ["axles 2.0rc1", "gears 1.10"]),
        ("order_by=name&sort=asc", ["axles 2.0rc1", "big_cogs 1.9", "gears 1.10", "gears 1.9"]),
        ("order_by=project_path", ["big_cogs 1.9", "gears 1.10", "gears 1.9", "axles 2.0rc1"]),
        ("order_by=type&sort=desc", ["axles 2.0rc1", "gears 1.9", "big_cogs 1.9", "gears 1.10"]),
        ("sort=desc&page=2&per_page=3", ["gears 1.10"]),
        ("page=999999999&per_page=100", []),
        ("something_else=1&per_page=1", ["gears 1.10"]),
    ],
)
def test_filters_and_order(shop: House, query: str, expected: list[str]) -> None:
    assert named(get(shop, f"{ACME}?{query}")) == expected


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    "query",
    [
        "order_by=size",
        "order_by=",
        "sort=up",
        "page=0",
        "page=-1",
        "page=x",
        "page=1e3",
        "page=%D9%A2",
        "page=" + "9" * 30,
        "per_page=0",
        "per_page=",
    ],
)
def test_a_bad_filter_is_400_and_says_which(shop: House, query: str) -> None:
    answer = get(shop, f"{ACME}?{query}")
    assert (answer.status, answer["Content-Type"]) == (400, "application/json")
    assert answer.json["message"].startswith(f"{query.partition('=')[0]} is not valid")


def test_a_project_is_not_sorted_by_its_path(shop: House) -> None:
    assert get(shop, f"{WIDGETS}?order_by=project_path").status == 400


def numbers(answer: Answer) -> list[str | None]:
    keys = ("X-Page", "X-Per-Page", "X-Total", "X-Total-Pages", "X-Next-Page", "X-Prev-Page")
    return [answer[key] for key in keys]


@pytest.mark.usefixtures("stock")
def test_headers_lead_through_the_pages(shop: House) -> None:
    target: str | None = f"{ACME}?package_type=pypi&per_page=2"
    seen: list[str] = []
    while target is not None:
        answer = get(shop, target)
        seen += named(answer)
        relations = {name: link for link, name in re.findall(r'<([^>]*)>; rel="(\w+)"', answer["Link"] or "")}
        begin = f"{OUTSIDE}{ACME}?package_type=pypi&page="
        assert all(link.startswith(begin) for link in relations.values())
        target = relations["next"].removeprefix(OUTSIDE) if "next" in relations else None
    assert seen == ["gears 1.10", "big_cogs 1.9", "gears 1.9", "axles 2.0rc1"]
    assert numbers(answer) == ["2", "2", "4", "2", "", "1"]
    assert relations.keys() == {"prev", "first", "last"}


@pytest.mark.usefixtures("stock")
def test_an_empty_list_has_one_page_and_too_large_a_page_is_cut(shop: House) -> None:
    answer = get(shop, f"{ACME}?package_name=nothing&per_page=1000")
    assert answer.json == []
    assert numbers(answer) == ["1", "100", "0", "1", "", ""]
    beyond = get(shop, f"{ACME}?page=9")
    assert (beyond.json, numbers(beyond)) == ([], ["9", "20", "4", "1", "", ""])


def test_without_an_address_of_its_own_a_server_gives_links_without_a_host(house: House) -> None:
    mine = house.publish("open/gear")
    answer = house.wire.get(f"/api/v4/projects/open%2Fgear/packages?package_name={mine.name}")
    assert (
        f'</api/v4/projects/open%2Fgear/packages?package_name={mine.name}&page=1&per_page=20>; rel="first"'
        in (answer["Link"] or "")
    )
    [item] = answer.json
    assert item["_links"]["delete_api_path"] == f"/api/v4/projects/46/packages/{item['id']}"


def package(shop: House, stored: Stored) -> dict[str, Any]:
    answer = get(shop, f"{WIDGETS}?package_name={stored.name}&package_version={stored.version}")
    [found] = answer.json
    assert isinstance(found, dict)
    return found


def test_the_files_of_a_package(shop: House, stock: list[Stored]) -> None:
    wheel, sdist = stock[2], stock[3]
    number = package(shop, wheel)["id"]
    answer = get(shop, f"{WIDGETS}/{number}/package_files")
    first, second = answer.json
    assert (answer["X-Total"], second["file_name"]) == ("2", sdist.filename)
    assert first == {
        "id": first["id"],
        "package_id": number,
        "created_at": first["created_at"],
        "file_name": wheel.filename,
        "size": len(wheel.content),
        "file_md5": None,
        "file_sha1": None,
        "file_sha256": wheel.sha256,
        "pipelines": [],
    }
    assert get(shop, f"{WIDGETS}/{number}/package_files?page=2&per_page=1").json == [second]


def test_numbers_count_in_their_own_place_alone(shop: House, stock: list[Stored]) -> None:
    gears, axles = package(shop, stock[0])["id"], package(shop, stock[4])["id"]
    [file] = get(shop, f"{WIDGETS}/{axles}/package_files").json
    for target in (
        f"/api/v4/projects/43/packages/{gears}",
        f"/api/v4/projects/43/packages/{gears}/package_files",
        f"{WIDGETS}/{10**17}",
        f"{WIDGETS}/0",
    ):
        assert get(shop, target).status == 404, target
        assert shop.wire.send("DELETE", target, token=shop.owner).status in {404, 405}, target
    for number in (gears, 10**17):
        target = f"{WIDGETS}/{number}/package_files/{file['id']}"
        assert shop.wire.send("DELETE", target, token=shop.owner).status == 404, target
    assert len(get(shop, WIDGETS).json) == 3


def test_a_file_and_a_package_can_be_deleted_and_the_name_stays_claimed(shop: House) -> None:
    wheel = shop.publish("acme/widgets", "bolts", "1.0")
    shop.publish("acme/widgets", "bolts", "1.0", sdist=True)
    shop.publish("acme/widgets", "bolts", "2.0")
    number = package(shop, wheel)["id"]
    first, second = get(shop, f"{WIDGETS}/{number}/package_files").json
    shop.upstream.reset_requests()

    def delete(target: str) -> int:
        answer = shop.wire.send("DELETE", target, token=shop.owner)
        assert answer.status != 204 or answer.body == b""
        return answer.status

    assert delete(f"{WIDGETS}/{number}/package_files/{first['id']}") == 204
    assert get(shop, f"{WIDGETS}/{number}/package_files").json == [second]
    assert delete(f"{WIDGETS}/{number}/package_files/{first['id']}") == 404
    assert delete(f"{WIDGETS}/{number}") == 204
    assert delete(f"{WIDGETS}/{number}") == 404
    again = shop.publish("acme/widgets", "bolts", "1.0")
    assert package(shop, again)["id"] > number, "a number is never given out again"
    for item in get(shop, f"{WIDGETS}?package_name=bolts").json:
        assert delete(item["_links"]["delete_api_path"].removeprefix(OUTSIDE)) == 204
    assert get(shop, "/acme/simple/bolts/").status == 451
    assert shop.upstream.asked_for("bolts") == []


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", WIDGETS, {"GET", "HEAD"}),
        ("DELETE", ACME, {"GET", "HEAD"}),
        ("PUT", f"{WIDGETS}/1", {"GET", "HEAD", "DELETE"}),
        ("DELETE", f"{WIDGETS}/1/package_files", {"GET", "HEAD"}),
        ("GET", f"{WIDGETS}/1/package_files/1", {"DELETE"}),
    ],
)
def test_other_methods_are_405(shop: House, method: str, target: str, allowed: set[str]) -> None:
    answer = shop.wire.send(method, target, token=shop.owner)
    assert (answer.status, answer["Content-Type"]) == (405, "application/json")
    assert set((answer["Allow"] or "").split(", ")) == allowed


def test_what_the_caller_may_not_know_of_is_told_as_json_too(shop: House) -> None:
    for target, token, status in (
        (WIDGETS, None, 401),
        (ACME, None, 401),
        ("/api/v4/projects/43/packages/1", shop.tokens["dan"], 404),
        ("/api/v4/projects/999/packages", shop.owner, 404),
        ("/api/v4/projects/acme/packages", shop.owner, 404),
        ("/api/v4/groups/acme%2Fwidgets/packages", shop.owner, 404),
    ):
        answer = get(shop, target, token)
        assert (answer.status, answer["Content-Type"]) == (status, "application/json"), target
        assert (answer["WWW-Authenticate"] is not None) == (status == 401)


def test_times_are_those_of_the_upload(shop: House, stock: list[Stored]) -> None:
    found = package(shop, stock[0])
    page = shop.wire.get(
        "/acme/widgets/simple/gears/?format=application/vnd.pypi.simple.v1%2Bjson", token=shop.owner
    )
    uploaded = {file["filename"]: file["upload-time"] for file in page.json["files"]}
    assert uploaded[stock[0].filename].startswith(found["created_at"].removesuffix("Z"))
