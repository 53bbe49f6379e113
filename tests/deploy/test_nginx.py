"""The configuration of `deploy/nginx`: clients install and publish through it, and nothing of an answer is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.talking import succeeded
from tests.deploy.conftest import Front
from tests.support.clients import Client, clean_env, installed
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel, write_wheel
from tests.web import forms
from tests.web.house import REALM
from tests.web.wire import JSON, Answer, Wire

LARGE = 12_000_000
"""More than all the memory that nginx has for a body or an answer, so that it would be seen on disk."""
HALF = 2_000_000
"""What is sent at first of an upload of 3 MB; the server writes a MiB at once."""
STRANGER = "127.0.0.3"
WIDGETS = "/api/v4/projects/acme%2Fwidgets/packages/pypi"
ON_LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="127.0.0.1 is the only loopback address"
)
EITHER_HOST = pytest.mark.parametrize("prefixed", [False, True], ids=["host", "prefix"])


@pytest.fixture
def client(tmp_home: Path, front: Front) -> Client:
    """Give clients that trust the front's certificate, and ask once."""
    trusted = dict.fromkeys(("PIP_CERT", "TWINE_CERT", "SSL_CERT_FILE"), str(front.authority))
    return Client(tmp_home, UV_HTTP_RETRIES="0", PIP_RETRIES="0", **trusted)


@pytest.fixture(scope="module")
def private(front: Front) -> tuple[str, bytes]:
    """Publish a wheel through nginx; return its filename and content."""
    filename, content = make_wheel("acme-lib", "1.0", requires=["public-lib"])
    answer = publish(front, filename, content)
    assert answer.status == 201, answer
    return filename, content


@pytest.fixture(scope="module")
def public(front: Front) -> tuple[str, bytes]:
    """Offer a large wheel upstream; return its filename and content."""
    made = make_wheel("public-lib", "2.0", size=LARGE)
    front.upstream.add_file("public-lib", *made)
    return made


def publish(front: Front, filename: str, content: bytes, **changed: str) -> Answer:
    body = forms.upload(filename, content, **changed)
    return front.wire().send("POST", "/acme/widgets/", token=front.token, headers=forms.FORM_TYPE, body=body)


def with_login(front: Front, url: str, path: str) -> str:
    return url.replace("https://", f"https://__token__:{front.token}@", 1) + path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Clients


@pytest.mark.parametrize(("tool", "prefixed"), [("pip", False), ("uv", False), ("uv", True)])
def test_private_and_public_packages_install(
    front: Front, client: Client, private: Any, public: Any, tmp_path: Path, tool: str, prefixed: bool
) -> None:
    index = with_login(front, front.prefixed if prefixed else front.url, "/acme/simple/")
    install = client.pip_install if tool == "pip" else client.uv_pip_install
    succeeded(install(tmp_path / "target", index, "acme-lib"))
    assert installed(tmp_path / "target") == {"acme_lib-1.0", "public_lib-2.0"}


@pytest.mark.parametrize(("tool", "prefixed"), [("twine", False), ("uv", True)])
def test_a_large_file_is_published_and_comes_back(
    front: Front, client: Client, tmp_path: Path, tool: str, prefixed: bool
) -> None:
    wheel = write_wheel(tmp_path, f"large-{tool}", "1.0", size=LARGE)
    upload = client.twine_upload if tool == "twine" else client.uv_publish
    address = (front.prefixed if prefixed else front.url) + WIDGETS
    succeeded(upload(address, "__token__", front.token, wheel))
    digest = sha256(wheel.read_bytes())
    target = f"{'/pypi' if prefixed else ''}/acme/files/{digest}/{wheel.name}"
    assert sha256(front.wire(prefixed=prefixed).get(target, token=front.token).body) == digest
    # "an upstream response is", "a client request body is"
    assert "buffered to a temporary file" not in front.complaints()


# Uploads


def curl_command(front: Front, protocol: str, *arguments: str) -> list[str]:
    """Return a command that prints the answer with its head, and sends a form from its standard input."""
    curl = shutil.which("curl")
    if curl is None or b"HTTP2" not in subprocess.run([curl, "-V"], capture_output=True, check=False).stdout:
        pytest.skip("no curl that speaks HTTP/2 is installed")
    options = ["-q", "--silent", "--no-progress-meter", "--include", "--noproxy", "*", protocol]
    headers = [
        f"Content-Type: {forms.FORM_TYPE['Content-Type']}",
        f"Authorization: Bearer {front.token}",
        "Expect:",
    ]
    sent = [option for header in headers for option in ("--header", header)]
    return [curl, *options, "--cacert", str(front.authority), *sent, *arguments, f"{front.url}/acme/widgets/"]


