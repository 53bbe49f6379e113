"""nginx on a free port: static files as the limit, and as a caching proxy for what it does with a herd."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks.cores import SERVER_CORE, pinned
from tests.support.waiting import free_port, wait_until

# tcp_nopush on for pages and off for files, and no access log: its strictest setting as a static server.
CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  etag on;
  types {{ }}
  default_type application/octet-stream;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  proxy_cache_path {home}/cache keys_zone=kept:10m max_size=20g;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location /packed/ {{
      tcp_nopush on;
      add_header Content-Encoding gzip;
      root {home};
    }}
    location /files/ {{
      rewrite ^/files/.*/([^/]+)$ /$1 break;
      root {files};
    }}
    location /simple/ {{
      tcp_nopush on;
      default_type application/vnd.pypi.simple.v1+json;
      index index.json;
      root {corpus};
    }}
    location /capped-100/ {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache kept;
      proxy_cache_valid 200 1h;
      proxy_cache_key $request_uri;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 120s;
      proxy_cache_lock_age 120s;
    }}
    location / {{ root {files}; }}
  }}
}}
"""


class Nginx:
    """The running nginx, pinned to the server's core."""

    def __init__(self, home: Path, corpus: Path, upstream: str) -> None:
        """Write its configuration; start nothing. `upstream` is the host and port that it proxies to."""
        self.home = home
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (home / "packed").mkdir(parents=True)
        text = CONFIG.format(
            home=home, files=corpus / "files", corpus=corpus, upstream=upstream, port=self.port
        )
        (home / "nginx.conf").write_text(text, encoding="utf-8")

    @staticmethod
    def is_installed() -> bool:
        """Whether there is one to start."""
        return shutil.which("nginx") is not None

    def __enter__(self) -> Self:
        with pinned(SERVER_CORE):
            self._process = subprocess.Popen(
                ["nginx", "-p", str(self.home), "-c", str(self.home / "nginx.conf")],
                stdin=subprocess.DEVNULL,
            )
        wait_until(self._listens, what="nginx to listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with self._process as process:
            process.terminate()

    def worked(self) -> float:
        """Return the seconds that it has computed so far (Linux)."""
        assert self._process is not None, "it does not run"
        spent = Path(f"/proc/{self._process.pid}/schedstat").read_text(encoding="ascii")
        return int(spent.split()[0]) / 1e9

    def keep_packed(self, name: str, body: bytes) -> str:
        """Keep a compressed body as a file; return its path on this server."""
        (self.home / "packed" / name).write_bytes(body)
        return f"/packed/{name}"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
