"""Private bytes, kept under their sha256: the interface, and the one on disk.

Bytes come in two steps. They are streamed into an `Incoming`, hashed on the way and synced; then `keep` gives
them their name, which is quick and happens at most once per content. Under a name there is a whole file or
none, and never other bytes.

`keep`, `put_bytes` and `delete` belong inside `Database.change`: as one writer at a time runs, the deletion of
bytes that nobody names any more cannot take those that an upload is about to name. An object that no row
names, left by a crash, is garbage and never visible.
"""

# Paths are plain strings here: some are made and looked at for every file that is served.
# ruff: noqa: PTH108, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from typing import BinaryIO, Protocol, Self

from proxy.errors import NoSuchFile, StorageError
from proxy.storage.disk import free_space, place, sync_directory, translated, write_all
from proxy.storage.layout import Layout


class Incoming:
    """A file on local disk that is being received. Leaving its `with` block drops it unless it was kept.

    One thread at a time may write to it; `discard` may come at any time, and waits for what is going on.
    `sha256`, `blake2b` (256 bits) and `md5` are lower-case hex of the bytes so far, `size` counts them, `path`
    is where they lie.
    """

    def __init__(self, directory: str) -> None:
        """Begin a file of a random name in `directory`, which tells the process that receives it.

        Raises:
            DiskFull, StorageError: it cannot be made.
        """
        self.path = os.path.join(directory, f"{os.getpid()}-{secrets.token_hex(16)}")
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._blake2b = hashlib.blake2b(digest_size=32)
        self._md5 = hashlib.md5(usedforsecurity=False)
        # A cancelled upload leaves its thread behind for a moment. Closing must not overtake it: the number of
        # the descriptor may be another file's by then, a database's even.
        self._lock = threading.Lock()
        with translated("the bytes cannot be stored"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._descriptor: int | None = os.open(self.path, flags, 0o600)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def blake2b(self) -> str:
        return self._blake2b.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def is_finished(self) -> bool:
        """Whether everything is on disk and nothing more can be written."""
        return self._descriptor is None

    def write(self, chunk: bytes) -> None:
        """Append and hash `chunk`. About 1 MiB at once, in a thread: disk and hashes leave the interpreter free.

        Raises:
            DiskFull, StorageError: it cannot be written; only `discard` is left to do.
        """
        with self._lock, translated("the bytes cannot be stored"):
            if self._descriptor is None:
                raise StorageError("the bytes cannot be stored: they are complete already")
            write_all(self._descriptor, chunk)
        self._sha256.update(chunk)
        self._blake2b.update(chunk)
        self._md5.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """Have the bytes reach the disk; again does nothing.

        Raises:
            DiskFull, StorageError: they did not; only `discard` is left to do.
        """
        with self._lock:
            if self._descriptor is not None:
                with translated("the bytes cannot be stored"):
                    os.fsync(self._descriptor)
                self._close()

    def discard(self) -> None:
        """Drop the file where it still lies in its directory; does nothing once it was kept."""
        with self._lock:
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


class ObjectStore(Protocol):
    """Bytes by their sha256 (lower-case hex). Every method may raise `StorageError`.

    All but `size` are synchronous and, `path` apart, may wait for disk or network.
    """

    def incoming(self) -> Incoming:
        """Begin to receive bytes on local disk."""
        ...

    def keep(self, incoming: Incoming) -> str:
        """Keep finished bytes under their sha256, durably, and return it. Bytes kept already: the same again.

        The incoming file is used up.
        """
        ...

    def put_bytes(self, content: bytes) -> str:
        """Keep `content`, a small thing such as METADATA, and return its sha256."""
        ...

    async def size(self, digest: str) -> int | None:
        """Its size in bytes; None where there is none."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """Open it for reading; the caller closes. It stays readable when it is deleted meanwhile.

        Raises:
            NoSuchFile: there is none.
        """
        ...

    def path(self, digest: str) -> str | None:
        """The local file of it, for `sendfile`, where the store has such files; it need not exist."""
        ...

    def delete(self, digest: str) -> None:
        """Drop it, where it is."""
        ...

    def free_space(self) -> int:
        """Bytes that can still be received."""
        ...

    def clear_incoming(self, *, of_all: bool = False) -> None:
        """Drop what processes were receiving that have ended.

        Args:
            of_all: or any process. Only for the server, before it receives anything: numbers of processes that
                ended long ago may be others' by now.
        """
        ...


class DiskObjects:
    """`ObjectStore` in the data directory: `objects/ab/<sha256>`."""

    def __init__(self, layout: Layout) -> None:
        """Use a prepared data directory."""
        self._layout = layout

    def incoming(self) -> Incoming:
        return Incoming(self._layout.incoming)

    def keep(self, incoming: Incoming) -> str:
        if not incoming.is_finished:
            raise StorageError("the bytes cannot be kept before they are complete")
        digest = incoming.sha256
        with translated("the bytes cannot be kept"):
            # Also over an equal object: that is one step for all cases, and heals one that was damaged.
            place(incoming.path, self._layout.object(digest))
        return digest

    def put_bytes(self, content: bytes) -> str:
        with self.incoming() as incoming:
            incoming.write(content)
            incoming.finish()
            return self.keep(incoming)

    async def size(self, digest: str) -> int | None:
        # One stat of a local disk is cheaper than the way to a thread.
        try:
            with translated("the file cannot be read"):
                return os.stat(self._layout.object(digest)).st_size
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def open(self, digest: str) -> BinaryIO:
        path = self._layout.object(digest)
        try:
            with translated("the file cannot be read"):
                return open(path, "rb")
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NoSuchFile("there is no such file") from error
            raise

    def path(self, digest: str) -> str | None:
        return self._layout.object(digest)

    def delete(self, digest: str) -> None:
        path = self._layout.object(digest)
        with translated("the file cannot be deleted"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            sync_directory(os.path.dirname(path))

    def free_space(self) -> int:
        return free_space(self._layout.incoming)

    def clear_incoming(self, *, of_all: bool = False) -> None:
        with translated("unfinished uploads cannot be dropped"), os.scandir(self._layout.incoming) as entries:
            for entry in entries:
                if of_all or not _is_alive(entry.name.partition("-")[0]):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)


def _is_alive(process: str) -> bool:
    """Whether there is a process of this number; of what is no number nobody can tell, so it counts as one."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True
