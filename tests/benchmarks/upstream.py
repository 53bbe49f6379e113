"""The upstream of a benchmark: pages and files of a directory, as fast as aiohttp sends them, and counted.

`python -m tests.benchmarks.upstream DIRECTORY` serves `/simple/NAME/` from `DIRECTORY/simple/NAME/index.json`, and
`/files/…/FILENAME` from `DIRECTORY/files/FILENAME`; `/capped-50/…/FILENAME` the same at 50 MB/s at most, over all.
`/counts` says how often each path was asked. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from tests.benchmarks.cores import LOAD_CORE, ROOT, pinned

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
PIECE = 64 * 1024


class LocalUpstream:
    """The running program. `host` is its host and port, `index_url` its index."""

    def __init__(self, directory: Path) -> None:
        """Take the directory that it serves; start nothing."""
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        with pinned(LOAD_CORE):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.upstream", str(self._directory)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with self._process as process:
            process.kill()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def index_url(self) -> str:
        """What a client takes as its index."""
        return f"http://{self.host}/simple/"

    def asked(self, ending: str) -> int:
        """How often a path with this ending was asked so far."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{self.host}/counts", timeout=30) as answer:
            counts: dict[str, int] = json.load(answer)
        return sum(count for path, count in counts.items() if path.endswith(ending))


class _Pages:
    """Pages by name, read and compressed once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, tuple[bytes, bytes, str]] = {}

    def answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._read:
            path = self._directory / name / "index.json"
            if not path.is_file():
                return web.Response(status=404)
            body = path.read_bytes()
            self._read[name] = body, gzip.compress(body, 1), f'"{hashlib.sha256(body).hexdigest()}"'
        body, packed, tag = self._read[name]
        headers = {"Content-Type": JSON_TYPE, "ETag": tag, "Cache-Control": "max-age=86400"}
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=packed, headers=headers | {"Content-Encoding": "gzip"})
        return web.Response(body=body, headers=headers)


def _application(directory: Path) -> web.Application:
    counts: Counter[str] = Counter()
    pages = _Pages(directory / "simple")

    async def page(request: web.Request) -> web.StreamResponse:
        counts[request.path] += 1
        return pages.answer(request)

    async def file(request: web.Request) -> web.StreamResponse:
        counts[request.path] += 1
        path = directory / "files" / request.match_info["filename"]
        if not path.is_file():
            return web.Response(status=404)
        cap = request.match_info.get("cap")
        return web.FileResponse(path) if cap is None else await _send_slowly(request, path, int(cap) * 1e6)

    async def tell(_request: web.Request) -> web.StreamResponse:
        return web.json_response(counts)

    app = web.Application()
    app.router.add_get("/counts", tell)
    app.router.add_get("/simple/{name}/", page)
    app.router.add_get(r"/files/{digest:.*}/{filename}", file)
    app.router.add_get(r"/capped-{cap:\d+}/{digest:.*}/{filename}", file)
    return app


async def _send_slowly(request: web.Request, path: Path, rate: float) -> web.StreamResponse:
    """Send a file at `rate` bytes per second, in small pieces."""
    response = web.StreamResponse()
    response.content_length = path.stat().st_size
    await response.prepare(request)
    begun, sent = time.perf_counter(), 0
    with path.open("rb") as source:
        while piece := source.read(PIECE):
            await response.write(piece)
            sent += len(piece)
            early = sent / rate - (time.perf_counter() - begun)
            if early > 0.001:
                await asyncio.sleep(early)
    return response


async def _serve(directory: Path) -> None:
    runner = web.AppRunner(_application(directory), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    asyncio.run(_serve(Path(sys.argv[1])))
