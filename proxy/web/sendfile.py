"""Bytes of a file on their way to a client, past this process: `os.sendfile` beside the transport.

uvloop knows no `loop.sendfile`, and takes no watcher on the descriptor of one of its transports. So the head goes
through the transport as ever; once the transport holds nothing back, the body goes through a duplicate of the
socket's descriptor, which the loop watches like any other. Nobody writes to the transport meanwhile: an answer is
sent as a whole before the next begins. What the client sends is still read by the transport.

Every connection sends some of its bytes and then lets the others have their turn, so no thread waits for a slow
client, and nothing lies in memory for it: the kernel sends from the very pages in which it keeps the file. Only what
it would have to read from the disk first is fetched in a thread.

There is no `sendfile` through TLS: `outlet` then gives None, and who has the bytes writes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator

from aiohttp.abc import AbstractStreamWriter

PATIENCE = 600.0
"""Seconds in which a client must take something before its connection is ended."""

_STEP = 2 << 20
"""Bytes for one connection before the others have their turn: some hundred microseconds."""
_AHEAD = 4 << 20
"""Bytes that are asked of the disk at once."""

_UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


class Outlet:
    """The way to the client of one answer, whose head is out. Made by `outlet`.

    Attributes:
        sent: bytes that have gone out so far.
    """

    def __init__(self, transport: asyncio.BaseTransport, descriptor: int) -> None:
        self.sent = 0
        self._transport = transport
        self._socket = descriptor
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._error: OSError | None = None
        self._file = -1
        self._position = 0
        self._end = 0
        self._in_memory = 0

    async def send(self, file: int, first: int, end: int) -> None:
        """Send the bytes of an open file from `first` up to `end`, which are all there. One call at a time.

        Raises:
            ConnectionResetError: the client is gone, or takes nothing any more; or the file became shorter.
            OSError: it cannot be read.
        """
        self._file, self._position, self._end, self._in_memory = file, first, end, first
        while self._position < end:
            if not self._is_at_hand():
                ahead = min(end, self._position + _AHEAD)
                await asyncio.to_thread(load, file, self._position, ahead)
                self._in_memory = ahead
            await self._run()

    async def _run(self) -> None:
        """Send until everything is out, or what comes next is not in memory."""
        self._stopped = self._loop.create_future()
        # Small parts mostly go out here and now.
        self._go()
        if not self._stopped.done():
            self._loop.add_writer(self._socket, self._go)
            try:
                await self._watch()
            finally:
                self._loop.remove_writer(self._socket)
        if self._error is not None:
            raise self._error

    async def _watch(self) -> None:
        """Wait until it stopped.

        Raises:
            ConnectionResetError: nothing went out for too long.
        """
        while not self._stopped.done():
            position = self._position
            await asyncio.wait([self._stopped], timeout=PATIENCE)
            if self._position == position and not self._stopped.done():
                raise ConnectionResetError("the client takes nothing any more")

    def _go(self) -> None:
        """Send what the socket takes now, at most a step."""
        if self._stopped.done():
            return
        if self._transport.is_closing():
            self._stop(ConnectionResetError("the connection was closed"))
            return
        try:
            count = min(_STEP, self._end - self._position)
            sent = os.sendfile(self._socket, self._file, self._position, count)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            gone = isinstance(error, ConnectionError) or error.errno in _UNREACHABLE
            self._stop(ConnectionResetError("the client is gone") if gone else error)
            return
        if not sent:
            self._stop(ConnectionResetError("the file became shorter while it was sent"))
            return
        self._position += sent
        self.sent += sent
        if self._position >= self._end or not self._is_at_hand():
            self._stop()

    def _stop(self, error: OSError | None = None) -> None:
        self._error = error
        self._stopped.set_result(None)

    def _is_at_hand(self) -> bool:
        """Whether the next step can be sent without waiting for the disk."""
        ahead = min(self._end, self._position + _STEP)
        if ahead <= self._in_memory:
            return True
        if not is_in_memory(self._file, ahead - 1):
            return False
        self._in_memory = ahead
        return True


@contextlib.asynccontextmanager
async def outlet(
    transport: asyncio.Transport | None, writer: AbstractStreamWriter
) -> AsyncIterator[Outlet | None]:
    """The way past the transport for the body of an answer whose head has been given to `writer`.

    Gives None where there is none: through TLS, or on a system without `sendfile`. Inside the `with` block nothing
    may be written by `writer` where one was given.

    Raises:
        ConnectionResetError: the client is gone.
    """
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the connection was closed")
    if not hasattr(os, "sendfile") or transport.get_extra_info("sslcontext") is not None:
        yield None
        return
    transport.set_write_buffer_limits(high=0)
    try:
        writer.send_headers()
        await writer.drain()
        if transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        try:
            yield Outlet(transport, descriptor)
        finally:
            os.close(descriptor)
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits()


def is_in_memory(file: int, position: int) -> bool:
    """Whether the byte at `position` of an open file can be read without waiting for the disk, as far as one can ask.

    What lies before it was read before it, mostly; so one question does for a whole piece.
    """
    try:
        os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        # Neither this file system nor every other system tells.
        return True
    return True


def load(file: int, first: int, end: int) -> None:
    """Have the kernel read a part of an open file into its memory; blocks until the end of it is there.

    Raises:
        OSError: it cannot be read.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, first, end - first, os.POSIX_FADV_WILLNEED)
    os.pread(file, 1, end - 1)
