"""Trusted publishing: an identity exchanged for a job token, once, and what that token is worth afterwards."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from proxy.domain.access import Caller, CallerKind, Scope
from proxy.domain.snapshot import Snapshot
from proxy.errors import InvalidForm, NotAuthenticated
from proxy.identity import tokens
from proxy.identity.credentials import identify, presented
from proxy.identity.minting import Refusal, mint_for
from proxy.identity.oidc import LEEWAY, Trust, Verified
from proxy.identity.tokens import TokenKind, TokenRow, mint, shape
from proxy.storage.database import Database
from proxy.storage.tables import audit, used_identities
from tests.identity.conftest import NOW
from tests.support.trees import snapshot_of

CONFIG = """
    oidc: {{issuers: {{gitlab: {{issuer: https://gitlab.test, preset: gitlab}}}}}}
    groups:
      acme:
        projects:
          widgets: {{trust: [{rules}]}}
          gears: {{trust: [{{issuer: gitlab, claims: {{project_id: "42"}}, expires: 30m}}]}}
"""
RULE = "{issuer: gitlab, claims: {project_path: acme/widgets, ref: main}, expires: 10m}"
CLAIMS = {
    "project_path": "acme/widgets",
    "project_id": "7",
    "ref": "main",
    "sub": "job",
    "user_email": "a@b.test",
}


def snapshot(rules: str = RULE) -> Snapshot:
    return snapshot_of(CONFIG.format(rules=rules))


def trust_of(rules: str = RULE) -> Trust:
    found = snapshot(rules)
    return Trust(found.tree, found.oidc)


TRUST = trust_of()


def verified(jti: str | None = "j1", **claims: str) -> Verified:
    identity = TRUST.identity("gitlab", CLAIMS | claims)
    assert identity is not None
    return Verified(identity, jti, NOW + timedelta(minutes=5))


def exchange(
    registry: Database, what: Verified, trust: Trust = TRUST, now: datetime = NOW
) -> tuple[str, TokenRow] | Refusal:
    return registry.change_now(
        lambda change: mint_for(change, what, trust, now=now, address="192.0.2.1", request_id="r1")
    )


def minted(registry: Database, what: Verified) -> tuple[str, TokenRow]:
    outcome = exchange(registry, what)
    assert not isinstance(outcome, Refusal)
    return outcome


def use(registry: Database, text: str, trust: Trust = TRUST, now: datetime = NOW) -> Caller:
    given = presented([("Authorization", f"Bearer {text}")])
    assert given is not None
    tree = snapshot().tree
    return registry.read_now(lambda c: identify(c, given, tree, frozenset(), trust, now))


def test_a_minted_token_is_a_job_of_every_project_that_trusts_the_identity(registry: Database) -> None:
    text, row = minted(registry, verified(project_id="42"))
    caller = use(registry, text)

    assert text.startswith("pyo_job_")
    assert (caller.kind, caller.token) == (CallerKind.JOB, row.id)
    assert caller.homes == ("acme/widgets", "acme/gears")
    assert caller.scopes == {Scope.READ_PACKAGES, Scope.WRITE_PACKAGES}
    assert caller.label == "job:gitlab:acme/widgets"
    assert caller.identity is not None
    assert (caller.identity.kind, caller.identity.claims["sub"]) == ("GitLab", "job")


def test_it_lives_as_long_as_the_strictest_rule_that_matches_allows(registry: Database) -> None:
    text, row = minted(registry, verified(project_id="42"))

    assert row.expires_at == NOW + timedelta(minutes=10)
    assert use(registry, text, now=NOW + timedelta(minutes=9, seconds=59))
    with pytest.raises(NotAuthenticated):
        use(registry, text, now=NOW + timedelta(minutes=10))


@pytest.mark.parametrize(
    "rules",
    [
        "",
        "{issuer: gitlab, claims: {project_path: acme/widgets, ref: develop}}",
        "{issuer: gitlab, claims: {project_path: acme/widgets, environment: release}}",
    ],
    ids=["taken away", "changed", "asks for more"],
)
def test_a_rule_that_is_taken_away_ends_it(registry: Database, rules: str) -> None:
    text, _ = minted(registry, verified())

    assert use(registry, text)
    with pytest.raises(NotAuthenticated):
        use(registry, text, trust_of(rules))


def test_an_issuer_that_is_taken_away_ends_it(registry: Database) -> None:
    text, _ = minted(registry, verified())
    nobody = snapshot_of("groups: {acme: {projects: {widgets: {}}}}")

    with pytest.raises(NotAuthenticated):
        use(registry, text, Trust(nobody.tree, nobody.oidc))


def test_an_identity_token_is_taken_once(registry: Database) -> None:
    minted(registry, verified())

    assert exchange(registry, verified()) is Refusal.REUSE
    assert exchange(registry, verified("j2")) is not Refusal.REUSE


def test_numbers_of_different_issuers_are_different(registry: Database) -> None:
    minted(registry, verified())
    also = snapshot_of(
        """
        oidc: {issuers: {hub: {issuer: https://hub.test, preset: github}}}
        projects: {tools: {trust: [{issuer: hub, claims: {repository: acme/tools}}]}}
        """
    )
    trust = Trust(also.tree, also.oidc)
    identity = trust.identity("hub", {"repository": "acme/tools"})
    assert identity is not None

    assert not isinstance(exchange(registry, replace(verified(), identity=identity), trust), Refusal)


def test_an_identity_token_without_a_number_is_refused(registry: Database) -> None:
    assert exchange(registry, verified(jti=None)) is Refusal.TOKEN


def test_an_identity_that_no_project_trusts_leaves_no_trace(registry: Database) -> None:
    assert exchange(registry, verified(ref="develop")) is Refusal.PUBLISHER
    assert registry.read_now(lambda c: c.scalar(select(func.count()).select_from(used_identities))) == 0
    assert registry.read_now(tokens.list_tokens) == []
    assert not isinstance(exchange(registry, verified()), Refusal)


def test_numbers_are_forgotten_once_their_tokens_are_over(registry: Database) -> None:
    minted(registry, verified())
    over = NOW + timedelta(minutes=5) + LEEWAY
    later = Verified(verified().identity, "j2", over + timedelta(hours=1))

    exchange(registry, later, now=over)
    assert registry.read_now(lambda c: set(c.scalars(select(used_identities.c.jti)))) == {"j1", "j2"}
    exchange(registry, replace(later, jti="j3"), now=over + timedelta(seconds=1))
    assert registry.read_now(lambda c: set(c.scalars(select(used_identities.c.jti)))) == {"j2", "j3"}


def test_minted_tokens_are_forgotten_a_month_after_they_expired(registry: Database) -> None:
    _, first = minted(registry, verified("j1"))
    personal = registry.change_now(
        lambda change: mint(
            change,
            kind=TokenKind.PERSONAL,
            name="",
            created_at=NOW,
            created_by="test",
            user="alice",
            scopes=["api"],
            expires_at=NOW + timedelta(minutes=1),
        )
    )[1]
    later = replace(verified("j2"), expires=NOW + timedelta(days=60))
    second = exchange(registry, later, now=NOW + timedelta(days=29))
    assert not isinstance(second, Refusal)
    kept = {row.id for row in registry.read_now(tokens.list_tokens)}
    assert kept == {first.id, personal.id, second[1].id}
    third = exchange(registry, replace(later, jti="j3"), now=NOW + timedelta(days=31))
    assert not isinstance(third, Refusal)
    kept = {row.id for row in registry.read_now(tokens.list_tokens)}
    assert kept == {personal.id, second[1].id, third[1].id}


@pytest.mark.parametrize(
    ("claims", "projects", "namespace"),
    [({}, ["acme/widgets"], "acme/widgets"), ({"project_id": "42"}, ["acme/widgets", "acme/gears"], "acme")],
)
def test_the_audit_says_for_whom_where_and_by_which_claims(
    registry: Database, claims: dict[str, str], projects: list[str], namespace: str
) -> None:
    text, row = minted(registry, verified(**claims))
    event = registry.read_now(lambda c: c.execute(select(audit)).one())

    assert (event.action, event.who_kind, event.who_id) == ("token.mint", "job", row.id)
    assert (event.who_user, event.namespace) == ("gitlab:acme/widgets", namespace)
    assert (event.address, event.request_id) == ("192.0.2.1", "r1")
    assert (event.detail["issuer"], event.detail["projects"]) == ("gitlab", projects)
    assert event.detail["claims"]["sub"] == "job"
    assert "user_email" not in event.detail["claims"]
    assert text not in repr(event)


def test_it_is_listed_by_issuer_and_repository(registry: Database) -> None:
    _, row = minted(registry, verified())
    shown = shape(row)

    assert (shown["kind"], shown["name"], shown["namespace"]) == ("job", "gitlab:acme/widgets", None)
    assert registry.read_now(tokens.list_tokens) == [row]


@pytest.mark.parametrize("kind", [TokenKind.PERSONAL, TokenKind.DEPLOY, TokenKind.JOB])
def test_without_an_identity_a_token_still_needs_its_user_or_namespace(
    registry: Database, kind: TokenKind
) -> None:
    with pytest.raises(InvalidForm):
        registry.change_now(lambda change: mint(change, kind=kind, name="x", created_at=NOW, created_by="x"))
