from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.index.instance import Instance
from tests.cli.conftest import CONFIG, Site

WHEEL, TOOLS = "widgets-1.0-py3-none-any.whl", "tools-1.0-py3-none-any.whl"
WITHOUT_GLOBEX = {**CONFIG, "groups": {"acme": CONFIG["groups"]["acme"]}}


def listed(site: Site) -> dict[str, dict[str, Any]]:
    return {item["path"]: item for item in site.items("namespace", "list")}


def test_every_namespace_is_listed_with_what_lies_at_and_below_it(site: Site) -> None:
    site.publish("acme/widgets", WHEEL, TOOLS)
    site.run("package", "delete", "acme/widgets", "tools", "--yes")
    found = listed(site)
    assert list(found) == ["/", "default", "acme", "acme/widgets", "acme/sandbox", "globex", "globex/things"]
    assert found["acme/widgets"] == {
        "path": "acme/widgets",
        "kind": "project",
        "id": 42,
        "visibility": "private",
        "packages": 1,
        "claims": 2,
        "bytes": 1000,
    }
    assert [(found[path]["packages"], found[path]["claims"]) for path in ("acme", "/")] == [(1, 2), (1, 2)]
    assert (found["acme/sandbox"]["packages"], found["globex"]["visibility"]) == (0, "public")


def test_one_that_left_the_file_is_listed_while_nothing_else_works(site: Site) -> None:
    site.publish("globex/things", WHEEL)
    site.configure(WITHOUT_GLOBEX)
    assert "namespace drop globex" in site.refused("package", "list")
    gone = listed(site)["globex/things"]
    assert (gone["visibility"], gone["packages"], gone["claims"]) == (None, 1, 1)
    assert "gone from the file" in site.run("namespace", "list").stdout


def test_dropping_deletes_the_files_and_leaves_the_claims_to_the_instance(site: Site) -> None:
    site.publish("globex/things", WHEEL)
    site.run("token", "create", "--job", "globex/things")
    site.configure(WITHOUT_GLOBEX)
    assert site.json("namespace", "drop", "/globex", "--yes") == {"path": "globex", "files": [WHEEL]}
    assert site.items("package", "list") == []
    assert [(item["tenant"], item["name"]) for item in site.items("claim", "list", "/")] == [("/", "widgets")]
    assert site.items("token", "list") == []
    assert site.audited()[-1] == ("namespace.drop", "owner", "globex", None)


def test_dropping_deletes_the_bytes_that_nothing_else_needs(site: Site) -> None:
    def store(instance: Instance) -> list[Path]:
        texts = (f"metadata of {filename}" for filename in (WHEEL, TOOLS))
        return [Path(instance.layout.object(instance.objects.put_bytes(text.encode()))) for text in texts]

    shared, lonely = site.work(store)
    site.publish("globex/things", WHEEL, TOOLS)
    site.publish("acme/widgets", WHEEL)
    site.configure(WITHOUT_GLOBEX)
    assert (shared.exists(), lonely.exists()) == (True, True)
    site.run("namespace", "drop", "globex", "--yes")
    assert (shared.exists(), lonely.exists()) == (True, False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("acme", "acme stands in the configuration"),
        ("/", "/ stands in the configuration"),
        ("nowhere", "nothing is held for nowhere"),
    ],
)
def test_only_what_left_the_file_can_be_dropped(site: Site, path: str, said: str) -> None:
    site.publish("acme/widgets", WHEEL)
    assert said in site.refused("namespace", "drop", path, "--yes")
    assert len(site.items("package", "list")) == 1
