"""`open_instance`: the only place that makes long-lived objects and hands them to each other.

The server and the commands use the same one, so both work on the same data by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from proxy.archive.sandbox import Sandbox
from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.config.compile import file_of
from proxy.domain.snapshot import Snapshot
from proxy.errors import StorageError
from proxy.identity import tokens
from proxy.identity.oidc import Issuers, Trust
from proxy.identity.throttle import Throttle
from proxy.identity.tokens import LastUse
from proxy.index.answers import Index
from proxy.index.changed import note_changed
from proxy.index.documents import Documents
from proxy.index.instance import Instance
from proxy.index.metadata import Metadata
from proxy.index.names import NameLists
from proxy.index.variants import Variants
from proxy.observe.metrics import Metrics
from proxy.registry import namespaces
from proxy.registry.publish import Publisher
from proxy.storage.database import Change, Database
from proxy.storage.disk import translated, write_whole
from proxy.storage.layout import Layout
from proxy.storage.locks import Locks
from proxy.storage.objects import DiskObjects
from proxy.upstream.client import Upstream
from proxy.upstream.issuers import IssuerDocuments


def utc_now() -> datetime:
    """The clock of everything that is not given another."""
    return datetime.now(UTC)


def program_version() -> str:
    """The version of the installed distribution; `0` in a tree that is not installed."""
    try:
        return version("pypi-overlay")
    except PackageNotFoundError:
        return "0"


def open_instance(
    snapshot: Snapshot,
    *,
    serving: bool = False,
    settled: bool = True,
    now: Callable[[], datetime] = utc_now,
) -> Instance:
    """Open the data directory and wire everything to it. Nothing talks to the network yet.

    Args:
        serving: become the one server of the data directory, and sweep up what a killed one left behind.
        settled: see to it that the data's namespaces are those of the configuration; commands that mend
            exactly that pass False.

    Raises:
        ConfigError: the configuration would lose namespaces that hold something.
        StorageError: the data directory or a database cannot be used, or another process serves it.
    """
    layout = Layout(snapshot.data_dir)
    try:
        layout.prepare()
    except StorageError as error:
        # Below, paths stay out of messages, since those may reach clients; here only the operator listens.
        error.message = f"{snapshot.data_dir}: {error.message}"
        raise
    locks = Locks(layout)
    try:
        if serving:
            locks.hold_serve()
        registry = Database(layout.registry_database, locks, name="registry")
        cache = Database(layout.cache_database, locks, name="cache")
        registry.migrate()
        cache.migrate()
        if settled and not registry.read_now(lambda c: namespaces.is_settled(c, snapshot.tree)):
            registry.change_now(
                lambda change: namespaces.settle(change, snapshot.tree, now(), file=file_of(snapshot))
            )
    except BaseException:
        locks.close()
        raise
    metrics = Metrics(program_version(), snapshot.digest, snapshot.cache.max_size)
    agent = f"pypi-overlay/{program_version()} (caching package index)"
    upstreams = {
        name: Upstream(
            settings,
            max_page_size=snapshot.limits.max_page_size,
            user_agent=agent,
            metrics=metrics.upstream(name),
        )
        for name, settings in snapshot.upstreams.items()
    }
    issuer_documents = IssuerDocuments(agent)
    issuers = Issuers(snapshot.oidc, Trust(snapshot.tree, snapshot.oidc), issuer_documents, now)
    objects = DiskObjects(layout)
    sandbox = Sandbox()
    pages = Pages(layout, cache, upstreams, snapshot.cache, now, partial(note_changed, registry, now))
    files = Files(layout, cache, upstreams, snapshot.cache, now, metrics.cache)
    upstream_documents = UpstreamDocuments(layout, upstreams, snapshot.cache, now)
    metadata = Metadata(files, upstreams, now)
    known_names = KnownNames(layout, locks, upstreams, now)
    index = Index(snapshot.tree, registry, pages)
    if serving:
        objects.clear_incoming()
        files.recover()
        issuers.prepare()
    return Instance(
        snapshot=snapshot,
        layout=layout,
        locks=locks,
        registry=registry,
        cache=cache,
        upstreams=upstreams,
        objects=objects,
        pages=pages,
        upstream_documents=upstream_documents,
        files=files,
        metadata=metadata,
        known_names=known_names,
        index=index,
        names=NameLists(snapshot.tree, registry, known_names),
        variants=Variants(snapshot.server.external_url),
        documents=Documents(index, upstream_documents, metadata, objects),
        sandbox=sandbox,
        publisher=Publisher(registry, objects, sandbox, snapshot.tree, snapshot.limits, now),
        last_use=LastUse(),
        issuers=issuers,
        issuer_documents=issuer_documents,
        throttle=Throttle(snapshot.limits.failed_logins, now),
        metrics=metrics,
        version=program_version(),
        started_at=now(),
        now=now,
    )


async def close_instance(instance: Instance) -> None:
    """End transfers and background work, write what waits in memory, close everything."""
    await instance.sandbox.close()
    await instance.metadata.close()
    await instance.files.close()
    await instance.pages.close()
    await instance.known_names.close()
    await instance.upstream_documents.close()
    for upstream in instance.upstreams.values():
        await upstream.close()
    await instance.issuer_documents.close()
    if instance.last_use.is_waiting:
        await instance.registry.change(instance.last_use.flush)
    instance.registry.close()
    instance.cache.close()
    instance.locks.close()


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
