"""Uploads: the multipart body as parts for `registry.publish`, and answers that clients get to see (contract 6)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from proxy.domain.access import Caller, Sight
from proxy.domain.addresses import Base, LegacyUpload, short_base
from proxy.domain.namespaces import Kind, Namespace
from proxy.errors import (
    DiskFull,
    InvalidForm,
    NoSuchNamespace,
    NotAuthenticated,
    NotPermitted,
    OverlayError,
)
from proxy.index.instance import Instance
from proxy.registry.publish import too_large
from proxy.storage.audit import By
from proxy.web.callers import Callers
from proxy.web.calls import answer
from proxy.web.notes import REQUEST_ID

_READ_ON = timedelta(minutes=10)
"""How long a refused upload is read on, while it keeps coming."""
_FORM_ALLOWANCE = 24 << 20
"""Bytes of a request that are not the file: all form fields with their headers."""
_PIECE = 64 << 10
_MALFORMED = (
    HttpProcessingError,
    web.RequestPayloadError,
    ValueError,
    AssertionError,
    RuntimeError,
    LookupError,
)
"""What aiohttp raises of bodies that are no forms, or end or are framed other than they said."""


async def upload(
    request: web.Request, address: Base | LegacyUpload, instance: Instance, callers: Callers
) -> web.StreamResponse:
    """POST to a project's base or to `/legacy/`."""
    try:
        return await _receive(request, address, instance, callers)
    except DiskFull:
        # Nothing that still comes has anywhere to go; reading on would only take longer.
        raise
    except (OverlayError, web.HTTPException):
        await read_on(request, instance)
        raise


async def _receive(
    request: web.Request, address: Base | LegacyUpload, instance: Instance, callers: Callers
) -> web.Response:
    caller = await callers.identify(request)
    project = _project(address, caller, instance, callers)
    limits = instance.snapshot.limits
    length = request.content_length
    if length is not None:
        if length > instance.publisher.free_space():
            raise DiskFull("there is no room for this upload", hint="ask who runs this server")
        if length > limits.max_file_size + _FORM_ALLOWANCE:
            raise too_large(limits.max_file_size)
    if request.content_type != "multipart/form-data":
        raise InvalidForm("the body is not multipart/form-data", hint="publish with twine, uv or the like")
    published = await instance.publisher.receive(
        _parts(request, limits.upload_idle_timeout),
        project=project,
        by=By(caller, instance.now(), callers.address(request), request[REQUEST_ID]),
        action=request.query.get(":action"),
    )
    shape = {
        "name": published.name,
        "version": published.version,
        "filename": published.filename,
        "sha256": published.sha256,
        "project": published.project,
        "warnings": list(published.warnings),
    }
    return answer(shape, status=201 if published.is_new else 200)


def _project(address: Base | LegacyUpload, caller: Caller, instance: Instance, callers: Callers) -> Namespace:
    """The project that is published to, if the caller may (contract 4.1, 5).

    Raises:
        NotAuthenticated: nobody publishes anonymously.
        NoSuchNamespace: no such project, or the caller may not know of it.
        NotPermitted: the caller sees it, and lacks the role or scope.
    """
    tree = instance.snapshot.tree
    sight = callers.sight(caller)
    if isinstance(address, LegacyUpload):
        wanted = instance.snapshot.server.default_project
        # One that the caller may not know of is told as none.
        if wanted is None or not (sight.anonymous or wanted in sight.askable | sight.publishes):
            raise NoSuchNamespace(
                "/legacy/ publishes to the default project, and there is none",
                hint="set server.default_project, or publish to a project's own address such as /acme/widgets/",
            )
        path, namespace = wanted, tree.get(wanted)
    else:
        path, namespace = address.place.path, address.place.namespace
    if namespace is not None and namespace.path in sight.publishes:
        return namespace
    project = instance.index.reach(path, namespace, sight)
    if project.kind is Kind.GROUP:
        raise web.HTTPMethodNotAllowed("POST", ["GET", "HEAD"], text=not_a_project(project, instance, sight))
    if sight.anonymous:
        raise NotAuthenticated("publishing needs credentials")
    # `reach` let it pass, so the caller may read it: nothing lies below a project.
    raise NotPermitted(
        f"{caller.label} may not publish to {project.path}",
        hint="it takes the role developer there, or a token with the scope for it",
    )


def not_a_project(group: Namespace, instance: Instance, sight: Sight) -> str:
    """What a POST to a group is told; names no project but those that the caller can read."""
    projects = (project.path for project in instance.snapshot.tree.projects(group))
    seen = next((path for path in projects if path in sight.readable), None)
    example = seen or f"{short_base(group)}/widgets".lstrip("/")
    return f"{group.title} is a group; publish to a project such as {example}"


class _Part:
    """One part of the body, with a limit on how long it may stand still."""

    def __init__(self, part: BodyPartReader, idle: timedelta) -> None:
        self._part = part
        self._idle = idle

    @property
    def name(self) -> str | None:
        return self._part.name

    @property
    def filename(self) -> str | None:
        return self._part.filename

    @property
    def is_encoded(self) -> bool:
        headers = self._part.headers
        transfer = headers.get("Content-Transfer-Encoding", "binary").lower()
        return "Content-Encoding" in headers or transfer not in {"binary", "8bit", "7bit"}

    async def read(self) -> bytes:
        with _readable():
            async with asyncio.timeout(self._idle.total_seconds()):
                return bytes(await self._part.read_chunk(_PIECE))


async def _parts(request: web.Request, idle: timedelta) -> AsyncIterator[_Part]:
    with _readable():
        reader = await request.multipart()
    while True:
        with _readable():
            async with asyncio.timeout(idle.total_seconds()):
                part = await reader.next()
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise InvalidForm("the form has a form within it")
        yield _Part(part, idle)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Tell what may go wrong with a body as errors of ours."""
    try:
        yield
    except TimeoutError as error:
        raise InvalidForm("the upload stood still for too long", hint="try again") from error
    except _MALFORMED as error:
        raise InvalidForm("the body is not a well-formed multipart form") from error


async def read_on(request: web.Request, instance: Instance) -> None:
    """Read and drop what still comes of a refused body: clients read no answer before they have sent all."""
    idle = instance.snapshot.limits.upload_idle_timeout
    with contextlib.suppress(TimeoutError, ConnectionError, *_MALFORMED):
        async with asyncio.timeout(_READ_ON.total_seconds()):
            while True:
                async with asyncio.timeout(idle.total_seconds()):
                    if not await request.content.readany() and request.content.at_eof():
                        return
