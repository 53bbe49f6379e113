"""`/metrics` on the wire: what moves, what never stands in it, and who may read it."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.index.instance import Instance, Running
from proxy.observe.logs import make_logger
from proxy.server.assembly import admit_owner, close_instance, open_instance
from proxy.web.app import build
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer
from tests.support.waiting import wait_until
from tests.web import forms
from tests.web.house import House, keep_house
from tests.web.wire import Wire, basic

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OWNER_TOKEN = "an-owner-token-of-the-tests"
Counts = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house of its own: what others ask would be counted too."""
    yield from keep_house(tmp_path_factory.mktemp("counted"), limits={"failed_logins": "2/1h"})


def counts(house: House) -> Counts:
    """Counters by name and the values of their labels in the order of their names; without the scrapes themselves."""
    answer = house.wire.get("/metrics")
    assert answer.status == 200
    found: Counts = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name.startswith("pypi_overlay_") and sample.name.endswith("_total"):
                key = (sample.name.removeprefix("pypi_overlay_").removesuffix("_total"),)
                found[key + tuple(sample.labels[label] for label in sorted(sample.labels))] = sample.value
    return {key: value for key, value in found.items() if "other" not in key}


def moved(house: House, act: Callable[[], object], *, until: tuple[str, ...] = ()) -> Counts:
    """What `act` made the counters move by; `until`: a counter that moves a moment after the answer."""
    before = counts(house)
    act()
    if until:
        wait_until(lambda: counts(house).get(until, 0) > before.get(until, 0), what=f"{until} to move")
    after = counts(house)
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def request_count(route: str, cache: str, decision: str, method: str = "read", status: str = "2xx") -> Any:
    return ("requests", cache, decision, method, route, status)


def test_the_answer_is_text_of_prometheus_that_nobody_keeps(house: House) -> None:
    answer = house.wire.get("/metrics")
    assert (answer["Content-Type"], answer["Cache-Control"]) == (TEXT, "no-store")
    assert list(text_string_to_metric_families(answer.text))
    head = house.wire.head("/metrics")
    assert (head.status, head["Content-Type"], head.body) == (200, TEXT, b"")
    asked = house.wire.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"}
    )
    assert (asked["Content-Type"] or "").startswith("application/openmetrics-text; version=1.0.0")
    assert asked.text.endswith("# EOF\n")
    posted = house.wire.send("POST", "/metrics", body=b"")
    assert (posted.status, posted["Allow"]) == (405, "GET, HEAD")


def test_an_upload_and_a_private_page_and_file_move_their_own_counters_alone(house: House) -> None:
    name = house.name()
    assert moved(house, lambda: house.publish("open/tools", name)) == {
        request_count("upload", "none", "none", "write"): 1,
        ("uploads", "accepted"): 1,
        ("upstream_requests", "page", "absent", "pypi"): 1,  # does it have a package of that name?
        ("response_bytes", "upload"): pytest.approx(400, abs=399),
    }
    stored = house.publish("open/tools")
    page = f"/open/simple/{stored.name}/"
    size = len(house.wire.get(page).body)
    assert moved(house, lambda: [house.wire.get(page) for _ in range(3)]) == {
        request_count("page", "hit", "private"): 3,
        ("response_bytes", "page"): 3 * size,
    }
    file = f"/open/files/{stored.sha256}/{stored.filename}"
    assert moved(house, lambda: house.wire.get(file)) == {
        request_count("file", "hit", "private"): 1,
        ("response_bytes", "file"): len(stored.content),
    }
    refused = forms.upload(stored.filename, stored.content)
    told = moved(house, lambda: house.upload("open/tools", refused, token=house.owner))
    assert told[("uploads", "refused")] == told[request_count("upload", "none", "none", "write", "4xx")] == 1


