"""An instance in this process in front of a fake upstream, with packages put straight into its registry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.domain.access import Caller, CallerKind, Scope, Sight, sight
from proxy.domain.decision import Asked
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.index.answers import FileAnswer, PageAnswer
from proxy.index.instance import Instance
from proxy.registry.packages import NewFile
from proxy.server.assembly import close_instance, open_instance
from tests.registry import making
from tests.registry.making import Clock, snapshot_of
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream

OWNER = Caller(CallerKind.OWNER, "operator")
ALICE = Caller(CallerKind.USER, "alice", scopes=frozenset({Scope.API}))

CONFIG: dict[str, Any] = {
    "users": {"alice": {}},
    "projects": {"default": {}},
    "groups": {
        "acme": {
            "members": {"alice": "reporter"},
            "policy": {"reserve": ["acme-*"]},
            "projects": {"widgets": {}, "sandbox": {}},
        },
        "open": {
            "visibility": "public",
            "policy": {"deny": ["denied", "denied-*"]},
            "projects": {"tools": {}, "hidden": {"visibility": "private"}},
        },
        "vault": {"visibility": "public", "policy": {"forward": False}, "projects": {"safe": {}}},
    },
}


class House:
    """An open instance, and questions to its index as tests put them: by path and caller."""

    def __init__(self, instance: Instance, clock: Clock) -> None:
        self.instance = instance
        self.clock = clock

    def sight(self, caller: Caller) -> Sight:
        return sight(caller, self.instance.snapshot.tree)

    def asked(self, index: str, name: str, caller: Caller = OWNER, as_of: datetime | None = None) -> Asked:
        return Asked(self.instance.snapshot.tree.find(index), Name(name), self.sight(caller), as_of)

    async def page(
        self, index: str, name: str, caller: Caller = OWNER, as_of: datetime | None = None
    ) -> PageAnswer:
        return await self.instance.index.page(self.asked(index, name, caller, as_of))

    async def file(
        self, index: str, key: str, filename: str, caller: Caller = OWNER, as_of: datetime | None = None
    ) -> FileAnswer:
        namespace = self.instance.snapshot.tree.find(index)
        answer = await self.instance.index.file(namespace, self.sight(caller), key, filename, as_of)
        assert answer is not None
        return answer

    async def names(self, index: str, caller: Caller = OWNER, as_of: datetime | None = None) -> list[str]:
        namespace = self.instance.snapshot.tree.find(index)
        listed = await self.instance.names.get(namespace, self.sight(caller), as_of)
        return b"".join(listed.pieces()).decode().splitlines()

    def publish(self, project: str, filename: str, **about: Any) -> NewFile:
        return making.publish(self.instance.registry, NamespacePath(project), filename, **about)

    def remove(self, project: str, name: str) -> None:
        making.remove(self.instance.registry, NamespacePath(project), name)


@pytest.fixture(scope="module")
def second_of_module() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def second(second_of_module: FakeUpstream) -> FakeUpstream:
    """Another upstream, empty."""
    second_of_module.reset()
    return second_of_module


@pytest.fixture
def clock() -> Clock:
    return Clock()


class OpenHouse:
    """Opens houses; what it opened is closed when the test ends."""

    def __init__(self, directory: Path, clock: Clock, stack: contextlib.AsyncExitStack) -> None:
        self._directory = directory
        self._clock = clock
        self._stack = stack

    def __call__(self, config: Mapping[str, Any]) -> House:
        instance = open_instance(snapshot_of(config, self._directory), now=self._clock)
        self._stack.push_async_callback(close_instance, instance)
        return House(instance, self._clock)


@pytest_asyncio.fixture
async def open_house(tmp_path: Path, clock: Clock) -> AsyncIterator[OpenHouse]:
    async with contextlib.AsyncExitStack() as stack:
        yield OpenHouse(tmp_path / "data", clock, stack)


@pytest.fixture
def house(open_house: OpenHouse, upstream: FakeUpstream) -> House:
    """An instance with `CONFIG` in front of `upstream`."""
    return open_house(base_config(upstream) | CONFIG)
