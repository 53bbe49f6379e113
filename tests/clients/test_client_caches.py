"""What clients keep: nothing private is hidden by their caches, and an unchanged page costs a 304."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.talking import Done, fetch, index_url, log_end, log_of, statuses, succeeded
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel, write_wheel

SETTINGS = {
    "log": {"format": "json"},
    "groups": {"acme": {"policy": {"shadow_upstream": "developer"}, "projects": {"widgets": {}}}},
}
CLIENTS = pytest.mark.parametrize("tool", ["pip", "uv"])


@dataclass(frozen=True, slots=True)
class Site:
    server: OverlayServer
    token: str
    dist: Path

    def publish(self, client: Client, name: str, version: str, modules: dict[str, str] | None = None) -> None:
        wheel = write_wheel(self.dist, name, version, modules=modules)
        succeeded(client.uv_publish(f"{self.server.url}/acme/widgets/", "__token__", self.token, wheel))

    def delete(self, name: str, version: str) -> None:
        """Delete a release as the owner of the instance."""
        url = f"{self.server.url}/api/v1/packages/acme%2Fwidgets/{name}/{version}"
        assert fetch(url, method="DELETE", token=self.server.owner_token()).status == 204

    def install(self, client: Client, tool: str, base: str, target: Path, *what: str) -> Done:
        """Install with the client's cache at work: pip keeps nothing of plain http from hosts it is not told of."""
        index = index_url(self.server, base, self.token)
        if tool == "uv":
            return client.uv_pip_install(target, index, *what)
        return client.pip_install(target, index, "--trusted-host", self.server.url.partition("//")[2], *what)


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    with ForkedServer(base_config(public) | SETTINGS, place / "server") as server:
        yield Site(server, server.deploy_token("acme/widgets"), place / "dist")


@pytest.mark.parametrize(("tool", "base"), [("pip", ""), ("uv", ""), ("uv", "acme/widgets")])
def test_a_new_private_version_and_its_deletion_are_seen_at_once(
    site: Site, wide: Client, fresh: Callable[[], Path], tool: str, base: str
) -> None:
    name = f"at-once-{tool}-{len(base)}"
    stem = name.replace("-", "_")
    for version in ("1.0", "1.1"):
        site.publish(wide, name, version)
        target = fresh()
        succeeded(site.install(wide, tool, base, target, name))
        assert installed(target) == {f"{stem}-{version}"}
    site.delete(name, "1.1")
    target = fresh()
    succeeded(site.install(wide, tool, base, target, name))
    assert installed(target) == {f"{stem}-1.0"}


@CLIENTS
def test_a_file_that_was_deleted_and_published_anew_replaces_the_one_in_the_clients_cache(
    site: Site, wide: Client, fresh: Callable[[], Path], tool: str
) -> None:
    name, module = f"anew-{tool}", f"anew_{tool}.py"
    for content in ("old = 1\n", "new = 1\n"):
        site.publish(wide, name, "1.0", {module: content})
        target = fresh()
        succeeded(site.install(wide, tool, "acme/widgets", target, name))
        assert (target / module).read_text() == content
        site.delete(name, "1.0")


@CLIENTS
def test_an_unchanged_private_page_costs_a_304_and_its_file_nothing(
    site: Site, wide: Client, fresh: Callable[[], Path], tool: str
) -> None:
    name = f"unchanged-{tool}"
    page = f"/acme/widgets/simple/{name}/"
    site.publish(wide, name, "1.0")
    begin = log_end(site.server)
    succeeded(site.install(wide, tool, "acme/widgets", fresh(), name))
    assert statuses(site.server, begin, page, f"{tool}/") == [200]
    # The last request of the first run is in the log before the second begins.
    wait_until(lambda: any(_is_wheel(record["path"]) for record in log_of(site.server, begin)))
    begin = log_end(site.server)
    target = fresh()
    succeeded(site.install(wide, tool, "acme/widgets", target, name))
    assert installed(target) == {f"{name.replace('-', '_')}-1.0"}
    assert statuses(site.server, begin, page, f"{tool}/") == [304]
    assert not any(_is_wheel(record["path"]) for record in log_of(site.server, begin))


@CLIENTS
def test_a_page_that_became_private_is_not_hidden_by_the_public_one_in_the_clients_cache(
    site: Site, public: FakeUpstream, wide: Client, fresh: Callable[[], Path], tool: str
) -> None:
    name = f"becomes-private-{tool}"
    stem = name.replace("-", "_")
    public.add_file(name, *make_wheel(name, "99.0"))
    target = fresh()
    succeeded(site.install(wide, tool, "", target, name))
    assert installed(target) == {f"{stem}-99.0"}
    site.publish(wide, name, "1.0")
    target = fresh()
    succeeded(site.install(wide, tool, "", target, name))
    assert installed(target) == {f"{stem}-1.0"}


def test_uv_keeps_an_upstream_page_for_as_long_as_the_operator_lets_it_and_a_private_one_never(
    public: FakeUpstream, wide: Client, tmp_path: Path, fresh: Callable[[], Path]
) -> None:
    public.add_file("kept-by-client", *make_wheel("kept-by-client", "1.0"))
    config = base_config(public) | SETTINGS | {"cache": {"client_max_age": "1h"}}
    with ForkedServer(config, tmp_path / "server") as server:
        site = Site(server, server.deploy_token("acme/widgets"), tmp_path / "dist")
        site.publish(wide, "not-kept", "1.0")
        succeeded(site.install(wide, "uv", "", fresh(), "kept-by-client", "not-kept"))
        wait_until(lambda: sum(_is_wheel(record["path"]) for record in log_of(server)) == 2)
        begin = log_end(server)
        target = fresh()
        succeeded(site.install(wide, "uv", "", target, "kept-by-client", "not-kept"))
        assert installed(target) == {"kept_by_client-1.0", "not_kept-1.0"}
        assert statuses(server, begin, "/simple/not-kept/", "uv/") == [304]
        assert [record["path"] for record in log_of(server, begin)] == ["/simple/not-kept/"]


def _is_wheel(path: str) -> bool:
    return path.endswith(".whl")
