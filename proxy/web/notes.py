"""What is noted of a request on its way, and of the application: for its answer, and for its line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.domain.access import Caller
from proxy.domain.decide import Decision
from proxy.index.instance import Running
from proxy.observe.metrics import Route
from proxy.storage.board import Stamp


@dataclass(frozen=True, slots=True)
class Keepable:
    """That an answer of 200 may be given again, to whoever has the same sight and asks in the same way.

    Attributes:
        stamp: everything it depends on but the caller's credentials; settled.
        good_until: seconds since the epoch from which the clock alone may change it; None: never.
        etag: its strong validator, quoted.
        body: the bytes, coded as the headers say; None where they lie on disk.
        path, size: of the file on disk whose whole content the body is, where `body` is None.
        used: to be called for each time it is given, as for a last use.
    """

    stamp: Stamp
    good_until: float | None
    etag: str
    body: bytes | None
    path: str = ""
    size: int = 0
    used: Callable[[], None] | None = None


REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", Caller)
"""Missing as long as, and where, no credentials were recognised."""
DECIDED = web.RequestKey("decided", Decision)
ROUTE: web.RequestKey[Route] = web.RequestKey("route", str)  # type: ignore[arg-type]  # a Literal is no class
"""What the request is for, as metrics tell it."""
API = web.RequestKey("api", bool)
"""The address is one of an API: its errors are always JSON (contract 10)."""
FAILURE = web.RequestKey("failure", str)
"""Why the answer is no success, in a sentence."""
BEGUN = web.RequestKey("begun", bool)
"""The head of the answer is out: no other can follow."""
KEEP = web.RequestKey("keep", Keepable)
"""The answer is one that may be kept finished (web.front)."""
SENT = web.RequestKey("sent", int)
"""Bytes of a body that is streamed, as far as they went out."""
RUNNING = web.AppKey("running", Running)
"""Which instance is in force; for what goes on behind the answer."""
CLOSING = web.AppKey("closing", asyncio.Event)
"""Set once the server is about to end."""
UNDER_WAY = web.AppKey("under_way", dict[str, web.Request])
"""The requests that are being answered, by their ids."""
