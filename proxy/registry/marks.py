"""What people say of what is published: yanked releases and the status of a package, each with its audit.

A mark takes effect with the next request and deletes nothing. The rows are written by `registry.packages`.
"""

from __future__ import annotations

from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import ProjectStatus, Status
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidInput
from proxy.registry import packages
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change

MAX_REASON = 1000
"""Characters of a reason: it stands on every page of the package."""


def yank(
    change: Change, project: NamespacePath, name: Name, version: str, reason: str | None, by: By
) -> str | bool:
    """Yank a release (PEP 592): resolvers leave it out unless it is asked for exactly; its files stay served.

    Args:
        version: in any spelling of PEP 440.
        reason: shown to people; one line. None or empty: none.

    Returns:
        What pages say of it: the reason as it is kept, or True.

    Raises:
        InvalidInput: `version` is none, or the reason no such line.
        NoSuchName, NoSuchFile: there is no such release.
    """
    said = _one_line(reason)
    packages.yank(change, project, name, version_key(parse_version(version)), said)
    audit.record(
        change.connection,
        by,
        "package.yank",
        namespace=project,
        name=name,
        version=version,
        detail={"reason": said},
    )
    return said or True


def unyank(change: Change, project: NamespacePath, name: Name, version: str, by: By) -> None:
    """Undo `yank`; a release that is not yanked stays as it is.

    Raises:
        InvalidVersion: `version` is none.
        NoSuchName, NoSuchFile: there is no such release.
    """
    packages.unyank(change, project, name, version_key(parse_version(version)))
    audit.record(change.connection, by, "package.unyank", namespace=project, name=name, version=version)


def set_status(
    change: Change, project: NamespacePath, name: Name, status: str, reason: str | None, by: By
) -> ProjectStatus:
    """Set the status of a package in one project (PEP 792).

    `archived` and `quarantined` packages take no files; those of a quarantined one are neither listed nor
    served, and its name stays claimed, so nothing public takes their place.

    Args:
        reason: as `yank` takes it.

    Returns:
        What pages say of it.

    Raises:
        InvalidInput: there is no such status, or the reason is no such line.
        NoSuchName: the project has no files of this name.
    """
    if status not in list(Status):
        raise InvalidInput(f"{status[:80]!a} is no status of a package", hint=f"one of {', '.join(Status)}")
    said = _one_line(reason)
    packages.set_status(change, project, name, Status(status), said)
    detail = {"status": status, "reason": said}
    audit.record(change.connection, by, "package.status", namespace=project, name=name, detail=detail)
    return ProjectStatus(Status(status), said)


def _one_line(reason: str | None) -> str | None:
    """A reason as it is kept: without white space around it; None where nothing is left.

    Raises:
        InvalidInput: it is too long, or holds line breaks or other control characters.
    """
    said = (reason or "").strip()
    if len(said) > MAX_REASON or not said.isprintable():
        raise InvalidInput("the reason is not valid", hint=f"one line of up to {MAX_REASON} characters")
    return said or None
