"""The unit of `deploy/systemd`: systemd understands it, and it fits what the server does."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from proxy.cli.main import cli
from proxy.server.start import GRACE
from proxy.server.worker import LATE_GRACE
from tests.support.server import ROOT

UNIT = ROOT / "deploy" / "systemd" / "pypi-overlay.service"
PROGRAM = "/usr/local/lib/pypi-overlay/bin/pypi-overlay"


@pytest.fixture
def service() -> configparser.SectionProxy:
    """Give what the unit says of its service."""
    read = configparser.RawConfigParser()
    read.optionxform = str  # type: ignore[assignment, method-assign]  # as configparser's documentation has it
    read.read(UNIT)
    return read["Service"]


def test_systemd_has_nothing_to_say_against_it(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text(encoding="utf-8")
    assert PROGRAM in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_it_starts_the_server_with_options_that_there_are(service: configparser.SectionProxy) -> None:
    program, command, *arguments = service["ExecStart"].split()
    assert program == PROGRAM
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    found.make_context(command, arguments)


def test_it_waits_for_as_long_as_the_server_takes_to_end(service: configparser.SectionProxy) -> None:
    assert float(service["TimeoutStopSec"]) > GRACE + LATE_GRACE


def test_the_readme_installs_what_the_unit_starts(service: configparser.SectionProxy) -> None:
    told = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    config = service["ExecStart"].split()[-1]
    for path in (PROGRAM, config, os.path.dirname(config), service["WorkingDirectory"]):  # noqa: PTH120  # paths of another machine
        assert re.search(rf"{re.escape(path)}[\s`]", told), path
