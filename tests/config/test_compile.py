"""From a file to what is in force: paths, rights, inheritance, locks, and the line of every rule (contract 3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.config.compile import compile_snapshot
from proxy.config.load import load_bytes
from proxy.domain.names import parse_name
from proxy.domain.namespaces import Kind, NamespacePath, Visibility
from proxy.domain.policy import SINGLE, Origin
from proxy.domain.roles import Role
from proxy.domain.snapshot import SHIPPED, AdvisorySettings, AuditSettings, LogSettings
from tests.support.trees import FILE, NOW, line_of, problems_of, snapshot_of, tree_of

# Namespaces


def test_without_a_file_there_is_one_public_group_that_forwards_and_one_project() -> None:
    snapshot = compile_snapshot(load_bytes(None, "", {}))
    assert [(item.path, item.kind) for item in snapshot.tree] == [("", Kind.GROUP), ("default", Kind.PROJECT)]
    assert {item.visibility for item in snapshot.tree} == {Visibility.PUBLIC}
    policy = snapshot.tree.root.policy
    assert (policy.forward, policy.upstreams) == (True, ("pypi",))
    assert snapshot.server.default_project == "default"
    assert snapshot.file is None
    origin = policy.rule("forward").origin
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
    assert policy.rule("forward").origin == Origin(FILE, line, where)


def test_what_nobody_says_has_the_line_of_the_shipped_defaults() -> None:
    origin = TREE.find("acme/deep").policy.rule("upstreams").origin
    assert origin is not None
    assert (origin.file, origin.path) == (SHIPPED, "policy.upstreams")
    assert origin.line > 1


def test_reserved_patterns_land_at_the_tenant_with_their_own_lines() -> None:
    tenant = NamespacePath("acme")
    deep = TREE.reserved(tenant, parse_name("deep-x"), NOW)
    assert deep is not None
    assert (deep.namespace, deep.key, deep.value) == ("acme/deep", "reserve", "deep-*")
    assert deep.origin == Origin(
        FILE, line_of(POLICY, "- deep-*"), "groups.acme.groups.deep.policy.reserve.0"
    )
    # Above comes first.
    upper = TREE.reserved(tenant, parse_name("acme-x"), NOW)
    assert upper is not None
    assert (upper.namespace, upper.value) == ("acme", "acme-*")
    assert upper.origin == Origin(FILE, line_of(POLICY, "# acme pattern"), "groups.acme.policy.reserve.0")


def test_denials_and_allow_lists_have_their_lines() -> None:
    policy = TREE.find("acme/deep").policy
    (denied,) = policy.deny.covering(parse_name("bad-name"))
    assert denied.text == "deny bad-name"
    assert denied.origin == Origin(FILE, line_of(POLICY, "# acme deny"), "groups.acme.policy.deny.0")
    (allowed,) = policy.allow
    assert allowed.origin == Origin(
        FILE, line_of(POLICY, "# deep allow"), "groups.acme.groups.deep.policy.allow"
    )
    assert TREE.find("acme").policy.allow == ()


ALL_KEYS = """
    advisories: {osv_dir: osv}
    upstreams:
      second: {index_url: "http://127.0.0.1:9/simple/"}
    groups:
      acme:
        policy:
          forward: false
          not_forwarded: 451
          refused: 403
          upstreams: [second]
          list_upstream: true
          ask: known
          reserve: [acme-*]
          shadow_upstream: nobody
          allow: ["django>=4.2"]
          deny:
            - match: evil < 2
              reason: it is evil
              until: 2027-01-01
          merge: [shared]
          min_age: 3d
          min_age_exempt: ["urllib3 == 2.6.1"]
          min_age_fixes: false
          uploaded_before: 2026-05-01
          file_types: [wheel, other]
          yanked: hide
          withheld: hide
          removed: keep
          vulnerable: warn
          severity: low
          vulnerable_exempt:
            - {id: CVE-1, name: A.B, until: 2027-01-01T08:00:00Z, reason: unused}
          warn: [deny, min_age]
          protect:
            - {name: "core*", publish: maintainer}
            - {name: core, delete: owner}
          identical_upload: accept
          local_versions: reject
          lock: [warn]
        groups: {back: {policy: {uploaded_before: null}}}
