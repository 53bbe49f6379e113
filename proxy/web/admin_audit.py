"""The audit in the administration API: who changed what, who fetched what (contract 12)."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from functools import partial

from aiohttp import web

from proxy.domain.access import Action
from proxy.domain.moments import parse_since
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import NamespacePath
from proxy.errors import InvalidInput, StorageError
from proxy.storage import audit
from proxy.storage import downloads as fetched
from proxy.web.calls import Call, answer
from proxy.web.paging import enumerated, paging


async def events(call: Call) -> web.Response:
    """What was changed, the newest first; `?since=`, `?name=` and `?version=` leave out others.

    For owners of the instance; with `?namespace=` for owners of that namespace, who read of what lies there.
    """
    asked = paging(call.request.query)
    within = _within(call)
    wanted = audit.Wanted(_since(call), _name(call), call.request.query.get("version"), within)
    listed = partial(audit.events, wanted=wanted, limit=asked.per_page + 1, offset=asked.offset)
    return answer(enumerated(await call.looked_up(listed), asked))


async def downloads(call: Call) -> web.Response:
    """Who fetched files of `?name=`, the newest first; `?version=` and `?since=` leave out others.

    For owners of the instance; with `?namespace=` for owners of that namespace, who read what was asked for there and
    what comes from its projects. Of other workers it may lack some seconds.
    """
    instance = call.instance
    within = _within(call)
    asked = paging(call.request.query)
    name = _name(call)
    if name is None:
        raise InvalidInput("name is missing", hint="?name=requests says whose downloads are asked for")
    wanted = fetched.Wanted(name, call.request.query.get("version"), _since(call), within)
    # Where it cannot be written, what was written before can be read all the same.
    with contextlib.suppress(StorageError):
        await instance.downloads.flush()
    listed = partial(fetched.list_downloads, wanted=wanted, limit=asked.per_page + 1, offset=asked.offset)
    return answer(enumerated(await asyncio.to_thread(instance.cache.read_now, listed), asked))


def _within(call: Call) -> tuple[NamespacePath, ...] | None:
    """Of which namespaces the caller asks and may read; None: of everything.

    What was recorded under a former path is of whatever has that path now.
    """
    tree = call.instance.snapshot.tree
    given = call.request.query.get("namespace")
    namespace = tree.root if given is None else call.namespace(given, with_packages=False)
    call.permit(Action.ADMINISTER, namespace)
    if namespace.is_root:
        return None
    return tree.paths_within(namespace)


def _since(call: Call) -> datetime | None:
    text = call.request.query.get("since")
    return None if text is None else parse_since(text, call.instance.now())


def _name(call: Call) -> Name | None:
    text = call.request.query.get("name")
    return None if text is None else parse_name(text)
