"""Counts of failures: who is told to wait, for how long, and who never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from proxy.domain.snapshot import Rate
from proxy.errors import Throttled
from proxy.identity import throttle as throttling
from proxy.identity.throttle import Throttle, prefix_of

NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)
REFUSAL = "these credentials are not valid"
PERSONAL = "pyo_pat_" + "x" * 43


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(Rate(3, timedelta(minutes=1)), clock)


def fail(throttle: Throttle, address: str = "192.0.2.1", text: str = PERSONAL) -> int:
    """Fail once; the seconds to wait, 0 where the refusal is the usual one."""
    try:
        throttle.failed(address, text, REFUSAL)
    except Throttled as error:
        said, wait = str(error), error.retry_after
    else:
        return 0
    assert wait > 0
    assert REFUSAL in said
    assert not text or text not in said
    return wait


def test_so_many_failures_of_an_address_are_answered_as_usual(throttle: Throttle) -> None:
    assert [bool(fail(throttle)) for _ in range(6)] == [False, False, False, True, True, True]


def test_another_address_is_not_told_to_wait(throttle: Throttle) -> None:
    for _ in range(5):
        fail(throttle)

    assert fail(throttle, "192.0.2.2") == 0


def test_whatever_was_presented_counts_against_the_address(throttle: Throttle) -> None:
    for text in (PERSONAL, "pyo_dep_a", "eyJhbGciOi.J9.x", "", "hunter2"):
        waited = fail(throttle, text=text)

    assert waited


def test_the_wait_ends_with_the_time_and_is_never_longer_than_ten_seconds(
    throttle: Throttle, clock: Clock
) -> None:
    for _ in range(4):
        fail(throttle)
    waits = []
    for seconds in (10, 49, 51, 55, 59.9):
        clock.now = NOW + timedelta(seconds=seconds)
        waits.append(fail(throttle))
    assert waits == [10, 10, 9, 5, 1]

    clock.now = NOW + timedelta(seconds=60)
    assert fail(throttle) == 0


def test_a_clock_that_goes_back_locks_nobody_out(throttle: Throttle, clock: Clock) -> None:
    for _ in range(4):
        fail(throttle)
    clock.now = NOW - timedelta(days=1)

    assert fail(throttle) == 0


def test_T_TOK4_an_attack_on_one_kind_from_many_addresses_is_told_to_wait(throttle: Throttle) -> None:
    waits = [fail(throttle, f"192.0.2.{number}", f"pyo_pat_guess{number}") for number in range(6)]

    assert [bool(wait) for wait in waits] == [False, False, False, True, True, True]
    assert fail(throttle, "192.0.2.99", "pyo_dep_guess") == 0


def test_one_machine_with_a_token_that_is_over_makes_nobody_else_wait(throttle: Throttle) -> None:
    for _ in range(100):
        fail(throttle)

    assert fail(throttle, "192.0.2.2") == 0


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_the_addresses_of_one_customer_count_as_one(
    throttle: Throttle, first: str, second: str, is_one: bool
) -> None:
    for _ in range(4):
        fail(throttle, first)

    assert bool(fail(throttle, second)) == is_one


def test_what_is_remembered_is_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "_REMEMBERED", 100)
    small = Throttle(Rate(3, timedelta(minutes=1)), Clock())
    for number in range(1000):
        fail(small, f"10.0.{number // 250}.{number % 250}", f"pyo_{'abcdefghij'[number % 10]}_x")

    assert len(small._counts) <= 100


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (PERSONAL, "pyo_pat_"),
        ("pyo_job_" + "y" * 43, "pyo_job_"),
        ("pyo_pat_", "pyo_pat_"),
        ("pyo_secret-without-kind", "pyo_"),
        ("pyo_0123456789_abc", "pyo_"),
        ("pyo_" + "x" * 100 + "_", "pyo_"),
        ("eyJhbGciOi.J9.x", "eyJ"),
        ("glpat-abcdef", ""),
        ("correct-horse-battery-staple", ""),
        ("", ""),
    ],
)
def test_a_prefix_holds_nothing_of_the_secret(text: str, prefix: str) -> None:
    assert prefix_of(text) == prefix
