"""The command in processes that need not import it first: each is forked off one that has, which saves half a second.

All else is as in a process of its own: its environment, directory, streams, signals, memory and end. Whatever is told
of starting, of imports or of memory in all is told of `OverlayServer`, which starts an interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import BinaryIO

from tests.support.server import ROOT, OverlayServer, Program

_PRELOADED = [
    "proxy.server.worker",
    "proxy.server.supervisor",
    "proxy.storage.migrations",
    "alembic.command",
    "proxy.cli.configuration",
    "proxy.cli.opening",
]


class ForkedServer(OverlayServer):
    """A server and commands that begin with all imports done."""

    def _start(self, command: list[str], log: BinaryIO) -> Program:
        return _Fork(command, self._directory, self._env, (os.devnull, log.name, log.name))

    def _run(self, command: list[str], given: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as directory:
            streams = [Path(directory, name) for name in ("in", "out", "err")]
            streams[0].write_text(given, encoding="utf-8")
            fork = _Fork(command, self._directory, self._env, tuple(map(str, streams)))
            try:
                status = fork.wait(60)
            except subprocess.TimeoutExpired:
                fork.kill()
                raise
            said = (stream.read_text(encoding="utf-8") for stream in streams[1:])
            return subprocess.CompletedProcess(command, status, *said)


class _Fork:
    """Such a process, with what `subprocess.Popen` has for it."""

    def __init__(
        self, command: list[str], directory: Path, env: Mapping[str, str], streams: tuple[str, ...]
    ) -> None:
        """Start it. `streams` are the files of standard input, output and error; the last two are appended to."""
        self._command = command
        self._process = _context().Process(
            target=_become, args=(command[3:], directory, dict(env), streams), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self._command, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _context() -> multiprocessing.context.ForkServerContext:
    """What forks, once it has imported what stands in this tree."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _become(arguments: list[str], directory: Path, env: Mapping[str, str], streams: tuple[str, ...]) -> None:
    """Be the command; in the forked process."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    for number, (path, flags) in enumerate(
        zip(streams, (os.O_RDONLY, *[os.O_WRONLY | os.O_APPEND | os.O_CREAT] * 2), strict=True)
    ):
        descriptor = os.open(path, flags)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lasts as long as the process
    sys.argv = ["pypi-overlay", *arguments]
    from proxy.cli.main import main

    main()
