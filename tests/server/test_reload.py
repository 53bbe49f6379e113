"""A configuration that is loaded anew: all workers at one moment, all of it or nothing, and data that move along."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.access import OPERATOR
from proxy.errors import ConfigError, Problem, StoreUnavailable
from proxy.index.crew import Reloaded
from proxy.index.instance import Running
from proxy.registry import namespaces
from proxy.server.assembly import another_instance, close_instance, open_instance, retire_instance, switch
from proxy.server.control import order_reload, taking_orders
from proxy.storage.audit import By
from proxy.storage.board import new_serial
from proxy.storage.layout import Layout
from tests.registry.making import CONFIG, WIDGETS, Clock, publish, snapshot_of, wheel
from tests.server.conftest import LONELY, PRESET, Start, await_log
from tests.server.test_workers import TWO, both
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Wire

ENV = {"PYPI_OVERLAY_OWNER_TOKEN": PRESET}


def group(path: str = "acme", **more: Any) -> dict[str, Any]:
    projects = {"widgets": {}, "sandbox": {"aliases": ["acme/yard"]}}
    return {"groups": {path: {"visibility": "public", "projects": projects, **more}}}


BEGINNING = group(aliases=["apex", "corp"])
"""To which any test's namespaces can be brought back."""


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared(public: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    config = base_config(public) | BEGINNING
    with ForkedServer(config, tmp_path_factory.mktemp("two"), arguments=TWO, env=ENV) as server:
        yield server
        assert server.stop() == 0
    assert "Traceback" not in server.log_text()
    assert "broke off" not in server.log_text()


@pytest.fixture
def two(shared: OverlayServer, public: FakeUpstream) -> OverlayServer:
    """Give two workers with the configuration that they began with."""
    public.reset()
    shared.configure(base_config(public) | BEGINNING)
    shared.reload()
    return shared


def test_both_workers_go_over_before_the_command_returns(two: OverlayServer, public: FakeUpstream) -> None:
    """Also where they have kept answers by heart that the new one forbids."""
    made = upload(*make_wheel("shown", "1.0"))
    Wire(two.url).send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=made)
    with both(two) as lines:
        for visibility in ("private", "public", "private", "public"):
            two.configure(base_config(public) | group(visibility=visibility))
            if visibility == "private":
                two.reload()
            else:
                done = two.run("config", "reload")
                assert (done.returncode, done.stdout) == (0, "the new configuration is in force\n")
            expected = 401 if visibility == "private" else 200
            for line in lines * 4:
                assert line.page("/acme/simple/shown/", Authorization="")[0] == expected
                assert line.page("/acme/simple/shown/")[0] == 200
    status = Wire(two.url).get("/api/v1/status", token=PRESET).json
    assert status["config"]["loaded_at"] > status["started_at"]


def test_who_had_a_configuration_loaded_stands_in_the_audit(two: OverlayServer, public: FakeUpstream) -> None:
    def events(action: str) -> list[dict[str, Any]]:
        found = Wire(two.url).get("/api/v1/audit?per_page=100&since=1h", token=PRESET).json["items"]
        return [event for event in found if event["action"] == action]

    first = Wire(two.url).get("/api/v1/status", token=PRESET).json["config"]["digest"]
    before = len(events("config.reload"))
    two.configure(base_config(public) | group("apex", aliases=["acme"]))
    two.reload()
    [by_api, *_] = events("config.reload")
    assert (by_api["who"]["kind"], by_api["address"], by_api["namespace"]) == ("owner", "127.0.0.1", None)
    assert by_api["request_id"]
    assert by_api["detail"]["before"] == first != by_api["detail"]["after"]
    [moved, *_] = [event for event in events("namespace.move") if event["namespace"] == "apex/widgets"]
    assert (moved["detail"], moved["who"]) == ({"from": "acme/widgets"}, by_api["who"])
    two.configure(base_config(public) | BEGINNING)
    assert two.run("config", "reload").returncode == 0
    [by_command, *rest] = events("config.reload")
    assert by_command["who"] == {"kind": "owner", "id": None, "user": "operator"}
    assert by_command["detail"]["before"] == by_api["detail"]["after"]
    two.reload_by_signal()
    [by_signal, *_] = wait_until(
        lambda: found if len(found := events("config.reload")) > before + 2 else [], what="the reload"
    )
    assert by_signal["who"]["user"] == "SIGHUP"
    assert len(rest) == before + 1


FAULTY = {"polcy": {}, "groups": {"acme": {"visibility": "secret"}}}


