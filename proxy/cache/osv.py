"""An OSV database on disk: which files it has, and what they say of packages of PyPI.

A database is a directory with zips of JSON files, or the JSON files themselves, as OSV publishes them for PyPI.
Directories below it are read too; names that begin with a dot are not. Where two files have the same id, that which
was modified last counts. Withdrawn advisories and other ecosystems' are left out. Advisories of one name that are
aliases of each other say the same of their aliases, and an unrated one is as severe as the worst of the others.

What is read is what somebody else wrote: it has limits of size and number, and a file that makes no sense costs
itself alone. A zip that is damaged costs the database, since it may be that it has not wholly come.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH113, PTH116, PTH118, PTH123

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from packaging.version import Version

from proxy.domain.advisories import Advisory, Affected, Severity, affecting, named
from proxy.domain.names import Name, parse_name
from proxy.domain.versions import known_version
from proxy.errors import InvalidName

MAX_FILES = 1_000_000
"""Files of a database, in its zips or beside them."""
MAX_DOCUMENT = 8 << 20
"""Bytes of one advisory; a longer one is unreadable."""
MAX_UNPACKED = 4 << 30
"""Bytes of all advisories; a tenth of it is usual."""

_LONGEST_SUMMARY = 200
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}\Z", re.ASCII)
_MALICIOUS = "MAL-"
_FIRST = Version("0.dev0")
"""Before all others that there are."""
_WORDS = {
    "LOW": Severity.LOW,
    "MODERATE": Severity.MEDIUM,
    "MEDIUM": Severity.MEDIUM,
    "HIGH": Severity.HIGH,
    "CRITICAL": Severity.CRITICAL,
    # A score of 0.
    "NONE": Severity.LOW,
}
_LONGEST_SCORE = 400
_MAX_ALIASES = 100


_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),
)
"""What reading a zip raises where it is none, or one of a kind that cannot be read."""


class Unusable(Exception):
    """A database that cannot take the place of the one before; the message says why in one clause."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what may go wrong in reading a database into `Unusable`."""
    try:
        yield
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror or type(error).__name__})") from error
    except _DAMAGED as error:
        raise Unusable(f"one of its zips is damaged ({type(error).__name__})") from error


class _Package(msgspec.Struct):
    ecosystem: str | None = None
    name: str | None = None


class _Event(msgspec.Struct):
    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None


class _Range(msgspec.Struct):
    type: str | None = None
    events: list[_Event] | None = None


class _Rating(msgspec.Struct):
    type: str | None = None
    score: str | None = None


class _Concerned(msgspec.Struct):
    package: _Package | None = None
    ranges: list[_Range] | None = None
    versions: list[str] | None = None
    severity: list[_Rating] | None = None


class _Specific(msgspec.Struct):
    severity: Any = None


class _Entry(msgspec.Struct):
    """What is read of an advisory in the form of OSV (schema 1.x); the rest is passed over."""

    id: str
    modified: str | None = None
    withdrawn: str | None = None
    aliases: list[str] | None = None
    summary: str | None = None
    severity: list[_Rating] | None = None
    affected: list[_Concerned] | None = None
    database_specific: _Specific | None = None


