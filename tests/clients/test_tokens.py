"""Every kind of token as pip, uv and twine present it, and what ends when one is revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import failed, fetch, index_url, links, succeeded
from tests.support.clients import Client, installed, write_netrc
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import write_wheel


@dataclass(frozen=True, slots=True)
class Login:
    """What a person writes in front of the `@`, with the number of the token."""

    user: str
    token: str
    id: int


@dataclass(frozen=True, slots=True)
class Site:
    """The server with a token of each kind; what is to be revoked is made by `login`."""

    server: OverlayServer
    logins: dict[str, Login] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> Login:
        if kind not in self.logins:
            self.logins[kind] = self.login(kind)
        return self.logins[kind]

    def login(self, kind: str) -> Login:
        """Make a token of a kind."""
        wanted, user = KINDS[kind]
        made = self.server.make_token(**wanted, name="" if kind == "job" else kind)
        return Login(user or made["username"], made["token"], made["id"])

    def revoke(self, login: Login) -> None:
        """End a token for good."""
        url = f"{self.server.url}/api/v1/tokens/{login.id}"
        assert fetch(url, method="DELETE", token=self.server.owner_token()).status == 204

    def index(self, base: str, login: Login) -> str:
        return index_url(self.server, base, login.token, login.user)


def _personal(scope: str) -> dict[str, Any]:
    return {"kind": "personal", "user": "alice", "scopes": [scope]}


def _deploy(namespace: str, *does: str) -> dict[str, Any]:
    return {
        "kind": "deploy",
        "namespace": namespace,
        "scopes": [f"{what}_package_registry" for what in does],
    }


KINDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "personal": (_personal("api"), "alice"),
    "personal that reads": (_personal("read_api"), "whoever"),
    "deploy of the group": (_deploy("acme", "read", "write"), None),
    "deploy of the project": (_deploy("acme/widgets", "read"), "__token__"),
    "deploy that writes": (_deploy("acme", "write"), "__token__"),
    "deploy of another project": (_deploy("acme/tools", "read", "write"), "__token__"),
    "job": ({"kind": "job", "namespace": "acme/tools"}, "gitlab-ci-token"),
}
READERS = ["personal", "personal that reads", "deploy of the group", "deploy of the project", "job"]


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    acme = {"members": {"alice": "developer"}, "projects": {"widgets": {}, "tools": {}}}
    with ForkedServer(
        base_config(public) | {"users": {"alice": {}}, "groups": {"acme": acme}}, place / "server"
    ) as server:
        site = Site(server)
        writer = site["deploy of the group"]
        wheel = write_wheel(place, "widgets", "1.0")
        uploader = Client(place / "uploader")
        succeeded(uploader.uv_publish(f"{server.url}/acme/widgets/", writer.user, writer.token, wheel))
        yield site


@pytest.mark.parametrize("kind", READERS)
def test_a_token_that_reads_installs(site: Site, wide: Client, tmp_path: Path, kind: str) -> None:
    login = site[kind]
    succeeded(wide.pip_install(tmp_path / "p", site.index("", login), "widgets"))
    succeeded(wide.uv_pip_install(tmp_path / "u", site.index("acme", login), "widgets"))
    assert installed(tmp_path / "p") == installed(tmp_path / "u") == {"widgets-1.0"}


@pytest.mark.parametrize("kind", ["deploy that writes", "deploy of another project"])
def test_a_token_that_does_not_read_there_installs_nothing(
    site: Site, wide: Client, tmp_path: Path, kind: str
) -> None:
    login = site[kind]
    failed(wide.pip_install(tmp_path / "p", site.index("", login), "widgets"))
    for base in ("acme/widgets", "acme", ""):
        failed(wide.uv_pip_install(tmp_path / "u", site.index(base, login), "widgets"))
    assert installed(tmp_path / "p") == installed(tmp_path / "u") == set()


def test_a_deploy_token_with_a_wrong_user_name_is_refused(site: Site, wide: Client, tmp_path: Path) -> None:
    made = site["deploy of the group"]
    assert made.user.startswith("pyo+deploy-")
    wrong = index_url(site.server, "acme", made.token, "somebody")
    assert "401" in failed(wide.uv_pip_install(tmp_path / "u", wrong, "widgets"))
    failed(wide.pip_install(tmp_path / "p", wrong, "widgets"))
    assert installed(tmp_path / "u") == installed(tmp_path / "p") == set()


@pytest.mark.parametrize("tool", ["twine", "uv"])
def test_a_job_publishes_to_its_own_project_and_to_no_other(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    job = site["job"]
    publish = wide.twine_upload if tool == "twine" else wide.uv_publish
    wheel = write_wheel(tmp_path, f"made-by-{tool}", "1.0")
    shown = failed(publish(f"{site.server.url}/acme/widgets/", job.user, job.token, wheel))
    assert "403" in shown
    assert "may not publish to acme/widgets" in shown
    succeeded(publish(f"{site.server.url}/acme/tools/", job.user, job.token, wheel))
    succeeded(wide.uv_pip_install(tmp_path / "u", site.index("acme", job), f"made-by-{tool}"))


@pytest.mark.parametrize("tool", ["twine", "uv"])
@pytest.mark.parametrize("kind", ["personal that reads", "deploy of the project"])
def test_a_token_that_only_reads_cannot_publish(
    site: Site, wide: Client, tmp_path: Path, tool: str, kind: str
) -> None:
    login = site[kind]
    publish = wide.twine_upload if tool == "twine" else wide.uv_publish
    shown = failed(
        publish(
            f"{site.server.url}/acme/widgets/", login.user, login.token, write_wheel(tmp_path, "widgets", "2")
        )
    )
    assert "403" in shown
    assert "may not publish to acme/widgets" in shown


@pytest.mark.parametrize("kind", ["personal", "deploy of the group", "job"])
def test_a_revoked_token_fails_at_once_also_for_a_client_that_has_all_in_its_cache(
    site: Site, wide: Client, tmp_path: Path, fresh: Callable[[], Path], kind: str
) -> None:
    login = site.login(kind)
    index = site.index("acme", login)
    target = fresh()
    succeeded(wide.uv_pip_install(target, index, "widgets"))
    assert installed(target) == {"widgets-1.0"}
    files = links(f"{site.server.url}/acme/simple/widgets/", login.token)
    assert [fetch(file, token=login.token).status for file in files] == [200]
    site.revoke(login)
    assert [fetch(file, token=login.token).status for file in files] == [401]
    # A public name at a public index, too: wrong credentials are 401 everywhere.
    assert fetch(f"{index_url(site.server)}anything/", token=login.token).status == 401
    target = fresh()
    assert "401" in failed(wide.uv_pip_install(target, index, "widgets"))
    assert installed(target) == set()


def test_a_token_in_the_netrc_is_good_until_it_is_revoked(site: Site, wide: Client, tmp_path: Path) -> None:
    login = site.login("personal")
    write_netrc(wide.home, "127.0.0.1", login.user, login.token)
    succeeded(wide.pip_install(tmp_path / "before", index_url(site.server), "widgets"))
    site.revoke(login)
    failed(wide.pip_install(tmp_path / "after", index_url(site.server), "widgets"))
    assert "401" in failed(wide.uv_pip_install(tmp_path / "after", index_url(site.server), "widgets"))
    assert installed(tmp_path / "after") == set()


def test_the_owner_token_of_the_first_start_installs_and_publishes(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    owner = site.server.owner_token()
    wheel = write_wheel(tmp_path, "by-owner", "1.0")
    succeeded(wide.twine_upload(f"{site.server.url}/acme/tools/", "__token__", owner, wheel))
    succeeded(wide.pip_install(tmp_path / "site", index_url(site.server, "acme/tools", owner), "by-owner"))
    assert installed(tmp_path / "site") == {"by_owner-1.0"}
