"""Packages, releases, files, tombstones and claims: the only place with SQL about them.

Functions are synchronous and take a connection: reads go through `Database.read`, changes through
`Database.change`, which makes them whole or not at all. A package row without files is a tombstone: it keeps
the name claimed until `release_claim` (contract 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from packaging.version import InvalidVersion, Version
from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, or_, select, update

from proxy.domain.decide import NameFacts, Owned, OwnedKind
from proxy.domain.moments import iso
from proxy.domain.names import Name
from proxy.domain.namespaces import Kind, NamespacePath
from proxy.domain.pages import FileRecord, Page
from proxy.errors import AlreadyExists, NoSuchFile, NoSuchName, StillInUse
from proxy.storage.database import Change
from proxy.storage.tables import files, namespaces, packages, releases


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A private file as it is served.

    Attributes:
        sha256: of the archive; its bytes lie in the object store under it.
        metadata_sha256: of its METADATA or PKG-INFO, also in the object store; None if there is none.
    """

    project: NamespacePath
    record: FileRecord
    sha256: str
    size: int
    metadata_sha256: str | None


@dataclass(frozen=True, slots=True)
class NewFile:
    """Everything that one upload adds. `uploaded_by` is `{"kind", "id", "user"}`."""

    name: Name
    display_name: str
    version: str
    version_key: str
    filename: str
    identity: str
    kind: str
    sha256: str
    blake2b: str
    size: int
    metadata_sha256: str | None
    metadata_final: bool
    requires_python: str | None
    summary: str | None
    uploaded_at: datetime
    uploaded_by: Mapping[str, object]
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that a project owns. `by` names who published it first, where that is known."""

    project: NamespacePath
    name: Name
    kind: OwnedKind
    since: datetime
    by: str | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion took away. `digests` are objects that no file refers to any more."""

    filenames: tuple[str, ...]
    digests: tuple[str, ...]
    tombstone: bool


_HAS_FILES = exists().where(files.c.package_id == packages.c.id).correlate(packages)

# Built once: putting a statement together costs as much as running it, and every request runs these.
_ALL_FACTS = (
    select(packages.c.name, namespaces.c.path, packages.c.claimed_since, _HAS_FILES)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
    .order_by(packages.c.claimed_since, packages.c.id)
)
_FACTS = _ALL_FACTS.where(packages.c.name == bindparam("name"))
_FILES = (
    select(
        namespaces.c.path,
        releases.c.version,
        releases.c.yanked,
        releases.c.yanked_reason,
        files.c.filename,
        files.c.sha256,
        files.c.size,
        files.c.metadata_sha256,
        files.c.metadata_final,
        files.c.requires_python,
        files.c.uploaded_at,
    )
    .select_from(files)
    .join(releases, releases.c.id == files.c.release_id)
    .join(packages, packages.c.id == files.c.package_id)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
    .where(packages.c.name == bindparam("name"), namespaces.c.path.in_(bindparam("projects", expanding=True)))
    .order_by(files.c.uploaded_at, files.c.id)
)
_FILE = _FILES.where(files.c.filename == bindparam("filename"), files.c.sha256 == bindparam("sha256"))

MANY_FILES = 200
"""Files of one name from which making its page takes more than 2 ms."""
_MANY = select(func.count()).select_from(
    _FILES.with_only_columns(files.c.id).order_by(None).limit(MANY_FILES).subquery()
)


def facts(connection: Connection, name: Name) -> NameFacts:
    """What every namespace holds of `name`, oldest claim first. One indexed look-up."""
    rows = connection.execute(_FACTS, {"name": name})
    return NameFacts(tuple(_owned(path, since, has_files) for _, path, since, has_files in rows))


def all_facts(connection: Connection) -> dict[Name, NameFacts]:
    """`facts` of every name there is: for the list of an index."""
    rows = connection.execute(_ALL_FACTS)
    found: dict[Name, list[Owned]] = {}
    for name, path, since, has_files in rows:
        found.setdefault(Name(name), []).append(_owned(path, since, has_files))
    return {name: NameFacts(tuple(owned)) for name, owned in found.items()}


