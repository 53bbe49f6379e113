"""Trusted publishing and identity tokens on the wire, against an issuer on a port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import ForkedServer
from tests.support.issuer import GITHUB, LocalIssuer, make_key, sign
from tests.web import forms
from tests.web.house import House, keep_house
from tests.web.wire import Answer, Wire

LIMIT = 12
"""Failures that are answered as usual; more than addresses from which these tests fail."""

NOTHING = dict.fromkeys(("project_path", "project_id", "ref_protected"))


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, issuer: LocalIssuer) -> Iterator[House]:
    rule = {"issuer": "gitlab", "claims": {"project_path": "acme/widgets", "ref_protected": "true"}}
    groups = {
        "acme": {
            "visibility": "private",
            "projects": {
                "widgets": {"trust": [{**rule, "expires": "10m"}]},
                "gears": {"trust": [{"issuer": "gitlab", "claims": {"project_id": "43"}}]},
                "sandbox": {},
            },
        },
        "other": {"visibility": "private", "projects": {"tools": {}}},
    }
    oidc = {"audience": "packages.test", "issuers": {"gitlab": issuer.settings()}}
    yield from keep_house(
        tmp_path_factory.mktemp("trusting"),
        groups=groups,
        oidc=oidc,
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"failed_logins": f"{LIMIT}/1h", "upload_idle_timeout": "1s"},
    )


def token(issuer: LocalIssuer, **claims: Any) -> str:
    return issuer.token(**{"aud": "packages.test", **claims})


def exchange(house: House, body: object, address: str = "198.51.100.1") -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"X-Forwarded-For": address, "Accept": "*/*"}
    return house.wire.send("POST", "/_/oidc/mint-token", headers=headers, body=content)


def minted(house: House, text: str) -> str:
    answer = exchange(house, {"token": text})
    assert answer.status == 200, answer
    found: str = answer.json["token"]
    return found


def publish(house: House, project: str, password: str) -> Answer:
    wheel = house.wheel(house.name())
    return house.upload(project, forms.upload(wheel.filename, wheel.content), token=password)


def test_the_audience_is_told_as_pypi_tells_it(house: House) -> None:
    answer = house.wire.get("/_/oidc/audience")

    assert (answer.status, answer["Content-Type"]) == (200, "application/json")
    assert answer.json == {"audience": "packages.test"}


def test_an_identity_is_exchanged_for_a_token_that_publishes(house: House, issuer: LocalIssuer) -> None:
    answer = exchange(house, {"token": token(issuer)})

    assert (answer.status, answer["Content-Type"], answer["Cache-Control"]) == (
        200,
        "application/json",
        "no-store",
    )
    assert set(answer.json) == {"success", "token", "expires"}
    assert answer.json["success"] is True
    assert answer.json["token"].startswith("pyo_job_")
    assert publish(house, "acme/widgets", answer.json["token"]).status == 201
    assert publish(house, "acme/sandbox", answer.json["token"]).status == 403
    assert publish(house, "other/tools", answer.json["token"]).status == 404
    listed = house.server.json("token", "list")["items"][-1]
    assert (listed["kind"], listed["name"], listed["namespace"]) == ("job", "gitlab:acme/widgets", None)
    assert "gitlab:acme/widgets" in house.server.run("token", "list").stdout


def test_one_exchange_serves_every_project_that_trusts_the_identity(
    house: House, issuer: LocalIssuer
) -> None:
    text = minted(house, token(issuer, project_id="43"))

    assert publish(house, "acme/widgets", text).status == 201
    assert publish(house, "acme/gears", text).status == 201


def test_the_same_identity_token_is_exchanged_once(house: House, issuer: LocalIssuer) -> None:
    text = token(issuer)
    minted(house, text)

    assert code(exchange(house, {"token": text}, "198.51.100.2")) == "invalid-reuse-token"


def code(answer: Answer) -> str:
    """What a refused exchange says, whose form is PyPI's."""
    assert (answer.status, answer["Content-Type"]) == (422, "application/json")
    assert answer.json["message"] == "Token request failed"
    (error,) = answer.json["errors"]
    assert set(error) == {"code", "description"}
    assert error["description"] == answer.reason
    found: str = error["code"]
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"token": 1}',
        b'{"token": null}',
        b"[" * 30000,
        b'{"token": "' + b"x" * 40000 + b'"}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_none_is_said_so(house: House, body: bytes) -> None:
    assert code(exchange(house, body)) == "invalid-payload"


def test_a_body_that_never_comes_holds_no_connection(house: House) -> None:
    head = b"POST /_/oidc/mint-token HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n"

    assert code(house.wire.exchange([head, b'{"token":'])) == "invalid-payload"


