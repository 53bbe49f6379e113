"""The keys of issuers, trust and throttling: what is taken, what is refused, and at which line."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from proxy.domain.snapshot import Rate
from proxy.domain.trust import Preset, TrustRule
from tests.support.trees import FILE, line_of, problems_of, snapshot_of

CONFIG = """
    limits: {failed_logins: 5/30s}
    oidc:
      audience: packages.acme.test
      issuers:
        gitlab: {issuer: "https://gitlab.acme.test", preset: gitlab}
        hub: {issuer: "https://hub.acme.test/", preset: github}
        own: {issuer: "http://127.0.0.1:8000/ci", repository_claim: repo}
    groups:
      acme:
        projects:
          widgets:
            trust:
              - {issuer: gitlab, claims: {project_path: "acme/*", ref_protected: "true"}, expires: 24h}
              - {issuer: hub, claims: {repository_id: "42"}}
              - {issuer: own, claims: {repo: widgets}}
          gears: {}
"""


def test_issuers_and_rules_come_into_force_as_they_stand() -> None:
    snapshot = snapshot_of(CONFIG)

    assert snapshot.limits.failed_logins == Rate(5, timedelta(seconds=30))
    assert snapshot.oidc.audience == "packages.acme.test"
    assert {
        name: (issuer.issuer, issuer.preset, issuer.repository_claims)
        for name, issuer in snapshot.oidc.issuers.items()
    } == {
        "gitlab": ("https://gitlab.acme.test", Preset.GITLAB, ("project_path", "project_id")),
        "hub": ("https://hub.acme.test/", Preset.GITHUB, ("repository", "repository_id")),
        "own": ("http://127.0.0.1:8000/ci", Preset.NONE, ("repo",)),
    }
    assert snapshot.tree.find("acme/widgets").trust == (
        TrustRule("gitlab", {"project_path": "acme/*", "ref_protected": "true"}, timedelta(hours=24)),
        TrustRule("hub", {"repository_id": "42"}, timedelta(minutes=15)),
        TrustRule("own", {"repo": "widgets"}, timedelta(minutes=15)),
    )
    assert snapshot.tree.find("acme/gears").trust == ()


def test_without_a_file_nobody_is_trusted() -> None:
    snapshot = snapshot_of("{}")

    assert (snapshot.oidc.audience, dict(snapshot.oidc.issuers)) == ("pypi-overlay", {})
    assert snapshot.limits.failed_logins == Rate(20, timedelta(minutes=1))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("5/30s", "5", "limits.failed_logins: expected a number per time such as 20/1m"),
        ("5/30s", "0/1m", "limits.failed_logins: expected a number per time"),
        ("5/30s", "5/0s", "limits.failed_logins: expected a duration above 0s"),
        (
            '"https://gitlab.acme.test"',
            '"http://gitlab.acme.test"',
            "gitlab.issuer: expected an https:// address",
        ),
        ('"https://gitlab.acme.test"', '"http://localhost"', "gitlab.issuer: expected an https:// address"),
        ('"https://gitlab.acme.test"', '"http://10.0.0.1"', "gitlab.issuer: expected an https:// address"),
        (
            '"https://gitlab.acme.test"',
            '"https://u:geheim@gitlab.acme.test"',
            "without user name and password",
        ),
        ('"https://gitlab.acme.test"', '"https://gitlab.acme.test?x"', "without query and fragment"),
        ('"https://gitlab.acme.test"', "gitlab.acme.test", "gitlab.issuer: expected the https:// address"),
        ('"https://gitlab.acme.test"', '"https://hub.acme.test/"', "hub.issuer: expected another address"),
        (", preset: gitlab", ", preset: bitbucket", "gitlab.preset: expected gitlab, github or none"),
        (", preset: gitlab", "", "oidc.issuers.gitlab: expected repository_claim"),
        (
            ", preset: gitlab",
            ", preset: gitlab, repository_claim: x",
            "gitlab.repository_claim: expected the preset",
        ),
        ("gitlab: {issuer:", "Git Lab: {issuer:", "oidc.issuers.Git Lab: expected the name of an issuer"),
        (
            "{issuer: gitlab, claims",
            "{issuer: gitlba, claims",
            "trust.0.issuer: expected one of gitlab, hub, own",
        ),
        (
            'project_path: "acme/*", ',
            "",
            "trust.0.claims: expected project_path or project_id among the claims",
        ),
        (
            'project_path: "acme/*"',
            'project_path: "*"',
            "trust.0.claims: expected project_path or project_id",
        ),
        (
            'project_path: "acme/*"',
            'repository: "acme/*"',
            "trust.0.claims: expected project_path or project_id",
        ),
        ('repository_id: "42"', 'ref: "main"', "trust.1.claims: expected repository or repository_id"),
        ("repo: widgets", "ref: main", "trust.2.claims: expected repo among the claims"),
        ('"acme/*"', '"a*/widgets"', "project_path: expected text in which * stands at the end"),
        ('"acme/*"', '"acme/**"', "project_path: expected text in which * stands at the end"),
        ('"acme/*"', '""', "project_path: expected text of one line"),
        (
            'ref_protected: "true"',
            "ref_protected: true",
            'ref_protected: expected text in quotes such as "true"',
        ),
        ('"42"', "42", 'repository_id: expected text in quotes such as "true"'),
        ("expires: 24h", "expires: 25h", "trust.0.expires: expected a duration of at most 24h"),
        ("expires: 24h", "expires: 0s", "trust.0.expires: expected a duration above 0s"),
        ("expires: 24h", "expire: 24h", "trust.0.expire: unknown key; did you mean expires?"),
        (
            "{issuer: own, claims: {repo: widgets}}",
            "{issuer: own}",
            "trust.2.claims: expected the key claims, got nothing",
        ),
        ("gears: {}", "gears: {trust: gitlab}", "gears.trust: expected a list"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(before: str, after: str, message: str) -> None:
    assert CONFIG.count(before) == 1
    problem, *_ = problems_of(CONFIG.replace(before, after))

    assert message in problem
    assert problem.startswith(f"{FILE}:")
    assert "geheim" not in problem


def test_a_rule_for_an_issuer_that_does_not_exist_names_its_line() -> None:
    config = CONFIG.replace("issuer: own, claims", "issuer: nobody, claims")

    assert problems_of(config)[0].startswith(
        f"{FILE}:{line_of(config, 'nobody')}: groups.acme.projects.widgets.trust.2"
    )


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    line = line_of(CONFIG, "issuers:")

    assert problems_of(CONFIG) == [
        f"{FILE}:{line}: oidc.issuers: identity tokens need the extra oidc: install pypi-overlay[oidc]"
    ]
    assert problems_of("{}") == []
