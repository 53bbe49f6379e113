"""Packages, releases, files, tombstones and claims: what answers and uploads ask of them, and every change.

Functions are synchronous and take a connection: reads go through `Database.read`, changes through
`Database.change`, which makes them whole or not at all. A package row without files is a tombstone: it keeps
the name claimed until `release_claim` (contract 6). Lists for people and programs are `registry.listing`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from packaging.version import InvalidVersion, Version
from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, or_, select, update

from proxy.domain.addresses import provenance_path
from proxy.domain.decision import NameFacts, Owned, OwnedKind
from proxy.domain.names import Name
from proxy.domain.namespaces import Kind, NamespacePath
from proxy.domain.pages import FileRecord, Page, ProjectStatus, Status, together
from proxy.domain.screen import Screened, Withheld
from proxy.domain.versions import public_key
from proxy.errors import AlreadyExists, NoSuchFile, NoSuchName, NotPermitted, StillInUse
from proxy.storage.database import Change
from proxy.storage.tables import files, namespaces, packages, releases


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A private file as it is served.

    Attributes:
        sha256: of the archive; its bytes lie in the object store under it.
        metadata_sha256: of its METADATA or PKG-INFO, also in the object store; None if there is none.
        provenance_sha256: of its provenance (PEP 740), likewise.
    """

    project: NamespacePath
    record: FileRecord
    sha256: str
    size: int
    metadata_sha256: str | None
    provenance_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class NewFile:
    """Everything that one upload adds.

    Attributes:
        uploaded_by: `{"kind", "id", "user"}`.
        shadows: what upstreams said of the name, if this is its first publication (`admit.Shadow`).
    """

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
    provenance_sha256: str | None = None
    shadows: str | None = None


