"""The JSON API's document of a project or of one release, in PyPI's shape (protocol 5).

Which files stand in it is not decided here: they are those of a page, as `Index.page` decided and screened it, and
their links are ours. All else is ornament and may be missing: what the release says of itself (`About`), what an
upstream's own document adds to files (`FileNote`) and knows of vulnerabilities. Texts are strangers'; they stay
texts, and addresses among them are web addresses or nothing.

Equal arguments give equal bytes. Pure; a page of thousands of files takes milliseconds, so callers leave the loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, UnsetType
from packaging.version import Version

from proxy.domain.addresses import document_href, file_href, page_href
from proxy.domain.core_metadata import split_header
from proxy.domain.names import Name, parse_name
from proxy.domain.pages import FileRecord, Page
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidName, InvalidVersion

MAX_DESCRIPTION = 1 << 20
"""Characters kept of a description."""

_LONGEST_HEADER = 512 << 10
"""Characters that are read of the fields of METADATA: parsing eight MiB of them takes seconds and half a GiB."""
_LONGEST_URL = 4000
# How Metadata 1.x indents the lines of a description that stands in the header.
_INDENT = re.compile(r"\n(?: {7}\|| {8})")
_EGG_PYTHON = re.compile(r"[.-]py([0-9]+\.[0-9]+)(?:-[A-Za-z0-9_.-]+)?\.(?:egg|exe|msi)\Z", re.ASCII)
_PACKAGE_TYPES = {
    ".whl": "bdist_wheel",
    ".egg": "bdist_egg",
    ".exe": "bdist_wininst",
    ".msi": "bdist_msi",
    ".rpm": "bdist_rpm",
    ".deb": "bdist_dumb",
    ".dmg": "bdist_dmg",
}
PACKAGE_TYPES = frozenset({*_PACKAGE_TYPES.values(), "sdist"})
"""What `packagetype` may say."""


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a release says of itself; empty and None where it says nothing.

    `name` is in its own spelling. `home_page`, `download_url` and the values of `project_urls` have passed
    `web_address`.
    """

    name: str = ""
    summary: str = ""
    description: str = ""
    description_content_type: str | None = None
    keywords: str = ""
    home_page: str = ""
    download_url: str = ""
    author: str = ""
    author_email: str = ""
    maintainer: str = ""
    maintainer_email: str = ""
    license: str = ""
    license_expression: str | None = None
    license_files: tuple[str, ...] | None = None
    platform: str | None = None
    classifiers: tuple[str, ...] = ()
    requires_python: str | None = None
    requires_dist: tuple[str, ...] | None = None
    provides_extra: tuple[str, ...] | None = None
    dynamic: tuple[str, ...] | None = None
    project_urls: dict[str, str] | None = None


