"""What is kept of upstreams, however old, for whoever must not ask them: deciding requests again under another
configuration.

Where nothing is kept the upstream counts as unreachable: nobody can tell what it would say.
"""

from __future__ import annotations

from datetime import timedelta

from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.cache.revalidated import Cached
from proxy.domain.names import Name
from proxy.domain.pages import Page
from proxy.domain.sorted_names import SortedNames
from proxy.errors import UpstreamUnreachable

_FRESH = timedelta(days=1)
"""What is made of it may be kept for so long: longer than any command takes."""


class KeptPages(Pages):
    """The pages that lie on disk."""

    async def get(self, upstream: str, name: Name) -> Cached[Page] | None:
        """As `Pages.get`, of what is kept.

        Raises:
            UpstreamUnreachable: nothing is.
        """
        kept = await self._look(upstream, name)
        if kept is not None:
            return Cached(kept, self._values, "hit", (self._now() + _FRESH).timestamp())
        if self.absent_until(upstream, name) is not None:
            return None
        raise UpstreamUnreachable(upstream, f"nothing is kept of {name}")


class KeptNames(KnownNames):
    """The lists of names that lie on disk."""

    async def get(self, upstream: str) -> SortedNames:
        """As `KnownNames.get`, of what is kept.

        Raises:
            UpstreamUnreachable: there is no list.
        """
        names = await self.peek(upstream)
        if names is None:
            raise UpstreamUnreachable(upstream, f"no list of the names of {upstream} is kept")
        return names
