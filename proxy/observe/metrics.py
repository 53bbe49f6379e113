"""What is counted and measured while the program runs, and how Prometheus reads it.

Every metric is named here, in one `Metrics`; who counts is handed that object, or the part of it that it needs.
Nobody else names a metric or a label, so the labels are bounded in one place: they are words of the program and
names of upstreams, never what a request brought along (a project, a path, a token, a user).

Counting is safe in any thread and raises nothing. It touches plain rows of numbers (`observe.counts`), which get
their names when somebody asks. Where several workers serve one instance, each of them answers with the sums over
all: its own numbers as they are now, those of the others as they were a second ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from proxy.errors import (
    ContentMismatch,
    RangesRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.observe.counts import Count, Counts, Rows, Said, Shared, Times, added, is_alive

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

Answered: TypeAlias = tuple[Route, str, int, str | None, str]
"""What an answer is counted by: its route; the method as it was sent; the status, 499 where the connection broke off;
the word of what was decided of a name, where that was asked; `Cache-Status`, empty where there was none."""


class Given(NamedTuple):
    """How often answers that count alike were given, the bytes of their bodies, the seconds they took together."""

    times: int
    sent: int
    seconds: float


_PREFIX = "pypi_overlay"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latencies that are told apart: from a page out of memory to a large file over a slow line."""
_BOUNDS = (*map(str, _SECONDS), "+Inf")


class _Family(NamedTuple):
    """A metric that rows are kept of: what it says, and the names of its labels."""

    meaning: str
    labels: tuple[str, ...] = ()


_COUNTS = {
    "requests": _Family(
        "Requests answered or broken off (499), by what was decided of the name and what the cache did.",
        ("route", "method", "status", "decision", "cache"),
    ),
    "response_bytes": _Family("Bytes of answers' bodies, before transfer codings.", ("route",)),
    "upstream_requests": _Family(
        "Requests to upstreams that ended, redirects not counted apart. Answers are ok, unchanged, absent; "
        "abandoned ones were broken off here; every other outcome is a failure.",
        ("upstream", "kind", "outcome"),
    ),
    "transfers": _Family(
        "Fills of the file cache: begun, failed, of these unkept (no room, or a failing disk: the files were passed "
        "through), and requests that joined one under way.",
        ("event",),
    ),
    "cache_evicted_files": _Family("Cached files deleted to make room."),
    "uploads": _Family(
        "Uploads: accepted, refused or broken off by the client, failed by a fault on this side.",
        ("outcome",),
    ),
    "failed_logins": _Family(
        "Requests with wrong credentials: refused, or throttled after too many.", ("answer",)
    ),
    "warned": _Family(
        "Answers that a rule would have refused if the policy did not say `warn` of it, by its key.",
        ("rule",),
    ),
}
_TIMES = {
    "request_duration_seconds": _Family(
        "From the head of a request until all of its answer was handed to the connection.", ("route",)
    ),
    "upstream_response_seconds": _Family(
        "From a request to an upstream to the head of its answer.", ("upstream", "kind")
    ),
}

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

    def __init__(self, seconds: Times) -> None:
        self._seconds = seconds
        self._began = time.perf_counter()
        self.outcome: Outcome = "ok"

    def head_came(self) -> None:
        """Note how long the head of the answer took."""
        self._seconds.observe(time.perf_counter() - self._began)


class UpstreamMetrics:
    """The requests to one upstream."""

    def __init__(self, name: str, counts: Counts) -> None:
        self._name = name
        self._counts = counts

    @contextlib.contextmanager
    def asking(self, kind: Kind) -> Iterator[Asking]:
        """Count the request that is made inside, by the error that leaves it, else by what `Asking` says."""
        asking = Asking(self._counts.times("upstream_response_seconds", _SECONDS, self._name, kind))
        try:
            yield asking
        except UpstreamError as error:
            asking.outcome = next(word for kind_of, word in _OUTCOMES if isinstance(error, kind_of))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            asking.outcome = "abandoned"
            raise
        finally:
            self._counts.count("upstream_requests", self._name, kind, asking.outcome).inc()


