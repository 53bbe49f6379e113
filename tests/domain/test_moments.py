"""Moments and durations as people are told them, and when that text becomes another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.moments import (
    aged,
    dated,
    lasting,
    later,
    new_year,
    next_aged,
    parse_since,
    told,
    told_until,
)
from proxy.errors import InvalidInput

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(days=3), "3 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=36), "36 hours"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=90), "90 seconds"),
    ],
)
def test_durations_are_told_in_the_largest_unit_that_tells_all(duration: timedelta, words: str) -> None:
    assert lasting(duration) == words


@pytest.mark.parametrize(
    ("moment", "words", "day"),
    [
        (datetime(2026, 11, 24, 8, tzinfo=UTC), "24 Nov 08:00 UTC", "24 Nov"),
        (datetime(2027, 1, 1, 0, 5, tzinfo=UTC), "1 Jan 2027 00:05 UTC", "1 Jan 2027"),
        (datetime(2027, 1, 1, 1, tzinfo=timezone(2 * HOUR)), "31 Dec 23:00 UTC", "31 Dec"),
    ],
)
def test_moments_have_their_year_where_it_is_another(moment: datetime, words: str, day: str) -> None:
    assert (told(moment, NOW), dated(moment, NOW)) == (words, day)


instants = st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)).map(lambda one: one.replace(tzinfo=UTC))  # noqa: DTZ001


@given(now=instants, moment=instants, at=instants)
def test_a_moment_is_told_alike_until_it_is_said_to_change(
    now: datetime, moment: datetime, at: datetime
) -> None:
    change = told_until(now, moment)
    if now <= at and (change is None or at < change):
        assert told(moment, at) == told(moment, now)
    if change is not None:
        assert change > now
        assert told(moment, change) != told(moment, now)


@given(age=st.integers(-100 * 3600, 5000 * 3600), more=st.integers(0, 200 * 3600))
def test_an_age_is_told_alike_until_it_is_said_to_change(age: int, more: int) -> None:
    since = NOW - timedelta(seconds=age)
    change = next_aged(since, NOW)
    assert change is not None
    assert change > NOW
    assert aged(change - since) != aged(NOW - since)
    if NOW + timedelta(seconds=more) < change:
        assert aged(NOW + timedelta(seconds=more) - since) == aged(NOW - since)


def test_nothing_is_beyond_all_dates() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert later(last, HOUR) is None
    assert next_aged(last, NOW) is None
    assert new_year(10_000) is None
    assert told_until(last, last) is None


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("7d", NOW - timedelta(days=7)),
        ("36h", NOW - timedelta(hours=36)),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T08:00:00", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ("2026-05-01T08:00:00Z", datetime(2026, 5, 1, 8, tzinfo=UTC)),
        ("2026-05-01T08:00:00+02:00", datetime(2026, 5, 1, 6, tzinfo=UTC)),
    ],
)
def test_since_when_is_a_moment_or_how_long_ago(text: str, since: datetime) -> None:
    assert parse_since(text, NOW) == since


@pytest.mark.parametrize(
    "text", ["", "7", "d", "7 d", "-7d", "soon", "999999999d", "0001-01-01T00:00:00+14:00", "\u0667d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no time"):
        parse_since(text, NOW)
