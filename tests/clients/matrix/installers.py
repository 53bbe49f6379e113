"""Clients that install: each installs into, and resolves in, the home of one person."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from tests.clients.talking import Done
from tests.support.clients import Client, installed
from tests.support.toolbox import make_venv, tool

PROJECT = """\
[project]
name = "thing"
version = "1.0"
requires-python = ">=3.11"
dependencies = {dependencies}
"""


class Installer(ABC):
    """One client. An index is given as an address; no method checks whether the client ended well."""

    fetches_what_it_resolved: ClassVar[bool] = False
    """Whether even a dry run ends by downloading what would be installed."""

    def __init__(self, client: Client, name: str) -> None:
        """Take the person, and the name of the client in the toolbox."""
        self.client = client
        self.home = client.home
        self.programs = tool(name) / "bin"

    @abstractmethod
    def install(self, index: str, *names: str) -> Done:
        """Resolve and install."""

    @abstractmethod
    def resolve(self, index: str, *names: str) -> Done:
        """Resolve alone."""

    @abstractmethod
    def resolved(self) -> set[str]:
        """Return what the last `resolve` chose, as `name-version`."""

    def installed(self) -> set[str]:
        """Return what is installed, as `name-version` in the filename spelling."""
        return installed(self.home / "site")

    def log_in(self, index: str, user: str, password: str) -> str:
        """Give it credentials in its own way; return the address of the index to use then."""
        raise NotImplementedError

    def _locked(self, lock: str) -> set[str]:
        packages = tomllib.loads((self.home / lock).read_text(encoding="utf-8"))["package"]
        return {f"{package['name']}-{package['version']}" for package in packages} - {"thing-1.0"}

    def _project(self, names: tuple[str, ...], rest: str = "") -> None:
        text = PROJECT.format(dependencies=json.dumps(names)) + rest
        (self.home / "pyproject.toml").write_text(text, encoding="utf-8")

    def _in_venv(self) -> Path:
        """Return the packages of the environment beside the project, which is made if need be."""
        if not (self.home / ".venv").exists():
            make_venv(self.home / ".venv")
        return next((self.home / ".venv" / "lib").glob("python*/site-packages"))


class Pip(Installer):
    """pip of any version."""

    def install(self, index: str, *names: str) -> Done:
        return self.install_anew("--index-url", index, *names)

    def resolve(self, index: str, *names: str) -> Done:
        report = ("--dry-run", "--ignore-installed", "--report", "report.json")
        return self._run("install", *report, "--target", "site", "--index-url", index, *names)

    def resolved(self) -> set[str]:
        report = json.loads((self.home / "report.json").read_text(encoding="utf-8"))
        chosen = [entry["metadata"] for entry in report["install"]]
        return {f"{metadata['name']}-{metadata['version']}" for metadata in chosen}

    def log_in(self, index: str, user: str, password: str) -> str:
        """Put a program `keyring` into the path, which is asked in two ways over the years."""
        program = self.home / "bin" / "keyring"
        program.parent.mkdir()
        both = json.dumps({"username": user, "password": password})
        program.write_text(f"#!/bin/sh\ncase $1 in --mode=creds) echo '{both}';; *) echo {password};; esac\n")
        program.chmod(0o755)
        path = f"{program.parent}:{self.client.env['PATH']}"
        self.client.env |= {"PATH": path, "PIP_KEYRING_PROVIDER": "subprocess"}
        return index.replace("://", f"://{user}@")

    def install_anew(self, *arguments: str) -> Done:
        """Install into an emptied directory: pip leaves there what an earlier release of a package had."""
        shutil.rmtree(self.home / "site", ignore_errors=True)
        return self._run("install", "--target", "site", *arguments)

    def _run(self, *arguments: str) -> Done:
        """Run pip; a warning of its own vendored code about this Python is no matter of the test."""
        return self.client.run(self.programs / "python", "-W", "ignore", "-m", "pip", *arguments)


class PipThatFetches(Pip):
    """pip before 26: a dry run resolves by metadata, and then downloads what it chose."""

    fetches_what_it_resolved = True


class PipTools(Pip):
    """pip-compile with hashes, and the pip beside it that installs by them."""

    def install(self, index: str, *names: str) -> Done:
        done = self.resolve(index, *names)
        if done.returncode:
            return done
        exactly = ("--require-hashes", "--requirement", "requirements.txt")
        return self.install_anew("--index-url", index, *exactly)

    def resolve(self, index: str, *names: str) -> Done:
        (self.home / "requirements.in").write_text("\n".join(names) + "\n")
        how = ("--generate-hashes", "--strip-extras", "--no-emit-index-url", "--index-url", index)
        where = ("--cache-dir", "pip-tools-cache", "--output-file", "requirements.txt", "requirements.in")
        return self.client.run(self.programs / "pip-compile", *how, *where)

    def resolved(self) -> set[str]:
        text = (self.home / "requirements.txt").read_text(encoding="utf-8")
        return {f"{name}-{version}" for name, version in re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE)}


class Uv(Installer):
    """uv."""

    def install(self, index: str, *names: str) -> Done:
        return self._run("pip", "install", "--target", "site", "--default-index", f"overlay={index}", *names)

    def resolve(self, index: str, *names: str) -> Done:
        self._project(names)
        return self._run("lock", "--default-index", f"overlay={index}")

    def resolved(self) -> set[str]:
        return self._locked("uv.lock")

    def log_in(self, index: str, user: str, password: str) -> str:
        self.client.env |= {"UV_INDEX_OVERLAY_USERNAME": user, "UV_INDEX_OVERLAY_PASSWORD": password}
        return index

    def _run(self, *arguments: str) -> Done:
        return self.client.run(self.programs / "uv", *arguments)


class Poetry(Installer):
    """poetry."""

    def install(self, index: str, *names: str) -> Done:
        done = self.resolve(index, *names)
        return done if done.returncode else self._run("install", "--no-root")

    def resolve(self, index: str, *names: str) -> Done:
        source = f'[[tool.poetry.source]]\nname = "overlay"\nurl = "{index}"\npriority = "primary"\n'
        self._project(names, source)
        self._in_venv()
        return self._run("lock")

    def resolved(self) -> set[str]:
        return self._locked("poetry.lock")

    def installed(self) -> set[str]:
        return installed(self._in_venv())

    def log_in(self, index: str, user: str, password: str) -> str:
        login = {"POETRY_HTTP_BASIC_OVERLAY_USERNAME": user, "POETRY_HTTP_BASIC_OVERLAY_PASSWORD": password}
        self.client.env |= login
        return index

    def search(self, index: str, word: str) -> Done:
        """Look for a word in the names of an index."""
        self._project(
            (), f'[[tool.poetry.source]]\nname = "overlay"\nurl = "{index}"\npriority = "primary"\n'
        )
        return self._run("search", word)

    def _run(self, *arguments: str) -> Done:
        self.client.env["POETRY_VIRTUALENVS_IN_PROJECT"] = "true"
        return self.client.run(self.programs / "poetry", "--no-interaction", *arguments)


class Pdm(Installer):
    """pdm."""

    def install(self, index: str, *names: str) -> Done:
        done = self.resolve(index, *names)
        return done if done.returncode else self._run("sync", "--no-self")

    def resolve(self, index: str, *names: str) -> Done:
        self._project(names, f'[[tool.pdm.source]]\nname = "pypi"\nurl = "{index}"\nverify_ssl = false\n')
        self._in_venv()
        return self._run("lock")

    def resolved(self) -> set[str]:
        return self._locked("pdm.lock")

    def installed(self) -> set[str]:
        return installed(self._in_venv())

    def log_in(self, index: str, user: str, password: str) -> str:
        self.client.env |= {"PDM_PYPI_USERNAME": user, "PDM_PYPI_PASSWORD": password}
        return index

    def _run(self, *arguments: str) -> Done:
        # Told of no interpreter, it might take one of this machine's and install into that.
        own = {"PDM_PYTHON": str(self.home / ".venv" / "bin" / "python"), "PDM_CHECK_UPDATE": "false"}
        self.client.env |= own
        return self.client.run(self.programs / "pdm", *arguments)


KINDS: Mapping[str, type[Installer]] = MappingProxyType(
    {
        "pip 20.3": Pip,
        "pip 23.3": PipThatFetches,
        "pip 26.3": Pip,
        "uv": Uv,
        "poetry": Poetry,
        "pdm": Pdm,
        "pip-tools": PipTools,
    }
)


def installer(client: Client, name: str) -> Installer:
    """Return a client that installs, in somebody's hands."""
    return KINDS[name](client, name)
