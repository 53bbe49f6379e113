"""Processes that share one data directory, as workers do, and download through its cache: told what by their input.

`python -m tests.faults.downloaders DATA_DIR INDEX_URL` reads one file's record per line, as JSON, and prints one
`Download` per line once that has ended. It opens the cache as a worker does, and sweeps up nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

import proxy
from proxy.cache.files import Files
from proxy.domain.pages import FileRecord
from proxy.domain.snapshot import CacheSettings, UpstreamSettings
from proxy.errors import OverlayError
from proxy.observe.metrics import Metrics
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.upstream.client import Upstream
from tests.support.killed import Killed


class Download(msgspec.Struct, frozen=True):
    """How a download ended: bytes that were read, their sha256, and the error's type, empty where it ended well."""

    size: int
    sha256: str
    error: str


class Downloader(Killed[bytes]):
    """One such process. Leaving the `with` block kills it (SIGKILL)."""

    def __init__(self, data_dir: Path, index_url: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.downloaders", str(data_dir), index_url],
            cwd=Path(proxy.__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        super().__init__(process)

    def begin(self, record: FileRecord) -> None:
        """Have it download a file."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(record) + b"\n")
        self._process.stdin.flush()

    def end(self) -> Download:
        """How that ended; waits for it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it ended with status {self._process.wait()}"
        return msgspec.json.decode(line, type=Download)

    def stop(self) -> None:
        """Have it stand still, with all that it holds, until `kill`."""
        self._process.send_signal(signal.SIGSTOP)


def _now() -> datetime:
    return datetime.now(UTC)


async def _serve(data_dir: str, index_url: str) -> None:
    layout = Layout(data_dir)
    locks, metrics = Locks(layout), Metrics("0")
    settings = UpstreamSettings("pypi", index_url, read_timeout=timedelta(seconds=20))
    upstream = Upstream(
        settings,
        max_page_size=1 << 20,
        user_agent="pypi-overlay/test",
        metrics=metrics.upstream("pypi"),
        now=_now,
    )
    cache = Database(layout.cache_database, locks, name="cache")
    files = Files(layout, locks, cache, {"pypi": upstream}, CacheSettings(), _now, metrics.cache, frozenset)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        done = await _download(files, msgspec.json.decode(line, type=FileRecord))
        sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
        sys.stdout.buffer.flush()


async def _download(files: Files, record: FileRecord) -> Download:
    digest, size = hashlib.sha256(), 0
    transfer = files.join("pypi", record)
    try:
        await transfer.started()
        with transfer.open() as source:
            while (allowed := await transfer.past(size)) > size:
                while size < allowed:
                    piece = source.read(allowed - size)
                    assert piece, "fewer bytes on disk than were promised"
                    digest.update(piece)
                    size += len(piece)
    except OverlayError as error:
        return Download(size, digest.hexdigest(), type(error).__name__)
    return Download(size, digest.hexdigest(), "")


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