class CacheMetrics:
    """The transfers into the file cache, and what leaves it."""

    def __init__(self, counts: Counts) -> None:
        self.begun = counts.count("transfers", "begun")
        self.joined = counts.count("transfers", "joined")
        self.failed = counts.count("transfers", "failed")
        self.unkept = counts.count("transfers", "unkept")
        self.evicted = counts.count("cache_evicted_files")


class Held(NamedTuple):
    """What the file cache holds."""

    files: int
    size: int


class Listed(NamedTuple):
    """A kept list of the names of an upstream: how many, and seconds since it was sent or confirmed."""

    names: int
    age: float


@dataclass(frozen=True, slots=True)
class Found:
    """What was read in the databases and on the disk a moment ago.

    Attributes:
        cache: None where nobody can tell now: then it shows as `NaN`, not as an old number.
        held: why files that upstreams removed are held → how many.
        confusions: kind of a claim and how a name of an upstream meets it → how many.
        lists: upstream → its kept list, where there is one.
        advisories: seconds since the database of advisories was last written; None where there is none.

    What is empty is left out.
    """

    cache: Held | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    confusions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    lists: Mapping[str, Listed] = field(default_factory=dict)
    advisories: float | None = None


class Metrics:
    """All metrics of one process, and where it shares them, of all workers."""

    def __init__(self, version: str, shared: Shared | None = None) -> None:
        """Make them, at zero or as the worker left them that this one takes the place of.

        Args:
            version: of the program.
            shared: where the workers of the instance tell each other; None where one process is all of it.
        """
        self._version = version
        self._shared = shared
        self._counts = Counts()
        if shared is not None:
            self._counts.begin_with(shared.predecessor())
        self._under_way = 0
        self._answers: dict[tuple[str, str, int, str, str], tuple[Count, Count, Times]] = {}
        self.cache = CacheMetrics(self._counts)
        self._uploads = {
            word: self._counts.count("uploads", word) for word in ("accepted", "refused", "failed")
        }
        self.logins_refused = self._counts.count("failed_logins", "refused")
        self.logins_throttled = self._counts.count("failed_logins", "throttled")

    def upstream(self, name: str) -> UpstreamMetrics:
        """Where the client of an upstream counts its requests."""
        return UpstreamMetrics(name, self._counts)

    def begun(self) -> None:
        """Count a request that has come; `answered` follows in any case. For the event loop alone, as that is."""
        self._under_way += 1

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
        """Count a request that has been answered or broken off. The words are those of `Answered`.

        Args:
            sent: bytes of the body.
        """
        self._under_way -= 1
        self._count((route, method, status, decision, cache_status), Given(1, sent, seconds))

    def answered_many(self, given: Mapping[Answered, Given]) -> None:
        """Count answers given without `begun`. Those that count alike are taken to have taken equally long."""
        for answered, times in given.items():
            self._count(answered, times)

    def warned(self, rules: Iterable[str], times: int = 1) -> None:
        """Count answers that rules with these keys of the policy would have refused, were they enforced."""
        for rule in rules:
            self._counts.count("warned", rule).inc(times)

    def share(self) -> None:
        """Let the other workers see what was counted so far; nothing where there is none. Reaches the disk.

        To be called every second, and once before the process ends.
        """
        if self._shared is not None:
            self._shared.write(Said(os.getpid(), self._under_way, self._counts.copy()))

    def exposition(self, accept: str, *, digest: str, cache_max: int, found: Found) -> tuple[bytes, str]:
        """Everything as text, with its content type: OpenMetrics where `accept` names it, else Prometheus' own.

        Takes some milliseconds: too long for an event loop.

        Args:
            digest: of the configuration in force.
            cache_max: bytes that the file cache may hold.
        """
        # First, so that no other worker tells less than this one did now, should this one be killed.
        self.share()
        asked = _Asked(list(self._families(digest, cache_max, found)))
        if "application/openmetrics-text" in accept:
            # The library gives this function no signature.
            text: bytes = openmetrics.generate_latest(asked)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(asked), CONTENT_TYPE_PLAIN_0_0_4

    def _count(self, answered: Answered, given: Given) -> None:
        route, method, status, decision, cache_status = answered
        key = (
            route,
            _METHODS.get(method, "other"),
            status // 100,
            decision or "none",
            cache_word(cache_status),
        )
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = (
                self._counts.count("requests", *key[:2], f"{key[2]}xx", *key[3:]),
                self._counts.count("response_bytes", route),
                self._counts.times("request_duration_seconds", _SECONDS, route),
            )
        requests, sent, seconds = found
        requests.inc(given.times)
        sent.inc(given.sent)
        seconds.observe(given.seconds / given.times, given.times)
        if route == "upload":
            self._uploads[_upload_outcome(status)].inc(given.times)

    def _families(self, digest: str, cache_max: int, found: Found) -> Iterator[Metric]:
        others = {} if self._shared is None else self._shared.others()
        living = {number: said for number, said in others.items() if is_alive(said)}
        rows = added([self._counts.copy(), *(said.rows for said in others.values())])
        yield from _counted(rows)
        under_way = self._under_way + sum(said.under_way for said in living.values())
        files, size = found.cache or (math.nan, math.nan)
        for name, meaning, value in (
            ("requests_under_way", "Requests that are being answered.", under_way),
            ("workers", "Processes that answer requests.", 1 + len(living)),
            ("cache_files", "Files in the file cache.", files),
            ("cache_size_bytes", "Bytes of the files in the file cache.", size),
            ("cache_max_size_bytes", "Bytes beyond which files leave the file cache.", cache_max),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, value)
        yield from _gauges(found)
        yield InfoMetricFamily(f"{_PREFIX}_build", "The program.", {"version": self._version})
        yield InfoMetricFamily(f"{_PREFIX}_config", "The configuration in force.", {"digest": digest})
        if self._shared is None:
            yield from ProcessCollector(registry=None).collect()
        else:
            pids = {number: said.pid for number, said in living.items()}
            yield from _processes(pids | {self._shared.worker: os.getpid()})


