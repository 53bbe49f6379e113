"""`+simple`: what a project itself has published, for clients that look before they upload (hatch)."""

from __future__ import annotations

import html
import re
from urllib.parse import urljoin

import pytest

from tests.web.house import House, spellings
from tests.web.wire import JSON, Answer

PROJECT = "open/tools"
LINK = re.compile(r"<a [^>]+>([^<]+)</a>")
"""The expression with which hatch reads the page."""


def look(house: House, base: str, name: str, **options: object) -> Answer:
    return house.wire.get(f"{base}/%2Bsimple/{name}/", headers={"Accept": "*/*"}, **options)


def links(answer: Answer) -> list[str]:
    return [html.unescape(href) for href in re.findall(r'<a href="([^"]*)"', answer.text)]


@pytest.mark.parametrize("plus", ["+", "%2B", "%2b"])
@pytest.mark.parametrize("base", [*spellings(PROJECT), "/legacy"])
def test_own_files_are_listed_and_their_links_lead_to_them(house: House, base: str, plus: str) -> None:
    stored = house.publish("default" if base == "/legacy" else PROJECT)
    target = f"{base}/{plus}simple/{stored.name}/"
    answer = house.wire.get(target, headers={"Accept": "*/*", "Cache-Control": "no-cache"})
    assert (answer.status, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert LINK.findall(answer.text) == [stored.filename]
    assert answer["X-Overlay-Decision"] == "private"
    assert answer["Cache-Control"] == "private, max-age=0, must-revalidate"
    (href,) = links(answer)
    assert not href.startswith(("/", "http"))
    file = house.wire.get(urljoin(target, href).partition("#")[0])
    assert (file.status, file.body) == (200, stored.content)


@pytest.mark.parametrize("accept", [JSON, "application/json", "text/html"])
def test_it_is_html_whatever_is_asked_for(house: House, accept: str) -> None:
    stored = house.publish(PROJECT)
    target = f"/{PROJECT}/+simple/{stored.name}/?format={JSON.replace('+', '%2B')}"
    answer = house.wire.get(target, headers={"Accept": accept})
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    again = house.wire.get(target, headers={"If-None-Match": str(answer["ETag"])})
    assert again.status == 304
    head = house.wire.head(target)
    assert (head.status, head["ETag"], head.body) == (200, answer["ETag"], b"")


def test_only_the_project_s_own_files_count_and_no_upstream_is_asked(house: House) -> None:
    offered, elsewhere, unknown = house.offer(), house.publish("open/gear"), house.name()
    house.upstream.reset_requests()
    for name in (offered.name, elsewhere.name, unknown, "evil-x", "open-x", "acme-x"):
        answer = look(house, f"/{PROJECT}", name, token=house.owner)
        assert (answer.status, answer.reason) == (404, f"open/tools has no files of {name}")
        assert house.upstream.asked_for(name) == []


def test_a_deleted_package_is_gone_and_a_new_upload_seen_at_once(house: House) -> None:
    stored = house.publish(PROJECT)
    newer = house.publish(PROJECT, stored.name, "2.0")
    assert LINK.findall(look(house, f"/{PROJECT}", stored.name).text) == [stored.filename, newer.filename]
    house.delete(PROJECT, stored.name)
    assert look(house, f"/{PROJECT}", stored.name).status == 404


@pytest.mark.parametrize("base", ["/open", "", "/api/v4/groups/8/-/packages/pypi", "/acme"])
def test_a_group_has_no_files_of_its_own(house: House, base: str) -> None:
    stored = house.publish(PROJECT)
    assert look(house, base, stored.name, token=house.owner).status == 404
    assert look(house, "/open/nowhere", stored.name, token=house.owner).status == 404


def test_who_may_not_read_the_project_gets_no_other_answer_than_at_its_page(house: House) -> None:
    stored = house.publish("acme/sandbox")
    for name in (stored.name, "never-heard-of"):
        for user in (None, "dan", "otto"):
            token = house.tokens[user] if user else None
            page = house.wire.get(f"/acme/sandbox/simple/{name}/", token=token)
            own = look(house, "/acme/sandbox", name, token=token)
            assert (own.status, own.reason) == (page.status, page.reason)
            assert own.status == (404 if user else 401)
    assert look(house, "/acme/sandbox", stored.name, token=house.tokens["rita"]).status == 200
    assert look(house, "/acme/sandbox", stored.name, token="pyo_pat_nonsense").status == 401


@pytest.mark.parametrize("base", [f"/{PROJECT}", "/api/v4/projects/44/packages/pypi", "/legacy"])
def test_slash_and_spelling_redirect_as_pages_do(house: House, base: str) -> None:
    name = house.publish("default" if base == "/legacy" else PROJECT).name
    for asked in (name, name.upper(), f"{name.upper()}/"):
        target = f"{base}/+simple/{asked}"
        answer = house.wire.get(target)
        assert answer.status == 301
        assert urljoin(target, str(answer["Location"])) == f"{base}/+simple/{name}/"


@pytest.mark.parametrize("raw", ["-x-", "a%20b", "%E2%84%AAivy", "a%00b", "..%2fx", "x%0d%0aSet-Cookie:a"])
def test_what_is_no_name_is_404(house: House, raw: str) -> None:
    answer = house.wire.get(f"/{PROJECT}/+simple/{raw}/")
    assert answer.status == 404
    assert answer["Set-Cookie"] is None


def test_it_takes_no_uploads(house: House) -> None:
    answer = house.wire.send("POST", f"/{PROJECT}/+simple/x/", token=house.owner)
    assert (answer.status, answer["Allow"]) == (405, "GET, HEAD")
    assert "publish to /open/tools/" in answer.reason
    assert house.wire.send("POST", "/legacy/+simple/x/", token=house.owner).status == 405
