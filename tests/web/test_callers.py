"""Callers that are remembered: for as long as their token is theirs, not a request longer, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import make_mocked_request
from sqlalchemy import event

from proxy.domain.access import ANONYMOUS, OPERATOR, Caller, CallerKind, Scope
from proxy.domain.namespaces import NamespacePath
from proxy.errors import NotAuthenticated, Outdated
from proxy.identity import management, tokens
from proxy.identity.tokens import TokenKind, TokenRow
from proxy.registry import namespaces
from proxy.server.assembly import another_instance, close_instance, open_instance, switch
from proxy.storage.audit import By
from proxy.storage.board import new_serial
from proxy.storage.database import Change
from proxy.web.callers import Callers, Known
from tests.registry.making import FILE, NOW, Clock, snapshot_of, tree_of
from tests.storage.children import Child

CONFIG: dict[str, Any] = {
    "users": {"alice": {}, "bob": {}},
    "projects": {"default": {}},
    "groups": {"acme": {"members": {"alice": "reporter", "bob": "reporter"}, "projects": {"widgets": {}}}},
}
OWNER = By(Caller(CallerKind.OWNER, "operator"), NOW, "", "")


@dataclass
class Desk:
    """Where callers are recognised, with a count of what is asked of the registry."""

    callers: Callers
    clock: Clock
    change: Callable[[Callable[[Change], Any]], Any]
    data_dir: str
    queries: int = 0

    def token(self, user: str = "alice", **about: Any) -> tuple[str, TokenRow]:
        wanted: dict[str, Any] = {"kind": TokenKind.PERSONAL, "user": user, "scopes": ["read_api"], **about}
        if wanted["kind"] is not TokenKind.PERSONAL:
            wanted["user"] = None
        made: tuple[str, TokenRow] = self.change(
            lambda change: tokens.mint(change, name="", created_at=self.clock(), created_by="test", **wanted)
        )
        return made

    async def identify(self, headers: Mapping[str, str]) -> Caller:
        return await self.callers.identify(make_mocked_request("GET", "/simple/", headers=headers))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as the first start leaves it: to be copied, which is quicker than to make one."""
    directory = tmp_path_factory.mktemp("fresh") / "data"
    asyncio.run(close_instance(open_instance(snapshot_of(CONFIG, directory))))
    return directory


@pytest_asyncio.fixture
async def desk(tmp_path: Path, fresh: Path) -> AsyncIterator[Desk]:
    clock = Clock()
    shutil.copytree(fresh, tmp_path / "data")
    instance = open_instance(snapshot_of(CONFIG, tmp_path / "data"), now=clock)
    desk = Desk(Callers(instance), clock, instance.registry.change_now, instance.layout.data_dir)

    def count(*_: object) -> None:
        desk.queries += 1

    event.listen(instance.registry._reading, "before_cursor_execute", count)
    yield desk
    await close_instance(instance)


def basic(text: str, user: str = "alice") -> str:
    return "Basic " + b64encode(f"{user}:{text}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        lambda text: {"Authorization": basic(text)},
        lambda text: {"authorization": f"Bearer {text}"},
        lambda text: {"PRIVATE-TOKEN": text},
        lambda text: {"Authorization": basic(text), "Private-Token": text},
    ],
    ids=["basic", "bearer", "private", "two"],
)
async def test_whoever_comes_again_is_known_without_a_query(
    desk: Desk, headers: Callable[[str], dict[str, str]]
) -> None:
    text, row = desk.token()
    first = await desk.identify(headers(text))
    assert (first.name, first.token) == ("alice", row.id)
    asked = desk.queries
    assert await desk.identify(headers(text)) == first
    assert desk.queries == asked > 0


async def test_what_the_front_reads_is_known_once_it_was_recognised(desk: Desk) -> None:
    text, row = desk.token()
    value = basic(text).encode()
    assert desk.callers.known(value) is None
    caller = await desk.identify({"Authorization": value.decode()})
    known = desk.callers.known(value)
    assert known is not None
    assert (known.caller, known.caller.token) == (caller, row.id)
    assert known.sight is desk.callers.sight(caller)
    assert known.good_until is None
    # Not a caller of the same token with another header, nor one that sends more.
    assert desk.callers.known(value + b" ") is None
    assert desk.callers.known(f"Bearer {text}".encode()) is None


async def test_a_header_is_remembered_with_its_name_and_end(desk: Desk) -> None:
    text, _ = desk.token()
    await desk.identify({"PRIVATE-TOKEN": text})
    assert desk.callers.known(text.encode()) is None
    with pytest.raises(NotAuthenticated):
        await desk.identify({"DEPLOY-TOKEN": text})
    with pytest.raises(NotAuthenticated):
        await desk.identify({"Authorization": f"Bearer {text[:-1]}", "PRIVATE-TOKEN": text[-1]})


