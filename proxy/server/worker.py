"""One serving process: requests, background work, how it follows a new configuration, and an orderly end.

It is all of a server (`serve_alone`), or one of several under a supervisor (`main`), which then tells it what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial

import uvloop
from aiohttp import web

from proxy.cache.sweep import sweep
from proxy.domain.snapshot import Snapshot
from proxy.errors import ConfigError, OverlayError, StoreUnavailable
from proxy.index.crew import Asker, Reloaded
from proxy.index.instance import Instance, Running
from proxy.index.names import upstreams_listed
from proxy.index.records import forget_old_records
from proxy.observe.logs import Logger
from proxy.server.assembly import (
    Post,
    admit_owner,
    another_instance,
    close_instance,
    note_configuration,
    open_instance,
    retire_instance,
    switch,
)
from proxy.server.control import taking_orders
from proxy.server.orders import (
    Begin,
    Done,
    Follow,
    Line,
    Order,
    Outcome,
    Prepare,
    Present,
    Reload,
    Stop,
    Switch,
)
from proxy.server.reload import Reader, Reloads
from proxy.server.sockets import close_sockets, open_sockets, shown_address
from proxy.server.start import GRACE, logging_for, program_version, raise_file_limit
from proxy.server.tls import load_chain, tls_context
from proxy.storage.audit import By
from proxy.web.app import build
from proxy.web.front import Fronts
from proxy.web.notes import CLOSING, UNDER_WAY

LATE_GRACE = 5.0
"""Seconds that are left to those that came while the others were waited for."""
_LOOK = 0.05
"""Seconds between looks whether they have ended."""
_LOOK_AT_RETIRED = 1.0
"""Seconds between looks whether what began under an earlier configuration has ended."""
_FLUSH = 10.0
"""Seconds between writings of what gathers in memory."""
_LOOK_AT_LISTS = 30.0
"""Seconds between looks whether a kept list of names is due, and whether claimed names are to be looked for there."""
_LOOK_AT_ADVISORIES = 30.0
"""Seconds between looks whether the database of advisories is due."""
_LOOK_AT_BOARD = 1.0
"""Seconds between looks at the board; a change that shows at two of them was killed."""
_LOOK_AT_OLD = 24 * 3600.0
"""Seconds between looks for pages that are too old to be shown."""
_SWEEP = "sweep"
"""The lock of whoever looks."""
_BACKLOG = 1024
"""Connections that the system may hold until they are accepted."""
_GARBAGE = 20_000
"""Objects that may come to be before Python looks for garbage among them. At its own 700 it looks whenever some
hundred answers wait to be told of, and soon at every answer that is kept."""
OWNER_TOKEN = "PYPI_OVERLAY_OWNER_TOKEN"  # noqa: S105 - the variable's name, not a secret


def serve_alone(snapshot: Snapshot, read: Reader) -> None:
    """Serve in this process alone, until SIGTERM or SIGINT.

    Args:
        read: reads the configuration anew.

    Raises:
        ConfigError, StorageError, InvalidForm: it cannot start; says why.
    """
    with logging_for(snapshot) as logger:
        raise_file_limit()
        crew = _Alone()
        instance = open_instance(snapshot, serving=True, crew=crew)
        note_configuration(instance)
        _admit_owner(instance, logger)
        _run(_serve_alone(instance, crew, read, logger))


class _Alone:
    """The crew of a process that is all of the server."""

    workers = 1
    is_complete = True

    def __init__(self) -> None:
        self.reloads: Reloads | None = None

    async def reload(self, asker: Asker) -> Reloaded:
        """Do it in this process."""
        if self.reloads is None:
            raise StoreUnavailable("the server is only just starting", hint="try again in a moment")
        return await self.reloads.reload(asker)


async def _serve_alone(instance: Instance, crew: _Alone, read: Reader, logger: Logger) -> None:
    worker = Worker(instance, logger)
    reloads = Reloads(instance.snapshot, read, worker, logger)
    crew.reloads = reloads
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.reload_soon)
    sockets: list[socket.socket] = []
    watching: asyncio.Task[None] | None = None
    try:
        sockets = open_sockets(instance.snapshot.server.listen, shared=False)
        await worker.begin(sockets)
        watching = asyncio.create_task(watched(reloads.watch(), logger))
        async with taking_orders(instance.layout, reloads.reload):
            listening = f"listening on {shown_address(sockets, tls=instance.snapshot.server.tls is not None)}"
            logger.info(listening, version=program_version(), data_dir=instance.layout.data_dir)
            await stop.wait()
            logger.info("stopping", grace_seconds=GRACE)
            await worker.finish()
    finally:
        if watching is not None:
            await _cancel([watching])
        await worker.end()
        close_sockets(sockets)
        logger.info("stopped")


def main() -> None:
    """Serve as one of several. The arguments: the descriptor of the line to the supervisor; a name for people."""
    # A terminal's signals are for the supervisor, which tells us.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    try:
        begin = line.receive_first()
    except EOFError:
        return  # the supervisor was told to stop before it could say anything
    assert isinstance(begin, Begin)  # noqa: S101 - the supervisor says nothing else first
    with logging_for(begin.snapshot, worker=begin.number) as logger:
        raise_file_limit()
        crew = _Several(begin.snapshot.server.workers, line)
        try:
            post = Post(begin.number, begin.serial, begin.is_first, begin.started_at)
            instance = open_instance(begin.snapshot, post=post, crew=crew)
            if begin.is_first:
                note_configuration(instance)
                _admit_owner(instance, logger)
        except OverlayError as error:
            line.say_now(Done.failed(error))
            sys.exit(1)
        _run(_serve_ordered(instance, crew, line, begin.descriptors, logger))


class _Several:
    """The crew of a worker that has others beside it."""

    def __init__(self, workers: int, line: Line) -> None:
        self.workers = workers
        self.present = 0
        self._line = line
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Reloaded]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether all serve."""
        return self.present == self.workers

    async def reload(self, asker: Asker) -> Reloaded:
        """Have the supervisor do it."""
        number = next(self._numbers)
        asked: asyncio.Future[Reloaded] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        try:
            self._line.say(Reload(number, asker))
            return await asked
        finally:
            del self._asked[number]

    def came(self, outcome: Outcome) -> None:
        """Take what came of a reload that was asked for."""
        asked = self._asked.get(outcome.number)
        if asked is not None and not asked.done():
            asked.set_result(outcome.reloaded)


