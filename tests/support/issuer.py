"""An issuer of identity tokens on a real port: discovery, keys, signatures, and what GitHub gives its jobs."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, Key, KeyParameters, OKPKey, RSAKey

AUDIENCE = "pypi-overlay"

GITLAB: Mapping[str, Any] = {
    "sub": "project_path:acme/widgets:ref_type:branch:ref:main",
    "project_path": "acme/widgets",
    "project_id": "42",
    "ref": "main",
    "ref_protected": "true",
}
"""Claims of a job of GitLab."""

GITHUB: Mapping[str, Any] = {
    "sub": "repo:acme/widgets:environment:release",
    "repository": "acme/widgets",
    "repository_id": "4242",
    "repository_owner": "acme",
    "repository_owner_id": "7",
    "job_workflow_ref": "acme/widgets/.github/workflows/release.yml@refs/heads/main",
    "workflow_ref": "acme/widgets/.github/workflows/release.yml@refs/heads/main",
    "ref": "refs/heads/main",
}
"""Claims of a job of GitHub."""


def make_key(alg: str = "RS256", kid: str = "one") -> Key:
    """A new private key for an algorithm."""
    parameters: KeyParameters = {"kid": kid, "use": "sig"}
    match alg:
        case "RS256":
            return RSAKey.generate_key(2048, parameters)
        case "ES256":
            return ECKey.generate_key("P-256", parameters)
        case "EdDSA":
            return OKPKey.generate_key("Ed25519", parameters)
    raise ValueError(alg)


def key_set(*keys: Key) -> bytes:
    """The public halves as a key set (RFC 7517)."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def sign(claims: object, key: Key, **header: Any) -> str:
    """A token of these claims; `header` replaces or adds to algorithm and key id, None takes away."""
    given = {"typ": "JWT", "alg": "RS256", "kid": key.kid, **header}
    shown = {name: value for name, value in given.items() if value is not None}
    signing = b".".join(part(json.dumps(value).encode()) for value in (shown, claims))
    algorithm = jws.JWSRegistry.algorithms[shown["alg"]]
    return b".".join((signing, part(algorithm.sign(signing, key)))).decode()


def part(content: bytes) -> bytes:
    """Content as a part of a token stands in it."""
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class LocalIssuer:
    """Serves on 127.0.0.1 until the block ends.

    with LocalIssuer() as issuer:
        token = issuer.token(project_path="acme/widgets")
        issuer.is_down = True
    """

    def __init__(self) -> None:
        self.keys = [make_key()]
        self.is_down = False
        self.asked: list[str] = []
        self.documents: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        """What other addresses answer, or these instead: path → status, headers, body."""
        self.github: Mapping[str, Any] = GITHUB
        self.github_secret = uuid.uuid4().hex
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._requests())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The issuer's address, as it stands in its tokens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Claims of a job of GitLab that is under way; `claims` replaces or adds, None takes away."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 300}
        given = {**usual, "jti": uuid.uuid4().hex, **GITLAB, **claims}
        return {name: value for name, value in given.items() if value is not None}

    def token(self, **claims: Any) -> str:
        """An identity token of these claims."""
        return sign(self.claims(**claims), self.keys[0])

    def settings(self, preset: str = "gitlab") -> dict[str, Any]:
        """Its section below `oidc.issuers`."""
        return {"issuer": self.url, "preset": preset}

    def github_environment(self) -> dict[str, str]:
        """What GitHub tells a job that may request identity tokens."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/github?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.github_secret,
        }

    def _answer(self, target: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        parts = urlsplit(target)
        self.asked.append(parts.path)
        if self.is_down:
            return 503, {}, b"down"
        if parts.path in self.documents:
            return self.documents[parts.path]
        match parts.path:
            case "/.well-known/openid-configuration":
                return 200, {}, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
            case "/keys":
                return 200, {}, key_set(*self.keys)
            case "/github" if headers.get("Authorization", "").lower() == f"bearer {self.github_secret}":
                (audience,) = parse_qs(parts.query)["audience"]
                nothing = dict.fromkeys(GITLAB)
                token = self.token(**{**nothing, **self.github, "aud": audience})
                return 200, {}, json.dumps({"value": token}).encode()
        return 404, {}, b"nothing here"

    def _requests(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Requests(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = issuer._answer(self.path, dict(self.headers.items()))
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
                pass

        return Requests
