from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli.main import cli
from tests.cli.conftest import Site

ROOT = Path(__file__).resolve().parents[2]


def test_help_names_every_command_and_loads_no_server() -> None:
    program = (
        "import sys\n"
        "from proxy.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'aiohttp', 'sqlalchemy', 'rich', 'pydantic'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for command in (
        "serve",
        "config",
        "explain",
        "token",
        "package",
        "claim",
        "namespace",
        "held",
        "cache",
        "audit",
    ):
        assert f"\n  {command} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "here.tar"],
        ["serve", "--workers", "0"],
        ["serve", "--nodes", "2"],
        ["config", "replay"],
        ["cache", "warm"],
        ["package", "yank", "acme/widgets", "widgets"],
        ["token"],
        ["token", "revoke", "first"],
        ["serve", "--listen", "everywhere"],
    ],
)
def test_wrong_usage_is_status_2(site: Site, arguments: list[str]) -> None:
    done = site.run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr


def test_every_command_tells_of_both_options_and_of_itself() -> None:
    def walk(words: list[str]) -> int:
        shown = CliRunner().invoke(cli, [*words, "--help"])
        assert shown.exit_code == 0
        assert "--config FILE" in shown.stdout
        assert "--json" in shown.stdout
        below = shown.stdout.partition("Commands:\n")[2].splitlines()
        return 1 + sum(walk([*words, line.split()[0]]) for line in below)

    assert walk([]) == 37


def test_the_options_stand_before_or_behind_a_command(site: Site) -> None:
    before = CliRunner().invoke(cli, ["--config", str(site.file), "--json", "namespace", "list"])
    behind = CliRunner().invoke(cli, ["namespace", "list", "--json", "--config", str(site.file)])
    assert before.exit_code == behind.exit_code == 0
    assert json.loads(before.stdout) == json.loads(behind.stdout)


def test_a_refusal_is_one_line_with_its_hint_below(site: Site) -> None:
    done = site.run("package", "show", "acme", "widgets")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "error: acme is a group; packages lie in projects",
        "  name one of its projects, such as acme/widgets",
    ]


def test_errors_are_json_where_json_was_asked_for(site: Site) -> None:
    done = site.run("package", "list", "nowhere", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {"error": "there is no group or project 'nowhere'", "hint": None}
    done = site.run("token", "create", "--json")
    assert done.exit_code == 2
    assert "exactly one" in json.loads(done.stderr)["error"]


def test_every_problem_of_a_faulty_configuration_is_told_on_a_line_of_its_own(site: Site) -> None:
    site.file.write_text("server: {listen: 7}\nlog: {level: loud}\n", encoding="utf-8")
    done = site.run("token", "list")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"error: {site.file}:1: server.listen: ")
    assert lines[1].startswith(f"error: {site.file}:2: log.level: ")


def test_the_configuration_is_named_by_option_then_environment_then_directory(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_group(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["namespace", "list", "--json", *arguments])
        assert done.exit_code == 0, done.stderr
        groups = [item["path"] for item in json.loads(done.stdout)["items"] if item["kind"] == "group"]
        return groups[1] if len(groups) > 1 else "defaults"

    def write(name: str, group: str) -> str:
        path = tmp_path / name
        path.write_text(f"storage: {{data_dir: data-{group}}}\ngroups: {{{group}: {{}}}}\n", encoding="utf-8")
        return str(path)

    write("pypi-overlay.yaml", "here")
    assert first_group() == "here"
    monkeypatch.setenv("PYPI_OVERLAY_CONFIG", write("other.yaml", "environment"))
    assert first_group() == "environment"
    assert first_group("--config", write("third.yaml", "option")) == "option"
    monkeypatch.setenv("PYPI_OVERLAY_CONFIG", "")
    site.file.unlink()
    assert first_group() == "defaults"
    site.file.symlink_to("nothing.yaml")
    assert CliRunner().invoke(cli, ["namespace", "list"]).exit_code == 1
