"""The load generator: a process of its own that sends fixed request heads and counts what comes back.

`python -m tests.benchmarks.load` reads one `Job` as JSON from standard input and prints one `Result` as JSON. It
parses nothing but status and Content-Length, so that it is not what the measurement measures.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from tests.benchmarks.cores import LOAD_CORE, ROOT, pinned

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LONGEST_HEAD = 16 * 1024
BUFFER = 1024 * 1024
GRACE = 60.0
"""Seconds that answers may still take when the time is up, and each connection may take to be made."""

MSG_TRUNC = 0x20 if sys.platform.startswith("linux") else 0
"""Linux throws received bytes away without copying them: then the reader is no limit for a large file."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to send where. Heads are sent in turn by whichever connection is free.

    seconds: for so long, again from the start when they are all sent; 0: each head once. expect: the status that
    is no error. bulk: one connection, and bodies are thrown away unread.
    """

    port: int
    heads: Sequence[str]
    connections: int = 1
    seconds: float = 0.0
    expect: int = 200
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came back. Times in seconds; `first` is the median time to the first byte of a body.

    busy: the part of the time that the generator computed itself; near 1 it is the limit, not the server.
    """

    requests: int
    errors: int
    bytes: int
    elapsed: float
    first: float
    median: float
    p99: float
    busy: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.elapsed

    @property
    def megabytes_per_second(self) -> float:
        """Millions of bytes of bodies per second."""
        return self.bytes / self.elapsed / 1e6


def run(job: Job) -> Result:
    """Do a job in a process of its own, on the load generator's core.

    Raises:
        subprocess.SubprocessError: it failed, or did not end in time.
    """
    with pinned(LOAD_CORE):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    with process:
        try:
            out, _ = process.communicate(json.dumps(asdict(job)).encode(), timeout=job.seconds + 15 * GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, "load generator")
    return Result(**json.loads(out))


class _Tally:
    """What all connections of a job share."""

    def __init__(self, job: Job) -> None:
        heads = [head.encode("latin-1") for head in job.heads]
        self.heads: Iterator[bytes] = itertools.cycle(heads) if job.seconds else iter(heads)
        self.expected = b"%d" % job.expect
        self.view = memoryview(bytearray(BUFFER))  # read and done with in one step, so one serves all
        self.took = array("d")
        self.firsts = array("d")
        self.errors = 0
        self.bytes = 0
        self.deadline = float("inf")
        self._computed = 0.0

    def begin(self) -> float:
        """Take the time from now on; return it."""
        self._computed = time.process_time()
        return time.perf_counter()

    def result(self, elapsed: float) -> Result:
        took = sorted(self.took) or [0.0]
        return Result(
            requests=len(self.took),
            errors=self.errors,
            bytes=self.bytes,
            elapsed=elapsed,
            first=statistics.median(self.firsts or [0.0]),
            median=statistics.median(took),
            p99=took[int(len(took) * 0.99)] if len(took) > 1 else took[0],
            busy=(time.process_time() - self._computed) / elapsed,
        )


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, tally: _Tally) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._head = b""
        self._left = 0
        self._length = 0
        self._begun = 0.0
        self._is_waiting = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own has no common base

    def send(self) -> None:
        """Send the next head, or close where there is none or the time is up."""
        assert self._transport is not None
        now = time.perf_counter()
        head = next(self._tally.heads, None) if now < self._tally.deadline else None
        if head is None:
            self._transport.close()
            return
        self._begun, self._is_waiting = now, True
        self._transport.write(head)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._tally.view

    def buffer_updated(self, nbytes: int) -> None:
        if self._left:
            if self._left == self._length:
                self._tally.firsts.append(time.perf_counter() - self._begun)
            self._left -= nbytes
        else:
            data = self._head + bytes(self._tally.view[: min(nbytes, LONGEST_HEAD)])
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            if data[9:12] != self._tally.expected:
                self._fail()
                return
            found = LENGTH.search(data, 0, end)
            if found is None and data[9:12] != b"304":
                self._fail()
                return
            self._length = int(found[1]) if found is not None and data[9:12] != b"304" else 0
            self._left = self._length - (len(self._head) + nbytes - end - 4)
            self._head = b""
            if self._left == self._length and self._length:
                return
            self._tally.firsts.append(time.perf_counter() - self._begun)
            if self._left > 0:
                return
        if self._left < 0:
            self._fail()
        elif self._left == 0:
            now = time.perf_counter()
            if now <= self._tally.deadline:
                self._tally.took.append(now - self._begun)
                self._tally.bytes += self._length
            self._is_waiting = False
            self.send()

    def _fail(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_waiting:
            self._tally.errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def _drive(job: Job) -> Result:
    tally = _Tally(job)
    loop = asyncio.get_running_loop()
    connections = []
    for _ in range(min(job.connections, len(job.heads)) if not job.seconds else job.connections):
        _, connection = await loop.create_connection(lambda: _Connection(tally), "127.0.0.1", job.port)
        connections.append(connection)
    gc.collect()
    gc.disable()
    begun = tally.begin()
    if job.seconds:
        tally.deadline = begun + job.seconds
    for connection in connections:
        connection.send()
    ends = [connection.done for connection in connections]
    _, unfinished = await asyncio.wait(ends, timeout=job.seconds + GRACE if job.seconds else 10 * GRACE)
    tally.errors += len(unfinished)
    return tally.result(job.seconds or time.perf_counter() - begun)


def _bulk(job: Job) -> Result:
    """Send heads one after another and throw the bodies away; goes on until the time is up, at least once each."""
    tally = _Tally(job)
    with socket.create_connection(("127.0.0.1", job.port), timeout=GRACE) as link:
        begun = tally.begin()
        for number, head in enumerate(tally.heads):
            sent = time.perf_counter()
            if number >= len(job.heads) and sent - begun >= job.seconds:
                break
            link.sendall(head)
            data = b""
            while (end := data.find(b"\r\n\r\n")) < 0:
                got = link.recv(LONGEST_HEAD)
                if not got:
                    break
                data += got
            found = LENGTH.search(data, 0, max(end, 0))
            if found is None or data[9:12] != tally.expected:
                tally.errors += 1
                break
            left = int(found[1]) - (len(data) - end - 4)
            while left > 0 and (got_bytes := link.recv_into(tally.view, min(left, BUFFER), MSG_TRUNC)):
                left -= got_bytes
            if left:
                tally.errors += 1
                break
            tally.took.append(time.perf_counter() - sent)
            tally.bytes += int(found[1])
        return tally.result(time.perf_counter() - begun)


def main() -> None:
    """Do the job on standard input."""
    import uvloop

    job = Job(**json.load(sys.stdin))
    result = _bulk(job) if job.bulk else uvloop.run(_drive(job))
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
