"""Small routes: alive, ready, the set-up page, and explain."""

from __future__ import annotations

from html import escape

from aiohttp import web

from proxy.domain.access import ANONYMOUS, Action, Caller, CallerKind, Scope, may
from proxy.domain.addresses import place_named
from proxy.domain.negotiate import wants_json_error
from proxy.errors import InvalidForm, InvalidName, NoSuchName, NotAuthenticated, NotPermitted
from proxy.index.explain import explain
from proxy.index.instance import Instance
from proxy.web import problems
from proxy.web.callers import Callers
from proxy.web.calls import answer as json_answer
from proxy.web.notes import CLOSING, DECIDED


async def healthz(_request: web.Request) -> web.Response:
    """The process is alive."""
    return web.Response(text="ok\n", headers=problems.NO_STORE)


async def readyz(request: web.Request, instance: Instance) -> web.Response:
    """The instance can serve: the registry answers, every worker is there, and no shutdown is under way."""
    if request.app[CLOSING].is_set():
        return problems.plain(request, 503, "shutting down", {"Retry-After": "2"})
    if not instance.crew.is_complete:
        return problems.plain(request, 503, "a worker is being started", {"Retry-After": "2"})
    await instance.registry.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    return web.Response(text="ready\n", headers=problems.NO_STORE)


async def home(request: web.Request, instance: Instance, callers: Callers) -> web.Response:
    """The lines that set up pip, uv and twine."""
    # Only shown, never cached or followed: here the Host header does no harm.
    base = f"{callers.scheme(request)}://{request.host}"
    project = instance.snapshot.server.default_project
    upload = f"{base}/legacy/" if project is not None else f"{base}/GROUP/PROJECT/"
    lines = "\n".join(
        (
            "# pip, for every environment of this user",
            f"pip config set global.index-url {base}/simple/",
            "",
            "# uv",
            f"export UV_DEFAULT_INDEX={base}/simple/",
            "",
            "# publish; user name __token__, password: a token",
            f"twine upload --repository-url {upload} dist/*",
            f"uv publish --publish-url {upload} dist/*",
        )
    )
    if wants_json_error(request.headers.get("Accept")):
        return web.json_response({"index_url": f"{base}/simple/", "publish_url": upload})
    body = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>pypi-overlay</title></head><body>'
        "<h1>pypi-overlay</h1><p>A package index: public and private packages from one address.</p>"
        f"<pre>{escape(lines)}</pre>"
        "<p>Use one index-url and no extra-index-url: what a second index answers, nobody checks here.</p>"
        "</body></html>\n"
    )
    return web.Response(
        text=body,
        content_type="text/html",
        headers={"Cache-Control": "no-cache", "Content-Security-Policy": "default-src 'none'"},
    )


async def explain_name(request: web.Request, instance: Instance, callers: Callers) -> web.Response:
    """`/api/v1/explain?index=…&name=…[&version=…][&filename=…][&as=…]`."""
    query = request.query
    if "name" not in query:
        raise InvalidForm("name is missing", hint="ask /api/v1/explain?index=/&name=requests")
    caller = await callers.identify(request)
    place = place_named(query.get("index", "/"), instance.snapshot.tree)
    namespace = instance.index.reach(place.path, place.namespace, callers.sight(caller))
    if "as" in query:
        caller = _act_as(caller, query["as"], instance)
        namespace = instance.index.reach(namespace.path, namespace, callers.sight(caller))
    try:
        answer = await explain(
            instance.index,
            namespace,
            query["name"],
            caller,
            callers.sight(caller),
            version=query.get("version"),
            filename=query.get("filename"),
        )
    except InvalidName as error:
        # No name, no decision: as on every other route (contract 4.2).
        raise NoSuchName(error.message, hint=error.hint) from error
    request[DECIDED] = answer.decision
    if answer.decision.challenge and "as" not in query:
        raise NotAuthenticated("this name may be yours to read", hint="send credentials")
    return json_answer(answer.shape)


def _act_as(caller: Caller, wanted: str, instance: Instance) -> Caller:
    """The caller whose view is asked for; only owners of the instance may take another's.

    Raises:
        NotPermitted: the caller is no owner of the root.
        InvalidForm: there is no such user.
    """
    tree = instance.snapshot.tree
    if not may(caller, Action.ADMINISTER, tree.root, tree):
        raise NotPermitted("only an owner of the instance may ask as somebody else")
    return caller_named(wanted, instance)


def caller_named(wanted: str, instance: Instance) -> Caller:
    """The view of a user of the configuration, or of `anonymous`.

    Raises:
        InvalidForm: the configuration has no such user.
    """
    if wanted == "anonymous":
        return ANONYMOUS
    if wanted not in instance.snapshot.users:
        raise InvalidForm(
            f"there is no user {wanted[:80]!a}", hint="users of the configuration, or anonymous"
        )
    return Caller(CallerKind.USER, wanted, scopes=frozenset({Scope.API}))
