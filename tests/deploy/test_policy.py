"""The guide to policies: its example does what it is said to do, and its commands run beside a server."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from proxy.cli.main import cli
from proxy.domain.moments import iso
from tests.support.forked import ForkedServer
from tests.support.osv import osv_entry, osv_zip
from tests.support.server import ROOT, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.wire import JSON, Answer, Wire

GUIDE = ROOT / "deploy" / "policy.md"
YOUNG = "requests-2.99.0-py3-none-any.whl"


def blocks(language: str) -> list[str]:
    """The blocks of code in the guide that are marked as of this language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


class Company:
    """A server with the example of the guide in force, and its owner's terminal."""

    def __init__(self, server: ForkedServer, config: dict[str, Any], addresses: dict[str, str]) -> None:
        self.server = server
        self.config = config
        self._addresses = addresses
        self._wire = Wire(server.url)
        self._token = server.owner_token()

    def get(self, target: str) -> Answer:
        return self._wire.get(target, token=self._token, headers={"Accept": JSON})

    def file(self, filename: str) -> Answer:
        """Fetch a file of the upstream at acme."""
        return self.get(f"/acme/{self._addresses[filename]}")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def _company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    directory = tmp_path_factory.mktemp("company")
    now = datetime.now(UTC)
    osv_zip(
        directory / "osv" / "all.zip",
        [
            osv_entry("GHSA-1", "pillow", {"introduced": "0"}, aliases=["CVE-2026-1234"]),
            osv_entry("GHSA-2", "cogs", {"introduced": "0"}, {"fixed": "1.1"}),
        ],
    )
    (example,) = blocks("yaml")
    config = yaml.safe_load(example)
    config["advisories"]["osv_dir"] = str(directory / "osv")
    for entry in (*config["policy"]["min_age_exempt"], *config["policy"]["vulnerable_exempt"]):
        assert entry.pop("until")
        entry["until"] = "2099-01-01"
    addresses = {}
    with FakeUpstream() as upstream:
        for name, version, age in (
            ("requests", "2.32.0", 900),
            ("requests", "2.32.3", 800),
            ("requests", "2.99.0", 4),
            ("urllib3", "2.6.1", 4),
            ("pillow", "1.0", 900),
            ("cogs", "1.0", 900),
            ("cogs", "1.1", 4),
        ):
            filename, content = make_wheel(name, version)
            upstream.add_file(name, filename, content, upload_time=iso(now - timedelta(hours=age)))
            addresses[filename] = f"files/{hashlib.sha256(content).hexdigest()}/{filename}"
        config |= base_config(upstream)
        with ForkedServer(config, directory) as server:
            company = Company(server, config, addresses)
            cogs = "/acme/simple/cogs/"
            wait_until(lambda: company.get(cogs).status == 200, what="the advisories")
            company.file(YOUNG)
            server.restart()  # what was asked for is on record when it has ended
            yield company


@pytest.fixture
def company(_company: Company, monkeypatch: pytest.MonkeyPatch) -> Company:
    """Give the server, in whose directory the terminal stands."""
    monkeypatch.chdir(_company.server.config_file.parent)
    return _company


def test_the_example_is_valid_as_it_stands(tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    file = tmp_path / "pypi-overlay.yaml"
    file.write_text(example, encoding="utf-8")
    done = CliRunner().invoke(cli, ["config", "check", "--config", str(file)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("filename", "refused"),
    [
        ("requests-2.32.0-py3-none-any.whl", "denied by the instance (requests==2.32.0): breaks our proxy"),
        ("requests-2.32.3-py3-none-any.whl", None),
        (YOUNG, "4 hours old; the instance holds files back for 3 days, until "),
        ("urllib3-2.6.1-py3-none-any.whl", None),
        ("pillow-1.0-py3-none-any.whl", None),
        ("cogs-1.0-py3-none-any.whl", "affected by GHSA-2 (high)"),
        ("cogs-1.1-py3-none-any.whl", None),
    ],
)
def test_the_example_serves_and_refuses_what_it_says(
    company: Company, filename: str, refused: str | None
) -> None:
    answer = company.file(filename)
    assert answer.status == (200 if refused is None else 403), answer.text
    assert refused is None or (refused in answer.json["detail"] and refused in answer.reason)


@pytest.mark.parametrize(
    ("page", "decision"),
    [
        ("/acme/simple/acme-core/", 'claimed;rule="reserve acme-*"'),
        ("/acme/vault/simple/requests/", 'not-forwarded;rule="forward false"'),
    ],
)
def test_the_example_keeps_names_and_the_vault_private(company: Company, page: str, decision: str) -> None:
    answer = company.get(page)
    assert (answer.status, answer["X-Overlay-Decision"]) == (451, decision)


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_commands_of_the_guide_run(company: Company, block: str) -> None:
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        if program == "cp":
            shutil.copy(*arguments)
            continue
        assert program == "pypi-overlay"
        done = company.run(*arguments)
        assert done.exit_code == 0, done.output


def test_a_change_can_be_replayed_tried_enforced_and_taken_back(company: Company) -> None:
    assert company.file(YOUNG).status == 403
    tried = {**company.config, "policy": {**company.config["policy"], "warn": ["min_age"]}}
    Path("new.yaml").write_text(
        yaml.safe_dump({**tried, "storage": {"data_dir": "nowhere"}}), encoding="utf-8"
    )
    told = company.run("config", "replay", "new.yaml").stdout
    (change,) = [line for line in told.splitlines() if YOUNG in line]
    assert re.search(r"withheld +upstream +min_age 3d", change), told

    company.server.configure(tried)
    company.server.reload()
    before = len(company.server.log_text())
    assert company.file(YOUNG).status == 200
    wait_until(lambda: 'warned="min_age 3d"' in company.server.log_text(before), what="the line in the log")

    company.server.configure(company.config)
    company.server.reload()
    assert company.file(YOUNG).status == 403
