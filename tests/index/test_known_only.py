"""`ask: known`: a name leaves the house only where it stands in the kept list of the upstream that is asked."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from proxy.cache.names_file import write_list
from proxy.domain.decision import Trouble, Word
from proxy.domain.names import Name
from proxy.domain.negotiate import Coding
from proxy.domain.requirements import Needs, parse_requirement
from proxy.index.answers import Borrowed
from proxy.index.explain import explain
from proxy.index.names import upstreams_listed
from proxy.index.warm import warm
from tests.index.conftest import OWNER, House, OpenHouse
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until_async
from tests.support.wheels import make_wheel

FILENAME, CONTENT = make_wheel("cogs", "1.0")
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def discreet(open_house: OpenHouse, upstream: FakeUpstream, second: FakeUpstream) -> House:
    """A house that asks two upstreams for what they list, and for nothing else."""
    config = base_config(upstream)
    config["upstreams"]["second"] = base_config(second)["upstreams"]["pypi"]
    policy = {"upstreams": ["pypi", "second"], "ask": "known"}
    return open_house({**config, "policy": policy, "projects": {"default": {}}})


def keep_list(house: House, upstream: str, *names: str) -> None:
    """Put a list into the place of the one kept, as a refresh does."""
    url = house.instance.snapshot.upstreams[upstream].index_url
    path = house.instance.layout.names_of(upstream)
    write_list(f"{path}.new", map(Name, sorted(names)), url, None)
    Path(f"{path}.new").rename(path)
    house.instance.board.renew(f"names-of:{upstream}")


async def test_a_name_that_no_upstream_lists_is_asked_of_nobody_by_any_way(
    discreet: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    for each in (upstream, second):
        each.add_file("cogs", FILENAME, CONTENT)
    keep_list(discreet, "pypi", "numpy")
    keep_list(discreet, "second")
    instance, root = discreet.instance, discreet.instance.snapshot.tree.root
    page = await discreet.page("", "cogs")
    assert page.decision.word is Word.UNKNOWN
    assert "only names on a kept list are asked for" in page.decision.reason
    assert page.is_keepable
    file = await discreet.file("", DIGEST, FILENAME)
    assert (file.source, file.decision.word) == (None, Word.UNKNOWN)
    assert await instance.index.own_page(discreet.asked("", "cogs")) is None
    explained = await explain(instance.index, root, "cogs", OWNER, discreet.sight(OWNER))
    trail: Any = explained.shape["trail"]
    assert [step["because"] for step in trail if step["step"] == "upstream"][:2] == [
        f"cogs is not on the kept list of {each}, so it is not asked" for each in ("pypi", "second")
    ]

    async def current() -> Any:
        return instance

    warmed = await warm(current, root.path, Needs((parse_requirement("cogs==1.0"),)))
    assert [name for name, _ in warmed.errors] == ["cogs"]
    assert upstream.asked_for("cogs") == second.asked_for("cogs") == []


async def test_a_name_is_asked_of_the_upstream_that_lists_it_alone(
    discreet: House, upstream: FakeUpstream, second: FakeUpstream
) -> None:
    for each in (upstream, second):
        each.add_file("cogs", FILENAME, CONTENT)
    keep_list(discreet, "pypi", "numpy")
    keep_list(discreet, "second", "cogs")
    page = await discreet.page("", "cogs")
    assert (page.decision.word, page.decision.upstream) == (Word.UPSTREAM, "second")
    assert isinstance((await discreet.file("", DIGEST, FILENAME)).source, Borrowed)
    document = await discreet.instance.documents.get(page, None, base="..", coding=Coding.IDENTITY)
    assert document is not None
    assert upstream.asked_for("cogs") == []
    assert second.asked_for("cogs") != []


async def test_a_list_that_never_came_is_trouble_and_no_reason_to_ask(
    discreet: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    upstream.fault("/simple/", status=503)
    page = await discreet.page("", "cogs")
    assert (page.decision.word, page.decision.trouble) == (Word.UNAVAILABLE, Trouble.BUSY)
    assert (await discreet.file("", DIGEST, FILENAME)).decision.word is Word.UNAVAILABLE
    assert upstream.asked_for("cogs") == []


async def test_a_new_list_ends_what_was_said_by_the_old_one(discreet: House, upstream: FakeUpstream) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    keep_list(discreet, "pypi")
    keep_list(discreet, "second")
    for _ in range(2):
        assert (await discreet.page("", "cogs")).decision.word is Word.UNKNOWN
    keep_list(discreet, "pypi", "cogs")
    assert (await discreet.page("", "cogs")).decision.word is Word.UPSTREAM
    keep_list(discreet, "pypi")
    assert (await discreet.page("", "cogs")).decision.word is Word.UNKNOWN
    assert (await discreet.file("", DIGEST, FILENAME)).source is None


async def test_a_name_that_is_claimed_while_a_list_is_fetched_is_not_asked_for(
    discreet: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("cogs", FILENAME, CONTENT)
    upstream.fault("/simple/", delay=0.5)
    waiting = asyncio.create_task(discreet.page("", "cogs"))
    await wait_until_async(upstream.requests, what="the list to be asked for")
    discreet.publish("default", FILENAME)
    assert (await waiting).decision.word is Word.PRIVATE
    assert upstream.asked_for("cogs") == []


def test_the_lists_are_kept_fresh_where_names_are_asked_by_them(discreet: House) -> None:
    assert upstreams_listed(discreet.instance.snapshot.tree) == {"pypi", "second"}
