"""Bytes of an upstream's project page, JSON (PEP 691) or HTML (PEP 503), to a `Page`; of its root list, to names.

Nothing passes that is not on the allow-list below: every value is checked and written anew, unknown keys
vanish, and one bad file costs that file, not the page. What is no index page at all, or another project's,
is `Unusable`. Where a link leads is not judged here (`client.Upstream.check_url` does, when it is followed).

Synchronous and free of I/O: `client` runs it in a thread where the page is big.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser

from proxy.domain.filenames import Usual, candidate_names, version_of
from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.errors import InvalidName
from proxy.upstream.links import Links, urljoin_safely

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPES = frozenset({"application/vnd.pypi.simple.v1+html", "text/html"})

MAX_TEXT = 1000
"""Characters kept of a yank reason, a status reason or Requires-Python."""
_BOMB_RATIO = 50
_BOMB_FLOOR = 8 << 20
"""Index pages compress 5 to 20 times. What unpacks to more than 8 MiB and 50 times its size is a bomb."""
_PIECE = 1 << 20
"""Bytes that are unpacked, or read as HTML, in one go."""

_RELATIVE = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]*)/?\Z", re.ASCII)
_CLOSED = re.compile(rb"</(?:html|body)\s*>", re.IGNORECASE)
_TAIL = 1000
"""Bytes at the end of which one must close the document; PyPI puts a comment behind it."""
_BROKEN = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What is raised where JSON is none."""
_HEADING = re.compile(r"\b(?:links for|index of|index for)\s+(\S+)", re.IGNORECASE | re.ASCII)


class Unusable(ValueError):
    """Not the simple page of the project that was asked for; the text says why in one clause."""


class _JsonFile(msgspec.Struct, gc=False, rename="kebab"):
    """One file entry before any check: all values may be anything."""

    filename: Any = None
    url: Any = None
    hashes: Any = None
    requires_python: Any = None
    core_metadata: Any = None
    dist_info_metadata: Any = None
    data_dist_info_metadata: Any = None
    yanked: Any = None
    size: Any = None
    upload_time: Any = None
    provenance: Any = None


class _JsonAbout(msgspec.Struct, rename="kebab", kw_only=True):
    """What a JSON page says beside its files."""

    meta: Any = None
    name: Any = None
    versions: Any = None
    project_status: Any = None


class _JsonPage(_JsonAbout):
    """A JSON page as nearly all are: each file entry is an object."""

    files: list[_JsonFile]


class _RawJsonPage(_JsonAbout):
    """A JSON page whose file entries are still bytes, so that a bad one spoils none of the others."""

    files: list[msgspec.Raw]


class _JsonNames(msgspec.Struct, rename="kebab"):
    """A list of names whose entries are still bytes, as `_JsonPage`."""

    projects: list[msgspec.Raw]
    meta: Any = None


class _JsonNamed(msgspec.Struct, gc=False):
    name: Any = None


def unzip(body: bytes, limit: int) -> bytes:
    """Undo gzip, stopping as soon as the result is longer than `limit` or is evidently a bomb (T-BOMB).

    Raises:
        Unusable: it is, or the body is damaged, cut off, or followed by something else.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in _inflated(body):
            size += len(piece)
            if size > limit or (size > _BOMB_FLOOR and size > _BOMB_RATIO * len(body)):
                raise Unusable("it unpacks to far more than a page")
            pieces.append(piece)
    except zlib.error as error:
        raise Unusable("its compressed body is damaged") from error
    return b"".join(pieces)


def _inflated(body: bytes) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=31)
    for place in range(0, len(body), _PIECE):
        if inflater.eof:
            raise Unusable("its compressed body is followed by something else")
        rest = body[place : place + _PIECE]
        while rest:
            yield inflater.decompress(rest, _PIECE)
            rest = inflater.unconsumed_tail
    # What was taken in may have more to give than was let out.
    while not inflater.eof:
        piece = inflater.decompress(b"", _PIECE)
        if not piece and not inflater.eof:
            raise Unusable("its compressed body ends too early")
        yield piece
    if inflater.unused_data:
        raise Unusable("its compressed body is followed by something else")


def parse_page(body: bytes, content_type: str, base_url: str, name: Name) -> Page:
    """Read the project page of `name`.

    Args:
        body: the decoded body.
        content_type: the value of the header; parameters are ignored, the text is taken as UTF-8.
        base_url: the address the answer finally came from, after redirects; links are relative to it.

    Returns:
        A page whose files have unique, safe filenames, in the upstream's order; of equal filenames the first.

    Raises:
        Unusable: another content type, no simple page, a newer major version, or another project's page.

    Sources: PEP 503, 592, 629, 658, 691, 700, 714, 740, 792.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON_TYPE:
        return _parse_json(body, base_url, name)
    if media_type in HTML_TYPES:
        return _parse_html(body, base_url, name)
    raise Unusable(f"content type {_shown(media_type)} is none of the simple API's")


