"""From a request to its `Caller` and `Sight`, and to the client's address behind trusted proxies.

Who is recognised by a token is remembered, under a stamp of that token and of the configuration, so that the same
headers need no look into the registry again. Wrong credentials never are, nor identity tokens of an issuer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
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
from proxy.storage.board import NAMESPACES, Stamp, token_topic
from proxy.web.notes import CALLER

_SIGHTS = 4096
_KNOWN = 8192
"""Callers that are remembered: 1 KB each."""
_HEADERS = ("Authorization", "PRIVATE-TOKEN", "DEPLOY-TOKEN", "JOB-TOKEN")
"""All that credentials come in."""
_HOPS = 32
"""Trusted proxies in a row that are believed; the header may be of any length."""


@dataclass(frozen=True, slots=True)
class Known:
    """A caller who was recognised.

    Attributes:
        sight: equal rights share this very object.
        stamp: while it holds, whoever sends the same headers is this caller.
        good_until: seconds of the epoch at which the token expires; None: never.
    """

    caller: Caller
    sight: Sight
    stamp: Stamp
    good_until: float | None = None


class Callers:
    """Recognises callers of one instance. Owned by one event loop."""

    def __init__(self, instance: Instance) -> None:
        """Take the instance whose tokens and namespaces count; asks nobody yet."""
        self._instance = instance
        self._sights: LRUCache[tuple[CallerKind, str, tuple[NamespacePath, ...], frozenset[str]], Sight] = (
            LRUCache(_SIGHTS)
        )
        self._equal_sights: LRUCache[Sight, Sight] = LRUCache(_SIGHTS)
        # By a digest under a key of its own: no secret stays in memory, nor what could be compared with one.
        self._known: LRUCache[bytes, Known] = LRUCache(_KNOWN)
        self._secret = secrets.token_bytes(32)
        nobody = instance.board.stamp((), serial=instance.serial)
        self._anonymous = Known(ANONYMOUS, self.sight(ANONYMOUS), nobody)

    async def identify(self, request: web.Request) -> Caller:
        """Who sent the request. That a token is revoked counts from the next request on.

        Raises:
            NotAuthenticated: there are credentials, and they are wrong.
            Throttled: the same, after too many such requests.
            IssuerUnavailable: there is an identity token that cannot be verified now.
            Outdated: they may be right under the configuration that has replaced this one.
        """
        headers = [(name, value) for name in _HEADERS for value in request.headers.getall(name, ())]
        if not headers:
            return ANONYMOUS
        key = self._key((name, value.encode("utf-8", "surrogateescape")) for name, value in headers)
        known = self._remembered(key)
        if known is not None:
            caller = known.caller
        else:
            text = ""
            try:
                given = credentials.presented(headers)
                assert given is not None  # noqa: S101 - there is such a header
                text = given.text
                caller = await self._recognise(given, key)
            except NotAuthenticated as error:
                # By a tree that the data have left nobody is told that its token is wrong.
                self._instance.index.check_in_force()
                self.failed(request, text, error.message)
                raise
        if caller.token is not None:
            self._instance.last_use.note(caller.token, self._instance.now())
        request[CALLER] = caller
        return caller

    def known(self, authorization: bytes | None) -> Known | None:
        """Who sends a request with no credentials but this value of `Authorization`, if that is known already.

        Waits for nothing. None: `identify` is to say. Whoever answers sees to the token's last use.

        Args:
            authorization: exactly as it came, without white space around it; None: there is no such header.
        """
        if authorization is not None:
            return self._remembered(self._key(((_HEADERS[0], authorization),)))
        return self._anonymous if self._instance.board.holds(self._anonymous.stamp) else None

    def _remembered(self, key: bytes) -> Known | None:
        found = self._known.get(key)
        if found is None:
            return None
        is_over = found.good_until is not None and self._instance.now().timestamp() >= found.good_until
        if is_over or not self._instance.board.holds(found.stamp):
            del self._known[key]
            return None
        return found

    def _key(self, headers: Iterable[tuple[str, bytes]]) -> bytes:
        digest = hashlib.blake2b(key=self._secret, digest_size=16)
        for name, value in headers:
            digest.update(b"%b %d " % (name.encode(), len(value)))
            digest.update(value)
        return digest.digest()

    async def _recognise(self, given: Presented, key: bytes) -> Caller:
        try:
            caller = await self._looked_up(given)
        except NotAuthenticated:
            # Only now: a preset token may look like anything.
            issuers = self._instance.issuers
            if not (issuers.is_configured and looks_like_identity(given.text)):
                raise
            return await credentials.vouched(given, issuers)
        if caller.token is None:
            return caller
        # A stamp is taken before the facts are read, and only now is it known of which token.
        board, serial = self._instance.board, self._instance.serial
        stamp = board.stamp((NAMESPACES, token_topic(caller.token)), serial=serial)
        caller = await self._looked_up(given)
        if board.is_settled(stamp):
            until = None if caller.expires is None else caller.expires.timestamp()
            self._known[key] = Known(caller, self.sight(caller), stamp, until)
        return caller

    async def _looked_up(self, given: Presented) -> Caller:
        instance = self._instance
        tree, users, trust = instance.snapshot.tree, instance.snapshot.users, instance.issuers.trust
        return await instance.registry.read(
            partial(
                credentials.identify, presented=given, tree=tree, users=users, trust=trust, now=instance.now()
            )
        )

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
            made = sight(caller, self._instance.snapshot.tree)
            found = self._sights[key] = self._equal_sights.setdefault(made, made)
        return found

    def scheme(self, request: web.Request) -> str:
        """`https` where the client came that way: to us, or to a trusted proxy that says so."""
        is_trusted = self.is_trusted(request.remote or "")
        forwarded = request.headers.get("X-Forwarded-Proto", "") if is_trusted else ""
        return "https" if request.secure or forwarded.strip().lower() == "https" else "http"

    def is_trusted(self, address: str) -> bool:
        """Whether a peer with this address is believed as a proxy.

        A unix socket has none: whoever may open it is as near as a trusted proxy. Nor has a client elsewhere that
        reset its connection once its request was sent, and such a one is anybody.
        """
        server = self._instance.snapshot.server
        if not address:
            return server.listen.startswith("unix:") and bool(server.trusted_proxies)
        return is_address(address) and any(
            ip_address(address) in network for network in server.trusted_proxies
        )

    def address(self, request: web.Request) -> str:
        """The client's network address: the last hop that is no trusted proxy."""
        return self.address_behind(
            request.remote or "", ",".join(request.headers.getall("X-Forwarded-For", []))
        )

    def address_behind(self, remote: str, forwarded: str) -> str:
        """`address` of whoever has a connection from `remote` and sends `forwarded` as X-Forwarded-For."""
        hops = forwarded.rsplit(",", _HOPS)
        while hops and self.is_trusted(remote):
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
