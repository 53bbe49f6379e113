"""The exceptions of the whole package: one hierarchy, no HTTP statuses.

Decisions (claimed, denied, unknown …) are values, not exceptions. An exception here says that something
could not be done. `web.problems` and `cli.output` translate; nothing else names a status or an exit code.
A message may reach the caller: it never holds a secret or a path of the server's file system, except
`ConfigError`, which is for the operator alone.
"""

from __future__ import annotations

from dataclasses import dataclass


class OverlayError(Exception):
    """Base of everything that is raised on purpose.

    Args:
        message: one sentence, what was wrong and where.
        hint: what to do about it; empty if there is nothing to add.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class InvalidInput(OverlayError):
    """What the caller sent cannot be accepted as it is."""


class InvalidName(InvalidInput):
    """Not a project name in the grammar of PEP 508."""


class InvalidVersion(InvalidInput):
    """Not a version in the grammar of PEP 440."""


class InvalidFilename(InvalidInput):
    """Not a wheel's or sdist's filename (PEP 427, PEP 625)."""


class InvalidForm(InvalidInput):
    """An upload form with missing, repeated or malformed fields."""


class InvalidArchive(InvalidInput):
    """A wheel or sdist that is damaged, hostile, or disagrees with its own name."""


class InvalidMoment(InvalidInput):
    """No date or moment that a dated view could be of."""


class NoLongerOffered(InvalidInput):
    """An action of old clients that no index offers any more."""


class DigestMismatch(InvalidInput):
    """Uploaded bytes that do not have the digest the form names."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration file.

    `line` counts from 1; 0 where no line can be named. `path` is dotted (`groups.acme.policy.forward`).
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigError(OverlayError):
    """A configuration that cannot come into force; carries every problem found."""

    def __init__(self, problems: tuple[Problem, ...] | list[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotAuthenticated(OverlayError):
    """No credentials where some are needed, or wrong ones."""


class Throttled(OverlayError):
    """Wrong credentials again, after too many; `retry_after` in seconds. Says nothing that a 401 would not."""

    def __init__(self, message: str, *, hint: str = "", retry_after: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class IssuerUnavailable(OverlayError):
    """The keys of an issuer of identity tokens cannot be had now, so nobody knows whether one is good."""


class NotPermitted(OverlayError):
    """The caller is known and sees the object, but may not do this to it."""


class NotFound(OverlayError):
    """There is no such thing, or the caller may not know of it."""


class NoSuchNamespace(NotFound):
    """No group or project at this path or number."""


class NoSuchName(NotFound):
    """No package of this name."""


class NoSuchFile(NotFound):
    """No such file."""


class Outdated(OverlayError):
    """The configuration was replaced while something was decided by it: to be decided anew by the new one."""


class AlreadyExists(OverlayError):
    """The file (or thing) exists, with other contents."""


class StillInUse(OverlayError):
    """It cannot go while something depends on it."""


class TooLarge(OverlayError):
    """More bytes than the limit allows."""


class UpstreamError(OverlayError):
    """An upstream gave no usable answer. Never to be read as 'not found'.

    Args:
        upstream: the upstream's name in the configuration.
        message: what happened, without addresses that carry credentials.
    """

    def __init__(self, upstream: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.upstream = upstream


class UpstreamUnreachable(UpstreamError):
    """No connection, or it broke."""


class UpstreamTimeout(UpstreamError):
    """It did not answer in time."""


class UpstreamBusy(UpstreamError):
    """It asked to be left alone (429, 503); `retry_after` in seconds where it said so."""

    def __init__(self, upstream: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(upstream, message)
        self.retry_after = retry_after


class UpstreamFaulty(UpstreamError):
    """It answered, but nothing that may be believed."""


class RangesRefused(UpstreamFaulty):
    """It gives a file as a whole, not the part that was asked for."""


class ContentMismatch(UpstreamFaulty):
    """Its bytes do not have the digest or size that its own page names."""


class StorageError(OverlayError):
    """The data directory or the database failed."""


class DiskFull(StorageError):
    """No space left."""


class StoreUnavailable(StorageError):
    """The database or the data directory cannot be used now."""