def test_a_faulty_file_changes_nothing_and_all_that_is_wrong_is_told(two: OverlayServer) -> None:
    before = Wire(two.url).get("/api/v1/status", token=PRESET).json["config"]
    text = two.config_file.read_text(encoding="utf-8")
    two.configure(FAULTY)
    # A command finds its server by the file, so of one that cannot be read it tells by itself.
    done = two.run("config", "reload", "--json")
    answer = Wire(two.url).send("POST", "/api/v1/reload", token=PRESET)
    assert (done.returncode, answer.status) == (1, 422)
    assert json.loads(done.stdout) == answer.json
    assert {error["path"] for error in answer.json["errors"]} == {"polcy", "groups.acme.visibility"}
    for error in answer.json["errors"]:
        assert error.keys() == {"file", "line", "path", "message"}
        assert (error["file"], error["line"] > 0) == (str(two.config_file), True)
    two.config_file.write_text(text, encoding="utf-8")
    assert Wire(two.url).get("/api/v1/status", token=PRESET).json["config"] == before


def test_what_still_holds_something_may_not_vanish(two: OverlayServer, public: FakeUpstream) -> None:
    made = upload(*make_wheel("kept", "1.0"))
    Wire(two.url).send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=made)
    two.configure(base_config(public))
    refused = two.run("config", "reload", "--json")
    assert refused.returncode == 1
    told = json.loads(refused.stdout)
    assert told["ok"] is False
    assert told["errors"][0]["path"] == "groups.acme"
    assert "is gone but holds" in told["errors"][0]["message"]
    with both(two) as lines:
        for line in lines:
            assert "kept-1.0" in line.page("/acme/simple/kept/")[1]
            assert line.page("/readyz")[0] == 200


def test_only_owners_may_and_what_waits_for_a_restart_is_named(
    two: OverlayServer, public: FakeUpstream
) -> None:
    wire = Wire(two.url)
    assert wire.send("POST", "/api/v1/reload").status == 401
    assert wire.get("/api/v1/reload", token=PRESET).status == 405
    waiting: dict[str, Any] = {"server": {"workers": 3, "listen": "127.0.0.1:1"}, "log": {"level": "debug"}}
    two.configure(base_config(public) | group() | waiting)
    answer = wire.send("POST", "/api/v1/reload", token=PRESET)
    assert answer.status == 200
    # Of the command that started it, --listen and --workers go on to count.
    assert [warning["path"] for warning in answer.json["warnings"]] == ["log"]
    assert wire.get("/api/v1/status", token=PRESET).json["workers"] == 2


def test_packages_move_with_their_namespace_and_no_answer_is_wrong_meanwhile(
    two: OverlayServer, public: FakeUpstream
) -> None:
    """Not for one request is the private name asked for upstream, claimed, or unknown."""
    public.add_file("gears", *make_wheel("gears", "99.0"))
    wire = Wire(two.url)
    made = upload(*make_wheel("gears", "1.0"))
    wire.send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=made)
    # Its first publication asks whether it takes a public name.
    public.reset_requests()
    stop = threading.Event()
    wrong: list[tuple[int, str]] = []
    reads = [0]

    def read() -> None:
        with both(two) as lines:
            while not stop.is_set():
                for line in lines:
                    for target in ("/acme/simple/gears/", "/simple/gears/", "/acme/widgets/simple/gears/"):
                        status, text = line.page(target)
                        reads[0] += 1
                        if status != 200 or "gears-1.0" not in text:
                            wrong.append((status, text))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    paths = ["acme", "apex", "corp"]
    try:
        for number in range(1, 5):
            current = paths[number % 3]
            others = [path for path in paths if path != current]
            two.configure(base_config(public) | group(current, aliases=others))
            two.reload()
            assert "gears-1.0" in wire.get(f"/{current}/simple/gears/").text
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert reads[0] > 50
    assert public.asked_for("gears") == []


def test_an_upload_under_way_is_judged_by_what_it_began_with_but_brings_nothing_back(
    two: OverlayServer, public: FakeUpstream
) -> None:
    wire = Wire(two.url)

    def reloaded_meanwhile(config: dict[str, Any], filename: str, content: bytes) -> bytes:
        body = upload(filename, content)
        head = f"POST /acme/sandbox/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {PRESET}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n\r\n"
        with socket.create_connection(wire.address) as sending:
            sending.sendall(head.encode() + body[:100_000])
            incoming = two.data_dir / "incoming"
            wait_until(lambda: list(incoming.iterdir()), what="the upload to have begun")
            two.configure(base_config(public) | config)
            two.reload()
            sending.sendall(body[100_000:])
            return sending.recv(12)

    narrowed = group(policy={"local_versions": "reject"})
    made = make_wheel("local", "1.0+acme", size=200_000)
    assert reloaded_meanwhile(narrowed, *made) == b"HTTP/1.1 201"
    moved = group(projects={"widgets": {}, "yard": {"aliases": ["acme/sandbox"]}})
    made = make_wheel("moving", "1.0", size=200_000)
    assert reloaded_meanwhile(moved, *made) == b"HTTP/1.1 503"
    assert "moving" not in wire.get("/acme/simple/").text
    assert "local" in wire.get("/acme/yard/simple/").text


