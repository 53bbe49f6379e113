from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, StatementError

from proxy.storage.database import Change, Database
from proxy.storage.tables import files, namespaces, packages, releases

NOW = datetime(2026, 5, 1, 8, 0, 0, 123456, tzinfo=UTC)
DIGEST = "ab" * 32


def put_namespace(registry: Database, path: str, at: datetime) -> None:
    row = {"path": path, "kind": "group", "created_at": at}
    registry.change_now(lambda change: change.connection.execute(insert(namespaces).values(row)))


def test_times_come_back_as_the_same_instant_in_utc(registry: Database) -> None:
    put_namespace(registry, "acme", NOW.astimezone(timezone(timedelta(hours=9))))
    stored = registry.read_now(lambda connection: connection.scalar(select(namespaces.c.created_at)))
    assert stored == NOW
    assert stored is not None
    assert stored.tzinfo is UTC


def test_times_compare_as_instants_in_queries(registry: Database) -> None:
    put_namespace(registry, "acme", NOW)
    later_by_the_wall_only = (NOW - timedelta(minutes=1)).astimezone(timezone(timedelta(hours=9)))
    query = select(namespaces.c.path).where(namespaces.c.created_at > later_by_the_wall_only)
    assert registry.read_now(lambda connection: connection.scalars(query).all()) == ["acme"]


def test_times_without_zone_are_refused(registry: Database) -> None:
    with pytest.raises(StatementError, match="without zone"):
        put_namespace(registry, "acme", NOW.replace(tzinfo=None))


def test_paths_differ_in_case(registry: Database) -> None:
    put_namespace(registry, "acme", NOW)
    put_namespace(registry, "Acme", NOW)
    query = select(namespaces.c.path).where(namespaces.c.path == "Acme")
    assert registry.read_now(lambda connection: connection.scalars(query).all()) == ["Acme"]


def publish(registry: Database, filename: str, identity: str) -> None:
    def act(change: Change) -> None:
        connection = change.connection
        for table, row in (
            (namespaces, {"id": 1, "path": "acme/widgets", "kind": "project", "created_at": NOW}),
            (
                packages,
                {"id": 1, "namespace_id": 1, "name": "widgets", "display_name": "W", "claimed_since": NOW},
            ),
            (releases, {"id": 1, "package_id": 1, "version": "1.0", "version_key": "1", "created_at": NOW}),
        ):
            if connection.scalar(select(table.c.id)) is None:
                connection.execute(insert(table).values(row))
        connection.execute(
            insert(files).values(
                release_id=1,
                package_id=1,
                filename=filename,
                identity=identity,
                kind="wheel",
                sha256=DIGEST,
                blake2b=DIGEST,
                size=6 << 30,
                fields={"keywords": ["a", "ü"]},
                uploaded_at=NOW,
                uploaded_by={"kind": "user", "id": 1, "user": "alice"},
            )
        )

    registry.change_now(act)


def test_a_file_has_defaults_and_keeps_its_fields(registry: Database) -> None:
    publish(registry, "widgets-1.0-py3-none-any.whl", "w")
    row = registry.read_now(lambda connection: connection.execute(select(files)).mappings().one())
    assert row["metadata_final"] is False
    assert row["metadata_sha256"] is None
    assert row["size"] == 6 << 30
    assert row["fields"] == {"keywords": ["a", "ü"]}
    release = registry.read_now(lambda connection: connection.execute(select(releases)).mappings().one())
    assert release["yanked"] is False
    package = registry.read_now(lambda connection: connection.execute(select(packages)).mappings().one())
    assert package["status"] == "active"


@pytest.mark.parametrize(
    ("filename", "identity"),
    [("widgets-1.0-py3-none-any.whl", "other"), ("Widgets-1.0.0-py3-none-any.whl", "w")],
)
def test_a_package_holds_a_file_once(registry: Database, filename: str, identity: str) -> None:
    publish(registry, "widgets-1.0-py3-none-any.whl", "w")
    with pytest.raises(IntegrityError):
        publish(registry, filename, identity)


def test_files_go_with_their_release(registry: Database) -> None:
    publish(registry, "widgets-1.0-py3-none-any.whl", "w")
    registry.change_now(lambda change: change.connection.execute(releases.delete()))
    assert registry.read_now(lambda connection: connection.execute(select(files)).all()) == []
    assert registry.read_now(lambda connection: connection.scalar(select(packages.c.name))) == "widgets"


def test_a_namespace_that_holds_packages_cannot_go(registry: Database) -> None:
    publish(registry, "widgets-1.0-py3-none-any.whl", "w")
    with pytest.raises(IntegrityError):
        registry.change_now(lambda change: change.connection.execute(namespaces.delete()))
