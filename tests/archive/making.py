"""Wheels and sdists in memory, sound ones and broken ones, made with the standard library's writers.

Besides, `Entry` and `forged`: zip archives byte by byte, for those that lie.
"""

from __future__ import annotations

import io
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

import pytest

from proxy.archive.inspect import Inspected, inspect
from proxy.domain.filenames import parse_distribution
from proxy.errors import InvalidArchive

Files = Mapping[str, bytes | str]

TRAPS = (
    "already exist",
    "already been taken",
    "updating asset",
    "cannot be updated",
    "overwrite artifact",
    "was ever registered",
)
"""What clients take for "this file is there", with which `--skip-existing` succeeds (protocol 3.3)."""


def patient() -> None:
    """Time is never up."""


def refusal(act: Callable[..., object], *arguments: object) -> str:
    """The message of the `InvalidArchive` that `act` raises, found fit to be shown by every client."""
    with pytest.raises(InvalidArchive) as caught:
        act(*arguments)
    told = str(caught.value)
    assert told.isascii()
    assert told.isprintable()
    assert 10 < len(told) <= 300
    assert not [phrase for phrase in TRAPS if phrase in told.lower()]
    return told


def metadata(name: str = "widgets", version: str = "1.0", **fields: str) -> str:
    """Core metadata; further fields by keyword, with `_` for `-`."""
    given = {"metadata_version": "2.1", "name": name, "version": version} | fields
    head = "".join(f"{field.replace('_', '-').title()}: {value}\n" for field, value in given.items())
    return f"{head}\nA description.\n"


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of `files`, in their order."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return target.getvalue()


def wheel(
    text: bytes | str | None = None, dist_info: str = "widgets-1.0.dist-info", more: Files | None = None
) -> bytes:
    """A wheel as build tools write it; `more` are further members."""
    files: dict[str, bytes | str] = {
        "widgets/__init__.py": "answer = 42\n",
        f"{dist_info}/METADATA": metadata() if text is None else text,
        f"{dist_info}/WHEEL": "Wheel-Version: 1.0\n",
        f"{dist_info}/RECORD": "",
    }
    return zipped(files | dict(more or {}))


def tarred(
    files: Files, tar_format: int = tarfile.PAX_FORMAT, extra: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    """A gzipped tar archive of `files`; `extra` members without contents come first."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=tar_format) as archive:
        for info in extra:
            archive.addfile(info)
        for path, content in files.items():
            encoded = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size = len(encoded)
            info.mtime = 1700000000.5  # a fraction, as setuptools writes it, needs a pax header
            archive.addfile(info, io.BytesIO(encoded))
    return target.getvalue()


def sdist(text: str | None = None, top: str = "widgets-1.0", tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """An sdist as build tools write it, PKG-INFO not first."""
    return tarred(
        {
            f"{top}/LICENSE": "MIT\n",
            f"{top}/src/widgets.egg-info/PKG-INFO": metadata("decoy", "9"),
            f"{top}/PKG-INFO": metadata() if text is None else text,
            f"{top}/setup.py": "raise SystemExit\n",
        },
        tar_format,
    )


def uploaded(content: bytes, filename: str, budget: timedelta | None = None) -> Inspected:
    """What `inspect` says of an upload."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return inspect(file.name, parse_distribution(filename), budget=budget)


@dataclass(frozen=True)
class Entry:
    """One member of a forged zip archive.

    Attributes:
        packed: its data as they lie there, where not `content` by `method`.
        everywhere, local, central: what both headers, or one of them, say in place of the truth: `name`, `flags`,
            `method`, `crc`, `packed`, `size`, `extra`; the central one also `version`, `offset` and `comment`.
        after: bytes behind its data.
    """

    name: bytes
    content: bytes = b"content"
    method: int = 8
    packed: bytes | None = None
    everywhere: Mapping[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    after: bytes = b""

    @cached_property
    def data(self) -> bytes:
        """What lies behind the local header."""
        if self.packed is not None:
            return self.packed
        compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        return self.content if self.method == 0 else compressor.compress(self.content) + compressor.flush()

    def _said(self, told: Mapping[str, Any]) -> dict[str, Any]:
        truth = {
            "name": self.name,
            "version": 20,
            "flags": 0,
            "method": self.method,
            "crc": zlib.crc32(self.content),
            "packed": len(self.data),
            "size": len(self.content),
            "extra": b"",
            "comment": b"",
        }
        return truth | dict(self.everywhere) | dict(told)

    def local_header(self) -> bytes:
        """The header before the data."""
        said = self._said(self.local)
        numbers = (said["flags"], said["method"], 0, 0, said["crc"], said["packed"], said["size"])
        lengths = (len(said["name"]), len(said["extra"]))
        return b"".join(
            (struct.pack("<4s5H3L2H", b"PK\3\4", 20, *numbers, *lengths), said["name"], said["extra"])
        )

    def central_header(self, offset: int) -> bytes:
        """The header in the central directory."""
        said = {"offset": offset} | self._said(self.central)
        numbers = (said["flags"], said["method"], 0, 0, said["crc"], said["packed"], said["size"])
        texts = (said["name"], said["extra"], said["comment"])
        head = struct.pack("<4s6H3L", b"PK\1\2", 20, said["version"], *numbers)
        return head + struct.pack("<5H2L", *map(len, texts), 0, 0, 0, said["offset"]) + b"".join(texts)


def forged(
    *entries: Entry, before: bytes = b"", comment: bytes = b"", end: Mapping[str, int] | None = None
) -> bytes:
    """A zip archive of `entries`.

    Args:
        before: bytes in front of the directory, behind all members.
        end: what the end says in place of the truth: `members`, `size`, `offset`.
    """
    body, listing = bytearray(), bytearray()
    for entry in entries:
        listing += entry.central_header(len(body))
        body += entry.local_header() + entry.data + entry.after
    body += before
    said = {"members": len(entries), "size": len(listing), "offset": len(body)} | dict(end or {})
    members = said["members"]
    last = struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, members, members, said["size"], said["offset"], len(comment)
    )
    return bytes(body + listing + last + comment)


def with_zip64_end(content: bytes, record: bytes = b"", **changed: int) -> bytes:
    """A zip archive with its end in the ZIP64 form as well, as in archives of more than 4 GiB.

    Args:
        record: further bytes in the ZIP64 record (extensible data).
        changed: other values of it: `disk`, `members`, `disks` (of the locator).
    """
    place = content.rindex(b"PK\5\6")
    count, size, offset = struct.unpack_from("<HLL", content, place + 10)
    members, disk = changed.get("members", count), changed.get("disk", 0)
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44 + len(record), 45, 45, disk, disk, members, members, size, offset
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place, changed.get("disks", 1))
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return content[:place] + end64 + record + locator + last
