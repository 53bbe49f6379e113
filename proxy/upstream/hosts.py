"""Which addresses may be asked on behalf of an upstream: schemes, hosts, networks (T-SSRF).

A link in an upstream's page is a stranger's wish. It is followed only to the index's own origin and to the
hosts that the operator listed, over https, and never into a private network unless the configuration says so.
The judgement over names is `Reach.refusal`; the one over the addresses they resolve to is `GuardedResolver`,
whose answer is what the connection is made to, so there is no second look-up that could differ.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from proxy.domain.snapshot import UpstreamSettings

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Not ipaddress.is_private: that also covers documentation ranges, and its members change between releases.
_PRIVATE = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this network"; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # RFC 6598
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",  # reserved, broadcast
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",  # site-local, deprecated and still routed in places
        "ff00::/8",
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ip_network("2002::/16")


def is_private(address: IPv4Address | IPv6Address) -> bool:
    """Whether `address` is none of the public Internet: loopback, link-local, RFC 1918, RFC 6598, ULA, multicast.

    IPv6 forms that carry an IPv4 address count as that address.
    """
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_private(inner)
    return any(address in network for network in _PRIVATE)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour if address in _SIX_TO_FOUR else None


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells, or None for a name."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: whom credentials belong to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute http(s) address. Raises ValueError for anything else."""
        return cls._of(urlsplit(url))

    @classmethod
    def _of(cls, parts: SplitResult) -> Origin:
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("not an http address")
        port = parts.port
        return cls(parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port)


class Reach:
    """The addresses that one upstream may lead to, compiled from its settings."""

    def __init__(self, settings: UpstreamSettings) -> None:
        """Take settings whose `index_url` the configuration has checked."""
        self.origin = Origin.of(settings.index_url)
        self._private_network = settings.private_network
        self._hosts: set[tuple[str, int | None]] = set()
        self._suffixes: list[tuple[str, int | None]] = []
        self._literals = {literal(self.origin.host)}
        for entry in settings.file_hosts:
            host, port = _host_and_port(entry.lower())
            if host.startswith("*."):
                self._suffixes.append((host[1:], port))
            else:
                self._hosts.add((host, port))
                self._literals.add(literal(host))
        self._file_hosts = frozenset(self._hosts)
        if settings.json_url is not None:
            # The operator named it, so it may be asked, and a literal address there is leave enough for itself.
            json_api = Origin.of(settings.json_url)
            self._hosts.add((json_api.host, json_api.port))
            self._literals.add(literal(json_api.host))
        self._literals.discard(None)

    def refusal(self, url: str) -> str | None:
        """Why `url` may not be asked, as a clause without the address's path; None if it may."""
        try:
            parts = urlsplit(url)
            if "@" in parts.netloc:
                return "a link carries credentials"
            target = Origin.of(url)
        except ValueError:
            return "a link is no http address"
        if target != self.origin and not self._listed(target):
            return f"a link leads to {target.host[:100]!a} port {target.port}, which is not in file_hosts"
        address = literal(target.host)
        if target.scheme != "https" and not (
            address in self._literals or (self.origin.scheme == "http" and self.origin.host == target.host)
        ):
            return "a link leaves https"
        if address is not None and address not in self._literals and self.is_closed(address):
            return "a link leads into a private network"
        return None

    def is_file_host(self, url: str) -> bool:
        """Whether the host of `url` stands in `file_hosts` by its own name: neither the index nor below a `*.`."""
        try:
            target = Origin.of(url)
        except ValueError:
            return False
        return _stands_in(self._file_hosts, target)

    def is_closed(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether `address` must not be connected to because of the network that it lies in."""
        return not self._private_network and is_private(address)

    def _listed(self, target: Origin) -> bool:
        if _stands_in(self._hosts, target):
            return True
        default = target.port == _DEFAULT_PORTS[target.scheme]
        return any(
            target.host.endswith(suffix) and (port == target.port or (port is None and default))
            for suffix, port in self._suffixes
        )


def _stands_in(hosts: AbstractSet[tuple[str, int | None]], target: Origin) -> bool:
    default = target.port == _DEFAULT_PORTS[target.scheme]
    return (target.host, target.port) in hosts or (default and (target.host, None) in hosts)


def _host_and_port(entry: str) -> tuple[str, int | None]:
    """Split an entry of `file_hosts`; a literal IPv6 address with a port is in brackets."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port else None


class PrivateAddress(OSError):
    """A name resolves to nothing but closed addresses."""


class GuardedResolver(AbstractResolver):
    """Resolves names as the system does, and keeps only the addresses that may be connected to."""

    def __init__(self, is_closed: Callable[[IPv4Address | IPv6Address], bool]) -> None:
        """Take the judgement over single addresses. Needs a running loop."""
        self._inner = ThreadedResolver()
        self._is_closed = is_closed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve `host`.

        Raises:
            PrivateAddress: there are addresses, and every one is closed.
            OSError: the name cannot be resolved.
        """
        found = await self._inner.resolve(host, port, family)
        open_ones = []
        for result in found:
            address = literal(result["host"])
            if address is not None and not self._is_closed(address):
                open_ones.append(result)
        if found and not open_ones:
            raise PrivateAddress
        return open_ones

    async def close(self) -> None:
        """Release the system's resolver."""
        await self._inner.close()
