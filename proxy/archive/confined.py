"""The program that `sandbox` runs: a process that reads archives, one after the other, and may do nothing else.

It takes jobs on standard input and answers on standard output, each a message behind its length; it ends when
its input does, so it cannot outlive the server. Whatever an archive might make of it, it may write no file, start
no process, take no more memory and processor time than it was given. Imports little, as it starts while somebody
waits, and nothing that opens a connection.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import struct
import sys
import time
from typing import Any

import msgspec

from proxy.archive.inspect import Inspected, inspect
from proxy.domain.filenames import parse_distribution
from proxy.domain.versions import parse_version
from proxy.errors import InvalidArchive, StorageError

HEAD = struct.Struct(">L")
"""What stands before each message: its length in bytes."""
READY = b""
"""The first message, once imports are done and limits set."""
OUT_OF_MEMORY = 3
"""The exit status of a process that was refused memory: what is left of it is not to be relied on."""

_OPEN_FILES = 16
_NICENESS = 5
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


class Job(msgspec.Struct, frozen=True):
    """An archive to read: its path, the filename that it was published under, and the seconds that it may take."""

    path: bytes
    filename: str
    seconds: float


class Reply(msgspec.Struct, frozen=True):
    """What came of a job: `said`, or else the message of an `InvalidArchive`, or of a `StorageError`."""

    said: Inspected | None = None
    message: str = ""
    hint: str = ""
    is_storage: bool = False


def encode(message: Job | Reply) -> bytes:
    """The bytes of a message behind their length."""
    content = msgspec.msgpack.encode(message, enc_hook=str)
    return HEAD.pack(len(content)) + content


def decode_reply(content: bytes) -> Reply:
    """The inverse of `encode`.

    Raises:
        msgspec.DecodeError, InvalidVersion: it is none.
    """
    return msgspec.msgpack.decode(content, type=Reply, dec_hook=_version)


def _version(_: type[Any], text: Any) -> object:
    return parse_version(str(text))


def main() -> None:
    """Read jobs until there are no more. The one argument is the memory that may be taken, in bytes."""
    _confine(int(sys.argv[1]))
    try:
        _write(HEAD.pack(len(READY)) + READY)
        while (content := _read_message()) is not None:
            _write(encode(_answer(msgspec.msgpack.decode(content, type=Job))))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _confine(memory: int) -> None:
    """Give up what reading archives does not need. Where a system refuses a limit, the others have to do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # They are for the server, which may still want an answer; it closes the input when it does not.
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.nice(_NICENESS)
    for name, value in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_NOFILE", _OPEN_FILES),
    ):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def _answer(job: Job) -> Reply:
    try:
        _limit_processor_time(job.seconds)
        return Reply(said=inspect(os.fsdecode(job.path), parse_distribution(job.filename)))
    except InvalidArchive as error:
        return Reply(message=error.message, hint=error.hint)
    except StorageError as error:
        return Reply(message=error.message, hint=error.hint, is_storage=True)


def _limit_processor_time(seconds: float) -> None:
    """From now on; for what never comes to look at the clock."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 1, hard))


def _read_message() -> bytes | None:
    head = _read(HEAD.size)
    return None if head is None else _read(*HEAD.unpack(head))


def _read(size: int) -> bytes | None:
    """`size` bytes of standard input; None where it ends before."""
    content = b""
    while len(content) < size:
        piece = os.read(0, size - len(content))
        if not piece:
            return None
        content += piece
    return content


def _write(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(1, view) :]
