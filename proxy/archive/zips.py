"""Zip archives read by their central directory: members as it lists them, and the bytes of one of them.

Nothing is extracted. This is a reader of its own since `zipfile` builds an object for each member before anyone
can count them, and repairs what it should refuse: here the directory ends where the archive ends, fills the
space it claims, and every number is compared with the bytes at hand before it is used. Works on any seekable
file, so also on one that fetches ranges; it reads the end, the directory, and the members asked for.

Sources: PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5; protocol T-ARCH.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from proxy.errors import InvalidArchive

MAX_MEMBERS = 200_000
MAX_DIRECTORY_SIZE = 48 << 20
"""Bytes of a central directory. The largest wheels have some 30,000 members, about 4 MiB."""

STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<HH")
_ZIP64_EXTRA = 1
_UNSET16, _UNSET32 = 0xFFFF, 0xFFFFFFFF
_MAX_COMMENT = 0xFFFF
# Bits 0, 6 and 13: encrypted, strongly encrypted, masked headers.
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the central directory. `name` is as stored; sizes and `offset` in bytes."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory lies, and how many members it announces."""

    offset: int
    size: int
    members: int


def find_directory(file: BinaryIO) -> Directory:
    """Locate the central directory of `file`.

    Raises:
        InvalidArchive: no zip archive, cut off, something before or behind the archive, or beyond the limits.
    """
    length = file.seek(0, os.SEEK_END)
    if read_exactly(file, 0, min(length, 4)) != b"PK\3\4":
        raise InvalidArchive("the file does not begin as a zip archive")
    start = max(0, length - _END.size - _MAX_COMMENT)
    tail = read_exactly(file, start, length - start)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < _END.size:
        raise InvalidArchive("the archive is cut off: it has no central directory")
    _, disk, first_disk, on_disk, members, size, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment != len(tail):
        raise InvalidArchive("something follows the end of the archive")
    end = start + place
    if end >= _LOCATOR.size:
        locator = read_exactly(file, end - _LOCATOR.size, _LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            found = _find_directory64(file, end - _LOCATOR.size, _LOCATOR.unpack(locator)[2])
            # Readers differ in which record they believe, so the old one must say the same, or nothing.
            if (
                members not in (found.members, _UNSET16)
                or size not in (found.size, _UNSET32)
                or offset not in (found.offset, _UNSET32)
            ):
                raise InvalidArchive("the archive has two ends that differ")
            return found
    if disk or first_disk or on_disk != members:
        raise InvalidArchive("the archive spans several disks")
    return _checked(Directory(offset, size, members), end)


def _find_directory64(file: BinaryIO, locator: int, place: int) -> Directory:
    """The same by the ZIP64 record at `place`, which must end where its locator begins."""
    if place + _END64.size > locator:
        raise InvalidArchive("the ZIP64 end of the archive is damaged")
    record = _END64.unpack(read_exactly(file, place, _END64.size))
    signature, length, _, _, disk, first_disk, on_disk, members, size, offset = record
    # The record's length leaves out its signature and the length itself.
    if signature != b"PK\6\6" or place + 12 + length != locator:
        raise InvalidArchive("the ZIP64 end of the archive is damaged")
    if disk or first_disk or on_disk != members:
        raise InvalidArchive("the archive spans several disks")
    return _checked(Directory(offset, size, members), place)


def _checked(directory: Directory, end: int) -> Directory:
    if directory.members > MAX_MEMBERS:
        raise InvalidArchive(f"the archive has more than {MAX_MEMBERS} members")
    if directory.size > MAX_DIRECTORY_SIZE:
        raise InvalidArchive(f"the archive's central directory is larger than {MAX_DIRECTORY_SIZE >> 20} MiB")
    if directory.offset + directory.size != end:
        raise InvalidArchive("the archive's central directory is not where its end says")
    return directory


def members(file: BinaryIO, directory: Directory, tick: Callable[[], None]) -> Iterator[Member]:
    """Yield the members in the directory's order.

    Args:
        tick: called now and then; raises when the time is up.

    Raises:
        InvalidArchive: the directory is damaged, or a name is no relative path below the archive's top.
    """
    listing = read_exactly(file, directory.offset, directory.size)
    place = 0
    for count in range(directory.members):
        if count % 1024 == 0:
            tick()
        if place + _ENTRY.size > len(listing):
            raise InvalidArchive("the archive's central directory is cut off")
        entry = _ENTRY.unpack_from(listing, place)
        signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = (
            entry[:13]
        )
        offset = entry[16]
        name_end = place + _ENTRY.size + name_length
        extra_end = name_end + extra_length
        place = extra_end + comment_length
        if signature != b"PK\1\2" or place > len(listing):
            raise InvalidArchive("the archive's central directory is damaged")
        name = listing[name_end - name_length : name_end]
        check_member_name(name)
        if _UNSET32 in (packed, size, offset):
            size, packed, offset = _zip64_numbers(listing[name_end:extra_end], size, packed, offset)
        yield Member(name, flags, method, crc, packed, size, offset)
    if place != len(listing):
        raise InvalidArchive("the archive's central directory lists more members than its end says")


def check_member_name(name: bytes) -> None:
    """Refuse names that lead out of the directory an archive is unpacked in.

    Raises:
        InvalidArchive: empty, absolute, or with `..` as a segment or NUL.
    """
    # NUL ends a name for some readers and not for others, so both would see different members.
    unsafe = not name or name.startswith(b"/") or b"\0" in name
    if not unsafe and b".." in name:
        unsafe = b".." in name.replace(b"\\", b"/").split(b"/")
    if unsafe:
        raise InvalidArchive(f"the archive has a member with the unsafe name {shown(name)}")


def _zip64_numbers(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Size, packed size and offset, with those that are too large for their field taken from the extra field."""
    place = 0
    while place + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, place)
        place += _EXTRA.size
        if kind == _ZIP64_EXTRA:
            field = extra[place : place + length]
            numbers = iter([number for (number,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])])
            found = [next(numbers, None) if value == _UNSET32 else value for value in (size, packed, offset)]
            known = [value for value in found if value is not None]
            if len(known) == 3:
                return known[0], known[1], known[2]
            break
        place += length
    raise InvalidArchive("a member's ZIP64 sizes are missing")


def read_member(
    file: BinaryIO, directory: Directory, member: Member, limit: int, tick: Callable[[], None]
) -> bytes:
    """The bytes of one member, decompressed and compared with the size and CRC of the directory.

    Args:
        limit: bytes that it may have, decompressed; never more are held.
        tick: as for `members`.

    Raises:
        InvalidArchive: encrypted, unknown compression, too large, damaged, or not what the directory says.
    """
    name = shown(member.name)
    if member.flags & _ENCRYPTED:
        raise InvalidArchive(f"{name} is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise InvalidArchive(
            f"{name} uses compression method {member.method}; only stored and deflated are read"
        )
    if member.size > limit:
        raise InvalidArchive(f"{name} is larger than {limit >> 20} MiB")
    start = _data_start(file, directory, member)
    if start + member.packed > directory.offset:
        raise InvalidArchive(f"{name} reaches into the central directory")
    if member.method == STORED:
        if member.packed != member.size:
            raise InvalidArchive(f"{name} is damaged: a stored member has two sizes")
        content = read_exactly(file, start, member.size)
    else:
        content = _inflate(file, start, member, tick)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise InvalidArchive(f"{name} is damaged: size or checksum differ from the central directory")
    return content


def _data_start(file: BinaryIO, directory: Directory, member: Member) -> int:
    """Where the member's data begin, once its local header has been found to agree with the directory."""
    name = shown(member.name)
    if member.offset + _LOCAL.size > directory.offset:
        raise InvalidArchive(f"{name} is not where the central directory says")
    header = read_exactly(file, member.offset, _LOCAL.size)
    signature, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(header)
    if signature != b"PK\3\4":
        raise InvalidArchive(f"{name} is not where the central directory says")
    local_name = read_exactly(file, member.offset + _LOCAL.size, name_length)
    if local_name != member.name or method != member.method or flags & _ENCRYPTED:
        raise InvalidArchive(f"the local header of {name} differs from the central directory")
    return member.offset + _LOCAL.size + len(local_name) + int(extra_length)


def _inflate(file: BinaryIO, start: int, member: Member, tick: Callable[[], None]) -> bytes:
    """At most one byte more than the member's size, which the caller has compared with its limit."""
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray()
    place, end = start, start + member.packed
    try:
        while place < end and not inflator.eof and len(content) <= member.size:
            tick()
            chunk = read_exactly(file, place, min(_CHUNK, end - place))
            place += len(chunk)
            while chunk and len(content) <= member.size:
                content += inflator.decompress(chunk, member.size + 1 - len(content))
                chunk = inflator.unconsumed_tail
    except zlib.error as error:
        raise InvalidArchive(f"{shown(member.name)} is damaged: it cannot be decompressed") from error
    if not inflator.eof or inflator.unused_data or place != end:
        raise InvalidArchive(
            f"{shown(member.name)} is damaged: its compressed data end too early or too late"
        )
    return bytes(content)


def read_exactly(file: BinaryIO, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on.

    Raises:
        InvalidArchive: the file ends before.
    """
    file.seek(offset)
    content = file.read(size)
    if len(content) != size:
        raise InvalidArchive("the archive is cut off")
    return content


def shown(name: bytes) -> str:
    """A member's name as messages quote it: printable ASCII, cut."""
    return ascii(name[:100].decode("utf-8", "replace"))
