"""Which files of an upstream page are served, and which are withheld by which rule (contract 4.7).

`Screened` is also what a page of private files comes as: a quarantined project withholds all of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.decide import FileRules
from proxy.domain.filenames import version_of
from proxy.domain.pages import Page, Status


@dataclass(frozen=True, slots=True)
class Withheld:
    """A file that its upstream or a project has and that is not served, with the rule and a sentence for people."""

    filename: str
    version: str | None
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class Screened:
    """A page as this index serves it, and what was left out of it."""

    page: Page
    withheld: tuple[Withheld, ...] = ()

    def withheld_file(self, filename: str) -> Withheld | None:
        """Why `filename` is withheld, or None. Of a quarantined project every file is, listed or not."""
        if self.page.status.status is Status.QUARANTINED:
            return _quarantined(self.page, filename)
        return next((file for file in self.withheld if file.filename == filename), None)


def screen(page: Page, rules: FileRules) -> Screened:
    """Apply `rules` to an upstream's page.

    A project that its upstream has quarantined offers no files at all (PEP 792), also none that were cached
    before. Pure; raises nothing.
    """
    del rules  # The rules about single files (age, type, specifiers) find their place here.
    if page.status.status is not Status.QUARANTINED:
        return Screened(page)
    withheld = tuple(_quarantined(page, file.filename) for file in page.files)
    return Screened(Page(page.name, (), page.versions, page.status), withheld)


def _quarantined(page: Page, filename: str) -> Withheld:
    reason = f"{page.name} is quarantined upstream"
    if page.status.reason:
        reason += f": {page.status.reason}"
    return Withheld(filename, version_of(filename, page.name), "quarantined", reason)
