"""Pages of every kind that an index can answer, for parsers and validators that we did not write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from proxy.domain.names import Name
from proxy.domain.negotiate import Representation
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.domain.render import render_names, render_page
from proxy.domain.screen import Withheld
from proxy.domain.sorted_names import PIECE, SortedNames

SHA = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
EXTERNAL_URL = "https://pypi.example.org"
HOSTILE = (
    "</a><script>alert('x')</script>&amp; \"quoted\" 'single' <b>"
    "\r\n\t\x00\x0b\x7f\x85\u2028\ufffe é 中 \U0001f600"
)
"""What an uploader or an upstream may put into a text."""

_FULL = FileRecord(
    filename="gears-1.0+local.1-1a-cp311.cp312-abi3-manylinux_2_17_x86_64.whl",
    sha256=SHA,
    size=12345,
    uploaded=datetime(2026, 5, 1, 8, 0, 0, 123456, tzinfo=UTC),
    requires_python=">=3.8,!=3.9.*,<4",
    core_metadata=OTHER,
    yanked="a & b < c",
    provenance="/acme/gears/files/" + SHA + "/gears-1.0.provenance",
    version="1.0+local.1",
)

PAGES: dict[str, Page] = {
    "no files": Page(Name("empty")),
    "one wheel": Page(
        Name("gears"), (FileRecord("gears-1.0-py3-none-any.whl", SHA, size=1, version="1.0"),), ("1.0",)
    ),
    "everything said": Page(Name("gears"), (_FULL,), ("0.9", "1.0+local.1")),
    "nothing said": Page(
        Name("gears"),
        (FileRecord("gears-0.1.tar.gz", url="https://files.example.org/gears-0.1.tar.gz", version="0.1"),),
        ("0.1",),
    ),
    "metadata without digest": Page(
        Name("gears"),
        (FileRecord("gears-1.0-py3-none-any.whl", SHA, size=1, core_metadata=True, version="1.0"),),
        ("1.0",),
    ),
    "yanked without reason": Page(
        Name("gears"), (FileRecord("gears-1.0.tar.gz", SHA, size=1, yanked=True, version="1.0"),), ("1.0",)
    ),
    "legacy files": Page(
        Name("gears"),
        tuple(
            FileRecord(filename, SHA, size=1)
            for filename in (
                "gears-0.1.win32.exe",
                "gears-0.1-py2.5.egg",
                "gears-0.1.tar.bz2",
                "gears-0.1-1.noarch.rpm",
                "gears-2004d.zip",
            )
        ),
        ("2004d",),
    ),
    "hostile texts": Page(
        Name("gears"),
        (
            FileRecord(
                "gears-1.0-py3-none-any.whl",
                SHA,
                size=1,
                requires_python=HOSTILE,
                yanked=HOSTILE,
                version="1.0",
            ),
        ),
        ("1.0", "<script>", 'x"y'),
        ProjectStatus(Status.DEPRECATED, HOSTILE),
    ),
    **{
        f"status {status}": Page(Name("gears"), (), ("1.0",), ProjectStatus(status, "because"))
        for status in Status
    },
    "many files": Page(
        Name("gears"),
        tuple(
            FileRecord(f"gears-1.{number}-py3-none-any.whl", SHA, size=number, version=f"1.{number}")
            for number in range(300)
        ),
        tuple(f"1.{number}" for number in range(300)),
    ),
}

WITHHELD = (Withheld("gears-2.0.tar.gz", "2.0", "quarantined", HOSTILE),)

NAMES: dict[str, list[Name]] = {
    "no names": [],
    "names": [Name("a"), Name("gears"), Name("0-0"), Name("zope-interface")],
    "more names than go out in one piece": [Name(f"gears-{number}") for number in range(PIECE + 1)],
}


def bodies(representation: Representation) -> Iterator[tuple[str, bytes]]:
    """Every page of the corpus in one representation, with what it is called."""
    for title, page in PAGES.items():
        yield title, render_page(page, representation, WITHHELD, EXTERNAL_URL)
    for title, names in NAMES.items():
        yield title, b"".join(render_names(_pieces(names), representation))


def _pieces(names: Sequence[Name]) -> Iterator[bytes]:
    """Names in order, piece by piece, as a list of an index has them."""
    listed = SortedNames.of(sorted(names))
    for begin in range(0, len(listed), PIECE):
        yield listed.text(begin, min(begin + PIECE, len(listed)))
