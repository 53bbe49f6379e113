"""What requirements and lock files ask for: names, versions, filenames and digests. Nothing else of them counts.

Reads requirements.txt as pip does, uv.lock, poetry.lock and pylock.toml (PEP 751). Where a file says that something
comes from is never believed: of an address only its last segment is read, as a filename to be looked up on the page
of the index. Environment markers and extras are passed over, since a cache serves machines of every kind.

Such files may come from anybody: they are bounded, every name passes `parse_name`, and no text of theirs becomes a
path.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.pylock import Package as PylockPackage
from packaging.pylock import PackageSdist, PackageWheel, Pylock, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page
from proxy.domain.versions import parse_version
from proxy.errors import InvalidInput, InvalidVersion

MAX_NEEDS = 50_000
"""Names that one file may ask for."""
MAX_FILES = 500_000
"""Files that one lock file may list."""
_LONGEST_REQUIREMENT = 1000
"""Characters without hashes and markers. Also keeps numbers below the digits that `int` accepts."""

_COMMENT = re.compile(r"(?:^|\s+)#.*$")
_OPTIONS = re.compile(r"\s+(?=--?[A-Za-z])")
_HASH = re.compile(r"--hash[=\s]\s*sha256:([0-9a-fA-F]{64})(?![0-9a-fA-F])", re.ASCII)
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})\Z", re.ASCII)
_ARCHIVE = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz", ".egg")
_NESTED = {"-r": False, "--requirement": False, "-c": True, "--constraint": True}

Struct = TypeVar("Struct", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file that a lock file names; `sha256` in lower-case hex, None where it says none."""

    filename: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Need:
    """A name, and what of it is needed.

    Attributes:
        specifier: which versions will do: the newest of them is needed.
        files: exactly these, whatever their version; where there are any, nothing else counts.
        digests: only files with one of these sha256; empty: all.
    """

    name: Name
    specifier: SpecifierSet
    files: tuple[LockedFile, ...] = ()
    digests: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that no index is asked for, and why; `name`: as it is called, or the line it stands in."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Needs:
    """All that one file asks for."""

    needs: tuple[Need, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, slots=True)
class Nested:
    """A requirements file that another one names; `only_limits`: with `-c`, so that it adds no names."""

    path: str
    only_limits: bool


