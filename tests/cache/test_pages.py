"""The page cache: how often the upstream is asked, and what is shown when it fails."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.cache import revalidated
from proxy.cache.revalidated import _Values
from proxy.domain.names import Name
from proxy.domain.pages import ChangedFile, Page, url_key
from proxy.errors import StoreUnavailable, UpstreamBusy, UpstreamError, UpstreamFaulty, UpstreamUnreachable
from proxy.storage.board import EVERYTHING_BORROWED, page_topic
from tests.cache.conftest import Rig
from tests.support.wheels import make_wheel

WIDGETS = Name("widgets")
PAGE = "/simple/widgets/"


@pytest.fixture(autouse=True)
def published(rig: Rig) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))


async def versions(rig: Rig, name: Name = WIDGETS) -> tuple[str, ...] | None:
    cached = await rig.pages.get("pypi", name)
    return None if cached is None else cached.value.versions


async def status(rig: Rig) -> str:
    cached = await rig.pages.get("pypi", WIDGETS)
    assert cached is not None
    return cached.status


async def test_a_fresh_page_is_asked_for_once_also_over_a_restart(rig: Rig) -> None:
    assert await status(rig) == "fwd=uri-miss; stored"
    assert await status(rig) == "hit"
    await rig.reopen()
    rig.clock.advance(minutes=9)
    assert await status(rig) == "hit"
    assert await versions(rig) == ("1.0",)
    assert rig.asked(PAGE) == 1


async def test_fifty_callers_cause_one_request(rig: Rig) -> None:
    rig.upstream.fault(PAGE, delay=0.1)
    shown = await asyncio.gather(*(rig.pages.get("pypi", WIDGETS) for _ in range(50)))
    statuses = sorted(cached.status for cached in shown if cached is not None)
    assert statuses == ["fwd=uri-miss; stored", *["fwd=uri-miss; stored; collapsed"] * 49]
    assert rig.asked(PAGE) == 1


async def test_a_cancelled_caller_does_not_cancel_the_fetch(rig: Rig) -> None:
    rig.upstream.fault(PAGE, delay=0.2)
    first = asyncio.create_task(rig.pages.get("pypi", WIDGETS))
    await asyncio.to_thread(rig.upstream.await_requests, PAGE)
    second = asyncio.create_task(rig.pages.get("pypi", WIDGETS))
    first.cancel()
    assert await second is not None
    assert rig.asked(PAGE) == 1


async def test_a_stale_page_is_shown_at_once_and_revalidated_behind(rig: Rig) -> None:
    first = await rig.pages.get("pypi", WIDGETS)
    assert first is not None
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(minutes=12)
    stale = await rig.pages.get("pypi", WIDGETS)
    assert stale is not None
    assert (stale.status, stale.token) == ("hit; detail=stale-while-revalidate", first.token)

    await asyncio.gather(*rig.pages._flights.values())
    assert await status(rig) == "hit"
    assert await versions(rig) == ("1.0", "2.0")
    assert rig.asked(PAGE) == 2
    renewed = await rig.pages.get("pypi", WIDGETS)
    assert renewed is not None
    assert renewed.token != first.token


async def test_an_older_page_is_revalidated_by_its_validator(rig: Rig) -> None:
    first = await rig.pages.get("pypi", WIDGETS)
    rig.clock.advance(hours=1)
    again = await rig.pages.get("pypi", WIDGETS)
    assert first is not None
    assert again is not None
    assert again.status == "fwd=stale; fwd-status=304; stored"
    assert again.stored_at == rig.clock.time
    assert again.token == first.token
    assert rig.upstream.requests()[-1].header("If-None-Match") is not None
    await rig.reopen()
    assert await status(rig) == "hit"
    assert rig.asked(PAGE) == 2


async def test_an_older_page_that_changed_is_replaced(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(hours=1)
    assert await status(rig) == "fwd=stale; fwd-status=200; stored"
    assert await versions(rig) == ("1.0", "2.0")


async def test_T_CONF6_files_that_a_newer_page_names_with_another_digest_are_told(rig: Rig) -> None:
    filename, content = make_wheel("widgets", "1.0")
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(hours=1)
    assert await versions(rig) == ("1.0", "2.0")
    assert rig.changed == []
    other = make_wheel("widgets", "1.0", modules={"new.py": "x = 1"})[1]
    rig.upstream.add_file("widgets", filename, other)
    rig.clock.advance(hours=1)
    assert await status(rig) == "fwd=stale; fwd-status=200; stored"
    before, after = (hashlib.sha256(one).hexdigest() for one in (content, other))
    assert rig.changed == [("pypi", WIDGETS, ChangedFile(filename, "1.0", before, after))]
    rig.clock.advance(hours=1)
    assert await status(rig) == "fwd=stale; fwd-status=304; stored"
    assert len(rig.changed) == 1


async def test_a_file_whose_digest_becomes_known_has_not_changed(rig: Rig) -> None:
    rig.upstream.configure(hashes=[])
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.configure(hashes=["sha256"])
    rig.clock.advance(hours=1)
    assert await status(rig) == "fwd=stale; fwd-status=200; stored"
    assert rig.changed == []


async def test_what_cannot_be_recorded_is_shown_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StoreUnavailable("the registry database is busy")

    monkeypatch.setattr(rig.pages, "_note", fail)
    await rig.pages.get("pypi", WIDGETS)
    name, content = make_wheel("widgets", "1.0", modules={"new.py": "x = 1"})
    rig.upstream.add_file("widgets", name, content)
    rig.clock.advance(hours=1)
    cached = await rig.pages.get("pypi", WIDGETS)
    assert cached is not None
    assert cached.value.files[0].sha256 == hashlib.sha256(content).hexdigest()
    rig.upstream.remove_project("widgets")
    rig.clock.advance(hours=1)
    assert await versions(rig) is None
    # What is kept is the page before, so that what became of its files is found out when it can be recorded.
    monkeypatch.undo()
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    assert await versions(rig) == ("2.0",)
    assert rig.replaced == [(("1.0",), ("2.0",))]


async def test_what_takes_the_place_of_a_page_is_told_once_and_before_it_does(rig: Rig) -> None:
    path = Path(rig.layout.cached_page("pypi", WIDGETS))
    await rig.pages.get("pypi", WIDGETS)
    had_second: list[bool] = []
    note = rig.note_replaced

    async def look(upstream: str, name: Name, before: Page | None, after: Page | None) -> None:
        had_second.append(b"widgets-2.0" in path.read_bytes())
        await note(upstream, name, before, after)

    rig.pages._note = look
    rig.clock.advance(hours=1)
    await rig.pages.get("pypi", WIDGETS)  # a 304
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(hours=1)
    assert await versions(rig) == ("1.0", "2.0")
    rig.upstream.remove_project("widgets")
    rig.clock.advance(hours=1)
    assert await versions(rig) is None
    assert await versions(rig) is None
    assert had_second == [False, True]
    assert rig.replaced == [(None, ("1.0",)), (("1.0",), ("1.0", "2.0")), (("1.0", "2.0"), None)]


async def test_a_page_too_old_to_be_shown_is_compared_with_the_next(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(days=100)
    assert await versions(rig) == ("1.0", "2.0")
    assert rig.replaced[1:] == [(("1.0",), ("1.0", "2.0"))]


@pytest.mark.parametrize("hashes", [["sha256"], []])
async def test_a_page_is_needed_for_as_long_as_a_file_that_it_lists_is_here(
    rig: Rig, hashes: list[str]
) -> None:
    rig.upstream.configure(hashes=hashes)
    cached = await rig.pages.get("pypi", WIDGETS)
    assert cached is not None
    path = rig.layout.cached_page("pypi", WIDGETS)
    assert not rig.pages.is_needed(path)
    await rig.fetch(cached.value.files[0])
    await rig.settle()
    assert rig.pages.is_needed(path)
    assert not rig.pages.is_needed(path + "-gone")
    rig.files.purge(None)
    assert not rig.pages.is_needed(path)


async def test_the_upstreams_shorter_max_age_counts(rig: Rig) -> None:
    rig.upstream.configure(max_age=60)
    await rig.pages.get("pypi", WIDGETS)
    rig.clock.advance(seconds=61)
    assert await status(rig) == "hit; detail=stale-while-revalidate"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 403},
        {"html_error": True},
        {"drop": True},
    ],
)
async def test_while_the_upstream_fails_the_old_page_is_shown(rig: Rig, fault: dict[str, Any]) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.fault(PAGE, **fault)
    rig.clock.advance(days=29)
    assert await status(rig) == "fwd=stale; detail=stale-if-error"
    asked = rig.asked(PAGE)
    assert await status(rig) == "hit; detail=stale-if-error"
    assert rig.asked(PAGE) == asked
    rig.clock.advance(seconds=6)
    rig.upstream.clear_faults()
    assert await status(rig) == "fwd=stale; fwd-status=304; stored"


async def test_an_upstream_that_hangs_is_waited_for_no_longer_than_clients_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is shown, and its answer is taken all the same when it comes."""
    await rig.pages.get("pypi", WIDGETS)
    monkeypatch.setattr(revalidated, "_PATIENCE", 0.05)
    rig.upstream.fault(PAGE, delay=0.5)
    rig.clock.advance(days=1)
    assert await status(rig) == "fwd=stale; detail=stale-if-error"
    assert await status(rig) == "hit; detail=stale-if-error"
    await asyncio.gather(*rig.pages._flights.values())
    assert await status(rig) == "hit"
    assert rig.asked(PAGE) == 2


