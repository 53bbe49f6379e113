"""Project names: the one canonicaliser, and patterns over names.

Everything that carries a project name passes `parse_name` first; below it only `Name` travels. There is no
lenient mode: a name is in the grammar or it is refused, never repaired (protocol T-NAME1 … T-NAME4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType, TypeAlias, TypeVar

from proxy.errors import InvalidName

Name = NewType("Name", str)
"""A normalised project name (PEP 503). Only `parse_name` makes one."""

# re.ASCII and \Z matter: without them U+212A (KELVIN SIGN) folds to "k" and "kivy\n" passes.
_GRAMMAR = re.compile(r"([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])\Z", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"[-_.]+")
_PATTERN_GRAMMAR = re.compile(r"[a-z0-9*]([a-z0-9*-]*[a-z0-9*])?\Z", re.ASCII)
_STARS = re.compile(r"\*+")
_LOOK_ALIKE = bytes.maketrans(b"lio", b"110")

MAX_NAME_LENGTH = 512
"""Characters. PyPI's longest names are near 80; this bounds paths, keys and log lines."""


def parse_name(raw: str) -> Name:
    """Return the normalised form of `raw` (PEP 508 grammar in ASCII, PEP 503 normalisation).

    Raises:
        InvalidName: `raw` is outside the grammar or longer than `MAX_NAME_LENGTH`.
    """
    if not raw.isascii() or len(raw) > MAX_NAME_LENGTH or _GRAMMAR.match(raw) is None:
        raise InvalidName(
            f"{raw[:80]!a} is not a valid project name",
            hint="names are ASCII letters, digits, '.', '-' and '_', and begin and end with a letter or digit",
        )
    return Name(_SEPARATORS.sub("-", raw).lower())


def look_alike_key(name: Name) -> str:
    """What is equal for names that people take for each other: PyPI's ultranormal form (protocol T-HOMO).

    Separators do not count, `l` and `i` are `1`, `o` is `0`.
    """
    return look_alike_keys(name.encode("ascii")).decode("ascii")


def look_alike_keys(names: bytes) -> bytes:
    """As `look_alike_key`, of many names with whatever stands between them that no name contains."""
    return names.translate(_LOOK_ALIKE, b"-")


def parse_pattern(raw: str) -> str:
    """Return a name pattern (`acme-*`, `*`) normalised as names are.

    Raises:
        InvalidName: outside ASCII letters, digits, separators and `*`, or edged by a separator.
    """
    normal = _SEPARATORS.sub("-", raw).lower() if raw.isascii() else ""
    if len(raw) > MAX_NAME_LENGTH or _PATTERN_GRAMMAR.match(normal) is None:
        raise InvalidName(
            f"{raw[:80]!a} is not a name pattern", hint="expected a name, or one with '*' such as acme-*"
        )
    return normal


@dataclass(frozen=True, slots=True)
class PatternSet:
    """Normalised patterns in the order they were given; `matches` finds those that cover a name.

    Exact names, beginnings (`acme-*`) and ends (`*-acme`) are found by hash; of the other globs only those are tried
    of which the name has a piece. So it costs microseconds also among a hundred thousand.
    """

    patterns: tuple[str, ...]
    _exact: Mapping[str, Sequence[int]]
    _begins: _Edges
    _ends: _Edges
    _globs: _Globs

    @classmethod
    def of(cls, patterns: Iterable[str]) -> PatternSet:
        """Compile patterns that `parse_pattern` returned."""
        ordered = tuple(patterns)
        exact: dict[str, list[int]] = {}
        begins: dict[str, list[int]] = {}
        ends: dict[str, list[int]] = {}
        globs: list[_Glob] = []
        for position, pattern in enumerate(ordered):
            if "*" not in pattern:
                exact.setdefault(pattern, []).append(position)
                continue
            first, *middle, last = _STARS.split(pattern)
            if not middle and not last:
                begins.setdefault(first, []).append(position)
            elif not middle and not first:
                ends.setdefault(last, []).append(position)
            else:
                globs.append((position, first, tuple(middle), last))
        return cls(ordered, _frozen(exact), _Edges.of(begins), _Edges.of(ends), _Globs.of(globs))

    def matches(self, name: Name) -> list[int]:
        """The positions of the patterns that cover `name`, in order."""
        found = list(self._exact.get(name, ()))
        length = len(name)
        for size in self._begins.sizes:
            if size > length:
                break
            found += self._begins.positions.get(name[:size], ())
        for size in self._ends.sizes:
            if size > length:
                break
            found += self._ends.positions.get(name[length - size :], ())
        if self._globs.tables:
            found += self._globs.covering(name)
        found.sort()
        return found


_T = TypeVar("_T")


def _frozen(found: Mapping[str, list[_T]]) -> dict[str, tuple[_T, ...]]:
    """The same with tuples, which the garbage collector passes over where they hold plain values."""
    return {key: tuple(values) for key, values in found.items()}


@dataclass(frozen=True, slots=True)
class _Edges:
    """Positions of globs by what they begin or end with, and the lengths of that in ascending order."""

    positions: Mapping[str, Sequence[int]]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, positions: Mapping[str, list[int]]) -> _Edges:
        return cls(_frozen(positions), tuple(sorted({len(edge) for edge in positions})))


_Glob: TypeAlias = tuple[int, str, tuple[str, ...], str]
"""A glob's position; what stands before its first star, between its stars, after its last one."""


@dataclass(frozen=True, slots=True)
class _Globs:
    """Globs of several literal parts, each to be found by one piece of a part.

    `tables`: length of the pieces → piece → the globs that are tried where a name has it. Of the pieces of a glob the
    one is taken that fewest others were found by, so that many globs alike in most parts are told apart by the rest.
    """

    tables: Mapping[int, Mapping[str, Sequence[_Glob]]]

    @classmethod
    def of(cls, globs: Iterable[_Glob]) -> _Globs:
        tables: dict[int, dict[str, list[_Glob]]] = {}
        for glob in globs:
            _, first, middle, last = glob
            parts = (first, *middle, last)
            size = min(_PIECE, max(map(len, parts)))
            table = tables.setdefault(size, {})
            pieces = (part[at : at + size] for part in parts for at in range(len(part) - size + 1))
            rarest = min(pieces, key=lambda piece: len(table.get(piece, ())))
            table.setdefault(rarest, []).append(glob)
        return cls({size: _frozen(table) for size, table in tables.items()})

    def covering(self, name: Name) -> Iterator[int]:
        """The positions of the globs that cover `name`, in no order."""
        for size, table in self.tables.items():
            for piece in table.keys() & {name[at : at + size] for at in range(len(name) - size + 1)}:
                for position, first, middle, last in table[piece]:
                    if _fits(name, first, middle, last):
                        yield position


_PIECE = 4
"""Characters of the pieces that globs are found by, where they have a part that is long enough."""


def _fits(name: Name, first: str, middle: Iterable[str], last: str) -> bool:
    """Whether the parts of a glob stand in `name` one after the other.

    Each is taken at its first occurrence, which is right for a glob, and never looked for again: anybody may send a
    long name.
    """
    if not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return at <= end
