"""From a file to what is in force: paths, rights, inheritance, locks, and the line of every rule (contract 3)."""

from __future__ import annotations

import pytest

from proxy.config.compile import compile_snapshot
from proxy.config.load import load_bytes
from proxy.domain.names import parse_name
from proxy.domain.namespaces import Kind, NamespacePath, Role, Visibility
from proxy.domain.policy import Origin
from proxy.domain.snapshot import SHIPPED
from tests.support.trees import FILE, line_of, problems_of, snapshot_of, tree_of

# Namespaces


def test_without_a_file_there_is_one_public_group_that_forwards_and_one_project() -> None:
    snapshot = compile_snapshot(load_bytes(None, "", {}))
    assert [(item.path, item.kind) for item in snapshot.tree] == [("", Kind.GROUP), ("default", Kind.PROJECT)]
    assert {item.visibility for item in snapshot.tree} == {Visibility.PUBLIC}
    policy = snapshot.tree.root.policy
    assert (policy.forward, policy.upstreams) == (True, ("pypi",))
    assert snapshot.server.default_project == "default"
    assert snapshot.file is None
    origin = policy.forward_rule.origin
    assert origin is not None
    assert (origin.file, origin.path) == (SHIPPED, "policy.forward")


@pytest.mark.parametrize(
    ("group", "project", "effective"),
    [
        (None, None, Visibility.PRIVATE),
        (None, "public", Visibility.PRIVATE),
        ("public", None, Visibility.PUBLIC),
        ("public", "internal", Visibility.INTERNAL),
        ("internal", None, Visibility.INTERNAL),
        ("internal", "public", Visibility.INTERNAL),
        ("internal", "private", Visibility.PRIVATE),
    ],
)
def test_the_narrowest_visibility_counts(
    group: str | None, project: str | None, effective: Visibility
) -> None:
    said = {} if group is None else {"visibility": group}
    below = {} if project is None else {"visibility": project}
    tree = tree_of({"groups": {"a": {**said, "projects": {"p": below}}}})
    assert tree.find("a/p").visibility is effective


def test_a_group_is_no_wider_than_the_groups_above_it() -> None:
    tree = tree_of("""
        visibility: internal
        groups: {a: {visibility: public, groups: {b: {visibility: public, projects: {p: {}}}}}}
        projects: {q: {}, r: {visibility: public}}
    """)
    assert {item.visibility for item in tree} == {Visibility.INTERNAL}


def test_groups_within_groups_are_private_unless_they_say_otherwise() -> None:
    tree = tree_of("groups: {a: {visibility: public, groups: {b: {projects: {p: {}}}}}}")
    assert tree.find("a/b/p").visibility is Visibility.PRIVATE


def test_roles_hold_below_and_the_highest_counts() -> None:
    tree = tree_of("""
        users: {u: {}, v: {}, w: {}}
        members: {u: reporter, v: owner}
        projects: {q: {}}
        groups:
          a:
            members: {u: maintainer, v: reporter}
            groups: {b: {members: {u: developer, w: owner}, projects: {p: {members: {w: reporter}}}}}
    """)
    assert tree.root.roles == {"u": Role.REPORTER, "v": Role.OWNER}
    assert tree.find("q").roles == tree.root.roles
    assert tree.find("a").roles == {"u": Role.MAINTAINER, "v": Role.OWNER}
    for path in ("a/b", "a/b/p"):
        assert tree.find(path).roles == {"u": Role.MAINTAINER, "v": Role.OWNER, "w": Role.OWNER}


def test_numbers_and_former_paths_are_kept() -> None:
    tree = tree_of("groups: {a: {id: 3, aliases: [x], projects: {p: {id: 4, aliases: [x/q, y]}}}}")
    assert (tree.find("a").number, tree.find("a").aliases) == (3, ("x",))
    assert (tree.find("a/p").number, tree.find("a/p").aliases) == (4, ("x/q", "y"))
    assert tree.root.number is None


# Policy

