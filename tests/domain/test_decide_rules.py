"""The rules of a policy in a decision: merging, ends of entries, dry runs, specifiers, dated views, `at_root`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from proxy.domain.access import ANONYMOUS, Caller, sight
from proxy.domain.decide import decide, is_owned, owner_at_root
from proxy.domain.decision import (
    Asked,
    Decision,
    FileRules,
    NameFacts,
    Owned,
    OwnedKind,
    Trouble,
    Warned,
    Word,
)
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.policy import Origin
from tests.properties.strategies import World, worlds
from tests.support.trees import FILE, NOW, OWNER, facts_of, line_of, tree_of, user

TODAY = NOW.date()
YESTERDAY, TOMORROW, NEXT_WEEK = (TODAY + timedelta(days=days) for days in (-1, 1, 7))


def midnight(day: Any) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def ask(
    tree: Tree,
    index: str,
    name: str,
    *owned: str,
    who: Caller = OWNER,
    facts: NameFacts | None = None,
    now: datetime = NOW,
    as_of: datetime | None = None,
) -> Decision:
    """Decide a name; `owned` as `facts_of` takes it."""
    namespace = tree.find(index.strip("/"))
    asked = Asked(namespace, parse_name(name), sight(who, tree), as_of)
    assert namespace.path in asked.sight.askable, f"{who.label} may not ask {index}"
    return decide(asked, facts or facts_of(*owned), tree, now)


def rules_of(decision: Decision) -> FileRules:
    assert decision.rules is not None
    return decision.rules


# Merged names

MERGING = f"""
    upstreams:
      second: {{index_url: "http://127.0.0.1:9/simple/"}}
    users: {{bob: {{}}}}
    policy:
      upstreams: [pypi, second]
      merge: [everywhere]
      reserve: [corp-*]
    projects: {{default: {{}}}}
    groups:
      acme:
        policy:
          reserve: [acme-*]
          merge:
            - numpy   # merged
            - acme-*
            - corp-*
            - {{match: soon, until: {NEXT_WEEK}}}
            - {{match: past, until: {TODAY}}}
        projects:
          widgets: {{}}
          sandbox: {{members: {{bob: developer}}}}
        groups:
          shut:
            policy: {{forward: false}}
            projects: {{p: {{}}}}
          strict:
            policy: {{allow: [flask], deny: [numpy]}}
            projects: {{p: {{}}}}
          narrow:
            policy: {{allow: [flask]}}
            projects: {{p: {{}}}}
      globex:
        visibility: public
        policy: {{reserve: [everywhere]}}
        projects: {{site: {{}}}}
