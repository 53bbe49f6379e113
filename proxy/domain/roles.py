"""Roles: what a user may be in a namespace."""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """What a user is in a namespace and everywhere below it; the highest counts."""

    REPORTER = 1
    DEVELOPER = 2
    MAINTAINER = 3
    OWNER = 4
