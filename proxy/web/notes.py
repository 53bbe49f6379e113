"""What is noted of a request on its way, and of the application: for its answer, and for its line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from aiohttp import web

from proxy.domain.access import Caller
from proxy.domain.decision import Asked, Decision, Warned
from proxy.domain.filenames import version_of
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.index.answers import FileAnswer, PageAnswer
from proxy.index.instance import Running
from proxy.observe.metrics import Route
from proxy.registry.packages import StoredFile
from proxy.storage.board import Stamp
from proxy.storage.downloads import Fetched


@dataclass(frozen=True, slots=True)
class Keepable:
    """That an answer of 200 may be given again, to whoever has the same sight and asks in the same way.

    Attributes:
        stamp: everything it depends on but the caller's credentials; settled.
        good_until: seconds since the epoch from which the clock alone may change it; None: never.
        etag: its strong validator, quoted.
        body: the bytes, coded as the headers say; None where they lie on disk.
        path, size: of the file on disk whose whole content the body is, where `body` is None.
        used: to be called for each time it is given, as for a last use.
    """

    stamp: Stamp
    good_until: float | None
    etag: str
    body: bytes | None
    path: str = ""
    size: int = 0
    used: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request was about, once its name was decided; for what is told of it, and recorded.

    Attributes:
        filename, key: of the file that was asked for, or of that whose metadata was; empty for pages and documents.
        fetched: the file, where it is served itself.
        warned: rules that would have refused it, were they enforced.
    """

    index: NamespacePath
    name: Name
    as_of: datetime | None = None
    filename: str = ""
    key: str = ""
    fetched: Fetched | None = None
    warned: tuple[str, ...] = ()


REQUEST_ID = web.RequestKey("request_id", str)
CALLER = web.RequestKey("caller", Caller)
"""Missing as long as, and where, no credentials were recognised."""
DECIDED = web.RequestKey("decided", Decision)
SUBJECT = web.RequestKey("subject", Subject)
ROUTE: web.RequestKey[Route] = web.RequestKey("route", str)  # type: ignore[arg-type]  # a Literal is no class
"""What the request is for, as metrics tell it."""
API = web.RequestKey("api", bool)
"""The address is one of an API: its errors are always JSON (contract 10)."""
FAILURE = web.RequestKey("failure", str)
"""Why the answer is no success, in a sentence."""
BEGUN = web.RequestKey("begun", bool)
"""The head of the answer is out: no other can follow."""
KEEP = web.RequestKey("keep", Keepable)
"""The answer is one that may be kept finished (web.front)."""
SENT = web.RequestKey("sent", int)
"""Bytes of a body that is streamed, as far as they went out."""
RUNNING = web.AppKey("running", Running)
"""Which instance is in force; for what goes on behind the answer."""
CLOSING = web.AppKey("closing", asyncio.Event)
"""Set once the server is about to end."""
UNDER_WAY = web.AppKey("under_way", dict[str, web.Request])
"""The requests that are being answered, by their ids."""


def note_page(request: web.Request, answer: PageAnswer) -> None:
    """Note what was decided of a name whose page, or a document about it, was asked for."""
    request[DECIDED] = answer.decision
    request[SUBJECT] = _subject(answer.asked, answer.warned)


def note_file(request: web.Request, answer: FileAnswer, key: str, filename: str, suffix: str) -> None:
    """Note what was decided of a file.

    Args:
        key, filename: of its address.
        suffix: of what lies beside it and is asked for in its place; empty: the file itself.
    """
    request[DECIDED] = answer.decision
    source, asked = answer.source, answer.asked
    fetched: Fetched | None = None
    if source is not None and not suffix:
        sha256, whose = (
            (source.sha256, source.project)
            if isinstance(source, StoredFile)
            else (source.record.sha256, source.upstream)
        )
        version = version_of(filename, asked.name)
        fetched = Fetched(asked.name, version, filename, sha256, whose, asked.index.path)
    subject = _subject(asked, answer.warned)
    request[SUBJECT] = replace(subject, filename=filename, key=key, fetched=fetched)


def note_content(request: web.Request, sha256: str | None) -> None:
    """Note the digest of the file that is served, of which its page may have named none; None: not known yet."""
    subject = request.get(SUBJECT)
    if subject is not None and subject.fetched is not None:
        request[SUBJECT] = replace(subject, fetched=subject.fetched._replace(sha256=sha256))


def _subject(asked: Asked, warned: tuple[Warned, ...]) -> Subject:
    return Subject(asked.index.path, asked.name, asked.as_of, warned=tuple(one.rule for one in warned))
