"""Dated views: an index as of an instant, under today's rules, at addresses of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urljoin

import pytest

from proxy.domain.moments import iso
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Stand
from tests.web.wire import HTML, JSON, Answer, Wire

DAY = timedelta(days=1)
BASES = [
    "",
    "/open",
    "/open/tools",
    "/api/v4/groups/open/-/packages/pypi",
    "/api/v4/projects/44/packages/pypi",
]
RELEASES = {"1.0": "2024-01-01T00:00:00Z", "2.0": "2024-03-01T00:00:00Z", "3.0": "2024-03-02T08:30:00Z"}
"""Of `gears`, upstream."""


class Almanac:
    """A server whose private packages are some days old, and the wire to it."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        host, port = stand.address
        self.wire = Wire(f"http://{host}:{port}")
        self.now = datetime.now(UTC)
        self.token = stand.token("rita")[0]

    def view(self, days_ago: float) -> str:
        """The segment of an instant so many days ago."""
        return f"+{iso(self.now - days_ago * DAY)}"

    def publish(self, name: str, version: str, *, days_ago: float) -> None:
        """Publish a wheel to open/tools, some time ago. Call it in the order of time."""
        self.stand.clock = -timedelta(days=days_ago).total_seconds()
        body = forms.upload(*make_wheel(name, version))
        answer = self.wire.send("POST", "/open/tools/", token=self.token, headers=forms.FORM_TYPE, body=body)
        assert answer.status == 201, answer

    def kept(self, target: str) -> Answer:
        """Ask until the answer is one of the front: those have counted ids, those of handlers random ones."""

        def asked() -> Answer | None:
            one, other = self.wire.get(target), self.wire.get(target)
            return one if str(one["X-Request-Id"])[:8] == str(other["X-Request-Id"])[:8] else None

        answer = wait_until(asked, what="a kept answer")
        assert answer is not None
        return answer

    def files(self, page: str) -> set[str]:
        """The versions of the files on a page."""
        answer = self.wire.get(page, headers={"Accept": JSON})
        assert answer.status == 200, answer
        return {file["filename"].split("-")[1] for file in answer.json["files"]}

    def address(self, name: str, version: str) -> str:
        """The address of a file below `/open`, as the index has it now."""
        page = self.wire.get(f"/open/simple/{name}/", headers={"Accept": JSON}).json
        urls = [file["url"] for file in page["files"] if file["filename"].startswith(f"{name}-{version}-")]
        return str(urls[0]).removeprefix("../../")


def config(upstream: FakeUpstream) -> dict[str, Any]:
    """Configure a public group with a project, and a private group."""
    groups = {
        "open": {
            "visibility": "public",
            "members": {"rita": "maintainer"},
            "policy": {"deny": ["evil"]},
            "projects": {"tools": {"id": 44}},
        },
        "acme": {"visibility": "private", "projects": {"widgets": {}}},
    }
    # A page once fetched is right for the whole test, whatever the clock says.
    kept = {"cache": {"fresh_for": "30d"}}
    return base_config(upstream) | kept | {"users": {"rita": {}, "otto": {}}, "groups": groups}


