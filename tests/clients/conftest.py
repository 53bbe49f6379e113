"""Fixtures that the tests of one module share: an upstream of their own, clients, and directories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.clients import Client
from tests.support.upstream import FakeUpstream


@pytest.fixture(scope="module")
def public() -> Iterator[FakeUpstream]:
    """Give the public index of one module, in place of PyPI."""
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory for what the tests of one module share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def wide(tmp_home: Path) -> Client:
    """Give clients that do not break their lines at 80 columns, do not retry, and know nothing else."""
    return Client(tmp_home, COLUMNS="300", UV_HTTP_RETRIES="0", PIP_RETRIES="0")


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Give a function that names a new directory to install into, each time."""
    numbers = count(1)
    return lambda: tmp_path / f"target-{next(numbers)}"
