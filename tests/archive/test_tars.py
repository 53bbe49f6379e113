"""Gzipped tar archives: every dialect that build tools write, and those that are meant to hurt."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import tracemalloc
import zlib

import pytest

from proxy.archive.members import MAX_NAME, RATIO_APPLIES_FROM
from proxy.archive.tars import TarMember, TarStream
from proxy.errors import InvalidArchive
from tests.archive.making import patient, refusal, tarred

LONG = "widgets-1.0/" + "/".join(["directory"] * 30) + "/file.py"
DIALECTS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)


def listed(content: bytes) -> list[TarMember]:
    return list(TarStream(io.BytesIO(content), patient).members())


def names(content: bytes) -> list[bytes]:
    return [member.name for member in listed(content)]


def contents(content: bytes) -> dict[bytes, bytes]:
    stream = TarStream(io.BytesIO(content), patient)
    return {member.name: stream.read(member) for member in stream.members()}


def info(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict[str, str] | None = None
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.pax_headers = kind, link, pax or {}
    return made


def tar_of(*blocks: bytes) -> bytes:
    return gzip.compress(b"".join(blocks) + bytes(1024))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_read(dialect: int) -> None:
    files = {"widgets-1.0/a": b"x" * 511, "widgets-1.0/" + "b" * 99: b"", "widgets-1.0/c": b"y" * 1025}
    if dialect != tarfile.USTAR_FORMAT:
        files[LONG] = b"far down"
        files["widgets-1.0/\u00e9"] = b"accent"
    found = contents(tarred(files, dialect))
    assert found == {name.encode(): content for name, content in files.items()}


def test_ustar_names_are_joined_from_both_fields() -> None:
    name = "widgets-1.0/" + "d" * 80 + "/" + "f" * 80
    assert names(tarred({name: ""}, tarfile.USTAR_FORMAT)) == [name.encode()]


def test_members_are_skipped_without_being_read() -> None:
    assert names(tarred({"a": bytes(3000), "b": "", "c": "x"})) == [b"a", b"b", b"c"]


def test_leading_dots_and_directories_are_normalised() -> None:
    content = tarred({"./w/x": ""}, extra=(info(".", tarfile.DIRTYPE), info("./w/", tarfile.DIRTYPE)))
    assert listed(content) == [
        TarMember(b"", 0, is_file=False, is_directory=True),
        TarMember(b"w", 0, is_file=False, is_directory=True),
        TarMember(b"w/x", 0, is_file=True, is_directory=False),
    ]


def test_T_ARCH_links_within_the_archive_pass_as_neither_files_nor_directories() -> None:
    content = tarred(
        {"w/c": "", "w/d/e": ""},
        extra=(
            info("w/a", tarfile.SYMTYPE, "b"),
            info("w/d/up", tarfile.SYMTYPE, "../c"),
            info("w/d/here", tarfile.SYMTYPE, "."),
            info("w/d/top", tarfile.SYMTYPE, ".."),
            info("w/long", tarfile.SYMTYPE, "x" * 200),
        ),
    )
    kinds = {member.name: member.is_file or member.is_directory for member in listed(content)}
    assert kinds == {
        b"w/a": 0,
        b"w/d/up": 0,
        b"w/d/here": 0,
        b"w/d/top": 0,
        b"w/long": 0,
        b"w/c": 1,
        b"w/d/e": 1,
    }


def test_T_ARCH_hard_links_to_files_before_them_pass() -> None:
    assert names(tar_of(info("w/a").tobuf(), info("w/b", tarfile.LNKTYPE, "./w/a").tobuf())) == [
        b"w/a",
        b"w/b",
    ]


@pytest.mark.parametrize("dialect", DIALECTS[:2])
@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "..",
        "../x",
        "../../x",
        "./../x",
        "b/../../x",
        "b/..",
        "",
        "..\\x",
        "\\x",
        "b\\..\\..\\x",
        "C:/x",
        "../" * 60,
        "x/" * 60 + "../" * 62,
    ],
)
def test_T_ARCH_symbolic_links_that_lead_out_are_refused(target: str, dialect: int) -> None:
    content = tarred({}, dialect, extra=(info("w/a", tarfile.SYMTYPE, target),))
    assert refusal(names, content) == "the link 'w/a' leads out of the archive"


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../x", "w/../../x", "w/later", "w/link", "w", "", "w/a\\..\\x"]
)
def test_T_ARCH_hard_links_to_anything_but_a_file_before_them_are_refused(target: str) -> None:
    blocks = (
        info("w/link", tarfile.SYMTYPE, "a").tobuf(),
        info("w/hard", tarfile.LNKTYPE, target).tobuf(),
        info("w/later").tobuf(),
    )
    assert "'w/hard' does not lead to a file" in refusal(names, tar_of(*blocks))


@pytest.mark.parametrize(
    "members",
    [
        # Each target alone stays inside; one by way of another does not.
        (("w/x/y/l", "../.."), ("w/x/y/l/m", "..")),
        (("w/x/y/l", "../.."), ("w/x/y/l/file", None)),
        (("w/x/y/l/m", ".."), ("w/x/y/l", "../..")),
        (("w/x/y/l", "../.."), ("w/x/y/l", "..")),
        (("w/x/y/l", None), ("w/x/y/l", "../..")),
        (("w/x/y/l", "../.."), ("w/x/y/l", None)),
    ],
)
def test_T_ARCH_links_that_lead_out_by_way_of_others_are_refused(
    members: tuple[tuple[str, str | None], ...],
) -> None:
    blocks = [
        (info(name) if target is None else info(name, tarfile.SYMTYPE, target)).tobuf()
        for name, target in members
    ]
    assert "link 'w/x/y/l" in refusal(names, tar_of(*blocks))


def test_T_ARCH_a_link_named_in_a_long_header_counts() -> None:
    for dialect in DIALECTS[:2]:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            content = tarred({}, dialect, extra=(info("w/a", kind, "/" + "x" * 300),))
            assert "the link 'w/a'" in refusal(names, content)


def test_a_global_header_of_git_is_passed_over() -> None:
    target = io.BytesIO()
    with tarfile.open(
        fileobj=target, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c0ffee"}
    ) as archive:
        archive.addfile(info("w/a"))
    assert names(target.getvalue()) == [b"w/a"]


@pytest.mark.parametrize("key", ["path", "linkpath", "size"])
def test_a_global_header_with_a_path_is_refused(key: str) -> None:
    record = f"{len(key) + 6} {key}=1\n".encode()
    pax = info("pax", b"g")
    pax.size = len(record)
    assert "global header" in refusal(
        names, tar_of(pax.tobuf(), record.ljust(512, b"\0"), info("w/a").tobuf())
    )


def test_T_ARCH_two_sizes_of_a_member_are_refused() -> None:
    """Whoever misses the pax header reads the member's data as further members."""
    pax = info("pax", b"x")
    pax.size = 12
    block = b"12 size=512\n".ljust(512, b"\0")
    smuggled = info("../x").tobuf()
    agreed = info("w/a")
    agreed.size = 512
    assert names(tar_of(pax.tobuf(), block, agreed.tobuf(), smuggled)) == [b"w/a"]
    assert "two sizes" in refusal(names, tar_of(pax.tobuf(), block, info("w/a").tobuf(), smuggled))


