from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import insert

from proxy.config.load import shipped_defaults
from proxy.domain.policy import POLICY_KEYS
from proxy.index.instance import Instance
from proxy.storage.tables import first_sights
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
            "policy:\n  deny: ['a==1', 'a == 1', 'a>1', a, 'b==1', 'b*==1', '*b*==1', 'c*d*e', '*d*']\n",
            [
                "2: policy.deny.0: a==1 has no effect: a covers it",
                "2: policy.deny.1: a==1 has no effect: a covers it",
                "2: policy.deny.2: a>1 has no effect: a covers it",
                "2: policy.deny.4: b==1 has no effect: b*==1 covers it",
                "2: policy.deny.5: b*==1 has no effect: *b*==1 covers it",
                "2: policy.deny.7: c*d*e has no effect: *d* covers it",
            ],
        ),
        (
            (
                "policy:\n  deny:\n    - a\n    - {match: a*, until: 2999-01-01}\n"
                "    - {match: ab, until: 2998-01-01}\n    - {match: c, until: 2001-02-03}\n    - c\n"
            ),
            [
                "5: policy.deny.2: ab has no effect: a* covers it",
                "6: policy.deny.3: c is void since 3 Feb 2001 00:00 UTC: take it out, or give it another end",
            ],
        ),
        (
            (
                "advisories: {osv_dir: .}\npolicy:\n  vulnerable_exempt:\n"
                "    - {id: CVE-1, name: a, until: 2001-02-03, reason: known}\n"
                "  warn: [deny]\n  lock: [min_age]\n"
                "groups: {acme: {policy: {min_age_exempt: [x]}}}\n"
            ),
            [
                (
                    "4: policy.vulnerable_exempt.0: CVE-1 is void since 3 Feb 2001 00:00 UTC: "
                    "take it out, or give it another end"
                ),
                "5: policy.warn.0: a dry run: deny refuses nothing, it is only warned of",
                (
                    "7: groups.acme.policy.min_age_exempt: it weakens min_age, which the root locked; "
                    "to forbid that, lock min_age_exempt there too"
                ),
            ],
        ),
        (
            (
                "policy: {merge: [shared], min_age_exempt: ['x==1']}\n"
                "groups: {acme: {policy: {reserve: ['sh*', other],\n"
                "  merge: [shared, other], min_age_exempt: ['x==1']}}}\n"
            ),
            [
                "3: groups.acme.policy.merge.0: shared is not merged: acme reserves sh*",
                "3: groups.acme.policy.merge.1: other is not merged: acme reserves other",
                "3: groups.acme.policy.merge.0: shared has no effect: shared stands above already",
                "3: groups.acme.policy.min_age_exempt.0: x==1 has no effect: x==1 stands above already",
            ],
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


def test_age_that_an_upstream_does_not_tell_is_a_warning(site: Site) -> None:
    site.publish("globex/things", WHEEL)  # so that there is a data directory

    def see(instance: Instance) -> None:
        row = {"upstream": "old", "name": "x", "seen": b""}
        instance.registry.change_now(lambda change: change.connection.execute(insert(first_sights), row))

    site.work(see)
    upstreams = {name: {"index_url": f"https://{name}.example/simple/"} for name in ("old", "new")}
    policy = {"upstreams": ["new", "old"]}
    groups = {**CONFIG["groups"], "strict": {"policy": {"min_age": "3d"}}}
    site.configure({**CONFIG, "upstreams": {"pypi": None, **upstreams}, "policy": policy, "groups": groups})
    status, found = check(site)
    assert status == 0
    assert [(warning["path"], warning["message"]) for warning in found["warnings"]] == [
        (
            "groups.strict.policy.min_age",
            "old names no upload time of some files: their first sight here counts as theirs",
        )
    ]


POLICY = """\
policy:
  lock: [forward]
  deny: [evil]
groups:
  acme:
    policy:
      min_age: 3d
      deny:
        - match: requests==2.32.0
          reason: breaks our proxy
          until: 2027-01-01
      protect: [{name: core*, publish: maintainer, delete: owner}]
    projects: {widgets: {}}
"""


def test_the_policy_in_force_is_shown_with_its_lines(site: Site) -> None:
    site.file.write_text(POLICY, encoding="utf-8")
    shape = site.json("config", "show", "acme/widgets")
    assert shape["namespace"] == "acme/widgets"
    values = shape["values"]
    assert values["min_age"] == {
        "value": "3d",
        "origin": {"file": site.file.name, "line": 7, "path": "groups.acme.policy.min_age"},
        "locked_by": None,
    }
    assert values["forward"]["locked_by"] == "/"
    assert values["deny"]["value"] == ["evil", "requests==2.32.0"]
    assert values["deny"]["entries"][1] == {
        "value": "requests==2.32.0",
        "reason": "breaks our proxy",
        "until": "2027-01-01T00:00:00Z",
        "origin": {"file": site.file.name, "line": 9, "path": "groups.acme.policy.deny.0"},
    }
    defaults = shipped_defaults().decode().splitlines()
    forward = next(number for number, line in enumerate(defaults, 1) if line.startswith("  forward:"))
    lines = site.run("config", "show", "/acme/").stdout.splitlines()
    shown = [re.split(r" {2,}", line.replace(site.file.name, "f")) for line in lines]
    assert [cells for cells in shown if cells[0] in {"KEY", "forward", "min_age", "deny", "protect"}] == [
        ["KEY", "VALUE", "ORIGIN", "LOCKED BY"],
        ["forward", "true", f"shipped defaults:{forward}", "/"],
        ["deny", "evil", "f:3", "-"],
        ["deny", "requests==2.32.0 until 2027-01-01: breaks our proxy", "f:9", "-"],
        ["min_age", "3d", "f:7", "-"],
        ["protect", "core*: publish maintainer, delete owner", "f:12", "-"],
    ]


def test_without_a_namespace_the_policy_of_the_root_is_shown(site: Site) -> None:
    site.file.write_text(POLICY, encoding="utf-8")
    shape = site.json("config", "show")
    assert shape["namespace"] == "/"
    assert list(shape["values"]) == list(POLICY_KEYS)
    assert shape["values"]["deny"]["value"] == ["evil"]
    assert shape["values"]["allow"]["value"] == ["*"]
    assert shape["values"]["allow"]["origin"]["file"] == "shipped defaults"
    assert site.refused("config", "show", "nowhere") == "error: there is no group or project 'nowhere'"


def test_the_schema_is_the_shipped_one(site: Site) -> None:
    shipped = json.loads(site.run("config", "schema").stdout)
    assert shipped["title"] == "pypi-overlay configuration"
    assert "groups" in shipped["properties"]
    assert site.json("config", "schema") == shipped
