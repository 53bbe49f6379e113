"""Gzipped tar archives: every dialect that build tools write, and those that are meant to hurt."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zlib

import pytest

from proxy.archive.tars import TarMember, TarStream
from proxy.errors import InvalidArchive
from tests.archive.making import tarred

LONG = "widgets-1.0/" + "/".join(["directory"] * 30) + "/file.py"
DIALECTS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)


def patient() -> None:
    """Time is never up."""


def names(content: bytes) -> list[bytes]:
    return [member.name for member in TarStream(io.BytesIO(content), patient).members()]


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
    members = list(TarStream(io.BytesIO(content), patient).members())
    assert members == [
        TarMember(b"", 0, is_file=False, is_directory=True),
        TarMember(b"w", 0, is_file=False, is_directory=True),
        TarMember(b"w/x", 0, is_file=True, is_directory=False),
    ]


def test_links_are_neither_files_nor_directories() -> None:
    content = tarred({}, extra=(info("w/a", tarfile.SYMTYPE, "b"), info("w/b", tarfile.LNKTYPE, "w/c")))
    assert [(m.is_file, m.is_directory) for m in TarStream(io.BytesIO(content), patient).members()] == [
        (False, False)
    ] * 2


def test_a_global_header_of_git_is_passed_over() -> None:
    target = io.BytesIO()
    with tarfile.open(
        fileobj=target, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c0ffee"}
    ) as archive:
        archive.addfile(info("w/a"))
    assert names(target.getvalue()) == [b"w/a"]


def test_a_global_header_with_a_path_is_refused() -> None:
    target = io.BytesIO()
    with tarfile.open(
        fileobj=target, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"path": "w/PKG-INFO"}
    ) as archive:
        archive.addfile(info("w/a"))
    with pytest.raises(InvalidArchive, match="global header"):
        names(target.getvalue())


def test_a_size_in_a_pax_header_counts() -> None:
    pax = info("pax", b"x")
    pax.size = 10
    member = info("w/a")
    block = b"10 size=3\n".ljust(512, b"\0")
    content = tar_of(pax.tobuf(), block, member.tobuf(), b"abc".ljust(512, b"\0"))
    assert contents(content) == {b"w/a": b"abc"}


def test_numbers_in_binary_form_are_read() -> None:
    header = bytearray(info("w/a").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\x80" + (3).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    assert contents(tar_of(bytes(header), b"abc".ljust(512, b"\0"))) == {b"w/a": b"abc"}


def test_joined_gzip_members_are_one_stream() -> None:
    plain = gzip.decompress(tarred({"w/a": "hello", "w/b": "again"}))
    joined = b"".join(gzip.compress(plain[place : place + 700]) for place in range(0, len(plain), 700))
    assert contents(joined) == {b"w/a": b"hello", b"w/b": b"again"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "w/../../x", "w/.."])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArchive, match="unsafe name"):
        names(tarred({name: ""}))


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(kind: bytes) -> None:
    with pytest.raises(InvalidArchive, match="device"):
        names(tarred({}, extra=(info("w/a", kind),)))


def test_sparse_files_are_refused() -> None:
    with pytest.raises(InvalidArchive, match="sparse"):
        names(tarred({}, extra=(info("w/a", tarfile.GNUTYPE_SPARSE),)))
    with pytest.raises(InvalidArchive, match="sparse"):
        names(tarred({}, extra=(info("w/a", pax={"GNU.sparse.map": "0,1"}),)))


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
    with pytest.raises(InvalidArchive, match="pax header"):
        names(tar_of(pax.tobuf(), record.ljust(512, b"\0"), info("w/a").tobuf()))


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


def test_a_wrong_checksum_is_refused() -> None:
    header = bytearray(info("w/a").tobuf())
    header[0] ^= 1
    with pytest.raises(InvalidArchive, match="checksum"):
        names(tar_of(bytes(header)))


def test_what_is_not_gzip_or_ends_early_is_refused() -> None:
    sound = tarred({"w/a": "x" * 5000})
    for bad in (b"", b"PK\3\4" + bytes(100), gzip.decompress(sound), sound[:-20], gzip.compress(b"")):
        with pytest.raises(InvalidArchive):
            names(bad)


def test_a_bomb_is_refused_by_its_ratio_and_takes_little_memory() -> None:
    member = info("w/a")
    member.size = 1 << 30
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    bomb = compressor.compress(member.tobuf()) + b"".join(compressor.compress(block) for _ in range(200))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArchive, match="far more than it should"):
            names(bomb + compressor.flush())
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_time_is_looked_at_while_nothing_comes_out() -> None:
    """A gzip header without end, and empty gzip members without end, decode to nothing."""
    endless_name = struct.pack("<2sBBLBB", b"\x1f\x8b", 8, 8, 0, 0, 3) + b"x" * (4 << 20)
    for content in (endless_name, gzip.compress(b"") * 20_000):
        calls = 0

        def tick() -> None:
            nonlocal calls
            calls += 1

        with pytest.raises(InvalidArchive, match="cut off"):
            list(TarStream(io.BytesIO(content), tick).members())
        assert calls > 50
