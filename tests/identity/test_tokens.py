"""Tokens in the registry: what may be made, what is stored, what the first start does."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from proxy.domain.access import Scope
from proxy.domain.namespaces import NamespacePath
from proxy.errors import InvalidForm, NoSuchNamespace, NotFound, OverlayError
from proxy.identity.tokens import (
    JOB_LIFE,
    LastUse,
    TokenKind,
    TokenRow,
    find,
    first_owner_token,
    get_token,
    list_tokens,
    mint,
    revoke,
    shape,
)
from proxy.storage import tables
from proxy.storage.database import Change, Database
from tests.identity.conftest import NOW

PRESET = "correct-horse-battery-staple"
ACME = NamespacePath("acme")
WIDGETS = NamespacePath("acme/widgets")

VALID: dict[TokenKind, dict[str, Any]] = {
    TokenKind.PERSONAL: {"user": "alice", "scopes": ["api"]},
    TokenKind.DEPLOY: {"namespace": ACME, "scopes": ["read_package_registry"]},
    TokenKind.JOB: {"namespace": WIDGETS},
    TokenKind.OWNER: {},
}


def make(registry: Database, kind: TokenKind, **changes: Any) -> tuple[str, TokenRow]:
    wish: dict[str, Any] = (
        {"name": "ci", "created_at": NOW, "created_by": "user:alice"} | VALID[kind] | changes
    )
    return registry.change_now(lambda change: mint(change, kind=kind, **wish))


def owner_start(registry: Database, preset: str | None = None, at: datetime = NOW) -> str | None:
    return registry.change_now(lambda change: first_owner_token(change, at, preset))


def found(registry: Database, text: str) -> TokenRow | None:
    return registry.read_now(lambda connection: find(connection, text))


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        (TokenKind.PERSONAL, "pyo_pat_"),
        (TokenKind.DEPLOY, "pyo_dep_"),
        (TokenKind.JOB, "pyo_job_"),
        (TokenKind.OWNER, "pyo_own_"),
    ],
)
def test_a_new_token_is_256_random_bits_behind_a_readable_prefix_and_is_found(
    registry: Database, kind: TokenKind, prefix: str
) -> None:
    text, row = make(registry, kind)
    other, _ = make(registry, kind)

    assert re.fullmatch(prefix + "[A-Za-z0-9_-]{43}", text)
    assert text != other
    assert row.kind is kind
    assert found(registry, text) == row


def test_no_part_of_a_token_is_at_rest_but_its_hash(registry: Database, tmp_path: Path) -> None:
    texts = [make(registry, kind)[0] for kind in TokenKind]
    owner_start(registry, PRESET)
    registry.close()
    contents = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())

    for text in [*texts, PRESET]:
        secret = text.removeprefix("pyo_")[4:].encode()
        assert secret not in contents
        assert hashlib.sha256(text.encode()).hexdigest().encode() in contents


def test_neither_repr_nor_shape_of_a_token_tells_text_or_hash(registry: Database) -> None:
    text, row = make(registry, TokenKind.PERSONAL)

    for told in (repr(row), str(shape(row))):
        assert text not in told
        assert row.hash not in told


def test_an_unknown_text_is_not_found_whatever_its_characters(registry: Database) -> None:
    text, _ = make(registry, TokenKind.PERSONAL)

    for wrong in (
        "",
        text[:-1],
        text + "x",
        text.upper(),
        "pyo_pat_",
        "täken",
        "\udcff\ud800",
        "x" * 100_000,
    ):
        assert found(registry, wrong) is None


def test_a_deploy_token_is_named_by_its_number_unless_named_otherwise(registry: Database) -> None:
    _, unnamed = make(registry, TokenKind.DEPLOY)
    _, named = make(registry, TokenKind.DEPLOY, username="robot")

    assert unnamed.username == f"pyo+deploy-{unnamed.id}"
    assert named.username == "robot"


def test_a_token_may_be_bound_to_the_root(registry: Database) -> None:
    _, row = make(registry, TokenKind.DEPLOY, namespace=NamespacePath(""))

    assert row.namespace == ""
    assert shape(row)["namespace"] == "/"


def test_scopes_are_kept_once_and_in_order(registry: Database) -> None:
    _, row = make(registry, TokenKind.PERSONAL, scopes=["read_api", "api", "read_api"])

    assert row.scopes == (Scope.API, Scope.READ_API)


def test_job_and_owner_tokens_have_fixed_scopes(registry: Database) -> None:
    assert make(registry, TokenKind.JOB)[1].scopes == (Scope.READ_PACKAGES, Scope.WRITE_PACKAGES)
    assert make(registry, TokenKind.OWNER)[1].scopes == (Scope.API,)


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (TokenKind.PERSONAL, {"scopes": []}, "needs a scope"),
        (TokenKind.PERSONAL, {"scopes": ["write_package_registry"]}, "write_package_registry"),
        (TokenKind.PERSONAL, {"user": None}, "needs user"),
        (TokenKind.PERSONAL, {"user": ""}, "needs user"),
        (TokenKind.PERSONAL, {"namespace": ACME}, "no namespace"),
        (TokenKind.PERSONAL, {"username": "alice"}, "no user name"),
        (TokenKind.DEPLOY, {"scopes": []}, "needs a scope"),
        (TokenKind.DEPLOY, {"scopes": ["read_package_registry", "api"]}, "api"),
        (TokenKind.DEPLOY, {"namespace": None}, "needs a namespace"),
        (TokenKind.DEPLOY, {"user": "alice"}, "no user"),
        (TokenKind.DEPLOY, {"username": ""}, "user name"),
        (TokenKind.DEPLOY, {"username": "a:b"}, "user name"),
        (TokenKind.DEPLOY, {"username": "a\nb"}, "user name"),
        (TokenKind.JOB, {"scopes": ["api"]}, "scope"),
        (TokenKind.JOB, {"namespace": ACME}, "one project"),
        (TokenKind.JOB, {"expires_at": NOW + timedelta(hours=25)}, "24 hours"),
        (TokenKind.OWNER, {"scopes": ["read_api"]}, "scope"),
        (TokenKind.OWNER, {"user": "alice"}, "no user"),
        (TokenKind.OWNER, {"name": "a\x1b[2J"}, "name"),
        (TokenKind.OWNER, {"name": "a" * 256}, "name"),
        (TokenKind.OWNER, {"expires_at": NOW}, "future"),
        (TokenKind.OWNER, {"expires_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001 - the point
    ],
)
def test_what_does_not_fit_the_kind_is_refused_and_nothing_is_stored(
    registry: Database, kind: TokenKind, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidForm, match=text):
        make(registry, kind, **changes)

    assert registry.read_now(list_tokens) == []


def test_a_namespace_that_is_not_stored_is_refused(registry: Database) -> None:
    with pytest.raises(NoSuchNamespace, match="acme/unknown"):
        make(registry, TokenKind.DEPLOY, namespace=NamespacePath("acme/unknown"))


def test_a_job_token_lives_an_hour_unless_told_otherwise_and_others_for_ever(registry: Database) -> None:
    day = NOW + timedelta(hours=24)

    assert make(registry, TokenKind.JOB)[1].expires_at == NOW + JOB_LIFE
    assert make(registry, TokenKind.JOB, expires_at=day)[1].expires_at == day
    assert make(registry, TokenKind.DEPLOY)[1].expires_at is None


def test_a_revoked_token_keeps_the_time_of_its_first_revocation(registry: Database) -> None:
    text, row = make(registry, TokenKind.PERSONAL)
    first, later = NOW + timedelta(minutes=1), NOW + timedelta(minutes=2)

    registry.change_now(lambda change: revoke(change, row.id, first))
    again = registry.change_now(lambda change: revoke(change, row.id, later))

    assert again.revoked_at == first
    assert found(registry, text) == again


def test_revoking_or_showing_what_is_not_there_is_not_found(registry: Database) -> None:
    with pytest.raises(NotFound, match="token 7"):
        registry.change_now(lambda change: revoke(change, 7, NOW))
    with pytest.raises(NotFound, match="token 7"):
        registry.read_now(lambda connection: get_token(connection, 7))


def test_minting_and_revoking_touch_what_depends_on_the_token(registry: Database) -> None:
    def act(change: Change) -> tuple[int, frozenset[str]]:
        _, row = mint(change, kind=TokenKind.OWNER, name="", created_at=NOW, created_by="operator")
        return row.id, change.topics

    token_id, topics = registry.change_now(act)

    def end(change: Change) -> frozenset[str]:
        revoke(change, token_id, NOW)
        return change.topics

    assert topics == {f"token:{token_id}"}
    assert registry.change_now(end) == topics


def test_tokens_are_listed_in_the_order_of_their_making(registry: Database) -> None:
    rows = [make(registry, kind)[1] for kind in TokenKind]

    assert registry.read_now(list_tokens) == rows


def test_the_shape_of_a_token_is_that_of_the_contract(registry: Database) -> None:
    plus_two = timezone(timedelta(hours=2))
    _, personal = make(registry, TokenKind.PERSONAL, expires_at=datetime(2027, 1, 1, 1, 30, tzinfo=plus_two))
    _, deploy = make(registry, TokenKind.DEPLOY, username="robot")

    assert shape(personal) == {
        "id": personal.id,
        "kind": "personal",
        "user": "alice",
        "namespace": None,
        "name": "ci",
        "username": "alice",
        "scopes": ["api"],
        "created_at": "2026-11-21T11:40:00Z",
        "expires_at": "2026-12-31T23:30:00Z",
        "last_used_at": None,
        "revoked_at": None,
    }
    assert shape(deploy)["namespace"] == "acme"
    assert shape(deploy)["username"] == "robot"
    assert shape(deploy)["user"] is None


def test_the_first_start_makes_one_owner_token_and_later_ones_none(registry: Database) -> None:
    text = owner_start(registry)
    assert text is not None
    row = found(registry, text)
    assert row is not None
    assert row.kind is TokenKind.OWNER

    registry.change_now(lambda change: revoke(change, row.id, NOW))

    assert owner_start(registry) is None
    assert len(registry.read_now(list_tokens)) == 1


def test_a_preset_is_the_owner_token_of_the_first_start(registry: Database) -> None:
    assert owner_start(registry, PRESET) == PRESET
    row = found(registry, PRESET)

    assert row is not None
    assert (row.kind, row.name, row.revoked_at) == (TokenKind.OWNER, "preset", None)
    assert owner_start(registry, PRESET) is None
    assert owner_start(registry, None) is None
    assert len(registry.read_now(list_tokens)) == 1


def test_a_preset_that_comes_later_stands_beside_the_first_token(registry: Database) -> None:
    first = owner_start(registry)
    assert owner_start(registry, PRESET) == PRESET

    assert first is not None
    row = found(registry, first)
    assert row is not None
    assert row.revoked_at is None


def test_another_preset_revokes_the_former(registry: Database) -> None:
    owner_start(registry, PRESET)
    later = NOW + timedelta(days=1)
    assert owner_start(registry, PRESET + "-2", later) == PRESET + "-2"

    former, present = found(registry, PRESET), found(registry, PRESET + "-2")
    assert former is not None
    assert former.revoked_at == later
    assert present is not None
    assert present.revoked_at is None


def test_a_revoked_preset_does_not_come_back_with_the_next_start(registry: Database) -> None:
    owner_start(registry, PRESET)
    row = found(registry, PRESET)
    assert row is not None
    registry.change_now(lambda change: revoke(change, row.id, NOW))

    with pytest.raises(InvalidForm, match="was revoked") as refused:
        owner_start(registry, PRESET)

    assert PRESET not in str(refused.value)


def test_the_text_of_an_owner_token_may_be_preset_and_is_then_the_preset_one(registry: Database) -> None:
    text = owner_start(registry)
    assert text is not None
    assert owner_start(registry, text) is None

    owner_start(registry, PRESET)

    row = found(registry, text)
    assert row is not None
    assert row.revoked_at == NOW


def test_the_text_of_another_kind_of_token_is_no_preset(registry: Database) -> None:
    text, _ = make(registry, TokenKind.PERSONAL)

    with pytest.raises(InvalidForm, match="personal token") as refused:
        owner_start(registry, text)

    assert text not in str(refused.value)


@pytest.mark.parametrize(
    "preset",
    ["", "short-secret-191919", "with a blank in the middle", "mit-ümlauten-geht-es-nicht", "line\n" * 8],
)
def test_an_unfit_preset_is_refused_without_being_repeated(registry: Database, preset: str) -> None:
    with pytest.raises(InvalidForm, match="at least 20 printable ASCII") as refused:
        owner_start(registry, preset)

    assert not preset or preset.strip() not in str(refused.value)
    assert registry.read_now(list_tokens) == []


def last_uses(registry: Database) -> dict[int, datetime | None]:
    statement = select(tables.tokens.c.id, tables.tokens.c.last_used_at)
    return registry.read_now(
        lambda connection: {row.id: row.last_used_at for row in connection.execute(statement)}
    )


def test_the_last_use_is_written_by_a_flush_and_at_most_once_a_minute(registry: Database) -> None:
    used = make(registry, TokenKind.PERSONAL)[1].id
    unused = make(registry, TokenKind.PERSONAL)[1].id
    uses = LastUse()
    assert not uses.is_waiting

    for seconds in (5, 0, 3):
        uses.note(used, NOW + timedelta(seconds=seconds))
    assert uses.is_waiting
    assert last_uses(registry) == {used: None, unused: None}
    registry.change_now(uses.flush)
    assert last_uses(registry) == {used: NOW + timedelta(seconds=5), unused: None}

    uses.note(used, NOW + timedelta(seconds=64))
    assert not uses.is_waiting
    uses.note(used, NOW + timedelta(seconds=65))
    registry.change_now(uses.flush)
    assert last_uses(registry)[used] == NOW + timedelta(seconds=65)


def test_the_minute_is_counted_for_each_token_alone(registry: Database) -> None:
    first, second = (make(registry, TokenKind.PERSONAL)[1].id for _ in range(2))
    uses = LastUse()
    uses.note(first, NOW)
    registry.change_now(uses.flush)
    uses.note(second, NOW + timedelta(seconds=30))
    registry.change_now(uses.flush)

    uses.note(first, NOW + timedelta(seconds=59))
    assert not uses.is_waiting


def test_a_last_use_never_goes_back(registry: Database) -> None:
    used = make(registry, TokenKind.PERSONAL)[1].id
    ahead, behind = LastUse(), LastUse()
    ahead.note(used, NOW + timedelta(hours=1))
    behind.note(used, NOW)

    registry.change_now(ahead.flush)
    registry.change_now(behind.flush)

    assert last_uses(registry)[used] == NOW + timedelta(hours=1)


def test_a_flush_of_nothing_writes_nothing(registry: Database) -> None:
    registry.change_now(LastUse().flush)

    assert last_uses(registry) == {}


def test_errors_of_minting_never_hold_the_text(registry: Database) -> None:
    with pytest.raises(OverlayError) as refused:
        make(registry, TokenKind.OWNER, text=PRESET, user="alice")

    assert PRESET not in repr(refused.value) + str(refused.value)


def test_life_is_counted_from_the_making_not_by_the_clock_of_the_machine(registry: Database) -> None:
    _, row = make(registry, TokenKind.JOB, created_at=datetime(2001, 1, 1, tzinfo=UTC))

    assert row.expires_at == datetime(2001, 1, 1, 1, tzinfo=UTC)
