"""From an invocation to the configuration and the instance that a command works on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.cli.options import Invocation, config_file
from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.domain.namespaces import Kind, Namespace, NamespacePath, Tree
from proxy.domain.snapshot import Snapshot
from proxy.errors import NoSuchNamespace
from proxy.index.instance import Instance
from proxy.server.assembly import close_instance, open_instance

T = TypeVar("T")


def load_snapshot(invocation: Invocation) -> Snapshot:
    """The configuration in force for this invocation.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return compile_snapshot(load(config_file(invocation), os.environ))


def run(invocation: Invocation, act: Callable[[Instance], Awaitable[T]], *, settled: bool = True) -> T:
    """Open the instance, let `act` work on it, close it, and return what `act` returned.

    Args:
        settled: as `open_instance` takes it.

    Raises:
        ConfigError, StorageError: it cannot be opened; and whatever `act` raises.
    """
    instance = open_instance(load_snapshot(invocation), settled=settled)
    return asyncio.run(_acting(instance, act))


async def _acting(instance: Instance, act: Callable[[Instance], Awaitable[T]]) -> T:
    try:
        return await act(instance)
    finally:
        await close_instance(instance)


def find_project(tree: Tree, path: NamespacePath) -> Namespace:
    """The project at this path.

    Raises:
        NoSuchNamespace: there is nothing, or a group.
    """
    found = tree.find(path)
    if found.kind is not Kind.PROJECT:
        below = tree.projects(found)
        hint = f"name one of its projects, such as {below[0].path}" if below else ""
        raise NoSuchNamespace(f"{found.title} is a group; packages lie in projects", hint=hint)
    return found
