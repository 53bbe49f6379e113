"""Two workers, their finished answers, and everything that can make those untrue, all at once.

Some clients read pages and files by the same heads over and over, on connections that last, so that nearly all of
their answers are kept ones. Meanwhile names are published, deleted and released, tokens revoked, and the
configuration is loaded anew. Of each of these the test knows when it was *done* (contract 4, "At once"): what a
reader is answered must be true of a moment between the sending of its request and the end of the answer.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import TOKEN, address, make_server, publish
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel
from tests.web.wire import JSON, Wire

READERS = 4
NAMES = 4
TOKENS = 3
READS = 10_000
SECONDS = 60.0
"""What a busy machine may take to read as often and to see all of the following; one at leisure takes five."""
TO_BE_SEEN = (
    "page upstream",
    "page private",
    "page claimed",
    "page denied",
    "file upstream",
    "file denied",
    "private page private",
    "private page 401",
)
ANSWERS_A_CONNECTION = 40


@dataclass
class Truth:
    """What is so of one thing, change by change. `states[:done + 1]` have been told to somebody as done."""

    states: list[str]
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def changing(self, to: str) -> Iterator[None]:
        """Make a change inside: from now on it may be seen, and behind the block it must be."""
        self.states.append(to)
        yield
        self.done = len(self.states) - 1

    @property
    def now(self) -> str:
        return self.states[self.done]

    def between(self, since: int) -> set[str]:
        """What may be answered to somebody who asked when `since` was `done`."""
        return set(self.states[since:])


@dataclass(frozen=True)
class Question:
    """A request head, what it is about, and what of its answer tells which state holds."""

    head: bytes
    truth: Truth
    about: str


class Connection:
    """A connection that lasts; `ask` returns status and headers of an answer that came whole."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), 30)
        self._buffer = b""

    def ask(self, head: bytes) -> tuple[int, dict[str, str]]:
        self._socket.sendall(head)
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._more()
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        whole = end + 4 + int(headers["content-length"])
        while len(self._buffer) < whole:
            self._more()
        self._buffer = self._buffer[whole:]
        assert not self._buffer, "more came than one answer"
        return int(first.split()[1]), headers

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> None:
        piece = self._socket.recv(1 << 16)
        assert piece, "the connection ended in an answer"
        self._buffer += piece


@dataclass
class Seen:
    """What readers saw, of all of them together."""

    reads: itertools.count[int] = field(default_factory=itertools.count)
    wrong: list[str] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    hits: Counter[bool] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def is_enough(self) -> bool:
        return sum(self.words.values()) >= READS and all(self.words[about] for about in TO_BE_SEEN)


def make_head(target: str, token: str | None = None) -> bytes:
    authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
    return (
        f"GET {target} HTTP/1.1\r\nHost: x\r\nAccept: {JSON}\r\nAccept-Encoding: gzip\r\n{authorization}\r\n"
    ).encode()


def read(server: OverlayServer, questions: list[Question], seen: Seen, stop: threading.Event) -> None:
    """Ask at random, over and over."""
    choose = random.Random()
    while not stop.is_set():
        connection = Connection(server.url)
        for _ in range(ANSWERS_A_CONNECTION):
            question = choose.choice(questions)
            truth = question.truth
            since = truth.done
            status, headers = connection.ask(question.head)
            allowed = truth.between(since)
            word = headers.get("x-overlay-decision", "").partition(";")[0] or str(status)
            seen.words[f"{question.about} {word}"] += 1
            seen.hits["hit" in headers.get("cache-status", "")] += 1
            if word not in allowed:
                seen.wrong.append(f"{question.about}: {status} {word}, and not {allowed}")
            next(seen.reads)
            if stop.is_set() or headers.get("connection") == "close":
                break
        connection.close()


