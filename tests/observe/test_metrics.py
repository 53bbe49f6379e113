"""What is counted, under which words, and that Prometheus' own parser reads it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.errors import (
    ContentMismatch,
    RangesRefused,
    StorageError,
    UpstreamBusy,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.observe.metrics import Metrics, cache_word

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", "c0ffee", 5 << 30)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The one sample of this name and these labels."""
    text, _ = metrics.exposition("")
    for family in parse_text(text.decode()):
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
    metrics.cache_holds(3, 900)
    assert (value(metrics, "cache_files"), value(metrics, "cache_size_bytes")) == (3, 900)
    metrics.cache_is_unknown()
    assert math.isnan(value(metrics, "cache_files") or 0)
    assert math.isnan(value(metrics, "cache_size_bytes") or 0)
    assert value(metrics, "cache_max_size_bytes") == 5 << 30


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
    text, content_type = metrics.exposition(accept)
    assert kind in content_type
    assert content_type.endswith("; charset=utf-8")

    def families() -> Iterator[tuple[str, str]]:
        for family in (parse_openmetrics if accept else parse_text)(text.decode()):
            yield family.name, family.documentation

    found = dict(families())
    assert b"_created" not in text
    assert "pypi_overlay_requests" in found
    assert "process_resident_memory_bytes" in found
    for name, explained in found.items():
        assert name.startswith(("pypi_overlay_", "process_")), name
        assert explained.endswith("."), name


def test_two_instances_in_one_process_count_apart(metrics: Metrics) -> None:
    other = Metrics("1.2.3", "c0ffee", 0)
    answer(metrics)
    assert value(other, "response_bytes_total", route="page") is None
