"""What goes to an upstream and what it costs (protocol 1.6, 4.3, 6.2; T-BOMB, T-DOS, T-SSRF2, T-YANK)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.waiting import wait_until
from tests.web import forms
from tests.web.house import House, keep_house
from tests.web.wire import JSON

ORDERS = [
    {"Cache-Control": "no-cache", "Pragma": "no-cache"},
    {"Cache-Control": "max-age=0"},
    {"Cache-Control": "no-store, max-age=0, max-stale=0"},
    {"If-None-Match": '"of-ours"', "If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
    {"Accept": "text/html", "Accept-Encoding": "zstd", "Accept-Language": "de", "User-Agent": "pip/26.3"},
    {"Via": "1.1 front", "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "TE": "trailers"},
]


@pytest.mark.parametrize("orders", ORDERS, ids=", ".join)
def test_no_order_of_a_client_reaches_an_upstream_or_costs_it_a_request(
    house: House, orders: dict[str, str]
) -> None:
    """Every pip up to 26.1 sends `max-age=0`, and hatch and uv's checks `no-cache` (protocol 4.3)."""
    stored = house.offer()
    page = f"/open/simple/{stored.name}/"
    file = f"/open/files/{stored.sha256}/{stored.filename}"
    for target in (page, file, f"{file}.metadata", page, file, f"{file}.metadata"):
        answer = house.wire.get(target, headers=orders)
        assert answer.status == 200
    asked = house.upstream.asked_for(stored.name)
    assert sorted(request.path for request in asked) == sorted({request.path for request in asked})
    for request in asked:
        for name, value in orders.items():
            assert request.header(name) != value, name
        assert request.header("If-None-Match") is None


def test_an_upstream_is_asked_in_the_same_words_whoever_asks(house: House) -> None:
    stored = house.offer()
    house.wire.get(f"/open/simple/{stored.name}/", headers={"Accept": "text/html", "Range": "bytes=0-9"})
    file = f"/open/files/{stored.sha256}/{stored.filename}"
    part = house.wire.get(file, headers={"Range": "bytes=-10", "Accept-Encoding": "gzip"})
    assert (part.status, part.body) == (206, stored.content[-10:])
    page, fetched = house.upstream.asked_for(stored.name)
    assert (page.header("Accept") or "").startswith(JSON)
    assert page.header("Accept-Encoding") == "gzip"
    # Files are never encoded, and never revalidated: PyPI's edge has no 304 for them.
    assert fetched.header("Accept-Encoding") == "identity"
    for header in ("Range", "If-Range", "If-None-Match", "If-Modified-Since", "Authorization"):
        assert page.header(header) is None
        assert fetched.header(header) is None
    assert "pypi-overlay" in (page.header("User-Agent") or "")


def test_T_BOMB_a_file_that_never_ends_is_broken_off_behind_its_size(house: House) -> None:
    stored = house.offer(size=300_000)
    # Slow enough that a server which reads on would not fill the disk before the test gives up.
    house.upstream.fault(f"/packages/*{stored.filename}", endless=True, rate=20_000_000)
    answer = house.wire.get(f"/open/files/{stored.sha256}/{stored.filename}")
    assert not answer.whole
    assert len(answer.body) < len(stored.content)
    begun = house.server.data_dir / "cache" / "partial"
    wait_until(lambda: not list(begun.glob(f"{stored.sha256}*")), what="the partial file to go")
    assert not list(house.server.data_dir.glob(f"cache/files/*/{stored.sha256}"))
    house.upstream.clear_faults()


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "identity, gzip"])
def test_T_BOMB_an_encoded_file_is_not_unpacked_and_not_served(house: House, coding: str) -> None:
    stored = house.offer()
    house.upstream.fault(f"/packages/*{stored.filename}", headers={"Content-Encoding": coding})
    answer = house.wire.get(f"/open/files/{stored.sha256}/{stored.filename}")
    house.upstream.clear_faults()
    assert answer.status == 502


def test_T_DOS_many_ranges_cost_no_more_than_the_file(house: House) -> None:
    stored = house.publish("open/tools", size=100_000)
    target = f"/open/files/{stored.sha256}/{stored.filename}"
    for ranges in (",".join(["0-"] * 500), ",".join(f"{n}-{n}" for n in range(1000)), "0-," * 200 + "0-"):
        answer = house.wire.get(target, headers={"Range": f"bytes={ranges}"})
        assert answer.status in {200, 416}
        assert len(answer.body) <= len(stored.content)


def test_T_SSRF2_no_address_in_a_form_or_in_metadata_is_ever_asked(house: House) -> None:
    house.upstream.reset_requests()
    trap = f"{house.upstream.url}/trap"
    fields = [("Home-page", trap), ("Project-URL", f"Docs, {trap}"), ("Download-URL", trap)]
    stored = house.wheel(house.name(), fields=fields)
    links = [forms.text("home_page", trap), forms.text("project_urls", f"Docs, {trap}")]
    links += [forms.text("download_url", trap), forms.text("description", f"![x]({trap})")]
    form = [
        *forms.fields(stored.filename, stored.content),
        *links,
        forms.file(stored.filename, stored.content),
    ]
    assert house.upload("open/tools", forms.encode(form), token=house.owner).status == 201
    for target in (f"simple/{stored.name}/", f"pypi/{stored.name}/json", f"pypi/{stored.name}/1.0/json"):
        assert house.wire.get(f"/open/{target}").status == 200
    # Before its first publication the name was nobody's.
    assert [request.path for request in house.upstream.requests()] == [f"/simple/{stored.name}/"]


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house that revalidates each page at each request, and shows no stale one."""
    cache = dict.fromkeys(("fresh_for", "not_found_for", "stale_while_revalidate", "stale_if_error"), "0s")
    yield from keep_house(tmp_path_factory.mktemp("forgetful"), cache=cache)


def test_T_YANK_a_yank_its_end_and_a_quarantine_are_seen_once_the_page_is_not_fresh(forgetful: House) -> None:
    stored = forgetful.offer()
    target = f"/open/simple/{stored.name}/"
    file = f"/open/files/{stored.sha256}/{stored.filename}"
    assert forgetful.wire.get(file).status == 200

    def shown() -> object:
        (listed,) = forgetful.wire.get(target, headers={"Accept": JSON}).json["files"]
        return listed.get("yanked", False)

    assert shown() is False
    for yanked in ("broken & gone", True, False):
        forgetful.upstream.add_file(stored.name, stored.filename, stored.content, yanked=yanked)
        assert shown() == yanked
        assert forgetful.wire.get(file).status == 200, "what is yanked stays served"
    forgetful.upstream.change_project(stored.name, status="quarantined")
    page = forgetful.wire.get(target, headers={"Accept": JSON}).json
    assert (page["files"], page["project-status"]["status"]) == ([], "quarantined")
    assert forgetful.wire.get(file).status == 403, "also what is in the cache"


def test_T_YANK_an_upstream_that_hides_behind_trouble_does_not_keep_an_old_page_alive(
    forgetful: House,
) -> None:
    stored = forgetful.offer()
    target = f"/open/simple/{stored.name}/"
    assert forgetful.wire.get(target).status == 200
    forgetful.upstream.fault(f"/simple/{stored.name}/", status=500)
    assert forgetful.wire.get(target).status == 502
    assert forgetful.wire.get(f"/open/files/{stored.sha256}/{stored.filename}").status == 502
    forgetful.upstream.clear_faults()
