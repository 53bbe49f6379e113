"""The real command as a test runs it: its own configuration, data directory, port, and a clean environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import yaml

from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"listening on (https?://127\.0\.0\.1:\d+|unix:[^\s\"]+)")
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "COVERAGE_PROCESS_START")


def base_config(upstream: FakeUpstream, **settings: Any) -> dict[str, Any]:
    """Return a configuration that forwards to a started fake upstream alone, and gives up on it at once.

    `settings` are more keys of `upstreams.pypi`. Top-level keys are joined by the caller:
    `base_config(upstream) | {"groups": {"acme": {}}}`.
    """
    pypi = {"index_url": upstream.index_url, "file_hosts": [upstream.host], "retries": 0}
    return {"upstreams": {"pypi": pypi | settings}}


class ServerFailed(AssertionError):
    """The server ended instead of listening; `log` holds what it said, `returncode` its exit status."""

    def __init__(self, returncode: int, log: str) -> None:
        super().__init__(f"the server ended with status {returncode}:\n{log}")
        self.returncode = returncode
        self.log = log


class Program(Protocol):
    """A process, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class OverlayServer:
    """One server with one data directory, over as many starts as a test wants.

    with OverlayServer({"groups": {"acme": {}}}, tmp_path) as server:
        token = server.token_for_user("alice")
        server.restart()
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        listen: str = "127.0.0.1:0",
        arguments: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Write the configuration; start nothing.

        Args:
            config: the configuration file as a mapping; `storage.data_dir` is filled in unless it is there.
            directory: where configuration, data and log go.
            listen: where to listen; on restart a port chosen by the system is asked for again.
            arguments: more arguments of `serve`.
            env: more environment variables of the server and of commands.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.config_file = directory / "pypi-overlay.yaml"
        self.data_dir = directory / "data"
        self.log_file = directory / "server.log"
        self.url = ""
        self._directory = directory
        self._listen = listen
        self._arguments = arguments
        self._env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self._env |= {"HOME": str(directory), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: Program | None = None
        self.configure(config)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def configure(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration file; a running server sees it when it is told to reload."""
        storage = {"data_dir": str(self.data_dir), **config.get("storage", {})}
        self.data_dir = Path(storage["data_dir"])
        written = yaml.safe_dump({**config, "storage": storage}, sort_keys=False, allow_unicode=True)
        self.config_file.write_text(written, encoding="utf-8")

    def start(self, timeout: float = 30.0) -> None:
        """Start and wait until it says where it listens. Raises ServerFailed if it ends instead."""
        assert self._process is None, "it runs already"
        with self.log_file.open("ab") as log:
            begin = log.tell()
            command = [*self._command("serve"), "--listen", self._listen, *self._arguments]
            self._process = self._start(command, log)
        process = self._process

        def said() -> re.Match[str] | None:
            found = LISTENING.search(self.log_text(begin))
            if found is None and process.poll() is not None:
                self._process = None
                raise ServerFailed(process.wait(), self.log_text(begin))
            return found

        try:
            found = wait_until(said, timeout=timeout, what="the server to listen")
        except AssertionError as error:
            if self._process is not None:
                self.kill()
                error.add_note(self.log_text(begin))
            raise
        assert found is not None
        self.url = found[1]
        if self._listen.endswith(":0"):
            self._listen = self.url.partition("://")[2]

    def stop(self, timeout: float = 20.0) -> int:
        """Ask it to end, wait, and return its exit status; 0 where none ran.

        Raises:
            AssertionError: it had to be killed.
        """
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"no end {timeout:g} s after SIGTERM:\n{self.log_text()}") from None

    def kill(self) -> None:
        """End it at once, without a chance to tidy up."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop it if it runs; start it again with the same data at the same address."""
        self.stop()
        self.start()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def reload_by_signal(self) -> None:
        """Send SIGHUP, which asks for the configuration file to be read anew."""
        self.send_signal(signal.SIGHUP)

    def reload(self) -> None:
        """Have the configuration file read anew, as its owner; return once every worker has it.

        Raises:
            AssertionError: it was refused.
        """
        request = urllib.request.Request(
            f"{self.url}/api/v1/reload",
            data=b"",
            headers={"Authorization": f"Bearer {self.owner_token()}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=60):
                return
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started, which several workers have as their supervisor."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def worker_pids(self) -> dict[int, int]:
        """Return the processes of several workers by their numbers (Linux)."""
        import pytest

        if not sys.platform.startswith("linux"):
            pytest.skip("processes are read from /proc")
        assert self._process is not None, "it does not run"
        found = {}
        for pid in _family(self._process.pid)[1:]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
                name = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").rpartition(b"\0")[2]
                if name.startswith(b"worker-"):
                    found[int(name.removeprefix(b"worker-"))] = pid
        return found

    def log_text(self, begin: int = 0) -> str:
        """Return what all starts wrote to standard output and error, from a byte offset on."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[begin:].decode("utf-8", errors="replace")

    def run(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002  # as in subprocess
        """Run a command on the same configuration and data, whether the server runs or not."""
        return self._run(self._command(*arguments), input or "")

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json` and return what it printed. Raises AssertionError where it fails."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def token_for_user(self, user: str, scope: str = "api") -> str:
        """Make a personal token and return its text."""
        return self._token(kind="personal", user=user, name="test", scopes=[scope])

    def deploy_token(self, namespace: str, *scopes: str) -> str:
        """Make a deploy token, by default one that may read and write, and return its text."""
        wanted = scopes or ("read_package_registry", "write_package_registry")
        return self._token(kind="deploy", namespace=namespace, name="test", scopes=wanted)

    def job_token(self, project: str) -> str:
        """Make a job token and return its text."""
        return self._token(kind="job", namespace=project)

    def owner_token(self) -> str:
        """Return the preset token, or the one that the first start left in the data directory."""
        preset = self._env.get("PYPI_OVERLAY_OWNER_TOKEN")
        return preset or (self.data_dir / "owner-token").read_text(encoding="utf-8").strip()

    def make_token(self, **wanted: Any) -> dict[str, Any]:
        """Ask the running server for a token, as its owner; return all that it says of it.

        A command would start a process for each.
        """
        request = urllib.request.Request(
            f"{self.url}/api/v1/tokens",
            data=json.dumps(wanted).encode(),
            headers={"Authorization": f"Bearer {self.owner_token()}", "Content-Type": "application/json"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=60) as answer:
            made: dict[str, Any] = json.load(answer)
        return made

    def _token(self, **wanted: Any) -> str:
        token: str = self.make_token(**wanted)["token"]
        return token

    @property
    def pids(self) -> list[int]:
        """The ids of the server's process and of those that it started, itself first (Linux)."""
        assert self._process is not None, "it does not run"
        return _family(self._process.pid)

    def rss(self) -> int:
        """Return the memory resident now, in bytes, of the server and the processes it started (Linux)."""
        return sum(self._memory("VmRSS"))

    def largest_rss(self) -> int:
        """Return the memory resident now, in bytes, of that of its processes that has most (Linux)."""
        return max(self._memory("VmRSS"))

    def peak_rss(self) -> int:
        """Return the most memory that was ever resident, in bytes, over the server's processes (Linux)."""
        return sum(self._memory("VmHWM"))

    def worked(self) -> float:
        """Return the seconds that the server's threads have computed so far (Linux)."""
        import pytest

        if not sys.platform.startswith("linux"):
            pytest.skip("times of threads are read from /proc")
        assert self._process is not None, "it does not run"
        spent = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                spent += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        return spent / 1e9

    def _start(self, command: list[str], log: BinaryIO) -> Program:
        return subprocess.Popen(
            command,
            cwd=self._directory,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def _run(self, command: list[str], given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self._directory,
            env=self._env,
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _memory(self, field: str) -> list[int]:
        import pytest

        if not sys.platform.startswith("linux"):
            pytest.skip("memory is read from /proc")
        return [_memory(pid, field) for pid in self.pids]

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "proxy", *arguments, "--config", str(self.config_file)]


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):  # one that has just ended
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
