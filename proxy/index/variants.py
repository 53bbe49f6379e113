"""A page or a list of names in one representation and coding: rendered, compressed and tagged once.

The tag is a strong validator of exactly these bytes under their media type (RFC 9110 8.8.3), so no two
representations or codings share one, nor the two names of HTML. Upstream pages are kept by the token of their
content; private ones are made anew, they are small.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from cachetools import LRUCache
from isal import igzip, isal_zlib

from proxy.domain.negotiate import Representation
from proxy.domain.render import render_names, render_page
from proxy.domain.screen import Screened
from proxy.index.names import NameList

_KEEP = 64 << 20
"""Bytes of finished variants that are kept."""
_COMPRESS_FROM = 512
_OFF_LOOP_FROM = 200
"""Files on a page from which rendering and compressing take more than 2 ms together."""
_FORMS = {Representation.HTML: "-html", Representation.HTML_V1: "-html1", Representation.JSON: "-json"}
_LEVEL = 1
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Variant:
    """Bytes as they leave, their strong entity tag (quoted), and whether they are gzip."""

    body: bytes
    etag: str
    is_gzip: bool


class StreamedVariant:
    """As `Variant`, but the bytes are made while they leave: `pieces` may be iterated once, or not at all."""

    __slots__ = ("_plain", "_turn", "etag", "is_gzip")

    def __init__(self, etag: str, is_gzip: bool, turn: asyncio.Semaphore, plain: Iterator[bytes]) -> None:
        self.etag = etag
        self.is_gzip = is_gzip
        self._turn = turn
        self._plain = plain

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces of some hundred KiB before they are packed; none is empty."""
        packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW) if self.is_gzip else None

        def step() -> bytes | None:
            piece = next(self._plain, None)
            if piece is None or packer is None:
                return piece
            return packer.compress(piece)

        while True:
            async with self._turn:
                piece = await asyncio.to_thread(step)
            if piece is None:
                break
            if piece:
                yield piece
        if packer is not None:
            yield packer.flush()


class Variants:
    """Makes and keeps variants. Owned by one event loop."""

    def __init__(self, external_url: str | None = None) -> None:
        """Take the server's own address, where it is known: links to provenance are absolute."""
        self._external_url = external_url
        # One list of names at a time is worked on: many at once would take the threads that others need.
        self._turn = asyncio.Semaphore(1)
        self._kept: LRUCache[tuple[str, Representation, bool], Variant] = LRUCache(
            _KEEP, getsizeof=lambda variant: len(variant.body)
        )

    async def get(
        self,
        screened: Screened,
        token: str,
        representation: Representation,
        *,
        gzip: bool,
        base: str = "../..",
    ) -> Variant:
        """The page as it leaves, with what was withheld from it.

        Args:
            token: names the content of the page and how it was screened; empty: do not keep it.
            base: the way to the base of its files, as `render_page` has it; for pages that are not kept.
        """
        key = (token, representation, gzip)
        if token and (kept := self._kept.get(key)) is not None:
            return kept
        if len(screened.page.files) + len(screened.withheld) >= _OFF_LOOP_FROM:
            variant = await asyncio.to_thread(self._make, screened, representation, gzip, base)
        else:
            variant = self._make(screened, representation, gzip, base)
        if token and len(variant.body) <= _KEEP:
            self._kept[key] = variant
        return variant

    def _make(self, screened: Screened, representation: Representation, gzip: bool, base: str) -> Variant:
        body = render_page(screened.page, representation, screened.withheld, self._external_url, base=base)
        return encode(body, gzip=gzip, form=_FORMS[representation])

    def of_names(
        self, listed: NameList, representation: Representation, *, gzip: bool
    ) -> Variant | StreamedVariant:
        """A list of names as it leaves, a long one made while it does; none is kept, since it depends on who asks."""
        if listed.is_short:
            body = b"".join(render_names(listed.pieces(), representation))
            return encode(body, gzip=gzip, form=_FORMS[representation])
        etag = f'"{listed.token}{_FORMS[representation]}{"-gzip" if gzip else ""}"'
        return StreamedVariant(etag, gzip, self._turn, render_names(listed.pieces(), representation))


def encode(body: bytes, *, gzip: bool, form: str = "") -> Variant:
    """Tag and, where it is worth it, compress. The same body gives the same bytes and tag at any time.

    Args:
        form: goes into the tag, where the body alone does not tell its media type.
    """
    tag = hashlib.sha256(body).hexdigest()[:32] + form
    if gzip and len(body) >= _COMPRESS_FROM:
        return Variant(igzip.compress(body, _LEVEL, mtime=0), f'"{tag}-gzip"', is_gzip=True)
    return Variant(body, f'"{tag}"', is_gzip=False)