def _owned(path: str, since: datetime, has_files: bool) -> Owned:
    return Owned(NamespacePath(path), OwnedKind.FILES if has_files else OwnedKind.TOMBSTONE, since)


def page(connection: Connection, projects: Sequence[NamespacePath], name: Name) -> Page:
    """The files of `name` in all of `projects` together.

    The same filename in two projects: the newest upload is listed (contract 4.3). Files stand by version,
    then filename.
    """
    newest: dict[str, FileRecord] = {}
    for row in connection.execute(_FILES, {"name": name, "projects": list(projects)}):
        newest[row.filename] = _record(row)
    ordered = sorted(newest.values(), key=lambda file: (_sortable(file.version), file.filename))
    versions = tuple(dict.fromkeys(file.version for file in ordered if file.version is not None))
    return Page(name, tuple(ordered), versions)


def has_many_files(connection: Connection, projects: Sequence[NamespacePath], name: Name) -> bool:
    """Whether `page` of the same takes so long that it should not hold up an event loop."""
    counted = connection.execute(_MANY, {"name": name, "projects": list(projects)}).scalar_one()
    return bool(counted >= MANY_FILES)


def find_file(
    connection: Connection, projects: Sequence[NamespacePath], name: Name, filename: str, sha256: str
) -> StoredFile | None:
    """The file with this name and digest in one of `projects`, also where a newer upload displaced it."""
    wanted = {"name": name, "projects": list(projects), "filename": filename, "sha256": sha256}
    row = next(reversed(connection.execute(_FILE, wanted).all()), None)
    if row is None:
        return None
    return StoredFile(NamespacePath(row.path), _record(row), row.sha256, row.size, row.metadata_sha256)


def _record(row: Row[*tuple[object, ...]]) -> FileRecord:
    # What is not final may change in the build: advertising it would lie to resolvers (PEP 643).
    advertised = row.metadata_sha256 if row.metadata_sha256 is not None and row.metadata_final else None
    return FileRecord(
        filename=row.filename,
        sha256=row.sha256,
        size=row.size,
        uploaded=row.uploaded_at,
        requires_python=row.requires_python,
        core_metadata=advertised,
        yanked=(row.yanked_reason or True) if row.yanked else False,
        version=row.version,
    )


def _sortable(version: str | None) -> tuple[int, Version]:
    try:
        return (1, Version(version or ""))
    except InvalidVersion:
        return (0, Version("0"))


def insert_file(change: Change, project: NamespacePath, new: NewFile) -> None:
    """Add one file, with its release and package as needed; the name is claimed from now on.

    Raises:
        AlreadyExists: the package has a file of this name, or one of the same kind, version and tags.
    """
    connection = change.connection
    package_id = _package_id(connection, project, new.name)
    if package_id is None:
        namespace_id = _project_id(connection, project, new.uploaded_at)
        package_id = connection.execute(
            insert(packages)
            .values(
                namespace_id=namespace_id,
                name=new.name,
                display_name=new.display_name,
                claimed_since=new.uploaded_at,
                status="active",
            )
            .returning(packages.c.id)
        ).scalar_one()
    twin = connection.execute(
        select(files.c.filename).where(
            files.c.package_id == package_id,
            or_(files.c.filename == new.filename, files.c.identity == new.identity),
        )
    ).scalar()
    if twin is not None:
        same = "" if twin == new.filename else f" as {twin}"
        raise AlreadyExists(
            f"File already exists: {new.filename} is published in {project}{same}",
            hint="publish a new version, or delete the file first",
        )
    release_id = connection.execute(
        select(releases.c.id).where(
            releases.c.package_id == package_id, releases.c.version_key == new.version_key
        )
    ).scalar()
    if release_id is None:
        release_id = connection.execute(
            insert(releases)
            .values(
                package_id=package_id,
                version=new.version,
                version_key=new.version_key,
                yanked=False,
                created_at=new.uploaded_at,
            )
            .returning(releases.c.id)
        ).scalar_one()
    connection.execute(
        insert(files).values(
            release_id=release_id,
            package_id=package_id,
            filename=new.filename,
            identity=new.identity,
            kind=new.kind,
            sha256=new.sha256,
            blake2b=new.blake2b,
            size=new.size,
            metadata_sha256=new.metadata_sha256,
            metadata_final=new.metadata_final,
            requires_python=new.requires_python,
            summary=new.summary,
            fields=dict(new.fields),
            uploaded_at=new.uploaded_at,
            uploaded_by=dict(new.uploaded_by),
        )
    )
    touch_name(change, project, new.name)


