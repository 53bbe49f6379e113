"""Who may publish a name where: ownership, names that upstreams have, and `protect` (contract 6)."""

from __future__ import annotations

from typing import Literal

import pytest

from proxy.domain.access import OPERATOR, Action, Caller, Scope
from proxy.domain.admit import UNCHECKED, Admission, Shadow, admit, check_protected
from proxy.domain.names import parse_name
from proxy.errors import NotPermitted
from tests.support.trees import NOW, OWNER, deploy, facts_of, job, tree_of, user

TREE = tree_of("""
    users: {dev: {}, all: {}, op: {}}
    policy: {reserve: [corp-*]}
    members: {op: developer}
    projects:
      default: {members: {dev: developer}}
      tools: {}
    groups:
      acme:
        members: {all: developer}
        policy: {reserve: [acme-*, both]}
        projects:
          widgets: {}
          sandbox: {members: {dev: developer}}
        groups: {deep: {policy: {reserve: [deep-*]}, projects: {core: {}}}}
      globex:
        members: {all: developer}
        policy: {reserve: [globex-*, both]}
        projects: {site: {members: {dev: developer}}}
""")
DEV, ALL, OP = user("dev"), user("all"), user("op")


def refusal(project: str, name: str, who: Caller, *owned: str) -> str | None:
    """Return the message by which a publication is refused; None where it is admitted."""
    try:
        admit(TREE.find(project), parse_name(name), who, facts_of(*owned), TREE, NOW)
    except NotPermitted as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("project", "name", "who", "owned"),
    [
        ("acme/sandbox", "new", DEV, ()),
        ("acme/sandbox", "widgets", DEV, ("acme/sandbox",)),
        ("acme/sandbox", "widgets", DEV, ("-acme/sandbox",)),
        # who may publish there too
        ("acme/sandbox", "widgets", ALL, ("acme/widgets",)),
        ("acme/sandbox", "widgets", ALL, ("-acme/widgets", "acme/deep/core")),
        ("acme/sandbox", "widgets", deploy("acme"), ("acme/widgets",)),
        ("acme/sandbox", "widgets", OWNER, ("acme/widgets", "default")),
        # another tenant's packages are its own matter
        ("globex/site", "widgets", DEV, ("acme/widgets",)),
        ("globex/site", "widgets", DEV, ("-acme/widgets",)),
        ("default", "widgets", DEV, ("acme/widgets",)),
        # one's own patterns, wherever in the tenant they stand, and the root's
        ("acme/sandbox", "acme-x", DEV, ()),
        ("acme/sandbox", "deep-x", DEV, ()),
        ("acme/sandbox", "corp-x", DEV, ()),
        ("default", "corp-x", DEV, ()),
        # names of the instance
        ("acme/sandbox", "x", DEV, ("default",)),
        ("acme/sandbox", "x", OP, ("tools",)),
        ("tools", "x", OP, ("default",)),
        ("acme/sandbox", "x", OP, ("-",)),
    ],
)
def test_these_may_publish(project: str, name: str, who: Caller, owned: tuple[str, ...]) -> None:
    assert refusal(project, name, who, *owned) is None


@pytest.mark.parametrize(
    ("project", "name", "who", "owned", "message"),
    [
        ("acme/sandbox", "widgets", DEV, ("acme/widgets",), "widgets belongs to another project of acme"),
        ("acme/sandbox", "widgets", DEV, ("-acme/widgets",), "widgets belongs to another project of acme"),
        (
            "acme/sandbox",
            "widgets",
            DEV,
            ("acme/sandbox", "acme/deep/core"),
            "widgets belongs to another project of acme",
        ),
        (
            "acme/sandbox",
            "widgets",
            job("acme/sandbox"),
            ("acme/widgets",),
            "widgets belongs to another project of acme",
        ),
        (
            "acme/sandbox",
            "widgets",
            user("all", Scope.READ_API),
            ("acme/widgets",),
            "widgets belongs to another project of acme",
        ),
        ("acme/sandbox", "x", DEV, ("tools",), "x belongs to the instance"),
        ("acme/sandbox", "x", ALL, ("-tools",), "x belongs to the instance"),
        ("acme/sandbox", "x", ALL, ("-",), "x belongs to the instance"),
        ("default", "x", DEV, ("tools",), "x belongs to the instance"),
        ("globex/site", "acme-x", DEV, (), "acme-x is reserved by another group of this server"),
        ("globex/site", "acme-x", OWNER, (), "acme-x is reserved by another group of this server"),
        ("globex/site", "deep-x", ALL, (), "deep-x is reserved by another group of this server"),
        (
            "globex/site",
            "acme-x",
            ALL,
            ("globex/site",),
            "acme-x is reserved by another group of this server",
        ),
        ("default", "globex-x", DEV, (), "globex-x is reserved by another group of this server"),
        ("acme/sandbox", "both", DEV, (), "both is reserved by another group of this server"),
    ],
)
def test_these_may_not(project: str, name: str, who: Caller, owned: tuple[str, ...], message: str) -> None:
    assert refusal(project, name, who, *owned) == message


