from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.index.instance import Instance
from tests.cli.conftest import CONFIG, Site
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel


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
    assert site.json("cache", "purge", "widgets", "--yes") == {"pages": 0, "files": 0, "held": 0}
    assert site.run("cache", "purge", "--all", "--yes").stderr == "0 pages and 0 files purged\n"
    assert "not a valid project name" in site.refused("cache", "purge", "-", "--yes")


def keep(site: Site, content: bytes) -> Path:
    """Put a small file into the cache, and return where it lies."""

    def act(instance: Instance) -> Path:
        return Path(asyncio.run(instance.files.keep(content, [])).path)

    return site.work(act)


def test_an_empty_cache_is_sound(site: Site) -> None:
    sound = {"checked": 0, "bytes": 0, "damaged": [], "unlisted": 0, "missing": 0, "lost": []}
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


@pytest.fixture
def forwarding(site: Site, upstream: FakeUpstream) -> Site:
    """Give the site with an upstream behind it."""
    site.configure({**CONFIG, **base_config(upstream), "policy": {"deny": ["evil"]}})
    return site


def test_warm_fetches_what_files_and_names_ask_for(
    forwarding: Site, upstream: FakeUpstream, tmp_path: Path
) -> None:
    for name, version in (
        ("shop", "1.0"),
        ("shop", "2.0"),
        ("widgets", "1.0"),
        ("gears", "3.0"),
        ("evil", "1.0"),
    ):
        upstream.add_file(name, *make_wheel(name, version))
    nested = tmp_path / "nested"
    nested.mkdir()
    (tmp_path / "requirements.txt").write_text("-r nested/base.txt\nshop\n-e ./local\n")
    # Files may name each other in a ring; constraints add no names.
    (nested / "base.txt").write_text(
        "-r ../requirements.txt\n-c limits.txt\nevil\nwidgets\n-r https://x.example/y\n"
    )
    (nested / "limits.txt").write_text("shop<2\ngears==3.0\n")

    found = forwarding.json("cache", "warm", "-r", str(tmp_path / "requirements.txt"))

    assert (found["names"], found["files"], found["fetched"], found["errors"]) == (2, 2, 2, [])
    assert sorted(each["name"] for each in found["skipped"]) == sorted(
        [f"{tmp_path / 'requirements.txt'}:3", str(nested / "base.txt"), "evil"]
    )
    files = {request.path.rpartition("/")[2] for request in upstream.requests() if ".whl" in request.path}
    assert files == {"shop-1.0-py3-none-any.whl", "widgets-1.0-py3-none-any.whl"}
    assert (forwarding.json("cache", "stats")["pages"], upstream.asked_for("gears")) == (2, [])


def test_warm_ends_with_status_1_if_something_could_not_be_fetched(
    forwarding: Site, upstream: FakeUpstream
) -> None:
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    done = forwarding.run("cache", "warm", "widgets", "evil", "unheardof>=1")
    assert (done.exit_code, done.stdout) == (1, "")
    skipped, error, last = done.stderr.splitlines()
    assert (skipped.startswith("skipped evil: "), error.startswith("error: unheardof: ")) == (True, True)
    assert last.startswith("1 name, 1 file, ")
    assert last.endswith("; 1 fetched now")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not toml", "uv.lock: the lock file is not valid TOML"),
        (b"\xff", "uv.lock is not UTF-8"),
        (b"a" * 2000, "uv.lock is larger than 1000 B"),
    ],
)
def test_a_file_that_is_not_in_order_is_named(
    site: Site, tmp_path: Path, content: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cli.cache._LONGEST_FILE", 1000)
    (tmp_path / "uv.lock").write_bytes(content)
    assert said in site.refused("cache", "warm", "--lock", str(tmp_path / "uv.lock"))


def test_a_requirements_file_that_another_names_has_to_be_there(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.txt").write_text("-r gone.txt\n")
    assert "gone.txt cannot be read: No such file" in site.refused(
        "cache", "warm", "-r", str(tmp_path / "r.txt")
    )
    monkeypatch.setattr("proxy.cli.cache._MOST_FILES", 1)
    assert "leads to more than 1 files" in site.refused("cache", "warm", "-r", str(tmp_path / "r.txt"))


@pytest.mark.parametrize(
    ("arguments", "status"), [((), 2), (("--lock", "nowhere.lock"), 2), (("x", "--index", "nowhere"), 1)]
)
def test_warm_wants_to_know_what_and_where(site: Site, arguments: tuple[str, ...], status: int) -> None:
    site.refused("cache", "warm", *arguments, status=status)
