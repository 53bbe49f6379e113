"""Pages in one representation and coding: tagged apart, deterministic, made once, and at rest on disk."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.cache.variants import VariantFiles
from proxy.domain.access import sight
from proxy.domain.decision import Asked, Decision, Word
from proxy.domain.names import Name
from proxy.domain.negotiate import Coding, Representation
from proxy.domain.pages import FileRecord, Page
from proxy.domain.screen import Screened
from proxy.index import variants as module
from proxy.index.answers import PageAnswer
from proxy.index.variants import StreamedVariant, Variants, encode
from proxy.storage.layout import Layout
from tests.support.trees import OWNER, tree_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

UNPACK: Mapping[Coding, Callable[[bytes], bytes]] = {
    Coding.IDENTITY: bytes,
    Coding.GZIP: gzip.decompress,
    Coding.ZSTD: zstd.decompress,
}
TREE = tree_of("groups: {}")


def page(count: int = 3, name: str = "gears") -> Screened:
    files = tuple(
        FileRecord(
            filename=f"{name}-{number}.0-py3-none-any.whl", sha256=f"{number:064x}", version=f"{number}.0"
        )
        for number in range(count)
    )
    return Screened(Page(Name(name), files, tuple(str(file.version) for file in files)))


class Answers:
    """Makes answers as `Index` gives them, and counts how often their page is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(
        self, token: str = "token", *, count: int = 3, upstream: str | None = "pypi", name: str = "gears"
    ) -> PageAnswer:
        word = Word.PRIVATE if upstream is None else Word.UPSTREAM
        decision = Decision(word, "", (), upstream=upstream)
        asked = Asked(TREE.root, Name(name), sight(OWNER, TREE))

        async def read() -> Screened:
            self.reads += 1
            return page(count, name)

        return PageAnswer(asked, decision, (), (), read, is_keepable=True, good_until=None, token=token)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def files(tmp_path: Path) -> VariantFiles:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    return VariantFiles(layout)


@pytest_asyncio.fixture
async def variants(files: VariantFiles) -> AsyncIterator[Variants]:
    made = Variants(files)
    yield made
    await made.close()


async def test_every_representation_and_coding_has_a_tag_of_its_own(
    variants: Variants, answers: Answers
) -> None:
    made = [
        await variants.get(answers(), representation, coding)
        for representation, coding in product(Representation, Coding)
    ]
    # The two names of HTML are the same bytes, and yet two answers.
    bodies = {variant.body for variant in made}
    tags = {variant.etag for variant in made}
    assert (len(tags), len(bodies)) == (9, 6)


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("count", [3, 500])
async def test_a_packed_body_unpacks_to_the_plain_one(variants: Variants, coding: Coding, count: int) -> None:
    plain = await variants.of(page(count), Representation.JSON, Coding.IDENTITY)
    packed = await variants.of(page(count), Representation.JSON, coding)
    assert packed.coding is coding
    assert UNPACK[coding](packed.body) == plain.body
    assert (coding is Coding.IDENTITY) == (len(packed.body) == len(plain.body)) == (packed.etag == plain.etag)


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("count", [1, 3, 500])
async def test_equal_pages_give_equal_bytes_and_tags_in_any_process(
    files: VariantFiles, answers: Answers, coding: Coding, count: int
) -> None:
    first, second = Variants(files), Variants(files)
    one = await first.get(answers("one", count=count), Representation.HTML, coding)
    two = await second.get(answers("two", count=count), Representation.HTML, coding)
    await asyncio.gather(first.close(), second.close())
    assert one == two


async def test_another_page_has_another_tag(variants: Variants) -> None:
    first = await variants.of(page(3), Representation.JSON, Coding.GZIP)
    second = await variants.of(page(4), Representation.JSON, Coding.GZIP)
    assert first.etag != second.etag


@pytest.mark.parametrize("coding", Coding)
def test_tags_are_strong_quoted_and_plain_ascii(coding: Coding) -> None:
    tag = encode(b"x" * 5000, coding).etag
    assert tag[0] == tag[-1] == '"'
    assert tag[1:-1].isascii()
    assert not set(tag[1:-1]) & set('" ,\\')


def test_what_is_small_is_not_packed() -> None:
    small = encode(b"x" * 100, Coding.GZIP)
    assert (small.body, small.coding) == (b"x" * 100, Coding.IDENTITY)
    assert small.etag == encode(b"x" * 100, Coding.IDENTITY).etag


