from __future__ import annotations

import pytest

from tests.cli.conftest import Site


def test_an_empty_cache_has_the_whole_shape(site: Site) -> None:
    assert site.json("cache", "stats") == {
        "files": 0,
        "bytes": 0,
        "max_bytes": 50 << 30,
        "pages": 0,
        "negative": 0,
        "oldest_use": None,
        "damaged": 0,
    }
    assert "0 B of 50.0 GiB" in site.run("cache", "stats").stdout


@pytest.mark.parametrize("arguments", [(), ("widgets", "--all")])
def test_purge_wants_names_or_everything(site: Site, arguments: tuple[str, ...]) -> None:
    assert "expected names, or --all" in site.refused("cache", "purge", *arguments, "--yes", status=2)


def test_a_purge_says_how_much_it_forgot(site: Site) -> None:
    assert site.json("cache", "purge", "widgets", "--yes") == {"pages": 0, "files": 0}
    assert site.run("cache", "purge", "--all", "--yes").stderr == "0 pages and 0 files purged\n"
    assert "not a valid project name" in site.refused("cache", "purge", "-", "--yes")
