"""GitLab's packages API: packages, which are releases here, and their files, by number (contract 12).

The shapes, filters and headers are GitLab's, so that what was written for it goes on working. A package's
number is its release's, a file's its own; neither is ever given out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.addresses import (
    GitlabPackages,
    gitlab_package_path,
    page_href,
    short_base,
    split_target,
)
from proxy.domain.moments import iso
from proxy.domain.namespaces import Kind, Namespace, Tree
from proxy.errors import InvalidInput
from proxy.index.instance import Instance
from proxy.registry import listing
from proxy.registry.listing import Order, Release, ReleaseFile, Wanted
from proxy.web.callers import Callers
from proxy.web.calls import Call, answer, done, not_allowed
from proxy.web.paging import gitlab_headers, paging

T = TypeVar("T")

_TYPE = "pypi"
_FILTERS = ("package_type", "package_name", "package_version", "order_by", "sort")
_DIRECTIONS = {"asc": False, "desc": True}


async def packages(
    request: web.Request, address: GitlabPackages, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """`/api/v4/{projects,groups}/{id}/packages…`."""
    call = await Call.of(request, instance, callers)
    found = instance.index.reach(address.place.path, address.place.namespace, call.sight)
    allowed = _methods(address)
    if request.method not in allowed:
        raise not_allowed(request, allowed)
    if address.package is None:
        return await _list(call, found)
    if request.method == "DELETE":
        call.permit(Action.DELETE, found)
    release = await instance.registry.read(
        partial(listing.find_release, project=found.path, number=address.package)
    )
    if request.method == "DELETE":
        return await _delete(call, found, release, address.file)
    if address.has_files:
        return await _list_files(call, release)
    return answer(_package(call, found, release))


def _methods(address: GitlabPackages) -> tuple[str, ...]:
    if address.file is not None:
        return ("DELETE",)
    is_one_package = address.package is not None and not address.has_files
    return ("GET", "HEAD", "DELETE") if is_one_package else ("GET", "HEAD")


async def _list(call: Call, namespace: Namespace) -> web.Response:
    query = call.request.query
    asked, wanted = paging(query), _wanted(query, namespace.kind)
    projects = call.shown_projects(namespace) if query.get("package_type", _TYPE) == _TYPE else []
    total, releases = await call.looked_up(
        partial(listing.list_releases, projects=projects, wanted=wanted, window=asked.window)
    )
    filters = {key: query[key] for key in _FILTERS if key in query}
    headers = gitlab_headers(asked, total, _address(call), filters)
    tree = call.instance.snapshot.tree
    if namespace.kind is Kind.PROJECT:
        return answer([_package(call, namespace, release) for release in releases], headers)
    return answer([_package_of_group(call, tree, release) for release in releases], headers)


def _wanted(query: Mapping[str, str], kind: Kind) -> Wanted:
    orders = {str(order): order for order in Order if kind is Kind.GROUP or order is not Order.PROJECT_PATH}
    return Wanted(
        query.get("package_name", ""),
        query.get("package_version", ""),
        _one_of("order_by", query.get("order_by", Order.CREATED_AT), orders),
        _one_of("sort", query.get("sort", "asc"), _DIRECTIONS),
    )


def _one_of(key: str, text: str, meanings: Mapping[str, T]) -> T:
    if text not in meanings:
        raise InvalidInput(f"{key} is not valid: {text[:40]!a}", hint=f"one of {', '.join(meanings)}")
    return meanings[text]


async def _list_files(call: Call, release: Release) -> web.Response:
    asked = paging(call.request.query)
    total, found = await call.looked_up(
        partial(listing.list_files, release=release.number, window=asked.window)
    )
    headers = gitlab_headers(asked, total, _address(call), {})
    return answer([_file(release, file) for file in found], headers)


async def _delete(call: Call, project: Namespace, release: Release, number: int | None) -> web.Response:
    filename: str | None = None
    if number is not None:
        find = partial(listing.find_release_file, release=release.number, number=number)
        filename = (await call.instance.registry.read(find)).filename
    await call.instance.publisher.delete(project, release.name, release.version, filename, by=call.by)
    return done()


def _address(call: Call) -> str:
    """The address that was asked, without its query; absolute where the server knows how clients reach it."""
    return (call.instance.snapshot.server.external_url or "") + split_target(call.request.raw_path)[0]


def _package(call: Call, project: Namespace, release: Release) -> dict[str, object]:
    origin = call.instance.snapshot.server.external_url or ""
    return {
        "id": release.number,
        "name": release.title,
        "version": release.version,
        "package_type": _TYPE,
        "status": "default",
        "created_at": iso(release.created_at),
        "last_downloaded_at": None,
        "_links": {
            # A path on the host that clients see, with the prefix below which they see this server.
            "web_path": page_href(release.name, urlsplit(origin).path + short_base(project)),
            "delete_api_path": origin + gitlab_package_path(project, release.number),
        },
        "pipelines": [],
        "tags": [],
    }


def _package_of_group(call: Call, tree: Tree, release: Release) -> dict[str, object]:
    project = tree.find(release.project)
    shape = _package(call, project, release)
    return {**shape, "project_id": project.number, "project_path": project.path}


def _file(release: Release, file: ReleaseFile) -> dict[str, object]:
    return {
        "id": file.number,
        "package_id": release.number,
        "created_at": iso(file.uploaded_at),
        "file_name": file.filename,
        "size": file.size,
        "file_md5": None,
        "file_sha1": None,
        "file_sha256": file.sha256,
        "pipelines": [],
    }
