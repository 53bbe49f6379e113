"""The confusion radar: what it finds, since when, whom it asks for that, and when it looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.known_names import KnownNames
from proxy.domain import sorted_names
from proxy.domain.names import Name, look_alike_key
from proxy.domain.namespaces import NamespacePath
from proxy.domain.snapshot import UpstreamSettings
from proxy.domain.sorted_names import SortedNames
from proxy.index import radar as module
from proxy.index.radar import Claim, Match, Radar, Sought, count_confusions, list_confusions
from proxy.observe.metrics import Metrics
from proxy.registry import namespaces
from proxy.registry.claims import Kind
from proxy.registry.listing import Window
from proxy.server.worker import _look_for_confusions
from proxy.storage.board import Board
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.upstream.client import Upstream
from tests.index.conftest import House
from tests.registry import making
from tests.registry.making import NOW, Clock
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until_async

CONFIG: dict[str, Any] = {
    "policy": {"reserve": ["root-only"]},
    "projects": {"default": {}},
    "groups": {
        "acme": {"policy": {"reserve": ["acme-*", "acme"]}, "projects": {"widgets": {}, "sandbox": {}}},
        "globex": {"projects": {"things": {}}},
    },
}
ACME = NamespacePath("acme")
Row = tuple[object, ...]


def claim(text: str, kind: Kind = Kind.PACKAGE) -> Claim:
    return Claim(ACME, text, kind)


def among(names: set[str], *claims: Claim) -> set[tuple[str, str, str]]:
    """Claim, name and match of all that is found."""
    found, excess = Sought.of(claims).among(SortedNames.of(map(Name, sorted(names))), "pypi")
    assert excess == []
    assert all((one.tenant, one.upstream) == ("acme", "pypi") for one in found)
    return {(one.claim, one.name, one.match) for one in found}


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        ("widgets", "widgets", Match.SAME),
        ("widgets", "widget", None),
        ("pillow", "pi11ow", Match.LOOK_ALIKE),
        ("acme-tools", "acmet00ls", Match.LOOK_ALIKE),
        ("acme-*", "acme-tools", Match.SAME),
        ("acme-*", "acme", None),
        ("acme-*", "acme1", None),
        ("acme-*", "acne-tools", None),
        ("acme-i*", "acme-1", None),
        ("*-acme", "tools-acme", Match.SAME),
        ("*-acme", "acme", None),
        ("a*-b*-c", "ax-b-c", Match.SAME),
        ("a*-b*-c", "ax-b-cd", None),
    ],
)
def test_T_HOMO_what_meets_a_claim(text: str, name: str, match: Match | None) -> None:
    found = among({"0-before", name, "zzz-behind"}, claim(text))
    assert found == (set() if match is None else {(text, name, match)})


NAMES = st.sets(st.from_regex(r"[alo1]([alo1-]{0,3}[alo1])?", fullmatch=True), max_size=20)
PATTERNS = st.sets(st.from_regex(r"[al*]([al*-]{0,2}[al*])?", fullmatch=True), max_size=6)


@pytest.mark.parametrize("piece", [1, 1000])
@given(names=NAMES, packages=NAMES, patterns=PATTERNS)
def test_every_name_is_compared_with_every_claim(
    piece: int, names: set[str], packages: set[str], patterns: set[str]
) -> None:
    claims = [*map(claim, packages), *(claim(each, Kind.RESERVE) for each in patterns)]
    expected = {
        (each.text, name, Match.SAME if fnmatchcase(name, each.text) else Match.LOOK_ALIKE)
        for each in claims
        for name in names
        if fnmatchcase(name, each.text)
        or ("*" not in each.text and look_alike_key(Name(name)) == look_alike_key(Name(each.text)))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "PIECE", piece)
        patch.setattr(module, "PIECE", piece)
        assert among(names, *claims) == expected


@pytest.mark.parametrize("pattern", ["*", "a*", "*x"])
def test_of_a_claim_that_meets_very_many_names_the_first_are_noted(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_OF_ONE", 3)
    names = SortedNames.of(Name(f"a{number}x") for number in range(9))
    wide = claim(pattern, Kind.RESERVE)
    found, excess = Sought.of([wide]).among(names, "pypi")
    assert [one.name for one in found] == ["a0x", "a1x", "a2x"]
    assert excess == [(wide, "pypi", 9)]


class Site:
    """A registry, an upstream and its kept list, and a radar over them: what one process has."""

    def __init__(self, directory: Path, upstream: FakeUpstream, config: dict[str, Any] = CONFIG) -> None:
        self.clock = Clock()
        self.upstream = upstream
        self.snapshot = making.snapshot_of(config)
        self.layout = Layout(str(directory))
        self.layout.prepare()
        self.locks = Locks(self.layout)
        self.board = Board(self.layout)
        self.registry = Database(self.layout.registry_database, self.locks, name="registry", board=self.board)
        self.registry.migrate()
        self.registry.change_now(
            lambda change: namespaces.settle(change, self.snapshot.tree, NOW, file=making.FILE)
        )
        self.client = Upstream(
            UpstreamSettings("pypi", index_url=upstream.index_url, retries=0),
            max_page_size=10 << 20,
            user_agent="pypi-overlay/test",
            metrics=Metrics("0").upstream("pypi"),
            now=self.clock,
        )
        self.known = KnownNames(self.layout, self.locks, self.board, {"pypi": self.client}, self.clock)
        self.radar = self.another()

    def another(self, config: dict[str, Any] | None = None) -> Radar:
        """A radar beside the first one: under another configuration, or after a restart."""
        tree = self.snapshot.tree if config is None else making.tree_of(config)
        return Radar(tree, self.registry, self.known, self.locks, self.clock, self.clock())

    def publish(self, project: str, *names: str) -> None:
        for name in names:
            making.publish(self.registry, NamespacePath(project), making.wheel(name, "1.0"))

    def rows(self) -> set[Row]:
        """Tenant, claim, kind, name and match of every row."""
        items = self.registry.read_now(list_confusions)
        assert {item["upstream"] for item in items} <= {"pypi"}
        return {tuple(item[key] for key in ("tenant", "claim", "kind", "name", "match")) for item in items}

    def first_seen(self) -> dict[object, object]:
        return {item["name"]: item["first_seen"] for item in self.registry.read_now(list_confusions)}

    async def look(self, **later: float) -> None:
        self.clock.advance(**later)
        await self.radar.look()

    def asked(self) -> list[str]:
        return [request.path for request in self.upstream.requests()]

    async def close(self) -> None:
        await self.known.close()
        await self.client.close()
        self.registry.close()
        self.board.close()
        self.locks.close()


Open = Callable[..., Site]


@pytest.fixture
async def open_site(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        def opened(config: dict[str, Any] = CONFIG) -> Site:
            site = Site(tmp_path / "data", upstream, config)
            stack.push_async_callback(site.close)
            return site

        yield opened


@pytest.fixture
def site(open_site: Open) -> Site:
    return open_site()


async def test_every_kind_of_claim_is_looked_for_and_no_upstream_is_asked_for_one(site: Site) -> None:
    site.publish("acme/widgets", "pillow", "gone", "shared", "unknown_elsewhere")
    site.publish("globex/things", "shared")
    site.publish("default", "of_the_house")
    making.remove(site.registry, NamespacePath("acme/widgets"), "gone")
    for name in ("Pi11ow", "gone", "shared", "of.the.house", "acme-core", "acme", "r00t-0nly", "harmless"):
        site.upstream.add_project(name)
    checked = await site.radar.check()
    assert site.rows() == {
        ("acme", "pillow", "package", "pi11ow", "look-alike"),
        ("acme", "gone", "tombstone", "gone", "same"),
        ("acme", "shared", "package", "shared", "same"),
        ("globex", "shared", "package", "shared", "same"),
        ("/", "of-the-house", "package", "of-the-house", "same"),
        ("acme", "acme-*", "reserve", "acme-core", "same"),
        ("acme", "acme", "reserve", "acme", "same"),
        ("/", "root-only", "reserve", "r00t-0nly", "look-alike"),
    }
    assert (len(checked.new), checked.excess, checked.failed) == (8, (), {})
    assert site.asked() == ["/simple/"]
    count = site.registry.read_now(count_confusions)
    assert (count["package", "same"], count["reserve", "look-alike"], count["tombstone", "look-alike"]) == (
        3,
        1,
        0,
    )


async def test_since_when_is_kept_while_it_lasts_whatever_becomes_of_the_claim(site: Site) -> None:
    site.publish("acme/widgets", "pillow")
    site.upstream.add_project("pillow")
    await site.radar.check()
    site.upstream.add_project("pi11ow")
    making.remove(site.registry, NamespacePath("acme/widgets"), "pillow")
    site.clock.advance(days=1)
    checked = await site.radar.check()
    assert [one.name for one in checked.new] == ["pi11ow"]
    assert site.first_seen() == {"pillow": "2026-11-21T12:00:00Z", "pi11ow": "2026-11-22T12:00:00Z"}
    assert {row[2] for row in site.rows()} == {"tombstone"}
    site.upstream.remove_project("pillow")
    site.clock.advance(days=1)
    await site.radar.check()
    site.upstream.add_project("pillow")
    site.clock.advance(days=1)
    await site.radar.check()
    assert site.first_seen() == {"pillow": "2026-11-24T12:00:00Z", "pi11ow": "2026-11-22T12:00:00Z"}


async def test_what_was_noted_of_a_failing_upstream_stays(site: Site) -> None:
    site.upstream.add_project("acme-core")
    await site.radar.check()
    site.known.purge()
    site.upstream.fault("/simple/", status=500)
    checked = await site.radar.check()
    assert list(checked.failed) == ["pypi"]
    assert "500" in checked.failed["pypi"].message
    assert len(site.rows()) == 1


@pytest.mark.parametrize(
    "policy",
    [{"forward": False, "reserve": ["acme-*"]}, {"reserve": []}, {"upstreams": [], "reserve": ["acme-*"]}],
)
async def test_where_nothing_is_claimed_or_forwarded_nobody_is_asked_and_nothing_stays_noted(
    site: Site, policy: dict[str, Any]
) -> None:
    site.upstream.add_project("acme-core")
    await site.radar.check()
    assert site.rows()
    site.upstream.reset_requests()
    site.known.purge()
    other = site.another({"policy": policy, "projects": {"default": {}}})
    assert (await other.check()).failed == {}
    assert (site.rows(), site.asked()) == (set(), [])


async def test_a_pattern_whose_time_is_over_claims_nothing(open_site: Open) -> None:
    entry = {"match": "acme-*", "until": "2026-11-23"}
    site = open_site({"groups": {"acme": {"policy": {"reserve": [entry]}, "projects": {"widgets": {}}}}})
    site.publish("acme/widgets", "pillow")
    site.upstream.add_project("acme-core")
    await site.radar.check()
    assert len(site.rows()) == 1
    site.clock.advance(days=2)
    await site.radar.check()
    assert site.rows() == set()


async def test_a_server_that_just_started_asks_for_nothing(site: Site) -> None:
    site.upstream.add_project("acme-core")
    await site.look()
    await site.look(minutes=4)
    assert (site.asked(), site.rows()) == ([], set())
    await site.look(minutes=1)
    assert site.asked() == ["/simple/"]
    assert len(site.rows()) == 1


async def test_it_looks_after_every_new_list_and_once_a_day(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.upstream.add_project("pillow")
    looks: list[int] = []
    among_names = Sought.among

    def counting(sought: Sought, names: SortedNames, upstream: str) -> Any:
        looks.append(len(names))
        return among_names(sought, names, upstream)

    monkeypatch.setattr(Sought, "among", counting)
    await site.look(minutes=5)
    await site.look(minutes=5)
    assert looks == [1]
    site.publish("acme/widgets", "pillow")
    await site.look(hours=23)
    assert (looks, site.rows()) == ([1], set())
    await site.look(hours=1)
    assert len(site.rows()) == 1
    site.upstream.add_project("acme-core")
    await site.look(hours=24)
    assert (looks, len(site.rows())) == ([1, 1, 2], 2)


async def test_what_is_new_is_told_in_the_log_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "proxy.index.radar")
    site.publish("acme/widgets", "pillow")
    for name in ("pi11ow", "acme-core", "acme-tools"):
        site.upstream.add_project(name)
    await site.look(minutes=5)
    assert sorted(caplog.messages) == [
        "pypi has acme-core, which meets acme-* of acme (same), and 1 more; audit confusion lists them",
        "pypi has pi11ow, which meets pillow of acme (look-alike)",
    ]
    await site.look(days=2)
    assert len(caplog.messages) == 2


async def test_a_log_is_not_flooded(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "proxy.index.radar")
    monkeypatch.setattr(module, "_MOST_LINES", 2)
    site.publish("acme/widgets", *(names := [f"common{number}" for number in range(5)]))
    for name in names:
        site.upstream.add_project(name)
    await site.look(minutes=5)
    assert len(caplog.messages) == 3
    assert "meet 3 more claims" in caplog.messages[-1]


async def test_one_process_looks_and_another_when_it_rests(site: Site) -> None:
    site.upstream.add_project("acme-core")
    await site.look(minutes=5)
    other = site.another()
    site.clock.advance(minutes=5)
    site.registry.change_now(partial(module._forget, numbers=[1]))
    await other.look()
    assert site.rows() == set()
    site.radar.rest()
    await other.look()
    assert len(site.rows()) == 1
    other.rest()
    other.rest()


async def test_a_server_looks_in_the_background_and_lets_go_when_it_stops(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_project("acme-core")
    house.clock.advance(minutes=5)
    instance = house.instance
    looking = asyncio.create_task(_look_for_confusions(instance))
    await wait_until_async(lambda: instance.registry.read_now(list_confusions), what="a look")
    assert not instance.locks.try_hold("radar")
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert instance.locks.try_hold("radar")
    assert upstream.asked_for("acme-core") == []


async def test_a_registry_that_cannot_be_written_is_tried_again_after_an_hour(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.upstream.add_project("acme-core")
    assert site.locks.try_hold("radar-writing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PATIENCE", timedelta(0))
        await site.look(minutes=5)
    site.locks.release("radar-writing")
    assert "could not be looked for" in caplog.text
    await site.look(minutes=59)
    assert site.rows() == set()
    await site.look(minutes=1)
    assert len(site.rows()) == 1


async def test_what_is_noted_is_listed_in_pieces_and_by_name_and_time(site: Site) -> None:
    site.publish("acme/widgets", "pillow")
    for name in ("pi11ow", "acme-core"):
        site.upstream.add_project(name)
    await site.radar.check()
    site.upstream.add_project("pillow")
    site.clock.advance(days=1)
    await site.radar.check()

    def listed(**by: Any) -> list[object]:
        return [item["name"] for item in site.registry.read_now(partial(list_confusions, **by))]

    assert listed() == ["acme-core", "pi11ow", "pillow"]
    assert listed(window=Window(1, 1)) == ["pi11ow"]
    assert listed(name=Name("pillow")) == ["pi11ow", "pillow"]
    assert listed(name=Name("acme-core")) == ["acme-core"]
    assert listed(since=NOW + timedelta(hours=1)) == ["pillow"]


async def test_many_rows_are_written_in_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    for number in range(5):
        site.upstream.add_project(f"acme-{number}")
    await site.radar.check()
    assert len(site.rows()) == 5
    site.upstream.reset()
    site.upstream.add_project("acme-7")
    site.known.purge()
    await site.radar.check()
    assert {row[3] for row in site.rows()} == {"acme-7"}
