"""What upstreams have of a name that is about to be published here for the first time (contract 6, Ownership).

The name is unclaimed then, so an upstream may be asked for it, as the project's index would ask: in the order of the
policy, and with `ask: known` by its kept list alone. Upstreams of indexes above that the project's own policy makes
no use of are never asked: names of a group that forwards nothing stay in the house. Of them only what is kept counts.
Which files a policy would let through is no matter: a package that shadows a denied one shadows it all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.domain.admit import UNCHECKED, Shadow, shadowed_upstreams
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, Tree
from proxy.domain.policy import Policy
from proxy.errors import StorageError, UpstreamError

PATIENCE = timedelta(seconds=3)
"""How long a publisher waits for all upstreams together."""


class Shadowing:
    """What uploads learn of upstreams. Owned by one event loop."""

    def __init__(self, tree: Tree, pages: Pages, known_names: KnownNames) -> None:
        """Take the configuration in force, what upstreams are asked through, and their kept lists."""
        self._tree = tree
        self._pages = pages
        self._known_names = known_names

    async def who_has(self, name: Name, project: Namespace) -> Shadow:
        """Which upstream that `project` shadows has `name`: the first that says so, asked one by one.

        `UNCHECKED` where none does, and one that is asked gave no answer, or they took longer than `PATIENCE`.
        """
        policy, missing = project.policy, None
        asked = policy.upstreams if policy.forward else ()
        for upstream in shadowed_upstreams(project, self._tree):
            if upstream not in asked and await self._is_kept(upstream, name):
                return Shadow(upstream)
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                for upstream in asked:
                    has = await self._has(upstream, name, policy)
                    if has:
                        return Shadow(upstream)
                    if has is None:
                        missing = UNCHECKED
        except TimeoutError:
            missing = UNCHECKED
        return Shadow(missing)

    async def _has(self, upstream: str, name: Name, policy: Policy) -> bool | None:
        """Whether an upstream has a name; None: it gave no answer."""
        try:
            if policy.ask == "known":
                names = await self._known_names.peek(upstream)
                return None if names is None else name in names
            return await self._pages.get(upstream, name) is not None
        except (UpstreamError, StorageError):
            return None

    async def _is_kept(self, upstream: str, name: Name) -> bool:
        """Whether an upstream is kept to have a name, by its list or by a page."""
        with contextlib.suppress(UpstreamError, StorageError):
            names = await self._known_names.peek(upstream)
            if names is not None and name in names:
                return True
        return await self._pages.has_kept(upstream, name)

    async def look_alikes(self, name: Name, policy: Policy) -> list[tuple[str, Name]]:
        """The names on the kept lists of the upstreams of `policy` that people take for `name` (protocol T-HOMO).

        Nobody is asked; where no list is kept, none is known.
        """
        if not policy.forward:
            return []
        return [
            (upstream, alike)
            for upstream in policy.upstreams
            for alike in await self._known_names.look_alikes(upstream, name)
        ]
