"""Upstream pages as they leave, rendered and packed, at rest on disk: below the memory of `index.variants`.

So a worker that is new, or has not been asked for a page yet, sends what another one made. One file per page, form
and coding. Its first line says of which content it was made, under a token; whoever reads it knows the token that it
has to be, so a file that is left over from another content is only of no use. It also has the digest of what follows,
since nothing here is synced. A newer content replaces the file; a purge deletes it.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH116, PTH118, PTH123

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import shutil
from typing import NamedTuple

from proxy.domain.names import Name
from proxy.storage.disk import write_unsynced
from proxy.storage.layout import Layout

_INLINE_BYTES = 256 << 10
"""Files up to this size are read on the loop: a third of a millisecond."""
_LONGEST_HEAD = 256

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Which page, and in which form and coding."""

    upstream: str
    name: Name
    form: str
    coding: str


class AtRest(NamedTuple):
    """A body as it leaves, and the tag of what it unpacks to."""

    tag: str
    body: bytes


class VariantFiles:
    """The variants at rest of one instance. `get` belongs to an event loop, the rest is for any thread."""

    def __init__(self, layout: Layout) -> None:
        """Take a prepared layout; touches nothing."""
        self._layout = layout

    async def get(self, place: Place, token: str) -> AtRest | None:
        """What lies there, if it was made under `token` and is sound.

        Raises:
            StorageError: `place` names no upstream.
        """
        path = self._layout.cached_variant(*place)
        try:
            size = os.stat(path).st_size
        except OSError:
            return None
        if size > _INLINE_BYTES:
            return await asyncio.to_thread(_read, path, token)
        return _read(path, token)

    def put(self, place: Place, token: str, made: AtRest) -> None:
        """Keep a variant in place of the one that lies there. Blocks; a failure is logged, and costs work later.

        Args:
            token: of ASCII without white space, as is the tag.

        Raises:
            StorageError: `place` names no upstream.
        """
        path = self._layout.cached_variant(*place)
        aside = os.path.join(self._layout.partial_files, f"variant-{secrets.token_hex(8)}")
        head = f"{token} {made.tag} {_digest(made.body)}\n".encode("ascii")
        try:
            write_unsynced(path, aside, head, made.body)
        except OSError as error:
            _log.warning("a page cannot be kept as it leaves: %s", error.strerror)

    def purge(self, name: Name | None) -> None:
        """Delete what was made of the pages of `name` at all upstreams, or of everything."""
        with contextlib.suppress(OSError), os.scandir(self._layout.cached_variants) as directories:
            for directory in directories:
                path = directory.path if name is None else self._layout.variants_of(directory.name, name)
                shutil.rmtree(path, ignore_errors=True)


def _read(path: str, token: str) -> AtRest | None:
    try:
        with open(path, "rb") as file:
            head = file.readline(_LONGEST_HEAD)
            made_under, tag, digest = head.decode("ascii").split()
            if made_under != token:
                return None
            body = file.read()
    except (OSError, ValueError):
        return None
    return AtRest(tag, body) if _digest(body) == digest else None


def _digest(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
