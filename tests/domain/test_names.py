"""Names: one canonicaliser without a lenient mode, and patterns in their order."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.names import MAX_NAME_LENGTH, Name, PatternSet, parse_name, parse_pattern
from proxy.errors import InvalidName

ALPHABET = string.ascii_letters + string.digits + "-_."
spellings = st.text(ALPHABET, min_size=1, max_size=30).filter(
    lambda raw: raw[0].isalnum() and raw[-1].isalnum()
)
canonical = spellings.map(parse_name)
patterns = (
    st.text("ab-*", min_size=1, max_size=14)
    .filter(lambda raw: raw[0] != "-" and raw[-1] != "-")
    .map(parse_pattern)
)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Friendly-Bard", "friendly-bard"),
        ("friendly.bard", "friendly-bard"),
        ("friendly__bard", "friendly-bard"),
        ("FrIeNdLy-._.-bArD", "friendly-bard"),
        ("a", "a"),
        ("0", "0"),
        ("0-._.-._.-0", "0-0"),
    ],
)
def test_T_NAME1_every_spelling_has_one_name(raw: str, name: str) -> None:
    assert parse_name(raw) == name


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a_",
        "a b",
        " a",
        "a ",
        "a/b",
        "a\\b",
        "a\n",
        "a\r\n",
        "a%00",
        "a\0",
        "a;b",
        "a,b",
        "a%20b",
        "a%2eb",
        "a%2Fb",
        "..",
        "-",
        "a+b",
        "a*",
    ],
)
def test_T_NAME2_what_is_outside_the_grammar_is_refused(raw: str) -> None:
    with pytest.raises(InvalidName):
        parse_name(raw)


@pytest.mark.parametrize(
    "raw", ["\u00e9", "\u212aivy", "a\u017fs", "\uff41", "\u0131x", "\u0130x", "x\u0661", "a\u200bb"]
)
def test_T_NAME3_nothing_folds_into_ascii(raw: str) -> None:
    with pytest.raises(InvalidName):
        parse_name(raw)
    with pytest.raises(InvalidName):
        parse_pattern(raw)


@given(raw=st.text() | spellings | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_T_NAME4_a_name_is_refused_or_stays_the_same_however_often_it_is_parsed(raw: str) -> None:
    try:
        name = parse_name(raw)
    except InvalidName:
        return
    assert raw.isascii()
    assert parse_name(name) == name
    assert set(name) <= set(string.ascii_lowercase + string.digits + "-")
    assert "--" not in name
    assert parse_name(raw.upper()) == parse_name(raw.replace("-", "_.")) == name


def test_the_length_of_a_name_is_bounded() -> None:
    assert parse_name("a" * MAX_NAME_LENGTH)
    with pytest.raises(InvalidName):
        parse_name("a" * (MAX_NAME_LENGTH + 1))


@given(raw=st.text(min_size=1).filter(lambda raw: not raw.isascii()) | st.text("a\n\x1b-", min_size=100))
def test_a_refusal_is_one_short_line_of_ascii(raw: str) -> None:
    with pytest.raises(InvalidName) as caught:
        parse_name(raw + "-")
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("raw", "pattern"),
    [("*", "*"), ("Acme-*", "acme-*"), ("acme_.*", "acme-*"), ("*.Core", "*-core"), ("Widgets", "widgets")],
)
def test_patterns_are_normalised_as_names_are(raw: str, pattern: str) -> None:
    assert parse_pattern(raw) == pattern


@pytest.mark.parametrize(
    "raw", ["", "-*", "*-", "acme*\n", "acme *", "acme?", "[a]", "a" * (MAX_NAME_LENGTH + 1)]
)
def test_what_is_no_pattern_is_refused(raw: str) -> None:
    with pytest.raises(InvalidName):
        parse_pattern(raw)


@pytest.mark.parametrize(
    ("pattern", "covered", "others"),
    [
        ("acme-*", ["acme-sdk", "acme-a-b"], ["acme", "acmesdk", "xacme-sdk"]),
        ("*-core", ["acme-core", "a-b-core"], ["core", "acme-cores"]),
        ("a*c*e", ["ace", "abcde", "accee"], ["ac", "aec", "acex"]),
        ("**", ["a", "acme-sdk"], []),
        ("widgets", ["widgets"], ["widget", "widgets2", "my-widgets"]),
    ],
)
def test_a_pattern_covers_whole_names(pattern: str, covered: list[str], others: list[str]) -> None:
    matching = PatternSet.of([parse_pattern(pattern)])
    assert [matching.matches(Name(name)) for name in covered] == [[0]] * len(covered)
    assert [matching.matches(Name(name)) for name in others] == [[]] * len(others)


def test_every_pattern_that_covers_a_name_is_found_in_order() -> None:
    matching = PatternSet.of(["x", "*-sdk", "acme-*", "acme-sdk", "a*e*k", "*", "acme-sdk", "y"])
    assert matching.matches(Name("acme-sdk")) == [1, 2, 3, 4, 5, 6]
    assert matching.matches(Name("x")) == [0, 5]
    assert matching.matches(Name("y")) == [5, 7]


def test_an_empty_set_covers_nothing() -> None:
    assert PatternSet.of([]).matches(Name("a")) == []


def test_the_edges_of_a_glob_do_not_overlap() -> None:
    assert PatternSet.of(["aba*bab", "ab*ba*"]).matches(Name("abab")) == []
    assert PatternSet.of(["aba*bab", "ab*ba*"]).matches(Name("ababab")) == [0, 1]


def covers(pattern: str, name: str) -> bool:
    """What a pattern means, spelled out: a star stands for any run of characters."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(covers(pattern[1:], name[place:]) for place in range(len(name) + 1))
    return name[:1] == pattern[0] and covers(pattern[1:], name[1:])


@given(
    ordered=st.lists(patterns, max_size=6),
    name=st.text("ab-", min_size=1, max_size=12).filter(lambda n: n[0] != "-" != n[-1]),
)
def test_a_set_finds_what_a_scan_in_order_finds(ordered: list[str], name: str) -> None:
    normal = parse_name(name)
    expected = [place for place, pattern in enumerate(ordered) if covers(pattern, normal)]
    assert PatternSet.of(ordered).matches(normal) == expected


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*b", "*aa*aa*aa*aa*b*", "a*a*a*a*c"])
def test_a_long_name_cannot_make_a_glob_backtrack(pattern: str) -> None:
    """A regular expression of these would take years."""
    assert PatternSet.of([pattern]).matches(parse_name("a" * MAX_NAME_LENGTH)) == []


@given(name=canonical)
def test_a_name_is_its_own_pattern(name: Name) -> None:
    assert parse_pattern(name) == name
    assert PatternSet.of([name, "*"]).matches(name) == [0, 1]
