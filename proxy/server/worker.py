"""One serving process: sockets, signals, background work, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import stat
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from proxy.domain.snapshot import ServerSettings, Snapshot
from proxy.errors import ConfigError, OverlayError, Problem, StorageError
from proxy.index.instance import Instance
from proxy.observe.logs import Logger, bridge_standard_logging, make_logger
from proxy.server.assembly import admit_owner, close_instance, open_instance, program_version
from proxy.web.app import build

GRACE = 30.0
"""Seconds that requests under way have to end after the signal to stop."""
_FLUSH = 10.0
"""Seconds between writings of what gathers in memory."""
OWNER_TOKEN = "PYPI_OVERLAY_OWNER_TOKEN"  # noqa: S105 - the variable's name, not a secret


def serve(snapshot: Snapshot, *, listen: str | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        listen: in place of the configuration's address.

    Raises:
        ConfigError, StorageError, InvalidForm: it cannot start; says why.
    """
    logger = make_logger(snapshot.log.format, snapshot.log.level, sys.stderr)
    unbridge = bridge_standard_logging(logger)
    try:
        instance = open_instance(snapshot, serving=True)
        text = admit_owner(instance, os.environ.get(OWNER_TOKEN))
        if text is not None:
            sys.stderr.write(f"The owner token is in {instance.layout.owner_token}\n")
            if sys.stderr.isatty():
                sys.stderr.write(f"  {text}\n")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(instance, listen or snapshot.server.listen, logger))
    finally:
        unbridge()


async def _serve(instance: Instance, listen: str, logger: Logger) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build(instance, logger)
    # A client that goes away ends its own reading; what it set going (a transfer, a commit) goes on.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=False, shutdown_timeout=GRACE)
    await runner.setup()
    gathering = asyncio.create_task(_write_what_gathers(instance, logger))
    try:
        address = await _listen(runner, listen, instance.snapshot.server)
        listening = f"listening on {address}"
        logger.info(listening, version=program_version(), data_dir=instance.layout.data_dir)
        await stop.wait()
        logger.info("stopping", grace_seconds=GRACE)
        app["closing"].set()
    finally:
        await runner.cleanup()
        gathering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gathering
        await close_instance(instance)
        logger.info("stopped")


async def _listen(runner: web.AppRunner, listen: str, settings: ServerSettings) -> str:
    """Open the socket; returns its address as people write it."""
    tls = _tls(settings)
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        _clear_stale_socket(path)
        try:
            await web.UnixSite(runner, path, ssl_context=tls).start()
        except OSError as error:
            raise StorageError(f"cannot listen on {listen}: {error.strerror}") from error
        return listen
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=tls, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        raise StorageError(
            f"cannot listen on {listen}: {error.strerror or error}",
            hint="is the port taken? choose another with --listen",
        ) from error
    bound = runner.addresses[0]
    shown = f"[{bound[0]}]" if ":" in str(bound[0]) else bound[0]
    return f"{'https' if tls else 'http'}://{shown}:{bound[1]}"


def _clear_stale_socket(path: str) -> None:
    """Remove the socket of a server that was killed; the lock on the data directory says it is gone."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls.certificate, settings.tls.key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or str(error)
        message = f"cannot be used: {why}: expected PEM files of a certificate chain and its key"
        raise ConfigError([Problem("server", 0, "server.tls", message)]) from error
    return context


async def _write_what_gathers(instance: Instance, logger: Logger) -> None:
    while True:
        await asyncio.sleep(_FLUSH)
        if instance.last_use.is_waiting:
            try:
                await instance.registry.change(instance.last_use.flush)
            except OverlayError as error:
                logger.warning("last uses of tokens could not be written", error=str(error))
