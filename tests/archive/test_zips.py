"""Zip archives that lie about themselves (protocol T-ARCH)."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import pytest

from proxy.archive.members import MAX_MEMBERS, MAX_NAME, RATIO_APPLIES_FROM
from proxy.archive.zips import Member, check, ends_as_zip, find_directory, members, read_member
from proxy.errors import InvalidArchive
from tests.archive.making import Entry, forged, patient, refusal, with_zip64_end, zipped

LIMIT = 8 << 20
PATH = "a/METADATA"


def listed(content: bytes) -> list[Member]:
    file = io.BytesIO(content)
    return list(members(file, find_directory(file), patient))


def read(content: bytes, path: str = PATH) -> bytes:
    file = io.BytesIO(content)
    directory = find_directory(file)
    found = [member for member in members(file, directory, patient) if member.name == path.encode()]
    return read_member(file, directory, found[-1], LIMIT, patient)


def checked(content: bytes) -> None:
    check(io.BytesIO(content), patient)


def end_of(content: bytes) -> int:
    return content.rindex(b"PK\5\6")


def patched(content: bytes, place: int, layout: str, *values: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, *values)
    return bytes(changed)


def zip64(*numbers: int) -> bytes:
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


class Pipe(io.BytesIO):
    """What cannot seek, so that sizes are written behind the data."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def piped() -> bytes:
    target = Pipe()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PATH, "content")
    return target.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("content", [b"", b"Name: a\n", bytes(range(256)) * 4000])
def test_a_member_comes_out_as_it_went_in(compression: int, content: bytes) -> None:
    archive = zipped({"b": "before", PATH: content, "c": "after"}, compression)
    assert read(archive) == content
    checked(archive)


def test_members_come_in_the_directorys_order() -> None:
    assert [member.name for member in listed(zipped({"b": "", "a/": "", "c": ""}))] == [b"b", b"a/", b"c"]


def test_what_build_tools_write_is_accepted() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("widgets")
        archive.writestr("widgets/caf\u00e9.py", "1", zipfile.ZIP_STORED)
        dated = zipfile.ZipInfo("widgets/dated.py", (2026, 1, 1, 0, 0, 0))
        # A time stamp of Info-ZIP's, which Rust's writers set.
        dated.extra = struct.pack("<HHBL", 0x5455, 5, 1, 0)
        archive.writestr(dated, "2")
        # As bazel's rules do, whatever the size; the sizes then stand in the local header twice.
        with archive.open("widgets/large.py", "w", force_zip64=True) as member:
            member.write(b"content")
        archive.writestr("widgets/empty.py", "")
    checked(target.getvalue())
    # Of one that says which effort the deflater made, and one that says its name a second time.
    unicode_path = struct.pack("<HHBL", 0x7075, 6, 1, 0) + b"b"
    checked(forged(Entry(b"a", everywhere={"flags": 2}), Entry(b"b", local={"extra": unicode_path})))


def test_archives_with_zip64_fields_are_read() -> None:
    entry = Entry(
        PATH.encode(),
        local={"size": 2**32 - 1, "packed": 2**32 - 1, "extra": zip64(7, 9)},
        central={"size": 2**32 - 1, "packed": 2**32 - 1, "offset": 2**32 - 1, "extra": zip64(7, 9, 0)},
    )
    for sound in (forged(entry), with_zip64_end(forged(entry))):
        assert read(sound) == b"content"
        checked(sound)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"size": 2**32 - 1}, "sizes are missing"),
        ({"size": 2**32 - 1, "extra": zip64(7, 9, 0, 0)}, None),
        ({"packed": 2**32 - 1, "extra": zip64(9)}, None),
        # Whoever takes the first number for the first size that is missing reads 7.
        ({"packed": 2**32 - 1, "extra": zip64(7, 9)}, "in two ways"),
        ({"extra": zip64(7, 9)}, None),
        ({"extra": zip64(8, 9)}, "in two ways"),
        ({"extra": zip64(7, 8, 0)}, "in two ways"),
        ({"extra": zip64(7, 9) + zip64(7, 9)}, "extra fields"),
        ({"extra": zip64(7, 9)[:-1]}, "extra fields"),
        ({"extra": b"\0\0\0"}, "extra fields"),
    ],
)
def test_T_ARCH_zip64_sizes_have_one_reading(told: Mapping[str, Any], says: str | None) -> None:
    archive = forged(Entry(PATH.encode(), central=told))
    if says is None:
        checked(archive)
    else:
        assert says in refusal(checked, archive)


