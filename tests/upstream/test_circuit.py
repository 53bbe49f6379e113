"""When an origin is left alone, and when it is tried again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from proxy.upstream.circuit import (
    BLAMED_FOR,
    LONGEST_PAUSE,
    LONGEST_REST,
    OPENS_AFTER,
    Circuit,
    Resting,
)


class Clock:
    """Says what it was set to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock)


def ask(circuit: Circuit, address: str = "/a", *, fails: bool = False, rest: float = 0) -> bool:
    """Make one trial, which fails or answers; whether it was the one that others wait for."""
    with circuit.trial(address) as trial:
        trial.has_failed, trial.has_answered = fails, not fails
        trial.rest = timedelta(seconds=rest)
        return trial.is_probe


def wait_told(circuit: Circuit) -> int:
    with pytest.raises(Resting) as caught:
        ask(circuit)
    return caught.value.seconds


def fail(circuit: Circuit, addresses: Iterable[str] = "abcde") -> None:
    for address in addresses:
        ask(circuit, address, fails=True)


def test_failures_of_several_addresses_in_a_row_open_it(circuit: Circuit) -> None:
    fail(circuit)
    assert wait_told(circuit) == 1


@pytest.mark.parametrize("addresses", ["abcd", "aaaaaaaaaa", "abababab"])
def test_few_failures_or_few_addresses_do_not(circuit: Circuit, addresses: str) -> None:
    fail(circuit, addresses)
    ask(circuit)


def test_an_answer_between_begins_the_count_anew(circuit: Circuit) -> None:
    fail(circuit, "abcd")
    ask(circuit)
    fail(circuit, "abcd")
    ask(circuit)


def test_failures_long_ago_do_not_count(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, "abcd")
    clock.advance(30)
    fail(circuit, "e")
    ask(circuit)


def test_one_tries_after_the_pause_and_an_answer_closes_it(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(1)
    with circuit.trial("/a") as trial:
        assert trial.is_probe
        assert wait_told(circuit) == 1
        trial.has_answered = True
    assert not ask(circuit)


def test_a_try_that_proves_nothing_leaves_it_to_the_next(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(1)
    with circuit.trial("/a"):
        pass
    assert ask(circuit)


def test_pauses_grow_up_to_a_limit_and_begin_anew_after_an_answer(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    pauses = []
    for _ in range(7):
        pauses.append(wait_told(circuit))
        clock.advance(pauses[-1])
        assert ask(circuit, fails=True)
    assert pauses == [1, 2, 4, 8, 16, 30, LONGEST_PAUSE.total_seconds()]
    clock.advance(30)
    ask(circuit)
    fail(circuit)
    assert wait_told(circuit) == 1


def test_what_began_before_it_opened_does_not_prolong_the_pause(circuit: Circuit, clock: Clock) -> None:
    with circuit.trial("/late") as late:
        fail(circuit)
        clock.advance(0.9)
        late.has_failed = True
    clock.advance(0.1)
    assert ask(circuit)


@pytest.mark.parametrize(("said", "seconds"), [(3, 3), (1000, LONGEST_REST.total_seconds())])
def test_an_origin_that_asks_for_it_is_left_alone(
    circuit: Circuit, clock: Clock, said: float, seconds: float
) -> None:
    ask(circuit, rest=said)
    assert wait_told(circuit) == seconds
    clock.advance(seconds)
    assert not ask(circuit)


def test_an_address_that_failed_before_does_not_keep_it_shut_for_others(
    circuit: Circuit, clock: Clock
) -> None:
    """Whoever knows three addresses that always fail could else have nothing else be asked for, for ever."""
    fail(circuit, "abcab")
    for pause in (1, 2, 4, 8):
        clock.advance(pause)
        assert ask(circuit, "a", fails=True)
    with pytest.raises(Resting):
        ask(circuit, "b")
    assert ask(circuit, "/another")
    assert not ask(circuit, "/another")


def test_what_fails_again_and_again_while_others_answer_says_nothing_of_them(
    circuit: Circuit, clock: Clock
) -> None:
    for _ in range(2):
        fail(circuit, "abcab")
        clock.advance(1)
        assert ask(circuit, "/another")
    for _ in range(3):
        fail(circuit, "abcab")
        assert not ask(circuit, "/another")
    fail(circuit, "abcabdefgh")
    assert wait_told(circuit) == 1


def test_it_forgets_in_time_what_failed(circuit: Circuit, clock: Clock) -> None:
    for _ in range(2):
        fail(circuit, "abcab")
        clock.advance(1)
        ask(circuit)
    clock.advance(BLAMED_FOR.total_seconds())
    fail(circuit, "abcab")
    assert wait_told(circuit) == 1


def test_a_clock_that_was_put_back_does_not_keep_it_shut(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.advance(-3600)
    assert ask(circuit)


def test_it_knows_a_handful_of_failures_at_most(circuit: Circuit) -> None:
    fail(circuit, "a" * 100)
    assert len(circuit._failures) == OPENS_AFTER
    for number in range(1500):
        ask(circuit, str(number), fails=True)
        ask(circuit)
    assert len(circuit._blamed) <= 1000
