"""Attacks on addresses and heads of requests (protocol 7): T-PATH, T-POIS1, T-POIS2, T-POIS4, T-TOK3."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from tests.web.house import House, Stored, keep_house
from tests.web.wire import JSON, Answer, basic

KEY = "0" * 64


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel that anybody may read."""
    return house.publish("open/tools")


@pytest.fixture(scope="module")
def hidden(house: House) -> Stored:
    """Give a wheel that few may read."""
    return house.publish("acme/widgets")


@pytest.mark.parametrize(
    "target",
    [
        "/files/..%2f..%2fetc%2fpasswd",
        f"/files/{KEY}/..%2f..%2f..%2fowner-token",
        f"/files/{KEY}/..%5c..%5cowner-token",
        f"/files/{KEY}/%2e%2e/owner-token",
        f"/files/{KEY}/../../owner-token",
        "/files/..%2f..%2f..%2fowner-token/x-1.0.tar.gz",
        f"/files/{KEY}//x-1.0.tar.gz",
        f"/files//{KEY}/x-1.0.tar.gz",
        f"/files/{KEY}/x-1.0.tar.gz%00",
        f"/files/{KEY}/x-1.0.tar.gz%0d%0aX-Evil:%20yes",
        f"/files/{KEY}/%252e%252e%252fx-1.0.tar.gz",
        f"/files/{KEY}/.x-1.0.tar.gz",
        f"/files/{KEY}/-x-1.0.tar.gz",
        f"/files/{KEY.replace('0', '%30')}x/x-1.0.tar.gz",
        "/simple/../admin",
        "/simple/../healthz",
        "/simple/..%2fhealthz",
        "/simple/%2e%2e/healthz",
        "/simple//flask/",
        "/simple/flask//",
        "//simple/flask/",
        "/./simple/flask/",
        "/open/../simple/flask/",
        "/open%2ftools/simple/",
        "/open%2Ftools/simple/flask/",
        "/open/%2e%2e/open/simple/",
        "/api/v4/projects/open%2F..%2Fopen%2Ftools/packages/pypi/simple/",
        "/api/v4/projects/open%252Ftools/packages/pypi/simple/",
        "/api/v4/projects/open/tools/packages/pypi/simple/",
        "/api/v4/projects/%2Fopen%2Ftools/packages/pypi/simple/",
        "/api/v4/projects/open%2Ftools%2F/packages/pypi/simple/",
        "/api/v4/projects/44%00/packages/pypi/simple/",
        "/api/v4/projects/-44/packages/pypi/simple/",
        "/api/v4/projects/%D9%A4%D9%A4/packages/pypi/simple/",
        "/api/v4/projects/8/packages/pypi/simple/",
        "/api/v4/groups/44/-/packages/pypi/simple/",
        "/api/v4/groups/open/packages/pypi/simple/",
        "/api/v4/groups/" + "9" * 5000 + "/-/packages/pypi/simple/",
        "/OPEN/simple/",
        "/open/SIMPLE/",
        "/" + "a/" * 2000 + "simple/",
        "/healthz/",
        "/favicon.ico",
        "/robots.txt",
        "/static/x",
        "/metrics/",
        "/.well-known/pytp?discover=%2Flegacy%2F",
        "/_/oidc/audience",
    ],
)
def test_T_PATH_what_is_no_address_is_404_and_told_harmlessly(house: House, target: str) -> None:
    house.upstream.reset_requests()
    for method in ("GET", "HEAD"):
        answer = house.wire.send(method, target)
        assert answer.status == 404, answer.reason
        assert answer["X-Evil"] is None
        assert house.owner not in answer.text
        assert str(house.server.data_dir) not in answer.text
    assert [one.path for one in house.upstream.requests() if ".." in one.path or "%" in one.path] == []


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "simple/",
        "http://evil.example/simple/",
        "evil.example:443",
        "?x",
        "http://evil.example/acme/simple/",
    ],
)
def test_other_forms_of_targets_are_refused(house: House, target: str) -> None:
    for method in ("GET", "OPTIONS", "CONNECT"):
        answer = house.wire.send(method, target)
        assert answer.status in {400, 404, 405}, (method, answer)


def test_an_encoded_letter_in_an_address_is_the_letter(house: House, private: Stored) -> None:
    for target in (
        f"/%6fpen/simple/{private.name}/",
        f"/open/sim%70le/{private.name}/",
        f"/api/v4/%67roups/%6Fpen/-/packages/pypi/simple/{private.name}/",
        f"/api/v4/projects/open%2ftools/packages/pypi/simple/{private.name}/",
        f"/open/files/{private.sha256}/%{ord(private.filename[0]):x}{private.filename[1:]}",
    ):
        assert house.wire.get(target).status == 200, target