class _Asked(Collector):
    """What is told in one answer."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _counted(rows: Rows) -> Iterator[Metric]:
    for name, (meaning, labels) in _COUNTS.items():
        count = CounterMetricFamily(f"{_PREFIX}_{name}", meaning, labels=labels)
        for key, row in sorted(rows.get(name, {}).items()):
            count.add_metric(key, row[0])
        yield count
    for name, (meaning, labels) in _TIMES.items():
        times = HistogramMetricFamily(f"{_PREFIX}_{name}", meaning, labels=labels)
        for key, (*buckets, total) in sorted(rows.get(name, {}).items()):
            below = itertools.accumulate(buckets)
            times.add_metric(key, list(zip(_BOUNDS, below, strict=True)), total)
        yield times


def _gauges(found: Found) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        f"{_PREFIX}_held_files",
        "Cached files that their upstream removed or quarantined, and that no owner released.",
        labels=["why"],
    )
    for why, count in sorted(found.held.items()):
        held.add_metric([why], count)
    yield held
    confusions = GaugeMetricFamily(
        f"{_PREFIX}_confusions",
        "Names of upstreams that meet a claim, or look like a claimed name, at the last look.",
        labels=["kind", "match"],
    )
    for labels, count in sorted(found.confusions.items()):
        confusions.add_metric(labels, count)
    yield confusions
    names = GaugeMetricFamily(
        f"{_PREFIX}_names_list_names", "Names on the kept list of an upstream.", labels=["upstream"]
    )
    ages = GaugeMetricFamily(
        f"{_PREFIX}_names_list_age_seconds",
        "Since the upstream sent or confirmed its list of names.",
        labels=["upstream"],
    )
    for upstream, listed in sorted(found.lists.items()):
        names.add_metric([upstream], listed.names)
        ages.add_metric([upstream], listed.age)
    yield from (names, ages)
    advisories = GaugeMetricFamily(
        f"{_PREFIX}_advisories_age_seconds", "Since the newest file of advisories.osv_dir was written."
    )
    if found.advisories is not None:
        advisories.add_metric([], found.advisories)
    yield advisories


def _processes(pids: Mapping[int, int]) -> Iterator[Metric]:
    """What the system says of each worker's process, under its number."""
    found: dict[str, Metric] = {}
    for number, pid in sorted(pids.items()):
        for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
            samples = [sample._replace(labels={"worker": str(number)}) for sample in metric.samples]
            metric.samples = []
            found.setdefault(metric.name, metric).samples += samples
    yield from found.values()


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