def test_a_body_that_is_not_coded_as_it_says_is_no_payload(house: House) -> None:
    head = (
        b"POST /_/oidc/mint-token HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n"
    )

    begin = house.log_end()
    assert code(house.wire.exchange([head, b"hello"])) == "invalid-payload"
    assert "Traceback" not in house.server.log_text(begin)
    assert "Unhandled" not in house.server.log_text(begin)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"aud": "pypi"}, "invalid-token"),
        ({"exp": 1}, "invalid-token"),
        ({"iss": "https://evil.test"}, "invalid-token"),
        ({"jti": None}, "invalid-token"),
        ({"ref_protected": "false"}, "invalid-publisher"),
        ({"project_path": "evil/widgets"}, "invalid-publisher"),
        (NOTHING, "invalid-publisher"),
    ],
)
def test_an_identity_that_is_not_good_or_not_trusted_gets_nothing(
    house: House, issuer: LocalIssuer, claims: dict[str, Any], expected: str
) -> None:
    text = token(issuer, **claims)

    assert code(exchange(house, {"token": text}, "198.51.100.4")) == expected


def test_a_forged_identity_gets_nothing_and_guessing_is_told_to_wait(
    house: House, issuer: LocalIssuer
) -> None:
    forged = sign(issuer.claims(aud="packages.test"), make_key())
    address = "198.51.100.3"
    for _ in range(LIMIT):
        assert code(exchange(house, {"token": forged}, address)) == "invalid-token"
    answer = exchange(house, {"token": forged}, address)

    assert (answer.status, answer["Content-Type"]) == (429, "application/json")
    assert 1 <= int(answer["Retry-After"] or 0) <= 10
    assert exchange(house, {"token": token(issuer)}, address).status == 200


def test_an_identity_token_is_a_password_and_a_bearer_and_a_job_token(
    house: House, issuer: LocalIssuer
) -> None:
    text = token(issuer)
    assert publish(house, "acme/widgets", text).status == 201
    for headers in (
        {"Authorization": f"Bearer {text}"},
        {"JOB-TOKEN": text},
        {"Authorization": f"Bearer {text}", "JOB-TOKEN": text},
    ):
        assert house.wire.get("/acme/widgets/simple/", headers=headers).status == 200
    assert house.wire.get("/acme/widgets/simple/", token=text).status == 200
    assert house.wire.get("/other/tools/simple/", token=text).status == 404
    assert house.wire.get("/acme/widgets/simple/", headers={"PRIVATE-TOKEN": text}).status == 401


def test_presenting_an_identity_token_does_not_use_it_up(house: House, issuer: LocalIssuer) -> None:
    text = token(issuer)
    assert house.wire.get("/acme/simple/", token=text).status == 200
    minted(house, text)
    assert house.wire.get("/acme/simple/", token=text).status == 200


def test_the_log_and_the_audit_name_the_job_and_never_the_token(house: House, issuer: LocalIssuer) -> None:
    text = token(issuer)
    answer = publish(house, "acme/widgets", text)
    line = house.logged(answer)
    minted(house, text)

    assert line["caller"] == "job:gitlab:acme/widgets"
    assert "token" not in line
    assert text.split(".")[2] not in house.server.log_text()


def test_an_identity_that_no_project_trusts_is_nobody(house: House, issuer: LocalIssuer) -> None:
    answer = house.wire.get("/simple/", token=token(issuer, project_path="evil/x"))

    assert answer.status == 401
    assert answer.reason == house.wire.get("/simple/", token="pyo_job_wrong").reason


def test_while_the_issuer_is_down_it_is_trouble_and_not_wrong_credentials(
    tmp_path: Path, issuer: LocalIssuer
) -> None:
    config = {
        "oidc": {"issuers": {"hub": issuer.settings("github")}},
        "projects": {"w": {"trust": [{"issuer": "hub", "claims": {"repository": "acme/*"}}]}},
    }
    text = issuer.token(**GITHUB)
    issuer.is_down = True
    try:
        with ForkedServer(config, tmp_path) as server:
            wire = Wire(server.url)
            body = json.dumps({"token": text}).encode()
            answer = wire.send("POST", "/_/oidc/mint-token", body=body)
            assert (answer.status, answer["Content-Type"]) == (503, "application/json")
            assert answer["Retry-After"]
            assert "the issuer hub" in answer.json["message"]
            assert issuer.url not in answer.text
            assert wire.get("/w/simple/", token=text).status == 503
            assert wire.get("/simple/").status == 200
    finally:
        issuer.is_down = False


def test_without_issuers_both_addresses_are_a_plain_404(tmp_path: Path) -> None:
    with ForkedServer({}, tmp_path) as server:
        wire = Wire(server.url)
        answers = [
            wire.get("/_/oidc/audience"),
            wire.send("POST", "/_/oidc/mint-token", body=b'{"token": "x"}'),
        ]
        rejected = wire.get("/simple/", token="eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0.AA")

    assert [answer.status for answer in answers] == [404, 404]
    assert all((answer["Content-Type"] or "").startswith("text/plain") for answer in answers)
    assert rejected.status == 401