async def _serve_ordered(
    instance: Instance, crew: _Several, line: Line, descriptors: tuple[int, ...], logger: Logger
) -> None:
    """Serve, and do what the supervisor says, until it says to stop; end at once where it is gone."""
    worker = Worker(instance, logger)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await line.open()
    taking: asyncio.Task[None] | None = None
    try:
        try:
            await worker.begin([socket.socket(fileno=descriptor) for descriptor in descriptors])
        except OverlayError as error:
            line.say(Done.failed(error))
            return
        line.say(Done())
        taking = asyncio.create_task(_take_orders(line, worker, crew, stop, logger))
        await stop.wait()
        await worker.finish()
    finally:
        await worker.end()
        if taking is not None:
            await _cancel([taking])
        line.close()


async def _take_orders(
    line: Line, worker: Worker, crew: _Several, stop: asyncio.Event, logger: Logger
) -> None:
    while (order := await line.receive()) is not None:
        try:
            await _carry_out(order, worker, crew, stop)  # type: ignore[arg-type]  # the supervisor sends nothing else
            done = Done()
        except OverlayError as error:
            done = Done.failed(error)
        except Exception:
            # Whatever it is, it is a bug; the supervisor and all other workers must not wait for it.
            logger.exception("an order could not be carried out")
            done = Done("a worker could not follow", "the log has the details")
        line.say(done)
    # Killed, it could not tell us to stop. Another server may take the data directory any moment, and our answers
    # would be none of its own: to end as it did is what everything on disk is made to bear.
    logger.error("the supervisor is gone")
    os._exit(1)


async def _carry_out(order: Order, worker: Worker, crew: _Several, stop: asyncio.Event) -> None:
    match order:
        case Prepare(snapshot, serial):
            await worker.prepare(snapshot, serial)
        case Switch(asker):
            await worker.switch(asker)
        case Follow():
            await worker.follow()
        case Present(workers):
            crew.present = workers
        case Outcome():
            crew.came(order)
        case Stop():
            stop.set()
        case Begin():
            raise StoreUnavailable("it has begun already")


def _run(serving: Coroutine[None, None, None]) -> None:
    # What was made so far stays for good. To walk over all of it in search of garbage, as Python does now and
    # then, would hold up every request for 50 ms. Nor is it done once here: starting leaves hardly any.
    gc.freeze()
    gc.set_threshold(_GARBAGE, *gc.get_threshold()[1:])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)