def test_T_ARCH_zip64_ends_that_readers_take_differently_are_refused() -> None:
    sound = zipped({PATH: "x"})
    wide = with_zip64_end(sound)
    checked(wide)
    end = end_of(wide)
    assert "two ends that differ" in refusal(checked, patched(wide, end + 8, "<HH", 7, 7))
    assert "ZIP64 end" in refusal(checked, patched(wide, end - 12, "<Q", 2**63))
    assert "several disks" in refusal(checked, with_zip64_end(sound, disk=1))
    assert "several disks" in refusal(checked, with_zip64_end(sound, disks=2))
    extensible = with_zip64_end(sound, record=b"further data")
    assert read(extensible) == b"x"
    assert "at its end" in refusal(checked, extensible)
    # The locator alone, without a record before it.
    bare = sound[: end_of(sound)] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + sound[end_of(sound) :]
    assert "ZIP64 end" in refusal(checked, bare)


def test_T_ARCH_data_descriptors_are_refused_in_uploads_alone() -> None:
    """PyPI refuses them, and no build tool writes them; older wheels of an upstream may have some."""
    assert read(piped()) == b"content"
    assert "data descriptor" in refusal(checked, piped())


def test_T_ARCH_comments_at_the_end_are_refused_in_uploads_alone() -> None:
    sound = zipped({PATH: "x"})
    commented = patched(sound, len(sound) - 2, "<H", 3) + b"abc"
    assert read(commented) == b"x"
    assert "comment" in refusal(checked, commented)


def test_T_ARCH_comments_in_the_central_directory_are_refused() -> None:
    told = refusal(checked, forged(Entry(b"a"), Entry(b"b", central={"comment": b"PK\5\6"})))
    assert told == "'b' has a comment in the central directory"


def test_T_ARCH_trailing_data_are_refused() -> None:
    sound = zipped({PATH: "x"})
    for ending in (b"\0", b"abc", sound[end_of(sound) :], sound):
        refusal(read, sound + ending)
        refusal(checked, sound + ending)


def test_T_ARCH_prepended_data_are_refused() -> None:
    sound = zipped({PATH: "x"})
    for beginning in (b"#!/bin/sh\n", sound, b"PK\3\4", b"PK\3\4" + bytes(26)):
        refusal(read, beginning + sound)
        refusal(checked, beginning + sound)
    # With offsets that count what stands before, as in archives that unpack themselves.
    target = io.BytesIO()
    target.write(b"#!/bin/sh\n")
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(PATH, "x")
    refusal(read, target.getvalue())
    refusal(checked, target.getvalue())


def test_T_ARCH_several_ends_are_refused() -> None:
    """A second archive in the comment of the first: readers from the front and from the back see different ones."""
    inner = zipped({PATH: "inner"})
    outer = zipped({PATH: "outer"})
    start = end_of(outer) + 22
    moved = bytearray(inner)
    struct.pack_into("<L", moved, end_of(inner) + 16, start + inner.index(b"PK\1\2"))
    struct.pack_into("<L", moved, inner.index(b"PK\1\2") + 42, start)
    both = patched(outer, len(outer) - 2, "<H", len(moved)) + moved
    with zipfile.ZipFile(io.BytesIO(both)) as archive:
        assert archive.read(PATH) == b"inner"
    assert "belong to no member" in refusal(checked, both)


def test_T_ARCH_bytes_of_no_member_are_refused() -> None:
    for archive in (
        forged(Entry(b"a", after=b"gap"), Entry(b"b")),
        forged(Entry(b"a"), before=b"gap"),
        # A whole member that the directory does not list.
        forged(Entry(b"a", after=Entry(b"hidden").local_header() + Entry(b"hidden").data), Entry(b"b")),
        forged(Entry(b"a", after=Entry(b"hidden").local_header() + Entry(b"hidden").data)),
        forged(Entry(b"a"), end={"members": 0}),
    ):
        refusal(checked, archive)


def test_T_ARCH_members_that_overlap_are_refused() -> None:
    """Many entries of one member, which unpack to many times what lies there."""
    entry = Entry(b"a")
    twice = forged(entry, Entry(b"b", packed=b"", local={"name": b""}, central={"offset": 0, "name": b"a"}))
    refusal(checked, twice)
    inner = Entry(b"b", content=b"inner", method=0)
    quoted = Entry(b"a", content=inner.local_header() + inner.data, method=0)
    offset = len(quoted.local_header())
    size = len(quoted.data)
    shared = forged(quoted, Entry(b"b", content=b"inner", method=0, central={"offset": offset}))
    assert "to two" in refusal(checked, shared)
    assert size > 30


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\\..\\x", "..", "\\x", "C:/x", "c:x"])
def test_T_ARCH_names_that_lead_out_are_refused_everywhere(name: str) -> None:
    archive = zipped({name: "", PATH: "x"})
    assert "unsafe name" in refusal(listed, archive)
    assert "unsafe name" in refusal(checked, archive)


