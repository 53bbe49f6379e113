"""Packages in the administration API: lists, deletion, yanks and statuses, and what they do at once (contract 12)."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

from tests.web.house import House, Matrix, Stored
from tests.web.wire import JSON, Answer

API = "/api/v1/packages"
JSON_PAGE = {"Accept": JSON}


def send(
    house: House, method: str, target: str, body: object = None, *, token: str | None = "", **headers: str
) -> Answer:
    """Send a request below `API`, as alice unless a token or None is given; `body` becomes JSON."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    if raw is not None:
        sent.setdefault("Content-Type", "application/json")
    who = house.tokens["alice"] if token == "" else token
    return house.wire.send(method, API + target, token=who, headers=sent, body=raw)


def at(stored: Stored, *more: str, project: str = "acme%2Fwidgets") -> str:
    return "/".join(("", project, stored.name, *more))


def page(house: House, stored: Stored, path: str = "acme/widgets") -> dict[str, Any]:
    answer = house.wire.get(f"/{path}/simple/{stored.name}/", token=house.owner, headers=JSON_PAGE)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


@pytest.fixture
def mine(house: House) -> Stored:
    """A wheel of acme/widgets with a name of its own."""
    return house.publish("acme/widgets")


# Lists


def test_packages_are_listed_and_with_a_name_shown(house: House, mine: Stored) -> None:
    house.publish("acme/sandbox", mine.name, "2.0")
    listed = send(house, "GET", "?namespace=acme/widgets&per_page=100")
    assert (listed.status, listed["Content-Type"]) == (200, "application/json")
    assert {
        "project": "acme/widgets",
        "name": mine.name,
        "status": "active",
        "latest": "1.0",
        "releases": 1,
        "files": 1,
        "bytes": len(mine.content),
    } in listed.json["items"]
    shown = send(house, "GET", f"?namespace=%2Facme&name={mine.name.upper()}").json
    assert shown["next"] is None
    assert [item["project"] for item in shown["items"]] == ["acme/sandbox", "acme/widgets"]
    [release] = shown["items"][1]["releases"]
    [file] = release.pop("files")
    assert release == {"version": "1.0", "yanked": False}
    uploaded = file.pop("uploaded_at")
    assert uploaded.endswith("Z")
    assert file == {
        "filename": mine.filename,
        "sha256": mine.sha256,
        "size": len(mine.content),
        "by": "first",
    }
    assert send(house, "GET", f"?name={house.name()}").json == {"items": [], "next": None}
    assert send(house, "HEAD", f"?name={mine.name}").status == 200


def test_lists_hold_what_the_caller_may_read(house: House) -> None:
    name = house.name()
    for project in ("acme/widgets", "acme/sandbox", "open/tools", "open/hidden"):
        house.publish(project, name)

    def seen(token: str | None) -> list[str]:
        return [item["project"] for item in send(house, "GET", f"?name={name}", token=token).json["items"]]

    assert seen(None) == ["open/tools"]
    assert seen(house.tokens["dan"]) == ["acme/widgets", "open/tools"]
    assert seen(house.owner) == ["acme/sandbox", "acme/widgets", "open/hidden", "open/tools"]
    assert send(house, "GET", "?namespace=acme", token=None).status == 401
    assert send(house, "GET", "?namespace=acme", token=house.tokens["otto"]).status == 404
    assert send(house, "GET", "?namespace=acme/nowhere").status == 404


def test_lists_come_in_pieces(house: House) -> None:
    name = house.name()
    for project in ("acme/widgets", "acme/sandbox", "open/tools"):
        house.publish(project, name)
    seen, following = [], 1
    while following is not None:
        answer = send(house, "GET", f"?name={name}&per_page=2&page={following}", token=house.owner).json
        seen.append([item["project"] for item in answer["items"]])
        following = answer["next"]
    assert seen == [["acme/sandbox", "acme/widgets"], ["open/tools"]]
    assert send(house, "GET", f"?name={name}&per_page=3", token=house.owner).json["next"] is None
    for query in ("page=0", "per_page=many", "name=a%20b"):
        assert send(house, "GET", f"?{query}").status == 400, query


# Deletion


