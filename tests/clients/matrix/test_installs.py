"""Every client that installs: public and private packages, what it fetches to resolve, and its credentials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.matrix.conftest import Site
from tests.clients.matrix.installers import KINDS, installer
from tests.clients.matrix.table import each
from tests.clients.talking import failed, log_end, succeeded, upload
from tests.support.clients import Client, write_netrc
from tests.support.wheels import make_wheel

USER = "__token__"


@pytest.fixture(scope="module", autouse=True)
def published(site: Site) -> None:
    """Publish a private library that needs the public application, and one that needs nothing public."""
    made = [
        make_wheel("widgets-lib", "1.0", requires=["app"]),
        make_wheel("widgets-lib", "1.1+acme.1", requires=["app"]),
        make_wheel("widgets-core", "3.0"),
    ]
    for filename, content in made:
        name, version, *_ = filename.split("-")
        address, token = f"{site.server.url}/acme/widgets/", site.token("acme")
        answer = upload(address, token, filename, content, name=name, version=version)
        assert answer.status == 201, answer


@pytest.fixture
def login(site: Site) -> str:
    """Give the index of the group with credentials in its address."""
    return site.index(user=USER, password=site.token("acme"))


@pytest.fixture
def upstream_down(site: Site) -> Iterator[None]:
    site.upstream.stop()
    yield
    site.upstream.start()


def fetched(site: Site, begin: int) -> set[str]:
    """Return the filenames that were answered with content since then, `.metadata` files among them."""
    sent = [
        record
        for record in site.records(begin)
        if "/files/" in record["path"] and record["status"] in {200, 206}
    ]
    return {record["path"].rpartition("/")[2].replace("%2B", "+") for record in sent}


@each("install public")
def test_public_packages_are_installed_from_wheel_and_sdist(site: Site, person: Client, name: str) -> None:
    client = installer(person, name)
    succeeded(client.install(site.index(""), "app", "source-only"))
    assert client.installed() >= {"app-1.1", "lib-2.0", "source_only-1.0"}


@each("install private")
def test_private_packages_are_installed_with_what_they_need_of_the_public_ones(
    site: Site, person: Client, name: str, login: str
) -> None:
    """Its version has a `+`, which clients write as it is or as `%2B`."""
    client = installer(person, name)
    succeeded(client.install(login, "widgets-lib"))
    assert client.installed() >= {"widgets_lib-1.1+acme.1", "app-1.1", "lib-2.0"}


@each("install private")
def test_private_packages_are_installed_while_the_upstream_is_down(
    person: Client, name: str, login: str, upstream_down: None
) -> None:
    client = installer(person, name)
    succeeded(client.install(login, "widgets-core"))
    assert client.installed() >= {"widgets_core-3.0"}


@each("install private")
def test_nothing_is_installed_without_credentials_public_or_private(
    site: Site, person: Client, name: str
) -> None:
    client = installer(person, name)
    failed(client.install(site.index(), "widgets-core"))
    assert client.installed() == set()


@each("resolve")
def test_no_wheel_is_downloaded_to_resolve(site: Site, person: Client, name: str) -> None:
    """Neither from us nor from upstream, of a private library and of a public one that nobody asked for yet.

    The newest release of the public one is given up for what its metadata says. Credentials come from netrc: with
    some in the address pip-compile does not find its files in the JSON API, and downloads each to hash it.
    """
    client = installer(person, name)
    write_netrc(person.home, "127.0.0.1", USER, site.token("acme"))
    fresh = "fresh-" + name.replace(" ", "-").replace(".", "-")
    stem = fresh.replace("-", "_")
    for version, needs in (("1.0", "lib"), ("2.0", "lib>=3")):
        site.upstream.add_file(fresh, *make_wheel(fresh, version, requires=[needs]))
    site.upstream.reset_requests()
    begin = log_end(site.server)
    succeeded(client.resolve(site.index(), "widgets-lib", fresh))
    chosen = {"widgets-lib": "1.1+acme.1", "app": "1.1", "lib": "2.0", fresh: "1.0"}
    # pdm leaves the local part out of its lock file, though it installs by hash what has one.
    assert {one.partition("+")[0] for one in client.resolved()} == {
        f"{project}-{version.partition('+')[0]}" for project, version in chosen.items()
    }
    files = fetched(site, begin)
    assert f"{stem}-2.0-py3-none-any.whl.metadata" in files
    whole = {file for file in files if not file.endswith(".metadata")}
    if client.fetches_what_it_resolved:
        assert {file.partition("-")[0].replace("_", "-") for file in whole} == set(chosen)
        assert len(whole) == len(chosen)
    else:
        assert whole == set()
        assert not [one.path for one in site.upstream.requests() if one.path.endswith((".whl", ".tar.gz"))]


@each("resolve")
def test_no_wheel_is_downloaded_to_resolve_where_the_upstream_has_no_metadata_files(
    site: Site, person: Client, name: str
) -> None:
    """And speaks HTML alone: what it says of a wheel is read out of the wheel, by ranges."""
    client = installer(person, name)
    bare = "bare-" + name.replace(" ", "-").replace(".", "-")
    stem = bare.replace("-", "_")
    site.upstream.add_project(bare, form="html", core_metadata=False)
    for version, needs in (("1.0", "lib"), ("2.0", "lib>=3")):
        site.upstream.add_file(bare, *make_wheel(bare, version, requires=[needs], size=300_000))
    site.upstream.reset_requests()
    begin = log_end(site.server)
    succeeded(client.resolve(site.index(""), bare))
    assert client.resolved() == {f"{bare}-1.0", "lib-2.0"}
    files = fetched(site, begin)
    assert f"{stem}-2.0-py3-none-any.whl.metadata" in files
    if client.fetches_what_it_resolved:
        return
    assert all(file.endswith(".metadata") for file in files)
    wheels = [one for one in site.upstream.requests("GET") if one.path.endswith(".whl")]
    assert wheels
    assert all(one.header("Range") for one in wheels)


@each("netrc", KINDS)
def test_credentials_in_netrc_install(site: Site, person: Client, name: str) -> None:
    client = installer(person, name)
    write_netrc(person.home, "127.0.0.1", USER, site.token("acme"))
    succeeded(client.install(site.index(), "widgets-core"))
    assert client.installed() >= {"widgets_core-3.0"}


@each("URL", KINDS)
def test_credentials_in_the_address_install(person: Client, name: str, login: str) -> None:
    client = installer(person, name)
    succeeded(client.install(login, "widgets-core"))
    assert client.installed() >= {"widgets_core-3.0"}


@each("own way", KINDS)
def test_credentials_in_the_clients_own_way_install(site: Site, person: Client, name: str) -> None:
    client = installer(person, name)
    index = client.log_in(site.index(), USER, site.token("acme"))
    succeeded(client.install(index, "widgets-core"))
    assert client.installed() >= {"widgets_core-3.0"}
