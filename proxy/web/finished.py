"""The bounded store of finished answers: found by a head's very bytes, or by what the head says.

It is a ladder of two steps. `by_head` takes the exact bytes of a request head that was answered before; nothing is
parsed. `by_parts` takes what a plain head says (target, `Accept`, `Accept-Encoding`, whose sight) and finds what some
other client was answered. Both give the same `Answer`: heads point to it.

Why that is never wrong (the rules are those of `storage.board`):

- Only what a handler declared `notes.Keepable` is kept: answers of 200 with a settled stamp that was taken before any
  fact was read. The credentials are part of it: what recognised them (`callers.Known`) has a stamp and a time too.
- Before each use the clock and both stamps are looked at. That is the last thing to happen before the bytes are given
  to the transport; a body on disk has been read by then.
- What holds no more is forgotten when it is met, and the request goes the long way.

What is kept is counted in bytes, also the bodies that are held elsewhere as well, and the least recently used goes
first. Of files the address is kept; their bodies have a small room of their own, so that many that are asked for now
and then neither drive out each other's addresses nor any page. A head is kept when it comes for the second time:
heads of which no two are alike, with an id of their own for instance, do not fill the store.
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from math import inf
from typing import TypeAlias

import msgspec
from aiohttp import web

from proxy.domain.access import ANONYMOUS, Caller, Sight
from proxy.domain.decision import Decision
from proxy.observe.metrics import Route
from proxy.storage.board import Board, Stamp
from proxy.storage.downloads import Download
from proxy.web.callers import Known
from proxy.web.heads import Head
from proxy.web.notes import CALLER, DECIDED, KEEP, ROUTE, SUBJECT, Keepable, Subject
from proxy.web.sendfile import is_in_memory

_ROOM = 52 << 20
"""Bytes for answers, but for bodies that lie on disk as well: two thousand pages, or twenty-five thousand files."""
_FILES_ROOM = 8 << 20
"""Bytes for the bodies of the few small files that are hot: to read another one again takes ten microseconds."""
_HEADS_ROOM = 24 << 20
"""Bytes for the heads that point to answers: some twenty thousand."""
_LARGEST = 4 << 20
"""Longer bodies are sent by who made them: what is saved is nothing beside the work of sending."""
_HELD = 64 << 10
"""Bodies of files up to here may stay in memory; of longer ones sending costs more than reading."""
_READ = 256 << 10
"""Files up to here are read here and now, which takes some ten microseconds; longer ones leave in other ways."""
_LONGEST_HEAD = 2 << 10
_SHARED = 512
"""Beginnings of heads that answers have in common."""

_ANSWER = 1200
"""Bytes that an answer takes beside its body, its target and the lines of its own."""
_FETCHED = 400
"""Bytes that it takes besides where it is a file's."""
_DOWNLOAD = 260
"""Bytes that a head takes besides where a file leaves."""
_HEAD = 550
"""Bytes that a kept head takes beside its own and what the log tells of it."""
_PLACES = (1 << 17) - 1
_PARTS = 64
"""What was used is not put behind all others again before such a part of the store is new: that touches memory long
unused, and until then little of what stands before it can have gone."""
_LAST = 0xFFFFFFFF

_OWN = frozenset({"etag", "content-length", "date"})
"""Headers in which answers of one kind differ."""
_OF_BODIES = (b"content-type:", b"content-length:", b"content-encoding:", b"accept-ranges:")
"""Headers that a 304 has not (RFC 9110 15.4.5)."""

_Key: TypeAlias = tuple[bytes, bytes | None, bytes | None, int]
"""Target, Accept, Accept-Encoding, and the identity of the sight."""

Pieces: TypeAlias = tuple[bytes, bytes]
"""A head, and a body that may be empty."""


class Form:
    """An answer as GET, HEAD, or a client that has it already, gets it: its head, around the request's id.

    Attributes:
        method, status, sent: for log and metrics; the last is the length of the body.
        told: what the log says of it, rendered; `web.observed` fills it.
    """

    __slots__ = ("after", "before", "method", "sent", "status", "told")

    def __init__(self, before: bytes, after: bytes, method: str, status: int, sent: int) -> None:
        """Take the head up to the id, and the rest of it."""
        self.method = method
        self.before = before
        self.after = after
        self.status = status
        self.sent = sent
        self.told: str | None = None


