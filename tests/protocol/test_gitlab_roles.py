"""GitLab's matrices of statuses (gitlab.md 1.1, 1.3), where the contract holds them: who may read, publish, mark."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.web import forms
from tests.web.house import House, Stored, spellings

READ, WRITE = "read_package_registry", "write_package_registry"
USERS = {"maintainer": "alice", "developer": "dan", "reporter": "rita", "stranger": "otto"}


def token_of(house: House, who: str) -> str | None:
    """The credential that a row of the matrix names, made when it is first needed."""
    if who in USERS:
        return house.tokens[USERS[who]]
    server = house.server
    make: dict[str, Callable[[], str]] = {
        "wrong": lambda: "pyo_pat_" + "B" * 43,
        "no token": lambda: "glpat-something",
        "owner": server.owner_token,
        "read_api of the developer": lambda: server.token_for_user("dan", "read_api"),
        "deploy, both": lambda: server.deploy_token("acme/widgets"),
        "deploy, read": lambda: server.deploy_token("acme/widgets", READ),
        "deploy, write": lambda: server.deploy_token("acme/widgets", WRITE),
        "deploy of the group": lambda: server.deploy_token("acme"),
        "deploy of another project": lambda: server.deploy_token("acme/sandbox"),
        "job": lambda: server.job_token("acme/widgets"),
        "job of another project": lambda: server.job_token("acme/sandbox"),
        "job of another tenant": lambda: server.job_token("open/gear"),
        "read_api of the maintainer": lambda: server.token_for_user("alice", "read_api"),
    }
    if who == "anonymous":
        return None
    if who not in house.made:
        house.made[who] = make[who]()
    return house.made[who]


# acme/widgets is private: alice maintains acme, dan develops widgets, rita reports on acme, otto is nobody.
PRIVATE_READ = {
    "anonymous": 401,
    "wrong": 401,
    "no token": 401,
    "owner": 200,
    "maintainer": 200,
    "developer": 200,
    "reporter": 200,
    "stranger": 404,
    "read_api of the developer": 200,
    "deploy, both": 200,
    "deploy, read": 200,
    "deploy, write": 404,
    "deploy of the group": 200,
    "deploy of another project": 404,
    "job": 200,
    "job of another project": 200,
    "job of another tenant": 404,
}
PRIVATE_PUBLISH = {
    "anonymous": 401,
    "wrong": 401,
    "no token": 401,
    "owner": 201,
    "maintainer": 201,
    "developer": 201,
    "reporter": 403,
    "stranger": 404,
    "read_api of the developer": 403,
    "deploy, both": 201,
    "deploy, read": 403,
    "deploy, write": 201,
    "deploy of the group": 201,
    "deploy of another project": 404,
    "job": 201,
    "job of another project": 403,
    "job of another tenant": 404,
}
# open/tools is public: alice maintains open, dan develops tools.
PUBLIC_PUBLISH = {
    "anonymous": 401,
    "wrong": 401,
    "no token": 401,
    "owner": 201,
    "maintainer": 201,
    "developer": 201,
    "reporter": 403,
    "stranger": 403,
    "read_api of the developer": 403,
    "deploy, both": 403,
    "job": 403,
    "job of another tenant": 403,
}


@pytest.fixture(scope="module")
def mine(house: House) -> Stored:
    """Give a wheel of acme/widgets."""
    return house.publish("acme/widgets")


@pytest.mark.parametrize(("who", "status"), PRIVATE_READ.items())
def test_reading_a_private_project(house: House, mine: Stored, who: str, status: int) -> None:
    token = token_of(house, who)
    for base in spellings("acme/widgets"):
        for below in ("simple/", f"simple/{mine.name}/", f"files/{mine.sha256}/{mine.filename}"):
            assert house.wire.get(f"{base}/{below}", token=token).status == status, below


@pytest.mark.parametrize(("who", "status"), PRIVATE_PUBLISH.items())
def test_publishing_to_a_private_project(house: House, who: str, status: int) -> None:
    token = token_of(house, who)
    for base in spellings("acme/widgets"):
        stored = house.wheel(house.name())
        body = forms.upload(stored.filename, stored.content)
        answer = house.wire.send("POST", base, token=token, headers=forms.FORM_TYPE, body=body)
        assert answer.status == status, (base, answer.reason)
        assert (answer["WWW-Authenticate"] is not None) == (status == 401)


@pytest.mark.parametrize(("who", "status"), PUBLIC_PUBLISH.items())
def test_publishing_to_a_public_project(house: House, who: str, status: int) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content)
    answer = house.upload("open/tools", body, token=token_of(house, who))
    assert answer.status == status, answer.reason


@pytest.mark.parametrize(
    "who", ["anonymous", "stranger", "reporter", "deploy, write", "job of another tenant"]
)
def test_reading_a_public_project_is_for_everybody(house: House, who: str) -> None:
    assert house.wire.get("/open/tools/simple/", token=token_of(house, who)).status == 200


@pytest.mark.parametrize("who", ["wrong", "no token"])
def test_wrong_credentials_are_401_also_where_none_are_needed(house: House, who: str) -> None:
    """GitLab takes them for anonymous; here the contract says 401 everywhere."""
    for target in ("/open/tools/simple/", "/simple/", "/open/simple/x/", "/nowhere/simple/"):
        assert house.wire.get(target, token=token_of(house, who)).status == 401, target


@pytest.mark.parametrize(
    ("target", "who", "status"),
    [
        ("/acme/nowhere/", "anonymous", 401),
        ("/acme/nowhere/", "stranger", 404),
        ("/acme/nowhere/", "maintainer", 404),
        ("/nowhere/", "anonymous", 404),
        ("/nowhere/", "maintainer", 404),
        ("/api/v4/projects/999/packages/pypi", "anonymous", 404),
        ("/api/v4/projects/acme%2Fnowhere/packages/pypi", "anonymous", 401),
        ("/api/v4/projects/acme/packages/pypi", "maintainer", 404),
        ("/api/v4/groups/acme/-/packages/pypi", "anonymous", 401),
        ("/api/v4/groups/acme/-/packages/pypi", "stranger", 404),
        ("/api/v4/groups/acme/-/packages/pypi", "maintainer", 405),
        ("/open/hidden/", "stranger", 404),
        ("/open/hidden/", "anonymous", 401),
        ("/open/hidden/", "maintainer", 201),
    ],
)
def test_publishing_to_what_is_no_project_or_not_seen(
    house: House, target: str, who: str, status: int
) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content)
    answer = house.wire.send("POST", target, token=token_of(house, who), headers=forms.FORM_TYPE, body=body)
    assert answer.status == status, answer.reason


# The packages API (A1-A3) and the administration API beside it: who reads may list, maintainers delete and mark.

PRIVATE_DELETE = {
    "anonymous": 401,
    "wrong": 401,
    "no token": 401,
    "owner": 204,
    "maintainer": 204,
    "developer": 403,
    "reporter": 403,
    "stranger": 404,
    "read_api of the maintainer": 403,
    "deploy, both": 403,
    "deploy, read": 403,
    "deploy, write": 404,
    "deploy of the group": 403,
    "deploy of another project": 404,
    "job": 403,
    "job of another project": 403,
    "job of another tenant": 404,
}
PUBLIC_DELETE = {
    "anonymous": 401,
    "wrong": 401,
    "maintainer": 204,
    "developer": 403,
    "stranger": 403,
    "job of another tenant": 403,
}


@pytest.mark.parametrize(("who", "status"), PRIVATE_READ.items())
def test_listing_the_packages_of_a_private_project(house: House, mine: Stored, who: str, status: int) -> None:
    token = token_of(house, who)
    packages = "/api/v4/projects/acme%2Fwidgets/packages"
    [found] = house.wire.get(f"{packages}?package_name={mine.name}", token=house.owner).json
    for target in (
        packages,
        f"{packages}/{found['id']}",
        f"{packages}/{found['id']}/package_files",
        "/api/v1/packages?namespace=acme/widgets",
    ):
        answer = house.wire.get(target, token=token)
        assert (answer.status, answer["Content-Type"]) == (status, "application/json"), target


@pytest.mark.parametrize(
    ("project", "who", "status"),
    [("acme/widgets", who, status) for who, status in PRIVATE_DELETE.items()]
    + [("open/tools", who, status) for who, status in PUBLIC_DELETE.items()],
)
def test_deleting_and_marking(house: House, project: str, who: str, status: int) -> None:
    token = token_of(house, who)
    stored = house.publish(project)
    house.publish(project, stored.name, sdist=True)
    encoded = project.replace("/", "%2F")
    packages, ours = f"/api/v4/projects/{encoded}/packages", f"/api/v1/packages/{encoded}/{stored.name}"
    [found] = house.wire.get(f"{packages}?package_name={stored.name}", token=house.owner).json
    files = house.wire.get(f"{packages}/{found['id']}/package_files", token=house.owner).json
    for method, target, body in (
        ("PUT", f"{ours}/1.0/yank", b"{}"),
        ("DELETE", f"{ours}/1.0/yank", None),
        ("PUT", f"{ours}/status", b'{"status": "deprecated"}'),
        ("DELETE", f"{packages}/{found['id']}/package_files/{files[0]['id']}", None),
        ("DELETE", f"{packages}/{found['id']}", None),
    ):
        answer = house.wire.send(method, target, token=token, body=body)
        assert answer.status == status, (method, target, answer.reason)
        assert (answer["WWW-Authenticate"] is not None) == (status == 401)
    answer = house.wire.send("DELETE", ours, token=token)
    assert answer.status == (404 if status == 204 else status), "by then nothing is left"
    left = house.wire.get(f"{packages}?package_name={stored.name}", token=house.owner).json
    assert len(left) == (0 if status == 204 else 1)


# Other outcomes of an upload


@pytest.mark.parametrize(
    "name", ["my$package", "my/package", "my@package", "my!package", "my*package", "my^package", ".my", "my."]
)
def test_a_name_with_illegal_characters_is_400(house: House, name: str) -> None:
    stored = house.wheel(house.name())
    answer = house.upload(
        "open/tools", forms.upload(stored.filename, stored.content, name=name), token=house.owner
    )
    assert answer.status == 400
    assert "is not a valid project name" in answer.reason


@pytest.mark.parametrize("digest", [None, "x", "0" * 63, "0" * 65, "g" * 64])
def test_a_digest_may_be_missing_but_not_malformed(house: House, digest: str | None) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content, sha256_digest=digest)
    assert house.upload("open/tools", body, token=house.owner).status == (201 if digest is None else 400)


@pytest.mark.parametrize("field", ["name", "version", "content"])
def test_a_required_field_that_is_missing_is_400(house: House, field: str) -> None:
    stored = house.wheel(house.name())
    parts = [*forms.fields(stored.filename, stored.content), forms.file(stored.filename, stored.content)]
    kept = [part for part in parts if not part.disposition.startswith(f'name="{field}"')]
    assert len(kept) == len(parts) - 1
    assert house.upload("open/tools", forms.encode(kept), token=house.owner).status == 400


def test_another_file_of_a_release_is_201_and_long_metadata_are_cut(house: House) -> None:
    mine = house.publish("open/tools", sdist=True)
    wheel = house.wheel(mine.name)
    body = forms.upload(
        wheel.filename, wheel.content, summary="s" * 5000, keywords="k" * 50_000, author="ä" * 9000
    )
    assert house.upload("open/tools", body, token=house.owner).status == 201
