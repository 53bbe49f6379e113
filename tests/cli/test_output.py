from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

from proxy.cli.output import count, print_table, shown, size
from tests.cli.conftest import Site
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self._screen, theirs = pty.openpty()
        os.set_blocking(self._screen, False)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", *arguments, "--config", str(site.file)],
            cwd=site.file.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60", "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def look(self) -> str:
        with contextlib.suppress(OSError):  # nothing new, or the other end is closed
            self.text += os.read(self._screen, 1 << 16).decode()
        return self.text

    def await_text(self, wanted: str) -> None:
        wait_until(lambda: wanted in self.look(), timeout=30, what=wanted)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def is_waiting(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        return status.rpartition(") ")[2].startswith("S")

    def end(self) -> int:
        wait_until(lambda: (self.look(), self.process.poll())[1] is not None, timeout=30, what="its end")
        self.look()
        return self.process.returncode


def test_on_a_terminal_what_destroys_something_asks_first(site: Site) -> None:
    site.publish("acme/widgets", "widgets-1.0-py3-none-any.whl")
    with Terminal(site, "package", "delete", "acme/widgets", "widgets") as terminal:
        terminal.await_text("Delete all of widgets from acme/widgets? [y/N]")
        terminal.type("n\n")
        assert terminal.end() == 1
        assert "nothing was changed" in terminal.text
    assert len(site.items("package", "list")) == 1
    with Terminal(site, "package", "delete", "acme/widgets", "widgets") as terminal:
        terminal.await_text("[y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert site.items("package", "list") == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="that it waits is read from /proc")
def test_an_interrupted_command_ends_with_130(site: Site) -> None:
    with Terminal(site, "cache", "purge", "--all") as terminal:
        terminal.await_text("[y/N]")
        # Between the question and the wait for its answer, Python notes a signal only once something is typed.
        wait_until(terminal.is_waiting, what="it to wait for an answer")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text


def test_on_a_terminal_tables_are_drawn_and_nothing_is_cut(site: Site) -> None:
    with Terminal(site, "namespace", "list") as terminal:
        assert terminal.end() == 0
    assert "┃" in terminal.text
    assert "┏" in terminal.text


@pytest.mark.parametrize(
    "arguments",
    [
        ("package", "delete", "acme/widgets", "widgets"),
        ("claim", "release", "acme", "widgets"),
        ("namespace", "drop", "old"),
        ("cache", "purge", "--all"),
    ],
)
def test_without_a_terminal_what_destroys_something_wants_yes(site: Site, arguments: tuple[str, ...]) -> None:
    site.publish("acme/widgets", "widgets-1.0-py3-none-any.whl")
    done = site.run(*arguments)
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    assert len(site.items("package", "list")) == 1


def test_elsewhere_tables_are_aligned_text_that_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    print_table([{"a": long, "b": 1}, {"a": None, "b": 22}], {"First": "a", "Second": "b"})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'FIRST'.ljust(300)}  SECOND", f"{long}  1", f"{'-'.ljust(300)}  22"]


def test_control_characters_never_reach_the_terminal() -> None:
    assert shown("a\x1b[2Jb\n") == "a\ufffd[2Jb\ufffd"
    assert shown(["a\x07", None]) == "a\ufffd, -"
    assert [shown(value) for value in (None, "", True, False, 0)] == ["-", "-", "yes", "no", "0"]


def test_sizes_and_counts_are_for_people() -> None:
    assert [size(number) for number in (0, 1023, 1024, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
    assert [count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
