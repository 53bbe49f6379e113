"""`cache warm`: pages and files of upstreams fetched ahead, as far as an index would serve them to an owner.

Every name and file passes the index's own decision first, and once more right before it is fetched: what is private,
claimed or refused by policy is told and never asked for. Files come through the transfers that serve everybody, one
per file in the whole instance, and give way to what clients wait for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from proxy.domain.access import OPERATOR, Sight, sight
from proxy.domain.decision import Asked, Decision, Word
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import Page
from proxy.domain.requirements import Chosen, LockedFile, Need, Needs, Pick, choose
from proxy.domain.screen import Screened
from proxy.errors import ContentMismatch, NoSuchFile, NoSuchName, OverlayError
from proxy.index.answers import ATTEMPTS, Borrowed, never_still
from proxy.index.instance import Instance
from proxy.registry.packages import StoredFile

T = TypeVar("T")

AT_ONCE = 8
"""Pages, and files, that are fetched at the same time."""
MANY_FILES = 200
"""A page with so many is searched off the event loop."""

_FAILED = frozenset({Word.UNKNOWN, Word.UNAVAILABLE})
"""What an index answers where a name that it would serve cannot be had; any other refusal is meant so."""


@dataclass(slots=True)
class Warmed:
    """What came of it, and while it goes on, how far it is.

    Attributes:
        names: names whose page was fetched or is fresh.
        files, bytes: that were asked for and lie in the cache now.
        fetched: how many of the files came just now.
        skipped, errors: name and reason, of what is not to be fetched, and of what could not be.
        done, total: names and files that were dealt with, of those known so far.
        latest: the name that was dealt with last.
    """

    names: int = 0
    files: int = 0
    bytes: int = 0
    fetched: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    done: int = 0
    total: int = 0
    latest: str = ""

    @property
    def shape(self) -> dict[str, object]:
        """As commands print it."""
        return {
            "names": self.names,
            "files": self.files,
            "bytes": self.bytes,
            "fetched": self.fetched,
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "errors": [{"name": name, "reason": reason} for name, reason in self.errors],
        }


async def warm(
    current: Callable[[], Awaitable[Instance]],
    index: NamespacePath,
    wanted: Needs,
    report: Callable[[Warmed], None] = lambda _: None,
) -> Warmed:
    """Fetch what `wanted` asks for and the index serves from upstreams: pages, files, and core metadata.

    Trouble with one name or file is noted down, and the others go on.

    Args:
        current: the instance in force now; asked anew for each name and file.
        report: told after every step.

    Raises:
        NoSuchNamespace: there is no such index.
    """
    (await current()).snapshot.tree.find(index)
    warming = _Warming(current, index, report)
    warming.tally.skipped += [(each.name, each.reason) for each in wanted.left_out]
    warming.tally.total = len(wanted.needs)
    await warming.run(wanted.needs)
    return warming.tally


class _Warming:
    """One run of `warm`."""

    def __init__(
        self,
        current: Callable[[], Awaitable[Instance]],
        index: NamespacePath,
        report: Callable[[Warmed], None],
    ) -> None:
        self.tally = Warmed()
        self._current = current
        self._index = index
        self._report = report
        self._files_at_once = asyncio.Semaphore(AT_ONCE)
        self._seen: tuple[Instance, Sight] | None = None

    async def run(self, needs: Sequence[Need]) -> None:
        waiting = iter(needs)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(needs))):
                group.create_task(self._work(waiting))

    async def _work(self, waiting: Iterator[Need]) -> None:
        for need in waiting:
            await self._noting(need.name, partial(self._name, need))

    async def _noting(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step; what goes wrong with it is noted down."""
        try:
            await step()
        except OverlayError as error:
            self.tally.errors.append((name, str(error)))
        self.tally.done += 1
        self.tally.latest = name
        self._report(self.tally)

    async def _name(self, need: Need) -> None:
        """The page of a name, and what is needed of its files."""

        async def ask(instance: Instance, asked: Asked) -> tuple[Decision, Screened]:
            answer = await instance.index.page(asked)
            return answer.decision, await answer.screened()

        decision, screened = await self._decided(need, ask)
        if not self._is_borrowed(need, decision):
            return
        self.tally.names += 1
        chosen = await _chosen(need, screened.page)
        for file in chosen.missing:
            self._note_missing(need, file, screened)
        if not chosen.picks and not chosen.missing:
            raise NoSuchName(f"no file of {need.name} that is served here meets {_described(need)}")
        self.tally.total += len(chosen.picks)
        self._report(self.tally)
        async with asyncio.TaskGroup() as group:
            for pick in chosen.picks:
                group.create_task(self._noting(need.name, partial(self._file, need, pick)))

    async def _file(self, need: Need, pick: Pick) -> None:
        """One file and the metadata beside it."""
        record = pick.record
        is_counted = False

        async def fetch(instance: Instance, asked: Asked) -> None:
            nonlocal is_counted
            answer = await instance.index.file_of(asked, record.key, record.filename)
            source = answer.source
            if isinstance(source, Borrowed):
                size, is_new = await _held(instance, source, pick.digests)
                if not is_counted:
                    is_counted = True
                    self.tally.files += 1
                    self.tally.bytes += size
                    self.tally.fetched += is_new
                if record.advertised and instance.metadata.kept(source) is None:
                    await instance.metadata.read(source)
            elif answer.withheld is not None:
                self.tally.skipped.append((need.name, f"{record.filename}: {answer.withheld.reason}"))
            elif isinstance(source, StoredFile):
                self.tally.skipped.append((need.name, f"{record.filename} is published by {source.project}"))
            elif self._is_borrowed(need, answer.decision):
                self.tally.skipped.append((need.name, f"{record.filename} is no longer what was listed"))

        async with self._files_at_once:
            await self._decided(need, fetch)

    async def _decided(self, need: Need, act: Callable[[Instance, Asked], Awaitable[T]]) -> T:
        """Do something by the configuration in force, and anew where that was replaced meanwhile.

        What an instance has under way is broken off when it goes; so any failure may mean no more than that.
        """
        for _ in range(ATTEMPTS):
            instance = await self._current()
            if self._seen is None or self._seen[0] is not instance:
                self._seen = instance, sight(OPERATOR, instance.snapshot.tree)
            index = instance.snapshot.tree.find(self._index)
            try:
                return await act(instance, Asked(index, need.name, self._seen[1]))
            except (OverlayError, asyncio.CancelledError):
                if _is_cancelled() or await self._current() is instance:
                    raise
        raise never_still(need.name)

    def _is_borrowed(self, need: Need, decision: Decision) -> bool:
        """Whether files of the name come from an upstream. Else it is noted why not.

        Raises:
            NoSuchName: they would, but nobody has the name, or it cannot be told now.
        """
        if decision.word in {Word.UPSTREAM, Word.MERGED}:
            return True
        if decision.word in _FAILED:
            raise NoSuchName(decision.reason)
        self.tally.skipped.append((need.name, decision.reason))
        return False

    def _note_missing(self, need: Need, file: LockedFile, screened: Screened) -> None:
        withheld = screened.withheld_file(file.filename)
        if withheld is not None:
            self.tally.skipped.append((need.name, f"{file.filename}: {withheld.reason}"))
        else:
            missing = NoSuchFile(f"{need.name} has no {file.filename} with the sha256 that is asked for")
            self.tally.errors.append((need.name, str(missing)))


async def _held(instance: Instance, source: Borrowed, digests: frozenset[str]) -> tuple[int, bool]:
    """See that a file lies in the cache; returns its size, and whether it came just now.

    Raises:
        ContentMismatch: it has none of these sha256.
    """
    cached = instance.files.cached(source.record)
    if cached is not None:
        size, found = cached.size, cached.sha256
    else:
        opened, found = await instance.files.fetch(source.upstream, source.record, background=True)
        with opened:
            size = os.fstat(opened.fileno()).st_size
    if digests and found not in digests:
        raise ContentMismatch(
            source.upstream, f"{source.record.filename} has another sha256 than is asked for"
        )
    return size, cached is None


def _is_cancelled() -> bool:
    """Whether this task itself is to end, and not just something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _chosen(need: Need, page: Page) -> Chosen:
    if len(page.files) < MANY_FILES:
        return choose(need, page)
    return await asyncio.to_thread(choose, need, page)


def _described(need: Need) -> str:
    return "the digests that are asked for" if need.digests else str(need.specifier) or "a version number"