@pytest.fixture(scope="module")
def almanac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almanac]:
    """Give a server with packages of ours and of an upstream."""
    with FakeUpstream(max_age=30 * 86_400) as upstream:
        for version, uploaded in RELEASES.items():
            upstream.add_file("gears", *make_wheel("gears", version), upload_time=uploaded)
        for name in ("evil", "mine", "Odd.Name"):
            upstream.add_file(name, *make_wheel(name, "9.0"))
        with Stand(tmp_path_factory.mktemp("stand"), config(upstream)) as stand:
            almanac = Almanac(stand)
            almanac.publish("gone", "1.0", days_ago=5)
            almanac.publish("mine", "1.0", days_ago=4)
            almanac.publish("fleeting", "1.0", days_ago=3.5)
            almanac.publish("mine", "2.0", days_ago=2)
            almanac.publish("late", "1.0", days_ago=1)
            stand.clock = 0.0
            target = "/api/v1/packages/open%2Ftools/gone"
            assert almanac.wire.send("DELETE", target, token=almanac.token).status == 204
            yield almanac


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("plus", ["+", "%2B", "%2b"])
@pytest.mark.parametrize(
    ("instant", "versions"),
    [
        ("2024-02-29", {"1.0"}),
        ("2024-03-01", {"1.0"}),
        ("2024-03-01T00:00:00Z", {"1.0"}),
        ("2024-03-01T00:00:01Z", {"1.0", "2.0"}),
        ("2024-03-02", {"1.0", "2.0"}),
        ("2024-03-03", {"1.0", "2.0", "3.0"}),
        ("2023-12-31", set()),
    ],
)
def test_a_page_has_what_an_upstream_had_before_an_instant(
    almanac: Almanac, base: str, plus: str, instant: str, versions: set[str]
) -> None:
    page = f"{base}/{plus}{instant}/simple/gears/"
    answer = almanac.wire.get(page, headers={"Accept": JSON})
    assert (answer.status, answer["X-Overlay-Decision"]) == (200, "upstream")
    assert {file["filename"].split("-")[1] for file in answer.json["files"]} == versions
    assert set(answer.json["versions"]) == versions
    assert "_withheld" not in answer.json
    shown = almanac.wire.get(page, headers={"Accept": HTML}).text
    assert set(re.findall(r">gears-([0-9.]+)-", shown)) == versions
    head = almanac.wire.head(page, headers={"Accept": JSON})
    assert (head.status, head["ETag"], head.body) == (200, answer["ETag"], b"")


@pytest.mark.parametrize("base", BASES)
def test_links_stay_within_the_view_and_lead_to_the_file_and_its_metadata(
    almanac: Almanac, base: str
) -> None:
    page = f"{base}/+2024-03-02/simple/gears/"
    for file in almanac.wire.get(page, headers={"Accept": JSON}).json["files"]:
        link = urljoin(page, file["url"])
        assert link.startswith(f"{base}/+2024-03-02/files/")
        assert almanac.wire.get(link).status == 200
        assert almanac.wire.head(link).status == 200
        assert almanac.wire.get(link + ".metadata").body.startswith(b"Metadata-Version")


def test_a_file_that_was_uploaded_later_is_not_in_the_view(almanac: Almanac) -> None:
    later = almanac.address("gears", "3.0")
    for beside in ("", ".metadata"):
        assert almanac.wire.get(f"/open/{later}{beside}").status == 200
        assert almanac.wire.get(f"/open/+2024-03-03/{later}{beside}").status == 200
        answer = almanac.wire.get(f"/open/+2024-03-02/{later}{beside}")
        assert (answer.status, answer["X-Overlay-Decision"]) == (404, "upstream")
        assert answer["Cache-Control"] == "no-store"


def test_private_files_are_shown_as_of_an_instant_too(almanac: Almanac) -> None:
    assert almanac.files("/open/simple/mine/") == {"1.0", "2.0"}
    assert almanac.files(f"/open/{almanac.view(1)}/simple/mine/") == {"1.0", "2.0"}
    assert almanac.files(f"/open/{almanac.view(3)}/simple/mine/") == {"1.0"}
    first, second = almanac.address("mine", "1.0"), almanac.address("mine", "2.0")
    for beside in ("", ".metadata"):
        assert almanac.wire.get(f"/open/{almanac.view(3)}/{first}{beside}").status == 200
        assert almanac.wire.get(f"/open/{almanac.view(3)}/{second}{beside}").status == 404


