"""The file of advisories: made of an OSV database in a process of its own, mapped by all others.

A line of JSON (`_Head`), then the names that have advisories as `SortedNames`, the offsets and check sums of what is
said of each, and that as msgpack; numbers are aligned and of 32 bits in the order of the machine's bytes. Another
machine's file, a torn or a damaged one is no file: it is made anew.

`python -m proxy.cache.advisories_file` makes one, as an `Order` says (`cache.bounded`): a database of PyPI's size
takes some seconds.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH123

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import zlib
from array import array
from collections.abc import Iterable

import msgspec

from proxy.cache import osv
from proxy.cache.bounded import REFUSED, UNWRITABLE, bind
from proxy.cache.osv import Unusable
from proxy.domain.advisories import Advisory
from proxy.domain.names import Name
from proxy.domain.sorted_names import SortedNames

FORMAT = 1
"""Of the file. The layout's directory name changes with what older code could misread."""
MAX_SAID = 256 << 20
"""Bytes of what is kept."""

UNCHANGED = 5
"""Beside those of `cache.bounded`: exit status of the process where the database is as it was."""

_LONGEST_HEAD = 8192


class Order(msgspec.Struct, frozen=True):
    """What a process is to make: of the database in the directory `source`, the file `target`.

    `fingerprint`: of the database as the kept file was made of it; None: there is none.
    """

    source: str
    target: str
    fingerprint: str | None


class Made(msgspec.Struct, frozen=True):
    """What became of an order: how many names have how many advisories; `unreadable` counts files."""

    names: int
    advisories: int
    unreadable: int


class _Head(msgspec.Struct, frozen=True):
    """The first line of the file.

    Attributes:
        source: the directory; the file is only good for that.
        fingerprint: what the directory looked like.
        count, text: names, and bytes of them.
        said: bytes of what is said of them.
        digest: of the names, the offsets and the check sums.
    """

    format: int
    order: str
    source: str
    fingerprint: str
    count: int
    text: int
    said: int
    digest: str


class KeptAdvisories:
    """A file that was opened. The mapping lives as long as this does, also when the file is replaced."""

    __slots__ = ("_names", "_offsets", "_said", "_sums", "fingerprint")

    def __init__(
        self, names: SortedNames, offsets: memoryview, sums: memoryview, said: memoryview, fingerprint: str
    ) -> None:
        """Take buffers as they are, whose sense the caller has checked."""
        self._names = names
        self._offsets = offsets
        self._sums = sums
        self._said = said
        self.fingerprint = fingerprint

    def of(self, name: Name) -> tuple[Advisory, ...]:
        """What is said of `name`, the worst first.

        Raises:
            ValueError: the file is damaged.
        """
        position = self._names.position(name)
        if position == len(self._names) or self._names[position] != name:
            return ()
        said = self._said[self._offsets[position] : self._offsets[position + 1]]
        if zlib.crc32(said) != self._sums[position]:
            raise ValueError("a check sum differs")
        # A damaged record would be a ValueError too.
        return _DECODER.decode(said)


_DECODER = msgspec.msgpack.Decoder(tuple[Advisory, ...])


def open_advisories(path: str, source: str) -> KeptAdvisories | None:
    """Map the file at `path`; None unless it is there, sound as far as is looked at, and made of `source`.

    What is said of a name is checked when it is asked for.
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(_LONGEST_HEAD)
            head = msgspec.json.decode(line, type=_Head)
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    if (head.format, head.order, head.source) != (FORMAT, sys.byteorder, source):
        return None
    offsets_at = _aligned(len(line) + head.text)
    sums_at = offsets_at + 8 * (head.count + 1)
    said_at = sums_at + 4 * head.count
    if min(head.count, head.text, head.said) < 0 or len(mapped) != said_at + head.said:
        return None
    index = mapped[len(line) : said_at]
    if _digest(index) != head.digest:
        return None
    numbers = mapped[offsets_at:said_at].cast("I")
    names = SortedNames(mapped[len(line) : len(line) + head.text], numbers[: head.count + 1], head.digest)
    offsets, sums = numbers[head.count + 1 : 2 * head.count + 2], numbers[2 * head.count + 2 :]
    return KeptAdvisories(names, offsets, sums, mapped[said_at:], head.fingerprint)


def write_advisories(
    path: str, told: Iterable[tuple[Name, tuple[Advisory, ...]]], source: str, fingerprint: str
) -> None:
    """Write the file `path`, which must not be there yet, and sync it.

    Args:
        told: in the order of the names, each once.

    Raises:
        OSError: it cannot be written.
    """
    names: list[Name] = []
    offsets, sums, said = array("I", (0,)), array("I"), bytearray()
    for name, advisories in told:
        record = msgspec.msgpack.encode(advisories)
        if len(said) + len(record) > MAX_SAID:
            raise Unusable("it says too much")
        names.append(name)
        said += record
        offsets.append(len(said))
        sums.append(zlib.crc32(record))
    text, places = SortedNames.of(names).buffers

    def line(digest: str) -> bytes:
        head = _Head(FORMAT, sys.byteorder, source, fingerprint, len(names), len(text), len(said), digest)
        return msgspec.json.encode(head) + b"\n"

    # A digest's length is always the same, so the head's is known before the digest is.
    length = len(line(_digest(b"")))
    padding = bytes(_aligned(length + len(text)) - length - len(text))
    index = b"".join((text, padding, places.tobytes(), offsets.tobytes(), sums.tobytes()))
    with open(path, "xb") as file:
        file.writelines((line(_digest(index)), index, said))
        file.flush()
        os.fsync(file.fileno())


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def _digest(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def make(order: Order) -> Made | None:
    """Do what `order` says; None where the database is as it was.

    Raises:
        Unusable: the database cannot be read, has nothing to say, or is too long.
        OSError: the file cannot be written.
    """
    with osv.translated():
        paths = osv.files_of(order.source)
        fingerprint = osv.fingerprint(order.source, paths)
        if fingerprint == order.fingerprint:
            return None
        database = osv.read(paths)
    told = list(database.by_name())
    if not told:
        raise Unusable("there is no advisory about a package of PyPI in it")
    write_advisories(order.target, told, order.source, fingerprint)
    return Made(len(told), sum(len(advisories) for _, advisories in told), database.unreadable)


def main() -> int:
    """Make one file, as told on standard input; standard output says `Made`. 0, or one of the three statuses."""
    bind()
    try:
        made = make(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    except Unusable as error:
        sys.stdout.write(str(error))
        return REFUSED
    except MemoryError:
        sys.stdout.write("it takes too much memory to read")
        return REFUSED
    except OSError:
        return UNWRITABLE
    if made is None:
        return UNCHANGED
    sys.stdout.buffer.write(msgspec.json.encode(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
