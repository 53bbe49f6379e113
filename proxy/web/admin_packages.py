"""Packages in the administration API: listed and shown, deleted, yanked, given a status."""

from __future__ import annotations

from functools import partial

import msgspec
from aiohttp import web
from sqlalchemy import Connection

from proxy.domain.access import Action
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import Namespace, NamespacePath
from proxy.registry import listing, marks
from proxy.web.calls import Call, answer, done
from proxy.web.paging import enumerated, paging


class _Reason(msgspec.Struct, forbid_unknown_fields=True):
    reason: str | None = None


class _Status(msgspec.Struct, forbid_unknown_fields=True):
    status: str
    reason: str | None = None


async def list_all(call: Call) -> web.Response:
    """`?namespace=&name=`: the packages at and below a namespace; with a name, each with releases and files."""
    query = call.request.query
    projects = call.shown_projects(call.namespace(query.get("namespace", "/")))
    asked = paging(query)
    name = parse_name(query["name"]) if "name" in query else None

    def listed(connection: Connection) -> list[dict[str, object]]:
        found = listing.list_packages(connection, projects, name, asked.and_one)
        if name is None:
            return found
        holders = (NamespacePath(str(item["project"])) for item in found)
        return [listing.show_package(connection, project, name) for project in holders]

    return answer(enumerated(await call.looked_up(listed), asked))


async def delete(call: Call) -> web.Response:
    """A package, a release or a file; the name stays claimed."""
    project, name = _package(call, Action.DELETE)
    given = call.given
    await call.instance.publisher.delete(
        project, name, given.get("version"), given.get("filename"), by=call.by
    )
    return done()


async def yank(call: Call) -> web.Response:
    """Yank a release; the body may give the reason."""
    project, name = _package(call, Action.YANK)
    reason = (await call.body(_Reason)).reason
    version = call.given["version"]
    await call.instance.registry.change(
        partial(marks.yank, project=project.path, name=name, version=version, reason=reason, by=call.by)
    )
    return done()


async def unyank(call: Call) -> web.Response:
    """Take the mark away."""
    project, name = _package(call, Action.YANK)
    version = call.given["version"]
    await call.instance.registry.change(
        partial(marks.unyank, project=project.path, name=name, version=version, by=call.by)
    )
    return done()


async def set_status(call: Call) -> web.Response:
    """Give a package a status of PEP 792."""
    project, name = _package(call, Action.SET_STATUS)
    body = await call.body(_Status)
    await call.instance.registry.change(
        partial(
            marks.set_status,
            project=project.path,
            name=name,
            status=body.status,
            reason=body.reason,
            by=call.by,
        )
    )
    return done()


def _package(call: Call, action: Action) -> tuple[Namespace, Name]:
    """The project and name that the address says, if the caller may do this there."""
    project = call.project(call.given["project"])
    call.permit(action, project)
    return project, parse_name(call.given["name"])
