"""One upstream index over HTTP: its project pages and its files.

Owns the connections, credentials, time-outs, redirects and size limits of one upstream, and says for every
request what came of it: a page, "unchanged", "no such project", or an `UpstreamError`. Only a 404 or 410 of
the page itself means that there is no such project; nothing else is ever read as that. Nothing is kept here:
what is worth keeping, and what to show while the upstream fails, is the cache's business.

What fails in passing is asked again a few times, with growing pauses, as long as none of it was passed on. An origin
that goes on failing, or asks for it, is left alone for a while (`circuit`).

No header of our own clients travels upstream. aiohttp's own following of redirects and decoding of bodies are
off: both would trust the other side with more than it needs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar
from urllib.parse import quote, urljoin

import aiohttp
from cachetools import LRUCache
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.domain.documents import UpstreamDocument
from proxy.domain.names import Name
from proxy.domain.pages import FileRecord, Page, blake2b_in_path
from proxy.domain.snapshot import UpstreamSettings
from proxy.errors import (
    OverlayError,
    RangesRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.observe.metrics import Asking, Kind, UpstreamMetrics
from proxy.upstream.circuit import Circuit, Resting, Trial
from proxy.upstream.documents import parse_document
from proxy.upstream.hosts import GuardedResolver, Origin, PrivateAddress, Reach
from proxy.upstream.parse import Unusable, parse_page, unzip

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
"""One fixed value, so that a page does not depend on which client asked first."""

MAX_REDIRECTS = 3

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({403, 404, 410})
_NO_RANGES = frozenset({416, 501})
_MAX_ETAG = 256
_INLINE_BYTES = 200 << 10
"""Decoded bodies up to this size are parsed on the loop: about two milliseconds."""
_INLINE_COMPRESSED = 24 << 10
_PAGE_READS = 4
"""A page may take as long as four read time-outs together, however steadily it trickles."""
_FILES_SHARE = 0.8
"""Share of the connections that files may hold; the rest is always left for pages."""
_KEEP_ALIVE = 30.0
_FIRST_PAUSE = 0.1
"""Seconds before a request is repeated for the first time; twice as long each further time."""
_LONGEST_WORD = 2
"""Seconds of `Retry-After` that are waited for while the client waits."""
_BUSY_FOR = 5
"""Seconds after which clients are told to come back to an origin that is left alone."""
_ORIGINS = 100
"""Origins of one upstream whose health is known; more than a few only where `file_hosts` has a `*.`."""
_GATEWAYS = frozenset({502, 503, 504})
"""What stands before the upstream failed: the next time may well go another way."""

_DIGITS = re.compile(r"[0-9]{1,9}\Z")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)\Z")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What the upstream sent, parsed.

    Attributes:
        etag: its validator, as it stands in the header.
        max_age: how long it may be kept; None: the upstream said nothing.
    """

    value: T
    etag: str | None
    max_age: timedelta | None


@dataclass(frozen=True, slots=True)
class NotModified:
    """What the validator that was sent belongs to is still current."""

    max_age: timedelta | None


@dataclass(frozen=True, slots=True)
class NoSuchProject:
    """A valid "there is no such project"."""


