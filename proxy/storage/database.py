"""The databases: the only module that opens connections, and the only door for what changes.

Queries are plain functions of a SQLAlchemy `Connection`. `read` runs a short one at once, in the calling
thread, on a connection that is kept (on SQLite a thread hop costs more than the query); `change` runs in the
one writing thread, holding the instance's writer's lock from before `BEGIN` to after `COMMIT`. Once `change`
has returned, every process sees the change with its next read, and the registry's survives a power cut.

SQLite today, in WAL mode: readers never wait for the writer. Other engines will come by URL; statements are
kept portable for them.

Errors: `sqlalchemy.exc.IntegrityError` passes through `change`, because only its caller knows what it means.
Trouble of the engine becomes `StoreUnavailable` or `DiskFull`. Everything else is a fault of the query and
stays what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from proxy.errors import DiskFull, StoreUnavailable
from proxy.storage.board import Board
from proxy.storage.locks import Locks
from proxy.storage.migrations import HEADS, DatabaseName, current_revision, upgrade

T = TypeVar("T")

_BUSY_SECONDS = 10.0
"""How long SQLite itself waits. Between our own processes the writer's lock has settled that already."""

_WRITER_PATIENCE = timedelta(seconds=30)


class Change:
    """One transaction that changes something, as the function inside it sees it."""

    __slots__ = ("_topics", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._topics: set[str] = set()

    def touch(self, topic: str) -> None:
        """Name a topic (`name:acme/widgets`) on which answers depend that this transaction makes untrue.

        A statement that writes and its `touch` stand in one function. The board (`storage.board`) is told of
        them around the commit, and with it everybody who keeps answers.
        """
        self._topics.add(topic)

    @property
    def topics(self) -> frozenset[str]:
        """What was touched so far."""
        return frozenset(self._topics)


class Database:
    """One database of the instance. Safe for threads; one object per database and process."""

    def __init__(
        self, location: str, locks: Locks, *, name: DatabaseName, board: Board | None = None
    ) -> None:
        """Name the database; nothing is opened before it is used.

        Args:
            location: path of an SQLite file whose directory exists, or a URL (`sqlite:////var/lib/x.sqlite`).
            locks: the locks of the same instance.
            board: of the same instance, where topics are touched; None: nobody keeps what is read here.
            name: which tables it holds. What is committed to the registry is on disk when `change` returns;
                the cache may lose its last moments in a power cut.

        Raises:
            StoreUnavailable: a URL of an engine that is not supported.
        """
        self._name = name
        self._locks = locks
        self._board = board
        self._lock_key = f"write:{name}"
        url = _sqlite_url(location)
        self._reading = _engine(url, "PRAGMA query_only=ON")
        self._writing = _engine(
            url,
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={'FULL' if name == 'registry' else 'NORMAL'}",
            "PRAGMA foreign_keys=ON",
        )
        event.listen(self._writing, "begin", _begin_immediate)
        self._idle: deque[Connection] = deque()
        self._writer_connection: Connection | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"write-{name}")
        self._closed = False

    @property
    def engine(self) -> str:
        """The kind of database: `sqlite`."""
        return self._reading.dialect.name

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a short `query` on one consistent state of the database and return its answer.

        `query` returns plain values: its transaction ends with the call, and rows not fetched are lost. It
        cannot write.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        return self.read_now(query)

    def read_now(self, query: Callable[[Connection], T]) -> T:
        """`read` for commands and threads."""
        with self._translated():
            connection = self._reader()
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - no other engine is let in
            sound = True
            try:
                # SQLAlchemy's own begin and rollback would triple the cost of a small query.
                driver.execute("BEGIN")
                return query(connection)
            except (DBAPIError, sqlite3.Error):
                sound = False
                raise
            finally:
                if sound:
                    driver.rollback()
                    self._put_back(connection)
                else:
                    # The connection may be what is broken; a new one costs a millisecond.
                    _discard(connection)

    async def change(self, act: Callable[[Change], T]) -> T:
        """Run `act` in a transaction in the writing thread; return its value once that is committed.

        Any exception of `act` rolls everything back. A cancelled `change` that has not begun never happens;
        one that has begun runs on to its end, and the cancellation arrives only then, with the failure of
        the transaction as its cause if there was one. So after `await change(…)`, however it ends, nothing
        of it is still going on.

        Raises:
            IntegrityError: of SQLAlchemy, a constraint of the tables was hurt.
            StoreUnavailable: the database or the writer's lock cannot be had.
            DiskFull: no space left; nothing was changed.
        """
        if self._closed:
            raise self._unavailable("is closed")
        job = self._writer.submit(self._transact, act)
        waiting = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError as cancelled:
            if job.cancel():
                raise
            while not waiting.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((waiting,))
            failure = waiting.exception()
            if failure is not None:
                raise cancelled from failure
            raise

    def change_now(self, act: Callable[[Change], T]) -> T:
        """`change` for commands and threads: runs in the calling thread. Not to be called inside an `act`."""
        if self._closed:
            raise self._unavailable("is closed")
        return self._transact(act)

    def _transact(self, act: Callable[[Change], T]) -> T:
        with self._locks.holding(self._lock_key, _WRITER_PATIENCE), self._translated():
            connection = self._writer_connection
            if connection is None:
                connection = self._writer_connection = self._writing.connect()
            touched: list[int] = []
            try:
                with connection.begin():
                    change = Change(connection)
                    value = act(change)
                    if self._board is not None:
                        touched = self._board.unsettle(change.topics)
                    # Leaving the block commits: only behind that do the slots become even again.
            except DBAPIError as error:
                if not isinstance(error, IntegrityError):
                    self._writer_connection = None
                    _discard(connection)
                raise
            finally:
                if self._board is not None:
                    self._board.settle(touched)
            return value

    def settle(self) -> int:
        """Make good what writers that were killed left unsettled on the board; return how many slots that were.

        Raises:
            StoreUnavailable: the writer's lock cannot be had.
        """
        if self._board is None:
            return 0
        with self._locks.holding(self._lock_key, _WRITER_PATIENCE):
            return self._board.settle_all()

    def migrate(self) -> None:
        """Make the schema the one of this code, in one transaction; quick where it is already.

        Raises:
            StoreUnavailable: the database is newer than this code, or cannot be used.
            DiskFull: no space left; nothing was changed.
        """
        if self.read_now(current_revision) != HEADS[self._name]:
            self.change_now(lambda change: upgrade(change.connection, self._name))

    def copy_to(self, path: str) -> None:
        """Write the database as it is at one moment to the file at `path`, which exists or not. Blocks.

        Raises:
            StoreUnavailable, DiskFull: it cannot be read, or written there.
        """
        with self._translated(), contextlib.closing(sqlite3.connect(path)) as target:
            connection = self._reader()
            try:
                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - no other engine is let in
                driver.backup(target)
            finally:
                self._put_back(connection)

    def close(self) -> None:
        """Let the changes asked for end, then close every connection. Using it afterwards is refused."""
        self._closed = True
        self._writer.shutdown(wait=True)
        if self._writer_connection is not None:
            _discard(self._writer_connection)
            self._writer_connection = None
        self._close_idle()

    def _reader(self) -> Connection:
        """The connection used last, which is the event loop's own as long as it alone reads."""
        if self._closed:
            raise self._unavailable("is closed")
        try:
            return self._idle.pop()
        except IndexError:
            return self._reading.connect()

    def _put_back(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            self._close_idle()

    def _close_idle(self) -> None:
        # Not a for loop: a reader that ends just now may still put its connection back.
        while self._idle:
            with contextlib.suppress(IndexError):
                _discard(self._idle.pop())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, ProgrammingError, sqlite3.ProgrammingError):
            raise
        except DBAPIError as error:
            raise self._trouble(error.orig) from error
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def _trouble(self, error: BaseException | None) -> StoreUnavailable | DiskFull:
        extended: int = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
            return DiskFull("no space is left on the server")
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return self._unavailable("is busy")
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return self._unavailable("is damaged")
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            return self._unavailable("cannot be opened for writing")
        return self._unavailable("cannot be used now")

    def _unavailable(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"the {self._name} database {what}")


def _sqlite_url(location: str) -> URL:
    if "://" not in location:
        return URL.create("sqlite+pysqlite", database=location)
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise StoreUnavailable("the address of the database is not a URL") from error
    if url.get_backend_name() != "sqlite":
        raise StoreUnavailable(f"databases of the kind {url.get_backend_name()} are not supported")
    return url


def _engine(url: URL, *pragmas: str) -> Engine:
    """An engine whose connections are set up by `pragmas`.

    Connections are kept by `Database`, so there is no pool. `sqlite3`'s own transactions are off
    (`isolation_level`): it would not open one for reading, nor for DDL, and never an immediate one.
    """
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={"isolation_level": None, "timeout": _BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(pragma).close()

    return engine


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _discard(connection: Connection) -> None:
    """Close a connection of whatever state; a transaction of its own is rolled back by that."""
    with contextlib.suppress(SQLAlchemyError):
        connection.invalidate()
    with contextlib.suppress(SQLAlchemyError):
        connection.close()
