"""Tokens as people deal with them: who may make, see, rotate and end which, and the audit of it (contract 5, 12).

Users deal with their own by a token of scope `api`, maintainers with the deploy and job tokens of their
namespaces, owners of the instance with all. How tokens are kept is known by `identity.tokens`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from proxy.domain.access import Action, Caller, CallerKind, Scope, may
from proxy.domain.namespaces import Namespace, NamespacePath, Tree
from proxy.errors import InvalidForm, NotFound, NotPermitted, StillInUse
from proxy.identity import tokens
from proxy.identity.tokens import PRESET_NAME, Reach, TokenKind, TokenRow
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token that somebody wants made.

    Attributes:
        user: of a personal token.
        namespace: of a deploy or job token; one that the caller may know of.
        username: of a deploy token; None: one is made up.
        expires_at: None: never, of a job token in an hour.
    """

    kind: TokenKind
    user: str | None = None
    namespace: Namespace | None = None
    name: str = ""
    username: str | None = None
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None


def reach(caller: Caller, tree: Tree) -> Reach:
    """Which tokens `caller` may see, make, rotate and end."""
    if may(caller, Action.ADMINISTER, tree.root, tree):
        return Reach(is_all=True)
    is_user = caller.kind is CallerKind.USER and Scope.API in caller.scopes
    kept = (each.path for each in tree if may(caller, Action.MAKE_TOKENS, each, tree))
    return Reach(user=caller.name if is_user else None, namespaces=frozenset(kept))


def create(
    change: Change, wanted: Wanted, *, tree: Tree, users: Collection[str], by: By
) -> tuple[str, TokenRow]:
    """Make a token, if `by.who` may; return its text, which exists nowhere else, and what is stored of it.

    Args:
        users: the names that the configuration knows.

    Raises:
        NotPermitted: it is not for the caller to make.
        InvalidForm: what is wanted does not fit together, or there is no such user.
    """
    _permit(wanted, by.who, tree)
    if wanted.user is not None and wanted.user not in users:
        raise InvalidForm(
            f"there is no user {wanted.user[:80]!a}", hint="users stand in the configuration file"
        )
    text, row = tokens.mint(
        change,
        kind=wanted.kind,
        name=wanted.name,
        created_at=by.at,
        created_by=by.who.label,
        scopes=wanted.scopes,
        user=wanted.user,
        namespace=None if wanted.namespace is None else wanted.namespace.path,
        username=wanted.username,
        expires_at=wanted.expires_at,
    )
    _record(change, "token.create", row, by)
    return text, row


def _permit(wanted: Wanted, caller: Caller, tree: Tree) -> None:
    """Return if `caller` may make it.

    Raises:
        NotPermitted: it may not.
    """
    within = reach(caller, tree)
    if within.is_all:
        return
    if wanted.kind is TokenKind.OWNER:
        raise NotPermitted("only an owner of the instance may make owner tokens")
    if wanted.user is not None and wanted.user != within.user:
        raise NotPermitted(
            f"{caller.label} may not make tokens of {wanted.user[:80]!a}",
            hint="users make tokens of their own, by a token of scope api",
        )
    if wanted.namespace is not None and wanted.namespace.path not in within.namespaces:
        raise NotPermitted(
            f"{caller.label} may not make tokens at {wanted.namespace.title}",
            hint="it takes the role maintainer there, and a token of scope api",
        )


def find(change: Change, token_id: int, within: Reach) -> TokenRow:
    """The token with this number.

    Raises:
        NotFound: there is none within reach.
    """
    row = tokens.get_token(change.connection, token_id)
    if not within.holds(row):
        raise NotFound(f"there is no token {token_id}")
    return row


def revoke(change: Change, token_id: int, *, tree: Tree, by: By) -> TokenRow:
    """End a token for good, if `by.who` may; return it as it is now.

    Raises:
        NotFound: there is none, or the caller may not know of it.
    """
    find(change, token_id, reach(by.who, tree))
    row = tokens.revoke(change, token_id, by.at)
    _record(change, "token.revoke", row, by)
    return row


def rotate(
    change: Change, token_id: int, *, expires_at: datetime | None, tree: Tree, by: By
) -> tuple[str, TokenRow]:
    """Put a new token in the place of one, which ends at once; return the new one's text and row.

    The new one is of the same kind, for the same user or namespace, with the same names and scopes.

    Args:
        expires_at: None: it lives as long as the old one was made to live.

    Raises:
        NotFound: there is none, or the caller may not know of it.
        InvalidForm: it has ended, or was minted for an identity of another issuer.
        StillInUse: its text comes from the environment.
    """
    old = find(change, token_id, reach(by.who, tree))
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= by.at):
        raise InvalidForm(f"token {token_id} has ended", hint="make a new one")
    if old.identity is not None:
        raise InvalidForm(f"token {token_id} was minted for a job", hint="mint another one")
    if old.kind is TokenKind.OWNER and old.name == PRESET_NAME:
        raise StillInUse(
            f"the text of token {token_id} comes from the environment",
            hint="set another PYPI_OVERLAY_OWNER_TOKEN and restart",
        )
    if expires_at is None and old.expires_at is not None:
        expires_at = _later(by.at, old.expires_at - old.created_at)
    tokens.revoke(change, token_id, by.at)
    text, row = tokens.mint(
        change,
        kind=old.kind,
        name=old.name,
        created_at=by.at,
        created_by=by.who.label,
        scopes=old.scopes,
        user=old.user,
        namespace=_current(old.namespace, tree),
        username=old.username,
        expires_at=expires_at,
    )
    _record(change, "token.rotate", row, by, {"replaces": token_id})
    return text, row


def _later(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment + span
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _current(path: NamespacePath | None, tree: Tree) -> NamespacePath | None:
    found = None if path is None else tree.get(path)
    return path if found is None else found.path


def _record(
    change: Change, action: str, row: TokenRow, by: By, more: dict[str, object] | None = None
) -> None:
    audit.record(
        change.connection,
        by,
        action,
        namespace=row.namespace,
        detail={
            "id": row.id,
            "kind": str(row.kind),
            "user": row.user,
            "name": row.name,
            "scopes": [str(scope) for scope in row.scopes],
            **(more or {}),
        },
    )