def _admit_owner(instance: Instance, logger: Logger) -> None:
    """See to it that an owner can come in; say where the first token is, on a terminal also what it is."""
    text = admit_owner(instance, os.environ.get(OWNER_TOKEN))
    if text is None:
        return
    path = instance.layout.owner_token
    if sys.stderr.isatty():
        sys.stderr.write(f"The owner token is in {path}\n  {text}\n")
    elif instance.snapshot.log.format == "json":
        # Whoever collects these lines wants records alone.
        logger.warning("the owner token was written", path=path)
    else:
        sys.stderr.write(f"The owner token is in {path}\n")


class Worker:
    """What serves in this process, under one configuration after the other. Owned by one event loop."""

    def __init__(self, instance: Instance, logger: Logger) -> None:
        """Take the first instance, which is in force."""
        self._running = Running(instance)
        self._logger = logger
        self._app = build(self._running, logger)
        self._fronts = Fronts(self._app, grace=LATE_GRACE)
        self._servers: list[asyncio.Server] = []
        self._tls: ssl.SSLContext | None = None
        self._prepared: Instance | None = None
        self._followed = instance
        self._background: list[asyncio.Task[None]] = []
        self._fresh: list[asyncio.Task[None]] = []
        self._retiring: dict[asyncio.Task[None], Instance] = {}

    async def begin(self, sockets: Sequence[socket.socket]) -> None:
        """Listen at bound sockets, and begin the work in the background.

        Raises:
            ConfigError: the certificate or its key cannot be used.
        """
        instance = self._running.latest
        self._tls = tls_context(instance.snapshot)
        await self._fronts.start()
        await self._listen(sockets)
        self._background = [
            asyncio.create_task(watched(work, self._logger))
            for work in (
                _write_what_gathers(instance, self._logger),
                _look_at_board(instance, self._logger),
                _share_metrics(instance),
                instance.downloads.keep_written(),
                _record_requests(instance),
                instance.files.put_in_order(),
                _sweep_daily(self._running),
            )
        ]
        self._keep_fresh()

    async def _listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections at bound sockets."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            create = loop.create_unix_server if one.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await create(self._fronts, sock=one, ssl=self._tls, backlog=_BACKLOG))

    async def prepare(self, snapshot: Snapshot, serial: int) -> None:
        """Make an instance of another configuration, for the moment in which its serial comes into force.

        Raises:
            ConfigError: the certificate or its key cannot be used.
        """
        await asyncio.to_thread(tls_context, snapshot)
        self._prepared = await asyncio.to_thread(another_instance, self._running.latest, snapshot, serial)
        self._running.prepare(self._prepared)

    async def switch(self, asker: Asker) -> None:
        """Put what was prepared into force, here and in all other workers; the audit tells who asked for it.

        Raises:
            ConfigError, StorageError: it cannot come into force, and has not.
        """
        assert self._prepared is not None  # noqa: S101 - `prepare` comes first
        before, prepared = self._running.latest, self._prepared
        by = By(asker.who, prepared.now(), asker.address, asker.request_id)
        await asyncio.to_thread(switch, prepared, before.snapshot, by)

    async def follow(self) -> None:
        """Do by the configuration in force what no request does; let go of others once nothing is under way there."""
        self._prepared = None
        instance = self._running.instance
        if instance is not self._followed:
            # Not the instance before: requests may have gone over already.
            self._followed = instance
            self._keep_fresh()
            if self._tls is not None:
                # New connections use it from now on; the files may have been written anew under the same names.
                try:
                    await asyncio.to_thread(load_chain, self._tls, instance.snapshot)
                except ConfigError as error:
                    # It could be used a moment ago, when this was prepared.
                    self._logger.error("the certificate before stays", problem=str(error))  # noqa: TRY400
        for gone in self._running.retire():
            task = asyncio.create_task(watched(self._retire(gone), self._logger))
            self._retiring[task] = gone
            task.add_done_callback(self._retiring.pop)

    async def _retire(self, instance: Instance) -> None:
        # Neither the end of a request nor that of a transfer is worth an event of its own.
        while self._running.is_used(instance) or not instance.files.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AT_RETIRED)
        await retire_instance(instance)

    def _keep_fresh(self) -> None:
        for task in self._fresh:
            task.cancel()
        before, instance = self._fresh, self._running.latest
        self._fresh = [
            asyncio.create_task(watched(once_ended(before, partial(work, instance)), self._logger))
            for work in (_keep_lists_fresh, _keep_advisories_fresh, _look_for_confusions)
        ]

    async def finish(self) -> None:
        """Say at `/readyz` that this is ending, and wait for the requests under way; the sockets stay open."""
        self._app[CLOSING].set()
        await _ended(self._app[UNDER_WAY])

    async def end(self) -> None:
        """Close every connection, and everything behind it."""
        for server in self._servers:
            server.close()
        await self._fronts.stop()
        retiring = dict(self._retiring)
        await _cancel([*self._background, *self._fresh, *retiring])
        for instance in retiring.values():
            await retire_instance(instance)
        self._running.latest.metrics.share()
        await close_instance(self._running.latest)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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


