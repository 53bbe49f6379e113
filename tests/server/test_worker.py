"""One serving process as a person starts it: sockets, TLS, signals, log, and what it says where it cannot."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.observe.logs import make_logger
from proxy.server.worker import once_ended, watched
from tests.server.conftest import LONELY, PRESET, Start, Unconfigured, await_log
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, ServerFailed
from tests.support.waiting import free_port, wait_until
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Wire


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the socket at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("unix")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def get_by_unix(path: Path, target: str = "/healthz", **headers: str) -> tuple[int, bytes]:
    connection = UnixConnection(path)
    try:
        connection.request("GET", target, headers={key.replace("_", "-"): it for key, it in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_background_work_that_breaks_off_is_told_and_hinders_nobody() -> None:
    async def work() -> None:
        raise RuntimeError("a bug")

    said = io.StringIO()
    await watched(work(), make_logger("text", "info", said))
    assert "background work broke off" in said.getvalue()
    assert "RuntimeError: a bug" in said.getvalue()


async def test_what_takes_the_place_of_cancelled_work_begins_once_that_has_let_go() -> None:
    told = []

    async def hold() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.01)
            told.append("released")

    async def work() -> None:
        told.append("begun")

    before = [asyncio.create_task(hold())]
    await asyncio.sleep(0)
    before[0].cancel()
    await once_ended(before, work)
    await once_ended([], work)
    assert told == ["released", "begun", "begun"]


@pytest.fixture
def short_path(tmp_path: Path) -> Path:
    """A path for a socket: the system allows some hundred characters."""
    path = tmp_path / "s"
    return path if len(str(path)) < 100 else Path(os.path.relpath(path))


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    """Give a server on TCP that says everything."""
    config = {**LONELY, "log": {"level": "debug"}}
    with OverlayServer(config, tmp_path_factory.mktemp("standing")) as server:
        yield server


def test_it_listens_on_tcp_and_says_where_and_what_it_answered(standing: OverlayServer) -> None:
    server = standing
    assert Wire(server.url).get("/healthz").body == b"ok\n"
    assert Wire(server.url).get("/readyz").status == 200
    assert f"listening on {server.url}" in server.log_text()
    answer = Wire(server.url).get("/simple/gears/")
    line = await_log(server, answer["X-Request-Id"] or "no id")
    assert " info request " in line
    for part in ("method=GET", "path=/simple/gears/", "status=404", "decision=not-forwarded"):
        assert part in line


def test_the_address_of_the_configuration_counts_unless_listen_is_given(tmp_path: Path) -> None:
    port = free_port()
    server = Unconfigured(
        tmp_path, file=json.dumps({**LONELY, "server": {"listen": f"127.0.0.1:{port}"}}), listen="unused"
    )
    command = server._command("serve")
    with subprocess.Popen(
        command, cwd=tmp_path, env=server._env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, b"")
            assert any(f"listening on http://127.0.0.1:{port} ".encode() in line for line in lines)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_when_it_is_asked_to(lonely: Start, number: signal.Signals) -> None:
    server = lonely()
    process = server._process
    assert process is not None
    process.send_signal(number)
    assert process.wait(20) == 0
    assert server.log_text().splitlines()[-1].split(" ", 2)[2] == "stopped"
    assert not (server.data_dir / "run" / "serve.pid").exists()


def test_a_taken_port_is_told_in_a_sentence_and_the_data_directory_is_free_behind_it(
    standing: OverlayServer, lonely: Start, tmp_path: Path
) -> None:
    taken = standing.url.partition("://")[2]
    directory = tmp_path / "second"
    with pytest.raises(ServerFailed) as caught:
        lonely(listen=taken, directory=directory)
    assert caught.value.returncode == 1
    assert f"cannot listen on {taken}: " in caught.value.log
    assert (
        "address already in use\n  stop what listens there, or choose another with --listen"
        in caught.value.log
    )
    assert "Traceback" not in caught.value.log
    assert Wire(standing.url).get("/healthz").status == 200
    second = lonely(directory=directory)
    assert Wire(second.url).get("/readyz").status == 200


def test_it_listens_on_a_unix_socket_also_where_a_killed_server_left_one(
    lonely: Start, short_path: Path
) -> None:
    server = lonely(listen=f"unix:{short_path}")
    assert get_by_unix(short_path) == (200, b"ok\n")
    server.kill()
    assert short_path.is_socket()
    server.start()
    assert get_by_unix(short_path) == (200, b"ok\n")


def test_the_socket_of_a_living_server_is_not_taken_away(lonely: Start, short_path: Path) -> None:
    """Another server with another data directory; its lock says nothing about this one's socket."""
    lonely(listen=f"unix:{short_path}")
    with pytest.raises(ServerFailed) as caught:
        lonely(listen=f"unix:{short_path}")
    assert f"cannot listen on unix:{short_path}" in caught.value.log
    assert get_by_unix(short_path) == (200, b"ok\n")


