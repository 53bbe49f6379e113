"""Rendering: pages and lists of names as HTML and JSON bytes (PEP 503, 629, 691, 700, 714, 740, 792).

Equal pages give equal bytes, so that an ETag by content is stable. Links are relative, so one rendering serves
every spelling of an index. Texts of upstreams and uploads are hostile: the HTML escapes all of them, and a key is
written only where its value is known, never as null, because uv refuses whole pages for some nulls (protocol 1.4).

A page may have thousands of files, so they are written value by value: what one step does to all filenames costs a
fraction of as many calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, UnsetType

from proxy.domain.addresses import file_hrefs, name_href
from proxy.domain.moments import iso
from proxy.domain.negotiate import Representation
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status, api_version
from proxy.domain.screen import Withheld
from proxy.domain.sorted_names import lines

API_VERSION = "1.4"
"""Of lists of names, and of all HTML: that form is frozen (PEP 833), and no mandatory field can be missing."""
_LINKS = "\0"
"""Stands for the links while the document around them is made."""


class _Meta(msgspec.Struct, frozen=True, rename="kebab"):
    api_version: str


class _Hashes(msgspec.Struct, frozen=True, gc=False):
    # pip verifies the first hash alone, so there is no other.
    sha256: str | UnsetType = UNSET


class _File(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    filename: str
    url: str
    hashes: _Hashes
    requires_python: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    upload_time: datetime | UnsetType = UNSET
    yanked: bool | str | UnsetType = UNSET
    core_metadata: bool | _Hashes | UnsetType = UNSET
    # PyPI's spelling of the older name. The right one would make pip 22.3 to 23.1 stop: they take it for text.
    legacy_metadata: bool | _Hashes | UnsetType = msgspec.field(default=UNSET, name="data-dist-info-metadata")
    provenance: str | UnsetType = UNSET


class _Status(msgspec.Struct, frozen=True):
    status: str
    reason: str | UnsetType = UNSET


class _Withheld(msgspec.Struct, frozen=True):
    filename: str
    version: str | None
    rule: str
    reason: str
    until: str | None


class _Page(msgspec.Struct, frozen=True, rename="kebab"):
    meta: _Meta
    name: str
    files: list[_File]
    versions: tuple[str, ...]
    project_status: _Status | UnsetType = UNSET
    withheld: list[_Withheld] | UnsetType = msgspec.field(default=UNSET, name="_withheld")


def render_page(
    page: Page,
    representation: Representation,
    withheld: Iterable[Withheld] = (),
    external_url: str | None = None,
    base: str = "../..",
) -> bytes:
    """A project page as UTF-8 bytes.

    Args:
        page: its files stand in the order in which they are shown.
        representation: both HTML types have the same bytes.
        withheld: what is not served and why; the JSON form lists it under `_withheld` (contract 12). What of it is
            to be shown all the same stands among the files of `page`, marked as yanked.
        external_url: the server's own address; only an https one can lead to provenance (PEP 740).
        base: the way from the page to the base below which the files are, as `file_href` has it; HTML alone.
    """
    origin = external_url if external_url is not None and external_url.startswith("https://") else None
    if representation is Representation.JSON:
        return _page_json(page, withheld, origin)
    return _page_html(page, origin, base).encode()


def render_names(pieces: Iterable[bytes], representation: Representation) -> Iterator[bytes]:
    """A list of names as UTF-8 bytes, piece by piece: it may be long.

    Args:
        pieces: the names in the order in which they are shown, each once, as `SortedNames.text` gives them.
    """
    if representation is Representation.JSON:
        yield b'{"meta":' + msgspec.json.encode(_Meta(API_VERSION)) + b',"projects":['
        comma = b""
        for piece in filter(None, pieces):
            # No name has a character that JSON escapes.
            yield comma + b'{"name":"' + piece[:-1].replace(b"\n", b'"},{"name":"') + b'"}'
            comma = b","
        yield b"]}"
        return
    head, foot = _document("Simple index", "", _LINKS).split(_LINKS)
    yield head.encode()
    for piece in pieces:
        yield "".join([f'<a href="{name_href(name)}">{name}</a><br>\n' for name in lines(piece)]).encode()
    yield foot.encode()


def _page_json(page: Page, withheld: Iterable[Withheld], origin: str | None) -> bytes:
    version = api_version(page)
    status: _Status | UnsetType = UNSET
    # The key is of 1.4, but clients honour it in any version, and a quarantine must not get lost.
    if version == API_VERSION or page.status.status is not Status.ACTIVE:
        status = _Status(page.status.status.value, page.status.reason or UNSET)
    left_out = [
        _Withheld(item.filename, item.version, item.rule, item.reason, iso(item.until)) for item in withheld
    ]
    return msgspec.json.encode(
        _Page(
            _Meta(version),
            page.name,
            _files_json(page.files, origin),
            page.versions,
            status,
            left_out or UNSET,
        )
    )


def _files_json(files: Sequence[FileRecord], origin: str | None) -> list[_File]:
    metadata: list[bool | _Hashes | UnsetType] = [
        UNSET if said is None else _Hashes(said) if isinstance(said, str) else said
        for said in _metadata(files)
    ]
    made = map(
        _File,
        [file.filename for file in files],
        file_hrefs(_keys(files), [file.filename for file in files]),
        [_Hashes(file.sha256 or UNSET) for file in files],
        [UNSET if file.requires_python is None else file.requires_python for file in files],
        [UNSET if file.size is None else file.size for file in files],
        [UNSET if file.uploaded is None else _utc(file.uploaded) for file in files],
        # Empty text would count as yanked for uv and as not yanked for pip.
        [UNSET if file.yanked is False else file.yanked or True for file in files],
        metadata,
        metadata,
        [UNSET if file.provenance is None else _provenance(file, origin) or UNSET for file in files],
    )
    return list(made)


def _keys(files: Iterable[FileRecord]) -> list[str]:
    return [file.sha256 or file.key for file in files]


def _metadata(files: Iterable[FileRecord]) -> list[bool | str | None]:
    return [file.advertised for file in files]


def _provenance(record: FileRecord, origin: str | None) -> str | None:
    """The absolute address of a file's provenance; None where there is none, or no secure origin for ours."""
    if record.provenance is None or not record.provenance.startswith("/"):
        return record.provenance
    return None if origin is None else origin + record.provenance


