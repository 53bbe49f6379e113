"""A name that is in `merge`: private files, joined by what an upstream's page has beside them (contract 4.3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from proxy.domain.decision import FileRules
from proxy.domain.pages import FileRecord, Page, overlay, shadowed
from proxy.domain.screen import Circumstances, Screened, Withheld, screen


@dataclass(frozen=True, slots=True)
class Ours:
    """What is private of a merged name.

    Attributes:
        screened: the files that this caller is shown at this index.
        taken: the versions of these files and of all others of the tenant, as `versions.public_key` has them.
    """

    screened: Screened
    taken: frozenset[str]


def merge(
    ours: Ours, page: Page, upstream: str, rules: FileRules, circumstances: Circumstances, now: datetime
) -> Screened:
    """`ours` and what `rules` leave of `page`, as one page.

    Whatever a private file shadows is withheld under the rule `merge`, in words that tell of no project: there may
    be one that this caller cannot read.

    Args:
        upstream: whose page it is.
        now: as `screen` has it.
    """
    private = ours.screened
    filenames = {file.filename for file in private.page.files}
    filenames |= {file.filename for file in private.withheld}
    left, dropped = shadowed(page, filenames, ours.taken)
    kept = Page(page.name, tuple(file.record for file in circumstances.held))
    # Of a quarantined project a held file may stand on the page too.
    dropped = tuple(dict.fromkeys((*dropped, *shadowed(kept, filenames, ours.taken)[1])))
    circumstances = _without(circumstances, {file.key for file in dropped})
    screened = screen(left, rules, circumstances, now)
    return Screened(
        overlay(private.page, screened.page),
        (*private.withheld, *screened.withheld, *(_shadow(file, page, upstream) for file in dropped)),
        screened.warned,
        screened.good_until,
    )


def _without(circumstances: Circumstances, keys: Collection[str]) -> Circumstances:
    if not circumstances.held or not keys:
        return circumstances
    held = tuple(file for file in circumstances.held if file.record.key not in keys)
    return replace(circumstances, held=held)


def _shadow(file: FileRecord, page: Page, upstream: str) -> Withheld:
    what = file.filename if file.version is None else f"{page.name} {file.version}"
    reason = f"{what} of {upstream} is not served beside the private files that have its version or filename"
    return Withheld(file.filename, file.version, "merge", reason, key=file.key)
