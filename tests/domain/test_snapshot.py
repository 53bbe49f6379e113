"""The compiled configuration: what it says where nobody says anything, that it stays so, and keeps its secrets."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from proxy.domain.snapshot import (
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
    (pypi,) = shipped.upstreams.values()
    plain = UpstreamSettings(pypi.name, pypi.index_url)
    for name in ("private_network", "connect_timeout", "read_timeout", "max_connections", "proxy", "ca_file"):
        assert getattr(pypi, name) == getattr(plain, name), name


def test_nothing_of_a_snapshot_can_be_changed(shipped: Snapshot) -> None:
    parts = [shipped, shipped.server, shipped.log, shipped.limits, shipped.cache, *shipped.upstreams.values()]
    for part in parts:
        assert is_dataclass(part)
        for each in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, each.name, None)


def test_a_snapshot_does_not_show_the_password_of_an_upstream() -> None:
    snapshot = snapshot_of(
        {"upstreams": {"pypi": {"username": "u", "password": "geheim", "proxy": "http://u:verborgen@p:1"}}}
    )
    assert snapshot.upstreams["pypi"].password == "geheim"
    for told in (repr(snapshot), str(snapshot.upstreams["pypi"])):
        assert "geheim" not in told
        assert "verborgen" not in told
