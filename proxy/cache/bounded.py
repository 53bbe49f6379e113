"""Files that are made of what somebody else wrote, in a process of its own: both ends of that process.

Reading and sorting much of it takes seconds of Python, which in a thread would hold up every request of the process;
and what it reads may be hostile, so it has a limit of memory and of time. An order goes in on standard input, as
JSON; what was made, or in one clause why nothing was, comes back on standard output, and the rest by the exit status.

What is made, and of what, is for `cache.names_file` and `cache.advisories_file` to say: each is such a program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import NamedTuple

import msgspec

REFUSED = 3
"""Exit status of the process where what it read is unusable; standard output says why in one clause."""
UNWRITABLE = 4
"""Exit status of the process where the file cannot be written."""

_MEMORY = 2 << 30
_SECONDS = 300
_NICENESS = 10


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: its exit status; below 0 where a signal ended it.
        said: its standard output.
        complaint: the last line of its standard error.
    """

    status: int
    said: bytes
    complaint: str


async def ordered(module: str, order: msgspec.Struct) -> Ended:
    """Have the program `module` carry out `order`; it is killed where this is cancelled.

    Raises:
        OSError: no process can be started.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await process.communicate(msgspec.json.encode(order))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None  # noqa: S101 - it has ended
    return Ended(process.returncode, said, complaint.decode(errors="replace").strip().rpartition("\n")[2])


def bind() -> None:
    """Take on the limits: the first that such a program does."""
    import resource

    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
