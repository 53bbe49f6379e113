"""`open_instance`: the only place that makes long-lived objects and hands them to each other.

The server and the commands use the same one, so both work on the same data by the same rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from tempfile import TemporaryDirectory

from sqlalchemy import Connection

from proxy.archive.sandbox import Sandbox
from proxy.cache.advisories import Advisories
from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.held import held_digests
from proxy.cache.kept import KeptNames, KeptPages
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.cache.sightings import Sightings
from proxy.cache.variants import VariantFiles
from proxy.domain.access import OPERATOR, STARTING
from proxy.domain.namespaces import Tree
from proxy.domain.snapshot import Snapshot
from proxy.errors import StorageError, StoreUnavailable
from proxy.identity import tokens
from proxy.identity.oidc import Issuers, Trust
from proxy.identity.throttle import Throttle
from proxy.identity.tokens import LastUse
from proxy.index.answers import Index
from proxy.index.changed import Watch
from proxy.index.circumstances import Sources
from proxy.index.crew import Alone, Crew
from proxy.index.documents import Documents
from proxy.index.instance import Foundations, Instance
from proxy.index.jobs import Jobs
from proxy.index.metadata import Metadata
from proxy.index.names import NameLists
from proxy.index.radar import Radar
from proxy.index.shadowing import Shadowing
from proxy.index.variants import Variants
from proxy.observe.counts import Shared
from proxy.observe.metrics import Metrics
from proxy.observe.requests import RequestLog
from proxy.registry import namespaces
from proxy.registry.publish import Publisher
from proxy.server.start import prepared, program_version
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.board import Board, new_serial
from proxy.storage.database import Change, Database
from proxy.storage.disk import translated, write_whole
from proxy.storage.downloads import Downloads
from proxy.storage.layout import Layout
from proxy.storage.locks import SERVE, Locks
from proxy.storage.objects import DiskObjects
from proxy.upstream.client import Upstream
from proxy.upstream.issuers import IssuerDocuments


def utc_now() -> datetime:
    """The clock of everything that is not given another."""
    return datetime.now(UTC)


ONLY = 0
"""The number of a worker that has no others beside it."""


@dataclass(frozen=True, slots=True)
class Post:
    """The place of one worker among several.

    Attributes:
        number: from 1 on; that of a worker that died is its successor's.
        serial: of the configuration.
        is_first: it opens the data directory for all of them; the others are started behind it.
        started_at: when the server was.
    """

    number: int
    serial: int
    is_first: bool
    started_at: datetime


def open_instance(
    snapshot: Snapshot,
    *,
    serving: bool = False,
    post: Post | None = None,
    crew: Crew | None = None,
    settled: bool = True,
    now: Callable[[], datetime] = utc_now,
) -> Instance:
    """Open the data directory and wire everything to it. Nothing talks to the network yet.

    Args:
        serving: become the one server of the data directory, and sweep up what a killed one left behind.
        post: or one of its workers, whose supervisor is that server.
        crew: those who serve together; None: of a command.
        settled: see to it that the data's namespaces are those of the configuration; commands that mend
            exactly that pass False.

    Raises:
        ConfigError: the configuration would lose namespaces that hold something.
        StorageError: the data directory or a database cannot be used, or another process serves it.
    """
    layout = prepared(snapshot)
    with contextlib.ExitStack() as opened:
        locks = Locks(layout)
        opened.callback(locks.close)
        is_server = serving and post is None
        post = Post(ONLY, new_serial(), is_first=True, started_at=now()) if is_server else post
        if is_server:
            locks.hold_serve()
        board = Board(layout)
        opened.callback(board.close)
        registry = Database(layout.registry_database, locks, name="registry", board=board)
        opened.callback(registry.close)
        cache = Database(layout.cache_database, locks, name="cache")
        opened.callback(cache.close)
        registry.migrate()
        cache.migrate()
        if settled and (post is None or post.is_first):
            _settle(registry, locks, snapshot, now, serving=post is not None)
        foundations = Foundations(
            layout=layout,
            locks=locks,
            board=board,
            registry=registry,
            cache=cache,
            objects=DiskObjects(layout),
            sandbox=Sandbox(),
            last_use=LastUse(),
            downloads=Downloads(cache),
            request_log=_request_log(layout, snapshot),
            jobs=Jobs(layout, locks),
            metrics=_metrics(layout, post),
            crew=crew or Alone(),
            version=program_version(),
            started_at=now() if post is None else post.started_at,
            now=now,
        )
        instance = _instance(foundations, snapshot, None if post is None else post.serial)
        if post is not None:
            registry.settle()
            instance.issuers.prepare()
            foundations.objects.clear_incoming(of_all=post.is_first)
            if post.is_first:
                board.put_in_force(post.serial)
                instance.files.recover()
        # From here on it is for `close_instance`.
        opened.pop_all()
    return instance


def _metrics(layout: Layout, post: Post | None) -> Metrics:
    if post is None or post.number == ONLY:
        return Metrics(program_version())
    return Metrics(program_version(), Shared(layout.metrics, post.number))


def _request_log(layout: Layout, snapshot: Snapshot) -> RequestLog | None:
    requests = snapshot.log.requests
    return None if requests is None else RequestLog(layout.request_log(requests))


def _settle(
    registry: Database, locks: Locks, snapshot: Snapshot, now: Callable[[], datetime], *, serving: bool
) -> None:
    """Make the data's namespaces those of the configuration.

    A command does not where a server runs and something would move or go: that server still answers by the
    namespaces of its own configuration, and goes over to others in one moment (`switch`).

    Raises:
        ConfigError: something would be lost.
        StoreUnavailable: the server has to load the configuration first.
    """
    tree = snapshot.tree

    def act(change: Change) -> None:
        if namespaces.is_settled(change.connection, tree):
            return
        if not serving and locks.holder(SERVE) and not namespaces.are_only_added(change.connection, tree):
            raise StoreUnavailable(
                "the file moves or drops namespaces that the running server still has",
                hint="run pypi-overlay config reload first",
            )
        _moved(change, tree, By(STARTING if serving else OPERATOR, now()), snapshot)

    # A server looks under the writer's lock: then no command can come between its look and its first answer.
    if serving or not registry.read_now(lambda connection: namespaces.is_settled(connection, tree)):
        registry.change_now(act)


def _moved(change: Change, tree: Tree, by: By, snapshot: Snapshot) -> None:
    """Make the data's namespaces those of `tree`, and record what that moves. Raises ConfigError as `settle`."""
    for former, path in namespaces.settle(change, tree, by.at, file=snapshot.source).items():
        audit.record(change.connection, by, "namespace.move", namespace=path, detail={"from": former})


