"""What is counted and measured while the program runs, and how Prometheus reads it.

Every metric is made here, in one registry of one `Metrics`; who counts is handed that object, or the part of it
that it needs. Nobody else names a metric or a label, so the labels are bounded in one place: they are words of
the program and names of upstreams, never what a request brought along (a project, a path, a token, a user).
Where several processes serve one instance, adding their numbers up belongs here too.

Counting is safe in any thread and raises nothing. An answered request costs a few microseconds, because the
children of a metric are looked up once and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from proxy.errors import (
    ContentMismatch,
    RangesRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)

Route: TypeAlias = Literal[
    "page", "file", "metadata", "provenance", "json", "names", "upload", "gitlab", "api", "other"
]
"""What a request was for."""

Kind: TypeAlias = Literal["page", "document", "names", "file"]
"""What an upstream was asked for."""

Outcome: TypeAlias = Literal[
    "ok",
    "unchanged",
    "absent",
    "busy",
    "timeout",
    "unreachable",
    "no-ranges",
    "mismatch",
    "faulty",
    "abandoned",
]
"""What came of it. The first three are answers, `abandoned` is a request that we broke off, the rest are failures."""

_PREFIX = "pypi_overlay"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latencies that are told apart: from a page out of memory to a large file over a slow line."""

_METHODS = {
    "GET": "read",
    "HEAD": "read",
    "POST": "write",
    "PUT": "write",
    "PATCH": "write",
    "DELETE": "write",
}
_OUTCOMES: tuple[tuple[type[UpstreamError], Outcome], ...] = (
    (UpstreamBusy, "busy"),
    (UpstreamTimeout, "timeout"),
    (UpstreamUnreachable, "unreachable"),
    (RangesRefused, "no-ranges"),
    (ContentMismatch, "mismatch"),
    (UpstreamError, "faulty"),
)
"""The first that fits counts."""


class Asking:
    """One request to an upstream; `outcome` is what came of it as long as nothing is raised."""

    __slots__ = ("_began", "_seconds", "outcome")

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        self._began = time.perf_counter()
        self.outcome: Outcome = "ok"

    def head_came(self) -> None:
        """Note how long the head of the answer took."""
        self._seconds.observe(time.perf_counter() - self._began)


class UpstreamMetrics:
    """The requests to one upstream."""

    def __init__(self, name: str, requests: Counter, seconds: Histogram) -> None:
        self._name = name
        self._requests = requests
        self._seconds = seconds

    @contextlib.contextmanager
    def asking(self, kind: Kind) -> Iterator[Asking]:
        """Count the request that is made inside, by the error that leaves it, else by what `Asking` says."""
        asking = Asking(self._seconds.labels(self._name, kind))
        try:
            yield asking
        except UpstreamError as error:
            asking.outcome = next(word for kind_of, word in _OUTCOMES if isinstance(error, kind_of))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            asking.outcome = "abandoned"
            raise
        finally:
            self._requests.labels(self._name, kind, asking.outcome).inc()


