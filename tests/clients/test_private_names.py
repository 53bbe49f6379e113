"""Private names before public ones: widgets 1.0 is ours, and the upstream offers 99.0 of everything.

`widgets` and `acme.widgets-core` live in acme/widgets, a project of a private group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.clients.talking import failed, fetch, files_below, index_url, links, succeeded
from tests.support.clients import Client, installed, write_netrc
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel, write_sdist, write_wheel

SHOWING = ("acme/widgets", "acme", "")  # the indexes at which acme/widgets can be seen
GITLAB = ("api/v4/projects/42/packages/pypi", "api/v4/projects/acme%2Fwidgets/packages/pypi")
GITLAB_GROUP = ("api/v4/groups/7/-/packages/pypi", "api/v4/groups/acme/-/packages/pypi")
OTHERS = ("acme/sandbox", "acme/team", "acme/team/inner")  # of the same tenant, without acme/widgets
SPELLINGS = ("acme.widgets-core", "ACME.Widgets-Core", "acme_widgets_core", "acme--widgets.._core")


@dataclass(frozen=True, slots=True)
class Site:
    """The server, its upstream, and the token of a reader of all of acme."""

    server: OverlayServer
    public: FakeUpstream
    reader: str
    writer: str

    def index(self, base: str) -> str:
        return index_url(self.server, base, self.reader, "reader")


def acme() -> dict[str, object]:
    return {
        "users": {"reader": {}, "dev": {}, "stranger": {}},
        "groups": {
            "acme": {
                "id": 7,
                "members": {"reader": "reporter"},
                "policy": {"shadow_upstream": "developer"},
                "projects": {
                    "widgets": {"id": 42},
                    "sandbox": {"members": {"dev": "developer"}},
                },
                "groups": {"team": {"projects": {"inner": {}}}},
            },
            "other": {"members": {"stranger": "reporter"}, "projects": {"things": {}}},
        },
    }


def build(public: FakeUpstream, server: OverlayServer, directory: Path) -> Site:
    """Publish 1.0 of the two private names, as wheel and sdist; let the upstream offer 99.0 of both."""
    for name in ("widgets", "acme.widgets-core"):
        public.add_file(name, *make_wheel(name, "99.0"))
        public.add_file(name, *make_sdist(name, "99.0"))
    public.add_file("innocent", *make_wheel("innocent", "1.0", requires=["widgets"]))
    writer = server.deploy_token("acme/widgets", "write_package_registry")
    files = [
        write(directory, name, "1.0")
        for name in ("widgets", "acme.widgets-core")
        for write in (write_wheel, write_sdist)
    ]
    uploader = Client(directory / "uploader")
    succeeded(uploader.uv_publish(f"{server.url}/acme/widgets/", "__token__", writer, *files))
    public.reset_requests()
    return Site(server, public, server.token_for_user("reader", "read_api"), writer)


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    with ForkedServer(base_config(public) | acme(), place / "server") as server:
        yield build(public, server, place / "dist")


@pytest.mark.parametrize("base", [*SHOWING, GITLAB[1], GITLAB_GROUP[0]])
def test_pip_gets_the_private_version_with_credentials_in_the_url(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    succeeded(wide.pip_install(tmp_path / "site", site.index(base), "widgets"))
    assert installed(tmp_path / "site") == {"widgets-1.0"}


@pytest.mark.parametrize("base", [*SHOWING, *GITLAB, *GITLAB_GROUP])
def test_uv_gets_the_private_version_with_credentials_in_the_url(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    succeeded(wide.uv_pip_install(tmp_path / "site", site.index(base), "widgets"))
    assert installed(tmp_path / "site") == {"widgets-1.0"}


@pytest.mark.parametrize("base", ["acme/sandbox", "acme/team"])
def test_pip_gets_nothing_from_elsewhere_in_the_tenant(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    shown = failed(wide.pip_download(tmp_path / "got", site.index(base), "widgets"))
    assert "from versions: none" in shown
    assert "99.0" not in shown
    assert files_below(tmp_path / "got") == set()


@pytest.mark.parametrize("base", OTHERS)
def test_uv_gets_nothing_from_elsewhere_in_the_tenant_and_shows_why(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    shown = failed(wide.uv_pip_install(tmp_path / "site", site.index(base), "widgets"))
    assert "451" in shown
    assert "widgets belongs to acme/widgets" in shown
    assert installed(tmp_path / "site") == set()


@pytest.mark.parametrize("strategy", ["first-index", "unsafe-first-match", "unsafe-best-match"])
def test_uv_stops_at_the_refusal_also_with_the_public_index_as_a_second_one(
    site: Site, upstream: FakeUpstream, wide: Client, tmp_path: Path, strategy: str
) -> None:
    """A 404 would send it on to the public 99.0."""
    upstream.add_file("widgets", *make_wheel("widgets", "99.0"))
    ours_first = ("--extra-index-url", site.index("acme/sandbox"), "--index-strategy", strategy)
    shown = failed(wide.uv_pip_install(tmp_path / "site", upstream.index_url, "widgets", *ours_first))
    assert "widgets belongs to acme/widgets" in shown
    assert installed(tmp_path / "site") == set()


def test_two_projects_of_one_owner_with_the_same_name_are_served_together(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    token = site.server.deploy_token("acme")
    for project, version in (("widgets", "1.0"), ("sandbox", "2.0")):
        wheel = write_wheel(tmp_path, "shared-name", version)
        succeeded(wide.uv_publish(f"{site.server.url}/acme/{project}/", "__token__", token, wheel))
    for base, version in (("acme/widgets", "1.0"), ("acme/sandbox", "2.0"), ("acme", "2.0"), ("", "2.0")):
        target = tmp_path / f"from-{base.replace('/', '-')}"
        succeeded(wide.uv_pip_install(target, site.index(base), "shared-name"))
        assert installed(target) == {f"shared_name-{version}"}
    succeeded(wide.pip_install(tmp_path / "older", site.index("acme"), "shared-name==1.0"))
    assert installed(tmp_path / "older") == {"shared_name-1.0"}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_name_gets_the_private_version(
    site: Site, wide: Client, tmp_path: Path, spelling: str
) -> None:
    succeeded(wide.uv_pip_install(tmp_path / "u", site.index(""), spelling))
    assert installed(tmp_path / "u") == {"acme_widgets_core-1.0"}


def test_pip_gets_the_private_version_by_another_spelling_and_with_room_for_the_public_one(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    succeeded(wide.pip_download(tmp_path / "got", site.index("acme"), f"{SPELLINGS[-1]}>=0.1,<99999"))
    assert files_below(tmp_path / "got") == {"acme_widgets_core-1.0-py3-none-any.whl"}


@pytest.mark.parametrize("spelling", [*SPELLINGS, "Acme%2EWidgets%2DCore", "%61cme-widgets-core"])
@pytest.mark.parametrize("slash", ["/", ""])
def test_every_spelling_of_a_page_address_leads_to_the_private_page_and_nowhere_else(
    site: Site, spelling: str, slash: str
) -> None:
    url = f"{site.server.url}/simple/{spelling}{slash}"
    answer = fetch(url, token=site.reader)
    for _ in range(2):
        if answer.status != 301:
            break
        url = urljoin(url, answer.headers["location"])
        answer = fetch(url, token=site.reader)
    assert answer.status == 200, answer
    assert answer.json["name"] == "acme-widgets-core"
    assert {file["filename"].split("-")[1].removesuffix(".tar.gz") for file in answer.json["files"]} == {
        "1.0"
    }


@pytest.mark.parametrize("base", [*SHOWING, *OTHERS, *GITLAB, *GITLAB_GROUP])
@pytest.mark.parametrize("name", ["widgets", "acme-widgets-core", "ACME.widgets_core"])
def test_an_anonymous_caller_gets_401_at_every_index(site: Site, base: str, name: str) -> None:
    answer = fetch(f"{index_url(site.server, base)}{name}/")
    if answer.status == 301:  # only the public root may redirect before it knows who asks
        assert base == ""
        assert answer.headers["location"].endswith("acme-widgets-core/")
        return
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="pypi-overlay", charset="UTF-8"'
    assert b"1.0" not in answer.body


def test_an_anonymous_caller_gets_401_at_every_file(site: Site) -> None:
    for base in ("", "acme/", "acme/widgets/"):
        for link in links(f"{site.server.url}/{base}simple/widgets/", site.reader):
            assert fetch(link).status == 401
            assert fetch(f"{link}.metadata").status == 401


@pytest.mark.parametrize("base", ["acme/widgets", ""])
def test_pip_and_uv_without_credentials_get_nothing(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    anonymous = index_url(site.server, base)
    assert "99.0" not in failed(wide.pip_download(tmp_path / "got", anonymous, "widgets"))
    assert "401" in failed(wide.uv_pip_install(tmp_path / "site", anonymous, "widgets"))
    assert files_below(tmp_path / "got") == installed(tmp_path / "site") == set()


@pytest.mark.parametrize("base", ["acme", ""])
def test_pip_installs_with_nothing_but_a_netrc(site: Site, wide: Client, tmp_path: Path, base: str) -> None:
    write_netrc(wide.home, "127.0.0.1", "reader", site.reader)
    succeeded(wide.pip_install(tmp_path / "site", index_url(site.server, base), "widgets"))
    assert installed(tmp_path / "site") == {"widgets-1.0"}


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_public_and_private_packages_install_together_with_nothing_but_a_netrc(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    """uv asks anonymously first: it is let in for the public page and must still find out about the private one."""
    write_netrc(wide.home, "127.0.0.1", "reader", site.reader)
    install = wide.pip_install if tool == "pip" else wide.uv_pip_install
    succeeded(install(tmp_path / "site", index_url(site.server), "innocent"))
    assert installed(tmp_path / "site") == {"innocent-1.0", "widgets-1.0"}


@pytest.mark.parametrize("base", SHOWING)
def test_uv_installs_with_nothing_but_a_netrc(site: Site, wide: Client, tmp_path: Path, base: str) -> None:
    write_netrc(wide.home, "127.0.0.1", "reader", site.reader)
    succeeded(wide.uv_pip_install(tmp_path / "site", index_url(site.server, base), "widgets"))
    assert installed(tmp_path / "site") == {"widgets-1.0"}


def test_a_reader_of_another_tenant_gets_nothing_at_the_root(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    token = site.server.token_for_user("stranger", "read_api")
    root = index_url(site.server, "", token, "stranger")
    shown = failed(wide.uv_pip_install(tmp_path / "site", root, "widgets"))
    assert "reserved on this server" in shown
    assert "acme" not in shown
    assert "99.0" not in failed(wide.pip_download(tmp_path / "got", root, "widgets"))
    assert files_below(tmp_path / "got") == installed(tmp_path / "site") == set()


def test_another_tenant_has_the_public_package_of_that_name(site: Site, wide: Client, tmp_path: Path) -> None:
    """A tenant's claim counts in the tenant and at the root, and nowhere else."""
    site.public.add_file("gizmo", *make_wheel("gizmo", "99.0"))
    wheel = write_wheel(tmp_path, "gizmo", "1.0")
    succeeded(wide.uv_publish(f"{site.server.url}/acme/widgets/", "__token__", site.writer, wheel))
    url = index_url(site.server, "other", site.server.token_for_user("stranger", "read_api"), "stranger")
    succeeded(wide.uv_pip_install(tmp_path / "theirs", url, "gizmo"))
    assert installed(tmp_path / "theirs") == {"gizmo-99.0"}
    succeeded(wide.uv_pip_install(tmp_path / "ours", site.index(""), "gizmo"))
    assert installed(tmp_path / "ours") == {"gizmo-1.0"}


