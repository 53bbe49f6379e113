"""What an index answers for a name or a file: contract 4 in order, with the I/O between the pure steps.

Everything that carries a name or a file goes through `Index.page` or `Index.file`: routes, commands, explain.
Every answer is made under a stamp of the board (`storage.board`), taken before any fact is read. After a wait it
still has to hold, or everything is decided anew; and whoever waits between an answer and its first byte (to compress,
to open a transfer) asks `Index.holds` before sending it. Answers whose stamp was settled are kept, and given again
for as long as it holds: that costs neither a query nor a look at the disk.

The files of a page are read and screened when somebody needs them, which is seldom: what is made of a page is kept by
its token (`index.variants`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeAlias, TypeVar

from cachetools import LRUCache

from proxy.cache.pages import Pages
from proxy.cache.revalidated import Cached
from proxy.domain.access import Sight
from proxy.domain.decide import Asked, Decision, FileRules, Trouble, Word, decide
from proxy.domain.filenames import candidate_names
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.domain.pages import FileRecord, Page
from proxy.domain.screen import Screened, Withheld, screen
from proxy.errors import (
    NoSuchNamespace,
    NotAuthenticated,
    Outdated,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.registry import packages
from proxy.registry.packages import StoredFile
from proxy.storage.board import EVERYTHING_BORROWED, NAMESPACES, Board, Stamp, name_topic, page_topic
from proxy.storage.database import Database

ATTEMPTS = 10
"""How often an answer is decided anew because the facts changed meanwhile; each means a change of this name."""

_PAGES_KEPT = 16 << 20
"""Bytes of kept answers for pages: each counts `_DECISION`, and an upstream's the page as it lies on disk. Decoded
pages are not among them; `cache.revalidated` bounds those."""
_DECISION = 3 << 10
"""Bytes of a decision with its trail, its question and its stamp."""
_FILES_KEPT = 16_384
"""Answers for files: 1.5 KB each, and 3 more where a page has but one file that is asked for."""
_OFF_LOOP_FROM = 200
"""Files on a page from which screening takes a millisecond."""
_AT_ONCE = 0.0
_HIT = "hit"

Read: TypeAlias = Callable[[], Awaitable[Screened]]

UNKNOWN_NAMESPACE = "there is no group or project of this path or number"
"""Told alike of what is not there and of what the caller may not know of; the path behind a number is a secret."""


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A decision with the page it leads to.

    Attributes:
        basis: what it was decided on, the part of the stamp that has to hold when its first byte leaves.
        stamp: everything it depends on but the clock and who asks: `basis`, and what is kept of upstreams.
        is_keepable: whether it may be given again to everybody of this sight while `stamp` holds.
        good_until: seconds of the epoch from which the clock alone may change it; None: never. Always over where it
            is not keepable.
        cache_status: what RFC 9211 says of how the upstream's page was come by; else empty.
        token: names the files of the page and how they were screened; empty: do not keep what is made of them.
        weight: bytes that it holds in memory besides the decision.
    """

    asked: Asked
    decision: Decision
    basis: Stamp
    stamp: Stamp
    read: Read
    is_keepable: bool = False
    good_until: float | None = _AT_ONCE
    cache_status: str = ""
    token: str = ""
    weight: int = 0

    @property
    def is_served(self) -> bool:
        return self.decision.word in {Word.PRIVATE, Word.UPSTREAM, Word.MERGED}

    async def screened(self) -> Screened:
        """The page, without files where the word is a refusal. Read and screened anew by each call.

        Read after the stamp was taken, so it is the page of this answer if that holds afterwards.

        Raises:
            StorageError: it cannot be read.
        """
        return await self.read()


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A file of an upstream, as its page describes it."""

    upstream: str
    record: FileRecord


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A decision with the file it leads to: ours, an upstream's, or None where it is refused or unknown.

    `basis`, `stamp`, `is_keepable` and `good_until` are those of `PageAnswer`.
    """

    asked: Asked
    decision: Decision
    source: StoredFile | Borrowed | None
    basis: Stamp
    stamp: Stamp
    is_keepable: bool
    good_until: float | None
    withheld: Withheld | None = None