async def test_a_variant_is_kept_by_the_token_of_its_answer(variants: Variants, answers: Answers) -> None:
    private = answers(upstream=None)
    first = await variants.get(private, Representation.JSON, Coding.GZIP)
    again = await variants.get(answers(upstream=None), Representation.JSON, Coding.GZIP)
    assert again.body is first.body
    assert answers.reads == 1
    other = answers("other", upstream=None, count=4)
    assert (await variants.get(other, Representation.JSON, Coding.GZIP)).body != first.body
    assert answers.reads == 2


async def test_both_names_of_html_share_one_body(variants: Variants, answers: Answers) -> None:
    first = await variants.get(answers(), Representation.HTML, Coding.GZIP)
    second = await variants.get(answers(), Representation.HTML_V1, Coding.GZIP)
    assert first.body is second.body
    assert first.etag != second.etag


async def test_another_coding_is_made_without_the_page(variants: Variants, answers: Answers) -> None:
    for coding in Coding:
        plain = await variants.get(answers(upstream=None), Representation.JSON, coding)
        assert (
            UNPACK[coding](plain.body)
            == (await variants.of(page(), Representation.JSON, Coding.IDENTITY)).body
        )
    assert answers.reads == 1


async def test_many_who_want_the_same_make_it_once(variants: Variants, answers: Answers) -> None:
    wanted = [variants.get(answers(count=500), Representation.JSON, Coding.GZIP) for _ in range(20)]
    made = await asyncio.gather(*wanted)
    assert answers.reads == 1
    assert len({variant.body for variant in made}) == 1


async def test_who_leaves_does_not_stop_it_for_the_others(variants: Variants, answers: Answers) -> None:
    impatient = asyncio.create_task(variants.get(answers(count=500), Representation.JSON, Coding.GZIP))
    patient = asyncio.create_task(variants.get(answers(count=500), Representation.JSON, Coding.GZIP))
    await asyncio.sleep(0)
    impatient.cancel()
    assert gzip.decompress((await patient).body).count(b"gears-") == 1000
    assert answers.reads == 1


async def test_what_has_no_token_is_made_anew(variants: Variants, answers: Answers) -> None:
    first = await variants.get(answers("", count=1), Representation.JSON, Coding.IDENTITY)
    second = await variants.get(answers("", count=2), Representation.JSON, Coding.IDENTITY)
    assert first.body != second.body


async def test_what_is_kept_is_bounded(
    monkeypatch: pytest.MonkeyPatch, files: VariantFiles, answers: Answers
) -> None:
    monkeypatch.setattr(module, "_KEEP", 10_000)
    variants = Variants(files)
    for number in range(100):
        await variants.get(answers(f"token {number}", upstream=None), Representation.JSON, Coding.IDENTITY)
    assert 0 < variants._kept.currsize <= 10_000
    huge = await variants.get(answers("huge", count=400), Representation.JSON, Coding.IDENTITY)
    assert len(huge.body) > 10_000
    await variants.close()


async def rested(files: VariantFiles, answer: PageAnswer, coding: Coding = Coding.GZIP) -> bytes:
    """What a worker that has nothing in memory sends, once it has written what it had to make."""
    worker = Variants(files, "https://packages.example", "1.0")
    variant = await worker.get(answer, Representation.JSON, coding)
    await worker.close()
    return variant.body


@pytest.mark.parametrize("count", [50, 5000])
async def test_another_worker_finds_an_upstreams_page_at_rest(
    files: VariantFiles, answers: Answers, count: int
) -> None:
    first = await rested(files, answers(count=count))
    assert await rested(files, answers(count=count)) == first
    packed = await rested(files, answers(count=count), Coding.ZSTD)
    assert zstd.decompress(packed) == gzip.decompress(first)
    assert answers.reads == 1


@pytest.mark.parametrize("who", [("https://other.example", "1.0"), ("https://packages.example", "2.0")])
async def test_what_another_address_or_version_rendered_is_not_used(
    files: VariantFiles, answers: Answers, who: tuple[str, str]
) -> None:
    await rested(files, answers(count=50))
    other = Variants(files, *who)
    await other.get(answers(count=50), Representation.JSON, Coding.GZIP)
    await other.close()
    assert answers.reads == 2


