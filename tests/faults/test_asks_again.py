"""After every wait everything is decided anew: what was published meanwhile counts (contract 4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.conftest import TOKEN, Background, address, published
from tests.support.server import OverlayServer
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.wire import JSON, Answer, Wire

numbers = itertools.count(1)


@dataclass
class Case:
    """A name that the upstream has in version 99.0 and nobody here has yet."""

    server: OverlayServer
    upstream: FakeUpstream
    name: str
    filename: str
    content: bytes

    def publish(self) -> None:
        """Where nothing is forwarded: there nobody has to wait until an upstream says whether it has the name."""
        published(self.server, *make_wheel(self.name, "1.0"), project="acme/closed/gears")

    def publish_and_delete(self) -> None:
        self.publish()
        target = f"/api/v1/packages/acme%2Fclosed%2Fgears/{self.name}"
        done = Wire(self.server.url).send("DELETE", target, token=TOKEN)
        assert done.status == 204, done

    def let_go(self) -> None:
        """End the wait for what the upstream holds."""
        self.upstream.clear_faults()

    def upstream_file(self, index: str) -> str:
        return address(self.filename, self.content, index)

    def get(self, target: str, method: str = "GET") -> Answer:
        return Wire(self.server.url).send(method, target, headers={"Accept": JSON})


@pytest.fixture
def case(shared: OverlayServer, upstream_of_module: FakeUpstream) -> Case:
    name = f"gears{next(numbers)}"
    filename, content = make_wheel(name, "99.0", size=300_000)
    upstream_of_module.add_file(name, filename, content)
    return Case(shared, upstream_of_module, name, filename, content)


def page(case: Case, index: str) -> str:
    return f"{index}/simple/{case.name}/"


def file(case: Case, index: str) -> str:
    return case.upstream_file(index)


def metadata(case: Case, index: str) -> str:
    return case.upstream_file(index) + ".metadata"


ROUTES = [page, file, metadata]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_a_publication_during_the_wait_for_the_page_counts(
    case: Case, background: Background, route: Callable[[Case, str], str], method: str
) -> None:
    case.upstream.fault(f"/simple/{case.name}/", hold=True)
    asking = {
        index: background.call(case.get, route(case, index), method)
        for index in ("", "/acme", "/acme/sandbox")
    }
    case.upstream.await_requests(f"/simple/{case.name}/")
    case.publish()
    case.let_go()
    answers = {index: future.result() for index, future in asking.items()}
    for index in ("", "/acme"):
        answer = answers[index]
        assert answer["X-Overlay-Decision"] == "private"
        assert answer.status == (200 if route is page else 404)
        if route is page and method == "GET":
            assert [found["filename"] for found in answer.json["files"]] == [make_wheel(case.name, "1.0")[0]]
    refused = answers["/acme/sandbox"]
    assert (refused["X-Overlay-Decision"] or "").startswith("claimed")
    assert refused.status == (451 if route is page else 403)
    assert all(case.content not in answer.body for answer in answers.values())
    assert not [asked for asked in case.upstream.requests() if "/packages/" in asked.path]


def test_a_tombstone_that_came_during_the_wait_counts(case: Case, background: Background) -> None:
    case.upstream.fault(f"/simple/{case.name}/", hold=True)
    asking = {route: background.call(case.get, route(case, "/acme")) for route in ROUTES}
    case.upstream.await_requests(f"/simple/{case.name}/")
    case.publish_and_delete()
    assert not any(future.done() for future in asking.values())
    case.let_go()
    for route, future in asking.items():
        answer = future.result()
        assert (answer["X-Overlay-Decision"] or "").startswith('claimed;rule="tombstone')
        assert answer.status == (451 if route is page else 403)


def test_explain_tells_what_is_so_when_it_answers(case: Case, background: Background) -> None:
    case.upstream.fault(f"/simple/{case.name}/", hold=True)
    target = f"/api/v1/explain?index=acme&name={case.name}"
    asking = background.call(case.get, target)
    case.upstream.await_requests(f"/simple/{case.name}/")
    case.publish()
    case.let_go()
    assert asking.result().json["decision"] == "private"


@pytest.mark.parametrize("route", [file, metadata], ids=lambda route: route.__name__)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_publication_before_the_first_byte_of_a_file_counts(
    case: Case, background: Background, route: Callable[[Case, str], str], method: str
) -> None:
    """The page was answered long ago; the file itself is on its way, and nothing of it has arrived."""
    assert case.get(page(case, "")).status == 200
    suffix = ".metadata" if route is metadata else ".whl"
    case.upstream.fault(f"/packages/*{suffix}", hold=True)
    case.upstream.reset_requests()
    asking = {
        index: background.call(case.get, route(case, index), method)
        for index in ("", "/acme", "/acme/sandbox")
    }
    if method == "HEAD" and route is file:
        # The page names the size: nobody has to wait, so nothing can come in between.
        assert [future.result().status for future in asking.values()] == [200, 200, 200]
        return
    case.upstream.await_requests("/packages/")
    case.publish()
    case.let_go()
    statuses = {index: future.result().status for index, future in asking.items()}
    assert statuses == {"": 404, "/acme": 404, "/acme/sandbox": 403}
    assert all(case.content not in future.result().body for future in asking.values())


def test_a_head_that_waits_for_the_size_is_decided_anew(case: Case, background: Background) -> None:
    case.upstream.change_project(case.name, size=False)
    case.upstream.fault("/packages/*.whl", hold=True)
    asking = background.call(case.get, file(case, "/acme/sandbox"), "HEAD")
    case.upstream.await_requests("/packages/")
    case.publish()
    case.let_go()
    assert asking.result().status == 403


def test_bytes_that_arrived_for_a_name_that_is_claimed_now_are_served_nowhere(
    case: Case, background: Background
) -> None:
    case.upstream.fault("/packages/*.whl", hold=True)
    asking = background.call(case.get, file(case, ""))
    case.upstream.await_requests("/packages/")
    case.publish()
    case.let_go()
    assert asking.result().status == 404
    # The transfer went on to its end, and the file lies in the cache.
    kept = case.server.data_dir / "cache" / "files"
    digest = file(case, "").split("/")[2]
    wait_until(lambda: list(kept.glob(f"*/{digest}")), what="the transfer to end")
    for index, status in (("", 404), ("/acme", 404), ("/acme/sandbox", 403)):
        assert case.get(file(case, index)).status == status
