"""Which files of an upstream page are served, and which are withheld by which rule (contract 4.7)."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.decide import FileRules
from proxy.domain.pages import Page, Status


@dataclass(frozen=True, slots=True)
class Withheld:
    """A file that is on the upstream's page and not served, with the rule and a sentence for people."""

    filename: str
    version: str | None
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Screened:
    """A page as this index serves it, and what was left out of it."""

    page: Page
    withheld: tuple[Withheld, ...] = ()


def screen(page: Page, rules: FileRules) -> Screened:
    """Apply `rules` to an upstream's page.

    A project that its upstream has quarantined offers no files at all (PEP 792), also none that were cached
    before. Pure; raises nothing.
    """
    del rules  # The rules about single files (age, type, specifiers) find their place here.
    if page.status.status is not Status.QUARANTINED:
        return Screened(page)
    reason = f"{page.name} is quarantined upstream"
    if page.status.reason:
        reason += f": {page.status.reason}"
    withheld = tuple(Withheld(file.filename, file.version, "quarantined", reason) for file in page.files)
    return Screened(Page(page.name, (), page.versions, page.status), withheld)
