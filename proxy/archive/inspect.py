"""What a wheel or sdist says of itself: its METADATA or PKG-INFO, found, read within limits, compared and parsed.

Archives are hostile until shown otherwise: nothing is extracted, every size has a bound, the whole has a time
budget, and whatever is wrong comes out as `InvalidArchive`. The calls block and use the processor: uploads are
read in the process of `sandbox`, files of an upstream in a thread. How members are found is known by `zips` and
`tars` alone; a further check of the archive itself (protocol T-ARCH) belongs there, one of what it says here.
"""

from __future__ import annotations

import email.parser
import email.policy
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypeVar

from packaging.version import Version

from proxy.archive.members import plain_path, shown
from proxy.archive.tars import TarStream, begins_as_tar
from proxy.archive.zips import Member, check, ends_as_zip, find_directory, members, read_member
from proxy.domain.core_metadata import split_header
from proxy.domain.filenames import Distribution, Kind
from proxy.domain.names import Name, parse_name
from proxy.domain.versions import parse_version
from proxy.errors import InvalidArchive, InvalidName, InvalidVersion, StorageError

MAX_METADATA_SIZE = 8 << 20
"""Bytes of METADATA or PKG-INFO; the description, a whole README, is most of it."""
BUDGET = timedelta(seconds=30)
"""The time for a small archive, some thousand times what it needs."""

