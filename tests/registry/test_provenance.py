"""Attestations (PEP 740): their shape, that they are about the file they came with, and what is made of them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest

from proxy.domain.access import Caller, CallerKind
from proxy.domain.filenames import parse_distribution
from proxy.domain.trust import Identity
from proxy.errors import InvalidForm
from proxy.registry.provenance import provenance_of
from tests.support.attestations import PUBLISH, SLSA, attest

FILENAME = "gears_of_war-1.0-1-py2.py3-none-any.whl"
CONTENT = b"the bytes of a wheel"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ALICE = Caller(CallerKind.USER, "alice", token=7)


def made(text: str, filename: str = FILENAME, caller: Caller = ALICE) -> Any:
    return json.loads(provenance_of(text, parse_distribution(filename), SHA256, caller))


def sent(*attestations: object) -> str:
    return json.dumps(attestations)


def about(**changed: Any) -> dict[str, Any]:
    return attest(FILENAME, CONTENT, **changed)


def test_attestations_become_the_bundle_of_who_sent_them() -> None:
    given = [about(), about(predicate=SLSA)]
    assert made(sent(*given)) == {
        "version": 1,
        "attestation_bundles": [
            {"publisher": {"kind": "pypi-overlay", "user": "alice"}, "attestations": given}
        ],
    }


def test_a_publisher_without_a_name_is_told_by_its_kind() -> None:
    bundle = made(sent(about()), caller=Caller(CallerKind.OWNER, token=1))["attestation_bundles"][0]
    assert bundle["publisher"] == {"kind": "pypi-overlay", "user": "owner"}


GITHUB = {
    "repository": "acme/widgets",
    "workflow_ref": "acme/widgets/.github/workflows/release.yml@refs/tags/v1",
    "environment": "pypi",
    "ref": "refs/tags/v1",
    "sha": "abc",
    "sub": "repo:acme/widgets:environment:pypi",
    "actor": "alice",
}
GITLAB = {
    "project_path": "acme/widgets",
    "ci_config_ref_uri": "gitlab.test/acme/widgets//ci/release.yml@refs/tags/v1",
    "ref": "v1",
    "user_email": "alice@acme.test",
}


@pytest.mark.parametrize(
    ("kind", "claims", "told"),
    [
        (
            "GitHub",
            GITHUB,
            {
                "workflow": "release.yml",
                "environment": "pypi",
                "claims": {key: GITHUB[key] for key in ("ref", "sha", "sub")},
            },
        ),
        (
            "GitLab",
            GITLAB,
            {"workflow_filepath": "ci/release.yml", "environment": None, "claims": {"ref": "v1"}},
        ),
        ("builds", {"sub": "x", "environment": "y"}, {"claims": {"sub": "x"}}),
    ],
)
def test_an_identity_is_told_as_pypi_tells_it_and_no_more_of_it(
    kind: str, claims: dict[str, str], told: dict[str, object]
) -> None:
    identity = Identity("issuer", kind, "acme/widgets", claims)
    job = Caller(CallerKind.JOB, "issuer:acme/widgets", identity=identity)
    publisher = made(sent(about()), caller=job)["attestation_bundles"][0]["publisher"]
    assert publisher == {"kind": kind, "repository": "acme/widgets", **told}


def test_further_keys_are_kept() -> None:
    given = {**about(), "added": {"by": "a signer"}}
    assert made(sent(given))["attestation_bundles"][0]["attestations"] == [given]


def test_a_key_that_stands_twice_is_one_in_what_is_served() -> None:
    """Readers differ in which of two they believe; what was checked must be what they read."""
    text = sent(about()).replace('"version": 1,', '"version": 2, "version": 1,', 1)
    served = provenance_of(text, parse_distribution(FILENAME), SHA256, ALICE)
    assert served.count(b'"version":2') == 0


@pytest.mark.parametrize(
    ("filename", "subject"),
    [
        (FILENAME, "Gears.Of-War-1.0-1-py2.py3-none-any.whl".replace("-War", "_War")),
        (FILENAME, "gears_of_war-1.0.0-1-py3.py2-none-any.whl"),
        ("gears_of_war-1.0.tar.gz", "Gears-of-War-1.0.tar.gz"),
    ],
)
def test_a_statement_may_spell_the_filename_otherwise(filename: str, subject: str) -> None:
    made(sent(attest(subject, CONTENT)), filename)


def test_base64_may_have_line_breaks() -> None:
    """As `encodebytes` makes them, which signing tools used."""
    given = about()
    text = given["envelope"]["statement"]
    given["envelope"]["statement"] = "\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + "\n"
    made(sent(given))


def without(*path: str) -> dict[str, Any]:
    given = about()
    at: Any = given
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return given


def having(value: object, *path: str) -> dict[str, Any]:
    given = about()
    at: Any = given
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return given


def stated(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """An attestation whose statement was changed."""
    given = about()
    statement = json.loads(b64decode(given["envelope"]["statement"]))
    change(statement)
    given["envelope"]["statement"] = b64encode(json.dumps(statement).encode()).decode()
    return given


def of_payload(payload: bytes) -> dict[str, Any]:
    return having(b64encode(payload).decode(), "envelope", "statement")


REFUSED: dict[str, tuple[str, str]] = {
    "no JSON": ("attestations", "cannot be read"),
    "no array": (json.dumps(about()), "cannot be read"),
    "no objects": ("[1]", "cannot be read"),
    "none at all": ("[]", "holds none"),
    "three": (sent(about(), about(), about()), "more than 2"),
    "nested without end": ("[" * 100_000, "cannot be read"),
    "a number of many digits": ("9" * 5000, "cannot be read"),
    "half a character": (sent(about()).replace("a", "\\ud800", 1), "cannot be read"),
    "the same twice": (sent(about(), about()), "two attestations are of the kind"),
    "version 2": (sent(having(2, "version")), "not of the form of PEP 740"),
    "version true": (sent(having(True, "version")), "not of the form of PEP 740"),
    "no version": (sent(without("version")), "not of the form of PEP 740"),
    "no envelope": (sent(without("envelope")), "not of the form of PEP 740"),
    "no signature": (sent(without("envelope", "signature")), "`signature`"),
    "no certificate": (sent(without("verification_material", "certificate")), "`certificate`"),
    "no entries": (sent(without("verification_material", "transparency_entries")), "`transparency_entries`"),
    "empty entries": (
        sent(having([], "verification_material", "transparency_entries")),
        "no transparency_entries",
    ),
    "certificate": (sent(having("?", "verification_material", "certificate")), "certificate .* not base64"),
    "empty certificate": (
        sent(having("", "verification_material", "certificate")),
        "certificate .* is empty",
    ),
    "signature": (sent(having("Zm9v!", "envelope", "signature")), "signature .* not base64"),
    "signature beyond ASCII": (sent(having("ü", "envelope", "signature")), "signature .* not base64"),
    "statement": (sent(having("Zm9", "envelope", "statement")), "statement .* not base64"),
    "statement that is no JSON": (sent(of_payload(b"\xff{}")), "the statement of an attestation cannot"),
    "statement of another type": (
        sent(about(_type="https://in-toto.io/Statement/v0.1")),
        "the statement of an attestation cannot be read",
    ),
    "no subject": (sent(about(subject=[])), "has 0 subjects"),
    "two subjects": (sent(stated(lambda s: s["subject"].append(s["subject"][0]))), "has 2 subjects"),
    "another file": (
        sent(attest("gears-1.0-py3-none-any.whl", CONTENT)),
        "about 'gears-1.0-py3-none-any.whl'",
    ),
    "another build": (sent(attest(FILENAME.replace("-1-", "-2-"), CONTENT)), "is about"),
    "a path": (sent(attest(f"../{FILENAME}", CONTENT)), "is about"),
    "no file": (sent(attest("\r\nX: y", CONTENT)), "is about"),
    "another digest": (sent(attest(FILENAME, b"other bytes")), "another sha256"),
    "no sha256": (sent(stated(lambda s: s["subject"][0].update(digest={"md5": "0" * 32}))), "another sha256"),
    "an unknown type": (sent(about(predicate="https://example.org/x\n")), "type 'https://example.org/x"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_attestation_of_this_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidForm, match=message) as caught:
        made(text)
    told = str(caught.value)
    assert told.isascii()
    assert told.isprintable()
    assert len(told) < 300


@pytest.mark.parametrize(("depth", "is_accepted"), [(40, True), (100, False), (900, False), (100_000, False)])
def test_deep_nesting_which_some_readers_cannot_read_is_refused(depth: int, is_accepted: bool) -> None:
    nested = "[" * depth + "]" * depth
    text = sent({**about(), "x": 0}).replace('"x": 0', f'"x": {nested}')
    if is_accepted:
        assert nested in provenance_of(text, parse_distribution(FILENAME), SHA256, ALICE).decode()
        return
    with pytest.raises(InvalidForm, match="attestations"):
        provenance_of(text, parse_distribution(FILENAME), SHA256, ALICE)


def test_both_known_types_may_come_together_in_any_order() -> None:
    for types in ((PUBLISH, SLSA), (SLSA, PUBLISH)):
        bundle = made(sent(*(about(predicate=each) for each in types)))["attestation_bundles"][0]
        assert len(bundle["attestations"]) == 2
