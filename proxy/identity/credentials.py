"""From the headers of a request to the `Caller`, in every spelling that clients use (contract 5).

Two steps. `presented` reads headers and asks nobody; `identify` looks the token up and judges it, `vouched` has an
identity token verified instead. A request with any credential is that credential's or nobody's: what is wrong is
`NotAuthenticated` everywhere and never falls back to an anonymous answer, which could send an installer to a public
package instead.

Nothing in here, `repr` and exceptions included, shows a secret; and unknown, revoked and expired tokens,
tokens of users who left, and wrong user names are told apart for nobody.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from proxy.domain.access import Caller, CallerKind, Scope
from proxy.domain.namespaces import Kind, Namespace, NamespacePath, Tree
from proxy.domain.trust import Identity
from proxy.errors import NotAuthenticated
from proxy.identity.oidc import Issuers, Trust
from proxy.identity.tokens import TokenKind, TokenRow, find

ANY_USERNAME = "__token__"
"""The user name that stands for whichever belongs to the token, as on PyPI."""


class Door(StrEnum):
    """The way a credential came in."""

    BASIC = "Basic"
    BEARER = "Bearer"
    PRIVATE_TOKEN = "PRIVATE-TOKEN"  # noqa: S105 - the name of a header
    DEPLOY_TOKEN = "DEPLOY-TOKEN"  # noqa: S105 - the same
    JOB_TOKEN = "JOB-TOKEN"  # noqa: S105 - the same


@dataclass(frozen=True, slots=True)
class Presented:
    """The one token that a request names.

    Attributes:
        text: the token, without white space around it.
        doors: every way by which it came.
        usernames: the user names beside it in Basic credentials.
    """

    text: str = field(repr=False)
    doors: frozenset[Door]
    usernames: frozenset[str] = frozenset()


_HEADERS = {door.lower(): door for door in (Door.PRIVATE_TOKEN, Door.DEPLOY_TOKEN, Door.JOB_TOKEN)}
_ADMITTED: dict[Door, frozenset[TokenKind]] = {
    Door.BASIC: frozenset(TokenKind),
    Door.BEARER: frozenset(TokenKind),
    Door.PRIVATE_TOKEN: frozenset({TokenKind.PERSONAL, TokenKind.OWNER}),
    Door.DEPLOY_TOKEN: frozenset({TokenKind.DEPLOY}),
    Door.JOB_TOKEN: frozenset({TokenKind.JOB}),
}


def presented(headers: Iterable[tuple[str, str]]) -> Presented | None:
    """Return the token that the headers of a request name, or None if they name none at all.

    Args:
        headers: every header as name and value, repeated ones repeatedly. Names in any case; bytes that are
            not UTF-8 may stand as lone surrogates.

    Raises:
        NotAuthenticated: a header for credentials is malformed or of an unknown scheme, or two name
            different tokens.

    Sources: RFC 7617, RFC 6750; GitLab's headers; T-TOK5.
    """
    texts: set[str] = set()
    doors: set[Door] = set()
    usernames: set[str] = set()
    for name, value in headers:
        key = name.lower()
        if key == "authorization":
            door, username, text = _authorization(value)
            if username is not None:
                usernames.add(username)
        elif key in _HEADERS:
            door, text = _HEADERS[key], value.strip()
        else:
            continue
        if not text:
            raise NotAuthenticated(
                f"the credentials in {name if key in _HEADERS else 'Authorization'} hold no token",
                hint="a token is given as the password",
            )
        texts.add(text)
        doors.add(door)
    if not texts:
        return None
    if len(texts) > 1:
        raise NotAuthenticated(
            "the request names two different tokens", hint="send one, or the same one in each place"
        )
    return Presented(texts.pop(), frozenset(doors), frozenset(usernames))


def identify(
    connection: Connection,
    presented: Presented,
    tree: Tree,
    users: Collection[str],
    trust: Trust,
    now: datetime,
) -> Caller:
    """Return whose token was presented.

    Args:
        connection: of the registry.
        presented: what the request named.
        tree: the namespaces in force.
        users: the names the configuration knows.
        trust: what the configuration's projects make of the identity that a token was minted for.
        now: decides what has expired.

    Returns:
        `homes` are the paths of today, also where the namespace was moved since the token was made.

    Raises:
        NotAuthenticated: there is no such token, it is over, its user or namespace is gone, or it may not
            come this way. Always the same words, and for the same work.
    """
    row = find(connection, presented.text)
    if row is None or not _is_in_force(row, now) or not _fits(row, presented):
        raise _refusal()
    return caller_of(row, tree, users, trust)


def caller_of(row: TokenRow, tree: Tree, users: Collection[str], trust: Trust) -> Caller:
    """Return whose token it is, revoked and expired ones included. The arguments are those of `identify`.

    Raises:
        NotAuthenticated: its user or namespace is gone, or no project trusts its identity any more.
    """
    match row.kind:
        case TokenKind.PERSONAL:
            if row.user is None or row.user not in users:
                raise _refusal()
            return _caller(row, CallerKind.USER, row.user)
        case TokenKind.DEPLOY:
            return _caller(row, CallerKind.DEPLOY, row.username or "", _home(row, tree))
        case TokenKind.JOB if row.identity is not None:
            identity = trust.identity(row.identity["issuer"], row.identity["claims"])
            if identity is None:
                raise _refusal()
            return _job(identity, trust, row.expires_at, row.id)
        case TokenKind.JOB:
            home = _home(row, tree)
            if home.kind is not Kind.PROJECT:
                raise _refusal()
            return _caller(row, CallerKind.JOB, f"pyo+job-{row.id}", home)
        case TokenKind.OWNER:
            return _caller(row, CallerKind.OWNER, row.name)


async def vouched(presented: Presented, issuers: Issuers) -> Caller:
    """Return whom an identity token that was presented as a password is about.

    Raises:
        NotAuthenticated: it is not good, no project trusts it, or it may not come this way. In the words of
            `identify`: who presents a token here learns nothing about issuers.
        IssuerUnavailable: nobody knows, since its issuer cannot be asked.
    """
    try:
        verified = await issuers.verify(presented.text)
    except NotAuthenticated as error:
        raise _refusal() from error
    if not all(TokenKind.JOB in _ADMITTED[door] for door in presented.doors):
        raise _refusal()
    return _job(verified.identity, issuers.trust, verified.expires)


def _authorization(value: str) -> tuple[Door, str | None, str]:
    """Door, user name (Basic alone) and token of an Authorization header."""
    scheme, _, rest = value.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return Door.BEARER, None, rest.strip()
        case "basic":
            username, text = _basic(rest.strip())
            return Door.BASIC, username, text
        case _:
            raise NotAuthenticated(
                "the Authorization header is of a scheme not known here",
                hint="use Basic with the token as password, or Bearer",
            )


def _basic(encoded: str) -> tuple[str, str]:
    if len(encoded) % 4:
        # Python itself lets superfluous padding pass.
        raise _malformed()
    try:
        plain = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise _malformed() from None
    try:
        pair = plain.decode("utf-8")
    except UnicodeDecodeError:
        # Older clients send ISO 8859-1; RFC 7617 left the charset open for long.
        pair = plain.decode("latin-1")
    username, colon, password = pair.partition(":")
    if not colon:
        raise _malformed()
    return username, password.strip()


def _malformed() -> NotAuthenticated:
    return NotAuthenticated(
        "the Basic credentials are malformed", hint="they are the base64 form of user name, colon and token"
    )


def _refusal() -> NotAuthenticated:
    return NotAuthenticated(
        "these credentials are not valid",
        hint="the token may be mistyped, expired or revoked, or need the user name `__token__`",
    )


def _is_in_force(row: TokenRow, now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _fits(row: TokenRow, presented: Presented) -> bool:
    """Whether this kind of token may come by these doors, beside these user names."""
    if any(row.kind not in _ADMITTED[door] for door in presented.doors):
        return False
    return row.kind is not TokenKind.DEPLOY or presented.usernames <= {row.username, ANY_USERNAME}


def _home(row: TokenRow, tree: Tree) -> Namespace:
    home = None if row.namespace is None else tree.get(row.namespace)
    if home is None:
        raise _refusal()
    return home


def _job(identity: Identity, trust: Trust, expires: datetime | None, token: int | None = None) -> Caller:
    homes = tuple(trust.projects(identity))
    if not homes:
        raise _refusal()
    return job_of(identity, homes, expires, token)


def job_of(
    identity: Identity, homes: Collection[NamespacePath], expires: datetime | None, token: int | None
) -> Caller:
    """The caller that an identity is at the projects that trust it."""
    return Caller(
        kind=CallerKind.JOB,
        name=identity.name,
        token=token,
        scopes=frozenset({Scope.READ_PACKAGES, Scope.WRITE_PACKAGES}),
        homes=tuple(homes),
        expires=expires,
        identity=identity,
    )


def _caller(row: TokenRow, kind: CallerKind, name: str, home: Namespace | None = None) -> Caller:
    return Caller(
        kind=kind,
        name=name,
        token=row.id,
        scopes=frozenset(row.scopes),
        homes=() if home is None else (home.path,),
        expires=row.expires_at,
    )
