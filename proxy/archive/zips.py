"""Zip archives read by their central directory: members as it lists them, and the bytes of one of them.

Nothing is extracted. This is a reader of its own since `zipfile` builds an object for each member before anyone
can count them, and repairs what it should refuse: here the directory ends where the archive ends, fills the
space it claims, and every number is compared with the bytes at hand before it is used. Works on any seekable
file, so also on one that fetches ranges; it reads the end, the directory, and the members asked for.

`check` is for uploads: it reads every byte and leaves nothing that another reader could understand otherwise.

Sources: PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5; Info-ZIP's field 0x7075; protocol T-ARCH.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from proxy.archive.members import MAX_MEMBERS, check_member_name, plain_path, shown, unpacked_limit
from proxy.errors import InvalidArchive

MAX_DIRECTORY_SIZE = 48 << 20
"""Bytes of a central directory. The largest wheels have some 30,000 members, about 4 MiB."""

STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<HH")
_ZIP64_EXTRA, _UNICODE_PATH = 1, 0x7075
_UNSET16, _UNSET32 = 0xFFFF, 0xFFFFFFFF
_MAX_COMMENT = 0xFFFF
# Bits 0, 6 and 13: encrypted, strongly encrypted, masked headers.
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_DESCRIPTOR = 1 << 3
_UTF8 = 1 << 11
# Besides, bits 1 and 2: how hard the deflater tried.
_HARMLESS = _UTF8 | 1 << 1 | 1 << 2
# Readers refuse what calls itself newer; what lies behind the version's byte is for old systems.
_NEWEST = 63
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHUNK = 256 << 10
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the central directory. Texts are as stored; sizes and `offset` in bytes.

    Attributes:
        version: of the format, tenfold, that a reader has to know.
    """

    version: int
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    extra: bytes
    comment: bytes


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
            found = _find_directory64(file, end - _LOCATOR.size, locator)
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


def _find_directory64(file: BinaryIO, end: int, locator: bytes) -> Directory:
    """The same by the ZIP64 record that `locator` names, which must end where the locator begins, at `end`."""
    _, disk_of_record, place, disks = _LOCATOR.unpack(locator)
    if place + _END64.size > end:
        raise InvalidArchive("the ZIP64 end of the archive is damaged")
    record = _END64.unpack(read_exactly(file, place, _END64.size))
    signature, length, _, _, disk, first_disk, on_disk, members, size, offset = record
    # The record's length leaves out its signature and the length itself.
    if signature != b"PK\6\6" or place + 12 + length != end:
        raise InvalidArchive("the ZIP64 end of the archive is damaged")
    if disk_of_record or disks > 1 or disk or first_disk or on_disk != members:
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
        signature, _, version, flags, method, _, _, crc, packed, size = entry[:10]
        name_length, extra_length, comment_length = entry[10:13]
        offset = entry[16]
        name_end = place + _ENTRY.size + name_length
        extra_end = name_end + extra_length
        place = extra_end + comment_length
        if signature != b"PK\1\2" or place > len(listing):
            raise InvalidArchive("the archive's central directory is damaged")
        name = listing[name_end - name_length : name_end]
        check_member_name(name)
        extra = listing[name_end:extra_end]
        size, packed, offset = _unfolded(extra, size, packed, offset)
        yield Member(
            version & 0xFF, name, flags, method, crc, packed, size, offset, extra, listing[extra_end:place]
        )
    if place != len(listing):
        raise InvalidArchive("the archive's central directory lists more members than its end says")


def _unfolded(extra: bytes, *values: int) -> tuple[int, ...]:
    """`values`, with those that are too large for their field taken from the ZIP64 field of `extra`.

    By the APPNOTE that field holds these alone, in order. Some write all of them; then readers agree only where
    those that are needed come first and the others say nothing new.
    """
    if _UNSET32 not in values and not extra:
        return values
    unset = [value == _UNSET32 for value in values]
    numbers = _zip64_numbers(extra)
    if len(numbers) == sum(unset):
        taken = iter(numbers)
        return tuple(next(taken) if missing else value for value, missing in zip(values, unset, strict=True))
    given = tuple(numbers[: len(values)])
    if (
        len(given) >= sum(unset)
        and sorted(unset, reverse=True) == unset
        and all(
            missing or number == value for number, value, missing in zip(given, values, unset, strict=False)
        )
    ):
        return given + values[len(given) :]
    if any(unset) and not numbers:
        raise InvalidArchive("a member's ZIP64 sizes are missing")
    raise InvalidArchive("a member's ZIP64 sizes can be read in two ways")


