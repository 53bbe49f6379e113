"""Pages in one representation and coding: tagged apart, deterministic, made once."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Iterator
from itertools import product

import pytest

from proxy.domain.names import Name
from proxy.domain.negotiate import Representation
from proxy.domain.pages import FileRecord, Page
from proxy.domain.screen import Screened
from proxy.index import variants as module
from proxy.index.variants import StreamedVariant, Variants, encode


def page(count: int = 3, name: str = "gears") -> Screened:
    files = tuple(
        FileRecord(
            filename=f"{name}-{number}.0-py3-none-any.whl", sha256=f"{number:064x}", version=f"{number}.0"
        )
        for number in range(count)
    )
    return Screened(Page(Name(name), files, tuple(str(file.version) for file in files)))


async def test_every_representation_and_coding_has_a_tag_of_its_own() -> None:
    variants = Variants()
    made = [
        await variants.get(page(), "token", representation, gzip=coding)
        for representation, coding in product(Representation, (False, True))
    ]
    # The two names of HTML are the same bytes, and yet two answers.
    bodies = {variant.body for variant in made}
    tags = {variant.etag for variant in made}
    assert (len(tags), len(bodies)) == (6, 4)


async def test_the_packed_body_unpacks_to_the_plain_one() -> None:
    variants = Variants()
    plain = await variants.get(page(), "", Representation.JSON, gzip=False)
    packed = await variants.get(page(), "", Representation.JSON, gzip=True)
    assert not plain.is_gzip
    assert packed.is_gzip
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
    assert plain.etag != packed.etag


@pytest.mark.parametrize("coding", [False, True])
@pytest.mark.parametrize("count", [1, 3, 500])
async def test_equal_pages_give_equal_bytes_and_tags_in_any_process(coding: bool, count: int) -> None:
    first = await Variants().get(page(count), "one", Representation.HTML, gzip=coding)
    second = await Variants().get(page(count), "two", Representation.HTML, gzip=coding)
    assert first == second


async def test_another_page_has_another_tag() -> None:
    variants = Variants()
    first = await variants.get(page(3), "", Representation.JSON, gzip=True)
    second = await variants.get(page(4), "", Representation.JSON, gzip=True)
    assert first.etag != second.etag


@pytest.mark.parametrize("coding", [False, True])
def test_tags_are_strong_quoted_and_plain_ascii(coding: bool) -> None:
    tag = encode(b"x" * 5000, gzip=coding).etag
    assert tag[0] == tag[-1] == '"'
    assert tag[1:-1].isascii()
    assert not set(tag[1:-1]) & set('" ,\\')


def test_what_is_small_is_not_packed() -> None:
    small = encode(b"x" * 100, gzip=True)
    assert (small.body, small.is_gzip) == (b"x" * 100, False)
    assert small.etag == encode(b"x" * 100, gzip=False).etag


async def test_a_variant_is_kept_by_the_token_of_its_content() -> None:
    variants = Variants()
    first = await variants.get(page(), "token", Representation.JSON, gzip=True)
    assert await variants.get(page(), "token", Representation.JSON, gzip=True) is first
    assert await variants.get(page(), "other", Representation.JSON, gzip=True) is not first


async def test_what_has_no_token_is_made_anew() -> None:
    variants = Variants()
    first = await variants.get(page(1), "", Representation.JSON, gzip=False)
    second = await variants.get(page(2), "", Representation.JSON, gzip=False)
    assert first.body != second.body
    assert not variants._kept


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEEP", 10_000)
    variants = Variants()
    for number in range(100):
        await variants.get(page(5), f"token {number}", Representation.JSON, gzip=False)
    assert 0 < variants._kept.currsize <= 10_000
    huge = await variants.get(page(400), "huge", Representation.JSON, gzip=False)
    assert len(huge.body) > 10_000


def streamed(pieces: int, *, coding: bool) -> StreamedVariant:
    plain = (bytes([65 + number]) * 100_000 for number in range(pieces))
    return StreamedVariant('"tag"', coding, asyncio.Semaphore(1), plain)


@pytest.mark.parametrize("pieces", [0, 1, 20])
async def test_what_is_made_while_it_leaves_is_whole_and_packed_as_one(pieces: int) -> None:
    plain = b"".join([piece async for piece in streamed(pieces, coding=False).pieces()])
    packed = [piece async for piece in streamed(pieces, coding=True).pieces()]
    assert len(plain) == pieces * 100_000
    assert all(packed)
    inflater = zlib.decompressobj(wbits=31)
    assert inflater.decompress(b"".join(packed)) == plain
    assert (inflater.eof, inflater.unused_data) == (True, b"")


async def test_what_nobody_reads_on_is_not_made() -> None:
    made = []

    def plain() -> Iterator[bytes]:
        for number in range(100):
            made.append(number)
            yield b"x"

    pieces = StreamedVariant('"tag"', False, asyncio.Semaphore(1), plain()).pieces()
    assert [await anext(pieces) for _ in range(3)] == [b"x"] * 3
    assert len(made) == 3


async def test_two_lists_are_made_in_turn() -> None:
    turn = asyncio.Semaphore(1)
    busy = 0

    def plain() -> Iterator[bytes]:
        nonlocal busy
        for _ in range(20):
            busy += 1
            assert busy == 1
            time.sleep(0.001)
            busy -= 1
            yield b"x"

    async def whole() -> int:
        return len([piece async for piece in StreamedVariant('"tag"', False, turn, plain()).pieces()])

    assert await asyncio.gather(*(whole() for _ in range(4))) == [20, 20, 20, 20]
