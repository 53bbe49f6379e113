"""`/metrics`: what is counted here, for Prometheus, and who may read it (contract 2, 3: `server.metrics`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

from aiohttp import web

from proxy.cache.held import count_held
from proxy.domain.access import Action
from proxy.errors import NotPermitted, StorageError
from proxy.index.instance import Instance
from proxy.index.radar import count_confusions
from proxy.observe.metrics import Found, Held, Listed
from proxy.web.callers import Callers, is_address
from proxy.web.calls import Call
from proxy.web.problems import NO_STORE

_HINT = "server.metrics in the configuration says who may read this"
_PASSED_ON = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")
"""Headers of a request that some proxy passed on."""


async def metrics(request: web.Request, instance: Instance, callers: Callers) -> web.Response:
    """GET `/metrics`; asks no upstream and writes nothing, so it answers while either is in trouble.

    Raises:
        NotPermitted: the caller is not on this machine, or no owner of the instance.
        NotAuthenticated: owners alone may read it, and the request says nothing of who sent it.
    """
    access = instance.snapshot.server.metrics
    if access == "owner":
        call = await Call.of(request, instance, callers)
        call.permit(Action.ADMINISTER, instance.snapshot.tree.root)
    elif access == "local" and not _is_local(request, callers):
        raise NotPermitted("metrics are for clients on this machine", hint=_HINT)
    text, kind = await asyncio.to_thread(_told, instance, ",".join(request.headers.getall("Accept", ())))
    return web.Response(body=text, headers={**NO_STORE, "Content-Type": kind})


def _told(instance: Instance, accept: str) -> tuple[bytes, str]:
    """All of it, with its content type. Sums over all files: too long for the loop where they are many."""
    return instance.metrics.exposition(
        accept,
        digest=instance.snapshot.digest,
        cache_max=instance.snapshot.cache.max_size,
        found=_found(instance),
    )


def _found(instance: Instance) -> Found:
    """What stands in the databases and on the disk. Of a broken database nothing can be told, of all else it can."""
    cache: Held | None = None
    held: Mapping[str, int] = {}
    confusions: Mapping[tuple[str, str], int] = {}
    with contextlib.suppress(StorageError):
        files = instance.files.stats()
        cache = Held(files.files, files.bytes)
    with contextlib.suppress(StorageError):
        held = instance.registry.read_now(count_held)
        confusions = instance.registry.read_now(count_confusions)
    now = instance.now()
    lists = {
        upstream: Listed(kept.names, (now - kept.confirmed).total_seconds())
        for upstream, kept in instance.known_names.kept().items()
    }
    newest = instance.advisories.newest()
    age = None if newest is None else (now - newest).total_seconds()
    return Found(cache, held, confusions, lists, age)


def _is_local(request: web.Request, callers: Callers) -> bool:
    """Whether the client is on this machine, as far as that can be known.

    A proxy on this machine would make everybody local, unless it is trusted and says whom it serves. One that is not
    shows by what proxies add. A unix socket has no address; who sits behind it is known where no proxy is trusted.
    """
    peer = request.remote or ""
    is_trusted = callers.is_trusted(peer)
    hops = ",".join(request.headers.getall("X-Forwarded-For", ())).rpartition(",")
    if any(name in request.headers for name in _PASSED_ON) and not (
        is_trusted and is_address(hops[2].strip())
    ):
        return False
    address = callers.address(request)
    if not address:
        return not is_trusted
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback
