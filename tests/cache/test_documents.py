"""What upstreams' JSON APIs say, kept as pages are: how often they are asked, and what is shown when they fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.names import Name
from proxy.errors import UpstreamError, UpstreamFaulty
from tests.cache.conftest import Rig
from tests.support.wheels import make_wheel

WIDGETS = Name("widgets")
PROJECT = "/pypi/widgets/json"
RELEASE = "/pypi/widgets/1.0/json"


@pytest.fixture(autouse=True)
def published(rig_parts: Rig, rig: Rig) -> None:
    rig.upstream.add_file("widgets", *make_wheel("widgets", "1.0"))


async def status(rig: Rig, version: str | None = None) -> str | None:
    cached = await rig.documents.get("pypi", WIDGETS, version)
    return None if cached is None else cached.status


def hostile(rig: Rig, document: object) -> None:
    """Let the upstream answer with this in place of the project's document."""
    rig.upstream.fault(
        PROJECT, status=200, body=json.dumps(document), headers={"Content-Type": "application/json"}
    )


async def test_a_fresh_document_is_asked_for_once_also_over_a_restart(rig: Rig) -> None:
    assert await status(rig) == "fwd=uri-miss; stored"
    assert await status(rig, "1.0") == "fwd=uri-miss; stored"
    await rig.reopen()
    rig.clock.advance(minutes=9)
    assert await status(rig) == "hit"
    assert await status(rig, "1.0") == "hit"
    assert (rig.asked(PROJECT), rig.asked(RELEASE)) == (1, 1)


async def test_fifty_callers_cause_one_request(rig: Rig) -> None:
    rig.upstream.fault(PROJECT, delay=0.1)
    await asyncio.gather(*(rig.documents.get("pypi", WIDGETS) for _ in range(50)))
    assert rig.asked(PROJECT) == 1


async def test_an_older_document_is_revalidated_by_its_validator(rig: Rig) -> None:
    await status(rig)
    rig.clock.advance(hours=1)
    assert await status(rig) == "fwd=stale; fwd-status=304; stored"
    assert rig.upstream.requests()[-1].header("If-None-Match") is not None


@pytest.mark.parametrize("fault", [{"status": 500}, {"html_error": True}, {"drop": True}])
async def test_while_the_upstream_fails_the_old_document_is_shown(rig: Rig, fault: dict[str, Any]) -> None:
    await status(rig)
    rig.upstream.fault(PROJECT, **fault)
    rig.clock.advance(days=29)
    assert await status(rig) == "fwd=stale; detail=stale-if-error"
    rig.clock.advance(days=2)
    with pytest.raises(UpstreamError):
        await status(rig)


async def test_absence_is_believed_for_a_short_time(rig: Rig) -> None:
    assert await status(rig, "2.0") is None
    rig.clock.advance(seconds=59)
    assert await status(rig, "2.0") is None
    assert rig.asked("/pypi/widgets/2.0/json") == 1
    rig.upstream.add_file("widgets", *make_wheel("widgets", "2.0"))
    rig.clock.advance(seconds=2)
    assert await status(rig, "2.0") == "fwd=uri-miss; stored"


async def test_an_absent_document_is_no_absent_project(rig: Rig) -> None:
    rig.upstream.change_project("widgets", json_api=False)
    assert await status(rig) is None
    assert rig.pages.count() == (0, 0)
    assert await rig.pages.get("pypi", WIDGETS) is not None


async def test_an_upstream_without_a_json_api_is_never_asked_for_documents(rig: Rig) -> None:
    rig.options["json_url"] = None
    await rig.reopen()
    assert await status(rig) is None
    assert rig.upstream.requests() == []


async def test_a_document_of_another_json_api_is_a_miss(rig: Rig) -> None:
    await status(rig)
    rig.options["json_url"] = f"{rig.upstream.url}/elsewhere/"
    await rig.reopen()
    assert await status(rig) is None
    assert rig.asked("/elsewhere/widgets/json") == 1


async def test_an_absence_at_another_json_api_is_none_here(rig: Rig) -> None:
    rig.options["json_url"] = f"{rig.upstream.url}/elsewhere/"
    await rig.reopen()
    assert await status(rig) is None
    del rig.options["json_url"]
    await rig.reopen()
    assert await status(rig) == "fwd=uri-miss; stored"


@pytest.mark.parametrize(
    "document",
    [
        {"info": {"name": "gadgets", "version": "1.0"}},
        {"info": None},
        {},
        [],
        {"info": {"name": ["widgets"], "version": None}},
    ],
    ids=str,
)
async def test_T_POIS3_a_hostile_document_is_not_kept(rig: Rig, document: object) -> None:
    hostile(rig, document)
    with pytest.raises(UpstreamFaulty):
        await status(rig)
    assert list(Path(rig.layout.cached_documents).rglob("*/*")) == []
    rig.upstream.clear_faults()
    rig.clock.advance(seconds=2)
    assert await status(rig) == "fwd=uri-miss; stored"


async def test_T_BOMB_a_huge_document_is_refused(rig: Rig) -> None:
    rig.upstream.fault(PROJECT, gzip_bomb=20 << 20)
    with pytest.raises(UpstreamFaulty, match="the document of widgets"):
        await status(rig)


async def test_a_damaged_file_is_a_miss(rig: Rig) -> None:
    await status(rig)
    path = Path(rig.layout.cached_document("pypi", WIDGETS, None))
    path.write_bytes(path.read_bytes()[:-1])
    assert await status(rig) == "fwd=uri-miss; stored"


async def test_a_document_in_another_ones_place_is_a_miss(rig: Rig) -> None:
    await status(rig)
    await status(rig, "1.0")
    project, release = (Path(rig.layout.cached_document("pypi", WIDGETS, part)) for part in (None, "1.0"))
    release.write_bytes(project.read_bytes())
    assert await status(rig, "1.0") == "fwd=uri-miss; stored"


async def test_a_purge_forgets_documents_of_the_name_or_all(rig: Rig) -> None:
    gadgets = Name("gadgets")
    rig.upstream.add_file("gadgets", *make_wheel("gadgets", "1.0"))
    for name in (WIDGETS, gadgets):
        await rig.documents.get("pypi", name)
        await rig.documents.get("pypi", name, "1.0")
    rig.documents.purge(WIDGETS)
    assert await status(rig) == "fwd=uri-miss; stored"
    assert await status(rig, "1.0") == "fwd=uri-miss; stored"
    kept = await rig.documents.get("pypi", gadgets)
    assert kept is not None
    assert kept.status == "hit"
    rig.documents.purge(None)
    assert await status(rig) == "fwd=uri-miss; stored"
