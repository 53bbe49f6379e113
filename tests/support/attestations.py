"""Attestations as signing tools write them (PEP 740), signed by nobody."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import Any

PUBLISH = "https://docs.index.example/attestations/publish/v1"
SLSA = "https://slsa.dev/provenance/v1"


def attest(filename: str, content: bytes, predicate: str = PUBLISH, **changed: Any) -> dict[str, Any]:
    """An attestation about a file; `changed` replaces keys of its statement."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": filename, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}],
        "predicateType": predicate,
        "predicate": None,
        **changed,
    }
    return {
        "version": 1,
        "verification_material": {
            "certificate": b64encode(b"a certificate").decode(),
            "transparency_entries": [{"logIndex": "1", "kindVersion": {"kind": "dsse", "version": "0.0.1"}}],
        },
        "envelope": {
            "statement": b64encode(json.dumps(statement).encode()).decode(),
            "signature": b64encode(b"a signature").decode(),
        },
    }
