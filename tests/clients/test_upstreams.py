"""What comes through us from upstream: several of them, failing ones, and what their pages say of files."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import failed, fetch, index_url, links, succeeded
from tests.support.clients import Client, find_uv, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel

Fresh = Callable[[], Path]


@pytest.fixture(scope="module")
def second() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(public: FakeUpstream, second: FakeUpstream, place: Path) -> Iterator[OverlayServer]:
    """Serve two upstreams in order; nothing stays fresh, so that each test meets its own upstream."""
    settings = base_config(public, read_timeout="1s")
    settings["upstreams"]["second"] = {"index_url": second.index_url, "file_hosts": [second.host]}
    rest = {
        "policy": {"upstreams": ["pypi", "second"]},
        "cache": {"fresh_for": "0s", "not_found_for": "0s", "stale_while_revalidate": "0s"},
    }
    with ForkedServer(settings | rest, place / "server") as running:
        yield running


@pytest.fixture
def behaving(public: FakeUpstream) -> Iterator[FakeUpstream]:
    """Give the first upstream; faults that a test lays are gone behind it."""
    yield public
    public.clear_faults()


def wheel(
    upstream: FakeUpstream, name: str, version: str, *, said: dict[str, Any] | None = None, **made: Any
) -> None:
    """Let an upstream offer a wheel; `said` is what its page says of it."""
    upstream.add_file(name, *make_wheel(name, version, **made), **(said or {}))


# Several upstreams


def test_a_valid_404_of_the_first_upstream_moves_on_to_the_second(
    server: OverlayServer, second: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    wheel(second, "moved-on", "1.0", requires=["in-first"])
    for install in (wide.pip_install, wide.uv_pip_install):
        target = fresh()
        succeeded(install(target, index_url(server), "moved-on", "--no-deps"))
        assert installed(target) == {"moved_on-1.0"}


def test_a_503_of_the_first_upstream_is_503_and_never_served_from_the_second(
    server: OverlayServer, behaving: FakeUpstream, second: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    wheel(second, "only-second", "1.0")
    behaving.fault("/simple/only-second/", status=503)
    answer = fetch(f"{index_url(server)}only-second/")
    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 5
    assert answer.headers["x-overlay-decision"].startswith("unavailable")
    target = fresh()
    failed(wide.pip_install(target, index_url(server), "only-second"))
    shown = failed(wide.uv_pip_install(target, index_url(server), "only-second"))
    assert "503" in shown
    assert installed(target) == set()
    assert second.asked_for("only-second") == []
    behaving.clear_faults()
    # A failure is told to everybody for a moment, so that not each of them asks a failing upstream.
    wait_until(lambda: fetch(f"{index_url(server)}only-second/").status == 200)
    succeeded(wide.uv_pip_install(target, index_url(server), "only-second"))
    assert installed(target) == {"only_second-1.0"}


def test_the_first_upstream_that_has_a_name_is_the_only_one_asked(
    server: OverlayServer, public: FakeUpstream, second: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    wheel(public, "both", "1.0")
    wheel(second, "both", "2.0")
    target = fresh()
    succeeded(wide.uv_pip_install(target, index_url(server), "both"))
    assert installed(target) == {"both-1.0"}
    assert second.asked_for("both") == []


# Slow and failing upstreams


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        pytest.param({"status": 500}, 502, id="error"),
        pytest.param({"html_error": True}, 502, id="an error page with status 200"),
        pytest.param({"hang": True}, 504, id="no answer"),
        pytest.param({"drop": True}, 502, id="a closed connection"),
        pytest.param({"status": 429, "retry_after": 1}, 503, id="too many requests"),
    ],
)
def test_trouble_with_a_page_fails_in_pip_and_uv_and_installs_nothing(
    server: OverlayServer,
    behaving: FakeUpstream,
    wide: Client,
    fresh: Fresh,
    fault: dict[str, Any],
    status: int,
    request: pytest.FixtureRequest,
) -> None:
    name = f"trouble-{status}-{len(request.node.name)}"
    wheel(behaving, name, "1.0")
    behaving.fault(f"/simple/{name}/", **fault)
    target = fresh()
    shown = failed(wide.uv_pip_install(target, index_url(server), name))
    assert str(status) in shown
    assert "was not found" not in shown
    failed(wide.pip_install(target, index_url(server), name))
    assert installed(target) == set()


@pytest.mark.parametrize("fault", [{"alter": True}, {"truncate": 100_000}], ids=["altered", "truncated"])
def test_a_damaged_file_is_never_installed_and_a_sound_one_is_afterwards(
    server: OverlayServer,
    behaving: FakeUpstream,
    wide: Client,
    fresh: Fresh,
    fault: dict[str, Any],
) -> None:
    name = f"damaged-{next(iter(fault))}"
    wheel(behaving, name, "1.0", size=300_000)
    behaving.fault(f"/packages/*/{name.replace('-', '_')}-1.0-py3-none-any.whl", **fault)
    target = fresh()
    failed(wide.pip_install(target, index_url(server), name))
    failed(wide.uv_pip_install(target, index_url(server), name))
    assert installed(target) == set()


def test_a_slow_file_arrives(
    server: OverlayServer, behaving: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    """Slow, but never still for as long as the read time-out."""
    wheel(behaving, "slowly", "1.0", size=200_000)
    behaving.fault("/packages/*/slowly-1.0-py3-none-any.whl", rate=150_000)
    target = fresh()
    succeeded(wide.pip_install(target, index_url(server), "slowly"))
    assert installed(target) == {"slowly-1.0"}


# What pages say of files


def test_a_yanked_version_is_not_chosen_but_can_be_asked_for(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    wheel(public, "withdrawn", "1.0")
    wheel(public, "withdrawn", "2.0", said={"yanked": "breaks everything"})
    for install in (wide.pip_install, wide.uv_pip_install):
        newest, pinned = fresh(), fresh()
        succeeded(install(newest, index_url(server), "withdrawn"))
        assert installed(newest) == {"withdrawn-1.0"}
        shown = succeeded(install(pinned, index_url(server), "withdrawn==2.0"))
        assert installed(pinned) == {"withdrawn-2.0"}
        assert "breaks everything" in shown


def test_a_quarantined_project_fails_also_where_its_files_are_cached(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh
) -> None:
    wheel(public, "malicious", "1.0")
    succeeded(wide.uv_pip_install(fresh(), index_url(server), "malicious"))
    (link,) = links(f"{index_url(server)}malicious/")
    public.change_project("malicious", status="quarantined")
    wide.forget()
    target = fresh()
    failed(wide.uv_pip_install(target, index_url(server), "malicious"))
    failed(wide.pip_install(target, index_url(server), "malicious"))
    assert installed(target) == set()
    assert fetch(link).status in {403, 404}


@pytest.mark.parametrize("form", ["json", "html"])
def test_requires_python_is_honoured(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, form: str
) -> None:
    name = f"future-{form}"
    wheel(public, name, "1.0", requires_python=">=3.8")
    # Said by the page alone, so that a client cannot find it out from the file.
    wheel(public, name, "2.0", said={"requires_python": ">=4,<9"})
    public.change_project(name, form=form)
    for install in (wide.pip_install, wide.uv_pip_install):
        target = fresh()
        succeeded(install(target, index_url(server), name))
        assert installed(target) == {f"future_{form}-1.0"}


def test_a_resolution_downloads_metadata_and_no_wheel(
    server: OverlayServer, public: FakeUpstream, wide: Client, tmp_path: Path
) -> None:
    wheel(public, "resolved", "1.0", requires=["resolved-below"], size=500_000)
    wheel(public, "resolved-below", "1.0", size=500_000)
    (tmp_path / "requirements.in").write_text("resolved\n")
    compiled = wide.run(
        find_uv(), "pip", "compile", "--index-url", index_url(server), tmp_path / "requirements.in"
    )
    assert [line for line in compiled.stdout.split() if "==" in line] == [
        "resolved==1.0",
        "resolved-below==1.0",
    ], succeeded(compiled)
    paths = [request.path for request in public.requests() if "resolved" in request.path]
    assert [path for path in paths if path.endswith(".whl.metadata")] != []
    assert [path for path in paths if path.endswith(".whl")] == []


def test_a_lock_file_is_made_without_wheels_and_its_addresses_work_on_an_empty_cache(
    server: OverlayServer, public: FakeUpstream, wide: Client, tmp_path: Path
) -> None:
    wheel(public, "locked", "1.0", requires=["locked-below"])
    public.add_file("locked-below", *make_sdist("locked-below", "1.0"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["locked"]\n'
        f'[[tool.uv.index]]\nurl = "{index_url(server)}"\ndefault = true\n'
    )
    uv = Client(wide.home)
    del uv.env["UV_NO_CONFIG"]
    succeeded(uv.run(find_uv(), "lock", "--directory", project))
    assert [r.path for r in public.requests() if r.path.endswith("/locked-1.0-py3-none-any.whl")] == []
    lock = tomllib.loads((project / "uv.lock").read_text())
    artifacts = [
        file["url"]
        for package in lock["package"]
        for file in [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    ]
    assert len(artifacts) == 2
    assert all(url.startswith(f"{server.url}/files/") for url in artifacts)
    done = server.run("cache", "purge", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    uv.forget()
    succeeded(uv.run(find_uv(), "sync", "--frozen", "--no-install-project", "--directory", project))
    names = {path.name for path in (project / ".venv").rglob("*.dist-info")}
    assert {"locked-1.0.dist-info", "locked_below-1.0.dist-info"} <= names


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_local_versions_and_build_tags_install(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, tool: str
) -> None:
    install = wide.pip_install if tool == "pip" else wide.uv_pip_install
    wheel(public, "local", "1.0")
    wheel(public, "local", "1.0+acme.1")
    wheel(public, "built", "1.0", build="1", modules={"built.py": "build = 1\n"})
    wheel(public, "built", "1.0", build="2_late", modules={"built.py": "build = 2\n"})
    target = fresh()
    succeeded(install(target, index_url(server), "local", "built"))
    assert installed(target) == {"local-1.0+acme.1", "built-1.0"}
    assert (target / "built.py").read_text() == "build = 2\n"


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_an_sdist_is_downloaded_and_built(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, tool: str
) -> None:
    install = wide.pip_install if tool == "pip" else wide.uv_pip_install
    public.add_file("from-source", *make_sdist("from-source", "1.0", requires=["source-below"]))
    public.add_file("source-below", *make_sdist("source-below", "2.0"))
    target = fresh()
    succeeded(install(target, index_url(server), "from-source"))
    assert installed(target) == {"from_source-1.0", "source_below-2.0"}


def test_two_clients_at_once_on_a_cold_cache_cost_one_request_for_each_file(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, tmp_path: Path
) -> None:
    names = [f"crowd-{number}" for number in range(30)]
    public.add_project("crowd", [{"make": "wheel", "requires": names}])
    for name in names:
        public.add_project(name, [{"make": "wheel", "size": 50_000}])
    clients = [Client(tmp_path / f"home-{number}") for number in range(2)]
    targets = [fresh(), fresh()]
    with ThreadPoolExecutor() as threads:
        runs = [
            threads.submit(client.uv_pip_install, target, index_url(server), "crowd")
            for client, target in zip(clients, targets, strict=True)
        ]
    for run, target in zip(runs, targets, strict=True):
        succeeded(run.result())
        assert len(installed(target)) == len(names) + 1
    asked = Counter(r.path for r in public.requests() if r.path.endswith(".whl") and "crowd" in r.path)
    assert set(asked.values()) == {1}
    assert len(asked) == len(names) + 1


def test_an_upstream_that_asks_for_credentials_gets_them_and_nobody_else_sees_them(
    upstream: FakeUpstream, wide: Client, tmp_path: Path
) -> None:
    upstream.configure(username="us", password="open-sesame")
    wheel(upstream, "behind-login", "1.0")
    config = base_config(upstream, username="us", password="${SECRET}")
    with ForkedServer(config, tmp_path / "server", env={"SECRET": "open-sesame"}) as server:
        succeeded(wide.pip_install(tmp_path / "site", index_url(server), "behind-login"))
        page = fetch(f"{index_url(server)}behind-login/").body.decode()
    assert installed(tmp_path / "site") == {"behind_login-1.0"}
    assert "open-sesame" not in page + server.log_text()


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_an_index_url_without_its_slash_at_the_end_works(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, tool: str
) -> None:
    wheel(public, "slashless", "1.0")
    install = wide.pip_install if tool == "pip" else wide.uv_pip_install
    target = fresh()
    succeeded(install(target, index_url(server).rstrip("/"), "Slashless"))
    assert installed(target) == {"slashless-1.0"}


def test_hashes_in_requirements_hold_through_us(
    server: OverlayServer, public: FakeUpstream, wide: Client, fresh: Fresh, tmp_path: Path
) -> None:
    wheel(public, "pinned", "1.0")
    page = fetch(f"{index_url(server)}pinned/").json
    digest = page["files"][0]["hashes"]["sha256"]
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(f"pinned==1.0 --hash=sha256:{digest}\n")
    bad.write_text(f"pinned==1.0 --hash=sha256:{'0' * 64}\n")
    for install in (wide.pip_install, wide.uv_pip_install):
        target = fresh()
        failed(install(target, index_url(server), "-r", str(bad), "--require-hashes"))
        assert installed(target) == set()
        succeeded(install(target, index_url(server), "-r", str(good), "--require-hashes"))
        assert installed(target) == {"pinned-1.0"}
