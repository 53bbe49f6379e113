"""Processes of tests that end as in a power cut."""

from __future__ import annotations

import subprocess
from types import TracebackType
from typing import AnyStr, Generic, Self


class Killed(Generic[AnyStr]):
    """A process that was started. Leaving the `with` block kills it (SIGKILL) and closes what it was talked to by."""

    def __init__(self, process: subprocess.Popen[AnyStr]) -> None:
        self._process: subprocess.Popen[AnyStr] = process

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
