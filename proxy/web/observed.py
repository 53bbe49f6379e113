"""What log, metrics and tokens are told of requests: of each that a handler answered, and of many that the front did.

Both come to the same lines and counts: nobody who reads them can tell which way an answer went, but by its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote

from aiohttp import web

from proxy.domain.access import ANONYMOUS
from proxy.domain.addresses import split_target
from proxy.index.instance import Instance, Running
from proxy.observe.logs import AccessEntry, Logger
from proxy.observe.metrics import Answered
from proxy.observe.metrics import Given as Counted
from proxy.observe.redaction import redact
from proxy.web.callers import Callers
from proxy.web.finished import Given, Kept
from proxy.web.notes import CALLER, DECIDED, FAILURE, REQUEST_ID, ROUTE, SENT

_CALLERS_TOLD = 4096
"""Rendered callers with their programs that are kept; then it begins anew."""


class Observer:
    """Tells of requests. Owned by one event loop."""

    def __init__(self, logger: Logger, running: Running, callers_of: Callable[[Instance], Callers]) -> None:
        self._access = logger.access_log()
        self._running = running
        self._callers_of = callers_of
        self._told: dict[tuple[str, int | None, str | None, str | None, str], str] = {}

    def begun(self) -> None:
        """Count a request that a handler begins with; `answered` follows in any case."""
        self._running.latest.metrics.begun()

    def answered(
        self, request: web.Request, status: int, sent: int, cache_status: str, seconds: float
    ) -> None:
        """Tell of a request that was answered or broken off.

        Args:
            status: 499 where the connection broke off.
            sent: bytes of the body, unless `notes.SENT` knows better.
            cache_status: the header; empty where there is none.
            seconds: that it took.
        """
        instance = self._running.latest
        decision = request.get(DECIDED)
        sent = request.get(SENT, sent)
        word = decision.word if decision is not None else None
        instance.metrics.answered(
            request.get(ROUTE, "other"), request.method, status, word, cache_status, sent, seconds
        )
        if not self._access.is_enabled:
            return
        caller = request.get(CALLER, ANONYMOUS)
        told = self._access.tell(
            method=request.method,
            path=shown_path(request.raw_path),
            status=status,
            sent=sent,
            caller=caller.label,
            token=caller.token,
            decision=None if decision is None else str(decision.word),
            rule=None if decision is None else decision.rule,
            failure=request.get(FAILURE),
            agent=_shown_agent(request.headers.get("User-Agent", "")),
        )
        client = self._callers_of(instance).address(request)
        self._access.write([(told, request[REQUEST_ID], time.time(), seconds, client)])

    def answered_again(self, given: Sequence[Given]) -> None:
        """Tell of answers that were given without a handler."""
        instance = self._running.latest
        alike: dict[Kept, tuple[int, float]] = {}
        for kept, _, _, _, seconds in given:
            times, took = alike.get(kept, (0, 0.0))
            alike[kept] = times + 1, took + seconds
        counted: dict[Answered, Counted] = {}
        for kept, (times, took) in alike.items():
            answer, form = kept.answer, kept.form
            key = (answer.route, form.method, form.status, answer.word, answer.cache_status)
            before = counted.get(key, Counted(0, 0, 0.0))
            counted[key] = Counted(
                before.times + times, before.sent + times * form.sent, before.seconds + took
            )
        instance.metrics.answered_many(counted)
        tokens = {kept.caller.token for kept in alike if kept.caller.token is not None}
        if tokens:
            now = instance.now()
            for token in tokens:
                instance.last_use.note(token, now)
        if self._access.is_enabled:
            for kept in alike:
                self._tell(kept)
            self._access.write(_entries(given, self._callers_of(instance)))

    def _tell(self, kept: Kept) -> None:
        """Render what the log says of a kept answer, as far as that has not been done."""
        answer, form, caller = kept.answer, kept.form, kept.caller
        if kept.told is not None and form.told is not None:
            return
        agent = _shown_agent(_text(kept.agent))
        key = (caller.label, caller.token, answer.word, answer.rule, agent)
        kept.told = self._told.get(key)
        if kept.told is not None and form.told is not None:
            return
        before, behind = self._access.tell(
            method=form.method,
            path=shown_path(_text(answer.key[0])),
            status=form.status,
            sent=form.sent,
            caller=caller.label,
            token=caller.token,
            decision=answer.word,
            rule=answer.rule,
            failure=None,
            agent=agent,
        )
        form.told = before
        if len(self._told) >= _CALLERS_TOLD:
            self._told.clear()
        kept.told = self._told.setdefault(key, behind)


def _entries(given: Sequence[Given], callers: Callers) -> Iterator[AccessEntry]:
    addresses: dict[tuple[str, bytes], str] = {}
    for kept, peer, request_id, at, seconds in given:
        way = (peer, kept.forwarded)
        address = addresses.get(way)
        if address is None:
            address = addresses[way] = callers.address_behind(peer, _text(kept.forwarded))
        # `_tell` has filled both in.
        yield (kept.form.told or "", kept.told or ""), request_id.decode(), at, seconds, address


def shown_path(target: str) -> str:
    """The path of a target as it was sent, or decoded where only so a secret shows and is hidden; without the query.

    In a query a careless client may have put a secret.
    """
    path = split_target(target)[0]
    decoded = unquote(path)
    hidden = redact(decoded)
    return (redact(path) if hidden == decoded else hidden)[:1000]


def _shown_agent(agent: str) -> str:
    """What a client calls itself: pip and uv add a page of JSON about the machine behind their name."""
    return agent.partition(" {")[0][:80]


def _text(value: bytes) -> str:
    # As aiohttp has it.
    return value.decode("utf-8", "surrogateescape")


OBSERVER = web.AppKey("observer", Observer)
"""Who tells of an application's requests (`web.app.build`)."""
