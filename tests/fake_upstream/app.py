"""The server: addresses of PyPI's shape, the faults laid over its answers, and the control addresses.

Control, never recorded and never faulty: GET `/_control/requests` (what was asked so far, a JSON list), POST
`/_control/reset` (forget it), PUT `/_control/scenario` (replace the scenario; JSON). Requests that a fault has
counted stay counted as long as a fault with its id is there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from tests.fake_upstream import pages
from tests.fake_upstream.scenario import CHUNK, Fault, File, Scenario, ScenarioError, Shelf, normalised

NO_FAULT = Fault(path="*")
FILE_CACHE = "max-age=365000000, immutable, public"
ERROR_PAGE = "<!DOCTYPE html><html><body><h1>We'll be right back</h1></body></html>"


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in: `path` is raw, with its query; `at` counts seconds since 1970."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before any fault has touched it: its body is bytes, or part of a file on disk."""

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: bytes = b""
    file: File | None = None
    first: int = 0
    length: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.body) if self.file is None else (self.length or 0)


class FakeUpstream:
    """Holds the scenario in force and the record of requests; `application` serves it."""

    def __init__(self, workshop: Path) -> None:
        """Start with an empty index; `workshop` is a directory for files that scenarios describe."""
        self.base = ""  # scheme, host and port, known once the socket is bound
        self._shelf = Shelf(workshop)
        self._scenario = Scenario()
        self._files: dict[str, File] = {}
        self._counts: dict[str, int] = {}
        self._received: list[Received] = []
        self._replaced = asyncio.Event()

    def load(self, said: Mapping[str, Any], directory: Path) -> None:
        """Put a scenario in force. Raises ScenarioError, and then the old one stays."""
        scenario = self._shelf.load(said, directory)
        known = {fault.id for fault in scenario.faults}
        self._counts = {fault: count for fault, count in self._counts.items() if fault in known}
        self._files = {file.address: file for project in scenario.projects.values() for file in project.files}
        self._scenario = scenario

    def application(self) -> web.Application:
        """Build the aiohttp application."""
        app = web.Application(client_max_size=64 * CHUNK)
        app.router.add_get("/_control/requests", self._tell_requests)
        app.router.add_post("/_control/reset", self._reset)
        app.router.add_put("/_control/scenario", self._replace_scenario)
        app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    async def _tell_requests(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(received) for received in self._received])

    async def _reset(self, _request: web.Request) -> web.Response:
        self._received.clear()
        return web.Response(status=204)

    async def _replace_scenario(self, request: web.Request) -> web.Response:
        said = await request.json()
        try:
            await asyncio.to_thread(self.load, said, Path())
        except ScenarioError as error:
            return web.Response(status=400, text=str(error))
        self._replaced.set()
        self._replaced = asyncio.Event()
        return web.Response(status=204)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name: ", ".join(request.headers.getall(name)) for name in request.headers}
        self._received.append(Received(request.method, request.raw_path, headers, time.time()))
        fault = self._fault(request.method, request.path)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        while fault.hold and self._is_held(request.method, request.path):
            await self._replaced.wait()
        if fault.hang and fault.truncate is None:
            await asyncio.Event().wait()  # until the client goes: the handler is cancelled then
        if fault.drop:
            return _closed(request)
        return await _send(request, self._answer(request, fault), fault)

    def _fault(self, method: str, path: str) -> Fault:
        """Count the request, and join what strikes it."""
        joined = NO_FAULT
        for fault in self._scenario.faults:
            if fault.matches(method, path):
                count = self._counts[fault.id] = self._counts.get(fault.id, 0) + 1
                if fault.strikes(count):
                    joined = joined.joined(fault)
        return joined

    def _is_held(self, method: str, path: str) -> bool:
        return any(fault.hold and fault.matches(method, path) for fault in self._scenario.faults)

    def _answer(self, request: web.Request, fault: Fault) -> Answer:
        if fault.html_error:
            return Answer(headers={"Content-Type": "text/html"}, body=ERROR_PAGE.encode())
        if fault.redirect is not None:
            return Answer(fault.redirect_status, {"Location": fault.redirect})
        if fault.status is not None:
            return _plain(fault.status, fault.body)
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, {"Allow": "GET, HEAD, OPTIONS", "Content-Type": "text/plain"})
        if not self._admitted(request):
            realm = {"WWW-Authenticate": 'Basic realm="upstream"', "Content-Type": "text/plain"}
            return Answer(401, realm, b"401 Unauthorized")
        if request.path == "/simple/":
            return self._root(request)
        if page := re.fullmatch(r"/simple/([^/]+)(/?)", request.path):
            return self._page(request, page[1], page[2] == "/", fault)
        if document := re.fullmatch(r"/pypi/([^/]+)(?:/([^/]+))?/json", request.path):
            return self._document(request, document[1], document[2], fault)
        return self._file(request, fault)

    def _admitted(self, request: web.Request) -> bool:
        settings = self._scenario.settings
        if settings.username is None:
            return True
        pair = f"{settings.username}:{settings.password or ''}"
        return request.headers.get("Authorization") == f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _root(self, request: web.Request) -> Answer:
        settings = self._scenario.settings
        kind = pages.representation(request.headers.get("Accept", ""), settings)
        return self._negotiated(
            request, kind, pages.root_page(self._scenario.projects.values(), kind, settings)
        )

    def _page(self, request: web.Request, spelling: str, has_slash: bool, fault: Fault) -> Answer:
        if not has_slash:
            return Answer(301, {"Location": f"/simple/{quote(spelling)}/"})
        name = normalised(spelling)
        if name != spelling:
            return Answer(301, {"Location": f"/simple/{quote(name)}/"})
        project = self._scenario.projects.get(normalised(fault.as_project) if fault.as_project else name)
        if project is None:
            return _plain(404)
        if project.status == "quarantined":
            project = replace(project, files=(), versions=())
        kind = pages.representation(request.headers.get("Accept", ""), project.settings)
        body = pages.project_page(project, kind, fault.link_base or self.base)
        return self._negotiated(request, kind, body)

    def _document(self, request: web.Request, spelling: str, version: str | None, fault: Fault) -> Answer:
        project = self._scenario.projects.get(normalised(fault.as_project or spelling))
        body = None
        if project is not None and project.settings.json_api:
            body = pages.document(project, version, self.base)
        if body is None:
            return Answer(404, {"Content-Type": "application/json"}, b'{"message": "Not Found"}')
        return self._negotiated(request, "application/json", body)

    def _negotiated(self, request: web.Request, kind: str, body: bytes) -> Answer:
        settings = self._scenario.settings
        headers: dict[str, str | None] = {
            "Content-Type": kind,
            "Vary": "Accept, Accept-Encoding",
            "X-PyPI-Last-Serial": str(pages.SERIAL),
            "Access-Control-Allow-Origin": "*",
        }
        if settings.max_age is not None:
            headers["Cache-Control"] = f"max-age={settings.max_age}, public"
        if settings.gzip and "gzip" in request.headers.get("Accept-Encoding", ""):
            body = pages.compressed(body)
            headers["Content-Encoding"] = "gzip"
        if settings.etag:
            headers["ETag"] = tag = pages.etag(body)
            if tag in request.headers.get("If-None-Match", ""):
                del headers["Content-Type"]
                headers.pop("Content-Encoding", None)
                return Answer(304, headers)
        return Answer(200, headers, body)

    def _file(self, request: web.Request, fault: Fault) -> Answer:
        headers: dict[str, str | None] = {
            "Content-Type": "application/octet-stream",
            "Cache-Control": FILE_CACHE,
            "Last-Modified": formatdate(0, usegmt=True),
            "Accept-Ranges": "bytes",
            "Access-Control-Allow-Origin": "*",
        }
        beside = self._files.get(request.path.removesuffix(".metadata"))
        if request.path.endswith(".metadata") and beside is not None:
            if not (beside.metadata and beside.core_metadata):
                return _plain(404)
            body = beside.metadata
            if "gzip" in request.headers.get("Accept-Encoding", ""):
                body = pages.compressed(body)
                headers["Content-Encoding"] = "gzip"
            return Answer(200, {**headers, "Vary": "Accept-Encoding", "ETag": pages.etag(body)}, body)
        file = self._files.get(request.path)
        if file is None:
            return _plain(404)
        headers["ETag"] = f'"{file.digests["md5"]}"'
        wanted = request.headers.get("Range")
        if (
            wanted is None
            or fault.ignore_range
            or request.headers.get("If-Range", headers["ETag"]) != headers["ETag"]
        ):
            return Answer(200, headers, file=file, length=file.length)
        span = _span(wanted, file.length)
        if span is None:
            return Answer(416, {**headers, "Content-Range": f"bytes */{file.length}"})
        first, last = span
        headers["Content-Range"] = f"bytes {first}-{last}/{file.length}"
        return Answer(206, headers, file=file, first=first, length=last - first + 1)


