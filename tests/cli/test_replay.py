"""`config replay`: recorded requests, decided again under another file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli.main import cli
from proxy.domain.access import CallerKind
from proxy.observe.requests import Recorded, Who, line_of, read_lines
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Link, Stand, head
from tests.web.wire import basic

JSON = "application/vnd.pypi.simple.v1+json"
DEMO = ["demo-1.0-py3-none-any.whl", "demo-2.0-py3-none-any.whl"]


class Past:
    """A data directory with recorded requests, and the configuration under which they were made."""

    def __init__(self, directory: Path, config: Mapping[str, Any], upstream: FakeUpstream) -> None:
        self.directory = directory
        self.config = dict(config) | {"storage": {"data_dir": str(directory / "data")}}
        self.upstream = upstream

    def run(self, changed: Mapping[str, Any], *arguments: str) -> Result:
        """Replay under the configuration with other keys at the top."""
        new = self.directory / "new.yaml"
        new.write_text(json.dumps(self.config | dict(changed)), encoding="utf-8")
        given = ["config", "replay", str(new), *arguments]
        given += ["--config", str(self.directory / "pypi-overlay.yaml")]
        return CliRunner().invoke(cli, given, catch_exceptions=False)

    def changed(self, **changed: Any) -> set[tuple[str, ...]]:
        """What changes: index, name or filename, caller, before, after, rule."""
        done = self.run(changed, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["requests"] == 9
        keys = ("caller", "before", "after", "rule")
        return {
            (one["index"], one["filename"] or one["name"], *(one[key] for key in keys))
            for one in found["changed"]
        }


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Give what nine requests of three callers left behind."""
    directory = tmp_path_factory.mktemp("past")
    with FakeUpstream() as upstream:
        for version in ("1.0", "2.0"):
            upstream.add_file("demo", *make_wheel("demo", version))
        config = {
            **base_config(upstream),
            "log": {"requests": "requests.jsonl"},
            "users": {"rita": {}},
            "groups": {
                "acme": {
                    "visibility": "private",
                    "members": {"rita": "maintainer"},
                    "projects": {"widgets": {}},
                }
            },
        }
        with Stand(directory, config) as stand:
            rita = {"Authorization": basic(stand.token("rita")[0])}
            body = forms.upload(*make_wheel("own", "1.0"))
            sent = forms.FORM_TYPE | rita
            with stand.link() as link:
                begun = head("/acme/widgets/", method="POST", Content_Length=str(len(body)), **sent)
                assert link.ask(begun + body).status == 201
            with stand.link() as link:
                for filename in DEMO:
                    ask(link, address_of(link, filename), 200)
                ask(link, "/simple/nothing/", 404)
                ask(link, "/simple/nothing/", 404)
                ask(link, "/acme/simple/own/", 200, **rita)
                ask(link, "/acme/simple/demo/", 200, **rita)
                ask(link, "/simple/own/", 401)
        yield Past(directory, config, upstream)


def address_of(link: Link, filename: str) -> str:
    page = json.loads(link.get("/simple/demo/", Accept=JSON).body)
    [url] = [file["url"] for file in page["files"] if file["filename"] == filename]
    return "/" + str(url).removeprefix("../../")


def ask(link: Link, target: str, status: int, **headers: str) -> None:
    assert link.get(target, **headers).status == status


def test_the_same_file_changes_nothing_and_asks_nobody(past: Past, tmp_path: Path) -> None:
    past.upstream.reset_requests()
    assert past.changed() == set()
    assert "0 of 9 requests would be decided differently" in past.run({}).stderr
    # Nor for what nothing is kept of.
    other = tmp_path / "other.jsonl"
    nobody = Who(CallerKind.ANONYMOUS)
    named = [Recorded("", "other", nobody, "upstream", file) for file in ("", "other-1.0.zip")]
    other.write_bytes(b"".join(b'{"at":""' + line_of(one) for one in named))
    for policy, changed in (({}, 0), ({"ask": "known"}, 0), ({"deny": ["other"]}, 2)):
        done = past.run({"policy": policy}, str(other), "--json")
        assert len(json.loads(done.stdout)["changed"]) == changed
    assert past.upstream.requests() == []


