"""Bytes of an upstream's project page, JSON (PEP 691) or HTML (PEP 503), to a `Page`; of its root list, to names.

Nothing passes that is not on the allow-list below: every value is checked and written anew, unknown keys
vanish, and one bad file costs that file, not the page. What is no index page at all, or another project's,
is `Unusable`. Where a link leads is not judged here (`client.Upstream.check_url` does, when it is followed).

Synchronous and free of I/O: `client` runs it in a thread where the page is big.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser

from proxy.domain.filenames import candidate_names, version_of
from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status
from proxy.errors import InvalidName

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPES = frozenset({"application/vnd.pypi.simple.v1+html", "text/html"})

MAX_TEXT = 1000
"""Characters kept of a yank reason, a status reason or Requires-Python."""
MAX_URL = 4000
_BOMB_RATIO = 100
_BOMB_FLOOR = 8 << 20
"""Index pages compress 5 to 20 times. What unpacks to more than 8 MiB and 100 times its size is a bomb."""
_PIECE = 1 << 20
"""Bytes that are unpacked, or read as HTML, in one go."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9])?\Z|\[[0-9a-f:.]+\]\Z")
_RELATIVE = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]*)/?\Z", re.ASCII)
_CLOSED = re.compile(rb"</(?:html|body)\s*>", re.IGNORECASE)
_TAIL = 1000
"""Bytes at the end of which one must close the document; PyPI puts a comment behind it."""
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


class _JsonPage(msgspec.Struct, rename="kebab"):
    """A JSON page whose file entries are still bytes, so that a bad one spoils none of the others."""

    files: list[msgspec.Raw]
    meta: Any = None
    name: Any = None
    versions: Any = None
    project_status: Any = None


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
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unusable("it is not the JSON of a list of names") from error
    if isinstance(raw.meta, dict):
        _check_version(raw.meta.get("api-version"))
    decoder = msgspec.json.Decoder(_JsonNamed)
    for entry in raw.projects:
        try:
            named = decoder.decode(entry).name
            if isinstance(named, str):
                yield parse_name(named)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, InvalidName):
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


def _parse_json(body: bytes, base_url: str, name: Name) -> Page:
    try:
        raw = msgspec.json.decode(body, type=_JsonPage)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unusable("it is not the JSON of a project page") from error
    if isinstance(raw.meta, dict):
        _check_version(raw.meta.get("api-version"))
    if raw.name is not None:
        check_name(raw.name if isinstance(raw.name, str) else "", name)
    status = raw.project_status if isinstance(raw.project_status, dict) else {}
    listed = raw.versions if isinstance(raw.versions, list) else []
    records = (_json_record(entry, base_url, name) for entry in raw.files)
    return _page(name, records, listed, _status(status.get("status"), status.get("reason")))


_FILE_DECODER = msgspec.json.Decoder(_JsonFile)


def _json_record(raw: msgspec.Raw, base_url: str, name: Name) -> FileRecord | None:
    try:
        entry = _FILE_DECODER.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not isinstance(entry.url, str) or not isinstance(entry.filename, str):
        return None
    hashes = entry.hashes if isinstance(entry.hashes, dict) else {}
    spellings = (entry.core_metadata, entry.dist_info_metadata, entry.data_dist_info_metadata)
    core_metadata = next((value for value in spellings if value is not None), None)
    if isinstance(core_metadata, dict):
        core_metadata = _digest(core_metadata.get("sha256")) or True
    elif not isinstance(core_metadata, bool):
        core_metadata = None
    size = entry.size
    return _record(
        name,
        urljoin_safely(base_url, entry.url),
        filename=entry.filename,
        sha256=hashes.get("sha256"),
        size=size if type(size) is int and 0 <= size < 1 << 63 else None,
        uploaded=entry.upload_time,
        requires_python=entry.requires_python,
        core_metadata=core_metadata,
        yanked=True if entry.yanked == "" else entry.yanked or False,
        provenance=entry.provenance,
    )


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
    records = (_html_record(anchor.attributes, base_url, name) for anchor in anchors)
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


