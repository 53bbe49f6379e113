"""What single clients do that others do not, and how it would go wrong: each by the client itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.matrix.conftest import Site
from tests.clients.matrix.cutting import CuttingWire
from tests.clients.matrix.installers import Pip, Poetry, Uv, installer
from tests.clients.matrix.publishers import publisher
from tests.clients.talking import failed, fetch, log_end, succeeded, upload
from tests.faults.test_full_disk import LIMIT, Cramped
from tests.support.clients import Client, write_netrc
from tests.support.server import base_config
from tests.support.wheels import make_wheel, write_wheel

USER = "__token__"
NEWEST_PIP = "pip 26.3"


def publish(site: Site, name: str, version: str, size: int | None = None) -> None:
    filename, content = make_wheel(name, version, size=size)
    address = f"{site.server.url}/acme/widgets/"
    answer = upload(address, site.token("acme"), filename, content, name=name, version=version)
    assert answer.status == 201, answer


# Publishing


@pytest.mark.parametrize(
    "address", ["acme", "acme/simple", "acme/widgets/simple", "acme/widgets/simple/Two_Words"]
)
def test_flit_meets_no_redirect_which_it_would_take_for_success(
    site: Site, person: Client, address: str
) -> None:
    """Addresses at which a GET is redirected, or one that is not a project's."""
    client = publisher(person, "flit")
    client.build("lost-flit", "1.0")
    begin = log_end(site.server)
    shown = failed(client.publish(f"{site.server.url}/{address}", USER, site.token("acme")))
    assert "405" in shown
    assert [record["method"] for record in site.records(begin)[:-1]] == ["POST"]


@pytest.mark.parametrize("name", ["twine 6", "twine 7"])
def test_twine_does_not_begin_to_skip_existing_files(site: Site, person: Client, name: str) -> None:
    """Hence `identical_upload: accept`. It names PyPI's addresses as the ones that may."""
    client = publisher(person, name)
    client.build("never-sent", "1.0")
    begin = log_end(site.server)
    shown = failed(
        client.publish(f"{site.server.url}/acme/widgets/", USER, site.token("acme"), "--skip-existing")
    )
    assert "does not have support" in shown
    assert site.posts(begin) == []


@pytest.fixture(scope="module")
def cramped(site: Site, place: Path) -> Iterator[Site]:
    """Give a server whose disk is full."""
    config = base_config(site.upstream) | {
        "log": {"format": "json"},
        "groups": {"acme": {"projects": {"widgets": {}}}},
    }
    with Cramped(config, place / "cramped") as server:
        yield Site(server, site.upstream, {"acme": server.deploy_token("acme")})


@pytest.mark.parametrize(
    ("name", "times"),
    [("twine 6", 5), ("twine 7", 5), ("uv", 1), ("poetry", 1), ("pdm", 1), ("hatch", 1), ("flit", 1)],
)
def test_a_full_disk_is_told_and_costs_twine_five_uploads_and_the_others_one(
    cramped: Site, person: Client, name: str, times: int
) -> None:
    """twine repeats an upload at every 5xx, at once; nothing in an answer keeps it from that."""
    client = publisher(person, name)
    client.build("too-big", "1.0")
    if client.builds:
        (client.home / "too_big.py").write_bytes(b'"""Big."""\n' + _digits(LIMIT))
    else:
        write_wheel(client.dist, "too-big", "1.0", size=LIMIT + 100_000)
    begin = log_end(cramped.server)
    shown = failed(client.publish(f"{cramped.server.url}/acme/widgets/", USER, cramped.token("acme")))
    assert "no space is left on the server" in shown
    assert cramped.posts(begin) == [507] * times


def _digits(size: int) -> bytes:
    """Return comments that hardly shrink: the wheel stays larger than `size`."""
    return b"# " + random.Random(size).randbytes(2 * size).hex().encode() + b"\n"


def test_uv_shows_the_sentence_and_not_the_json_around_it(site: Site, person: Client) -> None:
    """It reads the body only where the type is `application/json` without a charset."""
    client = publisher(person, "uv")
    client.build("shown-by-uv", "1.0+acme")
    shown = failed(client.publish(f"{site.server.url}/strict/widgets/", USER, site.token("strict")))
    assert "Server says: 400 '1.0+acme' is a local version" in shown
    assert "{" not in shown


# Installing


