"""Gzipped tar archives read front to back: one member after the other, within limits, to the very end.

Nothing is extracted, and nothing is held but the member at hand and the paths so far. This is a reader of its
own since `tarfile` takes extended headers of any size into memory and answers chains of them with recursion, and
`gzip` reads its own header byte by byte, deaf to any time limit. Knows ustar, GNU long names and pax; refuses
what no sdist needs, what readers understand in two ways, and every link that could lead out of the archive.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar
Format"; RFC 1952; protocol T-ARCH.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from proxy.archive.members import (
    MAX_MEMBERS,
    check_member_name,
    is_unsafe,
    plain_path,
    shown,
    unpacked_limit,
)
from proxy.errors import InvalidArchive

MAX_DECODED = 16 << 30
"""Bytes of an unpacked sdist that are read at most."""
_MAX_EXTENDED = 1 << 20
_BLOCK = 512
_CHUNK = 256 << 10
_PIECE = 256 << 10
_REGULAR, _DIRECTORY = b"0\x007", b"5"
_HARD_LINK, _SYMBOLIC_LINK = b"1", b"2"
_DEVICES = b"346"
_SPARSE = b"S"
_EXTENDED = b"xgLK"
# Mode, user, group, time, device. Some readers take a header in which one is none for the archive's end.
_OTHER_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
_LARGEST_OCTAL = 8**11 - 1


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member's name (as stored, without empty and `.` segments), and what it is."""

    name: bytes
    size: int
    is_file: bool
    is_directory: bool


class TarStream:
    """A gzipped tar archive, read once.

    Args:
        file: open and able to seek; read from its beginning.
        tick: called before each piece of work; raises when the time is up.
    """

    def __init__(self, file: BinaryIO, tick: Callable[[], None]) -> None:
        self._file = file
        self._tick = tick
        self._limit = min(MAX_DECODED, unpacked_limit(file.seek(0, os.SEEK_END)))
        file.seek(0)
        self._inflator = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._packed = b""
        self._is_full = False
        self._decoded = 0
        self._piece = b""
        self._place = 0
        self._left = 0

    def members(self) -> Iterator[TarMember]:
        """Yield the members in order; `read` belongs to the one that was yielded last.

        After the last one, the rest is read: an archive of which this comes to an end is sound throughout.

        Raises:
            InvalidArchive: not gzip or tar, damaged, cut off, with something behind its end, an unsafe name,
                a link that leads out, a device or a sparse file, or beyond the limits.
        """
        told = _Told()
        places = _Places()
        for _ in range(MAX_MEMBERS):
            header = self._take(_BLOCK)
            if not header.strip(b"\0"):
                if told.is_waiting:
                    raise InvalidArchive("the archive is damaged: it ends with an extended header")
                self._end()
                return
            size, kind = _parse_header(header)
            if kind in _EXTENDED:
                if size > _MAX_EXTENDED:
                    raise InvalidArchive("the archive has an extended header larger than 1 MiB")
                told.hear(kind, self._take(size))
                self._skip(-size % _BLOCK)
                continue
            member, target = _member(kind, header, size, told)
            places.put(member, kind, target)
            told = _Told()
            self._left = member.size
            yield member
            self._skip(self._left + -member.size % _BLOCK)
        raise InvalidArchive(f"the archive has more than {MAX_MEMBERS} members")

    def read(self, member: TarMember) -> bytes:
        """The whole of the member that was yielded last; the caller has looked at its size."""
        self._left = 0
        return self._take(member.size)

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            count = min(self._available(), size - len(taken))
            taken += self._piece[self._place : self._place + count]
            self._place += count
        return bytes(taken)

    def _skip(self, size: int) -> None:
        while size > 0:
            count = min(self._available(), size)
            self._place += count
            size -= count

    def _available(self) -> int:
        """How many decoded bytes are at hand, one at least."""
        if self._place == len(self._piece) and not self._decode():
            raise InvalidArchive("the archive is cut off")
        return len(self._piece) - self._place

    def _end(self) -> None:
        """Read what follows the first empty block: more of them, and nothing else."""
        while True:
            if self._piece.count(0, self._place) != len(self._piece) - self._place:
                raise InvalidArchive("something follows the end of the archive")
            if not self._decode():
                break
        # A second gzip stream is read by some and ignored by others.
        if self._inflator.unused_data or self._file.read(1):
            raise InvalidArchive("something follows the end of the archive")

    def _decode(self) -> bool:
        """Put the next piece in place of the last; False where the gzip stream has ended."""
        self._piece, self._place = b"", 0
        while not (self._piece or self._inflator.eof):
            self._tick()
            # A full piece may leave output inside the inflator though all input is consumed.
            if not (self._packed or self._is_full):
                self._packed = self._file.read(_CHUNK)
                if not self._packed:
                    raise InvalidArchive("the archive is cut off")
            try:
                self._piece = self._inflator.decompress(self._packed, _PIECE)
            except zlib.error as error:
                raise InvalidArchive("the archive is damaged: it cannot be decompressed") from error
            self._packed, self._is_full = self._inflator.unconsumed_tail, len(self._piece) == _PIECE
            self._decoded += len(self._piece)
            if self._decoded > self._limit:
                raise InvalidArchive("the archive unpacks to far more than it should")
        return bool(self._piece)


