"""Every client that publishes: once, twice, refused and told why, and with its credentials in each place."""

from __future__ import annotations

import hashlib

import pytest

from tests.clients.matrix.conftest import Site
from tests.clients.matrix.publishers import KINDS, Publisher, publisher
from tests.clients.matrix.table import each
from tests.clients.talking import Done, failed, fetch, log_end, succeeded
from tests.support.clients import Client, write_netrc
from tests.support.wheels import write_wheel

USER = "__token__"
ADDRESSES = ("acme/widgets", "acme/widgets/", "api/v4/projects/42/packages/pypi", "legacy", "legacy/")
# hatch looks for the name of a file before it sends it, and finds what is there already.
BLIND = tuple(name for name in KINDS if name != "hatch")
TAKES_LOGIN_FROM_NETRC = ("uv", "poetry")
TAKES_LOGIN_FROM_ADDRESS = ("uv", "poetry", "pdm", "twine 6", "twine 7")


def slug(name: str, what: str) -> str:
    """Return the name of a package that only this test has."""
    return f"{what}-{name.replace(' ', '-')}"


def send(site: Site, client: Publisher, base: str, *options: str) -> Done:
    return client.publish(f"{site.server.url}/{base}/", USER, site.token(base), *options)


def listed(site: Site, base: str, package: str) -> dict[str, str]:
    """Return filename → sha256 of what a project has published."""
    answer = fetch(f"{site.index(base)}{package}/", token=site.server.owner_token())
    files = answer.json["files"] if answer.status == 200 else []
    return {file["filename"]: file["hashes"]["sha256"] for file in files}


