"""Filenames: what the name of a wheel, sdist or older form says of project, version and kind.

Two measures apply. `parse_distribution` is for uploads and strict: PEP 427, PEP 625 and the older spellings of
sdists that leave no doubt. The other functions are for upstream pages and file addresses: they take what old
pages hold, never raise, and are cheap enough for pages of many thousand files. No filename is ever a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from proxy.domain.names import Name, parse_name
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidFilename, InvalidName, InvalidVersion

MAX_FILENAME_LENGTH = 255
MAX_CANDIDATES = 16
"""Names that one filename may stand for. Bounds what a made-up address sets going; real files have under ten."""

_MAX_TAGS = 1000
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!~@-]*\Z", re.ASCII)
# Suffixes that name what lies beside a file at its own address, so no file may end in them.
_BESIDE = (".metadata", ".provenance")
_UPLOADABLE = re.compile(r"[A-Za-z0-9._+!-]+\.(whl|tar\.gz|zip)\Z", re.ASCII)
_SDIST_SUFFIXES = (".tar.gz", ".zip")
_OTHER_SUFFIXES = (".tar.bz2", ".tar.Z", ".tgz", ".tar", ".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg")
_SEPARATORS = re.compile(r"[-_.]+")
# What distutils wrote behind the version of platform archives: foo-1.0.linux-x86_64.tar.gz, foo-1.0.win32.exe.
_PLATFORM = re.compile(r"\.(?:linux|macosx|win|cygwin|solaris|freebsd)[a-z0-9]*(?:[.-].*)?\Z", re.ASCII)

# A version without a "-" and without letters that a platform could begin with: nothing is left to be told apart.
_USUAL_VERSION = r"([0-9]++(?:\.[0-9]++)*+(?:\.?(?:a|b|rc|post|dev)[0-9]++)*+)"
_USUAL = re.compile(
    rf"(?:([A-Za-z0-9][A-Za-z0-9._]*+)-{_USUAL_VERSION}-[A-Za-z0-9._-]*+(?<=\.whl)"
    rf"|([A-Za-z0-9][A-Za-z0-9._-]*)-{_USUAL_VERSION}\.tar\.gz)\Z",
    re.ASCII,
)


FileType: TypeAlias = Literal["wheel", "sdist", "other"]
"""What `file_types` of a policy calls a file."""


class Kind(StrEnum):
    """What may be published."""

    WHEEL = "wheel"
    SDIST = "sdist"


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the filename of an upload says.

    Attributes:
        tags: compatibility tags, expanded: `py2.py3-none-any` gives two. Empty for sdists.
        build: the build tag with its number normalised (`01a` is `1a`); empty where there is none.
    """

    filename: str
    kind: Kind
    name: Name
    version: Version
    tags: frozenset[str] = frozenset()
    build: str = ""

    @property
    def identity(self) -> str:
        """Equal for two files of which one is a duplicate of the other, however spelled."""
        # Tags are the product of three sets, so the sets stand for them; the text stays as short as the filename.
        parts = [tag.split("-") for tag in self.tags]
        tags = (
            "-".join(".".join(sorted({part[place] for part in parts})) for place in range(3)) if parts else ""
        )
        return " ".join((self.kind, self.name, version_key(self.version), self.build, tags)).rstrip()


def is_safe_filename(filename: str) -> bool:
    """Whether `filename` may stand in a page and an address at all.

    At most 255 ASCII letters, digits and `._+!~@-`, beginning with a letter, digit or `_`; so neither a path nor
    an option of some command, and never what an address beside a file ends in.
    """
    return (
        len(filename) <= MAX_FILENAME_LENGTH
        and _SAFE.match(filename) is not None
        and not filename.endswith(_BESIDE)
    )


def parse_distribution(filename: str, name: Name | None = None) -> Distribution:
    """Read the filename of an upload strictly (PEP 427, PEP 625; protocol T-UP2, T-UP3).

    In an sdist's filename the version stands behind the last `-`, whatever the form says: `foo-1-2.tar.gz` is
    version 2 of `foo-1` and cannot be had as 1-2 of `foo`. Older spellings (`Foo-Bar-1.0.zip`) are accepted.

    Args:
        filename: as sent by the client.
        name: the project that the upload is for; the filename must name it.

    Raises:
        InvalidFilename: in one line, what is wrong with it.
    """
    shown = ascii(filename[:100])
    if len(filename) > MAX_FILENAME_LENGTH:
        raise InvalidFilename(f"the filename {shown}... is longer than {MAX_FILENAME_LENGTH} characters")
    if _UPLOADABLE.match(filename) is None or not is_safe_filename(filename):
        raise InvalidFilename(
            f"{shown} is not the filename of a wheel or sdist",
            hint="names end in .whl, .tar.gz or .zip and hold only ASCII letters, digits and '._+!-'",
        )
    found = _parse_wheel(filename) if filename.endswith(".whl") else _parse_sdist(filename)
    if name is not None and found.name != name:
        raise InvalidFilename(f"the filename {shown} belongs to {found.name}, not to {name}")
    return found


