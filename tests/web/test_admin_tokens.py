"""Tokens over the administration API: who may make, see, rotate and end which (contract 5, 12)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.web.house import House
from tests.web.wire import Answer

TOKENS = "/api/v1/tokens"


def make(house: House, by: str | None, **wanted: Any) -> Answer:
    """Ask for a token; `expires_at` and the like as the API takes them."""
    return house.wire.send("POST", TOKENS, token=by, body=json.dumps(wanted).encode())


def made(house: House, by: str, **wanted: Any) -> dict[str, Any]:
    answer = make(house, by, **wanted)
    assert answer.status == 201, answer
    assert answer["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.json
    return found


def listed(house: House, by: str) -> list[dict[str, Any]]:
    """Every token that `by` is shown, over all pages."""
    found: list[dict[str, Any]] = []
    page: int | None = 1
    while page is not None:
        answer = house.wire.send("GET", f"{TOKENS}?page={page}&per_page=100", token=by)
        assert answer.status == 200, answer
        found += answer.json["items"]
        page = answer.json["next"]
    return found


def works(house: House, text: str) -> bool:
    return house.wire.send("GET", "/simple/", token=text).status == 200


def test_a_user_makes_lists_rotates_and_ends_tokens_of_its_own(house: House) -> None:
    alice = house.tokens["alice"]
    token = made(house, alice, kind="personal", name="laptop", scopes=["read_api"])
    assert (token["kind"], token["user"], token["username"]) == ("personal", "alice", "alice")
    assert token["scopes"] == ["read_api"]
    assert token["token"].startswith("pyo_pat_")
    (shown,) = [each for each in listed(house, alice) if each["id"] == token["id"]]
    assert "token" not in shown
    assert shown | {"token": token["token"]} == token

    rotated = house.wire.send("POST", f"{TOKENS}/{token['id']}/rotate", token=alice)
    assert rotated.status == 201, rotated
    fresh = rotated.json
    assert {key: fresh[key] for key in ("kind", "user", "name", "scopes", "expires_at")} == {
        key: token[key] for key in ("kind", "user", "name", "scopes", "expires_at")
    }
    assert not works(house, token["token"])
    assert works(house, fresh["token"])

    assert house.wire.send("DELETE", f"{TOKENS}/{fresh['id']}", token=alice).status == 204
    assert not works(house, fresh["token"])


def test_a_user_deals_with_nobody_else_s_tokens(house: House) -> None:
    rita, dan = house.tokens["rita"], house.tokens["dan"]
    token = made(house, rita, kind="personal", scopes=["api"])
    assert token["id"] not in {each["id"] for each in listed(house, dan)}
    for method, target in (("DELETE", ""), ("POST", "/rotate")):
        answer = house.wire.send(method, f"{TOKENS}/{token['id']}{target}", token=dan)
        assert answer.status == 404, answer
    refused = make(house, dan, kind="personal", user="rita", scopes=["api"])
    assert refused.status == 403, refused
    assert works(house, token["token"])


@pytest.mark.parametrize(
    ("by", "wanted", "status"),
    [
        (None, {"kind": "personal", "scopes": ["api"]}, 401),
        ("dan", {"kind": "owner"}, 403),
        ("alice", {"kind": "owner"}, 403),
        (
            "dan",
            {"kind": "deploy", "namespace": "acme", "name": "x", "scopes": ["read_package_registry"]},
            403,
        ),
        ("dan", {"kind": "job", "namespace": "acme/widgets"}, 403),  # a developer there
        ("otto", {"kind": "job", "namespace": "acme/widgets"}, 404),  # sees nothing of it
        ("alice", {"kind": "job", "namespace": "vault/safe"}, 403),
        ("alice", {"kind": "deploy", "namespace": "acme", "name": "x", "scopes": ["api"]}, 400),
        ("alice", {"kind": "job", "namespace": "acme"}, 400),
        ("alice", {"kind": "personal"}, 400),
        ("alice", {"kind": "magic"}, 400),
        ("alice", {"kind": "personal", "scopes": ["api"], "expires_at": "soon"}, 400),
        ("alice", {"kind": "personal", "scopes": ["api"], "expires_at": "2199-01-01T00:00:00"}, 400),
        ("alice", {"kind": "personal", "scopes": ["api"], "expires_at": "2001-01-01T00:00:00Z"}, 400),
        ("alice", {"kind": "personal", "scopes": ["api"], "scope": "api"}, 400),
    ],
)
def test_who_may_not_make_which(house: House, by: str | None, wanted: dict[str, Any], status: int) -> None:
    answer = make(house, by and house.tokens[by], **wanted)
    assert answer.status == status, answer
    assert answer["Content-Type"] == "application/json"


def test_maintainers_make_deploy_and_job_tokens_where_they_are(house: House) -> None:
    alice = house.tokens["alice"]
    later = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    deploy = made(
        house,
        alice,
        kind="deploy",
        namespace="acme",
        name="ci",
        scopes=["read_package_registry"],
        username="robot",
    )
    job = made(house, alice, kind="job", namespace="/acme/widgets/", expires_at=later)
    assert (deploy["namespace"], deploy["username"]) == ("acme", "robot")
    assert (job["namespace"], job["kind"]) == ("acme/widgets", "job")
    assert {deploy["id"], job["id"]} <= {each["id"] for each in listed(house, alice)}
    assert not {deploy["id"], job["id"]} & {each["id"] for each in listed(house, house.tokens["dan"])}
    rotated = house.wire.send("POST", f"{TOKENS}/{deploy['id']}/rotate", token=alice)
    # The user name stays, so that only the password has to be changed where it is used.
    assert (rotated.status, rotated.json["username"]) == (201, "robot")


def test_tokens_that_are_no_users_deal_with_none(house: House) -> None:
    reading = made(house, house.tokens["alice"], kind="personal", scopes=["read_api"])["token"]
    job = made(house, house.tokens["alice"], kind="job", namespace="acme/widgets")["token"]
    for text in (reading, job):
        assert house.wire.send("GET", TOKENS, token=text).status == 403
        assert make(house, text, kind="personal", user="alice", scopes=["read_api"]).status == 403


def test_owners_of_the_instance_deal_with_all(house: House) -> None:
    token = made(house, house.owner, kind="personal", user="rita", scopes=["api"])
    assert token["user"] == "rita"
    assert make(house, house.owner, kind="personal", user="nobody", scopes=["api"]).status == 400
    second = made(house, house.owner, kind="owner", name="spare")
    kinds = {each["kind"] for each in listed(house, house.owner)}
    assert {"personal", "owner"} <= kinds
    assert house.wire.send("DELETE", f"{TOKENS}/{second['id']}", token=house.owner).status == 204


def test_what_has_ended_is_not_rotated(house: House) -> None:
    alice = house.tokens["alice"]
    token = made(house, alice, kind="personal", scopes=["api"])
    house.wire.send("DELETE", f"{TOKENS}/{token['id']}", token=alice)
    assert house.wire.send("POST", f"{TOKENS}/{token['id']}/rotate", token=alice).status == 400


def test_a_rotated_token_lives_as_long_as_it_was_made_to(house: House) -> None:
    alice = house.tokens["alice"]
    expires = datetime.now(UTC) + timedelta(days=30)
    token = made(house, alice, kind="personal", scopes=["api"], expires_at=expires.isoformat())
    fresh = house.wire.send("POST", f"{TOKENS}/{token['id']}/rotate", token=alice).json
    life = datetime.fromisoformat(fresh["expires_at"]) - datetime.fromisoformat(fresh["created_at"])
    assert abs(life - timedelta(days=30)) < timedelta(seconds=5)


@pytest.mark.parametrize("number", ["x", "0", "9" * 30, "-1", "1e3"])
def test_numbers_that_no_token_has(house: House, number: str) -> None:
    assert house.wire.send("DELETE", f"{TOKENS}/{number}", token=house.owner).status == 404


def test_a_moment_beyond_the_end_of_time_is_refused(house: House) -> None:
    wanted = {"kind": "personal", "scopes": ["api"], "expires_at": "9999-12-31T23:59:59-23:59"}

    answer = make(house, house.tokens["alice"], **wanted)

    assert (answer.status, answer.json["message"]) == (
        400,
        "the expiry of a token lies too far in the future or in the past",
    )


def test_a_token_that_lives_to_the_end_of_time_is_rotated(house: House) -> None:
    alice = house.tokens["alice"]
    end = "9999-12-31T23:59:59.999999Z"
    token = made(house, alice, kind="personal", scopes=["api"], expires_at=end)

    rotated = house.wire.send("POST", f"{TOKENS}/{token['id']}/rotate", token=alice)

    assert (rotated.status, rotated.json["expires_at"]) == (201, "9999-12-31T23:59:59Z")


def test_no_text_of_a_token_stands_in_the_log_or_the_audit(house: House) -> None:
    begin = house.log_end()
    token = made(house, house.tokens["alice"], kind="personal", scopes=["api"])["token"]
    assert works(house, token)
    assert token not in house.server.log_text(begin)
    assert token.encode() not in (house.server.data_dir / "registry.sqlite").read_bytes()