def _project_id(connection: Connection, project: NamespacePath, now: datetime) -> int:
    """The row of the project; made where a command that ran under another file had taken the empty row away."""
    found = connection.execute(select(namespaces.c.id).where(namespaces.c.path == project)).scalar()
    if found is not None:
        return int(found)
    added = insert(namespaces).values(path=project, kind=str(Kind.PROJECT), created_at=now)
    return int(connection.execute(added.returning(namespaces.c.id)).scalar_one())


def touch_name(change: Change, project: NamespacePath, name: Name) -> None:
    """Tell that answers about `name`, and lists that may hold it, have changed."""
    change.touch(f"name:{project.partition('/')[0]}/{name}")
    change.touch(f"name:*/{name}")
    change.touch(f"names:{project}")


def _package_id(connection: Connection, project: NamespacePath, name: Name) -> int | None:
    found = connection.execute(
        select(packages.c.id)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .where(namespaces.c.path == project, packages.c.name == name)
    ).scalar()
    return None if found is None else int(found)


def delete_files(
    change: Change,
    project: NamespacePath,
    name: Name,
    version_key: str | None = None,
    filename: str | None = None,
) -> Removed:
    """Delete a package's files: all, those of one release, or one. The name stays claimed.

    Raises:
        NoSuchName: the project has no files of this name.
        NoSuchFile: it has, but not this release or file.
    """
    connection = change.connection
    package_id = _package_id(connection, project, name)
    query = (
        select(files.c.id, files.c.filename, files.c.sha256, files.c.metadata_sha256, releases.c.version_key)
        .join(releases, releases.c.id == files.c.release_id)
        .where(files.c.package_id == package_id)
    )
    rows = connection.execute(query).all() if package_id is not None else []
    if package_id is None or not rows:
        raise NoSuchName(f"{project} has no files of {name}")
    chosen = [
        row
        for row in rows
        if (version_key is None or row.version_key == version_key)
        and (filename is None or row.filename == filename)
    ]
    if not chosen:
        raise NoSuchFile(f"{project} has no such release or file of {name}")
    connection.execute(delete(files).where(files.c.id.in_([row.id for row in chosen])))
    connection.execute(
        delete(releases).where(
            releases.c.package_id == package_id,
            ~exists().where(files.c.release_id == releases.c.id).correlate(releases),
        )
    )
    touch_name(change, project, name)
    digests = {digest for row in chosen for digest in (row.sha256, row.metadata_sha256) if digest}
    return Removed(
        tuple(row.filename for row in chosen),
        unreferenced(connection, digests),
        tombstone=len(chosen) == len(rows),
    )


def unreferenced(connection: Connection, digests: Iterable[str]) -> tuple[str, ...]:
    """Those of `digests` that no file refers to: their objects may go."""
    gone = []
    for digest in sorted(digests):
        used = connection.execute(
            select(files.c.id)
            .where(or_(files.c.sha256 == digest, files.c.metadata_sha256 == digest))
            .limit(1)
        ).first()
        if used is None:
            gone.append(digest)
    return tuple(gone)


