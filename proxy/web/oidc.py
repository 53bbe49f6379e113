"""Trusted publishing as on PyPI: the audience, and a job token in exchange for an identity token (protocol 3.5).

Without issuers in the configuration both addresses are a plain 404 at once: clients ask any index for them.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from proxy.errors import InvalidInput, NotAuthenticated, NotFound, TooLarge
from proxy.identity.minting import Refusal, mint_for
from proxy.identity.oidc import LONGEST_TOKEN
from proxy.index.instance import Instance
from proxy.web.callers import Callers
from proxy.web.calls import answer, read_body
from proxy.web.notes import API, FAILURE, REQUEST_ID
from proxy.web.problems import reason_phrase

_LONGEST_BODY = 2 * LONGEST_TOKEN
_DESCRIPTIONS = {
    Refusal.PAYLOAD: 'the body is not of the form {"token": "..."}',
    Refusal.TOKEN: "the identity token has no jti, by which it could be told from another",
    Refusal.PUBLISHER: "no project here trusts this identity: compare its claims with the rules under `trust`",
    Refusal.REUSE: "a token was minted for this identity token already; request a new one",
}


class _Payload(msgspec.Struct):
    token: str


async def audience(request: web.Request, instance: Instance) -> web.Response:
    """What must stand in the claim `aud` of an identity token."""
    _admit(request, instance)
    return answer({"audience": instance.issuers.audience})


async def mint(request: web.Request, instance: Instance, callers: Callers) -> web.Response:
    """A job token for the identity in the body. Who fails is counted as who fails to log in.

    Raises:
        Throttled: after too many failures.
        IssuerUnavailable: the identity cannot be verified now.
    """
    _admit(request, instance)
    text = await _token(request, instance)
    if text is None:
        return _refused(request, Refusal.PAYLOAD, _DESCRIPTIONS[Refusal.PAYLOAD])
    try:
        verified = await instance.issuers.verify(text)
    except NotAuthenticated as error:
        callers.failed(request, text, error.message)
        return _refused(request, Refusal.TOKEN, error.message)
    now = instance.now()
    minted = await instance.registry.change(
        lambda change: mint_for(
            change,
            verified,
            instance.issuers.trust,
            now=now,
            address=callers.address(request),
            request_id=request[REQUEST_ID],
        )
    )
    if isinstance(minted, Refusal):
        callers.failed(request, text, _DESCRIPTIONS[minted])
        return _refused(request, minted, _DESCRIPTIONS[minted])
    token, row = minted
    assert row.expires_at is not None  # noqa: S101 - a job token always has an end
    return answer({"success": True, "token": token, "expires": int(row.expires_at.timestamp())})


def _admit(request: web.Request, instance: Instance) -> None:
    """Return if there are issuers, and let all errors be JSON then."""
    if not instance.issuers.is_configured:
        raise NotFound("trusted publishing is not set up on this server")
    request[API] = True


async def _token(request: web.Request, instance: Instance) -> str | None:
    if (request.content_length or 0) > _LONGEST_BODY:
        return None
    try:
        body = await read_body(request, instance, _LONGEST_BODY)
        return msgspec.json.decode(body, type=_Payload).token
    except (InvalidInput, TooLarge, ValueError, RecursionError):
        return None


def _refused(request: web.Request, code: Refusal, description: str) -> web.Response:
    request[FAILURE] = f"{code}: {description}"
    body = {
        "message": "Token request failed",
        "errors": [{"code": str(code), "description": description}],
    }
    return answer(body, status=422, reason=reason_phrase(description))
