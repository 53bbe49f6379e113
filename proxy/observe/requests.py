"""The record of requests (`log.requests`): what was asked for, by whom, and how it was decided, one JSON line each.

`config replay` reads it, to decide the same requests under another configuration. It holds no secret: a caller is its
kind, name and token's number, with what of it decides what it may read.

Lines gather in memory and are appended some at a time, off the event loop, by every worker to one file. Each piece
is written under a lock of the file, whole or not at all; whoever finds the file too large by then puts it aside, so
that it and two before it are kept. A process that is killed loses `EVERY` seconds of it. Nothing here fails its
caller: what cannot be written is told in the log and lost.
"""

# Plain os calls by path, as in storage.
# ruff: noqa: PTH105, PTH110, PTH116

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from proxy.domain.access import CallerKind, Scope

EVERY = 2.0
"""Seconds after which what was gathered is written, at the latest."""
LARGEST = 100 << 20
"""Bytes from which a file is put aside."""

_PIECE = 1 << 20
"""Bytes that are written at once."""
_MOST = 32 << 20
"""Bytes that wait to be written; beyond them lines are lost."""
_KEPT = 2

_log = logging.getLogger(__name__)


class Who(msgspec.Struct, frozen=True, omit_defaults=True):
    """A caller, as far as what it may read follows from it.

    Attributes:
        user: the name of a user, of a deploy token, or of a job.
        token: its number.
        homes: where a deploy or job token acts, as paths.
    """

    kind: CallerKind
    user: str | None = None
    token: int | None = None
    scopes: tuple[Scope, ...] = ()
    homes: tuple[str, ...] = ()


class Recorded(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request and its answer, but for when it was.

    Attributes:
        index: the path; empty is the root.
        name: normalised.
        filename, key: of the file that was asked for, or of that whose metadata was; empty for pages and documents.
        as_of: of a dated view, aware.
        decision: the word.
        rule: the one that decided.
    """

    index: str
    name: str
    caller: Who
    decision: str
    filename: str = ""
    key: str = ""
    as_of: datetime | None = None
    rule: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Recorded).decode


def line_of(recorded: Recorded) -> bytes:
    """What is the same in each line about equal requests: all behind the time."""
    return b"," + _encode(recorded)[1:] + b"\n"


def read_lines(lines: Iterable[bytes]) -> Iterator[Recorded | None]:
    """The request of each line; None for a line that tells of none, such as one that broke off."""
    for line in lines:
        try:
            yield _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield None


def recorded_files(path: str) -> list[str]:
    """The file at `path` and those put aside before it, as far as they are there, the oldest first."""
    aside = [f"{path}.{number}" for number in range(_KEPT, 0, -1)]
    return [one for one in (*aside, path) if os.path.exists(one)]


class RequestLog:
    """The file, as one process appends to it. Owned by one event loop."""

    def __init__(self, path: str) -> None:
        """Take the path of the file, whose directory exists; nothing is opened before there is something to write."""
        self._path = path
        self._waiting: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._is_full = asyncio.Event()
        self._second = -1
        self._shown = b""

    def note(self, line: bytes, second: int, times: int = 1) -> None:
        """Add a line of `line_of`, so many times, with the second of the epoch at which it was."""
        if second != self._second:
            self._second = second
            shown = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._shown = f'{{"at":"{shown}"'.encode()
        if self._size > _MOST:
            self._lost += times
            return
        whole = (self._shown + line) * times
        self._waiting.append(whole)
        self._size += len(whole)
        if self._size >= _PIECE:
            self._is_full.set()

    async def keep_written(self) -> None:
        """Write what gathers, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._is_full.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write all that was noted so far; raises nothing."""
        self._is_full.clear()
        waiting, self._waiting, self._size = self._waiting, [], 0
        lost, self._lost = self._lost, 0
        if waiting:
            try:
                await asyncio.to_thread(_append, self._path, b"".join(waiting))
            except OSError as error:
                _log.warning("requests could not be recorded: %s", error.strerror)
        if lost:
            _log.warning("%d requests were not recorded: they came faster than they could be written", lost)


def _append(path: str, lines: bytes) -> None:
    """Append whole lines; put the file aside where it is too large then.

    Raises:
        OSError: it cannot be written; nothing of it was.
    """
    with _locked(path) as descriptor:
        before = os.fstat(descriptor).st_size
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        if before + len(lines) >= LARGEST:
            for number in range(_KEPT, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path if number == 1 else f"{path}.{number - 1}", f"{path}.{number}")


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """A descriptor of the file at `path`, to append to it; no other process does meanwhile."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Another process may have put it aside while we waited.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    yield descriptor
                    return
        finally:
            os.close(descriptor)
