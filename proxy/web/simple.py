"""The simple repository API: project pages and lists of names."""

from __future__ import annotations

from aiohttp import web

from proxy.domain.access import Sight
from proxy.domain.addresses import NameList, ProjectPage, page_redirect, split_target
from proxy.domain.decide import Asked, Word
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import Namespace
from proxy.domain.negotiate import Representation, negotiate, wants_gzip
from proxy.domain.pages import Page, ProjectStatus, Status
from proxy.errors import InvalidName, NoSuchName, StoreUnavailable
from proxy.index.answers import PageAnswer
from proxy.index.instance import Instance
from proxy.web import problems, replies
from proxy.web.callers import Callers
from proxy.web.notes import DECIDED

_ATTEMPTS = 5


async def project_page(
    request: web.Request, address: ProjectPage, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/simple/{name}/`."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    name = _name(address.raw_name)
    location = page_redirect(address.raw_name, address.slash, name, split_target(request.raw_path)[1])
    if location is not None:
        return redirect(location)
    representation, gzip = _negotiated(request)
    asked = Asked(index, name, sight)
    for _ in range(_ATTEMPTS):
        answer = await instance.index.page(asked)
        request[DECIDED] = answer.decision
        page = answer.screened.page
        if not answer.is_served:
            if not _is_own_project(answer, index, sight):
                return problems.refusal_of_page(request, answer.decision)
            page = Page(name, (), (), ProjectStatus(Status.QUARANTINED, answer.decision.reason))
        variant = await instance.variants.get(page, answer.token, representation, gzip=gzip)
        # Rendering may have waited, and a claim may have come meanwhile: the last look before the first byte.
        if await instance.index.holds(answer.basis):
            return replies.page(
                request,
                variant,
                representation,
                answer.decision,
                status=answer.cache_status,
                client_max_age=instance.snapshot.cache.client_max_age,
                is_public=sight.anonymous,
            )
    raise StoreUnavailable(f"{name} changes faster than it can be answered")


def _is_own_project(answer: PageAnswer, index: Namespace, sight: Sight) -> bool:
    """Whether a refusal is told as an empty, quarantined page: `uv publish --check-url` gives up at a 451 (4)."""
    return answer.decision.word in {Word.CLAIMED, Word.DENIED} and index.path in sight.publishes


async def names(
    request: web.Request, address: NameList, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/simple/`."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    representation, gzip = _negotiated(request)
    listed = await instance.index.names(index, sight)
    variant = await instance.variants.of_names(listed, representation, gzip=gzip)
    return replies.page(request, variant, representation, None, is_public=sight.anonymous)


def _negotiated(request: web.Request) -> tuple[Representation, bool]:
    def given(header: str) -> str:
        # Several lines of one list are one list (RFC 9110 5.3).
        return ", ".join(request.headers.getall(header, []))

    representation = negotiate(given("Accept"), request.query.get("format"))
    return representation, wants_gzip(given("Accept-Encoding"))


def _name(raw: str) -> Name:
    try:
        return parse_name(raw)
    except InvalidName as error:
        raise NoSuchName(error.message) from error


def redirect(location: str) -> web.Response:
    """A relative redirect, as PyPI sends it for missing slashes and names not in normal form."""
    return web.Response(status=301, headers={"Location": location, **problems.NO_STORE})