def _zip64_numbers(extra: bytes) -> list[int]:
    for kind, content in _extra_fields(extra):
        if kind == _ZIP64_EXTRA:
            # Behind the numbers there may be that of a disk, of four bytes.
            return [number for (number,) in struct.iter_unpack("<Q", content[: len(content) // 8 * 8])]
    return []


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The extra fields as far as they are whole."""
    place = 0
    while place + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, place)
        place += _EXTRA.size + length
        if place > len(extra):
            return
        yield kind, extra[place - length : place]


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
    _check_readable(member)
    if member.size > limit:
        raise InvalidArchive(f"{shown(member.name)} is larger than {limit >> 20} MiB")
    local = _read_local(file, directory, member)
    if local.name != member.name or local.method != member.method or local.flags & _ENCRYPTED:
        raise _differs(member)
    return b"".join(_contents(file, local.end, member, tick))


def check(file: BinaryIO, tick: Callable[[], None]) -> None:
    """Refuse an archive that two readers could understand in two ways, that is damaged, or that is a bomb.

    To be accepted, members, directory and end fill the file without a gap and without overlapping; each local
    header says what the directory says; each member unpacks to the size and checksum that both name. So whoever
    reads by the directory sees what another sees who reads from front to back. Every byte is read, in pieces.

    Raises:
        InvalidArchive: says which of these it is not.
    """
    length = file.seek(0, os.SEEK_END)
    directory = find_directory(file)
    _check_end(file, directory, length)
    listed: list[Member] = []
    paths: set[bytes] = set()
    for member in members(file, directory, tick):
        _check_entry(member)
        path = plain_path(member.name)
        if path in paths:
            raise InvalidArchive(f"the archive has {shown(path)} more than once")
        paths.add(path)
        listed.append(member)
    if sum(member.size for member in listed) > unpacked_limit(length):
        raise InvalidArchive("the archive unpacks to far more than it should")
    listed.sort(key=lambda member: member.offset)
    place = 0
    for member in listed:
        tick()
        if member.offset != place:
            raise InvalidArchive("the archive has bytes that belong to no member, or to two")
        local = _read_local(file, directory, member)
        _check_local(local, member)
        for _ in _contents(file, local.end, member, tick):
            pass
        place = local.end + member.packed
    if place != directory.offset:
        raise InvalidArchive("the archive has bytes that belong to no member")


def _check_end(file: BinaryIO, directory: Directory, length: int) -> None:
    """What follows the directory is its end and nothing else: no comment, no extensible data."""
    start = directory.offset + directory.size
    first = read_exactly(file, start, 4)
    expected = {b"PK\5\6": _END.size, b"PK\6\6": _END64.size + _LOCATOR.size + _END.size}
    if expected.get(first) != length - start:
        raise InvalidArchive("the archive has a comment or other data at its end")


def _check_entry(member: Member) -> None:
    """What the directory says of a member is what every reader understands alike."""
    if member.comment:
        raise InvalidArchive(f"{shown(member.name)} has a comment in the central directory")
    _check_readable(member)
    if member.flags & _DESCRIPTOR:
        raise InvalidArchive(
            f"{shown(member.name)} has its sizes behind its data (a data descriptor)",
            hint="write the archive to a file, not to a pipe",
        )
    if member.flags & ~_HARMLESS or member.version > _NEWEST:
        raise InvalidArchive(f"{shown(member.name)} uses features that no wheel or sdist needs")
    _check_name(member.name, member.flags)
    _check_extra(member.extra, member.name)
    if member.name.endswith(b"/") and member.size:
        raise InvalidArchive(f"the directory {shown(member.name)} has contents of its own")


def _check_local(local: _Local, member: Member) -> None:
    _check_extra(local.extra, local.name)
    sizes = _unfolded(local.extra, local.size, local.packed)
    told = (local.name, local.flags, local.method, local.crc, *sizes)
    if told != (member.name, member.flags, member.method, member.crc, member.size, member.packed):
        raise _differs(member)


def _check_name(name: bytes, flags: int) -> None:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise InvalidArchive(f"the name {shown(name)} of a member is not UTF-8") from error
    if _CONTROL.search(text):
        raise InvalidArchive(f"the name {shown(name)} of a member has control characters")
    if "\\" in text:
        raise InvalidArchive(f"the name {shown(name)} of a member has a backslash")
    # Without the flag some read such names as code page 437.
    if not (text.isascii() or flags & _UTF8):
        raise InvalidArchive(f"the name {shown(name)} of a member is not marked as UTF-8")


def _check_extra(extra: bytes, name: bytes) -> None:
    """Extra fields are whole, and none of them names other sizes or another path."""
    if not extra:
        return
    fields = list(_extra_fields(extra))
    kinds = [kind for kind, _ in fields]
    whole = sum(_EXTRA.size + len(content) for _, content in fields) == len(extra)
    if not whole or kinds.count(_ZIP64_EXTRA) > 1 or kinds.count(_UNICODE_PATH) > 1:
        raise InvalidArchive(f"the extra fields of {shown(name)} are damaged")
    for kind, content in fields:
        # A version, a checksum of four bytes, and the path.
        if kind == _UNICODE_PATH and content[5:] != name:
            raise InvalidArchive(f"the archive has two names for {shown(name)}")


def _check_readable(member: Member) -> None:
    if member.flags & _ENCRYPTED:
        raise InvalidArchive(f"{shown(member.name)} is encrypted")
    if member.method not in (STORED, DEFLATED):
        raise InvalidArchive(
            f"{shown(member.name)} uses compression method {member.method}; only stored and deflated are read"
        )
    if member.method == STORED and member.packed != member.size:
        raise InvalidArchive(f"{shown(member.name)} is damaged: a stored member has two sizes")


@dataclass(frozen=True, slots=True)
class _Local:
    """A local header, its numbers as stored. `end` is where the member's data begin."""

    end: int
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    extra: bytes


def _read_local(file: BinaryIO, directory: Directory, member: Member) -> _Local:
    """The local header of `member`; its data are found to end before the directory."""
    if member.offset + _LOCAL.size > directory.offset:
        raise _misplaced(member)
    header = read_exactly(file, member.offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    if signature != b"PK\3\4":
        raise _misplaced(member)
    start = member.offset + _LOCAL.size
    rest = read_exactly(file, start, name_length + extra_length)
    end = start + len(rest)
    if end + member.packed > directory.offset:
        raise InvalidArchive(f"{shown(member.name)} reaches into the central directory")
    return _Local(end, rest[:name_length], flags, method, crc, packed, size, rest[name_length:])


def _misplaced(member: Member) -> InvalidArchive:
    return InvalidArchive(f"{shown(member.name)} is not where the central directory says")


def _differs(member: Member) -> InvalidArchive:
    return InvalidArchive(f"the local header of {shown(member.name)} differs from the central directory")


def _contents(file: BinaryIO, start: int, member: Member, tick: Callable[[], None]) -> Iterator[bytes]:
    """The member's data from `start` on, decompressed, in pieces of at most 1 MiB, each but an empty one."""
    size = crc = 0
    pieces = _stored if member.method == STORED else _inflated
    for piece in pieces(file, start, member, tick):
        size += len(piece)
        crc = zlib.crc32(piece, crc)
        yield piece
    if size != member.size or crc != member.crc:
        raise InvalidArchive(
            f"{shown(member.name)} is damaged: size or checksum differ from the central directory"
        )


def _stored(file: BinaryIO, start: int, member: Member, tick: Callable[[], None]) -> Iterator[bytes]:
    end = start + member.packed
    for place in range(start, end, _PIECE):
        tick()
        yield read_exactly(file, place, min(_PIECE, end - place))


def _inflated(file: BinaryIO, start: int, member: Member, tick: Callable[[], None]) -> Iterator[bytes]:
    """At most one byte more than the member's size comes out."""
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    place, end = start, start + member.packed
    left = member.size + 1
    chunk, is_full = b"", False
    while left and not inflator.eof and (chunk or is_full or place < end):
        tick()
        if not (chunk or is_full):
            chunk = read_exactly(file, place, min(_CHUNK, end - place))
            place += len(chunk)
        limit = min(_PIECE, left)
        try:
            piece = inflator.decompress(chunk, limit)
        except zlib.error as error:
            raise InvalidArchive(f"{shown(member.name)} is damaged: it cannot be decompressed") from error
        # A full piece may leave output inside the inflator though all input is consumed.
        chunk, is_full = inflator.unconsumed_tail, len(piece) == limit
        left -= len(piece)
        if piece:
            yield piece
    if not inflator.eof or inflator.unused_data or place != end:
        raise InvalidArchive(
            f"{shown(member.name)} is damaged: its compressed data end too early or too late"
        )


def ends_as_zip(file: BinaryIO) -> bool:
    """Whether some reader might take `file` for a zip archive, whatever it begins with.

    Readers look for the end of the archive in the last 64 KiB and take what they find there, `pip` before it
    looks whether an sdist is a tar archive.
    """
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - _END.size - _MAX_COMMENT)
    tail = read_exactly(file, start, length - start)
    place = tail.find(b"PK\5\6")
    while 0 <= place <= len(tail) - _END.size:
        _, _, _, _, members, size, _, _ = _END.unpack_from(tail, place)
        directory = start + place - size
        if tail[max(0, place - _LOCATOR.size) :].startswith(b"PK\6\7") or not members:
            return True
        if 0 <= directory <= length - 4 and read_exactly(file, directory, 4) == b"PK\1\2":
            return True
        place = tail.find(b"PK\5\6", place + 1)
    return False


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