@pytest.mark.parametrize(
    ("days_ago", "name"), [(4.5, "mine"), (1.5, "late"), (4.5, "gone"), (6, "gone"), (0.5, "gone")]
)
@pytest.mark.parametrize("base", ["", "/open", "/open/tools"])
def test_a_name_that_is_ours_now_was_never_an_upstreams(
    almanac: Almanac, base: str, days_ago: float, name: str
) -> None:
    """Published later, or deleted since: it is claimed, as it would be without an upstream."""
    view = f"{base}/{almanac.view(days_ago)}"
    page = almanac.wire.get(f"{view}/simple/{name}/")
    assert page.status == 451
    assert (page["X-Overlay-Decision"] or "").startswith("claimed;rule=")
    assert page.json["detail"] == page.reason
    file = almanac.wire.get(f"{view}/files/{'0' * 64}/{name}-1.0-py3-none-any.whl")
    assert (file.status, file.reason) == (403, page.reason)


def test_the_names_of_an_index_are_those_it_had(almanac: Almanac) -> None:
    def names(view: str) -> list[str]:
        answer = almanac.wire.get(f"/open{view}/simple/", headers={"Accept": JSON})
        assert answer.status == 200, answer
        return [project["name"] for project in answer.json["projects"]]

    assert names("") == ["fleeting", "late", "mine"]
    assert names(f"/{almanac.view(0.5)}") == ["fleeting", "late", "mine"]
    assert names(f"/{almanac.view(1.5)}") == ["fleeting", "mine"]
    assert names(f"/{almanac.view(10)}") == []


def test_a_view_obeys_the_policy_of_today(almanac: Almanac) -> None:
    answer = almanac.wire.get("/open/+2024-06-01/simple/evil/")
    assert (answer.status, answer["X-Overlay-Decision"]) == (451, 'denied;rule="deny evil"')
    assert almanac.wire.get("/+2024-06-01/simple/evil/").status == 200
    unknown = almanac.wire.get("/open/+2024-06-01/simple/nobody/")
    assert (unknown.status, unknown["X-Overlay-Decision"]) == (404, "unknown")


def test_a_view_of_a_private_index_is_as_private(almanac: Almanac) -> None:
    wire, otto = almanac.wire, almanac.stand.token("otto")[0]
    for below in ("simple/", "simple/gears/", "simple/Gears", "simple", f"files/{'0' * 64}/x-1.tar.gz", ""):
        for view in ("+2024-06-01", "+9999-01-01", "+2024-13-01"):
            assert wire.get(f"/acme/{view}/{below}").status == 401, below
            assert wire.get(f"/acme/{view}/{below}", token=otto).status == 404, below


def test_the_future_is_refused_until_it_has_come(almanac: Almanac) -> None:
    """By the clock of the server; what was refused is not kept."""
    wire, view = almanac.wire, f"/open/+{iso(datetime.now(UTC) + timedelta(hours=1))}"
    for below in ("simple/", "simple/gears/", "simple/Gears/", almanac.address("gears", "1.0")):
        for method in ("GET", "HEAD", "GET"):
            answer = wire.send(method, f"{view}/{below}")
            assert (answer.status, answer["Cache-Control"]) == (400, "no-store"), below
            assert "lies in the future" in answer.reason
    almanac.stand.clock = 3601.0
    try:
        assert wire.get(f"{view}/simple/gears/").status == 200
    finally:
        almanac.stand.clock = 0.0


@pytest.mark.parametrize(
    "text", ["2024-13-01", "2024-06-01T25:00:00Z", "2024-06-01T08:00:00", "2024", "1%00"]
)
def test_what_is_no_date_is_refused_with_the_form_of_one(almanac: Almanac, text: str) -> None:
    for below in ("simple/gears/", "simple/", "files/x", "", "pypi/gears/json"):
        answer = almanac.wire.get(f"/open/+{text}/{below}")
        if "%" in text:
            assert answer.status == 404
            continue
        assert (answer.status, answer["Cache-Control"]) == (400, "no-store")
        assert answer.reason == f"'{text}' is no date: a dated view is +2026-05-01 or +2026-05-01T08:00:00Z"