def test_the_newest_pip_sees_a_new_private_version_at_once_and_an_old_page_costs_a_304(
    site: Site, person: Client
) -> None:
    """From 26.2 on pip keeps a page for as long as its max-age says. Plain http it caches for trusted hosts."""
    client = installer(person, NEWEST_PIP)
    person.env["PIP_TRUSTED_HOST"] = site.host
    login = site.index(user=USER, password=site.token("acme"))
    for version in ("1.0", "1.1"):
        publish(site, "seen-at-once", version)
        succeeded(client.install(login, "seen-at-once"))
        assert client.installed() == {f"seen_at_once-{version}"}
    begin = log_end(site.server)
    succeeded(client.install(login, "seen-at-once"))
    assert site.asked(begin, "/acme/simple/seen-at-once/", "pip/26") == [304]


def test_pip_keeps_no_redirect_of_ours(site: Site, person: Client) -> None:
    """It replays a 301 for ever without asking, whatever its max-age, unless it is told not to store it."""
    client = installer(person, NEWEST_PIP)
    assert isinstance(client, Pip)
    person.env["PIP_TRUSTED_HOST"] = site.host
    found = f"{site.index(user=USER, password=site.token('acme'))}Kept_Redirect"
    answers = []
    for version in ("1.0", "1.1"):
        publish(site, "kept-redirect", version)
        begin = log_end(site.server)
        succeeded(client.install_anew("--no-index", "--find-links", found, "kept-redirect"))
        assert client.installed() == {f"kept_redirect-{version}"}
        answers.append(site.asked(begin, "/acme/simple/Kept_Redirect", "pip/"))
    assert answers == [[301], [301]]


@pytest.mark.parametrize("name", ["pip 20.3", "pip 23.3", "uv"])
def test_a_clients_order_not_to_use_caches_does_not_reach_the_upstream(
    site: Site, person: Client, name: str
) -> None:
    """pip before 26.2 sends `max-age=0` with every page, uv `no-cache` on demand.

    Obeyed, each install would be upstream traffic.
    """
    package = f"asked-once-{name.replace(' ', '-').replace('.', '-')}"
    site.upstream.add_file(package, *make_wheel(package, "1.0"))
    for number in (1, 2):
        client = installer(Client(person.home / f"home-{number}", UV_REFRESH="1"), name)
        succeeded(client.install(site.index(""), package))
    pages = [request for request in site.upstream.asked_for(package) if request.path.startswith("/simple/")]
    assert len(pages) == 1


@pytest.mark.parametrize("name", ["pip 20.3", "pip 23.3", "pip 26.3"])
def test_an_upstreams_digests_that_pip_does_not_know_are_not_handed_on(
    site: Site, person: Client, name: str
) -> None:
    """pip uses the first digest of a file alone, and stops at a name that hashlib does not know."""
    package = f"digests-{name.replace(' ', '-').replace('.', '-')}"
    site.upstream.add_project(package, hashes=["blake2b_256", "md5", "sha256"])
    site.upstream.add_file(package, *make_wheel(package, "1.0"))
    client = installer(person, name)
    succeeded(client.install(site.index(""), package))
    assert client.installed() == {f"{package.replace('-', '_')}-1.0"}


@pytest.mark.parametrize("base", ["", "acme"])
def test_pip_23_0_reads_our_json_pages(site: Site, person: Client, base: str) -> None:
    """pip 22.3 to 23.1 take the value of `dist-info-metadata` for text, also where it is an object of digests."""
    package = "old-pip-private" if base else "old-pip-public"
    if base:
        publish(site, package, "1.0")
    else:
        site.upstream.add_file(package, *make_wheel(package, "1.0"))
    client = Pip(person, "pip 23.0")
    login = site.token("acme") if base else ""
    index = site.index(base).replace("://", f"://{USER}:{login}@") if login else site.index(base)
    succeeded(client.install(index, package))
    assert client.installed() == {f"{package.replace('-', '_')}-1.0"}


@pytest.mark.parametrize("name", ["pip 23.3", "pip 26.3", "uv"])
@pytest.mark.parametrize("trouble", [403, 404, 503])
def test_metadata_that_the_upstream_advertises_and_does_not_give_stop_no_client(
    site: Site, person: Client, name: str, trouble: int
) -> None:
    """A 404 for an advertised `.metadata` is fatal in pip and uv: it is taken out of the wheel."""
    package = f"no-metadata-{trouble}-{name.replace(' ', '-').replace('.', '-')}"
    stem = package.replace("-", "_")
    site.upstream.add_file(package, *make_wheel(package, "1.0", requires=["lib"]))
    site.upstream.fault(f"*/{stem}-1.0-*.metadata", status=trouble)
    client = installer(person, name)
    succeeded(client.install(site.index(""), package))
    assert client.installed() == {f"{stem}-1.0", "lib-2.0"}


