"""One line for each workload: what was measured beside what, and whether the target is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

COLUMNS = ("workload", "ours", "beside", "measured", "target", "met?", "CPU µs")


@dataclass(frozen=True, slots=True)
class Row:
    """A workload measured.

    ours, reference: medians, in `unit`; against: what the reference is, empty where there is none. measured: what
    the target is about, None where there was nothing to compare with. at_least: the target is a lower bound.
    errors: answers that were wrong or missing, ours. runs: every single measurement, ours and reference. work:
    microseconds that the server computed for an answer, ours and nginx's: others on the machine hardly touch these.
    busy: the largest part of the time that the load generator computed while nginx answered. disturbed: runs in
    which other programs had the cores for much of the time, so that only `work` says something.
    """

    name: str
    workload: str
    unit: str
    ours: float
    target: float
    at_least: bool = False
    measured: float | None = None
    measured_unit: str = "×"
    reference: float | None = None
    against: str = ""
    errors: int = 0
    runs: Sequence[tuple[float, float | None]] = field(default_factory=tuple)
    work: tuple[float, float | None] | None = None
    busy: float | None = None
    disturbed: int = 0

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met without an error; None where nothing could be compared."""
        if self.measured is None:
            return None
        reached = self.measured >= self.target if self.at_least else self.measured <= self.target
        return reached and not self.errors

    def as_json(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {**asdict(self), "met": self.is_met}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """A row as `as_json` gave it, read back from a file."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in said.items() if name in known})


def table(rows: Sequence[Row], before: Mapping[str, Row] | None = None) -> str:
    """Rows as a Markdown table; `before`: those of an earlier run by name, for a last column."""
    columns = (*COLUMNS, "before") if before else COLUMNS
    lines = [columns, ("---",) * len(columns)]
    lines += [(*_cells(row), _as_before(before.get(row.name))) if before else _cells(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    reference = "—" if row.reference is None else f"{row.against} {_number(row.reference)}"
    measured = "—" if row.measured is None else _with_unit(row.measured, row.measured_unit)
    bound = "≥" if row.at_least else "≤"
    doubts = (f", {row.errors} errors" if row.errors else "") + (", disturbed" if row.disturbed else "")
    met = {True: "yes", False: "no", None: "?"}[row.is_met]
    target = f"{bound} {_with_unit(row.target, row.measured_unit)}"
    ours = f"{_number(row.ours)} {row.unit}".rstrip()
    return row.workload, ours, reference, measured, target.rstrip(), met + doubts, _work(row)


def _as_before(row: Row | None) -> str:
    """What was measured then, and the microseconds that the server computed."""
    if row is None or row.measured is None:
        return "—"
    work = "" if row.work is None else f", {_number(row.work[0])} µs"
    return _with_unit(row.measured, row.measured_unit) + work


def _work(row: Row) -> str:
    if row.work is None:
        return "—"
    ours, theirs = row.work
    return _number(ours) if theirs is None else f"{_number(ours)} : {_number(theirs)}"


def _with_unit(value: float, unit: str) -> str:
    return _number(value) if unit == "×" else f"{_number(value)} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