@dataclass(frozen=True, slots=True)
class RequirementsFile:
    """What one requirements file asks for, and which others belong to it, in its own spelling of their paths."""

    needs: Needs
    nested: tuple[Nested, ...] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """A file of a page that is needed.

    `digests`: the sha256 of which it must have one, where any are named; they count where the page names none.
    """

    record: FileRecord
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of a page that meet a need, and those that it names and the page does not have."""

    picks: tuple[Pick, ...]
    missing: tuple[LockedFile, ...] = ()


def parse_requirement(text: str) -> Need:
    """A requirement such as `django>=4.2,<6`.

    Raises:
        InvalidInput: it is none, or names an address of its own.
    """
    found = _requirement(text)
    if isinstance(found, LeftOut):
        raise InvalidInput(f"{found.name} {found.reason}")
    return found


def parse_requirements(text: str, file: str = "requirements") -> RequirementsFile:
    """What a requirements file asks for. Options that tell pip where to look and how are passed over.

    Args:
        file: how to call it where a line is named.

    Raises:
        InvalidInput: a line is no requirement, or there are too many. The message names the line and not what
            stands there: addresses carry passwords.
    """
    needs: list[Need] = []
    left_out: list[LeftOut] = []
    nested: list[Nested] = []
    for number, line in _logical_lines(text):
        place = f"{file}:{number}"
        if line.startswith("-"):
            option, value = _option(line, place)
            if option in _NESTED:
                nested.append(Nested(value, only_limits=_NESTED[option]))
            elif option in {"-e", "--editable"}:
                left_out.append(LeftOut(place, "comes from a directory or repository, not an index"))
            continue
        wanted, *_ = _OPTIONS.split(line, maxsplit=1)
        if _is_place(wanted):
            left_out.append(LeftOut(place, "is an address or a path, not a name"))
            continue
        try:
            found = _requirement(wanted)
        except InvalidInput as error:
            raise InvalidInput(f"{place} is no requirement") from error
        if isinstance(found, LeftOut):
            left_out.append(found)
            continue
        needs.append(replace(found, digests=frozenset(map(str.lower, _HASH.findall(line)))))
        _bound(needs, ())
    return RequirementsFile(Needs(tuple(needs), tuple(left_out)), tuple(nested))


def limited(needs: Iterable[Need], limits: Iterable[Need]) -> tuple[Need, ...]:
    """`needs` with the versions that constraints (`-c`) leave; those add no name of their own."""
    by_name: dict[Name, SpecifierSet] = {}
    for limit in limits:
        by_name[limit.name] = by_name.get(limit.name, SpecifierSet()) & limit.specifier
    return tuple(
        replace(need, specifier=need.specifier & by_name[need.name]) if need.name in by_name else need
        for need in needs
    )


def parse_lock(text: str) -> Needs:
    """What a lock file asks for; which of the three forms it has, it says itself.

    Raises:
        InvalidInput: it is none of them, not in order, or too large.
    """
    try:
        content: Mapping[str, object] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidInput(f"the lock file is not valid TOML: {why}") from error
    metadata = content.get("metadata")
    if "packages" in content and "lock-version" in content:
        packages = _of_pylock(content)
    elif isinstance(metadata, Mapping) and {"lock-version", "files", "hashes"} & metadata.keys():
        packages = _of_poetry(_typed(content, _PoetryLock))
    elif "package" in content and isinstance(content.get("version"), int):
        packages = _of_uv(_typed(content, _UvLock))
    else:
        raise InvalidInput("this is no lock file known here", hint="send uv.lock, poetry.lock or pylock.toml")
    needs: list[Need] = []
    left_out: list[LeftOut] = []
    files = 0
    for found in packages:
        if isinstance(found, LeftOut):
            left_out.append(found)
            continue
        needs.append(found)
        files += len(found.files)
        if files > MAX_FILES:
            raise InvalidInput(f"the lock file lists more than {MAX_FILES} files")
        _bound(needs, left_out)
    return Needs(tuple(needs), tuple(left_out))


def choose(need: Need, page: Page) -> Chosen:
    """The files of `page` that meet `need`.

    The files that a lock file names; else all files of the newest version that will do. As for installers,
    pre-releases count where they are asked for or nothing else will do, and yanked files where a version is pinned
    (PEP 440, 592).
    """
    if need.files:
        return _locked(need.files, page)
    may_be_yanked = any(one.operator in {"==", "==="} and "*" not in one.version for one in need.specifier)
    by_version: dict[str, list[FileRecord]] = {}
    for record in page.files:
        if record.version is not None and (may_be_yanked or record.yanked is False):
            by_version.setdefault(record.version, []).append(record)
    of_version: dict[Version, list[FileRecord]] = {}
    for text, records in by_version.items():
        try:
            of_version.setdefault(parse_version(text), []).extend(records)
        except InvalidVersion:
            continue
    fitting = max(need.specifier.filter(of_version), default=None)
    if fitting is None:
        return Chosen(())
    return Chosen(
        tuple(
            Pick(record, need.digests)
            for record in of_version[fitting]
            if not need.digests or record.sha256 is None or record.sha256 in need.digests
        )
    )


def _locked(files: Sequence[LockedFile], page: Page) -> Chosen:
    listed = {record.filename: record for record in page.files}
    picks: list[Pick] = []
    missing: list[LockedFile] = []
    for file in files:
        record = listed.get(file.filename)
        if record is None or (None not in {record.sha256, file.sha256} and record.sha256 != file.sha256):
            missing.append(file)
        else:
            picks.append(Pick(record, frozenset() if file.sha256 is None else frozenset({file.sha256})))
    return Chosen(tuple(picks), tuple(missing))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a requirements file that say something, joined and without comments, as pip reads them."""
    began, parts = 0, list[str]()
    lines = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").splitlines()
    for number, raw in enumerate(lines, 1):
        is_comment = raw.lstrip().startswith("#")
        began = began if parts else number
        if raw.endswith("\\") and not is_comment and number < len(lines):
            parts.append(raw.rstrip("\\"))
            continue
        # A comment ends what was continued into it.
        parts.append(f" {raw}" if is_comment else raw)
        line = _COMMENT.sub("", "".join(parts)).strip()
        parts.clear()
        if line:
            yield began, line


