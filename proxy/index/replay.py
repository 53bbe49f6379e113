"""Recorded requests, decided again: what another configuration would change (`config replay`).

Each request is decided under two instances that ask no upstream: what is kept of one is all that is known of it.
Where nothing is kept, what counts is whether the upstreams would be asked. Pages are compared by their decision, and
files each by its own.

Callers are made anew under each configuration: users have the roles that it gives them, tokens are looked up in the
registry, revoked and expired ones too, and a caller whose token is gone stays what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from proxy.domain.access import ANONYMOUS, Caller, CallerKind, Sight, sight
from proxy.domain.addresses import place_named
from proxy.domain.decision import Asked, Decision, Word
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import NamespacePath
from proxy.errors import InvalidName, NoSuchNamespace, NotAuthenticated, NotFound
from proxy.identity.credentials import caller_of
from proxy.identity.tokens import get_token
from proxy.index.answers import Borrowed, FileAnswer
from proxy.index.instance import Instance
from proxy.observe.requests import Recorded, Who

UNAUTHORIZED = "unauthorized"
"""In place of a decision: the caller would be told to say who it is."""
NO_NAMESPACE = "unknown namespace"
"""In place of a decision: the index is not there, or the caller may not know of it."""
NO_FILE = "no such file"
"""In place of a decision: the page of the name does not have the file."""

Report = Callable[[int, int], None]
"""Told how many of how many requests are decided."""


class Request(NamedTuple):
    """What is decided once, however often it was asked for."""

    name: str
    asked_at: str
    filename: str
    key: str
    as_of: datetime | None
    who: Who


class Outcome(NamedTuple):
    """What came of a request.

    Attributes:
        word: the decision's, or one of those above.
        rule: the one that decided, where there is one.
        source: the upstream that answers; empty where none does, or nobody knows which.
    """

    word: str
    rule: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A request that is decided differently."""

    request: Request
    before: Outcome
    after: Outcome
    times: int

    @property
    def shape(self) -> dict[str, object]:
        """One of `changed` in the shape `replay` of contract 12."""
        is_same = self.before.word == self.after.word
        before, after = (
            f"{each.word} {each.source}" if is_same else each.word for each in (self.before, self.after)
        )
        who = self.request.who
        return {
            "index": self.request.asked_at or "/",
            "name": self.request.name,
            "filename": self.request.filename or None,
            "caller": f"{who.kind}:{who.user}" if who.user else who.kind,
            "before": before,
            "after": after,
            "rule": self.after.rule or self.before.rule,
        }


def distinct(recorded: Iterable[Recorded | None]) -> Counter[Request]:
    """The requests of a record, each once, with how often it was made; those of one name stand together."""
    counted: Counter[Request] = Counter()
    for one in recorded:
        if one is not None:
            counted[Request(one.name, one.index, one.filename, one.key, one.as_of, one.caller)] += 1
    return Counter(
        dict(sorted(((one, times) for one, times in counted.items() if _is_sound(one)), key=_place))
    )


def _is_sound(request: Request) -> bool:
    """Whether its name is one: nothing else may become a path."""
    try:
        return parse_name(request.name) == request.name
    except InvalidName:
        return False


def _place(counted: tuple[Request, int]) -> tuple[str, str, str, str]:
    request = counted[0]
    return request.name, request.asked_at, request.who.kind, request.filename


async def replay(
    requests: Mapping[Request, int], before: Instance, after: Instance, report: Report | None = None
) -> list[Change]:
    """Decide every request under both configurations, and return those that come out differently.

    Args:
        before, after: made by `server.assembly.offline_instance`.

    Raises:
        StorageError: the data cannot be read.
    """
    judges = _Judge(before), _Judge(after)
    changes = []
    for number, (request, times) in enumerate(requests.items(), 1):
        was, would_be = [await judge.outcome(request) for judge in judges]
        if _differ(was, would_be):
            changes.append(Change(request, was, would_be, times))
        if report is not None and number % 100 == 0:
            report(number, len(requests))
    return changes


def _differ(one: Outcome, other: Outcome) -> bool:
    if one.word != other.word:
        return True
    return bool(one.source and other.source) and one.source != other.source


class _Judge:
    """Decides requests under one configuration. Those of equal rights are decided once."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._sights: dict[Who, Sight | None] = {}
        self._equal_sights: dict[Sight, Sight] = {}
        self._last: dict[tuple[str, str, str, datetime | None, Sight], Outcome] = {}
        self._name = ""

    async def outcome(self, request: Request) -> Outcome:
        """What comes of a request."""
        if request.who not in self._sights:
            self._sights[request.who] = await self._sight(request.who)
        seen = self._sights[request.who]
        if seen is None:
            return Outcome(UNAUTHORIZED)
        if request.name != self._name:
            # The others of this name follow.
            self._name = request.name
            self._last.clear()
        place = (request.asked_at, request.filename, request.key, request.as_of, seen)
        found = self._last.get(place)
        if found is None:
            found = self._last[place] = await self._decided(request, seen)
        return found

    async def _decided(self, request: Request, seen: Sight) -> Outcome:
        index = self._instance.index
        place = place_named(request.asked_at, self._instance.snapshot.tree)
        try:
            namespace = index.reach(place.path, place.namespace, seen)
        except NotAuthenticated:
            return Outcome(UNAUTHORIZED)
        except NoSuchNamespace:
            return Outcome(NO_NAMESPACE)
        asked = Asked(namespace, Name(request.name), seen, request.as_of)
        if not request.filename:
            return _of_decision((await index.page(asked)).decision)
        return _of_file(await index.file_of(asked, request.key, request.filename))

    async def _sight(self, who: Who) -> Sight | None:
        """What a caller sees; None where it is not let in."""
        try:
            caller = await self._caller(who)
        except NotAuthenticated:
            return None
        seen = sight(caller, self._instance.snapshot.tree)
        return self._equal_sights.setdefault(seen, seen)

    async def _caller(self, who: Who) -> Caller:
        """Who it is under this configuration.

        Raises:
            NotAuthenticated: nobody any more.
        """
        snapshot = self._instance.snapshot
        if who.kind is CallerKind.ANONYMOUS:
            return ANONYMOUS
        if who.token is not None:
            try:
                row = await self._instance.registry.read(partial(get_token, token_id=who.token))
                return caller_of(row, snapshot.tree, snapshot.users, self._instance.issuers.trust)
            except NotFound:
                pass
        if who.kind is CallerKind.USER and who.user not in snapshot.users:
            raise NotAuthenticated("the user is gone")
        homes = [snapshot.tree.get(NamespacePath(home)) for home in who.homes]
        return Caller(
            who.kind,
            who.user or "",
            who.token,
            frozenset(who.scopes),
            tuple(home.path for home in homes if home is not None),
        )


def _of_decision(decision: Decision) -> Outcome:
    if decision.word is Word.UNAVAILABLE:
        # Nothing is kept: all that is known is that upstreams are asked.
        return Outcome(Word.MERGED if decision.projects else Word.UPSTREAM)
    return Outcome(decision.word, decision.rule, decision.upstream or "")


def _of_file(answer: FileAnswer) -> Outcome:
    source = answer.source
    if source is not None:
        upstream = source.upstream if isinstance(source, Borrowed) else ""
        return Outcome(answer.decision.word, answer.decision.rule, upstream)
    if answer.withheld is not None:
        return Outcome(Word.WITHHELD, answer.withheld.rule)
    if answer.decision.word in {Word.PRIVATE, Word.UPSTREAM, Word.MERGED}:
        return Outcome(NO_FILE)
    return _of_decision(answer.decision)
