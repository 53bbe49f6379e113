"""Names in `merge`: private and public files on one page, and what becomes of it where one side is missing."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from proxy.domain.access import ANONYMOUS
from proxy.domain.decision import Word
from proxy.index.answers import Borrowed, PageAnswer
from proxy.index.explain import explain
from proxy.registry.packages import StoredFile
from tests.index.conftest import ALICE, OWNER, House, OpenHouse
from tests.registry.making import wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel

CONFIG: dict[str, Any] = {
    "users": {"alice": {}},
    "groups": {
        "acme": {
            "members": {"alice": "reporter"},
            "policy": {"merge": ["gears", "cogs"], "reserve": ["cogs"]},
            "projects": {"widgets": {}, "sandbox": {}},
            "groups": {
                "vault": {"policy": {"forward": False}, "projects": {"safe": {}}},
                "strict": {"policy": {"deny": ["gears"]}, "projects": {"own": {}}},
            },
        },
        "open": {
            "visibility": "public",
            "policy": {"merge": ["gears"]},
            "projects": {"tools": {}, "hidden": {"visibility": "private"}},
        },
    },
}
OURS, THEIRS = wheel("gears", "1.0"), wheel("gears", "2.0")


@pytest.fixture
def merging(open_house: OpenHouse, upstream: FakeUpstream) -> House:
    """A house that publishes gears 1.0 in acme/widgets, in front of an upstream that has 2.0."""
    house = open_house(base_config(upstream) | CONFIG)
    house.publish("acme/widgets", OURS)
    upstream.add_file("gears", *make_wheel("gears", "2.0"))
    return house


async def filenames(answer: PageAnswer) -> list[str]:
    return [file.filename for file in (await answer.screened()).page.files]


async def test_both_are_listed_and_each_is_served_from_where_it_is(merging: House) -> None:
    page = await merging.page("acme", "gears")
    assert (page.decision.word, page.decision.upstream, page.decision.rule) == (
        Word.MERGED,
        "pypi",
        "merge gears",
    )
    assert page.is_served
    assert await filenames(page) == [OURS, THEIRS]
    ours, theirs = (await page.screened()).page.files
    found = await merging.file("acme", ours.key, OURS)
    assert isinstance(found.source, StoredFile)
    found = await merging.file("acme", theirs.key, THEIRS)
    assert isinstance(found.source, Borrowed)
    assert found.decision.word is Word.MERGED


async def test_who_cannot_read_the_private_files_is_told_of_a_claim_alone(merging: House) -> None:
    assert (await merging.page("acme/sandbox", "gears")).decision.word is Word.CLAIMED
    merging.publish("open/hidden", wheel("gears", "3.0"))
    assert (await merging.page("open", "gears", ANONYMOUS)).decision.word is Word.CLAIMED


async def test_a_reserved_name_is_not_merged(merging: House, upstream: FakeUpstream) -> None:
    merging.publish("acme/widgets", wheel("cogs", "1.0"))
    upstream.add_file("cogs", *make_wheel("cogs", "2.0"))
    page = await merging.page("acme", "cogs")
    assert page.decision.word is Word.PRIVATE
    assert await filenames(page) == [wheel("cogs", "1.0")]
    assert upstream.asked_for("cogs") == []


async def test_T_CONF5_a_public_local_version_does_not_stand_in_for_a_private_one(
    merging: House, upstream: FakeUpstream
) -> None:
    filename, content = make_wheel("gears", "1.0+evil")
    key = hashlib.sha256(content).hexdigest()
    upstream.add_file("gears", filename, content)
    page = await merging.page("acme", "gears")
    assert await filenames(page) == [OURS, THEIRS]
    found = await merging.file("acme", key, filename)
    assert found.source is None
    assert found.withheld is not None
    assert found.withheld.rule == "merge"
    assert "widgets" not in found.withheld.reason


async def test_a_version_of_a_project_that_the_caller_cannot_read_is_dropped_and_not_told_whose_it_is(
    merging: House, upstream: FakeUpstream
) -> None:
    merging.publish("open/tools", wheel("gears", "1.0"))
    merging.publish("open/hidden", wheel("gears", "2.0"))
    page = await merging.page("open", "gears", ANONYMOUS)
    screened = await page.screened()
    assert page.decision.word is Word.MERGED
    assert await filenames(page) == [OURS]
    [dropped] = screened.withheld
    assert (dropped.filename, dropped.rule, dropped.is_listed) == (THEIRS, "merge", False)
    assert "hidden" not in str(screened)
    assert await filenames(await merging.page("open", "gears", OWNER)) == [OURS, THEIRS]


@pytest.mark.parametrize("fault", [{"status": 503}, {"drop": True}], ids=["busy", "broken off"])
async def test_an_upstream_in_trouble_takes_the_page_with_it_but_no_private_file(
    merging: House, upstream: FakeUpstream, fault: dict[str, Any]
) -> None:
    upstream.fault("/simple/gears/", **fault)
    page = await merging.page("acme", "gears")
    assert page.decision.word is Word.UNAVAILABLE
    assert await filenames(page) == []
    new = merging.publish("acme/widgets", wheel("gears", "1.1"))
    upstream.reset_requests()
    ours = await merging.file("acme", new.sha256, new.filename)
    assert isinstance(ours.source, StoredFile)
    assert ours.decision.word is Word.MERGED
    assert upstream.asked_for("gears") == [], "a private file was looked for upstream"
    theirs = await merging.file("acme", "0" * 64, THEIRS)
    assert (theirs.source, theirs.decision.word) == (None, Word.UNAVAILABLE)


@pytest.mark.parametrize("index", ["acme/vault", "acme/strict", "nobody"])
async def test_where_nothing_is_to_be_had_upstream_the_private_files_stand_alone(
    merging: House, upstream: FakeUpstream, index: str
) -> None:
    if index == "nobody":
        upstream.remove_project("gears")
        index = "acme"
    else:
        merging.publish(f"{index}/{'safe' if index.endswith('vault') else 'own'}", OURS)
    page = await merging.page(index, "gears")
    assert page.decision.word is Word.PRIVATE
    assert await filenames(page) == [OURS]
    assert page.is_keepable
    own = (await page.screened()).page.files[0]
    assert isinstance((await merging.file(index, own.key, OURS)).source, StoredFile)


async def test_what_is_published_later_shadows_at_once(merging: House) -> None:
    page = await merging.page("acme", "gears")
    assert await filenames(page) == [OURS, THEIRS]
    theirs = (await page.screened()).page.files[1]
    assert await merging.page("acme", "gears") is not page
    merging.publish("acme/sandbox", wheel("gears", "2.0.0"))
    assert not merging.instance.index.holds(page)
    again = await merging.page("acme", "gears")
    assert await filenames(again) == [OURS, wheel("gears", "2.0.0")]
    assert again.token != page.token != ""
    assert (await merging.file("acme", theirs.key, THEIRS)).source is None


async def test_the_projects_own_page_has_its_own_files_alone_and_asks_nobody(
    merging: House, upstream: FakeUpstream
) -> None:
    page = await merging.instance.index.own_page(merging.asked("acme/widgets", "gears"))
    assert page is not None
    assert page.decision.word is Word.PRIVATE
    assert await filenames(page) == [OURS]
    assert upstream.asked_for("gears") == []


async def test_what_was_merged_is_given_again_without_asking(merging: House, upstream: FakeUpstream) -> None:
    first = await merging.page("acme", "gears")
    kept = await merging.page("acme", "gears")
    assert (kept.cache_status, kept.token, kept.is_keepable) == ("hit", first.token, True)
    assert [step.because for step in kept.decision.trail][-1] == "pypi has it (hit)"
    assert await merging.page("acme", "gears") is kept
    assert await merging.page("acme", "gears", ALICE) is not kept
    assert len(upstream.asked_for("gears")) == 1


async def test_explain_tells_of_each_file_whose_it_is(merging: House, upstream: FakeUpstream) -> None:
    upstream.add_file("gears", *make_sdist("gears", "1.0"))
    merging.publish("acme/sandbox", wheel("gears", "0.9"))
    namespace = merging.instance.snapshot.tree.find("acme")
    found = await explain(merging.instance.index, namespace, "gears", OWNER, merging.sight(OWNER))
    files: Any = found.shape["files"]
    assert [(file["filename"], file["source"], file["served"]) for file in files] == [
        (wheel("gears", "0.9"), "acme/sandbox", True),
        (OURS, "acme/widgets", True),
        (THEIRS, "pypi", True),
        ("gears-1.0.tar.gz", "pypi", False),
    ]
    assert (files[-1]["rule"], files[-1]["until"]) == ("merge", None)
    trail: Any = found.shape["trail"]
    assert [step["because"] for step in trail if step["outcome"] == "stop"] == ["3 served, 1 withheld"]
