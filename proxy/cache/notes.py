"""What one process learned of an upstream's answer and tells all others: trouble, or that there is none.

Tiny files for seconds or minutes. Their number is bounded: a note lies in the slot of its topic's hash, where a later
one takes its place. A note that is lost, torn or displaced costs one more request to the upstream, so none is synced
and no failure to write one is worth more than a line of the log.
"""
# Plain os calls by path, as in storage.
# ruff: noqa: PTH105, PTH108, PTH118, PTH123

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from datetime import datetime, timedelta

import msgspec

from proxy.errors import UpstreamBusy, UpstreamError, UpstreamFaulty, UpstreamTimeout, UpstreamUnreachable
from proxy.storage.layout import Layout

_SLOTS = 4096
_BUSY = UpstreamBusy.__name__
_PLAIN = {kind.__name__: kind for kind in (UpstreamUnreachable, UpstreamTimeout, UpstreamFaulty)}

_log = logging.getLogger(__name__)


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was learned `at` a moment.

    Attributes:
        of: what it is about.
        until: the moment up to which the upstream is believed to have no such thing, where that was learned.
        kind, message, hint, retry_after: the trouble that there was, else empty.
    """

    of: str
    at: datetime
    until: datetime | None = None
    kind: str = ""
    message: str = ""
    hint: str = ""
    retry_after: int | None = None

    @classmethod
    def of_trouble(cls, of: str, at: datetime, error: UpstreamError) -> Note:
        """A note of `error`."""
        if isinstance(error, UpstreamBusy):
            return cls(of, at, kind=_BUSY, message=error.message, retry_after=error.retry_after)
        kind = next(
            (word for word, kind in _PLAIN.items() if isinstance(error, kind)), UpstreamFaulty.__name__
        )
        return cls(of, at, kind=kind, message=error.message, hint=error.hint)

    def trouble(self, upstream: str) -> UpstreamError:
        """The error that was noted, as one of `upstream`. Only where `kind` is not empty."""
        if self.kind == _BUSY:
            return UpstreamBusy(upstream, self.message, retry_after=self.retry_after)
        return _PLAIN.get(self.kind, UpstreamFaulty)(upstream, self.message, hint=self.hint)

    def absent_until(self, now: datetime, longest: timedelta) -> datetime | None:
        """`until` where that lies ahead, but not further than `longest`: then a clock has been put back."""
        return self.until if self.until is not None and now < self.until <= now + longest else None


class Notes:
    """The notes of one instance. For any thread."""

    def __init__(self, layout: Layout) -> None:
        """Take a prepared layout; touches no disk."""
        self._layout = layout

    def write(self, note: Note) -> None:
        """Put `note` into its slot."""
        aside = os.path.join(self._layout.partial_files, f"note-{secrets.token_hex(8)}")
        try:
            with open(aside, "xb") as file:
                file.write(msgspec.msgpack.encode(note))
            os.replace(aside, self._path(note.of))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            _log.warning("a note of an upstream's answer cannot be kept: %s", error.strerror)

    def read(self, of: str) -> Note | None:
        """The last note of this; None where there is none."""
        try:
            with open(self._path(of), "rb") as file:
                note = msgspec.msgpack.decode(file.read(), type=Note)
        except (OSError, msgspec.MsgspecError, UnicodeError):
            return None
        is_sound = (
            note.of == of
            and note.at.tzinfo is not None
            and (note.until is None or note.until.tzinfo is not None)
        )
        return note if is_sound else None

    def _path(self, of: str) -> str:
        slot = int.from_bytes(hashlib.blake2b(of.encode(), digest_size=8).digest()) % _SLOTS
        return os.path.join(self._layout.notes, f"{slot:03x}")
