"""What is measured, by name: each workload takes the stage and returns its rows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pytest

from tests.benchmarks.cores import LOAD_CORE, pinned
from tests.benchmarks.corpus import LIBRARIES
from tests.benchmarks.load import Job, Result, run
from tests.benchmarks.nginx import Nginx
from tests.benchmarks.report import Row
from tests.benchmarks.rules import rules
from tests.benchmarks.stage import HTML_TYPE, Stage, fetch, head, port_of, reset_peak
from tests.benchmarks.upstream import JSON_TYPE
from tests.support.clients import Client, find_uv
from tests.support.server import OverlayServer

CLIENTS = 1000
HERD = 50
ROUNDS = 3
"""How often everything is asked for before it counts as warm: what is kept is kept when it comes again."""
MIXED_FACTOR = 20
"""The mixed load lasts so many times as long as a measurement of a rate."""

BUSY = 0.9
"""A generator that computes for so much of the time may be what limits the fastest server."""

ALONE = 0.8
"""Where neither server nor generator computes for so much of the time, somebody else had their cores."""

MILLISECONDS = 1000.0
MB = 1e6


def warm_json(stage: Stage) -> list[Row]:
    """A small page as JSON."""
    ours, beside = _page(stage, "small", JSON_TYPE)
    return [_rate(stage, "warm-json", "warm page, 50 files, JSON gzip, 64 conn.", 0.85, [ours], [beside])]


def warm_html(stage: Stage) -> list[Row]:
    """The same as HTML."""
    ours, beside = _page(stage, "small", HTML_TYPE)
    return [_rate(stage, "warm-html", "warm page, 50 files, HTML gzip, 64 conn.", 0.85, [ours], [beside])]


def clients(stage: Stage) -> list[Row]:
    """A small page for clients of whom no two send the same head."""
    _, beside = _page(stage, "small", JSON_TYPE)
    path = beside.split()[1]
    ours, theirs = [], []
    for number in range(CLIENTS):
        wanted = {"kind": "personal", "user": "load", "name": f"client {number}", "scopes": ["read_api"]}
        headers = {
            "User_Agent": f"pip/26.0 client-{number}",
            "Authorization": f"Bearer {stage.server.make_token(**wanted)['token']}",
        }
        ours.append(head("/simple/small/", JSON_TYPE, **headers))
        theirs.append(head(path, JSON_TYPE, **headers))
    return [_rate(stage, "clients", "the same, 1,000 clients with tokens", 0.5, ours, theirs)]


def not_modified(stage: Stage) -> list[Row]:
    """A small page that the client has."""
    _, beside = _page(stage, "small", JSON_TYPE)
    path = beside.split()[1]
    asked = {"Accept": JSON_TYPE, "Accept-Encoding": "gzip"}
    tag = fetch(stage.server.url, "/simple/small/", asked)[0]["etag"]
    theirs = "-"
    if stage.nginx is not None:
        theirs = fetch(f"http://127.0.0.1:{stage.nginx.port}", path)[0]["etag"]
    ours = [head("/simple/small/", JSON_TYPE, If_None_Match=tag)]
    beside = head(path, JSON_TYPE, If_None_Match=theirs)
    return [_rate(stage, "304", "warm page, 304, 64 conn.", 0.8, ours, [beside], expect=304)]


def warm_large(stage: Stage) -> list[Row]:
    """A large page."""
    ours, beside = _page(stage, "large", JSON_TYPE)
    text = f"warm page, {stage.corpus.sizes.large_page:,} files, gzip, 8 conn."
    return [_rate(stage, "warm-large", text, 0.9, [ours], [beside], connections=8)]


def warm_wheel(stage: Stage) -> list[Row]:
    """One small wheel."""
    ours = head(stage.file(stage.server, "small", stage.corpus.wheel))
    beside = head(f"/{stage.corpus.wheel}")
    return [_rate(stage, "warm-wheel", "warm wheel, 30 KB, 64 conn.", 0.8, [ours], [beside])]


def downloads(stage: Stage) -> list[Row]:
    """What it costs to record who fetched what: one wheel, one by many clients, and wheels of which no two are alike.

    One server that records and does not, by turns: two servers differ by more than what is sought, were they started
    alike.
    """
    rows = []
    with stage.fresh() as server:
        wheels = _many(stage, server)
        for name, text, heads in (
            ("downloads", "warm wheel, 30 KB, 64 conn., downloads recorded", _fetching(stage, server, 1)),
            (
                "downloads-clients",
                f"the same, {CLIENTS:,} clients with tokens",
                _fetching(stage, server, CLIENTS),
            ),
            ("downloads-wheels", f"{len(wheels):,} wheels, downloads recorded", wheels),
        ):
            took: list[tuple[float, float | None]] = []
            work: list[tuple[float, float]] = []
            errors = 0
            for number in range(stage.runs):
                pair = []
                for kept in ("1d", "0s") if number % 2 else ("0s", "1d"):
                    stage.reconfigure(server, audit={"downloads": kept})
                    for _ in range(ROUNDS):
                        errors += run(Job(port_of(server), heads, 8)).errors
                    done, spent = _worked(server, Job(port_of(server), heads, 64, stage.seconds))
                    errors += done.errors
                    pair.append((kept == "0s", done.rate, spent))
                (_, ours, spent), (_, beside, spent_beside) = sorted(pair)
                took.append((ours, beside))
                work.append((spent, spent_beside))
            row = _quotient(name, text, "/s", 0.95, took, "unrecorded", errors, at_least=True)
            micros = (median(one[0] for one in work), median(one[1] for one in work))
            # By turns: what else goes on is alike within a pair, not over all of them.
            quotient = median(ours / beside for ours, beside in took if beside)
            rows.append(replace(row, measured=quotient, work=micros))
    return rows


def _fetching(stage: Stage, server: OverlayServer, clients: int) -> list[str]:
    """Heads of different clients that fetch the small wheel."""
    path = stage.file(server, "small", stage.corpus.wheel)
    if clients == 1:
        return [head(path)]
    tokens = [
        server.make_token(kind="personal", user="load", name=f"client {number}", scopes=["read_api"])["token"]
        for number in range(clients)
    ]
    return [head(path, Authorization=f"Bearer {token}") for token in tokens]


def _many(stage: Stage, server: OverlayServer) -> list[str]:
    """Heads for wheels that are all different, in an order that no store likes."""
    names = dict.fromkeys(name for name, _ in stage.corpus.many)
    paths = {key: path for name in names for key, path in stage.files(server, name).items()}
    return [head(paths[filename]) for filename in _shuffled(stage)]


def _shuffled(stage: Stage) -> list[str]:
    filenames = [filename for _, filename in stage.corpus.many]
    random.Random("order").shuffle(filenames)
    return filenames


def many_wheels(stage: Stage) -> list[Row]:
    """More wheels than fit into memory."""
    ours = _many(stage, stage.server)
    beside = [head(f"/{filename}") for filename in _shuffled(stage)]
    text = f"{len(ours):,} wheels, 30 KB, 64 conn."
    return [_rate(stage, "many-wheels", text, 0.35, ours, beside)]


def warm_metadata(stage: Stage) -> list[Row]:
    """The metadata of a wheel."""
    path = stage.file(stage.server, "small", stage.corpus.wheel) + ".metadata"
    headers, body = fetch(stage.server.url, path, {"Accept-Encoding": "gzip"})
    beside = f"/{stage.corpus.wheel}.metadata"
    if stage.nginx is not None and headers.get("content-encoding") == "gzip":
        beside = stage.nginx.keep_packed("metadata", body)
    return [_rate(stage, "warm-metadata", "warm .metadata, 64 conn.", 0.85, [head(path)], [head(beside)])]


def warm_files(stage: Stage) -> list[Row]:
    """Files that leave by sendfile."""
    rows = []
    for name, filename in (("middle", stage.corpus.middle), ("huge", stage.corpus.large)):
        size = (stage.corpus.directory / "files" / filename).stat().st_size
        ours = head(stage.file(stage.server, name, filename))
        text = f"warm file, {size / MB:.0f} MB, 1 conn."
        beside = [head(f"/{filename}")]
        rows.append(_rate(stage, f"warm-{name}", text, 0.9, [ours], beside, connections=1, bulk=True))
    return rows


def cold_pages(stage: Stage) -> list[Row]:
    """Pages that nobody has asked for: what our server adds to the upstream's own time."""
    rows = []
    for prefix, text, target in (
        ("cold-", f"{stage.corpus.sizes.small_page} files", 2.0),
        ("cold-large-", f"{stage.corpus.sizes.large_page:,} files", 30.0),
    ):
        fetch(stage.server.url, f"/simple/{prefix}0/")
        took = []
        for number in range(1, stage.runs + 1):
            asked = head(f"/simple/{prefix}{number}/", JSON_TYPE)
            run(Job(stage.upstream.port, [asked]))  # the upstream reads and compresses it once
            direct = _one(stage.upstream.port, asked)
            took.append((_one(port_of(stage.server), asked).median, direct.median))
        ours, beside = median(pair[0] for pair in took), median(pair[1] for pair in took)
        rows.append(
            Row(
                name=f"{prefix}page",
                workload=f"cold page, {text}: added (upstream on core {LOAD_CORE})",
                unit="ms",
                ours=ours * MILLISECONDS,
                reference=beside * MILLISECONDS,
                against="direct",
                measured=median(pair[0] - pair[1] for pair in took) * MILLISECONDS,
                measured_unit="ms",
                target=target,
                runs=took,
            )
        )
    return rows


