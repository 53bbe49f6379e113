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
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote

from proxy.domain.filenames import is_safe_filename
from proxy.domain.names import Name
from proxy.domain.namespaces import RESERVED_SEGMENTS, ROOT, SEGMENT, Kind, Namespace, NamespacePath, Tree

MAX_DEPTH = 64
"""Segments that a namespace's path may have in an address: bounds what a made-up path costs to look up."""

_MAX_NUMBER_DIGITS = 18

_VISIBLE = re.compile(r"[!-~]*\Z", re.ASCII)
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)
_KEY = re.compile(r"(?:url-)?[0-9a-f]{64}\Z", re.ASCII)
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+\Z", re.ASCII)

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
class NameList:
    """`B/simple/`: the names of an index."""

    place: Place


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """`B/simple/{name}/`.

    Attributes:
        raw_name: decoded, not yet a name; without slashes and control characters.
        slash: whether the path ends in one; `page_redirect` says what follows from that.
    """

    place: Place
    raw_name: str
    slash: bool


@dataclass(frozen=True, slots=True)
class File:
    """`B/files/{key}/{filename}`, or what lies beside the file.

    Attributes:
        key: a sha256 in lower-case hex, or `url-` and one (contract 2).
        filename: without the suffix; `filenames.is_safe_filename` holds for it.
    """

    place: Place
    key: str
    filename: str
    suffix: Suffix = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """An address that wants a slash. `location` is relative, with the query."""

    place: Place
    location: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """No address; `place` is the deepest one that it lies in."""

    place: Place


Address: TypeAlias = (
    Home | Health | Ready | Explain | LegacyUpload | Base | NameList | ProjectPage | File | Redirect | Unknown
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
        case ["api", "v1", "explain"]:
            return Explain()
        case ["legacy"] | ["legacy", ""]:
            return LegacyUpload()
        case ["api", "v4", str(form), _, *rest] if form in _GITLAB_FORMS:
            kind, infix = _GITLAB_FORMS[form]
            place = _place_of_id(raws[3], kind, tree)
            if rest[: len(infix)] != infix:
                return Unknown(place)
            return _below(place, rest[len(infix) :], query)
        case _:
            depth = _depth(segments)
            path_asked = NamespacePath("/".join(filter(None, segments[:depth])))
            return _below(Place(path_asked, tree.get(path_asked)), segments[depth:], query)


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


def file_href(key: str, filename: str) -> str:
    """The link from a project page to a file, good in every spelling of its base.

    Args:
        key: `FileRecord.key`.
        filename: everything but unreserved characters is escaped, so `+` becomes `%2B`.
    """
    shown = filename if _UNRESERVED.match(filename) else quote(filename, safe="")
    return f"../../files/{key}/{shown}"


def short_base(namespace: Namespace) -> str:
    """The short spelling of a namespace's base: `/acme/widgets`; empty for the root."""
    # Segments hold nothing that would have to be escaped.
    return f"/{namespace.path}" if namespace.path else ""


def _below(place: Place, rest: Sequence[str | None], query: str) -> Address:
    """What the segments behind a base ask for; None stands for one that cannot be decoded."""
    match rest:
        case [] | [""]:
            return Base(place)
        case ["simple"]:
            return Redirect(place, _with_query("simple/", query))
        case ["simple", ""]:
            return NameList(place)
        case ["simple", str(raw_name)]:
            return ProjectPage(place, raw_name, slash=False)
        case ["simple", str(raw_name), ""] if raw_name:
            return ProjectPage(place, raw_name, slash=True)
        case ["files", str(key), str(filename)]:
            return _file(place, key, filename)
        case _:
            return Unknown(place)


def _file(place: Place, key: str, filename: str) -> File | Unknown:
    suffix: Suffix = ""
    if filename.endswith(".metadata"):
        suffix = ".metadata"
    elif filename.endswith(".provenance"):
        suffix = ".provenance"
    filename = filename.removesuffix(suffix)
    if _KEY.match(key) is None or not is_safe_filename(filename):
        return Unknown(place)
    return File(place, key, filename, suffix)


def _place_of_id(raw_id: str, kind: Kind, tree: Tree) -> Place:
    """The namespace that GitLab's `{id}` names: a number of this kind, or an encoded path to one of it."""
    text = _unquote(raw_id) or ""
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= _MAX_NUMBER_DIGITS else -1
        namespace = tree.by_number(kind, number)
        return Place(ROOT, None) if namespace is None else Place(namespace.path, namespace)
    segments = text.split("/")
    depth = _depth(segments)
    path = NamespacePath("/".join(segments[:depth]))
    namespace = tree.get(path) if depth == len(segments) else None
    return Place(path, namespace if namespace is not None and namespace.kind is kind else None)


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