def test_a_file_a_release_and_a_package_are_deleted(house: House, mine: Stored) -> None:
    sdist = house.publish("acme/widgets", mine.name, sdist=True)
    house.publish("acme/widgets", mine.name, "2.0")
    house.publish("acme/widgets", mine.name, "3.0")
    targets = (
        at(mine, "v1.0.0", sdist.filename),
        at(mine, "1"),
        f"/acme%2Fwidgets/{mine.name.upper()}/2.0",
        at(mine),
    )
    left = [["1.0", "2.0", "3.0"], ["2.0", "3.0"], ["3.0"]]
    for target, versions in zip(targets, [*left, None], strict=True):
        answer = send(house, "DELETE", target)
        assert (answer.status, answer.body) == (204, b""), answer
        assert send(house, "DELETE", target).status == 404
        if versions is not None:
            assert page(house, mine)["versions"] == versions
    gone = house.wire.get(f"/acme/simple/{mine.name}/", token=house.owner)
    assert gone.status == 451, "the name stays claimed"


# Yanks


def test_a_yank_shows_at_once_and_can_be_undone(house: House, mine: Stored) -> None:
    target = at(mine, "1.0", "yank")
    for body, shown in (({"reason": "loses <data>"}, "loses <data>"), (None, True), ({"reason": ""}, True)):
        assert send(house, "PUT", target, body).status == 204
        assert page(house, mine)["files"][0]["yanked"] == shown
        assert page(house, mine, "acme")["files"][0]["yanked"] == shown
    html = house.wire.get(f"/acme/simple/{mine.name}/", token=house.owner).text
    assert 'data-yanked=""' in html
    file = f"/acme/widgets/files/{mine.sha256}/{mine.filename}"
    assert house.wire.get(file, token=house.owner).body == mine.content, "a yanked file stays served"
    for _ in range(2):
        assert send(house, "DELETE", at(mine, "v1", "yank")).status == 204
        assert "yanked" not in page(house, mine)["files"][0]


# Statuses


def test_a_status_shows_at_once(house: House, mine: Stored) -> None:
    target = at(mine, "status")
    assert send(house, "PUT", target, {"status": "deprecated", "reason": "use <gears>"}).status == 204
    assert page(house, mine)["project-status"] == {"status": "deprecated", "reason": "use <gears>"}
    html = house.wire.get(f"/acme/simple/{mine.name}/", token=house.owner).text
    assert '<meta name="pypi:project-status" content="deprecated">' in html
    [item] = send(house, "GET", f"?name={mine.name}").json["items"]
    assert item["status"] == "deprecated"


def test_a_quarantined_package_is_withheld_on_every_route_and_never_asked_upstream(
    house: House, mine: Stored, matrix: Matrix
) -> None:
    house.offer(mine.name, "9.0")
    house.upstream.reset_requests()
    status = at(mine, "status")
    assert send(house, "PUT", status, {"status": "quarantined", "reason": "malware"}).status == 204
    reason = f"{mine.name} is quarantined in acme/widgets: malware"
    for path in ("acme/widgets", "acme"):
        for row in matrix(path, mine.name, mine.filename, mine.sha256, token=house.tokens["rita"]):
            assert row.answer.status == (200 if row.route in {"page", "explain"} else 403), row
            if row.route in {"file", "metadata"}:
                assert row.answer["X-Overlay-Decision"] == 'withheld;rule="quarantined"', row
                assert row.answer["Content-Type"] == "application/problem+json"
                assert row.answer.reason == reason
            if row.method == "HEAD":
                continue
            if row.route == "explain":
                [file] = row.answer.json["files"]
                assert row.answer.json["decision"] == "private"
                assert (file["served"], file["rule"], file["reason"]) == (False, "quarantined", reason)
        found = page(house, mine, path)
        assert (found["files"], found["project-status"]["status"]) == ([], "quarantined")
        assert found["_withheld"] == [
            {
                "filename": mine.filename,
                "version": "1.0",
                "rule": "quarantined",
                "reason": reason,
                "until": None,
            }
        ]
    refused = house.wire.get(f"/acme/files/{mine.sha256}/{mine.filename}", token=house.owner)
    assert (refused.json["status"], refused.json["decision"], refused.json["detail"]) == (
        403,
        "withheld",
        reason,
    )
    assert house.upstream.asked_for(mine.name) == []
    assert send(house, "PUT", status, {"status": "active"}).status == 204
    assert house.wire.get(f"/acme/files/{mine.sha256}/{mine.filename}", token=house.owner).status == 200


@pytest.mark.parametrize("status", ["archived", "quarantined"])
def test_an_archived_or_quarantined_package_takes_no_uploads(house: House, mine: Stored, status: str) -> None:
    assert send(house, "PUT", at(mine, "status"), {"status": status}).status == 204
    with pytest.raises(AssertionError, match=f"{mine.name} is {status} in acme/widgets"):
        house.publish("acme/widgets", mine.name, "2.0")


# What is audited


