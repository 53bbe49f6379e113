"""Durable steps on a local disk, and what the operating system says when they fail.

A file that others may see is written aside, synced and renamed into place; the rename is made durable by
syncing the directory. So a reader, also after kill -9 or a power cut, meets a whole file or none. `OSError`
becomes an exception of `proxy.errors` here and nowhere else in this package.
"""

# Paths are plain strings here: some are made and looked at for every file that is served.
# ruff: noqa: PTH103, PTH105, PTH108, PTH112, PTH118, PTH120

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import TypeAlias

from proxy.errors import DiskFull, StorageError

Stamp: TypeAlias = tuple[int, int, int]
"""Tells one file from another of the same name: time of change, size, inode."""

# EFBIG: a limit on the size of files (ulimit, quota on some file systems) is as good as no space.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an `OSError` of the enclosed steps into an exception of ours.

    Args:
        what: what could not be done, as the beginning of a sentence: `the upload cannot be stored`.

    Raises:
        DiskFull: no space, quota or permitted file size left.
        StorageError: any other failure; the message names its kind but no path.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"{what}: no space is left on the server") from error
        raise StorageError(f"{what} ({error.strerror or type(error).__name__})") from error


def sync_directory(path: str) -> None:
    """Make renames, creations and deletions in the directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte of `content`; one `write` may take only a part."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def place(source: str, target: str) -> None:
    """Rename the synced file `source` to `target`, durably; an existing `target` is replaced at once.

    Makes the directory of `target` if it is missing. Raises `OSError`: wrap it in `translated`.
    """
    directory = os.path.dirname(target)
    if not os.path.isdir(directory):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        sync_directory(os.path.dirname(directory))
    os.replace(source, target)
    sync_directory(directory)


def write_whole(path: str, content: bytes) -> None:
    """Write the file `path` (mode 0600) so that readers see the old one or the new one, whole and durable.

    Raises `OSError`: wrap it in `translated`.
    """
    # The dot keeps a leftover of a killed process apart from every name that something is looked up by.
    aside = os.path.join(os.path.dirname(path), f".{secrets.token_hex(16)}")
    with _written_aside(aside) as descriptor:
        write_all(descriptor, content)
        os.fsync(descriptor)
        place(aside, path)


def write_unsynced(path: str, aside: str, *pieces: bytes) -> os.stat_result:
    """Write the file `path` (mode 0600) so that readers see the old one or the new one, whole.

    Not durable: after a power cut it may be torn. For what is checked when it is read and can be had again.

    Args:
        path: its directory is made if it is missing.
        aside: where it is written first: an unused path on the same file system.

    Returns:
        How the new file is described now; renamed, its stamp stays.

    Raises `OSError`.
    """
    with _written_aside(aside) as descriptor:
        for piece in pieces:
            write_all(descriptor, piece)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        state = os.fstat(descriptor)
        os.replace(aside, path)
    return state


@contextlib.contextmanager
def _written_aside(path: str) -> Iterator[int]:
    """A new file for the length of a block, which writes it and renames it; it is gone where that fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def stamp_of(state: os.stat_result) -> Stamp:
    """The stamp of a file that `os.stat` or `os.fstat` described."""
    return state.st_mtime_ns, state.st_size, state.st_ino


def free_space(path: str) -> int:
    """Bytes that may still be written to the file system of `path` by this user."""
    with translated("the free space cannot be read"):
        room = os.statvfs(path)
    return room.f_bavail * room.f_frsize
