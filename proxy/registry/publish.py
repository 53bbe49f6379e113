"""One upload from its first byte to its commit, in the order of contract 6.

The body is streamed to disk while it is hashed; memory does not grow with the file. Nothing is visible before
the one transaction at the end, and whatever fails before it leaves no trace but a file that the next start
sweeps away.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from proxy.archive.inspect import Inspected
from proxy.archive.sandbox import Sandbox
from proxy.domain.admit import admit
from proxy.domain.filenames import Distribution, parse_distribution
from proxy.domain.names import Name
from proxy.domain.namespaces import Namespace, Tree
from proxy.domain.snapshot import Limits
from proxy.domain.versions import parse_version, version_key
from proxy.errors import InvalidForm, Outdated, TooLarge
from proxy.registry import namespaces, packages
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
            NotPermitted: somebody else owns the name.
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
            return await self._database.change(lambda change: self._commit(change, upload))
        finally:
            incoming.discard()

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

    def _commit(self, change: Change, upload: _Upload) -> Published:
        """Inside the transaction: judge ownership, insert the rows, keep the bytes."""
        project, form, by = upload.project, upload.form, replace(upload.by, at=self._now())
        if not self._is_in_force() and not namespaces.is_known(change.connection, project.path):
            # An upload is judged by the configuration that it began with, but it cannot bring back what the one
            # that replaced it has moved or dropped.
            raise Outdated(
                f"{project.path} was moved or dropped by a new configuration", hint="publish again"
            )
        facts = packages.facts(change.connection, form.name)
        admit(project, form.name, by.who, facts, self._tree)
        new = _new_file(upload, by)
        if project.policy.identical_upload == "accept":
            twin = packages.find_twin(change.connection, project.path, new)
            if twin is not None and twin.sha256 == new.sha256:
                return _unchanged(upload, twin)
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
            detail={"sha256": new.sha256, "size": new.size, "first": not facts.owned},
        )
        return Published(form.name, new.version, new.filename, new.sha256, project.path)

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

        Args:
            version: in any spelling of PEP 440.

        Raises:
            NoSuchName, NoSuchFile: there is nothing of that kind.
            InvalidVersion: `version` is none.
        """
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