def test_pip_goes_on_where_a_transfer_broke_off(site: Site, person: Client) -> None:
    """By a range, on condition that the file is the same: our entity tag is a digest, so it is."""
    publish(site, "broken-off", "1.0", size=600_000)
    client = installer(person, NEWEST_PIP)
    port = int(site.host.rpartition(":")[2])
    begin = log_end(site.server)
    with CuttingWire(port, r"broken_off-1\.0-py3-none-any\.whl", after=300_000) as wire:
        login = f"http://{USER}:{site.token('acme')}@127.0.0.1:{wire.port}/acme/simple/"
        shown = succeeded(client.install(login, "broken-off"))
    assert wire.cut
    assert "resum" in shown.lower()
    assert client.installed() == {"broken_off-1.0"}
    path = next(record["path"] for record in site.records(begin) if record["path"].endswith(".whl"))
    assert site.asked(begin, path, "pip/26")[-1] == 206


def test_uv_takes_credentials_from_netrc_because_every_path_asks_for_them(site: Site, person: Client) -> None:
    """Known or not, private or public: an anonymous 200 or 404 would leave uv with the public package."""
    publish(site, "mine-alone", "1.0")
    site.upstream.add_file("mine-alone", *make_wheel("mine-alone", "99.0"))
    write_netrc(person.home, "127.0.0.1", USER, site.token("acme"))
    client = installer(person, "uv")
    assert isinstance(client, Uv)
    begin = log_end(site.server)
    succeeded(client.install(site.index(), "mine-alone", "lib"))
    assert client.installed() == {"mine_alone-1.0", "lib-2.0"}
    for name in ("mine-alone", "lib"):
        assert site.asked(begin, f"/acme/simple/{name}/", "uv/") == [401, 200]
    failed(client.install(site.index(), "nobody-has-this"))
    assert site.asked(begin, "/acme/simple/nobody-has-this/", "uv/") == [401, 404]


POETRYS_PARSER = """\
import sys
from poetry.repositories.link_sources.html import SimpleRepositoryHTMLRootPage
print(*SimpleRepositoryHTMLRootPage(sys.argv[1]).package_names)
"""


def test_poetry_reads_the_names_of_the_root_list_in_both_its_forms(site: Site, person: Client) -> None:
    """It asks for JSON; of HTML it takes the whole of a link for the name, so our links are relative."""
    publish(site, "Found-By.Search", "1.0")
    client = installer(person, "poetry")
    assert isinstance(client, Poetry)
    begin = log_end(site.server)
    shown = succeeded(client.search(site.index(user=USER, password=site.token("acme")), "found-by"))
    assert "found-by-search 1.0" in shown
    assert site.asked(begin, "/acme/simple/found-by-search/", "poetry/") == [200]
    root = fetch(site.index(), token=site.token("acme"), headers={"Accept": "text/html"})
    assert root.headers["content-type"].startswith("text/html")
    done = person.run(client.programs / "python", "-c", POETRYS_PARSER, root.body.decode())
    assert "found-by-search" in succeeded(done).split()


def test_no_answer_of_ours_keeps_pip_from_a_second_index(site: Site, person: Client) -> None:
    """Which is why the documentation says: one index-url. With it alone the private package is installed."""
    publish(site, "two-indexes", "1.0")
    site.upstream.add_file("two-indexes", *make_wheel("two-indexes", "99.0"))
    login = site.index(user=USER, password=site.token("acme"))
    client = installer(person, NEWEST_PIP)
    succeeded(client.install(login, "--extra-index-url", site.upstream.index_url, "two-indexes"))
    assert client.installed() == {"two_indexes-99.0"}
    alone = installer(Client(person.home / "alone"), NEWEST_PIP)
    succeeded(alone.install(login, "two-indexes"))
    assert alone.installed() == {"two_indexes-1.0"}


@pytest.mark.parametrize("name", ["hatch", "twine 7", "uv"])
def test_what_a_real_backend_builds_is_published_and_installed(site: Site, person: Client, name: str) -> None:
    """hatchling, of this day: its metadata are of a newer version than our own test files'."""
    package = f"really-built-{name.replace(' ', '-')}"
    module = package.replace("-", "_")
    client = publisher(person, name)
    (client.home / "pyproject.toml").write_text(
        f'[project]\nname = "{package}"\nversion = "1.0"\nrequires-python = ">=3.11"\nlicense = "MIT"\n'
        'dependencies = ["lib"]\n[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    (client.home / f"{module}.py").write_text("answer = 42\n")
    backend = publisher(person, "hatch").programs / "python"
    succeeded(client.client.run(backend, "-m", "hatchling", "build"))
    succeeded(client.publish(f"{site.server.url}/acme/widgets/", USER, site.token("acme")))
    reader = installer(person, NEWEST_PIP)
    succeeded(reader.install(site.index(user=USER, password=site.token("acme")), package))
    assert reader.installed() == {f"{module}-1.0", "lib-2.0"}