def test_an_upstream_s_page_and_file_are_a_miss_once_and_then_hits(house: House) -> None:
    offered = house.offer()
    page = f"/open/simple/{offered.name}/"
    first = moved(house, lambda: house.wire.get(page))
    assert first.pop(("response_bytes", "page")) > 0
    assert first == {
        request_count("page", "miss", "upstream"): 1,
        ("upstream_requests", "page", "ok", "pypi"): 1,
    }
    second = moved(house, lambda: house.wire.get(page))
    assert second.pop(("response_bytes", "page")) > 0
    assert second == {request_count("page", "hit", "upstream"): 1}

    file = f"/open/files/{offered.sha256}/{offered.filename}"
    miss = request_count("file", "miss", "upstream")
    assert moved(house, lambda: house.wire.get(file), until=miss) == {
        miss: 1,
        ("response_bytes", "file"): len(offered.content),
        ("upstream_requests", "file", "ok", "pypi"): 1,
        ("transfers", "begun"): 1,
    }
    assert moved(house, lambda: house.wire.get(file)) == {
        request_count("file", "hit", "upstream"): 1,
        ("response_bytes", "file"): len(offered.content),
    }


def test_trouble_of_an_upstream_is_told_from_a_name_that_it_does_not_have(house: House) -> None:
    absent = moved(house, lambda: house.wire.get(f"/open/simple/{house.name('none')}/"))
    assert absent[("upstream_requests", "page", "absent", "pypi")] == 1
    assert absent[request_count("page", "none", "unknown", status="4xx")] == 1
    offered = house.offer()
    house.upstream.fault(f"/simple/{offered.name}/", status=503)
    busy = moved(house, lambda: house.wire.get(f"/open/simple/{offered.name}/"))
    assert busy[("upstream_requests", "page", "busy", "pypi")] >= 1
    assert busy[request_count("page", "miss", "unavailable", status="5xx")] == 1


def test_a_transfer_that_brings_wrong_bytes_has_failed(house: House) -> None:
    offered = house.offer(size=300_000)
    house.upstream.fault("/packages/*/" + offered.filename, alter=True)
    file = f"/open/files/{offered.sha256}/{offered.filename}"
    broken_off = request_count("file", "none", "upstream", status="4xx")
    told = moved(house, lambda: house.wire.get(file), until=broken_off)
    assert told[("transfers", "begun")] == told[("transfers", "failed")] == 1
    assert 0 < told[("response_bytes", "file")] < len(offered.content)


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/open/simple/", "names"),
        ("/open/+simple/x/", "page"),
        ("/open/pypi/x/json", "json"),
        ("/open/files/" + "0" * 64 + "/x-1.0-py3-none-any.whl.metadata", "metadata"),
        ("/open/files/" + "0" * 64 + "/x-1.0-py3-none-any.whl.provenance", "provenance"),
        ("/api/v4/projects/44/packages", "gitlab"),
        ("/api/v1/explain?index=/open&name=evil-x", "api"),
        ("/api/v1/tokens", "api"),
    ],
)
def test_every_family_of_addresses_is_a_route_of_its_own(house: House, target: str, route: str) -> None:
    told = moved(house, lambda: house.wire.get(target))
    assert [(key[4], count) for key, count in told.items() if key[0] == "requests"] == [(route, 1)]


def test_wrong_credentials_are_counted_and_so_is_being_told_to_wait(house: House) -> None:
    def fail() -> list[int]:
        return [house.wire.get("/simple/", token=f"pyo_pat_wrong{turn}").status for turn in range(3)]

    told = moved(house, fail)
    assert told[("failed_logins", "refused")] == 2
    assert told[("failed_logins", "throttled")] == 1


