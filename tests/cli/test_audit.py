from __future__ import annotations

from functools import partial

from proxy.domain.access import Caller, CallerKind
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.index.instance import Instance
from proxy.storage.audit import By, record
from proxy.storage.downloads import Client, Fetched
from tests.cli.conftest import CONFIG, Site

WHEEL = "widgets-1.0-py3-none-any.whl"
SHA256 = "ab" * 32
ALICE = Client(7, "alice", "192.0.2.1")


def fetch(site: Site, *clients: Client, version: str = "1.0", name: str = "widgets") -> None:
    """Note downloads a second apart, the first caller's first; the instance writes them when it is closed."""

    def act(instance: Instance) -> None:
        second = int(instance.now().timestamp())
        fetched = Fetched(
            Name(name), version, f"{name}-{version}.zip", SHA256, "acme/widgets", NamespacePath("")
        )
        for number, client in enumerate(clients):
            instance.downloads.note(fetched, client, second + number)

    site.work(act)


def note(site: Site, action: str, namespace: str, name: str | None = None) -> None:
    def act(instance: Instance) -> None:
        by = By(Caller(CallerKind.USER, "alice", token=7), instance.now(), "192.0.2.1", "r1")
        about = partial(record, by=by, action=action, namespace=NamespacePath(namespace), name=name)
        instance.registry.change_now(lambda change: about(change.connection, detail={"status": "active"}))

    site.work(act)


def test_what_was_changed_is_listed_the_newest_first(site: Site) -> None:
    site.publish("acme/widgets", WHEEL)
    site.run("package", "delete", "acme/widgets", "widgets", "--yes")
    note(site, "package.status", "acme/widgets", "widgets")
    found = site.items("audit", "log")
    assert [event["action"] for event in found] == ["package.status", "file.delete"]
    assert found[0]["who"] == {"kind": "user", "id": 7, "user": "alice"}
    table = site.run("audit", "log").stdout.splitlines()
    assert table[0].split() == ["AT", "ACTION", "WHO", "ADDRESS", "NAMESPACE", "WHAT", "DETAIL"]
    assert "user alice (token 7)  192.0.2.1  acme/widgets  widgets" in table[1]
    assert table[1].endswith("status: active")


def test_events_are_chosen_by_time_name_and_namespace(site: Site) -> None:
    note(site, "a", "acme", "widgets")
    note(site, "b", "globex", "gears")

    def actions(*arguments: str) -> list[str]:
        return [event["action"] for event in site.items("audit", "log", *arguments)]

    assert actions("--since", "7d") == ["b", "a"]
    assert actions("--since", "2099-01-01") == []
    assert actions("--name", "Widgets") == ["a"]
    assert actions("--namespace", "/globex") == ["b"]
    assert actions("--namespace", "/") == ["b", "a"]
    assert "'soon' is no time" in site.refused("audit", "log", "--since", "soon")
    assert "nothing was changed" in site.run("audit", "log", "--name", "other").stderr
    site.configure({**CONFIG, "groups": {"all": {"aliases": ["globex"]}}})
    assert actions("--namespace", "all") == actions("--namespace", "globex") == ["namespace.move", "b"]


def test_a_purge_of_the_cache_stands_there(site: Site) -> None:
    assert site.run("cache", "purge", "Gears", "--yes").exit_code == 0
    assert site.run("cache", "purge", "--all", "--yes").exit_code == 0
    every, one = site.items("audit", "log")
    assert (one["action"], one["who"]["user"]) == ("cache.purge", "operator")
    assert (one["detail"]["names"], every["detail"]["names"]) == (["gears"], "all")


def test_of_more_than_the_limit_the_newest_are_shown_and_that_there_is_more_is_said(site: Site) -> None:
    for action in "abc":
        note(site, action, "acme")
    found = site.json("audit", "log", "--limit", "2")
    assert ([event["action"] for event in found["items"]], found["next"]) == (["c", "b"], 2)
    assert "there is more: these are the newest 2" in site.run("audit", "log", "--limit", "2").stderr
    assert "there is more" not in site.run("audit", "log", "--limit", "3").stderr


def test_who_fetched_a_release_is_listed_with_when_and_from_where(site: Site) -> None:
    fetch(site, ALICE, Client(None, None, "192.0.2.2"))
    fetch(site, ALICE, version="2.0")
    first = site.items("audit", "downloads", "Widgets", "1")
    assert [(one["user"], one["token_id"], one["address"]) for one in first] == [
        (None, None, "192.0.2.2"),
        ("alice", 7, "192.0.2.1"),
    ]
    assert set(first[0]) == {
        *("at", "name", "version", "filename", "sha256", "source", "index", "token_id", "user", "address")
    }
    assert len(site.items("audit", "downloads", "widgets")) == 3
    assert site.items("audit", "downloads", "widgets", "--since", "2099-01-01") == []
    table = site.run("audit", "downloads", "widgets", "1.0").stdout.splitlines()
    assert table[0].split() == ["AT", "FILE", "WHO", "ADDRESS", "INDEX", "SOURCE"]
    assert "widgets-1.0.zip  anonymous        192.0.2.2  /      acme/widgets" in table[1]
    assert "alice (token 7)" in table[2]


def test_downloads_that_are_alike_are_one_line_of_the_table(site: Site) -> None:
    def act(instance: Instance) -> None:
        fetched = Fetched(Name("widgets"), None, "widgets.zip", None, "pypi", NamespacePath(""))
        instance.downloads.note(fetched, ALICE, int(instance.now().timestamp()), 3)

    site.work(act)
    table = site.run("audit", "downloads", "widgets").stdout.splitlines()
    assert len(table) == 2
    assert table[0].endswith("TIMES")
    assert table[1].endswith("3")
    assert len(site.items("audit", "downloads", "widgets")) == 3
    assert "no download of gears is on record" in site.run("audit", "downloads", "gears").stderr