def _option(line: str, place: str) -> tuple[str, str]:
    """The first option of a line, and its value; both may be spelled as one word."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InvalidInput(f"{place} has a quotation without an end") from error
    option, equals, value = words[0].partition("=") if words[0].startswith("--") else (words[0][:2], "", "")
    if not equals:
        value = words[0][2:] if not option.startswith("--") else ""
        value = value or (words[1] if len(words) > 1 else "")
    if option in _NESTED and not value:
        raise InvalidInput(f"{place} names no file")
    return option, value


def _is_place(text: str) -> bool:
    """Whether a line of a requirements file is an address or a path, which has no name of its own."""
    stated = text.partition(";")[0].partition("@")[0].strip()
    return "/" in stated or "\\" in stated or stated.startswith(".") or stated.endswith(_ARCHIVE)


def _requirement(text: str) -> Need | LeftOut:
    # Markers go first: parentheses in them may be nested without end.
    stated = text.partition(";")[0].strip()
    shown = ascii(stated[:80])
    if len(stated) > _LONGEST_REQUIREMENT:
        raise InvalidInput(f"{shown}... is too long for a requirement")
    try:
        found = Requirement(stated)
    except InvalidRequirement as error:
        raise InvalidInput(f"{shown} is no requirement", hint="write it as django or django>=4.2") from error
    name = parse_name(found.name)
    if found.url is not None:
        return LeftOut(name, "comes from an address of its own, not from an index")
    return Need(name, found.specifier)


def _bound(needs: Sequence[Need], left_out: Sequence[LeftOut]) -> None:
    if len(needs) + len(left_out) > MAX_NEEDS:
        raise InvalidInput(f"more than {MAX_NEEDS} names are asked for")


class _UvFile(msgspec.Struct):
    url: str = ""
    path: str = ""
    filename: str = ""
    hash: str = ""


class _UvPackage(msgspec.Struct):
    name: str
    source: dict[str, object]
    version: str | None = None
    sdist: _UvFile | None = None
    wheels: list[_UvFile] = []


class _UvLock(msgspec.Struct):
    package: list[_UvPackage]


def _of_uv(lock: _UvLock) -> Iterator[Need | LeftOut]:
    for package in lock.package:
        name = parse_name(package.name)
        if "registry" not in package.source:
            yield _from_elsewhere(name, package.source)
            continue
        files = [*package.wheels, *([package.sdist] if package.sdist is not None else [])]
        locked = (
            LockedFile(file.filename or _last_segment(file.url or file.path), _sha256(file.hash))
            for file in files
        )
        yield _pinned(name, package.version, tuple(locked))


class _PoetryFile(msgspec.Struct):
    file: str
    hash: str = ""


class _PoetrySource(msgspec.Struct):
    type: str = "legacy"


class _PoetryPackage(msgspec.Struct):
    name: str
    version: str
    files: list[_PoetryFile] | None = None
    source: _PoetrySource = msgspec.field(default_factory=_PoetrySource)


class _PoetryMetadata(msgspec.Struct):
    files: dict[str, list[_PoetryFile]] = {}
    hashes: dict[str, list[str]] = {}


class _PoetryLock(msgspec.Struct):
    metadata: _PoetryMetadata
    package: list[_PoetryPackage] = []


def _of_poetry(lock: _PoetryLock) -> Iterator[Need | LeftOut]:
    """Files stand with their package, before poetry 1.5 below `metadata`; before 1.1 there are digests alone."""
    apart = {parse_name(name): files for name, files in lock.metadata.files.items()}
    hashes = {parse_name(name): digests for name, digests in lock.metadata.hashes.items()}
    for package in lock.package:
        name = parse_name(package.name)
        if package.source.type not in {"legacy", "pypi"}:
            yield _from_elsewhere(name, {package.source.type: True})
            continue
        files = apart.get(name, []) if package.files is None else package.files
        locked = tuple(LockedFile(file.file, _sha256(file.hash)) for file in files)
        digests = frozenset(digest.lower() for digest in hashes.get(name, ()))
        yield replace(_pinned(name, package.version, locked), digests=digests)


def _of_pylock(content: Mapping[str, object]) -> Iterator[Need | LeftOut]:
    try:
        lock = Pylock.from_dict(content)
    except PylockValidationError as error:
        raise InvalidInput(f"the lock file is not in order: {error}") from error
    for package in lock.packages:
        name = parse_name(package.name)
        elsewhere = {"git": package.vcs, "directory": package.directory, "archive": package.archive}
        if any(elsewhere.values()):
            yield _from_elsewhere(name, {word: True for word, source in elsewhere.items() if source})
            continue
        version = None if package.version is None else str(package.version)
        yield _pinned(name, version, tuple(_pylock_files(package)))


def _pylock_files(package: PylockPackage) -> Iterator[LockedFile]:
    files: list[PackageWheel | PackageSdist] = [*(package.wheels or ())]
    if package.sdist is not None:
        files.append(package.sdist)
    for file in files:
        filename = file.name or _last_segment(file.path or file.url or "")
        yield LockedFile(filename, _sha256(f"sha256:{file.hashes.get('sha256', '')}"))


def _pinned(name: Name, version: str | None, files: tuple[LockedFile, ...]) -> Need:
    specifier = SpecifierSet() if version is None else SpecifierSet(f"=={parse_version(version)}")
    return Need(name, specifier, files)


def _from_elsewhere(name: Name, source: Mapping[str, object]) -> LeftOut:
    kind = next((word for word in ("git", "url", "archive") if word in source), "directory")
    place = {"git": "a repository", "directory": "a directory"}.get(kind, "an address of its own")
    return LeftOut(name, f"comes from {place}, not from an index")


def _sha256(text: str) -> str | None:
    found = _SHA256.match(text.lower())
    return None if found is None else found[1]


def _last_segment(address: str) -> str:
    try:
        path = urlsplit(address).path
    except ValueError as error:
        raise InvalidInput("the lock file has an address that is none") from error
    return unquote(path.replace("\\", "/").rpartition("/")[2])


def _typed(content: Mapping[str, object], kind: type[Struct]) -> Struct:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the lock file is not in order: {error}") from error
