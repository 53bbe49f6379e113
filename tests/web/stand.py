"""A server of this very process, on real sockets: its parts are at hand, and its clock is the test's.

It runs in a thread of its own, as a worker would; `Link` is a client that says exactly what it is told to.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.domain.access import OPERATOR
from proxy.identity import tokens
from proxy.identity.tokens import TokenKind
from proxy.index.instance import Instance, Running
from proxy.observe.logs import make_logger
from proxy.server.assembly import another_instance, close_instance, open_instance, retire_instance, switch
from proxy.storage.audit import By
from proxy.storage.board import new_serial
from proxy.web.app import build
from proxy.web.finished import FINISHED, Finished
from proxy.web.front import Fronts
from proxy.web.notes import CLOSING
from tests.support.waiting import wait_until

T = TypeVar("T")

PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, as it came over a connection that stays."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __getitem__(self, header: str) -> str:
        return self.headers.get(header.lower(), "")


class Link:
    """A connection that is kept. What is sent at once arrives as one chunk."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, *, is_head: bool = False) -> Reply:
        """Read one answer to its end.

        Raises:
            ConnectionError: it ends before.
        """
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        assert len(headers) == len(lines), lines
        status = int(first.split(" ")[1])
        size = 0 if is_head or status in {204, 304} else int(headers["content-length"])
        while len(self._buffer) < size:
            self._more()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Reply(status, headers, body)

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.receive(is_head=data.startswith(b"HEAD"))

    def get(self, target: str, *lines: str, **headers: str) -> Reply:
        return self.ask(head(target, *lines, **headers))

    def is_ended(self) -> bool:
        """Whether the server ends the connection, without a word more."""
        try:
            return not self._buffer and not self.socket.recv(1)
        except ConnectionResetError:
            return True

    def _more(self) -> None:
        piece = self.socket.recv(1 << 20)
        if not piece:
            raise ConnectionError(f"ended behind {self._buffer!r}")
        self._buffer += piece


def head(target: str, *lines: str, method: str = "GET", **headers: str) -> bytes:
    """A request head; `lines` as they are, keywords with `-` for `_`."""
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *named, *lines, "", ""]).encode("latin-1")


class Stand:
    """One worker. `clock` is added to the time that everything in it goes by."""

    def __init__(self, directory: Path, config: Mapping[str, Any], tls: ssl.SSLContext | None = None) -> None:
        self.directory = directory
        self.clock = 0.0
        self.owner = ""
        self.app: Any = None
        self._config = dict(config) | {"storage": {"data_dir": str(directory / "data")}}
        self._tls = tls
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._begun = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._thread.join()

    def end(self) -> None:
        """Have the server end, and wait for nothing."""
        self.loop.call_soon_threadsafe(self._end.set)

    @property
    def instance(self) -> Instance:
        return self.running.latest

    @property
    def finished(self) -> Finished:
        finished: Finished = self.app[FINISHED]
        return finished

    @contextmanager
    def link(self, source: str = "") -> Iterator[Link]:
        """Connect, from a loopback address where one is given."""
        with socket.create_connection(self.address, PATIENCE, (source, 0) if source else None) as connection:
            yield Link(connection)

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await something in the server's loop."""

        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def call(self, act: Callable[[], T]) -> T:
        """Call something in the server's loop."""

        async def run() -> T:
            return act()

        return self.do(run)

    def log(self, begin: int = 0) -> list[dict[str, Any]]:
        """The log from a line on."""
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()[begin:]]

    def line_of(self, reply: Reply) -> dict[str, Any]:
        """The line of the access log that belongs to an answer."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log() if line.get("request_id") == reply["X-Request-Id"]]

        (line,) = wait_until(found, what="the answer's line in the log")
        return line

    def time(self) -> float:
        return time.time() + self.clock

    def token(self, user: str, **minted: Any) -> tuple[str, int]:
        """Make a personal token; returns text and number."""
        about: dict[str, Any] = {"kind": TokenKind.PERSONAL, "scopes": ["api"], "name": "", "created_by": "x"}
        about |= {"user": user, "created_at": self._now()} | minted
        text, row = self.do(lambda: self.instance.registry.change(lambda c: tokens.mint(c, **about)))
        return text, row.id

    def reload(self, **changed: Any) -> None:
        """Put the configuration into force anew, with other keys at the top."""
        instance = another_instance(self.instance, self._snapshot(changed), new_serial())
        self.call(lambda: self.running.prepare(instance))
        switch(instance, self.instance.snapshot, By(OPERATOR, self._now()))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)

    def _snapshot(self, changed: Mapping[str, Any]) -> Any:
        file = self.directory / "pypi-overlay.yaml"
        file.write_text(json.dumps(self._config | dict(changed)), encoding="utf-8")
        return compile_snapshot(load(str(file), {}))

    async def _serve(self) -> None:
        try:
            self.loop = asyncio.get_running_loop()
            self._end = asyncio.Event()
            instance = open_instance(self._snapshot({}), serving=True, now=self._now)
            self._log = self.directory / "log"
            log = self._log.open("w", encoding="utf-8")
            self.running = Running(instance)
            self.app = build(self.running, make_logger("json", "info", log), clock=self.time)
            self.fronts = Fronts(self.app, grace=1.0)
            await self.fronts.start()
            server = await self.loop.create_server(self.fronts, "127.0.0.1", 0, ssl=self._tls)
            self.address = server.sockets[0].getsockname()
        except BaseException as error:
            self._failed = error
            raise
        finally:
            self._begun.set()
        await self._end.wait()
        self.app[CLOSING].set()
        server.close()
        await self.fronts.stop()
        for gone in self.running.retire():
            await retire_instance(gone)
        await close_instance(self.instance)
        log.close()
