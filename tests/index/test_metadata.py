"""Core metadata of upstream wheels: from beside the wheel, out of it, or from parts of it, and never wrong."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from proxy.cache.files import CachedFile
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord
from proxy.errors import (
    ContentMismatch,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.index.answers import Borrowed
from proxy.index.metadata import CoreMetadata
from proxy.server.assembly import close_instance
from tests.cache.conftest import follow
from tests.index.conftest import House, OpenHouse
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream, UpstreamRequest
from tests.support.wheels import make_wheel

FILENAME = "widgets-1.0-py3-none-any.whl"
BESIDE = f"/packages/*{FILENAME}.metadata"
WHEEL = f"/packages/*{FILENAME}"
SIZE = 400_000
CONTENT = make_wheel("widgets", "1.0", size=SIZE, requires=["gadgets"])[1]
OTHER = make_wheel("widgets", "1.0", size=SIZE, requires=["sprockets"])[1]
NO_METADATA = {"core_metadata": False}


def metadata_in(wheel: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return archive.read("widgets-1.0.dist-info/METADATA")


METADATA = metadata_in(CONTENT)


class Finder:
    """Core metadata of `FILENAME` as one instance finds them, and what that made it ask."""

    def __init__(self, house: House, upstream: FakeUpstream) -> None:
        self.house = house
        self.upstream = upstream
        self.clock = house.clock

    async def source(self) -> Borrowed:
        answer = await self.house.page("", "widgets")
        (record,) = (await answer.screened()).page.files
        return Borrowed("pypi", record)

    async def read(self) -> CoreMetadata:
        return await self.house.instance.metadata.read(await self.source())

    async def kept(self) -> CachedFile | None:
        return self.house.instance.metadata.kept(await self.source())

    async def fill(self) -> None:
        """Bring the wheel into the cache."""
        files = self.house.instance.files
        await follow(files.join("pypi", (await self.source()).record))
        await asyncio.gather(*files._leaders)

    def asked(self) -> list[UpstreamRequest]:
        return [request for request in self.upstream.requests() if "/packages/" in request.path]

    def ranges(self) -> list[str | None]:
        return [request.header("Range") for request in self.asked() if request.path.endswith(".whl")]


@pytest.fixture
def config(upstream: FakeUpstream) -> dict[str, Any]:
    """A configuration under which every page is asked for each time."""
    cache = {"fresh_for": "0s", "stale_while_revalidate": "0s", "not_found_for": "0s"}
    return base_config(upstream, read_timeout="1s", connect_timeout="1s") | {"cache": cache}


@pytest.fixture
def finder(open_house: OpenHouse, upstream: FakeUpstream, config: dict[str, Any]) -> Finder:
    return Finder(open_house(config), upstream)


@pytest.fixture
def offer(upstream: FakeUpstream) -> Callable[..., None]:
    """Give a function that lets the upstream have the wheel; `about` is what its page says of it."""

    def offered(content: bytes = CONTENT, *, project: dict[str, Any] | None = None, **about: Any) -> None:
        upstream.add_project("widgets", **(project or {}))
        upstream.add_file("widgets", FILENAME, content, **about)

    return offered


# What the upstream advertises


@pytest.mark.parametrize("about", [{}, {"core_metadata": "bare"}], ids=["with digest", "without"])
async def test_advertised_metadata_are_fetched_once_and_kept_over_a_restart(
    finder: Finder, offer: Callable[..., None], open_house: OpenHouse, config: dict[str, Any], about: Any
) -> None:
    offer(**about)
    first, *others = await asyncio.gather(*(finder.read() for _ in range(20)))
    assert (first.content, first.status) == (METADATA, "fwd=uri-miss; stored")
    assert {other.sha256 for other in others} == {hashlib.sha256(METADATA).hexdigest()}
    assert [request.path.endswith(".whl.metadata") for request in finder.asked()] == [True]
    source = await finder.source()
    await close_instance(finder.house.instance)
    again = open_house(config).instance.metadata
    finder.upstream.stop()
    try:
        kept = again.kept(source)
        assert kept is not None
        assert Path(kept.path).read_bytes() == METADATA
        assert (await again.read(source)).status == "hit"
    finally:
        finder.upstream.start()


@pytest.mark.parametrize(
    ("about", "fault"),
    [
        ({}, {"status": 404}),
        ({}, {"status": 500}),
        ({}, {"status": 503}),
        ({}, {"drop": True}),
        ({"core_metadata": "bare"}, {"status": 404}),
        ({"core_metadata": "bare"}, {"html_error": True}),
    ],
    ids=["gone", "error", "busy", "broken off", "no digest and gone", "no digest and an error page"],
)
async def test_what_is_advertised_but_of_no_use_is_taken_from_parts_of_the_wheel(
    finder: Finder, offer: Callable[..., None], about: dict[str, Any], fault: dict[str, Any]
) -> None:
    offer(**about)
    finder.upstream.fault(BESIDE, **fault)
    assert (await finder.read()).content == METADATA
    assert None not in finder.ranges()
    asked = len(finder.asked())
    assert (await finder.read()).status == "hit"
    assert len(finder.asked()) == asked


async def test_metadata_without_the_digest_that_the_page_names_are_never_served(
    finder: Finder, offer: Callable[..., None]
) -> None:
    offer(metadata_sha256="1" * 64)
    for _ in range(2):
        with pytest.raises(ContentMismatch, match="sha256"):
            await finder.read()
    await finder.fill()
    asked = len(finder.asked())
    with pytest.raises(ContentMismatch):
        await finder.read()
    assert (len(finder.asked()), await finder.kept()) == (asked, None)
    # The wheel, verified, has other metadata too.
    finder.clock.advance(seconds=11)
    with pytest.raises(ContentMismatch):
        await finder.read()
    assert len(finder.asked()) > asked


@pytest.mark.parametrize(
    ("about", "fault", "expected"),
    [
        ({}, {"status": 503}, UpstreamBusy),
        (NO_METADATA, {"status": 429}, UpstreamBusy),
        ({}, {"hang": True}, UpstreamTimeout),
        ({}, {"drop": True}, UpstreamUnreachable),
        (NO_METADATA, {"truncate": 20}, UpstreamUnreachable),
    ],
    ids=["503", "429 of a range", "hang", "drop", "truncated range"],
)
async def test_trouble_of_the_moment_is_told_and_not_remembered(
    finder: Finder,
    offer: Callable[..., None],
    about: dict[str, Any],
    fault: dict[str, Any],
    expected: type[UpstreamError],
) -> None:
    offer(**about)
    finder.upstream.fault("/packages/*", **fault)
    with pytest.raises(expected):
        await finder.read()
    finder.upstream.clear_faults()
    assert (await finder.read()).content == METADATA


# Out of the wheel that is here


@pytest.mark.parametrize(
    "about", [{}, {"core_metadata": "bare"}, NO_METADATA], ids=["digest", "bare", "none"]
)
async def test_a_cached_wheel_gives_its_metadata_without_its_upstream(
    finder: Finder, offer: Callable[..., None], about: dict[str, Any]
) -> None:
    offer(**about)
    source = await finder.source()
    await finder.fill()
    finder.upstream.stop()
    try:
        found = await finder.house.instance.metadata.read(source)
        assert (found.content, found.status) == (METADATA, "hit")
        assert finder.house.instance.metadata.kept(source) is not None
    finally:
        finder.upstream.start()


@pytest.mark.parametrize("hashes", [["sha256"], []], ids=["with digest", "without"])
async def test_the_verified_wheel_counts_more_than_what_was_read_in_parts(
    finder: Finder, offer: Callable[..., None], hashes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    offer(project={"form": "html", "hashes": hashes}, **NO_METADATA)
    finder.upstream.add_file("other", FILENAME, OTHER)
    blake = hashlib.blake2b(OTHER, digest_size=32).hexdigest()
    elsewhere = f"{finder.upstream.url}/packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{FILENAME}"
    source = await finder.source()
    path = source.record.url.removeprefix(finder.upstream.url)
    finder.upstream.fault(path, redirect=elsewhere)
    assert b"sprockets" in (await finder.read()).content
    assert (await finder.read()).status == "hit"
    finder.upstream.clear_faults()
    await finder.fill()
    assert (await finder.read()).content == METADATA
    assert "not those of the wheel" in caplog.text
    kept = await finder.kept()
    assert kept is not None
    assert kept.sha256 == hashlib.sha256(METADATA).hexdigest()
    # Nor do the others come back when the wheel is gone.
    wheel = finder.house.instance.files.cached(source.record)
    assert wheel is not None
    Path(wheel.path).unlink()
    assert (await finder.read()).content == METADATA


async def test_another_wheel_at_the_same_address_has_other_metadata(
    finder: Finder, offer: Callable[..., None]
) -> None:
    offer(**NO_METADATA)
    assert (await finder.read()).content == METADATA
    record = (await finder.source()).record
    finder.upstream.add_file("widgets", FILENAME, OTHER, url=record.url, **NO_METADATA)
    changed = (await finder.source()).record
    assert (changed.url, changed.sha256 == record.sha256) == (record.url, False)
    assert await finder.kept() is None


# From parts of the wheel, or the whole


@pytest.mark.parametrize("project", [{}, {"form": "html", "hashes": []}], ids=["JSON", "HTML"])
async def test_few_ranges_of_a_wheel_give_its_metadata(
    finder: Finder, offer: Callable[..., None], project: dict[str, Any]
) -> None:
    offer(project=project, **NO_METADATA)
    found = await asyncio.gather(*(finder.read() for _ in range(20)))
    assert {one.content for one in found} == {METADATA}
    assert len(finder.ranges()) == 2
    assert None not in finder.ranges()
    assert await finder.kept() is not None


@pytest.mark.parametrize(
    "fault",
    [
        {"ignore_range": True},
        {"status": 501, "nth": 1},
    ],
    ids=["200", "501"],
)
async def test_a_wheel_without_ranges_is_fetched_whole_once_for_all_who_wait(
    finder: Finder, offer: Callable[..., None], fault: dict[str, Any]
) -> None:
    offer(project={"form": "html"}, **NO_METADATA)
    finder.upstream.fault(WHEEL, **fault)
    found = await asyncio.gather(*(finder.read() for _ in range(20)))
    assert {one.content for one in found} == {METADATA}
    assert finder.ranges() == ["bytes=0-3", None]
    await asyncio.gather(*finder.house.instance.files._leaders)
    source = await finder.source()
    assert finder.house.instance.files.cached(source.record) is not None


def repacked(**members: bytes | None) -> bytes:
    """The wheel with members of its dist-info replaced, or left out."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(CONTENT)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = members.get(name.rpartition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (repacked(METADATA=None), "no METADATA"),
        (repacked(METADATA=METADATA.replace(b"Name: widgets", b"Name: gadgets")), "gadgets"),
        (b"", "does not begin"),
    ],
    ids=["no METADATA", "another name", "empty"],
)
async def test_a_wheel_without_usable_metadata_is_an_upstreams_fault(
    finder: Finder, offer: Callable[..., None], content: bytes, message: str
) -> None:
    offer(content, **NO_METADATA)
    with pytest.raises(UpstreamFaulty, match=message):
        await finder.read()
    asked = len(finder.asked())
    with pytest.raises(UpstreamFaulty, match=message):
        await finder.read()
    assert len(finder.asked()) == asked
    await finder.fill()
    finder.clock.advance(seconds=11)
    with pytest.raises(UpstreamFaulty, match=message):
        await finder.read()
    assert len(finder.asked()) == asked + 1  # the wheel itself