class FileStream:
    """A file on its way.

    Attributes:
        start: where in the file the first byte of `chunks` lies; 0 unless a later start was asked for and given.
        size: bytes of the whole file, or None where the upstream does not say.
        etag: a strong validator, or None.
        is_part: whether `chunks` end where `end` was asked for, or with the file.
    """

    __slots__ = ("_response", "_upstream", "_what", "etag", "is_part", "size", "start")

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        upstream: Upstream,
        what: str,
        start: int,
        *,
        part_of: int | None = None,
    ) -> None:
        """`part_of`: bytes of the whole file, where `response` carries a part of it."""
        self._response = response
        self._upstream = upstream
        self._what = what
        self.start = start
        self.is_part = part_of is not None
        length = response.content_length
        self.size = part_of if part_of is not None or length is None else start + length
        etag = _etag(response)
        self.etag = None if etag is None or etag.startswith("W/") else etag

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come, a piece for each time that some were received: never empty, and no longer than
        what a connection is read for at once, a quarter of a MiB. Not to be iterated twice.

        Raises:
            UpstreamTimeout: nothing came for the read time-out.
            UpstreamUnreachable: the connection broke, or ended before Content-Length was reached.
        """
        with self._upstream.translated(self._what):
            # One by one: what has gathered meanwhile would be joined else, which copies all of it.
            async for chunk, _ in self._response.content.iter_chunks():
                if chunk:
                    yield chunk


@dataclass(frozen=True, slots=True)
class FoundNames:
    """The upstream's list of all names on its way, as it is sent.

    Attributes:
        is_zipped: whether `body` is gzip.
        base_url: where it finally came from, after redirects.
        etag: its validator, as it stands in the header.
    """

    body: FileStream
    is_zipped: bool
    content_type: str
    base_url: str
    etag: str | None


@dataclass(slots=True)
class _Try:
    """One of the requests that a trial is made of; `status` is 0 until its head came."""

    trial: Trial
    number: int
    status: int = 0


class Upstream:
    """One configured upstream. One object per event loop; connections are opened when first needed."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        max_page_size: int,
        user_agent: str,
        metrics: UpstreamMetrics,
        now: Callable[[], datetime],
    ) -> None:
        """Take validated settings; touches neither network nor loop.

        Args:
            max_page_size: bytes of a decoded page; a bigger one is refused.
            user_agent: what we call ourselves to the upstream's operators.
            metrics: where its requests are counted, repeated ones each.
        """
        self.settings = settings
        self.name = settings.name
        self._metrics = metrics
        self._reach = Reach(settings)
        self._max_page_size = max_page_size
        self._user_agent = user_agent
        self._now = now
        self._circuits: LRUCache[Origin, Circuit] = LRUCache(_ORIGINS)
        self._session: aiohttp.ClientSession | None = None
        self.file_places = max(1, int(settings.max_connections * _FILES_SHARE))
        self._file_slots = asyncio.Semaphore(self.file_places)
        self._authorization: str | None = None
        if settings.username is not None or settings.password is not None:
            pair = f"{settings.username or ''}:{settings.password or ''}"
            self._authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        self._page_time = (settings.connect_timeout + _PAGE_READS * settings.read_timeout).total_seconds()

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def check_url(self, url: str) -> None:
        """Check that `url` may be asked at all, before any connection is made (T-SSRF).

        Raises:
            UpstreamFaulty: scheme, host, port or network are not among those allowed for this upstream.
        """
        refusal = self._reach.refusal(url)
        if refusal is not None:
            raise UpstreamFaulty(self.name, f"{self.name}: {refusal}")

    def blake2b_of(self, record: FileRecord) -> str | None:
        """The hex BLAKE2b-256 that the address of `record` promises; None where it promises none.

        Believed on hosts alone that `file_hosts` names one by one. That is how the shipped configuration
        names PyPI's file host; an index that serves its files itself, or from a crowd of hosts, may mean something
        else by a path of that shape, and its good files must not be refused.
        """
        return blake2b_in_path(record) if self._reach.is_file_host(record.url) else None

    async def page(self, name: Name, etag: str | None = None) -> Found[Page] | NotModified | NoSuchProject:
        """Fetch the project page of `name`, or learn that the one with validator `etag` still holds.

        Raises:
            UpstreamBusy: 429 or 503, or it is left alone after that or after many failures.
            UpstreamTimeout: no connection, no byte, or no whole page in time.
            UpstreamUnreachable: no connection, or it broke.
            UpstreamFaulty: any other answer, one that is no page of `name`, or one over the size limit.
        """
        return await self._ask(
            "page",
            f"{self.settings.index_url}{name}/",
            _conditional(ACCEPT, etag),
            f"the page of {name}",
            lambda body, kind, base_url: parse_page(body, kind, base_url, name),
        )

    async def document(
        self, name: Name, version: str | None = None, etag: str | None = None
    ) -> Found[UpstreamDocument] | NotModified | NoSuchProject:
        """Fetch what the JSON API says of `name`, or of its release `version`, or learn that `etag` still holds.

        Only for upstreams that have a `json_url`. `NoSuchProject` may here mean no such release as well.

        Raises:
            UpstreamError: as for pages.
        """
        part = "" if version is None else f"/{quote(version, safe='')}"
        return await self._ask(
            "document",
            f"{self.settings.json_url}{name}{part}/json",
            _conditional("application/json", etag),
            f"the document of {name}{part}",
            lambda body, kind, _: parse_document(body, kind, name, version),
        )

    async def _ask(
        self,
        kind: Kind,
        url: str,
        headers: Mapping[str, str],
        what: str,
        parse: Callable[[bytes, str, str], T],
    ) -> Found[T] | NotModified | NoSuchProject:
        """Fetch something that fits into memory; `parse` as `_read` has it."""

        async def ask(this: _Try) -> Found[T] | NotModified | NoSuchProject:
            with self._metrics.asking(kind) as asking, self.translated(what):
                async with self._get(url, headers, what) as response:
                    this.status = response.status
                    asking.head_came()
                    if response.status in (404, 410):
                        asking.outcome = "absent"
                        return NoSuchProject()
                    if response.status == 304 and "If-None-Match" in headers:
                        asking.outcome = "unchanged"
                        return NotModified(_max_age(response.headers))
                    if response.status != 200:
                        raise self._refused(response, what)
                    value = await self._read(response, what, parse)
                    return Found(value, _etag(response), _max_age(response.headers))

        with self.translated(what):
            async with asyncio.timeout(self._page_time):
                return await self._tried(url, what, ask)

    async def _tried(self, url: str, what: str, ask: Callable[[_Try], Awaitable[T]]) -> T:
        """What `ask` gives, which is called again where it fails in passing; `UpstreamBusy` where it must not be."""
        origin = Origin.of(url)
        circuit = self._circuits.get(origin)
        if circuit is None:
            circuit = self._circuits[origin] = Circuit(self._now)
        try:
            with circuit.trial(url) as trial:
                return await self._repeated(trial, ask)
        except Resting as resting:
            message = f"{self.name} is not asked for {what} now: it has failed or asked to be left alone"
            raise UpstreamBusy(self.name, message, retry_after=min(resting.seconds, _BUSY_FOR)) from None

    async def _repeated(self, trial: Trial, ask: Callable[[_Try], Awaitable[T]]) -> T:
        for number in itertools.count():
            this = _Try(trial, number)
            try:
                found = await ask(this)
            except UpstreamError as error:
                pause = self._pause(this, error)
                if pause is None:
                    trial.has_failed = this.status >= 500 or isinstance(
                        error, UpstreamUnreachable | UpstreamTimeout
                    )
                    trial.has_answered = 0 < this.status < 500 and not trial.has_failed and this.status != 429
                    if isinstance(error, UpstreamBusy):
                        trial.rest = timedelta(seconds=error.retry_after or 0)
                    raise
                await asyncio.sleep(pause)
            else:
                trial.has_answered = True
                return found
        raise AssertionError  # `count` has no end.

    def _pause(self, this: _Try, error: UpstreamError) -> float | None:
        """Seconds after which to ask again; None: that is not worth it, or has been done often enough."""
        if this.number >= self.settings.retries or this.trial.is_probe:
            return None
        # Spread, so that what failed together does not come back together.
        pause = _FIRST_PAUSE * 2**this.number * random.uniform(0.75, 1.25)  # noqa: S311 - keeps no secret
        if isinstance(error, UpstreamBusy) and error.retry_after is not None:
            return max(pause, error.retry_after) if error.retry_after <= _LONGEST_WORD else None
        lasts = isinstance(error.__cause__, aiohttp.ClientConnectorDNSError | aiohttp.ClientSSLError)
        passes = isinstance(error, UpstreamUnreachable) and not lasts
        return pause if passes or this.status in _GATEWAYS else None

    @contextlib.asynccontextmanager
    async def names(self, etag: str | None = None) -> AsyncIterator[FoundNames | NotModified]:
        """Open the list of all names, or learn that the one with validator `etag` still holds.

        It is long, so what is done with it bounds its size and time. Raises as `page`; an index without such a
        list is faulty, since nobody could tell its names.
        """
        what = "its list of names"
        headers = _conditional(ACCEPT, etag)
        opened = self._translated_get("names", self.settings.index_url, headers, what)
        async with opened as (response, asking):
            if response.status == 304 and etag is not None:
                asking.outcome = "unchanged"
                yield NotModified(_max_age(response.headers))
                return
            if response.status != 200:
                raise self._refused(response, what)
            yield FoundNames(
                FileStream(response, self, what, 0),
                self._is_zipped(response, what),
                response.headers.get("Content-Type", ""),
                str(response.url),
                _etag(response),
            )

    @contextlib.asynccontextmanager
    async def file(
        self, url: str, *, start: int = 0, end: int | None = None, etag: str | None = None
    ) -> AsyncIterator[FileStream]:
        """Open the file at `url`, an address from one of this upstream's pages.

        Args:
            start: the first byte wanted; the stream's own `start` says whether the upstream went along.
            end: the last byte wanted, counted from 0; the stream's `is_part` says whether it went along.
            etag: with a range, the strong validator of the bytes already at hand.

        Raises:
            RangesRefused: with `end`: it cannot or will not give that part.
            UpstreamFaulty: an address that may not be asked, a file that is gone, an encoded body, a bad range.
            UpstreamBusy, UpstreamTimeout, UpstreamUnreachable: as for pages; also while `chunks` are read.
        """
        self.check_url(url)
        # `identity`: the digest is that of the file as it is, and a decoder would be a way in for bombs.
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        is_ranged = bool(start) or end is not None
        if is_ranged:
            headers["Range"] = f"bytes={start}-{'' if end is None else end}"
            if etag is not None:
                headers["If-Range"] = etag
        what = f"the file {url.partition('?')[0].rpartition('/')[2][:200]}"
        async with self._file_slots, self._translated_get("file", url, headers, what) as (response, _):
            if response.status in _GONE:
                raise UpstreamFaulty(self.name, f"{what} is gone from {self.name} ({response.status})")
            if end is not None and response.status in _NO_RANGES:
                raise RangesRefused(self.name, f"{self.name} gives no part of {what} ({response.status})")
            if response.status != 200 and not (is_ranged and response.status == 206):
                raise self._refused(response, what)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise UpstreamFaulty(self.name, f"{self.name} sent {what} with a content coding")
            if response.status == 200:
                yield FileStream(response, self, what, 0)
                return
            given = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != start or (end is not None and int(given[2]) > end):
                raise UpstreamFaulty(self.name, f"{self.name} sent another range of {what}")
            if end is None:
                yield FileStream(response, self, what, start)
            elif given[3] is None:
                raise RangesRefused(self.name, f"{self.name} does not tell the size of {what}")
            else:
                yield FileStream(response, self, what, start, part_of=int(given[3]))

    @contextlib.asynccontextmanager
    async def _translated_get(
        self, kind: Kind, url: str, headers: Mapping[str, str], what: str
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Asking]]:
        """`_get` whose opening alone is translated: what its user raises inside is not an upstream's fault."""
        async with contextlib.AsyncExitStack() as stack:

            async def open_it(this: _Try) -> tuple[aiohttp.ClientResponse, Asking]:
                async with contextlib.AsyncExitStack() as opened:
                    asking = opened.enter_context(self._metrics.asking(kind))
                    with self.translated(what):
                        response = await opened.enter_async_context(self._get(url, headers, what))
                    this.status = response.status
                    asking.head_came()
                    if response.status == 429 or (
                        response.status >= 500 and response.status not in _NO_RANGES
                    ):
                        raise self._refused(response, what)
                    stack.push_async_exit(opened.pop_all())
                    return response, asking

            yield await self._tried(url, what, open_it)

    @contextlib.asynccontextmanager
    async def _get(
        self, url: str, headers: Mapping[str, str], what: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET with redirects followed by hand; every address is checked, credentials stay at the origin."""
        for _ in range(MAX_REDIRECTS + 1):
            self.check_url(url)
            sent = dict(headers)
            if self._authorization is not None and Origin.of(url) == self._reach.origin:
                sent["Authorization"] = self._authorization
            session = await self._opened()
            async with session.get(
                _address(self.name, url), headers=sent, allow_redirects=False, proxy=self.settings.proxy
            ) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                target = urljoin(url, response.headers.get("Location", "")).partition("#")[0]
                if url.startswith("https:") and not target.startswith("https:"):
                    raise UpstreamFaulty(self.name, f"{self.name} redirects {what} away from https")
                url = target
        raise UpstreamFaulty(self.name, f"{self.name} redirects {what} more than {MAX_REDIRECTS} times")

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Without a ca_file those are trusted that the system trusts, which aiohttp has read long since.
            trusted = True if self.settings.ca_file is None else await asyncio.to_thread(self._tls)
            if self._session is None:
                self._session = self._new_session(trusted)
        return self._session

    def _new_session(self, trusted: ssl.SSLContext | bool) -> aiohttp.ClientSession:
        settings = self.settings
        # Behind an outbound proxy only the proxy's own name is resolved here, and it may well be private.
        resolver = None if settings.proxy else GuardedResolver(self._reach.is_closed)
        connector = aiohttp.TCPConnector(
            limit=settings.max_connections,
            resolver=resolver,
            ssl=trusted,
            keepalive_timeout=_KEEP_ALIVE,
        )
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=settings.connect_timeout.total_seconds(),
            sock_read=settings.read_timeout.total_seconds(),
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"User-Agent": self._user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    def _tls(self) -> ssl.SSLContext:
        """A context that also trusts `ca_file`. Takes twenty milliseconds: not for the event loop."""
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.settings.ca_file)
        except OSError as error:
            raise UpstreamFaulty(
                self.name,
                f"the ca_file of {self.name} cannot be used ({error.strerror or 'not PEM'})",
                hint="check upstreams in the configuration",
            ) from error
        return context

    async def _read(
        self, response: aiohttp.ClientResponse, what: str, parse: Callable[[bytes, str, str], T]
    ) -> T:
        """Read a body and parse it: `parse` takes the decoded body, its content type and its address."""
        zipped = self._is_zipped(response, what)
        pieces: list[bytes] = []
        received = 0
        async for piece in response.content.iter_any():
            received += len(piece)
            if received > self._max_page_size:
                raise UpstreamFaulty(self.name, f"{self.name}: {what} is larger than max_page_size")
            pieces.append(piece)
        content_type = response.headers.get("Content-Type", "")
        base_url = str(response.url)

        def read() -> T:
            body = b"".join(pieces)
            pieces.clear()
            if zipped:
                body = unzip(body, self._max_page_size)
            return parse(body, content_type, base_url)

        try:
            if received <= (_INLINE_COMPRESSED if zipped else _INLINE_BYTES):
                return read()
            return await asyncio.to_thread(read)
        except Unusable as error:
            raise UpstreamFaulty(self.name, f"{self.name}: {what} is unusable: {error}") from error

    def _is_zipped(self, response: aiohttp.ClientResponse, what: str) -> bool:
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise UpstreamFaulty(self.name, f"{self.name} sent {what} in an unknown coding")
        return coding != "identity"

    def _refused(self, response: aiohttp.ClientResponse, what: str) -> UpstreamError:
        message = f"{self.name} answered {response.status} for {what}"
        if response.status in (429, 503):
            return UpstreamBusy(self.name, message, retry_after=_retry_after(response.headers))
        return UpstreamFaulty(self.name, message)

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Turn what aiohttp raises in the enclosed steps into an `UpstreamError` about `what`."""
        try:
            yield
        except OverlayError:
            raise
        except TimeoutError as error:
            raise UpstreamTimeout(self.name, f"{self.name} did not send {what} in time") from error
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, PrivateAddress):
                raise UpstreamFaulty(
                    self.name,
                    f"{self.name}: {error.host[:100]!a} resolves to an address of a private network",
                    hint=f"set upstreams.{self.name}.private_network if that is meant",
                ) from error
            raise UpstreamUnreachable(
                self.name, f"{self.name}: {error.host[:100]!a} does not resolve"
            ) from error
        except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError) as error:
            raise UpstreamUnreachable(
                self.name, f"{self.name}: no trusted TLS connection", hint="check its certificate and ca_file"
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnreachable(self.name, f"{self.name} cannot be reached") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise UpstreamUnreachable(self.name, f"{self.name} broke off while sending {what}") from error
        except aiohttp.ClientError as error:
            raise UpstreamFaulty(self.name, f"{self.name} gave no valid HTTP answer for {what}") from error


def _conditional(accept: str, etag: str | None) -> dict[str, str]:
    """The headers that ask for a representation, unless the one with validator `etag` still holds."""
    headers = {"Accept": accept, "Accept-Encoding": "gzip"}
    return headers if etag is None else {**headers, "If-None-Match": etag}


def _address(upstream: str, url: str) -> URL:
    try:
        return URL(url, encoded=True)
    except ValueError as error:
        raise UpstreamFaulty(upstream, f"{upstream}: a link is no http address") from error


def _etag(response: aiohttp.ClientResponse) -> str | None:
    etag = response.headers.get("ETag", "").strip()
    return etag if 0 < len(etag) <= _MAX_ETAG and etag.isascii() and etag.isprintable() else None


def _max_age(headers: CIMultiDictProxy[str]) -> timedelta | None:
    """How long the upstream lets a shared cache keep its answer (RFC 9111 4.2); None if it does not say."""
    directives: dict[str, str] = {}
    for part in ",".join(headers.getall("Cache-Control", ())).lower().split(","):
        key, _, value = part.strip().partition("=")
        directives.setdefault(key, value.strip('"'))
    if directives.keys() & {"no-store", "no-cache"}:
        return timedelta(0)
    for key in ("s-maxage", "max-age"):
        if _DIGITS.match(directives.get(key, "")):
            age = headers.get("Age", "0").strip()
            spent = int(age) if _DIGITS.match(age) else 0
            return timedelta(seconds=max(0, int(directives[key]) - spent))
    return None


def _retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds of `Retry-After`, given as a number or as a date (RFC 9110 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if _DIGITS.match(value):
        return int(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, round((moment - datetime.now(UTC)).total_seconds()))
