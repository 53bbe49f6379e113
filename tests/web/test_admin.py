"""The administration API as a whole: what it has is told to those who may ask the server anything at all."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from proxy.config.compile import compile_snapshot
from proxy.config.load import load
from proxy.index.instance import Running
from proxy.observe.logs import make_logger
from proxy.server.assembly import close_instance, open_instance
from proxy.web.app import build
from tests.web.house import House


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[TestClient[Any, Any]]:
    """Give the application of an instance whose root is private."""
    file = tmp_path / "pypi-overlay.yaml"
    file.write_text(f"visibility: private\nstorage: {{data_dir: {tmp_path}/data}}\n")
    instance = open_instance(compile_snapshot(load(str(file), {})), serving=True)
    client: TestClient[Any, Any] = TestClient(
        TestServer(build(Running(instance), make_logger("text", "info", io.StringIO())))
    )
    await client.start_server()
    yield client
    await client.close()
    await close_instance(instance)


ADDRESSES = pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v1/packages/", 404),
        ("DELETE", "/api/v1/packages//x", 404),
        ("DELETE", "/api/v1/packages", 405),
        ("POST", "/api/v1/packages/acme%2Fwidgets/x", 405),
    ],
)


@ADDRESSES
def test_what_is_no_route_is_told_as_json(house: House, method: str, target: str, status: int) -> None:
    answer = house.wire.send(method, target)
    assert (answer.status, answer["Content-Type"]) == (status, "application/json")
    if status == 405:
        assert answer["Allow"] == answer.json["message"].removeprefix("this address takes ")


@ADDRESSES
async def test_a_private_instance_tells_anonymous_callers_nothing_of_its_routes(
    closed: TestClient[Any, Any], method: str, target: str, status: int
) -> None:
    del status
    async with closed.request(method, target) as answer:
        assert (answer.status, answer.content_type) == (401, "application/json")
        assert "Allow" not in answer.headers


def test_a_namespace_of_ten_thousand_segments_holds_nobody_up(house: House) -> None:
    query = "a/" * 3500
    body = json.dumps({"kind": "deploy", "namespace": "a/" * 20_000, "scopes": ["read_package_registry"]})
    began = time.monotonic()

    answers = [
        house.wire.get(f"/api/v1/explain?name=x&index={query}"),
        house.wire.get(f"/api/v1/packages?namespace={query}"),
        house.wire.send("POST", "/api/v1/tokens", token=house.owner, body=body.encode()),
    ]

    assert [answer.status for answer in answers] == [404, 404, 404]
    assert time.monotonic() - began < 2
