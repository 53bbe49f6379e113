"""The client against an upstream that behaves, and against one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from proxy.domain.names import Name
from proxy.domain.snapshot import UpstreamSettings
from proxy.errors import (
    RangesRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamFaulty,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.observe.metrics import Metrics
from proxy.upstream.client import Found, NoSuchProject, NotModified, Upstream
from tests.support.upstream import FakeUpstream
from tests.support.waiting import free_port
from tests.support.wheels import make_wheel

WIDGETS = Name("widgets")
PAGE = "/simple/widgets/"


@asynccontextmanager
async def client(
    index_url: str,
    *,
    max_page_size: int = 10 << 20,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    **settings: Any,
) -> AsyncIterator[Upstream]:
    made = Upstream(
        UpstreamSettings("pypi", index_url, **{"read_timeout": timedelta(seconds=5), **settings}),
        max_page_size=max_page_size,
        user_agent="pypi-overlay/test",
        metrics=Metrics("0").upstream("pypi"),
        now=now,
    )
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def server(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """An aiohttp server on a real port that answers everything with `answer`; yields its origin."""
    runner = web.ServerRunner(web.Server(answer))  # type: ignore[arg-type] # BaseRequest is what it is given
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
def wheel(upstream: FakeUpstream) -> tuple[str, bytes]:
    made = make_wheel("widgets", "1.0", requires_python=">=3.8", size=300_000)
    upstream.add_file("widgets", *made)
    return made


async def read(upstream: Upstream, url: str, **options: Any) -> bytes:
    async with upstream.file(url, **options) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


@pytest.mark.parametrize("form", ["json", "html"])
async def test_a_page_is_fetched_in_either_form(
    upstream: FakeUpstream, wheel: tuple[str, bytes], form: str
) -> None:
    upstream.configure(form=form)
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        (record,) = result.value.files
        assert await read(pypi, record.url) == wheel[1]
    assert record.sha256 == hashlib.sha256(wheel[1]).hexdigest()
    assert record.requires_python == ">=3.8"
    assert result.max_age == timedelta(seconds=600)
    asked = upstream.requests()[0]
    assert asked.path == PAGE
    assert asked.header("User-Agent") == "pypi-overlay/test"
    assert asked.header("Accept-Encoding") == "gzip"
    assert upstream.requests()[1].header("Accept-Encoding") == "identity"


async def test_a_validator_that_still_holds_is_not_modified(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    async with client(upstream.index_url) as pypi:
        first = await pypi.page(WIDGETS)
        assert isinstance(first, Found)
        assert first.etag is not None
        assert await pypi.page(WIDGETS, first.etag) == NotModified(timedelta(seconds=600))
        upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
        assert isinstance(await pypi.page(WIDGETS, first.etag), Found)


@pytest.mark.parametrize("status", [404, 410])
async def test_an_unknown_name_is_no_such_project(upstream: FakeUpstream, status: int) -> None:
    upstream.fault("/simple/*", status=status)
    async with client(upstream.index_url) as pypi:
        assert await pypi.page(WIDGETS) == NoSuchProject()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 503, "retry_after": 7}, UpstreamBusy),
        ({"status": 429}, UpstreamBusy),
        ({"status": 500}, UpstreamFaulty),
        ({"status": 401}, UpstreamFaulty),
        ({"status": 403}, UpstreamFaulty),
        ({"status": 304}, UpstreamFaulty),
        ({"status": 204}, UpstreamFaulty),
        ({"html_error": True}, UpstreamFaulty),
        ({"as_project": "gadgets"}, UpstreamFaulty),
        ({"drop": True}, UpstreamUnreachable),
        ({"truncate": 50}, UpstreamUnreachable),
        ({"gzip_bomb": 400 << 20}, UpstreamFaulty),
        ({"redirect": "/simple/widgets/"}, UpstreamFaulty),
        ({"redirect": "http://evil.example.org/simple/widgets/"}, UpstreamFaulty),
        ({"redirect": "http://127.0.0.1:1/simple/widgets/"}, UpstreamFaulty),
        ({"redirect": "file:///etc/passwd"}, UpstreamFaulty),
        ({"headers": {"Content-Type": "application/json"}}, UpstreamFaulty),
        ({"headers": {"Content-Encoding": "br"}}, UpstreamFaulty),
    ],
)
async def test_trouble_is_never_read_as_no_such_project(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any], expected: type[UpstreamError]
) -> None:
    upstream.add_file("gadgets", *make_wheel("gadgets", "1.0"))
    upstream.fault(PAGE, **fault)
    async with client(upstream.index_url) as pypi:
        with pytest.raises(UpstreamError) as caught:
            await pypi.page(WIDGETS)
    assert type(caught.value) is expected
    assert caught.value.upstream == "pypi"
    if isinstance(caught.value, UpstreamBusy):
        assert caught.value.retry_after == fault.get("retry_after")


@pytest.mark.parametrize("fault", [{"hang": True}, {"truncate": 50, "hang": True}])
async def test_silence_is_a_time_out(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any]
) -> None:
    upstream.fault(PAGE, **fault)
    async with client(upstream.index_url, read_timeout=timedelta(seconds=0.2)) as pypi:
        with pytest.raises(UpstreamTimeout):
            await pypi.page(WIDGETS)


async def test_a_page_that_trickles_for_ever_is_a_time_out(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    upstream.fault(PAGE, rate=20)
    short = timedelta(seconds=0.2)
    async with client(upstream.index_url, connect_timeout=short, read_timeout=short) as pypi:
        with pytest.raises(UpstreamTimeout):
            await pypi.page(WIDGETS)


async def test_a_refused_connection_is_unreachable() -> None:
    async with client(f"http://127.0.0.1:{free_port()}/simple/") as pypi:
        with pytest.raises(UpstreamUnreachable):
            await pypi.page(WIDGETS)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 502},
        {"status": 504},
        {"status": 503},
        {"status": 503, "retry_after": 0},
        {"drop": True},
        {"truncate": 50},
    ],
    ids=str,
)
async def test_what_fails_in_passing_is_asked_again(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any]
) -> None:
    upstream.fault(PAGE, times=2, **fault)
    async with client(upstream.index_url) as pypi:
        assert isinstance(await pypi.page(WIDGETS), Found)
    assert len(upstream.requests()) >= 3


@pytest.mark.parametrize("retries", [0, 1])
async def test_it_is_asked_again_as_often_as_the_configuration_says(
    upstream: FakeUpstream, wheel: tuple[str, bytes], retries: int
) -> None:
    upstream.fault(PAGE, status=502)
    async with client(upstream.index_url, retries=retries) as pypi:
        with pytest.raises(UpstreamFaulty):
            await pypi.page(WIDGETS)
    assert len(upstream.requests()) == 1 + retries


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 500},
        {"status": 403},
        {"status": 429},
        {"status": 503, "retry_after": 3},
        {"html_error": True},
        {"hang": True},
    ],
    ids=str,
)
async def test_what_will_not_pass_is_asked_once(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any]
) -> None:
    upstream.fault(PAGE, **fault)
    async with client(upstream.index_url, read_timeout=timedelta(seconds=0.2)) as pypi:
        with contextlib.suppress(UpstreamError):
            await pypi.page(WIDGETS)
    assert len(upstream.requests()) == 1


async def test_a_file_is_asked_for_again_until_its_head_has_come(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        upstream.fault("/packages/*", times=2, status=502)
        assert await read(pypi, result.value.files[0].url) == wheel[1]
        upstream.clear_faults()
        upstream.reset_requests()
        upstream.fault("/packages/*", truncate=1000)
        with pytest.raises(UpstreamUnreachable):
            await read(pypi, result.value.files[0].url)
    assert len(upstream.requests()) == 1


async def test_an_origin_that_goes_on_failing_is_left_alone_and_tried_again(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    clock = [datetime(2026, 11, 21, 12, tzinfo=UTC)]
    upstream.fault("/simple/*", status=500)
    async with client(upstream.index_url, now=lambda: clock[0]) as pypi:
        for number in range(5):
            with pytest.raises(UpstreamFaulty):
                await pypi.page(Name(f"gadget-{number}"))
        upstream.clear_faults()
        with pytest.raises(UpstreamBusy) as caught:
            await pypi.page(WIDGETS)
        assert caught.value.retry_after == 1
        assert upstream.asked_for("widgets") == []
        clock[0] += timedelta(seconds=1)
        assert isinstance(await pypi.page(WIDGETS), Found)
        assert isinstance(await pypi.page(WIDGETS), Found)


async def test_the_files_of_an_index_that_fails_are_had_from_their_own_host(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    async def files(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"a file")

    async with server(files) as other:
        hosts = (other.removeprefix("http://"),)
        async with client(upstream.index_url, file_hosts=hosts) as pypi:
            upstream.fault("/simple/*", status=500)
            for number in range(6):
                with pytest.raises(UpstreamError):
                    await pypi.page(Name(f"gadget-{number}"))
            assert len(upstream.requests()) == 5
            assert await read(pypi, f"{other}/widgets-1.0.tar.gz") == b"a file"


async def test_an_upstream_that_names_a_time_is_not_asked_for_any_page_before(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    clock = [datetime(2026, 11, 21, 12, tzinfo=UTC)]
    upstream.fault("/simple/gadgets/", status=429, retry_after=30)
    async with client(upstream.index_url, now=lambda: clock[0]) as pypi:
        with pytest.raises(UpstreamBusy) as caught:
            await pypi.page(Name("gadgets"))
        assert caught.value.retry_after == 30
        clock[0] += timedelta(seconds=29)
        with pytest.raises(UpstreamBusy) as caught:
            await pypi.page(WIDGETS)
        assert caught.value.retry_after == 1
        clock[0] += timedelta(seconds=1)
        assert isinstance(await pypi.page(WIDGETS), Found)
    assert len(upstream.asked_for("widgets")) == 1


@pytest.mark.parametrize("gzip", [True, False])
async def test_a_page_over_the_limit_is_refused(
    upstream: FakeUpstream, wheel: tuple[str, bytes], gzip: bool
) -> None:
    upstream.configure(gzip=gzip)
    async with client(upstream.index_url, max_page_size=600) as pypi:
        with pytest.raises(UpstreamFaulty):
            await pypi.page(WIDGETS)


async def test_a_big_page_arrives_whole(upstream: FakeUpstream, wheel: tuple[str, bytes]) -> None:
    versions = [f"0.{number}" for number in range(40_000)]
    upstream.change_project("widgets", versions=versions)
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
    assert isinstance(result, Found)
    assert set(result.value.versions) == {*versions, "1.0"}


async def test_three_redirects_are_followed_and_links_are_relative_to_the_last(
    upstream: FakeUpstream,
) -> None:
    upstream.add_project("widgets", relative_links=True)
    upstream.add_file("widgets", *make_wheel("widgets", "1.0"))
    upstream.fault(PAGE, times=3, redirect=PAGE)
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
    assert isinstance(result, Found)
    assert result.value.files[0].url.startswith(f"{upstream.url}/packages/")
    assert len(upstream.requests()) == 4


async def test_T_TOK1_credentials_go_to_the_indexs_origin_alone(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    upstream.configure(username="reader", password="s3cret")
    received: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        received.append(request.headers.get("Authorization"))
        return web.Response(body=b"moved")

    async with (
        server(elsewhere) as other,
        client(
            upstream.index_url,
            username="reader",
            password="s3cret",
            file_hosts=(other.removeprefix("http://"),),
        ) as pypi,
    ):
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        assert await read(pypi, result.value.files[0].url) == wheel[1]
        upstream.fault("/packages/*", redirect=f"{other}/moved-1.0.tar.gz")
        assert await read(pypi, result.value.files[0].url) == b"moved"
        assert await read(pypi, f"{other}/direct-1.0.tar.gz") == b"moved"
    assert received == [None, None]


async def test_without_credentials_a_closed_index_is_faulty(
    upstream: FakeUpstream, wheel: tuple[str, bytes]
) -> None:
    upstream.configure(username="reader", password="s3cret")
    async with client(upstream.index_url, username="reader", password="wrong") as pypi:
        with pytest.raises(UpstreamFaulty) as caught:
            await pypi.page(WIDGETS)
    assert "wrong" not in str(caught.value)


async def test_T_SSRF_a_file_on_another_host_is_never_asked(upstream: FakeUpstream) -> None:
    contacted: list[str] = []

    async def record(request: web.Request) -> web.StreamResponse:
        contacted.append(request.path)
        return web.Response(body=b"secret")

    async with server(record) as inner, client(upstream.index_url) as pypi:
        with pytest.raises(UpstreamFaulty):
            await read(pypi, f"{inner}/widgets-1.0.tar.gz")
        upstream.fault("/packages/*", redirect=f"{inner}/widgets-1.0.tar.gz")
        with pytest.raises(UpstreamFaulty):
            await read(pypi, f"{upstream.url}/packages/widgets-1.0.tar.gz")
    assert contacted == []


@pytest.mark.parametrize("private_network", [False, True])
async def test_T_SSRF_a_name_that_resolves_to_loopback_needs_leave(
    upstream: FakeUpstream, wheel: tuple[str, bytes], private_network: bool
) -> None:
    index_url = upstream.index_url.replace("127.0.0.1", "localhost")
    async with client(index_url, private_network=private_network) as pypi:
        if private_network:
            assert isinstance(await pypi.page(WIDGETS), Found)
        else:
            with pytest.raises(UpstreamFaulty, match="private network"):
                await pypi.page(WIDGETS)
            assert upstream.requests() == []


async def test_an_outbound_proxy_gets_the_request(upstream: FakeUpstream) -> None:
    asked: list[str] = []

    async def proxy(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        return web.Response(text="404 Not Found", status=404)

    async with server(proxy) as address:
        index_url = "http://index.example.org/simple/"
        async with client(index_url, proxy=address.replace("127.0.0.1", "localhost")) as pypi:
            assert await pypi.page(WIDGETS) == NoSuchProject()
            with pytest.raises(UpstreamFaulty):
                await read(pypi, "http://other.example.org/x-1.0.tar.gz")
    assert asked == ["http://index.example.org/simple/widgets/"]


async def test_T_REPLAY_only_certificates_of_trusted_authorities_are_taken(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    async def unknown(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async with server(unknown, tls) as origin:
        async with client(f"{origin}/simple/") as pypi:
            with pytest.raises(UpstreamUnreachable, match="TLS"):
                await pypi.page(WIDGETS)
        async with client(f"{origin}/simple/", ca_file=str(ca_file)) as pypi:
            assert await pypi.page(WIDGETS) == NoSuchProject()
        async with client(f"{origin}/simple/", ca_file=str(tmp_path / "missing")) as pypi:
            with pytest.raises(UpstreamFaulty, match="ca_file"):
                await pypi.page(WIDGETS)


async def test_https_does_not_redirect_to_http(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    async def never(request: web.Request) -> web.StreamResponse:
        raise AssertionError("asked over http")

    async with server(never) as plain:

        async def downgrade(request: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{plain}/simple/widgets/"})

        async with server(downgrade, tls) as origin:
            hosts = (plain.removeprefix("http://"),)
            async with client(f"{origin}/simple/", ca_file=str(ca_file), file_hosts=hosts) as pypi:
                with pytest.raises(UpstreamFaulty, match="away from https"):
                    await pypi.page(WIDGETS)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 404}, UpstreamFaulty),
        ({"status": 403}, UpstreamFaulty),
        ({"status": 500}, UpstreamFaulty),
        ({"status": 503}, UpstreamBusy),
        ({"headers": {"Content-Encoding": "gzip"}}, UpstreamFaulty),
        ({"truncate": 1000}, UpstreamUnreachable),
        ({"truncate": 1000, "hang": True}, UpstreamTimeout),
        ({"hang": True}, UpstreamTimeout),
        ({"drop": True}, UpstreamUnreachable),
    ],
)
async def test_trouble_with_files(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any], expected: type[UpstreamError]
) -> None:
    async with client(upstream.index_url, read_timeout=timedelta(seconds=0.3)) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        upstream.fault("/packages/*", **fault)
        with pytest.raises(UpstreamError) as caught:
            await read(pypi, result.value.files[0].url)
    assert type(caught.value) is expected


async def test_a_file_can_be_continued(upstream: FakeUpstream, wheel: tuple[str, bytes]) -> None:
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        url = result.value.files[0].url
        async with pypi.file(url, start=1000) as stream:
            assert (stream.start, stream.size) == (1000, len(wheel[1]))
            assert b"".join([chunk async for chunk in stream.chunks()]) == wheel[1][1000:]
        upstream.fault("/packages/*", ignore_range=True)
        async with pypi.file(url, start=1000) as stream:
            assert (stream.start, stream.size) == (0, len(wheel[1]))


async def test_a_part_of_a_file_can_be_asked_for(upstream: FakeUpstream, wheel: tuple[str, bytes]) -> None:
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        url = result.value.files[0].url
        for first, last in ((0, 3), (1000, 1999), (len(wheel[1]) - 10, len(wheel[1]) + 10)):
            async with pypi.file(url, start=first, end=last) as stream:
                assert (stream.start, stream.size, stream.is_part) == (first, len(wheel[1]), True)
                assert b"".join([chunk async for chunk in stream.chunks()]) == wheel[1][first : last + 1]
        async with pypi.file(url, start=1000, end=1999, etag='"of another file"') as stream:
            assert (stream.start, stream.size, stream.is_part) == (0, len(wheel[1]), False)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 416}, RangesRefused),
        ({"status": 501}, RangesRefused),
        ({"headers": {"Content-Range": "bytes 0-3/*"}}, RangesRefused),
        ({"headers": {"Content-Range": "bytes 0-4/400"}}, UpstreamFaulty),
        ({"headers": {"Content-Range": "bytes 1-3/400"}}, UpstreamFaulty),
        ({"headers": {"Content-Range": None}}, UpstreamFaulty),
        ({"status": 404}, UpstreamFaulty),
        ({"status": 503}, UpstreamBusy),
    ],
)
async def test_a_part_that_is_not_given(
    upstream: FakeUpstream, wheel: tuple[str, bytes], fault: dict[str, Any], expected: type[UpstreamError]
) -> None:
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        upstream.fault("/packages/*", **fault)
        with pytest.raises(UpstreamError) as caught:
            await read(pypi, result.value.files[0].url, end=3)
    assert type(caught.value) is expected


async def test_files_leave_connections_for_pages(upstream: FakeUpstream, wheel: tuple[str, bytes]) -> None:
    async with client(upstream.index_url, max_connections=5) as pypi:
        result = await pypi.page(WIDGETS)
        assert isinstance(result, Found)
        upstream.fault("/packages/*", hang=True)
        transfers = [asyncio.create_task(read(pypi, result.value.files[0].url)) for _ in range(8)]
        await asyncio.to_thread(upstream.await_requests, "/packages/", 4)
        async with asyncio.timeout(3):
            assert isinstance(await pypi.page(WIDGETS), Found)
        for transfer in transfers:
            transfer.cancel()
        await asyncio.gather(*transfers, return_exceptions=True)
    assert sum("/packages/" in request.path for request in upstream.requests()) == 4


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("max-age=60", timedelta(seconds=60)),
        ("public, MAX-AGE=60, s-maxage=30", timedelta(seconds=30)),
        ('max-age="60"', timedelta(seconds=60)),
        ("no-cache", timedelta(0)),
        ("private, no-store, max-age=60", timedelta(0)),
        ("max-age=-5", None),
        ("max-age=soon", None),
        (None, None),
    ],
)
async def test_cache_control_says_how_long_a_page_may_be_kept(
    upstream: FakeUpstream, wheel: tuple[str, bytes], header: str | None, expected: timedelta | None
) -> None:
    upstream.fault(PAGE, headers={"Cache-Control": header})
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
    assert isinstance(result, Found)
    assert result.max_age == expected


async def test_age_shortens_max_age(upstream: FakeUpstream, wheel: tuple[str, bytes]) -> None:
    upstream.fault(PAGE, headers={"Age": "590"})
    async with client(upstream.index_url) as pypi:
        result = await pypi.page(WIDGETS)
    assert isinstance(result, Found)
    assert result.max_age == timedelta(seconds=10)
