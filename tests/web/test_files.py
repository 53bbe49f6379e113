"""Files: cold and warm, whole and in parts, of every origin, and what is never served."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.attestations import attest
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel
from tests.web import forms
from tests.web.house import House, Stored, keep_house
from tests.web.wire import JSON, Answer

IMMUTABLE = "private, max-age=31536000, immutable"
LARGE = 300_000
"""More than is held back, so that bytes leave before the digest is known."""


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a house that asks about every upstream page each time, so that changes there are seen at once."""
    cache = {"fresh_for": "0s", "stale_while_revalidate": "0s", "not_found_for": "0s"}
    yield from keep_house(tmp_path_factory.mktemp("asking"), cache=cache)


def address(stored: Stored, path: str = "open", *, beside: str = "") -> str:
    base = f"/{path}" if path else ""
    return f"{base}/files/{stored.sha256}/{stored.filename.replace('+', '%2B')}{beside}"


def fetch(house: House, target: str, **options: Any) -> Answer:
    return house.wire.get(target, **options)


def fill(house: House, stored: Stored) -> None:
    """Bring an upstream's file into the cache."""
    assert fetch(house, address(stored)).body == stored.content
    wait_until(lambda: is_warm(house, stored), what=f"{stored.filename} in the cache")


def is_warm(house: House, stored: Stored) -> bool:
    return house.wire.head(address(stored))["Cache-Status"] == "pypi-overlay; hit"


@pytest.fixture(scope="module")
def private(house: House) -> Stored:
    """Give a wheel of open/tools."""
    return house.publish("open/tools", size=LARGE)


@pytest.fixture(scope="module")
def warm(house: House) -> Stored:
    """Give an upstream's wheel that is in the cache."""
    stored = house.offer(size=LARGE)
    fill(house, stored)
    return stored


@pytest.fixture(params=["private", "upstream"])
def stored(request: pytest.FixtureRequest, private: Stored, warm: Stored) -> Stored:
    """Give a file that lies on disk, one of ours and one of an upstream's."""
    return private if request.param == "private" else warm


# Whole files


@pytest.mark.parametrize("path", ["", "open", "open/tools"])
def test_a_file_works_on_an_empty_cache_without_its_page(house: House, path: str) -> None:
    offered = house.offer(size=LARGE)
    answer = fetch(house, address(offered, path))
    assert (answer.status, answer.body) == (200, offered.content)
    assert answer["Content-Length"] == str(len(offered.content))
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Cache-Control"] == IMMUTABLE
    assert answer["ETag"] == f'"{offered.sha256}"'
    assert answer["Cache-Status"] == "pypi-overlay; fwd=uri-miss; stored"
    assert answer["X-Overlay-Decision"] == "upstream"
    assert answer["Content-Encoding"] is None


def test_a_file_on_disk_has_exactly_the_headers_of_the_contract(house: House, stored: Stored) -> None:
    answer = fetch(house, address(stored), headers={"Accept-Encoding": "gzip"})
    assert (answer.status, answer.body) == (200, stored.content)
    assert answer["Content-Length"] == str(len(stored.content))
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Cache-Control"] == IMMUTABLE
    assert answer["ETag"] == f'"{stored.sha256}"'
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["Content-Encoding"] is None
    assert answer["Content-Disposition"] is None


def test_the_second_time_a_file_comes_from_disk(house: House, warm: Stored) -> None:
    assert fetch(house, address(warm))["Cache-Status"] == "pypi-overlay; hit"
    asked = [request for request in house.upstream.asked_for(warm.name) if "/packages/" in request.path]
    assert len(asked) == 1


def test_a_cold_HEAD_tells_the_size_and_promises_no_ranges(house: House) -> None:
    offered = house.offer(size=LARGE)
    answer = house.wire.head(address(offered))
    assert (answer.status, answer.body) == (200, b"")
    assert answer["Content-Length"] == str(len(offered.content))
    assert answer["Accept-Ranges"] is None
    assert answer["ETag"] == f'"{offered.sha256}"'