class _Told:
    """What extended headers say of the member that they stand before."""

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.target: bytes | None = None
        self.size: int | None = None
        self.is_waiting = False

    def hear(self, kind: bytes, content: bytes) -> None:
        """Take in an extended header of GNU's (L, K) or of pax (x, g)."""
        self.is_waiting = True
        if kind == b"L":
            self.path = content.rstrip(b"\0")
        elif kind == b"K":
            self.target = content.rstrip(b"\0")
        else:
            for key, value in _parse_pax(content):
                self._record(key, value, is_global=kind == b"g")

    def _record(self, key: bytes, value: bytes, *, is_global: bool) -> None:
        if key.startswith(b"GNU.sparse."):
            raise InvalidArchive("the archive has a sparse file")
        if key not in (b"path", b"linkpath", b"size"):
            return
        if is_global:
            raise InvalidArchive("the archive's global header names a path or a size")
        if key == b"path":
            self.path = value
        elif key == b"linkpath":
            self.target = value
        elif value.isdigit() and len(value) <= 20:
            self.size = int(value)
        else:
            raise InvalidArchive("the archive is damaged: a pax header cannot be read")


class _Places:
    """Which paths are taken by what so far, so that no link leads out, not even by way of another.

    A symbolic link may climb only by `..` at its beginning and only to the archive's top; nothing lies below a
    link; and no path is a link and something else. So the place that each of them names is what its text says.
    """

    def __init__(self) -> None:
        self._files: set[bytes] = set()
        self._links: set[bytes] = set()
        self._directories: set[bytes] = set()

    def put(self, member: TarMember, kind: bytes, target: bytes) -> None:
        """Add `member`; `target` counts where it is a link."""
        name = member.name
        directory = name if member.is_directory else name.rpartition(b"/")[0]
        while directory and directory not in self._directories:
            if directory in self._links:
                raise InvalidArchive(f"the archive has a member below the link {shown(directory)}")
            self._directories.add(directory)
            directory = directory.rpartition(b"/")[0]
        is_taken = name in self._files or name in self._directories
        if name in self._links or (is_taken and kind == _SYMBOLIC_LINK):
            raise InvalidArchive(f"the archive has the link {shown(name)} more than once")
        if kind == _SYMBOLIC_LINK:
            self._check_target(name, target)
            self._links.add(name)
        elif kind == _HARD_LINK and plain_path(target) not in self._files:
            raise InvalidArchive(f"the link {shown(name)} does not lead to a file of the archive before it")
        elif not member.is_directory:
            self._files.add(name)

    @staticmethod
    def _check_target(name: bytes, target: bytes) -> None:
        segments = plain_path(target).split(b"/")
        climbs = 0
        while climbs < len(segments) and segments[climbs] == b"..":
            climbs += 1
        rest = b"/".join(segments[climbs:])
        # The link's own path has a segment for the top, which may not be left, and one for its name.
        if not target or target.startswith(b"/") or climbs >= name.count(b"/") or (rest and is_unsafe(rest)):
            raise InvalidArchive(f"the link {shown(name)} leads out of the archive")


def _parse_header(header: bytes) -> tuple[int, bytes]:
    """Size and type flag of a header block; POSIX and GNU forms."""
    if not _has_checksum(header):
        raise InvalidArchive("the archive is damaged: a header's checksum is wrong")
    for start, end in _OTHER_NUMBERS:
        # Times before 1970 are negative, in the binary form.
        if header[start] != 0xFF:
            _number(header[start:end])
    return _number(header[124:136]), header[156:157]


def begins_as_tar(file: BinaryIO) -> bool:
    """Whether some reader might take `file` for a tar archive that is not compressed."""
    file.seek(0)
    block = file.read(_BLOCK)
    return len(block) == _BLOCK and _has_checksum(block)


def _has_checksum(block: bytes) -> bool:
    try:
        stored = _number(block[148:156])
    except InvalidArchive:
        return False
    return stored == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    # GNU's older format keeps other things where POSIX has the prefix.
    if prefix and header[257:263] == b"ustar\0":
        return prefix + b"/" + name
    return name


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary form for large ones. Negative ones are refused."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise InvalidArchive("the archive is damaged: a header holds no number where one belongs")
    return int(digits or b"0", 8)


def _parse_pax(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a pax header, whose records are lines such as `21 path=foo/PKG-INFO`."""
    place = 0
    while place < len(content):
        blank = content.find(b" ", place, place + 9)
        digits = content[place:blank]
        end = place + int(digits) if blank >= 0 and digits.isdigit() else 0
        record = content[blank + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if not 0 < end <= len(content) or not record.endswith(b"\n") or not equals:
            raise InvalidArchive("the archive is damaged: a pax header cannot be read")
        yield key, value
        place = end


def _member(kind: bytes, header: bytes, size: int, told: _Told) -> tuple[TarMember, bytes]:
    """The member that a header describes, and the target where it is a link."""
    if kind in _SPARSE:
        raise InvalidArchive("the archive has a sparse file")
    if kind in _DEVICES:
        raise InvalidArchive("the archive has a device")
    if kind not in _REGULAR + _DIRECTORY + _HARD_LINK + _SYMBOLIC_LINK:
        raise InvalidArchive(f"the archive has a member of the unknown type {kind!a}")
    name = _name(header) if told.path is None else told.path
    target = header[157:257].split(b"\0", 1)[0] if told.target is None else told.target
    check_member_name(name)
    if told.size is not None and told.size != size:
        # Readers that miss the pax header would take this member's data for further members.
        if told.size <= _LARGEST_OCTAL:
            raise InvalidArchive(f"the archive names two sizes for {shown(name)}")
        size = told.size
    is_directory = kind in _DIRECTORY or (kind in _REGULAR and name.endswith(b"/"))
    is_file = kind in _REGULAR and not is_directory
    if size and not is_file:
        raise InvalidArchive(f"{shown(name)} is a directory or link and has contents of its own")
    return TarMember(plain_path(name), size, is_file, is_directory), target
