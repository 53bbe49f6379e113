"""Why a name is answered as it is: the trail of a decision as data for commands, API and pages (contract 12)."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.access import Caller, Sight
from proxy.domain.decide import Asked, Decision, PackageOrigin, Step, Word
from proxy.domain.names import parse_name
from proxy.domain.namespaces import Namespace
from proxy.domain.policy import Origin
from proxy.domain.screen import Screened
from proxy.domain.versions import parse_version
from proxy.errors import InvalidVersion
from proxy.index.answers import ATTEMPTS, Index, never_still

STEPS = ("namespace", "access", "name", "private", "claimed", "forward", "allow", "upstream", "files")


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and all of it in the shape `explain` of contract 12."""

    decision: Decision
    shape: dict[str, object]


async def explain(
    index: Index,
    namespace: Namespace,
    raw_name: str,
    caller: Caller,
    sight: Sight,
    *,
    version: str | None = None,
    filename: str | None = None,
) -> Explanation:
    """Decide `raw_name` at `namespace` as `caller` would be answered, upstreams included, and say why.

    Args:
        namespace: an index that `sight` may ask.
        version, filename: show only files of this version, or this file.

    Raises:
        InvalidName: `raw_name` is no name.
    """
    name = parse_name(raw_name)
    decision, screened = await _held(index, Asked(namespace, name, sight))
    before = (
        Step("namespace", "pass", f"{namespace.title} is a {namespace.kind}"),
        Step("access", "pass", f"{caller.label} may ask {namespace.title}"),
        Step("name", "pass", f"{raw_name} is {name}" if raw_name != name else f"{name} is in normal form"),
    )
    files = _files(decision, screened, version, filename)
    trail = [*before, *decision.trail]
    if decision.word is Word.UPSTREAM:
        withheld = len(screened.withheld)
        trail.append(Step("files", "stop", f"{len(screened.page.files)} served, {withheld} withheld"))
    reached = {step.step for step in trail}
    trail += [Step(step, "skip", "not reached") for step in STEPS if step not in reached]
    trail.sort(key=lambda step: STEPS.index(step.step))
    shape: dict[str, object] = {
        "index": namespace.title,
        "name": name,
        "caller": caller.label,
        "decision": str(decision.word),
        "rule": decision.rule,
        "reason": decision.reason,
        "upstream": decision.upstream,
        "tenant": None if decision.tenant is None else decision.tenant or "/",
        "trail": [_step(step) for step in trail],
        "files": files,
    }
    return Explanation(decision, shape)


async def _held(index: Index, asked: Asked) -> tuple[Decision, Screened]:
    """A decision and the page that it leads to, both of one moment."""
    for _ in range(ATTEMPTS):
        answer = await index.page(asked)
        screened = await answer.screened()
        if index.holds(answer):
            return answer.decision, screened
    raise never_still(asked.name)


def _step(step: Step) -> dict[str, object]:
    match step.origin:
        case Origin(file, line, path):
            origin: dict[str, object] | None = {"file": file, "line": line, "path": path}
        case PackageOrigin(package, project):
            origin = {"package": package, "project": project or "/"}
        case None:
            origin = None
    return {"step": step.step, "outcome": step.outcome, "because": step.because, "origin": origin}


def _files(
    decision: Decision, screened: Screened, version: str | None, filename: str | None
) -> list[dict[str, object]]:
    source = _source(decision)
    shown: list[dict[str, object]] = [
        {
            "filename": file.filename,
            "version": file.version,
            "source": source,
            "served": True,
            "rule": None,
            "reason": None,
            "until": None,
        }
        for file in screened.page.files
    ]
    shown += [
        {
            "filename": file.filename,
            "version": file.version,
            "source": source,
            "served": False,
            "rule": file.rule,
            "reason": file.reason,
            "until": None,
        }
        for file in screened.withheld
    ]
    return [file for file in shown if _is_wanted(file, version, filename)]


def _source(decision: Decision) -> str:
    if decision.word is Word.PRIVATE:
        return ", ".join(decision.projects)
    return decision.upstream or ""


def _is_wanted(file: dict[str, object], version: str | None, filename: str | None) -> bool:
    if filename is not None and file["filename"] != filename:
        return False
    if version is None:
        return True
    try:
        return parse_version(str(file["version"])) == parse_version(version)
    except InvalidVersion:
        return file["version"] == version
