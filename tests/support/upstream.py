"""The fake upstream as tests drive it: start, stop, publish a file, lay a fault, read what was asked.

    with FakeUpstream() as upstream:
        upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
        upstream.fault("/packages/*", nth=1, truncate=1000)
        ...
        assert upstream.asked_for("gadgets") == []

The keys that projects, files and faults take stand in `tests.fake_upstream.scenario`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request that the upstream received: raw path with query, headers as sent, seconds since 1970."""

    method: str
    path: str
    headers: Mapping[str, str]
    at: float

    def header(self, name: str) -> str | None:
        """Return a header whatever its spelling, or None."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)


class FakeUpstream:
    """A fake upstream in a process of its own. It keeps its port for life, over `stop` and `start`."""

    def __init__(self, **settings: Any) -> None:
        """Take settings of the whole index, such as `form="html"`; nothing runs before `start`."""
        self._settings = settings
        self._directory = Path(tempfile.mkdtemp(prefix="upstream-"))
        self._scenario: dict[str, Any] = {}
        self._faults = 0
        self._process: subprocess.Popen[str] | None = None
        self._port = 0
        self._earlier: list[UpstreamRequest] = []  # of processes that were stopped
        self._forget()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port; known once it was started."""
        return self._port

    @property
    def host(self) -> str:
        """Host and port, as `file_hosts` names them."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"http://{self.host}"

    @property
    def index_url(self) -> str:
        """The simple index."""
        return f"{self.url}/simple/"

    def start(self) -> None:
        """Start it, on the port it had before, with all projects and faults. Does nothing while it runs."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "tests.fake_upstream", "--with-parent", "--port", str(self._port)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self._directory)},  # being killed, it cannot tidy up itself
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # ends when it is ready, or when the process is gone
        found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
        if found is None:
            self._end()
            raise AssertionError("the fake upstream did not start; its standard error says why")
        self._port = int(found[1])
        self._put()

    def stop(self) -> None:
        """Kill it: connections break, new ones are refused. What it had received is remembered."""
        if self._process is None:
            return
        self._earlier = self.requests()
        self._end()

    def close(self) -> None:
        """Stop it for good, and remove its files."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def reset(self, **settings: Any) -> None:
        """Make it as new: running, empty, well-behaved, with nothing received and these settings."""
        self._settings = settings
        self._forget()
        self.start()
        self._put()
        self.reset_requests()

    def configure(self, **settings: Any) -> None:
        """Change settings of the whole index, such as `form`, `hashes`, `username`."""
        self._scenario |= settings
        self._put()

    def add_project(self, name: str, files: Sequence[Mapping[str, Any]] = (), **about: Any) -> None:
        """Add a project, or replace one. Each of `files` has `path` or `make`, and what the page says of it."""
        self._scenario["projects"][name] = {"files": [_plain(file) for file in files], **about}
        self._put()

    def remove_project(self, name: str) -> None:
        """Take a project away with all its files."""
        del self._scenario["projects"][name]
        self._put()

    def change_project(self, name: str, **about: Any) -> None:
        """Change what is said of a project (`status`, `form` …) and leave its files alone."""
        self._scenario["projects"][name] |= about
        self._put()

    def add_file(self, name: str, filename: str, content: bytes | Path, **said: Any) -> None:
        """Add a file to a project, which is made if need be; one of the same filename is replaced.

        So `add_file("widgets", *make_wheel("widgets", "1.0"), yanked="broken")` publishes a yanked release.
        """
        if isinstance(content, bytes):
            folder = Path(tempfile.mkdtemp(dir=self._directory))
            (folder / filename).write_bytes(content)
            content = folder / filename
        self.remove_file(name, filename)
        project = self._scenario["projects"].setdefault(name, {"files": []})
        project["files"].append(_plain({"path": content, "filename": filename, **said}))
        self._put()

    def remove_file(self, name: str, filename: str) -> None:
        """Take a file off its project's page and off the server, if it is there."""
        project = self._scenario["projects"].get(name, {"files": []})
        project["files"] = [file for file in project["files"] if file.get("filename") != filename]
        self._put()

    def fault(self, path_glob: str, **fault: Any) -> None:
        """Lay a fault; requests are counted from now on. Faults that strike together are joined."""
        self._faults += 1
        self._scenario["faults"].append({"path": path_glob, "id": f"test-{self._faults}", **fault})
        self._put()

    def clear_faults(self) -> None:
        """Behave again."""
        self._scenario["faults"] = []
        self._put()

    def requests(self, method: str | None = None) -> list[UpstreamRequest]:
        """Return what was received since `reset_requests`, oldest first; only one method where it is given."""
        received = list(self._earlier)
        if self._process is not None:
            told = json.loads(self._control("GET", "requests"))
            received += [UpstreamRequest(**request) for request in told]
        return [request for request in received if method in {None, request.method}]

    def asked_for(self, name: str) -> list[UpstreamRequest]:
        """Return all requests that mention a project in any spelling, by its page or one of its files."""
        return [request for request in self.requests() if _mentions(request.path, name)]

    def reset_requests(self) -> None:
        """Forget what was received."""
        self._earlier = []
        if self._process is not None:
            self._control("POST", "reset")

    def await_requests(self, path_part: str, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until so many requests arrived whose path has this part."""
        wait_until(
            lambda: sum(path_part in request.path for request in self.requests()) >= count,
            timeout=timeout,
            what=f"{count} requests of {path_part}",
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes its pipes, waits
                pass

    def _forget(self) -> None:
        self._scenario = {**self._settings, "projects": {}, "faults": []}

    def _put(self) -> None:
        if self._process is not None:
            self._control("PUT", "scenario", json.dumps(self._scenario).encode())

    def _control(self, method: str, what: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/_control/{what}", data=body, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=60) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from None
        return content


def _plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's entry fit for JSON; its filename stands in it, so that it can be found again."""
    entry = {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}
    if "path" in entry:
        entry["path"] = str(Path(entry["path"]).resolve())
        entry.setdefault("filename", Path(entry["path"]).name)
    return entry


def _loose(text: str) -> str:
    """Return one spelling for all that anyone could take for the same name: wider than PEP 503 on purpose."""
    return re.sub(r"[-_.\s]+", "-", unicodedata.normalize("NFKC", text).casefold()).strip("-")


def _mentions(path: str, name: str) -> bool:
    """Say whether a segment of a raw path is the name, or a filename that begins with it and a version."""
    wanted = _loose(name)
    for segment in unquote(unquote(urlsplit(path).path)).split("/"):
        if _loose(segment) == wanted:
            return True
        dashes = [found.start() for found in re.finditer("-(?=v?[0-9])", segment)]
        if any(_loose(segment[:end]) == wanted for end in dashes):
            return True
    return False
