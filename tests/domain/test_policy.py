"""Policy: what holds at a group of what it says itself and what stands above, and which line that is."""

from __future__ import annotations

import pytest

from proxy.domain.names import parse_name
from proxy.domain.policy import (
    EMPTY,
    Origin,
    OwnPolicy,
    Policy,
    Rule,
    RuleSet,
    inherit,
    root_policy,
)


def origin(line: int) -> Origin:
    return Origin("f.yaml", line, "policy")


def rules(key: str, *patterns: str, at: str = "") -> tuple[Rule, ...]:
    return tuple(Rule(key, pattern, at, origin(100 + n)) for n, pattern in enumerate(patterns))


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
    assert ROOT.forward_rule == Rule("forward", "true", "", origin(1))
    assert ROOT.upstreams_rule == Rule("upstreams", "pypi, second", "", origin(2))
    assert ROOT.allow == ()  # "*" restricts nothing
    assert ROOT.locked == {}


def test_what_a_group_does_not_say_it_inherits_with_its_line() -> None:
    assert below(below(ROOT, OwnPolicy()), OwnPolicy(), "acme/deep") == ROOT


def test_the_nearest_group_says_single_values() -> None:
    acme = below(ROOT, OwnPolicy(forward=False, origins={"forward": origin(7)}))
    assert acme.forward is False
    assert acme.forward_rule == Rule("forward", "false", "acme", origin(7))
    deep = below(acme, OwnPolicy(forward=True, origins={"forward": origin(9)}), "acme/deep")
    assert deep.forward is True
    assert deep.forward_rule == Rule("forward", "true", "acme/deep", origin(9))


def test_upstreams_are_replaced_as_a_whole() -> None:
    acme = below(ROOT, OwnPolicy(upstreams=("second",), origins={"upstreams": origin(7)}))
    assert acme.upstreams == ("second",)
    none = below(acme, OwnPolicy(upstreams=(), origins={"upstreams": origin(9)}), "acme/deep")
    assert none.upstreams == ()
    assert none.upstreams_rule.namespace == "acme/deep"


def test_denials_add_up_downwards_the_highest_first() -> None:
    own = OwnPolicy(deny=rules("deny", "bad", "evil-*", at="acme"), origins={"deny": origin(7)})
    acme = below(ROOT, own)
    assert [(rule.value, rule.namespace) for rule in acme.deny.rules] == [
        ("evil-*", ""),
        ("bad", "acme"),
        ("evil-*", "acme"),
    ]
    found = acme.deny.match(parse_name("evil-x"))
    assert found is not None
    assert found.namespace == ""
    assert ROOT.deny.match(parse_name("bad")) is None


def test_every_level_that_allows_something_is_asked() -> None:
    acme = below(ROOT, OwnPolicy(allow=rules("allow", "num*", at="acme"), origins={"allow": origin(7)}))
    deep = below(acme, OwnPolicy(allow=(), origins={"allow": origin(9)}), "acme/deep")
    assert [(level.namespace, level.origin) for level in deep.allow] == [
        ("acme", origin(7)),
        ("acme/deep", origin(9)),
    ]
    assert deep.allow[0].patterns.match(parse_name("numpy"))
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


def test_the_first_pattern_that_covers_a_name_is_told() -> None:
    ruleset = RuleSet.of(rules("reserve", "b*", "a", "ab*", "a*"))
    for name, value in (("a", "a"), ("abc", "ab*"), ("ac", "a*"), ("b", "b*")):
        found = ruleset.match(parse_name(name))
        assert found is not None
        assert found.value == value
    assert ruleset.match(parse_name("c")) is None


def test_a_rule_is_told_as_key_and_value() -> None:
    assert Rule("reserve", "acme-*", "acme").text == "reserve acme-*"
    assert str(origin(31)) == "f.yaml:31"
