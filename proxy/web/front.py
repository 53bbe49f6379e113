"""The front: owns each connection, and gives finished answers before anything is parsed or scheduled.

What it has no answer for goes to a protocol object of aiohttp, made for the connection when it is first needed, by
the methods that every `asyncio.Protocol` has. aiohttp does not know that it is not alone; its access logger tells the
front when an answer is out (`_Ended`). Nobody else knows that the front exists: handlers answer as ever, and say with
`notes.KEEP` what may be given again.

It answers only while each chunk of the connection was exactly one whole GET or HEAD without a body and no answer is
owed. After anything else, a body, a split head, pipelining, the connection is aiohttp's for good. So bytes inside an
upload are never taken for a request, and answers never change their order.

While a client takes its answers too slowly nothing more is read from it: what lies in memory for it is bounded.

aiohttp's own timer for idle connections is set out of reach. One look at all connections every few seconds ends those
that are idle for too long, whose head does not come to its end, or whose client takes nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from proxy.web.finished import FINISHED, Finished, Pieces
from proxy.web.heads import Head, read_head
from proxy.web.notes import UNDER_WAY
from proxy.web.observed import OBSERVER

IDLE = 3630.0
"""Seconds until a connection without requests is closed: more than a balancer in front lets pass before it does."""
INCOMPLETE = 30.0
"""Seconds in which the head of a request must be whole."""
STUCK = 600.0
"""Seconds in which a client must take something of what waits for it."""
_LOOK = 5.0
_OUT_OF_REACH = 10 * 365 * 86_400.0
_JOINED = 64 << 10
"""Bodies up to here are joined with their head: one piece is sent cheaper than two."""
_GATHERING = 0.05
"""Seconds until what was given is told to log and metrics."""
_GATHERED = 1000
"""As many are told at once: two milliseconds' work."""


class _State(Enum):
    FREE = auto()
    """Nothing is owed; the front may answer."""
    ASKED = auto()
    """aiohttp owes the answer to one whole request."""
    AWAY = auto()
    """The connection is aiohttp's for good."""


