"""The fields of an upload form: gathered within limits, then read once (protocol 3.1).

Text is kept only as far as it is needed: what an index says of a file comes from the file, not from the form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from proxy.domain.filenames import Distribution, Kind
from proxy.domain.names import Name, parse_name
from proxy.domain.versions import parse_version
from proxy.errors import (
    DigestMismatch,
    InvalidFilename,
    InvalidForm,
    InvalidName,
    InvalidVersion,
    NoLongerOffered,
)

MAX_PARTS = 2_000
MAX_FIELD = 1 << 20
"""Bytes of one text field; longer descriptions are cut, any other field is refused."""
MAX_TEXT = 16 << 20
"""Bytes of all text fields together."""

SINGLE = frozenset(
    {":action", "protocol_version", "metadata_version", "name", "version", "filetype", "pyversion"}
    | {"md5_digest", "sha256_digest", "blake2_256_digest", "comment", "summary", "description"}
    | {"description_content_type", "keywords", "home_page", "download_url", "author", "author_email"}
    | {"maintainer", "maintainer_email", "license", "license_expression", "requires_python", "attestations"}
)
"""Fields that may stand once (T-UP4)."""

_KEPT_ONCE = (
    *("metadata_version", "summary", "description", "description_content_type", "keywords", "home_page"),
    *("author", "author_email", "maintainer", "maintainer_email", "license", "license_expression"),
)
_KEPT_LISTS = ("classifiers", "project_urls", "requires_dist", "provides_extra", "license_file")
_MAX_KEPT = 4096
_MAX_KEPT_ITEMS = 500
_DIGEST_LENGTH = {"md5_digest": 32, "sha256_digest": 64, "blake2_256_digest": 64}
_FILETYPES = {"sdist": Kind.SDIST, "bdist_wheel": Kind.WHEEL}
_NO_LONGER = {
    "submit": "projects are no longer registered before their first upload",
    "submit_pkg_info": "projects are no longer registered before their first upload",
    "doc_upload": "documentation is not hosted here",
}
"""Actions of old clients that PyPI answers with 410."""


@dataclass(slots=True)
class Fields:
    """Text fields as they arrive, in any order."""

    values: dict[str, list[str]] = field(default_factory=dict)
    parts: int = 0
    text: int = 0

    def count(self, name: str) -> None:
        """Take note of one part.

        Raises:
            InvalidForm: too many of them, or a second one of a field that may stand once.
        """
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise InvalidForm(f"the form has more than {MAX_PARTS} fields")
        if name in SINGLE and name in self.values:
            raise InvalidForm(f"the field {name[:60]!a} stands twice in the form")

    def add(self, name: str, value: bytes) -> None:
        """Add a text field; `UNKNOWN` and empty values count as absent, as PyPI has it.

        Raises:
            InvalidForm: it is not UTF-8, or all text together is over `MAX_TEXT`.
        """
        self.text += len(value)
        if self.text > MAX_TEXT:
            raise InvalidForm(f"the form has more than {MAX_TEXT >> 20} MiB of text")
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidForm(f"the field {name[:60]!a} is not UTF-8") from error
        if text.strip() not in {"", "UNKNOWN"}:
            self.values.setdefault(name, []).append(text.replace("\x00", "\\x00"))
        elif name in SINGLE:
            self.values.setdefault(name, [])

    def first(self, name: str) -> str | None:
        """The value of a single field, or None."""
        found = self.values.get(name)
        return found[0] if found else None


@dataclass(frozen=True, slots=True)
class Form:
    """A form that makes sense in itself.

    Attributes:
        digests: lower-case hex by field name.
        kept: what the registry keeps of the form.
        attestations: the field's text (PEP 740), not yet looked into; None where there is none.
    """

    name: Name
    display_name: str
    version: Version
    version_text: str
    kind: Kind
    digests: Mapping[str, str]
    kept: Mapping[str, object]
    attestations: str | None = None


def read_form(fields: Fields, *, action: str | None, max_description: int) -> Form:
    """Check the form: action, name, version, file type, digests (contract 6).

    Args:
        action: `:action` of the query string, where it stood there.
        max_description: characters kept of the description.

    What nothing here depends on is not asked for: not `metadata_version`, no digest, no `pyversion` of a wheel.

    Raises:
        NoLongerOffered: the action is one that indexes used to have.
        InvalidForm: a required field is missing or a value impossible.
        InvalidVersion: the version is not one of PEP 440, in ASCII and anchored, as GitLab has it.
    """
    wanted = fields.first(":action") or action
    if wanted in _NO_LONGER:
        raise NoLongerOffered(_NO_LONGER[wanted], hint="upload the files of a release instead")
    if wanted != "file_upload":
        raise InvalidForm(
            f"unknown :action {(wanted or '')[:40]!a}", hint="this address takes file_upload alone"
        )
    if (fields.first("protocol_version") or "1") != "1":
        raise InvalidForm("unknown protocol_version", hint="this address speaks version 1")
    raw_name, raw_version = fields.first("name"), fields.first("version")
    missing = [key for key, value in (("name", raw_name), ("version", raw_version)) if value is None]
    if missing or raw_name is None or raw_version is None:
        raise InvalidForm(f"the form lacks {' and '.join(missing)}")
    try:
        name = parse_name(raw_name)
    except InvalidName as error:
        raise InvalidForm(error.message, hint=error.hint) from error
    version = parse_version(raw_version)
    filetype = fields.first("filetype") or ""
    if filetype not in _FILETYPES:
        raise InvalidForm(f"filetype {filetype[:40]!a} is not accepted", hint="use sdist or bdist_wheel")
    pyversion = fields.first("pyversion") or "source"
    if filetype == "sdist" and pyversion != "source":
        raise InvalidForm(f"pyversion {pyversion[:40]!a} is not that of an sdist", hint="use source")
    return Form(
        name,
        raw_name,
        version,
        raw_version,
        _FILETYPES[filetype],
        _digests(fields),
        _kept(fields, max_description),
        fields.first("attestations"),
    )


def _digests(fields: Fields) -> dict[str, str]:
    found = {}
    for key, length in _DIGEST_LENGTH.items():
        value = fields.first(key)
        if value is None:
            continue
        value = value.strip().lower()
        if re.fullmatch(rf"[0-9a-f]{{{length}}}", value, re.ASCII) is None:
            raise InvalidForm(f"{key} is not {length} hexadecimal digits")
        found[key] = value
    return found


def _kept(fields: Fields, max_description: int) -> dict[str, object]:
    kept: dict[str, object] = {}
    for key in _KEPT_ONCE:
        value = fields.first(key)
        if value is not None:
            kept[key] = value[: max_description if key == "description" else _MAX_KEPT]
    for key in _KEPT_LISTS:
        values = fields.values.get(key)
        if values:
            kept[key] = [value[:_MAX_KEPT] for value in values[:_MAX_KEPT_ITEMS]]
    return kept


def check_local_version(form: Form, rule: str) -> None:
    """See that the version has no local part where the policy's `local_versions` is `reject`.

    Raises:
        InvalidVersion: it has one.
    """
    if rule == "reject" and form.version.local is not None:
        raise InvalidVersion(
            f"{form.version_text[:80]!a} is a local version, which is not accepted here",
            hint="leave out what begins with +",
        )


def check_filename(form: Form, distribution: Distribution) -> None:
    """See that the filename belongs to the form's name, version and file type (T-UP1, T-UP2).

    Raises:
        InvalidFilename: it does not; says which of them differs.
    """
    if distribution.name != form.name:
        raise InvalidFilename(
            f"the filename {distribution.filename} belongs to {distribution.name}, not to {form.name}"
        )
    if distribution.version != form.version:
        raise InvalidFilename(
            f"the filename {distribution.filename} says version {distribution.version}, "
            f"the form {form.version_text[:60]}"
        )
    if distribution.kind is not form.kind:
        raise InvalidFilename(
            f"the filename {distribution.filename} is no {form.kind}, as the form's filetype says"
        )


def check_digests(form: Form, actual: Mapping[str, str]) -> None:
    """Compare the form's digests with those of the bytes; all that are given must be right.

    Raises:
        DigestMismatch: one is not.
    """
    for key, claimed in form.digests.items():
        if claimed != actual[key]:
            raise DigestMismatch(
                f"{key} does not match the file",
                hint="it was changed or damaged on its way; build and upload it again",
            )