def test_a_name_with_nul_is_refused() -> None:
    archive = zipped({"a/METADATAXY": "x"}).replace(b"METADATAXY", b"METADATA\0Y")
    assert "unsafe name" in refusal(listed, archive)


def test_a_name_without_end_is_refused() -> None:
    assert len(listed(zipped({"a" * MAX_NAME: ""}))) == 1
    assert "longer than 4096" in refusal(listed, zipped({"a" * (MAX_NAME + 1): ""}))


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        (b"caf\xe9", 0, "not UTF-8"),
        (b"caf\xe9", 1 << 11, "not UTF-8"),
        (b"a\xc0\xaeb", 1 << 11, "not UTF-8"),
        ("caf\u00e9".encode(), 0, "not marked as UTF-8"),
        (b"a\nb", 0, "control characters"),
        (b"a\x7f", 0, "control characters"),
        ("a\u0085b".encode(), 1 << 11, "control characters"),
        (b"a\\b", 0, "backslash"),
    ],
)
def test_T_ARCH_names_that_readers_spell_differently_are_refused(name: bytes, flags: int, says: str) -> None:
    archive = forged(Entry(b"a"), Entry(name, everywhere={"flags": flags}))
    assert len(listed(archive)) == 2
    assert says in refusal(checked, archive)


@pytest.mark.parametrize("header", ["local", "central"])
def test_T_ARCH_a_second_name_in_an_extra_field_is_refused(header: str) -> None:
    other = struct.pack("<HHBL", 0x7075, 10, 1, 0) + b"other"
    said: dict[str, Any] = {header: {"extra": other}}
    assert "two names for 'a'" in refusal(checked, forged(Entry(b"a", **said)))


def test_names_with_dots_that_lead_nowhere_else_pass() -> None:
    archive = zipped({"a..b": "", "..a/b..": "", "a/.hidden": "", "a/...": ""})
    assert len(listed(archive)) == 4
    checked(archive)


@pytest.mark.parametrize("other", [b"a/b", b"a//b", b"a/./b", b"./a/b", b"a/b/"])
def test_T_ARCH_duplicate_names_are_refused(other: bytes) -> None:
    archive = forged(Entry(b"a/b"), Entry(b"c"), Entry(other, content=b"", method=0))
    assert refusal(checked, archive) == "the archive has 'a/b' more than once"