def test_a_size_that_only_a_pax_header_can_say_counts() -> None:
    pax = info("pax", b"x")
    pax.size = 19
    block = b"19 size=8589934592\n".ljust(512, b"\0")
    assert "cut off" in refusal(names, tar_of(pax.tobuf(), block, info("w/a").tobuf(), bytes(4096)))


def test_numbers_in_binary_form_are_read() -> None:
    header = bytearray(info("w/a").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    assert contents(tar_of(bytes(header), b"abc".ljust(512, b"\0"))) == {b"w/a": b"abc"}


def test_T_ARCH_what_follows_the_end_is_refused() -> None:
    member = info("w/a").tobuf()
    plain = member + bytes(1024)
    sound = gzip.compress(plain)
    assert names(sound) == names(gzip.compress(plain + bytes(1 << 20))) == [b"w/a"]
    for ending in (b"\0", b"PK\3\4", sound, gzip.compress(b"")):
        assert "follows the end" in refusal(names, sound + ending)
    for ending in (b"x", member, bytes(1 << 20) + member):
        assert "follows the end" in refusal(names, gzip.compress(plain + ending))
    # A second stream is read by some and ignored by others.
    assert "cut off" in refusal(names, gzip.compress(member) + gzip.compress(bytes(1024)))


def test_T_ARCH_an_archive_without_its_end_is_refused() -> None:
    member = info("w/a").tobuf()
    assert "cut off" in refusal(names, gzip.compress(member))
    assert names(gzip.compress(member + bytes(512))) == [b"w/a"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "w/../../x", "w/..", "w\\..\\x", "\\x", "C:/x"])
