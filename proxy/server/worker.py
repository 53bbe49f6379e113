"""One serving process: sockets, signals, background work, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Coroutine

import uvloop
from aiohttp import web

from proxy.config.compile import file_of
from proxy.domain.snapshot import Snapshot, TlsSettings
from proxy.errors import ConfigError, OverlayError, Problem, StorageError
from proxy.index.instance import Instance
from proxy.index.names import upstreams_listed
from proxy.observe.logs import Logger, bridge_standard_logging, make_logger
from proxy.server.assembly import admit_owner, close_instance, open_instance, program_version
from proxy.web.app import build
from proxy.web.notes import CLOSING, UNDER_WAY

GRACE = 30.0
"""Seconds that requests under way have to end after the signal to stop."""
_LATE_GRACE = 5.0
"""Seconds that are left to those that came while the others were waited for."""
_LOOK = 0.05
"""Seconds between looks whether they have ended."""
_FLUSH = 10.0
"""Seconds between writings of what gathers in memory."""
_LOOK_AT_LISTS = 30.0
"""Seconds between looks whether a kept list of names is due."""
_BACKLOG = 1024
"""Connections that the system may hold until they are accepted."""
_PROBE = 1.0
"""Seconds in which a living server answers at its unix socket."""
_LISTEN_HINTS = {
    errno.EADDRINUSE: "stop what listens there, or choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --listen",
    errno.EACCES: "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose another with --listen",
}
"""What to do about the commonest reasons why a port cannot be opened."""
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
    _raise_file_limit()
    try:
        instance = open_instance(snapshot, serving=True)
        text = admit_owner(instance, os.environ.get(OWNER_TOKEN))
        if text is not None:
            _tell_owner(text, instance, logger)
        # What was made so far stays for good. To walk over all of it in search of garbage, as Python does now and
        # then, would hold up every request for 50 ms. Nor is it done once here: starting leaves hardly any.
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(instance, listen or snapshot.server.listen, logger))
    finally:
        unbridge()


def _raise_file_limit() -> None:
    """Let as many files be open as the system permits: each connection is one, and each download another.

    The usual 1,024 are a limit of old programs that call `select`, which this one does not.
    """
    _, permitted = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name more than they grant; then it stays as it is.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, permitted))


def _tell_owner(text: str, instance: Instance, logger: Logger) -> None:
    """Say where the first owner token is; on a terminal also what it is."""
    path = instance.layout.owner_token
    if sys.stderr.isatty():
        sys.stderr.write(f"The owner token is in {path}\n  {text}\n")
    elif instance.snapshot.log.format == "json":
        # Whoever collects these lines wants records alone.
        logger.warning("the owner token was written", path=path)
    else:
        sys.stderr.write(f"The owner token is in {path}\n")


async def _serve(instance: Instance, listen: str, logger: Logger) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build(instance, logger)
    # A client that goes away ends its own reading; what it set going (a transfer, a commit) goes on. No client
    # packs its bodies, so nothing is unpacked: it would be a way in for bombs, and for noise in the log.
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=False,
        shutdown_timeout=_LATE_GRACE,
        auto_decompress=False,
    )
    await runner.setup()
    background = [
        asyncio.create_task(watched(_write_what_gathers(instance, logger), logger)),
        asyncio.create_task(watched(_keep_lists_fresh(instance), logger)),
    ]
    try:
        address = await _listen(runner, listen, instance.snapshot)
        listening = f"listening on {address}"
        logger.info(listening, version=program_version(), data_dir=instance.layout.data_dir)
        await stop.wait()
        logger.info("stopping", grace_seconds=GRACE)
        app[CLOSING].set()
        await _ended(app[UNDER_WAY])
    finally:
        await runner.cleanup()
        for task in background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await close_instance(instance)
        logger.info("stopped")


async def _ended(under_way: dict[str, web.Request]) -> None:
    """Wait for the requests that are under way now, `GRACE` at most; those whose client has gone do not count.

    The sockets stay open meanwhile, so that a load balancer hears from `/readyz` that it is to go elsewhere.
    """
    waiting = dict(under_way)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE):
            # A client that leaves sets off no event of ours, so it is looked for.
            while any(one.transport is not None for key, one in waiting.items() if key in under_way):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK)


async def _listen(runner: web.AppRunner, listen: str, snapshot: Snapshot) -> str:
    """Open the socket; returns its address as people write it.

    Raises:
        ConfigError: the certificate or its key cannot be used.
        StorageError: the socket cannot be opened; says why.
    """
    tls = _tls(snapshot.server.tls, file_of(snapshot))
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        _refuse_taken_socket(path)
        try:
            await web.UnixSite(runner, path, ssl_context=tls, backlog=_BACKLOG).start()
        except OSError as error:
            raise StorageError(
                f"cannot listen on {listen}: {error.strerror}",
                hint="check the directory and its permissions, or choose another with --listen",
            ) from error
        return listen
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=tls, backlog=_BACKLOG)
    try:
        await site.start()
    except (OSError, UnicodeError) as error:
        raise _not_listening(listen, error) from error
    bound = runner.addresses[0]
    shown = f"[{bound[0]}]" if ":" in str(bound[0]) else bound[0]
    return f"{'https' if tls else 'http'}://{shown}:{bound[1]}"


def _not_listening(listen: str, error: OSError | UnicodeError) -> StorageError:
    """What a port that could not be opened is told as."""
    hint = "choose another with --listen"
    if isinstance(error, UnicodeError):
        return StorageError(f"cannot listen on {listen}: no host's name", hint=hint)
    number = error.errno or 0
    # The event loop puts a sentence with the address into `strerror`; what the system says is enough. Errors
    # of name resolution have numbers of their own.
    why = os.strerror(number).lower() if number in _LISTEN_HINTS else error.strerror or str(error)
    return StorageError(f"cannot listen on {listen}: {why}", hint=_LISTEN_HINTS.get(number, hint))


def _refuse_taken_socket(path: str) -> None:
    """See that nobody listens at `path`: the socket of a killed server is replaced, never that of a living one.

    The lock on the data directory does not tell; the socket may belong to a server of another one.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(path)
        except (BlockingIOError, TimeoutError):
            pass  # somebody is there, and busy
        except OSError:
            return
    raise StorageError(
        f"cannot listen on unix:{path}: a running server listens there", hint="choose another with --listen"
    )


