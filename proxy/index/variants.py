"""A page or a list of names in one representation and coding: rendered, packed and tagged once.

The tag is a strong validator of exactly these bytes under their media type (RFC 9110 8.8.3), so no two
representations or codings share one, nor the two names of HTML, which share their bytes.

What is made of a page is kept by the token that its answer carries: in memory, and of an upstream's page also at rest
on disk (`cache.variants`), where the next worker and the next start find it. Only what is in neither is made: from
another coding of the same form, if one is there, else from the page. Whatever else the bytes depend on, the server's
own address and this program's version, goes into the token at rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from cachetools import LRUCache
from isal import igzip, isal_zlib

from proxy.cache.variants import AtRest, Place, VariantFiles
from proxy.domain.decision import Word
from proxy.domain.negotiate import Coding, Representation
from proxy.domain.render import render_names, render_page
from proxy.domain.screen import Screened
from proxy.index.answers import PageAnswer
from proxy.index.names import NameList

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_KEEP = 64 << 20
"""Bytes of finished variants that are kept."""
_OVERHEAD = 512
"""Bytes that each costs besides its body."""
_COMPRESS_FROM = 512
_AT_REST_FROM = 512
"""Smaller bodies are made in less time than it takes to read a file."""
_WRITES_AT_ONCE = 32
"""Variants on their way to the disk; what comes on top of that is not kept there."""
_OFF_LOOP_FROM = 200
"""Files on a page from which rendering and compressing take more than 2 ms together."""
_UNPACK_OFF_LOOP_FROM = 32 << 10
"""Bytes of a packed page from which unpacking and packing it anew take more than 2 ms."""
_FORMS = {Representation.HTML: "html", Representation.HTML_V1: "html", Representation.JSON: "json"}
_MARKS = {Representation.HTML: "-html", Representation.HTML_V1: "-html1", Representation.JSON: "-json"}
_LEVEL = 1
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Variant:
    """Bytes as they leave, their strong entity tag (quoted), and how they are packed."""

    body: bytes
    etag: str
    coding: Coding


@dataclass(frozen=True, slots=True)
class _Made:
    """A body and how it is packed; `tag` is of the plain one."""

    body: bytes
    tag: str
    coding: Coding

    def variant(self, mark: str) -> Variant:
        return Variant(self.body, _etag(self.tag, mark, self.coding), self.coding)


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class StreamedVariant:
    """As `Variant`, but the bytes are made while they leave: `pieces` may be iterated once, or not at all."""

    __slots__ = ("_plain", "_turn", "coding", "etag")

    def __init__(self, etag: str, coding: Coding, turn: asyncio.Semaphore, plain: Iterator[bytes]) -> None:
        self.etag = etag
        self.coding = coding
        self._turn = turn
        self._plain = plain

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, in pieces of some hundred KiB before they are packed; none is empty."""
        packer = _packer(self.coding)

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


_Key: TypeAlias = tuple[str, str, Coding]


