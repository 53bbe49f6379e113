"""Which process computes where. A process inherits the cores of the one that starts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER_CORE = 0
LOAD_CORE = 1


def can_pin() -> bool:
    """Whether this machine has two cores and lets processes be pinned to them."""
    return hasattr(os, "sched_setaffinity") and {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0)


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Start processes on that core inside the block; does nothing where processes cannot be pinned."""
    if not can_pin():
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
