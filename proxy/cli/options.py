"""What every command takes, and how its arguments become values. Imports nothing heavy: `--help` must be quick."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click

from proxy.domain.namespaces import NamespacePath
from proxy.domain.snapshot import LISTEN_WANTED, is_listen_address

VARIABLE = "PYPI_OVERLAY_CONFIG"
HERE = "pypi-overlay.yaml"

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """One call of the program: the options that stand before a command or behind its arguments alike.

    Attributes:
        config: the file that `--config` names.
        json: print the shapes of the contract in place of tables.
    """

    config: str | None = None
    json: bool = False


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def config_file(invocation: Invocation) -> str | None:
    """The configuration file: of `--config`, the environment, the working directory; None: the defaults hold."""
    if invocation.config is not None:
        return invocation.config
    named = os.environ.get(VARIABLE)
    if named:
        return named
    # A dangling link counts as there: to fall back to the defaults would hide the mistake.
    return HERE if os.path.lexists(HERE) else None


def _remember_config(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    invocation = context.ensure_object(Invocation)
    if value is not None:
        invocation.config = value


def _remember_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    invocation = context.ensure_object(Invocation)
    invocation.json = invocation.json or value


def _everywhere() -> list[click.Parameter]:
    return [
        click.Option(
            ["--config"],
            metavar="FILE",
            expose_value=False,
            callback=_remember_config,
            help="Configuration file. [$PYPI_OVERLAY_CONFIG, ./pypi-overlay.yaml, the defaults]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_remember_json,
            help="Print JSON in place of tables.",
        ),
    ]


class Leaf(click.Command):
    """A command that does something; takes `--config` and `--json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _everywhere()


class Branch(click.Group):
    """A noun with commands below it; takes the same two options."""

    command_class = Leaf

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _everywhere()


class _NamespaceType(click.ParamType[NamespacePath]):
    name = "namespace"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> NamespacePath:
        """`acme/widgets` and `/acme/widgets` alike; `/` is the root."""
        text = str(value)
        if not text:
            # What an unset variable of a script becomes must not mean the whole instance.
            self.fail("expected a path such as acme/widgets; the root is /", param, ctx)
        return NamespacePath(text.strip("/"))


class _DurationType(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """A duration above zero as the configuration writes them."""
        from pydantic_core import PydanticCustomError

        from proxy.config.values import parse_duration

        if isinstance(value, timedelta):
            return value
        try:
            duration = parse_duration(value)
        except PydanticCustomError as error:
            self.fail(f"{error.message()}, got {value!r}", param, ctx)
        if not duration:
            self.fail(f"expected a duration above 0s such as 30d, got {value!r}", param, ctx)
        return duration


class _ListenType(click.ParamType[str]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """An address as `server.listen` takes it."""
        text = str(value)
        if not is_listen_address(text):
            self.fail(f"expected {LISTEN_WANTED}, got {text!r}", param, ctx)
        return text


NAMESPACE = _NamespaceType()
DURATION = _DurationType()
LISTEN = _ListenType()


def may_ask(command: Decorated) -> Decorated:
    """Give a command that destroys something the option `--yes`."""
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)
