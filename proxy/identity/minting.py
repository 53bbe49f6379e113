"""Trusted publishing: a job token in exchange for a verified identity, each of which is taken once (contract 5).

The only module with SQL about identities that were used.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, delete, insert, select

from proxy.domain.moments import iso
from proxy.domain.namespaces import ROOT, NamespacePath, is_within, lineage
from proxy.identity import tokens
from proxy.identity.credentials import job_of
from proxy.identity.oidc import LEEWAY, Trust, Verified
from proxy.identity.tokens import TokenKind, TokenRow
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change
from proxy.storage.tables import used_identities

_REMEMBERED = timedelta(days=30)
"""How long minted tokens are listed after they expired."""


class Refusal(StrEnum):
    """Why no token was minted, in PyPI's words."""

    PAYLOAD = "invalid-payload"
    TOKEN = "invalid-token"  # noqa: S105 - a word of the protocol
    PUBLISHER = "invalid-publisher"
    REUSE = "invalid-reuse-token"


def mint_for(
    change: Change,
    verified: Verified,
    trust: Trust,
    *,
    now: datetime,
    address: str | None = None,
    request_id: str | None = None,
) -> tuple[str, TokenRow] | Refusal:
    """Mint a job token for every project that trusts an identity, and record it.

    Args:
        change: the transaction; the text is good once it is committed.
        trust: as it is now.
        address: the client's, for the audit.

    Returns:
        The token's text and row; it lives as long as the strictest of the rules that match allows. Or why there
        is none; then nothing was changed.
    """
    identity = verified.identity
    projects = trust.projects(identity)
    if not projects:
        return Refusal.PUBLISHER
    if verified.jti is None:
        return Refusal.TOKEN
    if not _use(change.connection, identity.issuer, verified.jti, verified.expires + LEEWAY, now):
        return Refusal.REUSE
    tokens.forget_minted(change, now - _REMEMBERED)
    expires_at = now + min(projects.values())
    who = job_of(identity, projects, expires_at, None)
    text, row = tokens.mint(
        change,
        kind=TokenKind.JOB,
        name=identity.name,
        created_at=now,
        created_by=who.label,
        expires_at=expires_at,
        identity=identity,
    )
    audit.record(
        change.connection,
        By(job_of(identity, projects, expires_at, row.id), now, address, request_id),
        "token.mint",
        namespace=_above_all(projects),
        detail={
            "id": row.id,
            "issuer": identity.issuer,
            "projects": list(projects),
            "claims": dict(identity.claims),
            "expires_at": iso(expires_at),
        },
    )
    return text, row


def _use(connection: Connection, issuer: str, jti: str, until: datetime, now: datetime) -> bool:
    """Whether this identity token is used for the first time; from now on it is not."""
    connection.execute(delete(used_identities).where(used_identities.c.expires_at < now))
    is_this = (used_identities.c.issuer == issuer) & (used_identities.c.jti == jti)
    if connection.execute(select(used_identities.c.jti).where(is_this)).first() is not None:
        return False
    connection.execute(insert(used_identities).values(issuer=issuer, jti=jti, expires_at=until))
    return True


def _above_all(projects: Collection[NamespacePath]) -> NamespacePath:
    """The nearest namespace at or above all of them: whose owners may read of it in the audit."""
    first, *others = projects
    return next((above for above in lineage(first) if all(is_within(other, above) for other in others)), ROOT)