def test_a_file_that_is_no_socket_is_left_alone(lonely: Start, short_path: Path) -> None:
    short_path.write_text("precious")
    with pytest.raises(ServerFailed) as caught:
        lonely(listen=f"unix:{short_path}")
    assert caught.value.returncode == 1
    assert f"cannot listen on unix:{short_path}" in caught.value.log
    assert "Traceback" not in caught.value.log
    assert short_path.read_text() == "precious"


def test_a_data_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = {**LONELY, "storage": {"data_dir": str(tmp_path / "file" / "data")}}
    with pytest.raises(ServerFailed) as caught:
        ForkedServer(config, tmp_path / "server").start()
    assert caught.value.returncode == 1
    assert f"error: {tmp_path / 'file' / 'data'}: the data directory cannot be used" in caught.value.log
    assert "check storage.data_dir" in caught.value.log
    assert "Traceback" not in caught.value.log


class Tls:
    """A certificate for 127.0.0.1, the files that `server.tls` names, and a client that trusts it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        self.chain, self.key, self.authority = (directory / name for name in ("chain", "key", "ca"))
        for pem in certificate.cert_chain_pems:
            with self.chain.open("ab") as chain:
                chain.write(pem.bytes())
        self.key.write_bytes(certificate.private_key_pem.bytes())
        self.authority.write_bytes(authority.cert_pem.bytes())
        self.context = ssl.create_default_context(cafile=str(self.authority))

    def settings(self, **other: Path) -> dict[str, Any]:
        files = {"certificate": self.chain, "key": self.key, **other}
        return {"server": {"tls": {name: str(path) for name, path in files.items()}}}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def over_tls(tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    config = {**LONELY, **tls.settings(), "projects": {"default": {}}}
    env = {"PYPI_OVERLAY_OWNER_TOKEN": PRESET}
    with ForkedServer(config, tmp_path_factory.mktemp("over-tls"), env=env) as server:
        yield server


def test_it_speaks_tls(over_tls: OverlayServer, tls: Tls) -> None:
    server = over_tls
    assert server.url.startswith("https://")
    with urllib.request.urlopen(server.url + "/healthz", context=tls.context, timeout=10) as answer:
        assert answer.read() == b"ok\n"
    with urllib.request.urlopen(server.url + "/", context=tls.context, timeout=10) as answer:
        assert f"{server.url}/simple/".encode() in answer.read()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        Wire(server.url.replace("https", "http")).get("/healthz")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(server.url + "/healthz", timeout=10)


def test_pip_installs_over_tls(over_tls: OverlayServer, tls: Tls, client: Client, tmp_path: Path) -> None:
    server = over_tls
    filename, content = make_wheel("gears", "1.0")
    request = urllib.request.Request(
        server.url + "/legacy/",
        data=upload(filename, content),
        headers={**FORM_TYPE, "Authorization": f"Bearer {PRESET}"},
    )
    with urllib.request.urlopen(request, context=tls.context, timeout=10) as answer:
        assert answer.status == 201
    target = tmp_path / "site"
    # By name: some releases of pip cannot check the certificate of an address.
    index = f"{server.url}/simple/".replace("127.0.0.1", "localhost")
    done = client.pip_install(target, index, "--cert", str(tls.authority), "gears")
    assert done.returncode == 0, done.stderr
    assert installed(target) == {"gears-1.0"}


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("203.0.113.7:8080", "cannot assign requested address\n  this machine has no such address; choose"),
        ("no..name:8080", "no host's name\n  choose"),
    ],
)
def test_an_address_of_another_machine_is_told(lonely: Start, listen: str, message: str) -> None:
    with pytest.raises(ServerFailed) as caught:
        lonely(listen=listen)
    assert caught.value.returncode == 1
    assert f"cannot listen on {listen}: " in caught.value.log
    assert message in caught.value.log
    assert "Traceback" not in caught.value.log


@pytest.mark.parametrize("wrong", ["certificate", "key", "both"])
def test_a_certificate_that_cannot_be_used_is_told(
    lonely: Start, tls: Tls, tmp_path: Path, wrong: str
) -> None:
    if wrong == "both":
        other = trustme.CA().issue_cert("127.0.0.1")
        bad = tmp_path / "other-key"
        bad.write_bytes(other.private_key_pem.bytes())
        settings = tls.settings(key=bad)
    else:
        settings = tls.settings(**{wrong: tmp_path / "missing"})
    with pytest.raises(ServerFailed) as caught:
        lonely(settings)
    assert caught.value.returncode == 1
    if wrong == "both":
        assert "server.tls: the certificate and the key cannot be used: " in caught.value.log
    else:
        assert f"server.tls.{wrong}: cannot be read (no such file or directory)\n" in caught.value.log
    assert "Traceback" not in caught.value.log


def logged(server: OverlayServer, **headers: str) -> dict[str, Any]:
    """Send a request with a path of its own; return its record in a log of JSON lines."""
    answer = Wire(server.url).get(
        "/healthz", headers={key.replace("_", "-"): value for key, value in headers.items()}
    )
    found: dict[str, Any] = json.loads(await_log(server, answer["X-Request-Id"] or "no id"))
    return found


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ([], "198.51.100.7", "127.0.0.1"),
        (["127.0.0.0/8"], "198.51.100.7", "198.51.100.7"),
        (["127.0.0.0/8"], "203.0.113.9, 198.51.100.7", "198.51.100.7"),
        (["127.0.0.0/8", "198.51.100.0/24"], "203.0.113.9, 198.51.100.7", "203.0.113.9"),
        (["127.0.0.0/8"], "2001:db8::7", "2001:db8::7"),
        (["127.0.0.0/8"], "evil\\nclient=x", "127.0.0.1"),
        (["127.0.0.0/8"], "203.0.113.9, nonsense, 198.51.100.7", "198.51.100.7"),
        (["127.0.0.0/8"], "", "127.0.0.1"),
    ],
)
def test_the_log_names_the_client_that_trusted_proxies_name(
    trusting: dict[str, OverlayServer], lonely: Start, trusted: list[str], forwarded: str, client: str
) -> None:
    key = json.dumps(trusted)
    record = logged(trusting[key], X_Forwarded_For=forwarded)
    assert record["client"] == client


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Servers by what they trust, each started once."""

    class Servers(dict[str, OverlayServer]):
        def __missing__(self, key: str) -> OverlayServer:
            config = {**LONELY, "server": {"trusted_proxies": json.loads(key)}, "log": {"format": "json"}}
            self[key] = server = ForkedServer(config, tmp_path_factory.mktemp("trusting"))
            server.start()
            return server

    servers = Servers()
    yield servers
    for server in servers.values():
        server.stop()


