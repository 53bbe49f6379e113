"""Long work that is asked for over HTTP: begun in one worker, told of by every one (contract 12).

A job's state is a small file below `run/jobs`, written by the worker that runs it and by nobody else. That worker
holds the lock `job:<id>` to the job's end: where nobody holds it, a job that says it is running has lost its worker
and has failed. Of each kind one job runs at a time in the instance, the others are queued.

What a job does, its starter says; here is only how it is run. States are kept for a day, a thousand of them at most,
and need not survive a power cut.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH105, PTH108, PTH123

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

import msgspec

from proxy.errors import NotFound, OverlayError, StorageError, StoreUnavailable
from proxy.storage.disk import translated
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks

T = TypeVar("T")

Kind: TypeAlias = Literal["purge", "verify", "warm"]
KEPT_FOR = timedelta(days=1)
KEPT_AT_MOST = 1000
WAITING_AT_MOST = 50
"""Jobs of one process that have not ended: what they are to do is held in memory."""
ERRORS_AT_MOST = 1000
_WRITTEN_EVERY = 0.25
"""Seconds between writings of how far a job is."""
_PAUSES = (0.02, 1.0)
"""Seconds between looks whether a queued job may begin: at first, and at most."""
_ID = re.compile(r"[0-9a-f]{16}\Z", re.ASCII)
_LOST = "the worker that ran it has ended"

_log = logging.getLogger(__name__)


class State(StrEnum):
    """How a job stands. It has failed where a command that does the same would end with status 1."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


_ENDED = frozenset({State.DONE, State.FAILED})


class Job(msgspec.Struct, kw_only=True):
    """A job as its file describes it; its fields are the shape of contract 12.

    Attributes:
        done, total: files, or names and files; 0 as long as nothing is known.
        errors: sentences.
    """

    id: str
    state: State = State.QUEUED
    done: int = 0
    total: int = 0
    errors: list[str] = []

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


class Progress:
    """How far a job is, as its work tells. For one thread at a time."""

    def __init__(self, job: Job, write: Callable[[Job], None], stopping: asyncio.Event) -> None:
        self._job = job
        self._write = write
        self._stopping = stopping
        self._written = time.monotonic()

    @property
    def is_stopping(self) -> bool:
        """The server ends: work in a thread, which cannot be cancelled, is to break off."""
        return self._stopping.is_set()

    def tell(self, done: int, total: int) -> None:
        """Note how much is done, of how much."""
        self._job.done, self._job.total = done, total
        if time.monotonic() - self._written >= _WRITTEN_EVERY:
            self._write(self._job)
            self._written = time.monotonic()


Work: TypeAlias = Callable[[Progress], Awaitable[Sequence[str]]]
"""Does a job and returns what went wrong, in sentences."""


class Jobs:
    """The jobs of an instance as one process sees them. It belongs to one event loop."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        """Take a prepared layout; touches neither disk nor loop."""
        self._layout = layout
        self._locks = locks
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def start(self, kind: Kind, work: Work) -> str:
        """Have `work` done as soon as no other of its kind is under way; return the job's id.

        Raises:
            StoreUnavailable: too many wait already, or the server is stopping.
            StorageError: the job's state cannot be written; `DiskFull` if there is no room.
        """
        await asyncio.to_thread(self._drop_old)
        if self._stopping.is_set() or len(self._tasks) >= WAITING_AT_MOST:
            raise StoreUnavailable("too many jobs are waiting", hint="try again when some have ended")
        job = Job(id=secrets.token_hex(8))
        while not self._locks.try_hold(_lock(job.id)):
            job = Job(id=secrets.token_hex(8))
        try:
            self._write(job)
            task = asyncio.create_task(self._run(job, kind, work), name=f"{kind} job {job.id}")
        except BaseException:
            self._locks.release(_lock(job.id))
            raise
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job.id

    def find(self, job_id: str) -> Job:
        """The job with this id, whichever worker runs it, as it stands now.

        Raises:
            NotFound: there is none, or none any more.
        """
        job = self._read(job_id)
        if job.has_ended or not self._locks.try_hold(_lock(job_id)):
            return job
        try:
            # Its worker writes how it ended before it lets go.
            job = self._read(job_id)
        finally:
            self._locks.release(_lock(job_id))
        if not job.has_ended:
            job.state, job.errors = State.FAILED, [*job.errors, _LOST]
        return job

    async def close(self) -> None:
        """Break off what is under way; returns when nothing of it goes on."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, job: Job, kind: Kind, work: Work) -> None:
        """Wait for the job's turn, do it, and write down how it ended."""
        try:
            await self._turn(kind)
            try:
                job.state = State.RUNNING
                self._tell(job)
                errors = await work(Progress(job, self._tell, self._stopping))
            finally:
                self._locks.release(_turn(kind))
        except OverlayError as error:
            errors = [str(error)]
        except asyncio.CancelledError:
            errors = ["the server was stopped"]
            raise
        except Exception:  # noqa: BLE001 - it is logged, and told as a failure
            # The outermost border, as for a request.
            _log.exception("a %s job failed", kind)
            errors = ["internal error; the log has the details"]
        finally:
            job.state = State.FAILED if errors else State.DONE
            left = len(errors) - ERRORS_AT_MOST
            job.errors = [*errors[:ERRORS_AT_MOST], *([f"and {left} more"] if left > 0 else [])]
            self._tell(job)
            self._locks.release(_lock(job.id))
            _log.info(
                "%s job %s: %s, %d of %d, %d errors",
                kind,
                job.id,
                job.state,
                job.done,
                job.total,
                len(errors),
            )

    async def _turn(self, kind: Kind) -> None:
        pause, longest = _PAUSES
        while not self._locks.try_hold(_turn(kind)):
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _tell(self, job: Job) -> None:
        """Write how a job stands, if that is possible: trouble with it is none of the job's."""
        try:
            self._write(job)
        except StorageError as error:
            _log.warning("%s", error)

    def _write(self, job: Job) -> None:
        path = self._layout.job(job.id)
        with translated("the state of a job cannot be written"):
            # Not synced: it costs some 50 µs, also on the event loop, and what is lost with the power has no worker.
            with open(f"{path}.new", "wb", opener=_closed_to_others) as file:
                file.write(msgspec.json.encode(job))
            os.replace(f"{path}.new", path)

    def _read(self, job_id: str) -> Job:
        try:
            if _ID.match(job_id) is None:
                raise FileNotFoundError
            with open(self._layout.job(job_id), "rb") as file:
                return msgspec.json.decode(file.read(), type=Job)
        except (OSError, msgspec.MsgspecError, UnicodeError):
            raise NotFound(f"there is no job {job_id[:40]!a}", hint="jobs are kept for a day") from None

    def _drop_old(self) -> None:
        """Forget the jobs whose state was last written too long ago, and the oldest of too many."""
        with translated("the states of jobs cannot be read"), os.scandir(self._layout.jobs) as entries:
            ages = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
        too_many = len(ages) - KEPT_AT_MOST + 1
        oldest = time.time() - KEPT_FOR.total_seconds()
        for place, (written, path) in enumerate(ages):
            if place >= too_many and written >= oldest:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)


async def in_thread(act: Callable[[], T]) -> T:
    """Run `act` in a thread. Cancelled, it waits for the thread all the same: nothing goes on behind its back."""
    running = asyncio.ensure_future(asyncio.to_thread(act))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        # Why it broke off is known.
        running.exception()
        raise


def _lock(job_id: str) -> str:
    return f"job:{job_id}"


def _turn(kind: Kind) -> str:
    return f"jobs:{kind}"


def _closed_to_others(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
