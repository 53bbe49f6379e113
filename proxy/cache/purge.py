"""Forgetting what was borrowed: pages and documents of names, and the files that those pages list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.cache.documents import UpstreamDocuments
from proxy.cache.files import Files
from proxy.cache.known_names import KnownNames
from proxy.cache.pages import Pages
from proxy.domain.names import Name


@dataclass(frozen=True, slots=True)
class Purged:
    """How many pages and files were deleted."""

    pages: int
    files: int


def purge(
    pages: Pages,
    documents: UpstreamDocuments,
    files: Files,
    known_names: KnownNames,
    names: Iterable[Name] | None,
) -> Purged:
    """Delete the cached pages and documents of `names` and the cached files they list.

    None: everything, the kept lists of names too.

    Files whose page is no longer cached are found only by None. Synchronous, for commands; takes effect in a
    running server at once.

    Raises:
        StorageError: the cache database cannot be changed.
    """
    if names is None:
        documents.purge(None)
        known_names.purge()
        return Purged(pages.purge(None), files.purge(None))
    gone_pages = gone_files = 0
    for name in names:
        # The pages tell which files there are, so the files go first.
        gone_files += files.purge(pages.keys_of(name))
        gone_pages += pages.purge(name)
        documents.purge(name)
    return Purged(gone_pages, gone_files)