def release_claim(change: Change, project: NamespacePath, name: Name) -> None:
    """Give a tombstoned name free.

    Raises:
        NoSuchName: the project does not claim it.
        StillInUse: it has files.
    """
    package_id = _package_id(change.connection, project, name)
    if package_id is None:
        raise NoSuchName(f"{project or 'the instance'} does not claim {name}")
    if change.connection.execute(select(files.c.id).where(files.c.package_id == package_id).limit(1)).first():
        raise StillInUse(f"{name} has files in {project}", hint="delete the package first")
    change.connection.execute(delete(packages).where(packages.c.id == package_id))
    touch_name(change, project, name)


def claims(connection: Connection) -> list[Claim]:
    """Every name that a project owns by files or a tombstone, by name."""
    first = (
        select(files.c.package_id, func.min(files.c.id).label("id")).group_by(files.c.package_id).subquery()
    )
    rows = connection.execute(
        select(namespaces.c.path, packages.c.name, packages.c.claimed_since, files.c.uploaded_by)
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
        )
        for path, name, since, by in rows
    ]


def list_packages(connection: Connection) -> list[dict[str, object]]:
    """Every package with files, in the shape `package list` of contract 12."""
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
        .group_by(namespaces.c.path, packages.c.id, packages.c.name, packages.c.status)
        .order_by(namespaces.c.path, packages.c.name)
    ).all()
    latest = _latest_versions(connection)
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


def _latest_versions(connection: Connection) -> dict[int, str]:
    best: dict[int, tuple[tuple[bool, bool, Version], str]] = {}
    rows = connection.execute(select(releases.c.package_id, releases.c.version, releases.c.yanked))
    for package_id, text, yanked in rows:
        version = _sortable(text)[1]
        rank = (not yanked, not version.is_prerelease, version)
        if package_id not in best or rank > best[package_id][0]:
            best[package_id] = (rank, text)
    return {package_id: text for package_id, (_, text) in best.items()}


def show_package(connection: Connection, project: NamespacePath, name: Name) -> dict[str, object]:
    """One package with its releases and files, newest release first, in the shape of contract 12.

    Raises:
        NoSuchName: the project has no files of this name.
    """
    package = connection.execute(
        select(packages.c.id, packages.c.status)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .where(namespaces.c.path == project, packages.c.name == name)
    ).first()
    rows = (
        connection.execute(
            select(
                releases.c.version,
                releases.c.yanked,
                releases.c.yanked_reason,
                files.c.filename,
                files.c.sha256,
                files.c.size,
                files.c.uploaded_at,
                files.c.uploaded_by,
            )
            .join(files, files.c.release_id == releases.c.id)
            .where(releases.c.package_id == package.id)
            .order_by(files.c.filename)
        ).all()
        if package is not None
        else []
    )
    if package is None or not rows:
        raise NoSuchName(f"{project} has no files of {name}")
    shown: dict[str, dict[str, object]] = {}
    listed: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        yanked: bool | str = (row.yanked_reason or True) if row.yanked else False
        shown.setdefault(row.version, {"version": row.version, "yanked": yanked})
        listed.setdefault(row.version, []).append(
            {
                "filename": row.filename,
                "sha256": row.sha256,
                "size": row.size,
                "uploaded_at": iso(row.uploaded_at),
                "by": row.uploaded_by.get("user") or row.uploaded_by.get("kind"),
            }
        )
    ordered = sorted(shown, key=_sortable, reverse=True)
    return {
        "project": project,
        "name": name,
        "status": package.status,
        "releases": [{**shown[version], "files": listed[version]} for version in ordered],
    }


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


def move_claims(change: Change, project_id: int, to_id: int) -> None:
    """Hand every claim of one namespace to another that does not hold the name yet; the rest is dropped.

    Files of the packages must be gone.
    """
    connection = change.connection
    held = select(packages.c.name).where(packages.c.namespace_id == to_id)
    connection.execute(
        update(packages)
        .where(packages.c.namespace_id == project_id, packages.c.name.not_in(held.scalar_subquery()))
        .values(namespace_id=to_id)
    )
    connection.execute(delete(packages).where(packages.c.namespace_id == project_id))
