"""What an index answers for a name or a file: contract 4 in order, with the I/O between the pure steps.

Everything that carries a name or a file goes through `Index.page` or `Index.file`: routes, commands, explain.
Every answer is made under a stamp of the board (`storage.board`), taken before any fact is read. After a wait it
still has to hold, or everything is decided anew; and whoever waits between an answer and its first byte (to compress,
to open a transfer) asks `Index.holds` before sending it. Answers whose stamp was settled are kept, and given again
for as long as it holds: that costs neither a query nor a look at the disk.

The files of a page are read and screened when somebody needs them, which is seldom: what is made of a page is kept by
its token (`index.variants`). How an upstream's page is screened is for `index.circumstances` to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeAlias, TypeVar

from cachetools import LRUCache

from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.domain.access import Sight
from proxy.domain.decide import decide
from proxy.domain.decision import Asked, Decision, Trouble, Warned, Word, found_step
from proxy.domain.filenames import candidate_names
from proxy.domain.merging import Ours
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.domain.pages import FileRecord, Page
from proxy.domain.screen import Screened, Withheld
from proxy.errors import (
    NoSuchNamespace,
    NotAuthenticated,
    Outdated,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.index.circumstances import AT_ONCE, Reading, Sources, and_held, digest, earliest, is_timed
from proxy.registry import packages
from proxy.registry.packages import StoredFile
from proxy.storage.board import (
    EVERYTHING_BORROWED,
    NAMESPACES,
    Board,
    Stamp,
    name_topic,
    names_topic,
    page_topic,
)
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
_HIT = "hit"
_HELD = "hit; detail=held"
"""Its upstream has it no more."""

Read: TypeAlias = Callable[[], Awaitable[Screened]]
_PagePlace: TypeAlias = tuple[NamespacePath, Name, Sight, datetime | None]
_FilePlace: TypeAlias = tuple[NamespacePath, str, str, Sight, datetime | None]
"""What is asked for: at which index, by whom, and in a dated view as of when."""

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
        is_gone: its upstream has no such project any more and is not to be asked about it; what it removed is served.
        held: what its upstreams removed, of a name that none of them has any more; it is withheld.
        weight: bytes that it holds in memory besides the decision.
    """

    asked: Asked
    decision: Decision
    basis: Stamp
    stamp: Stamp
    read: Read
    is_keepable: bool = False
    good_until: float | None = AT_ONCE
    cache_status: str = ""
    token: str = ""
    is_gone: bool = False
    held: tuple[Withheld, ...] = ()
    weight: int = 0

    @property
    def is_served(self) -> bool:
        return self.decision.word in {Word.PRIVATE, Word.UPSTREAM, Word.MERGED}

    @property
    def warned(self) -> tuple[Warned, ...]:
        """The rules that would have refused the name, were they enforced."""
        return self.decision.warned

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

    `basis`, `stamp`, `is_keepable` and `good_until` are those of `PageAnswer`. `warned`: the rules that would have
    refused the name or the file, were they enforced.
    """

    asked: Asked
    decision: Decision
    source: StoredFile | Borrowed | None
    basis: Stamp
    stamp: Stamp
    is_keepable: bool
    good_until: float | None
    withheld: Withheld | None = None
    warned: tuple[Warned, ...] = ()


Answer = TypeVar("Answer", PageAnswer, FileAnswer)


class Index:
    """The indexes of one instance. Owned by one event loop."""

    def __init__(
        self,
        tree: Tree,
        registry: Database,
        pages: Pages,
        known_names: KnownNames,
        sources: Sources,
        board: Board,
        serial: int | None,
        now: Callable[[], datetime],
    ) -> None:
        """Take what answers are made of.

        Args:
            board: that on which all of them say what changed.
            serial: of the configuration with this tree; None: of a command, which answers by it whatever is in force.
        """
        self._tree = tree
        self._registry = registry
        self._pages = pages
        self._known_names = known_names
        self._sources = sources
        self._board = board
        self._serial = serial
        self._now = now
        self._kept_pages: LRUCache[_PagePlace, PageAnswer] = LRUCache(
            _PAGES_KEPT, getsizeof=lambda answer: _DECISION + answer.weight
        )
        self._kept_files: LRUCache[_FilePlace, FileAnswer] = LRUCache(_FILES_KEPT)

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
        for _ in range(ATTEMPTS):
            answer = self._kept_page(asked) or await self._complete(await self._decided(asked))
            if self.holds(answer):
                return answer
        raise never_still(asked.name)

    def _kept_page(self, asked: Asked) -> PageAnswer | None:
        kept = self._kept_pages.get(_place(asked))
        return kept if kept is not None and self._is_current(kept) else None

    async def _complete(self, decided: PageAnswer) -> PageAnswer:
        """The answer after the upstreams were asked, where that is decided; kept where that may be."""
        answer = await self._ask(decided) if decided.decision.ask else decided
        if answer.is_keepable and _DECISION + answer.weight <= _PAGES_KEPT and self.holds(answer):
            self._kept_pages[_place(answer.asked)] = _as_kept(answer)
        return answer

    async def own_page(self, asked: Asked) -> PageAnswer | None:
        """The page of a name with the files of one project alone, decided now; no upstream is ever asked.

        Returns:
            None where the project has no files of the name.

        Raises:
            StorageError: the registry cannot be read.
        """
        answer = await self._decided(asked)
        if asked.index.path not in answer.decision.projects:
            return None
        alone = replace(answer.decision, word=Word.PRIVATE, rule=None, ask=(), rules=None)
        return replace(answer, decision=alone)

    def holds(self, answer: PageAnswer | FileAnswer) -> bool:
        """Whether what an answer was decided on is still so: the last thing before its first byte.

        Not so either where a rule with an end ended meanwhile, such as an exemption: an upstream may take its time.

        Raises:
            Outdated: it never will be, since the configuration was replaced.
        """
        if self._board.holds(answer.basis):
            end = answer.decision.good_until
            return end is None or self._now() < end
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
        """The answer as far as the registry and the configuration give it: `decision.ask` says who is to be asked.

        Of a merged name that is the private part.
        """
        name = asked.name
        basis = self._board.stamp((NAMESPACES, name_topic(name)), serial=self._serial)
        facts = await self._registry.read(partial(packages.facts, name=name))
        decision = decide(asked, facts, self._tree, self._now())
        read, token, is_settled = partial(_nothing, name), "", self._board.is_settled(basis)
        if decision.projects:
            read = partial(self._private_page, decision.projects, asked)
            # While the stamp holds, the same projects have the same files of this name.
            token = digest(name, decision.projects, asked.as_of, basis) if is_settled else ""
        end = None if decision.good_until is None else decision.good_until.timestamp()
        good_until = end if is_settled else AT_ONCE
        return PageAnswer(asked, decision, basis, basis, read, is_settled, good_until, token=token)

    async def _private_page(self, projects: tuple[NamespacePath, ...], asked: Asked) -> Screened:
        name = asked.name
        query = partial(packages.page, projects=projects, name=name, as_of=asked.as_of)
        if await self._registry.read(partial(packages.has_many_files, projects=projects, name=name)):
            return await asyncio.to_thread(self._registry.read_now, query)
        return await self._registry.read(query)

    async def _ours(self, decided: PageAnswer) -> Ours:
        """What is private of a merged name."""
        projects = decided.decision.taken_by
        query = partial(packages.taken_versions, name=decided.asked.name, projects=projects)
        return Ours(await decided.screened(), await self._registry.read(query))

    async def _ask(self, decided: PageAnswer) -> PageAnswer:
        """Ask the upstreams in order: only a valid "no such project" moves on to the next (contract 4.7)."""
        decision, name, rules = decided.decision, decided.asked.name, decided.decision.rules
        assert rules is not None  # noqa: S101 - whoever asks has rules for what comes
        stamp, good_until = decided.basis, decided.good_until
        earlier: tuple[Withheld, ...] = ()
        for upstream in decision.ask:
            stamp = self._stamped(stamp, page_topic(upstream, name), EVERYTHING_BORROWED)
            if decision.known_only:
                stamp = self._stamped(stamp, names_topic(upstream))
            try:
                is_listed = not decision.known_only or name in await self._known_names.get(upstream)
                if not self.holds(decided):
                    # A list, or another upstream, was waited for: the name may have an owner now.
                    return decided
                cached = await self._pages.get(upstream, name) if is_listed else None
            except UpstreamError as error:
                trouble, retry_after = _trouble(error), getattr(error, "retry_after", None)
                refused = decision.as_unavailable(name, upstream, trouble, error.message, retry_after)
                return PageAnswer(decided.asked, refused, decided.basis, stamp, partial(_nothing, name))
            # Only now: whoever fetched the page has told what it removed.
            stamp = self._stamped(stamp, *self._sources.topics(upstream, name, rules))
            known = await self._sources.read(upstream, name, rules, cached)
            ours = partial(self._ours, decided) if decision.word is Word.MERGED else None
            reading = Reading(name, upstream, cached, rules, known, self._now(), ours, earlier)
            if cached is not None:
                found = decision.as_found(name, upstream, cached.status)
                good_until = earliest(good_until, cached.good_until)
                return await self._read_by(decided, found, reading, stamp, good_until)
            if is_listed:
                # A single one is told of by `as_unknown`.
                decision = decision.as_absent(name, upstream) if len(decision.ask) > 1 else decision
                good_until = earliest(good_until, self._pages.absent_until(upstream, name))
            else:
                decision = decision.as_not_listed(name, upstream)
            if known.held:
                alone = await replace(reading, ours=None, earlier=()).at_once()
                if alone.offers:
                    found = decision.as_held(name, upstream)
                    return await self._read_by(decided, found, reading, stamp, good_until)
                earlier += tuple(replace(file, source=upstream) for file in alone.withheld)
                good_until = alone.until(good_until)
        unknown = decision.as_unknown(name)
        is_keepable, end = self._until(stamp, good_until)
        answer = replace(decided, decision=unknown, stamp=stamp, is_keepable=is_keepable, good_until=end)
        return _and_held(answer, earlier)

    async def _read_by(
        self,
        decided: PageAnswer,
        decision: Decision,
        reading: Reading,
        stamp: Stamp,
        good_until: float | None,
    ) -> PageAnswer:
        """The answer with the page of an upstream, screened already where that tells how long it is good."""
        if is_timed(reading.rules):
            reading = await reading.at_once()
        token = reading.token
        if reading.ours is not None:
            # That of the private part names what it stands on, where that is settled.
            token = digest(decided.token, token) if decided.token else ""
        is_keepable, end = self._until(stamp, reading.until(good_until))
        return PageAnswer(
            decided.asked,
            decision,
            decided.basis,
            stamp,
            reading,
            is_keepable,
            end,
            cache_status=_HELD if reading.cached is None else reading.cached.status,
            token=token,
            is_gone=reading.cached is None,
            weight=reading.weight,
        )

    def _stamped(self, stamp: Stamp, *topics: str) -> Stamp:
        """A stamp with more topics, as they are now."""
        return (*stamp, *self._board.stamp(topics, serial=self._serial)[1:])

    def _until(self, stamp: Stamp, good_until: float | None) -> tuple[bool, float | None]:
        """Whether what stands on `stamp` may be kept, since that is settled and was not replaced, and until when."""
        is_keepable = good_until != AT_ONCE and self._board.is_settled(stamp) and self._board.holds(stamp)
        return is_keepable, good_until if is_keepable else AT_ONCE

    async def file(
        self, index: Namespace, sight: Sight, key: str, filename: str, as_of: datetime | None = None
    ) -> FileAnswer | None:
        """The file at an address: the first page that includes it serves it (contract 2).

        Args:
            as_of: of a dated view, as `Asked` has it.

        Returns:
            The answer that has a source; else the refusal that weighs most (401, 5xx, 403, 404, in this
            order); None where the filename can be no distribution.

        Raises:
            Outdated, StorageError: as `page`.
        """
        place = (index.path, key, filename, sight, as_of)
        kept = self._kept_files.get(place)
        if kept is not None and self._is_current(kept):
            return kept
        for _ in range(ATTEMPTS):
            asked = (Asked(index, name, sight, as_of) for name in candidate_names(filename))
            answer = await self._first_of(asked, key, filename)
            if answer is None:
                return None
            if self.holds(answer):
                if answer.is_keepable and answer.source is not None:
                    self._kept_files[place] = answer
                return answer
        raise never_still(filename)

    async def _first_of(self, candidates: Iterable[Asked], key: str, filename: str) -> FileAnswer | None:
        refusals: list[FileAnswer] = []
        for asked in candidates:
            answer = await self.file_of(asked, key, filename)
            if answer.source is not None:
                return _behind(refusals, answer)
            refusals.append(answer)
        return _behind(refusals, min(refusals, key=_weight)) if refusals else None

    async def file_of(self, asked: Asked, key: str, filename: str) -> FileAnswer:
        """As `file`, where it is known which name the file belongs to: no other is looked at."""
        for _ in range(ATTEMPTS):
            page = self._kept_page(asked) or await self._decided(asked)
            answer = await self._own_file(page, key, filename)
            if answer is None:
                # A private file of a merged name is served whatever becomes of its upstreams.
                page = await self._complete(page) if _is_to_ask(page) else page
                answer = await self._borrowed_file(page, key, filename)
            if self.holds(answer):
                return answer
        raise never_still(filename)

    async def _own_file(self, page: PageAnswer, key: str, filename: str) -> FileAnswer | None:
        """The private file at an address, or why it is withheld; None where there is none.

        Asked of the registry, not of a page: a file displaced by a newer upload stays at its address.
        """
        if not page.decision.projects:
            return None
        find = partial(
            packages.find_file,
            projects=page.decision.projects,
            name=page.asked.name,
            filename=filename,
            sha256=key,
            as_of=page.asked.as_of,
        )
        found = await self._registry.read(find)
        if found is None:
            return None
        return _of_page(page, None, found) if isinstance(found, Withheld) else _of_page(page, found)

    async def _borrowed_file(self, page: PageAnswer, key: str, filename: str) -> FileAnswer:
        """The file at an address that is no private one's; without a source where it is not served."""
        if page.decision.word is Word.PRIVATE and not page.held:
            return _of_page(page)
        screened, upstream = await page.screened(), page.decision.upstream
        record = screened.served_file(filename, key)
        # What has no address at an upstream is private, and was looked for already.
        if record is None or upstream is None or not record.url:
            return _of_page(page, None, screened.withheld_file(filename, key))
        warned = (
            Warned(file.rule, file.reason)
            for file in screened.warned
            if file.filename == filename and file.key in {None, record.key}
        )
        answer = _of_page(page, Borrowed(upstream, record))
        return replace(answer, warned=(*page.warned, *warned))


