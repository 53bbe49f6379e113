"""A configuration and a data directory, and the program run on them in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import Connection, select

from proxy.cli.main import cli
from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.domain.namespaces import NamespacePath
from proxy.index.instance import Instance
from proxy.registry import packages
from proxy.server.assembly import close_instance, open_instance
from proxy.storage.tables import audit
from tests.registry.making import new_file

T = TypeVar("T")

CONFIG: dict[str, Any] = {
    "users": {"alice": {}, "bob": {}},
    "upstreams": {"pypi": None},
    "policy": {"upstreams": []},
    "groups": {
        "acme": {
            "id": 1,
            "members": {"alice": "maintainer"},
            "policy": {"reserve": ["acme-*", "gadgets"]},
            "projects": {"widgets": {"id": 42}, "sandbox": {}},
        },
        "globex": {"visibility": "public", "projects": {"things": {}}},
    },
}


class Site:
    """One configuration file with one data directory."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.file = directory / "pypi-overlay.yaml"
        self.configure(CONFIG)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration file."""
        text = yaml.safe_dump({**config, "storage": {"data_dir": str(self.data_dir)}}, sort_keys=False)
        self.file.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> Result:
        """Run the program; there is no terminal."""
        return CliRunner().invoke(cli, [*arguments, "--config", str(self.file)], catch_exceptions=False)

    def json(self, *arguments: str) -> Any:
        """Run the program with `--json` and return what it printed; it must succeed."""
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """As `json`, of a list."""
        found = self.json(*arguments)
        assert found["next"] is None
        items: list[dict[str, Any]] = found["items"]
        return items

    def refused(self, *arguments: str, status: int = 1) -> str:
        """Run the program, which must end with this status and print nothing; return the first line it said."""
        done = self.run(*arguments)
        assert (done.exit_code, done.stdout) == (status, ""), done.output
        return done.stderr.splitlines()[0]

    def work(self, act: Callable[[Instance], T]) -> T:
        """Do something with the instance that the commands work on."""
        instance = open_instance(compile_snapshot(load(str(self.file), {})))

        async def close() -> None:
            await close_instance(instance)

        try:
            return act(instance)
        finally:
            asyncio.run(close())

    def publish(self, project: str, *filenames: str) -> None:
        """Publish files that consist of nothing but their rows."""

        def act(instance: Instance) -> None:
            for filename in filenames:
                new = new_file(filename)
                instance.registry.change_now(
                    lambda change, new=new: packages.insert_file(change, NamespacePath(project), new)  # type: ignore[misc]  # a loop variable bound early
                )

        self.work(act)

    def audited(self) -> list[tuple[str, str | None, str | None, str | None]]:
        """Return action, kind of caller, namespace and name of every event."""

        def query(connection: Connection) -> list[tuple[str, str | None, str | None, str | None]]:
            rows = connection.execute(
                select(audit.c.action, audit.c.who_kind, audit.c.namespace, audit.c.name).order_by(audit.c.id)
            )
            return [(row.action, row.who_kind, row.namespace, row.name) for row in rows]

        return self.work(lambda instance: instance.registry.read_now(query))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYPI_OVERLAY_CONFIG", raising=False)
    return Site(tmp_path)
