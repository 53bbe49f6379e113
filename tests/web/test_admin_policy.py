"""The policy in force over the administration API (contract 12): every value, where it stands, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.domain.policy import POLICY_KEYS
from tests.web.house import House

POLICY = "/api/v1/policy"


def values(house: House, namespace: str, token: str | None) -> dict[str, Any]:
    answer = house.wire.get(f"{POLICY}?namespace={namespace}", token=token)
    assert (answer.status, answer["Content-Type"]) == (200, "application/json"), answer
    assert answer.json["namespace"] == (namespace.replace("%2F", "/"))
    found: dict[str, Any] = answer.json["values"]
    assert list(found) == list(POLICY_KEYS)
    return found


def test_a_reader_sees_what_holds_and_which_line_says_so(house: House) -> None:
    found = values(house, "vault%2Fsafe", None)
    assert found["forward"]["value"] is False
    assert found["forward"]["origin"]["path"] == "groups.vault.policy.forward"
    lines = house.server.config_file.read_text().splitlines()
    assert "forward: false" in lines[found["forward"]["origin"]["line"] - 1]
    assert (found["min_age"]["value"], found["min_age"]["locked_by"]) == ("0s", None)
    assert found["min_age"]["origin"]["file"] == "shipped defaults"


def test_entries_of_lists_stand_each_with_its_own_line(house: House) -> None:
    found = values(house, "open", None)
    assert found["deny"]["value"] == ["evil-*"]
    (entry,) = found["deny"]["entries"]
    assert (entry["value"], entry["reason"], entry["until"]) == ("evil-*", None, None)
    assert entry["origin"]["path"] == "groups.open.policy.deny.0"
    assert found["reserve"]["value"] == ["open-*"]


def test_what_stands_where_a_caller_may_not_look_is_left_out(house: House) -> None:
    assert values(house, "%2F", None)["reserve"]["value"] == ["open-*"]
    assert values(house, "%2F", house.owner)["reserve"]["value"] == ["acme-*", "open-*"]
    assert values(house, "acme", house.tokens["alice"])["reserve"]["value"] == ["acme-*"]


@pytest.mark.parametrize(
    ("token", "namespace", "status"),
    [(None, "acme", 401), (None, "nothing", 404), ("otto", "acme", 404), ("rita", "acme", 200)],
)
def test_only_readers_are_told(house: House, token: str | None, namespace: str, status: int) -> None:
    by = None if token is None else house.tokens[token]
    assert house.wire.get(f"{POLICY}?namespace={namespace}", token=by).status == status
