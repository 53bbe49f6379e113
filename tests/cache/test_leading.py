"""In the whole instance one at a time asks an upstream for the same thing; all others take what it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from proxy.cache.pages import Pages
from proxy.domain.names import Name
from proxy.errors import UpstreamError, UpstreamFaulty
from tests.cache.conftest import Rig
from tests.storage.children import Child
from tests.support.wheels import make_wheel

WIDGETS = Name("widgets")
PAGE = "/simple/widgets/"


@pytest.fixture
def published(rig_parts: Rig, rig: Rig) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))


@pytest.fixture
def other(rig: Rig) -> Pages:
    """The pages of another configuration in this process, which are to the rig's as another process is."""
    return rig.another()[0]


async def shown(pages: Pages, name: Name = WIDGETS) -> str:
    """The status of what is shown, or the kind of trouble."""
    try:
        cached = await pages.get("pypi", name)
    except UpstreamError as error:
        return type(error).__name__
    return "absent" if cached is None else cached.status


async def shown_by(*pages: Pages) -> list[str]:
    """`shown` by all at once."""
    return [*await asyncio.gather(*map(shown, pages))]


async def test_a_page_is_fetched_by_one_and_shown_by_all(rig: Rig, other: Pages, published: None) -> None:
    rig.upstream.fault(PAGE, delay=0.1)
    found = await shown_by(*(rig.pages, other) * 5)
    assert rig.asked(PAGE) == 1
    assert set(found) == {
        "fwd=uri-miss; stored",
        "fwd=uri-miss; stored; collapsed",
        "fwd=uri-miss; collapsed",
        "fwd=uri-miss; collapsed; collapsed",
    }


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({}, "absent"),
        ({"status": 500}, "UpstreamFaulty"),
        ({"status": 429, "retry_after": 9}, "UpstreamBusy"),
    ],
    ids=str,
)
async def test_absence_and_trouble_are_learned_once_and_told_to_all(
    rig: Rig, other: Pages, fault: dict[str, Any], expected: str
) -> None:
    rig.upstream.fault(PAGE, delay=0.1, **fault)
    assert await shown_by(rig.pages, other) == [expected] * 2
    assert await shown(other) == expected
    assert rig.asked(PAGE) == 1


async def test_a_stale_page_is_revalidated_once(rig: Rig, other: Pages, published: None) -> None:
    await shown(rig.pages)
    rig.clock.advance(minutes=12)
    rig.upstream.fault(PAGE, delay=0.1)
    stale = "hit; detail=stale-while-revalidate"
    assert await shown_by(rig.pages, other) == [stale] * 2
    await asyncio.gather(*rig.pages._flights.values(), *other._flights.values())
    assert await shown_by(rig.pages, other) == ["hit"] * 2
    assert rig.asked(PAGE) == 2


async def test_a_failing_upstream_is_left_alone_by_all(rig: Rig, other: Pages, published: None) -> None:
    await shown(rig.pages)
    rig.clock.advance(hours=1)
    rig.upstream.fault(PAGE, status=500)
    for pages in (rig.pages, other):
        assert await shown(pages) == "fwd=stale; detail=stale-if-error"
        assert await shown(pages) == "hit; detail=stale-if-error"
    assert rig.asked(PAGE) == 2
    rig.clock.advance(seconds=6)
    await shown(other)
    assert rig.asked(PAGE) == 3


async def test_what_another_fetched_just_before_is_not_asked_for_again(
    rig: Rig, other: Pages, published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pages, "_absent_until", lambda *_: None)
    looking = asyncio.Event()
    look = other._look

    async def look_late(upstream: str, key: Name) -> Any:
        found = await look(upstream, key)
        if not looking.is_set():
            looking.set()
            await shown(rig.pages)
        return found

    monkeypatch.setattr(other, "_look", look_late)
    assert await shown(other) == "fwd=uri-miss; collapsed"
    assert rig.asked(PAGE) == 1


async def test_documents_are_asked_for_once_also_where_there_are_none(rig: Rig, published: None) -> None:
    path = "/pypi/widgets/json"
    rig.upstream.fault(path, delay=0.1)
    others = (rig.documents, rig.another()[1])
    await asyncio.gather(*(documents.get("pypi", WIDGETS) for documents in others))
    assert rig.asked(path) == 1
    absent = "/pypi/widgets/9.9/json"
    rig.upstream.fault(absent, delay=0.1)
    found = await asyncio.gather(*(documents.get("pypi", WIDGETS, "9.9") for documents in others))
    assert found == [None, None]
    assert rig.asked(absent) == 1
    rig.clock.advance(seconds=61)
    assert await others[1].get("pypi", WIDGETS, "9.9") is None
    assert rig.asked(absent) == 2


async def test_a_leader_that_never_ends_does_not_stop_others_for_ever(
    rig: Rig, published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.revalidated._LONGEST_WAIT", rig.clock.time - rig.clock.time)
    assert rig.locks.try_hold("page:pypi/widgets widgets")
    assert await shown(rig.pages) == "fwd=uri-miss; stored"
    rig.locks.release("page:pypi/widgets widgets")


CHILD = """
import asyncio
from proxy.cache.pages import Pages
from proxy.domain.names import Name
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.observe.metrics import Metrics
from proxy.storage.board import Board
from proxy.upstream.client import Upstream

async def main():
    now = lambda: datetime.now(UTC)
    client = Upstream(
        UpstreamSettings("pypi", "INDEX_URL"),
        max_page_size=1 << 20,
        user_agent="pypi-overlay/test",
        metrics=Metrics("0").upstream("pypi"),
        now=now,
    )
    cache = Database(layout.cache_database, locks, name="cache")
    note = lambda *said: asyncio.sleep(0)
    pages = Pages(layout, locks, Board(layout), cache, {"pypi": client}, CacheSettings(), now, note)
    say("ready")
    for name in ("widgets", "gadgets", "gears", "levers"):
        await asyncio.to_thread(input)
        try:
            cached = await pages.get("pypi", Name(name))
            say("absent" if cached is None else cached.status)
        except OverlayError as error:
            say(type(error).__name__)

asyncio.run(main())
"""


@pytest.fixture
def children(rig: Rig) -> Iterator[tuple[Child, Child]]:
    code = CHILD.replace("INDEX_URL", rig.upstream.index_url)
    with ExitStack() as stack:
        first, second = (stack.enter_context(Child(rig.layout.data_dir, code)) for _ in range(2))
        assert first.hear() == second.hear() == "ready"
        yield first, second


def test_processes_ask_once_together_and_another_takes_over_from_the_dead(
    rig: Rig, published: None, children: tuple[Child, Child]
) -> None:
    def both() -> set[str]:
        for child in children:
            child.tell()
        return {child.hear() for child in children}

    rig.upstream.fault("/simple/*", delay=0.2)
    rig.upstream.fault("/simple/gears/", status=500)
    assert both() == {"fwd=uri-miss; stored", "fwd=uri-miss; collapsed"}
    assert both() == {"absent"}
    assert both() == {UpstreamFaulty.__name__}
    assert len(rig.upstream.requests()) == 3

    rig.upstream.add_file("levers", *make_wheel("levers", "1.0"))
    rig.upstream.fault("/simple/levers/", times=1, hang=True)
    first, second = children
    first.tell()
    rig.upstream.await_requests("/simple/levers/")
    second.tell()
    first.kill()
    assert second.hear() == "fwd=uri-miss; stored"
    assert rig.asked("/simple/levers/") == 2