def _parse_wheel(filename: str) -> Distribution:
    # `a.b.c-…` multiplies out: 255 characters can mean half a million tags.
    expanded = 1
    for part in filename.removesuffix(".whl").split("-")[-3:]:
        expanded *= part.count(".") + 1
    if expanded > _MAX_TAGS:
        raise InvalidFilename(f"{filename[:100]!a} names more than {_MAX_TAGS} compatibility tags")
    try:
        _, version, build, tags = parse_wheel_filename(filename)
        name = parse_name(filename.partition("-")[0])
    except (InvalidWheelFilename, InvalidName) as error:
        raise InvalidFilename(
            f"{filename[:100]!a} is not a valid wheel filename",
            hint="expected name-version-python-abi-platform.whl, with '_' for '-' in the name (PEP 427)",
        ) from error
    return Distribution(
        filename,
        Kind.WHEEL,
        name,
        version,
        frozenset(map(str, tags)),
        f"{build[0]}{build[1]}" if build else "",
    )


def _parse_sdist(filename: str) -> Distribution:
    name, _, version = _stem(filename).rpartition("-")
    try:
        return Distribution(filename, Kind.SDIST, parse_name(name), parse_version(version))
    except (InvalidName, InvalidVersion) as error:
        raise InvalidFilename(
            f"{filename[:100]!a} is not a valid sdist filename", hint="expected name-version.tar.gz (PEP 625)"
        ) from error


def file_type(filename: str) -> FileType:
    """What it is by its suffix; an sdist ends in `.tar.gz` or `.zip`."""
    if filename.endswith(".whl"):
        return "wheel"
    return "sdist" if filename.endswith(_SDIST_SUFFIXES) else "other"


def candidate_names(filename: str) -> tuple[Name, ...]:
    """The names whose page may list `filename`, the likeliest first; empty for what can be no distribution.

    A wheel has one. Sdists and older forms have one for each `-` that ends a valid name, the longest first.
    """
    if not is_safe_filename(filename):
        return ()
    stem = _stem(filename)
    if stem == filename:
        return ()
    if filename.endswith(".whl"):
        starts = [stem.partition("-")[0]] if "-" in stem else []
    else:
        starts = [stem[:place] for place in range(len(stem) - 1, 0, -1) if stem[place] == "-"]
    names: list[Name] = []
    for start in starts:
        try:
            names.append(parse_name(start))
        except InvalidName:
            continue
    return tuple(names[:MAX_CANDIDATES])


def version_of(filename: str, name: Name) -> str | None:
    """The version as `filename` spells it, as far as it follows for a file of project `name`; else None.

    The text need not be a version in the sense of PEP 440. In the name of a wheel `_` stands for `-` (PEP 427), which
    clients undo: `1.0_1` is 1.0-1 to them, equal to 1.0.post1.
    """
    stem = _stem(filename)
    if stem == filename or filename.endswith(".deb"):
        return None
    # Normalising shortens, so the name ends where its own length does or later.
    place = stem.find("-", len(name))
    while place > 0:
        if _SEPARATORS.sub("-", stem[:place]).lower() == name:
            break
        place = stem.find("-", place + 1)
    else:
        return None
    rest = stem[place + 1 :]
    if filename.endswith((".whl", ".egg", ".rpm")):
        rest = rest.partition("-")[0].replace("_", "-")
    elif "+" not in rest:
        rest = _PLATFORM.sub("", rest)
    return rest or None


class Usual:
    """Tells the usual filenames of one project at sight: nearly all of a long page, at a tenth of the cost."""

    __slots__ = ("_name", "_spellings")

    def __init__(self, name: Name) -> None:
        self._name = name
        self._spellings: dict[str, bool] = {}

    def version_of(self, filename: str) -> str | None:
        """The version, where `filename` is one of the project's and `version_of` says so; None: look closely."""
        found = _USUAL.match(filename)
        if found is None or len(filename) > MAX_FILENAME_LENGTH:
            return None
        wheel, version, sdist, its_version = found.groups()
        spelt = wheel or sdist
        is_ours = self._spellings.get(spelt)
        if is_ours is None:
            is_ours = self._spellings[spelt] = _SEPARATORS.sub("-", spelt).lower() == self._name
        return (version or its_version) if is_ours else None


def _stem(filename: str) -> str:
    """`filename` without the suffix of a distribution; unchanged where it has none."""
    if filename.endswith(".whl"):
        return filename[:-4]
    for suffix in (*_SDIST_SUFFIXES, *_OTHER_SUFFIXES):
        if filename.endswith(suffix):
            return filename[: -len(suffix)]
    return filename