@contextmanager
def uploading(front: Front, home: Path, protocol: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run curl, which passes on what it reads as it comes."""
    command = curl_command(front, protocol, "--upload-file", ".", "--request", "POST")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_env(home)
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_the_server_has_the_first_bytes_of_an_upload_before_the_last_are_sent(
    front: Front, tmp_home: Path, protocol: str
) -> None:
    filename, content = make_wheel(f"stream{protocol.replace('.', '-')}", "1.0", size=3_000_000)
    body = forms.upload(filename, content)
    incoming = front.server.data_dir / "incoming"

    def arrived() -> int:
        return sum(path.stat().st_size for path in incoming.iterdir())

    with uploading(front, tmp_home, protocol) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(body[:HALF])
        process.stdin.flush()
        wait_until(arrived, what="the first half of an upload to arrive")
        process.stdin.write(body[HALF:])
        process.stdin.close()
        assert b" 201" in process.stdout.read().splitlines()[0]


# Answers


@pytest.mark.parametrize("what", ["page", "file"])
def test_entity_tags_stay_strong_and_nothing_is_fetched_anew(
    front: Front, private: tuple[str, bytes], what: str
) -> None:
    filename, content = private
    targets = {"page": "/acme/simple/acme-lib/", "file": f"/acme/files/{sha256(content)}/{filename}"}
    asked = {"Accept": JSON, "Accept-Encoding": "gzip"}
    direct = Wire(front.server.url).get(targets[what], token=front.token, headers=asked)
    passed = front.wire().get(targets[what], token=front.token, headers=asked)
    tag = passed["ETag"]
    assert tag is not None
    assert (passed.status, tag, passed.body) == (200, direct["ETag"], direct.body)
    assert tag.startswith('"')
    again = front.wire().get(targets[what], token=front.token, headers={**asked, "If-None-Match": tag})
    assert (again.status, again["ETag"], again.body) == (304, tag, b"")


def test_ranges_of_files_pass(front: Front, public: tuple[str, bytes]) -> None:
    filename, content = public
    target = f"/files/{sha256(content)}/{filename}"
    part = front.wire().get(target, headers={"Range": "bytes=100-299"})
    assert (part.status, part.body) == (206, content[100:300])
    assert part["Content-Range"] == f"bytes 100-299/{len(content)}"


@EITHER_HOST
def test_an_encoded_slash_reaches_the_server_as_it_is(front: Front, private: Any, prefixed: bool) -> None:
    target = f"{'/pypi' if prefixed else ''}{WIDGETS}/simple/acme-lib/"
    answer = front.wire(prefixed=prefixed).get(target, token=front.token, headers={"Accept": JSON})
    assert answer.status == 200, answer
    assert [file["filename"] for file in answer.json["files"]] == [private[0]]


def test_redirects_stay_below_the_prefix(front: Front) -> None:
    answer = front.wire(prefixed=True).get("/pypi/simple/Some_Name")
    assert answer.status in {301, 302, 307, 308}
    assert not (answer["Location"] or "/").startswith(("/", "http"))


def test_trusted_publishing_reaches_the_server_at_the_root_beside_a_prefix(front: Front) -> None:
    wire = front.wire(prefixed=True)
    assert wire.get("/_/oidc/audience")["X-Request-Id"]
    assert wire.get("/simple/")["X-Request-Id"] is None


@EITHER_HOST
def test_a_login_is_asked_for_with_the_realm(front: Front, prefixed: bool) -> None:
    target = f"{'/pypi' if prefixed else ''}/acme/simple/acme-lib/"
    answer = front.wire(prefixed=prefixed).get(target)
    assert (answer.status, answer["WWW-Authenticate"]) == (401, REALM)


def test_errors_carry_their_message_in_the_reason_or_in_the_body(front: Front, tmp_home: Path) -> None:
    filename, content = make_wheel("refused", "1.0", size=3_000_000)
    old = publish(front, filename, content, sha256_digest="0" * 64)
    body = forms.upload(filename, content, sha256_digest="0" * 64)
    command = curl_command(front, "--http2", "--data-binary", "@-")
    new = subprocess.run(command, input=body, capture_output=True, env=clean_env(tmp_home), check=False)
    head, _, said = new.stdout.decode().partition("\r\n\r\n")
    assert (old.status, head.split()[:2]) == (400, ["HTTP/2", "400"])
    # HTTP/2 has no reason phrase.
    assert "sha256" in old.reason
    assert old.reason in said


@EITHER_HOST
@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics", "/simple/../metrics", "//metrics"])
def test_metrics_are_not_shown(front: Front, path: str, prefixed: bool) -> None:
    answer = front.wire(prefixed=prefixed).get(f"{'/pypi' if prefixed else ''}{path}")
    assert (answer.status, answer["X-Request-Id"]) == (404, None)


def test_nothing_is_served_without_tls(front: Front) -> None:
    answer = Wire(front.insecure).get("/acme/simple/x/?a=b", token=front.token, headers={"Host": "p.test"})
    assert (answer.status, answer["Location"]) == (301, "https://p.test/acme/simple/x/?a=b")
    assert answer["X-Request-Id"] is None


@ON_LINUX
def test_connections_to_the_server_are_used_again(front: Front) -> None:
    port = int(front.server.url.rpartition(":")[2])

    def connections() -> int:
        """Those to the server that are open, or were a moment ago."""
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        wanted = f":{port:04X}"
        return sum(line.split()[2].endswith(wanted) for line in lines)

    front.wire().get("/healthz")
    before = connections()
    for _ in range(10):
        assert front.wire().get("/healthz").status == 200
    assert connections() - before < 5


# Who asks


def logged(front: Front, answer: Answer) -> dict[str, Any]:
    """The line of the server's log that belongs to an answer."""
    wanted = answer["X-Request-Id"]

    def found() -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in front.server.log_text().splitlines())
        return [line for line in lines if line.get("request_id") == wanted]

    (line,) = wait_until(found, what="the answer's line in the log")
    return line


@ON_LINUX
def test_the_server_knows_the_client_and_its_scheme_by_nginx_alone(front: Front) -> None:
    claimed = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "Accept": "application/json"}
    through = front.wire(source=STRANGER)
    passed = through.get("/", headers={**claimed, "X-Forwarded-Proto": "http"})
    assert logged(front, passed)["client"] == STRANGER
    assert passed.json["index_url"] == f"{front.url}/simple/"
    past = front.past(STRANGER).get("/", headers=claimed)
    assert logged(front, past)["client"] == STRANGER
    assert past.json["index_url"] == f"{front.server.url}/simple/"
