"""Who owns a name, and why: every word of contract 4 and every cause of it, with the trail that is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from proxy.domain.access import ANONYMOUS, Caller, sight
from proxy.domain.decide import decide, owner_at_root
from proxy.domain.decision import Asked, Decision, NameFacts, PackageOrigin, Step, Trouble, Word
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import NamespacePath, is_within
from proxy.domain.policy import Origin
from tests.properties.strategies import World, worlds
from tests.support.trees import FILE, NOW, OWNER, decided, deploy, facts_of, job, line_of, tree_of, user

WORLD = """
    users: {alice: {}, bob: {}, dora: {}, eve: {}}
    policy:
      reserve:
        - corp-*
    projects:
      default: {}
      tools: {visibility: private}
    groups:
      acme:
        visibility: private
        members: {alice: developer}
        policy:
          reserve:
            - acme-*  # first
        projects:
          widgets: {}
          sandbox: {members: {bob: developer}}
        groups:
          platform:
            policy:
              reserve:
                - platform-*
            projects:
              core: {members: {dora: reporter}}
              edge: {}
      globex:
        visibility: public
        policy:
          reserve:
            - acme-*
            - shared
        projects:
          site: {}
          lab: {visibility: private}
      late:
        visibility: public
        policy: {reserve: [shared, late-only]}
        projects: {thing: {}}
