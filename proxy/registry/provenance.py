"""Attestations of an upload (PEP 740): read, compared with the file they came with, and put into its provenance.

Their shape is checked, and that what they state is about this very file. Their **signatures are not verified**,
nor certificates or transparency logs: that is for whoever relies on them, and takes the provenance object for it.
The object says which caller of this server sent them.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any, Literal, TypeVar

import msgspec

from proxy.domain.access import Caller
from proxy.domain.filenames import Distribution, parse_distribution
from proxy.errors import InvalidFilename, InvalidForm

# Whichever index's documentation it names: tools name PyPI's, also where they publish elsewhere.
_PUBLISH = re.compile(r"https://[a-z0-9.-]+/attestations/publish/v1\Z", re.ASCII)
_SLSA = "https://slsa.dev/provenance/v1"
_MAX_ATTESTATIONS = 2
"""One of each of the two types that there are."""

_MAX_NESTING = 64
"""Levels of objects and lists in one attestation; real ones have about ten."""

_TOLD_CLAIMS = frozenset({"sub", "ref", "sha"})
"""What is told of an identity besides repository, workflow and environment; other claims may be personal."""

_Shape = TypeVar("_Shape")


class _Material(msgspec.Struct):
    certificate: str
    transparency_entries: list[dict[str, Any]]


class _Envelope(msgspec.Struct):
    statement: str
    signature: str


class _Attestation(msgspec.Struct):
    version: Literal[1]
    verification_material: _Material
    envelope: _Envelope


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct, rename="camel"):
    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: list[_Subject]
    predicate_type: str


class _Bundle(msgspec.Struct):
    publisher: dict[str, Any]
    attestations: list[dict[str, Any]]


class _Provenance(msgspec.Struct):
    version: int
    attestation_bundles: list[_Bundle]


def provenance_of(text: str, distribution: Distribution, sha256: str, caller: Caller) -> bytes:
    """The provenance object of a file, from the form's field `attestations`.

    Args:
        text: a JSON array of attestation objects; further keys in them are kept.
        distribution: what the file's own name says; a statement may spell it otherwise.
        sha256: of the file, in lower-case hex.
        caller: who uploads it, and is named as the publisher.

    Returns:
        The object as JSON in UTF-8, for whoever asks for `<file>.provenance`.

    Raises:
        InvalidForm: there is none or too many, one has not the shape of PEP 740, or is about another file.
    """
    given = _decode(text.encode(), list[dict[str, Any]], "the field attestations")
    if not given:
        raise InvalidForm("the field attestations holds none", hint="leave it out instead")
    if len(given) > _MAX_ATTESTATIONS:
        raise InvalidForm(f"more than {_MAX_ATTESTATIONS} attestations came with the file")
    _check_nesting(given)
    seen: set[str] = set()
    for item in given:
        kind = _kind_of(item, distribution, sha256)
        if kind in seen:
            raise InvalidForm(f"two attestations are of the kind {kind}")
        seen.add(kind)
    return msgspec.json.encode(_Provenance(1, [_Bundle(_publisher(caller), given)]))


def _check_nesting(given: list[dict[str, Any]]) -> None:
    """Return if every reader of JSON can read it: how deep that goes differs among them."""
    level: list[Any] = list(given)
    for _ in range(_MAX_NESTING):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise InvalidForm("the attestations are nested too deeply")


def _kind_of(item: dict[str, Any], distribution: Distribution, sha256: str) -> str:
    """Which of the two kinds of attestation this is, once it is seen to be one, and about this file."""
    try:
        attestation = msgspec.convert(item, _Attestation)
    except msgspec.ValidationError as error:
        raise InvalidForm(f"an attestation is not of the form of PEP 740: {_shown(error)}") from error
    material, envelope = attestation.verification_material, attestation.envelope
    if not material.transparency_entries:
        raise InvalidForm("an attestation has no transparency_entries")
    _bytes_of(material.certificate, "certificate")
    _bytes_of(envelope.signature, "signature")
    payload = _bytes_of(envelope.statement, "statement")
    statement = _decode(payload, _Statement, "the statement of an attestation")
    if len(statement.subject) != 1:
        raise InvalidForm(f"the statement of an attestation has {len(statement.subject)} subjects, not one")
    subject = statement.subject[0]
    if not _is_name_of(subject.name, distribution):
        raise InvalidForm(f"an attestation is about {subject.name[:100]!a}, not {distribution.filename}")
    if subject.digest.get("sha256", "").lower() != sha256:
        raise InvalidForm("an attestation names another sha256 than the file has")
    if statement.predicate_type == _SLSA:
        return "provenance"
    if _PUBLISH.match(statement.predicate_type):
        return "publish"
    raise InvalidForm(f"the attestation type {statement.predicate_type[:100]!a} is not known")


def _is_name_of(filename: str, distribution: Distribution) -> bool:
    """Whether `filename` means the same file; signers may spell name, version and tags in their normal forms."""
    try:
        return parse_distribution(filename).identity == distribution.identity
    except InvalidFilename:
        return False


def _bytes_of(text: str, what: str) -> bytes:
    """What `text` is the base64 of. Line breaks are let pass: signing tools of 2024 wrote them."""
    try:
        content = b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise InvalidForm(f"the {what} of an attestation is not base64") from error
    if not content:
        raise InvalidForm(f"the {what} of an attestation is empty")
    return content


def _decode(content: bytes, shape: type[_Shape], what: str) -> _Shape:
    try:
        return msgspec.json.decode(content, type=shape)
    except (ValueError, RecursionError) as error:
        raise InvalidForm(f"{what} cannot be read: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    return ascii(str(error)[:120])[1:-1]


def _publisher(caller: Caller) -> dict[str, Any]:
    """Who stands behind the attestations, as far as this server knows; never a secret.

    An identity of GitHub or GitLab is told as PyPI tells it, for the tools that verify what PyPI serves.
    """
    identity = caller.identity
    if identity is None:
        return {"kind": "pypi-overlay", "user": caller.name or str(caller.kind)}
    told = {key: text for key, text in identity.claims.items() if key in _TOLD_CLAIMS}
    publisher: dict[str, Any] = {"kind": identity.kind, "repository": identity.repository, "claims": told}
    workflow = identity.claims.get("workflow_ref") or identity.claims.get("ci_config_ref_uri", "")
    match identity.kind:
        case "GitHub":
            # acme/widgets/.github/workflows/release.yml@refs/tags/v1
            publisher["workflow"] = workflow.partition("@")[0].rpartition("/")[2]
        case "GitLab":
            # gitlab.com/acme/widgets//.gitlab-ci.yml@refs/tags/v1
            publisher["workflow_filepath"] = workflow.partition("//")[2].partition("@")[0]
        case _:
            return publisher
    return publisher | {"environment": identity.claims.get("environment")}