def another_instance(instance: Instance, snapshot: Snapshot, serial: int) -> Instance:
    """An instance of another configuration on the foundations of `instance`; not yet in force. Blocks.

    Data directory and log stay those of the process, whatever the configuration says.
    """
    made = _instance(instance, snapshot, serial)
    made.issuers.prepare()
    return made


def switch(instance: Instance, before: Snapshot, by: By) -> None:
    """Put the configuration of an instance into force, in every worker at one moment. Blocks.

    The data's namespaces become those of the configuration at the same moment: no answer is decided by the old
    ones over data that moved already, nor by the new ones over data that did not move yet. For that no configuration
    is in force while the change is committed. Whoever decided by the one before finds its stamp broken before its
    first byte, and whoever begins meanwhile waits for that commit.

    Args:
        before: the configuration that it takes the place of.
        by: who wants it so, for the audit.

    Raises:
        ConfigError: namespaces that hold something would be lost; nothing has changed.
        StorageError: it cannot be written; nothing has changed.
    """
    board, snapshot = instance.board, instance.snapshot
    assert instance.serial is not None  # noqa: S101 - commands have nothing to put into force
    serial = board.serial

    def act(change: Change) -> None:
        if not namespaces.is_settled(change.connection, snapshot.tree):
            _moved(change, snapshot.tree, by, snapshot)
        detail = {"file": snapshot.file, "before": before.digest, "after": snapshot.digest}
        audit.record(change.connection, by, "config.reload", detail=detail)
        # The last before the commit, under the writer's lock.
        board.suspend()

    try:
        instance.registry.change_now(act)
    except BaseException:
        if board.is_suspended:
            board.put_in_force(serial)
        raise
    board.put_in_force(instance.serial)


