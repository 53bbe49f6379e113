"""Registries to test with: a snapshot from a mapping, a clock that is set by hand, files made of thin air."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from proxy.config.compile import compile_snapshot
from proxy.config.load import load_bytes
from proxy.domain.filenames import parse_distribution
from proxy.domain.names import Name, parse_name
from proxy.domain.namespaces import NamespacePath, Tree
from proxy.domain.snapshot import Snapshot
from proxy.domain.versions import version_key
from proxy.registry import packages
from proxy.registry.packages import NewFile
from proxy.storage.database import Database

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FILE = "pypi-overlay.yaml"

CONFIG: dict[str, Any] = {
    "users": {"alice": {}, "bob": {}},
    "projects": {"default": {}},
    "groups": {
        "acme": {
            "members": {"alice": "maintainer"},
            "projects": {"widgets": {}, "sandbox": {"members": {"bob": "developer"}}},
            "groups": {"platform": {"projects": {"core": {}}}},
        },
        "globex": {"projects": {"widgets": {}}},
    },
}
WIDGETS = NamespacePath("acme/widgets")
SANDBOX = NamespacePath("acme/sandbox")
GLOBEX = NamespacePath("globex/widgets")
DEFAULT = NamespacePath("default")


class Clock:
    """Tells the time it was set to."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


def text_of(config: Mapping[str, Any], directory: Path | None = None) -> str:
    """The configuration file of `snapshot_of`."""
    storage = {} if directory is None else {"storage": {"data_dir": str(directory)}}
    return yaml.safe_dump({**config, **storage}, sort_keys=False)


def snapshot_of(config: Mapping[str, Any], directory: Path | None = None) -> Snapshot:
    """Load and compile a configuration, as `serve` does; data lies in `directory`."""
    return compile_snapshot(load_bytes(text_of(config, directory).encode(), FILE, {}))


def tree_of(config: Mapping[str, Any]) -> Tree:
    return snapshot_of(config).tree


def new_file(
    filename: str,
    *,
    at: datetime = NOW,
    content: str | None = None,
    metadata: str | None = None,
    by: str = "alice",
    size: int = 1000,
    **other: Any,
) -> NewFile:
    """What an upload of `filename` adds; name, version and identity are the filename's own."""
    name = other.pop("name", None)
    found = parse_distribution(filename, None if name is None else parse_name(name))
    return NewFile(
        name=found.name,
        display_name=str(other.pop("display_name", found.name)),
        version=str(found.version),
        version_key=version_key(found.version),
        filename=filename,
        identity=found.identity,
        kind=str(found.kind),
        sha256=digest(content or filename),
        blake2b=digest(filename),
        size=size,
        metadata_sha256=digest(metadata or f"metadata of {filename}"),
        metadata_final=bool(other.pop("final", True)),
        requires_python=other.pop("requires_python", None),
        summary=None,
        uploaded_at=at,
        uploaded_by={"kind": "user", "id": 1, "user": by},
        **other,
    )


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wheel(name: str, version: str, tags: str = "py3-none-any") -> str:
    return f"{name}-{version}-{tags}.whl"


def publish(registry: Database, project: NamespacePath, filename: str, **about: Any) -> NewFile:
    """Add a file in a transaction of its own."""
    new = new_file(filename, **about)
    registry.change_now(lambda change: packages.insert_file(change, project, new))
    return new


def remove(
    registry: Database,
    project: NamespacePath,
    name: str,
    version: str | None = None,
    filename: str | None = None,
) -> packages.Removed:
    """Delete files in a transaction of its own; `version` is a version's key."""
    return registry.change_now(
        lambda change: packages.delete_files(change, project, Name(name), version, filename)
    )
