"""Tokens: made, kept as hashes, found, listed, revoked, and when they were last used.

The only module with SQL about tokens, and the only one that knows how their text is built. The text exists
in the answer that creates a token and nowhere else; the database holds its SHA-256. A plain hash is enough
because the text is 256 random bits; a text that the operator presets is the operator's to choose well.
Whether a token that was found is still good is judged in `identity.credentials`.

Functions are synchronous and take a connection or a change: run them by `Database.read` and
`Database.change`. Everything an answer may depend on is touched as `token:<id>`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, false, insert, or_, select, update

from proxy.domain.access import STARTING, Scope
from proxy.domain.moments import iso
from proxy.domain.namespaces import Kind, NamespacePath
from proxy.domain.trust import LONGEST_LIFE, Identity
from proxy.errors import InvalidForm, NoSuchNamespace, NotFound
from proxy.observe.redaction import TOKEN_MARK
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change
from proxy.storage.tables import namespaces, tokens


class TokenKind(StrEnum):
    """What a token is; contract 5 says what each may do."""

    PERSONAL = "personal"
    DEPLOY = "deploy"
    JOB = "job"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it is stored, without its text.

    Attributes:
        user: whose personal token it is; None for other kinds.
        namespace: of a deploy or job token, as stored: after a move it may be a former path. None of a job token
            that was minted for an identity, which acts for every project that trusts that.
        username: what a deploy token expects as user name beside it; None for other kinds.
        created_by: label of the caller who made it.
        identity: of such a job token: `{"issuer": name, "claims": {claim: text}}`.
    """

    id: int
    kind: TokenKind
    user: str | None
    namespace: NamespacePath | None
    name: str
    username: str | None
    scopes: tuple[Scope, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    hash: str = field(repr=False)
    identity: Mapping[str, Any] | None = None


PRESET_NAME = "preset"
"""The name of the owner token whose text comes from the operator."""

FIRST_NAME = "first"
"""The name of the owner token that the first start makes."""

JOB_LIFE = timedelta(hours=1)
SHORTEST_PRESET = 20
"""Characters of a preset token."""

_PREFIXES: Mapping[TokenKind, str] = {
    TokenKind.PERSONAL: f"{TOKEN_MARK}pat_",
    TokenKind.DEPLOY: f"{TOKEN_MARK}dep_",
    TokenKind.JOB: f"{TOKEN_MARK}job_",
    TokenKind.OWNER: f"{TOKEN_MARK}own_",
}
_CHOICE: Mapping[TokenKind, tuple[Scope, ...]] = {
    TokenKind.PERSONAL: (Scope.API, Scope.READ_API),
    TokenKind.DEPLOY: (Scope.READ_PACKAGES, Scope.WRITE_PACKAGES),
}
_FIXED: Mapping[TokenKind, tuple[Scope, ...]] = {
    TokenKind.JOB: (Scope.READ_PACKAGES, Scope.WRITE_PACKAGES),
    TokenKind.OWNER: (Scope.API,),
}
_SECRET_BYTES = 32
_LONGEST_NAME = 255
_BETWEEN_USES = timedelta(minutes=1)


def mint(
    change: Change,
    *,
    kind: TokenKind,
    name: str,
    created_at: datetime,
    created_by: str,
    scopes: Collection[str] = (),
    user: str | None = None,
    namespace: NamespacePath | None = None,
    username: str | None = None,
    expires_at: datetime | None = None,
    text: str | None = None,
    identity: Identity | None = None,
) -> tuple[str, TokenRow]:
    """Make a token and return its text, which exists nowhere else, and what is stored of it.

    Args:
        change: the transaction; the text is good once it is committed.
        kind: decides which of the following are needed: a personal token has a `user`, a deploy or job token
            a `namespace`, a deploy token may have a `username` (`pyo+deploy-N` unless given).
        name: what people call it; may be empty.
        created_at: now.
        created_by: label of the caller.
        scopes: of a personal or deploy token at least one of its own; of the others none, or all they have.
        user: that the configuration knows it is for the caller to see to, and that whoever asks may do this.
        namespace: its current path; the table of namespaces must hold it.
        expires_at: None is never; a job token then lives an hour, and a day at most.
        text: a preset text instead of a random one.
        identity: whom a job token without a namespace is minted for.

    Raises:
        InvalidForm: something above does not fit; the message says what, and never holds the text.
        NoSuchNamespace: nothing is stored under this path.
    """
    _check_names(name, username)
    _check_owner_of(kind, user=user, namespace=namespace, username=username, identity=identity)
    granted = _granted(kind, scopes)
    expires_at = _expiry(kind, created_at, expires_at)
    namespace_id = None if namespace is None else _namespace_id(change.connection, kind, namespace)
    text = text if text is not None else _PREFIXES[kind] + secrets.token_urlsafe(_SECRET_BYTES)
    token_id = change.connection.execute(
        insert(tokens)
        .values(
            kind=str(kind),
            hash=_digest(text),
            user=user,
            namespace_id=namespace_id,
            name=name,
            username=username,
            scopes=[str(scope) for scope in granted],
            identity=None
            if identity is None
            else {"issuer": identity.issuer, "claims": dict(identity.claims)},
            created_at=created_at,
            created_by=created_by,
            expires_at=expires_at,
        )
        .returning(tokens.c.id)
    ).scalar_one()
    if kind is TokenKind.DEPLOY and username is None:
        change.connection.execute(
            update(tokens).where(tokens.c.id == token_id).values(username=f"pyo+deploy-{token_id}")
        )
    change.touch(f"token:{token_id}")
    return text, get_token(change.connection, token_id)


def find(connection: Connection, text: str) -> TokenRow | None:
    """Return the token with this text, also one that is revoked or expired; None if there is none.

    The look-up is by hash, so its time tells nothing about texts that would be right; the comparison takes
    the same steps whether a row was found or not (T-TOK3).
    """
    digest = _digest(text)
    row = connection.execute(_SELECT.where(tokens.c.hash == digest)).one_or_none()
    is_same = hmac.compare_digest(digest, row.hash if row is not None else "0" * len(digest))
    return _token(row) if row is not None and is_same else None


def get_token(connection: Connection, token_id: int) -> TokenRow:
    """Return the token with this number.

    Raises:
        NotFound: there is none.
    """
    row = connection.execute(_SELECT.where(tokens.c.id == token_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no token {token_id}")
    return _token(row)


def list_tokens(connection: Connection) -> list[TokenRow]:
    """Return every token, revoked and expired ones included, in the order of their making."""
    return [_token(row) for row in connection.execute(_SELECT.order_by(tokens.c.id))]


@dataclass(frozen=True, slots=True)
class Reach:
    """Which tokens somebody may deal with: all, or those of one user and of some namespaces."""

    is_all: bool = False
    user: str | None = None
    namespaces: frozenset[NamespacePath] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether no token, made or yet to be made, can be one of them."""
        return not self.is_all and self.user is None and not self.namespaces

    def holds(self, row: TokenRow) -> bool:
        """Whether `row` is one of them."""
        if self.is_all:
            return True
        if row.user is not None:
            return row.user == self.user
        return row.namespace is not None and row.namespace in self.namespaces


def list_within(connection: Connection, reach: Reach, limit: int, offset: int) -> list[TokenRow]:
    """As `list_tokens`, of those within `reach`, at most `limit` after the first `offset`."""
    query = _SELECT.order_by(tokens.c.id).limit(limit).offset(offset)
    if not reach.is_all:
        query = query.where(
            or_(
                tokens.c.user == reach.user if reach.user is not None else false(),
                namespaces.c.path.in_(sorted(reach.namespaces)),
            )
        )
    return [_token(row) for row in connection.execute(query)]


def revoke(change: Change, token_id: int, at: datetime) -> TokenRow:
    """End a token for good; one that is revoked already keeps its time. Returns it as it is now.

    Raises:
        NotFound: there is none of this number.
    """
    change.connection.execute(
        update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=at)
    )
    change.touch(f"token:{token_id}")
    return get_token(change.connection, token_id)


def forget_minted(change: Change, before: datetime) -> None:
    """Delete the tokens minted for identities that expired before then: every CI job leaves one, and the audit
    tells of each.
    """
    change.connection.execute(
        delete(tokens).where(tokens.c.identity.is_not(None), tokens.c.expires_at < before)
    )


def first_owner_token(change: Change, at: datetime, preset: str | None) -> str | None:
    """See to it that an owner can come in; to be called at every start.

    Without `preset` an owner token is made if there never was one; one that was revoked since stays so. With
    it, the active owner token named `preset` has that text afterwards: it is made if it is missing, and a
    preset token with another text is revoked. A preset that is taken away again changes nothing.

    Args:
        change: the transaction; nothing is to be told before it is committed.
        at: now.
        preset: `PYPI_OVERLAY_OWNER_TOKEN`, or None where that is unset.

    Returns:
        The text of a token that was made now; None if none was.

    Raises:
        InvalidForm: the preset is too short or has characters that clients would mangle, is the text of
            another kind of token, or was revoked. The message does not hold it.
    """
    if preset is not None:
        return _preset_owner_token(change, at, preset)
    connection = change.connection
    if connection.execute(select(tokens.c.id).where(tokens.c.kind == TokenKind.OWNER).limit(1)).first():
        return None
    text, row = mint(change, kind=TokenKind.OWNER, name=FIRST_NAME, created_at=at, created_by="first start")
    _note(change, "token.create", row, at)
    return text


def _preset_owner_token(change: Change, at: datetime, preset: str) -> str | None:
    if len(preset) < SHORTEST_PRESET or not all("!" <= sign <= "~" for sign in preset):
        raise InvalidForm(
            f"the preset owner token must be at least {SHORTEST_PRESET} printable ASCII characters without spaces"
        )
    connection = change.connection
    known = find(connection, preset)
    if known is not None and known.kind is not TokenKind.OWNER:
        raise InvalidForm(f"the preset owner token is {known.kind} token {known.id}: choose another")
    if known is not None and known.revoked_at is not None:
        # Whoever revoked it, perhaps because it leaked, must not see it come back with the next start.
        raise InvalidForm("the preset owner token was revoked: choose another")
    former = select(tokens.c.id).where(
        tokens.c.kind == TokenKind.OWNER,
        tokens.c.name == PRESET_NAME,
        tokens.c.hash != _digest(preset),
        tokens.c.revoked_at.is_(None),
    )
    for token_id in connection.execute(former).scalars().all():
        _note(change, "token.revoke", revoke(change, token_id, at), at)
    if known is None:
        _, row = mint(
            change,
            kind=TokenKind.OWNER,
            name=PRESET_NAME,
            created_at=at,
            created_by="environment",
            text=preset,
        )
        _note(change, "token.create", row, at)
        return preset
    if known.name != PRESET_NAME or known.expires_at is not None:
        connection.execute(
            update(tokens).where(tokens.c.id == known.id).values(name=PRESET_NAME, expires_at=None)
        )
        change.touch(f"token:{known.id}")
    return None


def _note(change: Change, action: str, row: TokenRow, at: datetime) -> None:
    """Record what the start of a server did to an owner token."""
    by = By(STARTING, at)
    audit.record(
        change.connection, by, action, detail={"id": row.id, "kind": str(row.kind), "name": row.name}
    )


def shape(row: TokenRow) -> dict[str, object]:
    """Return the token as the administration API and `--json` show it (contract 12), without its text.

    Times are ISO 8601 in UTC, to the second; the user name of a personal token is its user's.
    """
    return {
        "id": row.id,
        "kind": str(row.kind),
        "user": row.user,
        "namespace": None if row.namespace is None else row.namespace or "/",
        "name": row.name,
        "username": row.user if row.kind is TokenKind.PERSONAL else row.username,
        "scopes": [str(scope) for scope in row.scopes],
        "created_at": iso(row.created_at),
        "expires_at": iso(row.expires_at),
        "last_used_at": iso(row.last_used_at),
        "revoked_at": iso(row.revoked_at),
    }


class LastUse:
    """When tokens were last used, gathered in memory and written now and then. Safe for threads.

    A token is written at most once a minute, so its time may lag by that; what a kill or a failed commit
    loses is lost, as nothing is decided by it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, datetime] = {}
        self._written: dict[int, datetime] = {}

    def note(self, token_id: int, at: datetime) -> None:
        """Remember that a token was used."""
        with self._lock:
            written = self._written.get(token_id)
            if written is None or at - written >= _BETWEEN_USES:
                self._waiting[token_id] = max(at, self._waiting.get(token_id, at))

    @property
    def is_waiting(self) -> bool:
        """Whether `flush` would write anything."""
        return bool(self._waiting)

    def flush(self, change: Change) -> None:
        """Write what was gathered. A time never goes back, whichever process writes last."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            if not waiting:
                return
            latest = max(waiting.values())
            # Who was written longer ago may be written again, so needs no memory: job tokens come and go.
            self._written = {
                token_id: at for token_id, at in self._written.items() if latest - at < _BETWEEN_USES
            } | waiting
        # Not touched: no answer depends on it.
        change.connection.execute(
            update(tokens)
            .where(
                tokens.c.id == bindparam("token_id"),
                or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < bindparam("used_at")),
            )
            .values(last_used_at=bindparam("used_at")),
            [{"token_id": token_id, "used_at": at} for token_id, at in waiting.items()],
        )


_SELECT: Select[tuple[object, ...]] = select(tokens, namespaces.c.path).outerjoin(
    namespaces, namespaces.c.id == tokens.c.namespace_id
)


def _token(row: Row[tuple[object, ...]]) -> TokenRow:
    return TokenRow(
        id=row.id,
        kind=TokenKind(row.kind),
        user=row.user,
        namespace=None if row.path is None else NamespacePath(row.path),
        name=row.name,
        username=row.username,
        scopes=tuple(Scope(scope) for scope in row.scopes),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        hash=row.hash,
        identity=row.identity,
    )


def _digest(text: str) -> str:
    # What came in a header may hold lone surrogates for bytes that are not UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _namespace_id(connection: Connection, kind: TokenKind, path: NamespacePath) -> int:
    row = connection.execute(
        select(namespaces.c.id, namespaces.c.kind).where(namespaces.c.path == path)
    ).one_or_none()
    if row is None:
        raise NoSuchNamespace(f"there is no group or project {path[:200]!a}")
    if kind is TokenKind.JOB and row.kind != Kind.PROJECT:
        raise InvalidForm(f"a job token is for one project, and {path or '/'} is a group")
    namespace_id: int = row.id
    return namespace_id


def _check_names(name: str, username: str | None) -> None:
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidForm(
            f"the name of a token is at most {_LONGEST_NAME} printable characters, got {name[:80]!a}"
        )
    if username is None:
        return
    # A colon ends the user name in Basic credentials (RFC 7617).
    if not username or len(username) > _LONGEST_NAME or not username.isprintable() or ":" in username:
        raise InvalidForm(
            f"the user name of a token is 1 to {_LONGEST_NAME} printable characters without a colon, "
            f"got {username[:80]!a}"
        )


def _check_owner_of(
    kind: TokenKind,
    *,
    user: str | None,
    namespace: NamespacePath | None,
    username: str | None,
    identity: Identity | None,
) -> None:
    """Whether exactly what this kind needs was given."""
    is_bound = kind is TokenKind.DEPLOY or (kind is TokenKind.JOB and identity is None)
    if (kind is TokenKind.PERSONAL) != bool(user):
        needs = "needs" if kind is TokenKind.PERSONAL else "has no"
        raise InvalidForm(f"a token of the kind {kind} {needs} user")
    if is_bound != (namespace is not None):
        raise InvalidForm(f"a token of the kind {kind} {'needs a' if is_bound else 'has no'} namespace")
    if username is not None and kind is not TokenKind.DEPLOY:
        raise InvalidForm(f"a token of the kind {kind} has no user name of its own")


def _granted(kind: TokenKind, scopes: Collection[str]) -> tuple[Scope, ...]:
    """The scopes in the order of `Scope`, each once.

    Sources: contract 5.
    """
    fixed = _FIXED.get(kind)
    allowed = fixed or _CHOICE[kind]
    wrong = [scope for scope in scopes if scope not in allowed]
    if wrong:
        raise InvalidForm(
            f"a token of the kind {kind} cannot have the scope {wrong[0][:80]!a}",
            hint=f"it has {' and '.join(fixed)}" if fixed else f"choose from {', '.join(allowed)}",
        )
    if fixed:
        return fixed
    if not scopes:
        raise InvalidForm(
            f"a token of the kind {kind} needs a scope", hint=f"choose from {', '.join(allowed)}"
        )
    return tuple(scope for scope in allowed if scope in scopes)


def _expiry(kind: TokenKind, created_at: datetime, expires_at: datetime | None) -> datetime | None:
    if expires_at is None:
        return created_at + JOB_LIFE if kind is TokenKind.JOB else None
    if expires_at.tzinfo is None:
        raise InvalidForm("the expiry of a token needs a time zone, such as a Z at its end")
    try:
        expires_at = expires_at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidForm("the expiry of a token lies too far in the future or in the past") from error
    if expires_at <= created_at:
        raise InvalidForm("the expiry of a token must lie in the future")
    if kind is TokenKind.JOB and expires_at - created_at > LONGEST_LIFE:
        raise InvalidForm("a job token lives at most 24 hours")
    return expires_at
