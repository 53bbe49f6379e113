"""The compiled configuration: what it says where nobody says anything, that it stays so, and keeps its secrets."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from proxy.domain.names import parse_name
from proxy.domain.snapshot import (
    AdvisorySettings,
    AuditSettings,
    CacheSettings,
    Limits,
    LogSettings,
    ServerSettings,
    Snapshot,
    UpstreamSettings,
)
from tests.support.trees import snapshot_of


@pytest.fixture(scope="module")
def shipped() -> Snapshot:
    return snapshot_of("projects: {}")


def test_the_defaults_in_code_are_the_shipped_ones(shipped: Snapshot) -> None:
    assert shipped.server == ServerSettings()
    assert shipped.log == LogSettings()
    assert shipped.limits == Limits()
    assert shipped.cache == CacheSettings()
    assert shipped.advisories == AdvisorySettings()
    assert shipped.audit == AuditSettings()
    (pypi,) = shipped.upstreams.values()
    plain = UpstreamSettings(pypi.name, pypi.index_url)
    for name in ("private_network", "connect_timeout", "read_timeout", "max_connections", "proxy", "ca_file"):
        assert getattr(pypi, name) == getattr(plain, name), name


def test_nothing_of_a_snapshot_can_be_changed(shipped: Snapshot) -> None:
    sections = (shipped.server, shipped.log, shipped.limits, shipped.cache, shipped.advisories, shipped.audit)
    parts = [shipped, *sections, *shipped.upstreams.values()]
    for part in parts:
        assert is_dataclass(part)
        for each in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, each.name, None)


def test_rules_are_the_same_in_every_process_that_a_snapshot_is_handed_to() -> None:
    made = snapshot_of("""
        policy:
          reserve: [corp-*]
          deny: ["*-evil", {match: "a*z >= 1, < 2", reason: bad, until: 2027-01-01}, django==1.0]
        groups: {acme: {policy: {allow: [a*], reserve: [acme-*], min_age_exempt: ["a<2"]}}}
    """)
    handed = pickle.loads(pickle.dumps(made))
    for name in ("acme-x", "corp-x", "abz", "django", "very-evil", "a", "other"):
        for tree in (made.tree, handed.tree):
            policy = tree.find("acme").policy
            found = (
                [*tree.reserving(parse_name(name))],
                policy.deny.covering(parse_name(name)),
                policy.allow[0].patterns.covering(parse_name(name)),
                policy.min_age_exempt.covering(parse_name(name)),
            )
            if tree is made.tree:
                expected = found
        assert found == expected
    assert handed.tree.find("acme").policy == made.tree.find("acme").policy


def test_a_snapshot_does_not_show_the_password_of_an_upstream() -> None:
    snapshot = snapshot_of(
        {"upstreams": {"pypi": {"username": "u", "password": "geheim", "proxy": "http://u:verborgen@p:1"}}}
    )
    assert snapshot.upstreams["pypi"].password == "geheim"
    for told in (repr(snapshot), str(snapshot.upstreams["pypi"])):
        assert "geheim" not in told
        assert "verborgen" not in told