class Answer:
    """What is the same for all who may have it and ask for it alike.

    Attributes:
        path: of the file whose content the body is, which then may come and go; else empty.
        size: of the body.
        was_read: the body came from the file once already.
        subject: what it is about, where a name was decided.
        warned: rules that would have refused it, were they enforced.
        is_kept: it stands in the store.
    """

    __slots__ = (
        "_bodiless",
        "_unchanged",
        "body",
        "cache_status",
        "cost",
        "etag",
        "full",
        "good_until",
        "is_kept",
        "key",
        "path",
        "route",
        "rule",
        "sight",
        "size",
        "stamp",
        "subject",
        "used",
        "warned",
        "was_read",
        "word",
    )

    def __init__(
        self,
        key: _Key,
        sight: Sight,
        keepable: Keepable,
        full: Form,
        *,
        route: Route,
        decision: Decision | None,
        subject: Subject | None,
        cache_status: str,
    ) -> None:
        """Take over what is needed; `full` is the form for GET."""
        self.key = key
        self.sight = sight
        self.stamp = keepable.stamp
        self.good_until = inf if keepable.good_until is None else keepable.good_until
        self.etag = keepable.etag.encode()
        self.path = keepable.path
        self.size = full.sent
        self.body = None if keepable.path else keepable.body
        self.was_read = False
        self.used = keepable.used
        self.route = route
        self.word = None if decision is None else str(decision.word)
        self.rule = None if decision is None else decision.rule
        self.subject = subject
        self.warned = () if subject is None else subject.warned
        self.cache_status = cache_status
        self.full = full
        self._bodiless: Form | None = None
        self._unchanged: Form | None = None
        self.cost = _ANSWER + len(full.after) + len(self.path)
        self.cost += len(key[0]) + len(key[1] or b"") + len(key[2] or b"")
        if not self.path:
            self.cost += full.sent
        if subject is not None and subject.fetched is not None:
            self.cost += _FETCHED
        self.is_kept = False

    def form(self, head: Head) -> Form | None:
        """How to answer a plain head; None: that is not to be said here."""
        condition = head.headers.get(b"if-none-match")
        if condition is not None:
            if condition == self.etag:
                return self._as_unchanged(is_head=head.is_head)
            # Another single tag is of another answer. Lists, weak tags and `*` are rare.
            if not (condition.startswith(b'"') and condition.endswith(b'"') and condition.count(b'"') == 2):
                return None
        return self._without_body() if head.is_head else self.full

    def _without_body(self) -> Form:
        if self._bodiless is None:
            self._bodiless = Form(self.full.before, self.full.after, "HEAD", 200, 0)
        return self._bodiless

    def _as_unchanged(self, *, is_head: bool) -> Form:
        if self._unchanged is None:
            lines = self.full.before.partition(b"\r\n")[2]
            before = b"HTTP/1.1 304 Not Modified\r\n" + _of_no_body(lines)
            self._unchanged = Form(before, _of_no_body(self.full.after), "GET", 304, 0)
        if is_head:
            # Too rare to be kept.
            return Form(self._unchanged.before, self._unchanged.after, "HEAD", 304, 0)
        return self._unchanged


class Kept:
    """A head and who sent it, with the answer that it gets.

    Attributes:
        data: the head where it stands in the store, else empty.
        stamp, good_until: of the answer and of the credentials.
        agent, forwarded: headers, for the log.
        fetched: the file that leaves each time; None where none does.
        told: what the log says of caller and agent, rendered; `web.observed` fills it.
        recorded: what the record of requests says, rendered; filled as well.
        download: that file with who asked for it, as it is recorded; filled as well.
        peer: the other end that asked then.
        turned: bytes that the store had taken in when this was last put behind all others.
    """

    __slots__ = (
        "agent",
        "answer",
        "caller",
        "data",
        "download",
        "fetched",
        "form",
        "forwarded",
        "good_until",
        "peer",
        "recorded",
        "stamp",
        "told",
        "turned",
    )

    def __init__(self, answer: Answer, form: Form, known: Known, head: Head) -> None:
        """Bring together what the answer depends on, and what is told of the request."""
        self.answer = answer
        self.form = form
        self.caller: Caller = known.caller
        more = tuple(pair for pair in known.stamp if pair not in answer.stamp)
        self.stamp: Stamp = answer.stamp + more if more else answer.stamp
        self.good_until = min(answer.good_until, inf if known.good_until is None else known.good_until)
        self.agent = head.headers.get(b"user-agent", b"")
        self.forwarded = head.headers.get(b"x-forwarded-for", b"")
        self.data = b""
        subject = answer.subject
        self.fetched = subject.fetched if subject is not None and form is answer.full else None
        self.told: str | None = None
        self.recorded: bytes | None = None
        self.download: Download | None = None
        self.peer = ""
        self.turned = -_ROOM

    @property
    def cost(self) -> int:
        """Bytes that it takes in the store."""
        cost = _HEAD + len(self.data) + len(self.agent) + len(self.forwarded)
        return cost if self.fetched is None else cost + _DOWNLOAD


