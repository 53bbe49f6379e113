"""`build(running) -> Application`: every request's way in and out.

There is one route: addresses are split by `domain.addresses` alone, since a router's own decoding would let
`%2F` and dot segments through (protocol 8). Around it stand the request id, the access log, and the
translation of exceptions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.domain.access import Sight
from proxy.domain.addresses import (
    Address,
    Api,
    Base,
    Explain,
    File,
    GitlabPackages,
    Health,
    Home,
    JsonDocument,
    LegacyUpload,
    Metrics,
    Misdated,
    NameList,
    OidcAudience,
    OidcMint,
    OwnPage,
    Place,
    ProjectPage,
    Ready,
    Redirect,
    Unknown,
    parse,
)
from proxy.domain.namespaces import ROOT, Kind, Namespace
from proxy.errors import InvalidMoment, NoSuchNamespace, Outdated, OverlayError, StoreUnavailable
from proxy.index.answers import never_still
from proxy.index.instance import Instance, Running
from proxy.observe.logs import Logger, new_request_id
from proxy.observe.metrics import Route
from proxy.web import admin, files, gitlab, json_api, metrics, oidc, plain, problems, simple, upload
from proxy.web.callers import Callers, Known
from proxy.web.finished import FINISHED, Finished
from proxy.web.notes import (
    API,
    BEGUN,
    CLOSING,
    FAILURE,
    REQUEST_ID,
    ROUTE,
    RUNNING,
    UNDER_WAY,
)
from proxy.web.observed import OBSERVER, Observer, shown_path

_READS = frozenset({"GET", "HEAD"})
_EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Server": "pypi-overlay",
}


_REPLACEMENTS = 5
"""How often a request is begun anew because the configuration was replaced; one a second would be many."""


def build(running: Running, logger: Logger, *, clock: Callable[[], float] = time.time) -> web.Application:
    """The application that serves whichever instance is in force.

    `notes.CLOSING` in it is an event: once set, `/readyz` says no. `notes.UNDER_WAY` holds the requests that
    are being answered. `FINISHED` and `OBSERVER` are for `web.front`.

    Args:
        clock: seconds since the epoch, by which kept answers are judged.
    """
    first = running.instance
    known = {first.serial: Callers(first)}

    def callers_of(instance: Instance) -> Callers:
        found = known.get(instance.serial)
        if found is None:
            known.clear()
            found = known[instance.serial] = Callers(instance)
            # None of them holds any more: what they depend on is another.
            app[FINISHED].forget_all()
        return found

    def recognised(authorization: bytes | None) -> Known | None:
        try:
            return callers_of(running.instance).known(authorization)
        except StoreUnavailable:
            return None

    observer = Observer(logger, running, callers_of)

    async def dispatch(request: web.Request) -> web.StreamResponse:
        for _ in range(_REPLACEMENTS):
            with running.used(await running.in_force()) as instance:
                address = parse(request.raw_path, instance.snapshot.tree)
                request[ROUTE] = _route(address, request.method)
                request[API] = isinstance(address, Api | Explain | GitlabPackages) or (
                    isinstance(address, Unknown) and address.is_api
                )
                try:
                    return await _answer(request, address, instance, callers_of(instance))
                except Outdated:
                    if request.method not in _READS:
                        raise
        raise never_still("the configuration")

    app = web.Application(middlewares=[_observed(observer), _translated(logger)], client_max_size=1 << 20)
    app[OBSERVER] = observer
    app[FINISHED] = Finished(
        first.board, recognised, lambda caller: callers_of(running.latest).sight(caller), clock
    )
    app[RUNNING] = running
    app[CLOSING] = asyncio.Event()
    app[UNDER_WAY] = {}
    app.router.add_route("*", "/{path:.*}", dispatch)
    app.on_response_prepare.append(_finish_head)
    return app


async def _answer(
    request: web.Request, address: Address, instance: Instance, callers: Callers
) -> web.StreamResponse:
    reads = request.method in _READS
    match address:
        case Base() | LegacyUpload() if request.method == "POST":
            return await upload.upload(request, address, instance, callers)
        case Api():
            return await admin.api(request, address, instance, callers)
        case GitlabPackages():
            return await gitlab.packages(request, address, instance, callers)
        case OidcMint() if request.method == "POST":
            return await oidc.mint(request, instance, callers)
        case OidcAudience() if reads:
            return await oidc.audience(request, instance)
        case Home() if reads:
            return await plain.home(request, instance, callers)
        case Health() if reads:
            return await plain.healthz(request)
        case Ready() if reads:
            return await plain.readyz(request, instance)
        case Metrics() if reads:
            return await metrics.metrics(request, instance, callers)
        case Explain() if reads:
            return await plain.explain_name(request, instance, callers)
        case ProjectPage() if reads:
            return await simple.project_page(request, address, instance, callers)
        case NameList() if reads:
            return await simple.names(request, address, instance, callers)
        case OwnPage() if reads:
            return await simple.own_page(request, address, instance, callers)
        case JsonDocument() if reads:
            return await json_api.document(request, address, instance, callers)
        case File() if reads:
            return await files.file(request, address, instance, callers)
        case Redirect() if reads:
            instance.index.reach(
                address.place.path, address.place.namespace, callers.sight(await callers.identify(request))
            )
            return simple.redirect(address.location)
        case _ if reads:
            return await _nothing_here(request, address, instance, callers)
        case _:
            try:
                return await _nothing_here(request, address, instance, callers)
            finally:
                await upload.read_on(request, instance)


def _route(address: Address, method: str) -> Route:
    """The word under which requests to an address are counted."""
    match address:
        case ProjectPage() | OwnPage():
            return "page"
        case File(suffix=".metadata"):
            return "metadata"
        case File(suffix=".provenance"):
            return "provenance"
        case File():
            return "file"
        case JsonDocument():
            return "json"
        case NameList():
            return "names"
        case Base() | LegacyUpload() if method == "POST":
            return "upload"
        case GitlabPackages():
            return "gitlab"
        case Api() | Explain():
            return "api"
        case _:
            return "other"


async def _nothing_here(
    request: web.Request, address: Address, instance: Instance, callers: Callers
) -> web.Response:
    """404 or 405, told only to those who may ask the namespace at all (contract 5)."""
    sight = callers.sight(await callers.identify(request))
    reads = request.method in _READS
    root = Place(ROOT, instance.snapshot.tree.root)
    place = root if isinstance(address, Home) else getattr(address, "place", None)
    if place is None:
        allowed = "POST" if isinstance(address, LegacyUpload | OidcMint) else "GET, HEAD"
        message = f"this address takes {allowed}"
        return problems.plain(request, 405, message, {"Allow": allowed}, is_api=request[API])
    found = instance.index.reach(place.path, place.namespace, sight)
    if isinstance(address, Misdated):
        raise InvalidMoment(
            f"{address.text[:80]!a} is no date", hint="a dated view is +2026-05-01 or +2026-05-01T08:00:00Z"
        )
    if isinstance(address, Base) and found.kind is Kind.PROJECT:
        message = f"{found.path} takes uploads here; its index is below simple/"
        return problems.plain(request, 405, message, {"Allow": "POST"})
    if not reads and not isinstance(address, Unknown):
        return problems.plain(request, 405, _where_to_publish(found, instance, sight), {"Allow": "GET, HEAD"})
    raise NoSuchNamespace(f"there is nothing at {shown_path(request.raw_path)[:200]!a}")


def _where_to_publish(found: Namespace, instance: Instance, sight: Sight) -> str:
    if found.kind is Kind.GROUP:
        return upload.not_a_project(found, instance, sight)
    return f"this address is for reading; publish to /{found.path}/"


def _translated(logger: Logger) -> Middleware:
    """Exceptions to answers; what is not of this package is a bug: logged whole, told without detail."""

    @web.middleware
    async def translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except OverlayError as error:
            _break_off_if_begun(request, error)
            return problems.answer_error(request, error, is_api=request.get(API, False))
        except web.HTTPException as error:
            headers = {}
            if isinstance(error, web.HTTPMethodNotAllowed):
                headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return problems.plain(
                request, error.status, error.text or error.reason, headers, is_api=request.get(API, False)
            )
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            # The outermost border: nothing may leave the process but a 500.
            logger.exception("request failed", request_id=request[REQUEST_ID])
            _break_off_if_begun(request, error)
            return problems.plain(
                request, 500, "internal error; the log has the details", is_api=request.get(API, False)
            )

    return translate


def _break_off_if_begun(request: web.Request, error: Exception) -> None:
    """Once a head is out, no other answer can follow: a broken connection is the only way left to say "no".

    Raises:
        ConnectionResetError: that is what was done.
    """
    if request.get(BEGUN):
        request[FAILURE] = str(error)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer was broken off") from error


def _observed(observer: Observer) -> Middleware:
    """Request id, and when the answer has left or broken off, what is told of it."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = new_request_id()
        began = time.perf_counter()
        status, sent, cache_status = 499, 0, ""
        observer.begun()
        request.app[UNDER_WAY][request[REQUEST_ID]] = request
        try:
            response = await handler(request)
        except ConnectionError:
            # The client is gone, or its answer was broken off. What is returned goes nowhere; an exception would
            # stand in the log as an error of ours.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=status)
        else:
            status, sent = response.status, 0 if request.method == "HEAD" else _length(response)
            cache_status = response.headers.get("Cache-Status", "")
            return response
        finally:
            del request.app[UNDER_WAY][request[REQUEST_ID]]
            observer.answered(request, status, sent, cache_status, time.perf_counter() - began)

    return observe


def _length(response: web.StreamResponse) -> int:
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes) else 0


async def _finish_head(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_EVERYWHERE)
    request[BEGUN] = True
    response.headers["X-Request-Id"] = request.get(REQUEST_ID, "")
