"""The house, for all tests of this package."""

from __future__ import annotations

from tests.web.house import house, matrix, wire

__all__ = ["house", "matrix", "wire"]