def test_a_denied_name_is_denied_on_page_and_files_alike(past: Past) -> None:
    after = ("upstream", "denied", "deny demo")
    assert past.changed(policy={"deny": ["demo"]}) == {
        ("/", "demo", "anonymous", *after),
        *(("/", filename, "anonymous", *after) for filename in DEMO),
        ("acme", "demo", "user:rita", *after),
    }


def test_a_denied_version_is_withheld_alone(past: Past) -> None:
    assert past.changed(policy={"deny": ["demo<2"]}) == {
        ("/", DEMO[0], "anonymous", "upstream", "withheld", "deny demo<2")
    }


def test_of_what_is_not_kept_it_is_said_whether_it_would_be_asked_for(past: Past) -> None:
    policy = {"policy": {"forward": False}}
    groups = past.config["groups"]
    assert past.changed(groups={"acme": groups["acme"] | policy}) == {
        ("acme", "demo", "user:rita", "upstream", "not-forwarded", "forward false")
    }
    found = past.changed(policy={"reserve": ["nothing"]})
    assert {(name, after) for _, name, _, _, after, _ in found} == {("nothing", "claimed")}


def test_callers_have_the_rights_that_the_new_file_gives_them(past: Past) -> None:
    acme = past.config["groups"]["acme"]
    gone = {("acme", "own", "private"), ("acme", "demo", "upstream")}
    for changed, after in (
        ({"groups": {"acme": acme | {"members": {}}}}, "unknown namespace"),
        ({"users": {}, "groups": {"acme": acme | {"members": {}}}}, "unauthorized"),
    ):
        found = past.changed(**changed)
        assert {one[:2] + one[3:5] for one in found} == {(*one, after) for one in gone}


def test_a_namespace_that_moves_is_tried_where_it_would_be(past: Past) -> None:
    acme = past.config["groups"]["acme"]
    assert past.changed(groups={"other": acme | {"aliases": ["acme"]}}) == set()
    # Nothing has moved.
    assert past.changed() == set()


def test_a_faulty_file_is_told_as_a_check_would(past: Past) -> None:
    done = past.run({"policy": {"forward": "soon", "deny": [""]}})
    assert done.exit_code == 1
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == ["error", "error"]
    shown = json.loads(past.run({"policy": {"forward": "soon"}}, "--json").stdout)
    assert (shown["ok"], shown["errors"][0]["path"]) == (False, "policy.forward")


def test_a_file_that_would_lose_packages_is_refused(past: Past) -> None:
    done = past.run({"groups": {}})
    assert done.exit_code == 1
    assert "groups.acme is gone but holds 1 package" in done.stdout


def test_requests_may_come_from_any_file(past: Past, tmp_path: Path) -> None:
    record = past.directory / "data" / "requests.jsonl"
    with record.open("rb") as lines:
        [page] = [one for one in read_lines(lines) if one is not None and one.name == "own" and one.index]
    strange = [
        Recorded("gone", "demo", page.caller, "upstream"),
        Recorded("", "../../../etc", page.caller, "upstream"),
    ]
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"".join(b'{"at":""' + line_of(one) for one in [page, page, *strange]) + b"rubbish\n")
    done = past.run({"policy": {"deny": ["demo"]}}, str(file), "--json")
    assert json.loads(done.stdout) == {"requests": 3, "changed": []}


def test_a_table_says_what_changes_and_how_often(past: Past) -> None:
    done = past.run({"policy": {"reserve": ["nothing"]}})
    heading, line = done.stdout.splitlines()
    assert heading.split() == [*("INDEX", "NAME", "FILE", "CALLER", "BEFORE", "AFTER", "RULE", "REQUESTS")]
    assert line.split()[-1] == "2"
    assert "2 of 9 requests would be decided differently" in done.stderr


def test_without_a_record_it_is_said_what_to_do(past: Past) -> None:
    file = past.directory / "bare.yaml"
    file.write_text("{}", encoding="utf-8")
    done = CliRunner().invoke(cli, ["config", "replay", str(file), "--config", str(file)])
    assert done.exit_code == 1
    assert "set log.requests" in done.stderr