def _plain(status: int, text: str | None = None) -> Answer:
    body = text or ("404 Not Found" if status == 404 else f"{status} from the fake upstream")
    return Answer(status, {"Content-Type": "text/plain"}, body.encode())


def _span(wanted: str, length: int) -> tuple[int, int] | None:
    """Read one byte range: first and last offset, or nothing where it cannot be satisfied."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(0, length - int(found[2])), length - 1
    else:
        first, last = int(found[1]), min(int(found[2] or length - 1), length - 1)
    return (first, last) if first <= last else None


def _headers(answer: Answer, fault: Fault) -> dict[str, str]:
    headers = dict(answer.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    headers |= fault.headers or {}
    return {name: value for name, value in headers.items() if value is not None}


async def _send(request: web.Request, answer: Answer, fault: Fault) -> web.StreamResponse:
    """Write the answer, as badly as the fault wants it."""
    response = web.StreamResponse(status=answer.status, headers=_headers(answer, fault))
    body = _body(answer)
    if fault.gzip_bomb is not None:
        response.headers["Content-Encoding"] = "gzip"
        body = pages.bomb(fault.gzip_bomb)
    elif fault.chunked or fault.endless:
        response.enable_chunked_encoding()
    elif answer.status != 304:
        response.content_length = answer.size
    await response.prepare(request)
    if request.method == "HEAD" or answer.status == 304:
        return response
    if fault.alter is not False:
        whole = answer.size if answer.file is None else answer.file.length
        offset = whole // 2 if fault.alter is True else fault.alter % whole
        body = _altered(body, offset - answer.first)
    if fault.endless:
        body = itertools.chain(body, itertools.repeat(bytes(CHUNK)))
    with contextlib.suppress(ConnectionError):
        async for chunk in _paced(_cut(body, fault.truncate), fault.rate):
            await response.write(chunk)
        if fault.truncate is None or fault.truncate >= answer.size:
            return response
        if fault.hang:
            await asyncio.Event().wait()
    return _closed(request, response)


def _body(answer: Answer) -> Iterator[bytes]:
    if answer.file is None:
        yield answer.body
        return
    with answer.file.path.open("rb") as source:
        source.seek(answer.first)
        left = answer.size
        while left and (chunk := source.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _altered(body: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """Yield the body with all bits of one byte turned; an offset outside of it changes nothing."""
    for chunk in body:
        if 0 <= offset < len(chunk):
            yield chunk[:offset] + bytes([chunk[offset] ^ 0xFF]) + chunk[offset + 1 :]
        else:
            yield chunk
        offset -= len(chunk)


def _cut(body: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    for chunk in body:
        yield chunk[:length]
        if length is not None:
            length -= len(chunk)
            if length <= 0:
                return


async def _paced(body: Iterator[bytes], rate: int | None) -> AsyncIterator[bytes]:
    """Yield the body at `rate` bytes per second: twenty pieces a second, each when its time has come."""
    started, sent = time.monotonic(), 0
    for chunk in body:
        if rate is None:
            yield chunk
            continue
        step = max(1, rate // 20)
        for start in range(0, len(chunk), step):
            await asyncio.sleep(max(0.0, started + sent / rate - time.monotonic()))
            piece = chunk[start : start + step]
            yield piece
            sent += len(piece)


def _closed(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """End the connection; what was written before is still sent. What is returned goes nowhere."""
    if request.transport is not None:
        request.transport.close()
    return response or web.Response()