def test_nothing_that_a_request_brings_along_stands_in_them(house: House) -> None:
    stored = house.publish("acme/widgets")
    offered = house.offer()
    house.wire.get(f"/acme/simple/{stored.name}/", token=house.owner)
    house.wire.get(f"/acme/files/{stored.sha256}/{stored.filename}", token=house.tokens["alice"])
    house.wire.get(
        f"/simple/{offered.name}/", headers={"User-Agent": "brought-along", "X-Brought": "brought-along"}
    )
    house.wire.get("/simple/?token=brought-along", headers={"Authorization": basic("brought-along")})
    house.wire.send("BROUGHTALONG", "/brought-along/simple/brought-along/")
    text = house.wire.get("/metrics").text
    brought = (stored.name, offered.name, stored.filename, stored.sha256, "brought-along", "BROUGHTALONG")
    secret = (house.owner, house.tokens["alice"], "alice", "acme", "widgets", str(house.server.data_dir))
    for word in (*brought, *secret, house.upstream.host):
        assert word not in text, word


# Who may read them


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Give an instance that no server serves yet; its owner token is preset."""
    directory = tmp_path_factory.mktemp("instance")
    file = directory / "pypi-overlay.yaml"
    file.write_text(f"storage: {{data_dir: {directory}/data}}\n")
    opened = open_instance(compile_snapshot(load(str(file), {})))
    admit_owner(opened, OWNER_TOKEN)
    yield opened
    asyncio.run(close_instance(opened))


@asynccontextmanager
async def served(
    instance: Instance, access: str, trusted: tuple[str, ...], socket: Path | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the instance under these settings of `server`, at a port or a socket, and give a session with it."""
    networks = tuple(ip_network(one) for one in trusted)
    listen = instance.snapshot.server.listen if socket is None else f"unix:{socket}"
    server = replace(instance.snapshot.server, metrics=access, trusted_proxies=networks, listen=listen)
    told = replace(instance, snapshot=replace(instance.snapshot, server=server))
    runner = web.AppRunner(build(Running(told), make_logger("text", "info", StringIO())), access_log=None)
    await runner.setup()
    connector: aiohttp.BaseConnector
    if socket is not None:
        await web.UnixSite(runner, socket).start()
        base, connector = "http://here", aiohttp.UnixConnector(str(socket))
    else:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base, connector = f"http://127.0.0.1:{runner.addresses[0][1]}", aiohttp.TCPConnector()
    try:
        async with aiohttp.ClientSession(base, connector=connector) as session:
            yield session
    finally:
        await runner.cleanup()


FAR = {"X-Forwarded-For": "198.51.100.7"}
NEAR = {"X-Forwarded-For": "127.0.0.1"}


@pytest.mark.parametrize(
    ("access", "trusted", "by_socket", "headers", "status"),
    [
        ("local", (), False, {}, 200),
        ("local", (), True, {}, 200),
        ("local", ("127.0.0.1",), False, {}, 200),
        ("local", ("127.0.0.1",), False, NEAR, 200),
        ("local", ("127.0.0.1",), False, {"X-Forwarded-For": "::1"}, 200),
        ("local", ("127.0.0.1",), False, {"X-Forwarded-For": "::ffff:127.0.0.1"}, 200),
        ("local", ("127.0.0.1",), False, FAR, 403),
        ("local", ("127.0.0.1",), False, {"X-Forwarded-For": "127.0.0.1, 198.51.100.7"}, 403),
        ("local", ("127.0.0.1",), False, {"X-Forwarded-For": "unknown"}, 403),
        ("local", ("127.0.0.1",), False, {"X-Real-IP": "198.51.100.7"}, 403),
        # A proxy that nobody named: it may serve anybody, whatever it passes on.
        ("local", (), False, NEAR, 403),
        ("local", (), False, {"Via": "1.1 front"}, 403),
        ("local", (), True, {"Forwarded": "for=127.0.0.1"}, 403),
        ("local", ("10.0.0.0/8",), True, {}, 403),
        ("local", ("10.0.0.0/8",), True, FAR, 403),
        ("local", ("10.0.0.0/8",), True, NEAR, 200),
        # Being an owner does not bring anybody nearer.
        ("local", (), False, {"Authorization": basic(OWNER_TOKEN), **FAR}, 403),
        ("open", ("127.0.0.1",), False, FAR, 200),
        ("open", (), False, {"Authorization": basic("pyo_pat_wrong")}, 200),
        ("owner", (), False, {}, 401),
        ("owner", (), False, {"Authorization": basic("pyo_pat_wrong")}, 401),
        ("owner", (), False, {"Authorization": basic(OWNER_TOKEN)}, 200),
        ("owner", ("127.0.0.1",), False, {"Authorization": basic(OWNER_TOKEN), **FAR}, 200),
    ],
)
async def test_who_may_read_them(
    instance: Instance,
    tmp_path: Path,
    access: str,
    trusted: tuple[str, ...],
    by_socket: bool,
    headers: dict[str, str],
    status: int,
) -> None:
    async with served(instance, access, trusted, tmp_path / "socket" if by_socket else None) as session:
        async with session.get("/metrics", headers=headers) as answer:
            assert answer.status == status
            text = await answer.text()
        assert ("pypi_overlay_requests_total" in text) is (status == 200)
        assert answer.headers["Cache-Control"] == "no-store"
        if status == 403:
            assert "on this machine" in (answer.reason or "")