# Counted before parsing, which makes some 200 bytes of each.
_MAX_HEADER_LINES = 100_000
_MAX_REQUIRES_PYTHON = 255
# A fifth of what one slow core reads and unpacks.
_BYTES_PER_SECOND = 16 << 20
# What a wheel cannot be installed without (PEP 427), besides METADATA.
_OF_EVERY_WHEEL = (b"WHEEL", b"RECORD")
_METADATA_VERSION = re.compile(r"([12])\.([0-9]{1,3})\Z", re.ASCII)
# What installers decide by; an sdist may leave it to its build (PEP 643).
_DECISIVE = frozenset({"requires-dist", "requires-python", "provides-extra"})
_T = TypeVar("_T", Member, bytes)
_ONCE = ("metadata-version", "name", "version", "requires-python")


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a distribution says of itself. Name and version are those of its filename, or it would not be here.

    Attributes:
        metadata: METADATA or PKG-INFO as stored, UTF-8: the bytes to serve beside the file.
        requires_python: as written, in one line; not checked against the grammar of specifiers.
        final: whether what installers decide by cannot change when the file is built; true of every wheel.
    """

    metadata: bytes
    metadata_version: str
    name: Name
    version: Version
    requires_python: str | None
    requires_dist: tuple[str, ...]
    summary: str | None
    description_content_type: str | None
    final: bool


def inspect(
    path: str | os.PathLike[str], distribution: Distribution, *, budget: timedelta | None = None
) -> Inspected:
    """Read the whole archive at `path`, refuse what T-ARCH forbids, and compare its metadata with its filename.

    Args:
        distribution: what `parse_distribution` made of the filename; `path` itself says nothing.
        budget: the time that this may take; it is overdrawn by less than a second. By default `budget_for`.

    Raises:
        InvalidArchive: damaged, hostile, without what it needs, or of another name or version.
        StorageError: the file cannot be opened or read.
    """
    try:
        with Path(path).open("rb") as file:
            if budget is None:
                budget = budget_for(file.seek(0, os.SEEK_END))
            return _inspect(file, distribution, budget)
    except OSError as error:
        raise StorageError("the uploaded file cannot be read") from error


def budget_for(size: int) -> timedelta:
    """The time that an archive of `size` bytes may take to be read to its end."""
    return BUDGET + timedelta(seconds=size / _BYTES_PER_SECOND)


def _inspect(file: BinaryIO, distribution: Distribution, budget: timedelta) -> Inspected:
    tick = _countdown(budget)
    if distribution.filename.endswith(".tar.gz"):
        if ends_as_zip(file):
            raise InvalidArchive("the archive is a tar archive and a zip archive at once")
        metadata = _tar_metadata(file, tick)
    else:
        check(file, tick)
        if begins_as_tar(file):
            raise InvalidArchive("the archive is a zip archive and a tar archive at once")
        if distribution.kind is Kind.WHEEL:
            metadata = _wheel_metadata(file, distribution, tick, needed=_OF_EVERY_WHEEL)
        else:
            metadata = _zip_metadata(file, tick)
    return _read_metadata(metadata, distribution)


def inspect_file(file: BinaryIO, distribution: Distribution, *, budget: timedelta = BUDGET) -> Inspected:
    """What the metadata of a wheel say, of a file that can seek and reads as much as it is asked for.

    For wheels that somebody else has published: only the end, the central directory and METADATA are read, so
    `file` may fetch ranges; and an old wheel's oddities that do not touch these are no reason to refuse it.
    What its own methods raise passes through.

    Raises:
        InvalidArchive: one of these is damaged or hostile, or of another name or version.
    """
    return _read_metadata(_wheel_metadata(file, distribution, _countdown(budget)), distribution)


def _countdown(budget: timedelta) -> Callable[[], None]:
    """A function that raises from the moment on when `budget` is spent."""
    deadline = time.monotonic() + budget.total_seconds()

    def tick() -> None:
        if time.monotonic() > deadline:
            raise InvalidArchive("the archive takes too long to read")

    return tick


def _wheel_metadata(
    file: BinaryIO,
    distribution: Distribution,
    tick: Callable[[], None],
    *,
    needed: tuple[bytes, ...] = (),
) -> bytes:
    """METADATA of the wheel's one `*.dist-info`, which has to hold the files `needed` as well.

    Its spelling need not be the filename's: older tools wrote `Foo.Bar-1.0.dist-info` for `foo_bar-1.0`.
    """
    directory = find_directory(file)
    dist_infos: set[bytes] = set()
    found: list[Member] = []
    missing = set(needed)
    for member in members(file, directory, tick):
        top, slash, rest = member.name.partition(b"/")
        if slash and top.endswith(b".dist-info"):
            dist_infos.add(top)
            missing.discard(rest)
            if rest == b"METADATA":
                found.append(member)
    if len(dist_infos) != 1:
        raise InvalidArchive(
            "the wheel has more than one .dist-info directory"
            if dist_infos
            else "the wheel has no .dist-info directory"
        )
    (dist_info,) = dist_infos
    if not _names(dist_info.removesuffix(b".dist-info"), distribution):
        raise InvalidArchive(
            f"the wheel's directory {shown(dist_info)} does not belong to {distribution.name} {distribution.version}"
        )
    if missing:
        raise InvalidArchive(f"the wheel has no {min(missing).decode()} in {shown(dist_info)}")
    return read_member(file, directory, _only(found, "METADATA"), MAX_METADATA_SIZE, tick)


def _names(stem: bytes, distribution: Distribution) -> bool:
    """Whether `stem`, such as `Foo.Bar-1.0`, names the distribution's name and version in some spelling."""
    name, _, version = stem.decode("latin-1").rpartition("-")
    try:
        return parse_name(name) == distribution.name and parse_version(version) == distribution.version
    except (InvalidName, InvalidVersion):
        return False


def _only(found: list[_T], name: str) -> _T:
    if len(found) != 1:
        raise InvalidArchive(
            f"the archive has {name} more than once" if found else f"the archive has no {name}"
        )
    return found[0]


def _zip_metadata(file: BinaryIO, tick: Callable[[], None]) -> bytes:
    directory = find_directory(file)
    top = b""
    found: list[Member] = []
    for member in members(file, directory, tick):
        path = plain_path(member.name)
        if path:
            top = _one_top(top, path, is_directory=member.name.endswith(b"/"))
        if path == top + b"/PKG-INFO":
            found.append(member)
    return read_member(file, directory, _only(found, "PKG-INFO"), MAX_METADATA_SIZE, tick)


