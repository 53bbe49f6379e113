"""Lists of names: the private ones of an index, and where `list_upstream` is on those of its upstreams.

A list has what `Index.page` would answer: a name of the registry where a project shows it to this caller, and a name
of an upstream where `decide` would ask for it. Nothing is asked for here; the upstreams' lists are kept by
`cache.known_names`, so a name on them may have gone, and one that is not may be there.

A list may have 700,000 names and anybody may ask for it. So it is never built: what is ready is what tells one list
from another, and the names come in pieces, each a few milliseconds of work for a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import ParamSpec, TypeVar

from cachetools import LRUCache

from proxy.cache.known_names import KnownNames
from proxy.domain.access import Sight
from proxy.domain.decide import decide, owner_at_root
from proxy.domain.decision import Asked, NameFacts, OwnedKind, Word
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.domain.policy import Rule, RuleSet
from proxy.domain.sorted_names import SortedNames, digest_of, lines, together
from proxy.registry import packages
from proxy.storage.database import Database

P = ParamSpec("P")
T = TypeVar("T")

_FACTS_AT_ONCE = 500
"""Names whose facts are read in one go: some milliseconds."""
_TOKENS_KEPT = 100
_POLICIES_KEPT = 20

_NOBODY_OWNS = NameFacts()


@dataclass(frozen=True, slots=True)
class NameList:
    """The names of one index for one caller.

    Attributes:
        token: equal for equal names.
    """

    token: str
    _private: SortedNames
    _hidden: SortedNames
    _known: tuple[SortedNames, ...]
    _policy: _NamePolicy | None

    @property
    def is_short(self) -> bool:
        """Whether it is cheap to hold all of it in memory."""
        return not self._known and len(self._private) <= _FACTS_AT_ONCE

    def pieces(self) -> Iterator[bytes]:
        """The names in order, each once, in pieces as `SortedNames.text` gives them. CPU work: for a thread."""
        for private, hidden, *known in together((self._private, self._hidden, *self._known)):
            others = b"" if self._policy is None else self._policy.forwarded(known)
            if not private and not hidden:
                yield others
            else:
                names = (set(lines(others)) - set(lines(hidden))).union(lines(private))
                yield _packed(sorted(names))


class NameLists:
    """The lists of names of one instance. Owned by one event loop."""

    def __init__(
        self, tree: Tree, database: Database, known: KnownNames, now: Callable[[], datetime]
    ) -> None:
        self._tree = tree
        self._database = database
        self._known = known
        self._now = now
        # One list at a time is worked on: many at once would take the threads that others need.
        self._turn = asyncio.Semaphore(1)
        self._policies: LRUCache[NamespacePath, _NamePolicy] = LRUCache(_POLICIES_KEPT)
        self._tokens: LRUCache[tuple[_NamePolicy, tuple[str, ...]], str] = LRUCache(_TOKENS_KEPT)

    async def get(self, index: Namespace, sight: Sight, as_of: datetime | None = None) -> NameList:
        """The names that `index` shows to a caller, as they are now.

        What the registry holds is read after the wait for a list of an upstream, and nothing is waited for
        afterwards.

        Args:
            index: one that `sight` may ask.
            as_of: of a dated view: private names of which there were files by then. Of upstreams nobody knows.

        Raises:
            UpstreamError: an upstream whose names belong here was never asked with success (`KnownNames.get`).
            StorageError: the registry cannot be read.
        """
        upstreams = index.policy.upstreams if index.policy.list_upstream and index.policy.forward else ()
        known = tuple(await asyncio.gather(*map(self._known.get, upstreams)))
        policy = await self._policy(index, sight) if known else None
        token = "" if policy is None else await self._token(policy, known)
        private, hidden = await self._registered(index, sight, known, as_of)
        token = digest_of(f"{token}\n{private.digest}\n{hidden.digest}".encode())
        return NameList(token, private, hidden, known, policy)

    async def _in_turn(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            return await asyncio.to_thread(work, *args, **kwargs)

    async def _policy(self, index: Namespace, sight: Sight) -> _NamePolicy:
        """Kept until a rule ends, since it goes through all of them; who asks makes no difference to it."""
        kept = self._policies.get(index.path)
        if kept is None or not kept.is_good(self._now()):
            kept = await self._in_turn(_NamePolicy, index, sight, self._tree, self._now())
            self._policies[index.path] = kept
        return kept

    async def _token(self, policy: _NamePolicy, known: tuple[SortedNames, ...]) -> str:
        """What changes with the names of the upstreams that are forwarded; kept, since rules make it dear."""
        key = (policy, tuple(names.digest for names in known))
        token = self._tokens.get(key)
        if token is None:
            content = hashlib.blake2b(digest_size=16)
            pieces = (policy.forwarded(piece) for piece in together(known))
            while (piece := await self._in_turn(next, pieces, None)) is not None:
                content.update(piece)
            token = self._tokens[key] = content.hexdigest()
        return token

    async def _registered(
        self, index: Namespace, sight: Sight, known: Sequence[SortedNames], as_of: datetime | None
    ) -> tuple[SortedNames, SortedNames]:
        """The names of the registry that are shown, and those of `known` that are claimed and not shown."""
        projects = self._tree.projects(index)
        shown = frozenset(project.path for project in projects if project.packages) & sight.readable
        private: list[Name] = []
        hidden: list[Name] = []

        def read(after: str) -> str | None:
            facts = self._database.read_now(partial(packages.facts_after, after=after, limit=_FACTS_AT_ONCE))
            for name, held in facts.items():
                if self._is_listed(index, name, held, shown, as_of):
                    private.append(name)
                elif any(name in names for names in known):
                    decision = decide(Asked(index, name, sight, as_of), held, self._tree, self._now())
                    if decision.word is not Word.UPSTREAM:
                        hidden.append(name)
            return name if len(facts) == _FACTS_AT_ONCE else None

        # Ten thousand names take a tenth of a second, and anybody may ask.
        after: str | None = ""
        while after is not None:
            after = await self._in_turn(read, after)
        if len(private) + len(hidden) < _FACTS_AT_ONCE:
            return SortedNames.of(private), SortedNames.of(hidden)
        return await self._in_turn(SortedNames.of, private), await self._in_turn(SortedNames.of, hidden)

    def _is_listed(
        self,
        index: Namespace,
        name: Name,
        facts: NameFacts,
        shown: frozenset[NamespacePath],
        as_of: datetime | None,
    ) -> bool:
        # The cheap test first: `decide` for each of many thousand names would take seconds.
        holders = [
            owned.project
            for owned in facts.owned
            if owned.kind is OwnedKind.FILES
            and owned.project in shown
            and (as_of is None or owned.had_files_at(as_of))
        ]
        if not holders or not index.is_root:
            return bool(holders)
        owner = owner_at_root(name, facts, self._tree, self._now())
        return any(self._tree.owner(project) == owner for project in holders)


class _NamePolicy:
    """Which names of upstreams an index would forward, of those that nobody published.

    `decide` says it. It is asked only for names near those that a rule speaks of, since asking it for 700,000
    takes seconds. CPU work where there are many rules: for a thread.
    """

    def __init__(self, index: Namespace, sight: Sight, tree: Tree, now: datetime) -> None:
        policy = index.policy
        self._index = index
        self._sight = sight
        self._now = now
        self._tree = tree
        reserving = (rule for _, rule in tree.all_reserves())
        denying = (rule for rule in policy.deny if rule.specifier is None and "deny" not in policy.warn)
        against = [rule for rule in (*denying, *reserving) if not rule.is_void(now)]
        self._against = _Near(against)
        self._allow = [] if "allow" in policy.warn else [_Near(each.patterns) for each in policy.allow]
        self._until = min((rule.until for rule in against if rule.until is not None), default=None)

    def is_good(self, now: datetime) -> bool:
        """Whether the same rules count at another time."""
        return self._now <= now and (self._until is None or now < self._until)

    def forwarded(self, known: Sequence[bytes]) -> bytes:
        """Those names of some pieces, as `SortedNames.text`, that are forwarded; all together, in order."""
        pieces = [piece for piece in known if piece]
        if not pieces:
            return b""
        piece = pieces[0] if len(pieces) == 1 else _packed(sorted(set(lines(b"".join(pieces)))))
        first, last = piece[: piece.index(b"\n")].decode(), piece[:-1].rpartition(b"\n")[2].decode()
        against = self._against.between(first, last)
        allow = [rules.between(first, last) for rules in self._allow]
        if not all(allow):
            return b""
        if not against and not allow:
            return piece
        return _packed(
            [
                name
                for name in lines(piece)
                if all(rules.covering(name) for rules in allow)
                and (not against.covering(name) or self._is_asked(name))
            ]
        )

    def _is_asked(self, name: Name) -> bool:
        return (
            decide(Asked(self._index, name, self._sight), _NOBODY_OWNS, self._tree, self._now).word
            is Word.UPSTREAM
        )


class _Near:
    """Rules by the characters that their patterns begin with, which are those of all names that they cover."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_start: dict[str, list[Rule]] = {}
        for rule in rules:
            self._by_start.setdefault(rule.pattern.partition("*")[0], []).append(rule)
        self._starts = sorted(self._by_start)

    def between(self, first: str, last: str) -> RuleSet:
        """All rules that may cover a name from `first` to `last`."""
        starts = [first[:size] for size in range(len(first) + 1) if first[:size] in self._by_start]
        starts += self._starts[bisect_right(self._starts, first) : bisect_right(self._starts, last)]
        return RuleSet.of(rule for start in starts for rule in self._by_start[start])


def upstreams_listed(tree: Tree) -> frozenset[str]:
    """The upstreams whose lists some index needs: to show their names, or to ask for these alone."""
    return frozenset(
        upstream
        for namespace in tree
        if namespace.policy.forward and (namespace.policy.list_upstream or namespace.policy.ask == "known")
        for upstream in namespace.policy.upstreams
    )


def _packed(names: Sequence[Name]) -> bytes:
    return "".join([f"{name}\n" for name in names]).encode()
