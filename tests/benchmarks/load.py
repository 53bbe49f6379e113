"""The load generator: a process of its own that sends fixed request heads and counts what comes back.

`python -m tests.benchmarks.load` reads one `Job` as JSON from standard input and prints one `Result` as JSON. It
parses nothing but status and Content-Length, and asks the system itself which connections have something to read:
an event loop would cost as much for an answer as nginx does, and the generator must not be what is measured.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import re
import select
import socket
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from tests.benchmarks.cores import LOAD_CORE, ROOT, pinned

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
LONGEST_HEAD = 16 * 1024
"""What is looked at of an answer; the rest of its body is counted alone."""
BUFFER = 1024 * 1024
GRACE = 60.0
"""Seconds that answers may still take when the time is up, and each connection may take to be made."""

MSG_TRUNC = 0x20 if sys.platform.startswith("linux") else 0
"""Linux throws received bytes away without copying them: then the reader is no limit for a large file."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to send where. Heads are sent in turn by whichever connection is free.

    seconds: for so long, again from the start when they are all sent; 0: each head once. expect: the status that
    is no error. bulk: one connection, and bodies are thrown away unread; with `sha256` they are read and hashed, as
    every installer does, and it is an error where that is not their digest in hex.
    """

    port: int
    heads: Sequence[str]
    connections: int = 1
    seconds: float = 0.0
    expect: int = 200
    bulk: bool = False
    sha256: str = ""


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
        self.buffer = bytearray(BUFFER)  # read and done with in one step, so one serves all
        self.view = memoryview(self.buffer)
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


class _Connection:
    __slots__ = ("begun", "head", "left", "length", "receive", "send", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GRACE)
        self.socket.setblocking(False)
        self.send = self.socket.send
        self.receive = self.socket.recv_into
        self.head = b""
        self.length = 0
        self.left = 0
        self.begun = 0.0


class _Driver:
    """Many connections in one thread."""

    def __init__(self, job: Job) -> None:
        self._tally = _Tally(job)
        self._seconds = job.seconds
        self._known = b""
        self._known_at = self._known_end = self._known_length = 0
        count = job.connections if job.seconds else min(job.connections, len(job.heads))
        self._waiting = {made.socket.fileno(): made for made in (_Connection(job.port) for _ in range(count))}
        # Linux: the first grows with what is ready, the second with what is open.
        self._ready = select.epoll() if hasattr(select, "epoll") else select.poll()
        for descriptor in self._waiting:
            self._ready.register(descriptor, select.POLLIN)

    def run(self) -> Result:
        """Go on until there is nothing more to send and everything has come, or for too long."""
        tally = self._tally
        gc.collect()
        gc.disable()
        begun = tally.begin()
        if self._seconds:
            tally.deadline = begun + self._seconds
        for connection in list(self._waiting.values()):
            self._send(connection)
        end = time.perf_counter() + (self._seconds + GRACE if self._seconds else 10 * GRACE)
        waiting, poll, take = self._waiting, self._ready.poll, self._take
        while waiting and time.perf_counter() < end:
            for descriptor, _ in poll(1):
                try:
                    take(waiting[descriptor])
                except BlockingIOError:
                    continue
                except OSError:
                    self._fail(waiting[descriptor])
        tally.errors += len(waiting)
        return tally.result(self._seconds or time.perf_counter() - begun)

    def _take(self, connection: _Connection) -> None:
        """Read what has come, once: if there is more, the system says so again."""
        tally = self._tally
        if connection.left:
            got = connection.receive(tally.view, min(connection.left, BUFFER), MSG_TRUNC)
            if connection.left == connection.length:
                tally.firsts.append(time.perf_counter() - connection.begun)
            connection.left -= got
        else:
            got = connection.receive(tally.view, LONGEST_HEAD)
            if not self._read_head(connection, got):
                return
        if not got:
            self._fail(connection)
        elif not connection.left:
            now = time.perf_counter()
            if now <= tally.deadline:
                tally.took.append(now - connection.begun)
                tally.bytes += connection.length
            self._send(connection)

    def _read_head(self, connection: _Connection, got: int) -> bool:
        """Read status and length; False where the head is not whole yet, or the answer is wrong."""
        tally = self._tally
        data: bytes | bytearray
        if connection.head:
            data = connection.head + bytes(tally.view[:got])
            end = data.find(b"\r\n\r\n")
        else:
            data = tally.buffer
            end = data.find(b"\r\n\r\n", 0, got)
        if end < 0 and got:
            connection.head = bytes(tally.view[:got]) if data is tally.buffer else bytes(data)
            return False
        if data[9:12] != tally.expected or not got:
            self._fail(connection)
            return False
        known_end = self._known_end
        if not 0 < known_end <= end + 2 or data[self._known_at : known_end] != self._known:
            self._find_length(data, end)
        length = self._known_length
        left = length - (len(connection.head) + got - end - 4)
        connection.head = b""
        if self._known_end == 0 or left < 0:
            self._fail(connection)
            return False
        connection.length, connection.left = length, left
        if left < length or not length:
            tally.firsts.append(time.perf_counter() - connection.begun)
        return True

    def _find_length(self, data: bytes | bytearray, end: int) -> None:
        """Note where the length stands and what it is: the next answer mostly has it there as well."""
        if data[9:12] == b"304":
            self._known, self._known_at, self._known_end, self._known_length = b"304", 9, 12, 0
            return
        found = LENGTH.search(data, 0, end + 2)
        if found is None:
            self._known, self._known_at, self._known_end = b"", 0, 0
            return
        self._known, (self._known_at, self._known_end) = bytes(found[0]), found.span()
        self._known_length = int(found[1])

    def _send(self, connection: _Connection) -> None:
        """Send the next head, or close where there is none or the time is up."""
        now = time.perf_counter()
        head = next(self._tally.heads, None) if now < self._tally.deadline else None
        if head is None:
            self._close(connection)
            return
        connection.begun = now
        connection.send(head)

    def _fail(self, connection: _Connection) -> None:
        self._tally.errors += 1
        self._close(connection)

    def _close(self, connection: _Connection) -> None:
        del self._waiting[connection.socket.fileno()]
        connection.socket.close()


def _bulk(job: Job) -> Result:
    """Send heads one after another, hash the bodies or throw them away; until the time is up, at least once each."""
    tally = _Tally(job)
    flags = 0 if job.sha256 else MSG_TRUNC
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
            found = LENGTH.search(data, 0, end + 2)
            if found is None or data[9:12] != tally.expected:
                tally.errors += 1
                break
            left = int(found[1]) - (len(data) - end - 4)
            digest = hashlib.sha256(data[end + 4 :])
            while left > 0 and (got_bytes := link.recv_into(tally.view, min(left, BUFFER), flags)):
                left -= got_bytes
                if job.sha256:
                    digest.update(tally.view[:got_bytes])
            if left or job.sha256 not in {"", digest.hexdigest()}:
                tally.errors += 1
                break
            tally.took.append(time.perf_counter() - sent)
            tally.bytes += int(found[1])
        return tally.result(time.perf_counter() - begun)


def main() -> None:
    """Do the job on standard input."""
    job = Job(**json.load(sys.stdin))
    result = _bulk(job) if job.bulk else _Driver(job).run()
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
