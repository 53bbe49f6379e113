"""Who asks: every spelling of the headers, and everything that is no longer or not yet good."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.domain.access import Caller, CallerKind, Scope
from proxy.domain.namespaces import Kind, NamespacePath, Tree
from proxy.domain.snapshot import OidcSettings
from proxy.errors import NotAuthenticated
from proxy.identity.credentials import Door, Presented, identify, presented
from proxy.identity.oidc import Trust
from proxy.identity.tokens import TokenKind, TokenRow, mint, revoke
from proxy.storage.database import Database
from tests.identity.conftest import KINDS, NOW, tree_of

TOKEN = "pyo_pat_0123456789"
VALID: dict[TokenKind, dict[str, Any]] = {
    TokenKind.PERSONAL: {"user": "alice", "scopes": ["read_api"]},
    TokenKind.DEPLOY: {"namespace": NamespacePath("acme"), "scopes": ["read_package_registry"]},
    TokenKind.JOB: {"namespace": NamespacePath("acme/widgets")},
    TokenKind.OWNER: {},
}
USERS = frozenset({"alice"})
NOBODY = Trust(tree_of(KINDS), OidcSettings())
"""No project trusts any issuer."""


def basic(username: str, password: str, charset: str = "utf-8") -> tuple[str, str]:
    pair = f"{username}:{password}".encode(charset)
    return "Authorization", "Basic " + base64.b64encode(pair).decode()


def make(registry: Database, kind: TokenKind, **changes: Any) -> tuple[str, TokenRow]:
    wish: dict[str, Any] = {"name": "ci", "created_at": NOW, "created_by": "operator"}
    wish |= VALID[kind] | changes
    return registry.change_now(lambda change: mint(change, kind=kind, **wish))


def caller(registry: Database, tree: Tree, *headers: tuple[str, str], **changes: Any) -> Caller:
    named = presented(headers)
    assert named is not None
    wish: dict[str, Any] = {"tree": tree, "users": USERS, "trust": NOBODY, "now": NOW} | changes
    return registry.read_now(lambda connection: identify(connection, named, **wish))


class TestHeaders:
    """What a request names."""

    def test_without_credentials_nobody_is_named(self) -> None:
        assert presented([]) is None
        assert presented([("Accept", "text/html"), ("X-Authorization", "Basic nonsense")]) is None

    @pytest.mark.parametrize(
        ("header", "door"),
        [
            (basic("anyone", TOKEN), Door.BASIC),
            (basic("", TOKEN), Door.BASIC),
            (("authorization", f"Bearer {TOKEN}"), Door.BEARER),
            (("AUTHORIZATION", f"bEARER   {TOKEN} "), Door.BEARER),
            (("PRIVATE-TOKEN", TOKEN), Door.PRIVATE_TOKEN),
            (("Private-Token", f" {TOKEN}\t"), Door.PRIVATE_TOKEN),
            (("deploy-token", TOKEN), Door.DEPLOY_TOKEN),
            (("Job-Token", TOKEN), Door.JOB_TOKEN),
        ],
    )
    def test_every_spelling_names_the_token(self, header: tuple[str, str], door: Door) -> None:
        named = presented([("Host", "x"), header])

        assert named is not None
        assert named.text == TOKEN
        assert named.doors == {door}

    @pytest.mark.parametrize("padded", [f" {TOKEN}", f"{TOKEN}\n", f"\t{TOKEN}\r\n "])
    def test_T_TOK5_white_space_around_a_password_is_ignored(self, padded: str) -> None:
        named = presented([basic("__token__", padded)])

        assert named is not None
        assert named.text == TOKEN

    def test_a_password_may_hold_colons(self) -> None:
        named = presented([basic("alice", "a:b:c")])

        assert named is not None
        assert named.text == "a:b:c"

    @pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
    def test_user_names_are_read_as_utf_8_and_else_as_latin_1(self, charset: str) -> None:
        named = presented([basic("jörg", TOKEN, charset)])

        assert named is not None
        assert named.usernames == {"jörg"}

    @pytest.mark.parametrize(
        "value",
        [
            "",
            " ",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic YWxpY2U6c2VjcmV0=",
            "Basic YWxpY2U6c2VjcmV",
            "Basic YWxp Y2U6c2VjcmV0",
            "Basic YWxpY2U6c2VjcmV0, Basic YWxpY2U6c2VjcmV0",
            "Basic ÄÖÜ",
            "Basic \udcff",
            "Basic " + base64.b64encode(b"no colon").decode(),
            "Basic " + base64.b64encode(b":").decode(),
            "Basic " + base64.b64encode(b"alice: \n").decode(),
            "Basic " + base64.b64encode(TOKEN.encode() + b":").decode(),
            "Bearer",
            "Bearer  ",
            TOKEN,
            f"Token {TOKEN}",
            'Digest username="alice"',
            "Negotiate YII=",
        ],
    )
    def test_T_TOK5_malformed_credentials_are_not_authenticated(self, value: str) -> None:
        with pytest.raises(NotAuthenticated) as refused:
            presented([("Authorization", value)])

        assert TOKEN not in str(refused.value)

    @pytest.mark.parametrize("name", ["PRIVATE-TOKEN", "DEPLOY-TOKEN", "JOB-TOKEN"])
    def test_an_empty_header_for_a_token_is_not_an_anonymous_request(self, name: str) -> None:
        with pytest.raises(NotAuthenticated):
            presented([(name, " ")])

    def test_the_same_token_twice_is_one_credential(self) -> None:
        named = presented([basic("alice", TOKEN), basic("bob", TOKEN), ("PRIVATE-TOKEN", TOKEN)])

        assert named == Presented(
            TOKEN, frozenset({Door.BASIC, Door.PRIVATE_TOKEN}), frozenset({"alice", "bob"})
        )

    @pytest.mark.parametrize(
        "headers",
        [
            [basic("alice", TOKEN), basic("alice", "other")],
            [basic("alice", TOKEN), ("PRIVATE-TOKEN", "other")],
            [("JOB-TOKEN", TOKEN), ("DEPLOY-TOKEN", "other")],
            [("PRIVATE-TOKEN", TOKEN), ("private-token", "other")],
            [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Basic !")],
        ],
    )
    def test_two_credentials_that_differ_are_none(self, headers: list[tuple[str, str]]) -> None:
        with pytest.raises(NotAuthenticated) as refused:
            presented(headers)

        assert TOKEN not in str(refused.value)

    def test_the_repr_of_what_was_presented_does_not_tell_it(self) -> None:
        assert TOKEN not in repr(presented([basic("alice", TOKEN)]))


class TestCallers:
    """Whose the token is."""

    def test_a_personal_token_is_its_user_by_any_user_name(self, registry: Database, tree: Tree) -> None:
        expires = NOW + timedelta(days=1)
        text, row = make(registry, TokenKind.PERSONAL, expires_at=expires)
        expected = Caller(CallerKind.USER, "alice", row.id, frozenset({Scope.READ_API}), (), expires)

        for header in (
            basic("alice", text),
            basic("gitlab-ci-token", text),
            basic("", text),
            ("Authorization", f"Bearer {text}"),
            ("PRIVATE-TOKEN", text),
        ):
            assert caller(registry, tree, header) == expected

    def test_a_deploy_token_is_itself_at_home(self, registry: Database, tree: Tree) -> None:
        text, row = make(registry, TokenKind.DEPLOY, username="jörg")
        expected = Caller(
            CallerKind.DEPLOY, "jörg", row.id, frozenset({Scope.READ_PACKAGES}), (NamespacePath("acme"),)
        )

        for header in (
            basic("jörg", text),
            basic("jörg", text, "latin-1"),
            basic("__token__", text),
            ("Authorization", f"Bearer {text}"),
            ("DEPLOY-TOKEN", text),
        ):
            assert caller(registry, tree, header) == expected

    def test_a_deploy_token_with_another_user_name_is_refused(self, registry: Database, tree: Tree) -> None:
        text, row = make(registry, TokenKind.DEPLOY)
        assert row.username is not None

        for headers in (
            [basic("alice", text)],
            [basic("", text)],
            [basic(row.username.upper(), text)],
            [basic(row.username, text), basic("alice", text)],
            [("DEPLOY-TOKEN", text), basic("alice", text)],
        ):
            with pytest.raises(NotAuthenticated):
                caller(registry, tree, *headers)
        assert caller(registry, tree, basic(row.username, text), basic("__token__", text)).token == row.id

    def test_a_job_token_is_its_project_by_any_user_name(self, registry: Database, tree: Tree) -> None:
        text, row = make(registry, TokenKind.JOB)

        for header in (basic("gitlab-ci-token", text), basic("x", text), ("JOB-TOKEN", text)):
            found = caller(registry, tree, header)
            assert (found.kind, found.homes, found.token) == (CallerKind.JOB, ("acme/widgets",), row.id)
            assert found.expires == NOW + timedelta(hours=1)

    def test_an_owner_token_is_the_owner(self, registry: Database, tree: Tree) -> None:
        text, row = make(registry, TokenKind.OWNER)

        for header in (basic("x", text), ("PRIVATE-TOKEN", text)):
            assert caller(registry, tree, header).kind is CallerKind.OWNER
            assert caller(registry, tree, header).token == row.id

    @pytest.mark.parametrize(
        ("name", "kinds"),
        [
            ("PRIVATE-TOKEN", {TokenKind.PERSONAL, TokenKind.OWNER}),
            ("DEPLOY-TOKEN", {TokenKind.DEPLOY}),
            ("JOB-TOKEN", {TokenKind.JOB}),
        ],
    )
    def test_gitlabs_headers_take_their_own_kinds_alone(
        self, registry: Database, tree: Tree, name: str, kinds: set[TokenKind]
    ) -> None:
        admitted = set()
        for kind in TokenKind:
            text, _ = make(registry, kind)
            try:
                caller(registry, tree, (name, text))
            except NotAuthenticated:
                continue
            admitted.add(kind)

        assert admitted == kinds

    def test_a_wrong_door_is_not_mended_by_a_right_one(self, registry: Database, tree: Tree) -> None:
        text, _ = make(registry, TokenKind.PERSONAL)

        with pytest.raises(NotAuthenticated):
            caller(registry, tree, basic("alice", text), ("JOB-TOKEN", text))

    def test_a_token_is_good_until_the_instant_it_expires(self, registry: Database, tree: Tree) -> None:
        expires = NOW + timedelta(minutes=5)
        text, _ = make(registry, TokenKind.PERSONAL, expires_at=expires)

        before = expires - timedelta(microseconds=1)
        assert caller(registry, tree, basic("alice", text), now=before).name == "alice"
        with pytest.raises(NotAuthenticated):
            caller(registry, tree, basic("alice", text), now=expires)

    def test_all_that_is_wrong_is_told_in_the_same_words(self, registry: Database, tree: Tree) -> None:
        revoked, row = make(registry, TokenKind.PERSONAL)
        registry.change_now(lambda change: revoke(change, row.id, NOW))
        expired, _ = make(registry, TokenKind.PERSONAL, expires_at=NOW + timedelta(seconds=1))
        stranger, _ = make(registry, TokenKind.PERSONAL, user="mallory")
        deploy, _ = make(registry, TokenKind.DEPLOY)
        later = NOW + timedelta(hours=1)

        told = set()
        for text in (revoked, expired, stranger, deploy, "pyo_pat_unknown", "\udcff"):
            named = Presented(text, frozenset({Door.BASIC}), frozenset({"alice"}))
            with pytest.raises(NotAuthenticated) as refused:
                registry.read_now(lambda c, named=named: identify(c, named, tree, USERS, NOBODY, later))  # type: ignore[misc]
            told.add((refused.value.message, refused.value.hint))
            assert text not in str(refused.value)

        assert len(told) == 1

    def test_the_token_of_a_user_who_left_the_file_is_refused(self, registry: Database, tree: Tree) -> None:
        text, _ = make(registry, TokenKind.PERSONAL)

        assert caller(registry, tree, basic("alice", text)).name == "alice"
        with pytest.raises(NotAuthenticated):
            caller(registry, tree, basic("alice", text), users=frozenset({"bob"}))

    @pytest.mark.parametrize("kind", [TokenKind.DEPLOY, TokenKind.JOB])
    def test_the_token_of_a_namespace_that_is_gone_is_refused(
        self, registry: Database, tree: Tree, kind: TokenKind
    ) -> None:
        text, _ = make(registry, kind)
        rest = tree_of({"": Kind.GROUP, "globex": Kind.GROUP})

        with pytest.raises(NotAuthenticated):
            caller(registry, rest, basic("__token__", text))

    def test_a_job_token_of_what_became_a_group_is_refused(self, registry: Database) -> None:
        text, _ = make(registry, TokenKind.JOB)

        with pytest.raises(NotAuthenticated):
            caller(registry, tree_of(KINDS | {"acme/widgets": Kind.GROUP}), basic("x", text))

    def test_the_home_of_a_token_is_the_path_of_today(self, registry: Database) -> None:
        text, _ = make(registry, TokenKind.JOB)
        moved = tree_of(
            {"": Kind.GROUP, "initech": Kind.GROUP, "initech/widgets": Kind.PROJECT}, {"initech": "acme"}
        )

        assert caller(registry, moved, basic("x", text)).homes == ("initech/widgets",)


# Lone surrogates stand for bytes that are not UTF-8.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Authorization", "authorization", "PRIVATE-TOKEN", "Deploy-Token", "job-token", "Accept"]
        ),
        ANY_TEXT
        | ANY_TEXT.map(lambda text: f"Basic {text}")
        | ANY_TEXT.map(lambda text: f"Bearer {text}")
        | st.binary(max_size=60).map(lambda pair: "Basic " + base64.b64encode(pair).decode())
        | st.binary(max_size=60).map(lambda half: "Basic " + base64.b64encode(b"a:" + half).decode()),
    ),
    max_size=3,
)


@given(HEADERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_headers_are_nobody_or_not_authenticated(
    registry: Database, tree: Tree, headers: list[tuple[str, str]]
) -> None:
    try:
        named = presented(headers)
    except NotAuthenticated:
        return
    if named is None:
        assert all(name == "Accept" for name, _ in headers)
        return
    with pytest.raises(NotAuthenticated):
        registry.read_now(lambda connection: identify(connection, named, tree, USERS, NOBODY, NOW))
