"""The socket `run/control`, at which a running server takes orders of commands: `config reload`.

It lies in a directory of mode 0700 and has mode 0600 itself: who may open it may also stop the server. A command
sends one line, `reload`, and reads what came of it as one JSON object.
"""

# Paths are plain strings here, as everywhere below `storage.layout`.
# ruff: noqa: PTH101, PTH108, PTH112

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec

from proxy.errors import StorageError, StoreUnavailable
from proxy.index.crew import Reloaded
from proxy.storage.disk import translated
from proxy.storage.layout import Layout

_RELOAD = b"reload\n"
_LONGEST_PATH = 100
"""Bytes of a socket's path that every system takes."""
_PATIENCE = 5.0
"""Seconds in which an order has to be sent."""
_WAIT = 300.0
"""Seconds that a command waits for what comes of it."""


@contextlib.asynccontextmanager
async def taking_orders(layout: Layout, reload: Callable[[], Awaitable[Reloaded]]) -> AsyncIterator[None]:
    """Take orders for the length of a block. The lock `serve` is held: whatever socket lies there is a dead one's.

    Raises:
        StorageError: the socket cannot be made.
    """

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order = b""
        with contextlib.closing(writer):
            # A line that is too long is a `ValueError`.
            with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
                async with asyncio.timeout(_PATIENCE):
                    order = await reader.readline()
            if order == _RELOAD:
                writer.write(msgspec.json.encode(await reload()))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()

    made = socket.socket(socket.AF_UNIX)
    try:
        with translated("the control socket cannot be made"), _reachable(layout.control) as path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            made.bind(path)
            # Nobody can connect before it listens.
            os.chmod(path, 0o600)
    except BaseException:
        made.close()
        raise
    server = await asyncio.start_unix_server(take, sock=made)
    try:
        yield
    finally:
        server.close()
        with contextlib.suppress(OSError):
            os.unlink(layout.control)


def order_reload(layout: Layout) -> Reloaded:
    """Have the server of this data directory load its configuration anew; return once every worker has it. Blocks.

    Raises:
        StoreUnavailable: none runs here, or it ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_WAIT)
        try:
            with _reachable(layout.control) as path:
                line.connect(path)
        except OSError as error:
            raise StoreUnavailable(
                "no server runs on this data directory", hint="it reads its configuration when it starts"
            ) from error
        said = bytearray()
        try:
            line.sendall(_RELOAD)
            while piece := line.recv(1 << 16):
                said += piece
            return msgspec.json.decode(said, type=Reloaded)
        except (OSError, msgspec.DecodeError) as error:
            raise StoreUnavailable("the server ended before it answered", hint="its log says why") from error


@contextlib.contextmanager
def _reachable(path: str) -> Iterator[str]:
    """A path to the same file that is short enough for a socket, for the length of a block.

    Raises:
        StorageError: there is none.
    """
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{descriptor}"
        if not os.path.isdir(short):
            raise StorageError("the path of the data directory is too long for a socket", hint="shorten it")
        yield f"{short}/{name}"
    finally:
        os.close(descriptor)