POLICY = """
    upstreams:
      second: {index_url: "http://127.0.0.1:9/simple/"}
    policy:
      deny: [evil]
      lock:
        - upstreams
    groups:
      acme:
        policy:
          forward: false     # acme
          reserve:
            - Acme.*         # acme pattern
          deny:
            - Bad_Name       # acme deny
        projects: {p: {}}
        groups:
          deep:
            policy:
              forward: true  # deep
              reserve:
                - deep-*
                - acme-x     # deep pattern
              allow:         # deep allow
                - num*
            projects: {p: {}}
"""
TREE = tree_of(POLICY)


def test_a_project_has_the_policy_of_its_group() -> None:
    assert TREE.find("acme/p").policy is TREE.find("acme").policy
    assert TREE.find("acme/deep/p").policy is TREE.find("acme/deep").policy


@pytest.mark.parametrize(
    ("path", "forward", "marker", "where"),
    [
        ("acme", False, "# acme", "groups.acme.policy.forward"),
        ("acme/deep", True, "# deep", "groups.acme.groups.deep.policy.forward"),
    ],
)
def test_the_nearest_group_decides_and_its_line_is_known(
    path: str, forward: bool, marker: str, where: str
) -> None:
    policy = TREE.find(path).policy
    assert policy.forward is forward
    line = line_of(POLICY, f"forward: {str(forward).lower()}")
    assert policy.forward_rule.origin == Origin(FILE, line, where)


def test_what_nobody_says_has_the_line_of_the_shipped_defaults() -> None:
    origin = TREE.find("acme/deep").policy.upstreams_rule.origin
    assert origin is not None
    assert (origin.file, origin.path) == (SHIPPED, "policy.upstreams")
    assert origin.line > 1


def test_reserved_patterns_land_at_the_tenant_with_their_own_lines() -> None:
    tenant = NamespacePath("acme")
    deep = TREE.reserved(tenant, parse_name("deep-x"))
    assert deep is not None
    assert (deep.namespace, deep.key, deep.value) == ("acme/deep", "reserve", "deep-*")
    assert deep.origin == Origin(
        FILE, line_of(POLICY, "- deep-*"), "groups.acme.groups.deep.policy.reserve.0"
    )
    # Above comes first.
    upper = TREE.reserved(tenant, parse_name("acme-x"))
    assert upper is not None
    assert (upper.namespace, upper.value) == ("acme", "acme-*")
    assert upper.origin == Origin(FILE, line_of(POLICY, "# acme pattern"), "groups.acme.policy.reserve.0")


def test_denials_and_allow_lists_have_their_lines() -> None:
    policy = TREE.find("acme/deep").policy
    denied = policy.deny.match(parse_name("bad-name"))
    assert denied is not None
    assert denied.text == "deny bad-name"
    assert denied.origin == Origin(FILE, line_of(POLICY, "# acme deny"), "groups.acme.policy.deny.0")
    (allowed,) = policy.allow
    assert allowed.origin == Origin(
        FILE, line_of(POLICY, "# deep allow"), "groups.acme.groups.deep.policy.allow"
    )
    assert TREE.find("acme").policy.allow == ()


# Locks


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("forward", "true"),
        ("upstreams", "[pypi]"),
        ("reserve", "[x]"),
        ("allow", "[x]"),
        ("deny", "[x]"),
        ("deny", "[]"),
    ],
)
@pytest.mark.parametrize("holder", ["", "groups.acme"])
def test_a_locked_key_that_stands_below_is_an_error_with_its_line(key: str, value: str, holder: str) -> None:
    lock = f"policy: {{lock: [{key}]}}"
    text = f"""
        {lock if not holder else "visibility: public"}
        groups:
          acme:
            {lock if holder else "visibility: public"}
            groups:
              deep:
                policy:
                  {key}: {value}  # here
    """
    by = "acme" if holder else "the root"
    path = f"groups.acme.groups.deep.policy.{key}"
    message = f"{key} is locked by {by}: it cannot be set or added to at acme/deep"
    assert problems_of(text) == [f"{FILE}:{line_of(text, '# here')}: {path}: {message}"]


