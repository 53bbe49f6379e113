"""What an index answers for a name or a file: contract 4 in order, with the I/O between the pure steps.

Everything that carries a name or a file goes through `Index.page` or `Index.file`: routes, commands, explain.
Facts are read before each decision and once more after every wait; where they changed, everything is decided
anew. Whoever waits between an answer and its first byte (to compress, to open a transfer) asks `Index.holds`
before sending it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from proxy.cache.pages import Pages
from proxy.domain.access import Sight
from proxy.domain.decide import Asked, Decision, NameFacts, Trouble, Word, decide
from proxy.domain.filenames import candidate_names
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.domain.pages import FileRecord, Page
from proxy.domain.screen import Screened, Withheld, screen
from proxy.errors import (
    NoSuchNamespace,
    NotAuthenticated,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.registry import packages
from proxy.registry.packages import StoredFile
from proxy.storage.database import Database

ATTEMPTS = 10
"""How often an answer is decided anew because the facts changed meanwhile; each means a change of this name."""

UNKNOWN_NAMESPACE = "there is no group or project of this path or number"
"""Told alike of what is not there and of what the caller may not know of; the path behind a number is a secret."""


@dataclass(frozen=True, slots=True)
class Basis:
    """What an answer was decided on; it is true as long as this is (`Index.holds`)."""

    asked: Asked
    facts: NameFacts
    private: Screened | None = None


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A decision with the page it leads to; `screened` has no files where the word is a refusal.

    Attributes:
        cache_status: what RFC 9211 says of how the upstream's page was come by; else empty.
        token: changes with the content of an upstream page; empty for anything else.
    """

    decision: Decision
    screened: Screened
    basis: Basis
    cache_status: str = ""
    token: str = ""

    @property
    def is_served(self) -> bool:
        return self.decision.word in {Word.PRIVATE, Word.UPSTREAM, Word.MERGED}


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A file of an upstream, as its page describes it."""

    upstream: str
    record: FileRecord


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A decision with the file it leads to: ours, an upstream's, or None where it is refused or unknown."""

    decision: Decision
    source: StoredFile | Borrowed | None
    basis: Basis
    withheld: Withheld | None = None


