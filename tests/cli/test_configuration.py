from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import CONFIG, Site

WHEEL = "widgets-1.0-py3-none-any.whl"


def check(site: Site) -> tuple[int, dict[str, Any]]:
    done = site.run("config", "check", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() == {"ok", "errors", "warnings"}
    assert found["ok"] is (done.exit_code == 0)
    return done.exit_code, found


def warnings(site: Site, text: str) -> list[str]:
    site.file.write_text(text, encoding="utf-8")
    status, found = check(site)
    assert (status, found["errors"]) == (0, [])
    return [f"{warning['line']}: {warning['path']}: {warning['message']}" for warning in found["warnings"]]


def test_a_file_that_is_in_order(site: Site) -> None:
    assert check(site) == (0, {"ok": True, "errors": [], "warnings": []})
    assert site.run("config", "check").stdout == "0 errors, 0 warnings\n"
    assert not site.data_dir.exists(), "checking makes nothing"


def test_all_errors_are_told_with_line_and_path(site: Site) -> None:
    site.file.write_text("server: {listen: 7}\ngroups:\n  acme: {polcy: {}}\n", encoding="utf-8")
    status, found = check(site)
    assert status == 1
    assert [(error["file"], error["line"], error["path"]) for error in found["errors"]] == [
        (str(site.file), 1, "server.listen"),
        (str(site.file), 3, "groups.acme.polcy"),
    ]
    done = site.run("config", "check")
    assert done.exit_code == 1
    assert "did you mean policy?" in done.stdout
    assert done.stdout.endswith("2 errors, 0 warnings\n")


def test_a_locked_key_is_an_error(site: Site) -> None:
    site.file.write_text(
        "groups:\n  acme:\n    policy: {lock: [forward]}\n    groups: {below: {policy: {forward: false}}}\n",
        encoding="utf-8",
    )
    status, found = check(site)
    assert status == 1
    assert "locked by acme" in found["errors"][0]["message"]


def test_a_namespace_that_would_vanish_is_an_error_and_the_check_changes_nothing(site: Site) -> None:
    site.publish("globex/things", WHEEL)
    site.configure({**CONFIG, "groups": {"acme": CONFIG["groups"]["acme"]}})
    status, found = check(site)
    assert status == 1
    assert "namespace drop globex" in found["errors"][0]["message"]
    site.configure(CONFIG)
    assert [item["project"] for item in site.items("package", "list")] == ["globex/things"]


def test_the_check_of_a_move_moves_nothing(site: Site) -> None:
    site.publish("globex/things", WHEEL)
    moved = {"initech": {**CONFIG["groups"]["globex"], "aliases": ["globex"]}}
    site.configure({**CONFIG, "groups": {**moved, "acme": CONFIG["groups"]["acme"]}})
    assert check(site)[0] == 0
    site.configure(CONFIG)
    assert [item["project"] for item in site.items("package", "list")] == ["globex/things"]


def test_data_that_cannot_be_looked_at_is_a_warning(site: Site) -> None:
    site.data_dir.mkdir()
    (site.data_dir / "registry.sqlite").write_bytes(b"no database" * 100)
    (site.data_dir / "run").mkdir()
    status, found = check(site)
    assert status == 0
    assert "not checked against the data" in found["warnings"][0]["message"]


def test_files_that_are_named_and_not_there_are_warnings(site: Site) -> None:
    there = site.file.parent / "ca.pem"
    there.touch()
    text = (
        "server:\n  tls:\n    certificate: gone/chain.pem\n    key: gone/key.pem\n"
        f"upstreams:\n  pypi: {{ca_file: gone/ca.pem}}\n  a: {{index_url: 'https://a.example/', ca_file: {there}}}\n"
    )
    assert warnings(site, text) == [
        "3: server.tls.certificate: there is no such file here",
        "4: server.tls.key: there is no such file here",
        "6: upstreams.pypi.ca_file: there is no such file here",
    ]


def test_a_pattern_that_covers_the_names_of_others_is_a_warning(site: Site) -> None:
    site.publish("globex/things", "acme_tools-1.0-py3-none-any.whl")
    site.publish("acme/widgets", "acme_core-1.0-py3-none-any.whl")
    status, found = check(site)
    assert status == 0
    assert [warning["message"] for warning in found["warnings"]] == [
        "acme-* covers acme-tools, which globex/things owns"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "policy:\n  deny: [evil, bad, Evil]\n",
            ["2: policy.deny.2: evil stands twice"],
        ),
        (
            "groups:\n  acme:\n    policy:\n      reserve: [acme-core, 'acme-*', 'acme-x-*', other]\n",
            [
                "4: groups.acme.policy.reserve.0: acme-core has no effect: acme-* covers it",
                "4: groups.acme.policy.reserve.2: acme-x-* has no effect: acme-* covers it",
            ],
        ),
        (
            "policy: {deny: ['e*l']}\ngroups:\n  acme:\n    policy: {deny: [evil, mild]}\n",
            ["4: groups.acme.policy.deny.0: evil has no effect: e*l stands above already"],
        ),
        (
            "policy: {reserve: [ours]}\ngroups: {acme: {policy: {reserve: [ours]}}}\n",
            [],  # the instance's claim and the tenant's are two
        ),
        (
            (
                "policy: {allow: ['good*'], deny: [gooder]}\n"
                "groups: {acme: {policy: {allow: [goods, bad, gooder, 'any*']}}}\n"
            ),
            [
                "2: groups.acme.policy.allow.1: bad has no effect: the root does not allow it",
                "2: groups.acme.policy.allow.2: gooder has no effect: the root denies gooder",
            ],
        ),
        (
            (
                "groups:\n  acme:\n    visibility: internal\n"
                "    projects:\n      open: {visibility: public}\n"
                "    groups:\n      inner: {visibility: private}\n"
            ),
            [
                "5: groups.acme.projects.open.visibility: acme/open is internal, not public: a group above narrows it"
            ],
        ),
    ],
)
def test_entries_without_effect_are_warnings(site: Site, text: str, expected: list[str]) -> None:
    assert warnings(site, text) == expected


def test_the_schema_is_the_shipped_one(site: Site) -> None:
    shipped = json.loads(site.run("config", "schema").stdout)
    assert shipped["title"] == "pypi-overlay configuration"
    assert "groups" in shipped["properties"]
    assert site.json("config", "schema") == shipped