"""
MERGED = tree_of(MERGING)


@pytest.mark.parametrize("index", ["/acme", "/acme/widgets"])
def test_a_merged_name_is_private_and_asked_upstream(index: str) -> None:
    decision = ask(MERGED, index, "numpy", "acme/widgets")
    assert (decision.word, decision.projects, decision.tenant) == (Word.MERGED, ("acme/widgets",), "acme")
    assert (decision.ask, decision.taken_by) == (("pypi", "second"), ("acme/widgets",))
    assert decision.rule == "merge numpy"
    assert rules_of(decision).index == index.strip("/")
    assert [(step.step, step.outcome) for step in decision.trail] == [
        ("private", "pass"),
        ("forward", "pass"),
        ("allow", "pass"),
    ]
    assert decision.trail[0].because == "acme/widgets publishes numpy, and acme has it in merge (numpy)"
    assert decision.trail[0].origin == Origin(
        FILE, line_of(MERGING, "# merged"), "groups.acme.policy.merge.0"
    )


def test_T_CONF5_the_versions_of_every_project_of_the_tenant_shadow_those_of_upstreams() -> None:
    owned = ("acme/widgets", "acme/sandbox", "-acme/shut/p", "default", "globex/site")
    decision = ask(MERGED, "/acme/sandbox", "numpy", *owned, who=user("bob"))
    assert decision.projects == ("acme/sandbox",)
    assert decision.taken_by == ("acme/widgets", "acme/sandbox", "default")
    told = repr((decision.reason, decision.trail))
    assert "widgets" not in told


@pytest.mark.parametrize(
    ("index", "step"),
    [("/acme/shut/p", "forward"), ("/acme/strict/p", "allow"), ("/acme/narrow/p", "allow")],
)
def test_where_nothing_is_forwarded_the_private_files_stand_alone(index: str, step: str) -> None:
    decision = ask(MERGED, index, "numpy", index.strip("/"))
    assert (decision.word, decision.projects) == (Word.PRIVATE, (index.strip("/"),))
    assert (decision.ask, decision.rules, decision.rule, decision.taken_by) == ((), None, None, ())
    assert (decision.trail[-1].step, decision.trail[-1].outcome) == (step, "stop")


def test_where_no_upstream_knows_it_the_private_files_stand_alone() -> None:
    decision = ask(MERGED, "/acme", "numpy", "acme/widgets").as_unknown(Name("numpy"))
    assert (decision.word, decision.projects) == (Word.PRIVATE, ("acme/widgets",))
    assert (decision.ask, decision.rules, decision.rule, decision.taken_by) == ((), None, None, ())
    assert decision.reason == "acme/widgets publishes numpy"


def test_half_a_page_is_no_page() -> None:
    merged = ask(MERGED, "/acme", "numpy", "acme/widgets")
    decision = merged.as_unavailable(Name("numpy"), "pypi", Trouble.TIMEOUT, "it is slow")
    assert (decision.word, decision.ask, decision.rules, decision.rule) == (Word.UNAVAILABLE, (), None, None)
    assert decision.projects == ("acme/widgets",), "their files stay served at their own addresses"


@pytest.mark.parametrize("owned", ["-acme/widgets", "default", "-default"])
def test_what_nobody_publishes_here_is_not_merged(owned: str) -> None:
    assert ask(MERGED, "/acme", "numpy", owned).word is Word.CLAIMED
    assert ask(MERGED, "/acme", "numpy").word is Word.UPSTREAM


def test_what_the_caller_cannot_read_is_not_merged() -> None:
    assert ask(MERGED, "/acme", "numpy", "acme/widgets", who=user("bob")).word is Word.CLAIMED


@pytest.mark.parametrize("name", ["acme-x", "corp-x"])
def test_a_reserved_name_is_not_merged(name: str) -> None:
    decision = ask(MERGED, "/acme", name, "acme/widgets")
    assert (decision.word, decision.ask) == (Word.PRIVATE, ())
    assert decision.reason == f"acme/widgets publishes {name}"
    assert decision.trail[0].because.endswith("it is not merged, since it is reserved")


def test_a_name_is_merged_at_the_root_by_the_roots_own_policy() -> None:
    assert ask(MERGED, "/", "numpy", "acme/widgets").word is Word.PRIVATE
    tree = tree_of({"policy": {"merge": ["numpy"]}, "groups": {"acme": {"projects": {"p": {}}}}})
    decision = ask(tree, "/", "numpy", "acme/p")
    assert (decision.word, decision.projects, decision.taken_by) == (Word.MERGED, ("acme/p",), ("acme/p",))


@pytest.mark.parametrize("owned", ["default", "acme/widgets", "globex/site"])
def test_what_anybody_reserves_is_not_merged_at_the_root(owned: str) -> None:
    decision = ask(MERGED, "/", "everywhere", owned)
    assert decision.word in {Word.PRIVATE, Word.CLAIMED}
    assert decision.ask == ()


def test_what_the_root_reserves_is_not_merged_at_the_root_for_whoever_published_it() -> None:
    config: dict[str, Any] = {
        "policy": {"merge": ["*"], "reserve": ["corp-*"]},
        "groups": {"acme": {"projects": {"p": {}}}},
    }
    decision = ask(tree_of(config), "/", "corp-x", "acme/p")
    assert (decision.word, decision.ask) == (Word.PRIVATE, ())
    assert ask(tree_of(config), "/", "other", "acme/p").word is Word.MERGED


def test_merging_ends_with_its_entry() -> None:
    decision = ask(MERGED, "/acme", "soon", "acme/widgets")
    assert (decision.word, decision.until) == (Word.MERGED, midnight(NEXT_WEEK))
    assert decision.good_until == midnight(NEXT_WEEK)
    after = ask(MERGED, "/acme", "soon", "acme/widgets", now=midnight(NEXT_WEEK))
    assert (after.word, after.until, after.good_until) == (Word.PRIVATE, None, None)
    assert ask(MERGED, "/acme", "past", "acme/widgets").word is Word.PRIVATE


def test_a_merged_answer_ends_with_whatever_its_upstream_part_depends_on() -> None:
    policy = {"merge": ["x"], "min_age_exempt": [{"match": "x", "until": TOMORROW}]}
    tree = tree_of({"policy": policy, "projects": {"p": {}}})
    assert ask(tree, "/p", "x", "p").good_until == midnight(TOMORROW)


# Ends of long entries

ENDING = f"""
    policy:
      deny:
        - {{match: frozen, reason: "breaks the build", until: {TOMORROW}}}
        - {{match: frozen, reason: "and more", until: {NEXT_WEEK}}}
        - {{match: thawed, until: {TODAY}}}
        - {{match: "old<2", until: {TOMORROW}}}
      min_age_exempt:
        - {{match: urgent, until: {TOMORROW}}}
      vulnerable_exempt:
        - {{id: GHSA-1, name: spared, until: {TOMORROW}, reason: not reachable}}
        - {{id: GHSA-2, name: spared, until: {YESTERDAY}, reason: fixed}}
    groups:
      acme:
        visibility: public
        policy:
          reserve:
            - {{match: "project-x-*", reason: "named by marketing", until: {TOMORROW}}}
            - {{match: "project-*", until: {NEXT_WEEK}}}
        projects: {{p: {{}}}}
