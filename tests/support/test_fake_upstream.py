"""The fake upstream itself: it must behave like PyPI, and misbehave exactly as it is told."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.clients import Client, installed, write_netrc
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel, write_wheel

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes


def get(url: str, method: str = "GET", timeout: float = 10.0, **headers: str) -> Got:
    """Ask without following redirects or unpacking; `Accept_Encoding` stands for the header of that name."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(
            method,
            url[len(f"http://{parts.netloc}") :],
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@pytest.fixture
def widgets(upstream: FakeUpstream) -> str:
    """Publish a wheel of widgets 1.0; give its address."""
    filename, content = make_wheel("widgets", "1.0", requires_python=">=3.8")
    upstream.add_file("widgets", filename, content)
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    return f"{upstream.url}/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{filename}"


def page_of(upstream: FakeUpstream, name: str = "widgets") -> str:
    return f"{upstream.index_url}{name}/"


@pytest.mark.parametrize("part", ["", "/1.0"])
def test_the_json_api_has_documents_of_projects_and_versions(
    upstream: FakeUpstream, widgets: str, part: str
) -> None:
    upstream.change_project("widgets", info={"author": "Ada"})
    got = get(f"{upstream.url}/pypi/widgets{part}/json")
    document = json.loads(got.body)
    assert (got.status, got.headers["Content-Type"]) == (200, "application/json")
    assert (document["info"]["version"], document["info"]["author"]) == ("1.0", "Ada")
    assert [file["url"] for file in document["urls"]] == [widgets]
    assert ("releases" in document) == (not part)
    assert get(f"{upstream.url}/pypi/widgets/9.9/json").status == 404
    upstream.configure(json_api=False)
    assert get(f"{upstream.url}/pypi/widgets{part}/json").status == 404


def test_the_json_page_has_what_pypi_says_of_a_file(upstream: FakeUpstream, widgets: str) -> None:
    content = make_wheel("widgets", "1.0", requires_python=">=3.8")[1]
    got = get(page_of(upstream), Accept=f"{JSON}, text/html;q=0.1")
    page = json.loads(got.body)
    [file] = page["files"]
    metadata = get(widgets + ".metadata").body
    assert got.headers["Content-Type"] == JSON
    assert got.headers["Cache-Control"] == "max-age=600, public"
    assert (page["meta"]["api-version"], page["name"], page["versions"]) == ("1.4", "widgets", ["1.0"])
    assert page["project-status"] == {"status": "active"}
    assert file["url"] == widgets
    assert file["hashes"] == {"sha256": hashlib.sha256(content).hexdigest()}
    assert file["size"] == len(content)
    assert (file["requires-python"], file["yanked"], file["provenance"]) == (">=3.8", False, None)
    assert file["upload-time"] == "2024-01-01T00:00:00.000000Z"
    assert file["core-metadata"] == {"sha256": hashlib.sha256(metadata).hexdigest()}
    assert file["data-dist-info-metadata"] == file["core-metadata"]
    assert b"\nName: widgets\n" in metadata


def test_the_html_page_escapes_and_carries_the_digest(upstream: FakeUpstream, widgets: str) -> None:
    upstream.add_file("widgets", *make_wheel("widgets", "2.0"), yanked='bad & "ugly"')
    got = get(page_of(upstream), Accept=HTML)
    body = got.body.decode()
    assert got.headers["Content-Type"] == HTML
    assert f'href="{widgets}#sha256=' in body
    assert 'data-requires-python="&gt;=3.8"' in body
    assert 'data-yanked="bad &amp; &quot;ugly&quot;"' in body
    assert body.count("data-core-metadata=") == body.count("data-dist-info-metadata=") == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/html"),
        ("*/*", "text/html"),
        ("application/json", "text/html"),
        ("text/html;q=0.01, " + JSON, JSON),
        (JSON.replace("v1", "latest"), JSON),
        (HTML + ";q=0.2, text/html;q=0.01", HTML),
    ],
)
def test_pages_are_negotiated_and_406_is_never_said(
    upstream: FakeUpstream, widgets: str, accept: str, kind: str
) -> None:
    got = get(page_of(upstream), Accept=accept)
    assert (got.status, got.headers["Content-Type"]) == (200, kind)


