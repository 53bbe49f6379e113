"""From the real PyPI, cold, with the shipped defaults alone. What answers there may speak HTML only."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.clients.talking import failed, index_url, statuses, succeeded
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import ROOT, OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.wheels import write_wheel

pytestmark = pytest.mark.network

TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # how a machine names the authorities it trusts


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[OverlayServer]:
    """Serve the shipped defaults; skip where their upstream does not answer."""
    shipped = yaml.safe_load((ROOT / "config" / "defaults.yaml").read_text(encoding="utf-8"))
    try:
        urllib.request.urlopen(shipped["upstreams"]["pypi"]["index_url"] + "flask/", timeout=10).close()
    except OSError as error:
        pytest.skip(f"the real PyPI does not answer: {error}")
    trust = {name: os.environ[name] for name in TRUST if name in os.environ}
    with ForkedServer({"log": {"format": "json"}}, place / "server", env=trust) as running:
        yield running


def test_pip_installs_flask_from_pypi_with_the_shipped_defaults(
    server: OverlayServer, client: Client, tmp_path: Path
) -> None:
    succeeded(client.pip_install(tmp_path / "site", index_url(server), "flask"))
    names = {name.partition("-")[0].lower() for name in installed(tmp_path / "site")}
    assert {"flask", "werkzeug", "jinja2", "click"} <= names


def test_uv_installs_flask_from_pypi_with_the_shipped_defaults(
    server: OverlayServer, client: Client, tmp_path: Path
) -> None:
    succeeded(client.uv_pip_install(tmp_path / "site", index_url(server), "flask"))
    names = {name.partition("-")[0].lower() for name in installed(tmp_path / "site")}
    assert {"flask", "werkzeug", "jinja2", "click"} <= names


def test_a_name_that_pypi_does_not_know_fails_in_pip_and_uv(
    server: OverlayServer, client: Client, tmp_path: Path
) -> None:
    name = "pypi-overlay-test-no-such-project-8c1f"
    assert "No matching distribution" in failed(client.pip_install(tmp_path / "p", index_url(server), name))
    assert "not found" in failed(client.uv_pip_install(tmp_path / "u", index_url(server), name))


@pytest.mark.slow
def test_the_newest_pip_sees_a_private_version_at_once_and_revalidates_by_304(
    server: OverlayServer, client: Client, tmp_path: Path, place: Path, fresh: Callable[[], Path]
) -> None:
    """pip from 26.2 on obeys max-age on pages; the pip of this environment may be too old to do so."""
    newest = tmp_path / "newest-pip"
    succeeded(client.pip_install(newest, index_url(server), "pip"))
    pip = Client(tmp_path / "other-home", PYTHONPATH=str(newest))
    config = {
        "log": {"format": "json"},
        "groups": {"acme": {"visibility": "public", "projects": {"widgets": {}}}},
    }
    with FakeUpstream() as upstream:
        settings = {"index_url": upstream.index_url, "file_hosts": [upstream.host]}
        with ForkedServer({**config, "upstreams": {"pypi": settings}}, place / "private") as own:
            index, login = index_url(own, "acme/widgets"), own.deploy_token("acme/widgets")
            trust = ("--trusted-host", own.url.removeprefix("http://"))
            seen: list[str] = []
            for version in ("1.0", "1.1"):
                wheel = write_wheel(tmp_path, "widgets", version)
                succeeded(pip.uv_publish(f"{own.url}/acme/widgets/", "__token__", login, wheel))
                target = fresh()
                succeeded(pip.pip_install(target, index, "widgets", *trust))
                seen += installed(target)
            begin = own.log_file.stat().st_size
            succeeded(pip.pip_install(fresh(), index, "widgets", *trust))
    assert seen == ["widgets-1.0", "widgets-1.1"]
    assert statuses(own, begin, "/acme/widgets/simple/widgets/", "pip/") == [304]