def cold_middle(stage: Stage) -> list[Row]:
    """A file that nobody has asked for, as fast as it comes: thrown away unread, and hashed as installers do."""
    text = f"cold file, {_megabytes(stage, stage.corpus.middle)}, uncapped"
    beside = f"total (upstream on core {LOAD_CORE})"
    return [
        _cold_middle(stage, "cold-middle", f"{text}: {beside}", is_hashed=False),
        _cold_middle(stage, "cold-middle-hashed", f"{text}, client hashes: {beside}", is_hashed=True),
    ]


def _cold_middle(stage: Stage, name: str, text: str, *, is_hashed: bool) -> Row:
    filename = stage.corpus.middle
    address = stage.corpus.address("middle", filename)
    took, errors = [], 0
    work: list[float] = []
    for _ in range(stage.runs):
        with stage.fresh() as server:
            path = stage.file(server, "middle", filename)
            digest = path.split("/")[-2] if is_hashed else ""
            direct = run(Job(stage.upstream.port, [head(address)], bulk=True, sha256=digest))
            done, micros = _worked(server, Job(port_of(server), [head(path)], bulk=True, sha256=digest))
        took.append((done.elapsed, direct.elapsed))
        work.append(micros)
        errors += done.errors + direct.errors
    return replace(_quotient(name, text, "s", 1.8, took, "direct", errors), work=(median(work), None))


