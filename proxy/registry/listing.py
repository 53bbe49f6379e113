"""Lists of what is published and claimed, for the interfaces that people and programs browse.

Only reads, and only what is asked for: a list of packages, releases or files names the projects that it may show,
and how many items of it from which on; claims and usage are of the whole registry. Counting and sorting may take
milliseconds in a large registry: serving processes call these in a thread.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from packaging.version import Version
from sqlalchemy import ColumnElement, Connection, Select, exists, func, select

from proxy.domain.decision import OwnedKind
from proxy.domain.moments import iso
from proxy.domain.names import Name, look_alike_key
from proxy.domain.namespaces import NamespacePath
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidVersion, NoSuchFile, NoSuchName
from proxy.registry.packages import PUBLISHED, version_order, yank_of
from proxy.storage.tables import files, namespaces, packages, releases


@dataclass(frozen=True, slots=True)
class Window:
    """Which items of a list: `limit` of them, from `offset` on; `limit` None: all."""

    limit: int | None = None
    offset: int = 0


ALL = Window()


class Order(StrEnum):
    """By what releases are sorted."""

    CREATED_AT = "created_at"
    NAME = "name"
    VERSION = "version"
    TYPE = "type"
    PROJECT_PATH = "project_path"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which releases, in which order.

    Attributes:
        part: of the name, in any case; as it was published or in normal form.
        version: in any spelling of it; what is no version, no release has.
    """

    part: str = ""
    version: str = ""
    order: Order = Order.CREATED_AT
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a package in a project. `title` is the name as it was first published."""

    number: int
    project: NamespacePath
    name: Name
    title: str
    version: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of a release."""

    number: int
    filename: str
    size: int
    sha256: str
    uploaded_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that a project owns.

    Attributes:
        by: who published it first, where that is known.
        shadows: the upstream that had it then, or `admit.UNCHECKED`; None: none, as far as is known.
    """

    project: NamespacePath
    name: Name
    kind: OwnedKind
    since: datetime
    by: str | None
    shadows: str | None = None


def list_packages(
    connection: Connection,
    projects: Sequence[NamespacePath],
    name: Name | None = None,
    window: Window = ALL,
) -> list[dict[str, object]]:
    """Packages of `projects` that have files, in the shape `package list` of contract 12, by project and name.

    Args:
        name: only packages of this name.
    """
    chosen = (
        select(packages.c.id)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .where(namespaces.c.path.in_(projects), exists().where(files.c.package_id == packages.c.id))
        .order_by(namespaces.c.path, packages.c.name)
        .limit(window.limit)
        .offset(window.offset)
    )
    if name is not None:
        chosen = chosen.where(packages.c.name == name)
    rows = connection.execute(
        select(
            namespaces.c.path,
            packages.c.id,
            packages.c.name,
            packages.c.status,
            func.count(func.distinct(files.c.release_id)).label("releases"),
            func.count(files.c.id).label("files"),
            func.sum(files.c.size).label("bytes"),
        )
        .select_from(packages)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .join(files, files.c.package_id == packages.c.id)
        .where(packages.c.id.in_(select(chosen.subquery().c.id)))
        .group_by(namespaces.c.path, packages.c.id, packages.c.name, packages.c.status)
        .order_by(namespaces.c.path, packages.c.name)
    ).all()
    latest = _latest_versions(connection, [row.id for row in rows])
    return [
        {
            "project": row.path,
            "name": row.name,
            "status": row.status,
            "latest": latest.get(row.id),
            "releases": row.releases,
            "files": row.files,
            "bytes": int(row.bytes or 0),
        }
        for row in rows
    ]


def _latest_versions(connection: Connection, package_ids: Sequence[int]) -> dict[int, str]:
    best: dict[int, tuple[tuple[bool, bool, Version], str]] = {}
    rows = connection.execute(
        select(releases.c.package_id, releases.c.version, releases.c.yanked).where(
            releases.c.package_id.in_(package_ids)
        )
    )
    for package_id, text, yanked in rows:
        version = version_order(text)[1]
        rank = (not yanked, not version.is_prerelease, version)
        if package_id not in best or rank > best[package_id][0]:
            best[package_id] = (rank, text)
    return {package_id: text for package_id, (_, text) in best.items()}


def show_package(connection: Connection, project: NamespacePath, name: Name) -> dict[str, object]:
    """One package with its releases and files, newest release first, in the shape of contract 12.

    Raises:
        NoSuchName: the project has no files of this name.
    """
    rows = connection.execute(
        select(
            packages.c.status,
            releases.c.version,
            releases.c.yanked,
            releases.c.yanked_reason,
            files.c.filename,
            files.c.sha256,
            files.c.size,
            files.c.uploaded_at,
            files.c.uploaded_by,
        )
        .select_from(PUBLISHED)
        .where(namespaces.c.path == project, packages.c.name == name)
        .order_by(files.c.filename)
    ).all()
    if not rows:
        raise NoSuchName(f"{project} has no files of {name}")
    shown: dict[str, dict[str, object]] = {}
    listed: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        shown.setdefault(row.version, {"version": row.version, "yanked": yank_of(row)})
        listed.setdefault(row.version, []).append(
            {
                "filename": row.filename,
                "sha256": row.sha256,
                "size": row.size,
                "uploaded_at": iso(row.uploaded_at),
                "by": row.uploaded_by.get("user") or row.uploaded_by.get("kind"),
            }
        )
    ordered = sorted(shown, key=version_order, reverse=True)
    return {
        "project": project,
        "name": name,
        "status": rows[0].status,
        "releases": [{**shown[version], "files": listed[version]} for version in ordered],
    }


_RELEASES = (
    select(
        releases.c.id,
        namespaces.c.path,
        packages.c.name,
        packages.c.display_name,
        releases.c.version,
        releases.c.created_at,
    )
    .select_from(releases)
    .join(packages, packages.c.id == releases.c.package_id)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
)
_FILES = select(files.c.id, files.c.filename, files.c.size, files.c.sha256, files.c.uploaded_at)
_ORDERS: dict[Order, tuple[ColumnElement[object], ...]] = {
    Order.CREATED_AT: (releases.c.created_at,),
    Order.NAME: (packages.c.name,),
    Order.TYPE: (),  # all are of one
    Order.PROJECT_PATH: (namespaces.c.path,),
}


def list_releases(
    connection: Connection, projects: Sequence[NamespacePath], wanted: Wanted, window: Window = ALL
) -> tuple[int, list[Release]]:
    """How many releases of `projects` are as `wanted`, and those of them that lie in the window."""
    query = _RELEASES.where(namespaces.c.path.in_(projects))
    if wanted.part:
        alike = packages.c.display_name.icontains(wanted.part, autoescape=True)
        query = query.where(alike | packages.c.name.icontains(wanted.part, autoescape=True))
    if wanted.version:
        query = query.where(releases.c.version_key == _key_of(wanted.version))
    counted = select(func.count()).select_from(query.with_only_columns(releases.c.id).subquery())
    total = connection.execute(counted).scalar_one()
    if wanted.order is Order.VERSION:
        return total, _by_version(connection, query, wanted, window)
    ordered = (*_ORDERS[wanted.order], releases.c.id)
    query = query.order_by(*(column.desc() if wanted.descending else column for column in ordered))
    rows = connection.execute(query.limit(window.limit).offset(window.offset))
    return total, [_release(*row) for row in rows]


def _key_of(version: str) -> str:
    try:
        return version_key(parse_version(version))
    except InvalidVersion:
        return ""


def _by_version(
    connection: Connection, query: Select[tuple[object, ...]], wanted: Wanted, window: Window
) -> list[Release]:
    # No database sorts by PEP 440. So the versions there are come here, and rows only of those in the window.
    key = releases.c.version_key
    counts = connection.execute(query.with_only_columns(key, func.count()).group_by(key)).all()
    ordered = sorted(counts, key=lambda row: version_order(str(row[0])), reverse=wanted.descending)
    end = sys.maxsize if window.limit is None else window.offset + window.limit
    touched: list[str] = []
    before = passed = 0
    for version, count in ordered:
        if passed < end and passed + count > window.offset:
            touched.append(version)
        elif not touched:
            before += count
        passed += count
    grouped: dict[str, list[Release]] = {version: [] for version in touched}
    by_number = releases.c.id.desc() if wanted.descending else releases.c.id
    rows = query.add_columns(key).where(key.in_(touched)).order_by(by_number)
    for *columns, version in connection.execute(rows):
        grouped[version].append(_release(*columns))
    together = [release for found in grouped.values() for release in found]
    return together[window.offset - before : end - before]


def find_release(connection: Connection, project: NamespacePath, number: int) -> Release:
    """The release of a project that has this number.

    Raises:
        NoSuchName: the project has none; another one's counts as none.
    """
    row = connection.execute(_RELEASES.where(releases.c.id == number, namespaces.c.path == project)).first()
    if row is None:
        raise NoSuchName(f"{project} has no package with the number {number}")
    return _release(*row)


def _release(number: int, path: str, name: str, title: str, version: str, created_at: datetime) -> Release:
    return Release(number, NamespacePath(path), Name(name), title, version, created_at)


def list_files(connection: Connection, release: int, window: Window = ALL) -> tuple[int, list[ReleaseFile]]:
    """How many files a release has, and those of them that lie in the window, oldest first."""
    counted = select(func.count()).where(files.c.release_id == release)
    query = _FILES.where(files.c.release_id == release).order_by(files.c.id)
    rows = connection.execute(query.limit(window.limit).offset(window.offset))
    return connection.execute(counted).scalar_one(), [ReleaseFile(*row) for row in rows]


def find_release_file(connection: Connection, release: int, number: int) -> ReleaseFile:
    """The file of a release that has this number.

    Raises:
        NoSuchFile: the release has none; another one's counts as none.
    """
    row = connection.execute(_FILES.where(files.c.release_id == release, files.c.id == number)).first()
    if row is None:
        raise NoSuchFile(f"this package has no file with the number {number}")
    return ReleaseFile(*row)


def claims(connection: Connection) -> list[Claim]:
    """Every name that a project owns by files or a tombstone, by name."""
    first = (
        select(files.c.package_id, func.min(files.c.id).label("id")).group_by(files.c.package_id).subquery()
    )
    rows = connection.execute(
        select(
            *(namespaces.c.path, packages.c.name, packages.c.claimed_since, packages.c.shadows),
            files.c.uploaded_by,
        )
        .select_from(packages)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .outerjoin(first, first.c.package_id == packages.c.id)
        .outerjoin(files, files.c.id == first.c.id)
        .order_by(packages.c.name, packages.c.claimed_since)
    )
    return [
        Claim(
            NamespacePath(path),
            Name(name),
            OwnedKind.TOMBSTONE if by is None else OwnedKind.FILES,
            since,
            None if by is None else str(by.get("user") or by.get("kind")),
            shadows,
        )
        for path, name, since, shadows, by in rows
    ]


def look_alikes(connection: Connection, name: Name) -> list[tuple[NamespacePath, Name]]:
    """Every name with files that people take for `name`, itself left out, behind its project. Reads all names."""
    rows = connection.execute(
        select(namespaces.c.path, packages.c.name)
        .select_from(packages)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .where(packages.c.name != name, exists().where(files.c.package_id == packages.c.id))
        .order_by(packages.c.name, namespaces.c.path)
    ).all()
    key = look_alike_key(name)
    return [(NamespacePath(path), Name(other)) for path, other in rows if look_alike_key(Name(other)) == key]


def usage(connection: Connection) -> dict[NamespacePath, tuple[int, int, int]]:
    """Per project: how many packages with files, how many claimed names, and how many bytes of files."""
    sizes = (
        select(files.c.package_id, func.sum(files.c.size).label("bytes"))
        .group_by(files.c.package_id)
        .subquery()
    )
    rows = connection.execute(
        select(
            namespaces.c.path,
            func.count(sizes.c.package_id),
            func.count(packages.c.id),
            func.coalesce(func.sum(sizes.c.bytes), 0),
        )
        .select_from(packages)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .outerjoin(sizes, sizes.c.package_id == packages.c.id)
        .group_by(namespaces.c.path)
    )
    return {NamespacePath(path): (held, claimed, int(size)) for path, held, claimed, size in rows}
