"""`pypi-overlay`: the root of all commands, and the border at which exceptions become exit statuses.

A noun's module is imported when one of its commands runs, so that `--help` and `serve` load no more than
they need; each module may import plainly what it uses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from proxy.cli import output
from proxy.cli.options import Branch
from proxy.errors import OverlayError

_COMMANDS = {
    "serve": ("proxy.cli.serving", "serve", "Serve until SIGTERM or SIGINT."),
    "config": ("proxy.cli.configuration", "configuration", "Check the configuration file; load it anew."),
    "explain": ("proxy.cli.explaining", "explain", "Say what an index answers for a name, and why."),
    "token": ("proxy.cli.tokens", "tokens", "Make, list and revoke tokens."),
    "package": ("proxy.cli.packages", "packages", "List, show, delete, yank and mark private packages."),
    "claim": ("proxy.cli.claims", "claims", "List claimed names; give tombstoned ones free."),
    "namespace": ("proxy.cli.namespaces", "namespaces", "List groups and projects; drop what left the file."),
    "held": ("proxy.cli.held", "held", "List files that upstreams removed; release them."),
    "cache": ("proxy.cli.cache", "cache", "Show, check, fill and empty the cache of pages and files."),
    "audit": ("proxy.cli.audit", "group", "Say who changed what, and who fetched what."),
}
"""Name → module, object and short help, in the order of the contract."""


class _Root(Branch):
    """Loads commands when they are asked for, and turns whatever they raise into a status and a message."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - what the table above promises
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run and end the process: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
        arguments = sys.argv[1:] if args is None else list(args)
        as_json = "--json" in arguments
        try:
            status = super().main(arguments, *rest, **{**options, "standalone_mode": False})
        except OverlayError as error:
            status = output.fail(error, as_json=as_json)
        except click.ClickException as error:
            status = output.fail_usage(error, as_json=as_json)
        except click.Abort:
            status = output.INTERRUPTED
        sys.exit(status if isinstance(status, int) else 0)


def _print_version(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from proxy.server.start import program_version

    click.echo(program_version())
    context.exit()


@click.group(cls=_Root)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def cli() -> None:
    """Run a package index in front of PyPI: caching, forwarding, with private packages laid over it.

    \b
    pypi-overlay serve                                   with the shipped defaults, at 127.0.0.1:8080
    pypi-overlay config check                            before a new configuration comes into force
    pypi-overlay token create --user alice --scope api   a password for pip, uv and twine
    pypi-overlay explain /acme widgets                   who owns a name, and which line says so

    Namespaces are paths: acme/widgets or /acme/widgets; the root is /. All commands work beside a running
    server and take effect in it at once. Exit status: 0 done, 1 refused or failed, 2 wrong usage.
    """  # noqa: D301 - \b is click's mark of text that is not to be wrapped


def main() -> NoReturn:
    """The console script."""
    cli.main(prog_name="pypi-overlay")
