"""Rules and identities as plain values: what is equal, what a star stands for, what is kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.trust import Identity, IssuerSettings, Preset, TrustRule, text_of

GITLAB = IssuerSettings("gitlab", "https://gitlab.test", Preset.GITLAB, ("project_path", "project_id"))


def identity(**claims: object) -> Identity:
    return GITLAB.identity(claims, claims)


def rule(**claims: str) -> TrustRule:
    return TrustRule("gitlab", claims)


def test_every_claim_that_is_named_must_be_equal() -> None:
    who = identity(project_path="acme/widgets", ref="main", ref_protected="true")

    assert rule(project_path="acme/widgets").accepts(who)
    assert rule(project_path="acme/widgets", ref="main", ref_protected="true").accepts(who)
    assert not rule(project_path="acme/widgets", ref="develop").accepts(who)
    assert not rule(project_path="acme/widgets", environment="release").accepts(who)
    assert not rule(project_path="acme/Widgets").accepts(who)
    assert not rule(project_path="acme/widget").accepts(who)


def test_an_identity_of_another_issuer_is_not_accepted_whatever_it_claims() -> None:
    claims = {"project_path": "acme/widgets"}

    assert not TrustRule("github", claims).accepts(identity(**claims))


@pytest.mark.parametrize(
    ("wanted", "value", "is_like"),
    [
        ("v*", "v1.0", True),
        ("v*", "v", True),
        ("v*", "dev", False),
        ("*", "anything", True),
        ("acme/*", "acme/widgets", True),
        ("acme/*", "acmecorp/widgets", False),
        ("main", "main*", False),
    ],
)
def test_a_star_at_the_end_stands_for_whatever_follows(wanted: str, value: str, is_like: bool) -> None:
    assert rule(ref=wanted).accepts(identity(ref=value)) is is_like


def test_a_star_stands_for_a_claim_that_is_there() -> None:
    assert not rule(environment="*").accepts(identity(project_path="acme/widgets"))


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("", ""), (42, "42"), (True, "true"), (False, "false"), (1.5, None), (None, None)]
    + [(value, None) for value in (["acme/widgets"], {"path": "acme/widgets"}, [])],
)
def test_claims_are_compared_as_text_and_structures_are_like_nothing(value: object, text: str | None) -> None:
    assert text_of(value) == text
    assert rule(claim="*").accepts(identity(claim=value)) is (text is not None)


@given(st.dictionaries(st.sampled_from("abc"), st.text(max_size=3)), st.text(max_size=3))
def test_a_rule_that_names_a_value_accepts_no_other(claims: dict[str, str], wanted: str) -> None:
    accepted = rule(a=wanted).accepts(identity(**claims))
    value = claims.get("a")
    begins = wanted.endswith("*") and value is not None and value.startswith(wanted[:-1])
    assert accepted == (begins or (value == wanted and not wanted.endswith("*")))


def test_of_claims_only_those_are_kept_that_rules_or_provenance_ask_for() -> None:
    claims = {
        "project_path": "acme/widgets",
        "sub": "x",
        "user_email": "a@b.test",
        "ref": "main",
        "runner": 3,
    }

    assert GITLAB.identity(claims, {"runner"}).claims == {
        "project_path": "acme/widgets",
        "sub": "x",
        "ref": "main",
        "runner": "3",
    }


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (GITLAB, "GitLab"),
        (IssuerSettings("hub", "https://hub.test", Preset.GITHUB, ("repository",)), "GitHub"),
        (IssuerSettings("own", "https://own.test", Preset.NONE, ("repo",)), "own"),
    ],
)
def test_an_identity_is_named_by_issuer_and_repository(settings: IssuerSettings, kind: str) -> None:
    claims: dict[str, Any] = {settings.repository_claims[0]: "acme/widgets"}
    who = settings.identity(claims, ())

    assert (who.name, who.kind) == (f"{settings.name}:acme/widgets", kind)
    assert settings.identity({}, ()).name == f"{settings.name}:"
    hash(who)


def test_a_name_is_short_and_printable_whatever_the_issuer_says() -> None:
    name = identity(project_path="acme\r\nSet-Cookie: x" + "y" * 999).name

    assert name.startswith("gitlab:acme??Set-Cookie")
    assert len(name) == 255
