"""What an index says of one project: `Page` and its `FileRecord`s, the one form behind HTML and JSON.

`upstream.parse` and `registry.packages` make pages, `cache.pages` keeps them as msgpack, `screen` filters
them, `render` writes them. Values are already validated: whoever makes a record leaves out what is not valid.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from datetime import datetime
from enum import StrEnum
from urllib.parse import unquote, urlsplit

import msgspec

from proxy.domain.names import Name
from proxy.domain.versions import known_version, public_key

_BLAKE2B_PATH = re.compile(r"/packages/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{60})/([^/]+)\Z", re.ASCII)


class Status(StrEnum):
    """Project status markers (PEP 792)."""

    ACTIVE = "active"
    ARCHIVED = "archived"
    QUARANTINED = "quarantined"
    DEPRECATED = "deprecated"


class ProjectStatus(msgspec.Struct, frozen=True):
    """A project's status and the index's free text about it."""

    status: Status = Status.ACTIVE
    reason: str | None = None


class FileRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a page says of one file.

    Attributes:
        filename: validated: ASCII, no separators of paths; also the last segment of its address.
        sha256: lower-case hex, or None where an upstream names none.
        url: absolute address at the upstream, without fragment; empty for private files.
        size: bytes, if known.
        uploaded: aware UTC, if known.
        requires_python: as the file says, unvalidated text.
        core_metadata: None: unknown; False: none; True: there is some; a str: its sha256 in lower-case hex.
        yanked: False, True, or the non-empty reason (PEP 592).
        provenance: absolute https address of the upstream's provenance, or None (PEP 740); of a private file
            a path from the root of this server, which pages show where they know the server's own address.
        version: as far as it follows from the filename, in the filename's spelling; None if it does not.
    """

    filename: str
    sha256: str | None = None
    url: str = ""
    size: int | None = None
    uploaded: datetime | None = None
    requires_python: str | None = None
    core_metadata: bool | str | None = None
    yanked: bool | str = False
    provenance: str | None = None
    version: str | None = None

    @property
    def key(self) -> str:
        """What stands in our file addresses: the sha256, or `url-` and the sha256 of the upstream's address."""
        return self.sha256 or url_key(self.url)

    @property
    def advertised(self) -> bool | str | None:
        """What pages say of core metadata: every wheel has some, whatever its upstream says (contract 7)."""
        return self.core_metadata or self.filename.endswith(".whl") or self.core_metadata

    def answers_to(self, key: str) -> bool:
        """Whether `key` addresses this file, also when its sha256 became known after the address was given."""
        if self.sha256 == key:
            return True
        return key.startswith("url-") and bool(self.url) and url_key(self.url) == key


class Page(msgspec.Struct, frozen=True):
    """A project page. Files stand in the order in which they are shown.

    `versions` lists every version known, also those without files; it contains each file's version.
    """

    name: Name
    files: tuple[FileRecord, ...] = ()
    versions: tuple[str, ...] = ()
    status: ProjectStatus = ProjectStatus()


class ChangedFile(msgspec.Struct, frozen=True):
    """A filename that a newer page of the same upstream names with another sha256."""

    filename: str
    version: str | None
    before: str
    after: str


def changed_files(before: Page, after: Page) -> list[ChangedFile]:
    """The files of `after` that stand on `before` with another sha256, in the order of the page.

    Where one of the two pages names no sha256 there is nothing to compare.
    """
    known = {file.filename: file.sha256 for file in before.files}
    return [
        ChangedFile(file.filename, file.version, earlier, file.sha256)
        for file in after.files
        if file.sha256 is not None
        and (earlier := known.get(file.filename)) is not None
        and earlier != file.sha256
    ]


def shadowed(
    page: Page, filenames: Collection[str], taken: Collection[str]
) -> tuple[Page, tuple[FileRecord, ...]]:
    """What is left of an upstream's page beside private files of the same name, and the files that are not.

    A file goes where a private one has its filename or its version, whatever the local parts: `1.0+other` would be
    installed in place of `1.0` (protocol T-CONF5). So does one whose version does not follow from its name.

    Args:
        filenames: of the private files.
        taken: their versions, and those of private files that are not shown, as `versions.public_key` has them.

    Sources: contract 4.3.
    """
    texts = {file.version for file in page.files}.union(page.versions)
    gone = {text for text in texts if _is_taken(text, taken)}
    if not gone and not any(file.filename in filenames for file in page.files):
        return page, ()
    kept: list[FileRecord] = []
    dropped: list[FileRecord] = []
    for file in page.files:
        (dropped if file.version in gone or file.filename in filenames else kept).append(file)
    versions = tuple(version for version in page.versions if version not in gone)
    return Page(page.name, tuple(kept), versions, page.status), tuple(dropped)


def _is_taken(text: str | None, taken: Collection[str]) -> bool:
    version = known_version(text)
    if version is None:
        return text is None
    return public_key(version) in taken


def overlay(private: Page, upstream: Page) -> Page:
    """Private files, then those of an upstream that `shadowed` left, as one page (contract 4.3)."""
    versions = tuple(dict.fromkeys((*private.versions, *upstream.versions)))
    status = together((private.status, upstream.status))
    return Page(private.name, (*private.files, *upstream.files), versions, status)


_GRAVITY = (Status.ACTIVE, Status.ARCHIVED, Status.DEPRECATED)
"""From the status that says least against a project; quarantine is told of those alone that offer nothing."""


def together(statuses: Iterable[ProjectStatus]) -> ProjectStatus:
    """What a page that joins projects says of them: the worst; `quarantined` only where all of them are.

    A quarantined page with files on it would contradict itself (PEP 792).
    """
    told = tuple(statuses)
    offering = [each for each in told if each.status is not Status.QUARANTINED]
    if not offering:
        return told[0] if told else ProjectStatus()
    return max(offering, key=lambda each: _GRAVITY.index(each.status))


def url_key(url: str) -> str:
    """`url-` and the hex sha256 of an upstream file's address, for files whose sha256 is not known."""
    return "url-" + hashlib.sha256(url.encode()).hexdigest()


def blake2b_in_path(record: FileRecord) -> str | None:
    """The hex BLAKE2b-256 that a file's address names, if its path is of PyPI's shape; else None.

    PyPI's paths are `/packages/`, 2, 2 and 60 digits, and the filename. Other file hosts cut other digests up like
    this: what is the page's sha256 is none of BLAKE2b. Metadata stand below the digest of their file, so it
    says nothing of theirs.
    """
    match = _BLAKE2B_PATH.match(urlsplit(record.url).path)
    if match is None or unquote(match[4]) != record.filename or record.filename.endswith(".metadata"):
        return None
    digest = match[1] + match[2] + match[3]
    return None if digest == record.sha256 else digest


def api_version(page: Page) -> str:
    """The highest version of the simple API whose mandatory fields `page` fills (PEP 700: size from 1.1 on)."""
    return "1.4" if all(file.size is not None for file in page.files) else "1.0"
