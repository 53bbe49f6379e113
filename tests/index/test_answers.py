"""What an index answers: pages, files and names, with upstreams asked in order, and decided anew after waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from proxy.domain.access import ANONYMOUS, Caller
from proxy.domain.decision import Trouble, Word
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NoSuchNamespace, NotAuthenticated
from proxy.index.answers import Borrowed
from proxy.registry.packages import MANY_FILES, StoredFile, insert_file
from proxy.storage.audit import By
from proxy.storage.database import Change
from tests.index.conftest import ALICE, OWNER, House, OpenHouse
from tests.registry.making import new_file, wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_sdist, make_wheel

GEARS = wheel("gears", "1.0")


@pytest.fixture
def two(open_house: OpenHouse, upstream: FakeUpstream, second: FakeUpstream) -> House:
    """A house that asks `upstream` first and then `second`."""
    config = base_config(upstream)
    config["upstreams"]["second"] = base_config(second)["upstreams"]["pypi"]
    return open_house({**config, "policy": {"upstreams": ["pypi", "second"]}})


@pytest.mark.parametrize(
    ("path", "caller", "refusal"),
    [
        ("", ANONYMOUS, None),
        ("open/tools", ANONYMOUS, None),
        ("open/hidden", ANONYMOUS, NotAuthenticated),
        ("open/hidden", ALICE, NoSuchNamespace),
        ("acme", ANONYMOUS, NotAuthenticated),
        ("acme", ALICE, None),
        ("acme/widgets", ALICE, None),
        ("acme/nothing", ANONYMOUS, NotAuthenticated),
        ("acme/nothing/below", ALICE, NoSuchNamespace),
        ("open/nothing", ANONYMOUS, NoSuchNamespace),
        ("nothing", ANONYMOUS, NoSuchNamespace),
        ("nothing", OWNER, NoSuchNamespace),
    ],
)
def test_an_index_is_reached_by_those_who_may_ask_it(
    house: House, path: str, caller: Caller, refusal: type[Exception] | None
) -> None:
    tree, index = house.instance.snapshot.tree, house.instance.index

    def reach() -> str:
        return index.reach(NamespacePath(path), tree.get(path), house.sight(caller)).path

    if refusal is None:
        assert reach() == path
    else:
        with pytest.raises(refusal):
            reach()


async def test_private_pages_never_wait_for_an_upstream(house: House, upstream: FakeUpstream) -> None:
    house.publish("acme/widgets", GEARS)
    upstream.add_file("gears", *make_wheel("gears", "99.0"))
    for index in ("", "acme", "acme/widgets"):
        answer = await house.page(index, "gears")
        assert answer.decision.word is Word.PRIVATE
        assert [file.filename for file in (await answer.screened()).page.files] == [GEARS]
        assert answer.is_served
    assert upstream.asked_for("gears") == []


@pytest.mark.parametrize(
    ("index", "name", "word"),
    [
        ("acme/sandbox", "gears", Word.CLAIMED),
        ("acme", "acme-secret", Word.CLAIMED),
        ("", "acme-secret", Word.CLAIMED),
        ("acme", "gone", Word.CLAIMED),
        ("vault", "gears", Word.NOT_FORWARDED),
        ("vault/safe", "requests", Word.NOT_FORWARDED),
        ("open", "denied", Word.DENIED),
        ("open/tools", "denied-too", Word.DENIED),
    ],
)
async def test_what_is_refused_is_not_asked_for(
    house: House, upstream: FakeUpstream, index: str, name: str, word: Word
) -> None:
    house.publish("acme/widgets", GEARS)
    house.publish("acme/widgets", wheel("gone", "1.0"))
    house.remove("acme/widgets", "gone")
    answer = await house.page(index, name)
    assert answer.decision.word is word
    assert not (await answer.screened()).page.files
    assert not answer.is_served
    assert upstream.asked_for(name) == []


async def test_a_name_with_many_files_leaves_the_loop_free_and_is_told_whole(house: House) -> None:
    wheels = [wheel("gears", f"1.{number}") for number in range(MANY_FILES)]

    def publish(change: Change) -> None:
        for filename in wheels:
            insert_file(change, NamespacePath("acme/widgets"), new_file(filename))

    house.instance.registry.change_now(publish)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    screened = await (await house.page("acme", "gears")).screened()
    other.cancel()
    assert [file.filename for file in screened.page.files] == wheels
    assert turns, "nobody else had a turn while the page was made"


async def test_a_page_of_the_upstream_is_asked_for_once(house: House, upstream: FakeUpstream) -> None:
    upstream.add_file("gears", *make_wheel("gears", "2.0"))
    first, again = await house.page("", "gears"), await house.page("open/tools", "gears")
    assert first.decision.word is again.decision.word is Word.UPSTREAM
    assert first.decision.upstream == "pypi"
    assert [file.filename for file in (await again.screened()).page.files] == [wheel("gears", "2.0")]
    assert first.cache_status.startswith("fwd=uri-miss")
    assert again.cache_status == "hit"
    assert first.token == again.token != ""
    assert len(upstream.asked_for("gears")) == 1


async def test_a_name_that_no_upstream_has_is_unknown(
    two: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    answer = await two.page("", "gears")
    assert answer.decision.word is Word.UNKNOWN
    assert len(upstream.asked_for("gears")) == len(second.asked_for("gears")) == 1


async def test_upstreams_are_asked_in_order_and_the_first_that_has_the_name_wins(
    two: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.add_file("gears", *make_wheel("gears", "1.0"))
    second.add_file("gears", *make_wheel("gears", "2.0"))
    answer = await two.page("", "gears")
    assert answer.decision.upstream == "pypi"
    assert [file.version for file in (await answer.screened()).page.files] == ["1.0"]
    assert second.asked_for("gears") == []


async def test_a_valid_no_leads_on_to_the_next(
    two: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    second.add_file("gears", *make_wheel("gears", "2.0"))
    answer = await two.page("", "gears")
    assert (answer.decision.word, answer.decision.upstream) == (Word.UPSTREAM, "second")
    assert len(upstream.asked_for("gears")) == 1


async def test_a_page_without_files_ends_the_search(
    two: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    upstream.add_project("gears")
    second.add_file("gears", *make_wheel("gears", "2.0"))
    answer = await two.page("", "gears")
    assert (answer.decision.word, answer.decision.upstream) == (Word.UPSTREAM, "pypi")
    assert (await answer.screened()).page.files == ()
    assert second.asked_for("gears") == []


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        ({"status": 503, "retry_after": 120}, Trouble.BUSY),
        ({"status": 429}, Trouble.BUSY),
        ({"status": 500}, Trouble.FAULTY),
        ({"status": 401}, Trouble.FAULTY),
        ({"status": 403}, Trouble.FAULTY),
        ({"html_error": True}, Trouble.FAULTY),
        ({"drop": True}, Trouble.FAULTY),
        ({"truncate": 100}, Trouble.FAULTY),
        ({"as_project": "cogs"}, Trouble.FAULTY),
        ({"gzip_bomb": 300_000_000}, Trouble.FAULTY),
    ],
)
async def test_any_failure_ends_the_search(
    two: House, upstream: FakeUpstream, second: FakeUpstream, fault: dict[str, Any], trouble: Trouble
) -> None:
    upstream.add_file("cogs", *make_wheel("cogs", "1.0"))
    upstream.add_file("gears", *make_wheel("gears", "1.0"))
    upstream.fault("/simple/gears/", **fault)
    second.add_file("gears", *make_wheel("gears", "2.0"))
    answer = await two.page("", "gears")
    assert (answer.decision.word, answer.decision.trouble) == (Word.UNAVAILABLE, trouble)
    assert answer.decision.retry_after is not None
    assert 1 <= answer.decision.retry_after <= 5
    assert not answer.is_served
    assert second.asked_for("gears") == []


async def test_a_silent_upstream_is_a_time_out(open_house: OpenHouse, upstream: FakeUpstream) -> None:
    house = open_house(base_config(upstream, read_timeout="1s"))
    upstream.fault("/simple/gears/", hang=True)
    answer = await house.page("", "gears")
    assert (answer.decision.word, answer.decision.trouble) == (Word.UNAVAILABLE, Trouble.TIMEOUT)


async def test_a_file_is_found_on_an_empty_cache(house: House, upstream: FakeUpstream) -> None:
    for filename, content in (make_wheel("gears", "1.0"), make_sdist("gears-of-war", "1.0")):
        upstream.add_file(filename.split("-")[0].replace("_", "-"), filename, content)
        answer = await house.file("", hashlib.sha256(content).hexdigest(), filename)
        assert isinstance(answer.source, Borrowed)
        assert (answer.source.upstream, answer.source.record.filename) == ("pypi", filename)
        assert answer.decision.word is Word.UPSTREAM


@pytest.mark.parametrize("filename", ["gears", "gears.whl", "../gears-1.0.whl", "gears-1.0.tar.gz.asc"])
async def test_what_can_be_no_distribution_has_no_answer(house: House, filename: str) -> None:
    root = house.instance.snapshot.tree.root
    assert await house.instance.index.file(root, house.sight(OWNER), "0" * 64, filename) is None


async def test_a_file_needs_its_own_digest_and_name(house: House, upstream: FakeUpstream) -> None:
    filename, content = make_wheel("gears", "1.0")
    other, other_content = make_wheel("gears", "2.0")
    upstream.add_file("gears", filename, content)
    upstream.add_file("gears", other, other_content)
    answer = await house.file("", hashlib.sha256(other_content).hexdigest(), filename)
    assert answer.source is None
    assert answer.decision.word is Word.UPSTREAM


async def test_a_private_file_is_served_where_its_project_is_shown(house: House) -> None:
    new = house.publish("acme/widgets", GEARS)
    for index in ("", "acme", "acme/widgets"):
        answer = await house.file(index, new.sha256, GEARS)
        assert isinstance(answer.source, StoredFile)
    answer = await house.file("acme/sandbox", new.sha256, GEARS)
    assert (answer.source, answer.decision.word) == (None, Word.CLAIMED)


async def test_a_displaced_file_stays_at_its_address(house: House) -> None:
    old = house.publish("acme/widgets", GEARS, content="old")
    house.clock.advance(hours=1)
    new = house.publish("acme/sandbox", GEARS, content="new", at=house.clock.at)
    page = await house.page("acme", "gears")
    assert [file.sha256 for file in (await page.screened()).page.files] == [new.sha256]
    for published, project in ((old, "acme/widgets"), (new, "acme/sandbox")):
        answer = await house.file("acme", published.sha256, GEARS)
        assert isinstance(answer.source, StoredFile)
        assert answer.source.project == project


def challenged(house: House, upstream: FakeUpstream, name: str) -> None:
    """A tombstone of a private project: an anonymous caller is asked for credentials."""
    house.publish("acme/widgets", wheel(name.replace("-", "_"), "1.0"))
    house.remove("acme/widgets", name)


def failing(_house: House, upstream: FakeUpstream, name: str) -> None:
    upstream.fault(f"/simple/{name}/", status=503)


def denied(house: House, upstream: FakeUpstream, name: str) -> None:
    """A tombstone of a public project, which everybody may know of."""
    house.publish("open/tools", wheel(name.replace("-", "_"), "1.0"))
    house.remove("open/tools", name)


def unknown(_house: House, _upstream: FakeUpstream, _name: str) -> None:
    """Nothing is done: nobody has it."""


def listed_without_the_file(_house: House, upstream: FakeUpstream, name: str) -> None:
    upstream.add_file(name, *make_wheel(name, "7.0"))


WEIGHTS = [challenged, failing, denied, unknown]
"""401, 5xx, 403, 404: what weighs more answers for a filename of several candidate names."""


@pytest.mark.parametrize(
    ("longer", "shorter"),
    list(permutations(WEIGHTS, 2)),
    ids=lambda made: made.__name__,
)
async def test_of_several_refusals_the_heaviest_answers(
    house: House,
    upstream: FakeUpstream,
    longer: Callable[[House, FakeUpstream, str], None],
    shorter: Callable[[House, FakeUpstream, str], None],
) -> None:
    longer(house, upstream, "one-two")
    shorter(house, upstream, "one")
    answer = await house.file("", "0" * 64, "one-two-1.0.tar.gz", ANONYMOUS)
    heaviest = min(longer, shorter, key=WEIGHTS.index)
    assert answer.source is None
    assert answer.asked.name == ("one-two" if heaviest is longer else "one")
    word = {challenged: Word.CLAIMED, failing: Word.UNAVAILABLE, denied: Word.CLAIMED, unknown: Word.UNKNOWN}
    assert answer.decision.word is word[heaviest]
    assert answer.decision.challenge is (heaviest is challenged)


async def test_a_candidate_that_has_the_file_serves_it_whatever_the_others_say(
    house: House, upstream: FakeUpstream
) -> None:
    filename, content = make_sdist("one", "1.0")
    filename = "one-two-1.0.tar.gz"
    upstream.add_file("one", filename, content)
    challenged(house, upstream, "one-two")
    answer = await house.file("", hashlib.sha256(content).hexdigest(), filename, ANONYMOUS)
    assert isinstance(answer.source, Borrowed)


async def test_of_equal_refusals_the_likeliest_name_answers(house: House, upstream: FakeUpstream) -> None:
    listed_without_the_file(house, upstream, "one-two")
    answer = await house.file("", "0" * 64, "one-two-1.0.tar.gz")
    assert answer.asked.name == "one-two"


async def test_a_file_of_a_quarantined_project_is_withheld(house: House, upstream: FakeUpstream) -> None:
    filename, content = make_wheel("gears", "1.0")
    upstream.add_file("gears", filename, content)
    upstream.change_project("gears", status="quarantined", status_reason="malware")
    page = await house.page("", "gears")
    assert (await page.screened()).page.files == ()
    answer = await house.file("", hashlib.sha256(content).hexdigest(), filename)
    assert answer.source is None


async def test_names_are_those_whose_page_would_be_private(house: House) -> None:
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/sandbox", wheel("cogs", "1.0"))
    house.publish("acme/sandbox", wheel("gone", "1.0"))
    house.remove("acme/sandbox", "gone")
    house.publish("open/tools", wheel("levers", "1.0"))
    house.publish("open/hidden", wheel("secrets", "1.0"))
    house.publish("default", wheel("nuts", "1.0"))
    assert await house.names("") == ["cogs", "gears", "levers", "nuts", "secrets"]
    assert await house.names("", ANONYMOUS) == ["levers", "nuts"]
    assert await house.names("", ALICE) == ["cogs", "gears", "levers", "nuts"]
    assert await house.names("acme", ALICE) == ["cogs", "gears"]
    assert await house.names("acme/sandbox", ALICE) == ["cogs"]
    assert await house.names("open", ANONYMOUS) == ["levers"]
    assert await house.names("vault") == []


async def test_at_the_root_a_name_is_listed_for_readers_of_its_owner_alone(house: House) -> None:
    house.publish("acme/widgets", wheel("shared", "1.0"))
    house.clock.advance(hours=1)
    house.publish("open/tools", wheel("shared", "2.0"), at=house.clock.at)
    house.publish("open/tools", wheel("acme_tool", "2.0"), at=house.clock.at)
    assert await house.names("", ANONYMOUS) == []
    assert await house.names("", ALICE) == ["shared"]
    assert await house.names("open", ANONYMOUS) == ["acme-tool", "shared"]
    page = await house.page("", "shared", ALICE)
    assert page.decision.projects == ("acme/widgets",)


@pytest.mark.parametrize("caller", [ANONYMOUS, ALICE, OWNER], ids=lambda caller: caller.label)
async def test_lists_and_pages_agree(house: House, caller: Caller) -> None:
    """A name stands in the list exactly where its page is private."""
    names = ("gears", "acme-one", "shared", "gone", "levers")
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/sandbox", wheel("acme_one", "1.0"))
    house.publish("open/tools", wheel("acme_one", "1.0"))
    house.publish("open/tools", wheel("shared", "1.0"))
    house.publish("default", wheel("shared", "1.0"))
    house.publish("open/hidden", wheel("levers", "1.0"))
    house.publish("open/tools", wheel("gone", "1.0"))
    house.remove("open/tools", "gone")
    for namespace in house.instance.snapshot.tree:
        if namespace.path not in house.sight(caller).askable:
            continue
        private = [
            name
            for name in names
            if (await house.page(namespace.path, name, caller)).decision.word is Word.PRIVATE
        ]
        assert await house.names(namespace.path, caller) == sorted(private)


async def test_a_claim_that_comes_during_the_wait_decides_the_page(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("gears", *make_wheel("gears", "99.0"))
    upstream.fault("/simple/gears/", delay=0.5)
    waiting = asyncio.create_task(house.page("acme", "gears"))
    elsewhere = asyncio.create_task(house.page("acme/sandbox", "gears"))
    await wait_until_async(lambda: upstream.asked_for("gears"), what="the upstream to be asked")
    house.publish("acme/widgets", GEARS)
    answer, other = await waiting, await elsewhere
    assert answer.decision.word is Word.PRIVATE
    assert [file.filename for file in (await answer.screened()).page.files] == [GEARS]
    assert other.decision.word is Word.CLAIMED
    assert not (await other.screened()).page.files


async def test_a_page_does_not_outlive_the_deletion_of_its_files(house: House) -> None:
    house.publish("acme/widgets", GEARS)
    answer = await house.page("acme", "gears")
    assert house.instance.index.holds(answer)
    house.remove("acme/widgets", "gears")
    assert not house.instance.index.holds(answer)
    assert (await house.page("acme", "gears")).decision.word is Word.CLAIMED


async def test_an_answer_holds_until_its_name_changes(house: House, upstream: FakeUpstream) -> None:
    house.publish("acme/widgets", GEARS)
    answer = await house.page("acme", "gears")
    house.publish("acme/widgets", wheel("cogs", "1.0"))
    assert house.instance.index.holds(answer)
    house.publish("acme/widgets", wheel("gears", "2.0"))
    assert not house.instance.index.holds(answer)


async def test_a_files_answer_does_not_outlive_that_file(house: House) -> None:
    new = house.publish("acme/widgets", GEARS)
    house.publish("acme/widgets", wheel("gears", "2.0"))
    answer = await house.file("acme", new.sha256, GEARS)
    index = house.instance.index
    assert index.holds(answer)
    tree = house.instance.snapshot.tree
    await house.instance.publisher.delete(
        tree.find("acme/widgets"), answer.asked.name, "1.0", by=By(OWNER, house.instance.now())
    )
    assert not index.holds(answer)
    assert (await house.file("acme", new.sha256, GEARS)).source is None


async def test_an_upstream_file_does_not_hold_once_its_name_is_claimed(
    house: House, upstream: FakeUpstream
) -> None:
    filename, content = make_wheel("gears", "99.0")
    upstream.add_file("gears", filename, content)
    answer = await house.file("acme", hashlib.sha256(content).hexdigest(), filename)
    assert house.instance.index.holds(answer)
    house.publish("acme/widgets", GEARS)
    assert not house.instance.index.holds(answer)
