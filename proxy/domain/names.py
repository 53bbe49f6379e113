"""Project names: the one canonicaliser, and patterns over names.

Everything that carries a project name passes `parse_name` first; below it only `Name` travels. There is no
lenient mode: a name is in the grammar or it is refused, never repaired (protocol T-NAME1 … T-NAME4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from proxy.errors import InvalidName

Name = NewType("Name", str)
"""A normalised project name (PEP 503). Only `parse_name` makes one."""

# re.ASCII and \Z matter: without them U+212A (KELVIN SIGN) folds to "k" and "kivy\n" passes.
_GRAMMAR = re.compile(r"([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])\Z", re.IGNORECASE | re.ASCII)
_SEPARATORS = re.compile(r"[-_.]+")
_PATTERN_GRAMMAR = re.compile(r"[a-z0-9*]([a-z0-9*-]*[a-z0-9*])?\Z", re.ASCII)

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
    """Normalised patterns in the order they were given; `match` finds the first that covers a name.

    Exact names are found by hash; only globs are scanned.
    """

    patterns: tuple[str, ...]
    _exact: dict[str, int]
    _globs: tuple[tuple[int, re.Pattern[str]], ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> PatternSet:
        """Compile patterns that `parse_pattern` returned."""
        ordered = tuple(patterns)
        exact: dict[str, int] = {}
        globs: list[tuple[int, re.Pattern[str]]] = []
        for position, pattern in enumerate(ordered):
            if "*" in pattern:
                globs.append((position, _glob(pattern)))
            else:
                exact.setdefault(pattern, position)
        return cls(ordered, exact, tuple(globs))

    def match(self, name: Name) -> int | None:
        """The position of the first pattern that covers `name`, or None."""
        best = self._exact.get(name)
        for position, glob in self._globs:
            if best is not None and best < position:
                break
            if glob.match(name):
                return position
        return best


def _glob(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression that never backtracks: anybody may send a long name.

    Each middle part is taken at its first occurrence, atomically, which is right for a glob; the last part is
    anchored at the end.
    """
    first, *middle, last = map(re.escape, re.sub(r"\*+", "*", pattern).split("*"))
    steps = "".join(f"(?>[a-z0-9-]*?{part})" for part in middle)
    return re.compile(rf"{first}{steps}[a-z0-9-]*{last}\Z", re.ASCII)
