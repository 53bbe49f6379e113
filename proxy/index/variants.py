"""A page or a list of names in one representation and coding: rendered, compressed and tagged once.

The tag is a strong validator of exactly these bytes (RFC 9110 8.8.3), so no two representations or codings
share one. Upstream pages are kept by the token of their content; private ones are made anew, they are small.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache
from isal import igzip

from proxy.domain.names import Name
from proxy.domain.negotiate import Representation
from proxy.domain.pages import Page
from proxy.domain.render import render_names, render_page

_KEEP = 64 << 20
"""Bytes of finished variants that are kept."""
_COMPRESS_FROM = 512
_OFF_LOOP_FROM = 200
"""Files on a page from which rendering and compressing take more than 2 ms together."""
_NAMES_OFF_LOOP_FROM = 2000
"""Names of a list, likewise."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Bytes as they leave, their strong entity tag (quoted), and whether they are gzip."""

    body: bytes
    etag: str
    is_gzip: bool


class Variants:
    """Makes and keeps variants. Owned by one event loop."""

    def __init__(self) -> None:
        self._kept: LRUCache[tuple[str, Representation, bool], Variant] = LRUCache(
            _KEEP, getsizeof=lambda variant: len(variant.body)
        )

    async def get(self, page: Page, token: str, representation: Representation, *, gzip: bool) -> Variant:
        """The page as it leaves.

        Args:
            token: names the content of the page and how it was screened; empty: do not keep it.
        """
        key = (token, representation, gzip)
        if token and (kept := self._kept.get(key)) is not None:
            return kept
        if len(page.files) >= _OFF_LOOP_FROM:
            variant = await asyncio.to_thread(_make, page, representation, gzip)
        else:
            variant = _make(page, representation, gzip)
        if token and len(variant.body) <= _KEEP:
            self._kept[key] = variant
        return variant

    async def of_names(self, names: Sequence[Name], representation: Representation, *, gzip: bool) -> Variant:
        """A list of names as it leaves; made anew each time, since it depends on who asks."""
        if len(names) >= _NAMES_OFF_LOOP_FROM:
            return await asyncio.to_thread(_make_names, names, representation, gzip)
        return _make_names(names, representation, gzip)


def _make_names(names: Sequence[Name], representation: Representation, gzip: bool) -> Variant:
    return encode(render_names(names, representation), gzip=gzip)


def _make(page: Page, representation: Representation, gzip: bool) -> Variant:
    return encode(render_page(page, representation), gzip=gzip)


def encode(body: bytes, *, gzip: bool) -> Variant:
    """Tag and, where it is worth it, compress. The same body gives the same bytes and tag at any time."""
    digest = hashlib.sha256(body).hexdigest()[:32]
    if gzip and len(body) >= _COMPRESS_FROM:
        return Variant(igzip.compress(body, 1, mtime=0), f'"{digest}-gzip"', is_gzip=True)
    return Variant(body, f'"{digest}"', is_gzip=False)
