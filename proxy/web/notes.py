"""What is noted of a request on its way, and of the application: for its answer, and for its line in the log."""

from __future__ import annotations

import asyncio

from aiohttp import web

from proxy.domain.access import Caller
from proxy.domain.decide import Decision

REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", Caller)
"""Missing as long as, and where, no credentials were recognised."""
DECIDED = web.RequestKey("decided", Decision)
API = web.RequestKey("api", bool)
"""The address is one of an API: its errors are always JSON (contract 10)."""
FAILURE = web.RequestKey("failure", str)
"""Why the answer is no success, in a sentence."""
BEGUN = web.RequestKey("begun", bool)
"""The head of the answer is out: no other can follow."""
CLOSING = web.AppKey("closing", asyncio.Event)
"""Set once the server is about to end."""
UNDER_WAY = web.AppKey("under_way", dict[str, web.Request])
"""The requests that are being answered, by their ids."""
