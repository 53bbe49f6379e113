"""A prepared data directory, its locks and its registry, one each per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    # The percent sign is special to Alembic's options, the blank to careless paths.
    layout = Layout(str(tmp_path / "data 100%"))
    layout.prepare()
    return layout


@pytest.fixture
def locks(layout: Layout) -> Iterator[Locks]:
    locks = Locks(layout)
    yield locks
    locks.close()


@pytest.fixture
def registry(layout: Layout, locks: Locks) -> Iterator[Database]:
    database = Database(layout.registry_database, locks, name="registry")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def cache(layout: Layout, locks: Locks) -> Iterator[Database]:
    database = Database(layout.cache_database, locks, name="cache")
    database.migrate()
    yield database
    database.close()
