"""Identity tokens: which are good, how keys are come by, and every known way to pass off a bad one."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import Key, RSAKey

from proxy.domain.namespaces import NamespacePath
from proxy.domain.trust import IssuerSettings
from proxy.errors import IssuerUnavailable, NotAuthenticated
from proxy.identity.oidc import LONGEST_TOKEN, Issuers, Trust, Verified, looks_like_identity
from tests.support.issuer import GITLAB, key_set, make_key, part, sign
from tests.support.trees import snapshot_of

URL = "https://gitlab.test"
OTHER = "https://other.test"
NOW = datetime(2026, 11, 21, 11, 40, tzinfo=UTC)
CONFIG = """
    oidc:
      audience: pypi-overlay
      issuers:
        gitlab: {issuer: https://gitlab.test, preset: gitlab}
        other: {issuer: https://other.test, preset: none, repository_claim: repo}
    groups:
      acme:
        projects:
          widgets:
            trust:
              - {issuer: gitlab, claims: {project_path: acme/widgets, ref_protected: "true"}, expires: 1h}
              - {issuer: gitlab, claims: {project_path: "acme/*"}, expires: 20m}
          gears: {trust: [{issuer: gitlab, claims: {project_id: "42"}}]}
          tools: {trust: [{issuer: other, claims: {repo: tools}}]}
"""
KEYS = {alg: make_key(alg, alg) for alg in ("RS256", "ES256", "EdDSA")}
RSA = KEYS["RS256"]
STRANGER = make_key("ES256", "RS256")


class World:
    """Issuers whose documents lie in a mapping, and a clock that stands until it is moved."""

    def __init__(self, config: str = CONFIG) -> None:
        self.now = NOW
        self.documents: dict[str, bytes | IssuerUnavailable] = {}
        self.asked: list[str] = []
        self.is_stuck = False
        for url, keys in ((URL, tuple(KEYS.values())), (OTHER, (STRANGER,))):
            self.publish(url, *keys)
        snapshot = snapshot_of(config)
        self.trust = Trust(snapshot.tree, snapshot.oidc)
        self.issuers = Issuers(snapshot.oidc, self.trust, self.fetch, lambda: self.now)

    def publish(self, url: str, *keys: Key) -> None:
        discovery = {"issuer": url, "jwks_uri": f"{url}/keys"}
        self.documents[f"{url}/.well-known/openid-configuration"] = json.dumps(discovery).encode()
        self.documents[f"{url}/keys"] = key_set(*keys)

    def fail(self, url: str) -> None:
        self.documents[f"{url}/keys"] = IssuerUnavailable("it is down")

    async def fetch(self, issuer: IssuerSettings, url: str, limit: int) -> bytes:
        self.asked.append(url)
        await asyncio.sleep(3600 if self.is_stuck else 0)
        document = self.documents[url]
        if isinstance(document, IssuerUnavailable):
            raise document
        assert len(document) <= limit
        return document

    @property
    def fetches(self) -> int:
        """How often keys were fetched."""
        return sum(url.endswith("/keys") for url in self.asked)

    def verify(self, text: str) -> Verified:
        return asyncio.run(self.issuers.verify(text))


@pytest.fixture
def world() -> World:
    return World()


def claims(**changes: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    usual = {"iss": URL, "aud": "pypi-overlay", "iat": at, "nbf": at, "exp": at + 300, "jti": "j1", **GITLAB}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def at(seconds: float) -> float:
    return NOW.timestamp() + seconds


class TestGood:
    """What passes."""

    @pytest.mark.parametrize("alg", list(KEYS))
    def test_each_algorithm_passes_with_its_kind_of_key(self, world: World, alg: str) -> None:
        verified = world.verify(sign(claims(), KEYS[alg], alg=alg))

        assert verified.identity.name == "gitlab:acme/widgets"
        assert (verified.jti, verified.expires) == ("j1", NOW + timedelta(seconds=300))

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": ["someone", "pypi-overlay"]},
            {"exp": at(-59)},
            {"nbf": at(60), "iat": at(60)},
            {"nbf": None, "iat": None, "jti": None, "sub": None},
            {"exp": 10**18},
            {"exp": at(300.5)},
            {"extra": {"nested": [1, 2]}},
        ],
    )
    def test_claims_that_are_in_order(self, world: World, changes: dict[str, Any]) -> None:
        assert world.verify(sign(claims(**changes), RSA)).identity.repository == "acme/widgets"

    def test_members_of_a_header_that_are_not_known_are_let_be(self, world: World) -> None:
        assert world.verify(sign(claims(), RSA, x5t="abc", cty="whatever", own="thing"))

    def test_without_a_key_id_the_only_key_is_meant(self, world: World) -> None:
        with pytest.raises(NotAuthenticated):
            world.verify(sign(claims(), RSA, kid=None))
        world.publish(URL, RSA)
        world.now += timedelta(minutes=1)
        assert world.verify(sign(claims(), RSA, kid=None))

    def test_it_is_good_until_it_expires_also_when_it_is_remembered(self, world: World) -> None:
        text = sign(claims(), RSA)
        for seconds in (0, 359):
            world.now = NOW + timedelta(seconds=seconds)
            assert world.verify(text)
        world.now = NOW + timedelta(seconds=360)
        with pytest.raises(NotAuthenticated, match="expired"):
            world.verify(text)
        assert world.fetches == 1


def payload(text: str) -> str:
    return text.split(".")[1]


def unsigned(header: dict[str, Any], body: object) -> str:
    return ".".join(part(json.dumps(value).encode()).decode() for value in (header, body)) + "."


def hmac_with_public_key(form: Callable[[RSAKey], bytes]) -> str:
    """Signed with HS256, the secret being what everybody knows of an RSA key."""
    assert isinstance(RSA, RSAKey)
    signing = unsigned({"alg": "HS256", "kid": "RS256"}, claims())[:-1]
    return f"{signing}.{part(hmac.digest(form(RSA), signing.encode(), 'sha256')).decode()}"


def swapped(first: str, second: str) -> str:
    """The claims of the second token under the signature of the first."""
    header, _, signature = first.split(".")
    return f"{header}.{payload(second)}.{signature}"


GOOD = sign(claims(), RSA)
ATTACKS = {
    "alg none without signature": unsigned({"alg": "none", "kid": "RS256"}, claims()),
    "alg none with the signature kept": unsigned({"alg": "none"}, claims()) + GOOD.rpartition(".")[2],
    "alg None": unsigned({"alg": "None", "kid": "RS256"}, claims()) + "AA",
    "HS256 with the public key as PEM": hmac_with_public_key(lambda key: key.as_pem(private=False)),
    "HS256 with the public key as DER": hmac_with_public_key(lambda key: key.as_der(private=False)),
    "another key under a known id": sign(claims(), make_key("RS256", "RS256")),
    "the key of another issuer": sign(claims(), STRANGER, alg="ES256", kid="RS256"),
    "the key of another issuer without an id": sign(claims(), STRANGER, alg="ES256", kid=None),
    "an issuer's own claim to be another": sign(claims(iss=OTHER), RSA),
    "an unknown key id": sign(claims(), RSA, kid="two"),
    "the id of another kind of key": sign(claims(), RSA, kid="ES256"),
    "RS512": sign(claims(), RSA, alg="RS512"),
    "PS256": sign(claims(), RSA, alg="PS256"),
    "a key of its own in the header": sign(claims(), make_key("RS256", "mine"), jwk={"kty": "RSA"}),
    "something critical": sign(claims(), RSA, crit=["exp"], exp=1),
    "an unencoded payload": sign(claims(), RSA, crit=["b64"], b64=False),
    "a key id that is no text": sign(claims(), RSA, kid=1),
    "claims of another token": swapped(GOOD, sign(claims(project_path="acme/other"), RSA)),
    "another audience": sign(claims(aud="pypi"), RSA),
    "an audience that contains ours as text": sign(claims(aud="pypi-overlay.evil"), RSA),
    "no audience": sign(claims(aud=None), RSA),
    "an audience of the wrong type": sign(claims(aud={"pypi-overlay": 1}), RSA),
    "audiences of the wrong type": sign(claims(aud=["pypi-overlay", 1]), RSA),
    "expired": sign(claims(exp=at(-60)), RSA),
    "without end": sign(claims(exp=None), RSA),
    "an end that is text": sign(claims(exp="99999999999"), RSA),
    "an end that is true": sign(claims(exp=True), RSA),
    "an end that is no number": sign(claims(exp=float("nan")), RSA),
    "an end at infinity": sign(claims(exp=float("inf")), RSA),
    "not yet valid": sign(claims(nbf=at(61)), RSA),
    "a beginning that is text": sign(claims(nbf="0"), RSA),
    "issued in the future": sign(claims(iat=at(61)), RSA),
    "a subject that is no text": sign(claims(sub=["x"]), RSA),
    "a number of its own that is no text": sign(claims(jti=7), RSA),
    "another spelling of the issuer": sign(claims(iss=URL + "/"), RSA),
    "an unknown issuer": sign(claims(iss="https://evil.test"), RSA),
    "no issuer": sign(claims(iss=None), RSA),
    "an issuer that is no text": sign(claims(iss=[URL]), RSA),
    "claims that are a list": sign([claims()], RSA),
    "truncated signature": GOOD[:-8],
    "truncated claims": ".".join((GOOD.split(".")[0], payload(GOOD)[:-5], GOOD.split(".")[2])),
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".AA",
    "empty signature": GOOD.rpartition(".")[0] + ".",
    "padded": GOOD + "=",
    "signature in the other base64": GOOD.replace("-", "+").replace("_", "/") + "+",
    "white space within": GOOD.replace(".", ". ", 1),
    "deeply nested header": part(b'{"a":' + b"[" * 9000).decode() + "." + payload(GOOD) + ".AA",
    "deeply nested claims": ".".join((GOOD.split(".")[0], part(b"[" * 9000).decode(), "AA")),
    "header that is not UTF-8": part(b'{"alg":"\xff"}').decode() + "." + payload(GOOD) + ".AA",
    "one of our own tokens": "pyo_job_abc.def.ghi",
    "nothing": "",
    "lone surrogate": GOOD + "\udcff",
}


class TestAttacks:
    """What does not pass."""

    @pytest.mark.parametrize("attack", list(ATTACKS))
    def test_T_TOK_an_identity_token_is_refused(self, world: World, attack: str) -> None:
        text = ATTACKS[attack]
        with pytest.raises(NotAuthenticated) as refused:
            world.verify(text)

        assert not text or text not in str(refused.value)
        assert world.verify(GOOD), "the control"

    def test_a_huge_token_is_refused_before_anything_of_it_is_read(self, world: World) -> None:
        text = sign(claims(extra="x" * LONGEST_TOKEN), RSA)
        assert not looks_like_identity(text)
        with pytest.raises(NotAuthenticated):
            world.verify(text)
        assert world.asked == []

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.integers(0, len(GOOD) - 1), st.sampled_from("Aa0-_.x"))
    def test_one_character_changed_is_another_token(self, world: World, place: int, sign_there: str) -> None:
        text = GOOD[:place] + sign_there + GOOD[place + 1 :]
        if text != GOOD:
            with pytest.raises(NotAuthenticated):
                world.verify(text)

    @pytest.mark.parametrize(
        "entry",
        [
            {"kty": "oct", "k": base64.urlsafe_b64encode(b"secret" * 8).decode(), "kid": "RS256"},
            RSA.as_dict(private=False) | {"use": "enc"},
            RSA.as_dict(private=False) | {"alg": "RS512"},
            {"kty": "RSA", "n": "AQAB" * 40, "e": "AQAB", "kid": "RS256"},
            {"kty": "RSA", "n": 7, "e": [], "kid": "RS256"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "RS256"},
            {"kty": "EC", "crv": "secp256k1", "kid": "RS256"},
            {"kty": "OKP", "crv": "X25519", "x": "A" * 43, "kid": "RS256"},
            {"kty": "none"},
            {},
            "text",
        ],
        ids=[
            *("secret", "to encrypt", "RS512", "short", "no text", "no point", "curve", "exchange"),
            *("kind", "empty", "no mapping"),
        ],
    )
    def test_keys_that_are_not_for_this_are_passed_over(self, world: World, entry: Any) -> None:
        listed = [entry, STRANGER.as_dict(private=False) | {"kid": "usable"}]
        world.documents[f"{URL}/keys"] = json.dumps({"keys": listed}).encode()

        with pytest.raises(NotAuthenticated):
            world.verify(GOOD)
        assert world.verify(sign(claims(), STRANGER, alg="ES256", kid="usable"))

    @pytest.mark.parametrize(
        ("path", "document"),
        [
            ("/.well-known/openid-configuration", b"<html>"),
            ("/.well-known/openid-configuration", b"{}"),
            ("/.well-known/openid-configuration", b"[" * 60000),
            (
                "/.well-known/openid-configuration",
                json.dumps({"issuer": OTHER, "jwks_uri": f"{OTHER}/keys"}).encode(),
            ),
            ("/keys", b"<html>"),
            ("/keys", b"{}"),
            ("/keys", b'{"keys": {}}'),
            ("/keys", b'{"keys": []}'),
            ("/keys", b"[" * 60000),
        ],
    )
    def test_documents_that_are_unusable_are_trouble_and_not_wrong_credentials(
        self, world: World, path: str, document: bytes
    ) -> None:
        world.documents[URL + path] = document

        with pytest.raises(IssuerUnavailable, match="gitlab"):
            world.verify(GOOD)


class TestKeys:
    """When an issuer is asked."""

    def test_keys_are_fetched_once_an_hour(self, world: World) -> None:
        for minutes in (0, 30, 59):
            world.now = NOW + timedelta(minutes=minutes)
            world.verify(sign(claims(exp=at(7200), jti=str(minutes)), RSA))
        assert world.fetches == 1

        world.now = NOW + timedelta(minutes=60)
        world.verify(sign(claims(exp=at(7200), jti="last"), RSA))
        assert world.fetches == 2

    def test_many_who_wait_cause_one_fetch(self, world: World) -> None:
        async def all_at_once() -> None:
            texts = [sign(claims(jti=str(number)), RSA) for number in range(5)]
            await asyncio.gather(*(world.issuers.verify(text) for text in texts))

        asyncio.run(all_at_once())
        assert world.fetches == 1

    def test_a_new_key_is_found_and_a_made_up_one_is_asked_for_twice_a_minute(self, world: World) -> None:
        world.verify(GOOD)
        new = make_key("ES256", "new")
        world.publish(URL, RSA, new)
        token = sign(claims(), new, alg="ES256")

        world.now += timedelta(seconds=29)
        with pytest.raises(NotAuthenticated):
            world.verify(token)
        world.now += timedelta(seconds=1)
        assert world.verify(token)
        for number in range(20):
            with pytest.raises(NotAuthenticated):
                world.verify(sign(claims(), new, alg="ES256", kid=f"made up {number}"))
        assert world.fetches == 2

    def test_old_keys_serve_a_day_while_the_issuer_is_down(self, world: World) -> None:
        world.verify(GOOD)
        world.fail(URL)
        world.now = NOW + timedelta(hours=23)
        assert world.verify(sign(claims(exp=at(90000)), RSA))

        world.now = NOW + timedelta(hours=24)
        with pytest.raises(IssuerUnavailable):
            world.verify(sign(claims(exp=at(90000), jti="j2"), RSA))

    def test_an_issuer_that_does_not_answer_holds_up_nobody_for_long_whose_key_is_known(
        self, world: World
    ) -> None:
        world.verify(GOOD)
        world.now = NOW + timedelta(hours=2)
        world.is_stuck = True

        async def several() -> None:
            texts = [sign(claims(exp=at(7500), jti=str(number)), RSA) for number in range(3)]
            async with asyncio.timeout(5):
                await asyncio.gather(*map(world.issuers.verify, texts))

        asyncio.run(several())
        world.is_stuck = False
        assert world.verify(sign(claims(exp=at(7500), jti="later"), RSA))
        assert world.fetches == 2

    def test_a_key_that_is_not_known_while_the_issuer_is_down_is_no_wrong_credential(
        self, world: World
    ) -> None:
        world.verify(GOOD)
        world.fail(URL)
        world.now += timedelta(minutes=1)
        for _ in range(3):
            with pytest.raises(IssuerUnavailable, match="down"):
                world.verify(sign(claims(), RSA, kid="two"))
        assert world.fetches == 2

    def test_an_issuer_that_is_back_is_asked_within_seconds(self, world: World) -> None:
        world.fail(URL)
        with pytest.raises(IssuerUnavailable):
            world.verify(GOOD)
        world.publish(URL, RSA)
        with pytest.raises(IssuerUnavailable):
            world.verify(GOOD)
        world.now += timedelta(seconds=5)
        assert world.verify(GOOD)

    def test_who_gives_up_waiting_does_not_make_the_keys_unknown(self, world: World) -> None:
        async def give_up() -> None:
            waiting = asyncio.create_task(world.issuers.verify(GOOD))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await world.issuers.verify(GOOD)

        asyncio.run(give_up())


class TestTrust:
    """What projects make of an identity."""

    def test_every_project_whose_rule_matches_is_served_for_as_long_as_its_strictest_rule(
        self, world: World
    ) -> None:
        minutes = {path: life // timedelta(minutes=1) for path, life in self.projects(world).items()}

        assert minutes == {"acme/widgets": 20, "acme/gears": 15}

    def test_claims_decide_which(self, world: World) -> None:
        assert list(self.projects(world, project_path="acme/x", project_id="7")) == ["acme/widgets"]
        assert list(self.projects(world, project_path="evil/acme", project_id=42)) == ["acme/gears"]
        assert not self.projects(world, project_path="evil/acme", project_id="7")

    def test_claims_of_one_issuer_are_nothing_at_another(self, world: World) -> None:
        text = sign(claims(iss=OTHER, repo="nothing"), STRANGER, alg="ES256")

        assert not world.trust.projects(world.verify(text).identity)

    def test_an_identity_that_was_kept_is_the_same_and_gone_with_its_issuer(self, world: World) -> None:
        identity = world.verify(GOOD).identity

        assert world.trust.identity("gitlab", json.loads(json.dumps(dict(identity.claims)))) == identity
        assert world.trust.identity("gone", identity.claims) is None
        assert not world.trust.projects(replace(identity, issuer="gone"))

    @staticmethod
    def projects(world: World, **changes: Any) -> dict[NamespacePath, timedelta]:
        return dict(world.trust.projects(world.verify(sign(claims(**changes), RSA)).identity))


def test_without_issuers_there_is_nothing_to_ask() -> None:
    issuers = World("groups: {}").issuers

    assert not issuers.is_configured
    assert World().issuers.is_configured


def test_a_verified_identity_does_not_show_its_number(world: World) -> None:
    assert "j1" not in repr(world.verify(GOOD))
