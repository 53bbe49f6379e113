"""The simple repository API: project pages and lists of names."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web

from proxy.domain.access import Sight
from proxy.domain.addresses import NameList, OwnPage, ProjectPage, page_redirect, short_base, split_target
from proxy.domain.decision import Asked
from proxy.domain.moments import told
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import ROOT, Kind, Namespace
from proxy.domain.negotiate import Coding, Representation, coding, negotiate
from proxy.domain.pages import Page, ProjectStatus, Status
from proxy.domain.screen import Screened
from proxy.errors import InvalidMoment, InvalidName, NoSuchName, NoSuchNamespace
from proxy.index.answers import ATTEMPTS, PageAnswer, never_still
from proxy.index.instance import Instance
from proxy.web import problems, replies
from proxy.web.callers import Callers
from proxy.web.notes import DECIDED, note_page


async def project_page(
    request: web.Request, address: ProjectPage, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/simple/{name}/`, now or as of an instant."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    check_past(address.as_of, instance)
    name = _name(address.raw_name)
    location = page_redirect(address.raw_name, address.slash, name, split_target(request.raw_path)[1])
    if location is not None:
        return redirect(location)
    representation, packed = _negotiated(request)
    asked = Asked(index, name, sight, address.as_of)
    for _ in range(ATTEMPTS):
        answer = await instance.index.page(asked)
        note_page(request, answer)
        if answer.is_served:
            variant = await instance.variants.get(answer, representation, packed)
        elif is_own_project(answer, index, sight):
            status = ProjectStatus(Status.QUARANTINED, answer.decision.reason)
            screened = Screened(Page(name, (), (), status))
            variant = await instance.variants.of(screened, representation, packed)
        else:
            return problems.refusal_of_page(request, answer.decision)
        # Rendering may have waited, and a claim may have come meanwhile: the last look before the first byte.
        if instance.index.holds(answer):
            return replies.page(
                request,
                variant,
                representation,
                answer,
                client_max_age=instance.snapshot.cache.client_max_age,
                is_public=sight.anonymous,
            )
    raise never_still(name)


def is_own_project(answer: PageAnswer, index: Namespace, sight: Sight) -> bool:
    """Whether a refusal is told as an empty, quarantined page: `uv publish --check-url` gives up at a 451 (4)."""
    return problems.page_status(answer.decision) == 451 and index.path in sight.publishes


def check_past(as_of: datetime | None, instance: Instance) -> None:
    """Return if an index can be shown as of an instant: what will be published until a later one nobody knows.

    Raises:
        InvalidMoment: it lies in the future.
    """
    now = instance.now()
    if as_of is not None and as_of > now:
        raise InvalidMoment(f"{told(as_of, now)} lies in the future", hint="a dated view is of a past moment")


async def names(
    request: web.Request, address: NameList, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/simple/`; an error of 5xx where an upstream's names belong to it and never came."""
    sight = callers.sight(await callers.identify(request))
    index = instance.index.reach(address.place.path, address.place.namespace, sight)
    check_past(address.as_of, instance)
    representation, packed = _negotiated(request)
    listed = await instance.names.get(index, sight, address.as_of)
    instance.index.check_in_force()
    variant = instance.variants.of_names(listed, representation, packed)
    return await replies.name_list(request, variant, representation, is_public=sight.anonymous)


async def own_page(
    request: web.Request, address: OwnPage, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`B/+simple/{name}/` and `/legacy/+simple/{name}/`: the files of a project alone, always as HTML.

    hatch looks here for what is published before it uploads; it asks for `*/*` and reads links with a simple
    expression (protocol 3.3).
    """
    sight = callers.sight(await callers.identify(request))
    project, base = _own_project(address, instance, sight)
    name = _name(address.raw_name)
    location = page_redirect(address.raw_name, address.slash, name, split_target(request.raw_path)[1])
    if location is not None:
        return redirect(location)
    representation, packed = Representation.HTML, coding_for(request)
    for _ in range(ATTEMPTS):
        answer = await instance.index.own_page(Asked(project, name, sight))
        if answer is None:
            raise NoSuchName(f"{project.path} has no files of {name}")
        request[DECIDED] = answer.decision
        own = Screened((await answer.screened()).page)
        variant = await instance.variants.of(own, representation, packed, base=base)
        if instance.index.holds(answer):
            return replies.page(request, variant, representation, answer, is_public=sight.anonymous)
    raise never_still(name)


def _own_project(address: OwnPage, instance: Instance, sight: Sight) -> tuple[Namespace, str]:
    """The project whose own files are asked for, and the way from the page to the base that its links lead to.

    Raises:
        NotAuthenticated, NoSuchNamespace: as `Index.reach`; the latter also where there is no project.
    """
    if address.place is not None:
        project = instance.index.reach(address.place.path, address.place.namespace, sight)
        base = "../.."
    else:
        path = instance.snapshot.server.default_project or ROOT
        project = instance.index.reach(path, instance.snapshot.tree.get(path), sight)
        base = f"../../..{short_base(project)}"
    if project.kind is Kind.GROUP:
        raise NoSuchNamespace("there is no project here", hint="only a project has files of its own")
    return project, base


def _negotiated(request: web.Request) -> tuple[Representation, Coding]:
    representation = negotiate(_list_in(request, "Accept"), request.query.get("format"))
    return representation, coding_for(request)


def coding_for(request: web.Request) -> Coding:
    """How the answer is packed, where that is worth it."""
    return coding(_list_in(request, "Accept-Encoding"))


def _list_in(request: web.Request, header: str) -> str:
    # Several lines of one list are one list (RFC 9110 5.3).
    return ", ".join(request.headers.getall(header, []))


def _name(raw: str) -> Name:
    try:
        return parse_name(raw)
    except InvalidName as error:
        raise NoSuchName(error.message) from error


def redirect(location: str) -> web.Response:
    """A relative redirect, as PyPI sends it for missing slashes and names not in normal form."""
    return web.Response(status=301, headers={"Location": location, **problems.NO_STORE})
