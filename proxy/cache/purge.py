"""Forgetting what was borrowed: pages and documents of names, what was made of them, and the files they list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.held import digests_of, held_digests
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.cache.variants import VariantFiles
from proxy.domain.names import Name
from proxy.storage.database import Database


@dataclass(frozen=True, slots=True)
class Purged:
    """How many pages and files were deleted, and how many files stay because they are held or were released."""

    pages: int
    files: int
    held: int


@dataclass(frozen=True, slots=True)
class Parts:
    """All that keeps something of upstreams."""

    pages: Pages
    documents: UpstreamDocuments
    variants: VariantFiles
    files: Files
    known_names: KnownNames
    registry: Database


def purge(parts: Parts, names: Iterable[Name] | None) -> Purged:
    """Delete the cached pages and documents of `names` and the cached files they list.

    None: everything, the kept lists of names too. What is held stays, since no upstream has it any more.

    Files whose page is no longer cached are found only by None, and what is arriving just now not at all.
    Synchronous, for any thread; takes effect in running servers at once.

    Raises:
        StorageError: the cache database cannot be changed.
    """
    if names is None:
        parts.documents.purge(None)
        parts.known_names.purge()
        gone_files = parts.files.purge(None)
        gone_pages = parts.pages.purge(None)
        parts.variants.purge(None)
        return Purged(gone_pages, gone_files, len(parts.registry.read_now(held_digests)))
    gone_pages = gone_files = 0
    wanted = set(names)
    for name in wanted:
        # Files before pages, which tell what files there are, and whose going ends all answers that were kept; what
        # is made of a page could be made anew while it is there, so that goes last.
        gone_files += parts.files.purge(parts.pages.keys_of(name))
        gone_pages += parts.pages.purge(name)
        parts.documents.purge(name)
        parts.variants.purge(name)
    held = parts.registry.read_now(lambda connection: digests_of(connection, wanted))
    return Purged(gone_pages, gone_files, len(held))
