"""Large pages and long lists hold up nobody: while they are made, a request that needs nothing is answered."""

from __future__ import annotations

import http.client
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.forked import ForkedServer
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.house import House
from tests.web.wire import HTML, JSON

FILES = 4000
NAMES = 20_000
LONGEST_GAP = 0.05
"""Seconds. The longest is 0.01 to 0.02; a page that were read or made on the event loop takes 0.07 and more."""
TRIES = 3


class Pinger:
    """Asks `/healthz` again and again on one connection; `gap` is the longest wait for an answer, in seconds.

    What counts of a wait is for how long the server itself was at work then: on a busy machine it waits for others.
    """

    def __init__(self, house: House) -> None:
        self.gap = 0.0
        self._house = house
        self._address = house.wire.address
        self._stop = threading.Event()
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._asked.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with closing(http.client.HTTPConnection(*self._address, timeout=30)) as connection:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            self._asked.set()
            while not self._stop.wait(0.002):
                begin, worked = time.perf_counter(), self._house.server.worked()
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                waited = time.perf_counter() - begin
                self.gap = max(self.gap, min(waited, self._house.server.worked() - worked))


def longest_gap(house: House, act: Callable[[], None]) -> float:
    """The longest gap during `act`, in the best of a few tries."""
    gaps = []
    for _ in range(TRIES):
        with Pinger(house) as pinger:
            act()
        gaps.append(pinger.gap)
        if pinger.gap < LONGEST_GAP:
            break
    return min(gaps)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a server with a page of many files upstream and one here, and many private names."""
    directory = tmp_path_factory.mktemp("large")
    with FakeUpstream() as upstream:
        groups = {
            "listed": {"visibility": "public", "policy": {"list_upstream": True}},
            "open": {"visibility": "public", "projects": {"tools": {}}},
        }
        with ForkedServer({**base_config(upstream), "groups": groups}, directory) as server:
            house = House(server, upstream)
            for name in ("long", "many"):
                house.publish("open/tools", name)
            multiply(server.data_dir / "registry.sqlite")
            yield house


def multiply(registry: Path) -> None:
    """Make `FILES` files of the one of `long`, and `NAMES` packages of `many`: as many uploads would take minutes."""
    with closing(sqlite3.connect(registry, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        wheel = "long-1.0-' || number || '-py3-none-any.whl"
        copy(connection, "files", "long", FILES, filename=f"'{wheel}'", identity="'wheel ' || number")
        name = "printf('many-%06d', number)"
        copy(connection, "packages", "many", NAMES, id="1000000 + number", name=name)
        linked = {"package_id": "1000000 + number", "id": "1000000 + number"}
        copy(connection, "releases", "many", NAMES, **linked)
        copy(connection, "files", "many", NAMES, **linked, release_id="1000000 + number")
        connection.execute("COMMIT")


def copy(connection: sqlite3.Connection, table: str, package: str, times: int, **values: str) -> None:
    """Copy the one row that belongs to a package, with other values in some columns."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    key = "id" if table == "packages" else "package_id"
    given = {"id": "NULL", **values}
    chosen = ", ".join(given.get(column, f"row.{column}") for column in columns)
    connection.execute(
        f"WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers LIMIT {times})"
        f" INSERT INTO {table} SELECT {chosen} FROM {table} AS row, numbers"
        f" WHERE row.{key} = (SELECT id FROM packages WHERE name = ?)",
        (package,),
    )


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_page_of_4000_files_of_an_upstream_holds_up_nobody(house: House, form: str, tmp_path: Path) -> None:
    name = house.name("large")
    filename, content = make_wheel(name, "1.0", requires_python=">=3.8")
    path = tmp_path / filename
    path.write_bytes(content)
    said = [{"path": path, "filename": f"{name}-1.0-{number}-py3-none-any.whl"} for number in range(FILES)]
    house.upstream.add_project(name, said, form=form)

    def ask() -> None:
        (house.server.data_dir / "cache" / "pages-v1" / "pypi" / name).unlink(missing_ok=True)
        for kind in (JSON, HTML):
            for coding in ("gzip", "identity"):
                asked = {"Accept": kind, "Accept-Encoding": coding}
                for _ in ("cold", "warm"):
                    assert house.wire.get(f"/open/simple/{name}/", headers=asked).status == 200

    assert longest_gap(house, ask) < LONGEST_GAP
    page = house.wire.get(f"/open/simple/{name}/", headers={"Accept": JSON})
    assert len(page.json["files"]) == FILES


def test_a_page_of_4000_private_files_holds_up_nobody(house: House) -> None:
    def ask() -> None:
        for kind in (JSON, HTML):
            for coding in ("gzip", "identity"):
                asked = {"Accept": kind, "Accept-Encoding": coding}
                assert house.wire.get("/open/simple/long/", headers=asked).status == 200

    assert longest_gap(house, ask) < LONGEST_GAP
    page = house.wire.get("/open/simple/long/", headers={"Accept": JSON})
    assert len(page.json["files"]) == FILES + 1


def test_a_list_of_many_private_names_holds_up_nobody(house: House) -> None:
    def ask() -> None:
        for kind in (JSON, HTML):
            for coding in ("gzip", "identity"):
                asked = {"Accept": kind, "Accept-Encoding": coding}
                assert house.wire.get("/open/simple/", headers=asked).whole

    assert longest_gap(house, ask) < LONGEST_GAP
    listed = house.wire.get("/open/simple/", headers={"Accept": JSON}).json["projects"]
    assert len(listed) == NAMES + 2


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(700_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_T_DOS_a_list_of_a_whole_upstream_holds_up_nobody_and_fits_into_memory(
    house: House, count: int
) -> None:
    house.upstream.configure(names=count)
    kept = house.server.data_dir / "cache" / "names-v1" / "pypi"
    before = house.server.rss()

    def fetch() -> None:
        kept.unlink(missing_ok=True)

        def listed() -> bool:
            return house.wire.head("/listed/simple/").status == 200

        wait_until(listed, timeout=120, what="the list")

    def ask() -> None:
        for kind in (JSON, HTML):
            for coding in ("gzip", "identity"):
                asked = {"Accept": kind, "Accept-Encoding": coding}
                assert house.wire.get("/listed/simple/", headers=asked).whole

    assert longest_gap(house, fetch) < LONGEST_GAP
    assert longest_gap(house, ask) < LONGEST_GAP
    # The list itself is mapped, once for all processes, and counts as well.
    assert house.server.peak_rss() - before < 60 << 20
    listed = house.wire.get("/listed/simple/", headers={"Accept": JSON}).json["projects"]
    assert len(listed) >= count