"""
ENDS = tree_of(ENDING)


def test_a_denial_says_why_and_until_when() -> None:
    decision = ask(ENDS, "/", "frozen")
    assert (decision.word, decision.rule) == (Word.DENIED, "deny frozen")
    reason = "frozen is denied by the instance (frozen) until 22 Nov 00:00 UTC: breaks the build"
    assert decision.reason == decision.trail[-1].because == reason
    assert decision.until == decision.good_until == midnight(TOMORROW)
    then = ask(ENDS, "/", "frozen", now=midnight(TOMORROW))
    assert (then.until, then.reason.rpartition(": ")[2]) == (midnight(NEXT_WEEK), "and more")
    assert ask(ENDS, "/", "frozen", now=midnight(NEXT_WEEK)).word is Word.UPSTREAM
    assert ask(ENDS, "/", "thawed").word is Word.UPSTREAM


@pytest.mark.parametrize("warn", [[], ["deny"]])
def test_a_year_that_is_told_is_another_after_its_end(warn: list[str]) -> None:
    tree = tree_of({"policy": {"deny": [{"match": "later", "until": "2027-02-01"}], "warn": warn}})

    def told(decision: Decision) -> str:
        return decision.warned[0].reason if warn else decision.reason

    decision = ask(tree, "/", "later")
    assert told(decision).endswith("until 1 Feb 2027 00:00 UTC")
    assert decision.good_until == datetime(2027, 1, 1, tzinfo=UTC)
    then = ask(tree, "/", "later", now=datetime(2027, 1, 1, tzinfo=UTC))
    assert told(then).endswith("until 1 Feb 00:00 UTC")


@pytest.mark.parametrize("index", ["/", "/acme", "/acme/p"])
def test_a_pattern_reserves_until_its_end(index: str) -> None:
    decision = ask(ENDS, index, "project-x-1", who=ANONYMOUS)
    assert (decision.word, decision.rule) == (Word.CLAIMED, "reserve project-x-*")
    assert decision.reason.endswith("not published here until 22 Nov 00:00 UTC: named by marketing")
    assert decision.until == decision.good_until == midnight(TOMORROW)
    then = ask(ENDS, index, "project-x-1", now=midnight(TOMORROW))
    assert (then.rule, then.good_until) == ("reserve project-*", midnight(NEXT_WEEK))
    assert ask(ENDS, index, "project-x-1", now=midnight(NEXT_WEEK)).word is Word.UPSTREAM


def test_at_the_root_a_name_changes_its_owner_with_the_end_of_a_pattern() -> None:
    facts = facts_of("globex/site")
    tree = tree_of(f"""
        groups:
          globex: {{projects: {{site: {{}}}}}}
          acme: {{policy: {{reserve: [{{match: x, until: {TOMORROW}}}]}}}}
    """)
    assert owner_at_root(Name("x"), facts, tree, NOW) == "acme"
    assert owner_at_root(Name("x"), facts, tree, midnight(TOMORROW)) == "globex"
    assert ask(tree, "/", "x", "globex/site").good_until == midnight(TOMORROW)


def test_a_private_answer_ends_with_the_pattern_that_keeps_it_from_being_merged() -> None:
    tree = tree_of(f"""
        groups:
          acme:
            policy: {{merge: [x], reserve: [{{match: x, until: {TOMORROW}}}]}}
            projects: {{p: {{}}}}
    """)
    decision = ask(tree, "/acme", "x", "acme/p")
    assert (decision.word, decision.good_until) == (Word.PRIVATE, midnight(TOMORROW))
    assert ask(tree, "/acme", "x", "acme/p", now=midnight(TOMORROW)).word is Word.MERGED


@pytest.mark.parametrize("name", ["old", "urgent", "spared"])
def test_the_rules_of_files_end_too(name: str) -> None:
    decision = ask(ENDS, "/", name)
    assert (decision.word, decision.good_until) == (Word.UPSTREAM, midnight(TOMORROW))
    then = ask(ENDS, "/", name, now=midnight(TOMORROW))
    assert then.good_until is None
    assert rules_of(then).token != rules_of(decision).token


def test_rules_of_files_that_are_over_are_left_out() -> None:
    assert [one.advisory for one in rules_of(ask(ENDS, "/", "spared")).vulnerable_exempt] == ["GHSA-1"]
    assert [rule.value for rule in rules_of(ask(ENDS, "/", "urgent")).exempt] == ["urgent"]
    assert rules_of(ask(ENDS, "/", "urgent", now=midnight(TOMORROW))).exempt == ()


def test_without_an_end_anywhere_a_decision_holds_for_ever() -> None:
    for name in ("requests", "acme-x"):
        assert ask(MERGED, "/acme", name).good_until is None


# Specifiers, and what is only warned of

SPECIFIC = tree_of("""
    policy: {deny: ["django<4.2", evil]}
    groups:
      acme:
        policy: {allow: ["django>=4", "django<6", "flask", "flask>=2", "left*==1.*"]}
        groups:
          below: {policy: {allow: ["django!=5.0", flask]}}
      dry:
        policy: {deny: [bad, "bad==2"], allow: [good], warn: [deny, allow]}
        groups:
          below: {policy: {allow: [better]}}
