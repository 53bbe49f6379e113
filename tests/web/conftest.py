"""The house, for all tests of this package, and a server for modules that say its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.house import house, matrix, wire
from tests.web.stand import Link, Stand

__all__ = ["house", "link", "matrix", "stand", "wire"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> Iterator[Stand]:
    """Give a server that the tests of a module share; the module has a fixture `config`."""
    with Stand(tmp_path_factory.mktemp("stand"), config) as stand:
        yield stand


@pytest.fixture
def link(stand: Stand) -> Iterator[Link]:
    """Give a connection."""
    with stand.link() as link:
        yield link
