"""Lists of names: for every index and caller exactly what `decide` would show, upstreams' names where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.cache.names_file import write_list
from proxy.domain import sorted_names
from proxy.domain.access import ANONYMOUS, Caller
from proxy.domain.decide import decide
from proxy.domain.decision import NameFacts, Word
from proxy.domain.names import Name
from proxy.index.names import upstreams_listed
from proxy.registry import packages
from tests.index.conftest import ALICE, OWNER, House, OpenHouse
from tests.registry.making import wheel
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream

UPSTREAM = (
    *("acme", "acme-core", "acme-tools", "bolts", "denied", "denied-too", "flask", "gears", "instance-x"),
    *("left-internal", "levers", "numpy", "numpy-core", "nuts", "pandas", "reserved", "right-internal"),
    *("secrets", "shared", "tombs", "zope", "zope-interface"),
)
SECOND = ("0", "bolts", "gears", "left-internal", "numpy", "only-second", "zzz")

CONFIG: dict[str, Any] = {
    "users": {"alice": {}},
    "policy": {"list_upstream": True, "reserve": ["reserved", "instance-*"]},
    "projects": {"default": {}},
    "groups": {
        "acme": {
            "visibility": "public",
            "members": {"alice": "reporter"},
            "policy": {"reserve": ["acme-*"]},
            "projects": {"widgets": {}, "hidden": {"visibility": "private"}, "off": {"packages": False}},
        },
        "strict": {
            "visibility": "public",
            "policy": {"allow": ["numpy*", "zope", "*-internal"], "deny": ["denied*", "right-*"]},
            "groups": {
                "narrow": {
                    "visibility": "public",
                    "policy": {"allow": ["numpy", "pandas"]},
                    "projects": {"one": {}},
                }
            },
        },
        "nothing": {"visibility": "public", "policy": {"allow": []}},
        "vault": {"visibility": "public", "policy": {"forward": False}, "projects": {"safe": {}}},
        "plain": {"visibility": "public", "policy": {"list_upstream": False}, "projects": {"tools": {}}},
        "both": {"visibility": "public", "policy": {"upstreams": ["pypi", "second"], "deny": ["*s"]}},
        "unseen": {
            "visibility": "public",
            "at_root": False,
            "policy": {
                "reserve": [
                    {"match": "flask", "until": "2026-11-22"},
                    {"match": "pandas", "until": "2020-01-01"},
                ],
                "merge": ["gadgets"],
            },
            "projects": {"gadgets": {}},
        },
        "dated": {
            "visibility": "public",
            "policy": {
                "deny": [
                    "numpy<2",
                    {"match": "zope*", "reason": "not yet", "until": "2026-11-22"},
                    {"match": "numpy*", "reason": "over", "until": "2026-11-01"},
                ]
            },
        },
        "lenient": {"visibility": "public", "policy": {"allow": ["numpy>=2"], "deny": ["flask"]}},
        "warned": {
            "visibility": "public",
            "policy": {"allow": ["numpy"], "deny": ["flask"], "warn": ["allow", "deny"]},
        },
    },
}


@pytest.fixture
def listing(open_house: OpenHouse, upstream: FakeUpstream) -> House:
    """A house whose upstreams' lists are kept, with packages in several tenants."""
    config = base_config(upstream)
    config["upstreams"]["second"] = {"index_url": f"{upstream.url}/second/simple/"}
    house = open_house(config | CONFIG)
    for name, listed in (("pypi", UPSTREAM), ("second", SECOND)):
        url = house.instance.snapshot.upstreams[name].index_url
        write_list(house.instance.layout.names_of(name), map(Name, listed), url, None)
    house.publish("acme/widgets", wheel("gears", "1.0"))
    house.publish("acme/widgets", wheel("acme_core", "1.0"))
    house.publish("acme/widgets", wheel("tombs", "1.0"))
    house.remove("acme/widgets", "tombs")
    house.publish("acme/hidden", wheel("secrets", "1.0"))
    house.publish("acme/off", wheel("shared", "1.0"))
    house.publish("acme/off", wheel("nowhere", "1.0"))
    house.publish("vault/safe", wheel("levers", "1.0"))
    house.publish("strict/narrow/one", wheel("mine", "1.0"))
    house.publish("plain/tools", wheel("nuts", "1.0"))
    house.publish("default", wheel("bolts", "1.0"))
    house.publish("unseen/gadgets", wheel("gadgets", "1.0"))
    return house


def by_deciding(house: House, index: str, caller: Caller) -> list[str]:
    """The list that comes of asking `decide` for every name there is."""
    tree = house.instance.snapshot.tree
    policy = tree.find(index).policy
    known = {"pypi": UPSTREAM, "second": SECOND}
    names = (
        {name for upstream in policy.upstreams for name in known[upstream]} if policy.list_upstream else set()
    )
    facts = house.instance.registry.read_now(packages.all_facts)
    words = {
        name: decide(
            house.asked(index, name, caller), facts.get(Name(name), NameFacts()), tree, house.instance.now()
        ).word
        for name in {*names, *facts}
    }
    return sorted(
        name
        for name, word in words.items()
        if word in {Word.PRIVATE, Word.MERGED} or (word is Word.UPSTREAM and name in names)
    )


