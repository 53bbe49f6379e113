"""What a scenario says: settings of the index, its projects and their files, and faults.

A scenario is a YAML or JSON mapping of `Settings`, and besides `projects` (name → keys of `Project`) and
`faults` (a list of `Fault`):

    form: json
    projects:
      widgets:
        files:
          - path: dist/widgets-1.0-py3-none-any.whl      # relative to the scenario file
            yanked: broken
          - {make: sdist, version: "2.0", requires: [gadgets]}   # arguments of tests.support.wheels
    faults:
      - {path: /simple/widgets/, nth: 1, status: 503, retry_after: 1}
      - {path: "/packages/*/widgets-1.0*.whl", rate: 65536}

An unknown key is an error, so that a test's slip of the pen does not pass as a well-behaved upstream.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from email.parser import BytesParser
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from tests.support.wheels import Contents, WheelContents, write_sdist, write_wheel

T = TypeVar("T")

DEFAULT_UPLOAD_TIME = "2024-01-01T00:00:00.000000Z"
CHUNK = 1024 * 1024


class ScenarioError(ValueError):
    """A scenario that says something this program does not understand."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the index speaks; `Project` may say otherwise for its own page.

    form: `both` (by Accept), `json` or `html`. max_age: of pages, seconds; null: no Cache-Control.
    username, password: Basic credentials asked for everywhere. hashes: which digests pages name, of sha256,
    md5, blake2b_256. size, upload_time, core_metadata: whether pages name them (JSON; the last in both).
    relative_links: `../../packages/…` in place of absolute addresses. etag, gzip: whether pages have a
    validator, and are compressed on request. api_version: what pages claim. json_api: whether there is one.
    names: so many made-up names (`made-up-0000012`) stand on the root list besides the projects.
    """

    form: str = "both"
    max_age: int | None = 600
    username: str | None = None
    password: str | None = None
    hashes: Sequence[str] = ("sha256",)
    size: bool = True
    upload_time: bool = True
    core_metadata: bool = True
    relative_links: bool = False
    etag: bool = True
    gzip: bool = True
    api_version: str = "1.4"
    json_api: bool = True
    names: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """One file of a project, with what its page says of it.

    requires_python, core_metadata: by default what the wheel itself says; an sdist has none, as on PyPI.
    core_metadata: true (advertised with its hash), `bare` (advertised as `true`), false (not there).
    sha256, metadata_sha256: what the page claims in place of the truth. url: another address to link to.
    upload_time: null leaves it out. provenance: an address.
    """

    filename: str
    path: Path
    version: str
    length: int
    digests: Mapping[str, str]
    metadata: bytes | None
    requires_python: str | None = None
    yanked: bool | str = False
    core_metadata: bool | str = True
    upload_time: str | None = DEFAULT_UPLOAD_TIME
    sha256: str | None = None
    metadata_sha256: str | None = None
    url: str | None = None
    provenance: str | None = None

    @property
    def address(self) -> str:
        """Path on this server, in the shape PyPI uses: the file's own digest."""
        blake = self.digests["blake2b_256"]
        return f"/packages/{blake[:2]}/{blake[2:4]}/{blake[4:]}/{self.filename}"


