"""What stands around every request: its id, its line in the log, and the border that no bug crosses."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer

from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.index.instance import Running
from proxy.observe.logs import make_logger
from proxy.server.assembly import close_instance, open_instance
from proxy.web.app import build
from tests.support.waiting import wait_until
from tests.web import forms
from tests.web.house import House, Stored
from tests.web.wire import Answer, basic

REQUEST_ID = re.compile(r"[0-9a-f]{16}\Z")


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel of acme/widgets."""
    return house.publish("acme/widgets")


# The access log


def test_every_answer_has_an_id_of_its_own_that_its_line_in_the_log_has_too(house: House) -> None:
    targets = ["/", "/healthz", "/simple/", "/simple", "/nowhere/x", "/acme/simple/", "/%ff", "/simple/%00/"]
    answers = [house.wire.get(target) for target in targets]
    answers += [house.wire.send("POST", "/healthz"), house.wire.send("PROPFIND", "/simple/x/")]
    ids = [answer["X-Request-Id"] or "" for answer in answers]
    assert all(REQUEST_ID.match(one) for one in ids)
    assert len(set(ids)) == len(ids)
    for target, answer in zip(targets, answers, strict=False):
        line = house.logged(answer)
        assert (line["event"], line["method"], line["status"]) == ("request", "GET", answer.status)
        assert line["path"] == target
        assert line["bytes"] == len(answer.body)
        assert line["client"] == "127.0.0.1"
        assert line["caller"] == "anonymous"
        assert line["ms"] >= 0


@pytest.mark.parametrize(
    ("user", "target", "status", "expected"),
    [
        ("rita", "/acme/simple/{name}/", 200, {"decision": "private", "caller": "user:rita"}),
        ("rita", "/acme/files/{sha256}/{filename}", 200, {"decision": "private"}),
        (
            "rita",
            "/acme/sandbox/simple/{name}/",
            451,
            {"decision": "claimed", "rule": "package acme/widgets"},
        ),
        ("rita", "/acme/sandbox/files/{sha256}/{filename}", 403, {"decision": "claimed"}),
        ("otto", "/simple/{name}/", 451, {"decision": "claimed"}),
        (None, "/simple/{name}/", 401, {"decision": "claimed", "caller": "anonymous"}),
        (None, "/open/simple/evil-x/", 451, {"decision": "denied", "rule": "deny evil-*"}),
        (None, "/vault/simple/x/", 404, {"decision": "not-forwarded"}),
        (None, "/api/v1/explain?index=/vault&name=x", 200, {"decision": "not-forwarded"}),
    ],
)
def test_the_log_says_who_asked_and_what_was_decided(
    house: House, private: Stored, user: str | None, target: str, status: int, expected: dict[str, str]
) -> None:
    about = {"name": private.name, "sha256": private.sha256, "filename": private.filename}
    token = house.tokens[user] if user else None
    answer = house.wire.get(target.format(**about), token=token)
    assert answer.status == status
    line = house.logged(answer)
    assert {key: line.get(key) for key in expected} == expected
    if status >= 400:
        assert line["failure"]


def test_the_log_tells_a_refused_upload(house: House) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content, version="x")
    line = house.logged(house.upload("open/tools", body, token=house.tokens["dan"]))
    assert line["status"] == 400
    assert "'x' is not a valid version" in line["failure"]
    assert line["caller"] == "user:dan"


def test_T_TOK2_no_secret_stands_in_the_log_wherever_it_was_sent(house: House) -> None:
    # Behind its readable prefix; the random part may hold a `_` of its own.
    token, secret = house.tokens["rita"], house.tokens["rita"].removeprefix("pyo_pat_")
    wrong = "pyo_pat_" + "WrongButSecret" * 3
    begin = house.log_end()
    answers: list[Answer] = []

    def ask(target: str, **options: Any) -> None:
        answers.append(house.wire.get(target, **options))

    for text in (token, wrong):
        ask("/acme/simple/", token=text)
        ask("/acme/simple/", headers={"Authorization": basic("x", user=text)})
        ask("/acme/simple/", headers={"Authorization": f"Bearer {text}"})
        ask("/acme/simple/", headers={"Authorization": f"Nonsense {text}"})
        ask("/acme/simple/", headers={"PRIVATE-TOKEN": text, "JOB-TOKEN": text, "Cookie": f"s={text}"})
        ask(f"/simple/?token={text}")
        ask(f"/simple?token={text}")
        ask(f"/simple/{text}/")
        ask(f"/simple/{text}")
        ask(f"/{text}/simple/")
        ask(f"/{quote(text, safe='').replace('_', '%5F')}/simple/")
        ask(f"/files/{'0' * 64}/{text}-1.0.tar.gz")
        ask(f"/user:{text}@host/simple/")
        ask(f"/api/v1/explain?index=/{text}&name=x")
        ask(f"/api/v1/explain?index=/&name={text}")
        ask("/simple/", headers={"User-Agent": f"curl {text}", "X-Forwarded-For": text, "X-Request-Id": text})
        stored = house.wheel(house.name())
        answers.append(house.upload("open/tools", forms.upload(stored.filename, stored.content), token=text))
        answers.append(
            house.upload(
                "open/tools", forms.upload(stored.filename, stored.content, version=text), token=house.owner
            )
        )
    for answer in answers:
        house.logged(answer)
    log = house.server.log_text(begin)
    assert log.count('"event": "request"') + log.count('"event":"request"') == len(answers)
    for part in (token, secret, wrong, wrong.rpartition("_")[2], house.owner):
        assert part not in log
    assert "Traceback" not in log