async def test_a_newer_page_takes_the_place_of_the_older(
    files: VariantFiles, answers: Answers, tmp_path: Path
) -> None:
    await rested(files, answers("old", count=50))
    new = await rested(files, answers("new", count=51))
    assert gzip.decompress(new).count(b'"filename"') == 51
    assert await rested(files, answers("new", count=51)) == new
    assert answers.reads == 2
    lying = [path for path in (tmp_path / "data" / "cache" / "variants-v1").rglob("*") if path.is_file()]
    assert [path.name for path in lying] == ["json.gzip"]


async def test_private_and_tiny_pages_are_not_laid_to_rest(
    files: VariantFiles, answers: Answers, tmp_path: Path
) -> None:
    await rested(files, answers(count=50, upstream=None))
    await rested(files, answers(count=1))
    assert list((tmp_path / "data" / "cache" / "variants-v1").iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:-10] + b"0123456789",
        lambda content: b"",
        lambda content: content.replace(b"\n", b" ", 1),
        lambda content: b"\xff" * 300,
    ],
    ids=["cut", "changed", "empty", "no head", "garbage"],
)
async def test_what_was_damaged_at_rest_is_made_anew(
    files: VariantFiles, answers: Answers, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    sound = await rested(files, answers(count=50))
    (path,) = (tmp_path / "data" / "cache" / "variants-v1").rglob("json.gzip")
    path.write_bytes(damage(path.read_bytes()))
    assert await rested(files, answers(count=50)) == sound
    assert answers.reads == 2
    await rested(files, answers(count=50))
    assert answers.reads == 2


async def test_a_purge_leaves_nothing_at_rest(files: VariantFiles, answers: Answers, tmp_path: Path) -> None:
    for name in ("gears", "cogs"):
        await rested(files, answers(name, count=50, name=name))
    resting = tmp_path / "data" / "cache" / "variants-v1" / "pypi"
    assert {path.name for path in resting.iterdir()} == {"gears", "cogs"}
    files.purge(Name("gears"))
    assert {path.name for path in resting.iterdir()} == {"cogs"}
    files.purge(None)
    assert not resting.exists()


async def test_a_disk_that_takes_nothing_costs_work_and_no_answer(
    files: VariantFiles, answers: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resting = tmp_path / "data" / "cache" / "variants-v1"
    resting.rmdir()
    resting.touch()
    assert gzip.decompress(await rested(files, answers(count=50))).count(b'"filename"') == 50
    assert "cannot be kept" in caplog.text
    assert list((tmp_path / "data" / "cache" / "partial").iterdir()) == []


def streamed(pieces: int, coding: Coding) -> StreamedVariant:
    plain = (bytes([65 + number]) * 100_000 for number in range(pieces))
    return StreamedVariant('"tag"', coding, asyncio.Semaphore(1), plain)


@pytest.mark.parametrize("pieces", [0, 1, 20])
async def test_what_is_made_while_it_leaves_is_whole_and_packed_as_one(pieces: int) -> None:
    plain = b"".join([piece async for piece in streamed(pieces, Coding.IDENTITY).pieces()])
    packed = [piece async for piece in streamed(pieces, Coding.GZIP).pieces()]
    assert len(plain) == pieces * 100_000
    assert all(packed)
    inflater = zlib.decompressobj(wbits=31)
    assert inflater.decompress(b"".join(packed)) == plain
    assert (inflater.eof, inflater.unused_data) == (True, b"")
    framed = [piece async for piece in streamed(pieces, Coding.ZSTD).pieces()]
    assert all(framed)
    unpacker = zstd.ZstdDecompressor()
    assert unpacker.decompress(b"".join(framed)) == plain
    assert (unpacker.eof, unpacker.unused_data) == (True, b"")


async def test_what_nobody_reads_on_is_not_made() -> None:
    made = []

    def plain() -> Iterator[bytes]:
        for number in range(100):
            made.append(number)
            yield b"x"

    pieces = StreamedVariant('"tag"', Coding.IDENTITY, asyncio.Semaphore(1), plain()).pieces()
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
        made = StreamedVariant('"tag"', Coding.IDENTITY, turn, plain())
        return len([piece async for piece in made.pieces()])

    assert await asyncio.gather(*(whole() for _ in range(4))) == [20, 20, 20, 20]
