"""Dependency confusion (protocol 2.1 and 7: T-CONF1 to T-CONF4, T-CONF7, T-CONF9) on every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.house import House, Stored
from tests.web.wire import HTML, JSON, Answer

PAGES = (
    "page",
    "page as HTML",
    "page by format",
    "document",
    "document of a version",
    "document for pip-tools",
)
FILES = ("file", "metadata", "provenance", "part of the file")


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer of one route."""

    route: str
    method: str
    target: str
    answer: Answer

    def __str__(self) -> str:
        """What a failed assertion shows."""
        return f"{self.route}: {self.method} {self.target}: {self.answer.status} {self.answer.reason}"


def ask(house: House, base: str, stored: Stored, token: str | None = None) -> Iterator[Asked]:
    """Ask for a name and its file by every reading route, GET and HEAD."""
    page = f"{base}/simple/{stored.name}/"
    file = f"{base}/files/{stored.sha256}/{stored.filename}"
    routes: dict[str, tuple[str, dict[str, str]]] = {
        "page": (page, {"Accept": JSON}),
        "page as HTML": (page, {"Accept": HTML, "If-None-Match": '"other"'}),
        "page by format": (f"{page}?format={JSON}", {}),
        "document": (f"{base}/pypi/{stored.name.upper()}/json", {}),
        "document of a version": (f"{base}/pypi/{stored.name}/{stored.version}/json", {}),
        "document for pip-tools": (f"{base}/{stored.name}/json", {}),
        "file": (file, {}),
        "part of the file": (file, {"Range": "bytes=0-0"}),
        "metadata": (f"{file}.metadata", {}),
        "provenance": (f"{file}.provenance", {}),
    }
    assert set(routes) == {*PAGES, *FILES}
    for route, (target, headers) in routes.items():
        for method in ("HEAD", "GET"):
            answer = house.wire.send(method, target, token=token, headers=headers)
            yield Asked(route, method, target, answer)


def word(answer: Answer) -> str | None:
    header = answer["X-Overlay-Decision"]
    return None if header is None else header.partition(";")[0]


def offer_unavailable(house: House) -> Stored:
    stored = house.offer()
    house.upstream.fault(f"/simple/{stored.name}/", status=503)
    return stored


Cases = dict[str, tuple[str, Callable[[House], Stored], tuple[int, int]]]

CASES: Cases = {
    "private": ("/open", lambda house: house.publish("open/tools"), (200, 200)),
    "upstream": ("/open", lambda house: house.offer(), (200, 200)),
    "claimed": ("/open/gear", lambda house: house.publish("open/tools"), (451, 403)),
    "denied": ("/open", lambda house: house.offer(house.name("evil-")), (451, 403)),
    "not-forwarded": ("/vault", lambda house: house.offer(), (404, 404)),
    "unknown": ("/open", lambda house: house.wheel(house.name()), (404, 404)),
    "unavailable": ("/open", offer_unavailable, (503, 503)),
}


@pytest.mark.parametrize("decision", CASES)
def test_T_CONF9_every_route_gives_the_same_decision(house: House, decision: str) -> None:
    base, make, (page, file) = CASES[decision]
    stored = make(house)
    for asked in ask(house, base, stored):
        if asked.route == "provenance" and file == 200:
            # There is none, and that is told of this very decision.
            assert asked.answer.status == 404, str(asked)
            continue
        status = asked.answer.status
        if asked.route == "part of the file" and status == 206:
            status = 200
        assert status == (page if asked.route in PAGES else file), str(asked)
        assert word(asked.answer) == decision, str(asked)


@pytest.mark.parametrize("decision", ["claimed", "denied", "not-forwarded"])
def test_T_CONF9_what_is_refused_is_asked_of_nobody(house: House, decision: str) -> None:
    base, make, _ = CASES[decision]
    stored = make(house)
    house.upstream.add_file(stored.name, stored.filename, stored.content)
    house.upstream.reset_requests()
    for _asked in ask(house, base, stored):
        pass
    assert house.upstream.requests() == []


@pytest.fixture
def attacked(house: House) -> tuple[Stored, Stored]:
    """Give a private wheel, and the higher version of that name which the upstream has."""
    mine = house.publish("open/tools")
    theirs = Stored(mine.name, "99.0", *make_wheel(mine.name, "99.0"))
    house.upstream.add_file(theirs.name, theirs.filename, theirs.content)
    house.upstream.reset_requests()
    return mine, theirs


def assert_shadowed(house: House, theirs: Stored) -> None:
    """No route of the tenant or the root shows, serves or asks for what the upstream has."""
    for base in ("", "/open", "/open/tools", "/open/gear", "/open/hidden"):
        token = house.owner if base == "/open/hidden" else None
        for asked in ask(house, base, theirs, token):
            assert b"99.0" not in asked.answer.body or asked.answer.status >= 400, str(asked)
            if asked.route in FILES or asked.route == "document of a version":
                assert asked.answer.status in {403, 404, 451}, str(asked)
    assert house.upstream.requests() == []


def test_T_CONF1_a_higher_public_version_of_a_private_name_is_nowhere(
    house: House, attacked: tuple[Stored, Stored]
) -> None:
    assert_shadowed(house, attacked[1])