def test_all_locked_keys_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
        policy: {lock: [forward, deny]}
        groups:
          a:
            policy:
              deny: [x]
              lock: [allow]
            groups:
              b:
                policy:
                  allow: [x]
                  forward: false
          c:
            policy: {forward: true}
    """
    lines = [
        line_of(text, marker) for marker in ("deny: [x]", "allow: [x]", "forward: false", "forward: true")
    ]
    assert [int(problem.split(":")[1]) for problem in problems_of(text)] == lines


def test_locked_keys_are_told_together_with_everything_else_that_is_wrong() -> None:
    text = """
        policy: {lock: [forward]}
        groups:
          a:
            policy: {forward: false}
            colour: red
            members: {nobody: owner}
    """
    told = problems_of(text)
    assert [problem.split(": ")[1] for problem in told] == [
        "groups.a.policy.forward",
        "groups.a.colour",
        "groups.a.members.nobody",
    ]


def test_the_group_that_locks_a_key_may_say_it_itself() -> None:
    tree = tree_of("groups: {a: {policy: {forward: false, lock: [forward, reserve]}, groups: {b: {}}}}")
    assert tree.find("a/b").policy.forward is False
    assert tree.find("a/b").policy.locked == {"forward": "a", "reserve": "a"}


def test_a_lock_binds_nobody_beside_or_above() -> None:
    assert (
        problems_of("""
        policy: {forward: true}
        groups:
          a: {policy: {lock: [forward]}}
          b: {policy: {forward: false}}
    """)
        == []
    )


def test_what_is_not_locked_may_be_said_below_a_lock() -> None:
    text = "groups: {a: {policy: {lock: [forward]}, groups: {b: {policy: {deny: [x], lock: [deny]}}}}}"
    assert problems_of(text) == []


# default_project


@pytest.mark.parametrize(
    ("config", "project"),
    [
        ("{}", "default"),  # the shipped one
        ("projects: {default: {}}", "default"),
        ("projects: {other: {}}", None),
        ("projects: {}\ngroups: {default: {}}", None),  # a group is nothing to publish to
        ("server: {default_project: other}\nprojects: {default: {}, other: {}}", "other"),
        ("server: {default_project: a/b/p}\ngroups: {a: {groups: {b: {projects: {p: {}}}}}}", "a/b/p"),
    ],
)
def test_what_legacy_publishes_to(config: str, project: str | None) -> None:
    assert snapshot_of(config).server.default_project == project


@pytest.mark.parametrize("named", ["nowhere", "a", "a/nowhere"])
def test_a_default_project_that_is_none_is_an_error(named: str) -> None:
    (told,) = problems_of(f"groups: {{a: {{projects: {{p: {{}}}}}}}}\nserver:\n  default_project: {named}\n")
    assert told.startswith(f"{FILE}:3: server.default_project: ")


# The rest


def test_values_reach_the_snapshot() -> None:
    snapshot = snapshot_of("""
        server: {listen: "127.0.0.1:9999", trusted_proxies: [10.0.0.0/8], tls: {certificate: c, key: k}}
        storage: {data_dir: /data}
        limits: {max_file_size: 2MiB}
        cache: {fresh_for: 7s}
        log: {format: json, level: error}
        users: {u: {}, v: {}}
        upstreams:
          pypi: null
          other: {index_url: "https://other.example/simple", username: u, password: p, file_hosts: [f.example]}
        policy: {upstreams: [other]}
    """)
    assert snapshot.server.listen == "127.0.0.1:9999"
    assert [str(network) for network in snapshot.server.trusted_proxies] == ["10.0.0.0/8"]
    assert snapshot.server.tls is not None
    assert (snapshot.server.tls.certificate, snapshot.server.tls.key) == ("c", "k")
    assert snapshot.data_dir == "/data"
    assert snapshot.limits.max_file_size == 2 << 20
    assert snapshot.cache.fresh_for.total_seconds() == 7
    assert (snapshot.log.format, snapshot.log.level) == ("json", "error")
    assert snapshot.users == {"u", "v"}
    assert list(snapshot.upstreams) == ["other"]
    other = snapshot.upstreams["other"]
    assert (other.name, other.index_url) == ("other", "https://other.example/simple/")
    assert (other.username, other.password, other.file_hosts) == ("u", "p", ("f.example",))
    assert snapshot.file == FILE
