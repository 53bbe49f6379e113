"""What is known of an upstream's files beyond its page, and the page as it is screened by that (contract 4.7).

Held files and first sights stand in the registry; both are read in one go, after the page was come by, since whoever
fetched it may have written them. Advisories lie in memory. Nothing is read that no rule asks for.

A page is screened when somebody needs it, and then anew for each: what is made of it is kept by its token
(`index.variants`). Only where the clock counts it is screened at once, since nothing else tells for how long the
answer is good; between two such moments it comes out the same, whatever the time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from sqlalchemy import Connection

from proxy.cache.held import held_files, held_names
from proxy.cache.revalidated import Cached
from proxy.cache.sightings import Sightings, first_seen
from proxy.domain.advisories import Advisory
from proxy.domain.decision import FileRules
from proxy.domain.merging import Ours, merge
from proxy.domain.names import Name
from proxy.domain.pages import Page
from proxy.domain.screen import Circumstances, Screened, Withheld, screen
from proxy.errors import StorageError
from proxy.storage.board import ADVISORIES, HELD, Board, Stamp, held_topic
from proxy.storage.database import Database

_OFF_LOOP_FROM = 200
"""Files on a page from which screening takes a millisecond."""
_SIGHT = 200
_KNOWN = 1 << 10
"""Bytes of a first sight, and of a held file or an advisory."""
_NOTHING = Circumstances()
AT_ONCE = 0.0
"""The end of what must not be given a second time."""

AdvisoriesOf: TypeAlias = Callable[[Name], tuple[Advisory, ...]]
"""What is known of a name's vulnerabilities; nothing where no database of them is configured."""


def is_timed(rules: FileRules) -> bool:
    """Whether what passes depends on how old a file is, and so on the clock."""
    return bool(rules.min_age) or rules.uploaded_before is not None or rules.as_of is not None


def asks_advisories(rules: FileRules) -> bool:
    """Whether known vulnerabilities count (contract 3, `vulnerable` and `min_age_fixes`)."""
    return rules.vulnerable != "off" or (bool(rules.min_age) and rules.min_age_fixes)


