"""What comes out of sound archives, and that everything else is `InvalidArchive`."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.archive.inspect import MAX_METADATA_SIZE, Inspected, inspect, inspect_file
from proxy.domain.filenames import parse_distribution
from proxy.domain.versions import parse_version
from proxy.errors import InvalidArchive, StorageError
from tests.archive.making import metadata, sdist, tarred, wheel, zipped

WHEEL = parse_distribution("widgets-1.0-py3-none-any.whl")
SDIST = parse_distribution("widgets-1.0.tar.gz")
ZIP_SDIST = parse_distribution("widgets-1.0.zip")


def of_wheel(content: bytes) -> Inspected:
    return inspect_file(io.BytesIO(content), WHEEL)


def of_sdist(content: bytes) -> Inspected:
    return inspect_file(io.BytesIO(content), SDIST)


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
    assert inspect_file(io.BytesIO(zipped(files)), ZIP_SDIST).metadata == metadata().encode()


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
        ("widgets", "", "no valid name and version"),
    ],
)
def test_T_UP1_metadata_of_another_name_or_version_are_refused(name: str, version: str, says: str) -> None:
    text = metadata(name, version)
    with pytest.raises(InvalidArchive, match=says):
        of_wheel(wheel(text))
    with pytest.raises(InvalidArchive, match=says):
        of_sdist(sdist(text))


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
    with pytest.raises(InvalidArchive, match=says):
        of_wheel(wheel(text))


def test_metadata_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(InvalidArchive, match="UTF-8"):
        of_wheel(wheel(metadata(summary="caf\u00e9").encode("latin-1")))


def test_fields_behind_the_header_say_nothing() -> None:
    text = metadata() + "Requires-Python: >=99\nName: other\n"
    assert of_wheel(wheel(text)).requires_python is None


def test_a_body_that_claims_to_be_nested_mime_is_not_followed() -> None:
    nested = "".join(f"--b{n}\nContent-Type: multipart/mixed; boundary=b{n + 1}\n\n" for n in range(3000))
    text = metadata(content_type="multipart/mixed; boundary=b0") + nested
    assert of_wheel(wheel(text)).name == "widgets"
    assert of_wheel(wheel(text.replace("\n\n", "\n"))).name == "widgets"


def test_two_dist_infos_are_refused() -> None:
    with pytest.raises(InvalidArchive, match=r"more than one \.dist-info"):
        of_wheel(wheel(more={"gadgets-2.0.dist-info/RECORD": ""}))


def test_vendored_dist_infos_further_down_do_not_count() -> None:
    assert of_wheel(wheel(more={"widgets/_vendor/gadgets-2.0.dist-info/METADATA": "x"})).name == "widgets"


@pytest.mark.parametrize("dist_info", ["gadgets-1.0.dist-info", "widgets-2.0.dist-info", "widgets.dist-info"])
def test_a_dist_info_of_something_else_is_refused(dist_info: str) -> None:
    with pytest.raises(InvalidArchive, match=r"does not belong to widgets 1\.0"):
        of_wheel(wheel(dist_info=dist_info))


def test_archives_without_metadata_are_refused() -> None:
    with pytest.raises(InvalidArchive, match=r"no \.dist-info"):
        of_wheel(zipped({"widgets.py": ""}))
    with pytest.raises(InvalidArchive, match="no METADATA"):
        of_wheel(zipped({"widgets-1.0.dist-info/RECORD": ""}))
    with pytest.raises(InvalidArchive, match="no PKG-INFO"):
        of_sdist(tarred({"widgets-1.0/setup.py": "", "widgets-1.0/a/PKG-INFO": metadata()}))
    with pytest.raises(InvalidArchive, match="no PKG-INFO"):
        inspect_file(io.BytesIO(zipped({"widgets-1.0/setup.py": ""})), ZIP_SDIST)


def test_metadata_are_capped_in_every_form() -> None:
    huge = metadata() + "x" * MAX_METADATA_SIZE
    top = "widgets-1.0"
    for filename, content in (
        ("widgets-1.0-py3-none-any.whl", wheel(huge)),
        ("widgets-1.0.zip", zipped({f"{top}/PKG-INFO": huge})),
        ("widgets-1.0.tar.gz", sdist(huge)),
    ):
        with pytest.raises(InvalidArchive, match="larger than 8 MiB"):
            inspect_file(io.BytesIO(content), parse_distribution(filename))


@pytest.mark.parametrize(
    "files",
    [
        {"widgets-1.0/setup.py": "", "other/PKG-INFO": metadata()},
        {"widgets-1.0/setup.py": "", "PKG-INFO": metadata()},
        {"PKG-INFO": metadata()},
    ],
)
def test_an_sdist_has_one_directory_at_its_top(files: dict[str, str]) -> None:
    with pytest.raises(InvalidArchive, match="exactly one directory"):
        of_sdist(tarred(files))
    with pytest.raises(InvalidArchive, match="exactly one directory"):
        inspect_file(io.BytesIO(zipped(files)), ZIP_SDIST)


@pytest.mark.parametrize(
    "filename", ["widgets-1.0-py3-none-any.whl", "widgets-1.0.tar.gz", "widgets-1.0.zip"]
)
def test_a_spent_budget_ends_the_reading(filename: str) -> None:
    distribution = parse_distribution(filename)
    content = sdist() if filename.endswith("gz") else zipped({"widgets-1.0/PKG-INFO": metadata()})
    with pytest.raises(InvalidArchive, match="longer to read than"):
        inspect_file(io.BytesIO(content), distribution, budget=timedelta(seconds=-1))


@pytest.mark.parametrize(
    "filename", ["widgets-1.0-py3-none-any.whl", "widgets-1.0.tar.gz", "widgets-1.0.zip"]
)
@given(
    content=st.binary(max_size=2000), magic=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08\0"])
)
def test_arbitrary_bytes_are_an_invalid_archive(filename: str, content: bytes, magic: bytes) -> None:
    with pytest.raises(InvalidArchive):
        inspect_file(io.BytesIO(magic + content), parse_distribution(filename))


SOUND = (
    ("widgets-1.0-py3-none-any.whl", wheel()),
    ("widgets-1.0.tar.gz", sdist()),
    ("widgets-1.0.zip", zipped({"widgets-1.0/setup.py": "", "widgets-1.0/PKG-INFO": metadata()})),
)


@pytest.mark.parametrize(("filename", "sound"), SOUND)
@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_archive_is_read_or_refused_and_nothing_else(
    filename: str, sound: bytes, data: st.DataObject
) -> None:
    content = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.binary(max_size=8))
        content[place : place + data.draw(st.integers(0, 8))] = change
    try:
        said = inspect_file(io.BytesIO(bytes(content)), parse_distribution(filename))
    except InvalidArchive:
        return
    assert (said.name, str(said.version)) == ("widgets", "1.0")


@pytest.mark.parametrize(("filename", "sound"), SOUND[::2])
def test_a_truncated_zip_is_refused_wherever_it_was_cut(filename: str, sound: bytes) -> None:
    distribution = parse_distribution(filename)
    for length in range(len(sound)):
        with pytest.raises(InvalidArchive):
            inspect_file(io.BytesIO(sound[:length]), distribution)


def test_a_truncated_sdist_is_refused_unless_its_metadata_came_before_the_cut() -> None:
    sound = sdist()
    for length in range(len(sound)):
        try:
            said = of_sdist(sound[:length])
        except InvalidArchive:
            continue
        assert said.metadata == metadata().encode()
    with pytest.raises(InvalidArchive, match="cut off"):
        of_sdist(sound[: len(sound) // 2])
