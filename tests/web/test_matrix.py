"""Every decision on page, file, metadata, explain × GET, HEAD × spelling × first, second time."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.web.house import REALM, House, Matrix, Row, Stored
from tests.web.wire import Answer

# RFC 8941 3.3: a token, then perhaps one parameter with a string in printable ASCII.
DECISION = re.compile(r'([a-z-]+)(?:;rule="((?:[ !#-\[\]-~]|\\["\\])*)")?\Z')
# RFC 9211: the cache's name and parameters.
CACHE_STATUS = re.compile(r"pypi-overlay(?:; (?:hit|stored|(?:fwd|detail)=[a-z-]+|fwd-status=\d{3}))+\Z")
REFUSALS = {"claimed": (451, 403), "denied": (451, 403), "not-forwarded": (404, 404), "unknown": (404, 404)}


def word(answer: Answer) -> str | None:
    """The decision that a header names, after a look at its grammar."""
    header = answer["X-Overlay-Decision"]
    if header is None:
        return None
    found = DECISION.match(header)
    assert found, header
    return found[1]


def expect(rows: list[Row], statuses: dict[str, int], decision: str | None) -> None:
    """See that every row has the status of its route and the decision's word, and that a HEAD is its GET's twin."""
    assert len(rows) >= 4 * 2 * 2
    for row in rows:
        assert row.answer.status == statuses[row.route], str(row)
        if row.route != "explain":
            assert word(row.answer) == decision, str(row)
            if row.answer.status != 401 and decision is not None:
                assert CACHE_STATUS.match(row.answer["Cache-Status"] or "none"), str(row)
        if row.method == "HEAD":
            assert row.answer.body == b"", str(row)
        elif row.route == "explain" and row.answer.status == 200:
            assert row.answer.json["decision"] == decision, str(row)
        assert re.fullmatch(r"[0-9a-f]{16}", row.answer["X-Request-Id"] or ""), str(row)
        assert row.answer["X-Content-Type-Options"] == "nosniff", str(row)
        if row.answer.status >= 400:
            assert row.answer["Cache-Control"] == "no-store", str(row)
            assert row.answer["ETag"] is None, str(row)
    for head, get in twins(rows):
        assert fixed_headers(head) == fixed_headers(get), f"{head}\n{get}"


def twins(rows: list[Row]) -> Iterator[tuple[Answer, Answer]]:
    """HEAD and GET of one address, of the second time: then nothing depends on which came first."""
    answers = {(row.target, row.method): row.answer for row in rows if row.time == "second"}
    for (target, method), answer in answers.items():
        if method == "HEAD":
            yield answer, answers[target, "GET"]


def fixed_headers(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in {"Date", "X-Request-Id"}}


def refused(decision: str) -> dict[str, int]:
    page, file = REFUSALS[decision]
    return {"page": page, "file": file, "metadata": file, "explain": 200}


ALL_200 = {"page": 200, "file": 200, "metadata": 200, "explain": 200}
ALL_401 = dict.fromkeys(ALL_200, 401)
ALL_404 = dict.fromkeys(ALL_200, 404)


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel of acme/widgets."""
    return house.publish("acme/widgets")


@pytest.fixture(scope="module")
def public(house: House) -> Stored:
    """Give a wheel of open/tools, which anybody may read."""
    return house.publish("open/tools")


def ask_for(matrix: Matrix, path: str, stored: Stored, token: str | None = None) -> list[Row]:
    return matrix(path, stored.name, stored.filename, stored.sha256, token=token)


@pytest.mark.parametrize("path", ["acme/widgets", "acme", ""])
def test_a_private_package_is_served_at_its_project_its_group_and_the_root(
    house: House, matrix: Matrix, private: Stored, path: str
) -> None:
    expect(ask_for(matrix, path, private, house.tokens["rita"]), ALL_200, "private")


@pytest.mark.parametrize("path", ["open/tools", "open", ""])
def test_a_private_package_of_a_public_project_is_served_to_anybody(
    matrix: Matrix, public: Stored, path: str
) -> None:
    expect(ask_for(matrix, path, public), ALL_200, "private")


def test_an_upstream_package_is_served_cold_and_warm(house: House, matrix: Matrix) -> None:
    offered = house.offer()
    rows = ask_for(matrix, "open", offered)
    expect(rows, ALL_200, "upstream")
    for row in rows:
        if row.route == "file" and row.method == "GET":
            assert row.answer.body == offered.content, str(row)
    asked = [request.path for request in house.upstream.asked_for(offered.name)]
    assert len(asked) == len(set(asked)), "what is kept was asked for again"


