"""A migrated registry whose namespaces are those of `making.CONFIG`, and the tree of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.domain.namespaces import Tree
from proxy.registry import namespaces
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from tests.registry.making import CONFIG, FILE, NOW, Clock, tree_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tree() -> Tree:
    return tree_of(CONFIG)


@pytest.fixture
def registry(tmp_path: Path, tree: Tree) -> Iterator[Database]:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    locks = Locks(layout)
    database = Database(layout.registry_database, locks, name="registry")
    database.migrate()
    database.change_now(lambda change: namespaces.settle(change, tree, NOW, file=FILE))
    yield database
    database.close()
    locks.close()
