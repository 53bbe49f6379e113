"""What the index makes of files that upstreams replace, remove and quarantine, and what audit and log say of it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from proxy.cache import held
from proxy.cache.files import metadata_record
from proxy.cache.sightings import first_seen
from proxy.domain.access import OPERATOR
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.index import upkeep
from proxy.index.answers import Borrowed, FileAnswer
from proxy.index.changed import Watch
from proxy.storage.audit import By
from proxy.storage.tables import audit
from tests.index.conftest import House, OpenHouse
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

FILENAME, FIRST = make_wheel("widgets", "1.0")
SECOND = make_wheel("widgets", "1.0", modules={"new.py": "x = 1"})[1]
LATER, LATER_CONTENT = make_wheel("widgets", "2.0")
SHA256, LATER_SHA256 = (hashlib.sha256(content).hexdigest() for content in (FIRST, LATER_CONTENT))
AT_ONCE = {"cache": {"fresh_for": "0s", "stale_while_revalidate": "0s", "not_found_for": "0s"}}


@pytest.fixture
def house(open_house: OpenHouse, upstream: FakeUpstream) -> House:
    """A house that asks its upstream each time."""
    policy = {"groups": {"keeper": {"visibility": "public", "policy": {"removed": "keep"}}}}
    return open_house(base_config(upstream) | AT_ONCE | policy)


def recorded(house: House) -> list[tuple[str, str, str, str]]:
    """Action, kind and name of who did it, and file, of each event of the upstream; the rest is always the same."""
    query = select(audit).where(audit.c.who_kind == "upstream").order_by(audit.c.id)
    rows = house.instance.registry.read_now(lambda connection: connection.execute(query).all())
    for row in rows:
        assert row.name == "widgets"
        assert (row.namespace, row.who_id, row.address, row.request_id) == (None, None, None, None)
        assert isinstance(row.at, datetime)
        assert row.detail["upstream"] == row.who_user == "pypi"
    return [(row.action, row.version, row.filename, row.detail.get("after", "")) for row in rows]


async def test_T_CONF6_a_file_that_its_upstream_replaced_is_recorded_once(
    house: House, upstream: FakeUpstream
) -> None:
    first, second = (hashlib.sha256(content).hexdigest() for content in (FIRST, SECOND))
    for content in (FIRST, SECOND, SECOND, FIRST, SECOND):
        upstream.add_file("widgets", FILENAME, content)
        house.clock.advance(seconds=1)
        digest = hashlib.sha256(content).hexdigest()
        screened = await (await house.page("", "widgets")).screened()
        assert screened.page.files[0].sha256 == digest
        assert (await house.file("", digest, FILENAME)).source is not None
    # There, and back again; what happens once more is known.
    assert recorded(house) == [("changed", "1.0", FILENAME, second), ("changed", "1.0", FILENAME, first)]


async def asked_for(house: House, key: str = SHA256, filename: str = FILENAME, index: str = "") -> FileAnswer:
    """The answer for a file, after the upstream was asked anew."""
    house.clock.advance(seconds=1)
    return await house.file(index, key, filename)


async def fetch(house: House, key: str = SHA256, filename: str = FILENAME) -> FileRecord:
    """Have a file and its metadata in the cache, and return its record."""
    source = (await asked_for(house, key, filename)).source
    assert isinstance(source, Borrowed)
    opened, _ = await house.instance.files.fetch("pypi", source.record, background=True)
    opened.close()
    await house.instance.metadata.read(source)
    return source.record


async def release(house: House, filename: str = FILENAME) -> None:
    by = By(OPERATOR, house.clock())
    free = partial(held.release, upstream="pypi", wanted="widgets", filename=filename, by=by)
    await house.instance.registry.change(free)


async def listed(house: House, index: str = "") -> list[str]:
    house.clock.advance(seconds=1)
    return [file.filename for file in (await (await house.page(index, "widgets")).screened()).page.files]


def publish(upstream: FakeUpstream, **said: Any) -> None:
    upstream.add_file("widgets", FILENAME, FIRST, **said)
    upstream.add_file("widgets", LATER, LATER_CONTENT)


def remove_file(upstream: FakeUpstream) -> None:
    upstream.remove_file("widgets", FILENAME)


def remove_project(upstream: FakeUpstream) -> None:
    upstream.remove_project("widgets")


def quarantine(upstream: FakeUpstream) -> None:
    upstream.change_project("widgets", status="quarantined", status_reason="malware")


@pytest.mark.parametrize(
    ("act", "why", "kept"),
    [
        (remove_file, "removed", [LATER, FILENAME]),
        (remove_project, "removed", [FILENAME]),
        (quarantine, "quarantined", []),
    ],
)
async def test_what_an_upstream_takes_away_and_we_have_is_held_until_it_is_released(
    house: House,
    upstream: FakeUpstream,
    caplog: pytest.LogCaptureFixture,
    act: Any,
    why: str,
    kept: list[str],
) -> None:
    publish(upstream)
    record = await fetch(house)
    assert (recorded(house), caplog.records) == ([], [])
    act(upstream)
    for _ in range(2):
        refused = await asked_for(house)
        assert refused.source is None
        assert refused.withheld is not None
        assert (refused.withheld.is_held, refused.withheld.rule) == (True, why)
        assert why in refused.withheld.reason
        assert "an owner may release" in refused.withheld.reason
    assert FILENAME not in await listed(house)
    assert recorded(house) == [(why, "1.0", FILENAME, "")]
    assert f"pypi {why} files of widgets that the cache has: 1, first of all" in caplog.text
    # Another one, which nobody fetched, is not held; nor are other bytes under that name.
    other = await asked_for(house, LATER_SHA256, LATER)
    assert other.withheld is None or not other.withheld.is_held
    assert (await asked_for(house, "0" * 64)).source is None
    # `removed: keep` is for what was removed; a quarantine is more than that.
    assert sorted(await listed(house, "keeper")) == sorted(kept)

    asked = len(upstream.requests())
    await release(house)
    served = (await asked_for(house)).source
    assert isinstance(served, Borrowed)
    assert served == Borrowed("pypi", record)
    assert FILENAME in await listed(house)
    # From here, and its metadata too: the upstream is asked for the page alone.
    assert house.instance.files.cached(served.record) is not None
    assert (await house.instance.metadata.read(served)).content.startswith(b"Metadata-Version")
    assert {request.path for request in upstream.requests()[asked:]} == {"/simple/widgets/"}


async def test_metadata_of_a_released_wheel_come_from_the_wheel(house: House, upstream: FakeUpstream) -> None:
    publish(upstream)
    record = await fetch(house)
    remove_project(upstream)
    await asked_for(house)
    await release(house)
    assert house.instance.files.purge([metadata_record(record).key]) == 1
    upstream.reset_requests()
    source = (await asked_for(house)).source
    assert isinstance(source, Borrowed)
    assert (await house.instance.metadata.read(source)).content.startswith(b"Metadata-Version")
    assert {request.path for request in upstream.requests()} == {"/simple/widgets/"}


async def test_what_comes_back_is_held_no_more(house: House, upstream: FakeUpstream) -> None:
    publish(upstream)
    await fetch(house)
    remove_project(upstream)
    assert (await asked_for(house)).source is None
    publish(upstream)
    assert (await asked_for(house)).source is not None
    assert house.instance.registry.read_now(held.list_held) == []
    assert [row[0] for row in recorded(house)] == ["removed", "returned"]


async def test_a_file_without_digest_is_held_under_its_address(house: House, upstream: FakeUpstream) -> None:
    upstream.configure(hashes=[])
    publish(upstream)
    (key,) = [
        file.key
        for file in (await (await house.page("", "widgets")).screened()).page.files
        if file.filename == FILENAME
    ]
    assert key.startswith("url-")
    record = await fetch(house, key)
    remove_file(upstream)
    refused = await asked_for(house, key)
    assert refused.withheld is not None
    assert refused.withheld.is_held
    (item,) = house.instance.registry.read_now(held.list_held)
    assert item["sha256"] == SHA256
    await release(house)
    assert house.instance.files.cached(record) is not None
    assert (await asked_for(house, key)).source == Borrowed("pypi", record)


async def test_a_quarantined_page_holds_what_it_lists_also_where_none_was_kept(
    house: House, upstream: FakeUpstream
) -> None:
    publish(upstream)
    record = await fetch(house)
    instance = house.instance
    watch = Watch(instance.registry, instance.files, instance.sightings, house.clock)
    page = Page(Name("widgets"), (record,), status=ProjectStatus(Status.QUARANTINED))
    await watch.note_replaced("pypi", Name("widgets"), None, page)
    (item,) = instance.registry.read_now(held.list_held)
    assert (item["filename"], item["why"]) == (FILENAME, "quarantined")


async def test_a_purge_leaves_held_files_and_says_so(house: House, upstream: FakeUpstream) -> None:
    publish(upstream)
    record = await fetch(house)
    await fetch(house, LATER_SHA256, LATER)
    remove_file(upstream)
    await asked_for(house)
    by = By(OPERATOR, house.instance.now())
    purged = upkeep.purge(house.instance, [Name("widgets")], by)
    assert (purged.pages, purged.held) == (1, 1)
    assert house.instance.files.cached(record) is not None
    assert upkeep.purge(house.instance, None, by).held == 1
    assert house.instance.files.cached(record) is not None
    assert (await asked_for(house)).withheld is not None


async def test_a_held_file_that_is_lost_is_forgotten_when_the_cache_is_repaired(
    house: House, upstream: FakeUpstream
) -> None:
    publish(upstream)
    await fetch(house)
    remove_file(upstream)
    await asked_for(house)
    verify = partial(upkeep.verify, house.instance, progress=None)
    assert verify(repair=False).lost == ()
    Path(house.instance.layout.cached_file(SHA256)).write_bytes(b"spoilt")
    assert verify(repair=False).lost == (SHA256,)
    assert (await asked_for(house)).withheld is not None
    assert verify(repair=True).lost == (SHA256,)
    answer = await asked_for(house)
    assert (answer.source, answer.withheld) == (None, None)
    assert verify(repair=False).lost == ()


async def test_files_without_upload_time_are_seen_when_their_page_is_filled(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("widgets", FILENAME, FIRST, upload_time=None)
    await house.page("", "widgets")
    first = house.clock()
    house.clock.advance(days=1)
    upstream.add_file("widgets", LATER, LATER_CONTENT, upload_time=None)
    await house.page("", "widgets")
    await house.instance.sightings.close()
    seen = house.instance.registry.read_now(partial(first_seen, upstream="pypi", name=Name("widgets")))
    assert seen == {SHA256: first, LATER_SHA256: house.clock()}