@dataclass(frozen=True, slots=True)
class Twin:
    """The published file of which an upload is a duplicate: of the same kind, version and tags, however spelled."""

    filename: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion took away. `digests` are objects that no file refers to any more."""

    filenames: tuple[str, ...]
    digests: tuple[str, ...]
    tombstone: bool


_FIRST_UPLOAD = (
    select(func.min(files.c.uploaded_at))
    .where(files.c.package_id == packages.c.id)
    .correlate(packages)
    .scalar_subquery()
)

# Built once: putting a statement together costs as much as running it, and every request runs these.
_ALL_FACTS = (
    select(packages.c.name, namespaces.c.path, packages.c.claimed_since, _FIRST_UPLOAD)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
    .order_by(packages.c.claimed_since, packages.c.id)
)
_FACTS = _ALL_FACTS.where(packages.c.name == bindparam("name"))
_NAMES = packages.alias("names")
_FACTS_AFTER = (
    _ALL_FACTS.where(
        packages.c.name.in_(
            select(_NAMES.c.name)
            .where(_NAMES.c.name > bindparam("after"))
            .distinct()
            .order_by(_NAMES.c.name)
            .limit(bindparam("limit"))
        )
    )
    .order_by(None)
    .order_by(packages.c.name, packages.c.claimed_since, packages.c.id)
)
PUBLISHED = (
    files.join(releases, releases.c.id == files.c.release_id)
    .join(packages, packages.c.id == files.c.package_id)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
)
"""Every file with its release, package and project."""
_FILES = (
    select(
        namespaces.c.path,
        packages.c.status,
        packages.c.status_reason,
        releases.c.version,
        releases.c.yanked,
        releases.c.yanked_reason,
        files.c.filename,
        files.c.sha256,
        files.c.size,
        files.c.metadata_sha256,
        files.c.metadata_final,
        files.c.provenance_sha256,
        files.c.requires_python,
        files.c.uploaded_at,
    )
    .select_from(PUBLISHED)
    .where(packages.c.name == bindparam("name"), namespaces.c.path.in_(bindparam("projects", expanding=True)))
    .order_by(files.c.uploaded_at, files.c.id)
)
_FILE = _FILES.where(files.c.filename == bindparam("filename"), files.c.sha256 == bindparam("sha256"))
_IS_OLDER = files.c.uploaded_at < bindparam("as_of")
_FILES_THEN = _FILES.where(_IS_OLDER)
_FILE_THEN = _FILE.where(_IS_OLDER)
_VERSIONS = (
    select(releases.c.version)
    .join(packages, packages.c.id == releases.c.package_id)
    .join(namespaces, namespaces.c.id == packages.c.namespace_id)
    .where(packages.c.name == bindparam("name"), namespaces.c.path.in_(bindparam("projects", expanding=True)))
)

MANY_FILES = 200
"""Files of one name from which making its page takes more than 2 ms."""
_MANY = select(func.count()).select_from(
    _FILES.with_only_columns(files.c.id).order_by(None).limit(MANY_FILES).subquery()
)


def facts(connection: Connection, name: Name) -> NameFacts:
    """What every namespace holds of `name`, oldest claim first. One indexed look-up."""
    rows = connection.execute(_FACTS, {"name": name})
    return NameFacts(tuple(_owned(path, since, first_upload) for _, path, since, first_upload in rows))


def all_facts(connection: Connection) -> dict[Name, NameFacts]:
    """`facts` of every name there is."""
    return _by_name(connection.execute(_ALL_FACTS))


def facts_after(connection: Connection, after: str, limit: int) -> dict[Name, NameFacts]:
    """`facts` of the first `limit` names that stand behind `after`, in order: what is long in pieces."""
    return _by_name(connection.execute(_FACTS_AFTER, {"after": after, "limit": limit}))


def _by_name(rows: Iterable[Row[str, str, datetime, datetime | None]]) -> dict[Name, NameFacts]:
    found: dict[Name, list[Owned]] = {}
    for name, path, since, first_upload in rows:
        found.setdefault(Name(name), []).append(_owned(path, since, first_upload))
    return {name: NameFacts(tuple(owned)) for name, owned in found.items()}


def _owned(path: str, since: datetime, first_upload: datetime | None) -> Owned:
    kind = OwnedKind.TOMBSTONE if first_upload is None else OwnedKind.FILES
    return Owned(NamespacePath(path), kind, since, first_upload)


def page(
    connection: Connection, projects: Sequence[NamespacePath], name: Name, as_of: datetime | None = None
) -> Screened:
    """The files of `name` in all of `projects` together, and those that a quarantined project withholds.

    The same filename in two projects: the newest upload is listed (contract 4.3). Files stand by version,
    then filename; `versions` has those of withheld files too.

    Args:
        as_of: only files that were uploaded before; yanks and statuses are those of today.
    """
    newest: dict[str, FileRecord] = {}
    held: dict[str, Withheld] = {}
    statuses: dict[str, ProjectStatus] = {}
    # All rows at once: one by one they take longer.
    wanted = {"name": name, "projects": list(projects), "as_of": as_of}
    for row in connection.execute(_FILES if as_of is None else _FILES_THEN, wanted).all():
        status = statuses.get(row.path)
        if status is None:
            status = statuses[row.path] = ProjectStatus(Status(row.status), row.status_reason)
        if status.status is Status.QUARANTINED:
            held[row.filename] = _withheld(row, name)
        else:
            newest[row.filename] = _record(row)
    ordered = sorted(newest.values(), key=lambda file: (version_order(file.version), file.filename))
    withheld = tuple(file for filename, file in held.items() if filename not in newest)
    known = [file.version for file in ordered] + [file.version for file in withheld]
    versions = tuple(version for version in dict.fromkeys(known) if version is not None)
    return Screened(Page(name, tuple(ordered), versions, together(statuses.values())), withheld)


def _withheld(row: Row[*tuple[object, ...]], name: Name) -> Withheld:
    reason = f"{name} is quarantined in {row.path}"
    if row.status_reason:
        reason += f": {row.status_reason}"
    return Withheld(row.filename, row.version, str(Status.QUARANTINED), reason, source=row.path)


def has_many_files(connection: Connection, projects: Sequence[NamespacePath], name: Name) -> bool:
    """Whether `page` of the same takes so long that it should not hold up an event loop."""
    counted = connection.execute(_MANY, {"name": name, "projects": list(projects)}).scalar_one()
    return bool(counted >= MANY_FILES)


def taken_versions(connection: Connection, name: Name, projects: Sequence[NamespacePath]) -> frozenset[str]:
    """The versions of which `projects` have files, as `versions.public_key` writes them: `1` for `1.0+acme` too."""
    rows = connection.execute(_VERSIONS, {"name": name, "projects": list(projects)})
    return frozenset(public_key(Version(text)) for (text,) in rows)


def find_file(
    connection: Connection,
    projects: Sequence[NamespacePath],
    name: Name,
    filename: str,
    sha256: str,
    as_of: datetime | None = None,
) -> StoredFile | Withheld | None:
    """The file with this name and digest in one of `projects`, also where a newer upload displaced it.

    Args:
        as_of: as `page` takes it.

    Returns:
        Why it is withheld where every project that has it is quarantined; None where none has it.
    """
    wanted = {
        "name": name,
        "projects": list(projects),
        "filename": filename,
        "sha256": sha256,
        "as_of": as_of,
    }
    rows = connection.execute(_FILE if as_of is None else _FILE_THEN, wanted).all()
    offered = [row for row in rows if row.status != Status.QUARANTINED]
    if not offered:
        return _withheld(rows[-1], name) if rows else None
    row = offered[-1]
    return StoredFile(
        NamespacePath(row.path),
        _record(row),
        row.sha256,
        row.size,
        row.metadata_sha256,
        row.provenance_sha256,
    )


def yank_of(row: Row[*tuple[object, ...]]) -> bool | str:
    """What is told of a release's yank: False, True, or its reason (PEP 592)."""
    return (row.yanked_reason or True) if row.yanked else False


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
        yanked=yank_of(row),
        provenance=provenance_path(row.path, row.sha256, row.filename) if row.provenance_sha256 else None,
        version=row.version,
    )


