"""The kept lists of names: how often the upstream is asked, what replaces a list, and what never does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.cache import known_names as module
from proxy.cache.known_names import KnownNames
from proxy.cache.names_file import open_list, write_list
from proxy.domain.names import Name
from proxy.domain.sorted_names import SortedNames
from proxy.errors import (
    OverlayError,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from tests.cache.conftest import Rig
from tests.support.server import ROOT
from tests.support.waiting import wait_until_async

JSON = "application/vnd.pypi.simple.v1+json"
URL = "https://index.example/simple/"


@pytest.fixture
async def known(rig: Rig) -> AsyncIterator[KnownNames]:
    rig.upstream.configure(names=3)
    yield (known := opened(rig))
    await known.close()


def opened(rig: Rig) -> KnownNames:
    """Another process of the instance, or the same one after a restart: it shares the disk and the locks."""
    return KnownNames(rig.layout, rig.locks, rig.board, {"pypi": rig.client}, rig.clock)


async def listed(known: KnownNames) -> list[str]:
    names = await known.get("pypi")
    return names.text(0, len(names)).decode().split()


def left_over(rig: Rig) -> list[Path]:
    return list(Path(rig.layout.partial_files).iterdir())


def made_up(count: int) -> list[str]:
    return [f"made-up-{number:07}" for number in range(count)]


async def test_a_list_is_fetched_once_for_all_who_wait(rig: Rig, known: KnownNames) -> None:
    rig.upstream.add_project("Zope.Interface")
    shown = await asyncio.gather(*(listed(known) for _ in range(10)))
    assert shown == [[*made_up(3), "zope-interface"]] * 10
    assert await listed(opened(rig)) == shown[0]
    (request,) = rig.upstream.requests()
    assert (request.path, request.header("Accept-Encoding")) == ("/simple/", "gzip")
    assert (request.header("Accept") or "").startswith(JSON)


async def test_a_list_in_html_is_as_good(rig: Rig, known: KnownNames) -> None:
    rig.upstream.configure(form="html", gzip=False)
    assert await listed(known) == made_up(3)


async def test_a_list_is_refreshed_when_it_is_due_and_not_before(rig: Rig, known: KnownNames) -> None:
    await known.refresh(["pypi"])
    rig.upstream.configure(names=4)
    rig.clock.advance(hours=23)
    await known.refresh(["pypi"])
    assert (await listed(known), rig.asked("/simple/")) == (made_up(3), 1)
    rig.clock.advance(hours=1)
    assert await listed(known) == made_up(3)
    other = opened(rig)
    await asyncio.gather(known.refresh(["pypi"]), other.refresh(["pypi"]))
    assert (await listed(known), await listed(other), rig.asked("/simple/")) == (made_up(4), made_up(4), 2)


async def test_an_unchanged_list_is_confirmed_by_its_validator(rig: Rig, known: KnownNames) -> None:
    before = await known.get("pypi")
    rig.clock.advance(days=2)
    known = opened(rig)
    await known.refresh(["pypi"])
    assert rig.upstream.requests()[-1].header("If-None-Match") is not None
    assert (await known.get("pypi")).digest == before.digest
    await known.refresh(["pypi"])
    assert rig.asked("/simple/") == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 404},
        {"status": 429},
        {"drop": True},
        {"truncate": 100},
        {"html_error": True},
        {"gzip_bomb": 9 << 20},
        {"status": 200, "body": '{"meta": {}, "projects": [{"name": "a"}', "headers": {"Content-Type": JSON}},
    ],
    ids=lambda fault: next(iter(fault)),
)
async def test_T_POIS3_what_is_no_good_list_replaces_none(
    rig: Rig, known: KnownNames, fault: dict[str, Any]
) -> None:
    path = Path(rig.layout.names_of("pypi"))
    path.parent.mkdir(exist_ok=True)
    write_list(str(path), [Name("gears")], rig.upstream.index_url, None)
    os.utime(path, (0, 0))
    rig.upstream.fault("/simple/", **fault)
    await known.refresh(["pypi"])
    assert rig.asked("/simple/") >= 1
    assert await listed(known) == ["gears"]
    assert left_over(rig) == []


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        ({"status": 500}, UpstreamFaulty),
        ({"status": 503}, UpstreamBusy),
        ({"drop": True}, UpstreamUnreachable),
        ({"html_error": True}, UpstreamFaulty),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
async def test_trouble_before_the_first_list_is_told_and_not_asked_for_again_at_once(
    rig: Rig, known: KnownNames, fault: dict[str, Any], refusal: type[UpstreamError]
) -> None:
    rig.upstream.fault("/simple/", **fault)
    with pytest.raises(refusal):
        await known.get("pypi")
    asked = rig.asked("/simple/")
    with pytest.raises(refusal):
        await known.get("pypi")
    assert rig.asked("/simple/") == asked
    rig.upstream.clear_faults()
    rig.clock.advance(seconds=6)
    assert await listed(known) == made_up(3)


async def test_a_failing_upstream_is_asked_more_and_more_seldom(rig: Rig, known: KnownNames) -> None:
    rig.upstream.fault("/simple/", status=500)
    asked: list[int] = []
    for minute in range(130):
        await known.refresh(["pypi"])
        if rig.asked("/simple/") > len(asked):
            asked.append(minute)
        rig.clock.advance(minutes=1)
    assert asked == [0, 1, 3, 7, 15, 31, 63, 123]


async def test_who_waits_too_long_for_the_first_list_is_told_and_the_list_comes_all_the_same(
    rig: Rig, known: KnownNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(milliseconds=50))
    rig.upstream.fault("/simple/", delay=0.3)
    with pytest.raises(UpstreamBusy):
        await known.get("pypi")

    async def came() -> bool:
        with contextlib.suppress(UpstreamBusy):
            return await listed(known) == made_up(3)
        return False

    async with asyncio.timeout(10):
        while not await came():
            pass
    assert rig.asked("/simple/") == 1


async def test_a_fetch_without_an_end_is_given_up(
    rig: Rig, known: KnownNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_FETCH", timedelta(milliseconds=200))
    rig.upstream.fault("/simple/", rate=50)
    with pytest.raises(UpstreamTimeout):
        await known.get("pypi")


async def test_T_BOMB_an_endless_list_is_given_up(
    rig: Rig, known: KnownNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LIST", 50)
    with pytest.raises(UpstreamFaulty, match="too long"):
        await known.get("pypi")


async def test_a_much_shorter_list_is_believed_only_when_the_kept_one_is_old(
    rig: Rig, known: KnownNames
) -> None:
    rig.upstream.configure(names=1000)
    await known.refresh(["pypi"])
    rig.upstream.configure(names=499)
    for days in (1, 6):
        assert len(await known.get("pypi")) == 1000
        rig.clock.advance(days=days)
        await known.refresh(["pypi"])
    assert len(await known.get("pypi")) == 499


@pytest.mark.parametrize("names", [3, 1000])
async def test_T_POIS3_an_empty_list_never_takes_the_place_of_one_with_names(
    rig: Rig, known: KnownNames, names: int
) -> None:
    rig.upstream.configure(names=names)
    await known.refresh(["pypi"])
    rig.upstream.configure(names=0)
    for days in (1, 8):
        rig.clock.advance(days=days)
        await known.refresh(["pypi"])
    assert rig.asked("/simple/") == 3
    assert await listed(known) == made_up(names)
    assert "lists 0 names" in str(known.failure("pypi"))
    known.purge()
    rig.clock.advance(minutes=1)
    assert await listed(known) == []
    assert known.failure("pypi") is None


async def test_a_first_list_may_be_empty_and_grow(rig: Rig, known: KnownNames) -> None:
    rig.upstream.configure(names=0)
    assert await listed(known) == []
    rig.upstream.configure(names=2)
    rig.clock.advance(days=1)
    await known.refresh(["pypi"])
    assert await listed(known) == made_up(2)


async def test_T_HOMO_look_alikes_come_from_the_kept_list_and_nobody_is_asked(
    rig: Rig, known: KnownNames
) -> None:
    for name in ("zope-interface", "pillow", "p1l1ow", "Pi_llow", "pillows"):
        rig.upstream.add_project(name)
    assert await known.look_alikes("pypi", Name("pillow")) == ()
    assert await known.peek("pypi") is None
    assert rig.asked("/simple/") == 0
    await known.refresh(["pypi"])
    assert await known.look_alikes("pypi", Name("pillow")) == ("p1l1ow", "pi-llow")
    assert await known.look_alikes("pypi", Name("zopeinterface")) == ("zope-interface",)
    assert rig.asked("/simple/") == 1


async def test_what_is_kept_is_told_with_the_time_it_was_last_confirmed(rig: Rig, known: KnownNames) -> None:
    assert known.kept() == {}
    await known.refresh(["pypi"])
    rig.clock.advance(days=1)
    await known.refresh(["pypi"])
    assert opened(rig).kept() == {"pypi": module.Kept(3, rig.clock())}
    rig.clock.advance(hours=5)
    assert rig.clock() - known.kept()["pypi"].confirmed == timedelta(hours=5)


async def test_the_list_of_an_upstream_that_moved_is_not_shown(rig: Rig, known: KnownNames) -> None:
    path = Path(rig.layout.names_of("pypi"))
    path.parent.mkdir(exist_ok=True)
    write_list(str(path), [Name("gears")], URL, None)
    assert await listed(known) == made_up(3)


async def test_a_list_that_was_purged_is_fetched_anew(rig: Rig, known: KnownNames) -> None:
    names = await known.get("pypi")
    opened(rig).purge()
    rig.upstream.configure(names=4)
    assert await listed(known) == made_up(4)
    assert names.text(0, len(names)).decode().split() == made_up(3)


async def test_a_disk_that_does_not_take_the_list_is_told_as_such(
    rig: Rig, known: KnownNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "write_all", no_room)
    with pytest.raises(OverlayError, match="no space"):
        await known.get("pypi")
    monkeypatch.undo()
    Path(rig.layout.known_names).rmdir()
    rig.clock.advance(seconds=6)
    with pytest.raises(OverlayError, match="cannot be kept"):
        await known.get("pypi")


async def test_closing_ends_what_is_under_way_and_leaves_nothing_behind(rig: Rig, known: KnownNames) -> None:
    rig.upstream.fault("/simple/", rate=50)
    waiting = asyncio.create_task(known.get("pypi"))
    await wait_until_async(lambda: left_over(rig), what="the first bytes")
    await known.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert left_over(rig) == []
    assert rig.locks.try_hold("names:pypi")


def test_a_kept_list_says_what_it_holds(tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    write_list(path, map(Name, ("acme", "gears", "zope")), URL, '"tag"')
    kept = open_list(path, URL)
    assert kept is not None
    assert (len(kept.names), kept.etag, kept.inode) == (3, '"tag"', Path(path).stat().st_ino)
    assert kept.names.text(0, 3) == b"acme\ngears\nzope\n"
    assert Name("gears") in kept.names
    assert Name("gear") not in kept.names
    assert open_list(path, "https://elsewhere.example/simple/") is None
    assert open_list(str(tmp_path / "none"), URL) is None


def test_a_torn_or_damaged_list_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write_list(str(path), map(Name, ("acme", "gears", "zope")), URL, None)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert open_list(str(path), URL) is None
    for place in (whole.index(b"gears"), len(whole) - 1, whole.index(b'"count":') + 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert open_list(str(path), URL) is None
    path.write_bytes(whole + b"\0")
    assert open_list(str(path), URL) is None


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux alone tells what is shared")
def test_700_000_names_are_in_memory_once_for_all_workers(tmp_path: Path) -> None:
    path = str(tmp_path / "list")
    write_list(path, (Name(f"some-usual-name-{number:06}") for number in range(700_000)), URL, None)
    ours = open_list(path, URL)
    assert ours is not None
    # Another process maps it too, looks a name up and goes through all of it; then says what it needs for itself.
    code = f"""if True:
        from pathlib import Path
        from proxy.cache.names_file import open_list
        from proxy.domain.names import Name

        def own():
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

        before = own()
        kept = open_list({path!r}, {URL!r})
        assert Name("some-usual-name-654321") in kept.names
        assert list(kept.names.alike(["no-such-key"])) == []
        print(own() - before)
    """
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert int(run.stdout) < 4 << 10  # KiB, of 19 MiB


def test_700_000_names_fit_into_30_MB_and_are_found_in_20_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list"
    write_list(str(path), (Name(f"some-usual-name-{number:06}") for number in range(700_000)), URL, None)
    assert path.stat().st_size < 30 << 20
    kept = open_list(str(path), URL)
    assert kept is not None
    looked_at: list[int] = []
    look = SortedNames.__getitem__

    def counting(names: SortedNames, position: int) -> Name:
        looked_at.append(position)
        return look(names, position)

    monkeypatch.setattr(SortedNames, "__getitem__", counting)
    assert Name("some-usual-name-654321") in kept.names
    assert Name("some-unusual-name") not in kept.names
    assert len(looked_at) <= 2 * 21