@pytest.mark.parametrize(("form", "kind"), [("html", "text/html"), ("json", JSON)])
def test_an_index_of_one_form_answers_in_it_whatever_is_asked(
    upstream: FakeUpstream, widgets: str, form: str, kind: str
) -> None:
    upstream.configure(form=form)
    wish = JSON if form == "html" else "text/html"
    assert get(page_of(upstream), Accept=wish).headers["Content-Type"] == kind
    assert get(upstream.index_url, Accept=wish).headers["Content-Type"] == kind


def test_each_coding_has_its_own_validator_and_is_confirmed_by_304(
    upstream: FakeUpstream, widgets: str
) -> None:
    plain = get(page_of(upstream), Accept=JSON)
    packed = get(page_of(upstream), Accept=JSON, Accept_Encoding="gzip")
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["ETag"] != plain.headers["ETag"]
    again = get(page_of(upstream), Accept=JSON, Accept_Encoding="gzip", If_None_Match=packed.headers["ETag"])
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", packed.headers["ETag"])
    upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    changed = get(page_of(upstream), Accept=JSON, If_None_Match=plain.headers["ETag"])
    assert changed.status == 200


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/simple/Wid_Gets", 301, "/simple/Wid_Gets/"),
        ("/simple/Wid_Gets/", 301, "/simple/wid-gets/"),
        ("/simple/nothing", 301, "/simple/nothing/"),
        ("/simple/nothing/", 404, None),
    ],
)
def test_other_spellings_are_redirected_and_unknown_names_are_404(
    upstream: FakeUpstream, path: str, status: int, location: str | None
) -> None:
    got = get(upstream.url + path)
    assert (got.status, got.headers.get("Location")) == (status, location)
    if status == 404:
        assert (got.headers["Content-Type"], got.body) == ("text/plain", b"404 Not Found")


def test_the_root_lists_display_names_but_nothing_quarantined(upstream: FakeUpstream, widgets: str) -> None:
    upstream.add_project("Gad_Gets")
    upstream.add_project("evil", status="quarantined", files=[{"make": "wheel"}])
    names = [one["name"] for one in json.loads(get(upstream.index_url, Accept=JSON).body)["projects"]]
    assert names == ["Gad_Gets", "widgets"]
    assert b'<a href="/simple/gad-gets/">Gad_Gets</a>' in get(upstream.index_url).body
    assert json.loads(get(page_of(upstream, "evil"), Accept=JSON).body)["files"] == []


@pytest.mark.parametrize(
    ("wanted", "first", "last"), [("0-9", 0, 10), ("5-", 5, None), ("-7", -7, None), ("-999999", 0, None)]
)
def test_files_are_served_in_ranges(
    upstream: FakeUpstream, widgets: str, wanted: str, first: int, last: int | None
) -> None:
    whole = get(widgets)
    part = get(widgets, Range=f"bytes={wanted}")
    assert (part.status, part.body) == (206, whole.body[first:last])
    assert part.headers["Content-Range"].endswith(f"/{len(whole.body)}")
    assert get(widgets, Range="bytes=999999-").status == 416


