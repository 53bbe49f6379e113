"""Archives of strangers are read in processes of their own, within limits: `Sandbox`.

What is hostile in an archive may at worst break the process that reads it, `confined`; then that archive is
refused, and the next one gets a new process. A process is started when it is first needed, kept for the next
archive, and ended when none came for a while. What cannot be checked is never taken for sound.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec

from proxy.archive.confined import HEAD, OUT_OF_MEMORY, READY, Job, Reply, decode_reply, encode
from proxy.archive.inspect import Inspected, budget_for
from proxy.domain.filenames import Distribution
from proxy.errors import InvalidArchive, InvalidVersion, StorageError, StoreUnavailable

MEMORY = 384 << 20
"""Bytes that a reading process may map; it begins with some 25 MiB."""
IDLE = timedelta(seconds=60)
"""How long a process waits for the next archive."""

_READERS = 2
"""Archives that are read at once: one that takes its time does not hold up all others."""
_START_SECONDS = 20.0
_GRACE = timedelta(seconds=5)
_MAX_REPLY = 64 << 20
# Neither the working directory nor the environment nor a `.pth` file has a say in what is imported.
_OPTIONS = ("-I", "-S")
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from proxy.archive.confined import main; main()"
)
_ENVIRONMENT = ("LD_LIBRARY_PATH",)
"""All that a Python may need of it to start at all."""

_log = logging.getLogger(__name__)


def time_for(size: int) -> timedelta:
    """How long an archive of `size` bytes may keep a process busy: somewhat longer than that gives itself."""
    return budget_for(size) + _GRACE


class Sandbox:
    """Reads uploaded archives in confined processes.

    Args:
        memory: bytes that each may map.
        idle: after so long without work a process is ended.
        time_for: the time, by the clock on the wall, that an archive of so many bytes may take.
    """

    def __init__(
        self,
        *,
        memory: int = MEMORY,
        idle: timedelta = IDLE,
        time_for: Callable[[int], timedelta] = time_for,
    ) -> None:
        self._memory = memory
        self._rest_seconds = idle.total_seconds()
        self._time_for = time_for
        self._places = asyncio.Semaphore(_READERS)
        self._readers: set[Process] = set()
        self._idle: dict[Process, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def inspect(self, path: str | os.PathLike[str], distribution: Distribution) -> Inspected:
        """As `archive.inspect.inspect`, elsewhere. Waits while others are read.

        Raises:
            InvalidArchive: as there; or reading it took too long, took too much memory or broke the process.
            StorageError: the file cannot be read.
            StoreUnavailable: no process can be started.
        """
        async with self._places:
            seconds = self._time_for(_size_of(path)).total_seconds()
            job = Job(os.fsencode(_absolute(path)), distribution.filename, seconds)
            reader = self._take()
            if reader is not None:
                try:
                    return await self._ask(reader, job)
                except _Broken as broken:
                    # It may have been ended while it lay idle, so that says nothing of this archive.
                    _log.info("a process that reads archives is replaced: %s", broken)
            try:
                return await self._ask(await self._start(), job)
            except _Broken as broken:
                if self._is_closed:
                    raise _stopping() from broken
                _log.warning("an archive broke the process that read it: %s", broken)
                raise InvalidArchive("the archive cannot be read: it breaks its reader") from broken

    async def close(self) -> None:
        """End all processes. What is being read is refused as `StoreUnavailable`."""
        self._is_closed = True
        for reader in tuple(self._readers):
            if reader in self._idle:
                self._end(reader)
            else:
                _kill(reader)
        # Whoever waits for one of the others sees that it ended, and gives its place back.
        for _ in range(_READERS):
            await self._places.acquire()
        for _ in range(_READERS):
            self._places.release()
        await asyncio.gather(*self._ending)

    def _take(self) -> Process | None:
        """The process that worked last, if there is one and it lives."""
        while self._idle:
            reader, timer = self._idle.popitem()
            timer.cancel()
            if reader.returncode is None and reader.stdin is not None and not reader.stdin.is_closing():
                return reader
            self._end(reader)
        return None

    async def _start(self) -> Process:
        """A new process that is ready for work."""
        if self._is_closed:
            raise _stopping()
        # The last is where this package lies, should it have been found by other means than the path.
        path = "\n".join([*map(os.path.abspath, sys.path), str(Path(__file__).parents[2])])
        try:
            reader = await asyncio.create_subprocess_exec(
                sys.executable,
                *_OPTIONS,
                "-c",
                _PROGRAM,
                str(self._memory),
                path,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        except OSError as error:
            raise _unavailable(str(error)) from error
        self._readers.add(reader)
        greeting: bytes | None = None
        try:
            async with asyncio.timeout(_START_SECONDS):
                greeting = await _receive(reader)
        except (TimeoutError, _Broken) as error:
            if self._is_closed:
                raise _stopping() from error
            raise _unavailable(str(error) or "it takes too long to start") from error
        finally:
            if greeting != READY:
                self._end(reader)
        if greeting != READY:
            raise _unavailable(str(_Broken()))
        return reader

    async def _ask(self, reader: Process, job: Job) -> Inspected:
        """Have `reader` do `job`, and keep it where it is fit for another.

        Raises:
            _Broken: it ended, or said what makes no sense.
        """
        is_fit = False
        try:
            async with asyncio.timeout(job.seconds):
                reply = await _exchange(reader, job)
            is_fit = not self._is_closed
        except TimeoutError as error:
            raise InvalidArchive("the archive takes too long to read") from error
        except _Broken as broken:
            if broken.status == OUT_OF_MEMORY:
                raise InvalidArchive("the archive takes too much memory to read") from broken
            raise
        finally:
            if is_fit:
                self._rest(reader)
            else:
                self._end(reader)
        if reply.said is not None:
            return reply.said
        raise (StorageError if reply.is_storage else InvalidArchive)(reply.message, hint=reply.hint)

    def _rest(self, reader: Process) -> None:
        loop = asyncio.get_running_loop()
        self._idle[reader] = loop.call_later(self._rest_seconds, self._end, reader)

    def _end(self, reader: Process) -> None:
        """Kill the process, which nobody waits for, and see it off in a task of its own."""
        if reader not in self._readers:
            return
        self._readers.discard(reader)
        if (timer := self._idle.pop(reader, None)) is not None:
            timer.cancel()
        _kill(reader)
        task = asyncio.create_task(_see_off(reader))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _Broken(Exception):
    """A process ended, with `status`, or does not speak as agreed."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__("it makes no sense" if status is None else f"it ended with status {status}")
        self.status = status


