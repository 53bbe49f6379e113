"""Versions: the one place that turns text into a version, the key under which equal versions meet, and specifiers.

What an upload says passes `parse_version`; what upstream pages say stays text, since old versions there need
not follow PEP 440. So a rule over versions says two things of such text: a denial covers it, whatever it
specifies, and an allowance or an exemption does not (contract 3, Patterns).
"""

from __future__ import annotations

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.utils import canonicalize_version
from packaging.version import InvalidVersion as NotPep440
from packaging.version import Version

from proxy.errors import InvalidInput, InvalidVersion

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


def known_version(raw: str | None) -> Version | None:
    """The version that `raw` spells, or None for what is none: versions of upstreams are texts."""
    if raw is None:
        return None
    try:
        return parse_version(raw)
    except InvalidVersion:
        return None


def version_key(version: Version) -> str:
    """The text that equal versions share and others do not: `1` for `1.0`, `1.0.0` and `v1`."""
    return canonicalize_version(version, strip_trailing_zero=True)


def public_key(version: Version) -> str:
    """As `version_key`, but for the local part: `1` for `1.0+acme` too (protocol T-CONF5)."""
    return canonicalize_version(version.public, strip_trailing_zero=True)


def parse_specifier(raw: str) -> SpecifierSet:
    """The versions that a text such as `>=4.2,<6` speaks of (PEP 440).

    Raises:
        InvalidInput: it is none.
    """
    if raw.isascii() and len(raw) <= MAX_VERSION_LENGTH:
        try:
            return SpecifierSet(raw)
        except InvalidSpecifier:
            pass
    raise InvalidInput(f"{raw[:80]!a} is not a version specifier", hint="specifiers look like >=4.2,<6")


def is_admitted(specifier: SpecifierSet | None, version: Version | None) -> bool:
    """Whether an allowance or exemption covers a version: pre-releases too; never what cannot be parsed.

    `==1.0` does not cover `1.0+evil`, which would install in its place (contract 3, Patterns).
    """
    if specifier is None:
        return True
    if version is None or not specifier.contains(version, prereleases=True):
        return False
    return version.local is None or not any(_equals_public(one) for one in specifier)


def is_denied(specifier: SpecifierSet | None, version: Version | None) -> bool:
    """Whether a denial covers a version: pre-releases and what cannot be parsed too.

    `!=1.0` covers `1.0+evil`: what is spared is 1.0 alone.
    """
    if specifier is None or version is None:
        return True
    if version.local is None:
        return specifier.contains(version, prereleases=True)
    return all(
        (one.operator == "!=" and _names_public(one)) or one.contains(version, prereleases=True)
        for one in specifier
    )


def _equals_public(one: Specifier) -> bool:
    return one.operator == "==" and _names_public(one)


def _names_public(one: Specifier) -> bool:
    return "+" not in one.version


def is_same(one: str, other: str) -> bool:
    """Whether two texts spell one version: equal by PEP 440, or letter by letter where one of them is none."""
    versions = known_version(one), known_version(other)
    return one == other if None in versions else versions[0] == versions[1]
