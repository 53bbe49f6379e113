"""The processes of a benchmark, and how it asks them: one upstream, one nginx, one server that stays, fresh ones."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin, urlsplit

from tests.benchmarks.cores import SERVER_CORE, pinned
from tests.benchmarks.corpus import Corpus, Sizes
from tests.benchmarks.nginx import Nginx
from tests.benchmarks.upstream import JSON_TYPE, LocalUpstream
from tests.support.server import OverlayServer

HTML_TYPE = "text/html"


class Stage:
    """Everything that runs. `nginx` is None where it is not installed."""

    def __init__(self, directory: Path, *, seconds: float, runs: int, scale: float, workers: int = 2) -> None:
        """Write the corpus below `directory`; start nothing.

        Args:
            directory: where everything goes; it is empty.
            seconds: how long each measurement of a rate lasts.
            runs: how often each measurement is repeated, by turns with what it is compared with.
            scale: the part of the real sizes, 0 to 1.
            workers: how many a server has where there is to be more than one.
        """
        self.seconds = seconds
        self.runs = runs
        self.workers = workers
        self.corpus = Corpus(directory / "corpus", Sizes.scaled(scale), runs)
        self.notices: list[str] = []
        self.upstream = LocalUpstream(self.corpus.directory)
        self.nginx: Nginx | None = None
        self.directory = directory
        self._numbers = count()
        self._running = ExitStack()
        self._server: OverlayServer | None = None

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.enter_context(self.upstream)
            if Nginx.is_installed():
                nginx = Nginx(self.directory / "nginx", self.corpus.directory, self.upstream.host)
                self.nginx = starting.enter_context(nginx)
            else:
                self.notices.append("nginx is not installed: nothing to compare with")
            self._server = starting.enter_context(self.fresh())
            self._running = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def server(self) -> OverlayServer:
        """The server of the warm workloads."""
        assert self._server is not None, "nothing runs"
        return self._server

    @contextmanager
    def fresh(self, workers: int = 1, **more: Any) -> Iterator[OverlayServer]:
        """Give a server with an empty cache that has answered a page and a file already; it leaves nothing.

        `more` are further keys at the top of its configuration.
        """
        directory = self.directory / f"server-{next(self._numbers)}"
        server = OverlayServer(self._config(workers, **more), directory)
        with pinned(SERVER_CORE):
            server.start()
        try:
            # The system deals connections out by chance: so many reach every worker.
            for _ in range(1 if workers == 1 else 10 * workers):
                fetch(server.url, self.file(server, "small", self.corpus.wheel))
            yield server
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)

    def reconfigure(self, server: OverlayServer, **more: Any) -> None:
        """Have a `fresh` server of one worker go on with further keys at the top of its configuration."""
        server.configure(self._config(1, **more))
        server.reload()

    def _config(self, workers: int, **more: Any) -> dict[str, Any]:
        upstreams = {"pypi": {"index_url": self.upstream.index_url, "file_hosts": [self.upstream.host]}}
        return {
            "server": {"workers": workers},
            "upstreams": upstreams,
            "users": {"load": {}},
            "cache": {"fresh_for": "1d"},
            **more,
        }

    def file(self, server: OverlayServer, name: str, filename: str) -> str:
        """The path of a file on our server, as its page has it."""
        return self.files(server, name)[filename]

    def files(self, server: OverlayServer, name: str) -> Mapping[str, str]:
        """The paths of all files of a page on our server, by filename."""
        path = f"/simple/{name}/"
        _, body = fetch(server.url, path, {"Accept": JSON_TYPE})
        page = json.loads(body)
        return {file["filename"]: urlsplit(urljoin(path, file["url"])).path for file in page["files"]}


def port_of(server: OverlayServer) -> int:
    """The port that a server listens on."""
    port = urlsplit(server.url).port
    assert port is not None
    return port


def head(path: str, accept: str = "*/*", **headers: str) -> str:
    """A request head as a client of packages sends it; `_` in the names of further headers stands for `-`."""
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    agent = "" if "User_Agent" in headers else "User-Agent: pip/26.0\r\n"
    encodings = "" if "Accept_Encoding" in headers else "Accept-Encoding: gzip\r\n"
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{agent}Accept: {accept}\r\n{encodings}"
        f"Connection: keep-alive\r\n{more}\r\n"
    )


def fetch(url: str, path: str, headers: Mapping[str, str] | None = None) -> tuple[Mapping[str, str], bytes]:
    """Ask once, and return headers (names in lower case) and body as they were sent.

    Raises:
        AssertionError: the status is not 200.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, f"{path}: {answer.status} {body[:500]!r}"
        return {name.lower(): value for name, value in answer.getheaders()}, body


def reset_peak(server: OverlayServer) -> int:
    """Forget the most memory that a server ever had (Linux); return what it has now, in bytes."""
    for pid in server.pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return server.rss()
