"""Who may do what where (contract 5): tokens, scopes, roles, visibility, and the sight that follows from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from proxy.domain.access import ANONYMOUS, OPERATOR, Action, Caller, CallerKind, Scope, may, role_of, sight
from proxy.domain.namespaces import Kind, NamespacePath, is_within, lineage
from proxy.domain.roles import Role
from tests.properties.strategies import World, worlds
from tests.support.trees import OWNER, deploy, job, tree_of, user

CONFIG = """
    users: {rita: {}, dave: {}, mary: {}, otto: {}, root: {}, mixed: {}, nobody: {}}
    members: {root: maintainer}
    projects:
      default: {}
      tools: {visibility: private}
    groups:
      acme:
        visibility: private
        members: {rita: reporter, mixed: owner}
        projects:
          widgets: {members: {dave: developer, mixed: reporter}}
          sandbox: {}
        groups:
          deep:
            visibility: public
            members: {mary: maintainer, rita: developer, mixed: reporter}
            projects:
              core: {members: {otto: owner}}
      globex:
        visibility: internal
        members: {}
        projects:
          site: {visibility: public}
          lab: {visibility: private}
      open:
        visibility: public
        projects:
          site: {}
          lab: {visibility: internal}
          vault: {visibility: private}
"""
TREE = tree_of(CONFIG)

READ, WRITE = Scope.READ_PACKAGES, Scope.WRITE_PACKAGES
ALL = frozenset(Action)
READS = frozenset({Action.READ})
PUBLISHES = READS | {Action.PUBLISH}
MAINTAINS = PUBLISHES | {
    Action.DELETE,
    Action.YANK,
    Action.SET_STATUS,
    Action.MAKE_TOKENS,
    Action.LIST_CLAIMS,
}
NOTHING: frozenset[Action] = frozenset()


def reading(name: str) -> Caller:
    return user(name, Scope.READ_API)


@pytest.mark.parametrize(
    ("who", "path", "allowed"),
    [
        # Nobody in particular: what is public, to read.
        (ANONYMOUS, "", READS),
        (ANONYMOUS, "default", READS),
        (ANONYMOUS, "tools", NOTHING),
        (ANONYMOUS, "acme", NOTHING),
        (ANONYMOUS, "acme/deep", NOTHING),  # says public, lies in a private group
        (ANONYMOUS, "acme/deep/core", NOTHING),
        (ANONYMOUS, "globex", NOTHING),
        (ANONYMOUS, "globex/site", NOTHING),  # says public, lies in an internal group
        (ANONYMOUS, "open/site", READS),
        (ANONYMOUS, "open/lab", NOTHING),
        (ANONYMOUS, "open/vault", NOTHING),
        # A user without a role: also what is internal.
        (user("nobody"), "open/site", READS),
        (user("nobody"), "open/lab", READS),
        (user("nobody"), "open/vault", NOTHING),
        (user("nobody"), "globex/site", READS),
        (user("nobody"), "globex", READS),
        (user("nobody"), "globex/lab", NOTHING),
        (user("nobody"), "acme/widgets", NOTHING),
        (reading("nobody"), "globex/site", READS),
        # Roles hold where they are given and below; each may do what the one before may.
        (user("rita"), "acme", READS),
        (user("rita"), "acme/widgets", READS),
        (user("rita"), "acme/deep/core", PUBLISHES),  # developer further down
        (user("rita"), "default", READS),
        (user("rita"), "globex/lab", NOTHING),
        (user("dave"), "acme/widgets", PUBLISHES),
        (user("dave"), "acme/sandbox", NOTHING),
        (user("dave"), "acme", NOTHING),
        (user("mary"), "acme/deep", MAINTAINS),
        (user("mary"), "acme/deep/core", MAINTAINS),
        (user("mary"), "acme", NOTHING),
        (user("otto"), "acme/deep/core", ALL),
        (user("otto"), "acme/deep", NOTHING),
        (user("root"), "", MAINTAINS),
        (user("root"), "tools", MAINTAINS),
        (user("root"), "acme/widgets", MAINTAINS),
        (user("root"), "globex/lab", MAINTAINS),
        # The highest counts, whether it stands above or below.
        (user("mixed"), "acme/widgets", ALL),
        (user("mixed"), "acme/deep/core", ALL),
        # A token that only reads leaves nothing else of any role.
        (reading("mixed"), "acme/widgets", READS),
        (reading("dave"), "acme/widgets", READS),
        (reading("root"), "", READS),
        (reading("dave"), "acme/sandbox", NOTHING),
        # Deploy tokens: their namespace and below, each scope its half.
        (deploy("acme"), "acme", PUBLISHES),
        (deploy("acme"), "acme/deep/core", PUBLISHES),
        (deploy("acme/widgets"), "acme/widgets", PUBLISHES),
        (deploy("acme/widgets"), "acme/sandbox", NOTHING),
        (deploy("acme/widgets"), "acme", NOTHING),
        (deploy("acme", READ), "acme/widgets", READS),
        (deploy("acme", WRITE), "acme/widgets", frozenset({Action.PUBLISH})),
        (deploy("acme", WRITE), "globex/site", NOTHING),
        (deploy("acme", WRITE), "open/site", READS),  # what everybody reads
        (deploy("acme", READ), "globex/site", READS),  # internal admits any valid credential
        (deploy("acme"), "globex/lab", NOTHING),
        (deploy("acme"), "tools", NOTHING),
        (deploy(""), "acme/widgets", PUBLISHES),
        (deploy(""), "tools", PUBLISHES),
        # Jobs: publish to their project, read the projects of its tenant.
        (job("acme/widgets"), "acme/widgets", PUBLISHES),
        (job("acme/widgets"), "acme/sandbox", READS),
        (job("acme/widgets"), "acme/deep/core", READS),
        (job("acme/widgets"), "acme", NOTHING),
        (job("acme/widgets"), "globex/lab", NOTHING),
        (job("acme/widgets"), "globex/site", READS),
        (job("acme/widgets"), "tools", NOTHING),
        (job("acme/widgets"), "open/vault", NOTHING),
        (job("default"), "tools", READS),
        (job("default"), "acme/widgets", NOTHING),
        # Owners of the instance.
        (OWNER, "", ALL),
        (OWNER, "acme/deep/core", ALL),
        (OPERATOR, "globex/lab", ALL),
    ],
)
def test_everybody_may_do_exactly_this(who: Caller, path: str, allowed: frozenset[Action]) -> None:
    namespace = TREE.find(path)
    assert {action for action in Action if may(who, action, namespace, TREE)} == allowed


def test_a_user_without_any_scope_sees_what_is_public() -> None:
    bare = Caller(CallerKind.USER, "mixed", token=9)
    assert not may(bare, Action.READ, TREE.find("acme/widgets"), TREE)
    assert may(bare, Action.READ, TREE.find("open/site"), TREE)


def test_a_token_without_a_home_reaches_nowhere() -> None:
    for kind in (CallerKind.DEPLOY, CallerKind.JOB):
        lost = Caller(kind, "x", token=9, scopes=frozenset({READ, WRITE}))
        assert role_of(lost, TREE.find("acme/widgets")) is None
        assert not may(lost, Action.READ, TREE.find("acme/widgets"), TREE)
        assert not may(lost, Action.PUBLISH, TREE.find("acme/widgets"), TREE)


def test_a_token_does_not_reach_a_namespace_that_only_begins_alike() -> None:
    tree = tree_of({"groups": {"acme": {"projects": {"x": {}, "x2": {}}}, "acme2": {"projects": {"y": {}}}}})
    assert not may(deploy("acme"), Action.READ, tree.find("acme2/y"), tree)
    assert not may(deploy("acme/x"), Action.PUBLISH, tree.find("acme/x2"), tree)
    assert not may(job("acme/x"), Action.READ, tree.find("acme2/y"), tree)


@pytest.mark.parametrize(
    ("who", "path", "role"),
    [
        (user("rita"), "acme/widgets", Role.REPORTER),
        (user("rita"), "acme/deep/core", Role.DEVELOPER),
        (user("mixed"), "acme/deep/core", Role.OWNER),
        (user("root"), "acme/deep/core", Role.MAINTAINER),
        (user("nobody"), "open/site", None),
        (deploy("acme", READ), "acme/widgets", Role.DEVELOPER),
        (job("acme/widgets"), "acme/sandbox", None),
        (ANONYMOUS, "open/site", None),
        (OWNER, "acme", Role.OWNER),
    ],
)
def test_roles_are_those_given_here_or_above(who: Caller, path: str, role: Role | None) -> None:
    assert role_of(who, TREE.find(path)) is role


# Sight


def test_whoever_reads_something_may_ask_everything_above_it() -> None:
    seen = sight(user("otto"), TREE)
    assert "acme/deep/core" in seen.readable
    assert {"acme/deep", "acme", ""} <= seen.askable
    assert not {"acme/deep", "acme"} & seen.readable
    assert not {"acme/widgets", "acme/sandbox"} & seen.askable
    assert seen.publishes == {"acme/deep/core"}


def test_a_write_only_token_sees_no_private_index_and_publishes() -> None:
    seen = sight(deploy("acme/widgets", WRITE), TREE)
    assert seen.publishes == {"acme/widgets"}
    assert not {path for path in seen.askable if is_within(path, "acme")}


def test_a_job_asks_the_indexes_of_its_tenant() -> None:
    seen = sight(job("acme/widgets"), TREE)
    assert {path for path in seen.askable if is_within(path, "acme")} == {
        path.path for path in TREE if is_within(path.path, "acme")
    }
    assert seen.publishes == {"acme/widgets"}


def test_only_projects_are_published_to() -> None:
    assert sight(OWNER, TREE).publishes == {item.path for item in TREE if item.kind is Kind.PROJECT}


def test_sight_knows_who_came_without_credentials() -> None:
    assert sight(ANONYMOUS, TREE).anonymous
    assert not any(
        sight(who, TREE).anonymous for who in (user("nobody"), deploy("acme"), job("default"), OWNER)
    )


def test_a_private_instance_shows_strangers_nothing_at_all() -> None:
    tree = tree_of(
        {"visibility": "private", "groups": {"a": {"visibility": "public", "projects": {"p": {}}}}}
    )
    assert sight(ANONYMOUS, tree).askable == frozenset()
    assert sight(user("nobody"), tree).askable == frozenset()
    assert sight(job("a/p"), tree).askable == {"a/p", "a", ""}


def test_labels_name_the_caller_and_no_number_of_a_token() -> None:
    assert [who.label for who in (ANONYMOUS, user("alice"), deploy("acme"), OWNER)] == [
        "anonymous",
        "user:alice",
        "deploy:pyo+deploy-3",
        "owner:first",
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_sight_is_what_may_says_of_every_namespace(world: World) -> None:
    tree = world.tree
    for who in world.callers:
        seen = sight(who, tree)
        assert seen.readable == {item.path for item in tree if may(who, Action.READ, item, tree)}
        assert seen.askable == {above for path in seen.readable for above in lineage(path)}
        for path in seen.publishes:
            assert may(who, Action.PUBLISH, tree.find(path), tree)
        # What everybody may read, everybody with a credential may read too.
        assert sight(ANONYMOUS, tree).readable <= seen.readable


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_nothing_is_wider_than_what_lies_above_it(world: World) -> None:
    for item in world.tree:
        for above in lineage(item.path):
            parent = world.tree.find(above)
            assert item.visibility <= parent.visibility
            for name, role in parent.roles.items():
                assert item.roles[name] >= role


# Jobs, and packages that are switched off

SWITCHED = tree_of(
    """
    projects: {}
    groups:
      acme:
        projects:
          widgets: {}
          closed: {jobs: self}
        groups:
          deep:
            jobs: self
            projects: {core: {}, open: {jobs: tenant}}
          shut:
            packages: false
            visibility: public
            projects: {thing: {packages: true}}
    """
)


@pytest.mark.parametrize(
    ("home", "readable"),
    [
        ("acme/widgets", {"acme/widgets", "acme/deep/open", "acme/shut/thing"}),
        ("acme/closed", {"acme/closed", "acme/widgets", "acme/deep/open", "acme/shut/thing"}),
        ("acme/deep/core", {"acme/deep/core", "acme/widgets", "acme/deep/open", "acme/shut/thing"}),
    ],
)
def test_a_project_says_whose_jobs_may_read_it(home: str, readable: set[str]) -> None:
    found = sight(job(home), SWITCHED).readable
    assert {path for path in found if SWITCHED.find(path).kind is Kind.PROJECT} == readable


def test_a_job_that_several_projects_trust_publishes_to_each() -> None:
    homes = (NamespacePath("acme/widgets"), NamespacePath("acme/closed"))
    both = replace(job("acme/widgets"), homes=homes)
    assert sight(both, SWITCHED).publishes == set(homes)


def test_nobody_publishes_where_packages_are_switched_off() -> None:
    assert "acme/shut/thing" not in sight(OWNER, SWITCHED).publishes
    assert not SWITCHED.find("acme/shut/thing").packages
    assert SWITCHED.find("acme/deep/core").packages
