"""A page that we render is, to a reader of the simple API, the page that it was: `parse(render(page)) == page`.

What a form cannot say is lost by it and by nothing else: HTML has neither sizes nor upload times, and lists no
version without a file. Addresses change as they must: a file's is ours then.
"""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urljoin

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.addresses import file_href
from proxy.domain.filenames import version_of
from proxy.domain.names import Name, parse_name
from proxy.domain.negotiate import Representation
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.domain.render import render_page
from proxy.upstream.parse import parse_page

BASE = "https://index.test/acme/simple/widgets/"

_NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True).map(parse_name)
_DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
# Reasons and specifiers as `upstream.parse` keeps them: printable, trimmed, not empty.
_TEXTS = (
    st.text(
        st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" <>\"'&="), min_size=1, max_size=60
    )
    .map(str.strip)
    .filter(lambda text: bool(text) and text.isprintable())
)
_VERSIONS = st.from_regex(
    r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}((a|rc|\.post)[0-9])?(\+[a-z0-9]{1,4})?", fullmatch=True
)
_TIMES = st.datetimes(datetime(2003, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def _records(draw: st.DrawFn, name: Name) -> FileRecord:
    version = draw(_VERSIONS)
    spelled = name.replace("-", "_")
    filename = draw(
        st.sampled_from(
            [f"{spelled}-{version}-py3-none-any.whl", f"{name}-{version}.tar.gz", f"{name}-{version}.zip"]
        )
    )
    return FileRecord(
        filename=filename,
        sha256=draw(st.none() | _DIGESTS),
        url=f"https://files.test/{filename.replace('+', '%2B')}",
        size=draw(st.none() | st.integers(0, 1 << 40)),
        uploaded=draw(st.none() | _TIMES),
        requires_python=draw(st.none() | _TEXTS),
        core_metadata=draw(st.none() | st.booleans() | _DIGESTS),
        yanked=draw(st.booleans() | _TEXTS),
        provenance=draw(st.none() | st.just("https://index.test/integrity/a?b=1")),
        version=version_of(filename, name),
    )


@st.composite
def _pages(draw: st.DrawFn) -> Page:
    name = draw(_NAMES)
    files = draw(st.lists(_records(name), max_size=6, unique_by=lambda file: file.filename))
    versions = dict.fromkeys(
        (*draw(st.lists(_VERSIONS, max_size=3)), *(file.version or "" for file in files))
    )
    status = draw(st.sampled_from(Status))
    reason = draw(st.none() | _TEXTS) if status is not Status.ACTIVE else None
    return Page(name, tuple(files), tuple(versions), ProjectStatus(status, reason))


def _ours(file: FileRecord) -> FileRecord:
    """`file` as somebody sees it who has our page as an upstream: every wheel has metadata."""
    url = urljoin(BASE, file_href(file.key, file.filename))
    return msgspec.structs.replace(file, url=url, core_metadata=file.advertised)


@given(_pages())
def test_json_says_everything(page: Page) -> None:
    read = parse_page(render_page(page, Representation.JSON), Representation.JSON, BASE, page.name)
    assert read == msgspec.structs.replace(page, files=tuple(map(_ours, page.files)))


@given(_pages(), st.sampled_from([Representation.HTML, Representation.HTML_V1]))
def test_html_says_what_its_form_can_say(page: Page, representation: Representation) -> None:
    read = parse_page(render_page(page, representation), representation, BASE, page.name)
    files = tuple(
        msgspec.structs.replace(
            _ours(file),
            size=None,
            uploaded=None,
            # HTML has no word for "there is none".
            core_metadata=file.advertised or None,
        )
        for file in page.files
    )
    shown = dict.fromkeys(file.version for file in files if file.version)
    assert read == msgspec.structs.replace(page, files=files, versions=tuple(shown))


@given(_pages(), st.sampled_from(Representation))
def test_a_page_read_back_renders_to_the_same_bytes(page: Page, representation: Representation) -> None:
    """So a chain of overlays changes nothing but addresses, and those are stable once the digest is known."""
    files = tuple(file for file in page.files if file.sha256)
    once = render_page(msgspec.structs.replace(page, files=files), representation)
    assert render_page(parse_page(once, representation, BASE, page.name), representation) == once
