"""A registry with a few namespaces, and the tree that the configuration makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from proxy.domain.namespaces import Kind, Namespace, NamespacePath, Tree, Visibility
from proxy.domain.policy import OwnPolicy, root_policy
from proxy.storage.database import Change, Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.tables import namespaces

NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)

KINDS = {
    "": Kind.GROUP,
    "acme": Kind.GROUP,
    "acme/widgets": Kind.PROJECT,
    "globex": Kind.GROUP,
}


def tree_of(kinds: dict[str, Kind], aliases: dict[str, str] | None = None) -> Tree:
    """A tree of these namespaces; `aliases`: present path → former path."""
    policy = root_policy(OwnPolicy())
    former = {path: (NamespacePath(alias),) for path, alias in (aliases or {}).items()}
    return Tree(
        [
            Namespace(NamespacePath(path), kind, policy, Visibility.PRIVATE, aliases=former.get(path, ()))
            for path, kind in kinds.items()
        ],
        {},
    )


@pytest.fixture
def tree() -> Tree:
    return tree_of(KINDS)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Database]:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    locks = Locks(layout)
    database = Database(layout.registry_database, locks, name="registry")
    database.migrate()

    def fill(change: Change) -> None:
        rows = [{"path": path, "kind": str(kind), "created_at": NOW} for path, kind in KINDS.items()]
        change.connection.execute(insert(namespaces), rows)

    database.change_now(fill)
    yield database
    database.close()
    locks.close()
