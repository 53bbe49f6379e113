"""CI jobs that publish without any stored secret: uv by itself, twine with the identity token as its password."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.clients.talking import Done, failed, succeeded
from tests.support.clients import Client, find_uv
from tests.support.forked import ForkedServer
from tests.support.issuer import LocalIssuer
from tests.support.server import OverlayServer
from tests.support.wheels import write_wheel

AUDIENCE = "packages.test"
GITLAB_VARIABLE = "PACKAGES_TEST_ID_TOKEN"
"""Where uv looks for the token that GitLab gave a job, by the name of the audience."""


@pytest.fixture(scope="module")
def gitlab() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def github() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def authority(place: Path) -> Path:
    """Give the file of a certificate authority that clients trust, with a server's certificate beside it."""
    own = trustme.CA()
    certificate = own.issue_cert("127.0.0.1")
    own.cert_pem.write_to_path(place / "authority.pem")
    certificate.private_key_pem.write_to_path(place / "key.pem")
    (place / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    return place / "authority.pem"


@pytest.fixture(scope="module")
def server(place: Path, gitlab: LocalIssuer, github: LocalIssuer, authority: Path) -> Iterator[OverlayServer]:
    """Give a server that speaks https, since uv asks for trusted publishing over nothing else."""
    trust = [
        {"issuer": "gitlab", "claims": {"project_path": "acme/widgets", "ref_protected": "true"}},
        {"issuer": "github", "claims": {"repository": "acme/widgets"}},
    ]
    config: dict[str, Any] = {
        "server": {"tls": {"certificate": str(place / "chain.pem"), "key": str(place / "key.pem")}},
        "oidc": {
            "audience": AUDIENCE,
            "issuers": {"gitlab": gitlab.settings(), "github": github.settings("github")},
        },
        "groups": {"acme": {"projects": {"widgets": {"trust": trust}, "gears": {}}}},
    }
    with ForkedServer(config, place / "server") as server:
        yield server


def job(home: Path, authority: Path, environment: Mapping[str, str]) -> Client:
    """Clients as they run in a CI job, which knows nothing but its own environment."""
    return Client(
        home,
        SSL_CERT_FILE=str(authority),
        REQUESTS_CA_BUNDLE=str(authority),
        UV_HTTP_RETRIES="0",
        COLUMNS="300",
        **environment,
    )


def uv_publish(client: Client, server: OverlayServer, project: str, wheel: Path) -> Done:
    url = f"{server.url}/{project}/"
    return client.run(find_uv(), "publish", "--trusted-publishing", "always", "--publish-url", url, wheel)


def published(server: OverlayServer) -> set[str]:
    """The names that acme/widgets holds."""
    return {item["name"] for item in server.json("package", "list", "acme/widgets")["items"]}


@pytest.mark.parametrize("where", ["gitlab", "github"])
def test_uv_publishes_from_a_job_without_any_credentials(
    where: str,
    server: OverlayServer,
    gitlab: LocalIssuer,
    github: LocalIssuer,
    authority: Path,
    tmp_path: Path,
) -> None:
    environment = {"GITLAB_CI": "true", GITLAB_VARIABLE: gitlab.token(aud=AUDIENCE)}
    if where == "github":
        environment = github.github_environment()
    client = job(tmp_path / "home", authority, environment)
    wheel = write_wheel(tmp_path, f"from-{where}", "1.0")

    succeeded(uv_publish(client, server, "acme/widgets", wheel))
    assert f"from-{where}" in published(server)


def test_uv_shows_why_it_got_no_token_and_that_one_is_for_its_project_alone(
    server: OverlayServer, gitlab: LocalIssuer, authority: Path, tmp_path: Path
) -> None:
    text = gitlab.token(aud=AUDIENCE)
    client = job(tmp_path / "home", authority, {"GITLAB_CI": "true", GITLAB_VARIABLE: text})
    wheel = write_wheel(tmp_path, "refused", "1.0")

    elsewhere = failed(uv_publish(client, server, "acme/gears", wheel))
    assert "403" in elsewhere
    again = failed(uv_publish(client, server, "acme/widgets", wheel))
    assert "invalid-reuse-token" in again
    untrusted = gitlab.token(aud=AUDIENCE, ref_protected="false")
    client = job(tmp_path / "home", authority, {"GITLAB_CI": "true", GITLAB_VARIABLE: untrusted})
    assert "invalid-publisher" in failed(uv_publish(client, server, "acme/widgets", wheel))
    assert "refused" not in published(server)


def test_twine_publishes_with_the_identity_token_as_its_password(
    server: OverlayServer, gitlab: LocalIssuer, authority: Path, tmp_path: Path
) -> None:
    text = gitlab.token(aud=AUDIENCE)
    client = job(tmp_path / "home", authority, {})
    for version in ("1.0", "1.1"):
        wheel = write_wheel(tmp_path, "by-twine", version)
        succeeded(client.twine_upload(f"{server.url}/acme/widgets/", "gitlab-ci-token", text, wheel))
    over = gitlab.token(aud=AUDIENCE, exp=1)
    wheel = write_wheel(tmp_path, "by-twine", "1.2")
    told = failed(client.twine_upload(f"{server.url}/acme/widgets/", "__token__", over, wheel))

    assert "401" in told
    assert text.split(".")[2] not in server.log_text()
