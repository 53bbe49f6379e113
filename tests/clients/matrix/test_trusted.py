"""pdm publishes from a CI job without any stored secret, and says why where it may not (uv: beside this folder)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.matrix.publishers import publisher
from tests.clients.talking import failed, succeeded
from tests.support.clients import Client
from tests.support.issuer import LocalIssuer
from tests.support.server import OverlayServer

AUDIENCE = "packages.test"
VARIABLE = "PACKAGES_TEST_ID_TOKEN"
"""Where pdm looks for the token that GitLab gave a job, by the name of the audience."""


@pytest.fixture(scope="module")
def gitlab() -> Iterator[LocalIssuer]:
    with LocalIssuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def trusting(gitlab: LocalIssuer, place: Path) -> Iterator[OverlayServer]:
    """Give a server with a project that trusts one repository; pdm asks for trusted publishing over http too."""
    rule = {"issuer": "gitlab", "claims": {"project_path": "acme/widgets"}}
    config: dict[str, Any] = {
        "oidc": {"audience": AUDIENCE, "issuers": {"gitlab": gitlab.settings()}},
        "groups": {"acme": {"projects": {"widgets": {"trust": [rule]}}}},
    }
    with OverlayServer(config, place / "trusting") as server:
        yield server


@pytest.mark.parametrize(("repository", "is_trusted"), [("acme/widgets", True), ("evil/widgets", False)])
def test_pdm_exchanges_its_identity_for_a_token(
    repository: str, is_trusted: bool, trusting: OverlayServer, gitlab: LocalIssuer, tmp_home: Path
) -> None:
    text = gitlab.token(aud=AUDIENCE, project_path=repository)
    client = publisher(Client(tmp_home, GITLAB_CI="true", **{VARIABLE: text}), "pdm")
    package = f"from-{repository.partition('/')[0]}"
    client.build(package, "1.0")
    done = client.publish(f"{trusting.url}/acme/widgets/")
    held = {item["name"] for item in trusting.json("package", "list", "acme/widgets")["items"]}
    if is_trusted:
        succeeded(done)
        assert package in held
    else:
        assert "OIDC" in failed(done)
        assert package not in held
    assert text not in trusting.log_text()
