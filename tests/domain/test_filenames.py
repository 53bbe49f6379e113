"""Filenames: strict for uploads, forgiving for old pages, and never a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.filenames import (
    MAX_CANDIDATES,
    Kind,
    Usual,
    candidate_names,
    file_type,
    is_safe_filename,
    parse_distribution,
    version_of,
)
from proxy.domain.names import Name, parse_name
from proxy.errors import InvalidFilename

anything = st.text() | st.text("abZ019-._+!~@/\\ %\n\0\u212a", max_size=40)
endings = st.sampled_from([".whl", ".tar.gz", ".zip", ".egg", ".exe", "-py3-none-any.whl", "", ".metadata"])
filenames = st.builds(lambda stem, ending: stem + ending, anything, endings)


@pytest.mark.parametrize(
    ("filename", "name", "version"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "foo-bar", "1.0"),
        ("foo_bar-1.0.tar.gz", "foo-bar", "1.0"),
        ("Foo.Bar-1.0-py3-none-any.whl", "foo-bar", "1.0"),
        ("Foo-Bar-1.0.tar.gz", "foo-bar", "1.0"),
        ("foo-bar-1.0.zip", "foo-bar", "1.0"),
        ("foo-01.0-py3-none-any.whl", "foo", "1.0"),
        ("foo-1.0+cu118-py3-none-any.whl", "foo", "1.0+cu118"),
        ("foo-1!1.0rc1.tar.gz", "foo", "1!1.0rc1"),
        ("foo-1-2.tar.gz", "foo-1", "2"),
    ],
)
def test_uploads_are_read_in_the_usual_and_the_older_spellings(
    filename: str, name: str, version: str
) -> None:
    for found in (parse_distribution(filename), parse_distribution(filename, parse_name(name))):
        assert (found.filename, found.name, str(found.version)) == (filename, name, version)
        assert found.kind is (Kind.WHEEL if filename.endswith(".whl") else Kind.SDIST)


def test_tags_are_expanded_and_the_build_tag_is_normalised() -> None:
    found = parse_distribution("foo-1.0-01a-py2.py3-none-any.whl")
    assert found.tags == {"py2-none-any", "py3-none-any"}
    assert found.build == "1a"
    assert parse_distribution("foo-1.0.tar.gz").tags == frozenset()


@pytest.mark.parametrize(
    "filename",
    [
        "foo__bar-1.0-py3-none-any.whl",
        "foo-bar-1.0-py3-none-any.whl",
        "foo-1.0-py3-none-any.WHL",
        "foo-1.0.TAR.GZ",
        "foo-1.0.tar.bz2",
        "foo-1.0-py2.7.egg",
        "foo-1.0-py3-none.whl",
        "foo-one-py3-none-any.whl",
        "foo-1.0-build-py3-none-any.whl",
        "_foo-1.0-py3-none-any.whl",
        "foo_-1.0.tar.gz",
        "-1.0.tar.gz",
        "1.0.tar.gz",
        ".tar.gz",
        ".foo-1.0.tar.gz",
        "foo-one.tar.gz",
        "foo-.zip",
        "",
        "foo-1.0.tar.gz.metadata",
    ],
)
def test_anything_else_is_refused(filename: str) -> None:
    with pytest.raises(InvalidFilename):
        parse_distribution(filename)


@pytest.mark.parametrize(
    "filename",
    [
        "../foo-1.0.tar.gz",
        "/foo-1.0.tar.gz",
        "C:\\foo-1.0.tar.gz",
        "a%2f..-1.0.zip",
        "foo-1.0.tar.gz\n",
        "foo-1.0\0.tar.gz",
        "foo 1-1.0.tar.gz",
        "\u212aivy-1.0-py3-none-any.whl",
        "\u212aivy-1.0.tar.gz",
        "foo-1.0po\u017ft1.tar.gz",
    ],
)
def test_T_UP3_paths_and_strange_characters_are_refused_everywhere(filename: str) -> None:
    with pytest.raises(InvalidFilename) as caught:
        parse_distribution(filename)
    assert caught.value.message.isascii()
    assert "\n" not in caught.value.message
    assert not is_safe_filename(filename)
    assert candidate_names(filename) == ()


def test_T_UP2_an_sdist_belongs_to_one_name_whatever_the_form_says() -> None:
    with pytest.raises(InvalidFilename, match="belongs to foo-bar, not to foo"):
        parse_distribution("foo-bar-1.0.tar.gz", Name("foo"))
    # As version "1-2", which is 1.post2, it would fit as well; one reading must hold for all.
    with pytest.raises(InvalidFilename, match="belongs to foo-1, not to foo"):
        parse_distribution("foo-1-2.tar.gz", Name("foo"))


def test_T_UP1_a_wheel_of_another_project_is_refused() -> None:
    with pytest.raises(InvalidFilename, match="belongs to other, not to mine"):
        parse_distribution("other-1.0-py3-none-any.whl", Name("mine"))


def test_the_length_of_a_filename_is_bounded() -> None:
    assert parse_distribution("a" * 244 + "-1.0.tar.gz")
    with pytest.raises(InvalidFilename, match="longer than 255"):
        parse_distribution("a" * 245 + "-1.0.tar.gz")


def test_tags_that_multiply_out_are_refused() -> None:
    many = ".".join(f"p{n}" for n in range(10))
    assert len(parse_distribution(f"a-1-{many}-{many}-{many}.whl").tags) == 1000
    with pytest.raises(InvalidFilename, match="compatibility tags"):
        parse_distribution(f"a-1-{many}-{many}-{many}.z.whl")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "Foo.Bar-1.0.0-PY3-none-any.whl"),
        ("foo-1.0-py2.py3-none-any.whl", "foo-1.0-py3.py2-none-any.whl"),
        ("foo-1.0-1a-py3-none-any.whl", "foo-1.0-01a-py3-none-any.whl"),
        ("foo_bar-1.0.tar.gz", "foo-bar-v1.0.zip"),
    ],
)
def test_duplicates_have_one_identity_however_spelled(one: str, other: str) -> None:
    assert parse_distribution(one).identity == parse_distribution(other).identity


def test_files_that_differ_in_more_than_spelling_have_different_identities() -> None:
    identities = [
        parse_distribution(filename).identity
        for filename in (
            "foo-1.0.tar.gz",
            "foo-1.1.tar.gz",
            "foo-1.0+a.tar.gz",
            "bar-1.0.tar.gz",
            "foo-1.0-py3-none-any.whl",
            "foo-1.0-1-py3-none-any.whl",
            "foo-1.0-2-py3-none-any.whl",
            "foo-1.0-py2-none-any.whl",
            "foo-1.0-py2.py3-none-any.whl",
            "foo-1.0-py3-none-linux_x86_64.whl",
            "foo-1.0-py3-abi3-linux_x86_64.whl",
        )
    ]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("filename", "names"),
    [
        ("foo_bar-1.0-py3-none-any.whl", ["foo-bar"]),
        ("foo_bar-not.a.version-py3-none-any.whl", ["foo-bar"]),
        ("foo-bar-1.0.tar.gz", ["foo-bar", "foo"]),
        ("foo-1-2.zip", ["foo-1", "foo"]),
        ("Foo-1.0-py2.7.egg", ["foo-1-0", "foo"]),
        ("foo-1.0.win32-py2.5.exe", ["foo-1-0-win32", "foo"]),
        ("foo-1.0-1.noarch.rpm", ["foo-1-0", "foo"]),
        ("foo-1.0.tar.Z", ["foo"]),
        ("foo--1.0.tar.bz2", ["foo"]),
        ("foo.tar.gz", []),
        ("foo.whl", []),
        ("-1.0.tar.gz", []),
        ("foo-1.0.txt", []),
        ("foo-1.0.tar.gz.metadata", []),
        ("", []),
    ],
)
def test_candidates_are_every_name_the_file_may_belong_to_longest_first(
    filename: str, names: list[str]
) -> None:
    assert list(candidate_names(filename)) == names


def test_a_made_up_filename_sets_few_questions_going() -> None:
    assert len(candidate_names("a-" * 120 + "1.tar.gz")) == MAX_CANDIDATES


@given(filename=filenames)
def test_candidates_are_valid_names_for_any_text(filename: str) -> None:
    for name in candidate_names(filename):
        assert parse_name(name) == name
        assert is_safe_filename(filename)


@given(filename=filenames)
def test_what_may_be_uploaded_is_found_again_under_its_name(filename: str) -> None:
    try:
        found = parse_distribution(filename)
    except InvalidFilename:
        return
    assert found.name in candidate_names(filename)
    assert version_of(filename, found.name)


@pytest.mark.parametrize(
    ("filename", "name", "version"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "foo-bar", "1.0"),
        ("foo-1.0+cu118-1-py3-none-any.whl", "foo", "1.0+cu118"),
        ("foo-1.0_1-py3-none-any.whl", "foo", "1.0-1"),
        ("foo-1.0+a_1-py3-none-any.whl", "foo", "1.0+a-1"),
        ("Foo.Bar-1.0.tar.gz", "foo-bar", "1.0"),
        ("foo-bar-1.0.zip", "foo-bar", "1.0"),
        ("foo-bar-1.0.zip", "foo", "bar-1.0"),
        ("foo--bar-1.0.zip", "foo-bar", "1.0"),
        ("foo-1.0-2.tar.gz", "foo", "1.0-2"),
        ("foo-2004d.tar.bz2", "foo", "2004d"),
        ("foo-1.0-py2.7-win32.egg", "foo", "1.0"),
        ("foo-1.0.win32-py2.5.exe", "foo", "1.0"),
        ("foo-1.0.win-amd64.msi", "foo", "1.0"),
        ("foo-1.0.linux-x86_64.tar.gz", "foo", "1.0"),
        ("foo-1.0.macosx-10.9-x86_64.tar.gz", "foo", "1.0"),
        ("foo-1.0+local.win.tar.gz", "foo", "1.0+local.win"),
        ("foo-1.0-1.noarch.rpm", "foo", "1.0"),
        ("python-foo_1.0-1_all.deb", "foo", None),
        ("bar-1.0.tar.gz", "foo", None),
        ("bar-1.0-py3-none-any.whl", "foo", None),
        ("foo.tar.gz", "foo", None),
        ("foo-.tar.gz", "foo", None),
        ("foo-1.0.txt", "foo", None),
    ],
)
def test_versions_follow_from_the_filename_as_far_as_they_do(
    filename: str, name: str, version: str | None
) -> None:
    assert version_of(filename, Name(name)) == version


@given(filename=filenames, name=st.sampled_from(["a", "foo", "a-b", "0"]))
def test_version_of_answers_for_any_text(filename: str, name: str) -> None:
    version = version_of(filename, Name(name))
    assert version is None or version.replace("-", "_") in filename.replace("-", "_")


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "1.0"),
        ("foo-bar-1.0.post1.tar.gz", "1.0.post1"),
        ("foo.bar-1.0rc1.tar.gz", "1.0rc1"),
        ("foo-bar-1.0-py3-none-any.whl", None),
        ("foo_bar-1.0.win32.tar.gz", None),
        ("foo_bar_more-1.0.tar.gz", None),
    ],
)
def test_usual_filenames_are_told_at_sight(filename: str, version: str | None) -> None:
    assert Usual(Name("foo-bar")).version_of(filename) == version


spelt = st.lists(
    st.sampled_from(
        [*"a1-_.+!", "foo", "FOO", "bar", "-", ".", "1.0", "-2", "rc1", ".post1", ".linux", "win32", "py3"]
    ),
    max_size=9,
).map("".join)


@given(
    start=st.sampled_from(["foo-bar-1.0", "foo_bar-2", "foo.bar-1", "a-1", ""]),
    rest=spelt,
    ending=st.sampled_from(
        [".whl", ".tar.gz", "-py3-none-any.whl", ".zip", ".tar.gz.whl", "\n", "x" * 250 + ".tar.gz"]
    ),
    name=st.sampled_from(["a", "foo", "foo-bar"]),
)
def test_what_is_told_at_sight_is_what_a_close_look_tells(
    start: str, rest: str, ending: str, name: str
) -> None:
    filename = start + rest + ending
    version = Usual(Name(name)).version_of(filename)
    if version is not None:
        assert name in candidate_names(filename)
        assert version == version_of(filename, Name(name))


@pytest.mark.parametrize("filename", ["foo-1.0.tar.gz", "a", "_foo-1.0.zip", "foo-1!2~3@4+5.egg", "x" * 255])
def test_safe_filenames_may_stand_in_a_page(filename: str) -> None:
    assert is_safe_filename(filename)


@pytest.mark.parametrize(
    "filename",
    [
        "",
        ".",
        "..",
        ".foo",
        "-foo",
        "+foo",
        "a/b",
        "a\\b",
        "a b",
        "a%b",
        "a#b",
        "a?b",
        "a\n",
        "x" * 256,
        "foo-1.0-py3-none-any.whl.metadata",
        "foo-1.0.tar.gz.provenance",
        "\u00e9.zip",
        "<a>.zip",
        'a".zip',
        "a&b.zip",
    ],
)
def test_others_may_not(filename: str) -> None:
    assert not is_safe_filename(filename)


@pytest.mark.parametrize(
    ("filename", "kind"),
    [
        ("foo-1.0-py3-none-any.whl", "wheel"),
        ("foo-1.0.tar.gz", "sdist"),
        ("foo-1.0.zip", "sdist"),
        ("foo-1.0.tar.bz2", "other"),
        ("foo-1.0.tgz", "other"),
        ("foo-1.0-py2.7.egg", "other"),
        ("foo-1.0.win32.exe", "other"),
        ("foo", "other"),
    ],
)
def test_every_filename_is_of_a_type_that_policies_speak_of(filename: str, kind: str) -> None:
    assert file_type(filename) == kind