async def test_who_sends_nothing_is_anonymous_as_long_as_the_configuration_is_in_force(desk: Desk) -> None:
    known = desk.callers.known(None)
    assert known is not None
    assert (known.caller, known.good_until) == (ANONYMOUS, None)
    assert known.sight is desk.callers.sight(ANONYMOUS)
    assert await desk.identify({}) is ANONYMOUS
    desk.callers._instance.board.put_in_force(new_serial())
    assert desk.callers.known(None) is None


async def test_equal_rights_share_one_sight(desk: Desk) -> None:
    sights = set()
    for user in ("alice", "bob"):
        caller = await desk.identify({"Authorization": basic(desk.token(user)[0], user)})
        sights.add(id(desk.callers.sight(caller)))
    assert len(sights) == 1


async def test_wrong_credentials_are_looked_up_each_time(desk: Desk) -> None:
    wrong = {"Authorization": basic("pyo_pat_wrong")}
    for _ in range(2):
        asked = desk.queries
        with pytest.raises(NotAuthenticated):
            await desk.identify(wrong)
        assert desk.queries > asked
    assert desk.callers.known(wrong["Authorization"].encode()) is None


async def test_an_expired_token_is_known_to_nobody(desk: Desk) -> None:
    text, _ = desk.token(expires_at=NOW + timedelta(minutes=5))
    headers = {"Authorization": basic(text)}
    await desk.identify(headers)
    known = desk.callers.known(headers["Authorization"].encode())
    assert known is not None
    assert known.good_until == (NOW + timedelta(minutes=5)).timestamp()
    desk.clock.advance(minutes=5)
    assert desk.callers.known(headers["Authorization"].encode()) is None
    with pytest.raises(NotAuthenticated):
        await desk.identify(headers)


def revoke(change: Change, row: TokenRow) -> None:
    tokens.revoke(change, row.id, NOW)


def rotate(change: Change, row: TokenRow) -> None:
    management.rotate(change, row.id, expires_at=None, tree=tree_of(CONFIG), by=OWNER)


def move(change: Change, _row: TokenRow) -> None:
    groups = {"apex": {"aliases": ["acme"], "projects": {"widgets": {}}}}
    namespaces.settle(change, tree_of({**CONFIG, "groups": groups}), NOW, file=FILE)


def drop(change: Change, _row: TokenRow) -> None:
    namespaces.drop(change, tree_of({**CONFIG, "groups": {}}), NamespacePath("acme"), NOW)


def preset(change: Change, _row: TokenRow) -> None:
    tokens.first_owner_token(change, NOW, "another-preset-of-the-operator")


@pytest.mark.parametrize(
    ("act", "about"),
    [
        (revoke, {}),
        (rotate, {}),
        (revoke, {"kind": TokenKind.OWNER, "scopes": []}),
        (preset, {"kind": TokenKind.OWNER, "scopes": [], "text": "first", "name": tokens.PRESET_NAME}),
        (drop, {"kind": TokenKind.DEPLOY, "namespace": NamespacePath("acme"), "scopes": list(Scope)[2:]}),
        (move, {"kind": TokenKind.DEPLOY, "namespace": NamespacePath("acme"), "scopes": list(Scope)[2:]}),
        (drop, {"kind": TokenKind.JOB, "namespace": NamespacePath("acme/widgets"), "scopes": []}),
    ],
)
async def test_every_change_of_a_token_ends_what_is_remembered_of_it(
    desk: Desk, act: Callable[[Change, TokenRow], None], about: dict[str, Any]
) -> None:
    def mint(change: Change) -> tuple[str, TokenRow]:
        wanted = {"kind": TokenKind.PERSONAL, "user": "alice", "scopes": ["api"], "name": "", **about}
        if wanted["kind"] is not TokenKind.PERSONAL:
            del wanted["user"]
        return tokens.mint(change, created_at=NOW, created_by="test", **wanted)

    text, row = desk.change(mint)
    other, _ = desk.token("bob")
    header, others = f"Bearer {text}", f"Bearer {other}"
    before = await desk.identify({"Authorization": header})
    await desk.identify({"Authorization": others})
    assert isinstance(desk.callers.known(header.encode()), Known)
    desk.change(lambda change: act(change, row))
    assert desk.callers.known(header.encode()) is None
    if act in (revoke, rotate):
        assert isinstance(desk.callers.known(others.encode()), Known)
    if act is move:
        # Under the configuration of before its namespace is gone; a reload brings another instance.
        assert before.homes == (NamespacePath("acme"),)
    with pytest.raises(NotAuthenticated):
        await desk.identify({"Authorization": header})


