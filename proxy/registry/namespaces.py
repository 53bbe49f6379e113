"""Namespaces as the data knows them: what may not vanish from the file, former paths, dropping (contract 3).

The file says which namespaces exist; the database remembers those that were ever served, because packages,
claims and tokens hang on them. `settle` brings both together at start, and refuses a file that would lose
something silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, exists, func, insert, or_, select, update

from proxy.domain.names import Name
from proxy.domain.namespaces import ROOT, Kind, Namespace, NamespacePath, Tree, is_within, lineage
from proxy.errors import ConfigError, NoSuchNamespace, Problem, StillInUse
from proxy.registry import listing, packages
from proxy.storage.database import Change
from proxy.storage.tables import files, namespaces, tokens
from proxy.storage.tables import packages as package_rows


@dataclass(frozen=True, slots=True)
class Held:
    """What one namespace of the database holds itself: packages with files, tombstones, live tokens."""

    id: int
    path: NamespacePath
    kind: Kind
    packages: int
    claims: int
    tokens: int

    @property
    def is_empty(self) -> bool:
        return not (self.packages or self.claims or self.tokens)


def held(connection: Connection, now: datetime | None = None) -> list[Held]:
    """Every namespace that the database knows, with what it holds, by path.

    Args:
        now: tokens that have expired by then hold nothing, like revoked ones; None counts them.
    """
    has_files = exists().where(files.c.package_id == package_rows.c.id).correlate(package_rows)

    def count(*conditions: object) -> object:
        return (
            select(func.count(package_rows.c.id))
            .where(package_rows.c.namespace_id == namespaces.c.id, *conditions)  # type: ignore[arg-type]  # column expressions
            .correlate(namespaces)
            .scalar_subquery()
        )

    unexpired = [] if now is None else [or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now)]
    live = (
        select(func.count(tokens.c.id))
        .where(tokens.c.namespace_id == namespaces.c.id, tokens.c.revoked_at.is_(None), *unexpired)
        .correlate(namespaces)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(
            namespaces.c.id, namespaces.c.path, namespaces.c.kind, count(has_files), count(~has_files), live
        ).order_by(  # type: ignore[call-overload]  # scalar subqueries
            namespaces.c.path
        )
    )
    return [Held(id_, NamespacePath(path), Kind(kind), *counts) for id_, path, kind, *counts in rows]


def is_settled(connection: Connection, tree: Tree) -> bool:
    """Whether the database knows exactly the namespaces of `tree`: then `settle` has nothing to do."""
    rows = connection.execute(select(namespaces.c.path, namespaces.c.kind))
    known = {(path, kind) for path, kind in rows}
    return known == {(namespace.path, str(namespace.kind)) for namespace in tree}


def is_known(connection: Connection, path: NamespacePath) -> bool:
    """Whether the database has a namespace at exactly this path."""
    return connection.execute(select(namespaces.c.id).where(namespaces.c.path == path)).first() is not None


def are_only_added(connection: Connection, tree: Tree) -> bool:
    """Whether `settle` would do no more than add namespaces: none moves, none is dropped."""
    standing = {(str(namespace.path), str(namespace.kind)) for namespace in tree}
    rows = connection.execute(select(namespaces.c.path, namespaces.c.kind))
    return all((path, kind) in standing for path, kind in rows)


def settle(
    change: Change, tree: Tree, now: datetime, *, file: str, line_of: Callable[[str], int] = lambda _: 0
) -> dict[NamespacePath, NamespacePath]:
    """Make the database's namespaces those of `tree`: move what has an alias, add what is new, drop what is empty.

    Returns:
        What was moved: the former path → the new one.

    Raises:
        ConfigError: a namespace that holds packages, claims or tokens is gone from the file, or became
            another kind, or an alias leads where the same name is held already. Names each.
    """
    connection = change.connection
    problems: list[Problem] = []
    stuck: set[int] = set()
    moved: dict[NamespacePath, NamespacePath] = {}
    for found in held(connection, now):
        target = tree.get(found.path)
        if target is None or target.path == found.path:
            continue
        refusal = _move(connection, found, target)
        moved[found.path] = target.path
        if refusal is not None:
            stuck.add(found.id)
            where = config_path(target.path, target.kind)
            problems.append(Problem(file, line_of(target.path), where, refusal))
    change.touch("namespaces")
    gone = [
        found
        for found in held(connection, now)
        if found.id not in stuck
        and ((standing := tree.get(found.path)) is None or standing.kind is not found.kind)
    ]
    problems.extend(_vanished(gone, tree, file))
    if problems:
        raise ConfigError(problems)
    for found in gone:
        connection.execute(delete(tokens).where(tokens.c.namespace_id == found.id))
        connection.execute(delete(namespaces).where(namespaces.c.id == found.id))
    known = set(connection.execute(select(namespaces.c.path)).scalars())
    for namespace in tree:
        if namespace.path not in known:
            connection.execute(
                insert(namespaces).values(path=namespace.path, kind=str(namespace.kind), created_at=now)
            )
    return moved


def _move(connection: Connection, found: Held, target: Namespace) -> str | None:
    """Give the row its new path; where that is taken, hand its contents over. Says why if it cannot be done."""
    taken = connection.execute(select(namespaces.c.id).where(namespaces.c.path == target.path)).scalar()
    if found.kind is not target.kind and not found.is_empty:
        return (
            f"{found.path} was a {found.kind} and holds {_holding([found])}: it cannot become a {target.kind}"
        )
    if taken is None:
        connection.execute(update(namespaces).where(namespaces.c.id == found.id).values(path=target.path))
        return None
    both = (
        select(package_rows.c.name)
        .where(package_rows.c.namespace_id.in_([taken, found.id]))
        .group_by(package_rows.c.name)
        .having(func.count() > 1)
    )
    doubled = connection.execute(both.limit(3)).scalars().all()
    if doubled:
        return (
            f"{found.path} and {target.path} both hold {', '.join(doubled)}: delete it in one of them first"
        )
    for table in (package_rows, tokens):
        connection.execute(update(table).where(table.c.namespace_id == found.id).values(namespace_id=taken))
    connection.execute(delete(namespaces).where(namespaces.c.id == found.id))
    return None


def _vanished(gone: list[Held], tree: Tree, file: str) -> list[Problem]:
    """One problem for each topmost namespace that is gone and holds something, at or below it."""
    full = [found for found in gone if not found.is_empty]
    kinds = {found.path: found.kind for found in gone}
    tops = {[above for above in lineage(found.path) if above in kinds][-1] for found in full}
    problems = []
    for top in sorted(tops):
        holds = _holding([found for found in full if is_within(found.path, top)])
        kind = kinds[top]
        where = config_path(top, kind)
        standing = tree.get(top)
        if standing is not None:
            where = config_path(top, standing.kind)
            message = f"was a {kind} and holds {holds}: it cannot become a {standing.kind}"
        else:
            message = (
                f"{where} is gone but holds {holds}: give the {kind} that replaces it aliases: [{top}], "
                f"or run pypi-overlay namespace drop {top}"
            )
        problems.append(Problem(file, 0, where, message))
    return problems


def _holding(found: Iterable[Held]) -> str:
    """`12 packages and 3 claims`; the claims are those of names without files, as packages are counted already."""
    totals = {"package": 0, "claim": 0, "token": 0}
    for each in found:
        totals["package"] += each.packages
        totals["claim"] += each.claims
        totals["token"] += each.tokens
    counts = [f"{number} {what}{'s' if number > 1 else ''}" for what, number in totals.items() if number]
    return " and ".join(counts)


def config_path(path: NamespacePath, kind: Kind) -> str:
    """Where a namespace of this kind stands, or stood, in the file: `groups.acme.projects.widgets`."""
    *above, last = path.split("/")
    section = "groups" if kind is Kind.GROUP else "projects"
    return ".".join([*(f"groups.{segment}" for segment in above), f"{section}.{last}"])


def drop(change: Change, tree: Tree, path: NamespacePath, now: datetime) -> packages.Removed:
    """Delete all packages at and below a namespace that left the file; their names stay claimed by the instance.

    Raises:
        StillInUse: the file still has it.
        NoSuchNamespace: the data holds no such namespace.
    """
    connection = change.connection
    if path == ROOT or (tree.get(path) is not None and path == tree.current_path(path)):
        raise StillInUse(f"{path or '/'} stands in the configuration", hint="take it out of the file first")
    below = [found for found in held(connection) if is_within(found.path, path)]
    if not below:
        raise NoSuchNamespace(f"nothing is held for {path}")
    root_id = connection.execute(select(namespaces.c.id).where(namespaces.c.path == ROOT)).scalar()
    if root_id is None:
        added = insert(namespaces).values(path=ROOT, kind=str(Kind.GROUP), created_at=now)
        root_id = connection.execute(added.returning(namespaces.c.id)).scalar_one()
    filenames: list[str] = []
    digests: list[str] = []
    for found in below:
        names = (
            connection.execute(select(package_rows.c.name).where(package_rows.c.namespace_id == found.id))
            .scalars()
            .all()
        )
        for name in names:
            if connection.execute(
                select(files.c.id)
                .join(package_rows, package_rows.c.id == files.c.package_id)
                .where(package_rows.c.namespace_id == found.id, package_rows.c.name == name)
                .limit(1)
            ).first():
                removed = packages.delete_files(change, found.path, Name(name))
                filenames += removed.filenames
                digests += removed.digests
        packages.move_claims(change, found.id, root_id)
        connection.execute(delete(tokens).where(tokens.c.namespace_id == found.id))
        connection.execute(delete(namespaces).where(namespaces.c.id == found.id))
    change.touch("namespaces")
    return packages.Removed(tuple(filenames), tuple(digests), tombstone=True)


def list_namespaces(connection: Connection, tree: Tree) -> list[dict[str, object]]:
    """Every namespace of the file, then those that only the data knows, in the shape of contract 12."""
    usage = [
        (path if (found := tree.get(path)) is None else found.path, used)
        for path, used in listing.usage(connection).items()
    ]

    def shape(path: NamespacePath, kind: Kind, found: Namespace | None) -> dict[str, object]:
        below = [used for at, used in usage if is_within(at, path)]
        return {
            "path": path or "/",
            "kind": str(kind),
            "id": None if found is None else found.number,
            "visibility": None if found is None else found.visibility.name.lower(),
            "packages": sum(with_files for with_files, _, _ in below),
            "claims": sum(claimed for _, claimed, _ in below),
            "bytes": sum(size for _, _, size in below),
        }

    gone = [found for found in held(connection) if tree.get(found.path) is None and not found.is_empty]
    return [
        *(shape(namespace.path, namespace.kind, namespace) for namespace in tree),
        *(shape(found.path, found.kind, None) for found in gone),
    ]
