"""The first start and the next ones: the owner token, which file is read, and what may not vanish from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.observe.redaction import TOKEN_MARK
from tests.server.conftest import LONELY, PRESET, Start, Unconfigured
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, ServerFailed
from tests.support.wheels import make_wheel
from tests.web.forms import FORM_TYPE, upload
from tests.web.wire import Wire


def whoami(server: OverlayServer, token: str) -> int:
    """What asking for something that takes an owner answers."""
    return Wire(server.url).get("/api/v1/explain?name=gears&as=anonymous", token=token).status


def test_the_first_start_writes_an_owner_token_once_and_never_again(lonely: Start) -> None:
    server = lonely()
    file = server.data_dir / "owner-token"
    token = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert token.startswith(TOKEN_MARK)
    assert token.endswith("\n")
    assert f"The owner token is in {file}" in server.log_text()
    assert token.strip() not in server.log_text()
    assert whoami(server, token.strip()) == 200
    begin = len(server.log_text())
    file.unlink()
    server.restart()
    assert not file.exists()
    assert "owner token" not in server.log_text(begin)
    assert whoami(server, token.strip()) == 200
    wire, owner = Wire(server.url), token.strip()
    listed = wire.get("/api/v1/tokens", token=owner).json["items"]
    [shown] = [item for item in listed if item["kind"] == "owner"]
    assert wire.send("DELETE", f"/api/v1/tokens/{shown['id']}", token=owner).status == 204
    assert whoami(server, token.strip()) == 401
    server.restart()
    assert not file.exists()
    assert whoami(server, token.strip()) == 401


def test_a_preset_owner_token_works_and_stands_nowhere_and_a_changed_one_ends_it(tmp_path: Path) -> None:
    with ForkedServer(LONELY, tmp_path, env={"PYPI_OVERLAY_OWNER_TOKEN": PRESET}) as server:
        assert whoami(server, PRESET) == 200
        assert whoami(server, PRESET + "x") == 401
        assert not (server.data_dir / "owner-token").exists()
        assert PRESET not in server.log_text()
        assert not any(
            PRESET.encode() in path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file()
        )
    other = PRESET + "-changed"
    with ForkedServer(LONELY, tmp_path, env={"PYPI_OVERLAY_OWNER_TOKEN": other}) as server:
        assert whoami(server, other) == 200
        assert whoami(server, PRESET) == 401
    with ForkedServer(LONELY, tmp_path) as server:
        assert whoami(server, other) == 200
        assert not (server.data_dir / "owner-token").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_preset_that_is_too_short_is_refused_and_not_shown(tmp_path: Path, workers: str) -> None:
    arguments = ("--workers", workers)
    with pytest.raises(ServerFailed) as caught:
        ForkedServer(
            LONELY, tmp_path, arguments=arguments, env={"PYPI_OVERLAY_OWNER_TOKEN": "hunter2"}
        ).start()
    assert caught.value.returncode == 1
    assert "PYPI_OVERLAY_OWNER_TOKEN" in caught.value.log or "owner token" in caught.value.log
    assert "hunter2" not in caught.value.log
    assert "Traceback" not in caught.value.log


def test_without_a_configuration_file_it_takes_uploads_for_the_default_project(tmp_path: Path) -> None:
    with Unconfigured(tmp_path / "empty") as server:
        assert server.data_dir.is_dir()
        filename, content = make_wheel("gears", "1.0")
        wire, token = Wire(server.url), server.owner_token()
        done = wire.send("POST", "/legacy/", token=token, headers=FORM_TYPE, body=upload(filename, content))
        assert (done.status, done.json["project"]) == (201, "default")
        for index in ("", "/default"):
            assert filename in wire.get(f"{index}/simple/gears/").text
        assert "gears" in wire.get("/simple/").text
        explained = server.json("explain", "/", "gears")
        assert (explained["decision"], explained["tenant"]) == ("private", "/")


def test_the_configuration_file_is_the_named_one_then_the_environments_then_that_of_the_directory(
    tmp_path: Path,
) -> None:
    def text(group: str) -> str:
        return json.dumps({**LONELY, "groups": {group: {"visibility": "public", "projects": {"p": {}}}}})

    there = tmp_path / "there.yaml"
    there.write_text(text("environment"))
    named = tmp_path / "named.yaml"
    named.write_text(text("named"))

    def group_of(**options: Any) -> str:
        with Unconfigured(tmp_path / "here", file=text("directory"), **options) as server:
            wire = Wire(server.url)
            groups = ("directory", "environment", "named")
            [found] = [group for group in groups if wire.get(f"/{group}/simple/").status == 200]
            return found

    assert group_of() == "directory"
    assert group_of(env={"PYPI_OVERLAY_CONFIG": str(there)}) == "environment"
    by_name = ("--config", str(named))
    assert group_of(env={"PYPI_OVERLAY_CONFIG": str(there)}, arguments=by_name) == "named"


def test_a_faulty_configuration_is_told_whole_and_nothing_starts(tmp_path: Path) -> None:
    config = {**LONELY, "groups": {"acme": {"policy": {"forward": "maybe"}}, "simple": {}}, "nonsense": 1}
    server = ForkedServer(config, tmp_path)
    with pytest.raises(ServerFailed) as caught:
        server.start()
    assert caught.value.returncode == 1
    for path in ("groups.acme.policy.forward", "groups.simple", "nonsense"):
        assert path in caught.value.log
    assert not server.data_dir.exists()


def test_a_namespace_that_holds_something_may_not_vanish_from_the_file(tmp_path: Path) -> None:
    groups = {"acme": {"visibility": "public", "projects": {"widgets": {}}}}
    env = {"PYPI_OVERLAY_OWNER_TOKEN": PRESET}
    filename, content = make_wheel("gears", "1.0")
    with ForkedServer({**LONELY, "groups": groups}, tmp_path, env=env) as server:
        body = upload(filename, content)
        done = Wire(server.url).send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=body)
        assert done.status == 201
        lock_file = f"/acme/widgets/files/{done.json['sha256']}/{filename}"
        server.stop()

        server.configure(LONELY)
        with pytest.raises(ServerFailed) as caught:
            server.start()
        assert caught.value.returncode == 1
        assert "groups.acme is gone but holds 1 package: " in caught.value.log
        assert "pypi-overlay namespace drop acme" in caught.value.log

        # With an alias it moves along, and addresses as in lock files stay valid in every spelling.
        server.configure({**LONELY, "groups": {"apex": {**groups["acme"], "aliases": ["acme"]}}})
        server.start()
        wire = Wire(server.url)
        for path in (lock_file, lock_file.replace("acme", "apex"), lock_file.replace("/acme/widgets", "")):
            assert wire.get(path).body == content
        for index in ("/acme", "/apex", "/acme/widgets", "/api/v4/projects/acme%2Fwidgets/packages/pypi"):
            assert filename in wire.get(f"{index}/simple/gears/").text
        second = upload(*make_wheel("gears", "2.0"))
        assert wire.send("POST", "/acme/widgets", token=PRESET, headers=FORM_TYPE, body=second).status == 201
        server.stop()

        # Dropped, the name is claimed everywhere until the instance releases it.
        server.configure({**LONELY, "groups": {"globex": {"visibility": "public", "projects": {"w": {}}}}})
        assert server.run("namespace", "drop", "apex", "--yes").returncode == 0
        server.start()
        wire = Wire(server.url)
        assert wire.get("/simple/gears/").status == 451
        assert wire.get("/globex/simple/gears/").status == 451
        assert wire.get(lock_file.replace("/acme/widgets", "")).status == 403
        assert wire.send("DELETE", "/api/v1/claims/%2F/gears", token=PRESET).status == 204
        assert wire.get("/simple/gears/").status == 404
        assert wire.get("/globex/simple/gears/").status == 404
