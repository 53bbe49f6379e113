"""Jobs: told of by every process, one of a kind at a time, and failed where their worker is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.errors import InvalidName, NotFound, StoreUnavailable
from proxy.index import jobs as module
from proxy.index.jobs import Jobs, Progress, State, in_thread
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from tests.storage.children import Child
from tests.support.waiting import wait_until_async

CHILD = """
import asyncio
from proxy.index.jobs import Jobs

async def main():
    async def work(progress):
        while True:
            progress.tell(3, 7)
            await asyncio.sleep(0.01)

    say(await Jobs(layout, locks).start("verify", work))
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    return layout


@pytest.fixture
async def jobs(layout: Layout) -> AsyncIterator[Jobs]:
    with contextlib.closing(Locks(layout)) as locks:
        jobs = Jobs(layout, locks)
        yield jobs
        await jobs.close()


async def ended(jobs: Jobs, job: str) -> module.Job:
    await wait_until_async(lambda: jobs.find(job).has_ended, what="the job to end")
    return jobs.find(job)


async def nothing(_: Progress) -> Sequence[str]:
    return []


async def test_a_job_ends_as_its_work_does(jobs: Jobs) -> None:
    async def counts(progress: Progress) -> list[str]:
        progress.tell(2, 2)
        return []

    async def finds(_: Progress) -> list[str]:
        return ["one is damaged"]

    async def refuses(_: Progress) -> list[str]:
        raise InvalidName("no name", hint="choose another")

    async def breaks(_: Progress) -> list[str]:
        raise ZeroDivisionError("a secret")

    found = [await ended(jobs, await jobs.start("warm", work)) for work in (counts, finds, refuses, breaks)]
    assert [(job.state, job.done, job.errors) for job in found] == [
        (State.DONE, 2, []),
        (State.FAILED, 0, ["one is damaged"]),
        (State.FAILED, 0, ["no name: choose another"]),
        (State.FAILED, 0, ["internal error; the log has the details"]),
    ]


async def test_of_a_kind_one_runs_at_a_time_and_the_others_wait(jobs: Jobs) -> None:
    go = asyncio.Event()

    async def waits(_: Progress) -> list[str]:
        await go.wait()
        return []

    first = await jobs.start("warm", waits)
    await wait_until_async(lambda: jobs.find(first).state is State.RUNNING)
    second, other = await jobs.start("warm", nothing), await jobs.start("purge", nothing)
    assert (await ended(jobs, other)).state is State.DONE
    assert [jobs.find(job).state for job in (first, second)] == [State.RUNNING, State.QUEUED]
    go.set()
    assert (await ended(jobs, second)).state is State.DONE


async def test_every_process_tells_of_a_job_and_knows_when_its_worker_is_gone(
    jobs: Jobs, layout: Layout
) -> None:
    with Child(layout.data_dir, CHILD) as child:
        job = child.hear()
        await wait_until_async(lambda: jobs.find(job).done, what="the other's progress")
        assert (jobs.find(job).state, jobs.find(job).total) == (State.RUNNING, 7)
        waiting = await jobs.start("verify", nothing)
    lost = jobs.find(job)
    assert (lost.state, lost.done, lost.errors) == (State.FAILED, 3, ["the worker that ran it has ended"])
    assert (await ended(jobs, waiting)).state is State.DONE


@pytest.mark.parametrize("job", ["", "0" * 16, "../serve.pid", "A" * 16, "\0"])
async def test_what_is_no_job_is_not_found(jobs: Jobs, job: str) -> None:
    with pytest.raises(NotFound):
        jobs.find(job)


async def test_old_jobs_and_the_oldest_of_too_many_are_dropped(
    jobs: Jobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await jobs.start("purge", nothing) for _ in range(3)]
    for job in made:
        await ended(jobs, job)
    os.utime(layout.job(made[1]), (0, 0))
    last = await ended(jobs, await jobs.start("purge", nothing))
    assert {path.name for path in Path(layout.jobs).iterdir()} == {made[0], made[2], last.id}
    monkeypatch.setattr(module, "KEPT_AT_MOST", 2)
    os.utime(layout.job(made[0]), (os.stat(layout.job(made[2])).st_mtime - 1,) * 2)  # noqa: PTH116
    newest = await ended(jobs, await jobs.start("purge", nothing))
    assert {path.name for path in Path(layout.jobs).iterdir()} == {last.id, newest.id}


async def test_too_many_that_wait_are_refused(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_AT_MOST", 1)

    async def never(_: Progress) -> list[str]:
        await asyncio.Event().wait()
        return []

    await jobs.start("purge", never)
    with pytest.raises(StoreUnavailable):
        await jobs.start("purge", nothing)


async def test_a_server_that_stops_breaks_jobs_off_and_waits_for_their_threads(jobs: Jobs) -> None:
    began, gone = threading.Event(), threading.Event()

    async def work(progress: Progress) -> list[str]:
        def long() -> None:
            began.set()
            while not progress.is_stopping:
                pass
            gone.set()

        await in_thread(long)
        return []

    job = await jobs.start("verify", work)
    await wait_until_async(began.is_set)
    await jobs.close()
    assert gone.is_set()
    assert (jobs.find(job).state, jobs.find(job).errors) == (State.FAILED, ["the server was stopped"])
    with pytest.raises(StoreUnavailable):
        await jobs.start("purge", nothing)


async def test_a_long_list_of_errors_is_cut(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ERRORS_AT_MOST", 2)

    async def finds(_: Progress) -> list[str]:
        return ["a", "b", "c", "d"]

    assert (await ended(jobs, await jobs.start("verify", finds))).errors == ["a", "b", "and 2 more"]
