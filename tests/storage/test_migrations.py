from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, insert, inspect, text

import proxy
from proxy.errors import StoreUnavailable
from proxy.storage import migrations
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.migrations import HEADS, DatabaseName, current_revision
from proxy.storage.tables import cache_metadata, namespaces, registry_metadata
from tests.storage.children import Child

BOTH: list[DatabaseName] = ["registry", "cache"]


@pytest.mark.parametrize(
    ("fixture", "metadata"), [("registry", registry_metadata), ("cache", cache_metadata)], ids=BOTH
)
def test_the_migrated_schema_is_that_of_the_tables(
    request: pytest.FixtureRequest, fixture: str, metadata: MetaData
) -> None:
    database: Database = request.getfixturevalue(fixture)
    differences = database.read_now(
        lambda connection: compare_metadata(
            MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            ),
            metadata,
        )
    )
    assert differences == []


@pytest.mark.parametrize(
    ("fixture", "metadata"), [("registry", registry_metadata), ("cache", cache_metadata)], ids=BOTH
)
def test_every_foreign_key_and_constraint_has_the_name_that_the_tables_give_it(
    request: pytest.FixtureRequest, tmp_path: Path, fixture: str, metadata: MetaData
) -> None:
    migrated: Database = request.getfixturevalue(fixture)
    fresh = Database(str(tmp_path / "fresh.sqlite"), request.getfixturevalue("locks"), name="cache")
    fresh.change_now(lambda change: metadata.create_all(change.connection))

    def shape(database: Database) -> dict[str, object]:
        def look(connection: Connection) -> dict[str, object]:
            found = inspect(connection)
            return {
                table: (
                    found.get_pk_constraint(table),
                    sorted(map(str, found.get_foreign_keys(table))),
                    sorted(map(str, found.get_unique_constraints(table))),
                    sorted(map(str, found.get_indexes(table))),
                )
                for table in metadata.tables
            }

        return database.read_now(look)

    assert shape(migrated) == shape(fresh)
    fresh.close()


@pytest.mark.parametrize("name", BOTH)
def test_the_head_named_in_the_code_is_the_end_of_the_chain(name: DatabaseName) -> None:
    here = Path(migrations.__file__).parent
    config = Config()
    config.set_main_option("script_location", str(here))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(here / "versions" / name))
    assert ScriptDirectory.from_config(config).get_heads() == [HEADS[name]]


def test_migrating_twice_keeps_what_is_there(registry: Database) -> None:
    row = {"path": "acme", "kind": "group", "created_at": datetime.now(UTC)}
    registry.change_now(lambda change: change.connection.execute(insert(namespaces).values(row)))
    registry.migrate()
    assert registry.read_now(current_revision) == HEADS["registry"]
    assert (
        registry.read_now(lambda connection: connection.scalar(text("SELECT count(*) FROM namespaces"))) == 1
    )


def test_a_migrated_database_is_opened_without_alembic(layout: Layout, registry: Database) -> None:
    code = "registry.migrate(); say('alembic' in sys.modules)"
    assert registry.read_now(current_revision)
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "False"


def test_a_newer_database_is_refused_and_left_alone(registry: Database) -> None:
    registry.change_now(
        lambda change: change.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    )
    with pytest.raises(StoreUnavailable, match=r"written by a newer pypi-overlay \(schema 9999"):
        registry.migrate()
    assert registry.read_now(current_revision) == "9999"


def test_a_migration_that_is_killed_or_fails_leaves_the_database_as_it_was(
    layout: Layout, locks: Locks
) -> None:
    code = """
from sqlalchemy import event
import proxy.storage.database as module
upgrade = module.upgrade
def slow(connection, name):
    upgrade(connection, name)
    say("all statements ran")
    input()
module.upgrade = slow
registry.migrate()
"""
    database = Database(layout.registry_database, locks, name="registry")
    with Child(layout.data_dir, code) as child:
        assert child.hear() == "all statements ran"
        child.kill()
    assert database.read_now(current_revision) is None
    database.migrate()
    assert database.read_now(current_revision) == HEADS["registry"]
    database.close()


def test_processes_that_start_together_migrate_once(layout: Layout, locks: Locks) -> None:
    code = "say('ready'); input(); registry.migrate(); say('migrated')"
    with Child(layout.data_dir, code) as one, Child(layout.data_dir, code) as two:
        for child in (one, two):
            child.hear()
        for child in (one, two):
            child.tell()
        assert [one.hear(), two.hear()] == ["migrated"] * 2


def test_the_revisions_do_not_lean_on_tables_that_move_on() -> None:
    versions = Path(migrations.__file__).parent / "versions"
    scripts = sorted(versions.rglob("r*.py"))
    assert len(scripts) >= len(BOTH)
    for script in scripts:
        assert "proxy" not in script.read_text()


def test_importing_the_storage_does_not_import_alembic() -> None:
    root = Path(proxy.__file__).parent.parent
    code = "import sys, proxy.storage.database, proxy.storage.objects; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
