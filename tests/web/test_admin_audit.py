"""The audit over the administration API: who may read what of it (contract 12)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from proxy.domain.access import OPERATOR
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.storage.audit import By, record
from proxy.storage.database import Change
from proxy.storage.downloads import Client, Fetched
from tests.web.stand import Stand
from tests.web.wire import basic

USERS = ("otto", "rita", "boss")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Give a server with owners of several namespaces, and with events of each."""
    config = {
        "upstreams": {"pypi": None},
        "policy": {"upstreams": []},
        "users": {user: {} for user in USERS},
        "members": {"boss": "owner"},
        "groups": {
            "acme": {
                "visibility": "private",
                "aliases": ["former"],
                "members": {"otto": "owner", "rita": "maintainer"},
                "projects": {"widgets": {}},
            },
            "globex": {"projects": {"things": {}}},
        },
    }
    with Stand(tmp_path_factory.mktemp("stand"), config) as stand:
        for path in ("acme", "acme/widgets", "former/widgets", "globex/things"):
            stand.instance.registry.change_now(
                partial(note_upload, by=By(OPERATOR, stand.instance.now()), path=path)
            )
        yield stand


@pytest.fixture(scope="module")
def callers(stand: Stand) -> dict[str, dict[str, str]]:
    """Give the credentials of everybody."""
    texts = {user: stand.token(user)[0] for user in USERS}
    return {user: {"Authorization": basic(text)} for user, text in texts.items()} | {"nobody": {}}


def note_upload(change: Change, by: By, path: str) -> None:
    namespace, name = NamespacePath(path), path.rpartition("/")[2]
    record(change.connection, by, "file.upload", namespace=namespace, name=name)


def ask(stand: Stand, target: str, headers: dict[str, str]) -> tuple[int, Any]:
    with stand.link() as link:
        reply = link.get(f"/api/v1/audit{target}", Accept="application/json", **headers)
        return reply.status, json.loads(reply.body)


def places(stand: Stand, target: str, headers: dict[str, str]) -> list[str]:
    status, found = ask(stand, target, headers)
    assert status == 200, found
    return [item["namespace"] for item in found["items"] if item["action"] == "file.upload"]


def test_an_owner_of_the_instance_reads_everything(stand: Stand, callers: dict[str, Any]) -> None:
    for target in ("", "?namespace=%2F"):
        found = places(stand, target, callers["boss"])
        assert found == ["globex/things", "former/widgets", "acme/widgets", "acme"]


def test_an_owner_reads_of_what_lies_there_and_what_it_was_called(
    stand: Stand, callers: dict[str, Any]
) -> None:
    assert places(stand, "?namespace=acme", callers["otto"]) == ["former/widgets", "acme/widgets", "acme"]
    assert places(stand, "?namespace=acme%2Fwidgets", callers["otto"]) == ["acme/widgets"]
    assert places(stand, "?namespace=former&name=acme", callers["otto"]) == ["acme"]


@pytest.mark.parametrize(
    ("target", "who", "status"),
    [
        ("", "otto", 403),
        ("", "nobody", 401),
        ("?namespace=acme", "rita", 403),
        ("?namespace=globex", "otto", 404),
        ("?namespace=acme", "nobody", 401),
        ("/downloads?name=x", "otto", 403),
        ("/downloads?name=x", "nobody", 401),
        ("/downloads", "boss", 400),
        ("/downloads?name=x&since=soon", "boss", 400),
        ("?since=99999999d", "boss", 400),
    ],
)
def test_others_are_refused(
    stand: Stand, callers: dict[str, Any], target: str, who: str, status: int
) -> None:
    assert ask(stand, target, callers[who])[0] == status


def test_lists_are_paged_and_filtered(stand: Stand, callers: dict[str, Any]) -> None:
    _, found = ask(stand, "?per_page=1&name=widgets", callers["boss"])
    assert ([item["namespace"] for item in found["items"]], found["next"]) == (["former/widgets"], 2)
    _, found = ask(stand, "?per_page=1&page=2&name=Widgets&since=1h", callers["boss"])
    assert ([item["namespace"] for item in found["items"]], found["next"]) == (["acme/widgets"], None)
    assert places(stand, "?since=2099-01-01", callers["boss"]) == []


def test_downloads_are_told_at_once_by_the_worker_that_gave_them(
    stand: Stand, callers: dict[str, Any]
) -> None:
    at = int(stand.time())
    client = Client(None, None, "192.0.2.1")
    for version in ("1.0", "2.0"):
        fetched = Fetched(Name("x"), version, f"x-{version}.zip", None, "pypi", NamespacePath("acme"))
        stand.call(partial(stand.instance.downloads.note, fetched, client, at))
    status, found = ask(stand, "/downloads?name=X&version=2&since=7d", callers["boss"])
    assert status == 200, found
    assert [(item["version"], item["address"]) for item in found["items"]] == [("2.0", "192.0.2.1")]


def test_a_group_s_owner_reads_who_fetched_what_is_its_own_and_what_was_asked_for_there(
    stand: Stand, callers: dict[str, Any]
) -> None:
    client = Client(None, "someone", "192.0.2.7")
    ways = {
        ("acme/widgets", ""): True,
        ("pypi", "acme"): True,
        ("pypi", "acme/widgets"): True,
        ("acme", "globex"): False,  # an upstream of that name
        ("globex/things", "globex"): False,
    }
    for number, (source, asked_at) in enumerate(ways):
        fetched = Fetched(
            Name("shared"), str(number), f"shared-{number}.tar.gz", None, source, NamespacePath(asked_at)
        )
        stand.call(
            partial(stand.instance.downloads.note, fetched, client, int(stand.instance.now().timestamp()))
        )
    status, found = ask(stand, "/downloads?name=shared&namespace=acme", callers["otto"])
    assert status == 200
    told = {(item["source"], item["index"].strip("/")) for item in found["items"]}
    assert told == {way for way, is_theirs in ways.items() if is_theirs}
    assert len(ask(stand, "/downloads?name=shared", callers["boss"])[1]["items"]) == len(ways)
    assert ask(stand, "/downloads?name=shared&namespace=globex", callers["otto"])[0] == 404
    assert ask(stand, "/downloads?name=shared&namespace=acme", callers["rita"])[0] == 403
