"""The confusion radar: names of upstreams that meet a claim, or look like a claimed name, and since when.

Claimed names are never forwarded, so whoever asks this server alone is safe. Whoever asks an upstream beside it, or
mistypes a name, is not; that is what the list is for (contract 9, `audit confusion`).

It is made of the kept lists of names alone: to ask an upstream for a claimed name would tell it that name. A list is
fetched whole, and only where something is claimed. One process of a serving instance looks after every new list, and
once a day; commands look at once. The table `confusions` belongs to this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, delete, func, insert, or_, select

from proxy.cache.known_names import KnownNames
from proxy.domain.moments import iso
from proxy.domain.names import Name, PatternSet, look_alike_key
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.sorted_names import PIECE, SortedNames, lines
from proxy.errors import OverlayError, StorageError, StoreUnavailable
from proxy.registry import listing
from proxy.registry.claims import Kind, kind_of
from proxy.registry.listing import ALL, Window
from proxy.storage.database import Change, Database
from proxy.storage.locks import Locks
from proxy.storage.tables import confusions, packages

SETTLING = timedelta(minutes=5)
"""So long after its start a server leaves upstreams alone."""
LOOKED_AFTER = timedelta(days=1)
"""So often it looks where no list is new: names are claimed meanwhile."""
AGAIN_AFTER = timedelta(hours=1)
"""… and after a failure."""
MOST_OF_ONE = 1000
"""Names of one upstream that are noted for one claim: a pattern such as `*` meets all that there are."""

_MOST_LINES = 20
"""Lines of the log about one look."""
_ROWS_AT_ONCE = 500
"""Rows that are written in one go: some milliseconds in which nobody else writes."""
_OURS = "radar"
"""The lock of the process that looks."""
_WRITING = "radar-writing"
_PATIENCE = timedelta(seconds=30)

_log = logging.getLogger(__name__)

Row = TypeVar("Row")


class Match(StrEnum):
    """How a name of an upstream meets a claim: it is that name or one of that pattern, or looks like that name."""

    SAME = "same"
    LOOK_ALIKE = "look-alike"


class Claim(NamedTuple):
    """What a tenant claims: a name, or a pattern that it reserves. The instance's path is empty."""

    tenant: NamespacePath
    text: str
    kind: Kind


class Confusion(NamedTuple):
    """A name of an upstream that meets a claim."""

    tenant: NamespacePath
    claim: str
    kind: Kind
    upstream: str
    name: Name
    match: Match


