"""The JSON API's documents: the files of a page that `Index.page` decided, and what else is known of them.

What a release says of itself comes from the metadata stored beside a private file, or from the upstream's own
document; without one, from the metadata of one of its files; without those, from the page alone. All that is
ornament: it is waited for only so long, and its failure never changes the status that the page has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from cachetools import LRUCache

from proxy.cache.documents import UpstreamDocuments
from proxy.cache.revalidated import Cached
from proxy.domain.documents import (
    About,
    FileNote,
    Release,
    UpstreamDocument,
    Vulnerability,
    equality_key,
    read_metadata,
    releases_of,
    render_document,
    shown_release,
)
from proxy.domain.negotiate import Coding
from proxy.domain.pages import FileRecord
from proxy.domain.versions import parse_version
from proxy.errors import InvalidVersion, NoSuchFile, StorageError, UpstreamError
from proxy.index.answers import Borrowed, Index, PageAnswer
from proxy.index.metadata import Metadata
from proxy.index.variants import Variant, encode
from proxy.registry.packages import StoredFile
from proxy.storage.objects import ObjectStore

DOCUMENT_PATIENCE = 8.0
"""Seconds that an upstream's documents are waited for; clients give up after ten to thirty."""
METADATA_PATIENCE = 4.0
"""Seconds that the metadata of a file are waited for. What is fetched goes on, and is there the next time."""

_log = logging.getLogger(__name__)

_KEEP = 16 << 20
"""Bytes of finished documents that are kept."""
_OFF_LOOP_FROM = 200
"""Files on a page from which a document takes more than 2 ms."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What adorns a document. `token` names its content; empty: do not keep what is made from it."""

    about: About = About()  # noqa: RUF009  # frozen
    notes: Mapping[str, FileNote] = field(default_factory=dict)
    vulnerabilities: tuple[Vulnerability, ...] = ()
    token: str = ""


class Documents:
    """Makes and keeps documents. Owned by one event loop."""

    def __init__(
        self, index: Index, upstream_documents: UpstreamDocuments, metadata: Metadata, objects: ObjectStore
    ) -> None:
        """Take where documents come from; asks nobody yet."""
        self._index = index
        self._upstream_documents = upstream_documents
        self._metadata = metadata
        self._objects = objects
        self._kept: LRUCache[tuple[str, ...], Variant] = LRUCache(
            _KEEP, getsizeof=lambda variant: len(variant.body)
        )

    async def get(
        self, answer: PageAnswer, version: str | None, *, base: str, coding: Coding
    ) -> Variant | None:
        """The document of a page that is served; None where the page has no such version.

        What it was decided on has to hold still (`Index.holds`) when the first byte leaves.

        Args:
            version: in any spelling of PEP 440, and of what that does not know as the page has it; None: the
                document of the project.
            base: as `render_document` has it.
        """
        screened = await answer.screened()
        page = screened.page
        is_long = len(page.files) >= _OFF_LOOP_FROM
        wanted = "" if version is None else equality_key(version)

        def find() -> tuple[dict[str, Release], Release | None]:
            found = releases_of(page)
            return found, shown_release(found) if version is None else found.get(wanted)

        releases, shown = await asyncio.to_thread(find) if is_long else find()
        if version is not None and shown is None:
            return None
        if shown is None or all(screened.withheld_file(file.filename, file.key) for file in shown.files):
            # Of what serves no file nothing is told: it may be withheld for what it says.
            told = _Told()
        else:
            told = await self._told(answer, shown, is_project=version is None)
        key = (answer.token, told.token, wanted, base, coding)
        is_kept = bool(answer.token and told.token)
        if is_kept and (kept := self._kept.get(key)) is not None:
            return kept

        def make() -> Variant:
            body = render_document(
                page.name,
                shown,
                releases if version is None else None,
                base=base,
                about=told.about,
                notes=told.notes,
                vulnerabilities=told.vulnerabilities,
            )
            return encode(body, coding)

        is_long = is_long or len(told.about.description) >= _OFF_LOOP_FROM << 10
        variant = await asyncio.to_thread(make) if is_long else make()
        if is_kept and len(variant.body) <= _KEEP:
            self._kept[key] = variant
        return variant

    async def _told(self, answer: PageAnswer, shown: Release, *, is_project: bool) -> _Told:
        """What is known of a release, and where `is_project` of all files, beyond the page."""
        notes: dict[str, FileNote] = {}
        # All files of a release are ours, or none: a version that we have is no upstream's (contract 4.3).
        if shown.files[0].url and not answer.is_gone:
            deadline = asyncio.get_running_loop().time() + DOCUMENT_PATIENCE
            found = await self._document(answer, None if is_project else shown.version, deadline)
            tokens = found.token if found is not None else ""
            if found is not None:
                notes |= {note.sha256: note for note in found.value.files}
            if found is not None and equality_key(found.value.version) != equality_key(shown.version):
                # The project's document tells of the release that its upstream would show; policy left another.
                found = await self._document(answer, shown.version, deadline)
                tokens += f" {found.token}" if found is not None else ""
            if found is not None:
                return _Told(found.value.about, notes, found.value.vulnerabilities, tokens)
        return _Told(await self._said_of_itself(answer, shown), notes)

    async def _document(
        self, answer: PageAnswer, version: str | None, deadline: float
    ) -> Cached[UpstreamDocument] | None:
        """A document of the upstream that has the name; None where it has none, or none that can be had now."""
        if answer.decision.upstream is None or (version is not None and not _is_pep440(version)):
            return None
        try:
            async with asyncio.timeout_at(deadline):
                return await self._upstream_documents.get(
                    answer.decision.upstream, answer.asked.name, version
                )
        except (UpstreamError, TimeoutError):
            return None

    async def _said_of_itself(self, answer: PageAnswer, shown: Release) -> About:
        """What the metadata of one of a release's files say; nothing where they cannot be had quickly."""
        record = _speaker(shown)
        source = (await self._index.file_of(answer.asked, record.key, record.filename)).source
        try:
            async with asyncio.timeout(METADATA_PATIENCE):
                if isinstance(source, StoredFile) and source.metadata_sha256 is not None:
                    return await asyncio.to_thread(self._stored, source.metadata_sha256)
                if isinstance(source, Borrowed) and source.record.advertised:
                    return await asyncio.to_thread(read_metadata, (await self._metadata.read(source)).content)
        except StorageError as error:
            _log.warning("metadata cannot be read for a document: %s", error)
        except (NoSuchFile, UpstreamError, TimeoutError):
            # The page says enough for a client to go on, and whether it still holds is asked at the end.
            pass
        return About()

    def _stored(self, digest: str) -> About:
        with self._objects.open(digest) as file:
            return read_metadata(file.read())


def _speaker(release: Release) -> FileRecord:
    """The file that speaks for its release: a wheel's metadata are final."""
    wheels = (file for file in release.files if file.filename.endswith(".whl"))
    return next(wheels, release.files[0])


def _is_pep440(version: str) -> bool:
    try:
        parse_version(version)
    except InvalidVersion:
        return False
    return True
