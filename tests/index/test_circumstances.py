"""Answers that depend on more than a page: ages of files, what was removed, vulnerabilities, dated views."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event

from proxy.cache.held import Unlisted, hold, release
from proxy.cache.sightings import first_seen
from proxy.domain.access import OPERATOR
from proxy.domain.advisories import Advisory
from proxy.domain.decision import Warned, Word
from proxy.domain.names import Name
from proxy.domain.negotiate import Coding, Representation
from proxy.domain.pages import FileRecord
from proxy.errors import StoreUnavailable
from proxy.index.answers import Borrowed, Index, PageAnswer
from proxy.index.circumstances import Sources
from proxy.index.explain import explain
from proxy.registry.packages import StoredFile
from proxy.storage.audit import By
from proxy.storage.board import ADVISORIES, held_topic
from proxy.storage.database import Change
from proxy.storage.tables import first_sights
from tests.index.conftest import OWNER, House, OpenHouse
from tests.registry.making import NOW, wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_wheel

OLD, NEW = wheel("cogs", "1.0"), wheel("cogs", "2.0")
NAME = Name("cogs")


def key_of(version: str) -> str:
    return hashlib.sha256(make_wheel("cogs", version)[1]).hexdigest()


def told(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def ruled(open_house: OpenHouse, upstream: FakeUpstream) -> Callable[..., House]:
    """Open a house with a policy of the root, in front of an upstream that has cogs 1.0 and 2.0."""

    def opened(advisories: str | None = None, **policy: Any) -> House:
        upstream.add_file("cogs", *make_wheel("cogs", "1.0"), upload_time=told(NOW - timedelta(days=30)))
        young = NOW - timedelta(days=3) + timedelta(minutes=5)
        upstream.add_file("cogs", *make_wheel("cogs", "2.0"), upload_time=told(young))
        more = {"policy": policy, "projects": {"default": {}}, "advisories": {"osv_dir": advisories}}
        return open_house({**base_config(upstream), **more})

    return opened


async def listed(answer: PageAnswer) -> list[tuple[str, bool]]:
    """The filenames on a page, and whether each is marked as yanked."""
    return [(file.filename, file.yanked is not False) for file in (await answer.screened()).page.files]


def statements(house: House) -> list[str]:
    """What the registry is asked from now on."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(house.instance.registry._reading, "after_cursor_execute", note)
    return asked


async def test_an_answer_is_good_until_the_clock_changes_it(
    ruled: Callable[..., House], upstream: FakeUpstream
) -> None:
    house = ruled(min_age="3d")
    first = await house.page("", "cogs")
    assert await listed(first) == [(OLD, False), (NEW, True)]
    assert first.good_until == (NOW + timedelta(minutes=5)).timestamp()
    withheld = (await house.file("", key_of("2.0"), NEW)).withheld
    assert withheld is not None
    assert withheld.rule == "min_age 3d"
    house.clock.advance(minutes=4, seconds=59)
    kept = await house.page("", "cogs")
    assert (kept.token, kept.good_until) == (first.token, first.good_until)
    house.clock.advance(seconds=1)
    then = await house.page("", "cogs")
    assert await listed(then) == [(OLD, False), (NEW, False)]
    assert then.token != first.token
    assert isinstance((await house.file("", key_of("2.0"), NEW)).source, Borrowed)
    assert len(upstream.asked_for("cogs")) == 1


async def test_whoever_fetched_the_page_screens_it_once_and_kept_answers_hold_no_files(
    ruled: Callable[..., House],
) -> None:
    house = ruled(min_age="3d")
    first = await house.page("", "cogs")
    assert await first.screened() is await first.screened()
    kept = await house.page("", "cogs")
    assert await kept.screened() == await first.screened()
    assert await kept.screened() is not await kept.screened()


@pytest.mark.parametrize("policy", [{}, {"min_age": "3d"}], ids=str)
async def test_a_page_costs_one_statement_and_none_where_it_is_given_again(
    ruled: Callable[..., House], policy: dict[str, Any]
) -> None:
    house = ruled(**policy)
    await house.instance.pages.get("pypi", NAME)
    # Of which names something is held is read once, and again when that changes.
    await house.page("", "other")
    asked = statements(house)
    await house.page("", "cogs")
    assert len(asked) == 1, asked
    await (await house.page("", "cogs")).screened()
    await house.file("", key_of("1.0"), OLD)
    assert len(asked) == 1, asked
    remove(house, "0.9")
    await house.page("", "cogs")
    assert len(asked) == 1 + 3, asked


async def test_a_file_without_upload_time_is_as_old_as_our_first_sight_of_it(
    ruled: Callable[..., House], upstream: FakeUpstream
) -> None:
    house = ruled(min_age="3d")
    upstream.add_file("cogs", *make_wheel("cogs", "2.0"), upload_time=None)
    registry = house.instance.registry

    def seen() -> dict[str, datetime]:
        return registry.read_now(partial(first_seen, upstream="pypi", name=NAME))

    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, True)]
    await wait_until_async(seen, what="the first sight to be written")
    # It is written anew where it got lost.
    registry.change_now(lambda change: change.connection.execute(delete(first_sights)))
    house.instance.board.renew(held_topic("pypi", "cogs"))
    await house.page("", "cogs")
    await wait_until_async(seen, what="the first sight to be written again")
    house.clock.advance(days=3)
    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, False)]