class CacheMetrics:
    """The transfers into the file cache, and what leaves it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        transfers = Counter(
            f"{_PREFIX}_transfers",
            "Fills of the file cache: begun, failed, and requests that joined one under way.",
            ("event",),
            registry=registry,
        )
        self.begun = transfers.labels("begun")
        self.joined = transfers.labels("joined")
        self.failed = transfers.labels("failed")
        self.evicted = Counter(
            f"{_PREFIX}_cache_evicted_files", "Cached files deleted to make room.", registry=registry
        )


class _Registry(CollectorRegistry):
    """A registry without the times at which each counter was made, which would double what is read."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """All metrics of one process."""

    def __init__(self, version: str, digest: str, cache_max: int) -> None:
        """Make them, all at zero.

        Args:
            version: of the program.
            digest: of the configuration in force.
            cache_max: bytes that the file cache may hold.
        """
        registry = self._registry = _Registry()
        self._requests = Counter(
            f"{_PREFIX}_requests",
            "Requests answered or broken off (499), by what was decided of the name and what the cache did.",
            ("route", "method", "status", "decision", "cache"),
            registry=registry,
        )
        self._bytes = Counter(
            f"{_PREFIX}_response_bytes",
            "Bytes of answers' bodies, before transfer codings.",
            ("route",),
            registry=registry,
        )
        self._seconds = Histogram(
            f"{_PREFIX}_request_duration_seconds",
            "From the head of a request until all of its answer was handed to the connection.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._under_way = Gauge(
            f"{_PREFIX}_requests_under_way", "Requests that are being answered.", registry=registry
        )
        self._upstream_requests = Counter(
            f"{_PREFIX}_upstream_requests",
            "Requests to upstreams that ended, redirects not counted apart. Answers are ok, unchanged, absent; "
            "abandoned ones were broken off here; every other outcome is a failure.",
            ("upstream", "kind", "outcome"),
            registry=registry,
        )
        self._upstream_seconds = Histogram(
            f"{_PREFIX}_upstream_response_seconds",
            "From a request to an upstream to the head of its answer.",
            ("upstream", "kind"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.cache = CacheMetrics(registry)
        self._cache_files = Gauge(f"{_PREFIX}_cache_files", "Files in the file cache.", registry=registry)
        self._cache_bytes = Gauge(
            f"{_PREFIX}_cache_size_bytes", "Bytes of the files in the file cache.", registry=registry
        )
        Gauge(
            f"{_PREFIX}_cache_max_size_bytes",
            "Bytes beyond which files leave the file cache.",
            registry=registry,
        ).set(cache_max)
        uploads = Counter(
            f"{_PREFIX}_uploads",
            "Uploads: accepted, refused or broken off by the client, failed by a fault on this side.",
            ("outcome",),
            registry=registry,
        )
        self._uploads = {word: uploads.labels(word) for word in ("accepted", "refused", "failed")}
        logins = Counter(
            f"{_PREFIX}_failed_logins",
            "Requests with wrong credentials: refused, or throttled after too many.",
            ("answer",),
            registry=registry,
        )
        self.logins_refused = logins.labels("refused")
        self.logins_throttled = logins.labels("throttled")
        Info(f"{_PREFIX}_build", "The program.", registry=registry).info({"version": version})
        Info(f"{_PREFIX}_config", "The configuration in force.", registry=registry).info({"digest": digest})
        ProcessCollector(registry=registry)
        self._children: dict[tuple[str, str, int, str, str], Counter] = {}
        self._routes: dict[str, tuple[Counter, Histogram]] = {}

    def upstream(self, name: str) -> UpstreamMetrics:
        """Where the client of an upstream counts its requests."""
        return UpstreamMetrics(name, self._upstream_requests, self._upstream_seconds)

    def begun(self) -> None:
        """Count a request that has come; `answered` follows in any case."""
        self._under_way.inc()

    def answered(
        self,
        route: Route,
        method: str,
        status: int,
        decision: str | None,
        cache_status: str,
        sent: int,
        seconds: float,
    ) -> None:
        """Count a request that has been answered or broken off.

        Args:
            method: as it was sent; any text at all.
            status: of the answer; 499 where the connection broke off.
            decision: the word of what was decided of a name, where that was asked.
            cache_status: the header `Cache-Status`; empty where there was none.
            sent: bytes of the body.
        """
        self._under_way.dec()
        key = (
            route,
            _METHODS.get(method, "other"),
            status // 100,
            decision or "none",
            cache_word(cache_status),
        )
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(*key[:2], f"{key[2]}xx", *key[3:])
        child.inc()
        by_route = self._routes.get(route)
        if by_route is None:
            by_route = self._routes[route] = (self._bytes.labels(route), self._seconds.labels(route))
        by_route[0].inc(sent)
        by_route[1].observe(seconds)
        if route == "upload":
            self._uploads[_upload_outcome(status)].inc()

    def cache_holds(self, files: int, size: int) -> None:
        """Note number and bytes of the files in the cache, read a moment ago."""
        self._cache_files.set(files)
        self._cache_bytes.set(size)

    def cache_is_unknown(self) -> None:
        """Note that nobody can tell now what the cache holds: it shows as `NaN`, not as an old number."""
        self._cache_files.set(math.nan)
        self._cache_bytes.set(math.nan)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everything as text, with its content type: OpenMetrics where `accept` names it, else Prometheus' own.

        Takes some milliseconds: too long for an event loop.
        """
        if "application/openmetrics-text" in accept:
            # The library gives this function no signature.
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


def cache_word(cache_status: str) -> str:
    """What `Cache-Status` (RFC 9211) says in one word: `hit`, `miss`, `stale`, or `none` where nothing was kept.

    A page that was served although its time was over counts as `stale`, and so does one that was asked for anew
    because of that.
    """
    if "stale" in cache_status:
        return "stale"
    if "; hit" in cache_status:
        return "hit"
    return "miss" if "; fwd=" in cache_status else "none"


def _upload_outcome(status: int) -> str:
    if status < 400:
        return "accepted"
    return "refused" if status < 500 else "failed"
