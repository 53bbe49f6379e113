from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.index.instance import Instance
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


def keep(site: Site, content: bytes) -> Path:
    """Put a small file into the cache, and return where it lies."""

    def act(instance: Instance) -> Path:
        return Path(asyncio.run(instance.files.keep(content, [])).path)

    return site.work(act)


def test_an_empty_cache_is_sound(site: Site) -> None:
    sound = {"checked": 0, "bytes": 0, "damaged": [], "unlisted": 0, "missing": 0}
    assert site.json("cache", "verify") == {**sound, "repaired": False}
    assert site.json("cache", "verify", "--repair") == {**sound, "repaired": True}


def test_a_damaged_file_is_told_until_it_is_repaired(site: Site) -> None:
    path = keep(site, b"widgets")
    path.write_bytes(b"gadgets")
    done = site.run("cache", "verify", "--json")
    assert (done.exit_code, json.loads(done.stdout)["damaged"]) == (1, [path.name])
    done = site.run("cache", "verify")
    assert (done.exit_code, path.name in done.stdout, "--repair" in done.stderr) == (1, True, True)
    assert path.exists()
    assert site.json("cache", "stats")["damaged"] == 1
    assert site.json("cache", "verify", "--repair")["repaired"] is True
    assert not path.exists()
    assert site.json("cache", "verify")["damaged"] == []
    stats = site.json("cache", "stats")
    assert (stats["files"], stats["damaged"]) == (0, 0)
