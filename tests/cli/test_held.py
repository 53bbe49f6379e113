"""`held`: listing what upstreams took away, and releasing it, where no server runs."""

from __future__ import annotations

import pytest

from proxy.cache import held
from proxy.cache.held import Unlisted
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord
from proxy.index.instance import Instance
from tests.cli.conftest import Site

RECORD = FileRecord("requests-2.1.0.tar.gz", sha256="1" * 64, url="https://u.test/r", version="2.1.0")
RELEASE = ("held", "release", "pypi", "Requests", RECORD.filename)


@pytest.fixture
def holding(site: Site) -> Site:
    """Give the site with one held file."""

    def act(instance: Instance) -> None:
        gone = [Unlisted(RECORD, "1" * 64)]
        instance.registry.change_now(
            lambda change: held.hold(change, "pypi", Name("requests"), gone, None, instance.now())
        )

    site.work(act)
    return site


def test_what_is_held_is_listed_with_why(holding: Site) -> None:
    (item,) = holding.items("held", "list")
    assert list(item) == ["upstream", "name", "version", "filename", "sha256", "why", "since"]
    assert (item["name"], item["why"]) == ("requests", "removed")
    lines = holding.run("held", "list").stdout.splitlines()
    assert lines[0].split() == ["UPSTREAM", "NAME", "VERSION", "FILENAME", "WHY", "SINCE", "SHA-256"]
    assert RECORD.filename in lines[1]


def test_what_is_released_is_held_no_more_and_recorded(holding: Site) -> None:
    done = holding.run(*RELEASE, "--yes")
    assert (done.exit_code, done.stderr) == (0, "requests-2.1.0.tar.gz of requests is served again\n")
    assert holding.items("held", "list") == []
    assert holding.run("held", "list").stderr == "no files are held\n"
    assert holding.audited()[-1] == ("held.release", "owner", None, "requests")
    assert "is held" in holding.refused(*RELEASE, "--yes")


def test_a_release_is_told_as_JSON(holding: Site) -> None:
    assert holding.json(*RELEASE, "--yes") == {
        "upstream": "pypi",
        "name": "requests",
        "filename": RECORD.filename,
    }


def test_a_release_asks_first(holding: Site) -> None:
    assert "add --yes" in holding.refused(*RELEASE, status=2)
    assert len(holding.items("held", "list")) == 1