class Index:
    """The indexes of one instance."""

    def __init__(self, tree: Tree, database: Database, pages: Pages) -> None:
        self._tree = tree
        self._database = database
        self._pages = pages

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
        """The page of a name at an index, decided now.

        Raises:
            StorageError: the registry cannot be read.
        """
        for _ in range(ATTEMPTS):
            facts, decision = await self._decided(asked)
            if decision.word is Word.PRIVATE:
                return await self._private_answer(asked, facts, decision)
            basis = Basis(asked, facts)
            if not decision.ask:
                return PageAnswer(decision, Screened(Page(asked.name)), basis)
            answer = await self._ask(decision, basis)
            if await self.holds(basis):
                return answer
        raise never_still(asked.name)

    async def own_page(self, asked: Asked) -> PageAnswer | None:
        """The page of a name with the files of one project alone, decided now; no upstream is ever asked.

        Returns:
            None where the project has no files of the name.

        Raises:
            StorageError: the registry cannot be read.
        """
        facts, decision = await self._decided(asked)
        if asked.index.path not in decision.projects:
            return None
        return await self._private_answer(asked, facts, decision)

    async def _private_answer(self, asked: Asked, facts: NameFacts, decision: Decision) -> PageAnswer:
        many = partial(packages.has_many_files, projects=decision.projects, name=asked.name)
        is_long = await self._database.read(many)
        found = await self._private_page(decision.projects, asked.name, is_long)
        return PageAnswer(decision, found, Basis(asked, facts, found))

    async def holds(self, basis: Basis) -> bool:
        """Whether what an answer was decided on is still so: the last thing before its first byte."""
        if await self._facts(basis.asked.name) != basis.facts:
            return False
        if basis.private is None:
            return True
        decision = decide(basis.asked, basis.facts, self._tree)
        is_long = len(basis.private.page.files) + len(basis.private.withheld) >= packages.MANY_FILES
        return await self._private_page(decision.projects, basis.asked.name, is_long) == basis.private

    async def _decided(self, asked: Asked) -> tuple[NameFacts, Decision]:
        facts = await self._facts(asked.name)
        return facts, decide(asked, facts, self._tree)

    async def _facts(self, name: Name) -> NameFacts:
        return await self._database.read(partial(packages.facts, name=name))

    async def _private_page(self, projects: Sequence[NamespacePath], name: Name, is_long: bool) -> Screened:
        query = partial(packages.page, projects=projects, name=name)
        if is_long:
            return await asyncio.to_thread(self._database.read_now, query)
        return await self._database.read(query)

    async def _ask(self, decision: Decision, basis: Basis) -> PageAnswer:
        """Ask the upstreams in order: only a valid "no such project" moves on to the next (contract 4.7)."""
        name = basis.asked.name
        nothing = Screened(Page(name))
        for upstream in decision.ask:
            try:
                cached = await self._pages.get(upstream, name)
            except UpstreamError as error:
                unavailable = decision.as_unavailable(
                    name, upstream, _trouble(error), error.message, getattr(error, "retry_after", None)
                )
                return PageAnswer(unavailable, nothing, basis)
            if cached is not None and decision.rules is not None:
                found = decision.as_found(name, upstream, cached.status)
                return PageAnswer(
                    found, screen(cached.value, decision.rules), basis, cached.status, cached.token
                )
        return PageAnswer(decision.as_unknown(name), nothing, basis)

    async def file(self, index: Namespace, sight: Sight, key: str, filename: str) -> FileAnswer | None:
        """The file at an address: the first page that includes it serves it (contract 2).

        Returns:
            The answer that has a source; else the refusal that weighs most (401, 5xx, 403, 404, in this
            order); None where the filename can be no distribution.
        """
        refusal: FileAnswer | None = None
        for name in candidate_names(filename):
            answer = await self.file_of(Asked(index, name, sight), key, filename)
            if answer.source is not None:
                return answer
            if refusal is None or _weight(answer) < _weight(refusal):
                refusal = answer
        return refusal

    async def file_of(self, asked: Asked, key: str, filename: str) -> FileAnswer:
        """As `file`, where it is known which name the file belongs to: no other is looked at."""
        facts, decision = await self._decided(asked)
        if decision.word is Word.PRIVATE:
            # Asked of the registry, not of a page: a file displaced by a newer upload stays at its address.
            find = partial(
                packages.find_file, projects=decision.projects, name=asked.name, filename=filename, sha256=key
            )
            found = await self._database.read(find)
            if isinstance(found, Withheld):
                return FileAnswer(decision, None, Basis(asked, facts), found)
            return FileAnswer(decision, found, Basis(asked, facts))
        page = await self.page(asked)
        if page.decision.word is Word.PRIVATE:
            # Published while the upstream was asked.
            return await self.file_of(asked, key, filename)
        for record in page.screened.page.files:
            if record.filename == filename and record.answers_to(key) and page.decision.upstream:
                return FileAnswer(page.decision, Borrowed(page.decision.upstream, record), page.basis)
        return FileAnswer(page.decision, None, page.basis, page.screened.withheld_file(filename))

    async def file_holds(self, answer: FileAnswer) -> bool:
        """Whether a file's answer is still so, as `holds`; a private one may be deleted or withheld meanwhile."""
        if not await self.holds(answer.basis):
            return False
        source = answer.source
        if not isinstance(source, StoredFile):
            return True

        def still_there(connection: Connection) -> bool:
            projects, name = answer.decision.projects, answer.basis.asked.name
            found = packages.find_file(connection, projects, name, source.record.filename, source.sha256)
            return isinstance(found, StoredFile)

        return await self._database.read(still_there)


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
