"""The cache counts what it fetches, what it hands to several at once, and what it gives up."""

from __future__ import annotations

import asyncio

from proxy.observe.metrics import Found
from tests.cache.conftest import Rig
from tests.support.wheels import make_wheel


def counted(rig: Rig, name: str) -> int:
    """The value of one counter, as Prometheus reads it."""
    text, _ = rig.metrics.exposition("", digest="", cache_max=0, found=Found())
    lines = text.decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"pypi_overlay_{name} ")]
    return int(float(line.rpartition(" ")[2]))


async def test_readers_of_one_file_are_one_transfer_and_joins(rig: Rig) -> None:
    filename, content = make_wheel("widgets", "1.0", size=200_000)
    rig.upstream.add_file("widgets", filename, content)
    record = rig.record(filename, content)
    assert await asyncio.gather(*(rig.fetch(record) for _ in range(4))) == [content] * 4
    assert counted(rig, 'transfers_total{event="begun"}') == 1
    assert counted(rig, 'transfers_total{event="joined"}') == 3
    assert counted(rig, 'transfers_total{event="failed"}') == 0


async def test_files_that_make_room_are_counted(rig: Rig) -> None:
    await rig.reopen(max_size=500_000)
    for version in ("1.0", "2.0", "3.0", "4.0"):
        filename, content = make_wheel("widgets", version, size=200_000)
        rig.upstream.add_file("widgets", filename, content)
        await rig.fetch(rig.record(filename, content))
        await rig.settle()
    assert counted(rig, "cache_evicted_files_total") == 4 - rig.files.stats().files == 2
