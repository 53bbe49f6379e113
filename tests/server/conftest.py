"""Servers without an upstream: nothing here may reach a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer
from tests.support.waiting import wait_until

LONELY: dict[str, Any] = {"upstreams": {"pypi": None}, "policy": {"upstreams": []}}
"""A configuration that forwards nothing."""

PRESET = "an-owner-token-of-the-tests-1"


class Unconfigured(OverlayServer):
    """A server that is started as somebody does who has read nothing: without `--config`.

    `file` is written to `pypi-overlay.yaml` in its working directory, where it is given.
    """

    def __init__(self, directory: Path, *, file: str | None = None, **options: Any) -> None:
        super().__init__({}, directory, **options)
        self.config_file.unlink()
        if file is not None:
            self.config_file.write_text(file, encoding="utf-8")
        self.data_dir = directory / "pypi-overlay-data"

    def _command(self, *arguments: str) -> list[str]:
        command = super()._command(*arguments)
        return command[: command.index("--config")]


class Start(Protocol):
    """What the fixture `lonely` is: starts a server that forwards nothing, with more keys on top."""

    def __call__(self, config: Mapping[str, Any] | None = None, **options: Any) -> OverlayServer: ...


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Start]:
    started: list[OverlayServer] = []

    def start(config: Mapping[str, Any] | None = None, **options: Any) -> OverlayServer:
        directory = options.pop("directory", tmp_path / f"server-{len(started)}")
        server = ForkedServer({**LONELY, **(config or {})}, directory, **options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


def await_log(server: OverlayServer, text: str) -> str:
    """Wait until the log has a line with `text`; return the first."""

    def found() -> str | None:
        return next((line for line in server.log_text().splitlines() if text in line), None)

    line = wait_until(found, what=f"a log line with {text!r}")
    assert line is not None
    return line
