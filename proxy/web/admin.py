"""The administration API: which function answers which address and method below `/api/v1/` (contract 12)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from aiohttp import web

from proxy.domain.addresses import Api
from proxy.domain.namespaces import ROOT
from proxy.errors import NotFound
from proxy.index.instance import Instance
from proxy.web import (
    admin_audit,
    admin_cache,
    admin_claims,
    admin_held,
    admin_packages,
    admin_policy,
    admin_radar,
    admin_status,
    admin_tokens,
)
from proxy.web.callers import Callers
from proxy.web.calls import Call, not_allowed

Route = Callable[[Call], Awaitable[web.Response]]

_ROUTES: tuple[tuple[str, Mapping[str, Route]], ...] = (
    ("status", {"GET": admin_status.status}),
    ("reload", {"POST": admin_status.reload}),
    ("tokens", {"GET": admin_tokens.list_all, "POST": admin_tokens.create}),
    ("tokens/{id}", {"DELETE": admin_tokens.revoke}),
    ("tokens/{id}/rotate", {"POST": admin_tokens.rotate}),
    ("claims", {"GET": admin_claims.list_all}),
    ("claims/{tenant}/{name}", {"DELETE": admin_claims.release}),
    ("audit/confusion", {"GET": admin_radar.confusion}),
    ("audit", {"GET": admin_audit.events}),
    ("audit/downloads", {"GET": admin_audit.downloads}),
    ("cache", {"GET": admin_cache.stats}),
    ("cache/purge", {"POST": admin_cache.purge}),
    ("cache/verify", {"POST": admin_cache.verify}),
    ("cache/warm", {"POST": admin_cache.warm}),
    ("held", {"GET": admin_held.list_all}),
    ("held/{upstream}/{name}/{filename}", {"DELETE": admin_held.release}),
    ("jobs/{id}", {"GET": admin_cache.job}),
    ("policy", {"GET": admin_policy.show}),
    ("packages", {"GET": admin_packages.list_all}),
    ("packages/{project}/{name}", {"DELETE": admin_packages.delete}),
    ("packages/{project}/{name}/status", {"PUT": admin_packages.set_status}),
    ("packages/{project}/{name}/{version}", {"DELETE": admin_packages.delete}),
    (
        "packages/{project}/{name}/{version}/yank",
        {"PUT": admin_packages.yank, "DELETE": admin_packages.unyank},
    ),
    ("packages/{project}/{name}/{version}/{filename}", {"DELETE": admin_packages.delete}),
)
"""Segments after `/api/v1/`, `{…}` being variable, and what answers each method; the first that fits counts.

What answers GET answers HEAD too.
"""


async def api(request: web.Request, address: Api, instance: Instance, callers: Callers) -> web.StreamResponse:
    """`/api/v1/…`."""
    call = await Call.of(request, instance, callers)
    for pattern, methods in _ROUTES:
        given = _fit(pattern, address.segments)
        if given is None:
            continue
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is not None:
            return await route(replace(call, given=given))
        _admit(call)
        raise not_allowed(request, sorted({*methods, *({"HEAD"} if "GET" in methods else ())}))
    _admit(call)
    raise NotFound("the administration API has no such address")


def _admit(call: Call) -> None:
    """Tell what this API has only to those who may ask this server anything at all."""
    call.instance.index.reach(ROOT, call.instance.snapshot.tree.root, call.sight)


def _fit(pattern: str, segments: tuple[str, ...]) -> dict[str, str] | None:
    """What stands in the variable segments, if the address is one of `pattern`."""
    wanted = pattern.split("/")
    if len(wanted) != len(segments):
        return None
    given: dict[str, str] = {}
    for want, segment in zip(wanted, segments, strict=True):
        if want.startswith("{") and segment:
            given[want[1:-1]] = segment
        elif want != segment:
            return None
    return given
