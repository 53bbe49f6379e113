"""HTTP as it stands on the wire: any target, any header, any body, and every byte of the answer."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 30.0

HTML = "text/html"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came. `whole` is False where the connection ended before all of the body was there."""

    status: int
    reason: str
    headers: Message
    body: bytes
    whole: bool = True

    def __getitem__(self, header: str) -> str | None:
        value: str | None = self.headers[header]
        return value

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def basic(token: str, user: str = "__token__") -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


class Wire:
    """Sends requests to one server, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address = (parts.hostname, parts.port)
        self.host = parts.netloc

    def get(self, target: str, **options: Any) -> Answer:
        return self.send("GET", target, **options)

    def head(self, target: str, **options: Any) -> Answer:
        return self.send("HEAD", target, **options)

    def send(
        self,
        method: str,
        target: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """Send a request; nothing is added but Host and what frames the body: the front may answer.

        Args:
            target: stands in the request line as it is.
            token: sent as Basic credentials of `__token__`.
            body: bytes are sent with Content-Length; pieces are sent chunked.
        """
        given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        names = {name.lower() for name, _ in given}
        if "host" not in names:
            given.insert(0, ("Host", self.host))
        if token is not None:
            given.append(("Authorization", basic(token)))
        if isinstance(body, bytes):
            given.append(("Content-Length", str(len(body))))
        elif body is not None:
            given.append(("Transfer-Encoding", "chunked"))
        head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in given)
        pieces = [head.encode("utf-8", "surrogateescape") + b"\r\n"]
        if isinstance(body, bytes):
            pieces.append(body)
        elif body is not None:
            pieces += [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in body if piece]
            pieces.append(b"0\r\n\r\n")
        return self.exchange(pieces, method=method)

    def exchange(self, pieces: Iterable[bytes], *, method: str = "GET") -> Answer:
        """Send bytes, all of them before the first of the answer is read; return the answer."""
        with socket.create_connection(self.address, TIMEOUT) as connection:
            for piece in pieces:
                connection.sendall(piece)
            return receive(connection, method)


def receive(connection: socket.socket, method: str = "GET") -> Answer:
    """Read one answer to its end, or to where it was broken off."""
    with http.client.HTTPResponse(connection, method=method) as response:
        response.begin()
        whole = True
        try:
            body = response.read()
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        except ConnectionResetError:
            body, whole = b"", False
        return Answer(response.status, response.reason, response.headers, body, whole)
