"""Groups that forward nothing, dated views, locks from above, and the line of the configuration that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import failed, fetch, files_below, index_url, succeeded
from tests.support.clients import Client, find_uv, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, ServerFailed, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel, write_wheel


@dataclass(frozen=True, slots=True)
class Site:
    """The server, its upstream, and a token of a reader of acme."""

    server: OverlayServer
    public: FakeUpstream
    reader: str

    def index(self, base: str) -> str:
        return index_url(self.server, base, self.reader, "reader")


def config(public: FakeUpstream, **vault: Any) -> dict[str, Any]:
    """Configure acme, which forwards, and acme/vault, which does not; `vault` are more keys of the latter."""
    group = {"policy": {"forward": False}, "projects": {"widgets": {}}, **vault}
    acme = {
        "members": {"reader": "reporter"},
        "groups": {"vault": group},
        "policy": {"deny": ["banned"], "reserve": ["acme-*"]},
    }
    return base_config(public) | {"users": {"reader": {}}, "groups": {"acme": acme}}


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    for name in ("common", "banned", "acme-thing"):
        public.add_file(name, *make_wheel(name, "1.0"))
    for version, year in (("1.0", 2023), ("2.0", 2025)):
        uploaded = f"{year}-01-01T00:00:00Z"
        public.add_file("aged", *make_wheel("aged", version), upload_time=uploaded)
    with ForkedServer(config(public), place / "server") as server:
        wheel = write_wheel(place, "widgets", "1.0")
        login = server.deploy_token("acme/vault/widgets")
        uploader = Client(place / "uploader")
        succeeded(uploader.uv_publish(f"{server.url}/acme/vault/widgets/", "__token__", login, wheel))
        yield Site(server, public, server.token_for_user("reader", "read_api"))


def line_of(server: OverlayServer, text: str) -> int:
    """Return the number of the last line of the configuration that has a text."""
    lines = server.config_file.read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, start=1) if text in line][-1]


@pytest.mark.parametrize("base", ["acme/vault", "acme/vault/widgets"])
def test_a_group_that_does_not_forward_installs_private_packages(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    succeeded(wide.pip_install(tmp_path / "p", site.index(base), "widgets"))
    succeeded(wide.uv_pip_install(tmp_path / "u", site.index(base), "widgets"))
    assert installed(tmp_path / "p") == installed(tmp_path / "u") == {"widgets-1.0"}


@pytest.mark.parametrize("base", ["acme/vault", "acme/vault/widgets"])
def test_a_group_that_does_not_forward_answers_404_for_public_packages(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    answer = fetch(f"{index_url(site.server, base)}common/", token=site.reader)
    assert answer.status == 404
    assert answer.headers["x-overlay-decision"].startswith("not-forwarded")
    assert "No matching distribution" in failed(
        wide.pip_download(tmp_path / "got", site.index(base), "common")
    )
    assert "common was not found" in failed(wide.uv_pip_install(tmp_path / "u", site.index(base), "common"))
    assert files_below(tmp_path / "got") == installed(tmp_path / "u") == set()


def test_a_group_that_forwards_installs_what_a_group_below_it_does_not(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    asked = len(site.public.asked_for("common"))
    fetch(f"{index_url(site.server, 'acme/vault')}common/", token=site.reader)
    assert len(site.public.asked_for("common")) == asked
    succeeded(wide.uv_pip_install(tmp_path / "site", site.index("acme"), "common"))
    assert installed(tmp_path / "site") == {"common-1.0"}


def test_a_dated_view_installs_what_an_upstream_had_then(site: Site, wide: Client, tmp_path: Path) -> None:
    index = index_url(site.server, "acme/+2024-06-01", site.reader, "reader")
    succeeded(wide.pip_install(tmp_path / "p", index, "aged"))
    succeeded(wide.uv_pip_install(tmp_path / "u", index.replace("+", "%2B"), "aged"))
    succeeded(wide.uv_pip_install(tmp_path / "now", site.index("acme"), "aged"))
    assert installed(tmp_path / "p") == installed(tmp_path / "u") == {"aged-1.0"}
    assert installed(tmp_path / "now") == {"aged-2.0"}


def test_a_lock_file_made_in_a_dated_view_stays_in_it(site: Site, wide: Client, tmp_path: Path) -> None:
    index = index_url(site.server, "acme/+2024-06-01", site.reader, "reader")
    dependent = (
        '[project]\nname = "thing"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = ["aged"]\n'
    )
    (wide.home / "pyproject.toml").write_text(dependent, encoding="utf-8")
    uv = find_uv()
    succeeded(wide.run(uv, "lock", "--default-index", index))
    locked = (wide.home / "uv.lock").read_text(encoding="utf-8")
    links = re.findall(r'"http://[^"]+\.whl"', locked)
    assert len(links) == 1
    assert "/acme/+2024-06-01/files/" in links[0]
    wide.forget()
    succeeded(wide.run(uv, "sync", "--frozen", "--no-install-project", "--default-index", index))
    packages = next((wide.home / ".venv" / "lib").glob("python*/site-packages"))
    assert installed(packages) == {"aged-1.0"}


def test_what_an_ancestor_locks_cannot_be_overridden_and_the_server_refuses_the_file(
    public: FakeUpstream, tmp_path: Path
) -> None:
    """Turned on again, set to something else, and added to: all are told at once, each with its line."""
    below = {"forward": True, "upstreams": ["pypi"], "deny": ["x"]}
    groups = {
        "acme": {
            "policy": {"forward": False, "lock": list(below)},
            "groups": {"team": {"groups": {"inner": {"policy": below}}}},
        }
    }
    server = ForkedServer(base_config(public) | {"groups": groups}, tmp_path / "server")
    with pytest.raises(ServerFailed) as refused:
        server.start()
    assert refused.value.returncode == 1
    for key in below:
        place = f"pypi-overlay.yaml:{line_of(server, f' {key}:')}: "
        [told] = [line for line in refused.value.log.splitlines() if place in line]
        assert f"groups.acme.groups.team.groups.inner.policy.{key}" in told
        assert "lock" in told
    assert "Traceback" not in refused.value.log


def test_a_locked_value_holds_below_where_nothing_is_said(
    public: FakeUpstream, wide: Client, tmp_path: Path
) -> None:
    groups = {
        "acme": {
            "visibility": "public",
            "policy": {"forward": False, "lock": ["forward"]},
            "groups": {"team": {"visibility": "public", "projects": {"thing": {}}}},
        }
    }
    with ForkedServer(base_config(public) | {"groups": groups}, tmp_path / "server") as server:
        for base in ("acme/team", "acme/team/thing"):
            failed(wide.uv_pip_install(tmp_path / "site", index_url(server, base), "common"))
            shape = server.json("explain", base, "common")
            step = next(step for step in shape["trail"] if step["outcome"] == "stop")
            assert step["step"] == "forward"
            assert "locked by acme" in step["because"]
            assert step["origin"]["line"] == line_of(server, "forward:")
    assert installed(tmp_path / "site") == set()


@pytest.mark.parametrize(
    ("base", "name", "step", "path", "line"),
    [
        ("acme/vault", "common", "forward", "groups.acme.groups.vault.policy.forward", "forward: false"),
        ("acme/vault/widgets", "common", "forward", "groups.acme.groups.vault.policy.forward", "forward: false"),
        ("acme", "Banned", "allow", "groups.acme.policy.deny", "- banned"),
        ("acme/vault", "ACME.thing", "claimed", "groups.acme.policy.reserve", "- acme-*"),
    ],
)  # fmt: skip
def test_explain_names_the_line_of_the_configuration_that_decided(
    site: Site, base: str, name: str, step: str, path: str, line: str
) -> None:
    url = f"{site.server.url}/api/v1/explain?index={base}&name={name}"
    by_api = fetch(url, token=site.reader)
    by_command = site.server.json("explain", base, name, "--as", "reader")
    assert by_api.status == 200
    for shape in (by_api.json, by_command):
        decided = next(entry for entry in shape["trail"] if entry["outcome"] == "stop")
        assert decided["step"] == step
        assert decided["origin"]["path"].startswith(path)
        assert Path(decided["origin"]["file"]).name == "pypi-overlay.yaml"
        assert decided["origin"]["line"] == line_of(site.server, line)
    assert by_command["trail"] == by_api.json["trail"]


def test_explain_on_the_terminal_shows_file_and_line(site: Site) -> None:
    shown = succeeded(site.server.run("explain", "acme/vault", "common", "--as", "reader"))
    assert "not-forwarded" in shown
    assert f"pypi-overlay.yaml:{line_of(site.server, 'forward: false')}" in shown
    assert json.loads(site.server.run("explain", "/", "common", "--json").stdout)["decision"] == "upstream"
