"""The JSON API's documents as values: releases of a page, what stands for a project, metadata, rendering."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from proxy.domain.documents import (
    MAX_DESCRIPTION,
    About,
    FileNote,
    Release,
    Vulnerability,
    equality_key,
    read_metadata,
    releases_of,
    render_document,
    shown_release,
    web_address,
)
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page

GEARS = Name("gears")
SHA = "a" * 64


def file(filename: str, version: str | None, **about: Any) -> FileRecord:
    return FileRecord(filename=filename, sha256=about.pop("sha256", SHA), version=version, **about)


def page(*files: FileRecord, versions: tuple[str, ...] = ()) -> Page:
    return Page(GEARS, files, versions)


def rendered(
    *files: FileRecord, base: str = "../..", about: About | None = None, **more: Any
) -> dict[str, Any]:
    """The document of the project with these files."""
    releases = releases_of(page(*files))
    body = render_document(
        GEARS, shown_release(releases), releases, base=base, about=about or About(), **more
    )
    document: dict[str, Any] = json.loads(body)
    return document


def one(record: FileRecord, **more: Any) -> dict[str, Any]:
    """The only file of a document."""
    (entry,) = rendered(record, **more)["urls"]
    found: dict[str, Any] = entry
    return found


class TestReleases:
    def test_equal_versions_are_one_release_in_the_normal_form_of_the_first(self) -> None:
        releases = releases_of(
            page(
                file("gears-1.0-1.tar.gz", "1.0-1"),
                file("gears-1.0.post1-py3-none-any.whl", "1.0.post1"),
                file("gears-1.0.0.post1.zip", "1.0.0.post1"),
            )
        )
        (release,) = releases.values()
        assert (release.version, len(release.files)) == ("1.0.post1", 3)

    def test_versions_without_files_stand_behind_those_with_some(self) -> None:
        releases = releases_of(page(file("gears-2.0.zip", "2.0"), versions=("1.0", "2.0.0", "3.0")))
        assert {release.version: len(release.files) for release in releases.values()} == {
            "2.0": 1,
            "1.0": 0,
            "3.0": 0,
        }

    def test_what_pep_440_does_not_know_stays_apart_and_as_it_is(self) -> None:
        releases = releases_of(page(file("gears-dev-r1.zip", "dev-r1"), file("gears-dev-r2.zip", "dev-r2")))
        assert [release.version for release in releases.values()] == ["dev-r1", "dev-r2"]
        assert releases[equality_key("dev-r1")].files[0].filename == "gears-dev-r1.zip"

    def test_a_file_without_a_version_belongs_to_no_release(self) -> None:
        assert releases_of(page(file("gears.deb", None))) == {}

    @pytest.mark.parametrize("text", ["1", "v1.0", "1.0.0", "01.0"])
    def test_one_key_for_all_spellings_of_a_version(self, text: str) -> None:
        assert equality_key(text) == equality_key("1.0")

    @pytest.mark.parametrize("text", ["1.0\n", " 1.0", "1.0+local", "1.0rc1", "1\u0661"])
    def test_no_other_text_has_a_versions_key(self, text: str) -> None:
        assert equality_key(text) != equality_key("1.0")

    @pytest.mark.parametrize(
        ("versions", "shown"),
        [
            ({"1.0": False, "2.0": False, "1.10": False}, "2.0"),
            ({"1.0": False, "2.0rc1": False}, "1.0"),
            ({"1.0.dev1": False, "1.0a1": False}, "1.0a1"),
            ({"1.0": False, "2.0": "broken"}, "1.0"),
            ({"1.0rc1": False, "2.0": True}, "1.0rc1"),
            ({"1.0": True, "2.0": True}, "2.0"),
            ({"ancient": False, "0.1.dev1": False}, "0.1.dev1"),
            ({"ancient": False, "0.1": True}, "ancient"),
        ],
    )
    def test_not_yanked_then_final_then_highest_stands_for_the_project(
        self, versions: dict[str, bool | str], shown: str
    ) -> None:
        files = [file(f"gears-{text}.zip", text, yanked=yanked) for text, yanked in versions.items()]
        best = shown_release(releases_of(page(*files)))
        assert best is not None
        assert best.version == shown

    def test_a_release_without_files_stands_for_nothing(self) -> None:
        assert shown_release(releases_of(page(versions=("1.0",)))) is None

    def test_a_release_is_yanked_when_all_its_files_are(self) -> None:
        whole, broken = file("gears-1.0.zip", "1.0"), file("gears-1.0.tar.gz", "1.0", yanked="broken")
        assert not Release("1.0", (whole, broken)).is_yanked
        assert Release("1.0", (whole, broken)).yanked_reason is None
        assert Release("1.0", (broken,)).yanked_reason == "broken"
        assert not Release("1.0").is_yanked


class TestMetadata:
    def test_every_field_finds_its_place(self) -> None:
        about = read_metadata(
            b"Metadata-Version: 2.4\nName: Ge.Ars\nVersion: 1.0\nSummary: turn\nAuthor: Zo\xc3\xab\n"
            b"Author-Email: z@example.org\nMaintainer: M\nMaintainer-Email: m@example.org\n"
            b"Home-Page: https://gears.example/\nDownload-URL: https://gears.example/get\n"
            b"Keywords: a,b\nLicense-Expression: MIT\nLicense-File: LICENSE\nPlatform: any\n"
            b"Classifier: A\nClassifier: B\nRequires-Python: >=3.8\nRequires-Dist: cogs\n"
            b"Provides-Extra: all\nDynamic: Version\nProject-URL: Docs, https://docs.example/\n"
            b"Description-Content-Type: text/markdown\n\n# Gears\n\nturn\n"
        )
        assert about == About(
            name="Ge.Ars",
            summary="turn",
            description="# Gears\n\nturn\n",
            description_content_type="text/markdown",
            keywords="a,b",
            home_page="https://gears.example/",
            download_url="https://gears.example/get",
            author="Zoë",
            author_email="z@example.org",
            maintainer="M",
            maintainer_email="m@example.org",
            license_expression="MIT",
            license_files=("LICENSE",),
            platform="any",
            classifiers=("A", "B"),
            requires_python=">=3.8",
            requires_dist=("cogs",),
            provides_extra=("all",),
            dynamic=("Version",),
            project_urls={"Docs": "https://docs.example/"},
        )

    def test_a_description_in_the_header_loses_its_indentation(self) -> None:
        header = b"Metadata-Version: 1.1\nName: gears\nDescription: one\n        two\n          three\n"
        assert read_metadata(header).description.rstrip() == "one\ntwo\n  three"

    def test_unknown_counts_as_nothing(self) -> None:
        about = read_metadata(b"Name: gears\nAuthor: UNKNOWN\nLicense: UNKNOWN\nPlatform: UNKNOWN\n\n")
        assert about == About(name="gears")

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"no colon", b"\n\n\n", b"Name: a\nName: b\n"])
    def test_what_makes_no_sense_is_left_out(self, content: bytes) -> None:
        assert read_metadata(content).requires_dist is None

    @pytest.mark.parametrize("filler", [b"a:\n", b" a\n"], ids=repr)
    def test_T_ARCH_of_eight_mebibytes_of_fields_only_the_first_are_read(self, filler: bytes) -> None:
        content = b"Name: gears\nX: a\n" + filler * ((8 << 20) // len(filler)) + b"Summary: late\n\nbody"
        began = time.process_time()

        assert read_metadata(content) == About(name="gears", description="body")

        assert time.process_time() - began < 1.5

    def test_T_ARCH_a_description_is_cut_where_that_of_an_upstreams_document_is(self) -> None:
        about = read_metadata(b"Name: gears\n\n" + b"\x01" * (8 << 20))
        assert len(about.description) == MAX_DESCRIPTION

    def test_T_ARCH_a_body_of_nested_mime_parts_is_but_a_description(self) -> None:
        nested = b"".join(
            b"--%d\nContent-Type: multipart/mixed; boundary=%d\n\n" % (n, n + 1) for n in range(5000)
        )
        content = b"Name: gears\nContent-Type: multipart/mixed; boundary=0\n\n" + nested
        assert read_metadata(content).description == nested.decode()


@pytest.mark.parametrize(
    "value",
    [
        *("javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "//host/x", "https://", "x"),
        *("https://a b/", "https://a\n/", "java\nscript:x", "https://[", "", "https://x/" + "a" * 5000),
    ],
)
def test_T_SSRF2_only_web_addresses_become_links(value: str) -> None:
    assert web_address(value) == ""


def test_T_SSRF2_metadata_give_no_other_addresses() -> None:
    about = read_metadata(
        b"Name: gears\nHome-Page: javascript:alert(1)\nDownload-URL: file:///x\n"
        b"Project-URL: Bad, data:text/html,x\nProject-URL: Good, https://gears.example/\n"
    )
    assert (about.home_page, about.download_url) == ("", "")
    assert about.project_urls == {"Good": "https://gears.example/"}


class TestRendering:
    @pytest.mark.parametrize("base", ["..", "../..", "../../..", "https://packages.example/acme"])
    def test_links_begin_with_the_base(self, base: str) -> None:
        document = rendered(file("gears-1.0+x.zip", "1.0+x", url="https://upstream.example/g"), base=base)
        assert document["urls"][0]["url"] == f"{base}/files/{SHA}/gears-1.0%2Bx.zip"
        assert document["info"]["package_url"] == f"{base}/simple/gears/"
        assert document["info"]["release_url"] == f"{base}/pypi/gears/1.0%2Bx/json"
        assert "upstream.example" not in json.dumps(document)

    def test_a_document_without_releases_is_that_of_a_release(self) -> None:
        release = Release("1.0", (file("gears-1.0.zip", "1.0"),))
        document = json.loads(render_document(GEARS, release, None, base="..", about=About()))
        assert "releases" not in document
        assert len(document["urls"]) == 1

    def test_equal_values_give_equal_bytes(self) -> None:
        files = [file(f"gears-{minor}.zip", f"{minor}", sha256=f"{minor:064x}") for minor in range(30)]
        releases = releases_of(page(*files))
        made = [
            render_document(
                GEARS, None, dict(order), base="..", about=About(project_urls={"b": "x", "a": "y"})
            )
            for order in (releases.items(), reversed(releases.items()))
        ]
        assert made[0] == made[1]
        assert made[0].endswith(b"}\n")

    def test_nothing_to_show_is_still_a_whole_document(self) -> None:
        document = rendered()
        assert (document["urls"], document["releases"]) == ([], {})
        assert (document["info"]["name"], document["info"]["version"]) == ("gears", "")

    def test_text_stays_text(self) -> None:
        text = "é \u2028 </script> \x00 \U0001f40d"
        assert rendered(file("gears-1.0.zip", "1.0"), about=About(summary=text))["info"]["summary"] == text

    def test_a_name_of_another_project_is_not_shown_as_its_own_spelling(self) -> None:
        record = file("gears-1.0.zip", "1.0")
        assert rendered(record, about=About(name="Gears"))["info"]["name"] == "Gears"
        assert rendered(record, about=About(name="cogs"))["info"]["name"] == "gears"

    def test_a_note_counts_only_for_the_same_bytes(self) -> None:
        note = FileNote(SHA, md5="b" * 32, blake2b="c" * 64, comment="good", python_version="3.7")
        known = one(file("gears-1.0.zip", "1.0"), notes={SHA: note})
        assert known["digests"] == {"sha256": SHA, "md5": "b" * 32, "blake2b_256": "c" * 64}
        assert (known["md5_digest"], known["comment_text"], known["python_version"]) == (
            "b" * 32,
            "good",
            "3.7",
        )
        other = one(file("gears-1.0.zip", "1.0", sha256="d" * 64), notes={SHA: note})
        assert (other["digests"], other["md5_digest"], other["comment_text"]) == (
            {"sha256": "d" * 64},
            "",
            "",
        )
        without = one(
            file("gears-1.0.zip", "1.0", sha256=None, url="https://upstream.example/g"), notes={SHA: note}
        )
        assert without["digests"] == {}

    def test_times_are_utc_with_and_without_a_zone(self) -> None:
        moment = datetime(2026, 11, 21, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2)))
        told = one(file("gears-1.0.zip", "1.0", uploaded=moment))
        assert told["upload_time"] == "2026-11-20T23:02:03"
        assert told["upload_time_iso_8601"] == "2026-11-20T23:02:03.000004Z"
        unknown = one(file("gears-1.0.zip", "1.0"))
        assert (unknown["upload_time"], unknown["upload_time_iso_8601"], unknown["size"]) == (
            None,
            None,
            None,
        )
        noted = FileNote(SHA, uploaded=datetime(2020, 1, 1, tzinfo=UTC))
        assert one(file("gears-1.0.zip", "1.0"), notes={SHA: noted})["upload_time"] == "2020-01-01T00:00:00"

    @pytest.mark.parametrize(
        ("filename", "kind", "python"),
        [
            ("gears-1.0-py2.py3-none-any.whl", "bdist_wheel", "py2.py3"),
            ("gears-1.0-1-cp311-cp311-linux_x86_64.whl", "bdist_wheel", "cp311"),
            ("gears-1.0.tar.gz", "sdist", "source"),
            ("gears-1.0.zip", "sdist", "source"),
            ("gears-1.0-py2.7.egg", "bdist_egg", "2.7"),
            ("gears-1.0.win32-py2.6.exe", "bdist_wininst", "2.6"),
            ("gears-1.0-1.noarch.rpm", "bdist_rpm", "any"),
        ],
    )
    def test_kind_and_python_follow_from_the_filename(self, filename: str, kind: str, python: str) -> None:
        told = one(file(filename, "1.0"))
        assert (told["packagetype"], told["python_version"]) == (kind, python)
        lie = FileNote(SHA, packagetype="sdist", python_version="source")
        if filename.endswith(".whl"):
            assert one(file(filename, "1.0"), notes={SHA: lie})["packagetype"] == "bdist_wheel"

    @pytest.mark.parametrize(
        ("filename", "said", "shown"),
        [
            ("gears-1.0-py3-none-any.whl", "b" * 64, {"sha256": "b" * 64}),
            ("gears-1.0-py3-none-any.whl", None, True),
            ("gears-1.0.tar.gz", None, False),
            ("gears-1.0.tar.gz", "b" * 64, {"sha256": "b" * 64}),
        ],
    )
    def test_core_metadata_are_advertised_as_pages_do(
        self, filename: str, said: str | None, shown: object
    ) -> None:
        assert one(file(filename, "1.0", core_metadata=said))["core-metadata"] == shown

    def test_an_advisory_is_written_whole(self) -> None:
        document = rendered(file("gears-1.0.zip", "1.0"), vulnerabilities=(Vulnerability("PYSEC-1"),))
        assert document["vulnerabilities"] == [
            {
                "id": "PYSEC-1",
                "source": "",
                "link": "",
                "aliases": [],
                "details": "",
                "summary": None,
                "fixed_in": [],
                "withdrawn": None,
            }
        ]

    def test_requires_python_of_a_file_stands_in_for_that_of_its_release(self) -> None:
        record = file("gears-1.0.zip", "1.0", requires_python=">=3.8")
        assert rendered(record)["info"]["requires_python"] == ">=3.8"
        assert rendered(record, about=About(requires_python=">=3.9"))["info"]["requires_python"] == ">=3.9"
