"""What zip and tar archives have in common: how many members, how much in them, and which names they may have.

Sources: protocol T-ARCH; the limits on what an archive unpacks to are PyPI's.
"""

from __future__ import annotations

import re

from proxy.errors import InvalidArchive

MAX_MEMBERS = 200_000
MAX_NAME = 4096
"""Bytes of a member's path: no system that unpacks archives opens longer ones."""
MAX_RATIO, RATIO_APPLIES_FROM = 50, 64 << 20
"""Unpacked bytes for each packed one, where there are more than so many."""

_DRIVE = re.compile(rb"[A-Za-z]:")


def unpacked_limit(length: int) -> int:
    """Bytes that an archive of `length` bytes may unpack to."""
    return max(RATIO_APPLIES_FROM, MAX_RATIO * length)


def check_member_name(name: bytes) -> None:
    """Refuse names that lead out of the directory an archive is unpacked in.

    Raises:
        InvalidArchive: as `is_unsafe` has it, or too long.
    """
    if len(name) > MAX_NAME:
        raise InvalidArchive(f"the archive has a member with a name longer than {MAX_NAME} bytes")
    if is_unsafe(name):
        raise InvalidArchive(f"the archive has a member with the unsafe name {shown(name)}")


def is_unsafe(path: bytes) -> bool:
    """Whether `path` is anything but a place below where it is used, on whatever system.

    So it is where it is empty or absolute, begins with a drive letter, has `..` as a segment, or NUL.
    """
    # NUL ends a path for some readers and not for others, so both would see different members.
    if not path or path.startswith((b"/", b"\\")) or b"\0" in path or _DRIVE.match(path):
        return True
    return b".." in path and b".." in path.replace(b"\\", b"/").split(b"/")


def plain_path(name: bytes) -> bytes:
    """The path that a member's `name` stands for: without empty and `.` segments. Equal for equal places."""
    if b"//" not in name and b"./" not in name and not name.endswith((b"/", b".")):
        return name
    return b"/".join(segment for segment in name.split(b"/") if segment not in (b"", b"."))


def shown(name: bytes) -> str:
    """A member's name as messages quote it: printable ASCII without blanks, cut.

    Clients look for phrases in messages (protocol 3.3), which nobody is to bring in by a name.
    """
    return ascii(name[:100].decode("utf-8", "replace")).replace(" ", "\\x20")