def test_a_cold_HEAD_of_a_file_whose_page_names_no_size_tells_it_too(asking: House) -> None:
    name = asking.name("up")
    asking.upstream.add_project(name, form="html")
    offered = asking.offer(name)
    answer = asking.wire.head(address(offered))
    assert (answer.status, answer["Content-Length"]) == (200, str(len(offered.content)))
    asked = [one.header("Range") for one in asking.upstream.asked_for(name) if "/packages/" in one.path]
    assert asked == ["bytes=0-0"]


def test_a_cold_HEAD_of_a_file_whose_size_nobody_names_still_succeeds(asking: House) -> None:
    name = asking.name("up")
    asking.upstream.add_project(name, form="html")
    offered = asking.offer(name)
    asking.upstream.fault("/packages/*/" + offered.filename, chunked=True, ignore_range=True)
    assert asking.wire.head(address(offered)).status == 200


def test_a_warm_HEAD_tells_size_and_ranges(house: House, stored: Stored) -> None:
    answer = house.wire.head(address(stored))
    assert (answer.status, answer["Content-Length"]) == (200, str(len(stored.content)))
    assert answer["Accept-Ranges"] == "bytes"


def test_a_plus_in_a_filename_may_be_encoded_or_not(house: House) -> None:
    offered = house.offer(version="1.0+cu118")
    mine = house.publish("open/tools", version="2.0+local.7")
    for file in (offered, mine):
        assert "+" in file.filename
        page = fetch(house, f"/open/simple/{file.name}/", headers={"Accept": JSON})
        (link,) = (entry["url"] for entry in page.json["files"])
        assert "%2B" in link
        for spelled in (file.filename, file.filename.replace("+", "%2B"), file.filename.replace("+", "%2b")):
            answer = fetch(house, f"/open/files/{file.sha256}/{spelled}")
            assert (answer.status, answer.body) == (200, file.content), spelled


def test_another_digest_or_filename_at_an_address_is_404(house: House, stored: Stored) -> None:
    other = "0" * 64
    for target in (
        f"/open/files/{other}/{stored.filename}",
        f"/open/files/url-{stored.sha256}/{stored.filename}",
        f"/open/files/{stored.sha256.upper()}/{stored.filename}",
        f"/open/files/{stored.sha256}/{stored.name}-9.9-py3-none-any.whl",
        f"/open/files/{stored.sha256}/x{stored.filename}",
        f"/open/files/{stored.sha256}/{stored.filename}/",
        f"/open/files/{stored.sha256}/{stored.filename}.asc",
        f"/open/files/{stored.sha256}/{stored.filename}.provenance",
        f"/open/files/{stored.sha256}/",
        f"/open/files/{stored.sha256}",
        "/open/files/",
    ):
        assert fetch(house, target).status == 404, target


# Parts


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("0-9", 0, 9),
        ("5-5", 5, 5),
        ("100000-200000", 100_000, 200_000),
        ("100-", 100, None),
        ("0-", 0, None),
        ("0-99999999999", 0, None),
        ("-10000", -10_000, None),
        ("-1", -1, None),
        ("-99999999999", 0, None),
    ],
)
def test_a_range_of_a_file_on_disk(
    house: House, stored: Stored, asked: str, first: int, last: int | None
) -> None:
    size = len(stored.content)
    begin = first % size if first < 0 else first
    end = size - 1 if last is None else last
    answer = fetch(house, address(stored), headers={"Range": f"bytes={asked}"})
    assert answer.status == 206
    assert answer["Content-Range"] == f"bytes {begin}-{end}/{size}"
    assert answer.body == stored.content[begin : end + 1]
    assert answer["Content-Length"] == str(end - begin + 1)
    assert answer["ETag"] == f'"{stored.sha256}"'
    assert answer["Cache-Control"] == IMMUTABLE
    assert answer["X-Overlay-Decision"] in {"private", "upstream"}