def built(client: Publisher) -> dict[str, str]:
    """Return filename → sha256 of what lies ready."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in client.files()}


@each("publish")
def test_wheel_and_sdist_are_published(site: Site, person: Client, name: str) -> None:
    client, package = publisher(person, name), slug(name, "whole")
    client.build(package, "1.0", sdist=True)
    succeeded(send(site, client, "acme/widgets"))
    assert len(built(client)) == 2
    assert listed(site, "acme/widgets", package) == built(client)


@each("publish")
def test_every_spelling_of_a_projects_address_takes_uploads(site: Site, person: Client, name: str) -> None:
    """Without a redirect: no client follows one as it should, and flit takes what it leads to for success."""
    client, package = publisher(person, name), slug(name, "spelt")
    for number, address in enumerate(ADDRESSES):
        project = "default" if address.startswith("legacy") else "acme/widgets"
        for old in client.dist.glob("*"):
            old.unlink()
        client.build(f"{package}-{len(project)}", f"1.{number}")
        begin = log_end(site.server)
        succeeded(client.publish(f"{site.server.url}/{address}", USER, site.token(project)))
        assert site.posts(begin) == [201], address
        assert built(client).items() <= listed(site, project, f"{package}-{len(project)}").items(), address


@each("republish", BLIND)
def test_the_same_file_again_is_refused(site: Site, person: Client, name: str) -> None:
    client, package = publisher(person, name), slug(name, "again")
    client.build(package, "1.0")
    succeeded(send(site, client, "acme/widgets"))
    begin = log_end(site.server)
    assert "already exists" in failed(send(site, client, "acme/widgets"))
    assert site.posts(begin) == [400]
    assert listed(site, "acme/widgets", package) == built(client)


@each("republish", BLIND)
def test_the_same_file_again_is_accepted_where_the_policy_says_so(
    site: Site, person: Client, name: str
) -> None:
    client, package = publisher(person, name), slug(name, "same")
    client.build(package, "1.0")
    succeeded(send(site, client, "lenient/widgets"))
    begin = log_end(site.server)
    succeeded(send(site, client, "lenient/widgets"))
    assert site.posts(begin) == [200]
    assert listed(site, "lenient/widgets", package) == built(client)


@each("republish", BLIND)
def test_other_bytes_of_the_same_filename_are_refused_even_so(site: Site, person: Client, name: str) -> None:
    client, package = publisher(person, name), slug(name, "other")
    client.build(package, "1.0")
    succeeded(send(site, client, "lenient/widgets"))
    first = built(client)
    client.build(package, "1.0", text="as it is now")
    assert "already exists" in failed(send(site, client, "lenient/widgets"))
    assert listed(site, "lenient/widgets", package) == first
    assert client.builds or first != built(client)


@pytest.mark.cell("hatch", "republish")
@pytest.mark.parametrize("base", ["acme/widgets", "lenient/widgets"])
def test_hatch_finds_its_files_at_simple_and_sends_none_again_be_they_the_same_or_not(
    site: Site, person: Client, base: str
) -> None:
    """It compares names alone. It asks for `*/*` and finds nothing in a page that is not HTML."""
    client, package = publisher(person, "hatch"), slug("hatch", "known")
    client.build(package, "1.0", sdist=True)
    succeeded(send(site, client, base))
    first = built(client)
    begin = log_end(site.server)
    assert succeeded(send(site, client, base)).count("already exists") == 2
    client.build(package, "1.0", text="as it is now")
    assert succeeded(send(site, client, base)).count("already exists") == 2
    assert site.posts(begin) == []
    assert listed(site, base, package) == first != built(client)


def skipping(site: Site, client: Publisher, base: str) -> tuple[str, ...]:
    """Return the options by which a client passes over what is there."""
    if client.looks_first or client.skip_existing:
        return client.skip_existing
    return ("--check-url", site.index(base, user=USER, password=site.token(base)))


@each("skip existing")
def test_what_is_there_is_passed_over_and_what_is_new_published(
    site: Site, person: Client, name: str
) -> None:
    client, package = publisher(person, name), slug(name, "skipped")
    client.build(package, "1.0")
    succeeded(send(site, client, "acme/widgets"))
    client.build(package, "1.0", sdist=True)
    shown = succeeded(send(site, client, "acme/widgets", *skipping(site, client, "acme/widgets")))
    assert "exist" in shown
    assert len(built(client)) == 2
    assert listed(site, "acme/widgets", package) == built(client)


@each("skip existing")
@pytest.mark.parametrize("what", ["name", "archive"])
def test_a_refusal_for_another_reason_is_not_passed_over(
    site: Site, person: Client, name: str, what: str
) -> None:
    client, package = publisher(person, name), slug(name, f"real-{what}")
    options = skipping(site, client, "acme/widgets")
    client.build(package, "1.0")
    token = site.token("acme")
    if what == "name":
        succeeded(send(site, client, "acme/sandbox"))
        token = site.server.deploy_token("acme/widgets")
    else:
        write_wheel(client.dist, package, "1.0", modules={"../outside.py": ""})
    shown = failed(client.publish(f"{site.server.url}/acme/widgets/", USER, token, *options))
    told = {"name": "belongs to another project of acme", "archive": "unsafe name"}
    assert told[what] in shown
    assert listed(site, "acme/widgets", package) == {}


def refused(site: Site, client: Publisher, base: str, token: str, status: int) -> str:
    """Publish, see that one request was made and refused with this status; return what the terminal shows.

    One: nobody tries again, and poetry does not send the form that an answer with "was ever registered" asks for.
    """
    begin = log_end(site.server)
    shown = failed(client.publish(f"{site.server.url}/{base}/", USER, token))
    assert site.posts(begin) == [status]
    assert str(status) in shown
    return shown


@each("refused")
def test_who_may_not_publish_is_told_so(site: Site, person: Client, name: str) -> None:
    client = publisher(person, name)
    client.build(slug(name, "forbidden"), "1.0")
    shown = refused(site, client, "acme/widgets", site.server.token_for_user("reader"), 403)
    assert "may not publish to acme/widgets" in shown


@each("refused")
def test_whose_token_is_wrong_is_told_so(site: Site, person: Client, name: str) -> None:
    client = publisher(person, name)
    client.build(slug(name, "unknown"), "1.0")
    shown = refused(site, client, "acme/widgets", "pyo_pat_nonsense", 401)
    assert "these credentials are not valid" in shown


@each("refused")
def test_a_version_that_the_policy_does_not_take_is_told_so(site: Site, person: Client, name: str) -> None:
    client = publisher(person, name)
    client.build(slug(name, "local"), "1.0+acme")
    shown = refused(site, client, "strict/widgets", site.token("strict"), 400)
    assert "'1.0+acme' is a local version" in shown


@each("refused", (name for name in KINDS if name != "flit"))
def test_an_archive_that_is_not_sound_is_told_so(site: Site, person: Client, name: str) -> None:
    """flit sends nothing but what it builds."""
    client, package = publisher(person, name), slug(name, "unsound")
    client.build(package, "1.0")
    write_wheel(client.dist, package, "1.0", modules={"../outside.py": ""})
    shown = refused(site, client, "acme/widgets", site.token("acme"), 400)
    assert "unsafe name '../outside.py'" in shown


@each("netrc", TAKES_LOGIN_FROM_NETRC)
def test_credentials_in_netrc_publish(site: Site, person: Client, name: str) -> None:
    """pdm and twine insist on a user name first; they do not look there."""
    client, package = publisher(person, name), slug(name, "netrc")
    client.build(package, "1.0")
    write_netrc(person.home, "127.0.0.1", USER, site.token("acme"))
    succeeded(client.publish(f"{site.server.url}/acme/widgets/"))
    assert listed(site, "acme/widgets", package) == built(client)


@each("URL", TAKES_LOGIN_FROM_ADDRESS)
def test_credentials_in_the_address_publish(site: Site, person: Client, name: str) -> None:
    client, package = publisher(person, name), slug(name, "address")
    client.build(package, "1.0")
    succeeded(client.publish(f"http://{USER}:{site.token('acme')}@{site.host}/acme/widgets/"))
    assert listed(site, "acme/widgets", package) == built(client)


@each("own way", KINDS)
def test_credentials_in_the_clients_own_way_publish(site: Site, person: Client, name: str) -> None:
    """`.pypirc`, variables, or its own configuration."""
    client, package = publisher(person, name), slug(name, "own")
    client.build(package, "1.0")
    address = f"{site.server.url}/acme/widgets/"
    client.log_in(address, USER, site.token("acme"))
    succeeded(client.publish(address))
    assert listed(site, "acme/widgets", package) == built(client)
