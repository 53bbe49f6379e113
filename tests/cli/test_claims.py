from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import CONFIG, Site

WHEEL = "widgets-1.0-py3-none-any.whl"


def claim(site: Site, name: str, *arguments: str) -> dict[str, Any]:
    [found] = [item for item in site.items("claim", "list", *arguments) if item.get("name") == name]
    return found


def test_packages_tombstones_and_patterns_are_claims(site: Site) -> None:
    site.publish("acme/widgets", WHEEL, "tools-1.0-py3-none-any.whl")
    site.run("package", "delete", "acme/widgets", "tools", "--yes")
    listed = site.items("claim", "list")
    assert {(item.get("name") or item["pattern"], item["kind"]) for item in listed} == {
        ("widgets", "package"),
        ("tools", "tombstone"),
        ("acme-*", "reserve"),
        ("gadgets", "reserve"),
    }
    package = claim(site, "widgets")
    assert package | {"since": "…"} == {
        "tenant": "acme",
        "name": "widgets",
        "kind": "package",
        "project": "acme/widgets",
        "since": "…",
        "by": "alice",
        "at_root": True,
        "origin": None,
    }
    assert package["since"].endswith("Z")
    [pattern] = [item for item in listed if item.get("pattern") == "acme-*"]
    line = site.file.read_text(encoding="utf-8").splitlines().index("      - acme-*") + 1
    assert pattern == {
        "tenant": "acme",
        "pattern": "acme-*",
        "kind": "reserve",
        "project": None,
        "since": None,
        "by": None,
        "at_root": True,
        "origin": {"file": site.file.name, "line": line, "path": "groups.acme.policy.reserve.0"},
    }


def test_a_name_counts_at_the_root_for_one_owner_alone(site: Site) -> None:
    site.publish("globex/things", WHEEL, "gadgets-1.0-py3-none-any.whl")
    site.publish("acme/widgets", WHEEL)
    widgets = [item for item in site.items("claim", "list") if item.get("name") == "widgets"]
    assert [(item["tenant"], item["at_root"]) for item in widgets] == [("globex", True), ("acme", False)]
    assert claim(site, "gadgets")["at_root"] is False, "acme reserves it"


def test_the_claims_of_one_tenant(site: Site) -> None:
    site.publish("globex/things", "things-1.0-py3-none-any.whl")
    assert [item["name"] for item in site.items("claim", "list", "globex")] == ["things"]
    assert [item["pattern"] for item in site.items("claim", "list", "/acme")] == ["acme-*", "gadgets"]
    assert site.items("claim", "list", "/") == []
    assert site.refused("claim", "list", "acme/widgets") == "error: acme/widgets is not a tenant"
    table = site.run("claim", "list", "globex").stdout.splitlines()
    assert table[1].split()[:4] == ["globex", "things", "package", "globex/things"]


def test_a_tombstone_is_released_in_every_project_of_the_tenant(site: Site) -> None:
    for project in ("acme/widgets", "acme/sandbox", "globex/things"):
        site.publish(project, WHEEL)
        site.run("package", "delete", project, "widgets", "--yes")
    done = site.run("claim", "release", "acme", "Widgets", "--yes")
    assert done.exit_code == 0
    assert "widgets is no longer claimed by acme" in done.stderr
    assert claim(site, "widgets")["tenant"] == "globex"
    assert site.audited()[-2:] == [
        ("claim.release", "owner", "acme/widgets", "widgets"),
        ("claim.release", "owner", "acme/sandbox", "widgets"),
    ]


def test_a_name_with_files_is_not_released_not_even_in_part(site: Site) -> None:
    site.publish("acme/widgets", WHEEL)
    site.publish("acme/sandbox", WHEEL)
    site.run("package", "delete", "acme/widgets", "widgets", "--yes")
    said = site.refused("claim", "release", "acme", "widgets", "--yes")
    assert said == "error: widgets has files in acme/sandbox"
    assert {item["project"] for item in site.items("claim", "list", "acme") if "name" in item} == {
        "acme/widgets",
        "acme/sandbox",
    }
    assert "claim.release" not in [event[0] for event in site.audited()]


@pytest.mark.parametrize(
    ("name", "pattern", "position"),
    [("acme-*", "acme-*", 0), ("Acme.*", "acme-*", 0), ("acme-core", "acme-*", 0), ("gadgets", "gadgets", 1)],
)
def test_what_the_file_reserves_is_refused_with_its_line(
    site: Site, name: str, pattern: str, position: int
) -> None:
    line = site.file.read_text(encoding="utf-8").splitlines().index(f"      - {pattern}") + 1
    said = site.refused("claim", "release", "acme", name, "--yes")
    assert f"{site.file.name}:{line}: groups.acme.policy.reserve.{position}" in said


def test_what_nobody_claims_cannot_be_released(site: Site) -> None:
    assert (
        site.refused("claim", "release", "globex", "acme-*", "--yes") == "error: globex does not claim acme-*"
    )
    assert site.refused("claim", "release", "/", "foo", "--yes") == "error: the instance does not claim foo"


def test_a_released_name_that_stays_reserved_is_told_so(site: Site) -> None:
    site.publish("acme/widgets", "gadgets-1.0-py3-none-any.whl")
    site.run("package", "delete", "acme/widgets", "gadgets", "--yes")
    done = site.run("claim", "release", "acme", "gadgets", "--yes")
    assert done.exit_code == 0
    assert "stays reserved" in done.stderr
    assert all("name" not in item for item in site.items("claim", "list"))


def test_what_a_dropped_namespace_left_is_released_for_the_instance(site: Site) -> None:
    site.publish("globex/things", WHEEL)
    site.configure({**CONFIG, "groups": {"acme": CONFIG["groups"]["acme"]}})
    assert site.run("namespace", "drop", "globex", "--yes").exit_code == 0
    left = claim(site, "widgets", "/")
    assert (left["tenant"], left["kind"], left["project"], left["at_root"]) == ("/", "tombstone", "/", True)
    assert site.run("claim", "release", "/", "widgets", "--yes").exit_code == 0
    assert site.items("claim", "list", "/") == []