def test_a_name_of_another_project_is_claimed(house: House, matrix: Matrix, private: Stored) -> None:
    asked = house.upstream.asked_for(private.name)
    rows = ask_for(matrix, "acme/sandbox", private, house.tokens["rita"])
    expect(rows, refused("claimed"), "claimed")
    assert {row.answer["X-Overlay-Decision"] for row in rows if row.route != "explain"} == {
        'claimed;rule="package acme/widgets"'
    }
    assert house.upstream.asked_for(private.name) == asked


def test_a_claimed_name_is_a_200_without_files_for_those_who_publish_to_the_project(
    house: House, private: Stored
) -> None:
    page = house.wire.get(
        f"/acme/sandbox/simple/{private.name}/?format=application/vnd.pypi.simple.v1+json",
        token=house.tokens["alice"],
    )
    assert page.status == 200
    assert page.json["files"] == []
    assert page.json["project-status"]["status"] == "quarantined"
    assert "acme/widgets" in page.json["project-status"]["reason"]
    assert word(page) == "claimed"
    file = house.wire.get(
        f"/acme/sandbox/files/{private.sha256}/{private.filename}", token=house.tokens["alice"]
    )
    assert file.status == 403


def test_a_reserved_name_is_claimed(house: House, matrix: Matrix) -> None:
    name = house.name("acme-")
    rows = matrix("acme", name, token=house.tokens["rita"])
    expect(rows, refused("claimed"), "claimed")
    assert all(
        row.answer["X-Overlay-Decision"] == 'claimed;rule="reserve acme-*"'
        for row in rows
        if row.route != "explain"
    )
    assert house.upstream.asked_for(name) == []


def test_a_deleted_package_stays_claimed(house: House, matrix: Matrix) -> None:
    gone = house.publish("open/tools")
    asked = house.upstream.asked_for(gone.name)
    house.upstream.add_file(gone.name, gone.filename, gone.content)
    house.delete("open/tools", gone.name)
    for path in ("open/tools", "open", "open/gear", ""):
        expect(ask_for(matrix, path, gone), refused("claimed"), "claimed")
    assert house.upstream.asked_for(gone.name) == asked


def test_another_tenants_name_is_claimed_at_the_root_alone(
    house: House, matrix: Matrix, private: Stored
) -> None:
    expect(ask_for(matrix, "", private, house.tokens["otto"]), refused("claimed"), "claimed")
    expect(ask_for(matrix, "open", private), refused("unknown"), "unknown")


def test_what_the_caller_may_not_see_is_claimed_without_a_word_about_its_owner(
    house: House, matrix: Matrix, private: Stored
) -> None:
    for row in ask_for(matrix, "", private, house.tokens["otto"]):
        told = row.answer.text + str(row.answer.headers) + row.answer.reason
        assert "acme" not in told, str(row)


def test_a_denied_name_is_refused(house: House, matrix: Matrix) -> None:
    name = house.name("evil-")
    expect(matrix("open", name), refused("denied"), "denied")
    expect(matrix("open/gear", name), refused("denied"), "denied")
    assert house.upstream.asked_for(name) == []


def test_a_name_that_is_not_forwarded_is_404(house: House, matrix: Matrix) -> None:
    name = house.offer().name
    expect(matrix("vault", name), refused("not-forwarded"), "not-forwarded")
    expect(matrix("vault/safe", name), refused("not-forwarded"), "not-forwarded")
    assert house.upstream.asked_for(name) == []


def test_a_name_that_nobody_has_is_404(house: House, matrix: Matrix) -> None:
    name = house.name()
    expect(matrix("open", name), refused("unknown"), "unknown")
    assert len(house.upstream.asked_for(name)) == 1, "a valid 404 was not kept"


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"html_error": True}, 502),
        ({"status": 500}, 502),
        ({"status": 401}, 502),
        ({"status": 503}, 503),
        ({"status": 429}, 503),
        ({"hang": True}, 504),
    ],
    ids=["error page", "500", "401", "503", "429", "no answer"],
)
def test_an_upstream_that_fails_is_never_not_found(
    house: House, matrix: Matrix, fault: dict[str, object], status: int
) -> None:
    offered = house.offer()
    house.upstream.fault(f"/simple/{offered.name}/", **fault)
    rows = ask_for(matrix, "open", offered)
    expect(rows, {"page": status, "file": status, "metadata": status, "explain": 200}, "unavailable")
    for row in rows:
        if row.route != "explain":
            assert 1 <= int(row.answer["Retry-After"] or 99) <= 5, str(row)


