"""Advisories: known vulnerabilities of versions, in the form of OSV, and which versions they concern.

Pure. `cache.advisories` reads the database's files and keeps what is said of each name; `screen` asks here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec
from packaging.version import Version

from proxy.domain.versions import known_version, public_key, version_key


class Severity(IntEnum):
    """How bad; as `severity` in a policy."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


class Affected(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A range of versions (OSV, ranges of type ECOSYSTEM): from `introduced` on, `0` for the first version of all.

    Ends before `fixed`, or behind `last`; never, where both are None. All three are versions.
    """

    introduced: str
    fixed: str | None = None
    last: str | None = None


_ALL = Affected("0")
"""All versions that there are, and what is none too."""


class Advisory(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an advisory says of one name. Withdrawn ones are not kept.

    Attributes:
        id: printable ASCII without blanks.
        aliases: what the same vulnerability is called elsewhere.
        severity: a number of `Severity`; None: unrated.
        affected: in any order; may overlap.
        versions: affected ones beyond those ranges, as `named` has them.
    """

    id: str
    summary: str = ""
    aliases: tuple[str, ...] = ()
    severity: int | None = None
    affected: tuple[Affected, ...] = ()
    versions: tuple[str, ...] = ()

    @property
    def counts_as(self) -> Severity:
        """Its severity; unrated counts as high (contract 3)."""
        return Severity.HIGH if self.severity is None else Severity(self.severity)

    def is_called(self, name: str) -> bool:
        """Whether `name` is its id or an alias, without regard to case."""
        return name.lower() in {self.id.lower(), *(alias.lower() for alias in self.aliases)}

    def fixed_behind(self, version: Version) -> str | None:
        """The lowest version behind `version` in which it is known to be fixed."""
        fixes = {
            parsed: one.fixed
            for one in self.affected
            if one.fixed is not None and (parsed := known_version(one.fixed)) is not None and version < parsed
        }
        return fixes[min(fixes)] if fixes else None


def named(version: str) -> str:
    """A version as `Advisory.versions` has it: its `version_key`; as it is, where it is none by PEP 440."""
    parsed = known_version(version)
    return version if parsed is None else version_key(parsed)


def affecting(advisories: Iterable[Advisory], versions: Iterable[str]) -> dict[str, list[Advisory]]:
    """Which of these versions are affected, and by which advisories, in the given order.

    A local version, `1.0+cu118`, is as affected as that which it is made of. A text that is no version is affected
    where an advisory names it, letter by letter, or concerns all versions that there are, as malware does.

    The versions of a page are sorted once and every range looked up in them, each distinct one once: some names have
    hundreds of advisories, whose ranges are much the same.
    """
    known: list[tuple[Version, str]] = []
    called: dict[str, list[str]] = {}
    everything = tuple(dict.fromkeys(versions))
    for text in everything:
        parsed = known_version(text)
        if parsed is None:
            called.setdefault(text, []).append(text)
            continue
        for key in {version_key(parsed), public_key(parsed)}:
            called.setdefault(key, []).append(text)
        known.append((Version(parsed.public) if parsed.local else parsed, text))
    known.sort(key=lambda pair: pair[0])
    order, texts = [version for version, _ in known], [text for _, text in known]
    spans: dict[Affected, Sequence[str]] = {}
    found: dict[str, list[Advisory]] = {}
    for advisory in advisories:
        hit: dict[str, None] = {}
        for one in advisory.affected:
            span = spans.get(one)
            if span is None:
                span = spans[one] = everything if one == _ALL else _span(one, order, texts)
            hit.update(dict.fromkeys(span))
        for name in advisory.versions:
            hit.update(dict.fromkeys(called.get(name, ())))
        for text in hit:
            found.setdefault(text, []).append(advisory)
    return found


def _span(one: Affected, order: Sequence[Version], texts: Sequence[str]) -> Sequence[str]:
    """The texts of those versions, which are in order, that lie in a range."""
    first = known_version(one.introduced)
    low = 0 if first is None or one.introduced == "0" else bisect_left(order, first)
    fixed, last = known_version(one.fixed), known_version(one.last)
    high = len(order)
    if fixed is not None:
        high = bisect_left(order, fixed)
    elif last is not None:
        high = bisect_right(order, last)
    return texts[low:high]
