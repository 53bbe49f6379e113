"""Documents of issuers of identity tokens over HTTP: their discovery document and their keys.

Owns connections, time-outs, sizes, and the judgement over addresses. The operator named the issuer's own host, so
it may lie in a private network. Any other host is a wish of the issuer's document: it is asked over https alone,
never in a private network (T-SSRF). No redirect is followed, nothing of our clients' is sent, nothing is kept.
"""

from __future__ import annotations

import socket
import ssl

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from proxy.domain.trust import IssuerSettings
from proxy.errors import IssuerUnavailable
from proxy.upstream.hosts import GuardedResolver, Origin, is_private, literal

_TOTAL = 10.0
"""Seconds that a whole document may take: a job waits for it."""
_CONNECT = 5.0


class IssuerDocuments:
    """Fetches documents of configured issuers. One object per event loop; connections are opened when needed."""

    def __init__(self, user_agent: str) -> None:
        """Take what we call ourselves; touches neither network nor loop."""
        self._user_agent = user_agent
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def __call__(self, issuer: IssuerSettings, url: str, limit: int) -> bytes:
        """The document at `url`, which is the issuer's own, or stands in a document of it.

        Args:
            limit: bytes of the document at most.

        Raises:
            IssuerUnavailable: it may not be asked, cannot be reached, or answers anything but the document.
        """
        own = Origin.of(issuer.issuer)
        try:
            target, asked = Origin.of(url), URL(url, encoded=True)
        except ValueError as error:
            raise _unavailable(issuer, "its document names an address that is none of http") from error
        if target != own and (target.scheme != "https" or _is_closed_literal(target.host)):
            raise _unavailable(issuer, f"its document leads to {target.host[:100]!a}, which may not be asked")
        if "@" in asked.authority:
            raise _unavailable(issuer, "its document names an address with credentials")
        try:
            async with self._session(issuer, own).get(asked, allow_redirects=False) as response:
                if response.status != 200:
                    raise _unavailable(issuer, f"it answers {response.status}")
                body = await response.content.read(limit + 1)
                while len(body) <= limit and not response.content.at_eof():
                    body += await response.content.read(limit + 1 - len(body))
        except TimeoutError as error:
            raise _unavailable(issuer, "it does not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unavailable(issuer, "it cannot be reached, or breaks off") from error
        if len(body) > limit:
            raise _unavailable(issuer, f"its document has more than {limit} bytes")
        return body

    def _session(self, issuer: IssuerSettings, own: Origin) -> aiohttp.ClientSession:
        session = self._sessions.get(issuer.name)
        if session is None:
            connector = aiohttp.TCPConnector(
                limit=2, resolver=_Resolver(own.host), ssl=ssl.create_default_context()
            )
            session = self._sessions[issuer.name] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=_TOTAL, sock_connect=_CONNECT),
                headers={
                    "User-Agent": self._user_agent,
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                },
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return session


class _Resolver(GuardedResolver):
    """Keeps strangers' names out of private networks; the issuer's own may lie there."""

    def __init__(self, own: str) -> None:
        """Take the issuer's own host. Needs a running loop."""
        self._own = own
        super().__init__(is_private)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As inherited, but for the issuer's own name."""
        if host == self._own:
            return await self._inner.resolve(host, port, family)
        return await super().resolve(host, port, family)


def _is_closed_literal(host: str) -> bool:
    address = literal(host)
    return address is not None and is_private(address)


def _unavailable(issuer: IssuerSettings, what: str) -> IssuerUnavailable:
    return IssuerUnavailable(f"the keys of the issuer {issuer.name} cannot be had: {what}", hint="try again")
