"""How old a kept upstream page may be: fresh, stale but usable, or of no use any more.

Pure arithmetic after RFC 9111 (4.2: freshness) and RFC 5861 (stale-while-revalidate, stale-if-error).
`cache.revalidated` drives it; who fetches, and what happens then, is decided there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum


class Freshness(StrEnum):
    """What may be done with a kept page now."""

    FRESH = "fresh"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_IF_ERROR = "stale-if-error"
    EXPIRED = "expired"


def freshness_lifetime(max_age: timedelta | None, fresh_for: timedelta) -> timedelta:
    """How long after its validation a page is fresh.

    Args:
        max_age: what the upstream allows; None if it said nothing (RFC 9111 4.2.1).
        fresh_for: our own upper bound (`cache.fresh_for`).
    """
    if max_age is None:
        return fresh_for
    return max(timedelta(0), min(max_age, fresh_for))


def judge(
    validated_at: datetime,
    now: datetime,
    *,
    lifetime: timedelta,
    stale_while_revalidate: timedelta,
    stale_if_error: timedelta,
) -> Freshness:
    """Say what a page that its upstream last confirmed at `validated_at` is good for at `now`.

    Both stale windows begin where freshness ends (RFC 5861 3 and 4). A page confirmed "in the future" (the
    clock was set back) proves nothing about its age: it is shown, and revalidated at once.
    """
    age = now - validated_at
    if age < timedelta(0):
        return Freshness.STALE_WHILE_REVALIDATE
    if age < lifetime:
        return Freshness.FRESH
    staleness = age - lifetime
    if staleness < stale_while_revalidate:
        return Freshness.STALE_WHILE_REVALIDATE
    if staleness < stale_if_error:
        return Freshness.STALE_IF_ERROR
    return Freshness.EXPIRED
