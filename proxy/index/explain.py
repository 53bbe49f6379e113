"""Why a name is answered as it is: the trail of a decision as data for commands, API and pages (contract 12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.domain.access import Caller, Sight
from proxy.domain.decision import Asked, Decision, PackageOrigin, Step, Word
from proxy.domain.moments import iso
from proxy.domain.names import parse_name
from proxy.domain.namespaces import Namespace
from proxy.domain.pages import FileRecord, Status
from proxy.domain.policy import Origin
from proxy.domain.screen import Screened, Withheld
from proxy.domain.versions import known_version
from proxy.index.answers import ATTEMPTS, Index, never_still
from proxy.registry.packages import StoredFile

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
    asked = Asked(namespace, name, sight)
    decision, screened = await _of_one_moment(index, asked)
    before = (
        Step("namespace", "pass", f"{namespace.title} is a {namespace.kind}"),
        Step("access", "pass", f"{caller.label} may ask {namespace.title}"),
        Step("name", "pass", f"{raw_name} is {name}" if raw_name != name else f"{name} is in normal form"),
    )
    wanted = _Wanted(version, filename)
    files = await _files(index, asked, decision, screened, wanted)
    trail = [*before, *decision.trail]
    if decision.word in {Word.UPSTREAM, Word.MERGED}:
        trail += _screening(screened)
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


async def _of_one_moment(index: Index, asked: Asked) -> tuple[Decision, Screened]:
    """A decision and the page that it leads to."""
    for _ in range(ATTEMPTS):
        answer = await index.page(asked)
        screened = await answer.screened()
        if index.holds(answer):
            return answer.decision, screened
    raise never_still(asked.name)


def _screening(screened: Screened) -> Iterator[Step]:
    """What came of the files: a step for each rule that withholds some, or would, and where that rule stands."""
    status = screened.page.status
    if status.status is Status.QUARANTINED:
        because = f"{screened.page.name} is quarantined upstream"
        yield Step("files", "pass", f"{because}: {status.reason}" if status.reason else because)
    for found, does in ((screened.withheld, "withholds"), (screened.warned, "only warns of")):
        for (rule, origin), files in Counter((file.rule, file.origin) for file in found).items():
            what = "1 file" if files == 1 else f"{files} files"
            yield Step("files", "pass", f"{rule} {does} {what}", origin)
    yield Step("files", "stop", _counted(screened))


def _counted(screened: Screened) -> str:
    served = sum(1 for _ in _served(screened))
    counted = f"{served} served, {len(screened.withheld)} withheld"
    return f"{counted}, {len(screened.warned)} served only with a warning" if screened.warned else counted


def _served(screened: Screened) -> Iterator[FileRecord]:
    """The files of a page but those that are only marked."""
    listed = {(file.filename, file.key) for file in screened.withheld if file.is_listed}
    for record in screened.page.files:
        if (record.filename, record.key) not in listed and (record.filename, None) not in listed:
            yield record


def _step(step: Step) -> dict[str, object]:
    match step.origin:
        case Origin() as place:
            origin: dict[str, object] | None = place.shape
        case PackageOrigin(package, project):
            origin = {"package": package, "project": project or "/"}
        case None:
            origin = None
    return {"step": step.step, "outcome": step.outcome, "because": step.because, "origin": origin}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which files are asked for: those of a version in any spelling, or with a filename; None: all."""

    version: str | None
    filename: str | None

    def covers(self, version: str | None, filename: str) -> bool:
        if self.filename is not None and filename != self.filename:
            return False
        if self.version is None:
            return True
        wanted, found = known_version(self.version), known_version(version)
        return version == self.version if wanted is None or found is None else wanted == found


async def _files(
    index: Index, asked: Asked, decision: Decision, screened: Screened, wanted: _Wanted
) -> list[dict[str, object]]:
    """The files that are served, those that only a warning is told of among them, then the withheld ones."""
    upstream = decision.upstream or ", ".join(decision.ask)
    warned = {(file.filename, file.key): file for file in screened.warned}
    shown = []
    for record in _served(screened):
        if wanted.covers(record.version, record.filename):
            source = upstream if record.url else await _project(index, asked, decision, record)
            warning = warned.get((record.filename, record.key)) or warned.get((record.filename, None))
            shown.append(_file(record.filename, record.version, source, warning, served=True))
    shown += [
        _file(file.filename, file.version, file.source or upstream, file, served=False)
        for file in screened.withheld
        if wanted.covers(file.version, file.filename)
    ]
    return shown


async def _project(index: Index, asked: Asked, decision: Decision, record: FileRecord) -> str:
    """The project that publishes a private file."""
    if len(decision.projects) > 1:
        found = (await index.file_of(asked, record.key, record.filename)).source
        if isinstance(found, StoredFile):
            return found.project
    return ", ".join(decision.projects)


def _file(
    filename: str, version: str | None, source: str, rule: Withheld | None, *, served: bool
) -> dict[str, object]:
    return {
        "filename": filename,
        "version": version,
        "source": source,
        "served": served,
        "rule": None if rule is None else rule.rule,
        "reason": None if rule is None else rule.reason,
        "until": None if rule is None else iso(rule.until),
    }
