from __future__ import annotations

import pytest

from tests.cli.conftest import Site

W1, W2, W2_SDIST = "widgets-1.0-py3-none-any.whl", "widgets-2.0-py3-none-any.whl", "widgets-2.0.tar.gz"


@pytest.fixture
def filled(site: Site) -> Site:
    site.publish("acme/widgets", W1, W2, W2_SDIST)
    site.publish("globex/things", "things-1.0-py3-none-any.whl")
    return site


def test_packages_are_listed_at_and_below_a_namespace(filled: Site) -> None:
    assert filled.items("package", "list", "/acme") == [
        {
            "project": "acme/widgets",
            "name": "widgets",
            "status": "active",
            "latest": "2.0",
            "releases": 2,
            "files": 3,
            "bytes": 3000,
        }
    ]
    assert [item["name"] for item in filled.items("package", "list")] == ["widgets", "things"]
    assert filled.items("package", "list", "/") == filled.items("package", "list")
    assert filled.items("package", "list", "acme/sandbox") == []


def test_the_table_of_packages_is_for_people(filled: Site) -> None:
    header, row = filled.run("package", "list", "acme").stdout.splitlines()
    assert header.split() == ["PROJECT", "NAME", "STATUS", "LATEST", "RELEASES", "FILES", "SIZE"]
    assert row.split() == ["acme/widgets", "widgets", "active", "2.0", "2", "3", "2.9", "KiB"]
    empty = filled.run("package", "list", "acme/sandbox")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert empty.stderr == "there are no packages in acme/sandbox\n"


def test_a_package_is_shown_newest_release_first(filled: Site) -> None:
    shown = filled.json("package", "show", "/acme/widgets", "Widgets")
    assert (shown["project"], shown["name"], shown["status"]) == ("acme/widgets", "widgets", "active")
    assert [release["version"] for release in shown["releases"]] == ["2.0", "1.0"]
    assert [file["filename"] for file in shown["releases"][0]["files"]] == [W2, W2_SDIST]
    assert shown["releases"][1]["files"][0].keys() == {"filename", "sha256", "size", "uploaded_at", "by"}
    text = filled.run("package", "show", "acme/widgets", "widgets").stdout
    assert all(filename in text for filename in (W1, W2, W2_SDIST))


def test_a_file_a_release_and_a_package_can_be_deleted(filled: Site) -> None:
    one = filled.json("package", "delete", "acme/widgets", "widgets", "2.0", W2, "--yes")
    assert one == {"files": [W2], "tombstone": False}
    release = filled.run("package", "delete", "/acme/widgets", "WIDGETS", "v2", "--yes")
    assert (release.exit_code, release.stdout) == (0, f"deleted {W2_SDIST}\n")
    rest = filled.json("package", "delete", "acme/widgets", "widgets", "--yes")
    assert rest == {"files": [W1], "tombstone": True}
    assert filled.items("package", "list", "acme") == []
    assert filled.audited()[-1] == ("file.delete", "owner", "acme/widgets", "widgets")


def test_a_former_path_leads_to_the_project(filled: Site) -> None:
    filled.configure(
        {
            "groups": {
                "acme": {"projects": {"gear": {"aliases": ["acme/widgets"]}, "sandbox": {}}},
                "globex": {"projects": {"things": {}}},
            }
        }
    )
    assert filled.json("package", "show", "acme/widgets", "widgets")["project"] == "acme/gear"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "acme/widgets", "gadgets"), "acme/widgets has no files of gadgets"),
        (("show", "acme/widgets", "wid gets"), "'wid gets' is not a valid project name"),
        (("show", "acme/sandbox", "widgets"), "acme/sandbox has no files of widgets"),
        (("delete", "acme/widgets", "widgets", "3.0", "--yes"), "no such release or file of widgets"),
        (("delete", "acme/widgets", "widgets", "new", "--yes"), "'new' is not a valid version"),
        (("delete", "acme", "widgets", "--yes"), "acme is a group"),
        (("list", "acme/nothing"), "there is no group or project 'acme/nothing'"),
    ],
)
def test_what_is_not_there_is_refused(filled: Site, arguments: tuple[str, ...], said: str) -> None:
    assert said in filled.refused("package", *arguments)
    assert len(filled.items("package", "list")) == 2


def test_a_release_is_yanked_and_the_mark_taken_away(filled: Site) -> None:
    yank = ("package", "yank", "acme/widgets", "Widgets", "v1")
    marked = filled.json(*yank, "--reason", " loses data ")
    assert marked == {"project": "acme/widgets", "name": "widgets", "version": "v1", "yanked": "loses data"}

    def yanked() -> list[object]:
        shown = filled.json("package", "show", "acme/widgets", "widgets")
        return [release["yanked"] for release in shown["releases"]]

    assert yanked() == [False, "loses data"]
    assert filled.json(*yank)["yanked"] is True
    assert yanked() == [False, True]
    said = filled.run(*yank, "--undo")
    assert (said.exit_code, said.stdout, said.stderr) == (0, "", "widgets v1 is no longer yanked\n")
    assert filled.json(*yank, "--undo")["yanked"] is False
    assert yanked() == [False, False]
    assert filled.audited()[-1] == ("package.unyank", "owner", "acme/widgets", "widgets")


def test_a_package_is_given_a_status(filled: Site) -> None:
    status = ("package", "status", "acme/widgets", "widgets")
    assert filled.json(*status, "quarantined", "--reason", "malware") == {
        "project": "acme/widgets",
        "name": "widgets",
        "status": "quarantined",
        "reason": "malware",
    }
    assert filled.json("package", "show", "acme/widgets", "widgets")["status"] == "quarantined"
    assert filled.items("package", "list", "acme")[0]["status"] == "quarantined"
    assert filled.run(*status, "active").stderr == "widgets is active\n"
    assert filled.items("package", "list", "acme")[0]["status"] == "active"
    assert filled.audited()[-1] == ("package.status", "owner", "acme/widgets", "widgets")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("yank", "acme/widgets", "widgets", "3.0"), 1, "acme/widgets has no such release of widgets"),
        (("yank", "acme/widgets", "gadgets", "1.0"), 1, "acme/widgets has no files of gadgets"),
        (("yank", "acme/widgets", "widgets", "new"), 1, "'new' is not a valid version"),
        (("yank", "acme", "widgets", "1.0"), 1, "acme is a group"),
        (("yank", "acme/widgets", "widgets", "1.0", "--reason", "a\nb"), 1, "the reason is not valid"),
        (
            ("yank", "acme/widgets", "widgets", "1.0", "--undo", "--reason", "x"),
            2,
            "--undo takes no --reason",
        ),
        (("status", "acme/widgets", "widgets", "gone"), 2, "'gone' is not one of"),
        (("status", "acme/widgets", "gadgets", "archived"), 1, "acme/widgets has no files of gadgets"),
        (("status", "acme/nothing", "widgets", "archived"), 1, "there is no group or project"),
    ],
)
def test_marks_that_cannot_be_given(filled: Site, arguments: tuple[str, ...], status: int, said: str) -> None:
    assert said in filled.refused("package", *arguments, status=status)