def offline_instance(instance: Instance) -> Instance:
    """As `instance`, which stands below it; but its index asks no upstream, and answers by what is kept of them.

    For `retire_instance`.
    """
    return _instance(instance, instance.snapshot, None, KeptPages, KeptNames)


@contextlib.contextmanager
def tried_instance(instance: Instance, snapshot: Snapshot) -> Iterator[Instance]:
    """As `offline_instance`, of another configuration, with namespaces as they would be under it. Blocks.

    What it would move is moved in a copy of the registry, which is deleted at the end of the `with` block.

    Raises:
        ConfigError: namespaces that hold something would be lost.
        StorageError: the registry cannot be copied.
    """
    registry, tree = instance.registry, snapshot.tree
    with contextlib.ExitStack() as opened:
        if not registry.read_now(lambda connection: namespaces.are_only_added(connection, tree)):
            layout = Layout(opened.enter_context(TemporaryDirectory(prefix="pypi-overlay-")))
            layout.prepare()
            registry.copy_to(layout.registry_database)
            locks = Locks(layout)
            opened.callback(locks.close)
            registry = Database(layout.registry_database, locks, name="registry")
            opened.callback(registry.close)
            registry.change_now(
                lambda change: namespaces.settle(change, tree, instance.now(), file=snapshot.source)
            )
        yield offline_instance(replace(instance, registry=registry, snapshot=snapshot))


def _instance(
    base: Foundations,
    snapshot: Snapshot,
    serial: int | None,
    kind_of_pages: type[Pages] = Pages,
    kind_of_names: type[KnownNames] = KnownNames,
) -> Instance:
    """What belongs to one configuration, wired to what lives as long as the process."""
    layout, locks, board, registry, cache, now = (
        base.layout,
        base.locks,
        base.board,
        base.registry,
        base.cache,
        base.now,
    )
    agent = f"pypi-overlay/{program_version()} (caching package index)"
    upstreams = {
        name: Upstream(
            settings,
            max_page_size=snapshot.limits.max_page_size,
            user_agent=agent,
            metrics=base.metrics.upstream(name),
            now=now,
        )
        for name, settings in snapshot.upstreams.items()
    }
    issuer_documents = IssuerDocuments(agent)
    issuers = Issuers(snapshot.oidc, Trust(snapshot.tree, snapshot.oidc), issuer_documents, now)
    held = partial(registry.read_now, held_digests)
    files = Files(layout, locks, cache, upstreams, snapshot.cache, now, base.metrics.cache, held)
    sightings = Sightings(registry, now)
    watch = Watch(registry, files, sightings, now)
    pages = kind_of_pages(layout, locks, board, cache, upstreams, snapshot.cache, now, watch.note_replaced)
    upstream_documents = UpstreamDocuments(layout, locks, board, upstreams, snapshot.cache, now)
    metadata = Metadata(files, upstreams, now)
    known_names = kind_of_names(layout, locks, board, upstreams, now)
    advisories = Advisories(layout, locks, board, snapshot.advisories, now)
    sources = Sources(registry, board, sightings, advisories.of)
    index = Index(snapshot.tree, registry, pages, known_names, sources, board, serial, now)
    variant_files = VariantFiles(layout)
    return Instance(
        snapshot=snapshot,
        serial=serial,
        layout=base.layout,
        locks=base.locks,
        board=base.board,
        registry=base.registry,
        cache=base.cache,
        upstreams=upstreams,
        objects=base.objects,
        pages=pages,
        sightings=sightings,
        upstream_documents=upstream_documents,
        files=files,
        metadata=metadata,
        known_names=known_names,
        advisories=advisories,
        radar=Radar(snapshot.tree, registry, known_names, locks, now, base.started_at),
        index=index,
        names=NameLists(snapshot.tree, registry, known_names, now),
        variant_files=variant_files,
        variants=Variants(variant_files, snapshot.server.external_url, base.version),
        documents=Documents(index, upstream_documents, metadata, base.objects),
        sandbox=base.sandbox,
        publisher=Publisher(
            registry,
            base.objects,
            base.sandbox,
            snapshot.tree,
            snapshot.limits,
            Shadowing(snapshot.tree, pages, known_names),
            now,
            lambda: serial is None or board.serial == serial,
        ),
        last_use=base.last_use,
        downloads=base.downloads,
        request_log=base.request_log,
        jobs=base.jobs,
        issuers=issuers,
        issuer_documents=issuer_documents,
        throttle=_throttle(base, snapshot),
        metrics=base.metrics,
        version=base.version,
        started_at=base.started_at,
        loaded_at=now(),
        crew=base.crew,
        now=now,
    )


