"""Other processes on the same data directory: started with a few lines of code, talked to by their output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import proxy
from tests.support.killed import Killed

PRELUDE = """
import signal, sys, time
from datetime import UTC, datetime, timedelta
from sqlalchemy import func, insert, select
from proxy.errors import OverlayError
from proxy.storage.database import Database
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.objects import DiskObjects
from proxy.storage.tables import namespaces

layout = Layout(sys.argv[1])
locks = Locks(layout)
registry = Database(layout.registry_database, locks, name="registry")

def say(word):
    print(word, flush=True)

def add(change, path):
    change.connection.execute(insert(namespaces).values(path=path, kind="group", created_at=datetime.now(UTC)))
"""


class Child(Killed[str]):
    """A process that runs `code` after `PRELUDE`. Leaving the `with` block kills it (SIGKILL)."""

    def __init__(self, data_dir: str, code: str) -> None:
        root = Path(proxy.__file__).parent.parent
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        )
        super().__init__(process)
        self.pid = self._process.pid

    def hear(self) -> str:
        """The next line it says; waits for it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the child ended with status {self._process.wait()}"
        return line.strip()

    def tell(self) -> None:
        """Let it go on after `input()`."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> int:
        """Wait for it to end by itself; its exit status."""
        return self._process.wait(30)