def _place(asked: Asked) -> _PagePlace:
    return asked.index.path, asked.name, asked.sight, asked.as_of


def _is_to_ask(page: PageAnswer) -> bool:
    """Whether upstreams are to be asked, and were not yet."""
    return bool(page.decision.ask) and page.decision.upstream is None


def _as_kept(answer: PageAnswer) -> PageAnswer:
    """An answer as it is given to who asks later: what an upstream was asked for it is found here then."""
    if not isinstance(answer.read, Reading):
        return answer
    read, decision, status = answer.read, answer.decision, answer.cache_status
    if read.screened is not None:
        # Whoever needs its files screens them again: kept, they would fill the memory.
        read = replace(read, screened=None)
    if not answer.is_gone:
        trail = (*decision.trail[:-1], found_step(read.upstream, _HIT))
        decision, status = replace(decision, trail=trail), _HIT
    return replace(answer, read=read, decision=decision, cache_status=status)


async def _nothing(name: Name) -> Screened:
    return Screened(Page(name))


def _and_held(answer: PageAnswer, held: tuple[Withheld, ...]) -> PageAnswer:
    """The answer of nobody upstream, with what they removed and we have."""
    if not held:
        return answer
    token = digest(answer.token, held) if answer.token else ""
    return replace(answer, read=partial(_with_held, answer.read, held), held=held, token=token)


async def _with_held(read: Read, held: tuple[Withheld, ...]) -> Screened:
    return and_held(await read(), held)


def _of_page(
    page: PageAnswer, source: StoredFile | Borrowed | None = None, withheld: Withheld | None = None
) -> FileAnswer:
    """The answer for a file, under what the answer for its page stands on."""
    return FileAnswer(
        page.asked,
        page.decision,
        source,
        page.basis,
        page.stamp,
        page.is_keepable,
        page.good_until,
        withheld,
    )


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
    decision = answer.decision
    is_refused = (
        decision.word in {Word.CLAIMED, Word.DENIED}
        or (decision.word is Word.NOT_FORWARDED and decision.not_forwarded != 404)
        or answer.withheld is not None
    )
    return 2 if is_refused else 3
