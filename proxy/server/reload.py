"""Loading the configuration anew: one function in which the command, the API, SIGHUP and the watcher end.

The file is read and compiled aside. Each worker makes an instance of it, ready but not in force. Then one of them
makes the data's namespaces those of the new configuration and puts its serial on the board: from that moment every
request, at every worker, begins with the new one. Whatever goes wrong before leaves the old one as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeAlias

from proxy.domain.access import Caller, CallerKind
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, OverlayError, Problem
from proxy.index.crew import COMMAND, Asker, Reloaded
from proxy.observe.logs import Logger
from proxy.storage.board import new_serial

Reader: TypeAlias = Callable[[], Snapshot]
"""Reads the configuration that this server was started with, as it is now. Blocks. Raises as `read_snapshot`."""

_LOOK = 2.0
"""Seconds between looks whether the file has changed."""
_AT_NEXT_START = "it takes effect at the next start"
_SIGNAL = Asker(Caller(CallerKind.OWNER, "SIGHUP"))
_WATCHER = Asker(Caller(CallerKind.OWNER, "watch_config"))


class Staff(Protocol):
    """Those who are to follow: one worker, or all that a supervisor has."""

    async def prepare(self, snapshot: Snapshot, serial: int) -> None:
        """Have an instance ready.

        Raises:
            ConfigError: it cannot be made.
        """

    async def switch(self, asker: Asker) -> None:
        """Put what was prepared into force; the audit tells who asked for it.

        Raises:
            ConfigError, StorageError: it cannot come into force, and has not.
        """

    async def follow(self) -> None:
        """Do what is to be done once it is in force; where nothing came of it, forget what was prepared."""


class Reloads:
    """Loads the configuration anew, one time after the other. Owned by one event loop.

    Attributes:
        turn: held meanwhile; also by whoever starts a worker, so that none misses a configuration.
    """

    def __init__(self, snapshot: Snapshot, read: Reader, staff: Staff, logger: Logger) -> None:
        """Take the configuration in force and how it is read."""
        self.turn = asyncio.Lock()
        self._snapshot = snapshot
        self._read = read
        self._staff = staff
        self._logger = logger
        self._asked: set[asyncio.Task[Reloaded]] = set()

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force."""
        return self._snapshot

    async def reload(self, asker: Asker = COMMAND) -> Reloaded:
        """Load the configuration anew. What comes of it is in the log, too; what came into force, in the audit."""
        async with self.turn:
            try:
                read = await asyncio.to_thread(self._read)
                snapshot, warnings = _with_what_stays(read, self._snapshot)
                await self._staff.prepare(snapshot, new_serial())
                await self._staff.switch(asker)
                self._snapshot = snapshot
            except ConfigError as error:
                return self._refused(error.problems)
            except OverlayError as error:
                return self._refused((Problem(self._snapshot.source, 0, "", str(error)),))
            finally:
                await self._staff.follow()
        for warning in warnings:
            self._logger.warning("a key of the configuration waits for a restart", path=warning.path)
        self._logger.info("the configuration was loaded anew", file=snapshot.source, digest=snapshot.digest)
        return Reloaded(warnings=warnings)

    def _refused(self, problems: tuple[Problem, ...]) -> Reloaded:
        for problem in problems:
            self._logger.error("the configuration was refused, the one before stays", problem=str(problem))
        return Reloaded(errors=problems)

    def reload_soon(self) -> None:
        """Load it anew, for whoever waits for no answer: a signal."""
        task = asyncio.create_task(self.reload(_SIGNAL))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def watch(self) -> None:
        """Load the file anew whenever it has changed, for as long as the configuration in force wants that."""
        seen = _state(self._snapshot.file)
        while True:
            await asyncio.sleep(_LOOK)
            found = _state(self._snapshot.file)
            if found != seen:
                # Before it is read: what is written meanwhile shows at the next look.
                seen = found
                if self._snapshot.server.watch_config:
                    await self.reload(_WATCHER)


def _with_what_stays(read: Snapshot, now: Snapshot) -> tuple[Snapshot, tuple[Problem, ...]]:
    """The new configuration with what a running process cannot change as it was, and a warning for each such key."""
    tls = read.server.tls if (read.server.tls is None) == (now.server.tls is None) else now.server.tls
    kept = {
        "storage.data_dir": read.data_dir != now.data_dir,
        "server.listen": read.server.listen != now.server.listen,
        "server.workers": read.server.workers != now.server.workers,
        "server.tls": tls != read.server.tls,
        "log": read.log != now.log,
    }
    server = replace(read.server, listen=now.server.listen, workers=now.server.workers, tls=tls)
    snapshot = replace(read, data_dir=now.data_dir, log=now.log, server=server)
    changed = (path for path, has_changed in kept.items() if has_changed)
    return snapshot, tuple(Problem(read.source, 0, path, _AT_NEXT_START) for path in changed)


def _state(file: str | None) -> tuple[int, int, int] | None:
    """What changes whenever the file does; None where there is none, as between an editor's two renames."""
    if file is None:
        return None
    with contextlib.suppress(OSError):
        found = os.stat(file)  # noqa: PTH116 - the path is the operator's own spelling
        return found.st_mtime_ns, found.st_size, found.st_ino
    return None
