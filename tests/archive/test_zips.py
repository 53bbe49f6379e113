"""Zip archives that lie about themselves (protocol T-ARCH)."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from proxy.archive.zips import MAX_MEMBERS, Member, find_directory, members, read_member
from proxy.errors import InvalidArchive
from tests.archive.making import zipped

LIMIT = 8 << 20
PATH = "a/METADATA"


def patient() -> None:
    """Time is never up."""


def listed(content: bytes) -> list[Member]:
    file = io.BytesIO(content)
    return list(members(file, find_directory(file), patient))


def read(content: bytes, path: str = PATH) -> bytes:
    file = io.BytesIO(content)
    directory = find_directory(file)
    found = [member for member in members(file, directory, patient) if member.name == path.encode()]
    return read_member(file, directory, found[-1], LIMIT, patient)


def end_of(content: bytes) -> int:
    return content.rindex(b"PK\5\6")


def patched(content: bytes, place: int, layout: str, *values: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, *values)
    return bytes(changed)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content", [b"", b"Name: a\n", bytes(range(256)) * 4000])
def test_a_member_comes_out_as_it_went_in(compression: int, content: bytes) -> None:
    assert read(zipped({"b": "before", PATH: content, "c": "after"}, compression)) == content


def test_members_come_in_the_directorys_order() -> None:
    assert [member.name for member in listed(zipped({"b": "", "a/": "", "c": ""}))] == [b"b", b"a/", b"c"]


def test_archives_with_zip64_fields_are_read() -> None:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(PATH, "w", force_zip64=True) as member,
    ):
        member.write(b"content")
    sound = target.getvalue()
    assert read(sound) == b"content"
    # The end in its ZIP64 form as well, as in archives of more than 4 GiB.
    end = end_of(sound)
    count, size, offset = struct.unpack_from("<HLL", sound, end + 10)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert read(sound[:end] + record + locator + last) == b"content"
    with pytest.raises(InvalidArchive, match="two ends that differ"):
        read(sound[:end] + record + locator + patched(last, 8, "<HH", 7, 7))
    with pytest.raises(InvalidArchive, match="ZIP64 end"):
        read(sound[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, 2**63, 1) + last)


def test_members_written_to_a_pipe_are_read_though_their_local_header_has_no_sizes() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    target = Pipe()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PATH, "content")
    assert read(target.getvalue()) == b"content"


def test_a_comment_is_allowed_and_anything_else_at_the_end_is_not() -> None:
    sound = zipped({PATH: "x"})
    assert read(patched(sound, len(sound) - 2, "<H", 3) + b"abc") == b"x"
    for ending in (b"\0", b"abc", sound[end_of(sound) :], sound):
        with pytest.raises(InvalidArchive):
            read(sound + ending)


def test_something_before_the_archive_is_refused() -> None:
    sound = zipped({PATH: "x"})
    for beginning in (b"#!/bin/sh\n", sound, b"PK\3\4"):
        with pytest.raises(InvalidArchive):
            read(beginning + sound)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", ".."])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArchive, match="unsafe name"):
        listed(zipped({name: "", PATH: "x"}))


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(InvalidArchive, match="unsafe name"):
        listed(zipped({"a/METADATAXY": "x"}).replace(b"METADATAXY", b"METADATA\0Y"))


def test_names_with_dots_that_lead_nowhere_else_pass() -> None:
    assert len(listed(zipped({"a..b": "", "..a/b..": "", "a/.hidden": ""}))) == 3


def test_an_announced_million_of_members_is_refused_before_the_directory_is_read() -> None:
    sound = zipped({PATH: "x"})
    end = end_of(sound)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, MAX_MEMBERS + 1, MAX_MEMBERS + 1, 1, end - 1
    )
    bad = sound[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + sound[end:]
    with pytest.raises(InvalidArchive, match="more than 200000 members"):
        find_directory(io.BytesIO(bad))


def test_a_directory_that_lists_more_than_its_end_says_is_refused() -> None:
    sound = zipped({"a": "", "b": ""})
    with pytest.raises(InvalidArchive, match="more members than its end says"):
        listed(patched(sound, end_of(sound) + 8, "<HH", 1, 1))
    with pytest.raises(InvalidArchive, match="cut off"):
        listed(patched(sound, end_of(sound) + 8, "<HH", 3, 3))


def test_encryption_and_unknown_compression_are_refused() -> None:
    sound = zipped({PATH: "x"})
    entry = sound.index(b"PK\1\2")
    with pytest.raises(InvalidArchive, match="encrypted"):
        read(patched(sound, entry + 8, "<H", 1))
    with pytest.raises(InvalidArchive, match="compression method 14"):
        read(zipped({PATH: "x"}, zipfile.ZIP_LZMA))


def test_a_local_header_that_differs_from_the_directory_is_refused() -> None:
    sound = zipped({"a/METADATX": "other", PATH: "x"})
    with pytest.raises(InvalidArchive, match="local header"):
        read(sound.replace(b"a/METADATA", b"a/METADATB", 1))
    entry = sound.rindex(b"PK\1\2")
    with pytest.raises(InvalidArchive, match="local header"):
        read(patched(sound, entry + 42, "<L", 0))
    with pytest.raises(InvalidArchive, match="not where"):
        read(patched(sound, entry + 42, "<L", 3))
    with pytest.raises(InvalidArchive, match="not where"):
        read(patched(sound, entry + 42, "<L", 2**32 - 2))


def test_damaged_contents_are_refused() -> None:
    sound = zipped({PATH: "abcdefgh" * 4}, zipfile.ZIP_STORED)
    with pytest.raises(InvalidArchive, match="checksum"):
        read(sound.replace(b"abcd", b"abcx", 1))
    packed = zipped({PATH: "abcdefgh" * 4})
    start = 30 + len(PATH)
    with pytest.raises(InvalidArchive, match="damaged"):
        read(patched(packed, start, "<Q", 2**64 - 1))


def test_a_bomb_is_refused_by_its_announced_size() -> None:
    with pytest.raises(InvalidArchive, match="larger than 8 MiB"):
        read(zipped({PATH: bytes(LIMIT + 1)}))


def test_a_bomb_of_a_gibibyte_that_announces_little_takes_little_memory() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    packed = b"".join(compressor.compress(block) for _ in range(1024)) + compressor.flush()
    name = PATH.encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), 1000, len(name), 0)
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), 1000, len(name), 0, 0, 0, 0, 0, 0
    )
    body = local + name + packed
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry) + len(name), len(body), 0)
    bomb = body + entry + name + end
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive, match="too early or too late"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < len(bomb) + (4 << 20)
    finally:
        tracemalloc.stop()


def test_only_end_directory_and_member_are_read() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    noise = b"".join(zlib.crc32(bytes([n % 251, n // 251])).to_bytes(4, "big") for n in range(60_000)) * 20
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = zipped({PATH: "x", "large": noise}, compression)
        assert len(archive) > 4_000_000
        file = Counting(archive)
        directory = find_directory(file)
        first = next(iter(members(file, directory, patient)))
        read_member(file, directory, first, LIMIT, patient)
        assert file.taken < 70_000
