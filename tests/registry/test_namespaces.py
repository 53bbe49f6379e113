"""What may not vanish from the file, former paths, and dropping (contract 3)."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import insert, select

from proxy.domain.decide import owner_at_root
from proxy.domain.decision import OwnedKind
from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Kind, NamespacePath
from proxy.errors import ConfigError, NoSuchName, NoSuchNamespace, StillInUse
from proxy.identity import tokens
from proxy.identity.tokens import TokenKind
from proxy.registry import namespaces, packages
from proxy.storage.database import Database
from proxy.storage.tables import namespaces as namespace_rows
from proxy.storage.tables import tokens as token_rows
from tests.registry.making import (
    CONFIG,
    DEFAULT,
    FILE,
    GLOBEX,
    NOW,
    SANDBOX,
    WIDGETS,
    digest,
    publish,
    remove,
    tree_of,
    wheel,
)

LATER = NOW + timedelta(hours=12)
TOMORROW = NOW + timedelta(days=1)
CORE = NamespacePath("acme/platform/core")


def settle(registry: Database, config: dict[str, Any]) -> None:
    tree = tree_of(config)
    registry.change_now(
        lambda change: namespaces.settle(
            change, tree, LATER, file=FILE, line_of=lambda path: 7 if path == "apex" else 0
        )
    )


def refusals(registry: Database, config: dict[str, Any]) -> list[str]:
    """What `settle` refuses, one text a problem; that it changed nothing is checked as well."""
    before = known(registry)
    with pytest.raises(ConfigError) as caught:
        settle(registry, config)
    assert known(registry) == before
    return [problem.message for problem in caught.value.problems]


def known(registry: Database) -> dict[str, str]:
    rows = registry.read_now(lambda c: c.execute(select(namespace_rows.c.path, namespace_rows.c.kind)).all())
    return dict(map(tuple, rows))


def holders(registry: Database, name: str) -> list[tuple[str, OwnedKind]]:
    found = registry.read_now(lambda c: packages.facts(c, Name(name)))
    return [(owned.project, owned.kind) for owned in found.owned]


def mint(
    registry: Database, namespace: NamespacePath, *, kind: TokenKind = TokenKind.JOB, **about: Any
) -> tokens.TokenRow:
    return registry.change_now(
        lambda change: tokens.mint(
            change,
            kind=kind,
            name="ci",
            created_at=NOW,
            created_by="test",
            namespace=namespace,
            **about,
        )
    )[1]


def without(*path: str) -> dict[str, Any]:
    """`CONFIG` without the section at these keys."""

    def copy(section: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        key, rest = keys[0], keys[1:]
        if not rest:
            return {name: body for name, body in section.items() if name != key}
        return {**section, key: copy(section[key], rest)}

    return copy(CONFIG, path)


def renamed(**group: Any) -> dict[str, Any]:
    """`CONFIG` with the group acme renamed to apex, with former path."""
    groups = without("groups", "acme")["groups"]
    return {
        **CONFIG,
        "groups": {**groups, "apex": {**CONFIG["groups"]["acme"], "aliases": ["acme"], **group}},
    }


def test_the_database_knows_the_namespaces_of_the_file(registry: Database) -> None:
    assert known(registry) == {
        "": "group",
        "default": "project",
        "acme": "group",
        "acme/widgets": "project",
        "acme/sandbox": "project",
        "acme/platform": "group",
        "acme/platform/core": "project",
        "globex": "group",
        "globex/widgets": "project",
    }


def test_only_a_file_with_other_namespaces_needs_settling(registry: Database) -> None:
    def is_settled(config: dict[str, Any]) -> bool:
        tree = tree_of(config)
        return registry.read_now(lambda c: namespaces.is_settled(c, tree))

    assert is_settled(CONFIG)
    assert is_settled({**CONFIG, "visibility": "private"})
    assert not is_settled(without("groups", "globex"))
    assert not is_settled({**CONFIG, "groups": {**CONFIG["groups"], "new": {}}})
    assert not is_settled({**CONFIG, "projects": {}, "groups": {**CONFIG["groups"], "default": {}}})


def test_empty_namespaces_come_and_go_freely(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    settle(registry, without("groups", "globex"))
    assert "globex" not in known(registry)
    assert "globex/widgets" not in known(registry)
    settle(registry, CONFIG)
    assert "globex/widgets" in known(registry)
    assert holders(registry, "gears") == [(WIDGETS, OwnedKind.FILES)]


def test_settling_again_changes_nothing(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    before = registry.read_now(namespaces.held)
    settle(registry, CONFIG)
    assert registry.read_now(namespaces.held) == before


def test_a_group_that_holds_something_may_not_vanish(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, WIDGETS, wheel("cogs", "1.0"))
    publish(registry, CORE, wheel("gone", "1.0"))
    remove(registry, CORE, "gone")
    assert refusals(registry, without("groups", "acme")) == [
        (
            "groups.acme is gone but holds 2 packages and 1 claim: give the group that replaces it "
            "aliases: [acme], or run pypi-overlay namespace drop acme"
        )
    ]


def test_the_refusal_counts_tokens_too(registry: Database) -> None:
    mint(registry, CORE, expires_at=TOMORROW)
    mint(registry, NamespacePath("acme"), kind=TokenKind.DEPLOY, scopes=["read_package_registry"])
    [message] = refusals(registry, without("groups", "acme"))
    assert message.startswith("groups.acme is gone but holds 2 tokens: ")


@pytest.mark.parametrize(
    ("gone", "at", "where", "kind"),
    [
        (("groups", "acme", "projects", "widgets"), WIDGETS, "groups.acme.projects.widgets", "project"),
        (("groups", "acme", "groups", "platform"), CORE, "groups.acme.groups.platform", "group"),
        (
            ("groups", "acme", "groups", "platform", "projects", "core"),
            CORE,
            "groups.acme.groups.platform.projects.core",
            "project",
        ),
        (("projects", "default"), DEFAULT, "projects.default", "project"),
        (("groups", "globex"), GLOBEX, "groups.globex", "group"),
    ],
)
def test_the_refusal_names_the_topmost_place_that_is_gone(
    registry: Database, gone: tuple[str, ...], at: NamespacePath, where: str, kind: str
) -> None:
    publish(registry, at, wheel("gears", "1.0"))
    path = ".".join(gone).replace("groups.", "").replace("projects.", "").replace(".", "/")
    config = without(*gone)
    with pytest.raises(ConfigError) as caught:
        settle(registry, config)
    [problem] = caught.value.problems
    assert (problem.file, problem.path) == (FILE, where)
    assert problem.message == (
        f"{where} is gone but holds 1 package: give the {kind} that replaces it aliases: [{path}], "
        f"or run pypi-overlay namespace drop {path}"
    )


def test_all_that_vanished_is_reported_at_once(registry: Database) -> None:
    for project in (WIDGETS, GLOBEX, DEFAULT):
        publish(registry, project, wheel("gears", "1.0"))
    messages = refusals(registry, {**CONFIG, "groups": {}, "projects": {}})
    assert [message.partition(" ")[0] for message in messages] == [
        "groups.acme",
        "projects.default",
        "groups.globex",
    ]


def test_a_tombstone_is_enough_to_hold_a_project(registry: Database) -> None:
    publish(registry, GLOBEX, wheel("gears", "1.0"))
    remove(registry, GLOBEX, "gears")
    [message] = refusals(registry, without("groups", "globex"))
    assert "holds 1 claim:" in message


def test_tokens_that_have_ended_hold_nothing(registry: Database) -> None:
    expired = mint(registry, GLOBEX, expires_at=NOW + timedelta(hours=1))
    revoked = mint(registry, GLOBEX, kind=TokenKind.DEPLOY, scopes=["read_package_registry"])
    live = mint(registry, GLOBEX, kind=TokenKind.DEPLOY, scopes=["read_package_registry"])
    registry.change_now(lambda change: tokens.revoke(change, revoked.id, NOW))
    [message] = refusals(registry, without("groups", "globex"))
    assert "holds 1 token:" in message
    registry.change_now(lambda change: tokens.revoke(change, live.id, NOW))
    settle(registry, without("groups", "globex"))
    left = registry.read_now(lambda c: c.execute(select(token_rows.c.id)).scalars().all())
    assert not {expired.id, revoked.id, live.id} & set(left)


@pytest.mark.parametrize(("section", "other"), [("projects", "groups"), ("groups", "projects")])
def test_what_holds_something_cannot_become_another_kind(
    registry: Database, section: str, other: str
) -> None:
    if section == "projects":
        publish(registry, WIDGETS, wheel("gears", "1.0"))
        config, path, held = without("groups", "acme", "projects", "widgets"), "widgets", "1 package"
    else:
        mint(
            registry,
            NamespacePath("acme/platform"),
            kind=TokenKind.DEPLOY,
            scopes=["read_package_registry"],
        )
        config, path, held = without("groups", "acme", "groups", "platform"), "platform", "1 token"
    acme = config["groups"]["acme"]
    acme = {**acme, other: {**acme.get(other, {}), path: {}}}
    [message] = refusals(registry, {**config, "groups": {**config["groups"], "acme": acme}})
    assert message == (f"was a {section[:-1]} and holds {held}: it cannot become a {other[:-1]}")


def test_an_empty_namespace_may_become_another_kind(registry: Database) -> None:
    config = without("groups", "acme", "projects", "widgets")
    acme = {**config["groups"]["acme"], "groups": {**CONFIG["groups"]["acme"]["groups"], "widgets": {}}}
    settle(registry, {**config, "groups": {**config["groups"], "acme": acme}})
    assert known(registry)["acme/widgets"] == "group"


def test_with_an_alias_everything_below_moves_along(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, CORE, wheel("cogs", "1.0"))
    remove(registry, CORE, "cogs")
    job = mint(registry, CORE, expires_at=TOMORROW)
    settle(registry, renamed())
    assert holders(registry, "gears") == [("apex/widgets", OwnedKind.FILES)]
    assert holders(registry, "cogs") == [("apex/platform/core", OwnedKind.TOMBSTONE)]
    assert not any(path == "acme" or path.startswith("acme/") for path in known(registry))
    moved = registry.read_now(lambda c: tokens.get_token(c, job.id))
    assert moved.namespace == "apex/platform/core"


def test_a_claim_keeps_its_age_over_a_move(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "1.0"), at=NOW + timedelta(hours=1))
    settle(registry, renamed())
    found = registry.read_now(lambda c: packages.facts(c, Name("gears")))
    assert owner_at_root(Name("gears"), found, tree_of(renamed()), NOW) == "apex"


def test_a_project_may_move_to_another_group(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    config = without("groups", "acme", "projects", "widgets")
    globex = {"projects": {"widgets": {}, "gearing": {"aliases": ["acme/widgets"]}}}
    settle(registry, {**config, "groups": {**config["groups"], "globex": globex}})
    assert holders(registry, "gears") == [("globex/gearing", OwnedKind.FILES)]


def test_the_nearest_alias_counts(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, SANDBOX, wheel("cogs", "1.0"))
    apex: dict[str, Any] = {"projects": {"sandbox": {}}, "groups": {}, "members": {}}
    config = renamed(**apex)
    globex = {"projects": {"widgets": {}, "gearing": {"aliases": ["acme/widgets"]}}}
    settle(registry, {**config, "groups": {**config["groups"], "globex": globex}})
    assert holders(registry, "gears") == [("globex/gearing", OwnedKind.FILES)]
    assert holders(registry, "cogs") == [("apex/sandbox", OwnedKind.FILES)]


def test_an_alias_may_lead_to_a_namespace_that_holds_something_already(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("cogs", "1.0"))
    config = without("groups", "globex")
    acme = dict(config["groups"]["acme"])
    acme["projects"] = {**acme["projects"], "widgets": {"aliases": ["globex/widgets"]}}
    settle(registry, {**config, "groups": {"acme": acme}})
    assert holders(registry, "gears") == holders(registry, "cogs") == [(WIDGETS, OwnedKind.FILES)]
    assert "globex/widgets" not in known(registry)


def test_an_alias_may_not_lay_two_packages_of_one_name_together(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "2.0"))
    config = without("groups", "globex")
    acme = dict(config["groups"]["acme"])
    acme["projects"] = {**acme["projects"], "widgets": {"aliases": ["globex/widgets"]}}
    assert refusals(registry, {**config, "groups": {"acme": acme}}) == [
        "globex/widgets and acme/widgets both hold gears: delete it in one of them first"
    ]
    assert holders(registry, "gears") == [(WIDGETS, OwnedKind.FILES), (GLOBEX, OwnedKind.FILES)]


def test_an_alias_without_the_project_below_it_is_not_enough(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    [message] = refusals(registry, renamed(projects={}))
    assert message.startswith("groups.acme.projects.widgets is gone but holds 1 package: ")


@pytest.mark.parametrize("stood_before", [True, False])
def test_an_alias_cannot_make_a_group_of_a_project_that_holds_something(
    registry: Database, stood_before: bool
) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    config = without("groups", "acme", "projects", "widgets")
    acme = config["groups"]["acme"]

    def with_group(**group: Any) -> dict[str, Any]:
        return {**config, "groups": {**config["groups"], "acme": {**acme, "groups": {"tools": group}}}}

    if stood_before:
        widgets = {**CONFIG["groups"]["acme"], "groups": {"tools": {}}}
        settle(registry, {**CONFIG, "groups": {**CONFIG["groups"], "acme": widgets}})
    [message] = refusals(registry, with_group(aliases=["acme/widgets"]))
    assert message == "acme/widgets was a project and holds 1 package: it cannot become a group"


def test_a_conflict_says_where_in_the_file_the_alias_leads(registry: Database) -> None:
    mint(registry, NamespacePath("acme"), kind=TokenKind.DEPLOY, scopes=["read_package_registry"])
    config = {**without("groups", "acme"), "projects": {"default": {}, "apex": {"aliases": ["acme"]}}}
    with pytest.raises(ConfigError) as caught:
        settle(registry, config)
    assert (FILE, 7, "projects.apex") in {(p.file, p.line, p.path) for p in caught.value.problems}


def test_what_stands_in_the_file_cannot_be_dropped(registry: Database) -> None:
    tree = tree_of(CONFIG)
    for path in (ROOT, NamespacePath("acme"), WIDGETS):
        with pytest.raises(StillInUse):
            registry.change_now(partial(namespaces.drop, tree=tree, path=path, now=LATER))


def test_what_nobody_knows_cannot_be_dropped(registry: Database) -> None:
    tree = tree_of(CONFIG)
    with pytest.raises(NoSuchNamespace):
        registry.change_now(lambda change: namespaces.drop(change, tree, NamespacePath("acm"), LATER))


def drop(registry: Database, path: str) -> packages.Removed:
    tree = tree_of(without("groups", path))
    return registry.change_now(lambda change: namespaces.drop(change, tree, NamespacePath(path), LATER))


def test_dropping_deletes_packages_and_leaves_every_claim_to_the_instance(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"), content="gears", metadata="one")
    publish(registry, CORE, wheel("cogs", "1.0"), content="cogs", metadata="two")
    publish(registry, SANDBOX, wheel("gone", "1.0"))
    remove(registry, SANDBOX, "gone")
    publish(registry, GLOBEX, wheel("other", "1.0"))
    removed = drop(registry, "acme")
    assert sorted(removed.filenames) == [wheel("cogs", "1.0"), wheel("gears", "1.0")]
    assert set(removed.digests) == {digest(text) for text in ("gears", "cogs", "one", "two")}
    for name in ("gears", "cogs", "gone"):
        assert holders(registry, name) == [(ROOT, OwnedKind.TOMBSTONE)]
    assert holders(registry, "other") == [(GLOBEX, OwnedKind.FILES)]
    assert set(known(registry)) == {"", "default", "globex", "globex/widgets"}
    settle(registry, without("groups", "acme"))


def test_objects_that_others_need_survive_a_drop(registry: Database) -> None:
    for project in (WIDGETS, SANDBOX, GLOBEX):
        publish(registry, project, wheel("gears", "1.0"), content="same", metadata=project)
    assert set(drop(registry, "acme").digests) == {digest(WIDGETS), digest(SANDBOX)}


def test_a_name_that_two_dropped_projects_held_is_claimed_once(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, SANDBOX, wheel("gears", "2.0"))
    drop(registry, "acme")
    assert holders(registry, "gears") == [(ROOT, OwnedKind.TOMBSTONE)]


def test_a_claim_that_was_left_to_the_instance_is_released_at_the_root(registry: Database) -> None:
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    drop(registry, "acme")
    with pytest.raises(NoSuchName):
        registry.change_now(lambda change: packages.release_claim(change, WIDGETS, Name("gears")))
    registry.change_now(lambda change: packages.release_claim(change, ROOT, Name("gears")))
    assert holders(registry, "gears") == []


def test_tokens_of_a_dropped_namespace_are_gone(registry: Database) -> None:
    inside, outside = mint(registry, CORE), mint(registry, GLOBEX)
    drop(registry, "acme")
    left = registry.read_now(lambda c: c.execute(select(token_rows.c.id)).scalars().all())
    assert inside.id not in left
    assert outside.id in left


def test_a_former_path_can_be_dropped_where_its_alias_was_never_served(registry: Database) -> None:
    """The file of today has the alias, but `settle` refused: one of the two packages has to go."""
    publish(registry, WIDGETS, wheel("gears", "1.0"))
    publish(registry, GLOBEX, wheel("gears", "2.0"))
    config = without("groups", "globex")
    acme = dict(config["groups"]["acme"])
    acme["projects"] = {**acme["projects"], "widgets": {"aliases": ["globex/widgets"]}}
    tree = tree_of({**config, "groups": {"acme": acme}})
    registry.change_now(lambda change: namespaces.drop(change, tree, GLOBEX, LATER))
    assert holders(registry, "gears") == [(WIDGETS, OwnedKind.FILES), (ROOT, OwnedKind.TOMBSTONE)]


def test_dropping_reads_data_of_a_namespace_that_no_file_ever_settled(registry: Database) -> None:
    """As left by a restored or merged database: rows of the namespaces table are all that is needed."""
    registry.change_now(
        lambda change: (
            change.connection.execute(
                insert(namespace_rows).values(path="old/project", kind=str(Kind.PROJECT), created_at=NOW)
            )
            and None
        )
    )
    publish(registry, NamespacePath("old/project"), wheel("gears", "1.0"))
    registry.change_now(lambda change: namespaces.drop(change, tree_of(CONFIG), NamespacePath("old"), LATER))
    assert holders(registry, "gears") == [(ROOT, OwnedKind.TOMBSTONE)]