Answer = TypeVar("Answer", PageAnswer, FileAnswer)


class Index:
    """The indexes of one instance. Owned by one event loop."""

    def __init__(
        self,
        tree: Tree,
        registry: Database,
        pages: Pages,
        board: Board,
        serial: int | None,
        now: Callable[[], datetime],
    ) -> None:
        """Take what answers are made of.

        Args:
            board: that on which `registry` and `pages` say what changed.
            serial: of the configuration with this tree; None: of a command, which answers by it whatever is in force.
        """
        self._tree = tree
        self._registry = registry
        self._pages = pages
        self._board = board
        self._serial = serial
        self._now = now
        self._kept_pages: LRUCache[tuple[NamespacePath, Name, Sight], PageAnswer] = LRUCache(
            _PAGES_KEPT, getsizeof=lambda answer: _DECISION + answer.weight
        )
        self._kept_files: LRUCache[tuple[NamespacePath, str, str, Sight], FileAnswer] = LRUCache(_FILES_KEPT)

    def reach(self, path: NamespacePath, namespace: Namespace | None, sight: Sight) -> Namespace:
        """The index at `path`, if it may be asked (contract 4.1).

        Args:
            namespace: what stands at `path`, if anything.

        Raises:
            NotAuthenticated: the caller is anonymous and would have to say who it is.
            NoSuchNamespace: there is none, the caller may not know of it, or its packages are switched off.
        """
        found = self.find(path, namespace, sight)
        if not found.packages:
            raise NoSuchNamespace(f"{found.title} has no packages", hint="they are switched off there")
        return found

    def find(self, path: NamespacePath, namespace: Namespace | None, sight: Sight) -> Namespace:
        """As `reach`, but also where packages are switched off: claims and the like stay there."""
        if namespace is not None and namespace.path in sight.askable:
            return namespace
        nearest = namespace or self._tree.nearest(path)
        if sight.anonymous and nearest.path not in sight.readable:
            raise NotAuthenticated("this address needs credentials")
        raise NoSuchNamespace(UNKNOWN_NAMESPACE)

    async def page(self, asked: Asked) -> PageAnswer:
        """The page of a name at an index, as it is now.

        Raises:
            Outdated: the configuration was replaced meanwhile.
            StorageError: the registry cannot be read.
        """
        key = (asked.index.path, asked.name, asked.sight)
        kept = self._kept_pages.get(key)
        if kept is not None and self._is_current(kept):
            return kept
        for _ in range(ATTEMPTS):
            decided = await self._decided(asked)
            answer = await self._ask(decided) if decided.decision.ask else decided
            if self.holds(answer):
                if answer.is_keepable and _DECISION + answer.weight <= _PAGES_KEPT:
                    self._kept_pages[key] = _as_kept(decided, answer)
                return answer
        raise never_still(asked.name)

    async def own_page(self, asked: Asked) -> PageAnswer | None:
        """The page of a name with the files of one project alone, decided now; no upstream is ever asked.

        Returns:
            None where the project has no files of the name.

        Raises:
            StorageError: the registry cannot be read.
        """
        answer = await self._decided(asked)
        return answer if asked.index.path in answer.decision.projects else None

    def holds(self, answer: PageAnswer | FileAnswer) -> bool:
        """Whether what an answer was decided on is still so: the last thing before its first byte.

        Raises:
            Outdated: it never will be, since the configuration was replaced.
        """
        if self._board.holds(answer.basis):
            return True
        self.check_in_force()
        return False

    def check_in_force(self) -> None:
        """Return if the configuration by which this answers is in force: else the data may have moved away from it.

        Raises:
            Outdated: it was replaced.
        """
        if self._serial is not None and self._board.serial != self._serial:
            raise Outdated("the configuration was replaced")

    def _is_current(self, kept: PageAnswer | FileAnswer) -> bool:
        if not self._board.holds(kept.stamp):
            return False
        return kept.good_until is None or self._now().timestamp() < kept.good_until

    async def _decided(self, asked: Asked) -> PageAnswer:
        """The answer as far as the registry and the configuration give it: `decision.ask` says who is to be asked."""
        name = asked.name
        basis = self._board.stamp((NAMESPACES, name_topic(name)), serial=self._serial)
        facts = await self._registry.read(partial(packages.facts, name=name))
        decision = decide(asked, facts, self._tree)
        read, token, is_settled = partial(_nothing, name), "", self._board.is_settled(basis)
        if decision.word is Word.PRIVATE:
            read = partial(self._private_page, decision.projects, name)
            # While the stamp holds, the same projects have the same files of this name.
            token = _digest(name, decision.projects, basis) if is_settled else ""
        good_until = None if is_settled else _AT_ONCE
        return PageAnswer(asked, decision, basis, basis, read, is_settled, good_until, token=token)

    async def _private_page(self, projects: tuple[NamespacePath, ...], name: Name) -> Screened:
        query = partial(packages.page, projects=projects, name=name)
        if await self._registry.read(partial(packages.has_many_files, projects=projects, name=name)):
            return await asyncio.to_thread(self._registry.read_now, query)
        return await self._registry.read(query)

    async def _ask(self, decided: PageAnswer) -> PageAnswer:
        """Ask the upstreams in order: only a valid "no such project" moves on to the next (contract 4.7)."""
        decision, name, stamp = decided.decision, decided.asked.name, decided.basis
        good_until: float | None = None
        for upstream in decision.ask:
            topics = (page_topic(upstream, name), EVERYTHING_BORROWED)
            stamp = (*stamp, *self._board.stamp(topics, serial=self._serial)[1:])
            try:
                cached = await self._pages.get(upstream, name)
            except UpstreamError as error:
                trouble, retry_after = _trouble(error), getattr(error, "retry_after", None)
                refused = decision.as_unavailable(name, upstream, trouble, error.message, retry_after)
                return replace(decided, decision=refused, is_keepable=False, good_until=_AT_ONCE)
            if cached is None:
                good_until = _earlier(good_until, self._pages.absent_until(upstream, name))
            elif decision.rules is not None:
                found = replace(
                    decided,
                    decision=decision.as_found(name, upstream, cached.status),
                    read=partial(_screened, cached, decision.rules),
                    cache_status=cached.status,
                    token=_digest(cached.token, decision.rules.token),
                    weight=cached.size,
                )
                return self._until(found, stamp, _earlier(good_until, cached.good_until))
        unknown = replace(decided, decision=decision.as_unknown(name))
        return self._until(unknown, stamp, good_until)

    def _until(self, answer: PageAnswer, stamp: Stamp, good_until: float | None) -> PageAnswer:
        """The answer with all that it depends on; keepable where that is settled, and was not replaced meanwhile."""
        is_keepable = good_until != _AT_ONCE and self._board.is_settled(stamp) and self._board.holds(stamp)
        end = good_until if is_keepable else _AT_ONCE
        return replace(answer, stamp=stamp, is_keepable=is_keepable, good_until=end)

    async def file(self, index: Namespace, sight: Sight, key: str, filename: str) -> FileAnswer | None:
        """The file at an address: the first page that includes it serves it (contract 2).

        Returns:
            The answer that has a source; else the refusal that weighs most (401, 5xx, 403, 404, in this
            order); None where the filename can be no distribution.

        Raises:
            Outdated, StorageError: as `page`.
        """
        place = (index.path, key, filename, sight)
        kept = self._kept_files.get(place)
        if kept is not None and self._is_current(kept):
            return kept
        for _ in range(ATTEMPTS):
            answer = await self._first_of(candidate_names(filename), index, sight, key, filename)
            if answer is None:
                return None
            if self.holds(answer):
                if answer.is_keepable and answer.source is not None:
                    self._kept_files[place] = answer
                return answer
        raise never_still(filename)

    async def _first_of(
        self, names: Iterable[Name], index: Namespace, sight: Sight, key: str, filename: str
    ) -> FileAnswer | None:
        refusals: list[FileAnswer] = []
        for name in names:
            answer = await self.file_of(Asked(index, name, sight), key, filename)
            if answer.source is not None:
                return _behind(refusals, answer)
            refusals.append(answer)
        return _behind(refusals, min(refusals, key=_weight)) if refusals else None

    async def file_of(self, asked: Asked, key: str, filename: str) -> FileAnswer:
        """As `file`, where it is known which name the file belongs to: no other is looked at."""
        for _ in range(ATTEMPTS):
            page = await self.page(asked)
            source: StoredFile | Borrowed | None = None
            withheld: Withheld | None = None
            if page.decision.word is Word.PRIVATE:
                # Asked of the registry, not of a page: a file displaced by a newer upload stays at its address.
                find = partial(
                    packages.find_file,
                    projects=page.decision.projects,
                    name=asked.name,
                    filename=filename,
                    sha256=key,
                )
                stored = await self._registry.read(find)
                source, withheld = (None, stored) if isinstance(stored, Withheld) else (stored, None)
            else:
                screened = await page.screened()
                source = _source(page.decision.upstream, screened.page, key, filename)
                withheld = screened.withheld_file(filename) if source is None else None
            answer = FileAnswer(
                page.asked,
                page.decision,
                source,
                page.basis,
                page.stamp,
                page.is_keepable,
                page.good_until,
                withheld,
            )
            if self.holds(answer):
                return answer
        raise never_still(filename)