class Given(msgspec.Struct, frozen=True, gc=False):
    """One answer that was given, for log, metrics and last uses.

    Attributes:
        peer: the address of the other end; empty of a unix socket.
        at: seconds since the epoch.
        seconds: that it took.
    """

    kept: Kept
    peer: str
    request_id: bytes
    at: float
    seconds: float


class Finished:
    """The store. Owned by one event loop; no call waits for the disk."""

    def __init__(
        self,
        board: Board,
        known: Callable[[bytes | None], Known | None],
        sight: Callable[[Caller], Sight],
        clock: Callable[[], float],
    ) -> None:
        """Begin empty.

        Args:
            board: of the process.
            known: who sends this value of `Authorization`, or none at all, as far as that is remembered.
            sight: what a caller sees: the very object that `known` gives.
            clock: seconds since the epoch.
        """
        self._holds = board.holds
        self._known = known
        self._sight = sight
        self._clock = clock
        self._heads: OrderedDict[bytes, Kept] = OrderedDict()
        self._answers: OrderedDict[_Key, Answer] = OrderedDict()
        self._files: OrderedDict[Answer, None] = OrderedDict()
        self._shared: dict[bytes, bytes] = {}
        self._seen = bytearray(_PLACES + 1)
        self._size = 0
        self._files_size = 0
        self._heads_size = 0
        self._turned = 0
        self._given: list[Given] = []
        self._prefix = b""
        self._number = _LAST

    @property
    def size(self) -> int:
        """Bytes that all of it takes, as far as it is counted."""
        return self._size + self._files_size + self._heads_size

    @property
    def waiting(self) -> int:
        """How many given answers `taken` would return."""
        return len(self._given)

    def by_head(self, data: bytes, peer: str) -> Pieces | None:
        """The answer to these very bytes, to be written at once; None if there is none, or it holds no more.

        Args:
            data: a chunk as it came.
            peer: for the log.
        """
        kept = self._heads.get(data)
        if kept is None:
            return None
        pieces = self._give(kept, peer)
        if pieces is None:
            self._forget_head(data)
        return pieces

    def by_parts(self, head: Head, peer: str) -> Pieces | None:
        """The answer to a plain head, as `by_head`."""
        known = self._known(head.headers.get(b"authorization"))
        if known is None:
            return None
        answer = self._answers.get(_key(head, known.sight))
        if answer is None:
            return None
        form = answer.form(head)
        if form is None:
            return None
        kept = Kept(answer, form, known, head)
        pieces = self._give(kept, peer)
        if pieces is None:
            self._forget(answer)
        elif self._was_seen(head.data):
            self._keep_head(head.data, kept)
        return pieces

    def keep(self, head: Head, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Keep what was answered, where its handler said that it may be.

        Args:
            head: plain; `request` was made of it.
            response: has been sent.
        """
        keepable = request.get(KEEP)
        if keepable is None or response.status != 200:
            return
        size = keepable.size if keepable.body is None else len(keepable.body)
        is_file = bool(keepable.path)
        if size > (_READ if is_file else _LARGEST) or (keepable.body is None and not is_file):
            return
        # What was declared must be what was sent.
        if response.headers.get("Content-Length") != str(size):
            return
        known = self._known(head.headers.get(b"authorization"))
        if known is None or known.sight is not self._sight(request.get(CALLER, ANONYMOUS)):
            return
        cache_status = _as_hit(response.headers.get("Cache-Status", ""))
        key = _key(head, known.sight)
        answer = Answer(
            key,
            known.sight,
            keepable,
            self._form(response, cache_status, size),
            route=request.get(ROUTE, "other"),
            decision=request.get(DECIDED),
            subject=request.get(SUBJECT),
            cache_status=cache_status,
        )
        before = self._answers.get(key)
        if before is not None:
            self._forget(before)
        answer.is_kept = True
        self._answers[key] = answer
        self._size += answer.cost
        self._turned += answer.cost
        while self._size > _ROOM:
            self._forget(next(iter(self._answers.values())))
        self._was_seen(head.data)

    def taken(self) -> list[Given]:
        """What was given since the last call. It counts as used now."""
        given, self._given = self._given, []
        turned, little = self._turned, min(_ROOM, _HEADS_ROOM) // _PARTS
        for kept in {one.kept for one in given}:
            answer = kept.answer
            if answer.used is not None:
                answer.used()
            if answer in self._files:
                self._files.move_to_end(answer)
            if turned - kept.turned >= little:
                kept.turned = turned
                if kept.data in self._heads:
                    self._heads.move_to_end(kept.data)
                if answer.is_kept:
                    self._answers.move_to_end(answer.key)
        return given

    def forget_all(self) -> None:
        """Make it empty."""
        for answer in list(self._answers.values()):
            self._forget(answer)
        self._heads.clear()
        self._heads_size = 0

    def _give(self, kept: Kept, peer: str) -> Pieces | None:
        answer, form = kept.answer, kept.form
        if not answer.is_kept:
            return None
        began = self._clock()
        body = b""
        if form.sent:
            found = answer.body or self._read(answer)
            if found is None:
                return None
            body = found
        if self._number == _LAST:
            self._prefix, self._number = secrets.token_hex(4).encode(), 0
        self._number = number = self._number + 1
        request_id = b"%b%08x" % (self._prefix, number)
        head = b"".join((form.before, request_id, form.after))
        at = self._clock()
        if at >= kept.good_until or not self._holds(kept.stamp):
            return None
        self._given.append(Given(kept, peer, request_id, at, at - began))
        return head, body

    def _read(self, answer: Answer) -> bytes | None:
        """The body from its file; None if that is no more what it was, or the disk would have to be waited for."""
        try:
            descriptor = os.open(answer.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if answer.size and not is_in_memory(descriptor, answer.size - 1):
                    return None
                body = os.read(descriptor, answer.size + 1)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        if len(body) != answer.size:
            return None
        if answer.was_read and answer.size <= _HELD:
            answer.body = body
            self._files[answer] = None
            self._files_size += answer.size
            while self._files_size > _FILES_ROOM:
                self._let_go(next(iter(self._files)))
        answer.was_read = True
        return body

    def _form(self, response: web.StreamResponse, cache_status: str, size: int) -> Form:
        """The head of an answer, as aiohttp sent it."""
        shared, own = f"HTTP/1.1 {response.status} {response.reason}\r\n", "\r\n"
        for name, value in response.headers.items():
            lowered = name.lower()
            if lowered in _OWN:
                own += f"{name}: {value}\r\n"
            elif lowered == "cache-status":
                shared += f"{name}: {cache_status}\r\n"
            elif lowered != "x-request-id":
                shared += f"{name}: {value}\r\n"
        before = f"{shared}X-Request-Id: ".encode()
        if len(self._shared) >= _SHARED:
            self._shared.clear()
        return Form(self._shared.setdefault(before, before), f"{own}\r\n".encode(), "GET", 200, size)

    def _was_seen(self, data: bytes) -> bool:
        """Whether such a head came before, not long ago; it counts as seen from now on.

        Of a head one byte is remembered, at two places, in the place of others': once in some hundred cases a new
        one passes for known, which does no harm. With one place, two heads that come by turns could hide each other
        for ever.
        """
        mixed = hash(data)
        sign, one, other = mixed & 0xFF, (mixed >> 8) & _PLACES, (mixed >> 32) & _PLACES
        seen = self._seen
        if seen[one] == sign or seen[other] == sign:
            return True
        seen[one] = seen[other] = sign
        return False

    def _keep_head(self, data: bytes, kept: Kept) -> None:
        if len(data) > _LONGEST_HEAD:
            return
        kept.data = data
        if data not in self._heads:
            self._heads_size += kept.cost
            self._turned += kept.cost
        self._heads[data] = kept
        while self._heads_size > _HEADS_ROOM:
            self._forget_head(next(iter(self._heads)))

    def _forget_head(self, data: bytes) -> None:
        self._heads_size -= self._heads.pop(data).cost

    def _forget(self, answer: Answer) -> None:
        if answer.is_kept:
            # Heads may point to it still.
            answer.is_kept = False
            del self._answers[answer.key]
            self._size -= answer.cost
            self._let_go(answer)
            answer.body = None

    def _let_go(self, answer: Answer) -> None:
        """Let a body go that lies on disk as well."""
        if answer in self._files:
            del self._files[answer]
            self._files_size -= answer.size
            answer.body, answer.was_read = None, False


def _key(head: Head, sight: Sight) -> _Key:
    # A sight is known by its identity: answers hold theirs, so no other comes to have the same.
    return head.target, head.headers.get(b"accept"), head.headers.get(b"accept-encoding"), id(sight)


def _as_hit(cache_status: str) -> str:
    """What `Cache-Status` says of an answer from the second time on (RFC 9211)."""
    return "pypi-overlay; hit" if "; fwd=" in cache_status else cache_status


def _of_no_body(lines: bytes) -> bytes:
    """Lines of a head without those that speak of its body."""
    return b"\r\n".join(line for line in lines.split(b"\r\n") if not line.lower().startswith(_OF_BODIES))


FINISHED = web.AppKey("finished", Finished)
"""The store of an application (`web.app.build`)."""