def cold_huge(stage: Stage) -> list[Row]:
    """A large file that comes slowly: when it begins, when it ends, and what it costs in memory."""
    filename = stage.corpus.large_capped
    firsts, totals, grown, errors = [], [], [], 0
    for _ in range(stage.runs):
        direct = run(Job(stage.upstream.port, [head(stage.corpus.address("slow", filename))]))
        with stage.fresh() as server:
            asked = head(stage.file(server, "slow", filename))
            before = reset_peak(server)
            done = run(Job(port_of(server), [asked]))
            grown.append((server.peak_rss() - before) / MB)
        firsts.append((done.first * MILLISECONDS, direct.first * MILLISECONDS))
        totals.append((done.elapsed, direct.elapsed))
        errors += done.errors
    text = f"cold file, {_megabytes(stage, filename)}, capped at 50 MB/s (upstream on core {LOAD_CORE})"
    first = Row(
        name="cold-huge-first",
        workload=f"{text}: first byte",
        unit="ms",
        ours=median(pair[0] for pair in firsts),
        reference=median(pair[1] for pair in firsts),
        against="direct",
        measured=median(pair[0] - pair[1] for pair in firsts),
        measured_unit="ms",
        target=10.0,
        errors=errors,
        runs=firsts,
    )
    total = _quotient("cold-huge-total", "… total", "s", 1.02, totals, "direct", errors)
    return [first, total, _memory("cold-huge-memory", "… memory growth", grown, 30.0)]


