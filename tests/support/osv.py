"""Advisories in the form of OSV, as published for PyPI: what its files hold, and directories of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HIGH = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N"
"""A vector of score 7.5."""


def osv_entry(
    id: str,  # noqa: A002 - as the form calls it
    name: str,
    *events: Mapping[str, str],
    versions: Sequence[str] = (),
    ecosystem: str = "PyPI",
    score: str | None = HIGH,
    **more: Any,
) -> dict[str, Any]:
    """Return an advisory with one affected package.

    Args:
        events: of one range of type ECOSYSTEM.
        score: a CVSS 3 vector; None: it is not rated.
        more: keys that are to be besides those of every published advisory, or in their place.
    """
    ranges: list[dict[str, Any]] = [
        {"type": "GIT", "repo": "https://git.example/x", "events": [{"introduced": "0"}]}
    ]
    if events:
        ranges.append({"type": "ECOSYSTEM", "events": list(events)})
    return {
        "id": id,
        "summary": f"Something in {name}",
        "details": "Some\n\nMarkdown",
        "aliases": [],
        "modified": "2026-10-01T00:00:00.000000Z",
        "published": "2026-09-01T00:00:00Z",
        "database_specific": {"cwe_ids": ["CWE-200"], "github_reviewed": True, "nvd_published_at": None},
        "references": [{"type": "ADVISORY", "url": f"https://advisories.example/{id}"}],
        "affected": [
            {
                "package": {"name": name, "ecosystem": ecosystem, "purl": f"pkg:pypi/{name}"},
                "ranges": ranges,
                "versions": list(versions),
                "database_specific": {"source": f"https://advisories.example/{id}.json"},
            }
        ],
        "schema_version": "1.7.3",
        **({} if score is None else {"severity": [{"type": "CVSS_V3", "score": score}]}),
        **more,
    }


def osv_zip(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a zip of advisories, whole before it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.writestr(f"{entry['id']}.json", json.dumps(entry))
    aside.replace(path)
