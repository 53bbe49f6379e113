"""Names in order in two buffers: found, cut into pieces, gone through side by side."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain import sorted_names
from proxy.domain.names import Name
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
