"""What lies on disk of an upstream file while it arrives: its bytes so far, and a head that tells others of them.

A transfer has one leader in the instance: whoever holds the lock of the partial file. It alone writes; everybody
else, in whichever process, looks. The size of the file is the progress; the head beside it says how long the file
will be, that it was verified, or what went wrong. A head is replaced whole, so nobody reads half of one. One that
outlives its leader names a file that somebody may go on with.

Two files of one path are told apart by the head's `generation`: bytes of one are never followed by bytes of another.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH105, PTH108, PTH116, PTH119

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from proxy.errors import (
    ContentMismatch,
    DiskFull,
    OverlayError,
    StorageError,
    StoreUnavailable,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.storage.disk import place, translated, write_all
from proxy.storage.layout import Layout

PIECE = 1 << 20
"""Bytes that are hashed or written in one step."""

_WRONG_SHA256 = "its sha256 is not the one that the page names"
_WRONG_BLAKE2B = "its BLAKE2b-256 is not the one in its address"
_HEAD_AT_MOST = 4096
_MESSAGE_AT_MOST = 500
_MANY_PIECES = 64
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What deleting something helps against."""
_TOLD: tuple[type[OverlayError], ...] = (
    ContentMismatch,
    UpstreamTimeout,
    UpstreamUnreachable,
    UpstreamBusy,
    UpstreamFaulty,
    UpstreamError,
    DiskFull,
    StoreUnavailable,
    StorageError,
)
"""The errors that a head can tell, the narrower before the wider."""


@dataclass(frozen=True, slots=True)
class Promised:
    """The digests that a file must have, as far as its page and its address name them; lower-case hex."""

    sha256: str | None
    blake2b: str | None

    @property
    def is_any(self) -> bool:
        return self.sha256 is not None or self.blake2b is not None


class Digests:
    """The digests of what has come so far; BLAKE2b only where one was promised. One call at a time."""

    def __init__(self, promised: Promised) -> None:
        self._promised = promised
        self._sha256 = hashlib.sha256()
        self._blake2b = None if promised.blake2b is None else hashlib.blake2b(digest_size=32)

    def update(self, content: bytes) -> None:
        self._sha256.update(content)
        if self._blake2b is not None:
            self._blake2b.update(content)

    def take_start(self, descriptor: int, length: int) -> None:
        """Take in the first `length` bytes of an open file, or as many as there are. Not for the event loop."""
        for start in range(0, length, PIECE):
            self.update(os.pread(descriptor, min(PIECE, length - start), start))

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def fault(self) -> str | None:
        """What is wrong with them, as a clause; None if they are those promised."""
        if self._promised.sha256 not in {None, self.sha256()}:
            return _WRONG_SHA256
        if self._blake2b is not None and self._blake2b.hexdigest() != self._promised.blake2b:
            return _WRONG_BLAKE2B
        return None


class Trouble(msgspec.Struct, frozen=True):
    """Why a transfer came to nothing, and when (seconds since 1970): an error that travels between processes."""

    kind: str
    message: str
    hint: str
    at: float
    retry_after: int | None = None

    @classmethod
    def of(cls, error: OverlayError) -> Trouble:
        """Describe `error`. Its words go to clients, so they hold neither paths nor secrets already."""
        kind = next((told for told in _TOLD if isinstance(error, told)), StorageError)
        retry_after = error.retry_after if isinstance(error, UpstreamBusy) else None
        return cls(kind.__name__, error.message[:_MESSAGE_AT_MOST], error.hint, time.time(), retry_after)

    def error(self, upstream: str) -> OverlayError:
        """The error once more, as of a transfer from `upstream`."""
        kind = next((told for told in _TOLD if told.__name__ == self.kind), StorageError)
        if issubclass(kind, UpstreamBusy):
            return kind(upstream, self.message, retry_after=self.retry_after)
        if issubclass(kind, UpstreamError):
            return kind(upstream, self.message, hint=self.hint)
        return kind(self.message, hint=self.hint)


class Head(msgspec.Struct, frozen=True):
    """What a leader says of its partial file.

    Attributes:
        generation: tells this file from every other that lay or will lie at its path.
        inode: its number in the file system; it keeps that when it is renamed into place.
        size: bytes of the whole file, as far as that is known.
        sha256: its digest, once all of it is on disk and verified.
        trouble: why nothing comes of it.
    """

    generation: str
    inode: int
    size: int | None
    sha256: str | None = None
    trouble: Trouble | None = None


