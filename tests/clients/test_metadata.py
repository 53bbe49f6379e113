"""Resolving without downloading: clients get core metadata of every wheel from us, whatever the upstream has."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import index_url, log_end, log_of, succeeded
from tests.support.clients import Client, find_uv
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream, UpstreamRequest

LARGE = 1 << 20
"""Bytes of every sixth wheel."""
RANGES_PER_WHEEL = 200_000
"""What reading one wheel in parts may cost, in bytes: a fifth of a large one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which an upstream offers wheels; its packages are called `stem-0` and so on."""

    stem: str
    packages: int
    about: dict[str, Any]

    def needs(self, number: int) -> list[int]:
        """The packages that one package requires."""
        return [one for one in (2 * number + 1, 2 * number + 2, number + 7) if one < self.packages]

    def names(self, first: int) -> set[str]:
        """The names of a package and of all that it leads to."""
        found, waiting = set(), [first]
        while waiting:
            found.add(number := waiting.pop())
            waiting += [one for one in self.needs(number) if one not in found]
        return {f"{self.stem}-{number}" for number in found}


BARE = {"form": "html", "core_metadata": False}
ADVERTISED = Kind("told", 60, {})
RANGED = Kind("bare", 60, BARE)
WHOLE = Kind("whole", 12, BARE)
KINDS = [ADVERTISED, RANGED, WHOLE]


@pytest.fixture(scope="module")
def offering(public: FakeUpstream) -> FakeUpstream:
    """Give an upstream in which every package needs up to three others, in a range that leaves a choice."""
    for kind in KINDS:
        for number in range(kind.packages):
            wheel = {
                "make": "wheel",
                "requires": [f"{kind.stem}-{one}>=1.0,<2" for one in kind.needs(number)],
                "size": LARGE if number % 6 == 0 else None,
            }
            versions = ("1.0", "2.0") if number % 5 == 0 else ("1.0",)
            wheels = [{**wheel, "version": version} for version in versions]
            public.add_project(f"{kind.stem}-{number}", wheels, **kind.about)
    public.fault("/packages/*/whole_*.whl", ignore_range=True)
    return public


@pytest.fixture(scope="module")
def server(offering: FakeUpstream, place: Path) -> Iterator[OverlayServer]:
    with ForkedServer(base_config(offering) | {"log": {"format": "json"}}, place / "server") as running:
        yield running


def uv_lock(client: Client, project: Path, index: str, wanted: str) -> set[str]:
    """Lock a project that depends on `wanted`; return the names in the lock file."""
    project.mkdir()
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["{wanted}<2"]\n',
        encoding="utf-8",
    )
    succeeded(client.run(find_uv(), "lock", "--directory", project, "--default-index", index))
    locked = tomllib.loads((project / "uv.lock").read_text(encoding="utf-8"))
    return {package["name"] for package in locked["package"]} - {"mine"}


def pip_resolve(client: Client, index: str, wanted: str, report: Path) -> set[str]:
    """Resolve `wanted` without installing it; return the names in the report."""
    options: list[str | Path] = [
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        report,
        "--index-url",
        index,
    ]
    succeeded(client.run(sys.executable, "-W", "ignore", "-m", "pip", "install", *options, f"{wanted}<2"))
    said = json.loads(report.read_text(encoding="utf-8"))
    return {one["metadata"]["name"] for one in said["install"]}


def kinds_of_requests(paths: list[str]) -> Counter[str]:
    """Count pages, metadata and wheels among the paths of requests."""

    def kind(path: str) -> str:
        if path.endswith(".whl.metadata"):
            return "metadata"
        return "wheel" if path.endswith(".whl") else "page" if "/simple/" in path else path

    return Counter(kind(path) for path in paths)


def spent(requests: list[UpstreamRequest], kind: Kind) -> int:
    """Bytes that were asked for in ranges of a kind's wheels."""
    total = 0
    for request in requests:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.header("Range") or "")
        if f"/{kind.stem}_" in request.path and found:
            total += int(found[2]) - int(found[1]) + 1
    return total


def paths_of(server: OverlayServer, begin: int, client: str) -> list[str]:
    """The paths that a client asked us for, in order; every answer was good."""
    asked = [record for record in log_of(server, begin) if record["agent"].startswith(client)]
    assert {record["status"] for record in asked} == {200}
    return [record["path"] for record in asked]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.stem)
def test_uv_locks_without_downloading_a_wheel(
    server: OverlayServer, offering: FakeUpstream, wide: Client, tmp_path: Path, kind: Kind
) -> None:
    begin = log_end(server)
    offering.reset_requests()
    assert uv_lock(wide, tmp_path / "project", index_url(server), f"{kind.stem}-0") == kind.names(0)
    from_us = kinds_of_requests(paths_of(server, begin, "uv"))
    assert set(from_us) == {"page", "metadata"}
    assert from_us["page"] == kind.packages
    assert from_us["metadata"] >= kind.packages

    from_upstream = offering.requests()
    counted = kinds_of_requests([request.path for request in from_upstream])
    assert counted["page"] == kind.packages
    if kind is ADVERTISED:
        assert set(counted) == {"page", "metadata"}
        assert counted["metadata"] >= kind.packages
        return
    assert set(counted) == {"page", "wheel"}
    wheels = [request for request in from_upstream if request.path.endswith(".whl")]
    read = Counter(request.path for request in wheels)
    whole = Counter(request.path for request in wheels if request.header("Range") is None)
    assert len(read) >= kind.packages
    if kind is RANGED:
        assert whole == Counter()
        assert max(read.values()) <= 3
        assert spent(wheels, kind) <= RANGES_PER_WHEEL * len(read)
    else:
        assert set(whole.values()) == {1}
        assert set(whole) == set(read)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.stem)
def test_pip_resolves_before_it_downloads_a_wheel(
    server: OverlayServer, offering: FakeUpstream, wide: Client, tmp_path: Path, kind: Kind
) -> None:
    first, begin = kind.packages // 8, log_end(server)
    wanted = kind.names(first)
    report = tmp_path / "report.json"
    assert pip_resolve(wide, index_url(server), f"{kind.stem}-{first}", report) == wanted
    paths = paths_of(server, begin, "pip")
    # Older versions of pip fetch what they have chosen, also where nothing is to be installed.
    chosen = [path.endswith(".whl") for path in paths]
    assert sorted(chosen) == chosen
    assert sum(chosen) <= len(wanted)
    counted = kinds_of_requests(paths)
    assert counted["page"] == len(wanted)
    assert counted["metadata"] >= len(wanted)
