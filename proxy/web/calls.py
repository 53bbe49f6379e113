"""One call of the administration API or of GitLab's: who calls, what it names and sends, what it may do.

The routes of both begin with a `Call` and end with `answer` or `done`. What a caller may not know of is 404,
what it sees and may not do 403, and 401 where it did not say who it is (contract 5).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from aiohttp import web
from sqlalchemy import Connection

from proxy.domain.access import Action, Caller, Sight, may
from proxy.domain.addresses import place_named
from proxy.domain.namespaces import Kind, Namespace, NamespacePath
from proxy.errors import (
    InvalidInput,
    NoSuchNamespace,
    NotAuthenticated,
    NotPermitted,
    TooLarge,
)
from proxy.index.instance import Instance
from proxy.storage.audit import By
from proxy.web import problems
from proxy.web.callers import Callers
from proxy.web.notes import REQUEST_ID

T = TypeVar("T")
Body = TypeVar("Body", bound=msgspec.Struct)

MAX_BODY = 64 << 10
"""Bytes of a JSON body."""

_JSON_TYPES = frozenset({"application/json", "application/octet-stream"})
"""The second is what aiohttp says of a body without a type."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was recognised.

    Attributes:
        address: of the client in the network.
        given: what stands in the variable segments of the route, by their names; none is empty.
    """

    request: web.Request
    instance: Instance
    caller: Caller
    sight: Sight
    address: str
    given: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def of(cls, request: web.Request, instance: Instance, callers: Callers) -> Call:
        """Recognise who sent a request.

        Raises:
            NotAuthenticated: there are credentials, and they are wrong.
        """
        caller = await callers.identify(request)
        return cls(request, instance, caller, callers.sight(caller), callers.address(request))

    @property
    def by(self) -> By:
        """Who does it, for the audit."""
        return By(self.caller, self.instance.now(), self.address, self.request[REQUEST_ID])

    def namespace(self, text: str, *, with_packages: bool = True) -> Namespace:
        """The namespace that a segment or query names: a path, with or without slashes around it; `/` is the root.

        Args:
            with_packages: leave out those whose packages are switched off.

        Raises:
            NotAuthenticated, NoSuchNamespace: as `Index.reach`.
        """
        place = place_named(text, self.instance.snapshot.tree)
        index = self.instance.index
        find = index.reach if with_packages else index.find
        return find(place.path, place.namespace, self.sight)

    def project(self, text: str) -> Namespace:
        """As `namespace`, of a project.

        Raises:
            NotAuthenticated, NoSuchNamespace: as `namespace`; a group is none either.
        """
        found = self.namespace(text)
        if found.kind is not Kind.PROJECT:
            raise NoSuchNamespace(f"{found.title} is a group", hint="packages lie in projects")
        return found

    def shown_projects(self, namespace: Namespace) -> list[NamespacePath]:
        """The projects at and below it whose packages the caller may know of."""
        below = self.instance.snapshot.tree.projects(namespace)
        return [each.path for each in below if each.packages and each.path in self.sight.readable]

    def permit(self, action: Action, namespace: Namespace) -> None:
        """Return if the caller, who may know of `namespace`, may also do this there.

        Raises:
            NotAuthenticated: nobody does it anonymously.
            NotPermitted: it lacks the role, or its token the scope.
        """
        if may(self.caller, action, namespace, self.instance.snapshot.tree):
            return
        if self.sight.anonymous:
            raise NotAuthenticated("this needs credentials")
        raise NotPermitted(
            f"{self.caller.label} may not {action} at {namespace.title}",
            hint="it takes a higher role there, or a token with the scope for it",
        )

    async def body(self, kind: type[Body], *, most: int = MAX_BODY) -> Body:
        """The JSON object that the request carries; none at all counts as `{}`.

        Args:
            kind: its keys; forbids unknown ones, so that no misspelt one is passed over.
            most: bytes that it may have.

        Raises:
            TooLarge: it has more than `most` bytes.
            InvalidInput: it is not JSON, or not of this kind, or stands still for too long.
        """
        if self.request.content_type not in _JSON_TYPES:
            raise InvalidInput("the body is not application/json", hint="send a JSON object")
        raw = await read_body(self.request, self.instance, most)
        try:
            return msgspec.json.decode(raw or b"{}", type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"the body is not valid: {error}") from error

    async def looked_up(self, query: Callable[[Connection], T]) -> T:
        """Run a query of lists, which may take long in a large registry, off the event loop."""
        return await asyncio.to_thread(self.instance.registry.read_now, query)


async def read_body(request: web.Request, instance: Instance, most: int) -> bytes:
    """A small body, whole.

    Raises:
        TooLarge: it has more than `most` bytes.
        InvalidInput: it is not coded as it says, or stands still for too long.
    """
    raw = bytearray()
    try:
        async with asyncio.timeout(instance.snapshot.limits.upload_idle_timeout.total_seconds()):
            while piece := await request.content.readany():
                raw += piece
                if len(raw) > most:
                    raise TooLarge(f"the body is larger than {most} bytes")
    except TimeoutError as error:
        raise InvalidInput("the body stood still for too long", hint="try again") from error
    except web.RequestPayloadError as error:
        raise InvalidInput("the body is not coded as it says") from error
    return bytes(raw)


def answer(
    shape: object, headers: Mapping[str, str] | None = None, *, status: int = 200, reason: str | None = None
) -> web.Response:
    """A shape of the contract as JSON; `reason` in place of the status's usual phrase."""
    # Without a charset, which uv takes for another type (protocol 3.2).
    said = {**problems.NO_STORE, "Content-Type": "application/json", **(headers or {})}
    return web.Response(status=status, reason=reason, body=json.dumps(shape).encode(), headers=said)


def not_allowed(request: web.Request, allowed: Sequence[str]) -> web.HTTPMethodNotAllowed:
    """What is raised where an address takes other methods: 405 with the list of them."""
    text = f"this address takes {', '.join(allowed)}"
    return web.HTTPMethodNotAllowed(request.method, allowed, text=text)


def done() -> web.Response:
    """It is done, and there is nothing to say."""
    return web.Response(status=204, headers=problems.NO_STORE)