def test_T_ARCH_too_many_members_are_refused_before_the_directory_is_read() -> None:
    sound = zipped({PATH: "x"})
    end = end_of(sound)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, MAX_MEMBERS + 1, MAX_MEMBERS + 1, 1, end - 1
    )
    bad = sound[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + sound[end:]
    assert "more than 200000 members" in refusal(find_directory, io.BytesIO(bad))


def test_a_directory_that_lists_more_than_its_end_says_is_refused() -> None:
    sound = zipped({"a": "", "b": ""})
    assert "more members than its end says" in refusal(listed, patched(sound, end_of(sound) + 8, "<HH", 1, 1))
    assert "cut off" in refusal(listed, patched(sound, end_of(sound) + 8, "<HH", 3, 3))


@pytest.mark.parametrize("flag", [0, 6, 13])
def test_T_ARCH_encrypted_members_are_refused(flag: int) -> None:
    archive = forged(Entry(PATH.encode(), everywhere={"flags": 1 << flag}))
    assert "encrypted" in refusal(read, archive)
    assert "encrypted" in refusal(checked, archive)


@pytest.mark.parametrize("flag", [4, 5, 7, 12, 14, 15])
def test_T_ARCH_features_that_nobody_needs_are_refused(flag: int) -> None:
    assert "no wheel or sdist needs" in refusal(checked, forged(Entry(b"a", everywhere={"flags": 1 << flag})))


def test_T_ARCH_a_format_that_readers_do_not_know_is_refused() -> None:
    checked(forged(Entry(b"a", central={"version": 63})))
    assert "no wheel or sdist needs" in refusal(checked, forged(Entry(b"a", central={"version": 64})))


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_T_ARCH_other_compression_is_refused(compression: int) -> None:
    assert f"method {compression};" in refusal(read, zipped({PATH: "x"}, compression))
    target = io.BytesIO(zipped({PATH: "x"}))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("z", "x", compression)
    assert read(target.getvalue()) == b"x"
    assert f"method {compression};" in refusal(checked, target.getvalue())


@pytest.mark.parametrize(
    "told",
    [
        {"name": b"a/METADATB"},
        {"flags": 1 << 11},
        {"method": 0},
        {"crc": 1},
        {"packed": 8},
        {"size": 8},
        {"size": 2**32 - 1, "extra": zip64(8)},
    ],
)
def test_T_ARCH_a_local_header_that_differs_from_the_directory_is_refused(told: Mapping[str, Any]) -> None:
    archive = forged(Entry(PATH.encode(), local=told), Entry(b"b"))
    assert refusal(checked, archive) == f"the local header of '{PATH}' differs from the central directory"


def test_a_member_that_is_not_where_the_directory_says_is_refused() -> None:
    sound = zipped({"a/METADATX": "other", PATH: "x"})
    assert "local header" in refusal(read, sound.replace(b"a/METADATA", b"a/METADATB", 1))
    entry = sound.rindex(b"PK\1\2")
    assert "local header" in refusal(read, patched(sound, entry + 42, "<L", 0))
    assert "not where" in refusal(read, patched(sound, entry + 42, "<L", 3))
    assert "not where" in refusal(read, patched(sound, entry + 42, "<L", 2**32 - 2))


def test_a_directory_with_contents_is_refused() -> None:
    checked(forged(Entry(b"a/", content=b"", method=0)))
    assert "has contents" in refusal(checked, forged(Entry(b"a/")))


def test_T_ARCH_damage_to_any_member_is_refused() -> None:
    sound = zipped({"b": "abcdefgh" * 4, PATH: "x"}, zipfile.ZIP_STORED)
    damaged = sound.replace(b"abcd", b"abcx", 1)
    assert read(damaged) == b"x"
    assert "checksum" in refusal(checked, damaged)
    packed = zipped({"b": "abcdefgh" * 4, PATH: "x"})
    assert "cannot be decompressed" in refusal(checked, patched(packed, 31, "<Q", 2**64 - 1))
    assert "damaged" in refusal(
        read, patched(zipped({PATH: "abcdefgh" * 4}), 30 + len(PATH), "<Q", 2**64 - 1)
    )
    two_sizes = forged(Entry(b"a", method=0, everywhere={"size": 3}))
    assert "two sizes" in refusal(checked, two_sizes)


def test_T_ARCH_a_bomb_is_refused_by_its_announced_size() -> None:
    block = bytes(RATIO_APPLIES_FROM // 2)
    half = Entry(b"a", content=block)
    checked(forged(half, Entry(b"b", content=block)))
    assert "far more than it should" in refusal(checked, forged(half, Entry(b"b", content=block + b"\0")))
    # Less than fifty times what it takes packed.
    noise = random.Random(1).randbytes(len(block) // 24)
    checked(forged(half, Entry(b"b", content=block + b"\0"), Entry(b"c", content=noise, method=0)))


def test_metadata_are_refused_by_their_announced_size() -> None:
    assert "larger than 8 MiB" in refusal(read, zipped({PATH: bytes(LIMIT + 1)}))


@pytest.mark.parametrize("act", [read, checked])
def test_T_ARCH_a_bomb_that_announces_little_takes_little_memory(act: Any) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(1 << 20)
    packed = b"".join(compressor.compress(block) for _ in range(128)) + compressor.flush()
    bomb = forged(Entry(PATH.encode(), content=bytes(1000), packed=packed))
    tracemalloc.start()
    try:
        assert "too early or too late" in refusal(act, bomb)
        assert tracemalloc.get_traced_memory()[1] < len(bomb) + (4 << 20)
    finally:
        tracemalloc.stop()


def test_a_large_member_is_checked_in_little_memory() -> None:
    content = random.Random(2).randbytes(1 << 20) * 8
    file = io.BytesIO(forged(Entry(b"a", content=content), Entry(b"b", content=content, method=0)))
    tracemalloc.start()
    try:
        check(file, patient)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_T_ARCH_what_readers_might_take_for_a_zip_is_found_wherever_it_begins() -> None:
    inner = zipped({PATH: "x"})
    for beginning in (b"", b"anything", bytes(100_000)):
        for ending in (b"", b"anything", bytes(60_000)):
            assert ends_as_zip(io.BytesIO(beginning + inner + ending))
            assert ends_as_zip(io.BytesIO(beginning + with_zip64_end(inner) + ending))
    assert ends_as_zip(io.BytesIO(b"anything PK\5\6" + bytes(18)))
    for harmless in (b"", b"PK\5\6", inner[: end_of(inner)], b"PK\5\6" + b"x" * 40, inner + bytes(70_000)):
        assert not ends_as_zip(io.BytesIO(harmless))


def test_only_end_directory_and_member_are_read() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    noise = random.Random(3).randbytes(4_000_000)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = zipped({PATH: "x", "large": noise}, compression)
        file = Counting(archive)
        directory = find_directory(file)
        first = next(iter(members(file, directory, patient)))
        read_member(file, directory, first, LIMIT, patient)
        assert file.taken < 70_000


def test_time_is_looked_at_while_members_are_read() -> None:
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise InvalidArchive("the archive takes too long to read")

    content = bytes(30 << 20)
    for method in (0, 8):
        calls = 0
        assert "too long" in refusal(
            check, io.BytesIO(forged(Entry(b"a", content=content, method=method))), tick
        )
