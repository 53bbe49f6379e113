"""twine and `uv publish`: at every address of a project, and what the person at the terminal sees on refusal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import Done, failed, fetch, index_url, succeeded, upload
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel, write_sdist, write_wheel

LIMIT = 1_000_000
ADDRESSES = [
    "acme/widgets",
    "acme/widgets/",
    "api/v4/projects/42/packages/pypi",
    "api/v4/projects/42/packages/pypi/",
    "api/v4/projects/acme%2Fwidgets/packages/pypi",
    "api/v4/projects/acme%2Fwidgets/packages/pypi/",
]
TOOLS = pytest.mark.parametrize("tool", ["twine", "uv"])
Publish = Callable[..., Done]


@dataclass(frozen=True, slots=True)
class Site:
    """The server with tokens: one that publishes everywhere below acme, and one that reads acme/widgets."""

    server: OverlayServer
    writer: str
    reader: str

    @property
    def widgets(self) -> str:
        """Where acme/widgets takes uploads."""
        return f"{self.server.url}/acme/widgets/"

    def page(self, base: str, name: str) -> Any:
        return fetch(f"{index_url(self.server, base)}{name}/", token=self.server.owner_token()).json

    def digests(self, base: str, name: str) -> dict[str, str]:
        """Return filename → sha256 of a page."""
        return {file["filename"]: file["hashes"]["sha256"] for file in self.page(base, name)["files"]}


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    acme = {
        "members": {"reader": "reporter"},
        "policy": {"reserve": ["acme-*"]},
        "projects": {"widgets": {"id": 42}, "sandbox": {}},
    }
    settings = {"users": {"reader": {}}, "limits": {"max_file_size": LIMIT}, "groups": {"acme": acme}}
    with ForkedServer(base_config(public) | settings, place / "server") as server:
        yield Site(server, server.deploy_token("acme"), server.token_for_user("reader"))


def publishing(client: Client, tool: str) -> Publish:
    return client.twine_upload if tool == "twine" else client.uv_publish


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Success


@TOOLS
@pytest.mark.parametrize("address", ADDRESSES)
def test_wheel_and_sdist_are_published_at_every_spelling_of_the_project(
    site: Site, wide: Client, tmp_path: Path, tool: str, address: str
) -> None:
    version = f"1.{ADDRESSES.index(address)}.{len(tool)}"
    files = [write(tmp_path, "Widgets.Lib", version) for write in (write_wheel, write_sdist)]
    succeeded(publishing(wide, tool)(f"{site.server.url}/{address}", "__token__", site.writer, *files))
    listed = site.digests("acme/widgets", "widgets-lib")
    assert {path.name: digest(path) for path in files}.items() <= listed.items()


@TOOLS
@pytest.mark.parametrize("address", ["legacy", "legacy/"])
def test_legacy_publishes_to_the_default_project(
    site: Site, wide: Client, tmp_path: Path, tool: str, address: str
) -> None:
    version = f"1.{len(tool)}.{len(address)}"
    files = [write(tmp_path, "toolbox", version) for write in (write_wheel, write_sdist)]
    token = site.server.deploy_token("default")
    succeeded(publishing(wide, tool)(f"{site.server.url}/{address}", "__token__", token, *files))
    assert {path.name: digest(path) for path in files}.items() <= site.digests("default", "toolbox").items()


def test_the_lines_of_the_first_page_work_as_they_stand(site: Site, wide: Client, tmp_path: Path) -> None:
    shown = fetch(f"{site.server.url}/", headers={"Accept": "text/html"}).body.decode()
    (publish_url,) = re.findall(r"twine upload --repository-url (\S+) ", shown)
    (pip_url,) = re.findall(r"pip config set global\.index-url (\S+)", shown)
    (uv_url,) = re.findall(r"export UV_DEFAULT_INDEX=([^\s<]+)", shown)
    wheel = write_wheel(tmp_path, "first-steps", "1.0")
    succeeded(wide.twine_upload(publish_url, "__token__", site.server.owner_token(), wheel))
    succeeded(wide.pip_install(tmp_path / "p", pip_url, "first-steps"))
    succeeded(wide.uv_pip_install(tmp_path / "u", uv_url, "first-steps"))
    assert installed(tmp_path / "p") == installed(tmp_path / "u") == {"first_steps-1.0"}


@TOOLS
def test_metadata_of_any_language_and_length_is_published(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    """The description is cut at the limit, which hurts nobody: what installs comes from the file."""
    name = f"wordy-{tool}"
    wheel = write_wheel(
        tmp_path,
        name,
        "1.0",
        description="Grüße aus dem Schnee ☃ 雪\n" * 20_000,
        requires=["tomli; python_version < '3'"],
        fields=[
            ("Author", "Zoë Ångström"),
            ("Keywords", "naïve,façade"),
            ("Project-URL", "Home, https://example.org/ü"),
            ("Classifier", "Programming Language :: Python :: 3"),
            ("Provides-Extra", "test"),
        ],
    )
    succeeded(publishing(wide, tool)(site.widgets, "__token__", site.writer, wheel))
    succeeded(
        wide.uv_pip_install(tmp_path / "u", index_url(site.server, "acme", site.reader, "reader"), name)
    )
    assert installed(tmp_path / "u") == {f"wordy_{tool}-1.0"}


@TOOLS
def test_what_was_published_installs_whole_from_wheel_and_from_sdist(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    """With a local version, two builds of it, a requirement that came along, and an sdist that is built."""
    name = f"whole-{tool}"
    files = [
        write_wheel(tmp_path, f"{name}-dep", "2.0"),
        write_wheel(tmp_path, name, "1.0", requires=[f"{name}-dep"]),
        write_wheel(tmp_path, name, "1.0+acme.1", build="7", requires=["not-this-one"]),
        write_wheel(tmp_path, name, "1.0+acme.1", build="8", requires=[f"{name}-dep"]),
        write_sdist(tmp_path, f"{name}-source", "3.0", requires=[f"{name}-dep"]),
        write_wheel(tmp_path, name, "9.0", requires_python=">=4"),
    ]
    succeeded(publishing(wide, tool)(site.widgets, "__token__", site.writer, *files))
    index = index_url(site.server, "acme", site.reader, "reader")
    stem = name.replace("-", "_")
    for number, install in enumerate((wide.pip_install, wide.uv_pip_install)):
        target = tmp_path / f"site-{number}"
        succeeded(install(target, index, name, f"{name}-source"))
        assert installed(target) == {f"{stem}-1.0+acme.1", f"{stem}_dep-2.0", f"{stem}_source-3.0"}


# Refusals that the person at the terminal sees


def refused(client: Client, tool: str, url: str, token: str, *files: Path, status: int) -> str:
    """Publish, see that it fails with this status, and return what the terminal shows."""
    shown = failed(publishing(client, tool)(url, "__token__", token, *files))
    assert str(status) in shown
    assert "Traceback" not in shown
    return shown


@TOOLS
def test_a_role_that_may_not_publish_is_told_so(site: Site, wide: Client, tmp_path: Path, tool: str) -> None:
    wheel = write_wheel(tmp_path, "role", "1.0")
    shown = refused(wide, tool, site.widgets, site.reader, wheel, status=403)
    assert "may not publish to acme/widgets" in shown
    assert "developer" in shown


@TOOLS
def test_wrong_credentials_are_told_so(site: Site, wide: Client, tmp_path: Path, tool: str) -> None:
    wheel = write_wheel(tmp_path, "role", "1.0")
    shown = refused(wide, tool, site.widgets, "pyo_pat_nonsense", wheel, status=401)
    assert "these credentials are not valid" in shown


@TOOLS
@pytest.mark.parametrize("size", [LIMIT + 500_000, 30_000_000], ids=["a little", "by far"])
def test_a_file_over_the_limit_is_told_so(
    site: Site, wide: Client, tmp_path: Path, tool: str, size: int
) -> None:
    """By far: refused by its Content-Length already; all is read on, since clients read no answer before."""
    wheel = write_wheel(tmp_path, "heavy", "1.0", size=size)
    shown = refused(wide, tool, site.widgets, site.writer, wheel, status=413)
    assert f"larger than the limit of {LIMIT} bytes" in shown


@TOOLS
def test_a_duplicate_is_told_so_however_its_version_is_spelled(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    name = f"twice-{tool}"
    wheel = write_wheel(tmp_path, name, "1.0")
    succeeded(publishing(wide, tool)(site.widgets, "__token__", site.writer, wheel))
    again = refused(wide, tool, site.widgets, site.writer, wheel, status=400)
    assert "already exists" in again
    other = write_wheel(tmp_path, name, "1.0.0", description="other bytes")
    assert "already exists" in refused(wide, tool, site.widgets, site.writer, other, status=400)
    assert site.digests("acme/widgets", name) == {wheel.name: digest(wheel)}


@TOOLS
@pytest.mark.parametrize("write", [write_wheel, write_sdist])
def test_a_name_that_does_not_match_the_file_is_told_so(
    site: Site, wide: Client, tmp_path: Path, tool: str, write: Callable[..., Path]
) -> None:
    """Clients send the name that stands in the metadata."""
    file = write(tmp_path, "outside", "1.0", metadata_name="inside")
    shown = refused(wide, tool, site.widgets, site.writer, file, status=400)
    assert "belongs to outside, not to inside" in shown


@TOOLS
def test_a_version_that_does_not_match_the_file_is_told_so(
    site: Site, wide: Client, tmp_path: Path, tool: str
) -> None:
    wheel = write_wheel(tmp_path, "outside", "1.0", metadata_version_field="2.0")
    shown = refused(wide, tool, site.widgets, site.writer, wheel, status=400)
    assert "says version 1.0, the form 2.0" in shown


def test_uv_shows_that_a_version_is_none(site: Site, wide: Client, tmp_path: Path) -> None:
    """twine refuses to send it."""
    wheel = write_wheel(tmp_path, "outside", "1.0", metadata_version_field="banana")
    shown = refused(wide, "uv", site.widgets, site.writer, wheel, status=400)
    assert "'banana' is not a valid version" in shown


@TOOLS
@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("acme/", 405, "acme is a group; publish to a project such as acme/"),
        ("acme/widgets/simple/", 405, "publish to /acme/widgets/"),
        ("acme/nothing/", 404, "there is no group or project of this path"),
    ],
)
def test_a_wrong_address_is_told_so(
    site: Site, wide: Client, tmp_path: Path, tool: str, address: str, status: int, message: str
) -> None:
    wheel = write_wheel(tmp_path, "lost", "1.0")
    shown = refused(wide, tool, f"{site.server.url}/{address}", site.writer, wheel, status=status)
    assert message in shown


@TOOLS
def test_a_name_of_another_project_is_told_so(site: Site, wide: Client, tmp_path: Path, tool: str) -> None:
    name = f"owned-{tool}"
    wheel = write_wheel(tmp_path, name, "1.0")
    succeeded(wide.uv_publish(site.widgets, "__token__", site.writer, wheel))
    sandbox = site.server.deploy_token("acme/sandbox")
    newer = write_wheel(tmp_path, name, "1.1")
    shown = refused(wide, tool, f"{site.server.url}/acme/sandbox/", sandbox, newer, status=403)
    assert f"{name} belongs to another project of acme" in shown


# What clients would not send, by a raw form: twine shows the phrase, uv the `code` of JSON

RAW = [
    pytest.param({"sha256_digest": "0" * 64}, "sha256_digest does not match the file", id="digest"),
    pytest.param({"blake2_256_digest": "0" * 64}, "blake2_256_digest does not match the file", id="blake2"),
    pytest.param({"md5_digest": "0" * 32}, "md5_digest does not match the file", id="md5"),
    pytest.param({"version": "banana"}, "'banana' is not a valid version", id="version"),
    pytest.param({"version": "1.0\n"}, "is not a valid version", id="version with a line feed"),
    pytest.param({"name": "other"}, "belongs to raw, not to other", id="name"),
    pytest.param({"name": "r w"}, "'r w'", id="no name at all"),
]


@pytest.mark.parametrize(("fields", "message"), RAW)
@pytest.mark.parametrize("accept", ["*/*", "application/json;q=0.9, text/plain;q=0.8, text/html;q=0.7"])
def test_a_form_that_does_not_fit_its_file_is_told_so_in_phrase_and_body(
    site: Site, fields: dict[str, str], message: str, accept: str
) -> None:
    form = {"name": "raw", "version": "1.0", **fields}
    filename, content = make_wheel("raw", "1.0")
    answer = upload(site.widgets, site.writer, filename, content, accept=accept, **form)
    assert answer.status == 400
    assert message in answer.reason
    assert answer.reason.isascii()
    if accept == "*/*":
        assert answer.headers["content-type"].startswith("text/plain")
        assert message in answer.body.decode()
    else:
        assert answer.headers["content-type"] == "application/json"
        assert message in answer.json["code"]
    assert fetch(f"{index_url(site.server, 'acme/widgets')}raw/", token=site.writer).status == 404


@pytest.mark.parametrize(
    "about", [{"metadata_name": "other"}, {"metadata_version_field": "2.0"}], ids=["name", "version"]
)
def test_metadata_inside_the_file_must_agree_with_form_and_filename(site: Site, about: Any) -> None:
    filename, content = make_wheel("raw", "1.0", **about)
    answer = upload(site.widgets, site.writer, filename, content, name="raw", version="1.0")
    assert answer.status == 400
    assert next(iter(about.values())) in answer.reason
    assert fetch(f"{index_url(site.server, 'acme/widgets')}raw/", token=site.writer).status == 404


# uv publish --check-url


@pytest.mark.parametrize("base", ["acme/widgets", "acme"])
def test_check_url_skips_what_is_there_and_refuses_what_differs(
    site: Site, wide: Client, tmp_path: Path, base: str
) -> None:
    name = f"checked-{len(base)}"
    wheel, sdist = write_wheel(tmp_path, name, "1.0"), write_sdist(tmp_path, name, "1.0")
    check = index_url(site.server, base, site.writer)

    def publish(*files: Path) -> Done:
        return wide.uv_publish(site.widgets, "__token__", site.writer, *files, check_url=check)

    assert "skipping" not in succeeded(publish(wheel))
    # Right after the upload, with the page that uv has in its cache.
    shown = succeeded(publish(wheel, sdist))
    assert f"{wheel.name} already exists, skipping" in shown
    assert f"{sdist.name} already exists, skipping" not in shown
    assert site.digests("acme/widgets", name) == {p.name: digest(p) for p in (wheel, sdist)}
    other = write_wheel(tmp_path / "other", name, "1.0", description="other bytes")
    assert "do not match" in failed(publish(other))
    assert site.digests("acme/widgets", name)[wheel.name] == digest(wheel)


def test_check_url_at_the_project_lets_a_reserved_name_be_published_first(
    site: Site, wide: Client, tmp_path: Path
) -> None:
    """The page of a reserved name is a refusal, at which uv would give up; who publishes there is spared it."""
    assert fetch(f"{index_url(site.server, 'acme')}acme-new/", token=site.writer).status == 451
    wheel = write_wheel(tmp_path, "acme-new", "1.0")
    check = index_url(site.server, "acme/widgets", site.writer)
    succeeded(wide.uv_publish(site.widgets, "__token__", site.writer, wheel, check_url=check))
    assert site.digests("acme", "acme-new") == {wheel.name: digest(wheel)}
