"""Identity tokens of configured issuers: whether they are good, and which projects trust them (contract 5).

An issuer's keys are fetched when they are first needed, kept for an hour, and fetched anew for a key id that is not
among them, though not at every such token. While the issuer is down or slow they serve for a day. That its keys
cannot be had is told as what it is (`IssuerUnavailable`) and never as wrong credentials.

What was verified is remembered by its hash until it expires; what projects make of it is asked anew each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import msgspec
from cachetools import LRUCache

from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.snapshot import OidcSettings
from proxy.domain.trust import Identity, IssuerSettings, TrustRule
from proxy.errors import IssuerUnavailable, NotAuthenticated

if TYPE_CHECKING:
    from proxy.identity.signatures import PublicKey

LONGEST_TOKEN = 16 << 10
"""Characters of an identity token; those of GitLab and GitHub have some 1,500."""

LEEWAY = timedelta(seconds=60)
"""By how much clocks may differ."""

_LONGEST_DISCOVERY = 64 << 10
_LONGEST_KEYS = 1 << 20
_FRESH = timedelta(hours=1)
_USABLE = timedelta(hours=24)
_PATIENCE = 1.0
"""Seconds that newer keys are waited for by who could do with those at hand."""
_BETWEEN_TRIES = timedelta(seconds=30)
_AFTER_FAILURE = timedelta(seconds=5)
_REMEMBERED = 4096
_LAST_MOMENT = datetime(9000, 1, 1, tzinfo=UTC)
_SHAPE = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z", re.ASCII)


class Documents(Protocol):
    """Fetches the document of an issuer at an address, of so many bytes at most.

    Raises:
        IssuerUnavailable: it cannot be had.
    """

    def __call__(self, issuer: IssuerSettings, url: str, limit: int, /) -> Awaitable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """An identity token that is good.

    Attributes:
        identity: whom it is about.
        jti: its own number; None where it has none.
        expires: when it ends by its own word, without leeway.
    """

    identity: Identity
    jti: str | None = field(repr=False)
    expires: datetime


def looks_like_identity(text: str) -> bool:
    """Whether `text` has the form of an identity token: three parts, the first of which begins a JSON object."""
    return len(text) <= LONGEST_TOKEN and _SHAPE.match(text) is not None


class Trust:
    """Which projects trust which identities: the rules of a configuration, by issuer."""

    def __init__(self, tree: Tree, settings: OidcSettings) -> None:
        self._issuers = settings.issuers
        self._rules: dict[str, list[tuple[NamespacePath, TrustRule]]] = {name: [] for name in self._issuers}
        for namespace in tree:
            for rule in namespace.trust:
                self._rules[rule.issuer].append((namespace.path, rule))

    def identity(self, issuer: str, claims: Mapping[str, object]) -> Identity | None:
        """The identity behind claims of the issuer of this name; None where there is no such issuer any more."""
        settings = self._issuers.get(issuer)
        if settings is None:
            return None
        return settings.identity(claims, {claim for _, rule in self._rules[issuer] for claim in rule.claims})

    def projects(self, identity: Identity) -> Mapping[NamespacePath, timedelta]:
        """The projects that trust `identity`, each with how long a token minted for it may live."""
        found: dict[NamespacePath, timedelta] = {}
        for path, rule in self._rules.get(identity.issuer, ()):
            if rule.accepts(identity):
                found[path] = min(rule.expires, found.get(path, rule.expires))
        return found


class Issuers:
    """The issuers of a configuration, with their keys. Owned by one event loop."""

    def __init__(
        self, settings: OidcSettings, trust: Trust, documents: Documents, now: Callable[[], datetime]
    ) -> None:
        """Take validated settings, by which the extra `oidc` is installed if there are issuers. Fetches nothing."""
        self.audience = settings.audience
        self.trust = trust
        self._now = now
        self._keys = {issuer.issuer: _Keys(issuer, documents, now) for issuer in settings.issuers.values()}
        self._verified: LRUCache[bytes, Verified] = LRUCache(_REMEMBERED)

    @property
    def is_configured(self) -> bool:
        """Whether there are any; without them nothing here is of use."""
        return bool(self._keys)

    def prepare(self) -> None:
        """Load what verifying needs. A server does so before it serves: it takes a tenth of a second."""
        if self.is_configured:
            import_module("proxy.identity.signatures")

    async def verify(self, text: str) -> Verified:
        """Verify an identity token; which projects trust it is for `trust` to say.

        Raises:
            NotAuthenticated: it is malformed, of no issuer here, not signed by it, not for us, or over.
            IssuerUnavailable: its issuer's keys are needed and cannot be had.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._verified.get(digest)
        if known is None:
            known = self._verified[digest] = await self._verify(text)
        if self._now() >= known.expires + LEEWAY:
            raise NotAuthenticated("the identity token has expired")
        return known

    async def _verify(self, text: str) -> Verified:
        from proxy.identity import signatures

        if not looks_like_identity(text):
            raise NotAuthenticated("the identity token is malformed")
        algorithm, kid = signatures.read_header(text)
        try:
            named = msgspec.json.decode(signatures.part_of(text, 1), type=_Named).iss
        except (ValueError, RecursionError) as error:
            raise NotAuthenticated("the identity token is malformed") from error
        keys = self._keys.get(named)
        if keys is None:
            raise NotAuthenticated("the issuer of the identity token is none of those that are known here")
        claims = signatures.signed_by(text, await keys.find(algorithm, kid))
        signatures.check_claims(claims, issuer=named, audience=self.audience, now=self._now(), leeway=LEEWAY)
        identity = self.trust.identity(keys.issuer.name, claims)
        assert identity is not None, keys.issuer.name  # noqa: S101 - both were made of the same settings
        ends = min(claims["exp"], _LAST_MOMENT.timestamp())
        return Verified(identity, claims.get("jti") or None, datetime.fromtimestamp(ends, UTC))