def test_every_line_of_the_log_is_one_JSON_object_whatever_clients_send(house: House) -> None:
    begin = house.log_end()
    for headers in (
        {"User-Agent": 'a"b\\c {"x": 1}'},
        {"User-Agent": "ü\udcff\u2028"},
        {"User-Agent": "pip/26.3 " + json.dumps({"ci": None, "cpu": "x"})},
    ):
        house.wire.get('/simple/a"b\\c/', headers=headers)
    last = house.wire.get("/simple/%0a%0d%22%7B/", headers={"User-Agent": "x" * 5000})
    house.logged(last)
    lines = house.server.log_text(begin).splitlines()
    assert len(lines) == 4
    for line in lines:
        record = json.loads(line)
        assert isinstance(record, dict)
        assert len(record["agent"]) <= 80
    assert json.loads(lines[2])["agent"] == "pip/26.3"


def test_a_client_that_leaves_during_a_download_is_no_error(house: House) -> None:
    stored = house.publish("open/tools", size=3_500_000)
    begin = house.log_end()
    with socket.create_connection(house.wire.address, 20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(
            f"GET /open/files/{stored.sha256}/{stored.filename} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        assert connection.recv(100)
    wait_until(lambda: house.log(begin), what="its line in the log")
    assert [line["level"] for line in house.log(begin)] == ["info"]


def test_a_broken_off_answer_is_told_in_its_line_and_is_no_error(house: House) -> None:
    offered = house.offer(size=300_000)
    house.upstream.fault("/packages/*/" + offered.filename, alter=True)
    begin = house.log_end()
    answer = house.wire.get(f"/open/files/{offered.sha256}/{offered.filename}")
    line = house.logged(answer)
    assert "sha256" in line["failure"]
    assert [one for one in house.log(begin) if one["level"] == "error"] == []


# The border


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[tuple[TestClient[Any, Any], io.StringIO]]:
    """Give the application on an instance whose clock fails: a bug, as far as any route can tell; and its log."""
    file = tmp_path / "pypi-overlay.yaml"
    file.write_text(f"storage: {{data_dir: {tmp_path}/data}}\n")
    log = io.StringIO()
    instance = open_instance(compile_snapshot(load(str(file), {})))
    app = build(Running(replace(instance, now=failing_clock)), make_logger("text", "info", log))
    client: TestClient[Any, Any] = TestClient(TestServer(app))
    await client.start_server()
    yield client, log
    await client.close()
    await close_instance(instance)


def failing_clock() -> datetime:
    raise ZeroDivisionError("secret detail of /srv/data")


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
async def test_a_bug_is_500_without_detail_and_stands_in_the_log_with_its_trace(
    broken: tuple[TestClient[Any, Any], io.StringIO], accept: str
) -> None:
    client, log = broken
    headers = {"Accept": accept, "Authorization": basic("pyo_pat_x")}
    async with client.get("/simple/x/", headers=headers) as answer:
        assert (answer.status, answer.reason) == (500, "internal error; the log has the details")
        text = await answer.text()
        request_id = answer.headers["X-Request-Id"]
        assert answer.headers["Cache-Control"] == "no-store"
    assert "secret" not in text
    assert "Traceback" not in text
    assert "ZeroDivisionError" in log.getvalue()
    assert log.getvalue().count(f"request_id={request_id}") == 2


# Small routes


def test_alive_and_ready(house: House) -> None:
    for target, text in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        answer = house.wire.get(target)
        assert (answer.status, answer.text, answer["Cache-Control"]) == (200, text, "no-store")
        assert house.wire.head(target).status == 200


def test_the_front_page_has_the_lines_that_set_clients_up(house: House) -> None:
    answer = house.wire.get("/", headers={"Host": "packages.example:8443"})
    assert (answer.status, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
    for line in (
        "pip config set global.index-url http://packages.example:8443/simple/",
        "UV_DEFAULT_INDEX=http://packages.example:8443/simple/",
        "twine upload --repository-url http://packages.example:8443/legacy/",
        "uv publish --publish-url http://packages.example:8443/legacy/",
    ):
        assert line in answer.text
    assert "script" not in answer.text.lower()
    assert "default-src" in (answer["Content-Security-Policy"] or "")


def test_T_XSS_the_front_page_escapes_the_host(house: House) -> None:
    for host in ('"><script>alert(1)</script>', "<b>", "a&b"):
        answer = house.wire.get("/", headers={"Host": host})
        assert "<script" not in answer.text
        assert "<b>" not in answer.text


def test_the_scheme_of_a_proxy_counts_only_if_it_is_trusted(house: House) -> None:
    answer = house.wire.get("/", headers={"X-Forwarded-Proto": "https"})
    assert "https://" not in answer.text


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("", 400, "name is missing"),
        ("index=/", 400, "name is missing"),
        ("index=/&name=a%20b", 404, "is not a valid project name"),
        ("index=/&name=%E2%84%AAivy", 404, "is not a valid project name"),
        ("index=/&name=", 404, "is not a valid project name"),
        ("index=/nowhere&name=x", 404, "there is no group or project"),
        ("index=/acme&name=x", 401, ""),
        ("index=/&name=x&as=rita", 403, "only an owner"),
    ],
)
def test_explain_refuses_in_JSON(house: House, query: str, status: int, said: str) -> None:
    answer = house.wire.get(f"/api/v1/explain?{query}")
    assert (answer.status, answer["Content-Type"]) == (status, "application/json")
    assert said in answer.json["message"]
    assert answer.json["code"] == f"{status} {answer.json['message']}"


def test_explain_takes_a_name_in_any_spelling_and_an_index_in_two(house: House, private: Stored) -> None:
    for index in ("/acme/", "acme", "%2Facme"):
        answer = house.wire.get(
            f"/api/v1/explain?index={index}&name={private.name.upper()}", token=house.tokens["rita"]
        )
        assert (answer.status, answer.headers.get_content_type()) == (200, "application/json")
        assert (answer.json["name"], answer.json["index"]) == (private.name, "acme")
        assert answer.json["decision"] == "private"


def test_explain_as_somebody_else_is_for_owners_of_the_instance(house: House, private: Stored) -> None:
    target = f"/api/v1/explain?index=/&name={private.name}&as="
    for who, decision in (("rita", "private"), ("otto", "claimed"), ("anonymous", "claimed")):
        answer = house.wire.get(target + who, token=house.owner)
        assert (answer.status, answer.json["decision"]) == (200, decision)
    assert house.wire.get(target + "otto", token=house.tokens["alice"]).status == 403
    assert house.wire.get(target + "nobody", token=house.owner).status == 400


# Credentials on the wire


def test_every_spelling_of_credentials_is_understood(house: House, private: Stored) -> None:
    target = f"/acme/simple/{private.name}/"
    personal = house.tokens["rita"]
    deploy = house.server.deploy_token("acme/widgets")
    job = house.server.job_token("acme/widgets")
    for headers in (
        {"Authorization": basic(personal)},
        {"Authorization": basic(personal, user="rita")},
        {"Authorization": basic(f" {personal}\n")},
        {"Authorization": f"Bearer {personal}"},
        {"PRIVATE-TOKEN": personal},
        {"Authorization": basic(deploy)},
        {"DEPLOY-TOKEN": deploy},
        {"Authorization": basic(job, user="gitlab-ci-token")},
        {"JOB-TOKEN": job},
        {"Authorization": basic(personal), "PRIVATE-TOKEN": personal},
    ):
        assert house.wire.get(target, headers=headers).status == 200, headers
    for headers in (
        {"Authorization": basic(personal), "PRIVATE-TOKEN": house.tokens["alice"]},
        {"Authorization": basic(deploy, user="somebody")},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": "Digest username=x"},
        {"Authorization": ""},
        {"DEPLOY-TOKEN": personal},
        {"PRIVATE-TOKEN": ""},
    ):
        for address in (target, "/open/simple/", "/simple/flask"):
            answer = house.wire.get(address, headers=headers)
            assert answer.status == 401, (headers, address)
            assert answer["X-Overlay-Decision"] is None
