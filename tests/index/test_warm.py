"""What is fetched ahead: as much as an index would serve, and nothing that it would not."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from proxy.domain.moments import iso
from proxy.domain.namespaces import NamespacePath
from proxy.domain.requirements import Needs, parse_lock, parse_requirement
from proxy.errors import NoSuchNamespace, Outdated
from proxy.index.instance import Instance
from proxy.index.warm import Warmed, warm
from tests.index.conftest import House, OpenHouse
from tests.registry.making import NOW, wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel

POLICY = {
    "policy": {"deny": ["denied"], "reserve": ["acme-*"]},
    "projects": {"default": {}},
    "groups": {"vault": {"policy": {"forward": False}}},
}


@pytest.fixture
def house(open_house: OpenHouse, upstream: FakeUpstream) -> House:
    return open_house(base_config(upstream) | POLICY)


async def warmed(house: House, *names: str, index: str = "", lock: str | None = None) -> Warmed:
    needs = Needs(tuple(map(parse_requirement, names))) if lock is None else parse_lock(lock)

    async def current() -> Instance:
        return house.instance

    return await warm(current, NamespacePath(index), needs)


def uv_lock(**packages: list[tuple[str, str]]) -> str:
    """Return a lock file with files, each as filename and sha256, that claims to come from anywhere."""
    lines = ["version = 1"]
    for name, files in packages.items():
        wheels = [
            f'{{url = "http://169.254.0.1/x/{file}", hash = "sha256:{sha256}"}}' for file, sha256 in files
        ]
        lines += ["[[package]]", f'name = "{name}"', 'version = "1.0"']
        lines += ['source = {registry = "http://169.254.0.1/simple"}', f"wheels = [{', '.join(wheels)}]"]
    return "\n".join(lines)


def paths(upstream: FakeUpstream) -> list[str]:
    return sorted(request.path.rpartition("/")[2] or request.path for request in upstream.requests())


async def test_the_newest_version_comes_whole_with_metadata_and_nothing_else(
    house: House, upstream: FakeUpstream
) -> None:
    old, wheel, sdist = (
        make_wheel("widgets", "1.0"),
        make_wheel("widgets", "2.0"),
        make_sdist("widgets", "2.0"),
    )
    for filename, content in (old, wheel, sdist):
        upstream.add_file("widgets", filename, content)

    found = await warmed(house, "widgets")

    size = len(wheel[1]) + len(sdist[1])
    assert found.shape == {
        "names": 1, "files": 2, "bytes": size, "fetched": 2, "skipped": [], "errors": []
    }  # fmt: skip
    asked = paths(upstream)
    pages_and_files = [path for path in asked if not path.endswith(".metadata")]
    assert pages_and_files == sorted(["/simple/widgets/", sdist[0], wheel[0]])
    # The wheel's metadata stand in the wheel, which lies here.
    assert f"{wheel[0]}.metadata" not in asked
    page = await house.page("", "widgets")
    records = [file for file in (await page.screened()).page.files if file.version == "2.0"]
    assert all(house.instance.files.cached(record) for record in records)

    upstream.reset_requests()
    again = await warmed(house, "widgets")
    assert (again.files, again.bytes, again.fetched, again.errors) == (2, size, 0, [])
    assert upstream.requests() == []


async def test_what_the_index_does_not_serve_is_skipped_and_never_asked_for(
    house: House, upstream: FakeUpstream
) -> None:
    for name in ("denied", "acme-tools", "ours", "free"):
        upstream.add_file(name, *make_wheel(name, "1.0"))
    house.publish("default", "ours-1.0-py3-none-any.whl")

    found = await warmed(house, "denied", "acme-tools", "ours", "free")

    assert [name for name, _ in found.skipped] == ["denied", "acme-tools", "ours"]
    assert all(reason for _, reason in found.skipped)
    assert (found.names, found.files, found.errors) == (1, 1, [])
    assert all(not upstream.asked_for(name) for name in ("denied", "acme-tools", "ours"))
    upstream.reset_requests()
    closed = await warmed(house, "free", index="vault")
    assert ([name for name, _ in closed.skipped], upstream.requests()) == (["free"], [])


async def test_of_a_lock_file_exactly_its_files_come_wherever_it_says_they_lie(
    house: House, upstream: FakeUpstream
) -> None:
    filename, content = make_wheel("widgets", "1.0")
    upstream.add_file("widgets", filename, content)
    upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    digest = hashlib.sha256(content).hexdigest()
    lock = uv_lock(
        widgets=[(filename, digest), (filename, "0" * 64), ("../../owner-token", digest)],
        denied=[("denied-1.0-py3-none-any.whl", digest)],
    )

    found = await warmed(house, lock=lock)

    assert (found.names, found.files, found.fetched) == (1, 1, 1)
    assert [name for name, _ in found.skipped] == ["denied"]
    assert len(found.errors) == 2
    assert paths(upstream) == ["/simple/widgets/", filename]


async def test_a_file_without_a_digest_upstream_has_to_have_the_locked_one(
    house: House, upstream: FakeUpstream
) -> None:
    filename, content = make_wheel("widgets", "1.0")
    upstream.configure(hashes=["md5"])
    upstream.add_file("widgets", filename, content)
    found = await warmed(house, lock=uv_lock(widgets=[(filename, "0" * 64)]))
    assert (found.files, [name for name, _ in found.errors]) == (0, ["widgets"])
    assert "another sha256" in found.errors[0][1]


async def test_trouble_with_one_file_is_told_and_the_others_come(
    house: House, upstream: FakeUpstream
) -> None:
    for name in ("broken", "sound"):
        upstream.add_file(name, *make_wheel(name, "1.0"))
    upstream.fault("/packages/*broken-1.0-*.whl", status=404)
    found = await warmed(house, "broken", "sound", "unheardof", "sound>7")
    assert (found.names, found.files, found.done, found.total) == (3, 1, 6, 6)
    assert sorted(name for name, _ in found.errors) == ["broken", "sound", "unheardof"]


async def test_an_index_that_is_not_there_is_no_index(house: House) -> None:
    with pytest.raises(NoSuchNamespace):
        await warmed(house, "widgets", index="nowhere")


async def test_a_configuration_that_comes_meanwhile_counts(
    house: House, open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    """The first instance is replaced while the page is asked for; by the second, the name is denied."""
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    second = open_house(base_config(upstream) | {"policy": {"deny": ["widgets"]}}).instance

    class Replaced:
        async def page(self, _: object) -> None:
            raise Outdated("replaced")

    first = replace(house.instance, index=Replaced())  # type: ignore[arg-type]  # an index out of force
    instances = [first, first]

    async def current() -> Instance:
        return instances.pop() if instances else second

    found = await warm(current, NamespacePath(""), Needs((parse_requirement("widgets"),)))
    assert ([name for name, _ in found.skipped], found.errors) == (["widgets"], [])
    assert upstream.requests() == []


async def test_of_a_merged_name_what_the_upstream_has_is_fetched_and_the_private_file_is_told_of(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    config = base_config(upstream) | {"policy": {"merge": ["gears"]}, "projects": {"default": {}}}
    house = open_house(config)
    upstream.add_file("gears", *make_wheel("gears", "2.0"))
    own = house.publish("default", wheel("gears", "1.0"))
    found = await warmed(house, "gears")
    assert (found.files, found.fetched, found.skipped) == (1, 1, [])
    found = await warmed(house, "gears==1.0")
    assert (found.files, found.errors) == (0, [])
    assert found.skipped == [("gears", f"{own.filename} is published by default")]


async def test_a_version_that_is_held_back_is_told_of_and_not_fetched(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    house = open_house(base_config(upstream) | {"policy": {"min_age": "3d"}})
    young = make_wheel("gears", "2.0")
    upstream.add_file("gears", *make_wheel("gears", "1.0"), upload_time="2020-01-01T00:00:00Z")
    upstream.add_file("gears", *young, upload_time=iso(NOW))
    assert (await warmed(house, "gears")).fetched == 1
    found = await warmed(house, "gears==2.0")
    assert (found.files, found.errors) == (0, [])
    [(_, reason)] = found.skipped
    assert reason.startswith(f"{young[0]}: gears 2.0 is less than an hour old")
    assert [path for path in paths(upstream) if "2.0" in path] == []
