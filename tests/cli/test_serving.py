"""`explain`, and commands beside a running server: what they change holds there at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import Site
from tests.clients.talking import fetch, links, upload
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

STEPS = ["namespace", "access", "name", "private", "claimed", "forward", "allow", "upstream", "files"]


def test_explain_shows_the_whole_trail_and_the_line_that_decided(site: Site) -> None:
    found = site.json("explain", "/acme", "Acme.Core")
    assert (found["index"], found["name"], found["caller"]) == ("acme", "acme-core", "owner:operator")
    assert (found["decision"], found["rule"], found["tenant"]) == ("claimed", "reserve acme-*", "acme")
    assert [step["step"] for step in found["trail"]] == STEPS
    [decided] = [step for step in found["trail"] if step["outcome"] == "stop"]
    line = site.file.read_text(encoding="utf-8").splitlines().index("      - acme-*") + 1
    assert decided["origin"] == {"file": site.file.name, "line": line, "path": "groups.acme.policy.reserve.0"}
    text = site.run("explain", "acme", "acme-core").stdout
    assert f"{site.file.name}:{line}" in text
    assert "Decision  claimed" in text


def test_explain_answers_as_somebody_else_is_answered(site: Site) -> None:
    site.publish("acme/widgets", "widgets-1.0-py3-none-any.whl", "widgets-2.0-py3-none-any.whl")
    owner = site.json("explain", "/", "widgets", "--version", "2")
    assert (owner["decision"], [file["version"] for file in owner["files"]]) == ("private", ["2.0"])
    assert site.json("explain", "/", "widgets", "--as", "alice")["decision"] == "private"
    one = site.json("explain", "/", "widgets", "--file", "widgets-1.0-py3-none-any.whl", "--as", "alice")
    assert len(one["files"]) == 1
    anonymous = site.json("explain", "/", "widgets", "--as", "anonymous")
    assert (anonymous["decision"], anonymous["tenant"]) == ("claimed", None)
    assert "401" in site.run("explain", "/", "widgets", "--as", "anonymous").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("acme", "widgets", "--as", "bob"), "user:bob may not ask acme"),
        (("acme", "widgets", "--as", "anonymous"), "anonymous may not ask acme"),
        (("acme", "widgets", "--as", "carol"), "there is no user 'carol'"),
        (("nowhere", "widgets"), "there is no group or project 'nowhere'"),
        (("acme", "wid gets"), "'wid gets' is not a valid project name"),
    ],
)
def test_explain_refuses_what_cannot_be_asked(site: Site, arguments: tuple[str, ...], said: str) -> None:
    assert said in site.refused("explain", *arguments)


CONFIG: dict[str, Any] = {
    "users": {"alice": {}},
    "groups": {"acme": {"members": {"alice": "maintainer"}, "projects": {"widgets": {}}}},
}


@pytest.fixture(scope="module")
def public() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def server(public: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverlayServer]:
    """Give a server that the tests share: each has names of its own."""
    with ForkedServer(base_config(public) | CONFIG, tmp_path_factory.mktemp("server")) as running:
        yield running


def publish(server: OverlayServer, token: str, name: str) -> None:
    filename, content = make_wheel(name, "1.0")
    done = upload(f"{server.url}/acme/widgets/", token, filename, content, name=name, version="1.0")
    assert done.status == 201, done


def test_a_purged_name_is_fetched_anew_at_once(server: OverlayServer, public: FakeUpstream) -> None:
    """First, while nothing else is kept."""
    public.add_file("gizmos", *make_wheel("gizmos", "1.0"))
    page = f"{server.url}/simple/gizmos/"
    [file] = links(page)
    assert fetch(file).status == 200
    stats = server.json("cache", "stats")
    assert (stats["files"], stats["pages"]) == (1, 1)
    assert stats["bytes"] > 0
    public.reset_requests()
    assert links(page) == [file]
    assert fetch(file).status == 200
    assert public.asked_for("gizmos") == [], "fresh: nobody asks"

    public.add_file("gizmos", *make_wheel("gizmos", "2.0"))
    assert server.json("cache", "purge", "gizmos", "--yes") == {"pages": 1, "files": 1, "held": 0}
    assert len(links(page)) == 2
    assert fetch(file).status == 200
    assert len(public.asked_for("gizmos")) == 2
    stats = server.json("cache", "stats")
    assert (stats["files"], stats["pages"]) == (1, 1)


def test_a_revoked_token_is_refused_at_once(server: OverlayServer) -> None:
    made = server.json("token", "create", "--user", "alice", "--scope", "api")
    publish(server, made["token"], "revoked")
    page = f"{server.url}/acme/simple/revoked/"
    assert fetch(page, token=made["token"]).status == 200
    assert server.run("token", "revoke", str(made["id"])).returncode == 0
    assert fetch(page, token=made["token"]).status == 401


def test_a_deleted_package_is_claimed_and_a_released_one_is_public_at_once(
    server: OverlayServer, public: FakeUpstream
) -> None:
    public.add_file("widgets", *make_wheel("widgets", "99.0"))
    token = server.token_for_user("alice")
    publish(server, token, "widgets")
    page = f"{server.url}/acme/simple/widgets/"
    [private] = links(page, token)
    assert "widgets-1.0" in private
    public.reset_requests()  # before its first publication the name was nobody's
    assert server.run("package", "delete", "acme/widgets", "widgets", "--yes").returncode == 0
    assert fetch(page, token=token).status == 451
    assert fetch(private, token=token).status == 403
    assert public.asked_for("widgets") == []
    assert server.run("claim", "release", "acme", "widgets", "--yes").returncode == 0
    [file] = links(page, token)
    assert "widgets-99.0" in file


def test_explain_beside_a_server_says_what_it_answers(server: OverlayServer, public: FakeUpstream) -> None:
    public.add_file("gears", *make_wheel("gears", "1.0"))
    found = server.json("explain", "/", "gears", "--as", "anonymous")
    assert (found["decision"], found["upstream"]) == ("upstream", "pypi")
    assert [(file["version"], file["served"]) for file in found["files"]] == [("1.0", True)]
    assert server.json("explain", "/", "nothing")["decision"] == "unknown"


def test_a_dropped_namespace_lets_the_server_start(server: OverlayServer) -> None:
    """Last, since what the others configured is gone behind it."""
    publish(server, server.token_for_user("alice"), "dropped")
    server.stop()
    without = dict(CONFIG, groups={})
    server.configure({"upstreams": {"pypi": None}, "policy": {"upstreams": []}} | without)
    refused = server.run("serve", "--listen", "127.0.0.1:0")
    assert refused.returncode == 1
    assert "groups.acme is gone but holds " in refused.stderr
    assert "Traceback" not in refused.stderr
    assert server.run("namespace", "drop", "acme", "--yes").returncode == 0
    server.start()
    assert fetch(f"{server.url}/simple/dropped/").status == 451