def remove(house: House, *versions: str) -> None:
    """Have files held, as if the upstream had removed them while the cache has them."""
    gone = [
        Unlisted(
            FileRecord(
                wheel("cogs", version),
                sha256=key_of(version),
                url=f"https://files.test/{wheel('cogs', version)}",
                uploaded=NOW - timedelta(days=60),
                version=version,
            ),
            key_of(version),
        )
        for version in versions
    ]
    house.instance.registry.change_now(lambda change: hold(change, "pypi", NAME, gone, None, NOW))


def release_file(house: House, filename: str) -> None:
    def act(change: Change) -> None:
        release(change, upstream="pypi", wanted="cogs", filename=filename, by=By(OPERATOR, NOW))

    house.instance.registry.change_now(act)


async def test_a_removed_file_is_withheld_and_never_not_found_until_it_is_released(
    ruled: Callable[..., House],
) -> None:
    house = ruled()
    before = await house.page("", "cogs")
    await house.page("", "cogs")
    remove(house, "0.9")
    page = await house.page("", "cogs")
    assert page.token != before.token
    assert await listed(page) == [(OLD, False), (NEW, False)]
    for _ in range(2):
        found = await house.file("", key_of("0.9"), wheel("cogs", "0.9"))
        assert found.source is None
        assert found.withheld is not None
        assert (found.withheld.rule, found.withheld.is_held) == ("removed", True)
    release_file(house, wheel("cogs", "0.9"))
    served = await house.page("", "cogs")
    assert served.token not in {before.token, page.token}
    assert (wheel("cogs", "0.9"), False) in await listed(served)
    assert isinstance((await house.file("", key_of("0.9"), wheel("cogs", "0.9"))).source, Borrowed)


@pytest.mark.parametrize("ask", ["any", "known"])
async def test_of_a_project_that_is_gone_files_are_withheld_and_released_ones_listed(
    ruled: Callable[..., House], upstream: FakeUpstream, ask: str
) -> None:
    house = ruled(ask=ask)
    upstream.remove_project("cogs")
    remove(house, "1.0", "2.0")
    page = await house.page("", "cogs")
    assert page.decision.word is Word.UNKNOWN
    assert not page.is_served
    found = await house.file("", key_of("1.0"), OLD)
    assert found.withheld is not None
    assert (found.withheld.rule, found.source) == ("removed", None)
    shape: Any = (
        await explain(
            house.instance.index, house.instance.snapshot.tree.root, "cogs", OWNER, house.sight(OWNER)
        )
    ).shape
    assert [(file["filename"], file["source"], file["rule"]) for file in shape["files"]] == [
        (OLD, "pypi", "removed"),
        (NEW, "pypi", "removed"),
    ]
    release_file(house, OLD)
    page = await house.page("", "cogs")
    assert (page.decision.word, page.decision.upstream) == (Word.UPSTREAM, "pypi")
    assert page.decision.reason == "pypi had cogs"
    assert await listed(page) == [(OLD, False)]
    assert isinstance((await house.file("", key_of("1.0"), OLD)).source, Borrowed)
    assert (await house.file("", key_of("2.0"), NEW)).withheld is not None
    # Given again, it still does not say that the upstream has it, nor asks there what it says of it.
    kept = await house.page("", "cogs")
    assert kept.decision.reason == "pypi had cogs"
    upstream.reset_requests()
    assert page.is_gone
    assert await house.instance.documents.get(kept, None, base="..", coding=Coding.IDENTITY) is not None
    assert upstream.asked_for("cogs") == []


