"""The cache in the administration API: counted; purged, verified and warmed by jobs (contract 12)."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.names import parse_name
from proxy.domain.requirements import LeftOut, Needs, parse_lock, parse_requirement, parse_requirements
from proxy.errors import InvalidInput
from proxy.index import upkeep
from proxy.index.jobs import Kind, Work
from proxy.web.calls import Call, answer
from proxy.web.notes import RUNNING

MAX_WANTED = 8 << 20
"""Bytes of a body with requirements or a lock file; the largest lock files known have half of that."""


class _Purge(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str] = []
    all: bool = False


class _Verify(msgspec.Struct, forbid_unknown_fields=True):
    repair: bool = False


class _Warm(msgspec.Struct, forbid_unknown_fields=True):
    index: str = "/"
    names: list[str] = []
    requirements: str | None = None
    lock: str | None = None


async def stats(call: Call) -> web.Response:
    """How much the cache holds; for owners of the instance."""
    _permit(call)
    return answer(await upkeep.stats(call.instance))


async def purge(call: Call) -> web.Response:
    """`{"names": […]}`, or `{"all": true}`: forget pages and the files they list."""
    _permit(call)
    body = await call.body(_Purge)
    if bool(body.names) == body.all:
        raise InvalidInput('either names or all is missing: send {"names": ["requests"]} or {"all": true}')
    names = None if body.all else [parse_name(name) for name in body.names]
    return await _begun(call, "purge", upkeep.purge_work(call.request.app[RUNNING].in_force, names, call.by))


async def verify(call: Call) -> web.Response:
    """`{"repair": false}`: compare every cached file with its digest."""
    _permit(call)
    body = await call.body(_Verify)
    return await _begun(
        call, "verify", upkeep.verify_work(call.request.app[RUNNING].in_force, repair=body.repair)
    )


async def warm(call: Call) -> web.Response:
    """`{"index": "/", "names": […], "requirements": text, "lock": text}`: fetch ahead, as `cache warm` does."""
    _permit(call)
    body = await call.body(_Warm, most=MAX_WANTED)
    index = call.namespace(body.index)
    # A long file is parsed for seconds.
    wanted = await asyncio.to_thread(_wanted, body)
    return await _begun(
        call, "warm", upkeep.warm_work(call.request.app[RUNNING].in_force, index.path, wanted)
    )


async def job(call: Call) -> web.Response:
    """How a job stands, whichever worker runs it."""
    _permit(call)
    found = call.instance.jobs.find(call.given["id"])
    return answer(msgspec.to_builtins(found))


def _permit(call: Call) -> None:
    call.permit(Action.ADMINISTER, call.instance.snapshot.tree.root)


async def _begun(call: Call, kind: Kind, work: Work) -> web.Response:
    return answer({"id": await call.instance.jobs.start(kind, work)}, status=202)


def _wanted(body: _Warm) -> Needs:
    """All that a body asks for.

    Raises:
        InvalidInput: it is not in order, or asks for nothing.
    """
    needs = [parse_requirement(name) for name in body.names]
    left_out: list[LeftOut] = []
    if body.requirements is not None:
        found = parse_requirements(body.requirements)
        needs += found.needs.needs
        left_out += found.needs.left_out
        left_out += [
            LeftOut(nested.path, "is another file, which did not come along") for nested in found.nested
        ]
    if body.lock is not None:
        locked = parse_lock(body.lock)
        needs += locked.needs
        left_out += locked.left_out
    if not needs and not left_out:
        raise InvalidInput("nothing is asked for", hint="send names, requirements or lock")
    return Needs(tuple(needs), tuple(left_out))
