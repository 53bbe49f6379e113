"""Versions: what is one, and when two are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from proxy.domain.versions import (
    MAX_VERSION_LENGTH,
    is_admitted,
    is_denied,
    is_same,
    known_version,
    parse_specifier,
    parse_version,
    public_key,
    version_key,
)
from proxy.errors import InvalidInput, InvalidVersion

number = st.integers(0, 3).map(str) | st.sampled_from(["00", "01", "10"])
spelling = st.builds(
    lambda v, epoch, release, pre, post, dev, local: v + epoch + ".".join(release) + pre + post + dev + local,
    st.sampled_from(["", "v", "V"]),
    st.sampled_from(["", "0!", "1!"]),
    st.lists(number, min_size=1, max_size=4),
    st.sampled_from(["", "a0", "a", ".alpha.0", "RC1", "-c1", "b00"]),
    st.sampled_from(["", ".post0", "-0", "r", ".post1", "-1"]),
    st.sampled_from(["", ".dev0", "dev", "_DEV1"]),
    st.sampled_from(["", "+a", "+A", "+a.1", "+a-01", "+1.0", "+1"]),
)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("1.0", "1.0"),
        ("v1.0", "1.0"),
        ("1.0-1", "1.0.post1"),
        ("2!1.0RC1", "2!1.0rc1"),
        ("1.0+CU118", "1.0+cu118"),
        ("01.002", "1.2"),
    ],
)
def test_versions_are_read_in_every_spelling_of_pep_440(raw: str, text: str) -> None:
    assert str(parse_version(raw)) == text


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "one",
        "1.0\n",
        " 1.0",
        "1.0\x1c",
        "1.0 ",
        "1..0",
        "1.0/2",
        "\u0661.0",
        "1.0\u00e9",
        "1.0po\u017ft1",
        "1.0\0",
    ],
)
def test_anything_else_is_refused(raw: str) -> None:
    with pytest.raises(InvalidVersion):
        parse_version(raw)


def test_the_refusal_quotes_the_version_in_ascii_and_cut() -> None:
    with pytest.raises(InvalidVersion, match=r"'1\.0\\xe9\\n' is not a valid version"):
        parse_version("1.0\u00e9\n")
    with pytest.raises(InvalidVersion) as caught:
        parse_version("1" * 10_000)
    assert len(caught.value.message) < 150


def test_versions_up_to_the_limit_are_read() -> None:
    assert parse_version("1" * MAX_VERSION_LENGTH)
    with pytest.raises(InvalidVersion):
        parse_version("1" * (MAX_VERSION_LENGTH + 1))


@pytest.mark.parametrize(
    ("version", "key"),
    [
        ("1.0.0", "1"),
        ("0.0", "0"),
        ("10.0", "10"),
        ("0!1.0", "1"),
        ("1!1.0", "1!1"),
        ("1.0a0", "1a0"),
        ("1.0.post0", "1.post0"),
        ("1.0.dev0", "1.dev0"),
        ("1.0+1.0", "1+1.0"),
    ],
)
def test_keys_drop_what_does_not_distinguish(version: str, key: str) -> None:
    assert version_key(Version(version)) == key


@given(first=spelling, second=spelling)
def test_versions_share_a_key_exactly_when_they_are_equal(first: str, second: str) -> None:
    one, other = parse_version(first), parse_version(second)
    assert (version_key(one) == version_key(other)) is (one == other)
    assert parse_version(version_key(one)) == one


@given(raw=st.text() | st.text("019.!+-_abrcpostdevv \n\t"))
def test_any_text_is_a_version_or_refused(raw: str) -> None:
    try:
        version = parse_version(raw)
    except InvalidVersion:
        return
    assert raw.isascii()
    assert raw.strip() == raw
    assert str(version).isascii()


def test_a_public_key_leaves_the_local_part_out() -> None:
    assert [public_key(Version(text)) for text in ("1.0+acme.1", "1.0", "1.0rc1+acme")] == ["1", "1", "1rc1"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.0", "v1", True),
        ("1.0", "1.0+acme", False),
        ("2004-x", "2004-x", True),
        ("2004-x", "2004-X", False),
    ],
)
def test_texts_spell_the_same_version_or_are_the_same(one: str, other: str, same: bool) -> None:
    assert is_same(one, other) is same


@pytest.mark.parametrize(
    ("specifier", "version", "admitted", "denied"),
    [
        ("==1.0", "1.0.0", True, True),
        ("==1.0", "1.1", False, False),
        ("==1.0", "1.0+evil", False, True),
        ("==1.*", "1.0+evil", False, True),
        ("==1.0+acme", "1.0+acme", True, True),
        ("==1.0+acme", "1.0", False, False),
        ("!=1.0", "1.0", False, False),
        ("!=1.0", "1.0+evil", False, True),
        ("!=1.0,<1.1", "1.0+evil", False, True),
        ("!=1.0,<0.9", "1.0+evil", False, False),
        (">=4.2,<6", "5.0rc1", True, True),
        (">=4.2,<6", "6.0rc1", False, False),
        ("<2", "2.0.dev1", False, False),
        ("<=2", "2.0.dev1", True, True),
        (">=1", "1.0+acme", True, True),
        (">=0", "2004-snapshot", False, True),
        (None, "2004-snapshot", True, True),
        (None, "1.0", True, True),
    ],
)
def test_a_specifier_covers_pre_releases_and_what_is_unsure_in_denials_alone(
    specifier: str | None, version: str, admitted: bool, denied: bool
) -> None:
    said = None if specifier is None else parse_specifier(specifier)
    assert is_admitted(said, known_version(version)) is admitted
    assert is_denied(said, known_version(version)) is denied


@pytest.mark.parametrize("raw", ["4.2", ">=4.2;", ">=\u0664", "==1.0 or ==2.0", ">=1" * 200])
def test_what_is_no_specifier_is_refused(raw: str) -> None:
    with pytest.raises(InvalidInput, match="is not a version specifier"):
        parse_specifier(raw)