def version_order(version: str | None) -> tuple[int, Version]:
    """The key that sorts versions by PEP 440; what is none comes first."""
    try:
        return (1, Version(version or ""))
    except InvalidVersion:
        return (0, Version("0"))


def insert_file(change: Change, project: NamespacePath, new: NewFile) -> None:
    """Add one file, with its release and package as needed; the name is claimed from now on.

    Raises:
        AlreadyExists: the package has a file of this name, or one of the same kind, version and tags.
        NotPermitted: the package is archived or quarantined, and must not grow (PEP 792).
    """
    connection = change.connection
    package = _package(connection, project, new.name)
    if package is not None and package.status in (Status.ARCHIVED, Status.QUARANTINED):
        raise NotPermitted(
            f"{new.name} is {package.status} in {project} and takes no files",
            hint="a maintainer may set its status to active",
        )
    package_id = None if package is None else int(package.id)
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
                shadows=new.shadows,
            )
            .returning(packages.c.id)
        ).scalar_one()
    twin = find_twin(connection, project, new)
    if twin is not None:
        same = "" if twin.filename == new.filename else f" as {twin.filename}"
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
            provenance_sha256=new.provenance_sha256,
            requires_python=new.requires_python,
            summary=new.summary,
            fields=dict(new.fields),
            uploaded_at=new.uploaded_at,
            uploaded_by=dict(new.uploaded_by),
        )
    )
    touch_name(change, project, new.name)


def find_twin(connection: Connection, project: NamespacePath, new: NewFile) -> Twin | None:
    """The file in `project` of which `new` is a duplicate; inside the transaction that would insert it."""
    row = connection.execute(
        select(files.c.filename, releases.c.version, files.c.sha256)
        .join(releases, releases.c.id == files.c.release_id)
        .where(
            files.c.package_id == _package_id(connection, project, new.name),
            or_(files.c.filename == new.filename, files.c.identity == new.identity),
        )
    ).first()
    return None if row is None else Twin(row.filename, row.version, row.sha256)


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


def _package(connection: Connection, project: NamespacePath, name: Name) -> Row[*tuple[object, ...]] | None:
    """Number and status of the package, or of the tombstone that it left."""
    return connection.execute(
        select(packages.c.id, packages.c.status)
        .join(namespaces, namespaces.c.id == packages.c.namespace_id)
        .where(namespaces.c.path == project, packages.c.name == name)
    ).first()


