"""Several workers under a supervisor: one truth on one port, whoever of them dies, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import StoreUnavailable
from proxy.observe.logs import make_logger
from proxy.server import supervisor
from proxy.storage.board import Board
from proxy.storage.layout import Layout
from tests.registry.making import snapshot_of
from tests.server.conftest import LONELY, PRESET, Start, await_log
from tests.server.test_worker import Tls, get_by_unix
from tests.support.forked import ForkedServer
from tests.support.server import ROOT, OverlayServer, ServerFailed
from tests.support.waiting import wait_until, wait_until_async
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Wire

TWO = ("--workers", "2")
PUBLIC: dict[str, Any] = {
    **LONELY,
    "groups": {"acme": {"visibility": "public", "projects": {"widgets": {}}}},
}


class Line:
    """A connection that is kept, to whichever worker took it."""

    def __init__(self, server: OverlayServer) -> None:
        host, _, port = server.url.partition("://")[2].partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=30)
        answer = self.send("GET", "/healthz")
        line = await_log(server, answer.headers["X-Request-Id"])
        found = re.search(r" worker=(\d+) ", line)
        assert found is not None, line
        self.worker = int(found[1])

    def send(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """Send a request, as an owner unless `Authorization` is empty; the answer's body stands in its `text`."""
        said = {"Authorization": f"Bearer {PRESET}"}
        said |= {key.replace("_", "-"): value for key, value in headers.items()}
        self._connection.request(method, target, body, {name: value for name, value in said.items() if value})
        answer = self._connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]  # a note for the test
        return answer

    def page(self, target: str, **headers: str) -> tuple[int, str]:
        answer = self.send("GET", target, None, **headers)
        return answer.status, answer.text  # type: ignore[attr-defined]  # as noted above

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def both(server: OverlayServer) -> Iterator[tuple[Line, Line]]:
    """Give a connection to each of two workers."""
    lines: dict[int, Line] = {}
    spare: list[Line] = []

    def found() -> bool:
        line = Line(server)
        if lines.setdefault(line.worker, line) is not line:
            spare.append(line)
        return len(lines) == 2

    try:
        wait_until(found, what="connections to both workers")
        yield lines[1], lines[2]
    finally:
        for line in (*spare, *lines.values()):
            line.close()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def readiness(server: OverlayServer) -> int:
    """What `/readyz` says; 0 where the connection was that of a worker that is just ending."""
    try:
        return Wire(server.url).get("/readyz").status
    except ConnectionError:
        return 0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    env = {"PYPI_OVERLAY_OWNER_TOKEN": PRESET}
    with ForkedServer(PUBLIC, tmp_path_factory.mktemp("two"), arguments=TWO, env=env) as server:
        yield server
        assert server.stop() == 0
    assert "Traceback" not in server.log_text()
    assert "broke off" not in server.log_text()


def test_it_says_once_where_it_listens_and_how_many_serve(two: OverlayServer) -> None:
    assert two.log_text().count("listening on") == 1
    assert Wire(two.url).get("/readyz").status == 200
    assert Wire(two.url).get("/api/v1/status", token=PRESET).json["workers"] == 2
    assert len(two.worker_pids()) == 2


