"""Policy: what holds at a group of what it says itself and what stands above, and which line that is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from proxy.domain.names import parse_name
from proxy.domain.policy import (
    EMPTY,
    WARNABLE,
    Exemption,
    Origin,
    OwnPolicy,
    Policy,
    Protection,
    Rule,
    RuleSet,
    inherit,
    live,
    root_policy,
    text_of,
)
from proxy.domain.roles import Role

MOMENT = datetime(2026, 5, 1, tzinfo=UTC)


def origin(line: int) -> Origin:
    return Origin("f.yaml", line, "policy")


def rules(key: str, *patterns: str, at: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(key, each, at, origin(100 + n), pattern=each) for n, each in enumerate(patterns))


ROOT = root_policy(
    OwnPolicy(
        forward=True,
        upstreams=("pypi", "second"),
        deny=rules("deny", "evil-*"),
        allow=rules("allow", "*"),
        origins={"forward": origin(1), "upstreams": origin(2), "deny": origin(3), "allow": origin(4)},
    )
)


def below(above: Policy, own: OwnPolicy, at: str = "acme") -> Policy:
    return inherit(above, own, at)


def test_the_root_says_what_holds_at_the_root() -> None:
    assert (ROOT.forward, ROOT.upstreams) == (True, ("pypi", "second"))
    assert ROOT.rule("forward") == Rule("forward", "true", "", origin(1))
    assert ROOT.rule("upstreams") == Rule("upstreams", "pypi, second", "", origin(2))
    assert ROOT.allow == ()  # "*" restricts nothing
    assert ROOT.locked == {}


def test_what_a_group_does_not_say_it_inherits_with_its_line() -> None:
    assert below(below(ROOT, OwnPolicy()), OwnPolicy(), "acme/deep") == ROOT


def test_the_nearest_group_says_single_values() -> None:
    acme = below(ROOT, OwnPolicy(forward=False, origins={"forward": origin(7)}))
    assert acme.forward is False
    assert acme.rule("forward") == Rule("forward", "false", "acme", origin(7))
    deep = below(acme, OwnPolicy(forward=True, origins={"forward": origin(9)}), "acme/deep")
    assert deep.forward is True
    assert deep.rule("forward") == Rule("forward", "true", "acme/deep", origin(9))


def test_upstreams_are_replaced_as_a_whole() -> None:
    acme = below(ROOT, OwnPolicy(upstreams=("second",), origins={"upstreams": origin(7)}))
    assert acme.upstreams == ("second",)
    none = below(acme, OwnPolicy(upstreams=(), origins={"upstreams": origin(9)}), "acme/deep")
    assert none.upstreams == ()
    assert none.rule("upstreams").namespace == "acme/deep"


def test_denials_add_up_downwards_the_highest_first() -> None:
    own = OwnPolicy(deny=rules("deny", "bad", "evil-*", at="acme"), origins={"deny": origin(7)})
    acme = below(ROOT, own)
    assert [(rule.value, rule.namespace) for rule in acme.deny] == [
        ("evil-*", ""),
        ("bad", "acme"),
        ("evil-*", "acme"),
    ]
    assert [rule.namespace for rule in acme.deny.covering(parse_name("evil-x"))] == ["", "acme"]
    assert ROOT.deny.covering(parse_name("bad")) == ()


def test_every_level_that_allows_something_is_asked() -> None:
    acme = below(ROOT, OwnPolicy(allow=rules("allow", "num*", at="acme"), origins={"allow": origin(7)}))
    deep = below(acme, OwnPolicy(allow=(), origins={"allow": origin(9)}), "acme/deep")
    assert [(level.namespace, level.origin) for level in deep.allow] == [
        ("acme", origin(7)),
        ("acme/deep", origin(9)),
    ]
    assert deep.allow[0].patterns.covering(parse_name("numpy"))
    assert deep.allow[1].patterns == EMPTY


def test_a_star_among_patterns_restricts_nothing() -> None:
    own = OwnPolicy(allow=rules("allow", "num*", "*", at="acme"), origins={"allow": origin(7)})
    assert below(ROOT, own).allow == ()


@pytest.mark.parametrize("key", ["forward", "upstreams", "allow", "deny", "reserve"])
def test_a_locked_key_below_is_without_effect(key: str) -> None:
    acme = below(ROOT, OwnPolicy(lock=(key,)))
    assert acme.locked == {key: "acme"}
    own = OwnPolicy(
        forward=False,
        upstreams=(),
        allow=(),
        deny=rules("deny", "x", at="acme/deep"),
        reserve=rules("reserve", "y", at="acme/deep"),
        origins={name: origin(9) for name in ("forward", "upstreams", "allow", "deny", "reserve")},
    )
    deep = below(acme, own, "acme/deep")
    assert (deep.forward == acme.forward) == (key == "forward")
    assert (deep.upstreams == acme.upstreams) == (key == "upstreams")
    assert (deep.allow == acme.allow) == (key == "allow")
    assert (deep.deny == acme.deny) == (key == "deny")


def test_a_lock_binds_what_lies_below_and_not_the_group_itself() -> None:
    own = OwnPolicy(forward=False, lock=("forward",), origins={"forward": origin(7), "lock": origin(8)})
    assert below(ROOT, own).forward is False


def test_locks_add_up_and_the_highest_holder_is_told() -> None:
    acme = below(ROOT, OwnPolicy(lock=("forward",)))
    deep = below(acme, OwnPolicy(lock=("forward", "deny")), "acme/deep")
    assert deep.locked == {"forward": "acme", "deny": "acme/deep"}


def test_a_star_with_versions_restricts_them() -> None:
    allowed = Rule("allow", "*<2", "acme", pattern="*", specifier=SpecifierSet("<2"))
    (level,) = below(ROOT, OwnPolicy(allow=(allowed,), origins={"allow": origin(7)})).allow
    assert level.patterns.covering(parse_name("anything")) == (allowed,)


def test_every_pattern_that_covers_a_name_is_told_in_order() -> None:
    ruleset = RuleSet.of(rules("reserve", "b*", "a", "ab*", "a*"))
    for name, covering in (("a", ["a", "a*"]), ("abc", ["ab*", "a*"]), ("b", ["b*"]), ("c", [])):
        assert [rule.value for rule in ruleset.covering(parse_name(name))] == covering


def test_groups_share_the_rules_above_them() -> None:
    """A thousand groups below a hundred thousand rules cost little only so."""
    acme = below(ROOT, OwnPolicy(deny=rules("deny", "bad", at="acme"), origins={"deny": origin(7)}))
    assert acme.deny.sets[0] is ROOT.deny.sets[0]
    assert below(ROOT, OwnPolicy(), "other").deny is ROOT.deny


def test_an_exemption_is_found_by_its_name() -> None:
    def exempt(advisory: str, name: str, at: str) -> Exemption:
        return Exemption(advisory, parse_name(name), MOMENT, "known", at)

    here = (exempt("CVE-1", "a", ""), exempt("CVE-2", "b", ""))
    there = (exempt("CVE-3", "a", "acme"),)
    root = root_policy(OwnPolicy(vulnerable_exempt=here, origins={"vulnerable_exempt": origin(1)}))
    acme = below(root, OwnPolicy(vulnerable_exempt=there, origins={"vulnerable_exempt": origin(2)}))
    assert [one.advisory for one in acme.vulnerable_exempt.of(parse_name("a"))] == ["CVE-1", "CVE-3"]
    assert acme.vulnerable_exempt.of(parse_name("c")) == ()
    assert [one.advisory for one in acme.vulnerable_exempt] == ["CVE-1", "CVE-2", "CVE-3"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (False, "false"),
        (404, "404"),
        (timedelta(days=3), "3d"),
        (MOMENT, "2026-05-01"),
        (MOMENT.replace(hour=8), "2026-05-01T08:00:00Z"),
        (frozenset({"wheel", "other"}), "other, wheel"),
        (("pypi", "mirror"), "pypi, mirror"),
        (None, "null"),
        ("mark", "mark"),
    ],
)
def test_values_are_told_as_people_write_them(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_rule_is_void_from_its_moment_on() -> None:
    rule = Rule("deny", "a", "", pattern="a", until=MOMENT)
    eve = MOMENT - timedelta(seconds=1)
    assert (rule.is_void(eve), rule.is_void(MOMENT)) == (False, True)
    lasting = Rule("deny", "b", "")
    assert live((rule, lasting), eve) == ((rule, lasting), MOMENT)
    assert live((rule, lasting), MOMENT) == ((lasting,), None)


# Inheritance, as contract 3 has it in words, against chains of groups that say anything

CHOICES: dict[str, list[object]] = {
    "forward": [True, False],
    "refused": [451, 403],
    "upstreams": [("pypi",), (), ("second", "pypi")],
    "min_age": [timedelta(0), timedelta(days=3)],
    "uploaded_before": [None, MOMENT],
    "file_types": [frozenset({"wheel"}), frozenset({"sdist", "wheel"})],
}
LISTS = ("deny", "merge", "min_age_exempt", "allow", "protect", "warn")
PATTERNS = st.lists(st.sampled_from(["a", "b*", "*c"]), max_size=2)


def path_of(depth: int) -> str:
    return "/".join("abcd"[:depth])


@st.composite
def chains(draw: st.DrawFn) -> list[OwnPolicy]:
    """What the root says, then each group below."""
    chain = []
    for depth in range(draw(st.integers(1, 4))):
        at = path_of(depth)
        said: dict[str, Any] = {
            key: draw(st.sampled_from(values)) for key, values in CHOICES.items() if draw(st.booleans())
        }
        for key in LISTS:
            if draw(st.booleans()):
                said[key] = rules(key, *draw(PATTERNS), at=at)
        if "protect" in said:
            said["protect"] = tuple(Protection(rule, Role.OWNER) for rule in said["protect"])
        if "warn" in said:
            said["warn"] = tuple(draw(st.lists(st.sampled_from(WARNABLE), max_size=2)))
        lock = tuple(draw(st.lists(st.sampled_from([*CHOICES, *LISTS]), max_size=3)))
        chain.append(OwnPolicy(**said, lock=lock, origins={key: origin(depth) for key in said}))
    return chain


@given(chain=chains())
def test_what_holds_below_is_what_the_contract_says(chain: list[OwnPolicy]) -> None:
    policy = root_policy(chain[0])
    for depth, own in enumerate(chain[1:], 1):
        policy = inherit(policy, own, path_of(depth))

    def speakers(key: str) -> list[tuple[int, OwnPolicy]]:
        """The groups that say a key and may: none above them has locked it."""
        return [
            (depth, own)
            for depth, own in enumerate(chain)
            if key in own.origins and not any(key in above.lock for above in chain[:depth])
        ]

    for key in CHOICES:
        nearest = speakers(key)[-1:]
        for depth, own in nearest:
            assert getattr(policy, key) == getattr(own, key)
            assert (policy.rule(key).namespace, policy.rule(key).origin) == (path_of(depth), origin(depth))
        if not nearest:
            assert getattr(policy, key) == getattr(Policy(), key)
    for key in ("deny", "merge", "min_age_exempt", "protect"):
        assert list(getattr(policy, key)) == [one for _, own in speakers(key) for one in getattr(own, key)]
    assert policy.warn == {key for _, own in speakers("warn") for key in own.warn}
    levels = [(path_of(depth), own.allow) for depth, own in speakers("allow")]
    assert [(level.namespace, tuple(level.patterns)) for level in policy.allow] == levels
    for key in {key for own in chain for key in own.lock}:
        first = next(depth for depth, own in enumerate(chain) if key in own.lock)
        assert policy.locked[key] == path_of(first)


def test_a_rule_is_told_as_key_and_value() -> None:
    assert Rule("reserve", "acme-*", "acme").text == "reserve acme-*"
    assert str(origin(31)) == "f.yaml:31"
