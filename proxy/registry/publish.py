"""One upload from its first byte to its commit, in the order of contract 6.

The body is streamed to disk while it is hashed; memory does not grow with the file. Nothing is visible before
the one transaction at the end, and whatever fails before it leaves no trace but a file that the next start
sweeps away.

Before the first publication of a name upstreams may have to be asked for it. That happens between two runs of that
transaction: the first finds it out and is rolled back before it writes; the second judges everything again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol

from proxy.archive.inspect import Inspected
from proxy.archive.sandbox import Sandbox
from proxy.domain.access import Action, Caller, may
from proxy.domain.admit import Shadow, admit, check_protected
from proxy.domain.filenames import Distribution, parse_distribution
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, Tree
from proxy.domain.policy import Policy
from proxy.domain.snapshot import Limits
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidForm, Outdated, StorageError, TooLarge
from proxy.registry import listing, namespaces, packages
from proxy.registry.form import (
    MAX_FIELD,
    Fields,
    Form,
    check_digests,
    check_filename,
    check_local_version,
    read_form,
)
from proxy.registry.provenance import provenance_of
from proxy.storage import audit
from proxy.storage.audit import By
from proxy.storage.database import Change, Database
from proxy.storage.objects import Incoming, ObjectStore

_CHUNK = 1 << 20
"""Bytes hashed and written at a time: one hop to a thread per MiB."""
MOST_ALIKE = 5
"""How many look-alikes of a name the answer to its first publication names."""

_log = logging.getLogger(__name__)


class Part(Protocol):
    """One part of a multipart body, as `web.upload` hands it in.

    Attributes:
        name: of the field; None where it cannot be told.
        filename: None for text.
        is_encoded: whether it claims a content or transfer encoding (T-UP7).
    """

    @property
    def name(self) -> str | None: ...
    @property
    def filename(self) -> str | None: ...
    @property
    def is_encoded(self) -> bool: ...

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the part."""


class PublicNames(Protocol):
    """What upstreams have, as `index.shadowing` finds it out."""

    async def who_has(self, name: Name, project: Namespace) -> Shadow:
        """Which upstream that a project shadows has a name; in a few seconds, whatever upstreams do."""

    async def look_alikes(self, name: Name, policy: Policy) -> Sequence[tuple[str, Name]]:
        """Names that people take for this one, each behind its upstream; nobody is asked for any."""