@pytest.mark.parametrize("owned", ["acme/widgets", "-acme/deep/core", "tools", "-tools"])
def test_a_refusal_names_no_project(owned: str) -> None:
    told = refusal("acme/sandbox", "x", DEV, owned)
    assert told is not None
    assert owned.removeprefix("-") not in told


# Names that upstreams have

SHADOWING = """
    users: {dev: {}, main: {}, own: {}, root: {}}
    upstreams:
      second: {index_url: "http://127.0.0.1:9/simple/"}
    policy: {upstreams: [pypi, second], reserve: [corp-*]}
    members: {root: maintainer}
    projects: {default: {members: {dev: developer}}}
    groups:
      acme:
        members: {main: maintainer, own: owner}
        policy: {reserve: [acme-*, {match: gone, until: 2026-01-01}]}
        projects:
          p: {members: {dev: developer}}
          q: {}
        groups:
          lax: {policy: {shadow_upstream: developer}, projects: {p: {members: {dev: developer}}}}
          tight: {policy: {shadow_upstream: owner}, projects: {p: {members: {dev: developer}}}}
          never:
            policy: {shadow_upstream: nobody}
            groups: {deep: {projects: {p: {members: {dev: developer}}}}}
          vault: {policy: {forward: false}, projects: {p: {members: {dev: developer}}}}
          alone: {policy: {upstreams: []}, projects: {p: {members: {dev: developer}}}}
          denying: {policy: {deny: [numpy], allow: []}, projects: {p: {members: {dev: developer}}}}
          apart: {policy: {ask: known}, projects: {p: {members: {dev: developer}}}}
      globex: {projects: {site: {}}}
      apart: {at_root: false, policy: {forward: false}, projects: {p: {members: {dev: developer}}}}
"""
SHADOWED = tree_of(SHADOWING)
MAIN, OWN, ROOT_MAIN = user("main"), user("own"), user("root")


def admission(
    project: str, name: str = "numpy", *owned: str, who: Caller = DEV, shadow: Shadow | None = None
) -> Admission:
    return admit(SHADOWED.find(project), parse_name(name), who, facts_of(*owned), SHADOWED, NOW, shadow)


@pytest.mark.parametrize("who", [DEV, MAIN, OWNER], ids=lambda who: who.label)
@pytest.mark.parametrize("project", ["acme/p", "acme/denying/p", "acme/apart/p", "default"])
def test_T_CONF2_nobody_publishes_a_new_name_before_upstreams_were_asked(project: str, who: Caller) -> None:
    assert admission(project, who=who if project != "default" else OWNER) == Admission(
        must_ask=True, is_first=True
    )


def test_a_name_that_only_another_tenant_owns_is_asked_for() -> None:
    assert admission("acme/p", "numpy", "globex/site") == Admission(must_ask=True, is_first=True)


def test_a_pattern_that_is_over_keeps_nobody_from_asking() -> None:
    assert admission("acme/p", "gone").must_ask


@pytest.mark.parametrize("shadow", [None, Shadow("pypi")])
@pytest.mark.parametrize(
    ("project", "name", "owned", "is_first"),
    [
        ("acme/p", "numpy", "acme/p", False),
        ("acme/p", "numpy", "-acme/p", False),
        ("acme/p", "acme-x", "", True),
        ("acme/p", "corp-x", "", True),
        ("apart/p", "numpy", "", True),
    ],
)
def test_what_is_claimed_reserved_or_not_forwarded_is_asked_of_nobody(
    project: str, name: str, owned: str, is_first: bool, shadow: Shadow | None
) -> None:
    found = admission(project, name, *filter(None, [owned]), shadow=shadow)
    assert found == Admission(is_first=is_first)


@pytest.mark.parametrize("project", ["acme/vault/p", "acme/alone/p"])
def test_T_CONF2_a_group_that_forwards_nothing_is_no_way_round(project: str) -> None:
    assert admission(project).must_ask, "its claims hold in the whole tenant, which forwards"
    with pytest.raises(NotPermitted, match="exists on pypi"):
        admission(project, shadow=Shadow("pypi"))


def test_what_another_project_or_the_instance_owns_is_asked_of_nobody() -> None:
    assert admission("acme/p", "numpy", "acme/q", who=MAIN) == Admission()
    assert admission("acme/p", "numpy", "-default", who=OWNER) == Admission()


