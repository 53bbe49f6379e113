"""Repeated wrong credentials are told to wait: counts of failures per client address and per kind of token.

A failure counts against its address. And the first one of an address with a kind of token, seen by its readable
prefix (`pyo_pat_`), counts against that kind: so one machine with an expired token makes nobody else wait, but an
attack from many addresses is answered as one from a single address is. Nothing of a token's secret is kept.

Only who failed ever comes here, after the same work as everybody: right credentials and requests without any are
not counted, looked up or slowed, and being told to wait says nothing about what was presented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv6Address, ip_address

from cachetools import LRUCache

from proxy.domain.snapshot import Rate
from proxy.errors import Throttled
from proxy.observe.redaction import TOKEN_MARK

LONGEST_WAIT = 10
"""Seconds that anybody is told to wait, at most (contract 5)."""

_REMEMBERED = 16384
"""Addresses and kinds that are counted at once; who failed longest ago is forgotten first."""
_LONGEST_PREFIX = len(TOKEN_MARK) + 17
_NETWORK = 64


@dataclass(slots=True)
class _Count:
    """Failures since `began`, of somebody who is counted for one `Rate.per` from the first on."""

    began: datetime
    failures: int = 0


class Throttle:
    """Counts failures. Owned by one event loop."""

    def __init__(self, limit: Rate, now: Callable[[], datetime]) -> None:
        """Take how many failures are answered as usual, in what time."""
        self._limit = limit
        self._now = now
        self._counts: LRUCache[tuple[str, ...], _Count] = LRUCache(_REMEMBERED)

    def failed(self, address: str, text: str, refusal: str) -> None:
        """Note that credentials were wrong; to be called for every such request, once.

        Args:
            address: the client's, as it is told behind trusted proxies.
            text: what was presented; empty where it could not be read.
            refusal: what a 401 would say.

        Raises:
            Throttled: there were too many before. It says no more than `refusal` does.
        """
        now = self._now()
        network, kind = _network(address), prefix_of(text)
        waits = [self._count(now, "address", network)]
        here = self._standing(now, "pair", network, kind)
        here.failures += 1
        waits.append(self._count(now, "kind", kind) if here.failures == 1 else self._wait(now, "kind", kind))
        wait = max(waits)
        if wait:
            raise Throttled(
                f"too many failed attempts; {refusal}",
                hint=f"wait {wait} s before the next",
                retry_after=wait,
            )

    def _count(self, now: datetime, *key: str) -> int:
        """Count a failure; return the seconds to wait, 0 where it was within the limit."""
        self._standing(now, *key).failures += 1
        return self._wait(now, *key)

    def _wait(self, now: datetime, *key: str) -> int:
        count = self._standing(now, *key)
        if count.failures <= self._limit.count:
            return 0
        left = (count.began + self._limit.per - now).total_seconds()
        return max(1, min(LONGEST_WAIT, round(left)))

    def _standing(self, now: datetime, *key: str) -> _Count:
        count = self._counts.get(key)
        if count is None or now >= count.began + self._limit.per or now < count.began:
            count = self._counts[key] = _Count(now)
        return count


def prefix_of(text: str) -> str:
    """The readable beginning of a token: `pyo_pat_` and the like, `eyJ` of a JSON Web Token, else nothing."""
    if text.startswith(TOKEN_MARK):
        kind, mark, _ = text[len(TOKEN_MARK) : _LONGEST_PREFIX].partition("_")
        return f"{TOKEN_MARK}{kind}_" if mark and kind.isascii() and kind.isalpha() else TOKEN_MARK
    return "eyJ" if text.startswith("eyJ") else ""


def _network(address: str) -> str:
    """The address; of IPv6 the network of which a single customer has all addresses."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> _NETWORK << _NETWORK))
    return str(parsed)