class _MustAsk(Exception):
    """Rolls a publication back: upstreams have to be asked for the name first."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the answer to an upload says (contract 12).

    `is_new` is False where the file was published already and nothing changed.
    """

    name: str
    version: str
    filename: str
    sha256: str
    project: str
    warnings: tuple[str, ...] = ()
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload that passed every check that needs no database."""

    incoming: Incoming
    project: Namespace
    by: By
    form: Form
    distribution: Distribution
    inspected: Inspected
    provenance: bytes | None


class Publisher:
    """Publishes to, and deletes from, the projects of one instance."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        sandbox: Sandbox,
        tree: Tree,
        limits: Limits,
        public: PublicNames,
        now: Callable[[], datetime],
        is_in_force: Callable[[], bool],
    ) -> None:
        """Take what uploads go through.

        Args:
            is_in_force: whether the configuration that `tree` is of still is.
        """
        self._database = database
        self._objects = objects
        self._sandbox = sandbox
        self._tree = tree
        self._limits = limits
        self._public = public
        self._now = now
        self._is_in_force = is_in_force

    def free_space(self) -> int:
        """Bytes that may still be written below the data directory."""
        return self._objects.free_space()

    async def receive(
        self,
        parts: AsyncIterator[Part],
        *,
        project: Namespace,
        by: By,
        action: str | None = None,
    ) -> Published:
        """Take one upload. That `by.who` may publish to `project` is checked before.

        It counts from its commit on, however long ago `by.at` was.

        Args:
            action: `:action` of the query string, where it stood there.

        Raises:
            TooLarge: the file is over the limit.
            InvalidInput: form, name, version, filename, digests, archive or attestations are not in order.
            NotPermitted: somebody else owns the name, it is protected, or it is an upstream's and this its first
                publication here, which takes a higher role.
            AlreadyExists: a file of this name, or of the same kind, version and tags, is published, and it has
                other bytes or the project's `identical_upload` is `reject`.
            DiskFull: no space left.
        """
        incoming = self._objects.incoming()
        try:
            fields, filename = await self._gather(parts, incoming)
            form = read_form(fields, action=action, max_description=self._limits.max_description)
            check_local_version(form, project.policy.local_versions)
            if filename is None:
                raise InvalidForm("the form has no file", hint="its field is called content")
            distribution = parse_distribution(filename, form.name)
            check_filename(form, distribution)
            await asyncio.to_thread(incoming.finish)
            check_digests(
                form,
                {
                    "md5_digest": incoming.md5,
                    "sha256_digest": incoming.sha256,
                    "blake2_256_digest": incoming.blake2b,
                },
            )
            inspected = await self._sandbox.inspect(incoming.path, distribution)
            provenance = None
            if form.attestations is not None:
                provenance = await asyncio.to_thread(
                    provenance_of, form.attestations, distribution, incoming.sha256, by.who
                )
            upload = _Upload(incoming, project, by, form, distribution, inspected, provenance)
            published, is_first = await self._publish(upload)
        finally:
            incoming.discard()
        if not is_first:
            return published
        warnings = await self._look_alikes(form.name, project, by.who)
        return replace(published, warnings=(*published.warnings, *warnings))

    async def _publish(self, upload: _Upload) -> tuple[Published, bool]:
        """Commit an upload, after upstreams were asked for its name where that has to be."""
        try:
            return await self._database.change(partial(self._commit, upload=upload))
        except _MustAsk:
            shadow = await self._public.who_has(upload.form.name, upload.project)
        return await self._database.change(partial(self._commit, upload=upload, shadow=shadow))

    async def _look_alikes(self, name: Name, project: Namespace, caller: Caller) -> list[str]:
        """Warnings of names that people take for `name`: upstreams', and those of its tenant that the caller may see.

        Whoever publishes has the file published already, so no trouble here is told as one of the upload.
        """
        try:
            ours = await asyncio.to_thread(self._database.read_now, partial(listing.look_alikes, name=name))
            theirs = await self._public.look_alikes(name, project.policy)
        except StorageError as error:
            _log.warning("the names that look like %s cannot be told: %s", name, error)
            return []
        owner, tree = self._tree.owner(project.path), self._tree
        seen = [
            (holder.path, alike)
            for path, alike in ours
            if tree.owner(path) == owner
            and (holder := tree.get(path)) is not None
            and may(caller, Action.READ, holder, tree)
        ]
        told = [f"{name} looks like {alike}, which {path} publishes" for path, alike in seen]
        told += [f"{name} looks like {alike}, which {upstream} has" for upstream, alike in theirs]
        return told[:MOST_ALIKE]

    async def _gather(self, parts: AsyncIterator[Part], incoming: Incoming) -> tuple[Fields, str | None]:
        fields = Fields()
        filename: str | None = None
        async for part in parts:
            name = part.name
            if name is None:
                raise InvalidForm("a part of the form has no name")
            fields.count(name)
            if part.is_encoded:
                raise InvalidForm(f"the field {name[:60]!a} is encoded", hint="send parts as they are")
            if name == "content":
                if filename is not None or part.filename is None:
                    raise InvalidForm("the form must have one file, in the field content")
                filename = part.filename
                await self._store(part, incoming)
            elif name == "gpg_signature":
                await self._text(name, part)
            elif part.filename is not None:
                raise InvalidForm(f"the field {name[:60]!a} must be text, not a file")
            else:
                fields.add(name, await self._text(name, part))
        return fields, filename

    async def _store(self, part: Part, incoming: Incoming) -> None:
        buffer = bytearray()
        while True:
            piece = await part.read()
            buffer += piece
            if incoming.size + len(buffer) > self._limits.max_file_size:
                raise too_large(self._limits.max_file_size)
            if len(buffer) >= _CHUNK or (not piece and buffer):
                await asyncio.to_thread(incoming.write, bytes(buffer))
                buffer.clear()
            if not piece:
                return

    async def _text(self, name: str, part: Part) -> bytes:
        value = bytearray()
        while piece := await part.read():
            if len(value) + len(piece) > MAX_FIELD:
                if name != "description":
                    raise InvalidForm(f"the field {name[:60]!a} is over {MAX_FIELD >> 20} MiB")
                piece = piece[: MAX_FIELD - len(value)]
            value += piece
        if len(value) == MAX_FIELD:
            # A cut may have fallen into a character.
            return value.decode(errors="ignore").encode()
        return bytes(value)

    def _commit(
        self, change: Change, upload: _Upload, shadow: Shadow | None = None
    ) -> tuple[Published, bool]:
        """Inside the transaction: judge ownership, insert the rows, keep the bytes.

        Returns:
            What was published, and whether that was the first publication of the name (`admit.Admission.is_first`).

        Raises:
            _MustAsk: nothing was written yet, and without a `shadow` nothing may be.
        """
        project, form, by = upload.project, upload.form, replace(upload.by, at=self._now())
        if not self._is_in_force() and not namespaces.is_known(change.connection, project.path):
            # An upload is judged by the configuration that it began with, but it cannot bring back what the one
            # that replaced it has moved or dropped.
            raise Outdated(
                f"{project.path} was moved or dropped by a new configuration", hint="publish again"
            )
        facts = packages.facts(change.connection, form.name)
        admission = admit(project, form.name, by.who, facts, self._tree, by.at, shadow)
        if admission.must_ask:
            raise _MustAsk
        new = replace(_new_file(upload, by), shadows=admission.shadows)
        if project.policy.identical_upload == "accept":
            twin = packages.find_twin(change.connection, project.path, new)
            if twin is not None and twin.sha256 == new.sha256:
                return _unchanged(upload, twin), False
        packages.insert_file(change, project.path, new)
        # Kept under the writer's lock, as deletions drop them: no row can lose its object in between. After a
        # crash before COMMIT the objects are garbage, never visible.
        self._objects.put_bytes(upload.inspected.metadata)
        if upload.provenance is not None:
            self._objects.put_bytes(upload.provenance)
        self._objects.keep(upload.incoming)
        audit.record(
            change.connection,
            by,
            "file.upload",
            namespace=project.path,
            name=form.name,
            version=new.version,
            filename=new.filename,
            detail={
                "sha256": new.sha256,
                "size": new.size,
                "first": not facts.owned,
                **({} if new.shadows is None else {"shadows": new.shadows}),
            },
        )
        published = Published(form.name, new.version, new.filename, new.sha256, project.path)
        return published, admission.is_first

    async def delete(
        self,
        project: Namespace,
        name: Name,
        version: str | None = None,
        filename: str | None = None,
        *,
        by: By,
    ) -> packages.Removed:
        """Delete a package, one of its releases, or one file; the name stays claimed.

        That `by.who` may delete from `project` is checked before.

        Args:
            version: in any spelling of PEP 440.

        Raises:
            NotPermitted: the name is protected, and the caller's role too low.
            NoSuchName, NoSuchFile: there is nothing of that kind.
            InvalidVersion: `version` is none.
        """
        check_protected(project, name, by.who, Action.DELETE)
        key = None if version is None else version_key(parse_version(version))

        def act(change: Change) -> packages.Removed:
            removed = packages.delete_files(change, project.path, name, key, filename)
            audit.record(
                change.connection,
                by,
                "file.delete",
                namespace=project.path,
                name=name,
                version=version,
                filename=filename,
                detail={"files": list(removed.filenames), "tombstone": removed.tombstone},
            )
            return removed

        removed = await self._database.change(act)
        await self.sweep(removed.digests)
        return removed

    async def sweep(self, digests: tuple[str, ...]) -> None:
        """Drop those of `digests` that no file refers to any more.

        In a transaction of its own: only when the rows are surely gone may the bytes go.
        """

        def act(change: Change) -> None:
            for digest in packages.unreferenced(change.connection, digests):
                self._objects.delete(digest)

        await self._database.change(act)