def herd(stage: Stage) -> list[Row]:
    """Many clients that want one file that nobody has asked for: of one worker, and of several."""
    filename = stage.corpus.middle_capped
    address = stage.corpus.address("herd", filename)
    theirs: list[float | None] = []
    for number in range(stage.runs):
        took = None
        if stage.nginx is not None:
            took = run(Job(stage.nginx.port, [head(f"{address}?run={number}")] * HERD, HERD)).elapsed
        theirs.append(took)
    one, several = _herds(stage, 1), _herds(stage, stage.workers)
    pairs = [(herd.took, beside) for herd, beside in zip(one, theirs, strict=True)]
    text = f"{HERD} clients, one cold {_megabytes(stage, filename)} file at 100 MB/s (upstream on core {LOAD_CORE})"
    return [
        _requests("herd-requests", f"{text}: upstream requests", one),
        _quotient("herd-total", "… time", "s", 1.1, pairs, "nginx cache", sum(herd.errors for herd in one)),
        _memory("herd-memory", "… memory growth", [herd.grown for herd in one], 60.0),
        # All on one core: their rates would say nothing.
        _requests("herd-workers-requests", f"… {stage.workers} workers: upstream requests", several),
        _memory(
            "herd-workers-memory", "… memory growth of all together", [herd.grown for herd in several], 60.0
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Herd:
    """What one herd led to: requests to the upstream, seconds, megabytes of memory, errors."""

    requests: int
    took: float
    grown: float
    errors: int


def _herds(stage: Stage, workers: int) -> list[_Herd]:
    filename = stage.corpus.middle_capped
    herds = []
    for _ in range(stage.runs):
        with stage.fresh(workers) as server:
            asked = head(stage.file(server, "herd", filename))
            counted, before = stage.upstream.asked(filename), reset_peak(server)
            done = run(Job(port_of(server), [asked] * HERD, HERD))
            grown = (server.peak_rss() - before) / MB
            requests = stage.upstream.asked(filename) - counted
        herds.append(_Herd(requests, done.elapsed, grown, done.errors))
    return herds


def _requests(name: str, text: str, herds: Sequence[_Herd]) -> Row:
    most = float(max(herd.requests for herd in herds))
    return Row(
        name=name,
        workload=text,
        unit="",
        ours=most,
        measured=most,
        measured_unit="",
        target=1.0,
        errors=sum(herd.errors for herd in herds),
        runs=[(float(herd.requests), None) for herd in herds],
    )


def idle(stage: Stage) -> list[Row]:
    """What a server that has done next to nothing holds: alone, and the largest of several workers."""
    held: dict[int, list[float]] = {1: [], stage.workers: []}
    for workers, found in held.items():
        for _ in range(stage.runs):
            with stage.fresh(workers) as server:
                found.append(server.largest_rss() / MB)
    return [
        _memory("idle", "memory idle, one worker", held[1], 90.0),
        _memory(
            "idle-workers",
            f"memory idle, the largest of {stage.workers} workers",
            held[stage.workers],
            90.0,
        ),
    ]


def resolve(stage: Stage) -> list[Row]:
    """uv resolves packages that need each other, without a cache of its own."""
    try:
        uv = find_uv()
    except pytest.skip.Exception as missing:
        stage.notices.append(f"resolve: {missing}")
        return []
    with TemporaryDirectory(prefix="benchmark-uv-") as home:
        client = Client(Path(home))
        warm: list[tuple[float, float | None]] = []
        cold: list[tuple[float, float | None]] = []
        nginx = None if stage.nginx is None else f"http://127.0.0.1:{stage.nginx.port}/simple/"
        _resolve(client, uv, f"{stage.server.url}/simple/")
        for _ in range(stage.runs):
            theirs = None if nginx is None else _resolve(client, uv, nginx)
            warm.append((_resolve(client, uv, f"{stage.server.url}/simple/"), theirs))
            direct = _resolve(client, uv, stage.upstream.index_url)
            with stage.fresh() as server:
                cold.append((_resolve(client, uv, f"{server.url}/simple/"), direct))
    text = f"uv resolves {LIBRARIES} packages"
    return [
        _quotient("resolve-warm", f"{text}, warm", "s", 1.1, warm, "nginx", 0),
        _quotient(
            "resolve-cold", f"{text}, cold (upstream on core {LOAD_CORE})", "s", 1.2, cold, "direct", 0
        ),
    ]


def mixed(stage: Stage) -> list[Row]:
    """A thousand connections that want all sorts of things."""
    small, large = _page(stage, "small", JSON_TYPE), _page(stage, "large", JSON_TYPE)
    html = _page(stage, "small", HTML_TYPE)
    wheel = stage.file(stage.server, "small", stage.corpus.wheel)
    pairs = [small] * 40 + [html] * 20 + [large]
    pairs += [(head(wheel), head(f"/{stage.corpus.wheel}"))] * 20
    pairs += [(head(f"{wheel}.metadata"), head(f"/{stage.corpus.wheel}.metadata"))] * 20
    random.Random("mixed").shuffle(pairs)
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    seconds = stage.seconds * MIXED_FACTOR
    run(Job(port_of(stage.server), ours, connections=8))
    done = run(Job(port_of(stage.server), ours, CLIENTS, seconds))
    beside = None if stage.nginx is None else run(Job(stage.nginx.port, theirs, CLIENTS, seconds)).p99
    reference = None if beside is None else beside * MILLISECONDS
    text = f"mixed load, 1,000 conn., {seconds:g} s: 99th percentile"
    pair = (done.p99 * MILLISECONDS, reference)
    return [_quotient("mixed", text, "ms", 3.0, [pair], "nginx", done.errors)]


WORKLOADS: Mapping[str, Callable[[Stage], list[Row]]] = {
    "warm-json": warm_json,
    "warm-html": warm_html,
    "clients": clients,
    "304": not_modified,
    "warm-large": warm_large,
    "warm-wheel": warm_wheel,
    "downloads": downloads,
    "many-wheels": many_wheels,
    "warm-metadata": warm_metadata,
    "warm-files": warm_files,
    "cold-pages": cold_pages,
    "cold-middle": cold_middle,
    "cold-huge": cold_huge,
    "herd": herd,
    "resolve": resolve,
    "idle": idle,
    "mixed": mixed,
    "rules": rules,
}


def _page(stage: Stage, name: str, accept: str) -> tuple[str, str]:
    """Heads for a page: of our server, and of nginx, which gets our very bytes as a file."""
    path = f"/simple/{name}/"
    _, body = fetch(stage.server.url, path, {"Accept": accept, "Accept-Encoding": "gzip"})
    kept = "/"
    if stage.nginx is not None:
        kept = stage.nginx.keep_packed(f"{name}-{'json' if accept == JSON_TYPE else 'html'}", body)
    return head(path, accept), head(kept, accept)


def _rate(
    stage: Stage,
    name: str,
    text: str,
    target: float,
    ours: Sequence[str],
    beside: Sequence[str],
    *,
    connections: int = 64,
    expect: int = 200,
    bulk: bool = False,
) -> Row:
    """Measure answers, or bytes where they are thrown away, per second, ours and nginx's by turns."""
    port = port_of(stage.server)
    unit = "MB/s" if bulk else "/s"

    def value(done: Result) -> float:
        return done.megabytes_per_second if bulk else done.rate

    errors, took, busy, disturbed = 0, [], 0.0, 0
    for _ in range(ROUNDS):
        errors += run(Job(port, ours, connections=min(connections, 8), expect=expect, bulk=bulk)).errors
    work: list[float] = []
    work_beside: list[float] = []
    for _ in range(stage.runs):
        done, micros = _worked(stage.server, Job(port, ours, connections, stage.seconds, expect, bulk))
        errors += done.errors
        work.append(micros)
        fullest = [_fullest(done, micros)]
        theirs = None
        if stage.nginx is not None:
            limit, micros = _worked(
                stage.nginx, Job(stage.nginx.port, beside, connections, stage.seconds, expect, bulk)
            )
            busy = max(busy, limit.busy)
            work_beside.append(micros)
            fullest.append(_fullest(limit, micros))
            theirs = value(limit)
            if limit.errors:
                stage.notices.append(f"{name}: {limit.errors} errors of nginx")
        took.append((value(done), theirs))
        if min(fullest) < ALONE:
            disturbed += 1
    if busy > BUSY:
        stage.notices.append(f"{name}: the load generator may be the limit beside nginx ({busy:.0%} busy)")
    row = _quotient(name, text, unit, target, took, "nginx", errors, at_least=True)
    median_work = (median(work), median(work_beside) if work_beside else None)
    known = busy if stage.nginx is not None else None
    return replace(row, work=median_work, busy=known, disturbed=disturbed)


def _worked(server: OverlayServer | Nginx, job: Job) -> tuple[Result, float]:
    """Do a job; return with its result the microseconds that the server computed for each answer."""
    before = server.worked()
    done = run(job)
    return done, (server.worked() - before) / max(1, done.requests) * 1e6


def _fullest(done: Result, micros: float) -> float:
    """The part of the time that whoever computed more did, server or generator: one of them is the limit."""
    return max(done.busy, micros / 1e6 * done.rate)


def _quotient(
    name: str,
    text: str,
    unit: str,
    target: float,
    took: Sequence[tuple[float, float | None]],
    against: str,
    errors: int,
    *,
    at_least: bool = False,
) -> Row:
    """A row about the quotient of two medians."""
    ours = median(pair[0] for pair in took)
    theirs = [pair[1] for pair in took if pair[1] is not None]
    reference = median(theirs) if theirs else None
    return Row(
        name=name,
        workload=text,
        unit=unit,
        ours=ours,
        reference=reference,
        against=against if theirs else "",
        measured=ours / reference if reference else None,
        target=target,
        at_least=at_least,
        errors=errors,
        runs=took,
    )


def _memory(name: str, text: str, held: Sequence[float], target: float) -> Row:
    ours = median(held)
    runs = [(one, None) for one in held]
    return Row(
        name=name,
        workload=text,
        unit="MB",
        ours=ours,
        measured=ours,
        measured_unit="MB",
        target=target,
        runs=runs,
    )


def _one(port: int, asked: str) -> Result:
    """Ask once, on a new connection. Raises AssertionError where that fails."""
    done = run(Job(port, [asked]))
    assert not done.errors, f"no answer to {asked!r}"
    return done


def _resolve(client: Client, uv: str, index_url: str) -> float:
    """Let uv resolve; return the seconds that it took."""
    target = client.home / "target"
    with pinned(LOAD_CORE):
        begun = time.perf_counter()
        done = client.run(
            uv,
            "pip",
            "install",
            "--dry-run",
            "--no-cache",
            "--target",
            target,
            "--index-url",
            index_url,
            "lib-0",
        )
        took = time.perf_counter() - begun
    assert f"Resolved {LIBRARIES} packages" in done.stderr, done.stderr
    return took


def _megabytes(stage: Stage, filename: str) -> str:
    return f"{(stage.corpus.directory / 'files' / filename).stat().st_size / MB:.0f} MB"
