"""Claims in the administration API: listed, and tombstoned names given free (contract 6, 12)."""

from __future__ import annotations

from functools import partial

from aiohttp import web
from sqlalchemy import Connection

from proxy.domain.access import Action, may
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NotAuthenticated, NotPermitted
from proxy.registry import claims
from proxy.web.calls import Call, answer, done
from proxy.web.paging import enumerated, paging


async def list_all(call: Call) -> web.Response:
    """`?tenant=`: what a tenant claims; without one, of every tenant of which the caller is a maintainer."""
    tree = call.instance.snapshot.tree
    asked = paging(call.request.query)
    if "tenant" in call.request.query:
        tenants = frozenset({_tenant(call, call.request.query["tenant"], Action.LIST_CLAIMS)})
    else:
        owners = {tree.owner(each.path) for each in tree} | {tree.root.path}
        tenants = frozenset(
            owner for owner in owners if may(call.caller, Action.LIST_CLAIMS, tree.find(owner), tree)
        )
    if not tenants:
        _refuse(call)

    def listed(connection: Connection) -> list[dict[str, object]]:
        found = claims.list_claims(connection, tree, None, call.instance.now())
        shown = {owner or "/" for owner in tenants}
        return [item for item in found if item["tenant"] in shown]

    found = await call.looked_up(listed)
    return answer(enumerated(found[asked.offset : asked.offset + asked.per_page + 1], asked))


async def release(call: Call) -> web.Response:
    """Give a tombstoned name free: from then on a public package may take its place."""
    owner = _tenant(call, call.given["tenant"], Action.RELEASE_CLAIMS)
    give_free = partial(
        claims.release,
        tree=call.instance.snapshot.tree,
        owner=owner,
        wanted=call.given["name"],
        by=call.by,
    )
    await call.instance.registry.change(give_free)
    return done()


def _tenant(call: Call, text: str, action: Action) -> NamespacePath:
    """The tenant that is named, if the caller may do `action` there; its names stay claimed without packages, too."""
    namespace = call.namespace(text, with_packages=False)
    call.permit(action, namespace)
    return claims.find_tenant(call.instance.snapshot.tree, namespace.path)


def _refuse(call: Call) -> None:
    if call.sight.anonymous:
        raise NotAuthenticated("listing claims needs credentials")
    raise NotPermitted(
        f"{call.caller.label} may list the claims of no tenant",
        hint="it takes the role maintainer of one, and a token with the scope for it",
    )
