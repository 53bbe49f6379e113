"""Looking through the cache: what is damaged is found, what is sound stays, the ledger agrees with the disk again."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from proxy.cache import verify as module
from proxy.cache.verify import Verified, count_damaged, recount, verify
from proxy.domain.pages import url_key
from proxy.storage.tables import cached_files
from tests.cache.conftest import Rig

CONTENTS = (b"one", b"two two", b"three three three")


async def fill(rig: Rig) -> list[str]:
    """Keep three files, and return their paths."""
    return [(await rig.files.keep(content, [url_key(content.decode())])).path for content in CONTENTS]


def digests(*contents: bytes) -> tuple[str, ...]:
    return tuple(sorted(hashlib.sha256(content).hexdigest() for content in contents))


def spoil(path: str) -> None:
    """Change a file and leave its size and its times alone, as a failing disk does."""
    state = os.stat(path)  # noqa: PTH116
    content = bytearray(Path(path).read_bytes())
    content[0] ^= 1
    Path(path).write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def look(rig: Rig, *, repair: bool = False) -> Verified:
    return verify(rig.layout, rig.database, rig.held, repair=repair)


async def test_a_sound_cache_has_nothing_to_mend(rig: Rig) -> None:
    await fill(rig)
    Path(rig.layout.partial_files, "half").write_bytes(b"still arriving")
    Path(rig.layout.cached_files, "00").mkdir(exist_ok=True)
    Path(rig.layout.cached_files, "00", "notes.txt").write_bytes(b"not ours")
    told: list[tuple[int, int]] = []
    found = verify(rig.layout, rig.database, (), progress=lambda done, total: told.append((done, total)))
    assert found == Verified(3, sum(map(len, CONTENTS)), (), 0, 0, repaired=False)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert look(rig, repair=True) == Verified(3, found.bytes, (), 0, 0, repaired=True)
    assert Path(rig.layout.partial_files, "half").exists()
    assert Path(rig.layout.cached_files, "00", "notes.txt").exists()


class Enough(Exception):
    """Somebody has seen enough."""


async def test_what_progress_raises_breaks_it_off(rig: Rig) -> None:
    paths = await fill(rig)
    spoil(paths[0])
    told: list[int] = []

    def stop(done: int, _total: int) -> None:
        told.append(done)
        if done == 2:
            raise Enough

    with pytest.raises(Enough):
        await asyncio.to_thread(verify, rig.layout, rig.database, (), repair=True, progress=stop)
    assert told == [1, 2]
    # Another look is a whole one, whatever was mended before.
    assert look(rig).checked == 2 + Path(paths[0]).exists()


async def test_accounts_are_set_right_without_reading_files(rig: Rig) -> None:
    paths = await fill(rig)
    os.truncate(paths[0], 1)
    Path(paths[1]).unlink()
    with Path(paths[2]).open("ab") as file:
        file.write(b"!")
    assert recount(rig.layout, rig.database, lambda: True) == (0, 0)
    assert recount(rig.layout, rig.database, lambda: False) == (2, 1)
    assert (rig.files.stats().files, rig.files.stats().bytes) == (2, 1 + len(CONTENTS[2]) + 1)
    assert recount(rig.layout, rig.database, lambda: False) == (0, 0)
    # What is in the files is another matter.
    assert len(look(rig).damaged) == 2


async def test_damaged_files_are_told_and_nothing_is_changed(rig: Rig) -> None:
    paths = await fill(rig)
    spoil(paths[0])
    Path(paths[2]).write_bytes(CONTENTS[2][:-1])
    found = look(rig)
    assert (found.damaged, found.repaired) == (digests(CONTENTS[0], CONTENTS[2]), False)
    assert look(rig) == found
    assert rig.files.stats().files == 3
    assert count_damaged(rig.layout) == 2
    # One that has gone, or that was fetched anew, is damaged no longer.
    await rig.files.keep(CONTENTS[0], [])
    assert count_damaged(rig.layout) == 1
    Path(paths[2]).unlink()
    assert count_damaged(rig.layout) == 0
    Path(rig.layout.damaged_files).write_bytes(b"[")
    assert count_damaged(rig.layout) == 0


async def test_repair_deletes_what_is_damaged_and_nothing_else(rig: Rig) -> None:
    paths = await fill(rig)
    spoil(paths[1])
    found = look(rig, repair=True)
    assert (found.damaged, found.repaired) == (digests(CONTENTS[1]), True)
    assert [Path(path).exists() for path in paths] == [True, False, True]
    assert rig.files.kept(url_key(CONTENTS[1].decode())) is None
    assert rig.files.kept(url_key(CONTENTS[2].decode())) is not None
    assert (rig.files.stats().files, rig.files.stats().bytes) == (2, len(CONTENTS[0] + CONTENTS[2]))
    assert look(rig).damaged == ()


async def test_a_damaged_file_is_fetched_anew_by_the_server_that_runs_beside(rig: Rig) -> None:
    rig.upstream.add_file("widgets", "widgets-1.0.tar.gz", CONTENTS[2])
    record = rig.record("widgets-1.0.tar.gz", CONTENTS[2])
    await rig.fetch(record)
    await rig.settle()
    cached = rig.files.cached(record)
    assert cached is not None
    spoil(cached.path)
    assert rig.files.cached(record) is not None  # its size is right, so that it can only be found by looking
    assert look(rig, repair=True).repaired
    assert rig.files.cached(record) is None
    assert await rig.fetch(record) == CONTENTS[2]


async def test_the_ledger_is_made_to_agree_with_the_disk(rig: Rig) -> None:
    paths = await fill(rig)
    unlisted, miscounted, _ = (hashlib.sha256(content).hexdigest() for content in CONTENTS)
    Path(paths[2]).unlink()
    rig.database.change_now(
        lambda change: [
            change.connection.execute(statement).rowcount
            for statement in (
                delete(cached_files).where(cached_files.c.key == unlisted),
                update(cached_files).where(cached_files.c.key == miscounted).values(size=1_000),
            )
        ]
    )
    found = look(rig)
    assert (found.damaged, found.unlisted, found.missing) == ((), 2, 1)
    assert rig.files.stats().bytes == 1_000 + len(CONTENTS[2])
    assert look(rig, repair=True) == Verified(2, len(CONTENTS[0] + CONTENTS[1]), (), 2, 1, repaired=True)
    assert (rig.files.stats().files, rig.files.stats().bytes) == (2, len(CONTENTS[0] + CONTENTS[1]))
    assert (look(rig).unlisted, look(rig).missing) == (0, 0)


async def test_a_file_that_was_fetched_anew_meanwhile_stays(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = (await fill(rig))[0]
    spoil(path)
    look_once = module._look

    def look_and_replace(where: str, digest: str) -> module._Seen | None:
        seen = look_once(where, digest)
        if where == path:
            aside = Path(rig.layout.partial_files, "anew")
            aside.write_bytes(CONTENTS[0])
            aside.replace(path)
        return seen

    monkeypatch.setattr(module, "_look", look_and_replace)
    found = look(rig, repair=True)
    assert (found.damaged, found.repaired) == (digests(CONTENTS[0]), True)
    assert Path(path).read_bytes() == CONTENTS[0]
    assert rig.files.stats().files == 3


async def test_a_file_that_leaves_while_it_is_looked_for_is_not_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(rig)
    listed = module._listed
    monkeypatch.setattr(
        module, "_listed", lambda layout, shard: [*listed(layout, shard), f"{shard}{'0' * 62}"]
    )
    assert look(rig) == Verified(3, sum(map(len, CONTENTS)), (), 0, 0, repaired=False)


async def test_a_file_that_cannot_be_read_is_damaged(rig: Rig) -> None:
    path = Path((await fill(rig))[0])
    path.unlink()
    path.mkdir()
    found = look(rig, repair=True)
    # A directory cannot be deleted like a file, so this is not repaired, and is not said to be.
    assert (found.damaged, found.repaired) == (digests(CONTENTS[0]), False)


async def test_held_files_whose_bytes_are_damaged_or_gone_are_lost(rig: Rig) -> None:
    paths = await fill(rig)
    rig.held.update(digests(*CONTENTS))
    assert look(rig).lost == ()
    spoil(paths[0])
    Path(paths[1]).unlink()
    assert look(rig).lost == digests(CONTENTS[0], CONTENTS[1])
    assert look(rig, repair=True).lost == digests(CONTENTS[0], CONTENTS[1])
    assert Path(paths[2]).exists()
