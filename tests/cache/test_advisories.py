"""The advisories in force: what is made of an OSV database, what replaces it, and what never does."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.cache import advisories as module
from proxy.cache import advisories_file, osv
from proxy.cache.advisories import Advisories
from proxy.cache.advisories_file import Made, Order, make, open_advisories
from proxy.cache.osv import Unusable
from proxy.domain.advisories import Advisory, Affected, Severity
from proxy.domain.names import Name
from proxy.domain.snapshot import AdvisorySettings
from proxy.errors import StoreUnavailable
from proxy.storage.board import ADVISORIES, Board
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from tests.cache.conftest import Clock
from tests.support.osv import HIGH, osv_entry, osv_zip

REQUESTS = Name("requests")


@dataclass
class Osv:
    """Makes files of databases below one directory, in this process."""

    directory: Path

    @property
    def source(self) -> Path:
        return self.directory / "osv"

    def documents(self, *documents: bytes) -> Made:
        """What is made of such files, over those of before."""
        self.source.mkdir(exist_ok=True)
        for number, document in enumerate(documents):
            (self.source / f"{number:02}.json").write_bytes(document)
        return self.again()

    def entries(self, *entries: dict[str, Any]) -> Made:
        return self.documents(*(json.dumps(entry).encode() for entry in entries))

    def again(self) -> Made:
        target = self.directory / "made"
        target.unlink(missing_ok=True)
        made = make(Order(str(self.source), str(target), None))
        assert made is not None
        return made

    def of(self, name: str) -> tuple[Advisory, ...]:
        kept = open_advisories(str(self.directory / "made"), str(self.source))
        assert kept is not None
        return kept.of(Name(name))


@pytest.fixture
def database(tmp_path: Path) -> Osv:
    return Osv(tmp_path)


class TestReading:
    def test_an_advisory_says_of_each_name_what_it_is_about(self, database: Osv) -> None:
        entry = osv_entry(
            "GHSA-x84v-xcm2-53pg",
            "Requests",
            {"introduced": "0"},
            {"fixed": "2.20.0"},
            versions=["2.19.0", "2.19.1", "2.21.0+odd", "old-one"],
            aliases=["CVE-2018-18074", "not an id", "PYSEC-2018-28"],
            summary="Insufficiently\n Protected\tCredentials \x07in Requests",
        )
        entry["affected"].append({"package": {"ecosystem": "npm", "name": "gears"}, "versions": ["1"]})
        entry["affected"].append(
            {"package": {"ecosystem": "PyPI:x", "name": "Zope.Interface"}, "versions": ["1.0"]}
        )
        assert database.entries(entry) == Made(names=2, advisories=2, unreadable=0)
        assert database.of("requests") == (
            Advisory(
                id="GHSA-x84v-xcm2-53pg",
                summary="Insufficiently Protected Credentials in Requests",
                aliases=("CVE-2018-18074", "PYSEC-2018-28"),
                severity=Severity.HIGH,
                affected=(Affected("0", "2.20.0"),),
                versions=("2.21+odd", "old-one"),
            ),
        )
        assert database.of("zope-interface")[0].versions == ("1",)
        assert database.of("gears") == database.of("a") == database.of("zzz") == ()

    @pytest.mark.parametrize(
        ("events", "ranges"),
        [
            ([{"introduced": "1.0"}], [("1.0", None, None)]),
            ([{"introduced": "1.0"}, {"last_affected": "1.5"}], [("1.0", None, "1.5")]),
            (
                [{"fixed": "2.10"}, {"introduced": "2.9"}, {"introduced": "0"}, {"fixed": "1.5"}],
                [("0", "1.5", None), ("2.9", "2.10", None)],
            ),
            ([{"introduced": "0", "fixed": "1.5"}], [("0", "1.5", None)]),
            (
                [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "1.5"}, {"fixed": "2.0"}],
                [("1.0", "1.5", None), ("1.5", "2.0", None)],
            ),
            ([{"introduced": "1.5"}, {"last_affected": "1.5"}], [("1.5", None, "1.5")]),
            ([{"introduced": "1.0"}, {"introduced": "1.2"}, {"fixed": "1.5"}], [("1.0", "1.5", None)]),
            ([{"fixed": "1.5"}], []),
            ([{"introduced": "a-b"}, {"fixed": "1.5"}], [("0", "1.5", None)]),
            ([{"introduced": "1.0"}, {"fixed": "a-b"}], [("1.0", None, None)]),
            ([{"introduced": "1.0"}, {"limit": "2.0"}], [("1.0", None, None)]),
        ],
    )
    def test_events_make_ranges_in_whatever_order_they_come(
        self, database: Osv, events: list[dict[str, str]], ranges: list[tuple[str | None, ...]]
    ) -> None:
        database.entries(osv_entry("GHSA-1", "requests", *events))
        (found,) = database.of("requests")
        assert [(one.introduced, one.fixed, one.last) for one in found.affected] == ranges

    def test_unreadable_events_do_not_count_where_all_versions_are_listed(self, database: Osv) -> None:
        events = ({"introduced": "1.0"}, {"fixed": "a-b"})
        database.entries(osv_entry("GHSA-1", "requests", *events, versions=["1.0", "1.1"]))
        (found,) = database.of("requests")
        assert (found.affected, found.versions) == ((), ("1", "1.1"))

    @pytest.mark.parametrize(
        ("severity", "words", "expected"),
        [
            ([{"type": "CVSS_V2", "score": "AV:N/AC:L/Au:N/C:C/I:C/A:C"}], None, Severity.HIGH),
            (
                [{"type": "CVSS_V3", "score": "CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N"}],
                "CRITICAL",
                Severity.MEDIUM,
            ),
            (
                [
                    {
                        "type": "CVSS_V4",
                        "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N",
                    }
                ],
                "LOW",
                Severity.CRITICAL,
            ),
            (
                [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N"}],
                None,
                Severity.LOW,
            ),
            (
                [
                    {"type": "CVSS_V3", "score": HIGH},
                    {"type": "CVSS_V2", "score": "AV:L/AC:H/Au:M/C:N/I:N/A:P"},
                ],
                None,
                Severity.HIGH,
            ),
            (
                [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N"}, {"type": "Ubuntu", "score": "low"}],
                "MODERATE",
                Severity.MEDIUM,
            ),
            ([{"type": "CVSS_V3", "score": "A" * 500}], "moderate", Severity.MEDIUM),
            (None, "HIGH", Severity.HIGH),
            ([], ["HIGH"], None),
            (None, "whatever", None),
            (None, None, None),
        ],
    )
    def test_severity_is_that_of_vectors_or_else_of_the_databases_word(
        self, database: Osv, severity: Any, words: Any, expected: Severity | None
    ) -> None:
        told = {"severity": severity, "database_specific": {"severity": words}}
        database.entries(osv_entry("GHSA-1", "requests", {"introduced": "0"}, score=None, **told))
        assert database.of("requests")[0].severity == expected

    def test_a_malicious_package_is_critical_and_all_of_it_where_nothing_is_said(self, database: Osv) -> None:
        entry = osv_entry("MAL-2026-1", "gears", score=None)
        entry["affected"][0]["ranges"] = []
        database.entries(entry, osv_entry("MAL-2026-2", "cogs", versions=["1.0"], score=None))
        (gears,), (cogs,) = database.of("gears"), database.of("cogs")
        assert (gears.severity, gears.affected) == (Severity.CRITICAL, (Affected("0"),))
        assert (cogs.severity, cogs.affected, cogs.versions) == (Severity.CRITICAL, (), ("1",))

    def test_aliases_hold_both_ways_and_lend_their_rating(self, database: Osv) -> None:
        versions = ({"introduced": "0"},)
        database.entries(
            osv_entry("PYSEC-2026-1", "requests", *versions, aliases=["CVE-2026-1"], score=None),
            osv_entry(
                "GHSA-1",
                "requests",
                *versions,
                aliases=["CVE-2026-1"],
                score=None,
                database_specific={"severity": "MODERATE"},
            ),
            osv_entry("GHSA-2", "requests", *versions, score=None),
            osv_entry("GHSA-1b", "cogs", *versions, aliases=["CVE-2026-1"]),
        )
        assert [(one.id, one.aliases, one.severity) for one in database.of("requests")] == [
            ("GHSA-2", (), None),
            ("GHSA-1", ("CVE-2026-1", "PYSEC-2026-1"), Severity.MEDIUM),
            ("PYSEC-2026-1", ("CVE-2026-1", "GHSA-1"), Severity.MEDIUM),
        ]

    def test_withdrawn_ones_are_left_out_and_the_newest_of_one_id_counts(self, database: Osv) -> None:
        first = osv_entry("GHSA-1", "requests", {"introduced": "0"})
        entries = [
            first,
            first | {"modified": "2026-10-02T00:00:00Z", "withdrawn": "2026-10-02T00:00:00Z"},
            first | {"modified": "2026-09-01T00:00:00Z"},
            osv_entry("GHSA-2", "cogs", {"introduced": "0"}),
        ]
        assert database.entries(*entries) == Made(1, 1, 0)
        assert database.of("requests") == ()

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"[]",
            b'{"id": 7}',
            b'{"summary": "no id"}',
            b'{"id": "GHSA 1\\n"}',
            b'{"id": "GHSA-9", "affected": {}}',
            b'{"id": "GHSA-9", "summary": "\xff"}',
            b'{"id": "GHSA-9", "details": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"id": "GHSA-9", "affected": [{"package": {"ecosystem": "PyPI", "name": "../x"}, "versions": ["1"]}]}',
            b'{"id": "GHSA-9", "details": "' + b"a" * (8 << 20) + b'"}',
        ],
        ids=range(10),
    )
    def test_a_file_that_makes_no_sense_costs_itself_alone(self, database: Osv, document: bytes) -> None:
        good = json.dumps(osv_entry("GHSA-1", "requests", {"introduced": "0"})).encode()
        assert database.documents(document, good) == Made(1, 1, 1)

    def test_files_lie_in_zips_beside_them_and_below(self, database: Osv) -> None:
        def entry(number: int) -> dict[str, Any]:
            return osv_entry(f"GHSA-{number}", f"gears{number}", {"introduced": "0"})

        osv_zip(database.source / "all.zip", [entry(1), entry(2)])
        osv_zip(database.source / "PyPI" / "all.zip", [entry(3)])
        osv_zip(database.source / ".old" / "all.zip", [entry(4)])
        (database.source / "README.txt").write_text("not read")
        (database.source / ".part.json").write_text("not read")
        (database.source / "endless.zip").symlink_to("/dev/zero")
        assert database.entries(entry(5)) == Made(4, 4, 0)
        assert database.of("gears4") == ()

    @pytest.mark.parametrize("damage", ["torn", "content", "none", "gone", "encrypted", "lzma"])
    def test_a_damaged_database_replaces_nothing(self, database: Osv, damage: str) -> None:
        path = database.source / "all.zip"
        osv_zip(path, [osv_entry("GHSA-1", "requests", {"introduced": "0"})])
        whole = bytearray(path.read_bytes())
        match damage:
            case "torn":
                del whole[-30:]
            case "content":
                whole[60] ^= 0xFF
            case "none":
                whole[:] = b""
            case "encrypted":
                for head in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8):
                    whole[head] |= 1
        path.write_bytes(whole)
        if damage == "lzma":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
                archive.writestr("GHSA-1.json", b"{}" * 500)
            whole = bytearray(path.read_bytes())
            whole[50:60] = b"\xff" * 10
            path.write_bytes(whole)
        if damage == "gone":
            path.unlink()
            path.parent.rmdir()
        with pytest.raises(Unusable, match="cannot be read" if damage == "gone" else "damaged"):
            database.again()

    def test_a_database_without_a_word_about_pypi_is_none(self, database: Osv) -> None:
        with pytest.raises(Unusable, match="no advisory about a package of PyPI"):
            database.entries(osv_entry("GHSA-1", "requests", {"introduced": "0"}, ecosystem="npm"))

    @pytest.mark.parametrize(
        ("limit", "value"), [("MAX_UNPACKED", 1000), ("MAX_FILES", 2), ("MAX_SAID", 200)]
    )
    def test_what_is_too_much_is_refused(
        self, database: Osv, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
    ) -> None:
        entries = [osv_entry(f"GHSA-{number}", f"gears{number}", {"introduced": "0"}) for number in range(3)]
        osv_zip(database.source / "all.zip", entries)
        assert database.again() == Made(3, 3, 0)
        monkeypatch.setattr(advisories_file if limit == "MAX_SAID" else osv, limit, value)
        with pytest.raises(Unusable, match=r"too long|more than|too much"):
            database.again()

    def test_a_zip_bomb_costs_no_more_than_the_longest_advisory(self, database: Osv) -> None:
        database.source.mkdir()
        with zipfile.ZipFile(database.source / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.json", b" " * (20 << 20))
            archive.writestr("good.json", json.dumps(osv_entry("GHSA-1", "requests", {"introduced": "0"})))
        assert database.again() == Made(1, 1, 1)


class TestFile:
    @pytest.fixture(autouse=True)
    def made(self, database: Osv) -> None:
        database.entries(
            *(osv_entry(f"GHSA-{name}", name, {"introduced": "0"}) for name in ("cogs", "gears", "requests"))
        )

    def test_a_torn_or_damaged_file_is_none(self, database: Osv) -> None:
        path = database.directory / "made"
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            assert open_advisories(str(path), str(database.source)) is None
        for place in (whole.index(b"gears\n"), whole.index(b'"count":') + 8, whole.index(b"requests\n") + 16):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert open_advisories(str(path), str(database.source)) is None

    def test_damage_to_what_is_said_shows_when_it_is_asked_for(self, database: Osv) -> None:
        path = database.directory / "made"
        whole = bytearray(path.read_bytes())
        whole[whole.index(b"GHSA-gears")] ^= 1
        path.write_bytes(whole)
        assert database.of("cogs")
        with pytest.raises(ValueError, match="check sum"):
            database.of("gears")

    def test_it_is_good_for_its_own_database_alone(self, database: Osv) -> None:
        assert open_advisories(str(database.directory / "made"), "/srv/elsewhere") is None


@dataclass
class House:
    """One instance of which several processes see the advisories."""

    layout: Layout
    source: Path
    clock: Clock
    locks: Locks
    board: Board

    def opened(self, **settings: Any) -> Advisories:
        """The advisories as another process sees them."""
        said = AdvisorySettings(**{"osv_dir": str(self.source), **settings})
        return Advisories(self.layout, self.locks, self.board, said, self.clock)

    def publish(self, *names: str) -> None:
        osv_zip(
            self.source / "all.zip", [osv_entry(f"GHSA-{name}", name, {"introduced": "0"}) for name in names]
        )

    def left_over(self) -> list[str]:
        return [path.name for path in Path(self.layout.partial_files).iterdir()]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    locks, board = Locks(layout), Board(layout)
    yield House(layout, tmp_path / "osv", Clock(), locks, board)
    board.close()
    locks.close()


def test_without_a_database_nothing_is_known(house: House) -> None:
    assert house.opened(osv_dir=None).of(REQUESTS) == ()


async def test_they_are_read_once_for_all_processes_and_anew_when_the_database_changed(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one, other = house.opened(), house.opened()
    with pytest.raises(StoreUnavailable, match="have not been read yet"):
        one.of(REQUESTS)
    house.publish("requests")
    await one.refresh()
    assert [each.of(REQUESTS)[0].id for each in (one, other)] == ["GHSA-requests"] * 2
    assert "1 advisories about 1 names are in force" in caplog.text
    stamp = house.board.stamp((ADVISORIES,))
    house.clock.advance(hours=1)
    await other.refresh()
    assert house.board.holds(stamp), "the database is as it was"
    house.publish("gears")
    await other.refresh()
    assert one.of(REQUESTS), "it was confirmed a moment ago"
    house.clock.advance(hours=1)
    await other.refresh()
    assert not house.board.holds(stamp)
    for each in (one, other):
        assert each.of(REQUESTS) == ()
        assert each.of(Name("gears"))
    assert house.left_over() == []


async def test_the_last_good_ones_stay_while_the_database_is_broken(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.publish("requests")
    await house.opened().refresh()
    (house.source / "all.zip").write_bytes(b"PK, but torn")
    house.clock.advance(hours=1)
    broken = house.opened()
    await broken.refresh()
    assert "one of its zips is damaged" in caplog.text
    assert broken.of(REQUESTS)
    house.publish("gears")
    await broken.refresh()
    assert broken.of(REQUESTS), "it is left alone for a while after a failure"
    house.clock.advance(minutes=1)
    await broken.refresh()
    assert broken.of(Name("gears"))
    assert house.left_over() == []


async def test_those_of_another_directory_do_not_count(house: House, tmp_path: Path) -> None:
    house.publish("requests")
    await house.opened().refresh()
    with pytest.raises(StoreUnavailable):
        house.opened(osv_dir=str(tmp_path / "other")).of(REQUESTS)
    assert house.opened(osv_dir=os.path.relpath(house.source)).of(REQUESTS)


async def test_one_process_reads_at_a_time(house: House) -> None:
    house.publish("requests")
    assert house.locks.try_hold("advisories")
    await house.opened().refresh()
    with pytest.raises(StoreUnavailable):
        house.opened().of(REQUESTS)


async def test_damaged_ones_are_told_of_and_made_anew(house: House) -> None:
    house.publish("requests")
    one = house.opened()
    await one.refresh()
    path = Path(house.layout.advisories)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"GHSA-requests", b"GHSA-request5"))
    another = house.opened()
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        another.of(REQUESTS)
    await another.refresh()
    assert one.of(REQUESTS)[0].id == "GHSA-requests"


async def test_a_reader_that_is_broken_or_cannot_write_is_trouble_and_nothing_more(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house.publish("requests")
    one = house.opened(refresh=timedelta(seconds=1))
    monkeypatch.setattr(advisories_file, "__name__", "proxy.cache.no_such_module")
    await one.refresh()
    assert "could not be read" in caplog.text
    monkeypatch.undo()
    house.clock.advance(seconds=2)
    monkeypatch.setattr(module, "place", no_room)
    await one.refresh()
    assert "no space is left" in caplog.text
    assert house.left_over() == []
    with pytest.raises(StoreUnavailable):
        one.of(REQUESTS)


def no_room(*_: object) -> None:
    raise OSError(28, os.strerror(28))
