"""Who is the leader for a key in this instance, between threads and between processes.

Within a process a dict says it, between processes a byte of `run/locks` locked with `fcntl` (POSIX record
locks): 1.6 µs, and the kernel lets go when a process dies, however it dies. Three properties of POSIX locks
rule this module:

- They belong to the process, not to the descriptor. So one `Locks` serves a process for all its life, and a
  child made by fork has to make its own.
- Closing *any* descriptor of the file drops all of the process's locks on it. So nobody else opens
  `run/locks`, and the same holds for SQLite's files, which SQLite locks in the same way.
- The kernel's deadlock detection thinks in processes and would refuse sound waits of two threads. So waiting
  is asking again, not `F_SETLKW`.

A key stands for the byte at its hash. Two keys on one byte cost needless waiting, never a wrong leader. The
keys that are waited for while others are held (`serve`, `write:…`) have ranges of their own, so that not even
a collision can make a thread wait for itself.
"""

# Paths are plain strings here: some are made and looked at for every file that is served.
# ruff: noqa: PTH108, PTH123

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from proxy.errors import StoreUnavailable
from proxy.storage.disk import translated, write_whole
from proxy.storage.layout import Layout

SERVE = "serve"
"""Held by the server of a data directory for as long as it runs."""

_FIRST_ORDINARY = 1 << 16
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.005

# struct flock, natively aligned; for F_GETLK, which `fcntl` does not wrap.
_DARWIN = sys.platform == "darwin"
_FLOCK = struct.Struct("@qqihh" if _DARWIN else "@hhqqi")


class Locks:
    """The locks of one instance as this process sees them. Safe for threads; no call waits but `hold`."""

    def __init__(self, layout: Layout) -> None:
        """Open the lock file of a prepared data directory.

        Raises:
            StorageError: it cannot be opened.
        """
        self._layout = layout
        self._held: dict[int, str] = {}
        self._freed = threading.Condition()
        with translated("the lock file cannot be opened"):
            self._descriptor = os.open(layout.locks, os.O_RDWR | os.O_CREAT, 0o600)

    def try_hold(self, key: str) -> bool:
        """Hold `key` if nobody does, this process included. Returns at once; True means: `release` it later.

        Raises:
            StoreUnavailable: the file system cannot lock.
        """
        offset = _offset(key)
        with self._freed:
            if offset in self._held or not self._lock(offset):
                return False
            self._held[offset] = key
            return True

    def hold(self, key: str, timeout: timedelta) -> None:
        """Wait until `key` is held by this thread. For the writer, not for the event loop.

        Raises:
            StoreUnavailable: others held it for all of `timeout`.
        """
        deadline = time.monotonic() + timeout.total_seconds()
        offset = _offset(key)
        with self._freed:
            if not self._freed.wait_for(lambda: offset not in self._held, timeout.total_seconds()):
                raise self._busy(key)
            self._held[offset] = key
        # The place within the process is taken; what follows contends with other processes alone.
        try:
            won = self._contend(offset, deadline)
        except BaseException:
            self._forget(offset)
            raise
        if not won:
            self._forget(offset)
            raise self._busy(key)

    @contextlib.contextmanager
    def holding(self, key: str, timeout: timedelta) -> Iterator[None]:
        """`hold` for the length of a `with` block."""
        self.hold(key, timeout)
        try:
            yield
        finally:
            self.release(key)

    def release(self, key: str) -> None:
        """Let go of `key`. Any thread of the process may do it; after `close` there is nothing left to do.

        Raises:
            ValueError: this process does not hold it, which is a fault of the caller.
        """
        offset = _offset(key)
        with self._freed:
            if self._descriptor < 0:
                return
            if self._held.get(offset) != key:
                raise ValueError(f"{key} is not held")
            # First between processes, then within: the other order would let a thread of ours lock the
            # byte anew and this call unlock it.
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, offset)
            del self._held[offset]
            self._freed.notify_all()

    def holder(self, key: str) -> int | None:
        """The id of the process that holds `key`, this one included.

        None: nobody does, or the holder has no number here (another container).
        """
        offset = _offset(key)
        with self._freed:
            if self._held.get(offset) == key:
                return os.getpid()
            if self._descriptor < 0:
                return None
            return _holder(self._descriptor, offset)

    def hold_serve(self) -> None:
        """Become the one server of this data directory, until `close` or the end of the process.

        Raises:
            StoreUnavailable: another process is; the message names its process id where it is known.
        """
        if not self.try_hold(SERVE):
            pid = self.holder(SERVE) or self._written_pid()
            which = f" (process {pid})" if pid else ""
            raise StoreUnavailable(f"another pypi-overlay serves this data directory{which}")
        with translated("the process id cannot be written"):
            write_whole(self._layout.serve_pid, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        """Let go of everything. Holding anything afterwards is refused."""
        with self._freed:
            if self._held.get(_offset(SERVE)) == SERVE:
                with contextlib.suppress(OSError):
                    os.unlink(self._layout.serve_pid)
            self._held.clear()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._freed.notify_all()

    def _lock(self, offset: int) -> bool:
        if self._descriptor < 0:
            raise StoreUnavailable("the data directory is closed")
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return False
            raise StoreUnavailable(
                "the file system of the data directory cannot lock files", hint="use a local disk"
            ) from error
        return True

    def _contend(self, offset: int, deadline: float) -> bool:
        pause = _FIRST_PAUSE
        while not self._lock(offset):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return True

    def _forget(self, offset: int) -> None:
        with self._freed:
            self._held.pop(offset, None)
            self._freed.notify_all()

    def _busy(self, key: str) -> StoreUnavailable:
        pid = self.holder(key)
        which = f" by process {pid}" if pid and pid != os.getpid() else ""
        return StoreUnavailable(f"the data directory is being changed{which}", hint="try again in a moment")

    def _written_pid(self) -> int | None:
        # Read only while the lock is known to be held, so the number is never a stale one.
        try:
            with open(self._layout.serve_pid, encoding="ascii") as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return None


def _offset(key: str) -> int:
    """The byte of `key`: 0 for `serve`, then a range for writers, then all others over 62 bits."""
    if key == SERVE:
        return 0
    number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    if key.startswith("write:"):
        return 1 + number % (_FIRST_ORDINARY - 1)
    return _FIRST_ORDINARY + (number >> 2) % ((1 << 62) - _FIRST_ORDINARY)


def _holder(descriptor: int, offset: int) -> int | None:
    if _DARWIN:
        answer = _FLOCK.unpack(
            fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(offset, 1, 0, fcntl.F_WRLCK, os.SEEK_SET))
        )
        kind, pid = answer[3], answer[2]
    else:
        answer = _FLOCK.unpack(
            fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))
        )
        kind, pid = answer[0], answer[4]
    return None if kind == fcntl.F_UNLCK or pid <= 0 else int(pid)