"""


def test_every_key_of_a_policy_reaches_what_decides() -> None:
    tree = tree_of(ALL_KEYS)
    policy = tree.find("acme").policy
    expected = {
        "forward": False,
        "not_forwarded": 451,
        "refused": 403,
        "upstreams": ("second",),
        "list_upstream": True,
        "ask": "known",
        "shadow_upstream": "nobody",
        "min_age": timedelta(days=3),
        "min_age_fixes": False,
        "uploaded_before": datetime(2026, 5, 1, tzinfo=UTC),
        "file_types": frozenset({"wheel", "other"}),
        "yanked": "hide",
        "withheld": "hide",
        "removed": "keep",
        "vulnerable": "warn",
        "severity": "low",
        "identical_upload": "accept",
        "local_versions": "reject",
    }
    assert {key: getattr(policy, key) for key in SINGLE} == expected
    assert {policy.rule(key).namespace for key in SINGLE} == {"acme"}
    assert policy.warn == {"deny", "min_age"}
    assert policy.locked == {"warn": "acme"}
    (denied,) = policy.deny.covering(parse_name("evil"))
    assert (denied.value, denied.pattern, str(denied.specifier)) == ("evil<2", "evil", "<2")
    assert (denied.reason, denied.until) == ("it is evil", datetime(2027, 1, 1, tzinfo=UTC))
    assert denied.origin == Origin(FILE, line_of(ALL_KEYS, "- match: evil"), "groups.acme.policy.deny.0")
    assert [rule.value for rule in policy.merge] == ["shared"]
    assert [rule.value for rule in policy.min_age_exempt] == ["urllib3==2.6.1"]
    assert [rule.value for rule in policy.allow[0].patterns] == ["django>=4.2"]
    (exempt,) = policy.vulnerable_exempt.of(parse_name("a-b"))
    assert (exempt.advisory, exempt.until, exempt.reason) == (
        "CVE-1",
        datetime(2027, 1, 1, 8, tzinfo=UTC),
        "unused",
    )
    assert exempt.origin is not None
    assert exempt.origin.line == line_of(ALL_KEYS, "id: CVE-1")
    protecting = policy.protect.covering(parse_name("core"))
    assert [(one.publish, one.delete) for one in protecting] == [(Role.MAINTAINER, None), (None, Role.OWNER)]
    assert [one.rule.origin.path for one in protecting if one.rule.origin] == [
        "groups.acme.policy.protect.0",
        "groups.acme.policy.protect.1",
    ]


def test_null_takes_an_end_of_time_back() -> None:
    policy = tree_of(ALL_KEYS).find("acme/back").policy
    assert policy.uploaded_before is None
    assert policy.rule("uploaded_before").text == "uploaded_before null"
    assert policy.rule("uploaded_before").namespace == "acme/back"


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
        ("merge", "[x]"),
        ("min_age", "9d"),
        ("min_age_exempt", "[x]"),
        ("uploaded_before", "null"),
        ("file_types", "[wheel]"),
        ("vulnerable_exempt", "[]"),
        ("warn", "[deny]"),
        ("protect", "[]"),
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


def test_a_locked_key_cannot_be_reduced_to_a_warning_below() -> None:
    text = """
        policy: {lock: [min_age], warn: [min_age]}
        groups:
          a:
            policy:
              warn: [deny, min_age]
    """
    message = "min_age is locked by the root: it cannot be reduced to a warning at a"
    line = line_of(text, "[deny, min_age]")
    assert problems_of(text) == [f"{FILE}:{line}: groups.a.policy.warn.1: {message}"]


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
        log: {format: json, level: error, requests: r.jsonl}
        advisories: {osv_dir: /osv, refresh: 5m}
        audit: {events: 1d, downloads: 2h}
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
    assert snapshot.log == LogSettings("json", "error", "r.jsonl")
    assert snapshot.advisories == AdvisorySettings("/osv", timedelta(minutes=5))
    assert snapshot.audit == AuditSettings(timedelta(days=1), timedelta(hours=2))
    assert snapshot.users == {"u", "v"}
    assert list(snapshot.upstreams) == ["other"]
    other = snapshot.upstreams["other"]
    assert (other.name, other.index_url) == ("other", "https://other.example/simple/")
    assert (other.username, other.password, other.file_hosts) == ("u", "p", ("f.example",))
    assert snapshot.file == FILE