def _utc(moment: datetime) -> datetime:
    """`moment` as msgspec writes it in the form of PEP 700: `Z`, and six digits of a second or none."""
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _page_html(page: Page, origin: str | None, base: str) -> str:
    files = page.files
    filenames = [file.filename for file in files]
    links = zip(
        _escaped(file_hrefs(_keys(files), filenames, base)),
        [f"#sha256={digest}" if digest else "" for digest in _escaped([file.sha256 or "" for file in files])],
        _attributes("data-requires-python", [file.requires_python for file in files]),
        _metadata_attributes(files),
        _attributes(
            "data-yanked",
            [None if file.yanked is False else "" if file.yanked is True else file.yanked for file in files],
        ),
        _attributes("data-provenance", [_provenance(file, origin) or None for file in files]),
        _escaped(filenames),
        strict=True,
    )
    lines = [
        f'<a href="{href}{digest}"{python}{metadata}{yanked}{provenance}>{filename}</a><br>\n'
        for href, digest, python, metadata, yanked, provenance, filename in links
    ]
    return _document(f"Links for {page.name}", _status_meta(page.status), "".join(lines))


def _attributes(name: str, values: Sequence[str | None]) -> list[str]:
    """For each value the attribute, with a space in front of it; the files of a page share a handful of values."""
    texts = {value: "" if value is None else f' {name}="{_escape(value)}"' for value in set(values)}
    return [texts[value] for value in values]


def _metadata_attributes(files: Sequence[FileRecord]) -> list[str]:
    said = _metadata(files)
    digests = _escaped([one if isinstance(one, str) else "" for one in said])
    values = [
        f"sha256={digest}" if digest else "true" if one else ""
        for digest, one in zip(digests, said, strict=True)
    ]
    # The second is the older name of the same (PEP 658, 714).
    return [
        f' data-core-metadata="{value}" data-dist-info-metadata="{value}"' if value else ""
        for value in values
    ]


def _status_meta(status: ProjectStatus) -> str:
    meta = f'<meta name="pypi:project-status" content="{status.status.value}">\n'
    if status.reason:
        meta += f'<meta name="pypi:project-status-reason" content="{_escape(status.reason)}">\n'
    return meta


def _document(title: str, meta: str, body: str) -> str:
    """An HTML5 document; `meta` and `body` are HTML already."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="pypi:repository-version" content="{API_VERSION}">\n'
        f"{meta}<title>{_escape(title)}</title>\n</head>\n<body>\n<h1>{_escape(title)}</h1>\n"
        f"{body}</body>\n</html>\n"
    )


# Line ends are written as references, since clients read links line by line and with simple expressions; a
# reference to CR is no HTML. Other control characters and noncharacters have no place in it either.
_SPECIAL = re.compile("[&<>\"'\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_HARMLESS = bytes(set(range(0x20, 0x7F)) - set(b"&<>\"'"))
_REFERENCES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
    "\t": "&#9;",
    "\n": "&#10;",
    "\r": "&#10;",
}


def _escape(text: str) -> str:
    """`text` for use as content and between double quotes."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda found: _REFERENCES.get(found[0], "\N{REPLACEMENT CHARACTER}"), text)


def _escaped(texts: Sequence[str]) -> Sequence[str]:
    """Each as `_escape`; together where nothing in any of them needs it, as nearly always."""
    together = "".join(texts)
    if together.isascii() and not together.encode().translate(None, _HARMLESS):
        return texts
    return [_escape(text) for text in texts]
