"""Why a name is answered as it is: the shape of contract 12, nine steps in order, origins to the line."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from proxy.domain.access import ANONYMOUS, Caller
from proxy.domain.moments import iso
from proxy.errors import InvalidName
from proxy.index.explain import STEPS, explain
from tests.index.conftest import ALICE, OWNER, House, OpenHouse
from tests.registry.making import FILE, NOW, text_of, wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel

SHAPE = {"index", "name", "caller", "decision", "rule", "reason", "upstream", "tenant", "trail", "files"}


async def ask(house: House, index: str, name: str, caller: Caller = OWNER, **only: Any) -> dict[str, Any]:
    namespace = house.instance.snapshot.tree.find(index)
    found = await explain(house.instance.index, namespace, name, caller, house.sight(caller), **only)
    return found.shape


def outcomes(shape: dict[str, Any]) -> list[str]:
    return [step["outcome"] for step in shape["trail"]]


def stopped(shape: dict[str, Any]) -> dict[str, Any]:
    [step] = [step for step in shape["trail"] if step["outcome"] == "stop"]
    return dict(step)


@pytest.mark.parametrize(
    ("index", "name", "decision", "stop"),
    [
        ("acme", "gears", "private", "private"),
        ("acme", "acme-secret", "claimed", "claimed"),
        ("acme", "gone", "claimed", "claimed"),
        ("vault", "requests", "not-forwarded", "forward"),
        ("open", "denied", "denied", "allow"),
        ("", "nobody-has-it", "unknown", "upstream"),
        ("", "broken", "unavailable", "upstream"),
        ("", "requests", "upstream", "files"),
    ],
)
async def test_all_nine_steps_stand_in_order_up_to_the_one_that_settled_it(
    house: House, upstream: FakeUpstream, index: str, name: str, decision: str, stop: str
) -> None:
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/widgets", wheel("gone", "1.0"))
    house.remove("acme/widgets", "gone")
    upstream.add_file("requests", *make_wheel("requests", "2.0"))
    upstream.fault("/simple/broken/", status=500)
    shape = await ask(house, index, name)
    assert set(shape) == SHAPE
    assert shape["decision"] == decision
    assert (
        [step["step"] for step in shape["trail"]]
        == list(STEPS)
        == [*("namespace", "access", "name", "private", "claimed", "forward", "allow", "upstream", "files")]
    )
    at = STEPS.index(stop)
    assert outcomes(shape) == ["pass"] * at + ["stop"] + ["skip"] * (len(STEPS) - at - 1)
    assert all(set(step) == {"step", "outcome", "because", "origin"} for step in shape["trail"])
    assert all(step["because"] for step in shape["trail"])


async def test_a_private_name_names_its_project_and_tenant(house: House) -> None:
    house.publish("acme/widgets", wheel("gears", "1.0"))
    shape = await ask(house, "", "gears", ALICE)
    assert (shape["index"], shape["name"], shape["caller"]) == ("/", "gears", "user:alice")
    assert (shape["tenant"], shape["upstream"], shape["rule"]) == ("acme", None, None)
    assert stopped(shape)["origin"] == {"package": "gears", "project": "acme/widgets"}
    assert shape["files"] == [
        {
            "filename": wheel("gears", "1.0"),
            "version": "1.0",
            "source": "acme/widgets",
            "served": True,
            "rule": None,
            "reason": None,
            "until": None,
        }
    ]


async def test_the_instance_is_told_as_a_slash(house: House) -> None:
    house.publish("default", wheel("gears", "1.0"))
    house.publish("default", wheel("gone", "1.0"))
    house.remove("default", "gone")
    assert (await ask(house, "", "gears"))["tenant"] == "/"
    claimed = await ask(house, "acme", "gone")
    assert claimed["tenant"] == "/"
    assert stopped(claimed)["origin"] == {"package": "gone", "project": "default"}


async def test_a_rule_names_file_line_and_path(open_house: OpenHouse, upstream: FakeUpstream) -> None:
    policy = {"reserve": ["acme-*", "other-*"], "deny": ["bad-*"]}
    groups = {"acme": {"policy": policy, "groups": {"below": {}, "vault": {"policy": {"forward": False}}}}}
    config = base_config(upstream) | {"groups": groups}
    lines = text_of(config).splitlines()
    house = open_house(config)
    for index, name, marker, path in (
        ("acme/below", "other-tool", "- other-*", "groups.acme.policy.reserve.1"),
        ("acme", "bad-tool", "- bad-*", "groups.acme.policy.deny.0"),
        ("acme/vault", "requests", "forward: false", "groups.acme.groups.vault.policy.forward"),
    ):
        [line] = [number for number, text in enumerate(lines, 1) if text.strip() == marker]
        origin = stopped(await ask(house, index, name))["origin"]
        assert origin == {"file": FILE, "line": line, "path": path}


async def test_a_passed_step_names_the_rule_that_let_it_pass(house: House, upstream: FakeUpstream) -> None:
    upstream.add_file("requests", *make_wheel("requests", "2.0"))
    shape = await ask(house, "open", "requests")
    [forward] = [step for step in shape["trail"] if step["step"] == "forward"]
    assert forward["origin"]["path"] == "policy.forward"
    assert shape["upstream"] == "pypi"


async def test_files_are_filtered_by_version_in_any_spelling_and_by_filename(
    house: House, upstream: FakeUpstream
) -> None:
    for filename, content in (
        make_wheel("gears", "1.0"),
        make_sdist("gears", "1.0"),
        make_wheel("gears", "2.0"),
    ):
        upstream.add_file("gears", filename, content)

    async def shown(**only: Any) -> set[str]:
        return {file["filename"] for file in (await ask(house, "", "gears", **only))["files"]}

    assert len(await shown()) == 3
    assert await shown(version="1.0.0") == {"gears-1.0.tar.gz", wheel("gears", "1.0")}
    assert await shown(version="v2") == {wheel("gears", "2.0")}
    assert await shown(version="3.0") == set()
    assert await shown(version="latest") == set()
    assert await shown(filename="gears-1.0.tar.gz") == {"gears-1.0.tar.gz"}
    assert await shown(filename="gears-1.0.tar.gz", version="2.0") == set()


async def test_files_of_an_upstream_name_it_and_are_counted(house: House, upstream: FakeUpstream) -> None:
    for version in ("1.0", "2.0"):
        upstream.add_file("gears", *make_wheel("gears", version))
    shape = await ask(house, "", "gears")
    assert [(file["source"], file["served"]) for file in shape["files"]] == [("pypi", True)] * 2
    assert stopped(shape)["because"] == "2 served, 0 withheld"


async def test_the_name_is_shown_in_both_spellings(house: House) -> None:
    house.publish("acme/widgets", wheel("gears_of_war", "1.0"))
    shape = await ask(house, "acme", "Gears.of__War")
    assert shape["name"] == "gears-of-war"
    [step] = [step for step in shape["trail"] if step["step"] == "name"]
    assert step["because"] == "Gears.of__War is gears-of-war"


async def test_what_is_no_name_cannot_be_explained(house: House) -> None:
    with pytest.raises(InvalidName):
        await ask(house, "", "-gears")


async def test_nothing_that_the_caller_cannot_read_is_told(house: House) -> None:
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/widgets", wheel("gone", "1.0"))
    house.remove("acme/widgets", "gone")
    for name in ("gears", "gone", "acme-secret"):
        shape = await ask(house, "", name, ANONYMOUS)
        assert shape["decision"] == "claimed"
        assert shape["reason"] == f"{name} is reserved on this server"
        assert (shape["tenant"], shape["rule"], stopped(shape)["origin"]) == (None, None, None)
        assert "widgets" not in str(shape)
        assert "acme" not in str(shape).replace("acme-secret", "")


async def test_a_page_that_came_from_the_cache_is_told_as_such(house: House, upstream: FakeUpstream) -> None:
    upstream.add_file("gears", *make_wheel("gears", "1.0"))
    first, again = await ask(house, "", "gears"), await ask(house, "", "gears")

    def how(shape: dict[str, Any]) -> str:
        [step] = [step for step in shape["trail"] if step["step"] == "upstream"]
        return str(step["because"])

    assert "uri-miss" in how(first)
    assert "(hit)" in how(again)
    assert len(upstream.asked_for("gears")) == 1


async def test_each_upstream_that_was_asked_has_a_step(open_house: OpenHouse, upstream: FakeUpstream) -> None:
    with FakeUpstream() as second:
        config = base_config(upstream)
        config["upstreams"]["second"] = base_config(second)["upstreams"]["pypi"]
        house = open_house({**config, "policy": {"upstreams": ["pypi", "second"]}})
        second.add_file("gears", *make_wheel("gears", "1.0"))

        async def steps(name: str) -> list[tuple[str, str]]:
            trail = (await ask(house, "", name))["trail"]
            return [(step["outcome"], step["because"]) for step in trail if step["step"] == "upstream"]

        found = await steps("gears")
        assert [outcome for outcome, _ in found] == ["pass", "pass"]
        assert found[0][1] == "pypi has no project gears"
        assert found[1][1].startswith("second has it")
        assert [outcome for outcome, _ in await steps("nobody-has-it")] == ["pass", "pass", "stop"]


async def test_a_withheld_file_has_its_rule_reason_and_end_and_stands_once(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    house = open_house(base_config(upstream) | {"policy": {"min_age": "3d", "deny": ["gears<1"]}})
    for version, uploaded in (("0.9", 90), ("1.0", 90), ("2.0", 1)):
        at = iso(NOW - timedelta(days=uploaded))
        upstream.add_file("gears", *make_wheel("gears", version), upload_time=at)
    shape = await ask(house, "", "gears")
    told = [(file["version"], file["served"], file["rule"], file["until"]) for file in shape["files"]]
    assert told == [
        ("1.0", True, None, None),
        ("0.9", False, "deny gears<1", None),
        ("2.0", False, "min_age 3d", iso(NOW + timedelta(days=2))),
    ]
    assert stopped(shape)["because"] == "1 served, 2 withheld"
    rules = [step for step in shape["trail"] if step["step"] == "files"][:-1]
    assert [(step["outcome"], step["because"], step["origin"]["path"]) for step in rules] == [
        ("pass", "deny gears<1 withholds 1 file", "policy.deny.0"),
        ("pass", "min_age 3d withholds 1 file", "policy.min_age"),
    ]
    assert all(step["origin"]["line"] for step in rules)
    assert "24 hours old" in shape["files"][2]["reason"]
    only = await ask(house, "", "gears", version="v2")
    assert [file["filename"] for file in only["files"]] == [wheel("gears", "2.0")]


async def test_a_quarantined_project_without_files_is_told_as_such(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_project("evil", status="quarantined", status_reason="malware")
    steps = [step["because"] for step in (await ask(house, "", "evil"))["trail"] if step["step"] == "files"]
    assert steps == ["evil is quarantined upstream: malware", "0 served, 0 withheld"]


async def test_each_file_of_several_projects_names_its_own(house: House) -> None:
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/sandbox", wheel("gears", "2.0"))
    shape = await ask(house, "acme", "gears")
    assert {file["version"]: file["source"] for file in shape["files"]} == {
        "1.0": "acme/widgets",
        "2.0": "acme/sandbox",
    }