@pytest.mark.parametrize("who", [DEV, deploy("acme"), job("acme/p")], ids=lambda who: who.label)
def test_T_CONF2_the_first_publication_of_a_public_name_takes_a_role(who: Caller) -> None:
    with pytest.raises(NotPermitted) as refused:
        admission("acme/p", who=who, shadow=Shadow("pypi"))
    assert str(refused.value) == "numpy exists on pypi; a maintainer of acme must publish it first"


@pytest.mark.parametrize(
    ("project", "who", "message"),
    [
        ("acme/tight/p", MAIN, "numpy exists on second; an owner of acme must publish it first"),
        ("default", DEV, "numpy exists on second; a maintainer of the instance must publish it first"),
        (
            "acme/never/deep/p",
            OWNER,
            "numpy exists on second, and acme/never lets nobody publish such a name",
        ),
    ],
)
def test_the_role_is_that_of_the_policy(project: str, who: Caller, message: str) -> None:
    with pytest.raises(NotPermitted) as refused:
        admission(project, who=who, shadow=Shadow("second"))
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("project", "who"),
    [
        ("acme/p", MAIN),
        ("acme/p", ROOT_MAIN),
        ("acme/p", OWNER),
        ("acme/lax/p", DEV),
        ("acme/lax/p", job("acme/lax/p")),
        ("acme/tight/p", OWN),
        ("default", ROOT_MAIN),
    ],
)
def test_whoever_has_the_role_shadows_and_that_is_recorded(project: str, who: Caller) -> None:
    assert admission(project, who=who, shadow=Shadow("pypi")) == Admission(is_first=True, shadows="pypi")


@pytest.mark.parametrize("project", ["acme/p", "acme/never/deep/p"])
def test_where_no_upstream_has_it_or_none_answers_anybody_may_publish(project: str) -> None:
    assert admission(project, shadow=Shadow(None)) == Admission(is_first=True)
    assert admission(project, shadow=Shadow(UNCHECKED)) == Admission(is_first=True, shadows=UNCHECKED)


# Protected names

PROTECTED = tree_of("""
    users: {dev: {}, main: {}, own: {}}
    policy:
      forward: false
      protect:
        - {name: "*-core", publish: maintainer}
    groups:
      acme:
        members: {main: maintainer, own: owner}
        policy:
          protect:
            - {name: "acme-*", publish: developer, delete: owner}
            - {name: "acme-core*", publish: owner}
        projects:
          p: {members: {dev: developer}}
""")


def is_kept_from(who: Caller, action: Literal[Action.PUBLISH, Action.DELETE], name: str) -> str | None:
    try:
        check_protected(PROTECTED.find("acme/p"), parse_name(name), who, action)
    except NotPermitted as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "publish", "delete"),
    [
        ("other", "dev", "dev"),  # whoever may not delete at all is refused before
        ("x-core", "main", "dev"),
        ("acme-x", "dev", "own"),
        ("acme-core", "own", "own"),
        ("acme-core-x", "own", "own"),
        ("acme-x-core", "main", "own"),
    ],
)
def test_the_strictest_entry_that_matches_counts(name: str, publish: str, delete: str) -> None:
    ranks = ("dev", "main", "own")
    publishing = [who for who in ranks if is_kept_from(user(who), Action.PUBLISH, name) is None]
    deleting = [who for who in ranks if is_kept_from(user(who), Action.DELETE, name) is None]
    assert publishing == list(ranks[ranks.index(publish) :])
    assert deleting == list(ranks[ranks.index(delete) :])


@pytest.mark.parametrize("who", [deploy("acme"), deploy(""), job("acme/p")], ids=lambda who: who.label)
def test_tokens_of_machines_count_as_developers(who: Caller) -> None:
    assert is_kept_from(who, Action.PUBLISH, "acme-x") is None
    told = is_kept_from(who, Action.PUBLISH, "x-core")
    assert told == "x-core is protected by the instance (*-core); only a maintainer of acme/p may publish it"


def test_the_owner_and_the_operator_may_everything() -> None:
    for who in (OWNER, OPERATOR):
        assert is_kept_from(who, Action.PUBLISH, "acme-core") is None
        assert is_kept_from(who, Action.DELETE, "acme-core") is None


def test_a_protected_name_is_published_by_nobody_below_the_role() -> None:
    with pytest.raises(NotPermitted) as refused:
        admit(PROTECTED.find("acme/p"), parse_name("acme-core"), MAIN, facts_of("acme/p"), PROTECTED, NOW)
    told = "acme-core is protected by acme (acme-core*); only an owner of acme/p may publish it"
    assert str(refused.value) == told
    owner = user("own")
    assert admit(
        PROTECTED.find("acme/p"), parse_name("acme-core"), owner, facts_of(), PROTECTED, NOW
    ).is_first
