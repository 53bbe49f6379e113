"""Repeated wrong credentials on the wire: 429 for who fails again, and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from tests.web import forms
from tests.web.house import House, keep_house
from tests.web.wire import Answer, basic

LIMIT = 3
_ADDRESSES = count(1)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    yield from keep_house(
        tmp_path_factory.mktemp("throttled"),
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"failed_logins": f"{LIMIT}/1h"},
    )


@pytest.fixture
def address() -> str:
    """Give the address of a client that no other test has."""
    return f"198.51.100.{next(_ADDRESSES)}"


def ask(
    house: House, address: str, authorization: str | None, target: str = "/simple/", **more: str
) -> Answer:
    headers = {"X-Forwarded-For": address, **more}
    if authorization is not None:
        headers["Authorization"] = authorization
    return house.wire.get(target, headers=headers)


def wrong(address: str, number: int = 0) -> str:
    """Wrong credentials, of a kind that no other address comes with: kinds are counted over all addresses."""
    kind = address.rpartition(".")[2].translate(str.maketrans("0123456789", "abcdefghij"))
    return basic(f"pyo_{kind}_wrong{number}")


def exhaust(house: House, address: str) -> None:
    for number in range(LIMIT):
        assert ask(house, address, wrong(address, number)).status == 401


def test_failures_beyond_the_limit_are_told_to_wait_a_little(house: House, address: str) -> None:
    exhaust(house, address)
    answer = ask(house, address, wrong(address))

    assert answer.status == 429
    assert 1 <= int(answer["Retry-After"] or 0) <= 10
    assert answer["Cache-Control"] == "no-store"
    assert "too many failed attempts" in answer.reason
    assert answer.text.strip() == f"429 {answer.reason}"
    as_json = ask(house, address, wrong(address), Accept="application/json")
    assert as_json.status == 429
    assert as_json.json["message"] == answer.reason


@pytest.mark.parametrize(
    "target",
    [
        "/simple/widgets/",
        "/simple",
        "/acme/simple/secret/",
        f"/files/{'0' * 64}/x-1.0.tar.gz",
        "/api/v1/explain?index=/&name=x",
        "/nowhere/at/all",
    ],
)
def test_it_is_the_same_wherever_one_fails_and_tells_nothing_of_what_is_there(
    house: House, address: str, target: str
) -> None:
    exhaust(house, address)
    answer = ask(house, address, wrong(address), target)

    assert answer.status == 429
    assert answer.reason == ask(house, address, wrong(address)).reason
    assert answer["X-Overlay-Decision"] is None


def test_right_credentials_and_none_at_all_are_never_slowed(house: House, address: str) -> None:
    exhaust(house, address)
    assert ask(house, address, wrong(address)).status == 429

    assert ask(house, address, None).status == 200
    assert ask(house, address, basic(house.owner)).status == 200
    assert ask(house, address, basic(house.owner), "/acme/simple/").status == 200
    assert ask(house, address, wrong(address)).status == 429


def test_anonymous_requests_that_are_asked_for_credentials_do_not_count(house: House, address: str) -> None:
    for _ in range(LIMIT + 2):
        assert ask(house, address, None, "/acme/simple/").status == 401

    assert ask(house, address, wrong(address)).status == 401


@pytest.mark.parametrize("authorization", ["Basic !!!", "Digest x", "Bearer"])
def test_credentials_that_cannot_be_read_count_too(house: House, address: str, authorization: str) -> None:
    for _ in range(LIMIT):
        assert ask(house, address, authorization).status == 401

    assert ask(house, address, authorization).status == 429
    assert ask(house, address, wrong(address)).status == 429


def test_a_right_token_with_a_wrong_user_name_counts_and_tells_nothing(house: House, address: str) -> None:
    token = house.server.deploy_token("acme")
    told = {ask(house, address, basic(token, user="someone")).reason for _ in range(LIMIT)}
    assert told == {ask(house, "198.51.100.254", wrong("198.51.100.254")).reason}
    known = ask(house, address, basic(token, user="someone"))
    unknown = ask(house, address, basic("pyo_dep_wrong", user="someone"))

    assert (known.status, known.reason) == (unknown.status, unknown.reason)
    assert known.status == 429
    assert ask(house, address, basic(token)).status == 200


def test_an_upload_that_fails_too_often_is_told_to_wait(house: House, address: str) -> None:
    exhaust(house, address)
    wheel = house.wheel(house.name())
    headers = {"X_Forwarded_For": address, "Authorization": wrong(address)}
    answer = house.upload("acme/widgets", forms.upload(wheel.filename, wheel.content), **headers)

    assert answer.status == 429
    assert "too many failed attempts" in answer.reason


def test_T_TOK4_an_attack_from_many_addresses_is_told_to_wait(house: House) -> None:
    statuses = [
        ask(house, f"203.0.113.{number}", basic(f"pyo_own_guess{number}")).status
        for number in range(LIMIT + 2)
    ]

    assert statuses == [401] * LIMIT + [429] * 2


def test_the_log_names_the_clients_address_and_no_token(house: House, address: str) -> None:
    exhaust(house, address)
    line = house.logged(ask(house, address, wrong(address, 77)))

    assert (line["status"], line["client"]) == (429, address)
    assert "wrong77" not in str(line)
