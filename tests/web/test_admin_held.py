"""Files that an upstream takes away, from a client's install to the owner's release, over HTTP and by command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.clients import Client, installed
from tests.support.waiting import wait_until
from tests.web.house import House, Stored, keep_house
from tests.web.wire import JSON, Answer

HELD = "/api/v1/held"
SINCE = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house whose upstream says for how long its pages are fresh."""
    cache = {"stale_while_revalidate": "0s", "not_found_for": "0s"}
    yield from keep_house(tmp_path_factory.mktemp("held"), cache=cache)


def offer(house: House) -> Stored:
    """Have a wheel offered by a page that is asked for anew each time, and in the cache."""
    house.upstream.configure(max_age=0)
    stored = house.offer()
    path = house.server.data_dir / "cache" / "files" / stored.sha256[:2] / stored.sha256
    assert get(house, stored).body == stored.content
    wait_until(path.exists, what="the file to lie in the cache")
    return stored


def take_away(house: House, act: Callable[..., None], *arguments: str, **about: str) -> None:
    """Have the upstream do something, and say that this is so for a long time."""
    house.upstream.configure(max_age=600)
    act(*arguments, **about)


def get(house: House, stored: Stored, suffix: str = "") -> Answer:
    return house.wire.get(f"/files/{stored.sha256}/{stored.filename}{suffix}")


def page(house: House, stored: Stored) -> tuple[int, list[str], list[dict[str, Any]]]:
    """Status of the page, the filenames on it, and what is withheld."""
    answer = house.wire.get(f"/simple/{stored.name}/", headers={"Accept": JSON})
    if answer.status != 200:
        return answer.status, [], []
    return 200, [file["filename"] for file in answer.json["files"]], answer.json.get("_withheld", [])


def items(house: House, stored: Stored) -> list[dict[str, Any]]:
    answer = house.wire.send("GET", f"{HELD}?per_page=100", token=house.owner)
    assert answer.status == 200, answer
    return [item for item in answer.json["items"] if item["name"] == stored.name]


def target(stored: Stored, **other: str) -> str:
    given = {"upstream": "pypi", "name": stored.name, "filename": stored.filename, **other}
    return "/".join((HELD, *(quote(part, safe="") for part in given.values())))


def test_a_removed_file_is_refused_with_a_sentence_until_a_command_releases_it(
    house: House, tmp_home: Path
) -> None:
    stored = offer(house)
    client = Client(tmp_home, PIP_RETRIES="0", PIP_NO_CACHE_DIR="1")

    def install() -> bool:
        """Whether pip can install it."""
        target = tmp_home / "target"
        client.pip_install(target, f"{house.server.url}/simple/", "--upgrade", f"{stored.name}==1.0")
        found = installed(target) == {f"{stored.name}-1.0"}
        shutil.rmtree(target, ignore_errors=True)
        return found

    assert install()
    take_away(house, house.upstream.remove_file, stored.name, stored.filename)
    for _ in range(3):
        refused = get(house, stored)
        assert (refused.status, refused["Content-Type"]) == (403, "application/problem+json"), refused
        said = refused.json
        assert f"{stored.name} 1.0 was removed upstream on " in said["detail"]
        assert said["detail"].endswith("an owner may release it")
        assert "removed upstream" in refused.reason
        assert (said["decision"], said["rule"]) == ("withheld", "removed")
        assert get(house, stored, ".metadata").status == 403
        status, files, withheld = page(house, stored)
        assert (status, files, [each["filename"] for each in withheld]) == (200, [], [stored.filename])
    assert not install()

    (item,) = [each for each in house.server.json("held", "list")["items"] if each["name"] == stored.name]
    assert SINCE.fullmatch(item.pop("since"))
    assert item == {
        "upstream": "pypi",
        "name": stored.name,
        "version": "1.0",
        "filename": stored.filename,
        "sha256": stored.sha256,
        "why": "removed",
    }
    house.upstream.reset_requests()
    done = house.server.run("held", "release", "pypi", stored.name, stored.filename, "--yes")
    assert done.returncode == 0, done.stderr
    for _ in range(2):
        assert (get(house, stored).status, get(house, stored).body) == (200, stored.content)
        assert get(house, stored, ".metadata").body.startswith(b"Metadata-Version")
        assert page(house, stored)[1] == [stored.filename]
    assert install()
    assert house.upstream.asked_for(stored.name) == []
    assert items(house, stored) == []


@pytest.mark.parametrize("why", ["removed", "quarantined"])
def test_a_project_that_goes_as_a_whole_is_held_and_released_over_HTTP(house: House, why: str) -> None:
    stored = offer(house)
    if why == "removed":
        take_away(house, house.upstream.remove_project, stored.name)
    else:
        take_away(house, house.upstream.change_project, stored.name, status="quarantined")
    assert get(house, stored).status == 403
    assert why in get(house, stored).json["detail"]
    (item,) = items(house, stored)
    assert (item["why"], item["sha256"]) == (why, stored.sha256)
    assert house.wire.send("DELETE", target(stored), token=house.owner).status == 204
    assert (get(house, stored).status, get(house, stored).body) == (200, stored.content)
    assert page(house, stored)[:2] == (200, [stored.filename])
    (event,) = [
        each
        for each in house.server.json("audit", "log", "--name", stored.name)["items"]
        if each["action"] == "held.release"
    ]
    assert (event["who"]["kind"], event["address"]) == ("owner", "127.0.0.1")
    assert event["filename"] == stored.filename
    assert house.wire.send("DELETE", target(stored), token=house.owner).status == 404


def test_where_the_bytes_of_a_released_file_are_missing_its_upstream_is_asked(house: House) -> None:
    stored = offer(house)
    take_away(house, house.upstream.remove_file, stored.name, stored.filename)
    assert get(house, stored).status == 403
    assert house.wire.send("DELETE", target(stored), token=house.owner).status == 204
    (house.server.data_dir / "cache" / "files" / stored.sha256[:2] / stored.sha256).unlink()
    assert get(house, stored).status in {404, 502}
    # As where a host of files has longer than the index what its makers took back.
    house.upstream.add_file("elsewhere", stored.filename, stored.content)
    assert wait_until(lambda: get(house, stored).status == 200, what="the upstream's file")


def test_held_files_are_for_owners_of_the_instance(house: House) -> None:
    stored = offer(house)
    take_away(house, house.upstream.remove_project, stored.name)
    assert get(house, stored).status == 403
    for method, at in (("GET", HELD), ("DELETE", target(stored))):
        assert house.wire.send(method, at).status == 401
        assert house.wire.send(method, at, token=house.tokens["alice"]).status == 403
    for other in ({"upstream": "mirror"}, {"name": "other"}, {"filename": "other-1.0.tar.gz"}):
        answer = house.wire.send("DELETE", target(stored, **other), token=house.owner)
        assert (answer.status, "is held" in answer.json["message"]) == (404, True)
    assert house.wire.send("POST", HELD, token=house.owner).status == 405
    assert len(items(house, stored)) == 1


def test_the_list_comes_in_pages(house: House) -> None:
    for _ in range(2):
        stored = offer(house)
        take_away(house, house.upstream.remove_project, stored.name)
        assert get(house, stored).status == 403
    names: list[str] = []
    following: int | None = 1
    while following is not None:
        answer = house.wire.send("GET", f"{HELD}?per_page=1&page={following}", token=house.owner)
        names += [item["name"] for item in answer.json["items"]]
        following = answer.json["next"]
    assert names[0] == stored.name
    assert len(names) == len(set(names)) >= 2
