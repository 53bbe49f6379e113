"""What comes out of sound archives, and that everything else is `InvalidArchive`.

What is said of uploads is said of the whole of them; wheels of an upstream are read in part (`inspect_file`).
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.archive.inspect import BUDGET, MAX_METADATA_SIZE, Inspected, budget_for, inspect, inspect_file
from proxy.archive.tars import begins_as_tar
from proxy.domain.filenames import parse_distribution
from proxy.domain.versions import parse_version
from proxy.errors import InvalidArchive, StorageError
from tests.archive.making import (
    Entry,
    Files,
    forged,
    metadata,
    refusal,
    sdist,
    tarred,
    uploaded,
    wheel,
    zipped,
)

WHEEL = parse_distribution("widgets-1.0-py3-none-any.whl")
SDIST = parse_distribution("widgets-1.0.tar.gz")
ZIP_SDIST = parse_distribution("widgets-1.0.zip")
BUILT = Path(__file__).with_name("built")
"""One wheel and one sdist each of setuptools, hatchling, flit, poetry, pdm and uv, as released in November 2026."""


def of_wheel(content: bytes) -> Inspected:
    """The same from the whole as from its metadata alone."""
    said = uploaded(content, WHEEL.filename)
    assert said == inspect_file(io.BytesIO(content), WHEEL)
    return said


def of_sdist(content: bytes) -> Inspected:
    return uploaded(content, SDIST.filename)


def of_zip(files: Files) -> Inspected:
    return uploaded(zipped(files), ZIP_SDIST.filename)


def test_a_wheel_says_what_its_metadata_say(tmp_path: Path) -> None:
    text = metadata(
        requires_python=">=3.9,\n <4",
        summary="Small things",
        requires_dist='gadgets>=2; extra == "all"\nRequires-Dist: gears',
        description_content_type="text/markdown",
    )
    path = tmp_path / "anything"
    path.write_bytes(wheel(text))
    said = inspect(path, WHEEL)
    assert said.metadata == text.encode()
    assert (said.name, said.version, said.metadata_version) == ("widgets", parse_version("1.0"), "2.1")
    assert said.requires_python == ">=3.9, <4"
    assert said.requires_dist == ('gadgets>=2; extra == "all"', "gears")
    assert said.summary == "Small things"
    assert said.description_content_type == "text/markdown"
    assert said.final


@pytest.mark.parametrize("path", sorted(BUILT.glob("widgets_*")), ids=lambda path: path.name)
def test_what_build_backends_write_is_accepted(path: Path) -> None:
    distribution = parse_distribution(path.name)
    assert inspect(path, distribution).name == distribution.name


def test_there_are_wheels_and_sdists_of_six_backends() -> None:
    assert len(list(BUILT.glob("widgets_*.whl"))) == len(list(BUILT.glob("widgets_*.tar.gz"))) == 6


def test_what_is_not_said_is_none() -> None:
    said = of_wheel(wheel())
    assert (said.requires_python, said.requires_dist, said.summary) == (None, (), None)


def test_a_file_that_cannot_be_opened_is_the_storages_trouble(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        inspect(tmp_path / "absent", WHEEL)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("filename", "dist_info", "name", "version"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "Foo.Bar-1.0.dist-info", "Foo.Bar", "1.0"),
        ("foo_bar-1.0-py3-none-any.whl", "foo-bar-1.0.0.dist-info", "foo-bar", "1.0.0"),
        ("Foo.Bar-1.0-py3-none-any.whl", "foo_bar-1.0.dist-info", "foo_bar", "v1.0"),
        ("foo_bar-1.0+cu118-py3-none-any.whl", "foo_bar-1.0+cu118.dist-info", "foo_bar", "1.0+CU118"),
    ],
)
def test_spelling_makes_no_difference(filename: str, dist_info: str, name: str, version: str) -> None:
    content = wheel(metadata(name, version), dist_info)
    assert uploaded(content, filename).name == "foo-bar"
    assert inspect_file(io.BytesIO(content), parse_distribution(filename)).name == "foo-bar"


def test_sdists_are_read_at_their_top() -> None:
    said = of_sdist(sdist())
    assert said.name == "widgets"
    assert said.metadata == metadata().encode()


def test_sdists_may_be_zips() -> None:
    files = {
        "widgets-1.0/setup.py": "",
        "widgets-1.0/a.egg-info/PKG-INFO": "",
        "widgets-1.0/PKG-INFO": metadata(),
    }
    assert of_zip(files).metadata == metadata().encode()


@pytest.mark.parametrize(
    ("version", "dynamic", "final"),
    [
        ("2.1", "", False),
        ("2.2", "", True),
        ("2.10", "Classifier\nDynamic: license-file", True),
        ("2.2", "Summary\nDynamic: REQUIRES-dist", False),
        ("2.4", "Requires-Python", False),
        ("2.4", "Provides-Extra", False),
    ],
)
def test_metadata_of_an_sdist_are_final_as_pep_643_has_it(version: str, dynamic: str, final: bool) -> None:
    assert of_sdist(sdist(metadata(metadata_version=version, dynamic=dynamic))).final is final
    assert of_wheel(wheel(metadata(metadata_version=version, dynamic=dynamic))).final


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("gadgets", "2.0", "metadata says gadgets 2.0 but the filename says widgets 1.0"),
        ("widgets", "1.0.1", "metadata says widgets 1.0.1 but the filename says widgets 1.0"),
        ("w\u0131dgets", "1.0", "no valid name and version"),
        ("../widgets", "1.0", "no valid name and version"),
        ("widgets", "one", "no valid name and version"),
        ("already exists", "1.0", "no valid name and version"),
        ("widgets", "", "no valid name and version"),
    ],
)
def test_T_UP1_metadata_of_another_name_or_version_are_refused(name: str, version: str, says: str) -> None:
    text = metadata(name, version)
    assert says in refusal(of_wheel, wheel(text))
    assert says in refusal(of_sdist, sdist(text))
    with pytest.raises(InvalidArchive, match=says):
        inspect_file(io.BytesIO(wheel(text)), WHEEL)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (metadata(version="1.0\nVersion: 1.0"), "version more than once"),
        (metadata(name="widgets\nNAME: widgets"), "name more than once"),
        (metadata(metadata_version="3.0"), "Metadata-Version"),
        (metadata(metadata_version="2.\u0661"), "Metadata-Version"),
        ("\n" + metadata(), "Metadata-Version"),
        ("", "Metadata-Version"),
        (metadata(requires_python=">=3\x1b[2J"), "Requires-Python"),
        (metadata(requires_python=">=3" + ",!=3.1" * 60), "Requires-Python"),
        (metadata(summary="x" + "\n y" * 100_000), "lines of fields"),
    ],
)
def test_metadata_that_cannot_be_relied_on_are_refused(text: str, says: str) -> None:
    assert says in refusal(of_wheel, wheel(text))


def test_metadata_that_are_not_utf8_are_refused() -> None:
    assert "UTF-8" in refusal(of_wheel, wheel(metadata(summary="caf\u00e9").encode("latin-1")))


def test_fields_behind_the_header_say_nothing() -> None:
    text = metadata() + "Requires-Python: >=99\nName: other\n"
    assert of_wheel(wheel(text)).requires_python is None


def test_a_body_that_claims_to_be_nested_mime_is_not_followed() -> None:
    nested = "".join(f"--b{n}\nContent-Type: multipart/mixed; boundary=b{n + 1}\n\n" for n in range(3000))
    text = metadata(content_type="multipart/mixed; boundary=b0") + nested
    assert of_wheel(wheel(text)).name == "widgets"
    assert of_wheel(wheel(text.replace("\n\n", "\n"))).name == "widgets"


def test_two_dist_infos_are_refused() -> None:
    assert "more than one .dist-info" in refusal(of_wheel, wheel(more={"gadgets-2.0.dist-info/RECORD": ""}))


def test_vendored_dist_infos_further_down_do_not_count() -> None:
    assert of_wheel(wheel(more={"widgets/_vendor/gadgets-2.0.dist-info/METADATA": "x"})).name == "widgets"


@pytest.mark.parametrize("dist_info", ["gadgets-1.0.dist-info", "widgets-2.0.dist-info", "widgets.dist-info"])
def test_a_dist_info_of_something_else_is_refused(dist_info: str) -> None:
    assert "does not belong to widgets 1.0" in refusal(of_wheel, wheel(dist_info=dist_info))


@pytest.mark.parametrize("missing", ["METADATA", "WHEEL", "RECORD"])
def test_T_ARCH_a_wheel_without_what_it_needs_is_refused(missing: str) -> None:
    files = {f"widgets-1.0.dist-info/{name}": metadata() for name in ("METADATA", "WHEEL", "RECORD")}
    assert of_wheel(zipped(files)).name == "widgets"
    del files[f"widgets-1.0.dist-info/{missing}"]
    content = zipped(files | {f"widgets/{missing}": metadata()})
    assert f"no {missing}" in refusal(of_wheel, content)
    if missing != "METADATA":
        # Published elsewhere, it is for installers to judge.
        assert inspect_file(io.BytesIO(content), WHEEL).name == "widgets"


def test_T_ARCH_archives_without_metadata_are_refused() -> None:
    elsewhere = {"widgets-1.0/setup.py": "", "widgets-1.0/a/PKG-INFO": metadata()}
    assert "no .dist-info" in refusal(of_wheel, zipped({"widgets.py": ""}))
    assert "no PKG-INFO" in refusal(of_sdist, tarred(elsewhere))
    assert "no PKG-INFO" in refusal(of_zip, elsewhere)
    assert "no PKG-INFO" in refusal(of_sdist, tarred({}))


def test_T_ARCH_metadata_that_stand_twice_are_refused() -> None:
    """The last counts for whoever unpacks, the first for whoever stops there."""
    files = {"widgets-1.0/PKG-INFO": metadata(), "widgets-1.0/./PKG-INFO": metadata(version="2.0")}
    assert "PKG-INFO more than once" in refusal(of_sdist, tarred(files))
    assert "PKG-INFO' more than once" in refusal(of_zip, files)


def test_T_ARCH_metadata_that_are_no_file_are_refused() -> None:
    link = tarfile.TarInfo("widgets-1.0/PKG-INFO")
    link.type, link.linkname = tarfile.SYMTYPE, "other"
    assert "not a regular file" in refusal(of_sdist, tarred({"widgets-1.0/other": metadata()}, extra=(link,)))


def test_T_ARCH_what_comes_behind_the_metadata_counts() -> None:
    files: Files = {
        "widgets-1.0/PKG-INFO": metadata(),
        "widgets-1.0/noise": random.Random(1).randbytes(300_000),
    }
    sound = tarred(files)
    assert of_sdist(sound).name == "widgets"
    assert "decompressed" in refusal(of_sdist, sound[:-8] + bytes(4) + sound[-4:])
    assert "cut off" in refusal(of_sdist, sound[:-1000])
    assert "unsafe name" in refusal(of_sdist, tarred({**files, "widgets-1.0/../../x": ""}))
    assert "exactly one directory" in refusal(of_sdist, tarred({**files, "other/x": ""}))


def test_metadata_are_capped_in_every_form() -> None:
    huge = metadata() + "x" * MAX_METADATA_SIZE
    assert "larger than 8 MiB" in refusal(of_wheel, wheel(huge))
    assert "larger than 8 MiB" in refusal(inspect_file, io.BytesIO(wheel(huge)), WHEEL)
    assert "larger than 8 MiB" in refusal(of_zip, {"widgets-1.0/PKG-INFO": huge})
    assert "larger than 8 MiB" in refusal(of_sdist, sdist(huge))


@pytest.mark.parametrize(
    "files",
    [
        {"widgets-1.0/setup.py": "", "other/PKG-INFO": metadata()},
        {"widgets-1.0/setup.py": "", "PKG-INFO": metadata()},
        {"PKG-INFO": metadata()},
        {"./PKG-INFO": metadata()},
    ],
)
def test_T_ARCH_an_sdist_has_one_directory_at_its_top(files: dict[str, str]) -> None:
    assert "exactly one directory" in refusal(of_sdist, tarred(files))
    assert "exactly one directory" in refusal(of_zip, files)


def test_T_ARCH_a_zip_archive_that_is_a_tar_archive_too_is_refused() -> None:
    """Its first member holds what a tar header needs, at the places where it belongs."""
    content = bytearray(600)

    # The checksum stands at 148, behind a local header of 31 bytes, and covers that one with its own CRC of
    # the contents. So contents are looked for whose CRC gives the sum that they name.
    content[117:125] = b"%06o\0 " % 1500
    for nonce in range(20_000):
        struct.pack_into("<L", content, 590, nonce)
        first = Entry(b"a", content=bytes(content), method=0)
        if begins_as_tar(io.BytesIO(first.local_header() + first.data)):
            break
    rest = [
        Entry(f"widgets-1.0.dist-info/{name}".encode(), content=metadata().encode())
        for name in ("METADATA", "WHEEL", "RECORD")
    ]
    assert inspect_file(io.BytesIO(forged(first, *rest)), WHEEL).name == "widgets"
    assert "at once" in refusal(of_wheel, forged(first, *rest))


def test_T_ARCH_a_tar_archive_that_is_a_zip_archive_too_is_refused() -> None:
    """A zip archive that lies in it as it is, at the end: pip takes the whole for that."""
    inner = zipped({"setup.py": "print('other')"})
    outer = tarred({"widgets-1.0/PKG-INFO": metadata(), "widgets-1.0/data.zip": inner})
    assert of_sdist(outer).name == "widgets"
    assert "at once" in refusal(of_sdist, gzip.compress(gzip.decompress(outer), 0))


def test_T_ARCH_an_archive_of_another_kind_is_refused() -> None:
    refusal(of_wheel, sdist())
    refusal(of_sdist, wheel())
    refusal(of_sdist, zipped({"widgets-1.0/PKG-INFO": metadata()}))
    refusal(uploaded, sdist(), ZIP_SDIST.filename)


@pytest.mark.parametrize("filename", [WHEEL.filename, SDIST.filename, ZIP_SDIST.filename])
def test_a_spent_budget_ends_the_reading(filename: str) -> None:
    content = sdist() if filename.endswith("gz") else zipped({"widgets-1.0/PKG-INFO": metadata()})
    assert "too long to read" in refusal(uploaded, content, filename, timedelta(seconds=-1))


def test_the_budget_of_a_part_is_spent_as_well() -> None:
    with pytest.raises(InvalidArchive, match="too long to read"):
        inspect_file(io.BytesIO(wheel()), WHEEL, budget=timedelta(seconds=-1))


def test_larger_archives_may_take_longer() -> None:
    assert budget_for(0) == BUDGET
    assert timedelta(minutes=5) < budget_for(5 << 30) < timedelta(minutes=10)


@pytest.mark.parametrize("filename", [WHEEL.filename, SDIST.filename, ZIP_SDIST.filename])
@given(
    content=st.binary(max_size=2000), magic=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08\0"])
)
def test_arbitrary_bytes_are_an_invalid_archive(filename: str, content: bytes, magic: bytes) -> None:
    refusal(uploaded, magic + content, filename)


SOUND = (
    (WHEEL.filename, wheel()),
    (SDIST.filename, gzip.decompress(sdist())),
    (ZIP_SDIST.filename, zipped({"widgets-1.0/setup.py": "", "widgets-1.0/PKG-INFO": metadata()})),
)


def as_others_read(content: bytes, filename: str) -> bytes:
    """The metadata as the standard library finds them."""
    if filename.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            member = archive.extractfile("widgets-1.0/PKG-INFO")
            assert member is not None
            return member.read()
    path = "widgets-1.0/PKG-INFO" if filename.endswith(".zip") else "widgets-1.0.dist-info/METADATA"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(path)


@pytest.mark.parametrize(("filename", "sound"), SOUND)
@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_archive_is_refused_or_read_as_others_read_it(
    filename: str, sound: bytes, data: st.DataObject
) -> None:
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.binary(max_size=8))
        content[place : place + data.draw(st.integers(0, 8))] = change
    packed = gzip.compress(content, 1) if filename.endswith(".tar.gz") else bytes(content)
    try:
        said = uploaded(packed, filename)
    except InvalidArchive:
        return
    assert (said.name, str(said.version)) == ("widgets", "1.0")
    assert said.metadata == as_others_read(packed, filename)


@pytest.mark.parametrize("filename", [WHEEL.filename, SDIST.filename, ZIP_SDIST.filename])
def test_T_ARCH_a_truncated_archive_is_refused_wherever_it_was_cut(filename: str) -> None:
    sound = sdist() if filename.endswith(".tar.gz") else dict(SOUND)[filename]
    assert uploaded(sound, filename).name == "widgets"
    for length in range(len(sound)):
        refusal(uploaded, sound[:length], filename)


def test_a_part_of_a_truncated_wheel_is_refused_wherever_it_was_cut() -> None:
    sound = wheel()
    for length in range(len(sound)):
        refusal(inspect_file, io.BytesIO(sound[:length]), WHEEL)
