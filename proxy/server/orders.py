"""What a supervisor and its workers say to each other, over a pair of connected sockets.

Each message is pickled behind its length. Both ends are of one program, and nobody else holds an end.
A supervisor gives one order at a time to a worker, which answers each with `Done`. When one end closes, the other
learns of it at once, however the process ended.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, OverlayError, Problem, StoreUnavailable
from proxy.index.crew import Asker, Reloaded
from proxy.server.reading import unpacked

_HEAD = struct.Struct(">L")
_LARGE = 64 << 10
"""Bytes of a message that takes so long to make out that requests would wait for it."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first order: serve.

    Attributes:
        number: of the worker, from 1 on.
        is_first: it opens the data directory; the others are started behind it.
        started_at: when the server was.
        descriptors: of the sockets to listen at, which were inherited.
    """

    snapshot: Snapshot
    serial: int
    number: int
    is_first: bool
    started_at: datetime
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make another configuration ready."""

    snapshot: Snapshot
    serial: int


@dataclass(frozen=True, slots=True)
class Switch:
    """Put what was prepared into force, for all, since somebody asks for it."""

    asker: Asker


@dataclass(frozen=True, slots=True)
class Follow:
    """Tidy up behind a switch, or behind none."""


@dataclass(frozen=True, slots=True)
class Present:
    """So many workers serve now."""

    workers: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the reload that this worker asked for under a number."""

    number: int
    reloaded: Reloaded


@dataclass(frozen=True, slots=True)
class Stop:
    """End, after what is under way."""


Order: TypeAlias = Begin | Prepare | Switch | Follow | Present | Outcome | Stop


@dataclass(frozen=True, slots=True)
class Done:
    """An order was carried out, or why it could not be."""

    failure: str = ""
    hint: str = ""
    problems: tuple[Problem, ...] = ()

    @classmethod
    def failed(cls, error: OverlayError) -> Done:
        """What is said of an error."""
        problems = error.problems if isinstance(error, ConfigError) else ()
        return cls(error.message, error.hint, problems)

    def raise_failure(self) -> None:
        """Raise what was said.

        Raises:
            ConfigError, StoreUnavailable: the order failed.
        """
        if self.problems:
            raise ConfigError(self.problems)
        if self.failure:
            raise StoreUnavailable(self.failure, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Reload:
    """A worker asks for the configuration to be loaded anew, under a number of its own, for somebody."""

    number: int
    asker: Asker


Reply: TypeAlias = Done | Reload


class Line:
    """One end of the line. Owned by one event loop; `receive_first` comes before there is one."""

    def __init__(self, end: socket.socket) -> None:
        """Take one end of a pair."""
        self._end = end
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    def receive_first(self) -> object:
        """Wait for the first message; the other end being gone raises `EOFError`. Blocks."""
        said: object = unpacked(self._take(_HEAD.unpack(self._take(_HEAD.size))[0]))
        return said

    def say_now(self, message: Order | Reply) -> None:
        """Send a message before there is an event loop. Blocks."""
        self._end.sendall(_framed(message))

    async def open(self) -> None:
        """Hand the end over to the running loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._end)

    def say(self, message: Order | Reply) -> None:
        """Send a message; where the other end is gone nobody hears it."""
        assert self._writer is not None  # noqa: S101 - it was opened
        if not self._writer.is_closing():
            self._writer.write(_framed(message))

    async def receive(self) -> object | None:
        """The next message; None once the other end is gone."""
        assert self._reader is not None  # noqa: S101 - it was opened
        try:
            (size,) = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            content = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        said: object = unpacked(content) if size < _LARGE else await asyncio.to_thread(unpacked, content)
        return said

    def close(self) -> None:
        """Close this end."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._end.close()

    def _take(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            piece = self._end.recv(size - len(content))
            if not piece:
                raise EOFError
            content += piece
        return bytes(content)


def _framed(message: Order | Reply) -> bytes:
    content = pickle.dumps(message)
    return _HEAD.pack(len(content)) + content