def test_every_mark_is_audited_with_who_and_from_where(house: House, mine: Stored) -> None:
    done = [
        ("package.yank", send(house, "PUT", at(mine, "1.0", "yank"), {"reason": "bad"})),
        ("package.unyank", send(house, "DELETE", at(mine, "1.0", "yank"))),
        ("package.status", send(house, "PUT", at(mine, "status"), {"status": "archived"})),
        ("file.delete", send(house, "DELETE", at(mine))),
    ]
    events = audited(house, mine.name)[1:]
    assert [(event["action"], event["request_id"]) for event in events] == [
        (action, answer["X-Request-Id"]) for action, answer in done
    ]
    for event in events:
        assert (event["who_kind"], event["who_user"], event["address"]) == ("user", "alice", "127.0.0.1")
        assert event["namespace"] == "acme/widgets"


def audited(house: House, name: str) -> list[dict[str, Any]]:
    database = sqlite3.connect(house.server.data_dir / "registry.sqlite")
    database.row_factory = sqlite3.Row
    try:
        rows = database.execute("SELECT * FROM audit WHERE name = ? ORDER BY id", (name,)).fetchall()
    finally:
        database.close()
    return [dict(row) for row in rows]


# What is refused


@pytest.mark.parametrize(
    ("method", "more", "body", "status", "said"),
    [
        ("PUT", ("1.0", "yank"), b"[]", 400, "the body is not valid"),
        ("PUT", ("1.0", "yank"), b'{"reason": 3}', 400, "the body is not valid"),
        ("PUT", ("1.0", "yank"), b'{"why": "x"}', 400, "the body is not valid"),
        ("PUT", ("1.0", "yank"), b'{"reason": "\xff"}', 400, "the body is not valid"),
        ("PUT", ("1.0", "yank"), b'{"reason": "two\\nlines"}', 400, "the reason is not valid"),
        ("PUT", ("1.0", "yank"), b'{"reason": "' + b"x" * (64 << 10) + b'"}', 413, "the body is larger"),
        ("PUT", ("new", "yank"), b"{}", 400, "'new' is not a valid version"),
        ("PUT", ("2.0", "yank"), b"{}", 404, "no such release"),
        ("DELETE", ("2.0", "yank"), None, 404, "no such release"),
        ("PUT", ("status",), b"{}", 400, "missing required field"),
        ("PUT", ("status",), b'{"status": "gone"}', 400, "'gone' is no status of a package"),
        ("DELETE", ("new",), None, 400, "'new' is not a valid version"),
        ("DELETE", ("1.0", "other-1.0.tar.gz"), None, 404, "no such release or file"),
        ("GET", (), None, 405, "this address takes DELETE"),
        ("DELETE", ("status",), None, 405, "this address takes PUT"),
        ("POST", ("1.0", "yank"), b"{}", 405, "this address takes DELETE, PUT"),
        ("GET", ("1.0", "yank", "x"), None, 404, "no such address"),
    ],
)
def test_what_is_not_in_order_is_refused_and_changes_nothing(
    house: House, mine: Stored, method: str, more: tuple[str, ...], body: bytes | None, status: int, said: str
) -> None:
    answer = send(house, method, at(mine, *more), body)
    assert (answer.status, answer["Content-Type"]) == (status, "application/json"), answer
    assert said in answer.json["message"]
    if status == 405:
        assert answer["Allow"] == said.removeprefix("this address takes ")
    file = page(house, mine)["files"][0]
    assert "yanked" not in file


@pytest.mark.parametrize(
    ("project", "name", "status"),
    [
        ("acme", "{}", 404),
        ("%2F", "{}", 404),
        ("acme%2Fsandbox", "{}", 404),
        ("acme%2Fwidgets", "no%20name", 400),
        ("acme%2Fwidgets", "nobodys-{}", 404),
        ("a%2F" * 1500 + "a", "{}", 404),
    ],
)
def test_marks_are_for_packages_of_projects(
    house: House, mine: Stored, project: str, name: str, status: int
) -> None:
    for method, more in (("PUT", "/1.0/yank"), ("DELETE", ""), ("DELETE", "/1.0/yank")):
        answer = send(house, method, f"/{project}/{name.format(mine.name)}{more}")
        assert answer.status == status, (method, more, answer)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_type_is_refused(house: House, mine: Stored, kind: str) -> None:
    answer = send(house, "PUT", at(mine, "1.0", "yank"), {"reason": "x"}, Content_Type=kind)
    assert (answer.status, answer.json["message"]) == (
        400,
        "the body is not application/json: send a JSON object",
    )
