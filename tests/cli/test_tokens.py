from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.cli.conftest import Site

KEYS = {
    *("id", "kind", "user", "namespace", "name", "username", "scopes"),
    *("created_at", "expires_at", "last_used_at", "revoked_at"),
}


def life(token: dict[str, str]) -> timedelta:
    return datetime.fromisoformat(token["expires_at"]) - datetime.fromisoformat(token["created_at"])


def test_the_text_stands_alone_on_standard_output(site: Site) -> None:
    done = site.run("token", "create", "--user", "alice", "--scope", "api")
    assert done.exit_code == 0
    assert done.stdout.startswith("pyo_pat_")
    assert done.stdout.count("\n") == 1
    assert "user name alice" in done.stderr
    assert done.stdout.strip() not in done.stderr


def test_each_kind_has_its_shape(site: Site) -> None:
    personal = site.json("token", "create", "--user", "alice", "--scope", "read_api", "--expires", "30d")
    assert personal.keys() == KEYS | {"token"}
    assert (personal["kind"], personal["user"], personal["username"]) == ("personal", "alice", "alice")
    assert personal["scopes"] == ["read_api"]
    assert life(personal) == timedelta(days=30)

    both = ("--scope", "write_package_registry", "--scope", "read_package_registry")
    deploy = site.json("token", "create", "--deploy", "/acme", "--name", "ci", *both)
    assert (deploy["kind"], deploy["namespace"], deploy["name"]) == ("deploy", "acme", "ci")
    assert deploy["username"] == f"pyo+deploy-{deploy['id']}"
    assert set(deploy["scopes"]) == {"read_package_registry", "write_package_registry"}
    assert deploy["expires_at"] is None
    at_root = site.json("token", "create", "--deploy", "/", "--name", "n", "--username", "u", *both)
    assert (at_root["namespace"], at_root["username"]) == ("/", "u")

    job = site.json("token", "create", "--job", "acme/widgets")
    assert (job["kind"], job["namespace"]) == ("job", "acme/widgets")
    assert life(job) == timedelta(hours=1)
    assert life(site.json("token", "create", "--job", "acme/widgets", "--expires", "15m")) == timedelta(
        minutes=15
    )

    assert site.json("token", "create", "--owner")["kind"] == "owner"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--user", "alice", "--owner"),
        ("--user", "alice"),
        ("--user", "alice", "--scope", "write_package_registry"),
        ("--user", "alice", "--scope", "everything"),
        ("--user", "alice", "--scope", "api", "--username", "al"),
        ("--user", "alice", "--scope", "api", "--expires", "soon"),
        ("--user", "alice", "--scope", "api", "--expires", "0s"),
        ("--deploy", "acme", "--scope", "read_package_registry"),
        ("--deploy", "acme", "--name", "ci"),
        ("--deploy", "", "--name", "ci", "--scope", "read_package_registry"),
        ("--job", "acme/widgets", "--scope", "api"),
        ("--owner", "--scope", "api"),
    ],
)
def test_options_that_do_not_fit_together_are_wrong_usage(site: Site, arguments: tuple[str, ...]) -> None:
    site.refused("token", "create", *arguments, status=2)
    assert site.items("token", "list") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--user", "carol", "--scope", "api"), "there is no user 'carol'"),
        (
            ("--deploy", "nowhere", "--name", "ci", "--scope", "read_package_registry"),
            "there is no group or project 'nowhere'",
        ),
        (("--job", "acme"), "acme is a group"),
        (("--job", "acme/widgets", "--expires", "2d"), "at most 24 hours"),
    ],
)
def test_what_does_not_exist_gets_no_token(site: Site, arguments: tuple[str, ...], said: str) -> None:
    assert said in site.refused("token", "create", *arguments)
    assert site.items("token", "list") == []


def test_the_list_has_every_token_and_no_text(site: Site) -> None:
    text = site.json("token", "create", "--user", "alice", "--scope", "api")["token"]
    site.json("token", "create", "--job", "acme/widgets")
    listed = site.items("token", "list")
    assert [(item["id"], item["kind"]) for item in listed] == [(1, "personal"), (2, "job")]
    assert all(item.keys() == KEYS for item in listed)
    table = site.run("token", "list").stdout
    assert text not in table
    assert table.splitlines()[2].split()[:3] == ["2", "job", "acme/widgets"]


def test_a_revoked_token_stays_listed_with_its_time(site: Site) -> None:
    site.json("token", "create", "--user", "alice", "--scope", "api")
    done = site.run("token", "revoke", "1")
    assert done.exit_code == 0
    revoked = site.items("token", "list")[0]["revoked_at"]
    assert revoked is not None
    assert site.json("token", "revoke", "1", "--yes")["revoked_at"] == revoked
    assert site.refused("token", "revoke", "7") == "error: there is no token 7"


def test_making_and_revoking_stand_in_the_audit(site: Site) -> None:
    site.json("token", "create", "--deploy", "acme", "--name", "ci", "--scope", "read_package_registry")
    site.run("token", "revoke", "1")
    assert site.audited() == [
        ("token.create", "owner", "acme", None),
        ("token.revoke", "owner", "acme", None),
    ]
