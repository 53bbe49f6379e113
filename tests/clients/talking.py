"""Addresses of a server with and without credentials, raw requests to it, and what it logged of others'."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from tests.support.server import OverlayServer
from tests.support.waiting import wait_until

JSON = "application/vnd.pypi.simple.v1+json"
BOUNDARY = "a-boundary-that-no-file-has"

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came; header names in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def index_url(
    server: OverlayServer, base: str = "", token: str | None = None, user: str = "__token__"
) -> str:
    """Return the simple index of a namespace: `base` is `acme/widgets`, `api/v4/…`, or empty for the root."""
    parts = urlsplit(server.url)
    login = f"{quote(user, safe='')}:{token}@" if token else ""
    path = f"{base}/simple/" if base else "simple/"
    return f"{parts.scheme}://{login}{parts.netloc}/{path}"


def fetch(
    url: str,
    *,
    method: str = "GET",
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send one request as it is; no redirect is followed."""
    parts = urlsplit(url)
    sent = {"Accept": JSON, **(headers or {})}
    if token is not None:
        sent["Authorization"] = "Basic " + base64.b64encode(f"__token__:{token}".encode()).decode()
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request(method, url[len(f"http://{parts.netloc}") :], body=body, headers=sent)
        answer = connection.getresponse()
        received = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, answer.reason, received, answer.read())
    finally:
        connection.close()


def links(page_url: str, token: str | None = None) -> list[str]:
    """Return the absolute addresses of the files of a simple page."""
    answer = fetch(page_url, token=token)
    assert answer.status == 200, answer
    return [urljoin(page_url, file["url"]) for file in answer.json["files"]]


def upload(
    url: str, token: str, filename: str, content: bytes, *, accept: str = "*/*", **fields: str
) -> Answer:
    """Send an upload form as clients do, but with exactly these fields; a digest of the bytes is added."""
    form = {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.2",
        "filetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
        "pyversion": "py3",
        "sha256_digest": hashlib.sha256(content).hexdigest(),
        **fields,
    }
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in form.items()
    ]
    head = f'Content-Disposition: form-data; name="content"; filename="{filename}"'
    parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return fetch(url, method="POST", token=token, headers={"Content-Type": kind, "Accept": accept}, body=body)


def said(done: Done) -> str:
    """Return all that a client printed, with any run of white space as one space: terminals break lines."""
    return " ".join((done.stdout + done.stderr).split())


def succeeded(done: Done) -> str:
    """See that a client ended well, and return what it printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return said(done)


def failed(done: Done) -> str:
    """See that a client ended with an error, and return what it printed."""
    assert done.returncode != 0, done.stdout + done.stderr
    return said(done)


def files_below(target: Path) -> set[str]:
    """Return the names of the files in a directory that was downloaded into."""
    return {path.name for path in target.iterdir()} if target.exists() else set()


def log_of(server: OverlayServer, begin: int = 0) -> list[dict[str, Any]]:
    """Return the requests in the access log from a byte offset on, of a server that logs JSON."""
    records = (json.loads(line) for line in server.log_text(begin).splitlines() if line.startswith("{"))
    return [record for record in records if record.get("event") == "request"]


def log_end(server: OverlayServer) -> int:
    """Return where the log ends now."""
    return server.log_file.stat().st_size


def statuses(server: OverlayServer, begin: int, path: str, agent: str) -> list[int]:
    """Wait until a client's request of a path is in the log; return the statuses of all of them, in order."""

    def found() -> list[int]:
        return [
            record["status"]
            for record in log_of(server, begin)
            if record["path"] == path and record.get("agent", "").startswith(agent)
        ]

    return wait_until(found, what=f"a request of {path} by {agent} in the log")