async def test_a_busy_upstream_is_left_alone_for_as_long_as_it_says(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.fault(PAGE, status=429, retry_after=30)
    rig.clock.advance(hours=1)
    await rig.pages.get("pypi", WIDGETS)
    rig.clock.advance(seconds=29)
    assert await status(rig) == "hit; detail=stale-if-error"
    assert rig.asked(PAGE) == 2
    rig.clock.advance(seconds=2)
    await rig.pages.get("pypi", WIDGETS)
    assert rig.asked(PAGE) == 3


async def test_with_the_upstream_down_and_a_restart_the_page_is_still_there(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.stop()
    await rig.reopen()
    rig.clock.advance(days=3)
    assert await versions(rig) == ("1.0",)


async def test_too_old_a_page_is_not_shown(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.stop()
    rig.clock.advance(days=31)
    with pytest.raises(UpstreamUnreachable):
        await rig.pages.get("pypi", WIDGETS)


async def test_trouble_without_a_page_is_told_to_all_and_not_kept(rig: Rig) -> None:
    rig.upstream.fault(PAGE, status=503, retry_after=3, delay=0.1)
    found = await asyncio.gather(*(rig.pages.get("pypi", WIDGETS) for _ in range(10)), return_exceptions=True)
    assert {type(error) for error in found} == {UpstreamBusy}
    with pytest.raises(UpstreamBusy):
        await rig.pages.get("pypi", WIDGETS)
    assert rig.asked(PAGE) == 1
    rig.upstream.clear_faults()
    rig.clock.advance(seconds=3.1)
    assert await versions(rig) == ("1.0",)


async def test_absence_is_kept_for_a_short_time(rig: Rig) -> None:
    gadgets = Name("gadgets")
    assert await versions(rig, gadgets) is None
    await rig.reopen()
    rig.clock.advance(seconds=59)
    assert await versions(rig, gadgets) is None
    assert rig.asked("/simple/gadgets/") == 1
    assert rig.pages.count() == (0, 1)
    rig.upstream.add_file("gadgets", *make_wheel("gadgets", "1.0"))
    rig.clock.advance(seconds=2)
    assert await versions(rig, gadgets) == ("1.0",)
    assert rig.pages.count() == (1, 0)


async def test_a_page_that_vanished_upstream_is_not_shown_again(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.remove_project("widgets")
    rig.clock.advance(hours=1)
    assert await versions(rig) is None
    rig.upstream.stop()
    assert await versions(rig) is None
    rig.clock.advance(minutes=2)
    with pytest.raises(UpstreamError):
        await rig.pages.get("pypi", WIDGETS)


async def test_absence_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.pages.NEGATIVES_AT_MOST", 3)
    monkeypatch.setattr("proxy.cache.pages._CLEAN_EVERY", 2)
    for number in range(9):
        await rig.pages.get("pypi", Name(f"unknown-{number}"))
        rig.clock.advance(seconds=1)
    assert rig.pages.count()[1] <= 4


PURGER = """
import asyncio
import sys
from datetime import UTC, datetime
from proxy.cache.pages import Pages
from proxy.domain.names import parse_name
from proxy.domain.snapshot import CacheSettings
from proxy.storage.board import Board
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks

layout = Layout(sys.argv[1])
locks = Locks(layout)
database = Database(layout.cache_database, locks, name="cache")
note = lambda *said: asyncio.sleep(0)
pages = Pages(layout, locks, Board(layout), database, {}, CacheSettings(), lambda: datetime.now(UTC), note)
print(sum(pages.purge(parse_name(name)) for name in sys.argv[2:]) if sys.argv[2:] else pages.purge(None))
"""


@pytest.mark.parametrize("names", [("widgets", "gadgets"), ()])
async def test_a_purge_by_another_process_takes_effect_at_once(rig: Rig, names: tuple[str, ...]) -> None:
    await rig.pages.get("pypi", WIDGETS)
    await rig.pages.get("pypi", Name("gadgets"))
    stamp = rig.board.stamp([page_topic("pypi", WIDGETS), EVERYTHING_BORROWED])
    # Its configuration may be another, and lack the upstream.
    command = [sys.executable, "-c", PURGER, rig.layout.data_dir, *names]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=root, check=True)
    assert done.stdout == "1\n"
    assert not rig.board.holds(stamp)
    assert rig.pages.count() == (0, 0)
    assert await status(rig) == "fwd=uri-miss; stored"
    await rig.pages.get("pypi", Name("gadgets"))
    assert (rig.asked(PAGE), rig.asked("/simple/gadgets/")) == (2, 2)


async def test_a_page_is_decoded_when_somebody_needs_it_and_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.pages.get("pypi", WIDGETS)
    await rig.reopen()
    decoded: list[int] = []
    decode = _Values.decode

    def counting(values: _Values[Any], encoded: bytes) -> Any:
        decoded.append(len(encoded))
        return decode(values, encoded)

    monkeypatch.setattr(_Values, "decode", counting)
    first, second = [await rig.pages.get("pypi", WIDGETS) for _ in range(2)]
    assert first is not None
    assert second is not None
    assert (first.token, decoded) == (second.token, [])
    assert first.value is second.value
    assert await first.decoded() is first.value
    assert decoded == [first.size]


@pytest.mark.parametrize("inline", [0, 1 << 20])
async def test_a_page_that_left_the_memory_is_decoded_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, inline: int
) -> None:
    monkeypatch.setattr("proxy.cache.revalidated._INLINE_BYTES", inline)
    cached = await rig.pages.get("pypi", WIDGETS)
    assert cached is not None
    rig.pages._values._values.clear()
    assert (await cached.decoded()).versions == cached.value.versions == ("1.0",)


async def test_a_page_says_how_long_what_is_made_of_it_may_be_kept(rig: Rig) -> None:
    async def good_for() -> float | None:
        cached = await rig.pages.get("pypi", WIDGETS)
        assert cached is not None
        return None if cached.good_until is None else cached.good_until - rig.clock.time.timestamp()

    assert await good_for() == 600
    rig.clock.advance(minutes=4)
    assert await good_for() == 360
    rig.clock.advance(minutes=8)
    assert await good_for() is None
    rig.clock.advance(hours=1)
    assert await good_for() == 600
    rig.upstream.stop()
    rig.clock.advance(hours=1)
    assert await good_for() is None
    assert rig.pages.absent_until("pypi", WIDGETS) is None


async def test_a_no_such_project_says_how_long_it_is_believed(rig: Rig) -> None:
    gadgets = Name("gadgets")
    assert await rig.pages.get("pypi", gadgets) is None
    assert rig.pages.absent_until("pypi", gadgets) == rig.clock.time.timestamp() + 60
    rig.clock.advance(seconds=60)
    assert rig.pages.absent_until("pypi", gadgets) is None


async def test_the_board_hears_of_what_makes_a_kept_answer_wrong_and_of_nothing_else(rig: Rig) -> None:
    async def changes() -> bool:
        stamp = rig.board.stamp((page_topic("pypi", WIDGETS),))
        await rig.pages.get("pypi", WIDGETS)
        return not rig.board.holds(stamp)

    assert not await changes()
    rig.clock.advance(hours=1)
    assert not await changes()
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(hours=1)
    assert await changes()
    rig.upstream.remove_project("widgets")
    rig.clock.advance(hours=1)
    assert await changes()
    rig.clock.advance(minutes=2)
    assert not await changes()


@pytest.mark.parametrize(
    ("name", "topic"), [(WIDGETS, page_topic("pypi", WIDGETS)), (None, EVERYTHING_BORROWED)]
)
def test_the_board_hears_of_a_purge(rig: Rig, name: Name | None, topic: str) -> None:
    stamp = rig.board.stamp((topic,))
    rig.another()[0].purge(name)
    assert not rig.board.holds(stamp)


async def test_a_page_of_another_form_is_a_miss(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.pages.get("pypi", WIDGETS)
    monkeypatch.setattr(rig.pages, "_form", "that of a later program")
    rig.pages._memory.clear()
    assert await status(rig) == "fwd=uri-miss; stored"


@pytest.mark.parametrize("damage", [b"", b"\x00" * 500, b"truncate", b"flip"])
async def test_a_damaged_page_file_is_a_miss(rig: Rig, damage: bytes) -> None:
    await rig.pages.get("pypi", WIDGETS)
    path = Path(rig.layout.cached_page("pypi", WIDGETS))
    content = path.read_bytes()
    place = content.index(b"py3-none-any")
    path.write_bytes(
        {b"truncate": content[:-1], b"flip": content[:place] + b"q" + content[place + 1 :]}.get(
            damage, damage
        )
    )
    assert await status(rig) == "fwd=uri-miss; stored"


async def test_a_page_of_another_index_address_is_a_miss(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    path = Path(rig.layout.cached_page("pypi", WIDGETS))
    path.write_bytes(path.read_bytes().replace(b"/simple/", b"/Simple/", 1))
    assert await status(rig) == "fwd=uri-miss; stored"


async def test_an_absence_at_another_index_address_is_none_here(rig: Rig) -> None:
    """After the configuration was mended, the name would else go to the next upstream for a minute."""
    rig.options["index_url"] = f"{rig.upstream.url}/elsewhere/"
    await rig.reopen()
    assert await versions(rig) is None
    del rig.options["index_url"]
    await rig.reopen()
    assert await versions(rig) == ("1.0",)


async def test_a_full_disk_costs_keeping_not_serving(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("proxy.storage.disk.write_all", full)
    assert await status(rig) == "fwd=uri-miss"
    assert await versions(rig) == ("1.0",)
    assert list(Path(rig.layout.partial_files).iterdir()) == []
    monkeypatch.undo()
    assert await status(rig) == "fwd=uri-miss; stored"


async def test_long_names_are_kept_too(rig: Rig) -> None:
    long = Name("w" * 300)
    rig.upstream.add_file(long, *make_wheel("widgets", "1.0"))
    assert await rig.pages.get("pypi", long) is not None
    cached = await rig.pages.get("pypi", long)
    assert cached is not None
    assert cached.status == "hit"


async def test_a_closed_cache_leaves_no_fetch_behind(rig: Rig) -> None:
    rig.upstream.fault(PAGE, hang=True)
    waiting = asyncio.create_task(rig.pages.get("pypi", WIDGETS))
    await asyncio.to_thread(rig.upstream.await_requests, PAGE)
    await rig.pages.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_keys_of_a_name_are_those_of_its_files_and_their_metadata(rig: Rig) -> None:
    cached = await rig.pages.get("pypi", WIDGETS)
    assert cached is not None
    (record,) = cached.value.files
    assert isinstance(record.core_metadata, str)
    assert rig.pages.keys_of(WIDGETS) == {record.sha256, record.core_metadata}
    rig.upstream.configure(hashes=[], core_metadata=False)
    rig.pages.purge(WIDGETS)
    await rig.pages.get("pypi", WIDGETS)
    assert rig.pages.keys_of(WIDGETS) == {url_key(record.url), url_key(record.url + ".metadata")}


async def test_a_faulty_answer_never_replaces_a_good_page(rig: Rig) -> None:
    await rig.pages.get("pypi", WIDGETS)
    rig.upstream.fault(PAGE, as_project="gadgets")
    rig.upstream.add_project("gadgets")
    rig.clock.advance(days=31)
    with pytest.raises(UpstreamFaulty):
        await rig.pages.get("pypi", WIDGETS)
    rig.upstream.clear_faults()
    rig.clock.advance(seconds=2)
    assert await status(rig) == "fwd=stale; fwd-status=304; stored"
