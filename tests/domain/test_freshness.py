"""RFC 9111 and 5861 arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.domain.freshness import Freshness, freshness_lifetime, judge

THEN = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def judged(age: timedelta) -> Freshness:
    return judge(
        THEN,
        THEN + age,
        lifetime=10 * MINUTE,
        stale_while_revalidate=5 * MINUTE,
        stale_if_error=60 * MINUTE,
    )


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(0), Freshness.FRESH),
        (10 * MINUTE - timedelta.resolution, Freshness.FRESH),
        (10 * MINUTE, Freshness.STALE_WHILE_REVALIDATE),
        (15 * MINUTE - timedelta.resolution, Freshness.STALE_WHILE_REVALIDATE),
        (15 * MINUTE, Freshness.STALE_IF_ERROR),
        (70 * MINUTE - timedelta.resolution, Freshness.STALE_IF_ERROR),
        (70 * MINUTE, Freshness.EXPIRED),
    ],
)
def test_each_window_begins_where_the_one_before_ends(age: timedelta, expected: Freshness) -> None:
    assert judged(age) is expected


def test_a_page_from_the_future_is_shown_but_not_taken_for_fresh() -> None:
    assert judged(-timedelta(days=365)) is Freshness.STALE_WHILE_REVALIDATE


def test_without_windows_a_stale_page_is_expired_at_once() -> None:
    nothing = timedelta(0)
    verdict = judge(
        THEN, THEN + MINUTE, lifetime=nothing, stale_while_revalidate=nothing, stale_if_error=nothing
    )
    assert verdict is Freshness.EXPIRED


@pytest.mark.parametrize(
    ("max_age", "expected"),
    [(None, 10 * MINUTE), (MINUTE, MINUTE), (60 * MINUTE, 10 * MINUTE), (timedelta(0), timedelta(0))],
)
def test_the_upstreams_max_age_counts_where_it_is_shorter(
    max_age: timedelta | None, expected: timedelta
) -> None:
    assert freshness_lifetime(max_age, 10 * MINUTE) == expected