async def test_what_one_upstream_removed_is_withheld_though_the_next_has_the_name(
    open_house: OpenHouse, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    config = base_config(upstream)
    config["upstreams"]["second"] = base_config(second)["upstreams"]["pypi"]
    house = open_house({**config, "policy": {"upstreams": ["pypi", "second"]}})
    second.add_file("cogs", *make_wheel("cogs", "2.0"))
    remove(house, "1.0", "2.0")
    page = await house.page("", "cogs")
    assert (page.decision.upstream, await listed(page)) == ("second", [(NEW, False)])
    assert isinstance((await house.file("", key_of("2.0"), NEW)).source, Borrowed)
    assert (await house.file("", key_of("1.0"), OLD)).withheld is not None
    steps = [step.because for step in page.decision.trail if step.step == "upstream"]
    assert steps[0] == "pypi has no project cogs"
    assert steps[1].startswith("second has it")


async def test_a_document_says_nothing_of_a_release_of_which_every_file_is_withheld(
    ruled: Callable[..., House], upstream: FakeUpstream
) -> None:
    house = ruled(min_age="3d")
    page = await house.page("", "cogs")
    upstream.reset_requests()
    document = await house.instance.documents.get(page, "2.0", base="..", coding=Coding.IDENTITY)
    assert document is not None
    assert b'"yanked":true,"yanked_reason":"cogs 2.0 is ' in document.body
    assert upstream.requests() == []
    served = await house.instance.documents.get(page, "1.0", base="..", coding=Coding.IDENTITY)
    assert served is not None
    assert upstream.requests() != []


BAD = Advisory("X-1", versions=("2",), severity=4)


def with_advisories(house: House, of: Callable[[Name], tuple[Advisory, ...]]) -> House:
    """The same house, with other advisories."""
    instance = house.instance
    sources = Sources(instance.registry, instance.board, instance.sightings, of)
    index = Index(
        instance.snapshot.tree,
        instance.registry,
        instance.pages,
        instance.known_names,
        sources,
        instance.board,
        instance.serial,
        instance.now,
    )
    return House(replace(instance, index=index), house.clock)


async def test_new_advisories_end_answers_that_were_made_of_the_old(
    ruled: Callable[..., House], tmp_path: Path
) -> None:
    known: list[Advisory] = []
    house = with_advisories(ruled(str(tmp_path), vulnerable="deny"), lambda _: tuple(known))
    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, False)]
    known.append(BAD)
    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, False)]
    house.instance.board.renew(ADVISORIES)
    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, True)]
    assert (await house.file("", key_of("2.0"), NEW)).source is None


@pytest.mark.parametrize("action", ["deny", "warn"])
async def test_advisories_that_cannot_be_read_stop_what_is_denied_by_them_and_nothing_else(
    ruled: Callable[..., House], tmp_path: Path, action: str
) -> None:
    def fail(_: Name) -> tuple[Advisory, ...]:
        raise StoreUnavailable("no advisories yet")

    house = with_advisories(ruled(str(tmp_path), vulnerable=action), fail)
    if action == "deny":
        with pytest.raises(StoreUnavailable):
            await house.page("", "cogs")
    else:
        assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, False)]


async def test_what_is_only_warned_of_is_served_and_told_with_the_file(ruled: Callable[..., House]) -> None:
    house = ruled(min_age="3d", warn=["min_age", "deny"], deny=["cogs"])
    page = await house.page("", "cogs")
    assert await listed(page) == [(OLD, False), (NEW, False)]
    denied = Warned("deny cogs", "cogs is denied by the instance (cogs)")
    assert page.warned == (denied,)
    assert (await house.file("", key_of("1.0"), OLD)).warned == (denied,)
    for _ in range(2):
        answer = await house.file("", key_of("2.0"), NEW)
        assert isinstance(answer.source, Borrowed)
        assert [warned.rule for warned in answer.warned] == ["deny cogs", "min_age 3d"]
    root = house.instance.snapshot.tree.root
    shape: Any = (await explain(house.instance.index, root, "cogs", OWNER, house.sight(OWNER))).shape
    young = next(file for file in shape["files"] if file["filename"] == NEW)
    assert (young["served"], young["rule"]) == (True, "min_age 3d")
    assert young["until"] == told(NOW + timedelta(minutes=5))


async def test_an_index_as_of_an_instant_has_what_was_there_then(ruled: Callable[..., House]) -> None:
    house = ruled()
    then = NOW - timedelta(days=10)
    dated = await house.page("", "cogs", as_of=then)
    assert await listed(dated) == [(OLD, False)]
    assert await listed(await house.page("", "cogs")) == [(OLD, False), (NEW, False)]
    assert await house.page("", "cogs", as_of=then) is not await house.page("", "cogs")
    assert (await house.file("", key_of("2.0"), NEW, as_of=then)).source is None
    assert isinstance((await house.file("", key_of("2.0"), NEW)).source, Borrowed)
    assert isinstance((await house.file("", key_of("1.0"), OLD, as_of=then)).source, Borrowed)
    # Of each name one page lies at rest, and that is the present one.
    place = house.instance.variants._rest(dated, "json", Coding.IDENTITY)
    assert place is None
    assert await house.instance.variants.get(dated, Representation.JSON, Coding.IDENTITY)


async def test_private_files_of_later_are_not_there_in_a_dated_view(ruled: Callable[..., House]) -> None:
    house = ruled()
    house.publish("default", wheel("gears", "1.0"))
    later = house.publish("default", wheel("gears", "2.0"), at=NOW + timedelta(days=2))
    house.publish("default", wheel("levers", "1.0"), at=NOW + timedelta(days=2))
    house.clock.advance(days=5)
    then = NOW + timedelta(days=1)
    assert await listed(await house.page("", "gears", as_of=then)) == [(wheel("gears", "1.0"), False)]
    assert (await house.file("", later.sha256, later.filename, as_of=then)).source is None
    assert isinstance((await house.file("", later.sha256, later.filename)).source, StoredFile)
    assert (await house.page("", "levers", as_of=then)).decision.word is Word.CLAIMED
    assert await house.names("", as_of=then) == ["gears"]
    assert await house.names("") == ["gears", "levers"]
