"""Clients that publish: each from the home of one person, in which a project has been built."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from tests.clients.talking import Done
from tests.support.clients import Client
from tests.support.toolbox import make_venv, tool
from tests.support.wheels import write_sdist, write_wheel

PROJECT = """\
[project]
name = "{name}"
version = "{version}"
description = "made for a test"
requires-python = ">=3.11"
"""
FLIT = """
[build-system]
requires = ["flit_core"]
build-backend = "flit_core.buildapi"
"""
PYPIRC = """\
[distutils]
index-servers = ours

[ours]
repository = {url}
username = {user}
password = {password}
"""


class Publisher(ABC):
    """One client. `publish` checks nothing; the files that it sends lie in `dist`."""

    skip_existing: ClassVar[tuple[str, ...]] = ()
    """The option by which it passes over what is there already, if it has one."""

    builds: ClassVar[bool] = False
    """Whether it insists on building what it publishes."""

    looks_first: ClassVar[bool] = False
    """Whether it asks what is there before it publishes, and passes over files of the same name."""

    def __init__(self, client: Client, name: str) -> None:
        """Take the person, and the name of the client in the toolbox."""
        self.client = client
        self.home = client.home
        self.programs = tool(name) / "bin"
        self.dist = self.home / "dist"

    def build(self, name: str, version: str, *, sdist: bool = False, text: str = "as it was") -> None:
        """Build a project's wheel, and its sdist; the bytes are the same for the same text."""
        (self.home / "pyproject.toml").write_text(PROJECT.format(name=name, version=version))
        write_wheel(self.dist, name, version, description=text)
        if sdist:
            write_sdist(self.dist, name, version, description=text)

    def files(self) -> list[Path]:
        """Return the distributions that were built."""
        return sorted(path for path in self.dist.iterdir() if not path.name.startswith("."))

    @abstractmethod
    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        """Publish all that was built; without a user, with the credentials that it finds itself."""

    def log_in(self, url: str, user: str, password: str) -> None:
        """Give it credentials for an address in its own way, for `publish` without a user."""
        pypirc = PYPIRC.format(url=url, user=user, password=password)
        (self.home / ".pypirc").write_text(pypirc, encoding="utf-8")


class Twine(Publisher):
    """twine of any version."""

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        there = ["--repository-url", url]
        if user:
            there += ["--username", user, "--password", password]
        elif (self.home / ".pypirc").exists():
            there = ["--repository", "ours"]
        quiet = ("--non-interactive", "--disable-progress-bar")
        return self.client.run(self.programs / "twine", "upload", *quiet, *there, *options, *self.files())


class Uv(Publisher):
    """uv publish."""

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        login = ("--username", user, "--password", password) if user else ()
        how = ("--trusted-publishing", "never", "--publish-url", url, *login, *options)
        return self.client.run(self.programs / "uv", "publish", *how, *self.files())

    def log_in(self, url: str, user: str, password: str) -> None:
        self.client.env |= {"UV_PUBLISH_USERNAME": user, "UV_PUBLISH_PASSWORD": password}


class Poetry(Publisher):
    """poetry publish."""

    skip_existing = ("--skip-existing",)

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        self.client.env["POETRY_REPOSITORIES_OURS_URL"] = url
        login = ("--username", user, "--password", password) if user else ()
        how = ("--no-interaction", "--repository", "ours", *login, *options)
        return self.client.run(self.programs / "poetry", "publish", *how)

    def log_in(self, url: str, user: str, password: str) -> None:
        self.client.env |= {
            "POETRY_HTTP_BASIC_OURS_USERNAME": user,
            "POETRY_HTTP_BASIC_OURS_PASSWORD": password,
        }


class Pdm(Publisher):
    """pdm publish."""

    skip_existing = ("--skip-existing",)

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        python = self.home / ".venv" / "bin" / "python"
        if not python.exists():
            make_venv(python.parents[1])
        self.client.env |= {"PDM_PYTHON": str(python), "PDM_CHECK_UPDATE": "false"}
        login = ("--username", user, "--password", password) if user else ()
        repository = "ours" if self.client.env.get("PDM_CONFIG_FILE") else url
        how = ("--no-build", "--repository", repository, *login, *options)
        return self.client.run(self.programs / "pdm", "publish", *how)

    def log_in(self, url: str, user: str, password: str) -> None:
        config = self.home / "pdm.toml"
        values = {"url": url, "username": user, "password": password}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        config.write_text("\n".join(["[repository.ours]", *lines]) + "\n", encoding="utf-8")
        self.client.env["PDM_CONFIG_FILE"] = str(config)


class Hatch(Publisher):
    """hatch publish, which looks at `+simple` first."""

    looks_first = True

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        login = ("--user", user, "--auth", password) if user else ()
        how = ("--no-prompt", "--repo", url, *login, *options)
        return self.client.run(self.programs / "hatch", "publish", *how)


class Flit(Publisher):
    """flit publish, which builds a project itself."""

    builds = True

    def build(self, name: str, version: str, *, sdist: bool = False, text: str = "as it was") -> None:
        module = name.replace("-", "_")
        described = PROJECT.format(name=module, version=version) + FLIT
        (self.home / "pyproject.toml").write_text(described, encoding="utf-8")
        (self.home / f"{module}.py").write_text(f'"""A module, {text}."""\n', encoding="utf-8")
        self._format = () if sdist else ("--format", "wheel")

    def publish(self, url: str, user: str = "", password: str = "", *options: str) -> Done:
        self.client.env["SOURCE_DATE_EPOCH"] = "1700000000"  # else two builds differ
        there: tuple[str, ...] = ("--repository", "ours")
        if user:
            there = ()
            self.client.env |= {"FLIT_INDEX_URL": url, "FLIT_USERNAME": user, "FLIT_PASSWORD": password}
        how = ("--no-use-vcs", *self._format, *there, *options)
        return self.client.run(self.programs / "flit", "publish", *how)


KINDS: Mapping[str, type[Publisher]] = MappingProxyType(
    {
        "uv": Uv,
        "poetry": Poetry,
        "pdm": Pdm,
        "hatch": Hatch,
        "flit": Flit,
        "twine 6": Twine,
        "twine 7": Twine,
    }
)


def publisher(client: Client, name: str) -> Publisher:
    """Return a client that publishes, in somebody's hands."""
    return KINDS[name](client, name)