def test_an_encoded_letter_gets_nobody_past_a_private_namespace(house: House, hidden: Stored) -> None:
    for target in (
        f"/%61cme/simple/{hidden.name}/",
        f"/acme/%77idgets/simple/{hidden.name}/",
        f"/api/v4/projects/%61cme%2fwidgets/packages/pypi/simple/{hidden.name}/",
        f"/acme/files/{hidden.sha256}/%{ord(hidden.filename[0]):x}{hidden.filename[1:]}",
        "/acme/simple",
        "/acme/",
        "/acme",
        "/acme/anything/at/all",
        "/acme/%ff",
        "/acme/..",
        "/acme//simple/",
    ):
        answer = house.wire.get(target)
        assert answer.status == 401, target


POISON = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Prefix": "/evil.example",
    "Forwarded": "host=evil.example;proto=https",
    "X-Original-URL": "/evil.example",
    "X-Rewrite-URL": "/acme/simple/",
    "X-HTTP-Method-Override": "DELETE",
    "Referer": "http://evil.example/",
    "Origin": "http://evil.example",
}


def test_T_POIS1_no_header_changes_a_page_a_redirect_or_what_others_get(house: House) -> None:
    stored = house.offer()
    target = f"/open/simple/{stored.name}/"
    for accept in (JSON, "text/html"):
        poisoned = house.wire.get(target, headers=POISON | {"Accept": accept})
        clean = house.wire.get(target, headers={"Accept": accept})
        assert poisoned.status == 200
        assert b"evil" not in poisoned.body
        assert (poisoned.body, poisoned["ETag"]) == (clean.body, clean["ETag"])
    redirect = house.wire.get(f"/open/simple/{stored.name}", headers=POISON)
    assert redirect["Location"] == f"{stored.name}/"
    for answer in (poisoned, redirect, house.wire.get("/open/simple/", headers=POISON)):
        assert "evil" not in str(answer.headers)
    for request in house.upstream.asked_for(stored.name):
        assert "evil" not in str(request.headers)


def test_T_POIS2_what_one_caller_may_see_is_shown_to_no_other(house: House, hidden: Stored) -> None:
    target = f"/simple/{hidden.name}/"
    listed = "/simple/"
    seen = house.wire.get(target, token=house.tokens["rita"])
    assert (seen.status, seen["X-Overlay-Decision"]) == (200, "private")
    for headers in (
        {},
        {"If-None-Match": seen["ETag"] or ""},
        {"If-None-Match": "*"},
        {"Range": "bytes=0-1"},
    ):
        assert house.wire.get(target, headers=headers).status == 401
        assert house.wire.get(target, token=house.tokens["otto"], headers=headers).status == 451
    names = {user: house.wire.get(listed, token=house.tokens[user]).text for user in ("rita", "otto")}
    assert hidden.name in names["rita"]
    assert hidden.name not in names["otto"]
    assert hidden.name not in house.wire.get(listed).text


def test_T_POIS2_a_tag_of_a_file_tells_nothing_to_those_who_may_not_read_it(
    house: House, hidden: Stored
) -> None:
    target = f"/acme/files/{hidden.sha256}/{hidden.filename}"
    tag = {"If-None-Match": f'"{hidden.sha256}"'}
    assert house.wire.get(target, headers=tag, token=house.tokens["rita"]).status == 304
    assert house.wire.get(target, headers=tag, token=house.tokens["otto"]).status == 404
    assert house.wire.get(target, headers=tag).status == 401


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
    ],
)
def test_T_POIS4_a_body_that_is_framed_twice_is_refused(house: House, head: str) -> None:
    begin = house.log_end()
    request = f"POST /open/tools/ HTTP/1.1\r\nHost: x\r\n{head}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = house.wire.exchange([request.encode()])
    assert answer.status == 400
    assert [line for line in house.log(begin) if line.get("path") == "/healthz"] == []


def test_a_very_long_head_is_refused_and_the_server_lives(house: House) -> None:
    assert house.wire.get("/simple/" + "a" * 20_000).status in {400, 414}
    assert house.wire.get("/simple/", headers={"X": "y" * 50_000}).status in {400, 431}
    assert house.wire.get("/healthz").status == 200


