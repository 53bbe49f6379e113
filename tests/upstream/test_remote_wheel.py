"""METADATA out of wheels that nobody downloads: which ranges are asked for, and where that ends."""

from __future__ import annotations

import hashlib
import io
import random
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from proxy.domain.filenames import parse_distribution
from proxy.domain.pages import FileRecord
from proxy.errors import ContentMismatch, InvalidArchive, RangesRefused, UpstreamError, UpstreamFaulty
from proxy.upstream.remote_wheel import fetch_beside, read_metadata
from tests.upstream.test_client import client, server

FILENAME = "widgets-1.0-py3-none-any.whl"
DISTRIBUTION = parse_distribution(FILENAME)
HEADER = b"Metadata-Version: 2.2\nName: widgets\nVersion: 1.0\n"
PADDING = random.Random(1).randbytes(1 << 20)


def noise(size: int) -> bytes:
    """A description that does not compress to less than half of its size."""
    return b"\n" + random.Random(2).randbytes(size // 2).hex().encode()


def packed(members: Iterable[tuple[str, bytes]], *, deflated: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


METADATA = ("widgets-1.0.dist-info/METADATA", HEADER)
PAYLOAD = ("widgets/data.bin", PADDING)
MANY = [(f"widgets/a-module-with-a-rather-long-name-{number:06}.py", b"") for number in range(12_000)]


@dataclass
class Shelf:
    """Serves one file by ranges, except for what `answer` says of a request by its number, from 1."""

    content: bytes
    answer: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    replaced_after: int | None = None

    async def __call__(self, request: web.Request) -> web.Response:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if (said := self.answer.get(len(self.asked))) is not None:
            return web.Response(**said)
        is_another = self.replaced_after is not None and len(self.asked) > self.replaced_after
        etag = '"two"' if is_another else '"one"'
        if wanted is None or request.headers.get("If-Range", etag) != etag:
            return web.Response(body=self.content)
        first, last = (int(number) for number in re.findall(r"\d+", wanted))
        part = self.content[first : last + 1]
        if not part:
            return web.Response(status=416)
        total = f"bytes {first}-{first + len(part) - 1}/{len(self.content)}"
        return web.Response(status=206, body=part, headers={"Content-Range": total, "ETag": etag})

    @property
    def spent(self) -> int:
        """Bytes asked for."""
        numbers = [[int(number) for number in re.findall(r"\d+", wanted or "")] for wanted in self.asked]
        return sum(last - first + 1 for first, last in numbers)


async def ask(shelf: Shelf, size: int | None) -> bytes:
    async with server(shelf) as origin, client(f"{origin}/simple/") as upstream:
        record = FileRecord(FILENAME, url=f"{origin}/{FILENAME}", size=size)
        return await read_metadata(upstream, record, DISTRIBUTION)


@pytest.mark.parametrize(
    ("wheel", "requests", "spent"),
    [
        (packed([METADATA]), 2, 300),
        (packed([PAYLOAD, METADATA]), 2, 85_000),
        (packed([METADATA, PAYLOAD]), 3, 120_000),
        (packed([PAYLOAD, METADATA], deflated=True), 2, 85_000),
        (packed([PAYLOAD, (METADATA[0], HEADER + noise(600_000))]), 4, 610_000),
        (packed([PAYLOAD, (METADATA[0], HEADER + noise(2_000_000))], deflated=True), 9, 1_300_000),
        (packed([PAYLOAD, *MANY, METADATA]), 4, 1_500_000),
    ],
    ids=["small", "last", "first", "deflated", "long", "long and deflated", "many members"],
)
@pytest.mark.parametrize("is_size_known", [True, False])
async def test_few_and_short_ranges_lead_to_the_metadata(
    wheel: bytes, requests: int, spent: int, is_size_known: bool
) -> None:
    shelf = Shelf(wheel)
    found = await ask(shelf, len(wheel) if is_size_known else None)
    assert found.startswith(HEADER)
    assert len(shelf.asked) <= requests
    assert None not in shelf.asked
    assert shelf.spent <= spent


async def test_a_wheel_that_would_take_too_many_bytes_is_better_fetched_whole() -> None:
    shelf = Shelf(packed([PAYLOAD, (METADATA[0], HEADER + noise(7 << 20))]))
    with pytest.raises(RangesRefused, match="few parts"):
        await ask(shelf, None)
    assert shelf.spent <= 16 << 20


WHEEL = packed([METADATA, PAYLOAD])
TOTAL = str(len(WHEEL))


@pytest.mark.parametrize(
    ("answer", "size", "expected"),
    [
        ({1: {"body": WHEEL}}, None, RangesRefused),
        ({2: {"body": WHEEL}}, None, RangesRefused),
        ({2: {"status": 501}}, len(WHEEL), RangesRefused),
        ({}, len(WHEEL) + 1, ContentMismatch),
        (
            {2: {"status": 206, "body": b"PK\3\4", "headers": {"Content-Range": "bytes 0-3/99999"}}},
            len(WHEEL),
            ContentMismatch,
        ),
        (
            {1: {"status": 206, "body": b"PK", "headers": {"Content-Range": f"bytes 0-3/{TOTAL}"}}},
            None,
            UpstreamFaulty,
        ),
        (
            {1: {"status": 206, "body": WHEEL, "headers": {"Content-Range": f"bytes 0-3/{TOTAL}"}}},
            None,
            UpstreamFaulty,
        ),
    ],
    ids=["no ranges", "none later", "501 later", "another size", "it changes", "too few", "too many"],
)
async def test_an_upstream_that_gives_something_else_than_was_asked_for(
    answer: dict[int, dict[str, Any]], size: int | None, expected: type[UpstreamError]
) -> None:
    with pytest.raises(UpstreamError) as caught:
        await ask(Shelf(WHEEL, answer), size)
    assert type(caught.value) is expected


async def test_parts_of_two_files_are_not_asked_for() -> None:
    with pytest.raises(RangesRefused):
        await ask(Shelf(WHEEL, replaced_after=1), len(WHEEL))


async def test_parts_of_two_files_are_not_taken_for_one() -> None:
    shelf = Shelf(WHEEL)
    async with server(shelf) as origin, client(f"{origin}/simple/") as upstream:
        record = FileRecord(FILENAME, url=f"{origin}/{FILENAME}")
        # The second answer carries no trace of the change but that its bytes do not fit: the archive tells.
        shelf.answer[2] = {
            "status": 206,
            "body": bytes(81_920),
            "headers": {"Content-Range": f"bytes {len(WHEEL) - 81_920}-{len(WHEEL) - 1}/{TOTAL}"},
        }
        with pytest.raises(InvalidArchive):
            await read_metadata(upstream, record, DISTRIBUTION)


async def test_metadata_beside_the_wheel_have_a_limit_and_no_fragment_in_their_address() -> None:
    shelf = Shelf(HEADER, {2: {"body": bytes((8 << 20) + 1)}, 3: {"status": 404}})
    async with server(shelf) as origin, client(f"{origin}/simple/") as upstream:
        digest = hashlib.sha256(HEADER).hexdigest()
        record = FileRecord(f"{FILENAME}.metadata", url=f"{origin}/{FILENAME}.metadata#of={digest}")
        assert await fetch_beside(upstream, record) == HEADER
        with pytest.raises(UpstreamFaulty, match="more bytes"):
            await fetch_beside(upstream, record)
        with pytest.raises(UpstreamFaulty, match=rf"{FILENAME}\.metadata is gone"):
            await fetch_beside(upstream, record)
