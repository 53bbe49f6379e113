"""pypi-overlay behind a real nginx, with the configuration that `deploy/nginx` has: on loopback, over TLS."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from tests.support.server import ROOT, OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import free_port, wait_until
from tests.web.wire import TIMEOUT, Answer, Wire, receive

NGINX = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
SHIPPED = ROOT / "deploy" / "nginx"
PROXY = "127.0.0.1"
"""Where nginx comes from, as the server sees it: the one address that it trusts."""

AROUND = """\
daemon off;
master_process off;  # one process: it keeps this user's rights
pid nginx.pid;
error_log error.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxied;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    # As distributions have it, and worse: answers must pass as they are all the same.
    gzip on;
    gzip_proxied any;
    gzip_types *;
    proxy_intercept_errors on;
    error_page 400 401 /a-page-of-this-machine;
    include conf.d/pypi-overlay.conf;
    server {{
        listen {shared} ssl http2;
        ssl_certificate chain.pem;
        ssl_certificate_key key.pem;
        include snippets/pypi-overlay-prefix.conf;
    }}
}}
"""
"""The rest of a machine's configuration, with a host that has pypi-overlay below a prefix."""


class WireFrom(Wire):
    """Does as Wire, from an address of its own (any of 127.0.0.0/8 on Linux), and over TLS where the url says so."""

    def __init__(self, url: str, trust: ssl.SSLContext, source: str) -> None:
        super().__init__(url)
        self._trust = trust if url.startswith("https://") else None
        self._source = source

    def exchange(self, pieces: Iterable[bytes], *, method: str = "GET") -> Answer:
        with ExitStack() as opened:
            connection = opened.enter_context(
                socket.create_connection(self.address, TIMEOUT, (self._source, 0))
            )
            if self._trust is not None:
                secure = self._trust.wrap_socket(connection, server_hostname=self.address[0])
                connection = opened.enter_context(secure)
            for piece in pieces:
                connection.sendall(piece)
            return receive(connection, method)


@dataclass(frozen=True, slots=True)
class Front:
    """A running server behind a running nginx. `url` is the host's root, `prefixed` ends with its prefix."""

    server: OverlayServer
    upstream: FakeUpstream
    directory: Path
    url: str
    prefixed: str
    insecure: str
    token: str
    trust: ssl.SSLContext

    def wire(self, *, prefixed: bool = False, source: str = PROXY) -> Wire:
        """A wire to nginx."""
        return WireFrom(self.prefixed if prefixed else self.url, self.trust, source)

    def past(self, source: str) -> Wire:
        """A wire past nginx, to the server itself."""
        return WireFrom(self.server.url, self.trust, source)

    @property
    def authority(self) -> Path:
        """The certificates that clients are to trust."""
        return self.directory / "authority.pem"

    def complaints(self) -> str:
        """What nginx warned of."""
        return (self.directory / "error.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Give a server behind nginx, the same for all tests of a module."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    directory = tmp_path_factory.mktemp("nginx")
    own = trustme.CA()
    certificate = own.issue_cert("127.0.0.1")
    own.cert_pem.write_to_path(directory / "authority.pem")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    trust = ssl.create_default_context()
    own.configure_trust(trust)
    config: dict[str, Any] = {
        "server": {"trusted_proxies": [PROXY]},
        "log": {"format": "json"},
        "groups": {
            "acme": {
                "visibility": "private",
                "policy": {"reserve": ["acme-*"]},
                "projects": {"widgets": {"id": 42}},
            }
        },
    }
    with (
        FakeUpstream() as upstream,
        OverlayServer(base_config(upstream) | config, directory / "us") as server,
    ):
        own_host, shared, plain = (f"127.0.0.1:{free_port()}" for _ in range(3))
        write_configuration(directory, server, own_host, shared, plain)
        with nginx(NGINX, directory, own_host):
            yield Front(
                server,
                upstream,
                directory,
                f"https://{own_host}",
                f"https://{shared}/pypi",
                f"http://{plain}",
                server.deploy_token("acme"),
                trust,
            )


def write_configuration(
    directory: Path, server: OverlayServer, own_host: str, shared: str, plain: str
) -> None:
    """Lay the shipped files where they belong, and change in them what their reader is told to change."""
    host = (SHIPPED / "pypi-overlay.conf").read_text(encoding="utf-8")
    changes = {
        "server 127.0.0.1:8080;": f"server {urlsplit(server.url).netloc};",
        "listen 80;": f"listen {plain};",
        "listen [::]:80;": "",
        "listen 443 ssl http2;": f"listen {own_host} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        "/etc/ssl/packages.acme.example/fullchain.pem": "chain.pem",
        "/etc/ssl/packages.acme.example/key.pem": "key.pem",
    }
    (directory / "conf.d").mkdir()
    (directory / "conf.d" / "pypi-overlay.conf").write_text(replaced(host, changes), encoding="utf-8")
    (directory / "snippets").mkdir()
    for name in ("pypi-overlay-proxy.conf", "pypi-overlay-prefix.conf"):
        shutil.copy(SHIPPED / name, directory / "snippets")
    (directory / "nginx.conf").write_text(AROUND.format(shared=shared), encoding="utf-8")


def replaced(text: str, changes: Mapping[str, str]) -> str:
    for shipped, changed in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, changed)
    return text


@contextmanager
def nginx(program: str, directory: Path, address: str) -> Iterator[None]:
    """Run nginx in a directory until the block ends; it has an address when the block begins."""
    command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        host, _, port = address.partition(":")

        def listens() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"nginx ended: {process.stderr and process.stderr.read()}")
            with socket.socket() as probe:
                return probe.connect_ex((host, int(port))) == 0

        try:
            wait_until(listens, what="nginx to listen")
            yield
        finally:
            process.terminate()