def _absolute(path: str | os.PathLike[str]) -> str:
    """The path as the processes need it, whose working directory is another."""
    return str(Path(path).absolute())


def _size_of(path: str | os.PathLike[str]) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise StorageError("the uploaded file cannot be read") from error


async def _exchange(reader: Process, job: Job) -> Reply:
    assert reader.stdin is not None  # noqa: S101 - it was asked for as a pipe
    try:
        reader.stdin.write(encode(job))
        await reader.stdin.drain()
    except ConnectionError as error:
        raise _Broken(await reader.wait()) from error
    try:
        return decode_reply(await _receive(reader))
    except (msgspec.DecodeError, InvalidVersion) as error:
        raise _Broken from error


async def _receive(reader: Process) -> bytes:
    """The next message of the process."""
    assert reader.stdout is not None  # noqa: S101 - it was asked for as a pipe
    try:
        (size,) = HEAD.unpack(await reader.stdout.readexactly(HEAD.size))
        if size > _MAX_REPLY:
            raise _Broken
        return await reader.stdout.readexactly(size)
    except asyncio.IncompleteReadError as error:
        raise _Broken(await reader.wait()) from error


def _kill(reader: Process) -> None:
    """End a process, which has nothing to lose."""
    if reader.returncode is None:
        reader.kill()


async def _see_off(reader: Process) -> None:
    """Wait until a killed process and its pipes are gone."""
    if reader.stdin is not None and reader.stdout is not None:
        reader.stdin.close()
        await reader.stdout.read()
    await reader.wait()


def _stopping() -> StoreUnavailable:
    return StoreUnavailable("the server is stopping")


def _unavailable(why: str) -> StoreUnavailable:
    _log.error("no process to read archives can be started: %s", why)
    return StoreUnavailable("archives cannot be checked now", hint="the server's log says why")
