"""From a request to its `Caller` and `Sight`, and to the client's address behind trusted proxies."""

from __future__ import annotations

from ipaddress import ip_address

from aiohttp import web
from cachetools import LRUCache

from proxy.domain.access import ANONYMOUS, Caller, CallerKind, Sight, sight
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NotAuthenticated, Throttled
from proxy.identity import credentials
from proxy.identity.credentials import Presented
from proxy.identity.oidc import looks_like_identity
from proxy.index.instance import Instance
from proxy.web.notes import CALLER

_SIGHTS = 4096
_HOPS = 32
"""Trusted proxies in a row that are believed; the header may be of any length."""


class Callers:
    """Recognises callers of one instance. Owned by one event loop."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._sights: LRUCache[tuple[CallerKind, str, tuple[NamespacePath, ...], frozenset[str]], Sight] = (
            LRUCache(_SIGHTS)
        )

    async def identify(self, request: web.Request) -> Caller:
        """Who sent the request: looked up anew each time, so that a revoked token ends at once.

        Raises:
            NotAuthenticated: there are credentials, and they are wrong.
            Throttled: the same, after too many such requests.
            IssuerUnavailable: there is an identity token that cannot be verified now.
        """
        text = ""
        try:
            given = credentials.presented(tuple(request.headers.items()))
            if given is None:
                return ANONYMOUS
            text = given.text
            caller = await self._recognise(given)
        except NotAuthenticated as error:
            self.failed(request, text, error.message)
            raise
        request[CALLER] = caller
        return caller

    async def _recognise(self, given: Presented) -> Caller:
        instance = self._instance
        now = instance.now()
        tree, users, trust = instance.snapshot.tree, instance.snapshot.users, instance.issuers.trust
        try:
            caller = await instance.registry.read(
                lambda connection: credentials.identify(connection, given, tree, users, trust, now)
            )
        except NotAuthenticated:
            # Only now: a preset token may look like anything.
            if not (instance.issuers.is_configured and looks_like_identity(given.text)):
                raise
            return await credentials.vouched(given, instance.issuers)
        if caller.token is not None:
            instance.last_use.note(caller.token, now)
        return caller

    def failed(self, request: web.Request, text: str, refusal: str) -> None:
        """Note that what a request presented was wrong.

        Args:
            text: the token; empty where it could not be read.
            refusal: what will be said.

        Raises:
            Throttled: instead of that, since there were too many such requests.
        """
        metrics = self._instance.metrics
        try:
            self._instance.throttle.failed(self.address(request), text, refusal)
        except Throttled:
            metrics.logins_throttled.inc()
            raise
        metrics.logins_refused.inc()

    def sight(self, caller: Caller) -> Sight:
        """What the caller sees; callers of equal rights share one."""
        # Of names only a user's means anything: every run of a job has another.
        name = caller.name if caller.kind is CallerKind.USER else ""
        key = (caller.kind, name, caller.homes, frozenset(map(str, caller.scopes)))
        found = self._sights.get(key)
        if found is None:
            found = self._sights[key] = sight(caller, self._instance.snapshot.tree)
        return found

    def scheme(self, request: web.Request) -> str:
        """`https` where the client came that way: to us, or to a trusted proxy that says so."""
        trusted = self._instance.snapshot.server.trusted_proxies
        forwarded = (
            request.headers.get("X-Forwarded-Proto", "") if _is_within(request.remote or "", trusted) else ""
        )
        return "https" if request.secure or forwarded.strip().lower() == "https" else "http"

    def is_trusted(self, address: str) -> bool:
        """Whether a peer with this address, empty for that of a unix socket, is believed as a proxy."""
        return _is_within(address, self._instance.snapshot.server.trusted_proxies)

    def address(self, request: web.Request) -> str:
        """The client's network address: the last hop that is no trusted proxy."""
        remote = request.remote or ""
        trusted = self._instance.snapshot.server.trusted_proxies
        hops = ",".join(request.headers.getall("X-Forwarded-For", [])).rsplit(",", _HOPS)
        while hops and _is_within(remote, trusted):
            hop = hops.pop().strip()
            if not is_address(hop):
                break
            remote = hop
        return remote


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(address: str, networks: tuple[object, ...]) -> bool:
    # A unix socket has no address: whoever may open it is as near as a trusted proxy.
    if not address:
        return bool(networks)
    return is_address(address) and any(ip_address(address) in network for network in networks)  # type: ignore[operator]