async def test_a_broken_ledger_costs_two_numbers_and_not_the_answer(tmp_path: Path) -> None:
    file = tmp_path / "pypi-overlay.yaml"
    file.write_text(f"storage: {{data_dir: {tmp_path}/data}}\n")
    instance = open_instance(compile_snapshot(load(str(file), {})))
    async with served(instance, "local", ()) as session:
        instance.cache.close()
        Path(instance.layout.cache_database).write_bytes(b"no database" * 1000)
        async with session.get("/metrics") as answer:
            assert answer.status == 200
            text = await answer.text()
    await close_instance(instance)
    assert "pypi_overlay_cache_files NaN" in text
    assert "pypi_overlay_cache_size_bytes NaN" in text


# Several workers


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    """Give a server of two workers that has answered nothing yet."""
    config = {"server": {"workers": 2}, "policy": {"forward": False}}
    with ForkedServer(config, tmp_path_factory.mktemp("crew")) as server:
        yield server


def scraped(crew: OverlayServer) -> dict[str, float]:
    """Samples by name and labels in the order of their names; none where the connection broke."""
    try:
        answer = Wire(crew.url).get("/metrics")
    except (OSError, http.client.HTTPException):
        return {}
    samples = [one for family in text_string_to_metric_families(answer.text) for one in family.samples]
    return {" ".join((one.name, *dict(sorted(one.labels.items())).values())): one.value for one in samples}


MISSING = "pypi_overlay_requests_total none not-forwarded read page 4xx"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are looked up in /proc")
def test_any_worker_tells_the_sums_over_all_and_none_is_lost_with_a_worker(crew: OverlayServer) -> None:
    absent = [Wire(crew.url).get(f"/simple/absent-{number}/") for number in range(30)]
    assert {answer.status for answer in absent} == {404}
    wait_until(lambda: scraped(crew).get(MISSING) == 30, what="both workers' requests to be told")
    first = scraped(crew)
    assert first["pypi_overlay_workers"] == 2
    assert {name for name in first if name.startswith("process_resident")} == {
        "process_resident_memory_bytes 1",
        "process_resident_memory_bytes 2",
    }
    for _ in range(10):
        assert scraped(crew)[MISSING] == 30

    os.kill(crew.pids[1], signal.SIGKILL)
    seen = [30.0]

    def replaced() -> bool:
        found = scraped(crew)
        seen.append(found.get(MISSING, seen[-1]))
        now, then = (
            [one.get(f"process_start_time_seconds {number}") for number in (1, 2)] for one in (found, first)
        )
        return found.get("pypi_overlay_workers") == 2 and None not in now and now != then

    wait_until(replaced, what="a killed worker to be replaced")
    assert set(seen) == {30.0}
