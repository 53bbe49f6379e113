"""Versions: the one place that turns text into a version, and the key under which equal versions meet.

What an upload says passes `parse_version`; what upstream pages say stays text, since old versions there need
not follow PEP 440. Rules over versions (`django>=4.2,<6`) have their room here.
"""

from __future__ import annotations

from packaging.utils import canonicalize_version
from packaging.version import InvalidVersion as NotPep440
from packaging.version import Version

from proxy.errors import InvalidVersion

MAX_VERSION_LENGTH = 255
"""Characters: what fits into a filename. Also keeps numbers below the digits that `int` accepts."""


def parse_version(raw: str) -> Version:
    """Return the version that the whole of `raw` spells (PEP 440, as GitLab's pattern has it: `v1.0` counts).

    Raises:
        InvalidVersion: not ASCII, edged by white space, too long, or outside the grammar; quotes `raw`, cut.
    """
    # packaging lets white space around a version pass, and U+017F for "s", as in po\u017ft1.
    if raw.isascii() and len(raw) <= MAX_VERSION_LENGTH and raw.strip() == raw:
        try:
            return Version(raw)
        except NotPep440:
            pass
    raise InvalidVersion(
        f"{raw[:80]!a} is not a valid version", hint="versions look like 1.0.2, 2.0rc1 or 1.0+local"
    )


def version_key(version: Version) -> str:
    """The text that equal versions share and others do not: `1` for `1.0`, `1.0.0` and `v1`."""
    return canonicalize_version(version, strip_trailing_zero=True)