async def test_a_token_that_another_process_revokes_is_gone_at_once(desk: Desk) -> None:
    text, row = desk.token()
    header = basic(text)
    await desk.identify({"Authorization": header})
    code = f"""
from proxy.identity import tokens
from proxy.storage.board import Board
registry = Database(layout.registry_database, locks, name="registry", board=Board(layout))
registry.change_now(lambda change: tokens.revoke(change, {row.id}, datetime.now(UTC)))
say("done")
input()
"""
    assert desk.callers.known(header.encode()) is not None
    with Child(desk.data_dir, code) as child:
        assert child.hear() == "done"
        assert desk.callers.known(header.encode()) is None
        with pytest.raises(NotAuthenticated):
            await desk.identify({"Authorization": header})


async def test_a_token_that_is_revoked_while_it_is_looked_up_is_not_remembered(desk: Desk) -> None:
    text, row = desk.token()
    waiting = [row]

    def act(*_: object) -> None:
        while waiting:
            desk.change(partial(revoke, row=waiting.pop()))

    event.listen(desk.callers._instance.registry._reading, "after_cursor_execute", act)
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            await desk.identify({"Authorization": basic(text)})
    assert desk.callers.known(basic(text).encode()) is None


async def test_a_user_who_left_the_file_is_nobody(desk: Desk, tmp_path: Path) -> None:
    text, _ = desk.token("bob")
    header = basic(text, "bob")
    await desk.identify({"Authorization": header})
    instance = desk.callers._instance
    without = snapshot_of({**CONFIG, "users": {"alice": {}}, "groups": {}}, tmp_path / "data")
    serial = new_serial()
    after = Callers(replace(instance, snapshot=without, serial=serial))
    instance.board.put_in_force(serial)
    assert desk.callers.known(header.encode()) is None
    assert after.known(header.encode()) is None
    with pytest.raises(NotAuthenticated):
        await after.identify(make_mocked_request("GET", "/", headers={"Authorization": header}))


async def test_who_is_unknown_under_a_replaced_configuration_is_asked_anew_and_not_refused(
    desk: Desk, tmp_path: Path
) -> None:
    """The namespace of its token has moved already; it has shown nothing that is wrong."""
    text, _ = desk.token(
        kind=TokenKind.DEPLOY, namespace=NamespacePath("acme"), scopes=["read_package_registry"]
    )
    header = {"Authorization": basic(text, "__token__")}
    groups = {"umbrella": {**CONFIG["groups"]["acme"], "aliases": ["acme"]}}
    moved = snapshot_of({**CONFIG, "groups": groups}, tmp_path / "data")
    instance = desk.callers._instance
    before, after = (
        another_instance(instance, snapshot, new_serial()) for snapshot in (instance.snapshot, moved)
    )
    instance.board.put_in_force(before.serial or 0)
    assert (await Callers(before).identify(make_mocked_request("GET", "/", headers=header))).homes == (
        "acme",
    )
    switch(after, before.snapshot, By(OPERATOR, instance.now()))
    with pytest.raises(Outdated):
        await Callers(before).identify(make_mocked_request("GET", "/", headers=header))
    found = await Callers(after).identify(make_mocked_request("GET", "/", headers=header))
    assert found.homes == ("umbrella",)


async def test_no_text_of_a_token_stays_in_memory(desk: Desk) -> None:
    text, _ = desk.token()
    header = basic(text)
    await desk.identify({"Authorization": header})
    with contextlib.suppress(NotAuthenticated):
        await desk.identify({"Authorization": basic(text + "x")})
    held = [item for key, known in desk.callers._known.items() for item in (key, known)]
    assert held
    seen = repr([*held, *gc.get_referents(*held), desk.callers.__dict__])
    assert text not in seen
    assert header not in seen


async def test_every_use_is_noted(desk: Desk) -> None:
    text, row = desk.token()
    headers = {"Authorization": basic(text)}
    for minutes in (0, 3, 6):
        desk.clock.at = NOW + timedelta(minutes=minutes)
        await desk.identify(headers)
        desk.change(desk.callers._instance.last_use.flush)
        used = desk.change(lambda change: tokens.get_token(change.connection, row.id)).last_used_at
        assert used == desk.clock.at


@pytest.mark.parametrize(("listen", "client"), [("unix:/run/socket", "203.0.113.9"), ("127.0.0.1:8080", "")])
async def test_who_has_no_address_is_believed_as_a_proxy_at_a_unix_socket_alone(
    desk: Desk, listen: str, client: str
) -> None:
    """Elsewhere it is a client that has gone already: it sent its request and reset the connection at once."""
    instance = desk.callers._instance
    server = replace(instance.snapshot.server, listen=listen, trusted_proxies=(ip_network("10.0.0.0/8"),))
    callers = Callers(replace(instance, snapshot=replace(instance.snapshot, server=server)))
    assert callers.address_behind("", "203.0.113.9") == client
    assert callers.is_trusted("") is bool(client)
    headers = {"X-Forwarded-Proto": "https"}
    assert callers.scheme(make_mocked_request("GET", "/", headers=headers)) == ("https" if client else "http")
