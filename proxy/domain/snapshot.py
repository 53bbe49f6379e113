"""The configuration in force, compiled: immutable, and complete enough that nobody reads the file again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network

from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.trust import IssuerSettings

SHIPPED = "shipped defaults"
"""The file name under which the shipped defaults appear in origins and problems."""

MAX_WORKERS = 64
"""Processes that share a port, at most."""
LISTEN_WANTED = "host:port such as 127.0.0.1:8080, or unix:/path"
"""What an address to listen at looks like, for messages."""
HOST = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
"""A host's name or address in IPv4, as part of a regular expression with one group."""
_LISTEN = re.compile(rf"({HOST}|\[[0-9A-Fa-f:.]+\]):([0-9]{{1,5}})\Z", re.ASCII)


def is_listen_address(text: str) -> bool:
    """Whether `text` is an address to listen at: `host:port`, IPv6 in brackets, or `unix:/path`."""
    if not text.isprintable():
        return False
    if text.startswith("unix:"):
        return text.startswith("unix:/") and len(text) > len("unix:/")
    return _LISTEN.match(text) is not None and int(text.rpartition(":")[2]) < 1 << 16


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One upstream index and how it may be reached.

    Attributes:
        name: its key in the configuration.
        index_url: address of its simple index, ends in `/`; has neither user info, query nor fragment.
        json_url: base of its JSON API, ends in `/`; None: it has none.
        root_list: how often the kept copy of its list of names is refreshed.
        file_hosts: `host`, `host:port` or `*.host` that file links may name besides the index's own.
        private_network: whether its addresses may lie in loopback, link-local, RFC 1918, RFC 6598 or ULA space.
        username, password: Basic credentials, sent to the index's own origin alone.
        proxy: outbound HTTP proxy, or None.
        ca_file: PEM file of additional certificate authorities, or None.
        retries: how often a request that failed is sent again.
    """

    name: str
    index_url: str
    file_hosts: tuple[str, ...] = ()
    private_network: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)  # its address may hold a password
    ca_file: str | None = None
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=30)
    max_connections: int = 50
    json_url: str | None = None
    root_list: timedelta = timedelta(hours=24)
    retries: int = 2


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Paths of PEM files."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how the server listens. `listen` is `host:port` or `unix:/path`; `workers` share it.

    `external_url` is its address for clients without a slash at the end, where answers need one.
    `watch_config`: a changed configuration file is loaded by itself.
    `metrics` says who may read them: local, open or owner.
    """

    listen: str = "127.0.0.1:8080"
    workers: int = 1
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    tls: TlsSettings | None = None
    default_project: NamespacePath | None = None
    external_url: str | None = None
    watch_config: bool = False
    metrics: str = "local"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`format` is text or json; `level` one of debug, info, warning, error.

    `requests`: path below the data directory of the file that `config replay` reads; None: nothing is recorded.
    """

    format: str = "text"
    level: str = "info"
    requests: str | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in such a time."""

    count: int
    per: timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, except `max_description` in characters."""

    max_file_size: int = 5 << 30
    max_description: int = 4000
    max_page_size: int = 100 << 20
    upload_idle_timeout: timedelta = timedelta(seconds=60)
    failed_logins: Rate = Rate(20, timedelta(minutes=1))


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How long upstream answers are kept and used."""

    max_size: int = 50 << 30
    fresh_for: timedelta = timedelta(minutes=10)
    not_found_for: timedelta = timedelta(seconds=60)
    stale_while_revalidate: timedelta = timedelta(minutes=5)
    stale_if_error: timedelta = timedelta(days=30)
    client_max_age: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class AdvisorySettings:
    """Where known vulnerabilities are read from (`osv_dir`; None: nowhere), and how often it is looked at."""

    osv_dir: str | None = None
    refresh: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """How long changes and downloads stay on record."""

    events: timedelta = timedelta(days=400)
    downloads: timedelta = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Whose identity tokens are taken: `audience` must stand in them; `issuers` by their names."""

    audience: str = "pypi-overlay"
    issuers: Mapping[str, IssuerSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the configuration says.

    Attributes:
        file: the configuration file as the operator named it; None when only the shipped defaults hold.
        digest: hex sha256 of that file's bytes.
        data_dir: path of the data directory.
        users: the names of the users the file knows.
    """

    tree: Tree
    upstreams: Mapping[str, UpstreamSettings]
    users: frozenset[str]
    data_dir: str
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    limits: Limits = Limits()
    cache: CacheSettings = CacheSettings()
    advisories: AdvisorySettings = AdvisorySettings()
    audit: AuditSettings = AuditSettings()
    oidc: OidcSettings = OidcSettings()
    file: str | None = None
    digest: str = ""

    @property
    def source(self) -> str:
        """How the configuration is named in messages."""
        return self.file or SHIPPED
