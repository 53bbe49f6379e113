"""`audit confusion`: what is asked for it, what it prints, and what it advises."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import CONFIG, Site
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream


@pytest.fixture
def confused(site: Site, upstream: FakeUpstream) -> Site:
    """A site whose upstream has two names that are claimed, and one that looks like one of them."""
    config: dict[str, Any] = {"users": CONFIG["users"], "groups": CONFIG["groups"]}
    site.configure(base_config(upstream) | config)
    site.publish("acme/widgets", "pillow-1.0-py3-none-any.whl")
    for name in ("pi11ow", "acme-core", "gadgets", "harmless"):
        upstream.add_project(name)
    return site


def test_claimed_names_that_an_upstream_has_are_listed_and_none_is_asked_for(
    confused: Site, upstream: FakeUpstream
) -> None:
    found = confused.items("audit", "confusion")
    assert {(item["claim"], item["kind"], item["name"], item["match"]) for item in found} == {
        ("acme-*", "reserve", "acme-core", "same"),
        ("gadgets", "reserve", "gadgets", "same"),
        ("pillow", "package", "pi11ow", "look-alike"),
    }
    assert [sorted(item) for item in found[:1]] == [
        ["claim", "first_seen", "kind", "match", "name", "tenant", "upstream"]
    ]
    assert {(item["tenant"], item["upstream"]) for item in found} == {("acme", "pypi")}
    shown = confused.run("audit", "confusion")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0].split() == [
        *("TENANT", "CLAIM", "KIND", "UPSTREAM", "NAME", "MATCH", "FIRST", "SEEN")
    ]
    assert "never forwards such a name" in shown.stderr
    assert "slip of the finger" in shown.stderr
    assert [request.path for request in upstream.requests()] == ["/simple/"]


def test_an_upstream_without_a_list_is_a_failure_and_the_first_names_of_many_are_told(
    confused: Site, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.index.radar.MOST_OF_ONE", 1)
    upstream.add_project("acme-tools")
    assert "acme-* of acme meets 2 names of pypi" in confused.run("audit", "confusion").stderr
    upstream.fault("/simple/", status=500)
    confused.run("cache", "purge", "--all", "--yes")
    failed = confused.run("audit", "confusion")
    assert failed.exit_code == 1
    assert "warning: the names of pypi are not known" in failed.stderr
    assert "acme-core" in failed.stdout


def test_where_nothing_is_claimed_nothing_is_asked(site: Site, upstream: FakeUpstream) -> None:
    site.configure(base_config(upstream))
    assert site.run("audit", "confusion").stderr == "no upstream has a claimed name\n"
    assert upstream.requests() == []
