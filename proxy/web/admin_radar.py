"""The confusion radar in the administration API: what was found when it last looked (contract 12)."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.moments import parse_since
from proxy.domain.names import parse_name
from proxy.errors import InvalidInput
from proxy.index.radar import list_confusions
from proxy.web.calls import Call, answer
from proxy.web.paging import enumerated, paging


async def confusion(call: Call) -> web.Response:
    """Names of upstreams that meet a claim; `?name=` and `?since=` leave out others.

    For owners of the instance; with `?namespace=` for owners of that tenant. `name` is that of the upstream or the
    claimed one; `since`, when it was first seen.
    """
    query, tree = call.request.query, call.instance.snapshot.tree
    at = call.namespace(query["namespace"], with_packages=False) if "namespace" in query else tree.root
    call.permit(Action.ADMINISTER, at)
    if tree.owner(at.path) != at.path:
        raise InvalidInput(
            f"{at.title} is not a tenant", hint=f"claims here are those of {tree.owner(at.path) or '/'}"
        )
    asked = paging(query)
    chosen = partial(
        list_confusions,
        tenant=None if at.is_root else at.path,
        name=parse_name(query["name"]) if "name" in query else None,
        since=parse_since(query["since"], call.instance.now()) if "since" in query else None,
        window=asked.and_one,
    )
    return answer(enumerated(await call.looked_up(chosen), asked))
