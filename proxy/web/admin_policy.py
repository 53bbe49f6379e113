"""The policy of a namespace in the administration API: every value in force, and where it stands (contract 12)."""

from __future__ import annotations

from aiohttp import web

from proxy.index.effective import effective_policy
from proxy.web.calls import Call, answer


async def show(call: Call) -> web.Response:
    """`?namespace=`: what holds there, without what stands at namespaces that the caller may not know of."""
    namespace = call.namespace(call.request.query.get("namespace", "/"), with_packages=False)
    return answer(effective_policy(call.instance.snapshot.tree, namespace, call.sight))
