"""Gzipped tar archives read front to back: one member after the other, within limits, until nobody wants more.

Nothing is extracted, and nothing is held but the member at hand. This is a reader of its own since `tarfile`
takes extended headers of any size into memory and answers chains of them with recursion, and `gzip` reads its
own header byte by byte, deaf to any time limit. Knows ustar, GNU long names and pax; refuses what no sdist needs.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar
Format"; RFC 1952; protocol T-ARCH.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from proxy.archive.zips import MAX_MEMBERS, check_member_name
from proxy.errors import InvalidArchive

MAX_DECODED = 16 << 30
"""Bytes of an unpacked sdist that are read at most."""
MAX_RATIO, RATIO_APPLIES_FROM = 50, 64 << 20
"""Decoded bytes for each packed one, once so many were decoded; as PyPI has it."""
_MAX_EXTENDED = 1 << 20
_BLOCK = 512
_CHUNK = 64 << 10
_SKIP = 1 << 20
_REGULAR, _DIRECTORY = b"0\x007", b"5"
_LINKS = b"12"
_DEVICES = b"346"
_SPARSE = b"S"


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member's name (as stored, without leading `./` and trailing `/`), and what it is."""

    name: bytes
    size: int
    is_file: bool
    is_directory: bool


class TarStream:
    """A gzipped tar archive, read once.

    Args:
        file: positioned at its beginning.
        tick: called before each piece of work; raises when the time is up.
    """

    def __init__(self, file: BinaryIO, tick: Callable[[], None]) -> None:
        self._file = file
        self._tick = tick
        self._inflator = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._waiting = b""
        self._has_more = False
        self._packed = 0
        self._decoded = 0
        self._left = 0

    def members(self) -> Iterator[TarMember]:
        """Yield the members in order; `read` belongs to the one that was yielded last.

        Raises:
            InvalidArchive: not gzip or tar, damaged, cut off, an unsafe name, a device or a sparse file,
                or beyond the limits.
        """
        long_name: bytes | None = None
        long_size: int | None = None
        for _ in range(MAX_MEMBERS):
            header = self._take(_BLOCK)
            if not header.strip(b"\0"):
                return
            size, kind, name = _parse_header(header)
            if kind in b"xgLK":
                if size > _MAX_EXTENDED:
                    raise InvalidArchive("the archive has an extended header larger than 1 MiB")
                content = self._take(size)
                self._skip(-size % _BLOCK)
                if kind == b"L":
                    long_name = content.rstrip(b"\0")
                elif kind in b"xg":
                    path, length = _parse_pax(content)
                    if kind == b"g" and (path is not None or length is not None):
                        raise InvalidArchive("the archive's global header names a path or a size")
                    long_name = long_name if path is None else path
                    long_size = long_size if length is None else length
                continue
            member = _member(
                kind, name if long_name is None else long_name, size if long_size is None else long_size
            )
            long_name = long_size = None
            padding = -member.size % _BLOCK
            self._left = member.size
            yield member
            self._skip(self._left + padding)
        raise InvalidArchive(f"the archive has more than {MAX_MEMBERS} members")

    def read(self, member: TarMember) -> bytes:
        """The whole of the member that was yielded last; the caller has looked at its size."""
        self._left = 0
        return self._take(member.size)

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            taken += self._decode(size - len(taken))
        return bytes(taken)

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._decode(min(size, _SKIP)))

    def _decode(self, limit: int) -> bytes:
        """Between one and `limit` decoded bytes."""
        while True:
            self._tick()
            if not (self._waiting or self._has_more):
                self._waiting = self._file.read(_CHUNK)
                if not self._waiting:
                    raise InvalidArchive("the archive is cut off")
            if self._inflator.eof:
                # gzip files may be joined; the next one begins at once.
                self._inflator = zlib.decompressobj(16 + zlib.MAX_WBITS)
            before = len(self._waiting)
            try:
                decoded = self._inflator.decompress(self._waiting, limit)
            except zlib.error as error:
                raise InvalidArchive("the archive is damaged: it cannot be decompressed") from error
            ended = self._inflator.eof
            self._waiting = self._inflator.unused_data if ended else self._inflator.unconsumed_tail
            # A full answer may leave output inside the inflator though all input is consumed.
            self._has_more = not ended and len(decoded) == limit
            self._packed += before - len(self._waiting)
            self._decoded += len(decoded)
            if self._decoded > MAX_DECODED or (
                self._decoded > RATIO_APPLIES_FROM and self._decoded > MAX_RATIO * self._packed
            ):
                raise InvalidArchive("the archive unpacks to far more than it should")
            if decoded:
                return decoded


def _parse_header(header: bytes) -> tuple[int, bytes, bytes]:
    """Size, type flag and name of a header block; POSIX and GNU forms."""
    stored = _number(header[148:156])
    if stored != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
        raise InvalidArchive("the archive is damaged: a header's checksum is wrong")
    kind = header[156:157]
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    # GNU's older format keeps other things where POSIX has the prefix.
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _number(header[124:136]), kind, name


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary form for large ones. Negative ones are refused."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise InvalidArchive("the archive is damaged: a header holds no number where one belongs")
    return int(digits or b"0", 8)


def _parse_pax(content: bytes) -> tuple[bytes | None, int | None]:
    """Path and size, as far as the records of a pax header name them: lines such as `21 path=foo/PKG-INFO`."""
    path: bytes | None = None
    size: int | None = None
    damaged = InvalidArchive("the archive is damaged: a pax header cannot be read")
    place = 0
    while place < len(content):
        blank = content.find(b" ", place, place + 9)
        digits = content[place:blank]
        if blank < 0 or not digits.isdigit():
            raise damaged
        end = place + int(digits)
        record = content[blank + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(content) or not record.endswith(b"\n") or not equals:
            raise damaged
        if key.startswith(b"GNU.sparse."):
            raise InvalidArchive("the archive has a sparse file")
        if key == b"path":
            path = value
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise damaged
            size = int(value)
        place = end
    return path, size


def _member(kind: bytes, name: bytes, size: int) -> TarMember:
    if kind in _SPARSE:
        raise InvalidArchive("the archive has a sparse file")
    if kind in _DEVICES:
        raise InvalidArchive("the archive has a device")
    check_member_name(name)
    is_directory = kind in _DIRECTORY or (kind in _REGULAR and name.endswith(b"/"))
    if kind not in _REGULAR + _DIRECTORY + _LINKS:
        raise InvalidArchive(f"the archive has a member of the unknown type {kind!a}")
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    # Links and directories have no data, whatever their size says.
    has_data = kind in _REGULAR and not is_directory
    return TarMember(name.rstrip(b"/"), size if has_data else 0, has_data, is_directory)