async def test_a_damaged_wheel_does_not_hide_what_its_upstream_says_beside_it(
    finder: Finder, offer: Callable[..., None]
) -> None:
    damaged = repacked(WHEEL=b"x" * 70_000) + b"trailing"
    offer(damaged, core_metadata="bare")
    await finder.fill()
    for status in ("fwd=uri-miss; stored", "hit"):
        found = await finder.read()
        assert (found.content, found.status) == (METADATA, status)


async def test_a_file_that_is_no_wheel_has_only_what_its_upstream_serves(finder: Finder) -> None:
    url = f"{finder.upstream.url}/packages/widgets-1.0.tar.gz"
    source = Borrowed("pypi", FileRecord("widgets-1.0.tar.gz", "1" * 64, url, core_metadata=True))
    with pytest.raises(UpstreamFaulty, match="gone"):
        await finder.house.instance.metadata.read(source)
    assert [request.path for request in finder.asked()] == ["/packages/widgets-1.0.tar.gz.metadata"]


# Keeping


@pytest.mark.parametrize("is_cached", [False, True])
async def test_a_purge_drops_metadata_from_wherever_they_came(
    finder: Finder, offer: Callable[..., None], is_cached: bool
) -> None:
    offer(project={"hashes": []}, **NO_METADATA)
    if is_cached:
        await finder.fill()
    await finder.read()
    finder.upstream.change_project("widgets", hashes=["sha256"])
    instance = finder.house.instance
    assert (await finder.kept() is not None) == is_cached
    if not is_cached:
        await finder.read()
    instance.files.purge(instance.pages.keys_of(Name("widgets")))
    assert await finder.kept() is None


async def test_metadata_that_cannot_be_kept_are_served_all_the_same(
    finder: Finder, offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    offer()

    def full(path: str, content: bytes) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("proxy.cache.files.write_whole", full)
    found = await finder.read()
    assert (found.content, found.kept, found.status) == (METADATA, None, "fwd=uri-miss")
    assert await finder.kept() is None


async def test_a_reader_that_leaves_does_not_stop_the_search(
    finder: Finder, offer: Callable[..., None]
) -> None:
    offer()
    finder.upstream.fault(BESIDE, delay=0.3)
    source = await finder.source()
    reader = asyncio.create_task(finder.house.instance.metadata.read(source))
    await asyncio.to_thread(finder.upstream.await_requests, ".metadata")
    reader.cancel()
    await asyncio.wait((reader,))
    assert (await finder.read()).content == METADATA
    assert len(finder.asked()) == 1