def _html_record(attributes: dict[str, str | None], base_url: str, name: Name) -> FileRecord | None:
    url = urljoin_safely(base_url, attributes.get("href") or "")
    path = urlsplit(url).path if url is not None else ""
    filename = unquote(path.rpartition("/")[2])
    # A page may link to anything; only what can be a distribution counts as one of its files.
    if not candidate_names(filename):
        return None
    core_metadata: bool | str | None = None
    for key in ("data-core-metadata", "data-dist-info-metadata"):
        if key in attributes:
            algorithm, _, value = (attributes[key] or "true").partition("=")
            core_metadata = (algorithm == "sha256" and _digest(value)) or algorithm.lower() != "false"
            break
    return _record(
        name,
        url,
        filename=filename,
        sha256=None,
        size=None,
        # Not part of the standard's HTML; some mirrors give it all the same.
        uploaded=attributes.get("data-upload-time"),
        requires_python=attributes.get("data-requires-python"),
        core_metadata=core_metadata,
        yanked=(attributes["data-yanked"] or True) if "data-yanked" in attributes else False,
        provenance=attributes.get("data-provenance"),
    )


def _record(
    name: Name,
    url: str | None,
    *,
    filename: str,
    sha256: Any,
    size: int | None,
    uploaded: Any,
    requires_python: Any,
    core_metadata: bool | str | None,
    yanked: Any,
    provenance: Any,
) -> FileRecord | None:
    """Check the parts both forms share; None if the file cannot be listed.

    A digest that is there but makes no sense excludes the file: without it the file would go unverified.
    """
    # Its own address would not lead to it (`candidate_names`), so it is not listed either.
    if url is None or name not in candidate_names(filename):
        return None
    address, _, fragment = url.partition("#")
    if unquote(urlsplit(address).path.rpartition("/")[2]) != filename:
        return None
    named = sha256 or _from_fragment(fragment)
    digest = _digest(named)
    if named and digest is None:
        return None
    return FileRecord(
        filename=filename,
        sha256=digest,
        url=address,
        size=size,
        uploaded=_instant(uploaded),
        requires_python=_text(requires_python),
        core_metadata=core_metadata,
        yanked=(_text(yanked) or True) if yanked else False,
        provenance=_provenance(provenance),
        version=version_of(filename, name),
    )


def _page(
    name: Name, records: Iterable[FileRecord | None], listed: Iterable[Any], status: ProjectStatus
) -> Page:
    files: dict[str, FileRecord] = {}
    for record in records:
        if record is not None:
            files.setdefault(record.filename, record)
    versions = dict.fromkeys((*_versions(listed), *(file.version for file in files.values() if file.version)))
    return Page(name=name, files=tuple(files.values()), versions=tuple(versions), status=status)


def _versions(listed: Iterable[Any]) -> Iterator[str]:
    for version in listed:
        # Old releases have versions that PEP 440 does not know; they are passed on, as text.
        if isinstance(version, str) and version and len(version) <= 200 and version.isprintable():
            yield version


def urljoin_safely(base_url: str, href: str) -> str | None:
    """`href` made absolute: http or https, no user info, default port dropped, ASCII; None if that fails."""
    if len(href) > MAX_URL:
        return None
    try:
        parts = urlsplit(urljoin(base_url, href.strip()))
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    if ":" in host:
        host = f"[{host}]"
    if parts.scheme not in ("http", "https") or _HOST.match(host) is None:
        return None
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        host = f"{host}:{port}"
    try:
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        fragment = quote(parts.fragment, safe="=&")
    except UnicodeError:
        return None
    return f"{parts.scheme}://{host}{path or '/'}{'?' + query if query else ''}{'#' + fragment if fragment else ''}"


def _from_fragment(fragment: str) -> str | None:
    for part in fragment.split("&"):
        algorithm, _, value = part.partition("=")
        if algorithm.lower() == "sha256":
            return value
    return None


def _digest(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    lower = value.lower()
    return lower if _SHA256.match(lower) else None


def _text(value: Any) -> str | None:
    """A free text without control characters, cut to `MAX_TEXT`; None if nothing is left or it is no text."""
    if not isinstance(value, str):
        return None
    if not value.isprintable():
        value = "".join(char if char.isprintable() else " " for char in value[: 4 * MAX_TEXT])
    return value[:MAX_TEXT].strip() or None


def _instant(value: Any) -> datetime | None:
    """An ISO 8601 time with an offset, in UTC. Times without one are of no use for ages."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _provenance(value: Any) -> str | None:
    if not isinstance(value, str) or not value.lower().startswith("https://"):
        return None
    return urljoin_safely(value, "")


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
