"""Addresses: the raw target of a request → what it asks for, and the links that lead back to us.

The only place that splits, decodes or joins the paths of URLs. A target is split first and each segment is
decoded once, strictly; only then is it compared. So no encoded slash, dot segment, control character or second
layer of escapes reaches anything below (protocol T-PATH). `%2F` is a slash only inside GitLab's `{id}`.

Nothing is looked up here but the namespace, nothing is decided, and nothing raises: what is no address is
`Unknown`, with the place it lies in, because every path of a private namespace answers alike (contract 5).
A project name leaves this module as the text that was sent; `names.parse_name` alone makes a `Name` of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote

from proxy.domain.filenames import is_safe_filename
from proxy.domain.names import Name
from proxy.domain.namespaces import RESERVED_SEGMENTS, ROOT, SEGMENT, Kind, Namespace, NamespacePath, Tree

MAX_DEPTH = 64
"""Segments that a namespace's path may have in an address: bounds what a made-up path costs to look up."""

_MAX_NUMBER_DIGITS = 18
_NUMBER = re.compile(rf"[0-9]{{1,{_MAX_NUMBER_DIGITS}}}\Z", re.ASCII)

_VISIBLE = re.compile(r"[!-~]*\Z", re.ASCII)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_KEY = re.compile(r"(?:url-)?[0-9a-f]{64}\Z", re.ASCII)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+\Z", re.ASCII)
_DATED = re.compile(r"\+[0-9]", re.ASCII)
_INSTANT = re.compile(
    r"\+([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T((?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})Z)?\Z", re.ASCII
)

# GitLab's spelling of a base: the word after /api/v4/, the kind it names, and what follows the id.
_GITLAB_FORMS = {
    "projects": (Kind.PROJECT, ["packages", "pypi"]),
    "groups": (Kind.GROUP, ["-", "packages", "pypi"]),
}