def upload(house: House, project: str, stored: Stored, user: str, version: str = "1.0") -> Answer:
    """Publish a wheel of a name as a user."""
    filename, content = make_wheel(stored.name, version)
    return house.upload(project, forms.upload(filename, content), token=house.tokens[user])


def shadowed(house: House, name: str) -> tuple[object, object]:
    """What the audit's first upload of a name and the list of claims say of upstreams."""
    listed = house.wire.get(f"/api/v1/audit?name={name}", token=house.owner).json["items"]
    first = [event["detail"] for event in listed if event["action"] == "file.upload"][-1]
    claims = house.wire.get("/api/v1/claims?tenant=open&per_page=100", token=house.owner).json["items"]
    (claim,) = [item for item in claims if item.get("name") == name]
    return first.get("shadows"), claim.get("shadows")


def test_T_CONF2_a_public_name_is_taken_over_by_a_maintainer_alone_and_not_in_silence(house: House) -> None:
    public = house.offer()
    refused = upload(house, "open/tools", public, "dan")
    told = f"{public.name} exists on pypi; a maintainer of open must publish it first"
    assert (refused.status, refused.reason) == (403, told)
    assert told in refused.text
    assert word(house.wire.get(f"/open/simple/{public.name}/")) == "upstream"
    assert upload(house, "open/tools", public, "alice").status == 201
    assert word(house.wire.get(f"/open/simple/{public.name}/")) == "private"
    house.upstream.reset_requests()
    assert upload(house, "open/tools", public, "dan", "1.1").status == 201, "it is claimed now"
    assert house.upstream.requests() == []
    assert shadowed(house, public.name) == ("pypi", "pypi")


def test_T_CONF2_a_name_that_no_upstream_has_is_anybodys(house: House) -> None:
    new = house.wheel(house.name())
    assert upload(house, "open/tools", new, "dan").status == 201
    assert len(house.upstream.asked_for(new.name)) == 1
    assert shadowed(house, new.name) == (None, None)


@pytest.mark.parametrize("project", ["vault/safe", "open/tools"])
def test_T_CONF2_a_name_that_is_reserved_or_not_forwarded_is_asked_of_nobody(
    house: House, project: str
) -> None:
    new = house.wheel(house.name() if project == "vault/safe" else f"open-{house.name()}")
    filename, content = make_wheel(new.name, "1.0")
    assert house.upload(project, forms.upload(filename, content), token=house.owner).status == 201
    assert house.upstream.asked_for(new.name) == []


def test_T_CONF2_where_the_upstream_gives_no_answer_the_audit_says_unchecked(house: House) -> None:
    public = offer_unavailable(house)
    try:
        assert upload(house, "open/tools", public, "dan").status == 201
    finally:
        house.upstream.clear_faults()
    assert shadowed(house, public.name) == ("unchecked", "unchecked")


def test_T_CONF3_nor_after_the_private_file_release_or_package_is_deleted(
    house: House, attacked: tuple[Stored, Stored]
) -> None:
    mine, theirs = attacked
    house.publish("open/tools", mine.name, "1.1")
    house.publish("open/tools", mine.name, "1.2")
    package = f"/api/v1/packages/open%2Ftools/{mine.name}"
    for target in (f"{package}/1.0/{mine.filename}", f"{package}/1.1", package):
        assert house.wire.send("DELETE", target, token=house.owner).status == 204
        assert_shadowed(house, theirs)
    assert word(house.wire.get(f"/open/simple/{mine.name}/")) == "claimed"


def test_T_CONF4_a_file_that_stands_on_no_page_is_not_fetched(house: House) -> None:
    offered = house.offer()
    hidden = house.offer(offered.name, "2.0")
    house.upstream.fault(f"/simple/{offered.name}/", as_project=house.offer().name)
    listed = house.offer()
    house.upstream.reset_requests()
    for stored, filename in (
        # The page is another project's, so nothing of it counts.
        (hidden, hidden.filename),
        # The bytes are there, under another name of the same page and under one of another page.
        (listed, listed.filename.replace("-1.0-", "-1.1-")),
        (listed, offered.filename),
    ):
        for suffix in ("", ".metadata", ".provenance"):
            answer = house.wire.get(f"/open/files/{stored.sha256}/{filename}{suffix}")
            assert answer.status in {404, 502}, filename + suffix
    assert [request.path for request in house.upstream.requests() if "/packages/" in request.path] == []


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"hang": True}, {"drop": True}, {"truncate": 40}], ids=str
)
def test_T_CONF7_an_upstream_in_trouble_leaves_private_names_alone_and_is_no_404(
    house: House, fault: dict[str, object]
) -> None:
    mine, public = house.publish("open/tools"), house.offer()
    house.upstream.fault("/simple/*" + mine.name + "*", **fault)
    house.upstream.fault("/simple/*" + public.name + "*", **fault)
    try:
        for asked in ask(house, "/open", mine):
            assert asked.answer.status in {200, 206} or asked.route == "provenance", str(asked)
        answer = house.wire.get(f"/open/simple/{public.name}/")
        assert answer.status in {502, 503, 504}, answer
        assert 1 <= int(answer["Retry-After"] or 99) <= 5
    finally:
        house.upstream.clear_faults()