def _throttle(base: Foundations, snapshot: Snapshot) -> Throttle:
    """Failures go on being counted over a new configuration, unless it has another limit."""
    limit = snapshot.limits.failed_logins
    if isinstance(base, Instance) and base.snapshot.limits.failed_logins == limit:
        return base.throttle
    return Throttle(limit, base.now)


async def retire_instance(instance: Instance) -> None:
    """Close what is of one configuration alone, after another came into force and no request is under way in it."""
    await instance.metadata.close()
    await instance.files.close()
    await instance.pages.close()
    await instance.sightings.close()
    await instance.known_names.close()
    await instance.upstream_documents.close()
    await instance.variants.close()
    for upstream in instance.upstreams.values():
        await upstream.close()
    await instance.issuer_documents.close()


async def close_instance(instance: Instance) -> None:
    """End transfers and background work, write what waits in memory, close everything."""
    await instance.jobs.close()
    await instance.sandbox.close()
    await retire_instance(instance)
    if instance.last_use.is_waiting:
        await instance.registry.change(instance.last_use.flush)
    if instance.request_log is not None:
        await instance.request_log.flush()
    # What cannot be written now never will be: whoever waits for the end need not wait for that.
    with contextlib.suppress(StorageError):
        await instance.downloads.flush()
    instance.metrics.share()
    instance.registry.close()
    instance.cache.close()
    instance.board.close()
    instance.locks.close()


def note_configuration(instance: Instance) -> None:
    """Record the configuration with which a server starts, where it is another than the one before.

    Raises:
        StorageError: it cannot be written.
    """
    snapshot = instance.snapshot

    def before(connection: Connection) -> object:
        found = audit.latest(connection, ("config.start", "config.reload"))
        return None if found is None else found["after"]

    known = instance.registry.read_now(before)
    if known == snapshot.digest:
        return
    detail = {"file": snapshot.file, "before": known, "after": snapshot.digest}
    by = By(STARTING, instance.now())
    instance.registry.change_now(
        lambda change: audit.record(change.connection, by, "config.start", detail=detail)
    )


def admit_owner(instance: Instance, preset: str | None) -> str | None:
    """See to it that an owner can come in; to be called at every start of the server.

    The first start writes a new owner token to `owner-token` below the data directory (mode 0600), unless
    `preset` gives one.

    Returns:
        The text of a token that was made and written now, for a terminal; else None.
    """

    def act(change: Change) -> str | None:
        text = tokens.first_owner_token(change, instance.now(), preset)
        if text is None or preset is not None:
            return None
        # Before the commit: a token that stands in no file could never be used.
        with translated("the owner token cannot be written"):
            write_whole(instance.layout.owner_token, f"{text}\n".encode())
        return text

    return instance.registry.change_now(act)