def _new_file(upload: _Upload, by: By) -> packages.NewFile:
    """The rows that an upload adds."""
    form, distribution, inspected = upload.form, upload.distribution, upload.inspected
    return packages.NewFile(
        name=form.name,
        display_name=form.display_name,
        version=str(distribution.version),
        version_key=version_key(distribution.version),
        filename=distribution.filename,
        identity=distribution.identity,
        kind=str(distribution.kind),
        sha256=upload.incoming.sha256,
        blake2b=upload.incoming.blake2b,
        size=upload.incoming.size,
        metadata_sha256=hashlib.sha256(inspected.metadata).hexdigest(),
        metadata_final=inspected.final,
        requires_python=inspected.requires_python,
        summary=inspected.summary,
        uploaded_at=by.at,
        uploaded_by=audit.describe(by.who),
        fields=form.kept,
        provenance_sha256=None
        if upload.provenance is None
        else hashlib.sha256(upload.provenance).hexdigest(),
    )


def _unchanged(upload: _Upload, twin: packages.Twin) -> Published:
    """The answer to an upload of bytes that are published already."""
    same = "" if twin.filename == upload.distribution.filename else f" as {twin.filename}"
    warnings = [f"these bytes are published{same}; nothing was changed"]
    if upload.provenance is not None:
        warnings.append("the attestations were not stored: they belong to the first upload of a file")
    return Published(
        upload.form.name,
        twin.version,
        twin.filename,
        twin.sha256,
        upload.project.path,
        tuple(warnings),
        is_new=False,
    )


def too_large(limit: int) -> TooLarge:
    """The refusal of a file over `limit` bytes."""
    return TooLarge(
        f"the file is larger than the limit of {limit} bytes", hint="max_file_size in limits sets it"
    )