class Excess(NamedTuple):
    """A claim that meets so many names of one upstream that only the first `MOST_OF_ONE` are noted."""

    claim: Claim
    upstream: str
    names: int


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a look.

    Attributes:
        new: what was not known before.
        excess: claims of which not all names are noted.
        failed: upstreams whose names are not known, and why. What was noted of them stays.
    """

    new: tuple[Confusion, ...]
    excess: tuple[Excess, ...]
    failed: Mapping[str, OverlayError]


Progress = Callable[[int, int, str], None]
"""Takes how many upstreams are done, of how many, and what is done now. Called in any thread."""


class Radar:
    """Looks for confusions under one configuration. Owned by one event loop."""

    def __init__(
        self,
        tree: Tree,
        registry: Database,
        known: KnownNames,
        locks: Locks,
        now: Callable[[], datetime],
        started_at: datetime,
    ) -> None:
        """Take the tree of the configuration, and since when the instance serves; touches nothing."""
        self._tree = tree
        self._registry = registry
        self._known = known
        self._locks = locks
        self._now = now
        self._settled_at = started_at + SETTLING
        self._is_ours = False
        self._looked_at: dict[str, str] = {}
        self._due_at: datetime | None = None

    async def look(self) -> None:
        """Check where it is time and no other process does, and tell what is new in the log; else return at once.

        To be called again and again by every serving process, and `rest` once at the end.
        """
        if self._now() < self._settled_at or not self._hold():
            return
        try:
            upstreams = self._upstreams()
            await self._known.refresh(upstreams)
            lists = await self._lists(upstreams)
            digests = {upstream: names.digest for upstream, names in lists.items()}
            if digests == self._looked_at and self._due_at is not None and self._now() < self._due_at:
                return
            self._looked_at, self._due_at = digests, self._now() + AGAIN_AFTER
            checked = await asyncio.to_thread(self._check, lists, upstreams, None)
            self._due_at = self._now() + LOOKED_AFTER
        except StorageError as error:
            _log.warning("claimed names could not be looked for at upstreams: %s", error)
            return
        _tell(checked)

    def rest(self) -> None:
        """Leave looking to other processes."""
        if self._is_ours:
            self._is_ours = False
            self._locks.release(_OURS)

    async def check(self, progress: Progress | None = None) -> Checked:
        """Look now, with the lists as they are; those that are missing or due are fetched first.

        Raises:
            StorageError: the registry cannot be read or changed.
        """
        upstreams = self._upstreams()
        for done, upstream in enumerate(upstreams):
            if progress is not None:
                progress(done, len(upstreams), f"the names of {upstream}")
            await self._known.refresh([upstream])
        lists = await self._lists(upstreams)
        return await asyncio.to_thread(self._check, lists, upstreams, progress)

    def _hold(self) -> bool:
        self._is_ours = self._is_ours or self._locks.try_hold(_OURS)
        return self._is_ours

    def _upstreams(self) -> list[str]:
        """The upstreams that some index forwards to; none where nothing is claimed: then nobody need be asked."""
        if not self._registry.read_now(_has_packages) and not self._reserved():
            return []
        return sorted(upstreams_forwarded(self._tree))

    def _reserved(self) -> list[Claim]:
        now = self._now()
        return [
            Claim(owner, rule.pattern, Kind.RESERVE)
            for owner, rule in self._tree.all_reserves()
            if not rule.is_void(now)
        ]

    async def _lists(self, upstreams: Iterable[str]) -> dict[str, SortedNames]:
        found = {upstream: await self._known.peek(upstream) for upstream in upstreams}
        return {upstream: names for upstream, names in found.items() if names is not None}

    def _check(
        self, lists: Mapping[str, SortedNames], upstreams: Sequence[str], progress: Progress | None
    ) -> Checked:
        """Look through `lists`, and note what is found. For a thread: seconds of work where much is claimed."""
        published = self._registry.read_now(listing.claims)
        claims = [Claim(self._tree.owner(claim.project), claim.name, kind_of(claim)) for claim in published]
        sought = Sought.of(dict.fromkeys((*claims, *self._reserved())))
        found: list[Confusion] = []
        excess: list[Excess] = []
        for done, (upstream, names) in enumerate(lists.items()):
            if progress is not None:
                progress(done, len(lists), f"claimed names among {len(names)} of {upstream}")
            here, too_many = sought.among(names, upstream)
            found += here
            excess += too_many
        missing = {upstream: self._failure(upstream) for upstream in upstreams if upstream not in lists}
        with self._locks.holding(_WRITING, _PATIENCE):
            new = self._note(found, frozenset(missing))
        return Checked(new, tuple(excess), missing)

    def _failure(self, upstream: str) -> OverlayError:
        return self._known.failure(upstream) or StoreUnavailable(
            f"no list of the names of {upstream} is kept"
        )

    def _note(self, found: Sequence[Confusion], unknown: Collection[str]) -> tuple[Confusion, ...]:
        """Make the table say what was found, but of the upstreams `unknown`; return what it did not say."""
        noted = self._registry.read_now(_noted)
        # A deleted package leaves a tombstone: what met the one meets the other for as long.
        since: dict[tuple[str, ...], datetime] = {}
        for confusion, (_, first_seen) in noted.items():
            place = _place(confusion)
            since[place] = min(first_seen, since.get(place, first_seen))
        now, stay = self._now(), frozenset(found)
        gone = [
            number
            for confusion, (number, _) in noted.items()
            if confusion not in stay and confusion.upstream not in unknown
        ]
        come = [
            {**confusion._asdict(), "first_seen": since.get(_place(confusion), now)}
            for confusion in found
            if confusion not in noted
        ]
        for numbers in _in_pieces(gone):
            self._registry.change_now(partial(_forget, numbers=numbers))
        for rows in _in_pieces(come):
            self._registry.change_now(partial(_add, rows=rows))
        return tuple(confusion for confusion in found if _place(confusion) not in since)


@dataclass(frozen=True, slots=True)
class Sought:
    """Claims, made ready to be found among many names.

    Attributes:
        named: the look-alike key of a claimed name → the claims of names with that key.
        begun: patterns that are nothing but a beginning (`acme-*`): that beginning, and the claim.
        others: all other patterns, compiled together, each with its claim.
    """

    named: Mapping[str, Sequence[Claim]]
    begun: Sequence[tuple[str, Claim]]
    others: tuple[PatternSet, Sequence[Claim]]

    @classmethod
    def of(cls, claims: Iterable[Claim]) -> Sought:
        """Make claims ready, of which each stands there once."""
        named: dict[str, list[Claim]] = {}
        begun: list[tuple[str, Claim]] = []
        others: list[Claim] = []
        for claim in claims:
            first, star, rest = claim.text.partition("*")
            if not star:
                named.setdefault(look_alike_key(Name(claim.text)), []).append(claim)
            elif not rest.strip("*"):
                begun.append((first, claim))
            else:
                others.append(claim)
        return cls(named, begun, (PatternSet.of(claim.text for claim in others), others))

    def among(self, names: SortedNames, upstream: str) -> tuple[list[Confusion], list[Excess]]:
        """The names of an upstream that meet a claim, and the claims that meet too many of them.

        CPU work, for a thread. It takes the interpreter a millisecond at a time.
        """
        found: list[Confusion] = []
        met: Counter[Claim] = Counter()
        for claim, name in self._pairs(names, met):
            met[claim] += 1
            if met[claim] <= MOST_OF_ONE:
                match = Match.SAME if "*" in claim.text or name == claim.text else Match.LOOK_ALIKE
                found.append(Confusion(*claim, upstream, name, match))
        excess = [Excess(claim, upstream, count) for claim, count in met.items() if count > MOST_OF_ONE]
        return found, excess

    def _pairs(self, names: SortedNames, met: Counter[Claim]) -> Iterator[tuple[Claim, Name]]:
        for name in names.alike(self.named.keys()):
            for claim in self.named[look_alike_key(name)]:
                yield claim, name
        for first, claim in self.begun:
            positions = names.beginning(first)
            yield from ((claim, names[position]) for position in positions[:MOST_OF_ONE])
            # Those beyond need only be counted.
            met[claim] += max(0, len(positions) - MOST_OF_ONE)
        patterns, claims = self.others
        for begin in range(0, len(names) if claims else 0, PIECE):
            for name in lines(names.text(begin, min(begin + PIECE, len(names)))):
                for position in patterns.matches(name):
                    yield claims[position], name


def upstreams_forwarded(tree: Tree) -> frozenset[str]:
    """The upstreams that some index forwards to."""
    return frozenset(
        upstream for namespace in tree if namespace.policy.forward for upstream in namespace.policy.upstreams
    )


def list_confusions(
    connection: Connection,
    *,
    tenant: NamespacePath | None = None,
    name: Name | None = None,
    since: datetime | None = None,
    window: Window = ALL,
) -> list[dict[str, object]]:
    """What was noted at the last look, in the shape `confusion` of contract 12, by tenant and claim.

    Args:
        tenant: only what it claims; None: of all.
        name: only what has this name at the upstream, or claims it.
        since: only what was first seen then or later.
    """
    columns = confusions.c
    chosen = (
        select(confusions)
        .order_by(columns.tenant, columns.claim, columns.kind, columns.upstream, columns.name, columns.match)
        .limit(window.limit)
        .offset(window.offset)
    )
    if tenant is not None:
        chosen = chosen.where(columns.tenant == tenant)
    if name is not None:
        chosen = chosen.where(or_(columns.name == name, columns.claim == name))
    if since is not None:
        chosen = chosen.where(columns.first_seen >= since)
    return [
        {
            "name": row.name,
            "tenant": row.tenant or "/",
            "claim": row.claim,
            "kind": row.kind,
            "upstream": row.upstream,
            "match": row.match,
            "first_seen": iso(row.first_seen),
        }
        for row in connection.execute(chosen)
    ]


def count_confusions(connection: Connection) -> dict[tuple[str, str], int]:
    """How many are noted of each kind and match; all of them are there, with 0 where there is none."""
    columns = confusions.c
    found = {(str(kind), str(match)): 0 for kind in Kind for match in Match}
    for kind, match, count in connection.execute(
        select(columns.kind, columns.match, func.count()).group_by(columns.kind, columns.match)
    ):
        found[kind, match] = count
    return found


def _has_packages(connection: Connection) -> bool:
    return connection.execute(select(packages.c.id).limit(1)).first() is not None


def _noted(connection: Connection) -> dict[Confusion, tuple[int, datetime]]:
    """Every row: its number, and when it was first seen."""
    return {
        Confusion(
            NamespacePath(row.tenant),
            row.claim,
            Kind(row.kind),
            row.upstream,
            Name(row.name),
            Match(row.match),
        ): (row.id, row.first_seen)
        for row in connection.execute(select(confusions))
    }


def _place(confusion: Confusion) -> tuple[str, ...]:
    """What makes a confusion the same as one that was noted, however the name is claimed by now."""
    return confusion.tenant, confusion.claim, confusion.upstream, confusion.name


def _forget(change: Change, *, numbers: Sequence[int]) -> None:
    change.connection.execute(delete(confusions).where(confusions.c.id.in_(numbers)))


def _add(change: Change, *, rows: Sequence[Mapping[str, object]]) -> None:
    change.connection.execute(insert(confusions), rows)


def _in_pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while piece := list(islice(left, _ROWS_AT_ONCE)):
        yield piece


def _tell(checked: Checked) -> None:
    by_claim: dict[tuple[str, str, str], list[Confusion]] = {}
    for confusion in checked.new:
        by_claim.setdefault((confusion.tenant, confusion.claim, confusion.upstream), []).append(confusion)
    for (tenant, claim, upstream), new in islice(by_claim.items(), _MOST_LINES):
        _log.warning(
            "%s has %s, which meets %s of %s (%s)%s",
            upstream,
            new[0].name,
            claim,
            tenant or "the instance",
            new[0].match,
            "" if len(new) == 1 else f", and {len(new) - 1} more; audit confusion lists them",
        )
    if len(by_claim) > _MOST_LINES:
        more = len(by_claim) - _MOST_LINES
        _log.warning("names of upstreams meet %s more claims; audit confusion lists them", more)