def test_a_command_may_not_move_what_the_running_server_still_has(
    two: OverlayServer, public: FakeUpstream
) -> None:
    """It would answer by its own namespaces over data that lie elsewhere."""
    made = upload(*make_wheel("still", "1.0"))
    Wire(two.url).send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=made)
    two.configure(base_config(public) | group("apex", aliases=["acme"]))
    refused = two.run("package", "list", "/")
    assert refused.returncode == 1
    assert "run pypi-overlay config reload first" in refused.stderr
    assert "still-1.0" in Wire(two.url).get("/acme/simple/still/").text
    two.reload()
    assert two.run("package", "list", "/").returncode == 0


def test_without_a_server_there_is_nobody_to_tell(tmp_path: Path) -> None:
    server = OverlayServer(LONELY, tmp_path)
    done = server.run("config", "reload")
    assert done.returncode == 1
    assert "no server runs on this data directory" in done.stderr


def test_a_signal_and_a_changed_file_load_it_too(lonely: Start) -> None:
    server = lonely(group())
    wire = Wire(server.url)

    def shown(path: str) -> bool:
        return wire.get(f"/{path}/simple/").status == 200

    server.configure({**LONELY, **group("apex"), "server": {"watch_config": True}})
    server.reload_by_signal()
    wait_until(lambda: shown("apex"), what="the signal to count")
    assert not shown("acme")
    server.config_file.write_text("nonsense: 1\n", encoding="utf-8")
    line = await_log(server, "the configuration was refused, the one before stays")
    assert "nonsense: unknown key" in line
    assert shown("apex")
    server.configure({**LONELY, **group("corp")})
    wait_until(lambda: shown("corp"), what="the changed file to be seen")


# In this process


async def test_a_command_reaches_a_server_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / ("long" * 30)))
    layout.prepare()
    problem = Problem("f", 1, "a.b", "expected c")

    async def reload() -> Reloaded:
        return Reloaded(errors=(problem,))

    async with taking_orders(layout, reload):
        assert Path(layout.control).stat().st_mode & 0o777 == 0o600
        assert await asyncio.to_thread(order_reload, layout) == Reloaded(errors=(problem,))
    assert not Path(layout.control).exists()
    with pytest.raises(StoreUnavailable, match="no server runs"):
        order_reload(layout)


async def test_what_is_no_order_and_what_goes_wrong_end_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = Layout(str(tmp_path))
    layout.prepare()

    async def reload() -> Reloaded:
        raise RuntimeError("a bug")

    async with taking_orders(layout, reload):
        for said in (b"", b"reload", b"stop\n", b"\0" * (1 << 20), b"reload\n"):
            reader, writer = await asyncio.open_unix_connection(layout.control)
            writer.write(said)
            if not said.endswith(b"\n"):
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 3) == b""
            writer.close()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


def make(directory: Path, config: Mapping[str, Any] = CONFIG) -> Running:
    return Running(open_instance(snapshot_of(config, directory), serving=True, now=Clock()))


def test_a_request_waits_for_the_moment_between_two_configurations(tmp_path: Path) -> None:
    async def act() -> None:
        running = make(tmp_path)
        first = running.instance
        second = another_instance(first, first.snapshot, new_serial())
        running.prepare(second)
        assert await running.in_force() is first
        first.board.suspend()
        with pytest.raises(StoreUnavailable):
            _ = running.instance
        assert running.latest is first
        waiting = asyncio.create_task(running.in_force())
        await asyncio.sleep(0)
        assert not waiting.done()
        switch(second, first.snapshot, By(OPERATOR, first.now()))
        assert await waiting is second
        with running.used(first):
            assert running.retire() == [first]
            assert running.is_used(first)
        assert not running.is_used(first)
        await retire_instance(first)
        await close_instance(second)

    asyncio.run(act())


def test_a_refused_switch_leaves_the_one_before_in_force_and_the_data_as_they_were(tmp_path: Path) -> None:
    async def act() -> None:
        running = make(tmp_path)
        first = running.instance
        publish(first.registry, WIDGETS, wheel("gears", "1.0"))
        second = another_instance(first, snapshot_of({**CONFIG, "groups": {}}, tmp_path), new_serial())
        running.prepare(second)
        with pytest.raises(ConfigError, match="is gone but holds 1 package"):
            switch(second, first.snapshot, By(OPERATOR, first.now()))
        assert running.instance is first
        assert first.registry.read_now(lambda c: namespaces.is_settled(c, first.snapshot.tree))
        assert running.retire() == [second]
        await retire_instance(second)
        await close_instance(first)

    asyncio.run(act())


def test_failed_logins_go_on_being_counted_unless_the_limit_is_another(tmp_path: Path) -> None:
    async def act() -> None:
        first = make(tmp_path).instance
        same = another_instance(first, first.snapshot, new_serial())
        assert same.throttle is first.throttle
        limited = snapshot_of({**CONFIG, "limits": {"failed_logins": "3/1m"}}, tmp_path)
        other = another_instance(first, limited, new_serial())
        assert other.throttle is not first.throttle
        for instance in (same, other):
            await retire_instance(instance)
        await close_instance(first)

    asyncio.run(act())
