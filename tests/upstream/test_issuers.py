"""Documents of issuers over HTTP: what may be asked, and that trouble is trouble (T-SSRF)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from proxy.domain.trust import IssuerSettings, Preset
from proxy.errors import IssuerUnavailable
from proxy.upstream.issuers import IssuerDocuments
from tests.support.issuer import LocalIssuer
from tests.support.waiting import free_port

LIMIT = 1000


@pytest.fixture(scope="module")
def issuer() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        yield issuer


def settings(url: str) -> IssuerSettings:
    return IssuerSettings("gitlab", url, Preset.GITLAB, ("project_path",))


async def fetch(url: str, issuer: IssuerSettings) -> bytes:
    documents = IssuerDocuments("pypi-overlay/1 (test)")
    try:
        return await documents(issuer, url, LIMIT)
    finally:
        await documents.close()


async def test_a_document_is_read_up_to_its_limit(issuer: LocalIssuer) -> None:
    issuer.documents["/full"] = (200, {}, b"x" * LIMIT)
    issuer.documents["/over"] = (200, {}, b"x" * (LIMIT + 1))

    assert await fetch(f"{issuer.url}/full", settings(issuer.url)) == b"x" * LIMIT
    with pytest.raises(IssuerUnavailable, match="more than 1000 bytes"):
        await fetch(f"{issuer.url}/over", settings(issuer.url))


@pytest.mark.parametrize("status", [204, 301, 302, 307, 401, 404, 429, 500])
async def test_anything_but_the_document_is_trouble_and_no_redirect_is_followed(
    issuer: LocalIssuer, status: int
) -> None:
    issuer.documents["/odd"] = (status, {"Location": f"{issuer.url}/target"}, b"")
    issuer.documents["/target"] = (200, {}, b"{}")

    with pytest.raises(IssuerUnavailable, match=f"gitlab cannot be had: it answers {status}"):
        await fetch(f"{issuer.url}/odd", settings(issuer.url))
    assert "/target" not in issuer.asked


async def test_an_issuer_that_cannot_be_reached_is_trouble() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await fetch(f"{url}/x", settings(url))


async def test_an_issuer_that_says_nothing_is_trouble_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.issuers._TOTAL", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(IssuerUnavailable, match="in time"):
            await fetch(f"{url}/x", settings(url))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "http://issuer.test/x",
        "https://127.0.0.1:{port}/x",
        "https://localhost:{port}/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]:{port}/x",
        "https://10.0.0.1/x",
        "https://user:secret@issuer.test/x",
        "file:///etc/passwd",
        "ftp://issuer.test/x",
        "//issuer.test/x",
        "/x",
        "",
    ],
)
async def test_T_SSRF_an_issuers_document_leads_nowhere_else_but_to_public_https(target: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0)
        url = target.format(port=trap.getsockname()[1])
        # A name is judged by what it resolves to, everything else before any connection is tried.
        why = "cannot be reached" if url.startswith("https://localhost") else "its document"
        with pytest.raises(IssuerUnavailable, match=why) as refused:
            await fetch(url, settings("https://issuer.test"))
        assert "secret" not in str(refused.value)
        with pytest.raises(BlockingIOError):
            trap.accept()


async def test_T_SSRF_an_issuer_at_a_loopback_address_may_not_lead_to_another_port(
    issuer: LocalIssuer,
) -> None:
    with LocalIssuer() as other:
        with pytest.raises(IssuerUnavailable, match="may not be asked"):
            await fetch(f"{other.url}/keys", settings(issuer.url))
        assert other.asked == []


async def test_an_issuers_own_name_may_lie_in_a_private_network() -> None:
    port = free_port()
    own = settings(f"https://localhost:{port}")

    with pytest.raises(IssuerUnavailable, match="cannot be reached"):
        await fetch(f"https://localhost:{port}/x", own)
    # Refused before any connection is tried: the message is that of a name that leads nowhere.
    with pytest.raises(IssuerUnavailable):
        await fetch(f"https://localhost:{port}/x", replace(own, issuer="https://issuer.test"))
