"""What is counted, under which words, and that Prometheus' own parser reads it."""

from __future__ import annotations

import asyncio
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from proxy.errors import (
    ContentMismatch,
    RangesRefused,
    StorageError,
    UpstreamBusy,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.observe.counts import Rows, Said, Shared, forget_all
from proxy.observe.metrics import Answered, Found, Given, Held, Listed, Metrics, cache_word
from tests.support.server import ROOT

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3")


def told(metrics: Metrics, accept: str = "", found: Found | None = None) -> tuple[str, str]:
    """All of it, as an instance with this configuration tells it."""
    text, content_type = metrics.exposition(
        accept, digest="c0ffee", cache_max=5 << 30, found=found or Found()
    )
    return text.decode(), content_type


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The one sample of this name and these labels."""
    for family in parse_text(told(metrics)[0]):
        for sample in family.samples:
            if (sample.name, sample.labels) == (f"pypi_overlay_{name}", labels):
                return float(sample.value)
    return None


def answer(metrics: Metrics, method: str = "GET", status: int = 200, cache_status: str = "") -> None:
    metrics.begun()
    metrics.answered("page", method, status, "upstream", cache_status, 1000, 0.02)


def count(metrics: Metrics, method: str, status: str, cache: str) -> float | None:
    words = {"route": "page", "method": method, "status": status, "decision": "upstream", "cache": cache}
    return value(metrics, "requests_total", **words)


def test_a_request_is_counted_by_its_words_its_bytes_and_its_time(metrics: Metrics) -> None:
    answer(metrics, "GET", 200, "pypi-overlay; hit")
    answer(metrics, "HEAD", 206, "pypi-overlay; hit")
    answer(metrics, "DELETE", 451)
    answer(metrics, "BREW\n", 499)
    assert count(metrics, "read", "2xx", "hit") == 2
    assert count(metrics, "write", "4xx", "none") == 1
    assert count(metrics, "other", "4xx", "none") == 1
    assert value(metrics, "response_bytes_total", route="page") == 4000
    assert value(metrics, "request_duration_seconds_bucket", route="page", le="0.01") == 0
    assert value(metrics, "request_duration_seconds_bucket", route="page", le="0.025") == 4
    assert value(metrics, "request_duration_seconds_count", route="page") == 4


def test_requests_under_way_are_those_without_an_answer(metrics: Metrics) -> None:
    for _ in range(3):
        metrics.begun()
    answer(metrics)
    assert value(metrics, "requests_under_way") == 3


@pytest.mark.parametrize(
    ("status", "outcome"), [(201, "accepted"), (200, "accepted"), (400, "refused"), (507, "failed")]
)
def test_an_upload_is_counted_by_its_outcome(metrics: Metrics, status: int, outcome: str) -> None:
    metrics.answered("upload", "POST", status, None, "", 0, 1.0)
    counted = {
        word: value(metrics, "uploads_total", outcome=word) for word in ("accepted", "refused", "failed")
    }
    assert counted == dict.fromkeys(counted, 0.0) | {outcome: 1.0}


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("", "none"),
        ("pypi-overlay; detail=claimed", "none"),
        ("pypi-overlay; hit", "hit"),
        ("pypi-overlay; hit; detail=private", "hit"),
        ("pypi-overlay; hit; detail=stale-while-revalidate", "stale"),
        ("pypi-overlay; fwd=stale; detail=stale-if-error", "stale"),
        ("pypi-overlay; fwd=stale; fwd-status=304; stored", "stale"),
        ("pypi-overlay; fwd=uri-miss; stored", "miss"),
        ("pypi-overlay; fwd=miss; detail=unavailable", "miss"),
    ],
)
def test_what_the_cache_did_is_one_word(header: str, word: str) -> None:
    assert cache_word(header) == word


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UpstreamBusy("pypi", "x"), "busy"),
        (UpstreamTimeout("pypi", "x"), "timeout"),
        (UpstreamUnreachable("pypi", "x"), "unreachable"),
        (RangesRefused("pypi", "x"), "no-ranges"),
        (ContentMismatch("pypi", "x"), "mismatch"),
        (UpstreamFaulty("pypi", "x"), "faulty"),
        (asyncio.CancelledError(), "abandoned"),
        # Trouble of ours is no fault of an upstream.
        (StorageError("x"), "ok"),
    ],
)
def test_a_request_to_an_upstream_is_counted_by_what_leaves_it(
    metrics: Metrics, error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)), metrics.upstream("pypi").asking("file"):
        raise error
    assert value(metrics, "upstream_requests_total", upstream="pypi", kind="file", outcome=outcome) == 1


def test_an_answer_of_an_upstream_is_counted_by_what_it_says_and_when_its_head_came(metrics: Metrics) -> None:
    with metrics.upstream("pypi").asking("page") as asking:
        asking.head_came()
        asking.outcome = "absent"
    with metrics.upstream("pypi").asking("page"):
        pass
    asked = {"upstream": "pypi", "kind": "page"}
    assert value(metrics, "upstream_requests_total", **asked, outcome="absent") == 1
    assert value(metrics, "upstream_requests_total", **asked, outcome="ok") == 1
    assert value(metrics, "upstream_response_seconds_count", **asked) == 1


def test_a_cache_that_nobody_can_tell_of_has_no_number(metrics: Metrics) -> None:
    text, _ = told(metrics, found=Found(Held(3, 900)))
    assert {"pypi_overlay_cache_files 3.0", "pypi_overlay_cache_size_bytes 900.0"} <= set(text.splitlines())
    assert math.isnan(value(metrics, "cache_files") or 0)
    assert math.isnan(value(metrics, "cache_size_bytes") or 0)
    assert value(metrics, "cache_max_size_bytes") == 5 << 30


def test_what_stands_in_databases_is_told_where_it_can_be_read(metrics: Metrics) -> None:
    found = Found(
        held={"removed": 2, "quarantined": 0},
        confusions={("package", "look-alike"): 3},
        lists={"pypi": Listed(700_000, 90.5)},
        advisories=12.5,
    )
    lines = set(told(metrics, found=found)[0].splitlines())
    assert {
        'pypi_overlay_held_files{why="removed"} 2.0',
        'pypi_overlay_held_files{why="quarantined"} 0.0',
        'pypi_overlay_confusions{kind="package",match="look-alike"} 3.0',
        'pypi_overlay_names_list_names{upstream="pypi"} 700000.0',
        'pypi_overlay_names_list_age_seconds{upstream="pypi"} 90.5',
        "pypi_overlay_advisories_age_seconds 12.5",
    } <= lines
    silent = told(metrics)[0]
    assert not any(
        f"\npypi_overlay_{name}{{" in silent for name in ("held_files", "confusions", "names_list")
    )


def test_answers_that_were_only_warned_of_are_counted_by_rule(metrics: Metrics) -> None:
    metrics.warned(["deny", "min_age"])
    metrics.warned(["deny"], 4)
    assert value(metrics, "warned_total", rule="deny") == 5
    assert value(metrics, "warned_total", rule="min_age") == 1


def test_program_and_configuration_are_told(metrics: Metrics) -> None:
    assert value(metrics, "build_info", version="1.2.3") == 1
    assert value(metrics, "config_info", digest="c0ffee") == 1


@pytest.mark.parametrize(
    ("accept", "kind"), [("", "text/plain; version=0.0.4"), (OPENMETRICS, "openmetrics")]
)
def test_both_formats_are_read_by_a_parser_and_every_metric_is_explained(
    metrics: Metrics, accept: str, kind: str
) -> None:
    answer(metrics)
    text, content_type = told(metrics, accept)
    assert kind in content_type
    assert content_type.endswith("; charset=utf-8")

    def families() -> Iterator[tuple[str, str]]:
        for family in (parse_openmetrics if accept else parse_text)(text):
            yield family.name, family.documentation

    found = dict(families())
    assert "_created" not in text
    assert "pypi_overlay_requests" in found
    assert "process_resident_memory_bytes" in found
    for name, explained in found.items():
        assert name.startswith(("pypi_overlay_", "process_")), name
        assert explained.endswith("."), name


def test_answers_counted_together_are_those_counted_one_by_one(metrics: Metrics) -> None:
    together = Metrics("1.2.3")
    for _ in range(3):
        answer(metrics, cache_status="pypi-overlay; hit")
    answer(metrics, "HEAD", 304, "pypi-overlay; hit")
    hit: Answered = ("page", "GET", 200, "upstream", "pypi-overlay; hit")
    unchanged: Answered = ("page", "HEAD", 304, "upstream", "pypi-overlay; hit")
    together.answered_many({hit: Given(3, 3000, 0.06), unchanged: Given(1, 1000, 0.02)})

    def counted(of: Metrics) -> list[str]:
        return [line for line in told(of)[0].splitlines() if not line.startswith("process_")]

    assert counted(metrics) == counted(together)


def test_a_time_at_a_bound_counts_below_it(metrics: Metrics) -> None:
    metrics.answered_many({("file", "GET", 200, None, ""): Given(2, 0, 2 * 0.01)})
    metrics.answered_many({("file", "GET", 200, None, ""): Given(1, 0, 1000.0)})
    buckets = {
        bound: value(metrics, "request_duration_seconds_bucket", route="file", le=bound)
        for bound in ("0.005", "0.01", "300.0", "+Inf")
    }
    assert buckets == {"0.005": 0, "0.01": 2, "300.0": 2, "+Inf": 3}
    assert value(metrics, "request_duration_seconds_sum", route="file") == pytest.approx(1000.02)


class TestWorkers:
    """Several processes that serve one instance."""

    def worker(self, directory: Path, number: int) -> Metrics:
        return Metrics("1.2.3", Shared(str(directory), number))

    def pages(self, metrics: Metrics) -> float | None:
        return value(metrics, "request_duration_seconds_count", route="page")

    def test_whichever_is_asked_tells_what_all_have_counted(self, tmp_path: Path) -> None:
        first, second, third = (self.worker(tmp_path, number) for number in (1, 2, 3))
        for metrics, times in ((first, 1), (second, 2), (third, 4)):
            for _ in range(times):
                answer(metrics)
        second.begun()
        second.cache.evicted.inc(5)
        second.share()
        third.share()

        assert [self.pages(one) for one in (first, second, third)] == [7, 7, 7]
        assert count(first, "GET", "2xx", "none") is None
        assert count(first, "read", "2xx", "none") == 7
        assert value(first, "cache_evicted_files_total") == 5
        assert value(first, "requests_under_way") == 1
        assert value(first, "workers") == 3
        assert value(first, "request_duration_seconds_bucket", route="page", le="0.025") == 7

    def test_its_own_numbers_are_exact_and_those_it_told_stay_after_its_end(self, tmp_path: Path) -> None:
        first, second = self.worker(tmp_path, 1), self.worker(tmp_path, 2)
        answer(first)
        first.share()
        answer(first)
        assert self.pages(second) == 1
        assert self.pages(first) == 2  # and with that, whatever becomes of it, the others know
        assert self.pages(second) == 2

    def test_who_takes_the_place_of_a_dead_worker_goes_on_from_its_numbers(self, tmp_path: Path) -> None:
        self.run_worker(tmp_path, 2)
        first = self.worker(tmp_path, 1)
        assert self.pages(first) == 3
        # What it was doing ended with it.
        assert (value(first, "requests_under_way"), value(first, "workers")) == (0, 1)

        second = self.worker(tmp_path, 2)
        answer(second)
        assert self.pages(second) == self.pages(first) == 4
        assert value(first, "workers") == 2

    def run_worker(self, directory: Path, number: int) -> None:
        """Let a process of its own count three pages, begin with a fourth, and be killed."""
        code = (
            "import os, signal; from pathlib import Path; "
            "from tests.observe.test_metrics import TestWorkers, answer; "
            f"worker = TestWorkers().worker(Path({str(directory)!r}), {number}); "
            "[answer(worker) for _ in range(3)]; worker.begun(); worker.share(); answer(worker); "
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
            assert process.wait(60) == -signal.SIGKILL

    def test_each_process_is_told_under_its_worker_s_number(self, tmp_path: Path) -> None:
        first, second = self.worker(tmp_path, 1), self.worker(tmp_path, 2)
        second.share()
        families = {family.name: family for family in parse_text(told(first)[0])}
        for name in ("process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"):
            labels = [sample.labels for sample in families[name].samples]
            assert labels == [{"worker": "1"}, {"worker": "2"}]
        assert all(not sample.labels for sample in process_samples(Metrics("1.2.3")))

    def test_what_an_earlier_run_left_is_forgotten_before_the_next(self, tmp_path: Path) -> None:
        first = self.worker(tmp_path, 1)
        answer(first)
        first.share()
        forget_all(str(tmp_path))
        assert self.pages(self.worker(tmp_path, 1)) is None
        assert self.pages(self.worker(tmp_path, 2)) is None

    @pytest.mark.parametrize("content", [b"", b"\x00", b"\x93\x01", msgspec.msgpack.encode({"pid": "x"})])
    def test_a_file_that_nobody_can_read_is_as_none(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "2").write_bytes(content)
        (tmp_path / "3.new").write_bytes(content)
        first = self.worker(tmp_path, 1)
        answer(first)
        assert (self.pages(first), value(first, "workers")) == (1, 1)
        assert self.pages(self.worker(tmp_path, 2)) == 1

    def test_rows_of_another_version_of_the_program_are_not_gone_on_from(self, tmp_path: Path) -> None:
        rows: Rows = {"response_bytes": {("page",): [1.0, 2.0]}, "unheard_of": {(): [3.0]}}
        Shared(str(tmp_path), 1).write(Said(0, 0, rows))
        first = self.worker(tmp_path, 1)
        answer(first)
        assert value(first, "response_bytes_total", route="page") == 1000
        assert "unheard_of" not in told(first)[0]

    def test_where_nothing_can_be_written_answers_go_on(self, tmp_path: Path) -> None:
        first = self.worker(tmp_path / "gone", 1)
        answer(first)
        first.share()
        assert self.pages(first) == 1

    def test_what_did_not_change_is_not_written_again(self, tmp_path: Path) -> None:
        first = self.worker(tmp_path, 1)
        first.share()
        before = (tmp_path / "1").stat().st_ino
        first.share()
        assert (tmp_path / "1").stat().st_ino == before
        answer(first)
        first.share()
        assert (tmp_path / "1").stat().st_ino != before

    def test_none_counts_twice_or_less_than_once_in_many_threads(self, tmp_path: Path) -> None:
        first = self.worker(tmp_path, 1)

        def work() -> None:
            for _ in range(2000):
                first.cache.begun.inc()
                with first.upstream("pypi").asking("page"):
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            first.share()
        assert value(first, "transfers_total", event="begun") == 8000
        assert value(first, "upstream_requests_total", upstream="pypi", kind="page", outcome="ok") == 8000


def process_samples(metrics: Metrics) -> list[Sample]:
    """What is told of processes."""
    families = parse_text(told(metrics)[0])
    return [one for family in families if family.name.startswith("process_") for one in family.samples]


def test_two_instances_in_one_process_count_apart(metrics: Metrics) -> None:
    other = Metrics("1.2.3")
    answer(metrics)
    assert value(other, "response_bytes_total", route="page") is None
