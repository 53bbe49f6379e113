"""The tree: what stands where, under which former path or number, who owns it, who reserves a name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxy.domain.names import parse_name
from proxy.domain.namespaces import SEGMENT, Kind, NamespacePath, is_within, lineage, tenant_of
from proxy.errors import NoSuchNamespace
from tests.support.trees import NOW, tree_of

TREE = tree_of("""
    policy: {reserve: [corp-*]}
    projects:
      default: {id: 1}
    groups:
      zeta:
        id: 1
        aliases: [old, older]
        policy: {reserve: [shared]}
        projects:
          widgets: {id: 42, aliases: [elsewhere/widgets, zeta/gadgets]}
        groups:
          deep:
            policy: {reserve: [deep-*, shared]}
            projects: {core: {}}
      acme:
        policy: {reserve: [shared, acme-*]}
        projects: {Widgets: {}}
""")


def paths(*texts: str) -> list[NamespacePath]:
    return [NamespacePath(text) for text in texts]


def test_namespaces_stand_in_the_order_of_the_file_parents_first() -> None:
    assert [item.path for item in TREE] == [
        "",
        "default",
        "zeta",
        "zeta/widgets",
        "zeta/deep",
        "zeta/deep/core",
        "acme",
        "acme/Widgets",
    ]


def test_what_lies_within_a_namespace_has_its_path_or_a_former_one() -> None:
    former = ["old", "older", "elsewhere/widgets", "zeta/gadgets"]
    assert TREE.paths_within(TREE.find("zeta")) == (*paths("zeta", *former),)
    assert TREE.paths_within(TREE.find("acme")) == ("acme",)


def test_a_path_is_found_exactly() -> None:
    assert TREE.find("zeta/widgets").kind is Kind.PROJECT
    assert TREE.find("") is TREE.root
    for wrong in ("Zeta", "zeta/Widgets", "zeta/", "/zeta", "zeta/widgets/x", "widgets", "nothing"):
        assert TREE.get(wrong) is None
        with pytest.raises(NoSuchNamespace):
            TREE.find(wrong)


@pytest.mark.parametrize(
    ("former", "path"),
    [
        ("old", "zeta"),
        ("older", "zeta"),
        ("old/widgets", "zeta/widgets"),
        ("older/deep/core", "zeta/deep/core"),
        ("elsewhere/widgets", "zeta/widgets"),
        ("zeta/gadgets", "zeta/widgets"),
    ],
)
def test_a_former_path_leads_where_things_went(former: str, path: str) -> None:
    assert TREE.current_path(NamespacePath(former)) == path
    assert TREE.find(former).path == path


@pytest.mark.parametrize("wrong", ["old/nothing", "elsewhere", "elsewhere/x", "older2", "old2/widgets"])
def test_what_only_resembles_a_former_path_leads_nowhere(wrong: str) -> None:
    assert TREE.get(wrong) is None


def test_a_number_counts_per_kind() -> None:
    project, group = TREE.by_number(Kind.PROJECT, 1), TREE.by_number(Kind.GROUP, 1)
    assert project is not None
    assert group is not None
    assert (project.path, group.path) == ("default", "zeta")
    assert TREE.by_number(Kind.GROUP, 42) is None
    assert TREE.by_number(Kind.PROJECT, 7) is None


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("zeta/deep/core/x/y", "zeta/deep/core"),
        ("zeta/nothing", "zeta"),
        ("nothing/at/all", ""),
        ("old/deep/nothing", "zeta/deep"),
        ("", ""),
    ],
)
def test_an_unknown_path_has_a_nearest_namespace(path: str, nearest: str) -> None:
    assert TREE.nearest(path).path == nearest


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("", ""),
        ("default", ""),
        ("zeta", "zeta"),
        ("zeta/widgets", "zeta"),
        ("zeta/deep/core", "zeta"),
        ("zeta/gone", "zeta"),  # left the file, its tenant did not
        ("gone/widgets", ""),
        ("zeta2/x", ""),
    ],
)
def test_everything_has_one_owner(path: str, owner: str) -> None:
    assert TREE.owner(NamespacePath(path)) == owner


def test_projects_are_those_at_and_below() -> None:
    def below(path: str) -> list[str]:
        return [item.path for item in TREE.projects(TREE.find(path))]

    assert below("") == ["default", "zeta/widgets", "zeta/deep/core", "acme/Widgets"]
    assert below("zeta") == ["zeta/widgets", "zeta/deep/core"]
    assert below("zeta/deep") == ["zeta/deep/core"]
    assert below("zeta/widgets") == ["zeta/widgets"]


def test_a_pattern_belongs_to_the_tenant_it_stands_in() -> None:
    rule = TREE.reserved(NamespacePath("zeta"), parse_name("deep-x"), NOW)
    assert rule is not None
    assert (rule.namespace, rule.text) == ("zeta/deep", "reserve deep-*")
    for owner in ("", "acme", "zeta/deep", "nothing"):
        assert TREE.reserved(NamespacePath(owner), parse_name("deep-x"), NOW) is None
    corp = TREE.reserved(NamespacePath(""), parse_name("Corp.X"), NOW)
    assert corp is not None
    assert corp.namespace == ""


def test_who_reserves_a_name_comes_in_the_order_of_the_file_the_root_first() -> None:
    found = [(owner, rule.namespace) for owner, rule in TREE.reserving(parse_name("shared"))]
    assert found == [("zeta", "zeta"), ("zeta", "zeta/deep"), ("acme", "acme")]
    both = tree_of("policy: {reserve: ['*']}\ngroups: {a: {policy: {reserve: [x]}}}")
    assert [owner for owner, _ in both.reserving(parse_name("x"))] == ["", "a"]
    assert list(TREE.reserving(parse_name("nobody-s"))) == []


def test_a_reserve_ends_at_its_moment() -> None:
    tree = tree_of("groups: {a: {policy: {reserve: [{match: x*, until: 2026-11-21T12:00:00Z}, xy]}}}")
    tenant, name = NamespacePath("a"), parse_name("xy")
    before, after = (tree.reserved(tenant, name, moment) for moment in (NOW - timedelta(seconds=1), NOW))
    assert before is not None
    assert after is not None
    assert (before.value, after.value) == ("x*", "xy")
    assert [rule.value for _, rule in tree.reserving(name)] == ["x*", "xy"], "void ones too"


def test_a_tenant_may_keep_its_names_out_of_the_root() -> None:
    tree = tree_of("groups: {a: {at_root: false, groups: {b: {}}}, c: {}}")
    assert [tree.counts_at_root(NamespacePath(owner)) for owner in ("a", "c", "")] == [False, True, True]


def test_all_reserves_are_listed_with_their_owner() -> None:
    assert [(owner, rule.value, rule.namespace) for owner, rule in TREE.all_reserves()] == [
        ("", "corp-*", ""),
        ("zeta", "shared", "zeta"),
        ("zeta", "deep-*", "zeta/deep"),
        ("zeta", "shared", "zeta/deep"),
        ("acme", "shared", "acme"),
        ("acme", "acme-*", "acme"),
    ]


def test_lineage_leads_from_a_path_to_the_root() -> None:
    assert list(lineage(NamespacePath("a/b/c"))) == paths("a/b/c", "a/b", "a", "")
    assert list(lineage(NamespacePath(""))) == [""]


@pytest.mark.parametrize(
    ("path", "above", "within"),
    [
        ("acme/x", "acme", True),
        ("acme", "acme", True),
        ("acme", "", True),
        ("", "", True),
        ("acme2", "acme", False),
        ("acme", "acme/x", False),
        ("", "acme", False),
        ("x/acme", "acme", False),
    ],
)
def test_within_goes_by_whole_segments(path: str, above: str, within: bool) -> None:
    assert is_within(path, above) is within


def test_a_tenant_is_the_first_segment() -> None:
    assert [tenant_of(NamespacePath(path)) for path in ("", "a", "a/b/c")] == ["", "a", "a"]


def test_a_namespace_is_shown_by_its_path_and_the_root_by_a_slash() -> None:
    assert [item.title for item in TREE][:3] == ["/", "default", "zeta"]
    assert [item.is_root for item in TREE][:3] == [True, False, False]


@pytest.mark.parametrize("text", ["-x", ".x", "", "a b", "a/b", "ä", "x\n", "a%2e", "+x", "K\u212a"])
def test_these_are_no_segments(text: str) -> None:
    assert SEGMENT.match(text) is None


@pytest.mark.parametrize("text", ["a", "A1", "_x", "0", "a.b-c_d", "x-", "x."])
def test_these_are_segments(text: str) -> None:
    assert SEGMENT.match(text) is not None