def _tar_metadata(file: BinaryIO, tick: Callable[[], None]) -> bytes:
    """PKG-INFO at the top of the archive, which is read to its end."""
    stream = TarStream(file, tick)
    top = b""
    found: list[bytes] = []
    for member in stream.members():
        if not member.name and member.is_directory:
            continue
        top = _one_top(top, member.name, is_directory=member.is_directory)
        if member.name == top + b"/PKG-INFO":
            if not member.is_file:
                raise InvalidArchive("the archive's PKG-INFO is not a regular file")
            if member.size > MAX_METADATA_SIZE:
                raise InvalidArchive(f"PKG-INFO is larger than {MAX_METADATA_SIZE >> 20} MiB")
            found.append(stream.read(member))
    return _only(found, "PKG-INFO")


def _one_top(top: bytes, name: bytes, *, is_directory: bool) -> bytes:
    """The archive's top-level directory, when `top` is the one so far (empty before the first member)."""
    first, slash, _ = name.partition(b"/")
    if not (slash or is_directory) or (top and first != top):
        raise InvalidArchive("the archive does not have exactly one directory at its top")
    return first


def _read_metadata(metadata: bytes, distribution: Distribution) -> Inspected:
    """Parse and compare. Only the header is looked at: the body is the description."""
    fields = _fields(metadata)
    for field in _ONCE:
        if len(fields.get(field, ())) > 1:
            raise InvalidArchive(f"the metadata say {field} more than once")
    metadata_version = _METADATA_VERSION.match(_first(fields, "metadata-version") or "")
    if metadata_version is None:
        raise InvalidArchive("the metadata have no Metadata-Version, or one that is neither 1.x nor 2.x")
    raw_name, raw_version = _first(fields, "name") or "", _first(fields, "version") or ""
    try:
        name, version = parse_name(raw_name), parse_version(raw_version)
    except (InvalidName, InvalidVersion) as error:
        told = f"{shown(raw_name.encode())} {shown(raw_version.encode())}"
        raise InvalidArchive(f"the metadata have no valid name and version: {told}") from error
    if name != distribution.name or version != distribution.version:
        raise InvalidArchive(
            f"metadata says {name} {version} but the filename says {distribution.name} {distribution.version}"
        )
    requires_python = _first(fields, "requires-python")
    if requires_python is not None and not (
        requires_python.isascii()
        and requires_python.isprintable()
        and len(requires_python) <= _MAX_REQUIRES_PYTHON
    ):
        raise InvalidArchive("Requires-Python of the metadata is too long or holds strange characters")
    return Inspected(
        metadata=metadata,
        metadata_version=metadata_version[0],
        name=name,
        version=version,
        requires_python=requires_python,
        requires_dist=tuple(fields.get("requires-dist", ())),
        summary=_first(fields, "summary"),
        description_content_type=_first(fields, "description-content-type"),
        final=distribution.kind is Kind.WHEEL or _is_final(metadata_version, fields),
    )


def _is_final(metadata_version: re.Match[str], fields: dict[str, list[str]]) -> bool:
    """PEP 643: from 2.2 on, whatever `Dynamic` does not name is the same in every wheel built from the sdist."""
    dynamic = {value.lower() for value in fields.get("dynamic", ())}
    return (int(metadata_version[1]), int(metadata_version[2])) >= (2, 2) and not dynamic & _DECISIVE


def _first(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name)
    return values[0] if values and values[0] else None


def _fields(metadata: bytes) -> dict[str, list[str]]:
    """The header's fields by lower-case name; values in one line, white space collapsed.

    The same parser as installers use, but on the header alone.
    """
    try:
        text = metadata.decode()
    except UnicodeDecodeError as error:
        raise InvalidArchive("the metadata are not UTF-8") from error
    header, _ = split_header(text)
    if header.count("\n") + header.count("\r") > _MAX_HEADER_LINES:
        raise InvalidArchive(f"the metadata have more than {_MAX_HEADER_LINES} lines of fields")
    parsed = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(header)
    fields: dict[str, list[str]] = {}
    for name, value in parsed.items():
        fields.setdefault(name.lower(), []).append(" ".join(str(value).split()))
    return fields