class Database:
    """What was read so far of a database's files."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Entry)
        self._ratings: dict[tuple[str, str], int | None] = {}
        self._modified: dict[str, str] = {}
        self._told: dict[str, dict[Name, Advisory]] = {}
        self._unpacked = 0
        self.unreadable = 0

    def read(self, document: bytes) -> None:
        """Take the content of one file in.

        Raises:
            Unusable: all of them together are too long.
        """
        self._unpacked += len(document)
        if self._unpacked > MAX_UNPACKED:
            raise Unusable("it is too long")
        try:
            entry = self._decoder.decode(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1
            return
        if _ID.match(entry.id) is None:
            self.unreadable += 1
            return
        modified = entry.modified or ""
        if modified >= self._modified.get(entry.id, ""):
            self._modified[entry.id] = modified
            self._told[entry.id] = {} if entry.withdrawn is not None else self._advisories(entry)

    def by_name(self) -> Iterator[tuple[Name, tuple[Advisory, ...]]]:
        """What is said of each name that something is said of, in order; the worst first."""
        told: dict[Name, list[Advisory]] = {}
        for advisories in self._told.values():
            for name, advisory in advisories.items():
                told.setdefault(name, []).append(advisory)
        for name in sorted(told):
            yield name, _joined(told[name])

    def _advisories(self, entry: _Entry) -> dict[Name, Advisory]:
        concerned: dict[Name, list[_Concerned]] = {}
        for one in entry.affected or ():
            package = one.package
            # An ecosystem may have a suffix behind a colon.
            if package is None or (package.ecosystem or "").partition(":")[0] != "PyPI":
                continue
            try:
                concerned.setdefault(parse_name(package.name or ""), []).append(one)
            except InvalidName:
                self.unreadable += 1
        given = (entry.aliases or ())[:_MAX_ALIASES]
        aliases = tuple(dict.fromkeys(alias for alias in given if _ID.match(alias)))
        shown = "".join(one if one.isprintable() else " " for one in entry.summary or "")
        summary = " ".join(shown.split())
        return {
            name: Advisory(
                id=entry.id,
                summary=summary[:_LONGEST_SUMMARY],
                aliases=aliases,
                severity=self._severity(entry, parts),
                **_concerns(entry.id, parts),
            )
            for name, parts in concerned.items()
        }

    def _severity(self, entry: _Entry, parts: Iterable[_Concerned]) -> int | None:
        """The worst of all ratings that are given; of a package that is malicious nothing else."""
        if entry.id.startswith(_MALICIOUS):
            return Severity.CRITICAL
        given = [*(entry.severity or ()), *(rating for part in parts for rating in part.severity or ())]
        found = [
            rated
            for rating in given
            if (rated := self._rated(rating.type or "", rating.score or "")) is not None
        ]
        if found:
            return max(found)
        word = None if entry.database_specific is None else entry.database_specific.severity
        return _WORDS.get(word.upper()) if isinstance(word, str) else None

    def _rated(self, kind: str, score: str) -> int | None:
        """The severity of a CVSS vector by its base score; None: it is none."""
        if len(score) > _LONGEST_SCORE:
            return None
        if (kind, score) not in self._ratings:
            self._ratings[kind, score] = _base_severity(kind, score)
        return self._ratings[kind, score]


def _base_severity(kind: str, score: str) -> int | None:
    # Only the process that makes a file needs it.
    from cvss import CVSS2, CVSS3, CVSS4, CVSSError  # type: ignore[import-untyped]  # it has no stubs

    vectors = {"CVSS_V2": CVSS2, "CVSS_V3": CVSS3, "CVSS_V4": CVSS4}
    try:
        return _WORDS.get(vectors[kind](score).severities()[0].upper()) if kind in vectors else None
    except CVSSError:
        return None


def _concerns(entry_id: str, parts: Iterable[_Concerned]) -> dict[str, Any]:
    """`affected` and `versions` of an advisory; of the latter only what the former does not cover."""
    affected: dict[Affected, None] = {}
    texts: dict[str, None] = {}
    for part in parts:
        listed = dict.fromkeys(part.versions or ())
        texts.update(listed)
        ranges = [one for one in part.ranges or () if one.type == "ECOSYSTEM"]
        for one in ranges:
            affected.update(dict.fromkeys(_intervals(one.events or (), strict=bool(listed))))
        if entry_id.startswith(_MALICIOUS) and not listed and not ranges:
            # Nothing is said of versions: it is all of them.
            affected[Affected("0")] = None
    covered = affecting([Advisory("-", affected=tuple(affected))], texts)
    versions = dict.fromkeys(named(text) for text in texts if text not in covered)
    return {"affected": tuple(affected), "versions": tuple(versions)}


def _intervals(events: Iterable[_Event], *, strict: bool) -> Iterator[Affected]:
    """The ranges between events, in whatever order they come (OSV, evaluation).

    Args:
        strict: all versions are listed besides, so events are passed over of which one cannot be read. Else a range
            begins with the first version of all where its beginning cannot be read, and has no end where that cannot.
    """
    found: list[tuple[Version, int, str]] = []
    for event in events:
        # Where one range ends with the version with which another begins, that version is affected.
        for text, order in ((event.fixed, 0), (event.introduced, 1), (event.last_affected, 2)):
            if text is None:
                continue
            version = _FIRST if text == "0" else known_version(text)
            if version is not None:
                found.append((version, order, text))
            elif strict:
                return
            elif order == 1:
                found.append((_FIRST, order, "0"))
    begun: str | None = None
    for _, order, text in sorted(found):
        if order == 1:
            begun = begun or text
        elif begun is not None:
            yield Affected(begun, fixed=text) if order == 0 else Affected(begun, last=text)
            begun = None
    if begun is not None:
        yield Affected(begun)


def _joined(advisories: Iterable[Advisory]) -> tuple[Advisory, ...]:
    """Advisories of one name, after what aliases say of each other; the worst first.

    Being an alias is symmetric and transitive (OSV, aliases).
    """
    kins: dict[str, set[str]] = {}
    given = list(advisories)
    for advisory in given:
        joined = {advisory.id, *advisory.aliases}
        for name in tuple(joined):
            joined |= kins.get(name, set())
        for name in joined:
            kins[name] = joined
    worst: dict[int, int] = {}
    for advisory in given:
        if advisory.severity is not None:
            kin = id(kins[advisory.id])
            worst[kin] = max(advisory.severity, worst.get(kin, 0))
    made = [
        msgspec.structs.replace(
            advisory,
            aliases=tuple(sorted(kins[advisory.id] - {advisory.id})),
            severity=worst.get(id(kins[advisory.id])) if advisory.severity is None else advisory.severity,
        )
        for advisory in given
    ]
    return tuple(sorted(made, key=lambda one: (-one.counts_as, one.id)))


def files_of(source: str) -> Sequence[str]:
    """The paths of a database's files, in order. Raises as `read`."""

    def fail(error: OSError) -> None:
        raise error

    found: list[str] = []
    for directory, below, names in os.walk(source, onerror=fail):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [
            os.path.join(directory, name)
            for name in names
            if not name.startswith(".")
            and name.lower().endswith((".json", ".zip"))
            and os.path.isfile(os.path.join(directory, name))  # no device, and no pipe that nobody writes to
        ]
        if len(found) > MAX_FILES:
            raise Unusable(f"it has more than {MAX_FILES} files")
    return sorted(found)


def fingerprint(source: str, paths: Iterable[str]) -> str:
    """What a database looks like from outside; taken before it is read, so that a change meanwhile shows later."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        state = os.stat(path)
        found.update(repr((os.path.relpath(path, source), state.st_mtime_ns, state.st_size)).encode())
    return found.hexdigest()


def read(paths: Iterable[str]) -> Database:
    """What these files say. Within `translated`.

    Raises:
        Unusable: it is too much.
    """
    database = Database()
    for path in paths:
        for document in _documents(path):
            database.read(document)
    return database


def _documents(path: str) -> Iterator[bytes]:
    """The contents of one file, or of those in one zip. One that is too long is cut off, and so is no JSON."""
    if path.lower().endswith(".json"):
        with open(path, "rb") as file:
            yield file.read(MAX_DOCUMENT)
        return
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if member.filename.lower().endswith(".json")]
        if len(members) > MAX_FILES:
            raise Unusable(f"one of its zips has more than {MAX_FILES} files")
        for member in members:
            with archive.open(member) as content:
                yield content.read(MAX_DOCUMENT)
