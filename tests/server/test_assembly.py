"""`open_instance` and `close_instance`: what a start sweeps up and refuses, and what an end writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from proxy.errors import ConfigError, StorageError
from proxy.identity import tokens
from proxy.identity.tokens import TokenKind
from proxy.index.instance import Instance
from proxy.registry import namespaces
from proxy.server.assembly import admit_owner, close_instance, note_configuration, open_instance
from proxy.storage.audit import Wanted, events
from proxy.storage.tables import tokens as token_rows
from tests.registry.making import CONFIG, NOW, WIDGETS, Clock, publish, snapshot_of, wheel


def opened(directory: Path, config: Mapping[str, Any] = CONFIG, **options: Any) -> Instance:
    return open_instance(snapshot_of(config, directory), now=Clock(), **options)


def close(instance: Instance) -> None:
    asyncio.run(close_instance(instance))


def open_below(directory: Path) -> list[str]:
    """The files of a directory that this process has open; none where that cannot be known."""
    paths = (os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").glob("*"))
    return [path for path in paths if path.startswith(f"{directory.resolve()}{os.sep}")]


def test_a_start_sweeps_up_what_a_killed_server_left(tmp_path: Path) -> None:
    close(opened(tmp_path))
    leftovers = [tmp_path / "incoming" / "half", tmp_path / "cache" / "partial" / "half"]
    for path in leftovers:
        path.write_bytes(b"half an archive")
    close(opened(tmp_path))
    assert all(path.exists() for path in leftovers), "a command is no server: it must not touch them"
    close(opened(tmp_path, serving=True))
    assert not any(path.exists() for path in leftovers)


def test_commands_work_beside_a_server_on_the_same_data(tmp_path: Path) -> None:
    server = opened(tmp_path, serving=True)
    command = opened(tmp_path)
    publish(command.registry, WIDGETS, wheel("gears", "1.0"))
    close(command)
    held = server.registry.read_now(namespaces.held)
    assert {found.path for found in held if found.packages} == {WIDGETS}
    close(server)


def test_a_refused_configuration_lets_go_of_everything(tmp_path: Path) -> None:
    instance = opened(tmp_path)
    publish(instance.registry, WIDGETS, wheel("gears", "1.0"))
    close(instance)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"groups\.acme is gone but holds 1 package"):
            opened(tmp_path, {"groups": {}}, serving=True)
        assert open_below(tmp_path) == []
    close(opened(tmp_path, serving=True))


def test_what_mends_the_namespaces_may_open_them_unsettled(tmp_path: Path) -> None:
    instance = opened(tmp_path)
    publish(instance.registry, WIDGETS, wheel("gears", "1.0"))
    close(instance)
    instance = opened(tmp_path, {"groups": {}}, settled=False)
    assert any(found.path == WIDGETS for found in instance.registry.read_now(namespaces.held))
    close(instance)


def test_last_uses_are_written_at_the_end(tmp_path: Path) -> None:
    instance = opened(tmp_path)
    _, row = instance.registry.change_now(
        lambda change: tokens.mint(
            change,
            kind=TokenKind.PERSONAL,
            name="",
            created_at=NOW,
            created_by="t",
            user="alice",
            scopes=["api"],
        )
    )
    instance.last_use.note(row.id, NOW)
    close(instance)
    instance = opened(tmp_path)
    assert instance.registry.read_now(lambda c: tokens.get_token(c, row.id)).last_used_at == NOW
    close(instance)


def test_the_owner_token_is_written_before_it_counts(tmp_path: Path) -> None:
    """Where the file cannot be written there is no token either, and the next start makes both."""
    instance = opened(tmp_path)
    (tmp_path / "owner-token").mkdir()
    with pytest.raises(StorageError, match="the owner token cannot be written"):
        admit_owner(instance, None)

    def owners() -> list[str]:
        return list(
            instance.registry.read_now(lambda c: c.execute(select(token_rows.c.kind)).scalars().all())
        )

    assert owners() == []
    (tmp_path / "owner-token").rmdir()
    text = admit_owner(instance, None)
    assert text is not None
    assert (tmp_path / "owner-token").read_text() == f"{text}\n"
    assert owners() == ["owner"]
    assert admit_owner(instance, None) is None
    close(instance)


def audited(instance: Instance) -> list[tuple[object, object]]:
    """Action and detail of every event, the newest first."""
    found = instance.registry.read_now(partial(events, wanted=Wanted(), limit=100))
    assert {str(event["who"]) for event in found} <= {"{'kind': 'owner', 'id': None, 'user': 'start'}"}
    return [(event["action"], event["detail"]) for event in found]


def test_a_start_with_another_configuration_stands_in_the_audit(tmp_path: Path) -> None:
    for digest, count in (("one", 1), ("one", 1), ("two", 2), ("one", 3)):
        snapshot = replace(snapshot_of(CONFIG, tmp_path), digest=digest)
        instance = open_instance(snapshot, serving=True, now=Clock())
        note_configuration(instance)
        found = audited(instance)
        close(instance)
        assert len(found) == count
    assert [(action, detail["before"], detail["after"]) for action, detail in found] == [  # type: ignore[index]  # a mapping
        ("config.start", "two", "one"),
        ("config.start", "one", "two"),
        ("config.start", None, "one"),
    ]


def test_a_start_that_moves_namespaces_or_makes_tokens_says_so_in_the_audit(tmp_path: Path) -> None:
    instance = opened(tmp_path)
    publish(instance.registry, WIDGETS, wheel("gears", "1.0"))
    close(instance)
    acme = CONFIG["groups"]["acme"]
    groups = {**CONFIG["groups"], "umbrella": acme | {"aliases": ["acme"]}}
    del groups["acme"]
    moving = opened(tmp_path, {**CONFIG, "groups": groups}, serving=True)
    assert ("namespace.move", {"from": WIDGETS}) in audited(moving)
    admit_owner(moving, None)
    [(action, detail), *_] = audited(moving)
    assert (action, detail) == ("token.create", {"id": 1, "kind": "owner", "name": tokens.FIRST_NAME})
    admit_owner(moving, "a-preset-token-of-the-operator-1234567890")
    admit_owner(moving, "another-preset-token-of-the-operator-0123")
    close_actions = [action for action, _ in audited(moving)][:3]
    close(moving)
    assert close_actions == ["token.create", "token.revoke", "token.create"]