async def watched(work: Coroutine[None, None, None], logger: Logger) -> None:
    """Do background work. What breaks it off is told at once, and harms neither serving nor an orderly end."""
    try:
        await work
    except Exception:
        # Whatever it is, it is a bug: trouble that can be expected is dealt with inside.
        logger.exception("background work broke off")


async def once_ended(
    before: Collection[asyncio.Task[None]], work: Callable[[], Coroutine[None, None, None]]
) -> None:
    """Do `work` as soon as tasks that were cancelled have ended: until then they hold locks that it takes."""
    if before:
        await asyncio.wait(before)
    await work()


async def _write_what_gathers(instance: Instance, logger: Logger) -> None:
    while True:
        await asyncio.sleep(_FLUSH)
        if instance.last_use.is_waiting:
            try:
                await instance.registry.change(instance.last_use.flush)
            except OverlayError as error:
                logger.warning("last uses of tokens could not be written", error=str(error))


async def _look_at_board(instance: Instance, logger: Logger) -> None:
    """Settle what a change left unsettled that was killed, be it a command's: nothing is kept of it until then."""
    before: frozenset[tuple[int, int]] = frozenset()
    while True:
        await asyncio.sleep(_LOOK_AT_BOARD)
        if not instance.board.is_shared:
            # Nobody would tell us of a change any more; to end is the only way left to be right.
            logger.error("the directory run was emptied, and the server ends")
            os._exit(1)
        found = instance.board.unsettled()
        if found & before:
            try:
                settled = await asyncio.to_thread(instance.registry.settle)
            except OverlayError:
                continue  # somebody writes: it was no killed change, or that one settles it
            if settled:
                logger.warning("a change that was killed has been settled", slots=settled)
        before = found


async def _sweep_daily(running: Running) -> None:
    """Delete what upstreams said so long ago that it may not be shown any more, and old records.

    One worker does it for all.
    """
    while True:
        instance = running.latest
        settings = instance.snapshot.cache
        if instance.locks.try_hold(_SWEEP):
            over = threading.Event()
            try:
                keep_for = settings.fresh_for + settings.stale_if_error
                is_needed = instance.pages.is_needed
                await asyncio.to_thread(
                    sweep, instance.layout, keep_for, instance.now(), is_needed, over.is_set
                )
                await asyncio.to_thread(forget_old_records, instance, over.is_set)
            finally:
                over.set()
                instance.locks.release(_SWEEP)
        await asyncio.sleep(_LOOK_AT_OLD)


async def _record_requests(instance: Instance) -> None:
    if instance.request_log is not None:
        await instance.request_log.keep_written()


async def _share_metrics(instance: Instance) -> None:
    while True:
        await asyncio.sleep(_LOOK_AT_BOARD)
        await asyncio.to_thread(instance.metrics.share)


async def _keep_advisories_fresh(instance: Instance) -> None:
    """Have the advisories in force, where there is a database of them, and anew when it changed."""
    while instance.snapshot.advisories.osv_dir is not None:
        await instance.advisories.refresh()
        await asyncio.sleep(_LOOK_AT_ADVISORIES)


async def _keep_lists_fresh(instance: Instance) -> None:
    """Have the lists of names that some index needs, before anybody asks, and anew when they are due."""
    listed = upstreams_listed(instance.snapshot.tree)
    while listed:
        await instance.known_names.refresh(listed)
        await asyncio.sleep(_LOOK_AT_LISTS)


async def _look_for_confusions(instance: Instance) -> None:
    """Look which claimed names upstreams have, one worker for all; what is found stands in the registry."""
    try:
        while True:
            await instance.radar.look()
            await asyncio.sleep(_LOOK_AT_LISTS)
    finally:
        instance.radar.rest()