@pytest.mark.parametrize("asked", ["{size}-", "{size}-{size}", "99999999999-", "-0", "9" * 5000 + "-"])
def test_a_range_behind_the_end_is_416(house: House, stored: Stored, asked: str) -> None:
    size = len(stored.content)
    answer = fetch(house, address(stored), headers={"Range": "bytes=" + asked.format(size=size)})
    assert (answer.status, answer.body) == (416, b"")
    assert answer["Content-Range"] == f"bytes */{size}"
    assert answer["Cache-Control"] == "no-store"
    assert answer["X-Overlay-Decision"] in {"private", "upstream"}


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=0-1,5-6", "bytes=-", "bytes=a-b", "lines=0-1", "bytes", "bytes=٣-٤", "bytes=+1-2"],
)
def test_a_range_that_cannot_be_read_is_ignored(house: House, stored: Stored, asked: str) -> None:
    answer = fetch(house, address(stored), headers={"Range": asked})
    assert (answer.status, answer.body) == (200, stored.content)


def test_a_range_counts_for_GET_alone(house: House, stored: Stored) -> None:
    answer = house.wire.head(address(stored), headers={"Range": "bytes=0-9"})
    assert (answer.status, answer["Content-Length"]) == (200, str(len(stored.content)))
    assert answer["Content-Range"] is None


@pytest.mark.parametrize(("asked", "first", "last"), [("-1000", -1000, None), ("1000-2000", 1000, 2000)])
def test_a_range_of_a_file_that_is_not_here_yet_waits_for_it(
    house: House, asked: str, first: int, last: int | None
) -> None:
    offered = house.offer(size=LARGE)
    answer = fetch(house, address(offered), headers={"Range": f"bytes={asked}"})
    assert (answer.status, answer.body) == (206, offered.content[first : None if last is None else last + 1])
    assert answer["Cache-Status"] == "pypi-overlay; fwd=uri-miss; stored"
    assert fetch(house, address(offered)).body == offered.content


def test_a_range_of_a_wrong_file_that_is_not_here_yet_is_never_served(house: House) -> None:
    offered = house.offer(size=LARGE)
    house.upstream.fault(f"/packages/*{offered.filename}", alter=True)
    assert fetch(house, address(offered), headers={"Range": "bytes=0-99"}).status == 502


