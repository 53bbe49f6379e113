"""What commands print: tables for people, JSON for programs, errors, questions; and the exit status.

Results go to standard output, everything else to standard error. On a terminal tables are drawn by rich;
elsewhere they are plain text with aligned columns, whose values are never cut.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeAlias

import click

from proxy.cli.options import Invocation
from proxy.errors import OverlayError

FAILED = 1
"""Exit status of what was refused or failed; 2, for wrong usage, is click's own."""
INTERRUPTED = 130

Item: TypeAlias = Mapping[str, object]
Column: TypeAlias = str | Callable[[Item], object]
"""A key of the items, or what makes a cell of an item."""


def print_json(shape: object) -> None:
    """Print a shape of the contract."""
    # ASCII alone, so that no locale and no terminal can spoil it.
    click.echo(json.dumps(shape, indent=2))


def print_items(
    invocation: Invocation, items: Sequence[Item], columns: Mapping[str, Column], *, empty: str
) -> None:
    """Print a list: `{"items": …, "next": null}`, or a table.

    Args:
        columns: heading → what stands below it.
        empty: what to tell people where there are no items.
    """
    if invocation.json:
        print_json({"items": list(items), "next": None})
    elif not items:
        tell(empty)
    else:
        print_table(items, columns)


def print_table(items: Sequence[Item], columns: Mapping[str, Column]) -> None:
    """Print items as a table."""
    rows = [[_cell(item, column) for column in columns.values()] for item in items]
    if sys.stdout.isatty():
        _draw_table(list(columns), rows)
        return
    lines = [[heading.upper() for heading in columns], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one thing: a line for each of its fields."""
    width = max(map(len, fields))
    for heading, value in fields.items():
        click.echo(f"{heading.ljust(width)}  {shown(value)}")


def _draw_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _cell(item: Item, column: Column) -> str:
    return shown(column(item) if callable(column) else item[column])


def shown(value: object) -> str:
    """A value for people's eyes: nothing in it reaches the terminal as a control character."""
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(shown, value)) or "-"
        case _:
            return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value))


def size(number: object) -> str:
    """Bytes for people: `1.4 MiB`."""
    amount = float(str(number))
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def count(number: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def tell(text: str) -> None:
    """Say something that is not the result."""
    click.echo(text, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Return if it may be done; asks at the terminal unless `yes`.

    Raises:
        UsageError: of click; there is neither a terminal nor `--yes`.
        Exit: of click; the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask at: add --yes to do it.")
    if not click.confirm(question, err=True):
        tell("nothing was changed")
        raise click.exceptions.Exit(FAILED)


def fail(error: OverlayError, *, as_json: bool) -> int:
    """Say what could not be done; returns the exit status."""
    _print_error(error.message, error.hint, as_json=as_json)
    return FAILED


def fail_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Say what was wrong with the arguments; returns the exit status."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not as_json:
        error.show()
        return error.exit_code
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = "a command is missing" if isinstance(error, click.exceptions.NoArgsIsHelpError) else ""
    hint = f"{context.command_path} --help says more" if context is not None else ""
    _print_error(message or error.format_message(), hint, as_json=as_json)
    return error.exit_code


def _print_error(message: str, hint: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": message, "hint": hint or None}), err=True)
        return
    for line in message.split("\n"):
        click.echo(f"error: {shown(line)}", err=True)
    if hint:
        click.echo(f"  {shown(hint)}", err=True)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show how far something is, where there is a terminal to show it on; else give None.

    What is given takes how much is done, of how much, and a remark.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, remark="")
        yield lambda done, total, remark: bar.update(
            task, completed=done, total=total, remark=escape(shown(remark))
        )


def stop(status: int) -> NoReturn:
    """End the command with this exit status, everything being said."""
    raise click.exceptions.Exit(status)