Suffix = Literal["", ".metadata", ".provenance"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the tree an address lies.

    Attributes:
        path: the namespace's path as asked, decoded; of an unknown one, as far as it has the form of a path.
        namespace: None where there is none, or where it is not of the kind that the address names;
            then `tree.nearest(path)` answers for it (contract 4.1).
    """

    path: NamespacePath
    namespace: Namespace | None


@dataclass(frozen=True, slots=True)
class Home:
    """`/`."""


@dataclass(frozen=True, slots=True)
class Health:
    """`/healthz`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """`/readyz`."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """`/metrics`."""


@dataclass(frozen=True, slots=True)
class Explain:
    """`/api/v1/explain`; what it asks stands in the query."""


@dataclass(frozen=True, slots=True)
class LegacyUpload:
    """`/legacy` and `/legacy/`: uploads to the default project."""


@dataclass(frozen=True, slots=True)
class Base:
    """A namespace's base, with or without a slash: where its uploads go."""

    place: Place


@dataclass(frozen=True, slots=True)
class View:
    """`B/+{instant}`, with or without a slash: a dated view has its pages below it, and takes no uploads."""

    place: Place


@dataclass(frozen=True, slots=True)
class Misdated:
    """What lies below `B/+{text}`, where `text` begins as a date does and is none: `2026-13-01`."""

    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class NameList:
    """`B/simple/`: the names of an index.

    Attributes:
        as_of: below `B/+{instant}/`: that instant, aware and perhaps in the future; None: as the index is now.
    """

    place: Place
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """`B/simple/{name}/`.

    Attributes:
        raw_name: decoded, not yet a name; without slashes and control characters.
        slash: whether the path ends in one; `page_redirect` says what follows from that.
        as_of: as `NameList` has it.
    """

    place: Place
    raw_name: str
    slash: bool
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class OwnPage:
    """`B/+simple/{name}/`: the files of a project alone; without `place` those of the default project.

    `raw_name` and `slash` are as those of `ProjectPage`.
    """

    place: Place | None
    raw_name: str
    slash: bool


@dataclass(frozen=True, slots=True)
class JsonDocument:
    """`B/pypi/{name}/json`, `B/{name}/json`, or with a version `B/pypi/{name}/{version}/json`.

    Attributes:
        raw_name: as `ProjectPage` has it.
        raw_version: decoded, not yet a version.
        depth: how many segments lie between the base and the last one: what `..` a link back takes.
    """

    place: Place
    raw_name: str
    raw_version: str | None
    depth: int


@dataclass(frozen=True, slots=True)
class GitlabPackages:
    """GitLab's packages API: a namespace's packages, one of them, its files, or one of its files.

    Attributes:
        kind: whether the address is of the form for groups or for projects.
        package: number of one package; None: all.
        has_files: whether the address ends in `package_files`, with or without a number.
        file: number of one file.
    """

    place: Place
    kind: Kind
    package: int | None = None
    has_files: bool = False
    file: int | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """The administration API: what follows `/api/v1/`, decoded once; `%2F` is a slash within a segment."""

    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OidcAudience:
    """`/_/oidc/audience`."""


@dataclass(frozen=True, slots=True)
class OidcMint:
    """`/_/oidc/mint-token`."""


@dataclass(frozen=True, slots=True)
class File:
    """`B/files/{key}/{filename}`, or what lies beside the file.

    Attributes:
        key: a sha256 in lower-case hex, or `url-` and one (contract 2).
        filename: without the suffix; `filenames.is_safe_filename` holds for it.
        as_of: as `NameList` has it.
    """

    place: Place
    key: str
    filename: str
    suffix: Suffix = ""
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """An address that wants a slash, or one less. `location` is relative, with the query."""

    place: Place
    location: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No address; `place` is the deepest one that it lies in, `is_api` that it is below one of the two APIs."""

    place: Place
    is_api: bool = False


Address: TypeAlias = (
    Home
    | Health
    | Ready
    | Metrics
    | Explain
    | LegacyUpload
    | Base
    | View
    | Misdated
    | NameList
    | ProjectPage
    | OwnPage
    | JsonDocument
    | GitlabPackages
    | Api
    | OidcAudience
    | OidcMint
    | File
    | Redirect
    | Unknown
)


def parse(target: str, tree: Tree) -> Address:
    """What a request target asks for (contract 2).

    Args:
        target: the target as received: a path and perhaps a query; any text at all.
        tree: the namespaces in force.

    Returns:
        `Unknown` at the root for other forms of targets (`*`, `http://…`). Methods are not judged here.
    """
    path, query = split_target(target)
    if not path.startswith("/"):
        return Unknown(Place(ROOT, tree.root))
    raws = path[1:].split("/")
    segments = [_decode_segment(raw) for raw in raws]
    match segments:
        case [""]:
            return Home()
        case ["healthz"]:
            return Health()
        case ["readyz"]:
            return Ready()
        case ["metrics"]:
            return Metrics()
        case ["api", "v1", "explain"]:
            return Explain()
        case ["api", "v1", *_]:
            return _api(raws[2:], tree)
        case ["_", "oidc", "audience"]:
            return OidcAudience()
        case ["_", "oidc", "mint-token"]:
            return OidcMint()
        case ["legacy"] | ["legacy", ""]:
            return LegacyUpload()
        case ["legacy", "+simple", str(raw_name)] if raw_name:
            return OwnPage(None, raw_name, slash=False)
        case ["legacy", "+simple", str(raw_name), ""] if raw_name:
            return OwnPage(None, raw_name, slash=True)
        case ["api", "v4", str(form), _, *rest] if form in _GITLAB_FORMS:
            kind, infix = _GITLAB_FORMS[form]
            place = _place_of_id(raws[3], kind, tree)
            if rest[: len(infix)] != infix:
                return _gitlab_packages(place, kind, rest)
            return _below(place, rest[len(infix) :], query)
        case [*_, "json"] | [*_, "json", ""]:
            return _short_document(segments, tree, query)
        case _:
            return _in_tree(segments, tree, query)


def place_named(text: str, tree: Tree) -> Place:
    """The namespace that a query, a body or a single segment names: its path, with or without slashes around it.

    `/` and nothing are the root. Whatever the text, looking it up costs little.
    """
    path = text.strip("/")
    return _place_of_path(path.split("/"), tree) if path else Place(ROOT, tree.root)


def split_target(target: str) -> tuple[str, str]:
    """Path and raw query of a target; a fragment, which old clients send along, is dropped (protocol 1.1)."""
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def page_redirect(raw_name: str, slash: bool, name: Name, query: str) -> str | None:
    """Where a project page is, relative to the address asked, in one hop (PEP 503; protocol 1.1).

    Args:
        raw_name: as `ProjectPage` has it.
        slash: as `ProjectPage` has it.
        name: what `parse_name` made of `raw_name`.
        query: the raw query, kept where it is printable ASCII.

    Returns:
        None where the address is the page's own.
    """
    if not slash:
        return _with_query(name_href(name), query)
    return None if raw_name == name else _with_query(f"../{name_href(name)}", query)


def name_href(name: Name) -> str:
    """The link from a list of names, or from beside it, to a project page."""
    return f"{name}/"


def file_href(key: str, filename: str, base: str = "../..") -> str:
    """The link from a project page to a file, good in every spelling of its base.

    Args:
        key: `FileRecord.key`.
        filename: everything but unreserved characters is escaped, so `+` becomes `%2B`.
        base: the way from the page to the base, without a slash at its end.
    """
    shown = filename if _UNRESERVED.match(filename) else quote(filename, safe="")
    return f"{base}/files/{key}/{shown}"


def file_hrefs(keys: Sequence[str], filenames: Sequence[str], base: str = "../..") -> list[str]:
    """As `file_href`, for each of the files of a page: thousands of calls cost more than the links."""
    shown = filenames
    if _UNRESERVED.match("".join(filenames)) is None:
        shown = [quote(filename, safe="") for filename in filenames]
    return [f"{base}/files/{key}/{name}" for key, name in zip(keys, shown, strict=True)]


def provenance_path(project: NamespacePath, key: str, filename: str) -> str:
    """The path, from the root of the server, of the provenance of a private file (PEP 740)."""
    return f"{file_href(key, filename, f'/{project}')}.provenance"


def page_href(name: Name, base: str) -> str:
    """The link to a project page; `base` as in `file_href`."""
    return f"{base}/simple/{name_href(name)}"


def document_href(name: Name, version: str, base: str) -> str:
    """The link to the JSON document of a release; `base` as in `file_href`."""
    return f"{base}/pypi/{name}/{quote(version, safe='')}/json"


def gitlab_package_path(project: Namespace, number: int) -> str:
    """The path, from the root of the server, of a package in GitLab's packages API."""
    which = quote(project.path, safe="") if project.number is None else project.number
    return f"/api/v4/projects/{which}/packages/{number}"


def short_base(namespace: Namespace) -> str:
    """The short spelling of a namespace's base: `/acme/widgets`; empty for the root."""
    # Segments hold nothing that would have to be escaped.
    return f"/{namespace.path}" if namespace.path else ""


def _in_tree(segments: Sequence[str | None], tree: Tree, query: str) -> Address:
    """An address whose base is spelled as the path of a namespace."""
    depth = _depth(segments)
    path = NamespacePath("/".join(filter(None, segments[:depth])))
    return _below(Place(path, tree.get(path)), segments[depth:], query)


def _short_document(segments: Sequence[str | None], tree: Tree, query: str) -> Address:
    """An address that ends in `json`, in which the segment before it is a name and not part of a path."""
    end = 2 if segments[-1] else 3
    depth = _depth(segments)
    if depth != len(segments) - end + 1 or not depth:
        return _in_tree(segments, tree, query)
    path = NamespacePath("/".join(filter(None, segments[: depth - 1])))
    return _below(Place(path, tree.get(path)), segments[depth - 1 :], query)


def _api(raws: Sequence[str], tree: Tree) -> Address:
    """An address of the administration API."""
    segments: list[str] = []
    for raw in raws:
        text = _unquote(raw)
        if text is None or not text.isprintable() or "\\" in text or {".", ".."} & set(text.split("/")):
            return Unknown(Place(ROOT, tree.root), is_api=True)
        segments.append(text)
    return Api(tuple(segments))


def _gitlab_packages(place: Place, kind: Kind, rest: Sequence[str | None]) -> Address:
    """An address of GitLab's packages API below a project or group."""
    match rest:
        case ["packages"]:
            return GitlabPackages(place, kind)
        case ["packages", str(number)] if kind is Kind.PROJECT and _NUMBER.match(number):
            return GitlabPackages(place, kind, int(number))
        case ["packages", str(number), "package_files"] if kind is Kind.PROJECT and _NUMBER.match(number):
            return GitlabPackages(place, kind, int(number), has_files=True)
        case ["packages", str(number), "package_files", str(file)] if (
            kind is Kind.PROJECT and _NUMBER.match(number) and _NUMBER.match(file)
        ):
            return GitlabPackages(place, kind, int(number), has_files=True, file=int(file))
        case _:
            return Unknown(place, is_api=True)


def _below(place: Place, rest: Sequence[str | None], query: str) -> Address:
    """What the segments behind a base ask for; None stands for one that cannot be decoded."""
    found = _in_view(place, rest, query, None)
    if found is not None:
        return found
    match rest:
        case [] | [""]:
            return Base(place)
        case [str(text), *below] if _DATED.match(text):
            return _dated(place, text, below, query)
        case ["+simple", str(raw_name)] if raw_name:
            return OwnPage(place, raw_name, slash=False)
        case ["+simple", str(raw_name), ""] if raw_name:
            return OwnPage(place, raw_name, slash=True)
        case ["pypi", str(raw_name), "json"]:
            return JsonDocument(place, raw_name, None, depth=2)
        case ["pypi", str(raw_name), str(raw_version), "json"]:
            return JsonDocument(place, raw_name, raw_version, depth=3)
        case ["pypi", str(), "json", ""] | ["pypi", str(), str(), "json", ""] | [str(), "json", ""]:
            # As PyPI's edge does (protocol 5).
            return Redirect(place, _with_query("../json", query))
        case [str(raw_name), "json"]:
            return JsonDocument(place, raw_name, None, depth=1)
        case _:
            return Unknown(place)


def _dated(place: Place, text: str, below: Sequence[str | None], query: str) -> Address:
    """What lies below `B/+{instant}/`: pages and files alone."""
    as_of = _instant(text)
    if as_of is None:
        return Misdated(place, text[1:])
    if below in ([], [""]):
        return View(place)
    return _in_view(place, below, query, as_of) or Unknown(place)


def _instant(text: str) -> datetime | None:
    """The instant that `+2026-05-01` or `+2026-05-01T08:00:00Z` names; None where it is neither."""
    found = _INSTANT.match(text)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00:00'}").replace(tzinfo=UTC)
    except ValueError:
        return None


def _in_view(place: Place, rest: Sequence[str | None], query: str, as_of: datetime | None) -> Address | None:
    """Which page or file the segments behind a base, or behind that of a dated view, ask for; None: none."""
    match rest:
        case ["simple"]:
            return Redirect(place, _with_query("simple/", query))
        case ["simple", ""]:
            return NameList(place, as_of)
        case ["simple", str(raw_name)]:
            return ProjectPage(place, raw_name, slash=False, as_of=as_of)
        case ["simple", str(raw_name), ""] if raw_name:
            return ProjectPage(place, raw_name, slash=True, as_of=as_of)
        case ["files", str(key), str(filename)]:
            return _file(place, key, filename, as_of)
        case _:
            return None


def _file(place: Place, key: str, filename: str, as_of: datetime | None) -> File | Unknown:
    suffix: Suffix = ""
    if filename.endswith(".metadata"):
        suffix = ".metadata"
    elif filename.endswith(".provenance"):
        suffix = ".provenance"
    filename = filename.removesuffix(suffix)
    if _KEY.match(key) is None or not is_safe_filename(filename):
        return Unknown(place)
    return File(place, key, filename, suffix, as_of)


def _place_of_id(raw_id: str, kind: Kind, tree: Tree) -> Place:
    """The namespace that GitLab's `{id}` names: a number of this kind, or an encoded path to one of it."""
    text = _unquote(raw_id) or ""
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= _MAX_NUMBER_DIGITS else -1
        namespace = tree.by_number(kind, number)
        return Place(ROOT, None) if namespace is None else Place(namespace.path, namespace)
    place = _place_of_path(text.split("/"), tree)
    return place if place.namespace is not None and place.namespace.kind is kind else Place(place.path, None)


def _place_of_path(segments: Sequence[str], tree: Tree) -> Place:
    """The namespace at exactly these segments."""
    depth = _depth(segments)
    path = NamespacePath("/".join(segments[:depth]))
    return Place(path, tree.get(path) if depth == len(segments) else None)


def _depth(segments: Sequence[str | None]) -> int:
    """How many of the first segments may be a namespace's path: it ends at a reserved word or what is no segment."""
    for position, segment in enumerate(segments[:MAX_DEPTH]):
        if segment is None or segment in RESERVED_SEGMENTS or SEGMENT.match(segment) is None:
            return position
    return min(len(segments), MAX_DEPTH)


def _decode_segment(raw: str) -> str | None:
    """One segment decoded, or None for what may stand in no address: slashes, controls, `.` and `..`."""
    text = _unquote(raw)
    if text is None or text in (".", "..") or "/" in text or "\\" in text or not text.isprintable():
        return None
    return text


def _unquote(raw: str) -> str | None:
    """`raw` percent-decoded once as UTF-8; None unless it is visible ASCII and well-formed."""
    if _VISIBLE.match(raw) is None or _BROKEN_ESCAPE.search(raw):
        return None
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError:
        return None


def _with_query(location: str, query: str) -> str:
    """`location?query`; a query that may not stand in a header is left out."""
    return f"{location}?{query}" if query and _VISIBLE.match(query) else location
