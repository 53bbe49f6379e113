"""Answers that are given again: at no cost while they are true, and never once they are not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from sqlalchemy import event

from proxy.domain.access import ANONYMOUS, Caller, CallerKind, Scope
from proxy.domain.decision import FileRules, Word
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.negotiate import Coding, Representation
from proxy.domain.pages import Status
from proxy.domain.policy import Exemption, Rule
from proxy.errors import Outdated
from proxy.index import answers as module
from proxy.index.answers import Borrowed, FileAnswer, Index, PageAnswer
from proxy.index.circumstances import Sources
from proxy.registry import namespaces, packages
from proxy.registry.packages import StoredFile
from proxy.storage.board import new_serial
from proxy.storage.database import Change
from tests.index.conftest import ALICE, CONFIG, OWNER, House, OpenHouse
from tests.registry.making import FILE, NOW, new_file, tree_of, wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_sdist, make_wheel

WIDGETS = NamespacePath("acme/widgets")
GEARS = wheel("gears", "1.0")
FILENAME, CONTENT = make_wheel("cogs", "1.0")
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BOB = Caller(CallerKind.USER, "bob", token=7, scopes=frozenset({Scope.READ_API}))


async def bodies(house: House, index: str, name: str, caller: Caller) -> list[bytes]:
    answer = await house.page(index, name, caller)
    variants = house.instance.variants
    return [
        (await variants.get(answer, representation, coding)).body
        for representation, coding in product(Representation, Coding)
    ]


async def test_what_was_answered_is_answered_again_without_registry_and_disk(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    new = house.publish("acme/widgets", GEARS)
    wanted = [
        ("acme", "gears", new.sha256, GEARS, ALICE, OWNER),
        ("open", "cogs", DIGEST, FILENAME, ANONYMOUS, ANONYMOUS),
    ]
    before = [
        (await bodies(house, index, name, caller), await house.file(index, key, filename, caller))
        for index, name, key, filename, caller, _ in wanted
    ]
    asked = len(upstream.requests())
    # Whoever needs a query or a file from now on fails.
    house.instance.registry.close()
    house.instance.cache.close()
    await house.instance.variants.close()
    shutil.rmtree(Path(house.instance.layout.data_dir) / "cache")
    for (index, name, key, filename, caller, _), (pages, file) in zip(wanted, before, strict=True):
        assert await bodies(house, index, name, caller) == pages
        assert (await house.file(index, key, filename, caller)).source == file.source
    assert len(upstream.requests()) == asked


async def test_equal_sights_share_an_answer_and_others_do_not(house: House) -> None:
    house.publish("open/tools", GEARS)
    first = await house.page("open", "gears", ANONYMOUS)
    assert await house.page("open", "gears", ANONYMOUS) is first
    other = await house.page("open", "gears", OWNER)
    assert other is not first
    # And yet what is made of both is the same.
    assert other.token == first.token != ""


async def test_private_pages_of_other_projects_or_other_times_have_other_tokens(house: House) -> None:
    house.publish("acme/widgets", GEARS)
    house.publish("acme/sandbox", wheel("gears", "2.0"))
    tokens = {(await house.page(index, "gears")).token for index in ("acme", "acme/widgets", "acme/sandbox")}
    house.publish("acme/sandbox", wheel("gears", "3.0"))
    tokens |= {(await house.page(index, "gears")).token for index in ("acme", "acme/widgets", "acme/sandbox")}
    assert len(tokens) == 6


RULE = Rule("deny", "gears<1", "acme", pattern="gears", specifier=SpecifierSet("<1"))
OTHERWISE: dict[str, Any] = {
    "deny": (RULE,),
    "allow": ((RULE,),),
    "min_age": timedelta(days=1),
    "exempt": (RULE,),
    "min_age_fixes": False,
    "uploaded_before": NOW,
    "file_types": frozenset({"wheel"}),
    "yanked": "hide",
    "withheld": "hide",
    "removed": "keep",
    "vulnerable": "deny",
    "severity": "low",
    "vulnerable_exempt": (Exemption("X-1", Name("gears"), NOW, "why", ""),),
    "said": {"min_age": Rule("min_age", "0s", "acme")},
    "warn": frozenset({"deny"}),
    "as_of": NOW,
}


@pytest.mark.parametrize("field", [each.name for each in fields(FileRules) if each.name != "index"])
def test_rules_have_a_token_that_tells_all_by_which_they_screen(field: str) -> None:
    acme, globex = FileRules(NamespacePath("acme")), FileRules(NamespacePath("globex"))
    assert acme.token == globex.token
    assert replace(acme, **{field: OTHERWISE[field]}).token != acme.token


async def test_who_asks_after_a_fetch_is_told_of_a_hit(house: House, upstream: FakeUpstream) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    first, again = await house.page("", "cogs"), await house.page("", "cogs")
    assert first.cache_status == "fwd=uri-miss; stored"
    assert again.cache_status == "hit"
    assert [step.because for step in again.decision.trail][-1] == "pypi has it (hit)"
    assert (first.is_keepable, first.token, first.good_until) == (True, again.token, again.good_until)


async def test_a_page_is_asked_about_again_once_it_is_no_longer_fresh(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    answer = await house.page("", "cogs")
    assert answer.good_until == house.clock().timestamp() + 600
    house.clock.advance(seconds=599)
    await house.page("", "cogs")
    assert len(upstream.asked_for("cogs")) == 1
    house.clock.advance(seconds=1)
    stale = await house.page("", "cogs")
    assert stale.cache_status == "hit; detail=stale-while-revalidate"
    assert not stale.is_keepable
    await wait_until_async(lambda: len(upstream.asked_for("cogs")) == 2, what="the revalidation")


async def test_what_was_stale_is_kept_again_once_it_is_confirmed(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    await house.page("", "cogs")
    house.clock.advance(hours=1)
    confirmed = await house.page("", "cogs")
    assert confirmed.cache_status.startswith("fwd=stale; fwd-status=304")
    again = await house.page("", "cogs")
    assert (again.cache_status, again.token) == ("hit", confirmed.token)
    assert len(upstream.asked_for("cogs")) == 2


async def test_while_an_upstream_fails_its_stale_page_is_not_kept(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    await house.page("", "cogs")
    house.clock.advance(hours=1)
    upstream.fault("/simple/cogs/", status=500)
    answer = await house.page("", "cogs")
    assert answer.decision.word is Word.UPSTREAM
    assert (answer.is_keepable, answer.good_until) == (False, 0.0)
    assert await house.page("", "cogs") is not answer


async def test_trouble_is_never_kept(house: House, upstream: FakeUpstream) -> None:
    upstream.fault("/simple/cogs/", status=500, times=1)
    assert (await house.page("", "cogs")).decision.word is Word.UNAVAILABLE
    upstream.add_file("cogs", FILENAME, CONTENT)
    house.clock.advance(minutes=5)
    assert (await house.page("", "cogs")).decision.word is Word.UPSTREAM


async def test_an_absent_name_is_believed_absent_for_as_long_as_was_said(
    house: House, upstream: FakeUpstream
) -> None:
    assert (await house.page("", "cogs")).decision.word is Word.UNKNOWN
    upstream.add_file("cogs", FILENAME, CONTENT)
    house.clock.advance(seconds=59)
    assert (await house.page("", "cogs")).decision.word is Word.UNKNOWN
    assert len(upstream.asked_for("cogs")) == 1
    house.clock.advance(seconds=1)
    assert (await house.page("", "cogs")).decision.word is Word.UPSTREAM


async def test_what_the_second_upstream_gave_is_asked_of_the_first_in_time(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    with FakeUpstream() as second:
        config = base_config(upstream)
        config["upstreams"]["second"] = {"index_url": second.index_url, "file_hosts": [second.host]}
        house = open_house({**config, "policy": {"upstreams": ["pypi", "second"]}})
        second.add_file("cogs", FILENAME, CONTENT)
        assert (await house.page("", "cogs")).decision.upstream == "second"
        upstream.add_file("cogs", FILENAME, CONTENT)
        house.clock.advance(seconds=59)
        kept = await house.page("", "cogs")
        assert (kept.decision.upstream, kept.is_keepable) == ("second", True)
        assert await house.page("", "cogs") is kept
        house.clock.advance(seconds=1)
        assert (await house.page("", "cogs")).decision.upstream == "pypi"


@pytest.mark.parametrize("name", [Name("cogs"), None])
async def test_a_purge_sends_the_next_request_upstream(
    house: House, upstream: FakeUpstream, name: Name | None
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    for times in (1, 2):
        for _ in range(3):
            await house.page("", "cogs")
            await house.file("open", DIGEST, FILENAME)
        assert len(upstream.asked_for("cogs")) == times
        house.instance.pages.purge(name)


async def test_a_file_whose_longer_name_is_claimed_later_is_decided_anew(
    house: House, upstream: FakeUpstream
) -> None:
    """A filename has several candidate names; what serves it depends on all that were looked at before."""
    _, content = make_sdist("one", "1.0")
    filename, key = "one-two-1.0.tar.gz", hashlib.sha256(content).hexdigest()
    upstream.add_file("one", filename, content)
    upstream.add_project("one-two")
    answer = await house.file("", key, filename)
    assert isinstance(answer.source, Borrowed)
    assert (await house.file("", key, filename)).source == answer.source
    new = new_file(filename, name="one-two", content="ours")
    house.instance.registry.change_now(lambda change: packages.insert_file(change, WIDGETS, new))
    assert not house.instance.index.holds(answer)
    ours = await house.file("", new.sha256, filename)
    assert isinstance(ours.source, StoredFile)


def insert(change: Change) -> None:
    packages.insert_file(change, WIDGETS, new_file(wheel("gears", "2.0")))


def claim(change: Change) -> None:
    packages.insert_file(change, WIDGETS, new_file(FILENAME))


def delete(change: Change) -> None:
    packages.delete_files(change, WIDGETS, Name("gears"))


def without_acme(**more: Any) -> Tree:
    others = {path: group for path, group in CONFIG["groups"].items() if path != "acme"}
    return tree_of({**CONFIG, "groups": others | more})


def move(change: Change) -> None:
    apex = {**CONFIG["groups"]["acme"], "aliases": ["acme"]}
    namespaces.settle(change, without_acme(apex=apex), NOW, file=FILE)


def drop(change: Change) -> None:
    namespaces.drop(change, without_acme(), NamespacePath("acme"), NOW)


YANKED = partial(packages.yank, project=WIDGETS, name=Name("gears"), version_key="1")
UNYANKED = partial(packages.unyank, project=WIDGETS, name=Name("gears"), version_key="1")
MARKED = partial(packages.set_status, project=WIDGETS, name=Name("gears"), status=Status.QUARANTINED)
RELEASED = partial(packages.release_claim, project=WIDGETS, name=Name("gone"))

CHANGES: list[tuple[Callable[[Change], object], str]] = [
    (insert, "gears"),
    (claim, "cogs"),
    (delete, "gears"),
    (YANKED, "gears"),
    (UNYANKED, "gears"),
    (MARKED, "gears"),
    (RELEASED, "gone"),
    (drop, "gears"),
    (drop, "gone"),
    (move, "gears"),
    (move, "gone"),
]


@pytest.mark.parametrize(
    ("change", "name"), CHANGES, ids=[f"{getattr(act, 'func', act).__name__}-{name}" for act, name in CHANGES]
)
async def test_every_change_makes_the_answers_that_it_alters_fail(
    house: House, upstream: FakeUpstream, change: Callable[[Change], object], name: str
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    new = house.publish("acme/widgets", GEARS)
    house.publish("acme/widgets", wheel("gone", "1.0"))
    house.remove("acme/widgets", "gone")
    key, filename = (DIGEST, FILENAME) if name == "cogs" else (new.sha256, GEARS)
    indexes = ("", "acme", "acme/widgets")
    answers: list[PageAnswer | FileAnswer] = [await house.page(index, name) for index in indexes]
    if name != "gone":
        answers += [await house.file(index, key, filename) for index in indexes]
    unconcerned = await house.page("open", "levers")
    board = house.instance.board
    assert all(answer.is_keepable and board.holds(answer.stamp) for answer in answers)
    house.instance.registry.change_now(change)
    assert not any(board.holds(answer.stamp) or house.instance.index.holds(answer) for answer in answers)
    if change not in (drop, move):
        assert board.holds(unconcerned.stamp)
    for index in indexes:
        assert await house.page(index, name) not in answers


async def test_what_changes_right_after_the_facts_were_read_is_not_missed(house: House) -> None:
    waiting = [GEARS]

    def publish(*_: object) -> None:
        while waiting:
            house.publish("vault/safe", waiting.pop())

    event.listen(house.instance.registry._reading, "after_cursor_execute", publish)
    assert (await house.page("vault", "gears")).decision.word is Word.PRIVATE


async def test_what_is_answered_during_a_change_is_not_kept(house: House) -> None:
    house.publish("acme/widgets", GEARS)
    board = house.instance.board
    touched = board.unsettle(["name:*/gears"])
    answer = await house.page("acme", "gears")
    board.settle(touched)
    assert answer.decision.word is Word.PRIVATE
    assert (answer.is_keepable, answer.good_until, answer.token) == (False, 0.0, "")
    assert await house.page("acme", "gears") is not answer


async def test_a_new_configuration_ends_every_answer_of_the_old(house: House) -> None:
    house.publish("acme/widgets", GEARS)
    instance, serial = house.instance, new_serial()
    instance.board.put_in_force(serial)
    index = Index(
        instance.snapshot.tree,
        instance.registry,
        instance.pages,
        instance.known_names,
        Sources(instance.registry, instance.board, instance.sightings, lambda _: ()),
        instance.board,
        serial,
        instance.now,
    )
    answer = await index.page(house.asked("acme", "gears"))
    assert index.holds(answer)
    assert await index.page(house.asked("acme", "gears")) is answer
    instance.board.put_in_force(new_serial())
    with pytest.raises(Outdated):
        index.holds(answer)
    with pytest.raises(Outdated):
        await index.page(house.asked("acme", "gears"))


async def test_a_command_answers_by_its_own_configuration_whatever_is_in_force(house: House) -> None:
    house.publish("acme/widgets", GEARS)
    answer = await house.page("acme", "gears")
    house.instance.board.put_in_force(new_serial())
    assert not house.instance.index.holds(answer)
    assert (await house.page("acme", "gears")).decision.word is Word.PRIVATE


async def test_what_is_kept_is_bounded(
    house: House, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DECISION", 4 << 20)
    names = [f"name-{number}" for number in range(6)]
    for name in names:
        await house.page("vault", name)
    index = house.instance.index
    assert len(index._kept_pages) == 4
    monkeypatch.setattr(module, "_DECISION", 17 << 20)
    await house.page("vault", "huge")
    assert Name("huge") not in {name for _, name, _, _ in index._kept_pages}
