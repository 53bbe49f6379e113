"""T-SSRF: which addresses an upstream may lead to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.domain.snapshot import UpstreamSettings
from proxy.upstream.hosts import Reach, is_private

FILES = "files.example.org"


def reach(index_url: str = "https://index.example.org/simple/", **more: object) -> Reach:
    settings: dict[str, object] = {
        "file_hosts": (FILES, "mirror.example.org:8443", "*.cdn.example.org"),
        **more,
    }
    return Reach(UpstreamSettings("pypi", index_url, **settings))  # type: ignore[arg-type] # values vary by test


@pytest.mark.parametrize(
    "url",
    [
        "https://index.example.org/packages/x",
        "https://index.example.org:443/x",
        "https://files.example.org/x",
        "https://mirror.example.org:8443/x",
        "https://eu.cdn.example.org/x",
        "https://a.b.cdn.example.org/x",
    ],
)
def test_the_index_and_the_listed_hosts_may_be_asked(url: str) -> None:
    assert reach().refusal(url) is None


@pytest.mark.parametrize(
    ("url", "is_listed"),
    [
        ("https://files.example.org/x", True),
        ("https://mirror.example.org:8443/x", True),
        ("https://mirror.example.org/x", False),
        ("https://eu.cdn.example.org/x", False),
        ("https://index.example.org/x", False),
        ("https://index.example.org:8444/x", False),
        ("ftp://files.example.org/x", False),
    ],
)
def test_a_file_host_is_one_that_is_listed_by_its_own_name(url: str, is_listed: bool) -> None:
    assert reach(json_url="https://index.example.org:8444/pypi/").is_file_host(url) is is_listed


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/x",
        "https://10.0.0.1/x",
        "https://localhost/x",
        "https://evil.example.org/x",
        "https://files.example.org.evil.net/x",
        "https://cdn.example.org/x",
        "https://evilcdn.example.org/x",
        "https://files.example.org:8443/x",
        "https://mirror.example.org/x",
        "https://index.example.org:8080/x",
        "http://index.example.org/x",
        "http://index.example.org:443/x",
        "http://files.example.org/x",
        "https://user:secret@files.example.org/x",
        "https://@files.example.org/x",
        "https://files.example.org\\@evil.net/x",
        "file:///etc/passwd",
        "ftp://files.example.org/x",
        "gopher://files.example.org/x",
        "//files.example.org/x",
        "https:///x",
        "https://[::1]/x",
        "https://files.example.org:99999/x",
        "",
    ],
)
def test_T_SSRF_everything_else_is_refused(url: str) -> None:
    assert reach().refusal(url) is not None


def test_an_http_index_reaches_itself_over_http_but_others_over_https_only() -> None:
    plain = reach("http://index.example.org:8080/simple/")
    assert plain.refusal("http://index.example.org:8080/x") is None
    assert plain.refusal("http://files.example.org/x") is not None
    assert plain.refusal("https://files.example.org/x") is None


def test_a_literal_address_is_leave_for_itself_and_for_nothing_else() -> None:
    lab = reach("http://127.0.0.1:3141/simple/", file_hosts=("10.0.0.7:9000",))
    assert lab.refusal("http://127.0.0.1:3141/x") is None
    assert lab.refusal("http://10.0.0.7:9000/x") is None
    assert lab.refusal("http://127.0.0.1:22/x") is not None
    assert lab.refusal("http://10.0.0.8:9000/x") is not None
    assert lab.is_closed(ip_address("10.0.0.7"))  # a name that resolves there is still refused


def test_a_wildcard_does_not_open_private_addresses() -> None:
    assert reach(file_hosts=("*.0.0.1",)).refusal("https://127.0.0.1/x") is not None


def test_private_network_opens_private_addresses() -> None:
    assert not reach(private_network=True).is_closed(ip_address("10.0.0.1"))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_of_the_public_internet(address: str) -> None:
    assert is_private(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "2001:db8::1",
        "2606:4700::1",
        "::ffff:8.8.8.8",
    ],
)
def test_public_addresses_and_documentation_ranges_are_open(address: str) -> None:
    assert not is_private(ip_address(address))
