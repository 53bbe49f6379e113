"""What is noted of a request on its way, and of the application: for its answer, and for its line in the log."""

from __future__ import annotations

import asyncio

from aiohttp import web

from proxy.domain.access import Caller
from proxy.domain.decide import Decision
from proxy.observe.metrics import Route

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
SENT = web.RequestKey("sent", int)
"""Bytes of a body that is streamed, as far as they went out."""
CLOSING = web.AppKey("closing", asyncio.Event)
"""Set once the server is about to end."""
UNDER_WAY = web.AppKey("under_way", dict[str, web.Request])
"""The requests that are being answered, by their ids."""