""")


def values(rules: Any) -> list[str]:
    return [rule.value for rule in rules]


def test_a_specifier_denies_versions_and_no_name() -> None:
    decision = ask(SPECIFIC, "/", "django")
    assert decision.word is Word.UPSTREAM
    assert values(rules_of(decision).deny) == ["django<4.2"]
    assert ask(SPECIFIC, "/", "evil").word is Word.DENIED


def test_a_specifier_allows_the_name_and_each_level_some_versions() -> None:
    decision = ask(SPECIFIC, "/acme/below", "django")
    assert decision.word is Word.UPSTREAM
    assert [values(level) for level in rules_of(decision).allow] == [
        ["django>=4", "django<6"],
        ["django!=5.0"],
    ]
    assert [values(level) for level in rules_of(ask(SPECIFIC, "/acme", "left-pad")).allow] == [["left*==1.*"]]


def test_an_entry_without_specifier_allows_every_version() -> None:
    assert rules_of(ask(SPECIFIC, "/acme", "flask")).allow == ()
    assert ask(SPECIFIC, "/acme", "requests").word is Word.DENIED
    assert ask(SPECIFIC, "/acme/below", "left-pad").word is Word.DENIED


def test_a_denial_that_is_only_warned_of_is_told_and_lets_the_name_through() -> None:
    decision = ask(SPECIFIC, "/dry", "bad")
    assert (decision.word, decision.rule) == (Word.UPSTREAM, None)
    assert decision.warned == (
        Warned("deny bad", "bad is denied by dry (bad)"),
        Warned("allow", "bad is not in the allow list of dry"),
    )
    assert [step.because for step in decision.trail[-2:]] == [
        "bad is denied by dry (bad); only warned of",
        "bad is not in the allow list of dry; only warned of",
    ]
    rules = rules_of(decision)
    assert (values(rules.deny), sorted(rules.warn)) == (["bad==2"], ["allow", "deny"])


def test_a_warning_is_of_every_level_that_does_not_allow() -> None:
    assert [one.reason for one in ask(SPECIFIC, "/dry/below", "good").warned] == [
        "good is not in the allow list of dry/below"
    ]
    assert ask(SPECIFIC, "/dry", "good").warned == ()
    assert ask(SPECIFIC, "/", "evil").warned == ()


# Statuses, and lists of upstreams


def test_statuses_are_those_of_the_index() -> None:
    tree = tree_of("""
        policy: {refused: 403, deny: [evil]}
        groups:
          acme: {policy: {refused: 451, not_forwarded: 451, forward: false, reserve: [mine]}}
    """)
    assert (ask(tree, "/", "evil").refused, ask(tree, "/", "evil").not_forwarded) == (403, 404)
    for name in ("mine", "requests"):
        decision = ask(tree, "/acme", name)
        assert (decision.refused, decision.not_forwarded) == (451, 451)


def test_only_known_names_are_asked_for_where_the_policy_says_so() -> None:
    tree = tree_of({"policy": {"ask": "known", "merge": ["*"]}, "groups": {"acme": {"projects": {"p": {}}}}})
    assert ask(tree, "/acme", "requests").known_only
    assert ask(tree, "/acme", "x", "acme/p").known_only
    assert not ask(MERGED, "/acme", "requests").known_only


# Dated views

LONG_AGO, THEN = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)


def held(
    project: str, first_upload: datetime | None, since: datetime = LONG_AGO, kind: OwnedKind = OwnedKind.FILES
) -> NameFacts:
    return NameFacts((Owned(NamespacePath(project), kind, since, first_upload),))


def test_a_name_that_had_files_then_is_private_then() -> None:
    facts = held("acme/widgets", THEN - timedelta(seconds=1))
    decision = ask(MERGED, "/acme", "x", facts=facts, as_of=THEN)
    assert (decision.word, decision.projects) == (Word.PRIVATE, ("acme/widgets",))


@pytest.mark.parametrize("first_upload", [THEN, THEN + timedelta(days=1)])
def test_a_name_that_was_published_later_is_claimed_then_and_never_asked(first_upload: datetime) -> None:
    decision = ask(MERGED, "/acme", "numpy", facts=held("acme/widgets", first_upload), as_of=THEN)
    assert (decision.word, decision.rule, decision.ask) == (Word.CLAIMED, "package acme/widgets", ())
    assert decision.reason == "numpy belongs to acme/widgets, which published it after 1 Mar 00:00 UTC"


def test_an_old_claim_whose_files_are_all_younger_had_none_then() -> None:
    facts = held("acme/widgets", THEN + timedelta(days=1), since=LONG_AGO)
    assert ask(MERGED, "/acme", "x", facts=facts, as_of=THEN).word is Word.CLAIMED
    assert ask(MERGED, "/acme", "x", facts=facts).word is Word.PRIVATE


def test_what_lies_elsewhere_is_told_as_elsewhere_then_too() -> None:
    decision = ask(MERGED, "/acme/sandbox", "x", facts=held("acme/widgets", NOW), as_of=THEN)
    assert decision.reason == "x belongs to acme/widgets, which this index does not show"


def test_tombstones_and_patterns_of_today_claim_then() -> None:
    tombstone = held("acme/widgets", None, since=NOW, kind=OwnedKind.TOMBSTONE)
    assert ask(MERGED, "/acme", "x", facts=tombstone, as_of=THEN).word is Word.CLAIMED
    assert ask(MERGED, "/acme", "acme-x", as_of=THEN).word is Word.CLAIMED


def test_what_is_nobodys_is_asked_for_and_its_files_are_those_of_then() -> None:
    decision = ask(MERGED, "/acme", "requests", as_of=THEN)
    assert rules_of(decision).as_of == THEN
    assert rules_of(decision).token != rules_of(ask(MERGED, "/acme", "requests")).token


def test_a_merged_name_is_merged_then() -> None:
    decision = ask(MERGED, "/acme", "numpy", facts=held("acme/widgets", LONG_AGO), as_of=THEN)
    assert (decision.word, rules_of(decision).as_of) == (Word.MERGED, THEN)


# Tenants that keep off the root

APART = tree_of("""
    projects: {default: {}}
    groups:
      secret:
        at_root: false
        visibility: public
        policy: {reserve: [secret-*, shared]}
        projects: {p: {}}
      acme:
        visibility: public
        policy: {reserve: [shared]}
        projects: {p: {}}
