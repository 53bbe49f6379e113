"""Bytes of an upstream's JSON API (PyPI's `/pypi/{name}/json`) to an `UpstreamDocument`.

Nothing passes that is not on the allow-list below: every value is checked and written anew, unknown keys vanish,
and one bad file or advisory costs that one, not the document. No address of a file is taken over, so none can lead
clients past us. What is no such document, or another project's or release's, is `Unusable`.

Synchronous and free of I/O: `client` runs it in a thread where the document is big.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from proxy.domain.documents import (
    MAX_DESCRIPTION,
    PACKAGE_TYPES,
    About,
    FileNote,
    UpstreamDocument,
    Vulnerability,
    equality_key,
    web_address,
)
from proxy.domain.names import Name
from proxy.domain.versions import MAX_VERSION_LENGTH
from proxy.upstream.parse import Unusable, check_name

MAX_TEXT = 64 << 10
"""Characters kept of any other text; old projects have their whole licence in `license`."""
MAX_ITEMS = 2000
"""Items kept of a list."""

_HEX_32 = re.compile(r"[0-9a-f]{32}\Z")
_HEX_64 = re.compile(r"[0-9a-f]{64}\Z")
_PYTHON_VERSION = re.compile(r"[A-Za-z0-9._]{1,60}\Z", re.ASCII)

_BROKEN = (msgspec.MsgspecError, UnicodeError, RecursionError)


class _Document(msgspec.Struct):
    """A document whose parts are still bytes, so that a bad one spoils none of the others."""

    info: dict[str, Any]
    releases: msgspec.Raw = msgspec.Raw()
    urls: msgspec.Raw = msgspec.Raw()
    vulnerabilities: msgspec.Raw = msgspec.Raw()


class _File(msgspec.Struct, gc=False):
    """One file entry before any check: all values may be anything."""

    digests: Any = None
    md5_digest: Any = None
    comment_text: Any = None
    packagetype: Any = None
    python_version: Any = None
    upload_time: Any = None
    upload_time_iso_8601: Any = None


_FILE_DECODER = msgspec.json.Decoder(_File)
_RELEASES_DECODER = msgspec.json.Decoder(dict[str, list[msgspec.Raw]])
_LIST_DECODER = msgspec.json.Decoder(list[msgspec.Raw])


def parse_document(body: bytes, content_type: str, name: Name, version: str | None) -> UpstreamDocument:
    """Read the document of `name`, or of its release `version`.

    Args:
        body: the decoded body.
        content_type: the value of the header; parameters are ignored.
        version: None for the document of the project, which tells of a release of the upstream's choice.

    Returns:
        A document whose files are noted once each, by their sha256.

    Raises:
        Unusable: no JSON document of this kind, or another project's or release's.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Unusable("it is not of the type application/json")
    try:
        raw = msgspec.json.decode(body, type=_Document)
    except _BROKEN as error:
        raise Unusable("it is not a document of the JSON API") from error
    info = raw.info
    said = info.get("version")
    if not isinstance(said, str) or not 0 < len(said) <= MAX_VERSION_LENGTH:
        raise Unusable("it names no version")
    if version is not None and equality_key(said) != equality_key(version):
        raise Unusable("it is of another version")
    check_name(info["name"] if isinstance(info.get("name"), str) else "", name)
    notes = {note.sha256: note for note in _notes((*_released(raw.releases), *_listed(raw.urls)))}
    return UpstreamDocument(
        name, said, _about(info), tuple(notes.values()), tuple(_vulnerabilities(raw.vulnerabilities))
    )


def _released(raw: msgspec.Raw) -> Iterator[msgspec.Raw]:
    try:
        releases = _RELEASES_DECODER.decode(raw)
    except _BROKEN:
        return
    for files in releases.values():
        yield from files


def _listed(raw: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return _LIST_DECODER.decode(raw)
    except _BROKEN:
        return []


def _notes(entries: Iterable[msgspec.Raw]) -> Iterator[FileNote]:
    for raw in entries:
        try:
            entry = _FILE_DECODER.decode(raw)
        except _BROKEN:
            continue
        digests = entry.digests if isinstance(entry.digests, dict) else {}
        sha256 = _digest(digests.get("sha256"), _HEX_64)
        if sha256 is None:
            continue
        packagetype, python = entry.packagetype, entry.python_version
        yield FileNote(
            sha256,
            _digest(digests.get("md5"), _HEX_32) or _digest(entry.md5_digest, _HEX_32),
            _digest(digests.get("blake2b_256"), _HEX_64),
            _text(entry.comment_text),
            packagetype if isinstance(packagetype, str) and packagetype in PACKAGE_TYPES else None,
            python if isinstance(python, str) and _PYTHON_VERSION.match(python) else None,
            _instant(entry.upload_time_iso_8601) or _instant(entry.upload_time),
        )


def _vulnerabilities(raw: msgspec.Raw) -> Iterator[Vulnerability]:
    try:
        entries = msgspec.json.decode(raw, type=list[Any])[:MAX_ITEMS]
    except _BROKEN:
        return
    for entry in entries:
        if not isinstance(entry, dict) or not (known := _text(entry.get("id"))):
            continue
        yield Vulnerability(
            id=known,
            source=_text(entry.get("source")),
            link=web_address(_text(entry.get("link"))),
            aliases=_texts(entry.get("aliases")) or (),
            details=_text(entry.get("details")),
            summary=_text(entry.get("summary")) or None,
            fixed_in=_texts(entry.get("fixed_in")) or (),
            withdrawn=_text(entry.get("withdrawn")) or None,
        )


def _about(info: dict[str, Any]) -> About:
    def text(key: str) -> str:
        return _text(info.get(key))

    def texts(key: str) -> tuple[str, ...] | None:
        return _texts(info.get(key))

    urls = info.get("project_urls")
    return About(
        name=text("name"),
        summary=text("summary"),
        description=_text(info.get("description"), MAX_DESCRIPTION),
        description_content_type=text("description_content_type") or None,
        keywords=text("keywords"),
        home_page=web_address(text("home_page")),
        download_url=web_address(text("download_url")),
        author=text("author"),
        author_email=text("author_email"),
        maintainer=text("maintainer"),
        maintainer_email=text("maintainer_email"),
        license=text("license"),
        license_expression=text("license_expression") or None,
        license_files=texts("license_files"),
        platform=text("platform") or None,
        classifiers=texts("classifiers") or (),
        requires_python=text("requires_python") or None,
        requires_dist=texts("requires_dist"),
        provides_extra=texts("provides_extra"),
        dynamic=texts("dynamic"),
        project_urls=_urls(urls) if isinstance(urls, dict) else None,
    )


def _urls(urls: dict[Any, Any]) -> dict[str, str] | None:
    kept = {str(label)[:200]: web_address(_text(url)) for label, url in list(urls.items())[:MAX_ITEMS]}
    return {label: url for label, url in kept.items() if url} or None


def _text(value: Any, limit: int = MAX_TEXT) -> str:
    return value[:limit] if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(text for text in map(_text, value[:MAX_ITEMS]) if text) or None


def _digest(value: Any, form: re.Pattern[str]) -> str | None:
    if not isinstance(value, str):
        return None
    lower = value.lower()
    return lower if form.match(lower) else None


def _instant(value: Any) -> datetime | None:
    """An ISO 8601 time; without an offset it is UTC, as PyPI writes `upload_time`."""
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