def _as_kept(decided: PageAnswer, answer: PageAnswer) -> PageAnswer:
    """An answer as it is given to who asks later: what an upstream was asked for it is found here then."""
    upstream = answer.decision.upstream
    if upstream is None:
        return answer
    decision = decided.decision.as_found(answer.asked.name, upstream, _HIT)
    return replace(answer, decision=decision, cache_status=_HIT)


async def _nothing(name: Name) -> Screened:
    return Screened(Page(name))


async def _screened(cached: Cached[Page], rules: FileRules) -> Screened:
    page = await cached.decoded()
    if len(page.files) >= _OFF_LOOP_FROM:
        return await asyncio.to_thread(screen, page, rules)
    return screen(page, rules)


def _source(upstream: str | None, page: Page, key: str, filename: str) -> Borrowed | None:
    if upstream is None:
        return None
    for record in page.files:
        if record.filename == filename and record.answers_to(key):
            return Borrowed(upstream, record)
    return None


def _earlier(one: float | None, other: float | None) -> float:
    """The earlier of two ends of what is known; at once where the second is not known."""
    if other is None:
        return _AT_ONCE
    return other if one is None else min(one, other)


def _behind(refusals: Iterable[FileAnswer], answer: FileAnswer) -> FileAnswer:
    """An answer that is right as long as other names, which were looked at too, are answered as they are."""
    for other in refusals:
        if other is not answer:
            ends = [end for end in (answer.good_until, other.good_until) if end is not None]
            answer = replace(
                answer,
                basis=_joined(answer.basis, other.basis),
                stamp=_joined(answer.stamp, other.stamp),
                is_keepable=answer.is_keepable and other.is_keepable,
                good_until=min(ends, default=None),
            )
    return answer


def _joined(one: Stamp, other: Stamp) -> Stamp:
    return tuple(dict.fromkeys((*one, *other)))


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def never_still(what: str) -> StoreUnavailable:
    """What is raised after `ATTEMPTS` to answer for a name or file."""
    return StoreUnavailable(f"{what} changes faster than it can be answered")


def _trouble(error: UpstreamError) -> Trouble:
    if isinstance(error, UpstreamBusy):
        return Trouble.BUSY
    return Trouble.TIMEOUT if isinstance(error, UpstreamTimeout) else Trouble.FAULTY


def _weight(answer: FileAnswer) -> int:
    """Which refusal counts where several names were candidates: 401, 5xx, 403, 404."""
    if answer.decision.challenge:
        return 0
    if answer.decision.word is Word.UNAVAILABLE:
        return 1
    is_refused = answer.decision.word in {Word.CLAIMED, Word.DENIED} or answer.withheld is not None
    return 2 if is_refused else 3