@pytest.mark.parametrize("piece", [1, 3, 4000])
@pytest.mark.parametrize("caller", [ANONYMOUS, ALICE, OWNER], ids=lambda caller: caller.label)
async def test_a_list_has_what_each_name_on_it_would_be_answered(
    listing: House, caller: Caller, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_names, "PIECE", piece)
    for namespace in listing.instance.snapshot.tree:
        if namespace.path in listing.sight(caller).askable:
            shown = await listing.names(namespace.path, caller)
            assert shown == by_deciding(listing, namespace.path, caller), namespace.path


async def test_what_that_means_for_a_reader(listing: House) -> None:
    root = set(await listing.names("", ANONYMOUS))
    assert {"acme-core", "bolts", "flask", "gears", "levers", "numpy", "nuts"} <= root
    assert not root & {"acme-tools", "instance-x", "reserved", "secrets", "shared", "tombs", "nowhere"}
    assert "secrets" in await listing.names("")
    assert await listing.names("strict", ANONYMOUS) == [
        "left-internal",
        "mine",
        "numpy",
        "numpy-core",
        "zope",
    ]
    assert await listing.names("strict/narrow", ANONYMOUS) == ["mine", "numpy"]
    assert await listing.names("vault", ANONYMOUS) == ["levers"]
    assert await listing.names("plain", ANONYMOUS) == ["nuts"]
    both = await listing.names("both", ANONYMOUS)
    assert {"0", "only-second", "zzz", "numpy"} <= set(both)
    assert not {"gears", "nuts", "levers"} & set(both)


async def test_long_entries_end_and_specifiers_deny_no_name(listing: House) -> None:
    assert {"flask", "gadgets"} & set(await listing.names("")) == {"flask"}
    unseen = await listing.names("unseen")
    assert "flask" not in unseen
    assert {"pandas", "gadgets"} <= set(unseen)
    assert {"numpy", "numpy-core", "zope"} & set(await listing.names("dated")) == {"numpy", "numpy-core"}
    assert [name for name in await listing.names("lenient") if name in UPSTREAM] == ["numpy"]
    assert {"flask", "pandas"} <= set(await listing.names("warned"))
    listing.clock.advance(days=1)
    assert "flask" in await listing.names("unseen")
    assert "zope" in await listing.names("dated")


async def test_the_token_changes_with_the_names_and_with_nothing_else(listing: House) -> None:
    instance = listing.instance

    async def token(index: str, caller: Caller = ANONYMOUS) -> str:
        return (await instance.names.get(instance.snapshot.tree.find(index), listing.sight(caller))).token

    first = await token("")
    assert await token("") == first
    assert await token("", OWNER) != first
    assert (
        len({await token(index) for index in ("", "strict", "strict/narrow", "vault", "plain", "both")}) == 6
    )
    # What this caller cannot see, and what nobody has published elsewhere, does not show.
    listing.publish("acme/hidden", wheel("unseen", "1.0"))
    assert await token("") == first
    listing.publish("acme/hidden", wheel("zope", "1.0"))
    claimed = await token("")
    assert claimed != first
    listing.publish("plain/tools", wheel("new", "1.0"))
    published = await token("")
    assert published not in {first, claimed}
    url = instance.snapshot.upstreams["pypi"].index_url
    path = instance.layout.names_of("pypi")
    write_list(f"{path}.new", map(Name, (*UPSTREAM, "zzz")), url, None)
    Path(f"{path}.new").rename(path)
    assert await token("") not in {first, claimed, published}


async def test_many_private_names_come_in_order_in_pieces(
    open_house: OpenHouse, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.index.names._FACTS_AT_ONCE", 7)
    projects = {"one": {"visibility": "public"}, "two": {"visibility": "public"}}
    house = open_house(base_config(upstream) | {"projects": projects})
    for number in range(30):
        house.publish("one", wheel(f"thing{number}", "1.0"))
        house.publish("two", wheel(f"thing{number}", "1.0"))
    assert await house.names("two") == sorted(f"thing{number}" for number in range(30))
    listed = await house.instance.names.get(house.instance.snapshot.tree.root, house.sight(ANONYMOUS))
    assert not listed.is_short
    assert b"".join(listed.pieces()).decode().split() == sorted(f"thing{number}" for number in range(30))
    assert upstream.requests() == []


def test_lists_are_needed_where_they_are_on_and_names_are_forwarded(listing: House) -> None:
    assert upstreams_listed(listing.instance.snapshot.tree) == {"pypi", "second"}


def test_no_list_is_needed_by_default(house: House) -> None:
    assert upstreams_listed(house.instance.snapshot.tree) == set()