class World:
    """The server with what changes on it."""

    def __init__(self, upstream: FakeUpstream, directory: Path, workers: int) -> None:
        self.upstream = upstream
        self.names = [f"raced-{number}" for number in range(NAMES)]
        self.files = {}
        for name in (*self.names, "ruled"):
            filename, content = make_wheel(name, "1.0")
            upstream.add_file(name, filename, content)
            self.files[name] = address(filename, content)
        self._config: dict[str, Any] = {
            "server": {"workers": workers},
            "cache": {"fresh_for": "1s", "stale_while_revalidate": "0s"},
            # Readers go on with revoked tokens.
            "limits": {"failed_logins": "1000000/1m"},
            "users": {"alice": {}},
            "groups": {
                "acme": {"visibility": "public", "projects": {"widgets": {}, "sandbox": {}}},
                "vault": {"members": {"alice": "reporter"}, "projects": {"safe": {}}},
            },
        }
        self.server = make_server(upstream, directory, self._config)
        self.published = {name: Truth(["upstream"]) for name in self.names}
        self.ruled = Truth(["upstream"])
        self.tokens: list[tuple[str, int, Truth]] = []
        self._numbers = itertools.count()

    def questions(self) -> list[Question]:
        found = []
        for name, truth in (*self.published.items(), ("ruled", self.ruled)):
            found.append(Question(make_head(f"/simple/{name}/"), truth, "page"))
            found.append(Question(make_head(f"/acme/simple/{name}/"), truth, "page"))
            found.append(Question(make_head(self.files[name]), truth, "file"))
        for text, _, truth in self.tokens:
            found += [Question(make_head("/vault/simple/secret/", text), truth, "private page")] * 3
        return found

    def prepare(self) -> None:
        filename, content = make_wheel("secret", "1.0")
        assert publish(self.server, filename, content, "vault/safe").status == 201
        for number in range(TOKENS):
            made = self.server.make_token(
                kind="personal", user="alice", name=f"t{number}", scopes=["read_api"]
            )
            self.tokens.append((made["token"], made["id"], Truth(["private"])))

    def publish_and_delete(self, stop: threading.Event) -> None:
        for name in itertools.cycle(self.names):
            if stop.is_set():
                return
            truth = self.published[name]
            match truth.now:
                case "upstream":
                    filename, content = make_wheel(name, f"2.{next(self._numbers)}")
                    with truth.changing("private"):
                        assert publish(self.server, filename, content).status == 201
                case "private":
                    with truth.changing("claimed"):
                        self._ordered("DELETE", f"/api/v1/packages/acme%2Fwidgets/{name}", 204)
                case _:
                    with truth.changing("upstream"):
                        self._ordered("DELETE", f"/api/v1/claims/acme/{name}", 204)

    def reload(self, stop: threading.Event) -> None:
        for number in itertools.count(1):
            is_denied = bool(number % 2)
            policy = {"deny": ["ruled"]} if is_denied else {}
            self.server.configure({**self.server_config(), "policy": policy})
            with self.ruled.changing("denied" if is_denied else "upstream"):
                if number % 4:
                    self._ordered("POST", "/api/v1/reload", 200)
                else:
                    done = self.server.run("config", "reload")
                    assert done.returncode == 0, done.stderr
            if stop.wait(0.2):
                return

    def revoke(self, stop: threading.Event) -> None:
        for _, number, truth in self.tokens:
            if stop.wait(1.0):
                return
            with truth.changing("401"):
                self._ordered("DELETE", f"/api/v1/tokens/{number}", 204)

    def server_config(self) -> dict[str, Any]:
        return {**self._config, "upstreams": self._upstreams()}

    def _upstreams(self) -> dict[str, Any]:
        return {"pypi": {"index_url": self.upstream.index_url, "file_hosts": [self.upstream.host]}}

    def _ordered(self, method: str, target: str, status: int) -> None:
        answer = Wire(self.server.url).send(method, target, token=TOKEN)
        assert answer.status == status, f"{method} {target}: {answer.status} {answer.text}"


def race(world: World) -> Seen:
    """Let readers and changers race until enough was read and all tokens are revoked."""
    seen, stop = Seen(), threading.Event()

    def noted(act: Callable[..., None], *given: object) -> Callable[[], None]:
        def run() -> None:
            try:
                act(*given)
            except BaseException as error:  # noqa: BLE001 - raised again where the test ends
                seen.failures.append(error)
                stop.set()

        return run

    questions = world.questions()
    acts = [noted(read, world.server, questions, seen, stop) for _ in range(READERS)]
    acts += [noted(act, stop) for act in (world.publish_and_delete, world.reload, world.revoke)]
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not stop.wait(0.05):
        if seen.is_enough and all(truth.now == "401" for _, _, truth in world.tokens):
            break
    stop.set()
    for thread in threads:
        thread.join(60)
    return seen


@pytest.mark.timeout(150)
@pytest.mark.parametrize("workers", [2])
def test_no_kept_answer_outlives_what_made_it_true(
    tmp_path: Path, upstream_of_module: FakeUpstream, workers: int
) -> None:
    world = World(upstream_of_module, tmp_path, workers)
    with world.server:
        world.prepare()
        seen = race(world)
        told = json.dumps(dict(seen.words), indent=1)
        if seen.failures:
            raise seen.failures[0]
    assert not seen.wrong, f"{len(seen.wrong)} wrong answers, such as {seen.wrong[:5]}; of {told}"
    assert next(seen.reads) >= READS, told
    for about in TO_BE_SEEN:
        assert seen.words[about], f"never seen: {about}; {told}"
    assert seen.hits[True] > READS / 10, seen.hits