@pytest.mark.parametrize(
    ("below", "leads_to"),
    [
        ("simple", "simple/"),
        ("simple/Odd.Name", "simple/odd-name/"),
        ("simple/Odd.Name/?format=x", "simple/odd-name/?format=x"),
        ("simple/gears", "simple/gears/"),
    ],
)
@pytest.mark.parametrize("view", ["+2024-06-01", "%2B2024-06-01T08%3A00%3A00Z"])
def test_redirects_stay_within_the_view(almanac: Almanac, view: str, below: str, leads_to: str) -> None:
    for base in BASES:
        target = f"{base}/{view}/{below}"
        answer = almanac.wire.get(target)
        assert answer.status == 301
        location = answer["Location"] or ""
        assert urljoin(f"http://h/prefix{target}", location) == f"http://h/prefix{base}/{view}/{leads_to}"


def test_nothing_else_is_dated(almanac: Almanac) -> None:
    for below in (
        "pypi/gears/json",
        "pypi/gears/1.0/json",
        "gears/json",
        "+simple/mine/",
        "",
        "+2024-06-01/simple/",
    ):
        assert almanac.wire.get(f"/open/tools/+2024-06-01/{below}").status == 404, below
    assert almanac.wire.get("/open/tools/pypi/gears/1.0/json").status == 200


@pytest.mark.parametrize("below", ["", "/", "/simple/", "/simple/gears/", "/simple"])
def test_nothing_is_published_into_the_past(almanac: Almanac, below: str) -> None:
    body = forms.upload(*make_wheel("mine", "3.0"))
    for base in ("/open/tools", "/open", "/api/v4/projects/44/packages/pypi"):
        target = f"{base}/+2024-06-01{below}"
        answer = almanac.wire.send("POST", target, token=almanac.token, headers=forms.FORM_TYPE, body=body)
        assert (answer.status, answer["Allow"]) == (405, "GET, HEAD"), target
        assert "open/tools" in answer.reason


@pytest.mark.parametrize("name", ["gears", "mine"])
def test_a_page_is_the_same_to_the_byte_and_costs_a_304(almanac: Almanac, name: str) -> None:
    page = f"/open/{almanac.view(3)}/simple/{name}/"
    first, second = (almanac.wire.get(page, headers={"Accept": JSON}) for _ in range(2))
    assert (first.body, first["ETag"]) == (second.body, second["ETag"])
    assert first["Cache-Control"] == "private, max-age=0, must-revalidate"
    asked = {"Accept": JSON, "If-None-Match": first["ETag"] or ""}
    unchanged = almanac.wire.get(page, headers=asked)
    assert (unchanged.status, unchanged.body, unchanged["ETag"]) == (304, b"", first["ETag"])
    spelled = page.replace("+", "%2B")
    assert almanac.wire.get(spelled, headers={"Accept": JSON}).body == first.body
    # Of now there is more, and what is kept of the one is never given for the other.
    assert almanac.wire.get(f"/open/simple/{name}/", headers={"Accept": JSON}).status == 200
    assert almanac.wire.get(page, headers={"Accept": JSON}).body == first.body


def test_pages_and_files_of_a_view_are_kept_finished(almanac: Almanac) -> None:
    file = f"/open/+2024-06-01/{almanac.address('gears', '1.0')}"
    for target in ("/open/+2024-06-01/simple/gears/", f"/open/{almanac.view(3)}/simple/mine/", file):
        body = almanac.wire.get(target).body
        assert almanac.kept(target).body == body


def test_what_is_deleted_is_gone_from_every_view_at_once(almanac: Almanac) -> None:
    page = f"/open/{almanac.view(3)}/simple/fleeting/"
    almanac.kept(page)
    target = "/api/v1/packages/open%2Ftools/fleeting"
    assert almanac.wire.send("DELETE", target, token=almanac.token).status == 204
    assert almanac.wire.get(page).status == 451
