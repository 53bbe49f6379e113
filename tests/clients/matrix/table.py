"""The table of clients: which of them does what through us, and why a cell has no test.

A test belongs to a column: `@each("publish")` runs it with every client but those whose cell is named in
`NOT_APPLICABLE`. So each cell of the table is either run or explained; one that was forgotten stays empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pytest

from tests.support.toolbox import PINS

CLIENTS = tuple(PINS)
COLUMNS = (
    "install public",
    "install private",
    "resolve",  # without downloading what is resolved
    "publish",
    "republish",
    "skip existing",
    "refused",  # and the person at the terminal is told why
    "netrc",
    "URL",  # credentials in it
    "own way",  # of the client, to be given credentials
)

PUBLISHING = ("publish", "republish", "skip existing", "refused")
INSTALLING = ("install public", "install private", "resolve")
OWN_SETTINGS_ALONE = "publishes with its own settings alone; it reads neither netrc nor the address for them"

NOT_APPLICABLE: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        **{
            (client, column): "does not publish"
            for client in ("pip 20.3", "pip 23.3", "pip 26.3", "pip-tools")
            for column in PUBLISHING
        },
        **{
            (client, column): "installs nothing from an index itself"
            for client in ("flit", "twine 6", "twine 7")
            for column in INSTALLING
        },
        **{
            ("hatch", column): "installs into its environments with pip or uv, which have rows of their own"
            for column in INSTALLING
        },
        ("pip 20.3", "resolve"): "knows no metadata files and has no dry run: it resolves with whole wheels",
        ("pip 20.3", "own way"): "asks a keyring only by a library in its own environment",
        ("pip-tools", "own way"): "has pip's",
        ("twine 6", "netrc"): "asks for a user name before it looks there",
        ("twine 7", "netrc"): "asks for a user name before it looks there",
        ("hatch", "netrc"): OWN_SETTINGS_ALONE,
        ("hatch", "URL"): OWN_SETTINGS_ALONE,
        ("flit", "netrc"): OWN_SETTINGS_ALONE,
        ("flit", "URL"): OWN_SETTINGS_ALONE,
        ("twine 6", "skip existing"): "--skip-existing does not start unless the address is PyPI's",
        ("twine 7", "skip existing"): "--skip-existing does not start unless the address is PyPI's",
        ("flit", "skip existing"): "has no such option",
    }
)

CELL = "cell"
"""Key under which a test's report names its cell."""


def each(column: str, clients: Iterable[str] = CLIENTS) -> pytest.MarkDecorator:
    """Run a test with these clients, less those whose cell is not applicable; its argument is `name`."""
    assert column in COLUMNS
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(client, marks=pytest.mark.cell(client, column))
            for client in clients
            if (client, column) not in NOT_APPLICABLE
        ],
    )


def draw(outcomes: Mapping[tuple[str, str], Sequence[str]]) -> Iterable[str]:
    """Yield the lines of the table, in Markdown, from the outcomes of the tests of each cell.

    A cell is as good as its worst test: `FAILED` before `skipped` before `ok`; the number is that of its tests.
    One that is not applicable names its reason below the table; one whose tests were not run is empty.
    """
    reasons = list(dict.fromkeys(NOT_APPLICABLE.values()))
    yield _row("client", *COLUMNS)
    yield _row("---", *["---"] * len(COLUMNS))
    for client in CLIENTS:
        yield _row(client, *(_cell((client, column), outcomes, reasons) for column in COLUMNS))
    yield ""
    yield from (f"n/a {number}: {reason}" for number, reason in enumerate(reasons, start=1))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(
    cell: tuple[str, str], outcomes: Mapping[tuple[str, str], Sequence[str]], reasons: Sequence[str]
) -> str:
    if cell in NOT_APPLICABLE:
        return f"n/a {reasons.index(NOT_APPLICABLE[cell]) + 1}"
    seen = outcomes.get(cell, ())
    if not seen:
        return ""
    worst = next(word for word in ("failed", "error", "skipped", "passed") if word in seen)
    shown = {"failed": "FAILED", "error": "FAILED", "skipped": "skipped", "passed": "ok"}[worst]
    return f"{shown} {len(seen)}"
