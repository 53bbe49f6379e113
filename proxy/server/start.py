"""How a server begins: one process that serves, or a supervisor of several.

What both do first stands here, and imports nothing that a supervisor can do without.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from proxy.domain.snapshot import Snapshot
from proxy.errors import StorageError
from proxy.observe.logs import Logger, bridge_standard_logging, make_logger
from proxy.server.reading import read_snapshot
from proxy.storage.layout import Layout

GRACE = 30.0
"""Seconds that requests under way have to end after the signal to stop."""


def serve(file: str | None, *, listen: str | None = None, workers: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        file: the configuration; None: the shipped defaults.
        listen, workers: in place of what it says, now and whenever it is loaded anew.

    Raises:
        ConfigError, StorageError, InvalidForm: it cannot start; says why.
    """
    # What comes before there is somebody to load anything is no reason to end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    read = partial(read_snapshot, file, listen=listen, workers=workers)
    snapshot = read()
    if snapshot.server.workers == 1:
        from proxy.server.worker import serve_alone

        serve_alone(snapshot, read)
    else:
        from proxy.server.supervisor import supervise

        supervise(snapshot, read)


def program_version() -> str:
    """The version of the installed distribution; `0` in a tree that is not installed."""
    try:
        return version("pypi-overlay")
    except PackageNotFoundError:
        return "0"


def prepared(snapshot: Snapshot) -> Layout:
    """The data directory of a configuration, with what has to be there made.

    Raises:
        StorageError: it cannot be used; the message names it.
    """
    layout = Layout(snapshot.data_dir)
    try:
        layout.prepare()
    except StorageError as error:
        # Below, paths stay out of messages, since those may reach clients; here only the operator listens.
        error.message = f"{snapshot.data_dir}: {error.message}"
        raise
    return layout


@contextlib.contextmanager
def logging_for(snapshot: Snapshot, **values: object) -> Iterator[Logger]:
    """The log of a serving process, for the length of a block; libraries' warnings go there too.

    Args:
        values: stand in each record.
    """
    logger = make_logger(snapshot.log.format, snapshot.log.level, sys.stderr).bind(**values)
    unbridge = bridge_standard_logging(logger)
    try:
        yield logger
    finally:
        unbridge()


def raise_file_limit() -> None:
    """Let as many files be open as the system permits: each connection is one, and each download another.

    The usual 1,024 are a limit of old programs that call `select`, which this one does not.
    """
    _, permitted = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name more than they grant; then it stays as it is.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, permitted))