""")


@pytest.mark.parametrize(("name", "owned"), [("x", "secret/p"), ("x", "-secret/p"), ("secret-x", "")])
def test_the_root_neither_shows_nor_counts_the_names_of_a_tenant_apart(name: str, owned: str) -> None:
    claims = tuple(filter(None, [owned]))
    decision = ask(APART, "/", name, *claims)
    assert (decision.word, decision.projects) == (Word.UPSTREAM, ())
    assert "secret" not in repr((decision.reason, decision.trail)).replace(name, "")
    assert ask(APART, "/secret", name, *claims).word in {Word.PRIVATE, Word.CLAIMED}


def test_at_the_root_the_next_owner_takes_the_place_of_a_tenant_apart() -> None:
    assert ask(APART, "/", "x", "secret/p", "acme/p").projects == ("acme/p",)
    assert ask(APART, "/", "shared", "secret/p").rule == "reserve shared"
    assert ask(APART, "/", "shared", "secret/p").tenant == "acme"
    assert ask(APART, "/", "x", "secret/p", "default").projects == ("default",)


def test_a_pattern_of_a_tenant_apart_does_not_keep_the_root_from_merging() -> None:
    tree = tree_of("""
        policy: {merge: ["*"]}
        groups:
          secret: {at_root: false, policy: {reserve: [x]}}
          acme: {projects: {p: {}}}
    """)
    assert ask(tree, "/", "x", "acme/p").word is Word.MERGED


# Tokens of rules


def test_rules_that_screen_alike_have_one_token_wherever_they_hold() -> None:
    assert rules_of(ask(MERGED, "/acme", "requests")).token == rules_of(ask(MERGED, "/globex", "flask")).token


@pytest.mark.parametrize(
    "policy",
    [
        {"min_age": "3d"},
        {"file_types": ["wheel"]},
        {"yanked": "hide"},
        {"withheld": "hide"},
        {"removed": "keep"},
        {"uploaded_before": "2026-05-01"},
        {"deny": ["x<1"]},
        {"deny": ["x<2"]},
        {"allow": ["x>1"]},
        {"min_age_exempt": ["x==1"]},
        {"warn": ["min_age"]},
        {"min_age_fixes": False},
    ],
    ids=str,
)
def test_rules_that_screen_differently_have_tokens_of_their_own(policy: dict[str, Any]) -> None:
    plain = rules_of(ask(tree_of({"policy": {}}), "/", "x"))
    assert rules_of(ask(tree_of({"policy": policy}), "/", "x")).token != plain.token


def test_whose_rule_it_is_is_told_and_so_stands_in_the_token() -> None:
    tree = tree_of({"groups": {name: {"policy": {"min_age": "3d"}} for name in ("acme", "globex")}})
    acme, globex = (rules_of(ask(tree, f"/{name}", "x")) for name in ("acme", "globex"))
    assert acme.token != globex.token
    assert replace(globex, said=acme.said).token == acme.token
    assert acme.rule("min_age").at == "acme"
    assert FileRules(NamespacePath("acme")).rule("min_age").text == "min_age 0s"


# Who owns a name, for uploads


@settings(
    max_examples=settings().max_examples // 4, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(worlds())
def test_somebody_owns_what_is_private_or_claimed_and_nothing_else(world: World) -> None:
    everything = sight(OWNER, world.tree)
    for index in world.tree:
        for name in world.names:
            facts = world.facts(name)
            decision = decide(Asked(index, name, everything), facts, world.tree, NOW)
            owned = is_owned(index, name, facts, world.tree, NOW)
            assert owned == (decision.word in {Word.PRIVATE, Word.MERGED, Word.CLAIMED})
