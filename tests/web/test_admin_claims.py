"""Claims and status over the administration API (contract 6, 12)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.web.house import House

CLAIMS = "/api/v1/claims"


def claims(house: House, by: str, tenant: str) -> list[dict[str, Any]]:
    answer = house.wire.send("GET", f"{CLAIMS}?tenant={tenant}&per_page=100", token=by)
    assert answer.status == 200, answer
    found: list[dict[str, Any]] = answer.json["items"]
    return found


def test_a_tombstone_is_listed_and_released_by_an_owner_alone(house: House) -> None:
    stored = house.publish("acme/widgets")
    alice = house.tokens["alice"]
    target = f"{CLAIMS}/acme/{stored.name}"
    in_use = house.wire.send("DELETE", target, token=house.owner)
    assert in_use.status == 409, in_use
    assert "has files" in in_use.json["message"]
    house.delete("acme/widgets", stored.name)
    (claim,) = [each for each in claims(house, alice, "acme") if each.get("name") == stored.name]
    assert (claim["kind"], claim["project"], claim["tenant"]) == ("tombstone", "acme/widgets", "acme")
    assert house.wire.send("DELETE", target, token=alice).status == 403  # a maintainer
    assert house.wire.send("DELETE", target).status == 401
    assert house.wire.send("DELETE", target, token=house.owner).status == 204
    assert stored.name not in {each.get("name") for each in claims(house, alice, "acme")}
    assert house.wire.send("DELETE", target, token=house.owner).status == 404


def test_a_pattern_of_the_configuration_is_told_with_file_and_line(house: House) -> None:
    (pattern,) = [each for each in claims(house, house.owner, "acme") if each["kind"] == "reserve"]
    assert pattern["pattern"] == "acme-*"
    answer = house.wire.send("DELETE", f"{CLAIMS}/acme/acme-%2A", token=house.owner)
    assert answer.status == 409, answer
    assert f":{pattern['origin']['line']}" in answer.json["message"]


@pytest.mark.parametrize(
    ("tenant", "by", "status"),
    [
        ("acme", None, 401),
        ("acme", "rita", 403),  # a reporter
        ("acme", "otto", 404),  # sees nothing of it
        ("acme%2Fwidgets", "alice", 404),  # a project is no tenant
        ("%2F", "alice", 403),
        ("nowhere", "alice", 404),
    ],
)
def test_who_may_not_list_which(house: House, tenant: str, by: str | None, status: int) -> None:
    answer = house.wire.send("GET", f"{CLAIMS}?tenant={tenant}", token=by and house.tokens[by])
    assert answer.status == status, answer
    if status == 403:
        assert "may not list claims at" in answer.reason


def test_without_a_tenant_a_maintainer_is_shown_its_own(house: House) -> None:
    answer = house.wire.send("GET", f"{CLAIMS}?per_page=100", token=house.tokens["alice"])
    assert {each["tenant"] for each in answer.json["items"]} == {"acme", "open"}
    refused = house.wire.send("GET", CLAIMS, token=house.tokens["rita"])
    assert (refused.status, "may list the claims of no tenant" in refused.reason) == (403, True)
    assert house.wire.send("GET", CLAIMS).status == 401


def test_the_status_is_for_owners_of_the_instance(house: House) -> None:
    answer = house.wire.send("GET", "/api/v1/status", token=house.owner)
    assert answer.status == 200, answer
    said = answer.json
    assert set(said) == {"version", "started_at", "config", "workers", "database"}
    assert said["config"]["digest"] == hashlib.sha256(house.server.config_file.read_bytes()).hexdigest()
    assert said["config"]["file"] == str(house.server.config_file)
    assert (said["workers"], said["database"]) == (1, "sqlite")
    assert house.wire.send("GET", "/api/v1/status", token=house.tokens["alice"]).status == 403
    assert house.wire.send("GET", "/api/v1/status").status == 401


@pytest.mark.parametrize("target", ["", "/", "/tokens/", "/nothing", "/packages/a/b/c/d/e"])
def test_other_addresses_are_404_as_json(house: House, target: str) -> None:
    answer = house.wire.send("GET", f"/api/v1{target}", token=house.owner)
    assert (answer.status, answer["Content-Type"]) == (404, "application/json")


def test_a_wrong_method_says_which_are_right(house: House) -> None:
    answer = house.wire.send("PUT", "/api/v1/tokens", token=house.owner)
    assert (answer.status, answer["Allow"]) == (405, "GET, HEAD, POST")


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/api/v1/explain?index=/&name=unheardof", 200),
        ("POST", "/api/v1/explain", 405),
        ("GET", "/api/v1/%00", 404),
        ("GET", "/api/v4/projects/44/packages/", 404),
        ("DELETE", "/api/v4/projects/44/packages/one", 404),
        ("GET", "/api/v4/groups/8/packages/1", 404),
    ],
)
def test_both_APIs_answer_with_JSON_and_nothing_else(
    house: House, method: str, target: str, status: int
) -> None:
    answer = house.wire.send(method, target, token=house.owner)
    assert (answer.status, answer["Content-Type"]) == (status, "application/json")
