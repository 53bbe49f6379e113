"""What log, metrics, tokens and records are told of requests: of each that a handler answered, of many that the front
did.

Both come to the same lines, counts and records: nobody who reads them can tell which way an answer went, but by its
time. A download is recorded once all of it has left, be it a part that was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from aiohttp import web

from proxy.domain.access import ANONYMOUS, Caller
from proxy.domain.addresses import split_target
from proxy.index.instance import Instance, Running
from proxy.observe.logs import AccessEntry, Logger
from proxy.observe.metrics import Answered
from proxy.observe.metrics import Given as Counted
from proxy.observe.redaction import redact
from proxy.observe.requests import Recorded, Who, line_of
from proxy.storage.downloads import Client, Download
from proxy.web.callers import Callers
from proxy.web.finished import Given, Kept
from proxy.web.notes import CALLER, DECIDED, FAILURE, REQUEST_ID, ROUTE, SENT, SUBJECT, Subject

_CALLERS_TOLD = 4096
"""Rendered callers with their programs, and callers with addresses, that are kept; then it begins anew."""
_WHOLE = frozenset({200, 206})
"""Statuses of answers with which a file leaves, or a part of it."""


class Observer:
    """Tells of requests. Owned by one event loop."""

    def __init__(self, logger: Logger, running: Running, callers_of: Callable[[Instance], Callers]) -> None:
        self._access = logger.access_log()
        self._running = running
        self._callers_of = callers_of
        self._told: dict[tuple[str, int | None, str | None, str | None, tuple[str, ...], str], str] = {}
        self._clients: dict[Client, Client] = {}

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
        caller = request.get(CALLER, ANONYMOUS)
        subject = request.get(SUBJECT)
        if subject is not None:
            self._record(instance, request, subject, status)
        if not self._access.is_enabled:
            return
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
            warned=() if subject is None else subject.warned,
            agent=_shown_agent(request.headers.get("User-Agent", "")),
        )
        client = self._callers_of(instance).address(request)
        self._access.write([(told, request[REQUEST_ID], time.time(), seconds, client)])

    def answered_again(self, given: Sequence[Given]) -> None:
        """Tell of answers that were given without a handler."""
        instance = self._running.latest
        alike: dict[Kept, tuple[int, float]] = {}
        for one in given:
            times, took = alike.get(one.kept, (0, 0.0))
            alike[one.kept] = times + 1, took + one.seconds
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
        addresses = _Addresses(self._callers_of(instance))
        self._record_again(instance, given, alike, addresses)
        if self._access.is_enabled:
            for kept in alike:
                self._tell(kept)
            self._access.write(_entries(given, addresses))

    def _record(self, instance: Instance, request: web.Request, subject: Subject, status: int) -> None:
        """Note what one handler answered: warnings, a download, and the request itself."""
        caller, second = request.get(CALLER, ANONYMOUS), int(time.time())
        if subject.warned:
            instance.metrics.warned(map(_key_of, subject.warned))
        fetched = subject.fetched
        if (
            fetched is not None
            and status in _WHOLE
            and request.method == "GET"
            and _keeps_downloads(instance)
        ):
            address = self._callers_of(instance).address(request)
            instance.downloads.note(fetched, _client(caller, address), second)
        decision = request.get(DECIDED)
        if instance.request_log is not None and decision is not None:
            line = line_of(_recorded(subject, caller, str(decision.word), decision.rule))
            instance.request_log.note(line, second)

    def _record_again(
        self,
        instance: Instance,
        given: Sequence[Given],
        alike: Mapping[Kept, tuple[int, float]],
        addresses: _Addresses,
    ) -> None:
        """Note what the front answered. What was given at nearly the same time counts as given in one second.

        Args:
            alike: how often each was given, and the seconds that it took.
        """
        if not given:
            return
        second, log = int(given[0].at), instance.request_log
        if _keeps_downloads(instance):
            instance.downloads.note_all(self._downloads(instance, given, addresses), second)
        for kept, (times, _) in alike.items():
            answer = kept.answer
            if answer.warned:
                instance.metrics.warned(map(_key_of, answer.warned), times)
            if log is not None and answer.subject is not None:
                if kept.recorded is None:
                    kept.recorded = line_of(
                        _recorded(answer.subject, kept.caller, answer.word or "", answer.rule)
                    )
                log.note(kept.recorded, second, times)

    def _downloads(self, instance: Instance, given: Sequence[Given], addresses: _Addresses) -> list[Download]:
        """The files that left, each ready to be noted."""
        found = []
        for one in given:
            kept, peer = one.kept, one.peer
            download = kept.download
            if download is None or kept.peer != peer:
                if kept.fetched is None:
                    continue
                client = _client(kept.caller, addresses.of(peer, kept))
                if len(self._clients) >= _CALLERS_TOLD:
                    self._clients.clear()
                # One object for all of its downloads: what is looked at again and again should be one.
                client = self._clients.setdefault(client, client)
                kept.download = download = instance.downloads.ready(kept.fetched, client)
                kept.peer = peer
            found.append(download)
        return found

    def _tell(self, kept: Kept) -> None:
        """Render what the log says of a kept answer, as far as that has not been done."""
        answer, form, caller = kept.answer, kept.form, kept.caller
        if kept.told is not None and form.told is not None:
            return
        agent = _shown_agent(_text(kept.agent))
        warned = answer.warned
        key = (caller.label, caller.token, answer.word, answer.rule, warned, agent)
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
            warned=warned,
            agent=agent,
        )
        form.told = before
        if len(self._told) >= _CALLERS_TOLD:
            self._told.clear()
        kept.told = self._told.setdefault(key, behind)


class _Addresses:
    """The addresses of clients behind trusted proxies, each found out once."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._found: dict[tuple[str, bytes], str] = {}

    def of(self, peer: str, kept: Kept) -> str:
        way = (peer, kept.forwarded)
        address = self._found.get(way)
        if address is None:
            address = self._found[way] = self._callers.address_behind(peer, _text(kept.forwarded))
        return address


def _entries(given: Sequence[Given], addresses: _Addresses) -> Iterator[AccessEntry]:
    for one in given:
        kept = one.kept
        # `_tell` has filled both in.
        told = kept.form.told or "", kept.told or ""
        yield told, one.request_id.decode(), one.at, one.seconds, addresses.of(one.peer, kept)


def _keeps_downloads(instance: Instance) -> bool:
    """Whether downloads are recorded at all: not where they would be kept for no time."""
    return bool(instance.snapshot.audit.downloads)


def _client(caller: Caller, address: str) -> Client:
    return Client(caller.token, caller.name or None, address)


def _recorded(subject: Subject, caller: Caller, word: str, rule: str | None) -> Recorded:
    return Recorded(
        index=subject.index,
        name=subject.name,
        caller=Who(
            kind=caller.kind,
            user=caller.name or None,
            token=caller.token,
            scopes=tuple(sorted(caller.scopes)),
            homes=caller.homes,
        ),
        decision=word,
        filename=subject.filename,
        key=subject.key,
        as_of=subject.as_of,
        rule=rule,
    )


def _key_of(rule: str) -> str:
    """The policy key that a rule is of, which is its first word."""
    return rule.partition(" ")[0]


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
