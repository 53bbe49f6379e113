"""Who may publish a name where: the ownership rules of contract 6."""

from __future__ import annotations

import pytest

from proxy.domain.access import Caller, Scope
from proxy.domain.admit import admit
from proxy.domain.names import parse_name
from proxy.errors import NotPermitted
from tests.support.trees import OWNER, deploy, facts_of, job, tree_of, user

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
        admit(TREE.find(project), parse_name(name), who, facts_of(*owned), TREE)
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
