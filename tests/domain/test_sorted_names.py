"""Names in order in two buffers: found, cut into pieces, gone through side by side."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import sorted_names
from proxy.domain.names import Name, look_alike_key
from proxy.domain.sorted_names import SortedNames, lines, together

NAMES = st.sets(st.from_regex(r"[a-c0-1]([a-c0-1-]{0,3}[a-c0-1])?", fullmatch=True), max_size=40)


def packed(names: set[str]) -> SortedNames:
    return SortedNames.of(map(Name, sorted(names)))


@given(NAMES, NAMES)
def test_a_name_is_found_where_it_is_one_and_has_its_place_where_it_is_not(
    names: set[str], others: set[str]
) -> None:
    listed, kept = packed(names), sorted(names)
    assert [listed[position] for position in range(len(listed))] == kept
    for name in map(Name, names | others):
        assert (name in listed) == (name in names)
        assert listed.position(name) == sum(each < name for each in kept)


@given(NAMES)
def test_text_has_the_names_of_a_span(names: set[str]) -> None:
    listed = packed(names)
    for begin in range(len(names) + 1):
        for end in range(begin, len(names) + 1):
            assert lines(listed.text(begin, end)) == sorted(names)[begin:end]


@given(NAMES, st.text("abc01-", max_size=3))
def test_names_that_begin_alike_stand_together(names: set[str], first: str) -> None:
    listed = packed(names)
    found = [listed[position] for position in listed.beginning(first)]
    assert found == sorted(name for name in names if name.startswith(first))


ALIKE = st.sets(st.from_regex(r"[1loi0a]([1loi0a-]{0,3}[1loi0a])?", fullmatch=True), max_size=40)


@pytest.mark.parametrize("piece", [1, 3, 1000])
@given(names=ALIKE, wanted=ALIKE)
def test_T_HOMO_names_that_look_alike_are_found_whatever_piece_they_stand_in(
    piece: int, names: set[str], wanted: set[str]
) -> None:
    keys = {look_alike_key(Name(name)) for name in wanted}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "PIECE", piece)
        found = list(packed(names).alike(keys))
    assert found == [name for name in sorted(names) if look_alike_key(Name(name)) in keys]


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        ("zope-interface", "zopeinterface", True),
        ("fool-io", "f00l1o", True),
        ("pillow", "pi11ow", True),
        ("pillow", "pillows", False),
        ("modern", "modem", False),
    ],
)
def test_T_HOMO_the_look_alike_key_is_that_of_pypi(one: str, other: str, are_alike: bool) -> None:
    assert (look_alike_key(Name(one)) == look_alike_key(Name(other))) == are_alike


def test_equal_names_have_equal_digests_and_others_another() -> None:
    assert packed({"a", "b"}).digest == packed({"b", "a"}).digest
    assert len({packed(names).digest for names in (set(), {"a"}, {"b"}, {"a", "b"}, {"ab"})}) == 5


@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
@given(sources=st.lists(NAMES, max_size=4))
def test_lists_side_by_side_come_whole_in_order_and_in_small_pieces(
    piece: int, sources: list[set[str]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_names, "PIECE", piece)
        rounds = [tuple(map(lines, texts)) for texts in together([packed(names) for names in sources])]
    for position, names in enumerate(sources):
        assert [name for texts in rounds for name in texts[position]] == sorted(names)
    assert all(len(names) <= piece for texts in rounds for names in texts)
    for before, after in pairwise([set().union(*texts) for texts in rounds]):
        assert before
        assert max(before) < min(after)