class Sources:
    """Where circumstances are read. Owned by one event loop."""

    def __init__(
        self, registry: Database, board: Board, sightings: Sightings, advisories_of: AdvisoriesOf
    ) -> None:
        """Take the database in which held files and first sights stand, its board, and what writes the latter."""
        self._registry = registry
        self._board = board
        self._sightings = sightings
        self._advisories_of = advisories_of
        # Of nearly all names nothing is held: that is told without a query for each.
        self._held: tuple[Stamp, frozenset[tuple[str, str]]] | None = None

    def topics(self, upstream: str, name: Name, rules: FileRules) -> tuple[str, ...]:
        """What `read` depends on."""
        held = held_topic(upstream, name)
        return (held, ADVISORIES) if asks_advisories(rules) else (held,)

    async def read(
        self, upstream: str, name: Name, rules: FileRules, cached: Cached[Page] | None
    ) -> Circumstances:
        """What is known beyond a page, as far as `rules` ask for it.

        Args:
            cached: the page; None: the upstream has no such project.

        Raises:
            StorageError: the registry cannot be read, or advisories by which versions are denied.
        """
        advisories = self._advisories(name, rules)
        page = await cached.decoded() if cached is not None and is_timed(rules) else None
        undated = [] if page is None else [file.key for file in page.files if file.uploaded is None]

        is_held = (upstream, name) in await self._held_names()
        if not undated and not is_held:
            return Circumstances(advisories=advisories) if advisories else _NOTHING

        def query(connection: Connection) -> Circumstances:
            seen = first_seen(connection, upstream, name) if undated else {}
            held = held_files(connection, upstream, name) if is_held else ()
            return Circumstances(seen, held, advisories)

        known = await self._registry.read(query)
        if page is not None and not known.first_seen.keys() >= set(undated):
            self._sightings.note(upstream, name, page)
        return known

    async def _held_names(self) -> frozenset[tuple[str, str]]:
        if self._held is not None and self._board.holds(self._held[0]):
            return self._held[1]
        stamp = self._board.stamp((HELD,))[1:]
        names = await self._registry.read(held_names)
        self._held = (stamp, names) if self._board.is_settled(stamp) else None
        return names

    def _advisories(self, name: Name, rules: FileRules) -> tuple[Advisory, ...]:
        if not asks_advisories(rules):
            return ()
        try:
            return self._advisories_of(name)
        except StorageError:
            # Where they only tell, or let more through, files are served without them.
            if rules.vulnerable == "deny":
                raise
            return ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A page of an upstream, to be read and screened by whoever needs it: calling it does.

    Attributes:
        cached: the page; None: the upstream has no such project, and only what is held of it counts.
        ours: of a merged name: reads what is private of it.
        earlier: what is held of upstreams that were asked before, and had no such project.
        screened: how it comes out, where that is known already.
    """

    name: Name
    upstream: str
    cached: Cached[Page] | None
    rules: FileRules
    circumstances: Circumstances
    now: datetime
    ours: Callable[[], Awaitable[Ours]] | None = None
    earlier: tuple[Withheld, ...] = ()
    screened: Screened | None = None

    async def __call__(self) -> Screened:
        """Read and screen it.

        Raises:
            StorageError: it cannot be read.
        """
        if self.screened is not None:
            return self.screened
        page = Page(self.name) if self.cached is None else await self.cached.decoded()
        ours = None if self.ours is None else await self.ours()
        if len(page.files) >= _OFF_LOOP_FROM:
            return await asyncio.to_thread(self._made, page, ours)
        return self._made(page, ours)

    async def at_once(self) -> Reading:
        """The same, read and screened already; see `__call__`."""
        return replace(self, screened=await self())

    @property
    def token(self) -> str:
        """What names it: equal for equal content, screened alike and, as far as that is known, for as long."""
        return digest(
            "" if self.cached is None else self.cached.token,
            self.rules.token,
            self.circumstances.token,
            self.earlier,
            None if self.screened is None else self.screened.good_until,
        )

    @property
    def offers(self) -> bool:
        """Whether a file is listed, as far as it was screened."""
        return self.screened is not None and bool(self.screened.page.files)

    @property
    def withheld(self) -> tuple[Withheld, ...]:
        """What is not served, as far as it was screened."""
        return () if self.screened is None else self.screened.withheld

    def until(self, good_until: float | None) -> float | None:
        """The end of what stands on this and on what is good until `good_until`, in seconds of the epoch."""
        end = None if self.screened is None else self.screened.good_until
        return good_until if end is None else earliest(good_until, end.timestamp())

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, decoded or not."""
        known = self.circumstances
        beyond = _SIGHT * len(known.first_seen) + _KNOWN * (len(known.held) + len(known.advisories))
        return beyond + (0 if self.cached is None else self.cached.size)

    def _made(self, page: Page, ours: Ours | None) -> Screened:
        if ours is None:
            screened = screen(page, self.rules, self.circumstances, self.now)
        else:
            screened = merge(ours, page, self.upstream, self.rules, self.circumstances, self.now)
        return and_held(screened, self.earlier)


def and_held(screened: Screened, held: tuple[Withheld, ...]) -> Screened:
    """A page, and behind what is withheld of it files that an upstream removed which was asked before.

    What another offers in their place is served.
    """
    if not held:
        return screened
    offered = {(file.filename, key) for file in screened.page.files for key in (None, file.key)}
    left = tuple(file for file in held if (file.filename, file.key) not in offered)
    return replace(screened, withheld=(*screened.withheld, *left))


def earliest(one: float | None, other: float | None) -> float:
    """The earlier of two ends of what is known, in seconds of the epoch; at once where the second is not known."""
    if other is None:
        return AT_ONCE
    return other if one is None else min(one, other)


def digest(*parts: object) -> str:
    """What names an answer by its parts, whose `repr` tells all of them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
