"""Large files go up and down, and the server's memory does not grow with them."""

from __future__ import annotations

import hashlib
import http.client
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import TOKEN, address, make_server, published
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel, write_wheel
from tests.web import forms
from tests.web.wire import Wire

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")

PIECE = 1 << 20
ALLOWED = 50_000_000


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(server: OverlayServer, target: str) -> tuple[int, str]:
    """Read a file in pieces; return its length and its sha256."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        assert answer.status == 200
        length, digest = 0, hashlib.sha256()
        while piece := answer.read(PIECE):
            length += len(piece)
            digest.update(piece)
        return length, digest.hexdigest()
    finally:
        connection.close()


def upload(server: OverlayServer, wheel: Path, digest: str, *, chunked: bool) -> int:
    """Send a form in pieces, with Content-Length or without; return the status."""
    fields = forms.fields(wheel.name, b"", sha256_digest=digest)
    mark = b"the content of the wheel"
    head, tail = forms.encode([*fields, forms.file(wheel.name, mark)]).split(mark)

    def pieces() -> Iterator[bytes]:
        yield head
        with wheel.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
        yield tail

    headers = {**forms.FORM_TYPE, "Authorization": f"Bearer {TOKEN}"}
    if not chunked:
        headers["Content-Length"] = str(len(head) + wheel.stat().st_size + len(tail))
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        connection.request("POST", "/acme/widgets/", body=pieces(), headers=headers, encode_chunked=chunked)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("size", [2 * ALLOWED, pytest.param(300_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_file(upstream: FakeUpstream, tmp_path: Path, size: int) -> None:
    ours = write_wheel(tmp_path, "ours", "1.0", size=size)
    digest, length = digest_of(ours), ours.stat().st_size
    # The upstream offers the same bytes under a name of its own: nobody looks into them on their way.
    theirs = "theirs-1.0-py3-none-any.whl"
    upstream.add_file("theirs", theirs, ours)
    small, content = make_wheel("small", "1.0", size=1_000_000)
    upstream.add_file("small", small, content)
    with make_server(upstream, tmp_path / "server") as server:
        wire = Wire(server.url)
        published(server, *make_wheel("warm", "1.0", size=1_000_000))
        assert wire.get("/acme/simple/warm/").status == 200
        assert wire.get(address(small, content)).body == content
        before = server.peak_rss()

        def grown() -> int:
            return server.peak_rss() - before

        assert upload(server, ours, digest, chunked=False) == 201
        assert grown() < ALLOWED, "by an upload"
        assert download(server, f"/acme/files/{digest}/{ours.name}") == (length, digest)
        assert grown() < ALLOWED, "by a download of a private file"
        assert download(server, f"/files/{digest}/{theirs}") == (length, digest)
        assert grown() < ALLOWED, "by a download that filled the cache"
        assert download(server, f"/files/{digest}/{theirs}") == (length, digest)
        assert grown() < ALLOWED, "by a download from the cache"
        assert len([asked for asked in upstream.requests() if asked.path.endswith(theirs)]) == 1
        # A refused one is read to its end, and kept nowhere.
        assert upload(server, ours, digest, chunked=True) == 400
        assert grown() < ALLOWED, "by an upload without a length"
        assert list((server.data_dir / "incoming").iterdir()) == []