@pytest.mark.parametrize("tool", ["twine", "uv"])
def test_a_developer_of_another_project_cannot_publish_the_name(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    token = site.server.token_for_user("dev")
    wheel = write_wheel(tmp_path, "widgets", "2.0")
    publish = wide.twine_upload if tool == "twine" else wide.uv_publish
    shown = failed(publish(f"{site.server.url}/acme/sandbox/", "dev", token, wheel))
    assert "403" in shown
    assert "widgets belongs to another project of acme" in shown
    # The project that owns the name cannot even be seen from there.
    assert "404" in failed(publish(f"{site.server.url}/acme/widgets/", "dev", token, wheel))
    page = fetch(f"{site.server.url}/simple/widgets/", token=site.reader).json
    assert page["versions"] == ["1.0"]


def test_after_deletion_the_name_is_451_and_no_client_gets_the_public_one(
    upstream: FakeUpstream, wide: Client, tmp_path: Path
) -> None:
    with ForkedServer(base_config(upstream) | acme(), tmp_path / "server") as server:
        site = build(upstream, server, tmp_path / "dist")
        old = links(f"{server.url}/simple/widgets/", site.reader)
        done = server.run("package", "delete", "acme/widgets", "widgets", "--yes")
        assert done.returncode == 0, done.stderr
        for base in (*SHOWING, *OTHERS[:1], *GITLAB_GROUP):
            answer = fetch(f"{index_url(server, base)}widgets/", token=site.reader)
            assert (answer.status, answer.headers["content-type"]) == (451, "application/problem+json")
            assert answer.json["decision"] == "claimed"
        assert [fetch(link, token=site.reader).status for link in old] == [403] * len(old)
        assert fetch(f"{server.url}/simple/widgets/").status == 401
        for base in SHOWING:
            shown = failed(wide.uv_pip_install(tmp_path / "u", site.index(base), "widgets"))
            assert "451" in shown
            assert "was deleted from acme/widgets and stays claimed" in shown
        assert "99.0" not in failed(wide.pip_download(tmp_path / "got", site.index(""), "widgets"))
        assert files_below(tmp_path / "got") == installed(tmp_path / "u") == set()
        # The owner publishes on: the tombstone shadows nobody but others.
        wheel = write_wheel(tmp_path, "widgets", "1.1")
        check = index_url(server, "acme/widgets", server.deploy_token("acme/widgets"))
        url = f"{server.url}/acme/widgets/"
        succeeded(wide.uv_publish(url, "__token__", site.writer, wheel, check_url=check))
        succeeded(wide.uv_pip_install(tmp_path / "again", site.index(""), "widgets"))
        assert installed(tmp_path / "again") == {"widgets-1.1"}
    assert upstream.asked_for("widgets") == []


def test_no_reading_route_ever_asks_the_upstream_for_a_private_name(site: Site) -> None:
    """Last, so that all that the tests above asked counts; it asks by the routes that no client takes, too."""
    server, owner = site.server, site.server.owner_token()
    assert "private" in succeeded(server.run("explain", "/", "Widgets"))
    assert "claimed" in succeeded(server.run("explain", "acme/sandbox", "widgets", "--as", "reader"))
    for base in (*SHOWING, *OTHERS):
        for name in ("widgets", "Widgets", "acme.widgets_core"):
            for token in (site.reader, owner, None):
                fetch(f"{server.url}/api/v1/explain?index={base or '/'}&name={name}", token=token)
                fetch(f"{index_url(server, base)}{name}/", token=token)
        for filename in (
            "widgets-99.0-py3-none-any.whl",
            "Widgets-99.0.tar.gz",
            "acme_widgets_core-99.0-py3-none-any.whl",
            "acme.widgets-core-99.0.tar.gz",
        ):
            for suffix in ("", ".metadata"):
                path = f"{base}/files/{'0' * 64}/{filename}{suffix}".removeprefix("/")
                assert fetch(f"{server.url}/{path}", token=site.reader).status in {403, 404}
    assert fetch(f"{index_url(server)}innocent/").status == 200
    assert len(site.public.asked_for("innocent")) > 0, "the record works"
    assert site.public.asked_for("widgets") == []
    # A look-up of the sdist `acme.widgets-core-99.0` may ask whether there is an `acme-widgets`: not ours.
    assert site.public.asked_for("acme-widgets-core") == []
