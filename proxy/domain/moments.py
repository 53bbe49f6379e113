"""Moments of time as text."""

from __future__ import annotations

import re
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import overload

from proxy.errors import InvalidInput

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_HOURS_TOLD = 48
"""Ages below this are told in hours, others in days."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,9})([smhd])\Z", re.ASCII)


@overload
def iso(moment: datetime) -> str: ...
@overload
def iso(moment: None) -> None: ...
@overload
def iso(moment: datetime | None) -> str | None: ...
def iso(moment: datetime | None) -> str | None:
    """An aware moment to the second, in UTC with `Z`, as every JSON shape of contract 12 has it."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def spelled(duration: timedelta) -> str:
    """A duration as configurations have it, in the largest unit that tells all of it: `3d`, `36h`, `90s`."""
    seconds = int(duration.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def lasting(duration: timedelta) -> str:
    """A duration in words, in the unit of `spelled`: `3 days`, `1 hour`, `90 seconds`."""
    text = spelled(duration)
    count, unit = int(text[:-1]), {"d": "day", "h": "hour", "m": "minute", "s": "second"}[text[-1]]
    return _counted(count, unit)


def aged(age: timedelta) -> str:
    """How old something is, in words: whole hours below two days, then whole days."""
    hours = age // _HOUR
    if hours < 1:
        return "less than an hour"
    return _counted(hours, "hour") if hours < _HOURS_TOLD else _counted(age // _DAY, "day")


def next_aged(since: datetime, now: datetime) -> datetime | None:
    """The first moment after `now` at which `aged` tells something else of what began at `since`; None: never."""
    age = now - since
    unit = _HOUR if age // _HOUR < _HOURS_TOLD else _DAY
    return later(since, max(1, age // unit + 1) * unit)


def later(moment: datetime, by: timedelta) -> datetime | None:
    """A moment moved by a duration, which may be negative; None where that is beyond all dates."""
    try:
        return moment + by
    except OverflowError:
        return None


def new_year(year: int) -> datetime | None:
    """The first moment of a year, UTC; None where that is beyond all dates."""
    return None if year > MAXYEAR else datetime(year, 1, 1, tzinfo=UTC)


def dated(moment: datetime, now: datetime) -> str:
    """A day as people are told it: `24 Nov`, with the year where it is another than that of `now`."""
    moment = moment.astimezone(UTC)
    year = "" if moment.year == now.astimezone(UTC).year else f" {moment.year}"
    return f"{moment.day} {_MONTHS[moment.month - 1]}{year}"


def told(moment: datetime, now: datetime) -> str:
    """A moment as people are told it: `24 Nov 08:00 UTC`, with the year as `dated` has it."""
    return f"{dated(moment, now)} {moment.astimezone(UTC):%H:%M} UTC"


def told_until(now: datetime, *moments: datetime) -> datetime | None:
    """The first moment after `now` at which `dated` and `told` say these moments otherwise; None: never."""
    year = now.astimezone(UTC).year
    years = {moment.astimezone(UTC).year for moment in moments}
    changes = [year + 1 if told_year == year else told_year for told_year in years if told_year >= year]
    return new_year(min(changes)) if changes else None


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def parse_since(text: str, now: datetime) -> datetime:
    """The moment from which on something is asked for: a date (00:00 UTC), a moment, or how long ago, such as `7d`.

    Returns:
        Aware, in UTC. What names no zone is UTC.

    Raises:
        InvalidInput: it is none of these.
    """
    span = _SPAN.match(text)
    try:
        if span is not None:
            return now - timedelta(seconds=int(span[1]) * _UNITS[span[2]])
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text[:40]!a} is no time",
            hint="expected how long ago, such as 7d, or a date such as 2026-05-01 or 2026-05-01T08:00:00Z",
        ) from None
