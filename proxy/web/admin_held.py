"""Held files in the administration API: listed, and released (contract 4.7, 12)."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from proxy.cache import held
from proxy.domain.access import Action
from proxy.web.calls import Call, answer, done
from proxy.web.paging import enumerated, paging


async def list_all(call: Call) -> web.Response:
    """The files that upstreams removed or quarantined and that we hold; for owners of the instance."""
    _permit(call)
    asked = paging(call.request.query)
    window = asked.and_one
    found = await call.looked_up(partial(held.list_held, limit=window.limit, offset=window.offset))
    return answer(enumerated(found, asked))


async def release(call: Call) -> web.Response:
    """Have a held file served again."""
    _permit(call)
    given = call.given
    free = partial(
        held.release, upstream=given["upstream"], wanted=given["name"], filename=given["filename"], by=call.by
    )
    await call.instance.registry.change(free)
    return done()


def _permit(call: Call) -> None:
    call.permit(Action.ADMINISTER, call.instance.snapshot.tree.root)