class Partial:
    """The place of one arriving file. Looking is for everybody, changing for the holder of `lock`."""

    def __init__(self, layout: Layout, key: str, source: str) -> None:
        """Raises StorageError if `key` is not the key of a file."""
        self.path = layout.partial_file(key, source)
        self._head = layout.partial_head(self.path)
        self.lock = lock_of(self.path)

    def size(self) -> int | None:
        """Bytes that are there; None if there is no such file."""
        try:
            return os.stat(self.path).st_size
        except OSError:
            return None

    def head(self) -> Head | None:
        """What its leader says, or said; None if nothing."""
        try:
            descriptor = os.open(self._head, os.O_RDONLY)
        except OSError:
            return None
        try:
            return msgspec.json.decode(os.read(descriptor, _HEAD_AT_MOST), type=Head)
        except (OSError, msgspec.MsgspecError, UnicodeError):
            return None
        finally:
            os.close(descriptor)

    def say(self, head: Head) -> None:
        """Replace the head. Where it cannot be written nothing is said: others then wait for the end."""
        aside = f"{self._head}.new"
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                # Not synced: after a power cut nobody is left to be told.
                write_all(descriptor, msgspec.json.encode(head))
            finally:
                os.close(descriptor)
            os.replace(aside, self._head)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside)

    def forget(self) -> None:
        """Take the head away."""
        with contextlib.suppress(OSError):
            os.unlink(self._head)

    def remove(self) -> None:
        """Take everything away."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.forget()


def lock_of(path: str) -> str:
    """The key of the lock whose holder leads the transfer into the partial file `path`."""
    return f"file:{os.path.basename(path)}"


class Sink:
    """A partial file in the hands of its leader: written and hashed in threads, one call at a time.

    Attributes:
        received: bytes that are on disk and in `digests`.
        inherited: how many of them another leader wrote, whose fault they may be.
        generation, inode: as in `Head`.
    """

    def __init__(
        self, path: str, promised: Promised, make_room: Callable[[int], bool], head: Head | None
    ) -> None:
        """Begin a new file, or go on with the one that `head` describes. Not for the event loop.

        Args:
            make_room: called where the disk is full, with `received`; True: it may take more now.

        Raises:
            FileNotFoundError: the file of `head` is not there any more.
            StorageError: the file cannot be kept; `DiskFull` if there is no room.
        """
        self._path = path
        self._make_room = make_room
        self.digests = Digests(promised)
        self.received = 0
        # A cancelled leader leaves its thread behind for a moment; closing must not overtake it.
        self._lock = threading.Lock()
        if head is None:
            with translated("an upstream file cannot be kept"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                self.inode = os.fstat(self._descriptor).st_ino
            self.generation = secrets.token_hex(8)
        else:
            self._go_on(head)
        self.inherited = self.received

    def _go_on(self, head: Head) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR)
        except OSError as error:
            raise FileNotFoundError from error
        state = os.fstat(self._descriptor)
        if state.st_ino != head.inode:
            self._close()
            raise FileNotFoundError
        with translated("an upstream file cannot be kept"):
            self.digests.take_start(self._descriptor, state.st_size)
        self.received = os.lseek(self._descriptor, state.st_size, os.SEEK_SET)
        self.inode, self.generation = head.inode, head.generation

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append `pieces`. Raises as the constructor."""
        if len(pieces) > _MANY_PIECES:
            pieces = [b"".join(pieces)]
        with self._lock, translated("an upstream file cannot be kept"):
            if self._descriptor < 0:
                return
            for piece in pieces:
                self.digests.update(piece)
            self._with_room(lambda: self._append(pieces))
            self.received += sum(map(len, pieces))

    def _append(self, pieces: Sequence[bytes]) -> None:
        # What a full disk took of an earlier try is written over with the same bytes.
        os.lseek(self._descriptor, self.received, os.SEEK_SET)
        for piece in pieces:
            write_all(self._descriptor, piece)

    def keep(self, target: str) -> None:
        """Sync and rename into place. Raises as the constructor."""
        with self._lock, translated("an upstream file cannot be kept"):
            self._with_room(lambda: os.fsync(self._descriptor))
            place(self._path, target)
            self._close()

    def _with_room(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            if error.errno not in _NO_SPACE or not self._make_room(self.received):
                raise
            step()

    def close(self) -> None:
        """Close it and leave on disk what is there, for another leader."""
        with self._lock:
            self._close()

    def discard(self) -> None:
        """Close and delete what has not been kept."""
        with self._lock:
            if self._descriptor >= 0:
                self._close()
                with contextlib.suppress(OSError):
                    os.unlink(self._path)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
