"""Signatures of identity tokens: public keys of issuers, and what was signed with them (RFC 7515, 7517, 7519).

The only module that uses joserfc, which comes with the extra `oidc`: imported where issuers are configured. Three
algorithms are taken, each with one kind of key, and a key serves only the algorithm that it is for: a token cannot
choose how it is looked at. Which issuer and key a token is held against is decided in `identity.oidc`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from joserfc import jws
from joserfc.errors import ClaimError, JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from proxy.errors import NotAuthenticated

MOST_KEYS = 100
"""Keys of an issuer that are read; GitLab and GitHub have a handful."""

_SMALLEST_RSA = 2048
_LARGEST_RSA = 8192
_PUBLIC = frozenset({"kty", "n", "e", "crv", "x", "y"})
"""What makes a public key. Nothing else of an entry reaches the library, private parts least of all."""


class _Algorithm(jws.JWSRegistry):
    """One algorithm and no other. Members of a header beyond RFC 7515 are let be."""

    max_header_length = 16 << 10

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name], strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"this key is not for {name}")
        # Not by the inherited way, which warns of the name EdDSA: RFC 9864 prefers Ed25519, issuers send EdDSA.
        return self.algorithms[name]


_ALGORITHMS = {name: _Algorithm(name) for name in ("RS256", "ES256", "EdDSA")}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of an issuer, for one algorithm."""

    kid: str | None
    alg: str
    key: Key


class _KeySet(msgspec.Struct):
    keys: list[Any]


class _Header(msgspec.Struct):
    """What a token says of its own signature (RFC 7515, 4.1). Keys that come along in it are not looked at."""

    alg: str
    kid: str | None = None
    crit: Any = None
    b64: Any = None


def read_header(text: str) -> tuple[str, str | None]:
    """Algorithm and key id that a token names; nothing of it is true yet.

    Raises:
        NotAuthenticated: malformed, an algorithm that is not taken, or something critical that is not known here.
    """
    try:
        header = msgspec.json.decode(part_of(text, 0), type=_Header)
    except (ValueError, RecursionError) as error:
        raise NotAuthenticated("the identity token is malformed") from error
    if header.alg not in _ALGORITHMS:
        raise NotAuthenticated(f"the identity token is not signed by one of {', '.join(_ALGORITHMS)}")
    if header.crit is not None or header.b64 is not None:
        raise NotAuthenticated("the identity token asks for something that is not known here")
    return header.alg, header.kid


def part_of(text: str, position: int) -> bytes:
    """One of the three parts of a token, decoded.

    Raises:
        ValueError: there are not three parts, or this one is not base64url.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    return urlsafe_b64decode(parts[position].encode("ascii"))


def read_keys(document: bytes) -> tuple[PublicKey, ...]:
    """The usable keys of a key set (RFC 7517, 5). Whatever cannot be used here is passed over.

    Args:
        document: the set as JSON.

    Raises:
        ValueError: it is no key set.
    """
    listed = msgspec.json.decode(document, type=_KeySet).keys[:MOST_KEYS]
    keys = (_read_key(entry) for entry in listed if isinstance(entry, dict))
    return tuple(key for key in keys if key is not None)


def _read_key(entry: dict[str, Any]) -> PublicKey | None:
    kid = entry.get("kid")
    is_short = entry.get("kty") == "RSA" and len(str(entry.get("n"))) * 6 < _SMALLEST_RSA
    if is_short or entry.get("use", "sig") != "sig" or not isinstance(kid, str | None):
        return None
    try:
        key = import_key({name: value for name, value in entry.items() if name in _PUBLIC})
        alg = _algorithm_of(key)
    except (JoseError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return None if alg is None or entry.get("alg", alg) != alg else PublicKey(kid, alg, key)


def _algorithm_of(key: Key) -> str | None:
    """The one algorithm that this kind of key is for here."""
    match key:
        case RSAKey() if _SMALLEST_RSA <= key.public_key.key_size <= _LARGEST_RSA:
            return "RS256"
        case ECKey() if key.curve_name == "P-256":
            return "ES256"
        case OKPKey() if key.curve_name == "Ed25519":
            return "EdDSA"
        case _:
            return None


def signed_by(text: str, key: PublicKey) -> dict[str, Any]:
    """The claims of a token, if its signature is that of `key`, by the algorithm that this key is for.

    Raises:
        NotAuthenticated: it is not, or the token is malformed.
    """
    try:
        signed = jws.deserialize_compact(text, key.key, registry=_ALGORITHMS[key.alg])
        claims = json.loads(signed.payload or b"")
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise NotAuthenticated("the signature of the identity token is not good") from error
    if not isinstance(claims, dict):
        raise NotAuthenticated("the identity token holds no claims")
    return claims


def check_claims(
    claims: dict[str, Any], *, issuer: str, audience: str, now: datetime, leeway: timedelta
) -> None:
    """See that claims are of `issuer`, for `audience`, begun and not over (RFC 7519, 4.1).

    Raises:
        NotAuthenticated: names the claim that is missing or wrong, but not its value.
    """
    registry = JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=int(leeway.total_seconds()),
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": audience},
        exp={"essential": True},
    )
    try:
        registry.validate(claims)
    except ClaimError as error:
        raise NotAuthenticated(
            f"the claim {error.claim} of the identity token is missing, wrong, or not good at this time"
        ) from error
