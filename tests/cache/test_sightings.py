"""First sights of files without upload time: kept in the registry, the earliest that any process had."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from proxy.cache import sightings as module
from proxy.cache.sightings import Sightings, first_seen
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, url_key
from proxy.errors import StoreUnavailable
from proxy.storage.board import held_topic
from proxy.storage.database import Database
from proxy.storage.tables import first_sights
from tests.cache.conftest import EPOCH, Rig

WIDGETS = Name("widgets")
HOUR = timedelta(hours=1)


def named(filename: str, digit: str) -> FileRecord:
    return FileRecord(filename, sha256=digit * 64)


def addressed(filename: str) -> FileRecord:
    return FileRecord(filename, url=f"https://files.test/{filename}")


ONE, TWO, THREE = named("widgets-1.0.zip", "1"), named("widgets-2.0.zip", "2"), addressed("widgets-3.0.zip")


def page(*files: FileRecord) -> Page:
    return Page(WIDGETS, files)


def seen(registry: Database, name: Name = WIDGETS) -> dict[str, int]:
    """Hours after the epoch at which files were first seen, by key."""
    found = registry.read_now(partial(first_seen, upstream="pypi", name=name))
    return {key: (at - EPOCH) // HOUR for key, at in found.items()}


async def test_a_file_is_as_old_as_its_first_sight(rig: Rig, registry: Database) -> None:
    sightings = Sightings(registry, rig.clock)
    assert seen(registry) == {}
    dated = FileRecord("widgets-0.9.zip", sha256="9" * 64, uploaded=EPOCH)
    stamp = rig.board.stamp([held_topic("pypi", "widgets")])
    sightings.note("pypi", WIDGETS, page(ONE, THREE, dated))
    await sightings.close()
    assert seen(registry) == {"1" * 64: 0, url_key(THREE.url): 0}
    assert not rig.board.holds(stamp)
    rig.clock.advance(hours=1)
    # What leaves the page and comes back is no younger.
    for files in ((TWO,), (ONE, TWO, THREE)):
        sightings.note("pypi", WIDGETS, page(*files))
        await sightings.close()
        rig.clock.advance(hours=1)
    assert seen(registry) == {"1" * 64: 0, url_key(THREE.url): 0, "2" * 64: 1}
    assert seen(registry, Name("gadgets")) == {}


async def test_other_bytes_under_a_known_name_are_a_new_file(rig: Rig, registry: Database) -> None:
    sightings = Sightings(registry, rig.clock)
    sightings.note("pypi", WIDGETS, page(ONE))
    rig.clock.advance(hours=1)
    sightings.note("pypi", WIDGETS, page(named(ONE.filename, "f"), named("widgets-9.0.zip", "e")))
    rig.clock.advance(hours=1)
    # Known bytes under a new name, too: of the two the younger counts, in whatever order they came.
    sightings.note("pypi", WIDGETS, page(named("widgets-9.0.zip", "f")))
    rig.clock.advance(hours=-3)
    sightings.note("pypi", WIDGETS, page(named(ONE.filename, "e")))
    await sightings.close()
    assert seen(registry) == {"1" * 64: 0, "f" * 64: 2, "e" * 64: 1}


async def test_of_several_processes_the_one_that_looked_first_counts(rig: Rig, registry: Database) -> None:
    early, late = Sightings(registry, rig.clock), Sightings(registry, rig.clock)
    early.note("pypi", WIDGETS, page(ONE))
    rig.clock.advance(hours=1)
    late.note("pypi", WIDGETS, page(ONE, TWO))
    await late.close()
    assert seen(registry) == {"1" * 64: 1, "2" * 64: 1}
    await early.close()
    assert seen(registry) == {"1" * 64: 1, "2" * 64: 1}  # all is known, so that nothing need be written
    rig.clock.advance(hours=-2)
    early.note("pypi", WIDGETS, page(ONE, THREE))
    await early.close()
    assert seen(registry) == {"1" * 64: -1, "2" * 64: 1, url_key(THREE.url): -1}


async def test_they_are_written_behind_the_answer_within_a_second(rig: Rig, registry: Database) -> None:
    sightings = Sightings(registry, rig.clock)
    sightings.note("pypi", WIDGETS, page(ONE))
    assert seen(registry) == {}
    sightings.note("pypi", Name("gadgets"), page(TWO))
    writing = sightings._writing
    assert writing is not None
    await asyncio.wait_for(writing, 1.0)
    assert (seen(registry), seen(registry, Name("gadgets"))) == ({"1" * 64: 0}, {"2" * 64: 0})


async def test_dated_files_change_nothing(
    rig: Rig, registry: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[object] = []
    monkeypatch.setattr(registry, "change", changes.append)
    sightings = Sightings(registry, rig.clock)
    sightings.note("pypi", WIDGETS, page(FileRecord("widgets-1.0.zip", uploaded=EPOCH)))
    await sightings.close()
    assert changes == []


async def test_a_registry_that_cannot_be_written_costs_the_sight_alone(
    rig: Rig, registry: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object) -> None:
        raise StoreUnavailable("the registry database is busy")

    sightings = Sightings(registry, rig.clock)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "change", fail)
        sightings.note("pypi", WIDGETS, page(ONE))
        await sightings.close()
    assert "the registry database is busy" in caplog.text
    sightings.note("pypi", WIDGETS, page(ONE))
    await sightings.close()
    assert seen(registry) == {"1" * 64: 0}


async def test_files_that_are_named_anew_each_time_do_not_pile_up(
    rig: Rig, registry: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GONE_AT_MOST", 2)
    sightings = Sightings(registry, rig.clock)
    for digit in "12345":
        sightings.note("pypi", WIDGETS, page(named("widgets-1.0.zip", digit)))
        await sightings.close()
        rig.clock.advance(hours=1)
    assert seen(registry) == {"3" * 64: 2, "4" * 64: 3, "5" * 64: 4}


async def test_a_thousand_files_take_little_room(rig: Rig, registry: Database) -> None:
    sightings = Sightings(registry, rig.clock)
    files = [named(f"widgets-{number}.0.zip", "0") for number in range(1000)]
    sightings.note("pypi", WIDGETS, page(*files))
    await sightings.close()
    (stored,) = registry.read_now(lambda connection: connection.execute(first_sights.select()).all())
    assert len(stored.seen) < 41_000
