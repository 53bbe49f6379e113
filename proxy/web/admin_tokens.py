"""Tokens in the administration API: listed, made, rotated, ended (contract 5, 12)."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import msgspec
from aiohttp import web
from sqlalchemy import Connection

from proxy.domain.access import CallerKind
from proxy.errors import InvalidInput, NotAuthenticated, NotFound, NotPermitted
from proxy.identity import management
from proxy.identity.tokens import TokenKind, TokenRow, list_within, shape
from proxy.web.calls import Call, answer, done
from proxy.web.paging import enumerated, paging


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    user: str | None = None
    namespace: str | None = None
    name: str = ""
    username: str | None = None
    scopes: list[str] = []
    expires_at: str | None = None


class _Rotated(msgspec.Struct, forbid_unknown_fields=True):
    expires_at: str | None = None


async def list_all(call: Call) -> web.Response:
    """Every token that the caller may deal with, revoked and expired ones included; never their texts."""
    _known(call)
    within = management.reach(call.caller, call.instance.snapshot.tree)
    if within.is_empty:
        raise NotPermitted(
            f"{call.caller.label} may not deal with tokens", hint="it takes a personal token of scope api"
        )
    asked = paging(call.request.query)

    def listed(connection: Connection) -> list[dict[str, object]]:
        rows = list_within(connection, within, asked.per_page + 1, asked.offset)
        return [shape(row) for row in rows]

    return answer(enumerated(await call.looked_up(listed), asked))


async def create(call: Call) -> web.Response:
    """Make a token; its text stands in this answer and nowhere else."""
    _known(call)
    body = await call.body(_Wanted)
    try:
        kind = TokenKind(body.kind)
    except ValueError:
        raise InvalidInput(
            f"there is no token of the kind {body.kind[:40]!a}", hint=f"choose from {', '.join(TokenKind)}"
        ) from None
    user = body.user
    if user is None and kind is TokenKind.PERSONAL and call.caller.kind is CallerKind.USER:
        user = call.caller.name
    wanted = management.Wanted(
        kind=kind,
        user=user,
        namespace=None if body.namespace is None else call.namespace(body.namespace),
        name=body.name,
        username=body.username,
        scopes=tuple(body.scopes),
        expires_at=_moment(body.expires_at),
    )
    snapshot = call.instance.snapshot
    make = partial(management.create, wanted=wanted, tree=snapshot.tree, users=snapshot.users, by=call.by)
    return _made(*await call.instance.registry.change(make))


async def revoke(call: Call) -> web.Response:
    """End a token for good."""
    _known(call)
    end = partial(management.revoke, token_id=_number(call), tree=call.instance.snapshot.tree, by=call.by)
    await call.instance.registry.change(end)
    return done()


async def rotate(call: Call) -> web.Response:
    """Put a new token in the place of one, which ends at once."""
    _known(call)
    expires_at = _moment((await call.body(_Rotated)).expires_at)
    renew = partial(
        management.rotate,
        token_id=_number(call),
        expires_at=expires_at,
        tree=call.instance.snapshot.tree,
        by=call.by,
    )
    return _made(*await call.instance.registry.change(renew))


def _made(text: str, row: TokenRow) -> web.Response:
    return answer({**shape(row), "token": text}, status=201)


def _known(call: Call) -> None:
    """Return if there are credentials.

    Raises:
        NotAuthenticated: there are none; nobody deals with tokens anonymously.
    """
    if call.sight.anonymous:
        raise NotAuthenticated("dealing with tokens needs credentials")


def _number(call: Call) -> int:
    text = call.given["id"]
    # No more digits than the database can hold.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise NotFound(f"there is no token {text[:40]!a}")
    return int(text)


def _moment(text: str | None) -> datetime | None:
    """A moment in ISO 8601; that it has a zone is asked for by `identity.tokens`.

    Raises:
        InvalidInput: it is none.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"expires_at is not valid: {text[:40]!a}", hint="write it as 2027-01-31T08:00:00Z"
        ) from None
