"""Ways round the rules of a policy, tried on a running server: each is closed on every route."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from proxy.domain.moments import iso
from tests.support.osv import osv_entry
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel
from tests.web import forms
from tests.web.stand import Stand
from tests.web.wire import JSON, Answer, Wire

HOUR = timedelta(hours=1)
BEGIN = datetime.now(UTC)
UNREADABLE = ["malice-1.0-evil.tar.gz", "malice-.tar.gz", "malice-1.0_x-py3-none-any.whl"]
"""Of these no version follows that PEP 440 knows; some clients install them all the same."""


class Target:
    """A server with groups that have rules, a clock, and an upstream that is not to be trusted."""

    def __init__(self, stand: Stand, upstream: FakeUpstream) -> None:
        self.stand = stand
        self.upstream = upstream
        host, port = stand.address
        self.wire = Wire(f"http://{host}:{port}")

    def page(self, target: str) -> Any:
        answer = self.wire.get(target, headers={"Accept": JSON})
        assert answer.status == 200, answer
        return answer.json

    def file(self, base: str, filename: str, content: bytes, suffix: str = "") -> Answer:
        return self.wire.get(f"{base}/files/{hashlib.sha256(content).hexdigest()}/{filename}{suffix}")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Give a server, whose file lies at a path that nobody is to hear of."""
    directory = tmp_path_factory.mktemp("secret-place")
    advisories = directory / "osv"
    advisories.mkdir()
    told = osv_entry("MAL-2026-1", "malice", {"introduced": "0"})
    (advisories / "MAL-2026-1.json").write_text(json.dumps(told), encoding="utf-8")
    spared = {"match": "urgent", "until": iso(BEGIN + HOUR), "reason": "a fix"}
    groups: dict[str, Any] = {
        "mixed": {
            "visibility": "public",
            "members": {"rita": "maintainer"},
            "policy": {"merge": ["blend"], "reserve": ["mixed-*"], "deny": ["evil"]},
            "projects": {"ours": {}},
        },
        "patient": {"visibility": "public", "policy": {"min_age": "3d", "min_age_exempt": [spared]}},
        "careful": {"visibility": "public", "policy": {"vulnerable": "deny"}},
    }
    with FakeUpstream(max_age=86_400) as upstream:
        upstream.add_file("urgent", *make_wheel("urgent", "1.0"), upload_time=iso(BEGIN))
        for filename in UNREADABLE:
            upstream.add_file("malice", filename, b"malice")
        config = base_config(upstream) | {
            "users": {"rita": {}},
            "groups": groups,
            "advisories": {"osv_dir": str(advisories)},
        }
        with Stand(directory, config) as stand:
            stand.do(stand.instance.advisories.refresh)
            yield Target(stand, upstream)


def test_T_CONF5_the_escaped_spelling_of_a_private_version_is_not_merged(target: Target) -> None:
    # pip reads 1.0_1 in the name of a wheel as 1.0-1, which is 1.0.post1.
    theirs, content = "blend-1.0_1-py3-none-any.whl", b"not ours"
    target.upstream.add_file("blend", theirs, content)
    target.upstream.add_file("blend", *make_wheel("blend", "2.0"))
    body = forms.upload(*make_wheel("blend", "1.0.post1"))
    token = target.stand.token("rita")[0]
    answer = target.wire.send("POST", "/mixed/ours/", token=token, headers=forms.FORM_TYPE, body=body)
    assert answer.status == 201, answer
    page = target.page("/mixed/simple/blend/")
    assert {file["filename"].split("-")[1] for file in page["files"]} == {"1.0.post1", "2.0"}
    assert [(file["filename"], file["rule"]) for file in page["_withheld"]] == [(theirs, "merge")]
    for suffix in ("", ".metadata"):
        assert target.file("/mixed", theirs, content, suffix).status == 403


def test_an_exemption_that_ends_while_an_upstream_is_asked_has_ended(target: Target) -> None:
    upstream, stand = target.upstream, target.stand
    upstream.fault("/simple/urgent/*", delay=0.3)
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(target.file("/patient", *make_wheel("urgent", "1.0")))
    )
    asking.start()
    upstream.await_requests("/simple/urgent/")
    stand.clock = (HOUR + timedelta(minutes=1)).total_seconds()
    asking.join()
    upstream.clear_faults()
    stand.clock = 0.0
    assert [(answer.status, answer["X-Overlay-Decision"]) for answer in answers] == [
        (403, 'withheld;rule="min_age 3d"')
    ]


def test_malware_is_withheld_also_where_no_version_follows_from_a_filename(target: Target) -> None:
    page = target.page("/careful/simple/malice/")
    rules = {file["filename"]: file["rule"] for file in page["_withheld"]}
    assert rules == dict.fromkeys(UNREADABLE, "vulnerable MAL-2026-1")
    for filename in UNREADABLE:
        assert target.file("/careful", filename, b"malice").status == 403


@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/explain?index=mixed&name=evil",
        "/api/v1/explain?index=mixed&name=mixed-x",
        "/api/v1/policy?namespace=mixed",
        "/api/v1/policy?namespace=%2F",
    ],
)
def test_a_rule_is_told_with_its_file_and_not_with_where_that_lies(target: Target, address: str) -> None:
    answer = target.wire.get(address)
    assert answer.status == 200, answer
    assert "secret-place" not in answer.text
    if "mixed" in address:
        assert '"file": "pypi-overlay.yaml"' in answer.text.replace('"file":"', '"file": "')