def test_files_are_never_304_and_head_has_no_body(upstream: FakeUpstream, widgets: str) -> None:
    whole = get(widgets)
    assert get(widgets, If_None_Match=whole.headers["ETag"]).status == 200
    head = get(widgets, method="HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole.body)))


def test_pages_may_leave_things_out(upstream: FakeUpstream, widgets: str) -> None:
    upstream.configure(
        hashes=["md5"], size=False, core_metadata=False, upload_time=False, relative_links=True
    )
    [file] = json.loads(get(page_of(upstream), Accept=JSON).body)["files"]
    assert list(file["hashes"]) == ["md5"]
    assert not {"size", "upload-time", "core-metadata", "data-dist-info-metadata"} & set(file)
    assert file["url"] == "../.." + urlsplit(widgets).path
    assert b"#md5=" in get(page_of(upstream)).body


def test_credentials_are_asked_for_everywhere(upstream: FakeUpstream, widgets: str) -> None:
    upstream.configure(username="ann", password="secret")
    right, wrong = "Basic YW5uOnNlY3JldA==", "Basic YW5uOndyb25n"
    assert get(page_of(upstream)).headers["WWW-Authenticate"].startswith("Basic ")
    assert [get(widgets, Authorization=one).status for one in (right, wrong)] == [200, 401]


def test_a_fault_strikes_the_requests_it_names_and_no_others(upstream: FakeUpstream, widgets: str) -> None:
    upstream.fault("/simple/widgets/", nth=2, status=503, retry_after=7)
    upstream.fault("/simple/w*", method="HEAD", status=500)
    answers = [get(page_of(upstream)) for _ in range(3)]
    assert [one.status for one in answers] == [200, 503, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert get(page_of(upstream), method="HEAD").status == 500
    upstream.clear_faults()
    assert get(page_of(upstream), method="HEAD").status == 200


def test_times_and_after_bound_a_fault(upstream: FakeUpstream) -> None:
    upstream.fault("/simple/x/", after=1, times=2, status=500)
    assert [get(page_of(upstream, "x")).status for _ in range(4)] == [404, 500, 500, 404]


def test_counting_goes_on_when_projects_change(upstream: FakeUpstream) -> None:
    upstream.fault("/simple/x/", nth=2, status=500)
    get(page_of(upstream, "x"))
    upstream.add_project("y")
    assert get(page_of(upstream, "x")).status == 500


def test_a_truncated_file_ends_early(upstream: FakeUpstream, widgets: str) -> None:
    upstream.fault("/packages/*", truncate=100)
    with pytest.raises(http.client.IncompleteRead) as error:
        get(widgets)
    assert len(error.value.partial) == 100


def test_an_altered_file_has_the_same_size_and_another_digest(upstream: FakeUpstream, widgets: str) -> None:
    right = get(widgets).body
    upstream.fault("/packages/*", alter=-1)
    wrong = get(widgets)
    assert (wrong.status, wrong.body[:-1]) == (200, right[:-1])
    assert (len(wrong.body), wrong.body == right) == (len(right), False)
    assert get(widgets, Range="bytes=0-9").body == right[:10]


def test_a_slow_file_keeps_its_rate_and_holds_up_nobody(upstream: FakeUpstream, widgets: str) -> None:
    size = len(get(widgets).body)
    upstream.fault("/packages/*", rate=size * 2)
    started = time.monotonic()
    assert len(get(widgets).body) == size
    assert 0.3 < time.monotonic() - started < 5
    upstream.fault("/packages/*", rate=1)
    slow = http.client.HTTPConnection(upstream.host, timeout=10)
    slow.request("GET", urlsplit(widgets).path)
    assert get(page_of(upstream)).status == 200
    slow.close()


def test_a_hanging_address_says_nothing_until_the_client_goes(upstream: FakeUpstream) -> None:
    upstream.fault("/simple/x/", hang=True)
    with pytest.raises(TimeoutError):
        get(page_of(upstream, "x"), timeout=0.2)
    assert len(upstream.asked_for("x")) == 1


def test_a_held_answer_waits_until_nothing_holds_it(upstream: FakeUpstream) -> None:
    upstream.fault("/simple/widgets/", hold=True)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get, page_of(upstream))
        upstream.await_requests("/simple/widgets/")
        upstream.add_project("widgets")
        upstream.fault("/simple/x/", hold=True)
        assert get(page_of(upstream, "other")).status == 404
        assert not asking.done()
        upstream.clear_faults()
        assert asking.result().status == 200


def test_a_stalled_file_sends_its_beginning(upstream: FakeUpstream, widgets: str) -> None:
    upstream.fault("/packages/*", truncate=10, hang=True)
    connection = http.client.HTTPConnection(upstream.host, timeout=0.3)
    connection.request("GET", urlsplit(widgets).path)
    answer = connection.getresponse()
    assert len(answer.read(10)) == 10
    with pytest.raises(TimeoutError):
        answer.read(1)
    connection.close()


def test_a_dropped_connection_has_no_answer(upstream: FakeUpstream) -> None:
    upstream.fault("/simple/x/", drop=True)
    with pytest.raises(http.client.RemoteDisconnected):
        get(page_of(upstream, "x"))


def test_a_bomb_is_small_on_the_wire_and_large_unpacked(upstream: FakeUpstream, widgets: str) -> None:
    upstream.fault("/simple/widgets/", gzip_bomb=50_000_000)
    got = get(page_of(upstream), Accept=JSON)
    assert (got.headers["Content-Encoding"], got.headers["Content-Type"]) == ("gzip", JSON)
    assert len(got.body) < 200_000
    assert len(zlib.decompress(got.body, 31)) > 50_000_000


def test_pages_may_be_something_else_altogether(upstream: FakeUpstream, widgets: str) -> None:
    upstream.add_project("gadgets")
    upstream.fault("/simple/widgets/", nth=1, html_error=True)
    upstream.fault("/simple/widgets/", nth=2, as_project="gadgets")
    upstream.fault("/simple/widgets/", nth=3, link_base="http://10.0.0.1:80")
    upstream.fault("/simple/widgets/", nth=4, redirect="http://127.0.0.1:9/")
    upstream.fault(
        "/simple/widgets/", nth=5, chunked=True, headers={"ETag": None, "Cache-Control": "no-store"}
    )
    error, other, elsewhere, moved, bare = (get(page_of(upstream), Accept=JSON) for _ in range(5))
    assert (error.status, error.headers["Content-Type"]) == (200, "text/html")
    assert json.loads(other.body)["name"] == "gadgets"
    assert json.loads(elsewhere.body)["files"][0]["url"].startswith("http://10.0.0.1:80/packages/")
    assert (moved.status, moved.headers["Location"]) == (302, "http://127.0.0.1:9/")
    assert (bare.headers["Cache-Control"], bare.headers["Transfer-Encoding"]) == ("no-store", "chunked")
    assert not {"ETag", "Content-Length"} & set(bare.headers)


def test_it_records_requests_with_their_headers(upstream: FakeUpstream, widgets: str) -> None:
    get(page_of(upstream) + "?x=%2F", Authorization="Basic abc")
    get(widgets, method="HEAD")
    first, second = upstream.requests()
    assert (first.method, first.path, first.header("authorization")) == (
        "GET",
        "/simple/widgets/?x=%2F",
        "Basic abc",
    )
    assert [one.path for one in upstream.requests("HEAD")] == [second.path]
    upstream.reset_requests()
    assert upstream.requests() == []


@pytest.mark.parametrize(
    "path",
    [
        "/simple/acme-sdk/",
        "/simple/Acme_SDK",
        "/simple/acme%2Dsdk/",
        "/simple/acme%20sdk/",
        "/pypi/acme.sdk/json",
        "/packages/aa/bb/cc/acme_sdk-1.0-py3-none-any.whl.metadata",
        "/packages/aa/bb/cc/acme-sdk-1.0.tar.gz",
    ],
)
def test_asking_for_a_project_is_noticed_in_every_spelling(upstream: FakeUpstream, path: str) -> None:
    get(upstream.url + path)
    assert [one.path for one in upstream.asked_for("acme-sdk")] == [path]
    assert upstream.asked_for("acme") == []
    assert upstream.asked_for("sdk") == []


def test_it_goes_down_and_comes_up_at_the_same_address(upstream: FakeUpstream, widgets: str) -> None:
    get(page_of(upstream))
    upstream.stop()
    with pytest.raises(ConnectionRefusedError):
        get(page_of(upstream))
    upstream.start()
    assert get(widgets).status == 200
    assert [one.path.split("/")[1] for one in upstream.requests()] == ["simple", "packages"]


def test_an_unknown_key_is_refused(upstream: FakeUpstream) -> None:
    with pytest.raises(ValueError, match="unknown stauts"):
        upstream.fault("/simple/x/", stauts=503)


def test_pip_and_uv_install_wheel_and_sdist_from_it(
    upstream: FakeUpstream, client: Client, tmp_path: Path
) -> None:
    upstream.add_file("widgets", *make_wheel("widgets", "1.0", requires=["gad-gets>=2"]))
    upstream.add_file("Gad.Gets", *make_sdist("Gad.Gets", "2.0"))
    for run, target in ((client.pip_install, tmp_path / "pip"), (client.uv_pip_install, tmp_path / "uv")):
        done = run(target, upstream.index_url, "widgets")
        assert done.returncode == 0, done.stderr
        assert installed(target) == {"widgets-1.0", "gad_gets-2.0"}
        assert (target / "gad_gets" / "__init__.py").read_text() == '__version__ = "2.0"\n'


def test_pip_refuses_an_altered_file(
    upstream: FakeUpstream, widgets: str, client: Client, tmp_path: Path
) -> None:
    upstream.fault("*.whl", alter=True)
    done = client.pip_download(tmp_path / "files", upstream.index_url, "widgets")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_clients_with_a_netrc_send_it_to_the_upstream(
    upstream: FakeUpstream, client: Client, tmp_path: Path
) -> None:
    upstream.configure(username="ann", password="secret")
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    assert client.pip_install(tmp_path / "no", upstream.index_url, "widgets").returncode != 0
    write_netrc(client.home, "127.0.0.1", "ann", "secret")
    for run, target in ((client.pip_install, tmp_path / "pip"), (client.uv_pip_install, tmp_path / "uv")):
        done = run(target, upstream.index_url, "widgets")
        assert done.returncode == 0, done.stderr


def test_a_large_wheel_is_written_without_growing_in_memory(upstream: FakeUpstream, tmp_path: Path) -> None:
    path = write_wheel(tmp_path, "big", "1.0", size=20_000_000)
    upstream.add_file("big", path.name, path)
    [file] = json.loads(get(page_of(upstream, "big"), Accept=JSON).body)["files"]
    assert file["size"] == path.stat().st_size > 20_000_000
    assert hashlib.sha256(get(file["url"]).body).hexdigest() == file["hashes"]["sha256"]


def test_it_is_gone_when_its_owner_is_done_with_it() -> None:
    with FakeUpstream(form="html") as other:
        other.add_project("widgets", files=[{"make": "wheel", "version": "3.0"}])
        assert b"widgets-3.0" in get(page_of(other)).body
        url = other.url

    def refused() -> bool:
        try:
            get(url + "/simple/")
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused, what="the port to close")


def test_twine_and_uv_publish_send_their_credentials(
    upstream: FakeUpstream, client: Client, tmp_path: Path
) -> None:
    upstream.fault("/acme/*", status=403, body="no uploads today")
    wheel = write_wheel(tmp_path, "widgets", "1.0")
    for publish in (client.twine_upload, client.uv_publish):
        done = publish(f"{upstream.url}/acme/widgets", "ann", "secret", wheel)
        assert done.returncode != 0
        assert "403" in done.stdout + done.stderr
    sent = upstream.requests("POST")
    assert {(one.path, one.header("Authorization")) for one in sent} == {
        ("/acme/widgets", "Basic YW5uOnNlY3JldA==")
    }
    assert {(one.header("User-Agent") or "").split("/")[0] for one in sent} == {"twine", "uv"}
