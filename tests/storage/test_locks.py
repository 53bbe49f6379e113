from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from proxy.errors import StoreUnavailable
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks, _offset
from tests.storage.children import Child
from tests.support.waiting import wait_until

KEY = "file:" + "ab" * 32
SHORT = timedelta(milliseconds=50)
LONG = timedelta(seconds=20)

HOLDS = f"say(locks.try_hold({KEY!r})); input(); locks.release({KEY!r}); say('released'); input()"


def test_one_key_has_one_holder_in_a_process(locks: Locks) -> None:
    assert locks.try_hold(KEY)
    assert not locks.try_hold(KEY)
    assert locks.holder(KEY) == os.getpid()
    locks.release(KEY)
    assert locks.holder(KEY) is None
    assert locks.try_hold(KEY)


def test_keys_do_not_hinder_each_other(locks: Locks) -> None:
    keys = ["serve", "write:registry", "write:cache", KEY, "page:pypi/six"]
    assert [locks.try_hold(key) for key in keys] == [True] * 5
    locks.release(KEY)
    assert locks.holder("page:pypi/six") == os.getpid()


def test_one_key_has_one_holder_among_processes(layout: Layout, locks: Locks) -> None:
    with Child(layout.data_dir, HOLDS) as child:
        assert child.hear() == "True"
        assert not locks.try_hold(KEY)
        assert locks.holder(KEY) == child.pid
        child.tell()
        assert child.hear() == "released"
        assert locks.try_hold(KEY)


def test_the_kernel_frees_the_locks_of_a_killed_process(layout: Layout, locks: Locks) -> None:
    with Child(layout.data_dir, HOLDS) as child:
        assert child.hear() == "True"
        assert not locks.try_hold(KEY)
        child.kill()
        assert locks.try_hold(KEY)


def test_holding_waits_for_another_process(layout: Layout, locks: Locks) -> None:
    with Child(layout.data_dir, HOLDS) as child:
        assert child.hear() == "True"
        with pytest.raises(StoreUnavailable, match=f"process {child.pid}"):
            locks.hold(KEY, SHORT)
        threading.Timer(0.05, child.tell).start()
        locks.hold(KEY, LONG)
        assert locks.holder(KEY) == os.getpid()


def test_holding_waits_for_another_thread(locks: Locks) -> None:
    locks.hold(KEY, SHORT)
    with pytest.raises(StoreUnavailable):
        locks.hold(KEY, SHORT)
    passed: list[str] = []

    def wait() -> None:
        with locks.holding(KEY, LONG):
            passed.append("waited")

    thread = threading.Thread(target=wait)
    thread.start()
    assert passed == []
    locks.release(KEY)
    thread.join(10)
    assert passed == ["waited"]
    assert locks.holder(KEY) is None


def test_a_wait_in_vain_leaves_the_key_to_others(layout: Layout, locks: Locks) -> None:
    with Child(layout.data_dir, HOLDS) as child:
        child.hear()
        with pytest.raises(StoreUnavailable):
            locks.hold(KEY, SHORT)
        child.kill()
    assert locks.try_hold(KEY)


def test_threads_take_turns(locks: Locks) -> None:
    inside = 0
    worst = 0

    def work() -> None:
        nonlocal inside, worst
        for _ in range(50):
            with locks.holding(KEY, LONG):
                inside += 1
                worst = max(worst, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert worst == 1


def test_releasing_what_is_not_held_is_a_fault(locks: Locks) -> None:
    with pytest.raises(ValueError, match="not held"):
        locks.release(KEY)


def test_a_second_server_is_refused_with_the_first_ones_process_id(layout: Layout, locks: Locks) -> None:
    with Child(layout.data_dir, "locks.hold_serve(); say('serving'); input()") as child:
        assert child.hear() == "serving"
        assert Path(layout.serve_pid).read_text() == f"{child.pid}\n"
        with pytest.raises(StoreUnavailable) as caught:
            locks.hold_serve()
        assert str(caught.value) == f"another pypi-overlay serves this data directory (process {child.pid})"
        child.kill()
        locks.hold_serve()
    assert Path(layout.serve_pid).read_text() == f"{os.getpid()}\n"


def test_closing_lets_go_of_everything(layout: Layout, locks: Locks) -> None:
    locks.hold_serve()
    locks.try_hold(KEY)
    locks.close()
    assert not Path(layout.serve_pid).exists()
    with Child(layout.data_dir, f"locks.hold_serve(); say(locks.try_hold({KEY!r}))") as child:
        assert child.hear() == "True"
    with pytest.raises(StoreUnavailable):
        locks.try_hold(KEY)
    locks.release(KEY)  # a task that ends late has nothing left to do


def test_a_thread_that_waits_is_told_of_the_end(locks: Locks) -> None:
    locks.try_hold(KEY)
    refused: list[StoreUnavailable] = []

    def wait() -> None:
        try:
            locks.hold(KEY, LONG)
        except StoreUnavailable as error:
            refused.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    locks.close()
    thread.join(10)
    assert wait_until(lambda: refused)


def test_what_is_waited_for_never_shares_a_byte_with_what_may_be_held_meanwhile() -> None:
    ordinary = {_offset(f"{kind}:{number}") for kind in ("file", "page") for number in range(5000)}
    assert len(ordinary) == 10000
    assert min(ordinary) >= 1 << 16
    assert max(ordinary) < 1 << 62
    writers = {_offset("serve"), _offset("write:registry"), _offset("write:cache")}
    assert len(writers) == 3
    assert max(writers) < 1 << 16
