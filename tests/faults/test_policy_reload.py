"""A new policy comes into force while thousands of clients read: every answer is wholly old or wholly new.

Each client has a connection of its own and asks for one thing over and over: the page in its forms, a file that the
new policy keeps back, one that it leaves, a document, the explanation. What one answer says (status, decision, rule,
validator, body) belongs together, so it is compared as a whole with what was answered before and is answered after.
"""

from __future__ import annotations

import asyncio
import hashlib
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel
from tests.web.wire import HTML, JSON, Wire

NAME = "gears"
OLD_POLICY = {"deny": [f"{NAME}==1.0"]}
NEW_POLICY = {"deny": [f"{NAME}>=1.5"]}
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Said:
    """All of an answer that a policy may change."""

    status: int
    decision: str
    etag: str
    body: str


@dataclass(slots=True)
class Seen:
    """What the readers saw; `torn` is what no policy says, `late` the old policy's after the reload was done."""

    old: int = 0
    new: int = 0
    torn: list[Said] = field(default_factory=list)
    late: list[Said] = field(default_factory=list)


def _config(upstream: FakeUpstream, policy: Mapping[str, Any]) -> dict[str, Any]:
    group = {"visibility": "public", "policy": dict(policy)}
    return base_config(upstream) | {"server": {"workers": 2}, "groups": {"acme": group}}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        for version in ("1.0", "1.5", "2.0"):
            upstream.add_file(NAME, *make_wheel(NAME, version))
        yield upstream


def _heads(server: OverlayServer) -> list[bytes]:
    """Requests for everything that the policies decide."""
    page = f"/acme/simple/{NAME}/"
    files = Wire(server.url).get(page, headers={"Accept": JSON}).json["files"]
    targets = [(page, JSON), (page, HTML), (f"/acme/pypi/{NAME}/json", "*/*")]
    targets += [(f"/acme/{file['url'].removeprefix('../../')}", "*/*") for file in files]
    targets.append((f"/api/v1/explain?index=acme&name={NAME}", "*/*"))
    host = urlsplit(server.url).netloc
    return [
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n".encode()
        for target, accept in targets
    ]


class Reader:
    """One client with a connection that stays."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, server: OverlayServer) -> Reader:
        address = urlsplit(server.url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def ask(self, head: bytes) -> Said:
        self._writer.write(head)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        body = await self._reader.readexactly(int(headers["content-length"]))
        told = headers.get("x-overlay-decision", ""), headers.get("etag", "")
        return Said(int(first.split(" ")[1]), *told, hashlib.sha256(body).hexdigest())

    def close(self) -> None:
        self._writer.close()


async def _answers(server: OverlayServer, heads: list[bytes]) -> list[Said]:
    """What each request is answered now, once both the handlers and the front have done it."""
    reader = await Reader.connected(server)
    try:
        for _ in range(3):
            said = [await reader.ask(head) for head in heads]
        return said
    finally:
        reader.close()


async def _race(
    server: OverlayServer, heads: list[bytes], old: list[Said], new: list[Said], clients: int
) -> Seen:
    """Read with so many clients at once; load the new file when all are at it; end when all have seen it."""
    seen = Seen()
    all_read, reloaded = asyncio.Event(), asyncio.Event()
    reading: set[int] = set()

    async def client(number: int) -> None:
        at = number % len(heads)
        reader = await Reader.connected(server)
        is_after = False
        try:
            while not is_after:
                is_after = reloaded.is_set()
                said = await reader.ask(heads[at])
                reading.add(number)
                if len(reading) == clients:
                    all_read.set()
                if said == new[at]:
                    seen.new += 1
                elif said == old[at]:
                    seen.old += 1
                    if is_after:
                        seen.late.append(said)
                else:
                    seen.torn.append(said)
        finally:
            reader.close()

    async def reload() -> None:
        await all_read.wait()
        await asyncio.to_thread(server.reload)
        reloaded.set()

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(reload(), *map(client, range(clients)))
    return seen


@pytest.mark.parametrize("clients", [100, pytest.param(5000, marks=pytest.mark.slow)])
async def test_every_answer_is_wholly_old_or_wholly_new(
    upstream: FakeUpstream, tmp_path: Path, clients: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < clients + 500:
        pytest.skip(f"only {hard} files may be open at once")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, clients + 500), hard))
    with ForkedServer(_config(upstream, OLD_POLICY), tmp_path) as server:
        heads = _heads(server)
        old = await _answers(server, heads)
        server.configure(_config(upstream, NEW_POLICY))
        await asyncio.to_thread(server.reload)
        new = await _answers(server, heads)
        assert all(before != after for before, after in zip(old, new, strict=True)), (old, new)
        server.configure(_config(upstream, OLD_POLICY))
        await asyncio.to_thread(server.reload)
        assert await _answers(server, heads) == old
        server.configure(_config(upstream, NEW_POLICY))
        seen = await _race(server, heads, old, new, clients)
    assert seen.torn == []
    assert seen.late == []
    assert seen.old >= clients
    assert seen.new >= clients