def test_T_TOK3_every_wrong_credential_gets_the_same_answer(house: House) -> None:
    good = house.tokens["otto"]
    kind, secret = "pyo_pat", good.removeprefix("pyo_pat_")
    made = house.wire.send(
        "POST", "/api/v1/tokens", token=good, body=b'{"kind": "personal", "scopes": ["api"], "name": "x"}'
    ).json
    assert house.wire.send("DELETE", f"/api/v1/tokens/{made['id']}", token=good).status in {200, 204}
    wrong = [
        f"{kind}_{secret[:-1]}{'A' if secret[-1] != 'A' else 'B'}",
        f"{kind}_{'A' * len(secret)}",
        secret,
        good.swapcase(),
        good + "A",
        good[:-1],
        "pyo_owner_" + secret,
        "nobody's",
        made["token"],
    ]
    told = {
        (answer.status, answer.reason, answer["WWW-Authenticate"], answer.body)
        for user in ("__token__", "otto", "nobody")
        for answer in (
            house.wire.get("/open/simple/", headers={"Authorization": basic(token, user)}) for token in wrong
        )
    }
    assert len(told) == 1
    assert next(iter(told))[0] == 401


def _told(answer: Answer) -> tuple[object, ...]:
    """All of an answer that may differ from another's."""
    changing = {"x-request-id", "date"}
    headers = sorted((key, value) for key, value in answer.headers.items() if key.lower() not in changing)
    return answer.status, answer.reason, headers, answer.body


BELOW = ["", "/", "/simple", "/simple/", "/simple/thing/", "/simple/Thing/", f"/files/{KEY}/x-1.0.tar.gz"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("user", [None, "otto"])
def test_what_is_hidden_is_told_apart_from_what_is_not_there_by_nobody(
    house: House, method: str, user: str | None
) -> None:
    pairs = [("/acme/widgets", "/acme/nothing"), ("/acme/sandbox", "/acme/widgets/below")]
    gitlab = "/api/v4/projects/{}/packages/pypi"
    pairs.append((gitlab.format("acme%2Fwidgets"), gitlab.format("acme%2Fnothing")))
    if user is not None:
        pairs += [("/open/hidden", "/open/nothing"), (gitlab.format("42"), gitlab.format("4200"))]
    token = None if user is None else house.tokens[user]
    for hidden, absent in pairs:
        for below in BELOW:
            answers = [house.wire.send(method, base + below, token=token) for base in (hidden, absent)]
            assert answers[0].status == (401 if user is None else 404), hidden + below
            assert _told(answers[0]) == _told(answers[1]), hidden + below


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("user", [None, "otto"])
@pytest.mark.parametrize(
    ("base", "path"),
    [("projects/42", "acme/widgets"), ("projects/43", "acme/sandbox"), ("groups/7/-", "acme")],
)
def test_the_number_of_a_hidden_namespace_does_not_tell_its_path(
    house: House, method: str, user: str | None, base: str, path: str
) -> None:
    token = None if user is None else house.tokens[user]
    for below in BELOW:
        answer = house.wire.send(method, f"/api/v4/{base}/packages/pypi{below}", token=token)
        assert answer.status == (401 if user is None else 404)
        assert path not in f"{answer.reason} {answer.headers} {answer.text}", below


@pytest.fixture(scope="module")
def shy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house whose default project few may know of."""
    yield from keep_house(tmp_path_factory.mktemp("shy"), server={"default_project": "acme/sandbox"})


def test_the_address_for_uploads_does_not_tell_a_hidden_default_project(shy: House) -> None:
    for user, status in ((None, 401), ("otto", 404), ("rita", 403)):
        answer = shy.wire.send("POST", "/legacy/", token=None if user is None else shy.tokens[user])
        assert answer.status == status, user
        assert ("acme/sandbox" in answer.text) == (user == "rita"), user


@pytest.mark.parametrize("header", ["Accept", "Accept-Encoding", "X-Forwarded-For"])
def test_a_header_of_a_megabyte_holds_up_nobody(house: House, header: str) -> None:
    lines = [(header, "a/b," * 2000)] * 100
    answers = [house.wire.get("/open/simple/", headers=lines) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    # The least of three: the machine may be busy with something else.
    assert min(house.logged(answer)["ms"] for answer in answers) < 40


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house that was started where 256 files may be open, as long as nobody asks for more."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    if usual[1] != resource.RLIM_INFINITY and usual[1] < 2000:
        pytest.skip("the system permits too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, usual[1]))
    with contextlib.closing(keep_house(tmp_path_factory.mktemp("narrow"))) as keeping:
        try:
            house = next(keeping)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        yield house


def test_connections_that_say_nothing_leave_room_for_those_that_do(narrow: House) -> None:
    stored = narrow.publish("open/tools")
    with contextlib.ExitStack() as silent:
        for _ in range(400):
            connection = silent.enter_context(socket.create_connection(narrow.wire.address, 20))
            connection.sendall(b"GET /simple/ HTTP/1.1\r\nHost:")
        answer = narrow.wire.get(f"/open/files/{stored.sha256}/{stored.filename}")
        assert answer.body == stored.content