class FileNote(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What an upstream's document says of a file beyond its page; digests are lower-case hex."""

    sha256: str
    md5: str | None = None
    blake2b: str | None = None
    comment: str = ""
    packagetype: str | None = None
    python_version: str | None = None
    uploaded: datetime | None = None


class Vulnerability(msgspec.Struct, frozen=True):
    """An advisory about a release, as PyPI words it. `link` has passed `web_address`."""

    id: str
    source: str = ""
    link: str = ""
    aliases: tuple[str, ...] = ()
    details: str = ""
    summary: str | None = None
    fixed_in: tuple[str, ...] = ()
    withdrawn: str | None = None


class UpstreamDocument(msgspec.Struct, frozen=True):
    """An upstream's document of a project or release: what is taken of it. `version` is the one `about` tells of."""

    name: Name
    version: str
    about: About = About()
    files: tuple[FileNote, ...] = ()
    vulnerabilities: tuple[Vulnerability, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """The files of one version on a page; equal versions are one release.

    `version` is in the normal form of PEP 440; versions that it does not know stay as they are.
    """

    version: str
    files: tuple[FileRecord, ...] = ()

    @property
    def is_yanked(self) -> bool:
        """Whether all its files are."""
        return bool(self.files) and all(file.yanked is not False for file in self.files)

    @property
    def yanked_reason(self) -> str | None:
        """The first reason that a file gives, if the release is yanked."""
        reasons = (file.yanked for file in self.files if isinstance(file.yanked, str) and file.yanked)
        return next(reasons, None) if self.is_yanked else None


def equality_key(version: str) -> str:
    """The text that equal versions share (PEP 440); of what is no version, the text itself."""
    try:
        return version_key(parse_version(version))
    except InvalidVersion:
        # No version's key has a blank in it.
        return f" {version}"


def releases_of(page: Page) -> dict[str, Release]:
    """The releases of a page by `equality_key`: those with files as they come on it, then those without any.

    Files whose version does not follow from their name belong to none.
    """
    keys: dict[str, str] = {}
    files: dict[str, list[FileRecord]] = {}
    texts: dict[str, str] = {}
    versions = ((file.version, file) for file in page.files)
    for version, file in (*versions, *((version, None) for version in page.versions)):
        if version is None:
            continue
        key = keys.get(version)
        if key is None:
            key = keys[version] = equality_key(version)
            texts.setdefault(key, _normal(version))
        listed = files.setdefault(key, [])
        if file is not None:
            listed.append(file)
    return {key: Release(texts[key], tuple(listed)) for key, listed in files.items()}


def shown_release(releases: Mapping[str, Release]) -> Release | None:
    """The release that stands for its project: not yanked before yanked, final before pre-release, then highest.

    Only releases with files count. None where there is none.
    """

    def rank(release: Release) -> tuple[bool, bool, bool, Version]:
        try:
            version = parse_version(release.version)
        except InvalidVersion:
            return not release.is_yanked, False, False, Version("0")
        return not release.is_yanked, True, not version.is_prerelease, version

    return max((release for release in releases.values() if release.files), key=rank, default=None)


def _normal(version: str) -> str:
    try:
        return str(parse_version(version))
    except InvalidVersion:
        return version


def web_address(value: str) -> str:
    """`value` where it is an address of the web, else nothing: it may become a link somewhere (T-SSRF2, T-XSS)."""
    value = value.strip()
    if len(value) > _LONGEST_URL or not value.isprintable() or " " in value:
        return ""
    try:
        parts = urlsplit(value)
    except ValueError:
        return ""
    return value if parts.scheme in {"http", "https"} and parts.netloc else ""


def read_metadata(content: bytes) -> About:
    """What METADATA or PKG-INFO says of its release. Never fails: fields that make no sense are left out.

    So are fields behind the first 512 Ki characters, since anybody may ask for documents.
    """
    # Only here: it takes a MiB and longer than other imports, and most servers are never asked for a document.
    from packaging.metadata import parse_email

    header, body = split_header(content.decode("utf-8", "replace"))
    if len(header) > _LONGEST_HEADER:
        header = header[:_LONGEST_HEADER].rpartition("\n")[0]
    raw = parse_email(header)[0]

    def said(value: str | None) -> str:
        return "" if value is None or value.strip() == "UNKNOWN" else value

    def several(values: list[str] | None) -> tuple[str, ...] | None:
        kept = tuple(filter(None, map(said, values or ())))
        return kept or None

    urls = {label: web_address(url) for label, url in (raw.get("project_urls") or {}).items()}
    return About(
        name=said(raw.get("name")),
        summary=said(raw.get("summary")),
        description=said(body if body.strip() else _INDENT.sub("\n", raw.get("description") or ""))[
            :MAX_DESCRIPTION
        ],
        description_content_type=said(raw.get("description_content_type")) or None,
        keywords=said(",".join(raw.get("keywords") or ())),
        home_page=web_address(said(raw.get("home_page"))),
        download_url=web_address(said(raw.get("download_url"))),
        author=said(raw.get("author")),
        author_email=said(raw.get("author_email")),
        maintainer=said(raw.get("maintainer")),
        maintainer_email=said(raw.get("maintainer_email")),
        license=said(raw.get("license")),
        license_expression=said(raw.get("license_expression")) or None,
        license_files=several(raw.get("license_files")),
        platform=",".join(several(raw.get("platforms")) or ()) or None,
        classifiers=several(raw.get("classifiers")) or (),
        requires_python=said(raw.get("requires_python")) or None,
        requires_dist=several(raw.get("requires_dist")),
        provides_extra=several(raw.get("provides_extra")),
        dynamic=several(raw.get("dynamic")),
        project_urls={label: url for label, url in urls.items() if url} or None,
    )


class _Digests(msgspec.Struct, frozen=True, gc=False):
    blake2b_256: str | UnsetType = UNSET
    md5: str | UnsetType = UNSET
    sha256: str | UnsetType = UNSET


class _File(msgspec.Struct, frozen=True, gc=False):
    comment_text: str
    digests: _Digests
    filename: str
    md5_digest: str
    packagetype: str
    python_version: str
    requires_python: str | None
    size: int | None
    upload_time: str | None
    upload_time_iso_8601: str | None
    url: str
    yanked: bool
    yanked_reason: str | None
    core_metadata: bool | _Digests = msgspec.field(name="core-metadata")
    downloads: int = -1
    has_sig: bool = False


class _Downloads(msgspec.Struct, frozen=True):
    last_day: int = -1
    last_month: int = -1
    last_week: int = -1


class _Info(msgspec.Struct, frozen=True):
    author: str
    author_email: str
    classifiers: tuple[str, ...]
    description: str
    description_content_type: str | None
    download_url: str
    dynamic: tuple[str, ...] | None
    home_page: str
    keywords: str
    license: str
    license_expression: str | None
    license_files: tuple[str, ...] | None
    maintainer: str
    maintainer_email: str
    name: str
    package_url: str
    platform: str | None
    project_url: str
    project_urls: dict[str, str] | None
    provides_extra: tuple[str, ...] | None
    release_url: str
    requires_dist: tuple[str, ...] | None
    requires_python: str | None
    summary: str
    version: str
    yanked: bool
    yanked_reason: str | None
    bugtrack_url: None = None
    docs_url: None = None
    downloads: _Downloads = _Downloads()


class _Ownership(msgspec.Struct, frozen=True):
    # Who may publish is nobody's business who only reads.
    organization: None = None
    roles: tuple[str, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    info: _Info
    urls: list[_File]
    vulnerabilities: tuple[Vulnerability, ...]
    releases: dict[str, list[_File]] | UnsetType = UNSET
    ownership: _Ownership = _Ownership()


_ENCODER = msgspec.json.Encoder(order="sorted")


def render_document(
    name: Name,
    shown: Release | None,
    releases: Mapping[str, Release] | None,
    *,
    base: str,
    about: About,
    notes: Mapping[str, FileNote] | None = None,
    vulnerabilities: tuple[Vulnerability, ...] = (),
) -> bytes:
    """The document as UTF-8 bytes: compact, keys sorted, one line, as PyPI writes it.

    Args:
        shown: the release that `info` and `urls` tell of; None: there is none with files.
        releases: all of them for a project's document, None for a release's.
        base: what our links begin with: the way to the index's base, or its address, without a slash at its end.
        notes: by sha256.
    """
    known = notes or {}
    shown = Release("") if shown is None else shown
    document = _Document(
        info=_info(name, shown, about, base),
        urls=[_file(file, known, base) for file in shown.files],
        vulnerabilities=vulnerabilities,
    )
    if releases is not None:
        listed = {
            release.version: [_file(file, known, base) for file in release.files]
            for release in releases.values()
        }
        document = msgspec.structs.replace(document, releases=listed)
    return _ENCODER.encode(document) + b"\n"


def _info(name: Name, shown: Release, about: About, base: str) -> _Info:
    page = page_href(name, base)
    return _Info(
        author=about.author,
        author_email=about.author_email,
        classifiers=about.classifiers,
        description=about.description,
        description_content_type=about.description_content_type,
        download_url=about.download_url,
        dynamic=about.dynamic,
        home_page=about.home_page,
        keywords=about.keywords,
        license=about.license,
        license_expression=about.license_expression,
        license_files=about.license_files,
        maintainer=about.maintainer,
        maintainer_email=about.maintainer_email,
        name=about.name if _spells(about.name, name) else name,
        package_url=page,
        platform=about.platform,
        project_url=page,
        project_urls=about.project_urls,
        provides_extra=about.provides_extra,
        release_url=document_href(name, shown.version, base) if shown.version else page,
        requires_dist=about.requires_dist,
        requires_python=about.requires_python
        or next((file.requires_python for file in shown.files if file.requires_python), None),
        summary=about.summary,
        version=shown.version,
        yanked=shown.is_yanked,
        yanked_reason=shown.yanked_reason,
    )


def _spells(text: str, name: Name) -> bool:
    try:
        return parse_name(text) == name
    except InvalidName:
        return False


def _file(file: FileRecord, notes: Mapping[str, FileNote], base: str) -> _File:
    note = notes.get(file.sha256 or "")
    uploaded = file.uploaded or (note.uploaded if note is not None else None)
    # PyPI names hours and minutes without saying that they are UTC.
    moment = None if uploaded is None else uploaded.astimezone(UTC).replace(tzinfo=None)
    advertised = file.advertised
    return _File(
        comment_text=note.comment if note is not None else "",
        digests=_Digests(
            (note.blake2b if note is not None else None) or UNSET,
            (note.md5 if note is not None else None) or UNSET,
            file.sha256 or UNSET,
        ),
        filename=file.filename,
        md5_digest=(note.md5 if note is not None else None) or "",
        packagetype=_package_type(file.filename, note),
        python_version=_python_version(file.filename, note),
        requires_python=file.requires_python,
        size=file.size,
        upload_time=None if moment is None else moment.isoformat(timespec="seconds"),
        upload_time_iso_8601=None if moment is None else moment.isoformat(timespec="microseconds") + "Z",
        url=file_href(file.key, file.filename, base),
        yanked=file.yanked is not False,
        yanked_reason=file.yanked if isinstance(file.yanked, str) and file.yanked else None,
        core_metadata=_Digests(sha256=advertised) if isinstance(advertised, str) else bool(advertised),
    )


def _package_type(filename: str, note: FileNote | None) -> str:
    suffix = filename[filename.rfind(".") :]
    if suffix == ".whl" or note is None or note.packagetype is None:
        return _PACKAGE_TYPES.get(suffix, "sdist")
    return note.packagetype


def _python_version(filename: str, note: FileNote | None) -> str:
    if filename.endswith(".whl"):
        return filename.split("-")[-3] if filename.count("-") >= 4 else "any"
    if note is not None and note.python_version:
        return note.python_version
    egg = _EGG_PYTHON.search(filename)
    if egg is not None:
        return egg[1]
    return "source" if _package_type(filename, note) == "sdist" else "any"
