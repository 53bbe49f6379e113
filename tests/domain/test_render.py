"""Rendering: read back with parsers we did not write, with honest and hostile values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.names import Name
from proxy.domain.negotiate import Representation
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status, url_key
from proxy.domain.render import render_names, render_page
from proxy.domain.screen import Withheld

HTML, HTML_V1, JSON = Representation.HTML, Representation.HTML_V1, Representation.JSON
SHA, META_SHA = "a" * 64, "b" * 64
PROVENANCE = "https://upstream.test/integrity/widgets/1.0/provenance"

FULL = FileRecord(
    filename="widgets-1.0+x-py3-none-any.whl",
    sha256=SHA,
    url="https://files.test/widgets-1.0+x-py3-none-any.whl",
    size=1234,
    uploaded=datetime(2026, 5, 1, 8, 0, 0, 120_000, tzinfo=UTC),
    requires_python=">=3.11,<4",
    core_metadata=META_SHA,
    yanked="broken & \"bad\" <really>\r\nsee 'notes'",
    provenance=PROVENANCE,
    version="1.0+x",
)
BARE = FileRecord(filename="widgets-0.9.tar.gz", url="https://files.test/widgets-0.9.tar.gz", version="0.9")


def _page(*files: FileRecord, status: ProjectStatus | None = None) -> Page:
    return Page(Name("widgets"), files, ("0.9", "1.0+x"), status or ProjectStatus())


def as_json(page: Page) -> Any:
    return json.loads(render_page(page, JSON))


@dataclass
class Read:
    """What an HTML parser finds in a document."""

    tags: list[str] = field(default_factory=list)
    metas: dict[str, str | None] = field(default_factory=dict)
    links: list[dict[str, str | None]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    title: str = ""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.read = Read()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs)
        self.read.tags.append(tag)
        found = dict(attrs)
        if tag == "meta" and "name" in found:
            self.read.metas[str(found["name"])] = found["content"]
        elif tag == "a":
            self.read.links.append(found)
            self.read.texts.append("")
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "a":
            self.read.texts[-1] += data
        elif self._open and self._open[-1] == "title":
            self.read.title += data

    def done(self) -> Read:
        self.close()
        assert self._open == []
        return self.read


def as_html(body: bytes) -> Read:
    assert body.startswith(b"<!DOCTYPE html>\n")
    reader = _Reader()
    reader.feed(body.decode())
    return reader.done()


class TestJson:
    def test_a_full_record(self) -> None:
        assert as_json(_page(FULL)) == {
            "meta": {"api-version": "1.4"},
            "name": "widgets",
            "files": [
                {
                    "filename": "widgets-1.0+x-py3-none-any.whl",
                    "url": f"../../files/{SHA}/widgets-1.0%2Bx-py3-none-any.whl",
                    "hashes": {"sha256": SHA},
                    "requires-python": ">=3.11,<4",
                    "size": 1234,
                    "upload-time": "2026-05-01T08:00:00.120000Z",
                    "yanked": FULL.yanked,
                    "core-metadata": {"sha256": META_SHA},
                    "data-dist-info-metadata": {"sha256": META_SHA},
                    "provenance": PROVENANCE,
                }
            ],
            "versions": ["0.9", "1.0+x"],
            "project-status": {"status": "active"},
        }

    def test_what_is_not_known_is_absent_and_never_null(self) -> None:
        assert as_json(_page(BARE)) == {
            "meta": {"api-version": "1.0"},
            "name": "widgets",
            "files": [
                {
                    "filename": "widgets-0.9.tar.gz",
                    "url": f"../../files/{url_key(BARE.url)}/widgets-0.9.tar.gz",
                    "hashes": {},
                }
            ],
            "versions": ["0.9", "1.0+x"],
        }

    def test_one_file_without_size_makes_the_page_1_0(self) -> None:
        assert as_json(_page(FULL, BARE))["meta"] == {"api-version": "1.0"}

    def test_a_page_without_files_is_1_4(self) -> None:
        read = as_json(Page(Name("widgets")))
        assert (read["meta"], read["files"], read["versions"]) == ({"api-version": "1.4"}, [], [])

    @pytest.mark.parametrize(
        ("filename", "known", "shown"),
        [
            ("a-1-py3-none-any.whl", META_SHA, {"sha256": META_SHA}),
            ("a-1-py3-none-any.whl", True, True),
            ("a-1-py3-none-any.whl", False, True),
            ("a-1-py3-none-any.whl", None, True),
            ("a-1.tar.gz", META_SHA, {"sha256": META_SHA}),
            ("a-1.tar.gz", True, True),
            ("a-1.tar.gz", False, False),
        ],
    )
    def test_every_wheel_has_metadata_whatever_its_upstream_says(
        self, filename: str, known: bool | str | None, shown: object
    ) -> None:
        (file,) = as_json(_page(FileRecord(filename, SHA, core_metadata=known)))["files"]
        assert file["core-metadata"] == file["data-dist-info-metadata"] == shown

    def test_the_name_at_which_pip_22_3_to_23_1_stop_is_not_used(self) -> None:
        # They take the value of `dist-info-metadata` for text, as in HTML; PyPI avoids it likewise.
        (file,) = as_json(_page(FULL))["files"]
        assert "dist-info-metadata" not in file

    @pytest.mark.parametrize(
        ("external_url", "shown"),
        [
            ("https://pypi.example.org/x", "https://pypi.example.org/x/acme/w/files/0/a.provenance"),
            ("http://pypi.example.org", None),
            (None, None),
        ],
    )
    def test_provenance_of_ours_needs_a_secure_address_of_the_server(
        self, external_url: str | None, shown: str | None
    ) -> None:
        page = _page(FileRecord("a-1.whl", SHA, provenance="/acme/w/files/0/a.provenance"))
        (file,) = json.loads(render_page(page, JSON, external_url=external_url))["files"]
        assert file.get("provenance") == shown
        (link,) = as_html(render_page(page, HTML, external_url=external_url)).links
        assert link.get("data-provenance") == shown

    @pytest.mark.parametrize(("yanked", "shown"), [(True, True), ("why", "why"), ("", True)])
    def test_a_yank_with_and_without_reason(self, yanked: bool | str, shown: object) -> None:
        (file,) = as_json(_page(FileRecord("a-1.whl", SHA, yanked=yanked)))["files"]
        assert file["yanked"] == shown

    @pytest.mark.parametrize(
        ("moment", "shown"),
        [
            (datetime(2026, 5, 1, 1, 2, 3, 4, tzinfo=UTC), "2026-05-01T01:02:03.000004Z"),
            (datetime(2026, 5, 1, 1, 2, 3, tzinfo=UTC), "2026-05-01T01:02:03Z"),
            (
                datetime(2026, 5, 1, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2))),
                "2026-04-30T23:02:03.000004Z",
            ),
        ],
    )
    def test_an_upload_time_is_utc_with_six_digits_or_none(self, moment: datetime, shown: str) -> None:
        (file,) = as_json(_page(FileRecord("a-1.whl", SHA, uploaded=moment)))["files"]
        assert file["upload-time"] == shown

    def test_a_status_is_shown_in_any_version_of_the_api(self) -> None:
        for file in (FULL, BARE):
            read = as_json(_page(file, status=ProjectStatus(Status.QUARANTINED, "malware")))
            assert read["project-status"] == {"status": "quarantined", "reason": "malware"}

    def test_the_only_hash_is_the_sha256_and_no_link_has_a_fragment(self) -> None:
        (file,) = as_json(_page(FULL))["files"]
        assert list(file["hashes"]) == ["sha256"]
        assert "#" not in file["url"]

    def test_what_is_withheld_is_listed_apart(self) -> None:
        until = datetime(2026, 5, 4, 10, tzinfo=timezone(timedelta(hours=2)))
        left_out = [
            Withheld("widgets-2.0.whl", None, "quarantined", "malware"),
            Withheld("widgets-3.0.whl", "3.0", "min_age 3d", "too young", until, SHA, is_listed=True),
        ]
        read = json.loads(render_page(_page(FULL), JSON, left_out))
        assert [list(file.items()) for file in read["_withheld"]] == [
            [
                ("filename", "widgets-2.0.whl"),
                ("version", None),
                ("rule", "quarantined"),
                ("reason", "malware"),
                ("until", None),
            ],
            [
                ("filename", "widgets-3.0.whl"),
                ("version", "3.0"),
                ("rule", "min_age 3d"),
                ("reason", "too young"),
                ("until", "2026-05-04T08:00:00Z"),
            ],
        ]
        assert "_withheld" not in as_json(_page(FULL))


class TestHtml:
    def test_a_full_record(self) -> None:
        read = as_html(render_page(_page(FULL), HTML))
        assert read.links == [
            {
                "href": f"../../files/{SHA}/widgets-1.0%2Bx-py3-none-any.whl#sha256={SHA}",
                "data-requires-python": ">=3.11,<4",
                "data-core-metadata": f"sha256={META_SHA}",
                "data-dist-info-metadata": f"sha256={META_SHA}",
                "data-yanked": str(FULL.yanked).replace("\r", "\n"),
                "data-provenance": PROVENANCE,
            }
        ]
        assert read.texts == ["widgets-1.0+x-py3-none-any.whl"]
        assert read.title == "Links for widgets"
        assert read.metas == {"pypi:repository-version": "1.4", "pypi:project-status": "active"}

    def test_what_is_not_known_is_absent(self) -> None:
        (link,) = as_html(render_page(_page(BARE), HTML)).links
        assert link == {"href": f"../../files/{url_key(BARE.url)}/widgets-0.9.tar.gz"}

    def test_a_yank_without_reason_and_metadata_without_hash(self) -> None:
        (link,) = as_html(
            render_page(_page(FileRecord("a-1.whl", SHA, yanked=True, core_metadata=True)), HTML)
        ).links
        assert (link["data-yanked"], link["data-core-metadata"]) == ("", "true")

    @pytest.mark.parametrize(("filename", "shown"), [("a-1-py3-none-any.whl", "true"), ("a-1.tar.gz", None)])
    def test_metadata_is_advertised_for_every_wheel_and_no_other_file(
        self, filename: str, shown: str | None
    ) -> None:
        (link,) = as_html(render_page(_page(FileRecord(filename, SHA, core_metadata=False)), HTML)).links
        assert link.get("data-core-metadata") == link.get("data-dist-info-metadata") == shown

    def test_a_status_and_its_reason(self) -> None:
        page = _page(status=ProjectStatus(Status.DEPRECATED, 'use "other" <now>\nplease'))
        assert as_html(render_page(page, HTML)).metas == {
            "pypi:repository-version": "1.4",
            "pypi:project-status": "deprecated",
            "pypi:project-status-reason": 'use "other" <now>\nplease',
        }

    def test_both_html_types_have_the_same_bytes(self) -> None:
        assert render_page(_page(FULL, BARE), HTML) == render_page(_page(FULL, BARE), HTML_V1)

    def test_a_file_is_one_line_whatever_its_reason_says(self) -> None:
        lines = render_page(_page(FULL, BARE), HTML).decode().splitlines()
        assert sum(line.startswith("<a ") and line.endswith("</a><br>") for line in lines) == 2

    def test_no_raw_angle_bracket_stands_in_a_tag(self) -> None:
        """Clients that read pages with expressions such as `<a [^>]+>` must not be misled (protocol 2.3)."""
        body = render_page(_page(FULL), HTML).decode()
        (line,) = (line for line in body.splitlines() if line.startswith("<a "))
        assert (line.count("<"), line.count(">")) == (3, 3)


HOSTILE = "\"><script>alert(1)</script>\n</a>\r\x00\x1b\x85'&amp;<!--"


class TestManyFiles:
    """Values that need no escaping are written together; one that does must change none of the others."""

    RECORDS = st.sampled_from(
        [
            FULL,
            BARE,
            FileRecord("a-1-py3-none-any.whl", SHA, core_metadata=True, yanked=True),
            FileRecord(
                "a-1.tar.gz", HOSTILE, core_metadata=HOSTILE, requires_python=HOSTILE, provenance="/p"
            ),
            FileRecord(HOSTILE, SHA, core_metadata=False, yanked=HOSTILE),
            FileRecord("\u00e9~+ -1.zip", yanked="", uploaded=datetime(2026, 5, 1, tzinfo=UTC)),
        ]
    )

    @given(st.lists(RECORDS, max_size=5))
    def test_a_file_is_shown_alike_whatever_stands_beside_it(self, files: list[FileRecord]) -> None:
        together = as_json(_page(*files))["files"]
        assert together == [as_json(_page(file))["files"][0] for file in files]

        lines = _lines(render_page(_page(*files), HTML))
        assert lines == [line for file in files for line in _lines(render_page(_page(file), HTML))]
        assert len(lines) == len(files)


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.startswith(b"<a ")]


class TestHostileValues:
    PAGE = Page(
        Name("widgets"),
        (
            FileRecord(
                filename=HOSTILE,
                sha256=HOSTILE,
                requires_python=HOSTILE,
                core_metadata=HOSTILE,
                yanked=HOSTILE,
                provenance=HOSTILE,
            ),
        ),
        (HOSTILE,),
        ProjectStatus(Status.ARCHIVED, HOSTILE),
    )

    def test_T_XSS_nothing_breaks_out_of_html(self) -> None:
        body = render_page(self.PAGE, HTML)
        read = as_html(body)
        assert read.tags == ["html", "head", "meta", "meta", "meta", "meta", "title", "body", "h1", "a", "br"]
        shown = HOSTILE.translate(dict.fromkeys(b"\x00\x1b\x85", "\ufffd")).replace("\r", "\n")
        assert read.texts == [shown]
        (link,) = read.links
        assert link["data-requires-python"] == link["data-yanked"] == link["data-provenance"] == shown
        assert read.metas["pypi:project-status-reason"] == shown
        assert b"<script" not in body

    def test_T_XSS_nothing_breaks_out_of_json(self) -> None:
        (file,) = as_json(self.PAGE)["files"]
        assert file["filename"] == file["requires-python"] == file["yanked"] == HOSTILE
        assert file["core-metadata"] == {"sha256": HOSTILE}

    @pytest.mark.parametrize("special", "&<>\"'\t\n\r\x7f\x85\ufffe")
    def test_T_XSS_no_special_character_is_left_as_it_is(self, special: str) -> None:
        body = render_page(_page(FileRecord(f"a{special}b", SHA)), HTML).decode()
        assert f"a{special}b" not in body

    @given(st.text(), st.text(), st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
    def test_any_text_comes_back_as_it_was(
        self, filename: str, requires_python: str, yanked: str, reason: str, version: str
    ) -> None:
        record = FileRecord(filename, SHA, requires_python=requires_python, yanked=yanked, version=version)
        page = Page(Name("widgets"), (record,), (version,), ProjectStatus(Status.ARCHIVED, reason))
        read = as_json(page)
        assert read["files"][0]["filename"] == filename
        assert read["files"][0]["requires-python"] == requires_python
        assert read["files"][0]["yanked"] == yanked
        assert read["project-status"]["reason"] == reason
        assert read["versions"] == [version]

        def shown(text: str) -> str:
            # HTML has no form for a carriage return.
            text = text.replace("\r", "\n")
            return "".join(
                "\ufffd"
                if (char < " " and char not in "\t\n")
                or "\x7f" <= char <= "\x9f"
                or "\ufdd0" <= char <= "\ufdef"
                or char in "\ufffe\uffff"
                else char
                for char in text
            )

        html = as_html(render_page(page, HTML))
        assert html.tags.count("a") == 1
        assert "script" not in html.tags
        assert html.texts == [shown(filename)]
        assert html.links[0]["data-requires-python"] == shown(requires_python)
        assert html.links[0]["data-yanked"] == shown(yanked)
        assert html.metas["pypi:project-status-reason"] == shown(reason)


class TestNames:
    @pytest.mark.parametrize(
        "pieces", [(b"0\nacme-sdk\nflask\nzope\n",), (b"0\n", b"", b"acme-sdk\nflask\n", b"zope\n", b"")]
    )
    def test_json_has_each_name_in_order(self, pieces: tuple[bytes, ...]) -> None:
        assert json.loads(b"".join(render_names(pieces, JSON))) == {
            "meta": {"api-version": "1.4"},
            "projects": [{"name": "0"}, {"name": "acme-sdk"}, {"name": "flask"}, {"name": "zope"}],
        }

    def test_html_has_relative_links(self) -> None:
        """Poetry takes a whole href for the name, so it must be nothing else (protocol 1.3)."""
        read = as_html(b"".join(render_names((b"0\nacme-sdk\n", b"", b"flask\nzope\n"), HTML)))
        assert [link["href"] for link in read.links] == ["0/", "acme-sdk/", "flask/", "zope/"]
        assert read.texts == ["0", "acme-sdk", "flask", "zope"]
        assert read.metas == {"pypi:repository-version": "1.4"}

    def test_no_names_are_a_valid_list(self) -> None:
        assert json.loads(b"".join(render_names((), JSON)))["projects"] == []
        assert as_html(b"".join(render_names((), HTML))).links == []


def test_equal_pages_have_equal_bytes() -> None:
    for representation in Representation:
        assert render_page(_page(FULL, BARE), representation) == render_page(
            _page(FULL, BARE), representation
        )
