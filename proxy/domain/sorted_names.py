"""`SortedNames`: many names in order, each once, in two buffers instead of as many objects.

A list of a whole upstream has some 700,000 names. As buffers they are 13 MB, may lie in a mapped file that all
processes share, are found in microseconds, and come out in pieces that need no sorting.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence

from proxy.domain.names import Name, look_alike_keys

PIECE = 4000
"""Names that are handled in one go: a millisecond of work."""


class SortedNames:
    """Names in the order of their bytes, each once."""

    __slots__ = ("_offsets", "_text", "digest")

    def __init__(self, text: memoryview, offsets: memoryview, digest: str) -> None:
        """Take buffers as they are, whose sense the caller has checked.

        Args:
            text: the names in order, each followed by a newline.
            offsets: of type `I`: where each name begins in `text`, and last the length of `text`.
            digest: as `digest_of` has it.
        """
        self._text = text
        self._offsets = offsets
        self.digest = digest

    @classmethod
    def of(cls, names: Iterable[Name]) -> SortedNames:
        """Pack names that come in order, each once."""
        text = bytearray()
        offsets = array("I", (0,))
        for name in names:
            text += name.encode()
            text += b"\n"
            offsets.append(len(text))
        return cls(memoryview(text), memoryview(offsets), digest_of(text))

    @property
    def buffers(self) -> tuple[memoryview, memoryview]:
        """Text and offsets, as the constructor takes them."""
        return self._text, self._offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __contains__(self, name: Name) -> bool:
        position = self.position(name)
        return position < len(self) and self[position] == name

    def __getitem__(self, position: int) -> Name:
        """The name at `position`, counted from 0."""
        begin, end = self._offsets[position], self._offsets[position + 1]
        return Name(str(self._text[begin : end - 1], "ascii"))

    def position(self, name: Name, low: int = 0) -> int:
        """How many names stand before `name`, which need not be one of them; looked for from `low` on."""
        return bisect_left(range(len(self)), name, low, key=self.__getitem__)

    def beginning(self, first: str) -> range:
        """The positions of the names that begin with `first`, which a name may begin with; empty: all."""
        # No name has a character behind "z".
        return range(self.position(Name(first)), self.position(Name(f"{first}~")) if first else len(self))

    def alike(self, keys: Collection[str]) -> Iterator[Name]:
        """The names whose `look_alike_key` is one of `keys`, in order.

        A tenth of a second of work for 700,000 names, however many keys there are: for a thread. No step of it takes
        longer than a millisecond.
        """
        wanted = frozenset(key.encode("ascii") for key in keys)
        for begin in range(0, len(self), PIECE):
            found = look_alike_keys(self.text(begin, min(begin + PIECE, len(self)))).split(b"\n")
            if not wanted.isdisjoint(found):
                yield from (self[begin + at] for at, key in enumerate(found) if key in wanted)

    def text(self, begin: int, end: int) -> bytes:
        """The names from position `begin` up to `end`, each followed by a newline."""
        return bytes(self._text[self._offsets[begin] : self._offsets[end]])


def digest_of(text: bytes | bytearray | memoryview) -> str:
    """What names a list by its content, for `SortedNames.digest`."""
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def lines(text: bytes) -> list[Name]:
    """The names in what `SortedNames.text` gave."""
    return [Name(name) for name in text.decode("ascii").splitlines()]


def together(sources: Sequence[SortedNames]) -> Iterator[tuple[bytes, ...]]:
    """Go through several lists side by side, without sorting any.

    Yields:
        Of each source the next names, as `SortedNames.text`: at most `PIECE`, and none that stands behind a name
        which another source has still to give. So the names of all pieces, sorted one by one, are in order.
    """
    at = [0] * len(sources)
    while any(low < len(source) for low, source in zip(at, sources, strict=True)):
        bounds = [
            source[low + PIECE] for low, source in zip(at, sources, strict=True) if low + PIECE < len(source)
        ]
        bound = min(bounds, default=None)
        ends = [
            len(source) if bound is None else source.position(bound, low)
            for low, source in zip(at, sources, strict=True)
        ]
        yield tuple(source.text(low, end) for source, low, end in zip(sources, at, ends, strict=True))
        at = ends