def test_T_ARCH_names_that_lead_out_are_refused(name: str) -> None:
    assert "unsafe name" in refusal(names, tarred({name: ""}))
    assert "unsafe name" in refusal(names, tarred({}, extra=(info(name, tarfile.DIRTYPE),)))
    assert "unsafe name" in refusal(names, tarred({}, extra=(info("w/a", pax={"path": name}),)))


def test_a_name_without_end_is_refused() -> None:
    assert "longer than 4096" in refusal(names, tarred({"w/" + "x" * MAX_NAME: ""}))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_T_ARCH_devices_and_fifos_are_refused(kind: bytes) -> None:
    assert "device" in refusal(names, tarred({}, extra=(info("w/a", kind),)))


@pytest.mark.parametrize("kind", [b"D", b"M", b"N", b"V", b"X", b"A", b"8"])
def test_members_of_unknown_types_are_refused(kind: bytes) -> None:
    assert "unknown type" in refusal(names, tarred({}, extra=(info("w/a", kind),)))


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_T_ARCH_directories_and_links_with_contents_are_refused(kind: bytes) -> None:
    """Some readers skip as many bytes as the header says, others none."""
    header = info("w/a", kind, "b")
    header.size = 512
    assert "contents of its own" in refusal(names, tar_of(header.tobuf(), info("w/b").tobuf()))
    folder = info("w/a/", tarfile.REGTYPE)
    folder.size = 512
    assert "contents of its own" in refusal(names, tar_of(folder.tobuf(), info("w/b").tobuf()))


def test_T_ARCH_sparse_files_are_refused() -> None:
    assert "sparse" in refusal(names, tarred({}, extra=(info("w/a", tarfile.GNUTYPE_SPARSE),)))
    for key in ("GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name"):
        assert "sparse" in refusal(names, tarred({}, extra=(info("w/a", pax={key: "0,1"}),)))


@pytest.mark.parametrize(
    "record",
    [
        b"x",
        b"999999999999 a=b\n",
        b"5 a=b",
        b"6 ab\n\n",
        b"-6 a=b\n",
        b"0 a=b\n",
        b"9 size=x\n",
        b"\xb2 a=b\n",
    ],
)
def test_pax_headers_that_cannot_be_read_are_refused(record: bytes) -> None:
    pax = info("pax", b"x")
    pax.size = len(record)
    assert "pax header" in refusal(names, tar_of(pax.tobuf(), record.ljust(512, b"\0"), info("w/a").tobuf()))


def test_extended_headers_of_any_kind_are_bounded() -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        pax = info("pax", kind)
        pax.size = 1 << 30
        with pytest.raises(InvalidArchive, match="larger than 1 MiB"):
            names(tar_of(pax.tobuf()))