@pytest.mark.parametrize("asked", ["bytes=0-99", "bytes=0-1,5-6"])
def test_a_range_of_a_file_that_comes_slowly_gets_all_of_it(house: House, asked: str) -> None:
    offered = house.offer(size=LARGE)
    house.upstream.fault(f"/packages/*{offered.filename}", rate=100_000)
    head = f"GET {address(offered)} HTTP/1.1\r\nHost: files\r\nRange: {asked}\r\n\r\n"
    with socket.create_connection(house.wire.address, 20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"


def test_a_client_of_HTTP_1_0_gets_a_length_also_where_the_upstream_tells_none(asking: House) -> None:
    name = asking.name("up")
    asking.upstream.add_project(name, form="html")
    offered = asking.offer(name, size=LARGE)
    asking.upstream.fault(f"/packages/*{offered.filename}", chunked=True)
    answer = asking.wire.exchange([f"GET {address(offered)} HTTP/1.0\r\nHost: files\r\n\r\n".encode()])
    assert (answer.status, answer["Content-Length"]) == (200, str(len(offered.content)))
    assert answer.body == offered.content


@pytest.mark.parametrize("condition", ["{tag}", '"another"', "W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_If_Range_gives_a_part_only_of_the_very_same_file(
    house: House, stored: Stored, condition: str
) -> None:
    tag = f'"{stored.sha256}"'
    answer = fetch(
        house, address(stored), headers={"Range": "bytes=10-19", "If-Range": condition.format(tag=tag)}
    )
    if condition == "{tag}":
        assert (answer.status, answer.body) == (206, stored.content[10:20])
    else:
        assert (answer.status, answer.body) == (200, stored.content)


@pytest.mark.parametrize("tags", ["{tag}", 'W/{tag}, "x"', "*"])
def test_a_file_that_the_client_has_is_304(house: House, stored: Stored, tags: str) -> None:
    wanted = tags.format(tag=f'"{stored.sha256}"')
    for method in ("GET", "HEAD"):
        answer = house.wire.send(
            method, address(stored), headers={"If-None-Match": wanted, "Range": "bytes=0-1"}
        )
        assert (answer.status, answer.body) == (304, b"")
        assert answer["ETag"] == f'"{stored.sha256}"'
        assert answer["Cache-Control"] == IMMUTABLE


def test_an_upstream_file_that_the_client_has_is_304_without_being_fetched(house: House) -> None:
    offered = house.offer()
    answer = fetch(house, address(offered), headers={"If-None-Match": f'"{offered.sha256}"'})
    assert answer.status == 304
    assert [one.path for one in house.upstream.asked_for(offered.name)] == [f"/simple/{offered.name}/"]


# Metadata


def metadata_of(stored: Stored, house: House, path: str = "open") -> Answer:
    return fetch(house, address(stored, path, beside=".metadata"))


def test_metadata_of_an_upstream_wheel_are_passed_through_and_are_what_the_page_says(house: House) -> None:
    offered = house.offer()
    page = fetch(house, f"/open/simple/{offered.name}/", headers={"Accept": JSON})
    (entry,) = page.json["files"]
    answer = metadata_of(offered, house)
    digest = hashlib.sha256(answer.body).hexdigest()
    assert answer.status == 200
    assert entry["core-metadata"] == {"sha256": digest}
    assert answer["ETag"] == f'"{digest}"'
    assert answer["Cache-Control"] == IMMUTABLE
    assert answer.text.startswith("Metadata-Version: 2.2\n")
    asked = [one.path for one in house.upstream.asked_for(offered.name) if "/packages/" in one.path]
    assert len(asked) == 1, "the wheel itself was fetched"
    assert asked[0].endswith(".whl.metadata")


def test_wrong_metadata_are_never_served(house: House) -> None:
    offered = house.offer(metadata_sha256="0" * 64)
    answer = metadata_of(offered, house)
    assert answer.status == 502
    assert b"Metadata-Version" not in answer.body


def test_metadata_without_a_digest_are_passed_through(house: House) -> None:
    offered = house.offer(core_metadata="bare")
    answer = metadata_of(offered, house)
    assert answer.status == 200
    assert answer.text.startswith("Metadata-Version: 2.2\n")


@pytest.mark.parametrize("said", [{}, {"core_metadata": False}], ids=["advertised", "not"])
def test_metadata_are_answered_like_files(house: House, said: dict[str, Any]) -> None:
    offered = house.offer(size=LARGE, **said)
    cold = metadata_of(offered, house)
    warm = metadata_of(offered, house)
    assert (cold["Cache-Status"], warm["Cache-Status"]) == (
        "pypi-overlay; fwd=uri-miss; stored",
        "pypi-overlay; hit",
    )
    tag = f'"{hashlib.sha256(warm.body).hexdigest()}"'
    for answer in (cold, warm):
        assert (answer.status, answer.body, answer["ETag"]) == (200, warm.body, tag)
        assert answer["Content-Type"] == "application/octet-stream"
        assert (answer["Cache-Control"], answer["X-Overlay-Decision"]) == (IMMUTABLE, "upstream")
        assert answer["Access-Control-Allow-Origin"] == "*"
    target = address(offered, beside=".metadata")
    part = fetch(house, target, headers={"Range": "bytes=0-7"})
    assert (part.status, part.body) == (206, b"Metadata")
    assert fetch(house, target, headers={"If-None-Match": tag}).status == 304
    head = house.wire.head(target)
    assert (head.status, head.body, head["Content-Length"]) == (200, b"", str(len(warm.body)))


def test_metadata_that_no_digest_covers_give_way_to_those_of_the_wheel(house: House) -> None:
    """Also at a connection that was given the others again and again, from memory where anything is."""
    stored = house.offer(core_metadata="bare")
    house.upstream.fault(f"*{stored.filename}.metadata", alter=-1)
    connection = http.client.HTTPConnection(house.server.url.partition("://")[2], timeout=30)

    def read(target: str) -> bytes:
        connection.request("GET", target)
        return connection.getresponse().read()

    with contextlib.closing(connection):
        (altered,) = {read(address(stored, beside=".metadata")) for _ in range(4)}
        assert read(address(stored)) == stored.content
        wait_until(lambda: is_warm(house, stored), what="the wheel in the cache")
        with zipfile.ZipFile(io.BytesIO(stored.content)) as wheel:
            (inside,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
            assert read(address(stored, beside=".metadata")) == wheel.read(inside) != altered


@pytest.mark.parametrize(
    ("said", "faults"),
    [
        ({"core_metadata": False}, {}),
        ({}, {".metadata": {"status": 404}}),
        ({"core_metadata": False}, {"": {"ignore_range": True}}),
        ({"core_metadata": False}, {"": {"status": 501, "nth": 1}}),
    ],
    ids=["not advertised", "gone", "no ranges", "no ranges, and it says so"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_metadata_that_the_upstream_lacks_are_taken_from_the_wheel(
    house: House, said: dict[str, Any], faults: dict[str, dict[str, Any]], method: str
) -> None:
    offered = house.offer(size=LARGE, **said)
    for suffix, fault in faults.items():
        house.upstream.fault(f"/packages/*{offered.filename}{suffix}", **fault)
    page = fetch(house, f"/open/simple/{offered.name}/", headers={"Accept": JSON})
    assert page.json["files"][0]["core-metadata"]
    answer = house.wire.send(method, address(offered, beside=".metadata"))
    assert (answer.status, bool(answer.body)) == (200, method == "GET")
    assert f"Name: {offered.name}\n" in metadata_of(offered, house).text


def test_a_wheel_without_metadata_is_502_and_never_404(house: House) -> None:
    name = house.name("up")
    offered = Stored(name, "1.0", f"{name}-1.0-py3-none-any.whl", make_sdist(name, "1.0")[1])
    house.upstream.add_file(name, offered.filename, offered.content)
    for _ in range(2):
        answer = metadata_of(offered, house)
        assert (answer.status, answer["Cache-Control"]) == (502, "no-store")
        assert answer["X-Overlay-Decision"] == "unavailable"
        assert f"{offered.filename} of pypi has no usable metadata" in answer.text
    # The file itself is what the page says it is.
    assert fetch(house, address(offered)).body == offered.content


@pytest.mark.parametrize("said", [{}, {"core_metadata": False}], ids=["advertised", "not"])
@pytest.mark.parametrize(("status", "told"), [(503, 503), (429, 503), (500, 502)])
def test_metadata_that_cannot_be_had_now_are_unavailable_until_the_wheel_is_here(
    house: House, said: dict[str, Any], status: int, told: int
) -> None:
    offered = house.offer(**said)
    house.upstream.fault(f"/packages/*{offered.filename}*", status=status)
    answer = metadata_of(offered, house)
    assert (answer.status, answer["Cache-Control"]) == (told, "no-store")
    assert 1 <= int(answer["Retry-After"] or 99) <= 5
    house.upstream.clear_faults()
    fill(house, offered)
    house.upstream.fault(f"/packages/*{offered.filename}*", status=status)
    assert f"Name: {offered.name}\n" in metadata_of(offered, house).text


def test_metadata_of_an_upstream_sdist_are_404_and_not_asked_for(house: House) -> None:
    name = house.name("up")
    offered = sdist(house, name, f"{name}-1.0.tar.gz")
    answer = metadata_of(offered, house)
    assert (answer.status, answer["X-Overlay-Decision"]) == (404, "upstream")
    assert [one.path for one in house.upstream.asked_for(name)] == [f"/simple/{name}/"]


@pytest.mark.parametrize("sdist", [False, True])
def test_metadata_of_a_private_file_are_advertised_with_their_digest_and_served(
    house: House, sdist: bool
) -> None:
    mine = house.publish("open/tools", sdist=sdist)
    page = fetch(house, f"/open/simple/{mine.name}/", headers={"Accept": JSON})
    (entry,) = page.json["files"]
    answer = metadata_of(mine, house)
    assert answer.status == 200
    assert f"Name: {mine.name}\n" in answer.text
    assert entry["core-metadata"] == {"sha256": hashlib.sha256(answer.body).hexdigest()}
    part = fetch(house, address(mine, beside=".metadata"), headers={"Range": "bytes=0-7"})
    assert (part.status, part.body) == (206, b"Metadata")


def test_metadata_of_a_private_sdist_that_its_build_may_change_are_not_advertised(house: House) -> None:
    name = house.name()
    filename, content = make_sdist(name, "1.0", fields=[("Dynamic", "Requires-Dist")])
    assert house.upload("open/tools", forms.upload(filename, content), token=house.owner).status == 201
    page = fetch(house, f"/open/simple/{name}/", headers={"Accept": JSON})
    assert not page.json["files"][0].get("core-metadata")
    assert "data-core-metadata" not in fetch(house, f"/open/simple/{name}/").text


# Provenance


def test_provenance_of_a_private_file_may_change_and_so_is_not_immutable(house: House) -> None:
    mine = house.wheel(house.name())
    field = forms.text("attestations", json.dumps([attest(mine.filename, mine.content)]))
    parts = [*forms.fields(mine.filename, mine.content), forms.file(mine.filename, mine.content), field]
    assert house.upload("open/tools", forms.encode(parts), token=house.owner).status == 201
    target = address(mine, beside=".provenance")
    answer = fetch(house, target)
    assert (answer.status, answer.json["version"]) == (200, 1)
    assert answer["Content-Type"] == "application/vnd.pypi.integrity.v1+json"
    assert answer["Cache-Control"] == "private, max-age=600"
    assert answer["X-Overlay-Decision"] == "private"
    assert house.wire.head(target)["Content-Length"] == str(len(answer.body))
    assert fetch(house, target, headers={"If-None-Match": answer["ETag"]}).status == 304


# Files without sha256


def test_a_file_without_sha256_has_the_digest_of_its_address_in_place_of_it(asking: House) -> None:
    name = asking.name("up")
    asking.upstream.add_project(name, hashes=["md5"])
    offered = asking.offer(name)
    page = fetch(asking, f"/open/simple/{name}/", headers={"Accept": JSON})
    (entry,) = page.json["files"]
    assert entry["hashes"] == {}
    found = re.fullmatch(rf"\.\./\.\./files/(url-[0-9a-f]{{64}})/{re.escape(offered.filename)}", entry["url"])
    assert found, entry["url"]
    target = f"/open/files/{found[1]}/{offered.filename}"
    first = fetch(asking, target)
    assert (first.status, first.body) == (200, offered.content)

    def warm() -> bool:
        return asking.wire.head(target)["Cache-Status"] == "pypi-overlay; hit"

    wait_until(warm, what="the file in the cache")
    second = fetch(asking, target, headers={"Range": "bytes=0-3"})
    assert (second.status, second["ETag"]) == (206, f'"{offered.sha256}"')

    # Now the upstream names a digest: the new address is another one, and the old one stays valid.
    asking.upstream.change_project(name, hashes=["sha256"])
    page = fetch(asking, f"/open/simple/{name}/", headers={"Accept": JSON})
    assert page.json["files"][0]["url"] == f"../../files/{offered.sha256}/{offered.filename}"
    for key in (found[1], offered.sha256):
        answer = fetch(asking, f"/open/files/{key}/{offered.filename}")
        assert (answer.status, answer.body) == (200, offered.content), key
        assert fetch(asking, f"/open/files/{key}/{offered.filename}.metadata").status == 200


# Wrong bytes


@pytest.mark.parametrize("size", [None, LARGE], ids=["small", "large"])
def test_bytes_with_a_wrong_digest_never_arrive_whole(house: House, size: int | None) -> None:
    offered = house.offer(size=size)
    house.upstream.fault("/packages/*/" + offered.filename, alter=True)
    for _ in range(2):
        answer = fetch(house, address(offered))
        if size is None:
            assert (answer.status, answer["Cache-Control"]) == (502, "no-store")
            assert 1 <= int(answer["Retry-After"] or 99) <= 5
            assert answer["X-Overlay-Decision"] == "unavailable"
        assert answer.status == 502 or not answer.whole
        assert len(answer.body) <= max(0, len(offered.content) - (64 << 10)) or answer.status == 502
    assert not is_warm(house, offered)


@pytest.mark.parametrize("size", [None, LARGE], ids=["small", "large"])
def test_a_file_that_ends_too_early_is_never_taken_for_whole(house: House, size: int | None) -> None:
    offered = house.offer(size=size)
    house.upstream.fault("/packages/*/" + offered.filename, truncate=len(offered.content) // 3)
    answer = fetch(house, address(offered))
    assert answer.status == 502 or not answer.whole
    assert not is_warm(house, offered)
    house.upstream.clear_faults()
    again = fetch(house, address(offered))
    assert (again.status, again.body) == (200, offered.content)


def test_a_connection_that_breaks_once_is_taken_up_again(house: House) -> None:
    offered = house.offer(size=LARGE)
    house.upstream.fault("/packages/*/" + offered.filename, truncate=100_000, nth=1)
    answer = fetch(house, address(offered))
    assert (answer.status, answer.whole, answer.body) == (200, True, offered.content)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"status": 404}, 502),
        ({"status": 500}, 502),
        ({"status": 503}, 503),
        ({"hang": True}, 504),
        ({"drop": True}, 502),
    ],
    ids=["404", "500", "503", "hang", "drop"],
)
def test_an_upstream_that_does_not_give_a_listed_file_is_unavailable(
    house: House, fault: dict[str, Any], status: int
) -> None:
    offered = house.offer()
    house.upstream.fault("/packages/*/" + offered.filename, **fault)
    answer = fetch(house, address(offered))
    assert answer.status == status
    assert answer["Cache-Control"] == "no-store"
    assert 1 <= int(answer["Retry-After"] or 99) <= 5
    assert answer["X-Overlay-Decision"] == "unavailable"
    assert house.upstream.host not in answer.text + answer.reason


# What the page says today counts


def test_a_private_file_displaced_by_a_newer_upload_stays_at_its_address(house: House) -> None:
    name = house.name()
    older = house.publish("open/tools", name, modules={f"{name}.py": "old"})
    newer = house.publish("open/gear", name, modules={f"{name}.py": "new"})
    assert older.filename == newer.filename
    page = fetch(house, f"/open/simple/{name}/", headers={"Accept": JSON})
    assert [entry["hashes"]["sha256"] for entry in page.json["files"]] == [newer.sha256]
    for stored in (older, newer):
        for path in ("open", ""):
            answer = fetch(house, address(stored, path))
            assert (answer.status, answer.body) == (200, stored.content)
    assert fetch(house, address(older, "open/gear")).status == 404


def test_a_file_that_its_upstream_replaced_is_found_at_its_new_address_alone(asking: House) -> None:
    old = asking.offer()
    assert fetch(asking, address(old)).status == 200
    content = make_wheel(old.name, "1.0", modules={"new.py": "x = 1"})[1]
    asking.upstream.add_file(old.name, old.filename, content)
    new = Stored(old.name, "1.0", old.filename, content)
    assert fetch(asking, address(new)).body == content
    gone = fetch(asking, address(old))
    assert (gone.status, gone["X-Overlay-Decision"]) == (404, "upstream")


def test_a_cached_file_is_served_while_its_upstream_is_down(asking: House) -> None:
    offered = asking.offer()
    fill(asking, offered)
    never = asking.offer()
    assert fetch(asking, f"/open/simple/{never.name}/").status == 200
    asking.upstream.stop()
    try:
        page = fetch(asking, f"/open/simple/{offered.name}/")
        assert page.status == 200
        assert (page["Cache-Status"] or "").startswith("pypi-overlay; ")
        answer = fetch(asking, address(offered))
        assert (answer.status, answer.body) == (200, offered.content)
        assert fetch(asking, address(never)).status == 502
    finally:
        asking.upstream.start()


def test_a_project_that_its_upstream_quarantined_gives_no_file_also_no_cached_one(asking: House) -> None:
    offered = asking.offer()
    fill(asking, offered)
    asking.upstream.change_project(offered.name, status="quarantined", status_reason="malware was found")
    page = fetch(asking, f"/open/simple/{offered.name}/", headers={"Accept": JSON})
    assert (page.status, page.json["files"]) == (200, [])
    assert page.json["project-status"]["status"] == "quarantined"
    for beside in ("", ".metadata"):
        answer = fetch(asking, address(offered, beside=beside))
        assert (answer.status, answer["Content-Type"]) == (403, "application/problem+json")
        assert answer["X-Overlay-Decision"] == 'withheld;rule="quarantined"'
        assert answer.json["decision"] == "withheld"
        assert answer.json["title"] == "Withheld by policy"
        assert "quarantined" in answer.json["detail"]
        assert answer.reason == answer.json["detail"]


# Sdists, whose filename does not say where the name ends


def sdist(house: House, project: str, filename: str) -> Stored:
    """Let the upstream have a file of this name in a project."""
    stored = Stored(project, "1.0", filename, make_sdist(project, "1.0")[1])
    house.upstream.add_file(project, filename, stored.content)
    return stored


def test_an_sdist_is_found_under_the_shorter_of_two_names(house: House) -> None:
    name = house.name("up")
    offered = sdist(house, name, f"{name}-2-1.0.tar.gz")
    answer = fetch(house, address(offered))
    assert (answer.status, answer.body) == (200, offered.content)


def test_an_sdist_whose_longer_name_is_claimed_is_served_from_the_shorter_one_and_only_that_is_asked(
    house: House,
) -> None:
    name = house.name("up")
    claimed = house.publish("open/tools", f"{name}-2")
    offered = sdist(house, name, f"{name}-2-1.0.tar.gz")
    house.upstream.reset_requests()
    answer = fetch(house, address(offered))
    assert (answer.status, answer.body) == (200, offered.content)
    pages = [one.path for one in house.upstream.requests() if one.path.startswith("/simple/")]
    assert pages == [f"/simple/{name}/"]
    assert claimed.name not in pages


def test_a_file_that_no_candidate_has_gets_the_weightiest_refusal(house: House) -> None:
    def ask(filename: str, path: str = "/open/gear") -> tuple[int, str | None]:
        answer = fetch(house, f"{path}/files/{'1' * 64}/{filename}-1.0.tar.gz")
        return answer.status, answer["X-Overlay-Decision"]

    first, second, third = (house.name("up") for _ in range(3))
    assert ask(f"{first}-2") == (404, "unknown")
    # That the longer name is claimed weighs more than that the shorter one is unknown,
    house.publish("open/tools", f"{first}-3")
    assert ask(f"{first}-3") == (403, 'claimed;rule="package open/tools"')
    # trouble of an upstream more than a refusal, since the file might be there,
    house.publish("open/tools", f"{second}-3")
    house.upstream.fault(f"/simple/{second}/", status=500)
    assert ask(f"{second}-3") == (502, "unavailable")
    # and that the caller might have to say who it is, most of all.
    house.publish("acme/widgets", f"{third}-3")
    house.upstream.fault(f"/simple/{third}/", status=500)
    assert ask(f"{third}-3", path="") == (401, None)
