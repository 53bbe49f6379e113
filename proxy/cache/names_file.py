"""The file of an upstream's list of names: made in a process of its own, mapped by all others.

A line of JSON (`_Head`), then the text and the offsets of `SortedNames`, aligned for 32-bit numbers in the order of
the machine's bytes. Another machine's file, a torn or a damaged one is no file: it is made anew.

`python -m proxy.cache.names_file` makes one, as an `Order` says (`cache.bounded`): 700,000 names take a second or
two.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH123

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable

import msgspec

from proxy.cache.bounded import REFUSED, UNWRITABLE, bind
from proxy.domain.names import Name
from proxy.domain.sorted_names import SortedNames, digest_of
from proxy.upstream.parse import Unusable, parse_names, unzip

FORMAT = 1
"""Of the file. The layout's directory name changes with what older code could misread."""
MAX_LIST = 300 << 20
"""Bytes of a list of names, packed or unpacked; a tenth of it is usual."""
MAX_NAMES = 10_000_000

_LONGEST_HEAD = 8192


class Order(msgspec.Struct, frozen=True):
    """What a process is to make: of what was received at `source`, the file `target`.

    Attributes:
        is_zipped: whether what lies at `source` is gzip.
        content_type, base_url: as for `parse_names`.
        index_url: of the upstream as configured; the list is only good for that.
        etag: the list's validator, as the upstream sent it.
    """

    source: str
    target: str
    is_zipped: bool
    content_type: str
    base_url: str
    index_url: str
    etag: str | None


class _Head(msgspec.Struct, frozen=True):
    """The first line of the file. `text` and `count` are bytes and names; `digest` is that of the text."""

    format: int
    order: str
    index_url: str
    etag: str | None
    count: int
    text: int
    digest: str

    def is_of(self, index_url: str) -> bool:
        """Whether this machine can map the file, and it is of the upstream at `index_url`."""
        return (self.format, self.order, self.index_url) == (FORMAT, sys.byteorder, index_url)


class KeptList(msgspec.Struct, frozen=True):
    """A file that was opened. The mapping lives as long as `names` does, also when the file is replaced."""

    names: SortedNames
    etag: str | None
    inode: int


def open_list(path: str, index_url: str) -> KeptList | None:
    """Map the file at `path`; None unless it is there, sound, and of the upstream at `index_url`.

    Reads all of it once, to compare its digest: some ten milliseconds of work, outside the interpreter's lock.
    """
    try:
        with open(path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            line = file.readline(_LONGEST_HEAD)
            head = msgspec.json.decode(line, type=_Head)
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    begin = _aligned(len(line) + head.text)
    if not head.is_of(index_url) or len(mapped) != begin + 4 * (head.count + 1):
        return None
    text = mapped[len(line) : len(line) + head.text]
    offsets = mapped[begin:].cast("I")
    if offsets[head.count] != head.text or digest_of(text) != head.digest:
        return None
    return KeptList(SortedNames(text, offsets, head.digest), head.etag, inode)


def count_list(path: str, index_url: str) -> int | None:
    """How many names the file at `path` says it has; None as of `open_list`. Reads its first line alone."""
    try:
        with open(path, "rb") as file:
            head = msgspec.json.decode(file.readline(_LONGEST_HEAD), type=_Head)
    except (OSError, msgspec.MsgspecError):
        return None
    return head.count if head.is_of(index_url) else None


def write_list(path: str, names: Iterable[Name], index_url: str, etag: str | None) -> None:
    """Write the file `path`, which must not be there yet.

    Args:
        names: in order, each once.

    Raises:
        OSError: it cannot be written.
    """
    listed = SortedNames.of(names)
    text, offsets = listed.buffers
    head = _Head(FORMAT, sys.byteorder, index_url, etag, len(listed), len(text), listed.digest)
    line = msgspec.json.encode(head) + b"\n"
    padding = bytes(_aligned(len(line) + len(text)) - len(line) - len(text))
    with open(path, "xb") as file:
        file.writelines((line, text, padding, offsets))


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def make(order: Order) -> None:
    """Do what `order` says.

    Raises:
        Unusable: what was received is no list of names, or too long a one.
        OSError: a file cannot be read or written.
    """
    with open(order.source, "rb") as file:
        body = file.read()
    if order.is_zipped:
        body = unzip(body, MAX_LIST)
    found: set[Name] = set()
    for name in parse_names(body, order.content_type, order.base_url):
        found.add(name)
        if len(found) > MAX_NAMES:
            raise Unusable(f"it has more than {MAX_NAMES} names")
    del body
    write_list(order.target, sorted(found), order.index_url, order.etag)


def main() -> int:
    """Make one file, as told on standard input; 0, or one of the two statuses."""
    bind()
    try:
        make(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    except Unusable as error:
        sys.stdout.write(str(error))
        return REFUSED
    except OSError:
        return UNWRITABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
