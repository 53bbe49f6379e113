"""PyPI's JSON API: documents of projects and releases, by the same decision as their pages (protocol 5)."""

from __future__ import annotations

from aiohttp import web

from proxy.domain.addresses import JsonDocument, short_base
from proxy.domain.decision import Asked
from proxy.domain.documents import About, render_document
from proxy.domain.names import parse_name
from proxy.domain.namespaces import Namespace
from proxy.errors import InvalidName
from proxy.index.answers import ATTEMPTS, never_still
from proxy.index.instance import Instance
from proxy.index.variants import encode
from proxy.web import problems, replies, simple
from proxy.web.callers import Callers
from proxy.web.notes import FAILURE, note_page

_NOT_FOUND = b'{"message": "Not Found"}'


async def document(
    request: web.Request, address: JsonDocument, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/pypi/{name}/json`, `B/pypi/{name}/{version}/json`, `B/{name}/json`.

    A name in any spelling is answered in place, as PyPI's edge has it; every 404 is PyPI's.
    """
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    try:
        name = parse_name(address.raw_name)
    except InvalidName as error:
        return _not_found(web.Response(status=404, headers=problems.NO_STORE), request, error.message)
    packed = simple.coding_for(request)
    base = _base(address, index, instance.snapshot.server.external_url)
    for _ in range(ATTEMPTS):
        answer = await instance.index.page(Asked(index, name, sight))
        note_page(request, answer)
        if answer.is_served:
            variant = await instance.documents.get(answer, address.raw_version, base=base, coding=packed)
        elif address.raw_version is None and simple.is_own_project(answer, index, sight):
            about = About(summary=answer.decision.reason)
            variant = encode(render_document(name, None, {}, base=base, about=about), packed)
        else:
            refusal = problems.refusal_of_page(request, answer.decision)
            return _not_found(refusal, request) if refusal.status == 404 else refusal
        # Much may have been waited for, and a claim may have come meanwhile: the last look before the first byte.
        if not instance.index.holds(answer):
            continue
        if variant is None:
            headers = {**problems.NO_STORE, **problems.decided(answer.decision, answer.cache_status)}
            return _not_found(web.Response(status=404, headers=headers), request, "there is no such version")
        return replies.document(
            request,
            variant,
            answer,
            client_max_age=instance.snapshot.cache.client_max_age,
            is_public=sight.anonymous,
        )
    raise never_still(name)


def _base(address: JsonDocument, index: Namespace, external_url: str | None) -> str:
    """What links in the document begin with."""
    if external_url is not None:
        return external_url + short_base(index)
    return "/".join([".."] * address.depth)


def _not_found(response: web.Response, request: web.Request, failure: str = "") -> web.Response:
    """A 404 in PyPI's words: clients of this API read JSON, whatever they accept."""
    response.body = _NOT_FOUND
    response.headers["Content-Type"] = "application/json"
    if failure:
        request[FAILURE] = failure
    return response