def test_what_one_worker_did_the_other_answers_by_at_once(two: OverlayServer) -> None:
    """Two hundred changes, each at the one worker, each looked at by the other in its very next request."""
    page = "/acme/simple/gears/"
    release = "/api/v1/packages/acme%2Fwidgets/gears/{}/yank"
    with both(two) as lines:
        versions = []
        for number in range(24):
            doer, seer = lines if number % 2 else lines[::-1]
            version = f"1.{number}"
            assert f"gears-{version}-" not in seer.page(page)[1]
            made = upload(*make_wheel("gears", version))
            assert doer.send("POST", "/acme/widgets", made, **FORM_TYPE).status == 201
            assert f"gears-{version}-" in seer.page(page)[1]
            versions.append(version)
        for number in range(176):
            doer, seer = lines if number % 3 else lines[::-1]
            address = release.format(versions[number // 2 % len(versions)])
            count = seer.page(page)[1].count("data-yanked")
            method = "DELETE" if number % 2 else "PUT"
            body = b"" if number % 2 else b'{"reason":"r"}'
            assert doer.send(method, address, body, Content_Type="application/json").status == 204
            assert seer.page(page)[1].count("data-yanked") == count + (-1 if number % 2 else 1)


def test_a_killed_worker_is_replaced_and_nobody_else_notices(two: OverlayServer) -> None:
    before = two.worker_pids()
    incoming = two.data_dir / "incoming"
    for pid in before.values():
        (incoming / f"{pid}-upload").touch()
    with both(two) as (first, second):
        os.kill(before[1], signal.SIGKILL)
        wait_until(lambda: readiness(two) == 503, what="the server to miss a worker")
        assert second.page("/acme/simple/")[0] == 200
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            first.page("/acme/simple/")
    for _ in range(20):
        assert Wire(two.url).get("/acme/simple/").status == 200
    wait_until(lambda: readiness(two) == 200, timeout=20, what="another worker")
    after = two.worker_pids()
    assert after.keys() == {1, 2}
    assert after[1] != before[1]
    assert after[2] == before[2]
    assert f"a worker ended worker=1 pid={before[1]} status=-9" in two.log_text()
    # What it was receiving is dropped, and nothing else.
    assert [path.name for path in incoming.iterdir()] == [f"{before[2]}-upload"]
    (incoming / f"{before[2]}-upload").unlink()
    with both(two) as (first, _):
        assert first.page("/acme/simple/")[0] == 200


def test_a_change_that_was_killed_is_settled_by_a_worker(two: OverlayServer) -> None:
    """Nothing is kept of what it touched meanwhile; a command may be killed as well."""
    board = Board(Layout(str(two.data_dir)))
    board.unsettle(["name:*/gears"])
    assert board.unsettled()
    wait_until(lambda: not board.unsettled(), what="a worker to settle it")
    await_log(two, "a change that was killed has been settled")
    board.close()


def test_a_second_server_is_refused_with_the_supervisors_process_id(two: OverlayServer) -> None:
    refused = two.run("serve", "--listen", "127.0.0.1:0", "--workers", "2")
    assert refused.returncode == 1
    assert f"another pypi-overlay serves this data directory (process {two.pid})" in refused.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_other_workers_share_is_not_shared_with_another_server(
    two: OverlayServer, lonely: Start, workers: str
) -> None:
    taken = two.url.partition("://")[2]
    with pytest.raises(ServerFailed) as caught:
        lonely(listen=taken, arguments=("--workers", workers))
    assert caught.value.returncode == 1
    assert f"cannot listen on {taken}: address already in use" in caught.value.log
    assert "Traceback" not in caught.value.log


def test_a_supervisor_loads_neither_server_nor_database_nor_schema() -> None:
    program = (
        "import sys, proxy.cli.serving, proxy.server.supervisor; "
        "print([name for name in ('aiohttp', 'sqlalchemy', 'pydantic', 'uvloop') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_worker_does_not_load_the_schema(two: OverlayServer) -> None:
    """It would cost each worker 15 MB for nothing."""
    for pid in two.worker_pids().values():
        mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        assert "pydantic" not in mapped


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


def test_both_speak_tls_and_take_up_a_new_certificate_when_told(tls: Tls, tmp_path: Path) -> None:
    config = {**LONELY, **tls.settings()}
    with OverlayServer(config, tmp_path, arguments=TWO, env={"PYPI_OVERLAY_OWNER_TOKEN": PRESET}) as server:

        def get(ours: Tls) -> bytes:
            with urllib.request.urlopen(server.url + "/healthz", context=ours.context, timeout=10) as answer:
                body: bytes = answer.read()
                return body

        assert {get(tls) for _ in range(6)} == {b"ok\n"}
        (tmp_path / "renewed").mkdir()
        renewed = Tls(tmp_path / "renewed")
        for old, new in ((tls.chain, renewed.chain), (tls.key, renewed.key)):
            old.write_bytes(new.read_bytes())
        assert server.run("config", "reload").returncode == 0
        assert {get(renewed) for _ in range(6)} == {b"ok\n"}
        tls.key.write_bytes(b"no key")
        refused = server.run("config", "reload")
        assert refused.returncode == 1
        assert "server.tls: the certificate and the key cannot be used" in refused.stdout
        assert get(renewed) == b"ok\n"


def test_both_listen_at_a_unix_socket_and_a_killed_supervisor_leaves_no_worker_behind(
    lonely: Start, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path = path if len(str(path)) < 100 else Path(os.path.relpath(path))
    server = lonely(listen=f"unix:{path}", arguments=TWO)
    workers = server.worker_pids()
    os.kill(workers[1], signal.SIGKILL)
    for _ in range(8):
        assert get_by_unix(path) == (200, b"ok\n")
    workers |= server.worker_pids()
    server.kill()
    wait_until(lambda: not any(is_there(pid) for pid in workers.values()), what="the workers to end")
    assert path.is_socket()
    server.start()
    assert get_by_unix(path) == (200, b"ok\n")
    assert server.stop() == 0
    assert not path.exists()


_ENDING = """
import socket, sys
from proxy.server.orders import Done, Line
line = Line(socket.socket(fileno=int(sys.argv[2])))
line.receive_first()
line.say_now(Done())
"""


_FOLLOWING = """
import os, signal, socket, sys, time
from proxy.server.orders import Begin, Done, Line, Prepare, Stop, Switch
from proxy.storage.board import Board
from proxy.storage.layout import Layout
line = Line(socket.socket(fileno=int(sys.argv[2])))
begin = line.receive_first()
board, serial, place = Board(Layout(begin.snapshot.data_dir)), begin.serial, begin.snapshot.data_dir
def has(what):
    return os.path.exists(f"{place}/{what}")
def tell():
    with open(f"{place}/worker-{begin.number}", "w") as file:
        file.write(f"{os.getpid()} {serial}")
if begin.is_first:
    board.put_in_force(serial)
while begin.number == 2 and has("wait"):
    time.sleep(0.01)
tell()
line.say_now(Done())
while True:
    if has(f"stop-{begin.number}"):
        os.unlink(f"{place}/stop-{begin.number}")
        os.kill(os.getpid(), signal.SIGSTOP)
    order = line.receive_first()
    if isinstance(order, Prepare):
        serial = order.serial
        tell()
    if isinstance(order, Switch):
        if has("die-undone"):
            sys.exit()
        board.put_in_force(serial)
        if has("die"):
            os.rename(f"{place}/die", f"{place}/die-undone")
            sys.exit()
    line.say_now(Done())
    if isinstance(order, Stop):
        sys.exit()
"""
"""A worker that serves nothing, and says which configuration it has; files tell it how to fail."""


@contextlib.contextmanager
def supervising(directory: Path, log: io.StringIO) -> Iterator[tuple[supervisor._Supervisor, Board]]:
    """Give a supervisor of two workers at a free port, which is not begun yet."""
    snapshot = snapshot_of({**LONELY, "server": {"listen": "127.0.0.1:0", "workers": 2}}, directory)
    layout = Layout(snapshot.data_dir)
    layout.prepare()
    board = Board(layout)
    try:
        logger = make_logger("text", "info", log)
        yield supervisor._Supervisor(snapshot, lambda: snapshot, layout, board, logger), board
    finally:
        board.close()


def supervised(directory: Path) -> None:
    """Supervise workers in this process, until that ends by itself."""
    with supervising(directory, io.StringIO()) as (made, _):
        asyncio.run(made.run())


class Following:
    """A supervisor of workers that serve nothing, while it runs in this process."""

    def __init__(self, made: supervisor._Supervisor, board: Board, data_dir: Path, log: io.StringIO) -> None:
        self.made = made
        self.board = board
        self.data_dir = data_dir
        self.log = log

    def told(self, number: int) -> tuple[int, int] | None:
        """The process of a worker, and the serial of its configuration; None as long as it has not begun."""
        try:
            pid, serial = (self.data_dir / f"worker-{number}").read_text(encoding="ascii").split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid), int(serial)

    def all_have_what_is_in_force(self, *ended: int) -> bool:
        """Whether two workers, which are none of the `ended` processes, have it."""
        told = [self.told(number) for number in (1, 2)]
        return all(one is not None and one[1] == self.board.serial and one[0] not in ended for one in told)


@contextlib.asynccontextmanager
async def following(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *files: str
) -> AsyncIterator[Following]:
    """Run a supervisor; the workers find these files when they begin."""
    prefix = "import sys; sys.path.append(sys.argv[1])\n"
    monkeypatch.setattr(supervisor, "_PROGRAM", prefix + _FOLLOWING)
    monkeypatch.setattr(supervisor, "_PAUSE", 0.001)
    log = io.StringIO()
    with supervising(directory, log) as (made, board):
        data_dir = Path(made._layout.data_dir)
        for file in files:
            (data_dir / file).touch()
        running = asyncio.create_task(made.run())
        try:
            yield Following(made, board, data_dir, log)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await running


async def test_a_configuration_that_comes_while_workers_begin_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins with what is no more in force would refuse every request."""
    async with following(tmp_path, monkeypatch, "wait") as crew:
        await wait_until_async(lambda: crew.told(1) and 2 in crew.made._children)
        before = crew.board.serial
        reloading = asyncio.create_task(crew.made._reloads.reload())
        await asyncio.wait((reloading,), timeout=0.3)
        (crew.data_dir / "wait").unlink()
        assert (await reloading).errors == ()
        assert crew.board.serial != before
        await wait_until_async(crew.all_have_what_is_in_force)


async def test_where_all_end_just_when_it_came_into_force_the_next_begin_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path, monkeypatch) as crew:
        await wait_until_async(crew.all_have_what_is_in_force)
        await wait_until_async(lambda: "listening" in crew.log.getvalue())
        before = crew.board.serial
        pids = [child.process.pid for child in crew.made._children.values()]
        (crew.data_dir / "die").touch()
        assert (await crew.made._reloads.reload()).errors == ()
        (crew.data_dir / "die-undone").unlink()
        assert crew.board.serial != before
        await wait_until_async(lambda: crew.all_have_what_is_in_force(*pids))


async def test_a_worker_that_stands_still_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its port goes on to be given connections that nobody would ever answer."""
    monkeypatch.setattr(supervisor, "_LOOK", 0.1)
    monkeypatch.setattr(supervisor, "_SILENT", 0.5)
    async with following(tmp_path, monkeypatch) as crew:
        await wait_until_async(lambda: "listening" in crew.log.getvalue())
        before = crew.told(2)
        (crew.data_dir / "stop-2").touch()
        await wait_until_async(lambda: crew.told(2) != before, timeout=10)
        assert "a worker stands still" in crew.log.getvalue()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "worker 1 ended before it served"),
        (_ENDING, r"worker \d ends again and again"),
    ],
)
def test_workers_that_cannot_run_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    prefix = "import sys; sys.path.append(sys.argv[1])\n"
    monkeypatch.setattr(supervisor, "_PROGRAM", prefix + program)
    monkeypatch.setattr(supervisor, "_PAUSE", 0.001)
    with pytest.raises(StoreUnavailable, match=message):
        supervised(tmp_path)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_whose_run_directory_is_emptied_ends(lonely: Start, workers: str) -> None:
    """It would hear of no change any more that a command makes: a revoked token would go on to be good."""
    server = lonely(arguments=("--workers", workers))
    shutil.rmtree(server.data_dir / "run")
    wait_until(lambda: not server.is_running, timeout=30, what="the server to end")
    assert "the directory run was emptied" in server.log_text()