def _package_id(connection: Connection, project: NamespacePath, name: Name) -> int | None:
    found = _package(connection, project, name)
    return None if found is None else int(str(found.id))


def delete_files(
    change: Change,
    project: NamespacePath,
    name: Name,
    version_key: str | None = None,
    filename: str | None = None,
) -> Removed:
    """Delete a package's files: all, those of one release, or one. The name stays claimed.

    With the last file the package's status goes.

    Raises:
        NoSuchName: the project has no files of this name.
        NoSuchFile: it has, but not this release or file.
    """
    connection = change.connection
    package_id = _package_id(connection, project, name)
    query = (
        select(
            *(files.c.id, files.c.filename, files.c.sha256, files.c.metadata_sha256),
            *(files.c.provenance_sha256, releases.c.version_key),
        )
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
    is_tombstone = len(chosen) == len(rows)
    if is_tombstone:
        # The status spoke of what is gone. Kept, it would forbid a new beginning, and nothing could lift it.
        begin_anew = update(packages).values(status=str(Status.ACTIVE), status_reason=None)
        connection.execute(begin_anew.where(packages.c.id == package_id))
    touch_name(change, project, name)
    stored = (digest for row in chosen for digest in (row.sha256, row.metadata_sha256, row.provenance_sha256))
    digests = {digest for digest in stored if digest}
    return Removed(
        tuple(row.filename for row in chosen),
        unreferenced(connection, digests),
        tombstone=is_tombstone,
    )


def yank(
    change: Change, project: NamespacePath, name: Name, version_key: str, reason: str | None = None
) -> None:
    """Mark a release as yanked (PEP 592), for the reason given now, whatever was said before.

    Raises:
        NoSuchName: the project has no files of this name.
        NoSuchFile: it has, but not this release.
    """
    _mark_release(change, project, name, version_key, yanked=True, reason=reason)


def unyank(change: Change, project: NamespacePath, name: Name, version_key: str) -> None:
    """Take the mark of `yank` away, where there is one.

    Raises:
        NoSuchName, NoSuchFile: as `yank`.
    """
    _mark_release(change, project, name, version_key, yanked=False, reason=None)


def _mark_release(
    change: Change, project: NamespacePath, name: Name, version_key: str, *, yanked: bool, reason: str | None
) -> None:
    package_id = _published(change.connection, project, name)
    found = change.connection.execute(
        update(releases)
        .where(releases.c.package_id == package_id, releases.c.version_key == version_key)
        .values(yanked=yanked, yanked_reason=reason)
    )
    if not found.rowcount:
        raise NoSuchFile(f"{project} has no such release of {name}")
    touch_name(change, project, name)


def set_status(
    change: Change, project: NamespacePath, name: Name, status: Status, reason: str | None = None
) -> None:
    """Say how it stands with a package (PEP 792). Its name stays claimed, whatever the status.

    Raises:
        NoSuchName: the project has no files of this name.
    """
    package_id = _published(change.connection, project, name)
    change.connection.execute(
        update(packages).where(packages.c.id == package_id).values(status=str(status), status_reason=reason)
    )
    touch_name(change, project, name)


def _published(connection: Connection, project: NamespacePath, name: Name) -> int:
    package_id = _package_id(connection, project, name)
    held = select(files.c.id).where(files.c.package_id == package_id).limit(1)
    if package_id is None or connection.execute(held).first() is None:
        raise NoSuchName(f"{project} has no files of {name}")
    return package_id


def unreferenced(connection: Connection, digests: Iterable[str]) -> tuple[str, ...]:
    """Those of `digests` that no file refers to: their objects may go."""
    gone = []
    for digest in sorted(digests):
        used = connection.execute(
            select(files.c.id)
            .where(
                or_(
                    files.c.sha256 == digest,
                    files.c.metadata_sha256 == digest,
                    files.c.provenance_sha256 == digest,
                )
            )
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
