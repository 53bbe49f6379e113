"""Several workers on one port: started, kept alive, told of configurations, ended together.

A supervisor serves nothing and imports little: neither the HTTP server nor the database's library. It holds the data
directory's lock and the port, so a worker that ends, however it does, loses neither. Workers hear of its end by
that of the line to it, and end too.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime

from proxy.domain.snapshot import Snapshot
from proxy.errors import OverlayError, StoreUnavailable
from proxy.index.crew import Asker
from proxy.observe.counts import forget_all
from proxy.observe.logs import Logger
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
from proxy.server.reading import python_program
from proxy.server.reload import Reader, Reloads
from proxy.server.sockets import close_sockets, open_sockets, shown_address, twin
from proxy.server.start import GRACE, logging_for, prepared, program_version
from proxy.storage.board import Board, new_serial
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks

_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from proxy.server.worker import main; main()"
_START_SECONDS = 120.0
"""Seconds that a worker has to begin, migrations of the databases included."""
_ORDER_SECONDS = 60.0
"""Seconds that a worker has for an order. One that takes longer is replaced."""
_END_SECONDS = 60.0
"""Seconds that workers have to end: longer than the grace they give to requests."""
_LOOK = 10.0
"""Seconds between looks whether a worker still answers."""
_SILENT = 30.0
"""Seconds without an answer after which one stands still, and is replaced."""
_QUICK = 5.0
"""A worker that ends within so many seconds has not really run."""
_ENDS = 6
"""How often in a row that may happen in one place."""
_PAUSE = 0.25
_LONGEST_PAUSE = 4.0
"""Seconds before a worker is started again: at first, and after more and more quick ends."""


def supervise(snapshot: Snapshot, read: Reader) -> None:
    """Serve with as many workers as the configuration says, until SIGTERM or SIGINT.

    Args:
        read: reads the configuration anew.

    Raises:
        ConfigError, StorageError, InvalidForm: it cannot start; says why.
        StoreUnavailable: a worker ends again and again.
    """
    with logging_for(snapshot) as logger:
        layout = prepared(snapshot)
        locks = Locks(layout)
        try:
            locks.hold_serve()
            forget_all(layout.metrics)
            board = Board(layout)
            try:
                with asyncio.Runner() as runner:
                    runner.run(_Supervisor(snapshot, read, layout, board, logger).run())
            finally:
                board.close()
        finally:
            locks.close()


class _Child:
    """A worker as its supervisor sees it."""

    def __init__(self, number: int, line: Line, process: asyncio.subprocess.Process) -> None:
        """Take a process that was started, and the opened line to it."""
        self.number = number
        self.process = process
        self.began = time.monotonic()
        self.is_serving = False
        self.gone = asyncio.Event()
        self._line = line
        self._turn = asyncio.Lock()
        self._replies: asyncio.Queue[Done | None] = asyncio.Queue()

    async def listen(self, asked: Callable[[_Child, Reload], None]) -> None:
        """Take what it says until it is gone; `asked` hears of its wishes."""
        while (said := await self._line.receive()) is not None:
            if isinstance(said, Reload):
                asked(self, said)
            else:
                assert isinstance(said, Done)  # noqa: S101 - a worker says nothing else
                self._replies.put_nowait(said)
        self.is_serving = False
        self._replies.put_nowait(None)
        self._line.close()
        await self.process.wait()
        self.gone.set()

    async def order(self, order: Order, seconds: float = _ORDER_SECONDS) -> Done | None:
        """Have an order carried out. Who does not answer in time is killed.

        Returns:
            What it says of it; None where it ended meanwhile.
        """
        async with self._turn:
            self._line.say(order)
            try:
                async with asyncio.timeout(seconds):
                    done = await self._replies.get()
            except TimeoutError:
                self.kill()
                return None
        if done is None:
            # For whoever waits behind us.
            self._replies.put_nowait(None)
        return done

    async def stop(self) -> None:
        """Have it end after what is under way."""
        await self.order(Stop(), _END_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class _Supervisor:
    """Keeps the workers. Owned by one event loop; the staff of its reloads."""

    def __init__(
        self, snapshot: Snapshot, read: Reader, layout: Layout, board: Board, logger: Logger
    ) -> None:
        self._layout = layout
        self._board = board
        self._logger = logger
        self._workers = snapshot.server.workers
        self._reloads = Reloads(snapshot, read, self, logger)
        self._serial = new_serial()
        self._coming = self._serial
        self._is_open = False
        """Whether a worker has opened the data directory for the configuration in force."""
        self._started_at = datetime.now(UTC)
        self._sockets: list[socket.socket] = []
        self._children: dict[int, _Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until a signal says to stop.

        Raises:
            OverlayError: it cannot start, or cannot go on.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloads.reload_soon)
        stopping = loop.create_task(stop.wait())
        try:
            self._sockets = open_sockets(self._reloads.snapshot.server.listen, shared=True)
            beginning = loop.create_task(self._begin())
            await asyncio.wait({stopping, beginning}, return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                await _cancel([beginning])
                return
            beginning.result()
            await self._serve(stopping)
        finally:
            stopping.cancel()
            await self._end()
            close_sockets(self._sockets)
            self._logger.info("stopped")

    async def _begin(self) -> None:
        """Start every worker, the first before the others.

        Raises:
            OverlayError: one cannot start.
        """
        # None begins with a configuration that is just being replaced.
        async with self._reloads.turn:
            await self._start(1)
            await asyncio.gather(*(self._start(number) for number in range(2, self._workers + 1)))

    async def _serve(self, stopping: asyncio.Task[bool]) -> None:
        """Keep all workers until it is time to stop.

        Raises:
            OverlayError: one ends again and again.
        """
        keeping = {asyncio.create_task(self._keep(child)) for child in self._children.values()}
        watching = asyncio.create_task(self._reloads.watch())
        try:
            async with taking_orders(self._layout, self._reloads.reload):
                has_tls = self._reloads.snapshot.server.tls is not None
                listening = f"listening on {shown_address(self._sockets, tls=has_tls)}"
                self._logger.info(
                    listening,
                    version=program_version(),
                    data_dir=self._layout.data_dir,
                    workers=self._workers,
                )
                await asyncio.wait({stopping, watching, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._logger.info("stopping", grace_seconds=GRACE)
            await _cancel([task for task in (watching, *keeping) if not task.done()])
        for task in (watching, *keeping):
            if not task.cancelled():
                task.result()

    async def _start(self, number: int) -> _Child:
        """Start a worker and wait until it serves.

        Raises:
            OverlayError: it could not; says why.
        """
        ours, its = socket.socketpair()
        own = [twin(one) for one in self._sockets]
        descriptors = tuple(one.fileno() for one in own)
        try:
            process = await asyncio.create_subprocess_exec(
                *python_program(_PROGRAM, str(its.fileno()), f"worker-{number}"),
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(), *descriptors),
            )
        except OSError as error:
            ours.close()
            raise StoreUnavailable(f"no worker can be started ({error.strerror})") from error
        finally:
            # What stays open here would keep connections waiting that nobody accepts, once the worker is gone.
            for one in (its, *own):
                one.close()
        line = Line(ours)
        await line.open()
        child = self._children[number] = _Child(number, line, process)
        self._soon(child.listen(self._asked))
        begin = Begin(
            snapshot=self._reloads.snapshot,
            serial=self._serial,
            number=number,
            is_first=not self._is_open,
            started_at=self._started_at,
            descriptors=descriptors,
        )
        done = await child.order(begin, _START_SECONDS)
        if done is None:
            raise StoreUnavailable(f"worker {number} ended before it served", hint="the log says why")
        done.raise_failure()
        self._is_open = child.is_serving = True
        await self._tell_present()
        return child

    async def _keep(self, child: _Child) -> None:
        """Have a worker in this one's place for as long as we run.

        Raises:
            StoreUnavailable: it ends again and again, or none can follow it.
        """
        ends = 0
        while True:
            await self._look_after(child)
            pid, status = child.process.pid, child.process.returncode
            self._logger.error("a worker ended", worker=child.number, pid=pid, status=status)
            if not self._board.is_shared:
                # Another worker would have another board than we.
                raise StoreUnavailable("the directory run was emptied", hint="start the server anew")
            # Not waited for: another one may stand still.
            self._soon(self._tell_present())
            if time.monotonic() - child.began > _QUICK:
                ends = 0
            successor = None
            while successor is None:
                ends += 1
                if ends > _ENDS:
                    raise StoreUnavailable(
                        f"worker {child.number} ends again and again", hint="the log says why"
                    )
                await asyncio.sleep(min(_PAUSE * 2 ** (ends - 1), _LONGEST_PAUSE))
                try:
                    # As in `_begin`.
                    async with self._reloads.turn:
                        successor = await self._start(child.number)
                except OverlayError as error:
                    self._logger.warning("a worker cannot start", worker=child.number, error=str(error))
            child = successor
            self._logger.info("a worker serves in its place", worker=child.number, pid=child.process.pid)

    async def _look_after(self, child: _Child) -> None:
        """Wait until a worker is gone. One that answers no more is ended: its port is given connections still."""
        while not child.gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await child.gone.wait()
                    return
            done = await child.order(Present(len(self._serving())), _SILENT)
            if done is None and child.is_serving:
                self._logger.error("a worker stands still and is ended", worker=child.number)
                await child.gone.wait()

    async def _end(self) -> None:
        """End all workers and what waits for them; kill those that take too long."""
        children = [child for child in self._children.values() if not child.gone.is_set()]
        for child in children:
            self._soon(child.stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                for child in children:
                    await child.gone.wait()
        for child in children:
            child.kill()
        await _cancel(self._tasks)

    async def prepare(self, snapshot: Snapshot, serial: int) -> None:
        """Have every worker make another configuration ready.

        Raises:
            ConfigError, StoreUnavailable: one cannot.
        """
        self._coming = serial
        for done in await self._order_all(Prepare(snapshot, serial)):
            done.raise_failure()

    async def switch(self, asker: Asker) -> None:
        """Have one worker put what all prepared into force.

        Raises:
            ConfigError, StoreUnavailable: it cannot come into force, and has not.
        """
        try:
            for child in self._serving():
                done = await child.order(Switch(asker))
                if done is not None:
                    done.raise_failure()
                    self._serial = self._coming
                    return
        except OverlayError:
            if self._board.is_suspended:
                self._board.put_in_force(self._serial)
            raise
        if self._board.serial == self._serial:
            raise StoreUnavailable("no worker serves now", hint="try again in a moment")
        # All ended just when it came into force, and nobody knows how far that went. The next worker begins with it
        # as the first one of a server does, and sees to the rest.
        self._serial, self._is_open = self._coming, False

    async def follow(self) -> None:
        """Have every worker tidy up behind a switch, or behind none."""
        for done in await self._order_all(Follow()):
            if done.failure:
                self._logger.error(
                    "a worker could not tidy up behind a new configuration", error=done.failure
                )

    def _asked(self, child: _Child, wish: Reload) -> None:
        async def reload() -> None:
            reloaded = await self._reloads.reload(wish.asker)
            await child.order(Outcome(wish.number, reloaded))

        self._soon(reload())

    async def _tell_present(self) -> None:
        """Tell every worker how many there are; `/readyz` and the like want to know."""
        await self._order_all(Present(len(self._serving())))

    async def _order_all(self, order: Order) -> list[Done]:
        """Have all workers that serve carry out an order; those that end meanwhile say nothing."""
        said = await asyncio.gather(*(child.order(order) for child in self._serving()))
        return [done for done in said if done is not None]

    def _serving(self) -> list[_Child]:
        return [child for child in self._children.values() if child.is_serving]

    def _soon(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tuple(tasks):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