def parse_names(body: bytes, content_type: str, base_url: str) -> Iterator[Name]:
    """Read the list of all names that an index has, its root page.

    Args:
        body, content_type, base_url: as for `parse_page`.

    Yields:
        Names in the order of the list; of equal ones each. What is no name is left out.

    Raises:
        Unusable: another content type, no whole list of names, or a newer major version. Names given before count
            for nothing then.

    Sources: PEP 503, 629, 691.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON_TYPE:
        yield from _json_names(body)
    elif media_type in HTML_TYPES:
        yield from _html_names(body, base_url)
    else:
        raise Unusable(f"content type {_shown(media_type)} is none of the simple API's")


def _json_names(body: bytes) -> Iterator[Name]:
    try:
        raw = msgspec.json.decode(body, type=_JsonNames)
    except _BROKEN as error:
        raise Unusable("it is not the JSON of a list of names") from error
    if isinstance(raw.meta, dict):
        _check_version(raw.meta.get("api-version"))
    decoder = msgspec.json.Decoder(_JsonNamed)
    for entry in raw.projects:
        try:
            named = decoder.decode(entry).name
            if isinstance(named, str):
                yield parse_name(named)
        except (*_BROKEN, InvalidName):
            continue


def _html_names(body: bytes, base_url: str) -> Iterator[Name]:
    """Names are the last segments of links to right below the list: texts may be cut short or otherwise spelled."""
    if _CLOSED.search(body[-_TAIL:]) is None:
        raise Unusable("it is not a whole HTML document")
    base, is_marked, has_names = base_url, False, False
    for piece in _html_pieces(body):
        tree = LexborHTMLParser(piece)
        for meta in tree.css('meta[name="pypi:repository-version"]'):
            is_marked = True
            _check_version(meta.attributes.get("content"))
        node = tree.css_first("base[href]")
        if node is not None:
            base = urljoin_safely(base_url, node.attributes.get("href") or "") or base
        for anchor in tree.css("a[href]"):
            segment = _below(base, anchor.attributes.get("href") or "")
            try:
                name = parse_name(segment)
            except InvalidName:
                continue
            has_names = True
            yield name
    if not has_names and not is_marked:
        raise Unusable("it has no names and nothing that marks it as a list of names")


def _html_pieces(body: bytes) -> Iterator[str]:
    """The document in pieces that end behind a link: a tree of all of it would be twenty times its size."""
    begin = 0
    while begin < len(body):
        end = body.find(b"</a>", begin + _PIECE)
        end = len(body) if end < 0 else end + len(b"</a>")
        yield body[begin:end].decode("utf-8", "replace")
        begin = end


def _below(base: str, href: str) -> str:
    """The one segment below `base` that a link leads to, decoded; empty where it leads elsewhere."""
    above = base.rpartition("/")[0] + "/"
    # Nearly all are of these two forms, and telling them by sight spares ten seconds of a long list.
    found = _RELATIVE.match(href.removeprefix(above[above.find("/", len("https://")) :]))
    if found is not None:
        return found[1]
    url = (urljoin_safely(base, href) or "").partition("#")[0]
    segment = url[len(above) :].removesuffix("/") if url.startswith(above) else ""
    return unquote(segment)


_PAGE_DECODER = msgspec.json.Decoder(_JsonPage)
_RAW_PAGE_DECODER = msgspec.json.Decoder(_RawJsonPage)
_FILE_DECODER = msgspec.json.Decoder(_JsonFile)


def _parse_json(body: bytes, base_url: str, name: Name) -> Page:
    about, entries = _json_page(body)
    if isinstance(about.meta, dict):
        _check_version(about.meta.get("api-version"))
    if about.name is not None:
        check_name(about.name if isinstance(about.name, str) else "", name)
    status = about.project_status if isinstance(about.project_status, dict) else {}
    listed = about.versions if isinstance(about.versions, list) else []
    files = [entry for entry in entries if isinstance(entry.url, str) and isinstance(entry.filename, str)]
    links = Links(base_url)
    columns = _Columns(
        links.all_absolute([entry.url for entry in files]),
        [entry.filename for entry in files],
        [entry.hashes.get("sha256") if isinstance(entry.hashes, dict) else None for entry in files],
        [_size(entry.size) for entry in files],
        [entry.upload_time for entry in files],
        [entry.requires_python for entry in files],
        _said_of_metadata(files),
        [True if entry.yanked == "" else entry.yanked for entry in files],
        [None if entry.provenance is None else _provenance(entry.provenance, links) for entry in files],
    )
    return _page(name, _records(columns, name), listed, _status(status.get("status"), status.get("reason")))


def _json_page(body: bytes) -> tuple[_JsonAbout, Iterable[_JsonFile]]:
    with contextlib.suppress(*_BROKEN):
        page = _PAGE_DECODER.decode(body)
        return page, page.files
    try:
        raw = _RAW_PAGE_DECODER.decode(body)
    except _BROKEN as error:
        raise Unusable("it is not the JSON of a project page") from error
    return raw, _json_entries(raw.files)


def _json_entries(files: Iterable[msgspec.Raw]) -> Iterator[_JsonFile]:
    for file in files:
        with contextlib.suppress(*_BROKEN):
            yield _FILE_DECODER.decode(file)


def _size(size: Any) -> int | None:
    return size if type(size) is int and 0 <= size < 1 << 63 else None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _said_of_metadata(files: Sequence[_JsonFile]) -> list[bool | str | None]:
    """Core metadata by any of their three names: the digest, where one is given, or whether there are some."""
    said = [file.core_metadata for file in files]
    if None in said:
        said = [
            _first(one, file.dist_info_metadata, file.data_dist_info_metadata)
            for one, file in zip(said, files, strict=True)
        ]
    digests = iter(_digests([one.get("sha256") for one in said if isinstance(one, dict)]))
    return [
        (next(digests) or True) if isinstance(one, dict) else one if isinstance(one, bool) else None
        for one in said
    ]


def _parse_html(body: bytes, base_url: str, name: Name) -> Page:
    tree = LexborHTMLParser(body.decode("utf-8", "replace"))
    metas = {
        meta.attributes.get("name"): meta.attributes.get("content")
        for meta in tree.css("meta[name][content]")
    }
    version = metas.get("pypi:repository-version")
    if version is not None:
        _check_version(version)
    titled = _names_project(tree, name)
    base = tree.css_first("base[href]")
    if base is not None:
        base_url = urljoin_safely(base_url, base.attributes.get("href") or "") or base_url
    anchors = tree.css("a[href]")
    records = _records(_html_columns([anchor.attributes for anchor in anchors], Links(base_url)), name)
    status = _status(metas.get("pypi:project-status"), metas.get("pypi:project-status-reason"))
    page = _page(name, records, (), status)
    # A sign-in page, a notice, or the list of all projects is a 200 as well: no files are believed only of
    # a page that shows what it is.
    if not page.files and not titled and (version is None or anchors):
        raise Unusable("it has no files and nothing that marks it as the project's page")
    return page


def _names_project(tree: LexborHTMLParser, name: Name) -> bool:
    """Whether title or heading name this project; `Unusable` if they name another."""
    for node in tree.css("title, h1"):
        found = _HEADING.search(node.text(separator=" "))
        if found is None:
            continue
        try:
            heading = parse_name(found[1].rstrip("/").rpartition("/")[2])
        except InvalidName:
            continue
        if heading == name:
            return True
        if found[0].lower().startswith("links"):
            raise Unusable(f"it is the page of {heading}")
    return False


def _html_columns(anchors: Sequence[dict[str, str | None]], links: Links) -> _Columns:
    urls = links.all_absolute([attributes.get("href") or "" for attributes in anchors])
    return _Columns(
        urls,
        ["" if url is None else _filename(url.partition("#")[0]) for url in urls],
        [None] * len(anchors),
        [None] * len(anchors),
        # Not part of the standard's HTML; some mirrors give it all the same.
        [attributes.get("data-upload-time") for attributes in anchors],
        [attributes.get("data-requires-python") for attributes in anchors],
        [_core_metadata(attributes) for attributes in anchors],
        ["data-yanked" in attributes and (attributes["data-yanked"] or True) for attributes in anchors],
        [_provenance(attributes.get("data-provenance"), links) for attributes in anchors],
    )


def _core_metadata(attributes: dict[str, str | None]) -> bool | str | None:
    for key in ("data-core-metadata", "data-dist-info-metadata"):
        if key in attributes:
            algorithm, _, value = (attributes[key] or "true").partition("=")
            return (algorithm == "sha256" and _digest(value)) or algorithm.lower() != "false"
    return None


def _filename(address: str) -> str:
    """The last segment of the path of an absolute address without a fragment, decoded."""
    if "?" in address or "%" in address:
        return unquote(urlsplit(address).path.rpartition("/")[2])
    return address.rpartition("/")[2]


_Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Columns:
    """What a page says of its files: in each column one value for each file.

    Thousands are checked together at a fraction of what one call for each would cost.

    Attributes:
        urls: absolute; None: no address.
        filenames: as the page has them.
        sizes, core_metadata, provenance: checked; the others may be anything.
    """

    urls: Sequence[str | None]
    filenames: Sequence[str]
    sha256s: _Values
    sizes: Sequence[int | None]
    uploaded: _Values
    requires_python: _Values
    core_metadata: Sequence[bool | str | None]
    yanked: _Values
    provenance: Sequence[str | None]


def _records(columns: _Columns, name: Name) -> Iterator[FileRecord]:
    """The files that can be listed, in order.

    A digest that is there but makes no sense excludes the file: without it the file would go unverified.
    """
    urls = [url or "" for url in columns.urls]
    addresses = [url.partition("#")[0] for url in urls]
    named = [
        sha256 or _from_fragment(url.partition("#")[2])
        for sha256, url in zip(columns.sha256s, urls, strict=True)
    ]
    digests = _digests(named)
    usual = Usual(name)
    versions = [usual.version_of(filename) for filename in columns.filenames]
    is_listed = [digest is not None or not said for digest, said in zip(digests, named, strict=True)]
    pairs = enumerate(zip(addresses, columns.filenames, strict=True))
    for place in [
        place
        for place, (address, filename) in pairs
        if versions[place] is None or not address.endswith(f"/{filename}") or "?" in address
    ]:
        filename = columns.filenames[place]
        if _filename(addresses[place]) != filename:
            is_listed[place] = False
        elif versions[place] is None:
            # Its own address would not lead to it (`candidate_names`), so it is not listed either. A page in HTML
            # may link to anything at all.
            is_listed[place] &= name in candidate_names(filename)
            versions[place] = version_of(filename, name)
    records = map(
        FileRecord,
        columns.filenames,
        digests,
        addresses,
        columns.sizes,
        _instants(columns.uploaded),
        _texts(columns.requires_python),
        columns.core_metadata,
        [False if yanked is False else _yank(yanked) for yanked in columns.yanked],
        columns.provenance,
        versions,
    )
    return compress(records, is_listed)


def _yank(said: Any) -> bool | str:
    return (_text(said) or True) if said else False


def _page(name: Name, records: Iterable[FileRecord], listed: Iterable[Any], status: ProjectStatus) -> Page:
    files: dict[str, FileRecord] = {}
    for record in records:
        files.setdefault(record.filename, record)
    theirs = [file.version for file in files.values() if file.version]
    versions = dict.fromkeys(_versions(listed) + theirs)
    return Page(name=name, files=tuple(files.values()), versions=tuple(versions), status=status)


def _versions(listed: Iterable[Any]) -> list[str]:
    # Old releases have versions that PEP 440 does not know; they are passed on, as text.
    return [
        version
        for version in listed
        if isinstance(version, str) and version and len(version) <= 200 and version.isprintable()
    ]


def _from_fragment(fragment: str) -> str | None:
    for part in fragment.split("&"):
        algorithm, _, value = part.partition("=")
        if algorithm.lower() == "sha256":
            return value
    return None


def _digest(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        digits = bytes.fromhex(value).hex()
    except ValueError:
        return None
    # White space is let pass between digits.
    return digits if len(value) == len(digits) == 64 else None


def _digests(values: _Values) -> _Values:
    """Each as `_digest`; together where all are what they should be, as nearly always."""
    try:
        digits = "".join(values)
        if {len(value) for value in values} == {64} and bytes.fromhex(digits).hex() == digits:
            return values
    except (TypeError, ValueError):
        pass
    return [_digest(value) for value in values]


def _text(value: Any) -> str | None:
    """A free text without control characters, cut to `MAX_TEXT`; None if nothing is left or it is no text."""
    if not isinstance(value, str):
        return None
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value[: 4 * MAX_TEXT])
    return value[:MAX_TEXT].strip() or None


def _texts(values: _Values) -> list[str | None]:
    """Each as `_text`; the files of a page share a handful."""
    known = {value: _text(value) for value in {value for value in values if isinstance(value, str)}}
    return [known[value] if isinstance(value, str) else None for value in values]


def _instant(value: Any) -> datetime | None:
    """An ISO 8601 time with an offset, in UTC. Times without one are of no use for ages."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _instants(values: _Values) -> list[datetime | None]:
    """Each as `_instant`; together where all are in UTC already, as nearly always."""
    with contextlib.suppress(TypeError, ValueError):
        instants = list(map(datetime.fromisoformat, values))
        if {instant.tzinfo for instant in instants} == {UTC}:
            return [*instants]
    return [None if value is None else _instant(value) for value in values]


def _provenance(value: Any, links: Links) -> str | None:
    if not isinstance(value, str) or not value.lower().startswith("https://"):
        return None
    return (links.plain(value) if "#" not in value else None) or urljoin_safely(value, "")


def _status(status: Any, reason: Any) -> ProjectStatus:
    try:
        known = Status(status)
    except ValueError:
        known = Status.ACTIVE
    return ProjectStatus(known, _text(reason))


def _check_version(version: Any) -> None:
    """Refuse a major version other than 1 (PEP 629); what is no version at all is let pass, as clients do."""
    if isinstance(version, str) and (major := version.partition(".")[0]).isdecimal() and int(major[:9]) != 1:
        raise Unusable(f"it speaks version {_shown(version)} of the simple API")


def check_name(said: str, name: Name) -> None:
    """Return if `said` names the project `name`.

    Raises:
        Unusable: another, or none.
    """
    try:
        canonical = parse_name(said)
    except InvalidName as error:
        raise Unusable("it names no valid project") from error
    if canonical != name:
        raise Unusable(f"it is that of {canonical}")


def _shown(value: str) -> str:
    return ascii(value[:60])
