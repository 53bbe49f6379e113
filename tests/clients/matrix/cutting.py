"""A wire that breaks once in the middle of a file, between a client and the server."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from types import TracebackType
from typing import Self

CHUNK = 16 * 1024


class CuttingWire:
    """Passes everything on to a server on its own port; the first transfer of a matching path is cut off.

    with CuttingWire(server_port, r"big-1\\.0.*\\.whl", after=100_000) as wire:
        client.install(f"http://127.0.0.1:{wire.port}/simple/", "big")
        assert wire.cut
    """

    def __init__(self, server_port: int, path: str, *, after: int) -> None:
        """Take the server's port, a pattern of the end of the path, and how many bytes of the answer pass."""
        self.cut = False
        self._server = ("127.0.0.1", server_port)
        self._wanted = re.compile(rb"GET \S*" + path.encode() + rb" HTTP/1\.1\r\n")
        self._after = after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._sockets):
            _close(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                armed = threading.Event()
                for pump in (self._up, self._down):
                    threading.Thread(target=pump, args=(client, server, armed), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, armed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK):
                if not self.cut and self._wanted.search(chunk):
                    armed.set()
                server.sendall(chunk)
        _close(server)

    def _down(self, client: socket.socket, server: socket.socket, armed: threading.Event) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK):
                passed += len(chunk) if armed.is_set() else 0
                if passed > self._after and not self.cut:
                    self.cut = True
                    break
                client.sendall(chunk)
        _close(client)
        _close(server)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