def test_a_long_chain_of_extended_headers_is_read_without_recursion() -> None:
    header = info("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 4
    longlink = header.tobuf(tarfile.GNU_FORMAT) + b"w/b\0".ljust(512, b"\0")
    assert names(tar_of(longlink * 5000, info("w/a").tobuf())) == [b"w/b"]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_has_something_behind_it(kind: bytes) -> None:
    header = info("pax", kind)
    header.size = 8
    blocks = (header.tobuf(), b"8 a=bcd\n".ljust(512, b"\0"))
    assert "extended header" in refusal(names, tar_of(info("w/a").tobuf(), *blocks))


def test_a_wrong_checksum_is_refused() -> None:
    header = bytearray(info("w/a").tobuf())
    header[0] ^= 1
    assert "checksum" in refusal(names, tar_of(bytes(header)))


@pytest.mark.parametrize("place", [100, 108, 116, 136, 329, 337])
def test_T_ARCH_a_header_that_some_readers_take_for_the_end_is_refused(place: int) -> None:
    def header(field: bytes) -> bytes:
        changed = bytearray(info("w/a").tobuf(tarfile.GNU_FORMAT))
        changed[place : place + len(field)] = field
        changed[148:156] = b"%06o\0 " % (sum(changed[:148]) + 256 + sum(changed[156:]))
        return bytes(changed)

    for sound in (b"0000644\0", b"        ", b"\x80\0\0\0\0\0\0\1", b"\xff" * 8):
        assert names(tar_of(info("w/b").tobuf(), header(sound))) == [b"w/b", b"w/a"]
    content = tar_of(info("w/b").tobuf(), header(b"x"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == ["w/b"]
    assert "holds no number" in refusal(names, content)


def test_T_ARCH_what_is_not_gzip_or_ends_early_is_refused() -> None:
    sound = tarred({"w/a": "x" * 5000})
    for bad in (
        b"",
        b"PK\3\4" + bytes(100),
        gzip.decompress(sound),
        sound[:-20],
        sound[:-1],
        gzip.compress(b""),
    ):
        refusal(names, bad)


def test_T_ARCH_damage_behind_the_last_member_is_refused() -> None:
    """The checksum of the whole stands at its very end."""
    sound = tarred({"w/a": "x" * 5000})
    assert "decompressed" in refusal(names, sound[:-8] + bytes(4) + sound[-4:])


def large(content: bytes, *, noise: int = 0) -> bytes:
    """An archive of two files, the second incompressible."""
    first, second = info("w/a"), info("w/b")
    first.size, second.size = len(content), noise
    packed = zlib.compressobj(6, zlib.DEFLATED, 31)
    parts = [packed.compress(first.tobuf()), packed.compress(content + bytes(-len(content) % 512))]
    parts.append(packed.compress(second.tobuf() + random.Random(1).randbytes(noise) + bytes(-noise % 512)))
    return b"".join([*parts, packed.compress(bytes(1024)), packed.flush()])


def test_T_ARCH_a_bomb_is_refused_by_its_ratio_and_takes_little_memory() -> None:
    block = bytes(RATIO_APPLIES_FROM)
    bomb = large(block)
    tracemalloc.start()
    try:
        assert "far more than it should" in refusal(names, bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(names(large(block[:-4096]))) == 2
    # Less than fifty times what the whole file takes, though what comes first shrinks far more.
    assert len(names(large(block, noise=2 << 20))) == 2


def test_many_small_members_are_read_without_copying_what_waits() -> None:
    """Each decoded piece serves all headers in it: 20,000 members in much less than a second."""
    member = info("w/a").tobuf()
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1

    content = gzip.compress(member * 20_000 + bytes(1024), 1)
    assert len(list(TarStream(io.BytesIO(content), tick).members())) == 20_000
    assert calls < 100


def test_time_is_looked_at_while_nothing_comes_out() -> None:
    """A gzip header without end decodes to nothing."""
    endless_name = struct.pack("<2sBBLBB", b"\x1f\x8b", 8, 8, 0, 0, 3) + b"x" * (4 << 20)
    calls = 0

    def tick() -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise InvalidArchive("the archive takes too long to read")

    with pytest.raises(InvalidArchive, match="too long"):
        list(TarStream(io.BytesIO(endless_name), tick).members())