class Variants:
    """Makes and keeps variants. Owned by one event loop."""

    def __init__(self, files: VariantFiles, external_url: str | None = None, version: str = "") -> None:
        """Take where they rest, and what they depend on besides their page.

        Args:
            external_url: the server's own address, where it is known: links to provenance are absolute.
            version: of this program, which may render otherwise than the one before it.
        """
        self._files = files
        self._external_url = external_url
        self._version = version
        # One list of names at a time is worked on: many at once would take the threads that others need.
        self._turn = asyncio.Semaphore(1)
        self._kept: LRUCache[_Key, _Made] = LRUCache(_KEEP, getsizeof=lambda made: _OVERHEAD + len(made.body))
        self._making: dict[_Key, asyncio.Task[_Made]] = {}
        self._writing: set[asyncio.Future[None]] = set()

    async def get(self, answer: PageAnswer, representation: Representation, coding: Coding) -> Variant:
        """The page of an answer as it leaves, with what was withheld from it.

        Raises:
            StorageError: the page cannot be read.
        """
        form, mark = _FORMS[representation], _MARKS[representation]
        if not answer.token:
            return await self.of(await answer.screened(), representation, coding)
        key = (answer.token, form, coding)
        made = self._kept.get(key)
        if made is None:
            making = self._making.get(key)
            if making is None:
                making = asyncio.create_task(
                    self._make(answer, form, coding), name=f"variant {form}.{coding}"
                )
                self._making[key] = making
                making.add_done_callback(partial(self._was_made, key))
            made = await asyncio.shield(making)
        return made.variant(mark)

    async def of(
        self, screened: Screened, representation: Representation, coding: Coding, *, base: str = "../.."
    ) -> Variant:
        """A page that is not kept, as it leaves.

        Args:
            base: the way to the base of its files, as `render_page` has it.
        """
        form, mark = _FORMS[representation], _MARKS[representation]
        return (await self._rendered(screened, form, coding, base)).variant(mark)

    def of_names(
        self, listed: NameList, representation: Representation, coding: Coding
    ) -> Variant | StreamedVariant:
        """A list of names as it leaves, a long one made while it does; none is kept, since it depends on who asks."""
        mark = _MARKS[representation]
        if listed.is_short:
            body = b"".join(render_names(listed.pieces(), representation))
            return encode(body, coding, mark)
        etag = _etag(listed.token, mark, coding)
        return StreamedVariant(etag, coding, self._turn, render_names(listed.pieces(), representation))

    async def close(self) -> None:
        """Let what is being made and written come to its end."""
        while self._making or self._writing:
            await asyncio.gather(*self._making.values(), *self._writing, return_exceptions=True)

    def _was_made(self, key: _Key, making: asyncio.Task[_Made]) -> None:
        del self._making[key]
        if not making.cancelled():
            # Perhaps nobody waits for it any more, and whoever does is told all the same.
            making.exception()

    async def _make(self, answer: PageAnswer, form: str, coding: Coding) -> _Made:
        rest = self._rest(answer, form, coding)
        made = None if rest is None else await self._at_rest(*rest)
        if made is None:
            other = self._other_in_memory(answer.token, form)
            if other is None and rest is not None:
                other = await self._other_at_rest(*rest)
            if other is not None:
                made = await _recoded(other, coding)
            else:
                made = await self._rendered(await answer.screened(), form, coding)
            if rest is not None:
                self._put(*rest, made)
        if _OVERHEAD + len(made.body) <= _KEEP:
            self._kept[answer.token, form, coding] = made
        return made

    def _rest(self, answer: PageAnswer, form: str, coding: Coding) -> tuple[Place, str] | None:
        """Where it lies at rest, and the token that it has to have there; None: it stays in memory.

        That is so for what is private, alone or merged, and for dated views: of each name one page lies at rest.
        """
        upstream = answer.decision.upstream
        if answer.decision.word is not Word.UPSTREAM or upstream is None or answer.asked.as_of is not None:
            return None
        token = _tag(f"{self._version} {self._external_url} {answer.token}".encode())
        return Place(upstream, answer.asked.name, form, coding), token

    async def _at_rest(self, place: Place, token: str) -> _Made | None:
        found = await self._files.get(place, token)
        return None if found is None else _Made(found.body, found.tag, Coding(place.coding))

    def _other_in_memory(self, token: str, form: str) -> _Made | None:
        found = (self._kept.get((token, form, coding)) for coding in Coding)
        return next((made for made in found if made is not None), None)

    async def _other_at_rest(self, place: Place, token: str) -> _Made | None:
        for coding in Coding:
            found = await self._at_rest(place._replace(coding=coding), token)
            if found is not None:
                return found
        return None

    def _put(self, place: Place, token: str, made: _Made) -> None:
        """Write it to disk behind the answer, which does not wait for that."""
        if made.coding != place.coding or len(made.body) < _AT_REST_FROM:
            return
        if len(self._writing) < _WRITES_AT_ONCE:
            at_rest = AtRest(made.tag, made.body)
            loop = asyncio.get_running_loop()
            writing = loop.run_in_executor(None, self._files.put, place, token, at_rest)
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def _rendered(self, screened: Screened, form: str, coding: Coding, base: str = "../..") -> _Made:
        def make() -> _Made:
            representation = Representation.JSON if form == "json" else Representation.HTML
            page, withheld = screened.page, screened.withheld
            plain = render_page(page, representation, withheld, self._external_url, base=base)
            return _made(plain, coding)

        if len(screened.page.files) + len(screened.withheld) >= _OFF_LOOP_FROM:
            return await asyncio.to_thread(make)
        return make()


async def _recoded(found: _Made, coding: Coding) -> _Made:
    """The same body in another coding: quicker than rendering it."""

    def make() -> _Made:
        return _made(_unpacked(found.body, found.coding), coding, found.tag)

    return await asyncio.to_thread(make) if len(found.body) >= _UNPACK_OFF_LOOP_FROM else make()


def encode(body: bytes, coding: Coding, mark: str = "") -> Variant:
    """Tag and, where it is worth it, pack. The same body gives the same bytes and tag at any time.

    Args:
        mark: goes into the tag, where the body alone does not tell its media type.
    """
    return _made(body, coding).variant(mark)


def _made(plain: bytes, coding: Coding, tag: str = "") -> _Made:
    tag = tag or _tag(plain)
    if len(plain) < _COMPRESS_FROM:
        return _Made(plain, tag, Coding.IDENTITY)
    match coding:
        case Coding.IDENTITY:
            return _Made(plain, tag, coding)
        case Coding.GZIP:
            return _Made(igzip.compress(plain, _LEVEL, mtime=0), tag, coding)
        case Coding.ZSTD:
            return _Made(zstd.compress(plain, _LEVEL), tag, coding)


def _unpacked(body: bytes, coding: Coding) -> bytes:
    match coding:
        case Coding.IDENTITY:
            return body
        case Coding.GZIP:
            return isal_zlib.decompress(body, _GZIP_WINDOW)
        case Coding.ZSTD:
            return zstd.decompress(body)


def _packer(coding: Coding) -> _Packer | None:
    match coding:
        case Coding.IDENTITY:
            return None
        case Coding.GZIP:
            return isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        case Coding.ZSTD:
            return zstd.ZstdCompressor(_LEVEL)


def _tag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _etag(tag: str, mark: str, coding: Coding) -> str:
    return f'"{tag}{mark}"' if coding is Coding.IDENTITY else f'"{tag}{mark}-{coding}"'