"""
"""bob sees one project of acme, dora one below acme/platform, alice all of acme, eve what anybody sees."""

TREE = tree_of(WORLD)
ALICE, BOB, DORA, EVE = user("alice"), user("bob"), user("dora"), user("eve")


def ask(index: str, name: str, who: Caller, *owned: str) -> Decision:
    return decided(TREE, index, name, who, facts_of(*owned))


def last(decision: Decision) -> Step:
    """Return the step that settled it; there is one, and nothing stands behind it."""
    assert [step.outcome for step in decision.trail[:-1]] == ["pass"] * (len(decision.trail) - 1)
    assert decision.trail[-1].outcome == "stop"
    return decision.trail[-1]


def steps(decision: Decision) -> list[str]:
    return [step.step for step in decision.trail]


def origin_of(marker: str, path: str) -> Origin:
    return Origin(FILE, line_of(WORLD, marker), path)


# private


@pytest.mark.parametrize("index", ["/acme/widgets", "/acme", "/"])
def test_a_published_name_is_private_at_its_project_and_everywhere_above(index: str) -> None:
    decision = ask(index, "widgets", ALICE, "acme/widgets")
    assert decision.word is Word.PRIVATE
    assert decision.projects == ("acme/widgets",)
    assert decision.tenant == "acme"
    assert (decision.ask, decision.rules, decision.rule, decision.challenge) == ((), None, None, False)
    assert steps(decision) == ["private"]
    assert last(decision).origin == PackageOrigin(Name("widgets"), NamespacePath("acme/widgets"))
    assert last(decision).because == decision.reason == "acme/widgets publishes widgets"


@pytest.mark.parametrize("index", ["/acme", "/"])
def test_the_files_of_all_readable_projects_are_served_together(index: str) -> None:
    owned = ("acme/platform/core", "acme/widgets", "-acme/sandbox")
    decision = ask(index, "widgets", ALICE, *owned)
    assert decision.projects == ("acme/platform/core", "acme/widgets")
    assert decision.reason == "acme/platform/core, acme/widgets publish widgets"


def test_a_project_shows_its_own_files_alone() -> None:
    assert ask("/acme/widgets", "x", ALICE, "acme/sandbox", "acme/widgets").projects == ("acme/widgets",)


def test_a_group_does_not_show_what_lies_beside_it() -> None:
    tree = tree_of(
        {"groups": {"a": {"groups": {"b": {"projects": {"p": {}}}, "b2": {"projects": {"q": {}}}}}}}
    )
    decision = decided(tree, "/a/b", "x", OWNER, facts_of("a/b2/q"))
    assert decision.word is Word.CLAIMED


@pytest.mark.parametrize("index", ["/acme", "/"])
def test_projects_that_the_caller_cannot_read_are_left_out(index: str) -> None:
    decision = ask(index, "widgets", BOB, "acme/widgets", "acme/sandbox", "acme/platform/core")
    assert decision.word is Word.PRIVATE
    assert decision.projects == ("acme/sandbox",)
    assert decision.reason == "acme/sandbox publishes widgets"


def test_a_tombstone_is_no_file() -> None:
    assert ask("/acme/widgets", "widgets", ALICE, "-acme/widgets").word is Word.CLAIMED


def test_a_project_of_the_instance_is_private_at_itself_and_at_the_root() -> None:
    for index in ("/default", "/"):
        decision = ask(index, "x", ANONYMOUS, "default")
        assert (decision.word, decision.projects, decision.tenant) == (Word.PRIVATE, ("default",), "")


def test_a_reserved_name_that_is_published_is_private() -> None:
    assert ask("/acme/widgets", "acme-core", ALICE, "acme/widgets").word is Word.PRIVATE
    assert ask("/", "corp-core", ANONYMOUS, "default").word is Word.PRIVATE


# claimed


@pytest.mark.parametrize(
    ("index", "name", "owned", "rule", "reason"),
    [
        (
            "/acme/sandbox",
            "widgets",
            "acme/widgets",
            "package acme/widgets",
            "widgets belongs to acme/widgets, which this index does not show",
        ),
        (
            "/acme/platform",
            "widgets",
            "acme/widgets",
            "package acme/widgets",
            "widgets belongs to acme/widgets, which this index does not show",
        ),
        (
            "/acme/widgets",
            "widgets",
            "-acme/widgets",
            "tombstone acme/widgets",
            "widgets was deleted from acme/widgets and stays claimed; an owner may release it",
        ),
        (
            "/",
            "widgets",
            "-acme/widgets",
            "tombstone acme/widgets",
            "widgets was deleted from acme/widgets and stays claimed; an owner may release it",
        ),
        (
            "/acme/platform/edge",
            "widgets",
            "-acme/widgets",
            "tombstone acme/widgets",
            "widgets was deleted from acme/widgets and stays claimed; an owner may release it",
        ),
        (
            "/acme/widgets",
            "default-tool",
            "default",
            "package default",
            "default-tool belongs to default, which this index does not show",
        ),
    ],
)
def test_what_a_project_owns_is_claimed_elsewhere(
    index: str, name: str, owned: str, rule: str, reason: str
) -> None:
    decision = ask(index, name, ALICE, owned)
    assert (decision.word, decision.rule, decision.reason) == (Word.CLAIMED, rule, reason)
    assert (decision.ask, decision.rules, decision.projects) == ((), None, ())
    assert steps(decision) == ["private", "claimed"]
    assert last(decision).origin == PackageOrigin(Name(name), NamespacePath(owned.removeprefix("-")))


@pytest.mark.parametrize("index", ["/acme", "/acme/widgets", "/acme/platform/core", "/"])
def test_a_pattern_reserves_in_the_whole_tenant_and_at_the_root(index: str) -> None:
    decision = ask(index, "acme-anything", ALICE)
    assert (decision.word, decision.rule, decision.tenant) == (Word.CLAIMED, "reserve acme-*", "acme")
    assert decision.reason == "acme-anything is reserved by acme (acme-*) and not published here"
    assert last(decision).origin == origin_of("# first", "groups.acme.policy.reserve.0")


@pytest.mark.parametrize("index", ["/acme", "/acme/widgets", "/acme/platform/edge", "/"])
def test_a_pattern_of_a_subgroup_reserves_in_the_whole_tenant(index: str) -> None:
    decision = ask(index, "platform-x", ALICE)
    assert (decision.word, decision.rule) == (Word.CLAIMED, "reserve platform-*")
    assert decision.tenant == "acme"
    assert last(decision).origin == origin_of("- platform-*", "groups.acme.groups.platform.policy.reserve.0")


@pytest.mark.parametrize("index", ["/late", "/late/thing", "/default"])
def test_a_pattern_of_another_tenant_does_not_count_here(index: str) -> None:
    assert ask(index, "acme-anything", OWNER).word is Word.UPSTREAM


@pytest.mark.parametrize("index", ["/late", "/late/thing", "/default", "/globex"])
def test_a_package_of_another_tenant_does_not_count_here(index: str) -> None:
    for owned in ("acme/widgets", "-acme/widgets"):
        assert ask(index, "widgets", OWNER, owned).word is Word.UPSTREAM


@pytest.mark.parametrize("index", ["/", "/acme", "/acme/widgets", "/globex/site", "/default"])
@pytest.mark.parametrize("owned", ["-default", "-tools", "tools", "-"])
def test_a_claim_of_the_instance_counts_everywhere(index: str, owned: str) -> None:
    assert ask(index, "x", ALICE, owned).word is Word.CLAIMED


@pytest.mark.parametrize("index", ["/", "/acme/widgets", "/globex", "/default"])
def test_a_pattern_of_the_root_counts_everywhere(index: str) -> None:
    decision = ask(index, "corp-x", OWNER)
    assert (decision.word, decision.rule, decision.tenant) == (Word.CLAIMED, "reserve corp-*", "")
    assert decision.reason == "corp-x is reserved by the instance (corp-*) and not published here"
    assert last(decision).origin == origin_of("- corp-*", "policy.reserve.0")


@pytest.mark.parametrize("index", ["/", "/acme", "/globex/site"])
def test_a_dropped_namespace_leaves_its_claim_to_the_instance(index: str) -> None:
    decision = ask(index, "x", OWNER, "-")
    assert (decision.word, decision.rule, decision.tenant) == (Word.CLAIMED, "tombstone /", "")
    assert decision.reason == "x stays claimed by the instance after its namespace was dropped"


def test_a_project_that_left_the_file_unsettled_counts_as_the_instance() -> None:
    assert ask("/globex", "x", OWNER, "gone/project").word is Word.CLAIMED


# out of sight


@pytest.mark.parametrize(
    ("index", "name", "who", "owned"),
    [
        ("/acme/sandbox", "widgets", BOB, "acme/widgets"),
        ("/acme", "widgets", BOB, "acme/widgets"),
        ("/acme/sandbox", "widgets", BOB, "-acme/platform/core"),
        ("/", "widgets", EVE, "acme/widgets"),
        ("/", "widgets", EVE, "-acme/widgets"),
        ("/globex", "x", EVE, "globex/lab"),
        ("/globex", "x", EVE, "tools"),
        ("/acme/sandbox", "platform-x", BOB, ""),
        ("/", "platform-x", EVE, ""),
        ("/", "acme-x", EVE, ""),
    ],
)
def test_an_owner_out_of_sight_is_not_told(index: str, name: str, who: Caller, owned: str) -> None:
    decision = ask(index, name, who, *filter(None, [owned]))
    assert (decision.word, decision.rule, decision.tenant) == (Word.CLAIMED, None, None)
    assert decision.reason == last(decision).because == f"{name} is reserved on this server"
    assert last(decision).origin is None
    assert not decision.challenge


def test_the_first_owner_in_sight_is_told_where_others_are_not() -> None:
    decision = ask("/acme/sandbox", "x", BOB, "acme/widgets", "-acme/sandbox")
    assert decision.rule == "tombstone acme/sandbox"


@pytest.mark.parametrize(
    ("index", "name", "owned"),
    [
        ("/", "widgets", "acme/widgets"),
        ("/", "widgets", "-acme/widgets"),
        ("/", "acme-x", ""),
        ("/", "platform-x", ""),
        ("/globex", "x", "globex/lab"),
        ("/globex/site", "x", "-globex/lab"),
        ("/globex", "x", "tools"),
        ("/default", "x", "-tools"),
    ],
)
def test_an_anonymous_caller_is_challenged_where_the_owner_is_not_public(
    index: str, name: str, owned: str
) -> None:
    decision = ask(index, name, ANONYMOUS, *filter(None, [owned]))
    assert (decision.word, decision.challenge) == (Word.CLAIMED, True)
    assert (decision.rule, decision.tenant) == (None, None)


@pytest.mark.parametrize(
    ("index", "name", "owned"),
    [
        ("/globex", "x", "-globex/site"),
        ("/globex/site", "x", "-globex/site"),
        ("/", "x", "-globex/site"),
        ("/", "shared", ""),
        ("/globex", "shared", ""),
        ("/", "corp-x", ""),
        ("/late", "x", "-default"),
        ("/globex", "x", "-"),
    ],
)
def test_an_anonymous_caller_is_refused_where_the_owner_is_public(index: str, name: str, owned: str) -> None:
    decision = ask(index, name, ANONYMOUS, *filter(None, [owned]))
    assert (decision.word, decision.challenge) == (Word.CLAIMED, False)
    assert decision.rule is not None


def test_a_hidden_owner_among_public_ones_is_a_challenge_all_the_same() -> None:
    assert ask("/globex", "x", ANONYMOUS, "-globex/site", "globex/lab").challenge
    assert ask("/", "x", ANONYMOUS, "globex/lab", "-globex/site").challenge


def test_credentials_end_the_challenge() -> None:
    for who in (EVE, deploy("late"), job("late/thing")):
        assert not ask("/", "widgets", who, "acme/widgets").challenge


# The root's one owner


@pytest.mark.parametrize(
    ("owned", "name", "owner"),
    [
        ((), "nobody", None),
        (("globex/site", "default"), "x", ""),
        (("globex/site", "-default"), "shared", ""),
        (("-",), "acme-x", ""),
        (("acme/widgets",), "shared", "globex"),
        ((), "shared", "globex"),
        ((), "late-only", "late"),
        (("late/thing",), "acme-x", "acme"),
        (("late/thing", "acme/widgets", "globex/site"), "x", "late"),
        (("-late/thing", "acme/widgets"), "x", "late"),
        (("late/thing",), "corp-x", "late"),
        ((), "corp-x", ""),
    ],
)
def test_at_the_root_a_name_belongs_to_one_owner(
    owned: tuple[str, ...], name: str, owner: str | None
) -> None:
    assert owner_at_root(parse_name(name), facts_of(*owned), TREE, NOW) == owner


def test_at_the_root_only_the_owners_files_are_shown() -> None:
    decision = ask("/", "x", OWNER, "late/thing", "acme/widgets")
    assert (decision.word, decision.projects) == (Word.PRIVATE, ("late/thing",))
    assert ask("/", "x", OWNER, "acme/widgets", "default").projects == ("default",)
    # globex reserves it, so what late publishes stands back, here alone.
    reserved = ask("/", "shared", OWNER, "late/thing")
    assert (reserved.word, reserved.rule) == (Word.CLAIMED, "reserve shared")
    assert ask("/late", "shared", OWNER, "late/thing").word is Word.PRIVATE


def test_at_the_root_readers_of_another_tenant_are_refused_the_owners_name() -> None:
    decision = ask("/", "x", ALICE, "late/thing", "acme/widgets")
    assert decision.projects == ("late/thing",)  # late is public
    hidden = ask("/", "x", EVE, "acme/widgets", "globex/site")
    assert (hidden.word, hidden.rule) == (Word.CLAIMED, None)


def test_a_tombstone_of_the_instance_hides_every_tenants_files_at_the_root() -> None:
    decision = ask("/", "x", OWNER, "acme/widgets", "-default")
    assert (decision.word, decision.rule) == (Word.CLAIMED, "tombstone default")
    assert ask("/acme", "x", OWNER, "acme/widgets", "-default").word is Word.PRIVATE


def test_the_age_of_claims_does_not_depend_on_the_order_of_the_file() -> None:
    assert owner_at_root(parse_name("x"), facts_of("late/thing", "acme/widgets"), TREE, NOW) == "late"
    assert owner_at_root(parse_name("x"), facts_of("acme/widgets", "late/thing"), TREE, NOW) == "acme"


# not-forwarded, denied, upstream

POLICIES = """
    upstreams:
      pypi: {index_url: "http://127.0.0.1:9/simple/"}
      second: {index_url: "http://127.0.0.1:10/simple/"}
    policy:
      upstreams: [pypi, second]
      deny:
        - evil-*
      allow: ["*"]
    groups:
      open:
        projects: {p: {}}
      vault:
        policy:
          forward: false   # own
        projects: {p: {}}
        groups:
          inner: {projects: {p: {}}}
          outer:
            policy: {forward: true}
            projects: {p: {}}
      locked:
        policy:
          forward: false   # lock
          lock: [forward]
        projects: {p: {}}
        groups:
          deep: {groups: {deeper: {projects: {p: {}}}}}
      alone:
        policy:
          upstreams: []    # none
      other:
        policy: {upstreams: [second]}
      strict:
        policy:
          allow:           # narrow |
            - num*
            - django
          deny:
            - numba        # group
        groups:
          stricter:
            policy:
              allow: [numpy, flask]  # narrower |
              deny: [django]
            projects: {p: {}}
          closed:
            policy:
              allow: []    # nothing |
