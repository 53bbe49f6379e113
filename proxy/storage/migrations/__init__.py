"""The history of both databases' schemas: one chain of Alembic revisions each, run by `upgrade`.

Revisions lie below `versions/<database>/rNNNN_what.py`, numbered from 0001, written by hand against plain
SQLAlchemy types (never against `storage.tables`, which moves on). A new one is also named in `HEADS`; a test
holds chain, `HEADS` and tables together. `alembic` is imported only when there is something to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

from sqlalchemy import Connection, column, inspect, select, table

from proxy.errors import StoreUnavailable

DatabaseName: TypeAlias = Literal["registry", "cache"]

HEADS: Final[dict[DatabaseName, str]] = {"registry": "0003", "cache": "0002"}
"""The newest revision of each database that this code knows."""

_VERSION_TABLE = "alembic_version"


def current_revision(connection: Connection) -> str | None:
    """The revision the database is at; None for an empty one."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(select(column("version_num")).select_from(table(_VERSION_TABLE)))
    return revision


def upgrade(connection: Connection, database: DatabaseName) -> None:
    """Bring the schema to `HEADS[database]` within the connection's transaction.

    Raises:
        StoreUnavailable: the database is at a revision that this code does not know.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    here = Path(__file__).parent
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", _escaped(here))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _escaped(here / "versions" / database))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = current_revision(connection)
    if current is not None and current not in known:
        raise StoreUnavailable(
            f"the {database} database was written by a newer pypi-overlay (schema {current}, known up to "
            f"{HEADS[database]})",
            hint="install that version, or restore a backup made with this one",
        )
    command.upgrade(config, "head")


def _escaped(path: Path) -> str:
    # Alembic's options are interpolated; a % in a path is its own.
    return str(path).replace("%", "%%")