@pytest.mark.parametrize("path", ["acme/widgets", "acme/sandbox", "acme", ""])
def test_anonymous_callers_get_401_wherever_the_owner_is_not_public(
    house: House, matrix: Matrix, private: Stored, path: str
) -> None:
    rows = ask_for(matrix, path, private)
    expect(rows, ALL_401, None)
    assert {row.answer["WWW-Authenticate"] for row in rows} == {REALM}


def test_anonymous_callers_get_401_for_a_reserved_name_of_a_private_group_at_the_root(
    house: House, matrix: Matrix
) -> None:
    rows = matrix("", house.name("acme-"))
    expect(rows, ALL_401, None)
    assert {row.answer["WWW-Authenticate"] for row in rows} == {REALM}


def test_anonymous_callers_get_401_in_a_private_namespace_for_any_name(house: House, matrix: Matrix) -> None:
    expect(matrix("acme", house.name()), ALL_401, None)


@pytest.mark.parametrize("path", ["acme/widgets", "open/tools", "open", ""])
def test_wrong_credentials_are_401_everywhere(
    house: House, matrix: Matrix, public: Stored, path: str
) -> None:
    rows = ask_for(matrix, path, public, "pyo_pat_" + "A" * 43)
    expect(rows, ALL_401, None)
    assert {row.answer["WWW-Authenticate"] for row in rows} == {REALM}


@pytest.mark.parametrize("path", ["acme/widgets", "acme"])
def test_a_namespace_that_the_caller_may_not_see_is_404(
    house: House, matrix: Matrix, private: Stored, path: str
) -> None:
    expect(ask_for(matrix, path, private, house.tokens["otto"]), ALL_404, None)


def test_an_unseen_namespace_answers_as_one_that_does_not_exist(house: House, private: Stored) -> None:
    for below in (
        f"simple/{private.name}/",
        "simple/",
        f"files/{private.sha256}/{private.filename}",
        "nothing",
    ):
        unseen = house.wire.get(f"/acme/widgets/{below}", token=house.tokens["otto"])
        unknown = house.wire.get(f"/acme/nowhere/{below}", token=house.tokens["otto"])
        assert (unseen.status, unseen.text) == (404, unknown.text.replace("nowhere", "widgets")), below


@pytest.mark.parametrize(
    "below", ["simple/", "simple/flask/", "simple", "", "x", "files/a/b", "simple/a%20b/"]
)
@pytest.mark.parametrize("base", ["/acme/nowhere/", "/api/v4/projects/acme%2Fnowhere/packages/pypi/"])
def test_an_unknown_namespace_answers_as_its_nearest_ancestor(house: House, base: str, below: str) -> None:
    anonymous = house.wire.get(base + below)
    assert (anonymous.status, anonymous["WWW-Authenticate"]) == (401, REALM)
    assert house.wire.get(base + below, token=house.tokens["rita"]).status == 404


@pytest.mark.parametrize(
    "target",
    ["/nowhere/simple/flask/", "/open/nowhere/simple/", "/api/v4/groups/999/-/packages/pypi/simple/"],
)
def test_an_unknown_namespace_below_a_public_one_is_404_for_anybody(house: House, target: str) -> None:
    answer = house.wire.get(target)
    assert (answer.status, answer["X-Overlay-Decision"]) == (404, None)


def test_a_refusal_by_policy_is_a_problem_with_its_rule(house: House) -> None:
    name = house.name("evil-")
    for target, status in (
        (f"/open/simple/{name}/", 451),
        (f"/open/files/{'0' * 64}/{name.replace('-', '_')}-1.0.tar.gz", 403),
    ):
        for accept in ("*/*", "application/json", "text/html"):
            answer = house.wire.get(target, headers={"Accept": accept})
            assert answer["Content-Type"] == "application/problem+json"
            assert answer.status == status
            reason = f"{name} is denied by open (evil-*)"
            assert answer.json == {
                "type": "about:blank",
                "title": "Denied by policy",
                "status": status,
                "detail": reason,
                "decision": "denied",
                "rule": "deny evil-*",
                "until": None,
            }
            assert answer.reason == reason


def test_public_answers_are_open_to_scripts_of_any_origin(
    house: House, public: Stored, private: Stored
) -> None:
    for target in (
        "/open/simple/",
        f"/open/simple/{public.name}/",
        f"/open/files/{public.sha256}/{public.filename}",
        f"/open/files/{public.sha256}/{public.filename}.metadata",
    ):
        assert house.wire.get(target)["Access-Control-Allow-Origin"] == "*", target
    for target in (f"/acme/simple/{private.name}/", f"/acme/files/{private.sha256}/{private.filename}"):
        answer = house.wire.get(target, token=house.tokens["rita"])
        assert (answer.status, answer["Access-Control-Allow-Origin"]) == (200, None), target