class _Named(msgspec.Struct):
    """Who a token says has signed it; by that its keys are found, and nothing else."""

    iss: str


class _Discovery(msgspec.Struct):
    """What is read of an issuer's discovery document (OpenID Connect Discovery 1.0, 3)."""

    issuer: str
    jwks_uri: str


class _Keys:
    """The keys of one issuer."""

    def __init__(self, issuer: IssuerSettings, documents: Documents, now: Callable[[], datetime]) -> None:
        self.issuer = issuer
        self._documents = documents
        self._now = now
        self._keys: tuple[PublicKey, ...] = ()
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._failure: str | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> PublicKey:
        """The key of this id for this algorithm; without an id the one key that there is (OpenID Connect 10.1).

        Raises:
            NotAuthenticated: the issuer has no such key.
            IssuerUnavailable: nobody knows, since the issuer cannot be asked.
        """
        found = self._pick(algorithm, kid)
        if not self._is_younger(self._fetched_at, _FRESH):
            await self._refresh(None if found is None else _PATIENCE)
            found = self._pick(algorithm, kid)
        if found is None:
            await self._refresh()
            found = self._pick(algorithm, kid)
        if found is not None:
            return found
        if self._failure is not None:
            raise IssuerUnavailable(self._failure, hint="try again")
        raise NotAuthenticated("the identity token is signed with a key that its issuer does not have")

    def _pick(self, algorithm: str, kid: str | None) -> PublicKey | None:
        if not self._is_younger(self._fetched_at, _USABLE):
            return None
        keys = [key for key in self._keys if kid is None or key.kid == kid]
        fitting = [key for key in keys if key.alg == algorithm]
        is_clear = len(fitting) == 1 if kid is not None else len(keys) == 1
        return fitting[0] if fitting and is_clear else None

    async def _refresh(self, seconds: float | None = None) -> None:
        """Have the keys fetched anew, unless that was just tried, and wait for it, `seconds` at most."""
        if self._fetching is None or self._fetching.done():
            pause = _BETWEEN_TRIES if self._failure is None else _AFTER_FAILURE
            if self._is_younger(self._tried_at, pause):
                return
            self._fetching = asyncio.create_task(self._replace(), name=f"keys of {self.issuer.name}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # One fetch serves all who wait, and goes on when they do not.
                await asyncio.shield(self._fetching)

    async def _replace(self) -> None:
        """Fetch the keys anew. What fails is noted; the keys at hand stay."""
        try:
            self._keys = await self._fetch()
        except IssuerUnavailable as error:
            self._failure = error.message
        else:
            self._failure, self._fetched_at = None, self._now()
        self._tried_at = self._now()

    async def _fetch(self) -> tuple[PublicKey, ...]:
        address = f"{self.issuer.issuer.rstrip('/')}/.well-known/openid-configuration"
        document = await self._documents(self.issuer, address, _LONGEST_DISCOVERY)
        try:
            discovery = msgspec.json.decode(document, type=_Discovery)
        except (ValueError, RecursionError) as error:
            raise self._unusable("its discovery document is unusable") from error
        if discovery.issuer != self.issuer.issuer:
            raise self._unusable("its discovery document is that of another issuer")
        keys = await self._documents(self.issuer, discovery.jwks_uri, _LONGEST_KEYS)
        try:
            # A megabyte of keys takes longer than others may wait for.
            found = await asyncio.to_thread(_read_keys, keys)
        except (ValueError, RecursionError) as error:
            raise self._unusable("its key set is unusable") from error
        if not found:
            raise self._unusable("it has no key of a kind that is taken here")
        return found

    def _unusable(self, what: str) -> IssuerUnavailable:
        return IssuerUnavailable(f"the keys of the issuer {self.issuer.name} cannot be had: {what}")

    def _is_younger(self, moment: datetime | None, age: timedelta) -> bool:
        return moment is not None and self._now() - moment < age


def _read_keys(document: bytes) -> tuple[PublicKey, ...]:
    from proxy.identity import signatures

    return signatures.read_keys(document)