def _tls(settings: TlsSettings | None, file: str) -> ssl.SSLContext | None:
    """What https is spoken with, or None; `file` is the configuration's name for messages."""
    if settings is None:
        return None
    unreadable = []
    for key, path in (("certificate", settings.certificate), ("key", settings.key)):
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            message = f"cannot be read ({os.strerror(error.errno or 0).lower()})"
            unreadable.append(Problem(file, 0, f"server.tls.{key}", message))
    if unreadable:
        raise ConfigError(unreadable)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password of ours OpenSSL would ask for that of an encrypted key, at the terminal.
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ssl.SSLError) as error:
        why = f"{error.strerror or error}: expected PEM files of a certificate chain and of its key, unencrypted"
        message = f"the certificate and the key cannot be used: {why}"
        raise ConfigError([Problem(file, 0, "server.tls", message)]) from error
    return context


async def watched(work: Coroutine[None, None, None], logger: Logger) -> None:
    """Do background work. What breaks it off is told at once, and harms neither serving nor an orderly end."""
    try:
        await work
    except Exception:
        # Whatever it is, it is a bug: trouble that can be expected is dealt with inside.
        logger.exception("background work broke off")


async def _write_what_gathers(instance: Instance, logger: Logger) -> None:
    while True:
        await asyncio.sleep(_FLUSH)
        if instance.last_use.is_waiting:
            try:
                await instance.registry.change(instance.last_use.flush)
            except OverlayError as error:
                logger.warning("last uses of tokens could not be written", error=str(error))


async def _keep_lists_fresh(instance: Instance) -> None:
    """Have the lists of names that some index needs, before anybody asks, and anew when they are due."""
    listed = upstreams_listed(instance.snapshot.tree)
    while listed:
        await instance.known_names.refresh(listed)
        await asyncio.sleep(_LOOK_AT_LISTS)
