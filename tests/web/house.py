"""One server for many tests: two tenants and a vault, users of every role, an upstream of its own.

What a test publishes carries a name of its own (`house.name()`), so that no test finds another's packages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Unpack
from urllib.parse import quote

import pytest

from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import WheelContents, make_sdist, make_wheel
from tests.web import forms
from tests.web.wire import Answer, Wire

MAX_FILE = 4 << 20
MAX_DESCRIPTION = 100
REALM = 'Basic realm="pypi-overlay", charset="UTF-8"'

USERS = ("alice", "dan", "rita", "otto")

GROUPS: dict[str, Any] = {
    "acme": {
        "id": 7,
        "visibility": "private",
        "members": {"alice": "maintainer", "rita": "reporter"},
        "policy": {"reserve": ["acme-*"]},
        "projects": {
            "widgets": {"id": 42, "members": {"dan": "developer"}},
            "sandbox": {"id": 43},
        },
    },
    "open": {
        "id": 8,
        "visibility": "public",
        "members": {"alice": "maintainer"},
        "policy": {"deny": ["evil-*"], "reserve": ["open-*"]},
        "projects": {
            "tools": {"id": 44, "members": {"dan": "developer"}},
            "gear": {"id": 46},
            "hidden": {"visibility": "private"},
        },
    },
    "vault": {
        "id": 9,
        "aliases": ["strongroom"],
        "visibility": "public",
        "policy": {"forward": False, "identical_upload": "accept", "local_versions": "reject"},
        "projects": {"safe": {"id": 45}},
    },
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that was published, here or upstream."""

    name: str
    version: str
    filename: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Tokens(dict[str, str]):
    """Tokens by user, made when they are first asked for."""

    def __init__(self, make: Callable[[str], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, user: str) -> str:
        self[user] = self._make(user)
        return self[user]


class House:
    """A running server, a wire to it, tokens of its users, and its upstream."""

    def __init__(self, server: OverlayServer, upstream: FakeUpstream) -> None:
        self.server = server
        self.upstream = upstream
        self.wire = Wire(server.url)
        self.tokens = _Tokens(server.token_for_user)
        self.owner = server.owner_token()
        self.made: dict[str, str] = {}
        self._numbers = count(1)

    def name(self, stem: str = "thing") -> str:
        """A name that no other test has, in normal form and without separators."""
        return f"{stem}{next(self._numbers)}x"

    def wheel(self, name: str, version: str = "1.0", **contents: Unpack[WheelContents]) -> Stored:
        """A wheel that lies nowhere yet."""
        return Stored(name, version, *make_wheel(name, version, **contents))

    def publish(
        self,
        project: str,
        name: str | None = None,
        version: str = "1.0",
        *,
        sdist: bool = False,
        token: str | None = None,
        **contents: Unpack[WheelContents],
    ) -> Stored:
        """Publish a wheel or sdist to a project, as its maintainer unless a token is given."""
        name = name or self.name()
        filename, content = make_sdist(name, version) if sdist else make_wheel(name, version, **contents)
        answer = self.upload(project, forms.upload(filename, content), token=token or self.owner)
        assert answer.status == 201, answer
        return Stored(name, version, filename, content)

    def upload(self, project: str, body: bytes, *, token: str | None = None, **headers: str) -> Answer:
        """POST a form to a project's short address."""
        sent = forms.FORM_TYPE | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.wire.send("POST", f"/{project}/", token=token, headers=sent, body=body)

    def offer(self, name: str | None = None, version: str = "1.0", **said: Any) -> Stored:
        """Let the upstream have a wheel; `size` pads it, the rest is what its page says of it."""
        name = name or self.name("up")
        size = said.pop("size", None)
        stored = Stored(name, version, *make_wheel(name, version, size=size))
        self.upstream.add_file(name, stored.filename, stored.content, **said)
        return stored

    def delete(self, project: str, name: str) -> None:
        """Delete a package as the owner of the instance."""
        target = f"/api/v1/packages/{quote(project, safe='')}/{name}"
        answer = self.wire.send("DELETE", target, token=self.owner)
        assert answer.status == 204, answer

    def log(self, begin: int) -> list[dict[str, Any]]:
        """The lines of the log from a byte offset on, each as JSON."""
        return [json.loads(line) for line in self.server.log_text(begin).splitlines()]

    def logged(self, answer: Answer) -> dict[str, Any]:
        """The one line of the access log that belongs to an answer."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.log(0) if line.get("request_id") == answer["X-Request-Id"]]

        (line,) = wait_until(found, what="the answer's line in the access log")
        return line

    def log_end(self) -> int:
        """Where the log ends now."""
        return self.server.log_file.stat().st_size


def config(upstream: FakeUpstream, **more: Any) -> dict[str, Any]:
    """The configuration of the house; `more` replaces keys at the top."""
    return {
        **base_config(upstream, read_timeout="1s", connect_timeout="1s"),
        "users": {user: {} for user in USERS},
        "groups": GROUPS,
        "projects": {"default": {"id": 41}},
        "limits": {
            "max_file_size": MAX_FILE,
            "max_description": MAX_DESCRIPTION,
            "upload_idle_timeout": "1s",
            # Matrices of statuses fail to log in many times a second.
            "failed_logins": "100000/1m",
        },
        "log": {"format": "json"},
        **more,
    }


def keep_house(directory: Path, **more: Any) -> Generator[House, None, None]:
    """Run a server with an upstream of its own until the generator is closed."""
    with FakeUpstream() as upstream, ForkedServer(config(upstream, **more), directory) as server:
        yield House(server, upstream)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a server that the tests of a worker share; pages are kept as by default."""
    yield from keep_house(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="session")
def wire(house: House) -> Wire:
    """Give the wire to the house."""
    return house.wire


def spellings(path: str) -> list[str]:
    """Every base of a namespace of the house: short, GitLab's with the number, GitLab's with the path."""
    if not path:
        return [""]
    segments = path.split("/")
    found: Any = {"groups": GROUPS}
    kind = "groups"
    for depth, segment in enumerate(segments):
        kind = "groups" if depth == 0 else "projects"
        found = found[kind][segment]
    infix = "/-" if kind == "groups" else ""
    bases = [f"/{path}", f"/api/v4/{kind}/{quote(path, safe='')}{infix}/packages/pypi"]
    if "id" in found:
        bases.append(f"/api/v4/{kind}/{found['id']}{infix}/packages/pypi")
    return bases


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the matrix, and its answer."""

    route: str
    method: str
    target: str
    time: str
    answer: Answer

    def __str__(self) -> str:
        """What a failed assertion shows."""
        return f"{self.time} {self.method} {self.target}: {self.answer.status} {self.answer.reason}"


Matrix = Callable[..., list[Row]]


@pytest.fixture
def matrix(house: House) -> Matrix:
    """Give a function that asks for a name by every reading route, method and spelling, twice.

    `matrix(path, name, filename, key, token=None, headers={})`; routes are `page`, `file`, `metadata`, `explain`.
    """

    def ask(
        path: str,
        name: str,
        filename: str | None = None,
        key: str = "0" * 64,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> list[Row]:
        filename = filename or f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
        targets = [("explain", f"/api/v1/explain?index=/{path}&name={name}")]
        for base in spellings(path):
            targets += [
                ("page", f"{base}/simple/{name}/"),
                ("file", f"{base}/files/{key}/{filename}"),
                ("metadata", f"{base}/files/{key}/{filename}.metadata"),
            ]
        return [
            Row(
                route,
                method,
                target,
                time,
                house.wire.send(method, target, token=token, headers=headers or {}),
            )
            for time in ("first", "second")
            for route, target in targets
            for method in ("HEAD", "GET")
        ]

    return ask
