"""Reads the configuration in a process of its own, which hands over the compiled snapshot and is gone.

What reading takes (a YAML parser, a schema's models) would cost a serving process 15 MB for all its life, and much
time on an event loop at each reload. So neither a worker nor a supervisor imports it.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, StoreUnavailable

_SECONDS = 120.0
"""How long reading may take; 16 MiB of YAML take some ten."""
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from proxy.server.reading import main; main()"


def python_program(program: str, *arguments: str) -> list[str]:
    """The command line of a process that runs `program` with this package at hand.

    Neither the working directory nor a script's has a say in what is imported. The program finds the directory in
    which this package lies as its first argument, to append it to the path: it may have been found by other means.
    """
    return [sys.executable, "-P", "-c", program, str(Path(__file__).parents[2]), *arguments]


def read_snapshot(file: str | None, *, listen: str | None = None, workers: int | None = None) -> Snapshot:
    """Read and compile the configuration file; None means the shipped defaults alone. Blocks.

    Args:
        listen, workers: in place of what the file says.

    Raises:
        ConfigError: with everything that is wrong.
        StoreUnavailable: no process can be started for it, or it ends without a word.
    """
    arguments = () if file is None else (file,)
    try:
        done = subprocess.run(  # noqa: S603 - a program of our own; the file's name is no option of it
            python_program(_PROGRAM, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreUnavailable("the configuration cannot be read now", hint="the log says why") from error
    found = unpacked(done.stdout)
    if not isinstance(found, Snapshot):
        raise ConfigError(found)
    server = found.server
    return replace(
        found, server=replace(server, listen=listen or server.listen, workers=workers or server.workers)
    )


def unpacked(content: bytes) -> Any:
    """What a program of our own has pickled: a snapshot with a hundred thousand rules takes 0.1 s.

    To look for garbage among what is being made would make it 0.4 s, and hold up whatever else this process does.
    """
    was_looking = gc.isenabled()
    gc.disable()
    try:
        return pickle.loads(content)  # noqa: S301 - the charters of those who ask say who wrote it
    finally:
        if was_looking:
            gc.enable()


def main() -> None:
    """The program: reads the file that is its one argument, or none; writes a snapshot, or what is wrong."""
    from proxy.config.compile import compile_snapshot
    from proxy.config.load import load

    # This process is gone before its garbage matters; to look for it takes half the time of a large file.
    gc.disable()
    found: object
    try:
        found = compile_snapshot(load(sys.argv[1] if len(sys.argv) > 1 else None, os.environ))
    except ConfigError as error:
        found = error.problems
    sys.stdout.buffer.write(pickle.dumps(found))