"""
POLICED = tree_of(POLICIES)


def policed(index: str, name: str) -> Decision:
    return decided(POLICED, index, name)


@pytest.mark.parametrize(
    ("index", "whence", "marker", "path"),
    [
        ("/vault", "", "# own", "groups.vault.policy.forward"),
        ("/vault/p", ", by vault", "# own", "groups.vault.policy.forward"),
        ("/vault/inner", ", inherited from vault", "# own", "groups.vault.policy.forward"),
        ("/vault/inner/p", ", by vault", "# own", "groups.vault.policy.forward"),
        ("/locked", "", "# lock", "groups.locked.policy.forward"),
        ("/locked/p", ", locked by locked", "# lock", "groups.locked.policy.forward"),
        ("/locked/deep/deeper", ", locked by locked", "# lock", "groups.locked.policy.forward"),
        ("/locked/deep/deeper/p", ", locked by locked", "# lock", "groups.locked.policy.forward"),
    ],
)
def test_where_forwarding_is_off_nothing_is_asked_and_the_line_is_told(
    index: str, whence: str, marker: str, path: str
) -> None:
    decision = policed(index, "requests")
    assert decision.word is Word.NOT_FORWARDED
    assert decision.rule == "forward false"
    title = index.strip("/")
    assert decision.reason == f"requests is not published here, and forwarding is off for {title}{whence}"
    assert (decision.ask, decision.rules) == ((), None)
    assert steps(decision) == ["private", "claimed", "forward"]
    assert last(decision).origin == Origin(FILE, line_of(POLICIES, marker), path)


def test_a_group_below_may_forward_again_unless_that_is_locked() -> None:
    assert policed("/vault/outer/p", "requests").word is Word.UPSTREAM


@pytest.mark.parametrize("index", ["/", "/a", "/a/p"])
def test_the_roots_own_policy_turns_forwarding_off(index: str) -> None:
    text = "policy:\n  forward: false\nprojects: {}\ngroups: {a: {projects: {p: {}}}}\n"
    decision = decided(tree_of(text), index, "requests")
    assert decision.word is Word.NOT_FORWARDED
    assert last(decision).origin == Origin(FILE, 2, "policy.forward")
    if index != "/":
        assert decision.reason.endswith("by the instance") or decision.reason.endswith("from the instance")


def test_without_an_upstream_nothing_is_forwarded() -> None:
    decision = policed("/alone", "requests")
    assert (decision.word, decision.rule) == (Word.NOT_FORWARDED, "upstreams")
    assert decision.reason == "requests is not published here, and there is no upstream for alone"
    assert last(decision).origin == Origin(FILE, line_of(POLICIES, "# none"), "groups.alone.policy.upstreams")


@pytest.mark.parametrize("index", ["/", "/open/p", "/vault/outer", "/strict", "/strict/stricter/p"])
def test_a_name_denied_above_is_denied(index: str) -> None:
    decision = policed(index, "evil-twin")
    assert (decision.word, decision.rule) == (Word.DENIED, "deny evil-*")
    assert decision.reason == "evil-twin is denied by the instance (evil-*)"
    assert (decision.ask, decision.rules) == ((), None)
    assert steps(decision) == ["private", "claimed", "forward", "allow"]
    assert last(decision).origin == Origin(FILE, line_of(POLICIES, "- evil-*"), "policy.deny.0")


def test_deny_wins_over_allow() -> None:
    decision = policed("/strict", "numba")
    assert (decision.word, decision.rule) == (Word.DENIED, "deny numba")
    assert decision.reason == "numba is denied by strict (numba)"
    assert last(decision).origin == Origin(FILE, line_of(POLICIES, "# group"), "groups.strict.policy.deny.0")


def test_deny_adds_downwards_and_not_upwards() -> None:
    assert policed("/strict", "django").word is Word.UPSTREAM
    decision = policed("/strict/stricter", "django")
    assert (decision.word, decision.rule) == (Word.DENIED, "deny django")
    assert policed("/strict/stricter", "numba").rule == "deny numba"


@pytest.mark.parametrize(
    ("index", "name", "at", "marker"),
    [
        ("/strict", "requests", "strict", "# narrow"),
        ("/strict/stricter", "requests", "strict", "# narrow"),
        ("/strict/stricter", "flask", "strict", "# narrow"),  # allowed below alone
        ("/strict/stricter/p", "numexpr", "strict/stricter", "# narrower"),  # allowed above alone
        ("/strict/closed", "numpy", "strict/closed", "# nothing"),
    ],
)
def test_a_name_must_be_allowed_at_every_level(index: str, name: str, at: str, marker: str) -> None:
    decision = policed(index, name)
    assert (decision.word, decision.rule) == (Word.DENIED, "allow")
    assert decision.reason == f"{name} is not in the allow list of {at}"
    path = f"groups.{'.groups.'.join(at.split('/'))}.policy.allow"
    assert last(decision).origin == Origin(FILE, line_of(POLICIES, f"{marker} |"), path)


@pytest.mark.parametrize(
    ("index", "name"), [("/strict", "numpy"), ("/strict", "django"), ("/strict/stricter/p", "numpy")]
)
def test_an_allowed_name_is_asked_upstream(index: str, name: str) -> None:
    assert policed(index, name).word is Word.UPSTREAM


def test_what_is_private_is_not_subject_to_allow_deny_and_forward() -> None:
    for project, name in (("strict/stricter/p", "requests"), ("open/p", "evil-twin"), ("vault/p", "x")):
        assert decided(POLICED, f"/{project}", name, facts=facts_of(project)).word is Word.PRIVATE


def test_a_claim_comes_before_policy() -> None:
    for name in ("evil-twin", "numba"):
        assert decided(POLICED, "/strict/stricter/p", name, facts=facts_of("-strict/stricter/p")).word is (
            Word.CLAIMED
        )
    assert decided(POLICED, "/vault", "x", facts=facts_of("-vault/p")).word is Word.CLAIMED


@pytest.mark.parametrize(
    ("index", "asks"), [("/", ("pypi", "second")), ("/open/p", ("pypi", "second")), ("/other", ("second",))]
)
def test_a_name_that_nobody_owns_is_asked_of_the_upstreams_in_order(
    index: str, asks: tuple[str, ...]
) -> None:
    decision = policed(index, "requests")
    assert (decision.word, decision.ask) == (Word.UPSTREAM, asks)
    assert decision.rules is not None
    assert decision.rules.index == index.strip("/")
    assert decision.rule is None
    assert steps(decision) == ["private", "claimed", "forward", "allow"]
    assert {step.outcome for step in decision.trail} == {"pass"}


# What upstreams said


def test_nobody_upstream_knowing_the_name_makes_it_unknown() -> None:
    decision = policed("/", "requests").as_unknown(Name("requests"))
    assert (decision.word, decision.ask, decision.rules) == (Word.UNKNOWN, (), None)
    assert decision.reason == "requests is neither published here nor known to pypi, second"
    assert last(decision) == Step("upstream", "stop", "no such project at pypi, second")


def test_the_upstream_that_has_it_is_told_and_the_rules_stay() -> None:
    asked = policed("/", "requests")
    found = asked.as_found(Name("requests"), "second", "hit")
    assert (found.word, found.ask, found.rules) == (asked.word, asked.ask, asked.rules)
    assert found.upstream == "second"
    assert found.reason == "second has requests"
    assert found.trail == (*asked.trail, Step("upstream", "pass", "second has it (hit)"))


@pytest.mark.parametrize(("said", "told"), [(None, 2), (0, 2), (1, 1), (5, 5), (6, 5), (86400, 5), (-3, 1)])
def test_trouble_is_told_with_a_short_wait_and_never_as_unknown(said: int | None, told: int) -> None:
    decision = policed("/", "requests").as_unavailable(
        Name("requests"), "pypi", Trouble.BUSY, "it answered 503", said
    )
    assert decision.word is Word.UNAVAILABLE
    assert (decision.trouble, decision.upstream, decision.retry_after) == (Trouble.BUSY, "pypi", told)
    assert (decision.ask, decision.rules) == ((), None)
    assert last(decision) == Step("upstream", "stop", "pypi: it answered 503")


# Of any configuration

_MANY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_MANY
@given(worlds())
def test_a_decision_tells_nobody_of_a_namespace_out_of_sight(world: World) -> None:
    tree = world.tree
    for who in world.callers:
        seen = sight(who, tree)
        hidden = [namespace.path for namespace in tree if namespace.path not in seen.askable]
        for index in tree:
            if index.path not in seen.askable:
                continue
            for name in world.names:
                decision = decide(Asked(index, name, seen), world.facts(name), tree, NOW)
                for path in hidden:
                    assert not _is_told(decision, path), (who, index.path, name, path, decision)
                shown = {*decision.projects}
                assert shown <= seen.readable
                assert all(is_within(project, index.path) for project in shown)


def _is_told(decision: Decision, path: str) -> bool:
    """Whether a path of the made-up trees, which share no word with any sentence, stands anywhere."""
    told = [decision.rule or "", decision.reason, decision.tenant or "", *decision.projects]
    for step in decision.trail:
        told.append(step.because)
        match step.origin:
            case Origin(_, _, dotted):
                told.append(_path_of(dotted))
            case PackageOrigin(_, project):
                told.append(project)
    words = {word.strip("(),;:") for text in told for word in text.split()}
    return any(is_within(word, path) for word in words)


def _path_of(dotted: str) -> str:
    """The namespace that `groups.a.groups.b.policy.forward` stands at."""
    parts = dotted.split(".")
    below = []
    while parts[:1] in (["groups"], ["projects"]) and len(parts) > 1:
        below.append(parts[1])
        parts = parts[2:]
    return "/".join(below)


@_MANY
@given(worlds())
def test_only_a_name_that_nobody_owns_or_that_is_merged_is_ever_asked_upstream(world: World) -> None:
    tree = world.tree
    for who in world.callers:
        seen = sight(who, tree)
        for index in tree:
            for name in world.names:
                decision = decide(Asked(index, name, seen), world.facts(name), tree, NOW)
                assert bool(decision.ask) == (decision.word in {Word.UPSTREAM, Word.MERGED})
                assert bool(decision.rules) == bool(decision.ask)
                owned = world.is_claimed(index.path, name)
                assert (decision.word in {Word.PRIVATE, Word.MERGED, Word.CLAIMED}) == owned
                assert decision.word is not Word.MERGED or world.is_merged(index.path, name)
                assert not (decision.challenge and (not seen.anonymous or decision.word is not Word.CLAIMED))


@_MANY
@given(worlds())
def test_who_asks_changes_nothing_but_sight(world: World) -> None:
    """Callers of equal sight get equal answers, and more sight never turns private into a refusal."""
    tree = world.tree
    everything = sight(OWNER, tree)
    for who in world.callers:
        seen = sight(who, tree)
        for index in tree:
            for name in world.names:
                facts = world.facts(name)
                narrow = decide(Asked(index, name, seen), facts, tree, NOW)
                wide = decide(Asked(index, name, everything), facts, tree, NOW)
                if narrow.word in {Word.PRIVATE, Word.MERGED}:
                    assert wide.word is narrow.word
                    assert set(narrow.projects) <= set(wide.projects)
                elif narrow.word is not Word.CLAIMED:
                    assert narrow == wide


def test_a_claim_that_was_released_frees_the_name() -> None:
    assert ask("/acme/widgets", "widgets", ALICE, "-acme/widgets").word is Word.CLAIMED
    assert decided(TREE, "/acme/widgets", "widgets", ALICE, NameFacts()).word is Word.UPSTREAM


def test_when_something_was_claimed_changes_no_answer_but_the_order() -> None:
    facts = facts_of("acme/widgets")
    later = NameFacts(tuple(replace(owned, since=owned.since + timedelta(days=9)) for owned in facts.owned))
    assert decided(TREE, "/acme", "x", ALICE, facts) == decided(TREE, "/acme", "x", ALICE, later)
