from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.checks import cross_check
from proxy.config.nodes import dotted


def found(config: dict[str, Any]) -> dict[str, str]:
    return {dotted(finding.path): finding.message for finding in cross_check(config)}


def test_a_sound_configuration_has_no_findings() -> None:
    config = {
        "server": {"default_project": "acme/widgets"},
        "upstreams": {"pypi": {"username": "u", "password": "p"}, "gone": None},
        "policy": {"upstreams": ["pypi"]},
        "users": {"alice": {}},
        "members": {"alice": "owner"},
        "groups": {
            "acme": {
                "id": 1,
                "members": {"alice": "owner"},
                "projects": {"widgets": {"id": 1, "aliases": ["old"]}, "42": {}},
            }
        },
    }
    assert found(config) == {}


def test_siblings_differ_in_more_than_case_groups_and_projects_together() -> None:
    below: dict[str, Any] = {"groups": {"Tools": {}}, "projects": {"tools": {}, "other": {}}}
    assert list(found({"groups": {"acme": below}})) == ["groups.acme.projects.tools"]
    assert "differs only in case from groups.Tools" in found(below)["projects.tools"]
    same = found({"groups": {"a": {}}, "projects": {"a": {}}})
    assert same["projects.a"].startswith("has the same name as groups.a")


def test_cousins_may_have_the_same_name() -> None:
    assert found({"groups": {"a": {"projects": {"x": {}}}, "b": {"projects": {"x": {}}}}}) == {}


def test_digits_alone_are_no_name_at_the_top_level_only() -> None:
    assert list(found({"groups": {"42": {"groups": {"43": {}}}}, "projects": {"7": {}}})) == [
        "groups.42",
        "projects.7",
    ]


def test_a_number_is_unique_per_kind() -> None:
    config = {
        "groups": {
            "a": {"id": 1, "projects": {"x": {"id": 1}}},
            "b": {"id": 1, "groups": {"c": {"projects": {"y": {"id": 1}}}}},
        }
    }
    assert found(config) == {
        "groups.b.id": "expected another number than that of groups.a",
        "groups.b.groups.c.projects.y.id": "expected another number than that of groups.a.projects.x",
    }


def test_members_are_users_everywhere() -> None:
    config = {
        "users": {"alice": {}},
        "members": {"bob": "owner"},
        "groups": {
            "a": {
                "members": {"alice": "owner", "carol": "owner"},
                "projects": {"x": {"members": {"dan": ""}}},
            }
        },
    }
    assert list(found(config)) == ["members.bob", "groups.a.members.carol", "groups.a.projects.x.members.dan"]


def test_policy_names_upstreams_that_exist_once_each() -> None:
    config = {
        "upstreams": {"pypi": {}, "gone": None},
        "policy": {"upstreams": ["pypi", "gone"]},
        "groups": {"a": {"policy": {"upstreams": ["pypi", "pypi", "nowhere"]}}},
    }
    assert found(config) == {
        "policy.upstreams.1": "expected one of pypi",
        "groups.a.policy.upstreams.1": "expected every upstream once",
        "groups.a.policy.upstreams.2": "expected one of pypi",
    }


def test_vulnerabilities_cannot_count_without_advisories() -> None:
    policies: dict[str, Any] = {
        "policy": {"vulnerable": "off"},
        "groups": {"a": {"policy": {"vulnerable": "deny"}}},
    }
    message = "expected advisories.osv_dir to name a directory of advisories, or off here"
    for advisories in ({}, {"osv_dir": None}, {"osv_dir": ""}):
        assert found({"advisories": advisories, **policies}) == {"groups.a.policy.vulnerable": message}
    assert found({"advisories": {"osv_dir": "osv"}, **policies}) == {}


def test_some_kinds_of_files_are_served() -> None:
    assert list(found({"policy": {"file_types": ["wheel"]}})) == []
    assert list(found({"policy": {"file_types": []}})) == ["policy.file_types"]


def test_a_protection_protects_something() -> None:
    entries = [{"name": "a"}, {"name": "b", "publish": "owner"}, {"name": "c", "delete": "owner"}]
    assert list(found({"groups": {"a": {"policy": {"protect": entries}}}})) == ["groups.a.policy.protect.0"]


def test_only_tenants_stay_out_of_the_root() -> None:
    config = {"groups": {"a": {"at_root": False, "groups": {"b": {"at_root": False}}}}}
    assert found(config) == {"groups.a.groups.b.at_root": "at_root is for top-level groups: set it at a"}


def test_a_password_without_a_user_name_is_refused_without_being_told() -> None:
    config = {"upstreams": {"a": {"password": "geheim"}, "b": {"password": ""}, "c": {"username": "u"}}}
    assert found(config) == {"upstreams.a.password": "expected username beside it, got none"}


@pytest.mark.parametrize("alias", ["a", "a/x"])
def test_a_former_path_is_not_one_of_today(alias: str) -> None:
    message = found({"groups": {"a": {"projects": {"x": {}}}, "b": {"aliases": [alias]}}})[
        "groups.b.aliases.0"
    ]
    assert message.startswith("expected a former path")


def test_two_namespaces_cannot_have_the_same_former_path() -> None:
    config = {"groups": {"a": {"aliases": ["old"]}, "b": {"aliases": ["older", "old"]}}}
    assert found(config) == {"groups.b.aliases.1": "expected another path than groups.a had"}


@pytest.mark.parametrize("named", ["nowhere", "acme", "acme/nowhere"])
def test_the_default_project_is_a_project(named: str) -> None:
    config = {"server": {"default_project": named}, "groups": {"acme": {"projects": {"x": {}}}}}
    assert "server.default_project" in found(config)


def test_an_empty_default_project_is_none() -> None:
    assert found({"server": {"default_project": ""}}) == {}


_KEYS = st.sampled_from(
    [
        *("server", "default_project", "upstreams", "policy", "users", "members", "groups", "projects", "id"),
        *("aliases", "password", "a", "A", "1", "lock", "warn", "protect", "vulnerable", "file_types"),
    ]
)
_VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | _KEYS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(_KEYS, below, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(_KEYS, _VALUES))
def test_no_shape_of_a_file_breaks_the_checks(config: dict[str, Any]) -> None:
    assert all(finding.message for finding in cross_check(config))