@dataclass(frozen=True, slots=True)
class Project:
    """One project: its display name, files, PEP 792 status, versions without files, own settings.

    info, vulnerabilities: what the documents of the JSON API say over and in place of the files' own metadata.
    """

    name: str
    display_name: str
    settings: Settings
    files: tuple[File, ...] = ()
    status: str = "active"
    status_reason: str | None = None
    versions: Sequence[str] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    vulnerabilities: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at the addresses that match; several that apply at once are joined, later keys win.

    Where and when. path: a glob over the decoded path, in which `*` matches `/` too. method: GET or HEAD.
    nth: only these matching requests, counted from 1. times: only the first so many. after: only later ones.
    id: requests are counted by it, and go on being counted when the scenario is replaced.

    Instead of the answer. status, body, retry_after: a plain answer. html_error: 200 with an HTML error page.
    redirect, redirect_status: to this address. as_project: another project's page. gzip_bomb: a page of so many
    bytes unpacked. hang: no answer until the client goes. drop: the connection closes.

    With the answer. delay: seconds before it. hold: it waits until no fault of the scenario holds it any more.
    rate: bytes per second of its body. truncate: so many bytes of the body, then the connection closes (with
    `hang`: it stays open and silent). alter: a byte of the file is wrong, at this offset, or in the middle for
    true. link_base: file links begin with this in place of this server's address. chunked: no Content-Length.
    endless: chunked, and zeros for ever behind the body. ignore_range: 200 for a range. headers: set, or null:
    left out.
    """

    path: str
    id: str = ""
    method: str | None = None
    nth: int | Sequence[int] | None = None
    times: int | None = None
    after: int = 0
    status: int | None = None
    body: str | None = None
    retry_after: int | None = None
    html_error: bool = False
    redirect: str | None = None
    redirect_status: int = 302
    as_project: str | None = None
    gzip_bomb: int | None = None
    hang: bool = False
    drop: bool = False
    delay: float = 0.0
    hold: bool = False
    rate: int | None = None
    truncate: int | None = None
    alter: bool | int = False
    link_base: str | None = None
    chunked: bool = False
    endless: bool = False
    ignore_range: bool = False
    headers: Mapping[str, str | None] | None = None

    def matches(self, method: str, path: str) -> bool:
        """Say whether a request is one that this fault counts."""
        return self.method in {None, method} and fnmatchcase(path, self.path)

    def strikes(self, count: int) -> bool:
        """Say whether the `count`-th matching request, from 1, is hit."""
        wanted = [self.nth] if isinstance(self.nth, int) else self.nth
        return (
            count > self.after
            and (self.times is None or count <= self.after + self.times)
            and (wanted is None or count in wanted)
        )

    def joined(self, other: Fault) -> Fault:
        """Return both at once: what `other` says beyond the defaults wins."""
        said = {
            key.name: value
            for key in fields(other)
            if (value := getattr(other, key.name)) != key.default and key.name != "path"
        }
        return replace(self, **said)


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole of it, loaded: every file is there and its digests are known."""

    settings: Settings = field(default_factory=Settings)
    projects: Mapping[str, Project] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def normalised(name: str) -> str:
    """Return the name as PEP 503 spells it. A copy of the rule on purpose: the code under test has its own."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Shelf:
    """Loads scenarios; keeps what it made and measured, so that replacing a scenario costs little."""

    def __init__(self, workshop: Path) -> None:
        """Take a directory in which `make` entries are built."""
        self._workshop = workshop
        self._measured: dict[tuple[Path, int, int], tuple[Mapping[str, str], bytes | None]] = {}

    def load(self, said: Mapping[str, Any], directory: Path) -> Scenario:
        """Turn a parsed scenario into values; relative paths start at `directory`.

        Raises:
            ScenarioError: an unknown key, a wrong shape, a file that is not there.
        """
        rest = dict(said)
        projects = rest.pop("projects", None) or {}
        faults = rest.pop("faults", None) or []
        settings = _build(Settings, rest, "scenario")
        loaded = [
            self._project(name, about or {}, settings, directory) for name, about in dict(projects).items()
        ]
        return Scenario(
            settings=settings,
            projects={project.name: project for project in loaded},
            faults=tuple(
                _build(Fault, {"id": f"#{number}", **about}, f"fault {number}")
                for number, about in enumerate(faults, start=1)
            ),
        )

    def _project(self, name: str, about: Mapping[str, Any], settings: Settings, directory: Path) -> Project:
        own = {key: value for key, value in about.items() if key in _keys(Settings)}
        rest = {key: value for key, value in about.items() if key not in own}
        files = [self._file(name, dict(entry), directory) for entry in rest.pop("files", None) or []]
        return _build(
            Project,
            {
                "display_name": name,
                **rest,
                "name": normalised(name),
                "settings": _build(Settings, {**_values(settings), **own}, f"project {name}"),
                "files": tuple(sorted(files, key=lambda file: (_order(file.version), file.filename))),
            },
            f"project {name}",
        )

    def _file(self, project: str, entry: dict[str, Any], directory: Path) -> File:
        path = self._made(project, entry) if "make" in entry else directory / str(entry.pop("path", ""))
        if not path.is_file():
            raise ScenarioError(f"project {project}: no file {path}")
        state = path.stat()
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in self._measured:
            self._measured[key] = (_digests(path), _metadata(path))
        digests, metadata = self._measured[key]
        filename = entry.pop("filename", path.name)
        requires_python = BytesParser().parsebytes(metadata)["Requires-Python"] if metadata else None
        return _build(
            File,
            {
                "requires_python": requires_python,
                "version": _version(filename),
                **entry,
                "filename": filename,
                "path": path,
                "length": state.st_size,
                "digests": digests,
                "metadata": metadata if filename.endswith(".whl") else None,
            },
            f"project {project}, file {filename}",
        )

    def _made(self, project: str, entry: dict[str, Any]) -> Path:
        """Build the distribution that `entry` describes, once; take its keys out of `entry`."""
        kind = entry.pop("make")
        if kind not in {"wheel", "sdist"}:
            raise ScenarioError(f"project {project}: make is `wheel` or `sdist`, not {kind!r}")
        contents = {key: entry.pop(key) for key in list(entry) if key in MAKE_KEYS}
        recipe = json.dumps([kind, project, contents], sort_keys=True)
        folder = self._workshop / hashlib.sha256(recipe.encode()).hexdigest()[:16]
        if folder.is_dir():
            return next(folder.iterdir())
        name, version = contents.pop("name", project), contents.pop("version", "1.0")
        write = write_wheel if kind == "wheel" else write_sdist
        return write(folder, name, version, **contents)


MAKE_KEYS = frozenset(
    {"name", "version"} | Contents.__annotations__.keys() | WheelContents.__annotations__.keys()
)


def _keys(kind: type[Any]) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


def _values(settings: Settings) -> dict[str, Any]:
    return {key: getattr(settings, key) for key in _keys(Settings)}


def _build(kind: type[T], said: Mapping[str, Any], where: str) -> T:
    """Make a value of a mapping, and refuse keys that it has no room for."""
    unknown = sorted(set(said) - _keys(kind))
    if unknown:
        raise ScenarioError(f"{where}: unknown {', '.join(unknown)}")
    try:
        return kind(**said)
    except TypeError as error:
        raise ScenarioError(f"{where}: {error}") from error


def _digests(path: Path) -> dict[str, str]:
    hashes: dict[str, Any] = {
        "sha256": hashlib.sha256(),
        "md5": hashlib.md5(usedforsecurity=False),
        "blake2b_256": hashlib.blake2b(digest_size=32),
    }
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for digest in hashes.values():
                digest.update(chunk)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _metadata(path: Path) -> bytes | None:
    """Return METADATA of a wheel, PKG-INFO of an sdist; nothing where the file is neither, or junk."""
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
                return archive.read(names[0]) if names else None
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as packed:
                for member in packed:
                    if re.fullmatch("[^/]+/PKG-INFO", member.name) and (
                        content := packed.extractfile(member)
                    ):
                        return content.read()
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error):
        pass
    return None


def _version(filename: str) -> str:
    """Return the version part of a wheel's or sdist's filename."""
    if filename.endswith(".whl"):
        return [*filename.split("-"), "0"][1]
    return re.sub(r"\.(tar\.\w+|tgz|zip|egg|exe)$", "", filename).rpartition("-")[2]


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Sort 1.10 behind 1.9; the fine points of PEP 440 do not matter for a page's order."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", version)
    )