def test_what_is_under_way_ends_well_and_then_nobody_is_left(two: OverlayServer) -> None:
    """Last, since the server is gone behind it."""
    workers = two.worker_pids()
    wire = Wire(two.url)
    body = upload(*make_wheel("last", "1.0", size=200_000))
    with socket.create_connection(wire.address) as idle, socket.create_connection(wire.address) as sending:
        head = f"POST /acme/widgets/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {PRESET}\r\nContent-Type: {FORM_TYPE['Content-Type']}\r\n\r\n"
        sending.sendall(head.encode() + body[:100_000])
        incoming = two.data_dir / "incoming"
        wait_until(lambda: list(incoming.iterdir()), what="the upload to have begun")
        two.send_signal(signal.SIGTERM)
        await_log(two, "stopping")
        wait_until(lambda: readiness(two) == 503, what="the end to be told")
        sending.sendall(body[100_000:])
        assert sending.recv(12) == b"HTTP/1.1 201"
        assert two.stop() == 0
        assert idle.recv(1) == b""
    assert not any(is_there(pid) for pid in workers.values())
    assert two.log_text().splitlines()[-1].split(" ", 2)[2] == "stopped"
    assert not (two.data_dir / "run" / "serve.pid").exists()
    assert not (two.data_dir / "run" / "control").exists()