@pytest.mark.parametrize(("trusted", "client"), [([], ""), (["127.0.0.1"], "198.51.100.7")])
def test_behind_a_unix_socket_the_proxy_is_believed_where_any_is_trusted(
    lonely: Start, short_path: Path, trusted: list[str], client: str
) -> None:
    config = {"server": {"trusted_proxies": trusted}, "log": {"format": "json"}}
    server = lonely(config, listen=f"unix:{short_path}")
    assert get_by_unix(short_path, X_Forwarded_For="198.51.100.7")[0] == 200
    assert json.loads(await_log(server, '"path":"/healthz"'))["client"] == client


def test_every_line_of_a_json_log_is_a_record(lonely: Start) -> None:
    server = lonely({"log": {"format": "json"}})
    wire = Wire(server.url)
    wire.get("/simple/gears/")
    wire.get("/simple/%00%0a\\x/")
    server.stop()
    records = [json.loads(line) for line in server.log_text().splitlines()]
    assert all({"time", "level", "event"} <= set(record) for record in records)
    events = [record["event"] for record in records]
    assert events.count("request") == 2
    assert events[-1] == "stopped"
    assert any(str(server.data_dir / "owner-token") in json.dumps(record) for record in records)


def test_the_level_says_what_is_written(tmp_path: Path) -> None:
    """At `warning` nothing is said of a good start, so the port is given and the server asked."""
    port = free_port()
    server = OverlayServer({**LONELY, "log": {"level": "warning"}}, tmp_path)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*server._command("serve"), "--listen", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            env=server._env,
            stdout=log,
            stderr=log,
        )
    try:
        wire = Wire(f"http://127.0.0.1:{port}")

        def answers() -> bool:
            try:
                return wire.get("/simple/gears/").status == 404
            except ConnectionRefusedError:
                return False

        wait_until(answers, timeout=30, what="the server to answer")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = (tmp_path / "log").read_text().splitlines()
    assert [line for line in said if " info " in line] == []
    assert any("owner-token" in line for line in said)
