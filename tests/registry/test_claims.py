"""Claims as they are listed: ends of patterns, what counts at the root, and what shadows an upstream's package."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain.namespaces import NamespacePath
from proxy.registry.claims import list_claims
from proxy.storage.database import Database
from tests.registry.making import CONFIG, GLOBEX, NOW, SANDBOX, WIDGETS, publish, tree_of, wheel


def claims(registry: Database, **reserve: Any) -> list[dict[str, Any]]:
    """What is claimed; the keywords are policies and switches of groups, `root` is the root's policy."""
    groups = {name: {**group, **reserve.get(name, {})} for name, group in CONFIG["groups"].items()}
    tree = tree_of({**CONFIG, "policy": reserve.get("root", {}), "groups": groups})
    return registry.read_now(lambda c: list_claims(c, tree, None, NOW))


def reserving(*entries: object) -> dict[str, Any]:
    return {"policy": {"reserve": list(entries)}}


def test_a_pattern_is_listed_until_its_end_and_no_longer(registry: Database) -> None:
    listed = claims(
        registry,
        acme=reserving(
            {"match": "soon-*", "until": "2026-11-22"}, {"match": "past-*", "until": "2026-11-21"}, "ever"
        ),
    )
    assert [(item["pattern"], item.get("until")) for item in listed] == [
        ("soon-*", "2026-11-22T00:00:00Z"),
        ("ever", None),
    ]
    assert ["until" in item for item in listed] == [True, False]


def test_at_the_root_the_first_tenant_with_a_pattern_has_it_and_the_instance_the_last(
    registry: Database,
) -> None:
    listed = claims(
        registry,
        root={"reserve": ["x-*", "own-*", "x"]},
        acme=reserving("x-*", "x"),
        globex=reserving("x-*", "y", "z-*", "x"),
    )
    assert {(item["tenant"], item["pattern"]) for item in listed if item["at_root"]} == {
        ("/", "own-*"),
        ("acme", "x-*"),
        ("acme", "x"),
        ("globex", "y"),
        ("globex", "z-*"),
    }


def test_a_tenant_that_keeps_off_the_root_counts_for_nothing_there(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    apart = {**reserving("x-*", "x"), "at_root": False}
    listed = claims(registry, acme=apart, globex=reserving("x-*"))
    assert {(item["tenant"], item.get("name") or item["pattern"]) for item in listed if item["at_root"]} == {
        ("globex", "gears"),
        ("globex", "x-*"),
    }


@pytest.mark.parametrize("shadows", ["pypi", "unchecked", None])
def test_what_upstreams_had_stands_at_a_name_where_they_had_something(
    registry: Database, shadows: str | None
) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), shadows=shadows)
    publish(registry, WIDGETS, wheel("gears", "1.1"), shadows="later uploads say nothing")
    publish(registry, SANDBOX, wheel("cogs", "1.0"))
    by_name = {item["name"]: item for item in claims(registry)}
    assert by_name["gears"].get("shadows") == shadows
    assert ("shadows" in by_name["gears"], "shadows" in by_name["cogs"]) == (shadows is not None, False)


def test_claims_are_those_of_every_tenant(registry: Database) -> None:
    publish(registry, NamespacePath("default"), wheel("tools", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    listed = claims(registry)
    assert [(item["tenant"], item["name"], item["at_root"]) for item in listed] == [
        ("globex", "gears", True),
        ("/", "tools", True),
    ]