class Front(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_asked",
        "_finished",
        "_fronts",
        "_inner",
        "_is_active",
        "_is_held",
        "_is_paused",
        "_is_waiting",
        "_peer",
        "_since",
        "_state",
        "_transport",
        "_unsent",
    )

    _transport: asyncio.Transport

    def __init__(self, fronts: Fronts, finished: Finished) -> None:
        """For `Fronts` alone."""
        self._fronts = fronts
        self._finished = finished
        self._inner: asyncio.Protocol | None = None
        self._state = _State.FREE
        self._asked: Head | None = None
        self._peer = ""
        self._is_paused = False
        self._is_held = False
        # For the looks: whether something came since the last; whether aiohttp was given something that it has not
        # answered; how much was unsent; and since when it has been so.
        self._is_active = True
        self._is_waiting = False
        self._unsent = 0
        self._since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own have no common base
        peer = transport.get_extra_info("peername")
        # As `request.remote` has it: a unix socket has no address.
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""
        link = transport.get_extra_info("socket")
        if link is not None:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._fronts.opened(self)

    def data_received(self, data: bytes) -> None:
        """Answer, or hand on to aiohttp."""
        self._is_active = True
        if self._state is _State.FREE:
            pieces = self._finished.by_head(data, self._peer)
            if pieces is not None:
                self._write(pieces)
                return
            head = read_head(data)
            if head is not None and head.is_plain:
                pieces = self._finished.by_parts(head, self._peer)
                if pieces is not None:
                    self._write(pieces)
                    return
            self._asked = head
            self._state = _State.AWAY if head is None else _State.ASKED
        elif self._state is _State.ASKED:
            self._state = _State.AWAY
        self._is_waiting = True
        # Before a handler tells of its own: metrics are asked for here as well, and lines stand in their order.
        self._fronts.tell()
        if self._inner is None:
            self._inner = self._fronts.inner()
            self._inner.connection_made(self._transport)
            if self._is_paused:
                self._inner.pause_writing()
        self._inner.data_received(data)

    def _write(self, pieces: Pieces) -> None:
        head, body = pieces
        if len(body) <= _JOINED:
            self._transport.write(head + body)
        else:
            self._transport.writelines(pieces)
        self._fronts.gave()

    def eof_received(self) -> bool | None:
        """Do as aiohttp does: who has said everything hears no more than what is on its way."""
        return None if self._inner is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Read no more while the client takes too little; aiohttp's handlers wait by themselves."""
        self._is_paused = True
        if self._inner is not None:
            self._inner.pause_writing()
        if self._state is _State.FREE:
            self._hold()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        if self._inner is not None:
            self._inner.resume_writing()
        if self._is_held:
            self._is_held = False
            self._transport.resume_reading()

    def _hold(self) -> None:
        self._is_held = True
        self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._fronts.closed(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def ended(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Hear that aiohttp's answer was handed to the transport whole."""
        self._is_waiting = False
        head, self._asked = self._asked, None
        if self._state is not _State.ASKED:
            return
        if not response.keep_alive or self._fronts.is_closing or self._transport.is_closing():
            self._state = _State.AWAY
            return
        self._state = _State.FREE
        if self._is_paused:
            self._hold()
        if head is not None and head.is_plain:
            self._finished.keep(head, request, response)

    def look(self, now: float, *, is_under_way: bool) -> None:
        """End the connection if nothing has come of it for too long.

        Args:
            now: seconds on any clock that never goes back.
            is_under_way: a handler is busy with a request of it.
        """
        unsent, before = self._transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        is_active, self._is_active = self._is_active, False
        if unsent:
            is_going, limit = unsent != before, STUCK
        elif self._is_waiting:
            # More of a head is no progress: it could come byte by byte for ever.
            is_going, limit = is_under_way or bool(before), INCOMPLETE
        else:
            is_going, limit = is_active or bool(before), IDLE
        if is_going or self._since is None:
            self._since = None if is_under_way else now
        elif now - self._since >= limit:
            if unsent:
                # That would keep a closing connection open.
                self._transport.abort()
            else:
                self._transport.close()

    def close_if_free(self) -> None:
        """Close it after what is on its way. Where it is aiohttp's, only that knows whether more is owed."""
        if self._state is _State.FREE:
            self._transport.close()


class Fronts:
    """All connections of a process: a factory of protocols for `loop.create_server`. Owned by one event loop.

    `start` comes before the first connection. At the end the sockets are closed first, then comes `stop`.

    Attributes:
        inner: makes aiohttp's protocol for a connection; from `start` on.
        is_closing: `stop` was called.
    """

    inner: Callable[[], asyncio.Protocol]

    def __init__(self, app: web.Application, *, grace: float) -> None:
        """Put the front before `app`, which `web.app.build` made.

        Args:
            grace: seconds that answers still have to end once everything stops, and once more to be given up.
        """
        self.is_closing = False
        self._app = app
        self._finished = app[FINISHED]
        self._observer = app[OBSERVER]
        self._open: set[Front] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        # A client that goes away ends its own reading; what it set going (a transfer, a commit) goes on. No client
        # packs its bodies, so nothing is unpacked: it would be a way in for bombs, and for noise in the log.
        self._runner = web.AppRunner(
            app,
            access_log_class=_Ended,
            keepalive_timeout=_OUT_OF_REACH,
            handler_cancellation=False,
            shutdown_timeout=grace,
            auto_decompress=False,
        )

    async def start(self) -> None:
        """Make ready for connections."""
        self._loop = asyncio.get_running_loop()
        await self._runner.setup()
        self.inner = cast("Callable[[], asyncio.Protocol]", self._runner.server)  # it is, once set up
        self._look_again()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return Front(self, self._finished)

    def opened(self, front: Front) -> None:
        """Note a connection."""
        self._open.add(front)

    def closed(self, front: Front) -> None:
        """Forget a connection."""
        self._open.discard(front)

    def gave(self) -> None:
        """Note that an answer was given: it will be told of soon."""
        if self._telling is None:
            self._telling = self._loop.call_later(_GATHERING, self.tell)
        elif self._finished.waiting >= _GATHERED:
            self.tell()

    def tell(self) -> None:
        """Tell log, metrics and last uses of what was given since the last time."""
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
            self._observer.answered_again(self._finished.taken())

    def look(self, now: float) -> None:
        """End connections that have come to nothing (`Front.look`).

        Args:
            now: seconds on any clock that never goes back.
        """
        transports = (request.transport for request in self._app[UNDER_WAY].values())
        under_way = {transport.get_protocol() for transport in transports if transport is not None}
        for front in tuple(self._open):
            front.look(now, is_under_way=front in under_way)

    def _look_again(self) -> None:
        self.look(self._loop.time())
        self._looking = self._loop.call_later(_LOOK, self._look_again)

    async def stop(self) -> None:
        """Close idle connections now, the others as soon as they have their answer; tell of everything given."""
        self.is_closing = True
        for front in tuple(self._open):
            front.close_if_free()
        await self._runner.cleanup()
        if self._looking is not None:
            self._looking.cancel()
        self.tell()


class _Ended(AbstractAccessLogger):
    """What aiohttp tells of every answer once it is out: also of errors that no handler saw."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:  # noqa: ARG002
        """Pass it on to the connection's front."""
        transport = request.transport
        front = None if transport is None else transport.get_protocol()
        if isinstance(front, Front):
            front.ended(request, response)
