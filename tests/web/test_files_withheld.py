"""Refusals on the wire: what a page says of files that are withheld, what those answer, and with which statuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest

from proxy.domain.moments import iso
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel
from tests.web.stand import Reply, Stand
from tests.web.wire import HTML, JSON, Answer, Wire

OLD, YOUNG, SOURCE = "gears-1.0-py3-none-any.whl", "gears-2.0-py3-none-any.whl", "gears-1.0.tar.gz"
AGE = timedelta(hours=4.5)
GROUPS: dict[str, dict[str, Any]] = {
    "ageing": {"min_age": "3d"},
    "hiding": {"min_age": "3d", "withheld": "hide"},
    "choosy": {
        "file_types": ["wheel"],
        "deny": [{"match": "gears<2", "until": "2099-01-01", "reason": "no teeth"}],
    },
    "strict": {"deny": ["gears"], "reserve": ["acme-*"], "refused": 403},
    "loose": {"deny": ["gears"], "reserve": ["acme-*"]},
    "closed": {"forward": False},
    "telling": {"forward": False, "not_forwarded": 451},
}


class Shop:
    """A server with an index for each rule, the wire to it, and where the upstream's files of `gears` lie."""

    def __init__(self, stand: Stand, uploaded: datetime, digests: dict[str, str]) -> None:
        host, port = stand.address
        self.stand = stand
        self.wire = Wire(f"http://{host}:{port}")
        self.token = stand.token("rita")[0]
        self.until = uploaded + timedelta(days=3)
        self._digests = digests

    def page(self, group: str, accept: str = JSON) -> Answer:
        answer = self.wire.get(f"/{group}/simple/gears/", headers={"Accept": accept})
        assert (answer.status, answer["X-Overlay-Decision"]) == (200, "upstream")
        return answer

    def withheld(self, group: str) -> dict[str, Any]:
        """What the page says is withheld, by filename."""
        return {file["filename"]: file for file in self.page(group).json["_withheld"]}

    def address(self, group: str, filename: str) -> str:
        return f"/{group}/files/{self._digests[filename]}/{filename}"

    def logged(self, answer: Answer) -> dict[str, Any]:
        return self.stand.line_of(Reply(answer.status, {"x-request-id": answer["X-Request-Id"] or ""}, b""))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Give a server in front of an upstream with an old release, and a young one."""
    uploaded = datetime.now(UTC) - AGE
    with FakeUpstream(max_age=30 * 86_400) as upstream:
        upstream.add_file("gears", *make_wheel("gears", "1.0"))
        upstream.add_file("gears", *make_sdist("gears", "1.0"))
        upstream.add_file("gears", *make_wheel("gears", "2.0"), upload_time=iso(uploaded))
        for status in ("archived", "deprecated", "quarantined"):
            upstream.add_project(status, status=status, status_reason=f'see "other" & {status}')
            upstream.add_file(status, *make_wheel(status, "1.0"))
        policies = {
            group: {
                "visibility": "public",
                "members": {"rita": "maintainer"},
                "policy": policy,
                "projects": {"tools": {}},
            }
            for group, policy in GROUPS.items()
        }
        config = base_config(upstream) | {
            "cache": {"fresh_for": "30d"},
            "users": {"rita": {}},
            "groups": policies,
        }
        with Stand(tmp_path_factory.mktemp("stand"), config) as stand:
            host, port = stand.address
            page = Wire(f"http://{host}:{port}").get("/simple/gears/", headers={"Accept": JSON}).json
            digests = {file["filename"]: file["hashes"]["sha256"] for file in page["files"]}
            yield Shop(stand, uploaded, digests)


def test_a_marked_file_is_listed_as_yanked_with_the_reason(shop: Shop) -> None:
    told = shop.withheld("ageing")
    assert list(told) == [YOUNG]
    assert list(told[YOUNG]) == ["filename", "version", "rule", "reason", "until"]
    assert (told[YOUNG]["version"], told[YOUNG]["rule"]) == ("2.0", "min_age 3d")
    assert told[YOUNG]["until"] == iso(shop.until.replace(microsecond=0))
    reason = told[YOUNG]["reason"]
    assert reason.startswith("gears 2.0 is 4 hours old; ageing holds files back for 3 days, until ")
    yanked = {file["filename"]: file.get("yanked") for file in shop.page("ageing").json["files"]}
    assert yanked == {OLD: None, SOURCE: None, YOUNG: reason}
    links = re.findall(r"<a ([^>]*)>([^<]*)</a>", shop.page("ageing", HTML).text)
    marks = {name: re.findall(r'data-yanked="([^"]*)"', attributes) for attributes, name in links}
    assert {name: [unescape(mark) for mark in found] for name, found in marks.items()} == {
        OLD: [],
        SOURCE: [],
        YOUNG: [reason],
    }


def test_a_hidden_file_is_told_of_in_the_json_page_alone(shop: Shop) -> None:
    assert list(shop.withheld("hiding")) == [YOUNG]
    assert [file["filename"] for file in shop.page("hiding").json["files"]] == [OLD, SOURCE]
    assert YOUNG not in shop.page("hiding", HTML).text


@pytest.mark.parametrize(
    ("group", "filename"), [("ageing", YOUNG), ("hiding", YOUNG), ("choosy", SOURCE), ("choosy", OLD)]
)
@pytest.mark.parametrize("beside", ["", ".metadata"])
def test_a_withheld_file_is_403_with_what_the_page_says_of_it(
    shop: Shop, group: str, filename: str, beside: str
) -> None:
    told = shop.withheld(group)[filename]
    target = shop.address(group, filename) + beside
    answer = shop.wire.get(target)
    assert (answer.status, answer.reason) == (403, told["reason"])
    assert answer["X-Overlay-Decision"] == f'withheld;rule="{told["rule"]}"'
    assert answer["Cache-Control"] == "no-store"
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json == {
        "type": "about:blank",
        "title": "Withheld by policy",
        "status": 403,
        "detail": told["reason"],
        "decision": "withheld",
        "rule": told["rule"],
        "until": told["until"],
    }
    head = shop.wire.head(target)
    assert (head.status, head.reason, head.body) == (403, answer.reason, b"")
    assert head["Content-Length"] == answer["Content-Length"]
    line = shop.logged(answer)
    assert (line["decision"], line["rule"], line["failure"]) == ("withheld", told["rule"], told["reason"])
    assert shop.wire.get(shop.address("ageing", OLD) + beside).status == 200


def test_the_entry_of_a_rule_gives_its_end_and_its_reason(shop: Shop) -> None:
    told = shop.withheld("choosy")
    assert set(told) == {OLD, SOURCE}
    assert told[OLD]["rule"] == "deny gears<2"
    assert "no teeth" in told[OLD]["reason"]
    assert told[OLD]["until"] == "2099-01-01T00:00:00Z"


def test_the_json_api_marks_what_is_withheld(shop: Shop) -> None:
    reason = shop.withheld("ageing")[YOUNG]["reason"]
    document = shop.wire.get("/ageing/pypi/gears/json").json
    assert document["info"]["version"] == "1.0"
    (young,) = document["releases"]["2.0"]
    assert (young["yanked"], young["yanked_reason"]) == (True, reason)
    assert shop.wire.get("/hiding/pypi/gears/json").json["releases"].get("2.0", []) == []


REFUSALS = [
    ("strict", "gears", "denied", 403, 403),
    ("strict", "acme-x", "claimed", 403, 403),
    ("loose", "gears", "denied", 451, 403),
    ("loose", "acme-x", "claimed", 451, 403),
    ("closed", "gears", "not-forwarded", 404, 404),
    ("telling", "gears", "not-forwarded", 451, 403),
]


@pytest.mark.parametrize(("group", "name", "word", "page", "file"), REFUSALS)
def test_a_refused_name_has_the_statuses_of_the_policy_on_every_route(
    shop: Shop, group: str, name: str, word: str, page: int, file: int
) -> None:
    stem = name.replace("-", "_")
    reasons = set()
    for base in (f"/{group}", f"/{group}/tools", f"/{group}/+2024-06-01"):
        targets = {
            f"{base}/simple/{name}/": page,
            f"{base}/files/{'0' * 64}/{stem}-1.0-py3-none-any.whl": file,
            f"{base}/files/{'0' * 64}/{stem}-1.0-py3-none-any.whl.metadata": file,
        }
        if "+" not in base:
            targets |= {f"{base}/pypi/{name}/json": page, f"{base}/{name}/json": page}
        for target, status in targets.items():
            answer, head = shop.wire.get(target), shop.wire.head(target)
            assert answer.status == head.status == status, target
            assert (answer["X-Overlay-Decision"] or "").startswith(f"{word};rule=")
            assert answer["X-Overlay-Decision"] == head["X-Overlay-Decision"]
            if status == 404:
                continue
            assert answer["Content-Type"] == "application/problem+json"
            assert answer.json["detail"] == answer.reason == head.reason
            assert (answer.json["decision"], answer.json["until"]) == (word, None)
            reasons.add(re.sub(rf"\b{group}/tools\b", group, answer.reason))
    assert len(reasons) <= 1 + (word == "not-forwarded")


@pytest.mark.parametrize(("group", "name", "word", "page", "file"), REFUSALS)
def test_who_publishes_to_a_project_meets_no_451_at_its_index(
    shop: Shop, group: str, name: str, word: str, page: int, file: int
) -> None:
    """`uv publish --check-url` gives up at one, and goes on at 403 and 404."""
    del file
    target = f"/{group}/tools/simple/{name}/"
    answer = shop.wire.get(target, token=shop.token, headers={"Accept": JSON})
    assert (answer["X-Overlay-Decision"] or "").startswith(f"{word};rule=")
    if page != 451:
        assert answer.status == page
        return
    refused = shop.wire.get(target)
    assert (refused.status, answer.status, answer.json["files"]) == (451, 200, [])
    assert answer.json["project-status"] == {"status": "quarantined", "reason": refused.json["detail"]}
    assert shop.wire.get(f"/{group}/simple/{name}/", token=shop.token).status == 451


@pytest.mark.parametrize("status", ["archived", "deprecated", "quarantined"])
def test_the_status_of_an_upstreams_project_is_passed_on_with_its_reason(shop: Shop, status: str) -> None:
    reason = f'see "other" & {status}'
    page = shop.wire.get(f"/ageing/simple/{status}/", headers={"Accept": JSON}).json
    assert page["project-status"] == {"status": status, "reason": reason}
    assert len(page["files"]) == (status != "quarantined")
    text = shop.wire.get(f"/ageing/simple/{status}/", headers={"Accept": HTML}).text
    metas = {
        name: unescape(content) for name, content in re.findall(r'name="([^"]+)" content="([^"]*)"', text)
    }
    assert metas["pypi:project-status"] == status
    assert metas["pypi:project-status-reason"] == reason


def test_a_file_is_served_from_the_moment_on_that_was_told(shop: Shop) -> None:
    """Last here, since it moves the clock: kept answers end by it too."""
    page, file = "/ageing/simple/gears/", shop.address("ageing", YOUNG)

    def is_kept() -> bool:
        ids = [str(shop.wire.get(page)["X-Request-Id"]) for _ in range(2)]
        return ids[0][:8] == ids[1][:8]

    wait_until(is_kept, what="a kept page")
    left = (shop.until - datetime.now(UTC)).total_seconds()
    shop.stand.clock = left - 30
    assert "until" in shop.withheld("ageing")[YOUNG]["reason"]
    assert shop.wire.get(file).status == 403
    shop.stand.clock = left + 1
    assert "data-yanked" not in shop.wire.get(page).text
    assert "_withheld" not in shop.page("ageing").json
    assert shop.wire.get(file).status == 200
