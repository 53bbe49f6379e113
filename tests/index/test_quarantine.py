"""Quarantined private packages as an index answers them: withheld, still private, never asked upstream."""

from __future__ import annotations

from functools import partial

from proxy.domain.decision import Word
from proxy.domain.names import Name
from proxy.domain.namespaces import NamespacePath
from proxy.domain.pages import Status
from proxy.registry import packages
from tests.index.conftest import House
from tests.registry.making import wheel
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

GEARS = wheel("gears", "1.0")


def quarantine(house: House, project: str) -> None:
    mark = partial(packages.set_status, name=Name("gears"), status=Status.QUARANTINED, reason="malware")
    house.instance.registry.change_now(partial(mark, project=NamespacePath(project)))


async def test_answers_begun_before_a_quarantine_hold_no_more(house: House) -> None:
    new = house.publish("acme/widgets", GEARS)
    page = await house.page("acme", "gears")
    file = await house.file("acme", new.sha256, GEARS)
    index = house.instance.index
    assert index.holds(page)
    assert index.holds(file)
    quarantine(house, "acme/widgets")
    assert not index.holds(page)
    assert not index.holds(file)


async def test_a_quarantined_package_is_private_and_empty_though_an_upstream_has_the_name(
    house: House, upstream: FakeUpstream
) -> None:
    upstream.add_file("gears", *make_wheel("gears", "9.0"))
    new = house.publish("acme/widgets", GEARS)
    quarantine(house, "acme/widgets")
    for index in ("", "acme", "acme/widgets"):
        page = await house.page(index, "gears")
        assert (page.decision.word, (await page.screened()).page.files) == (Word.PRIVATE, ())
        file = await house.file(index, new.sha256, GEARS)
        assert (file.decision.word, file.source) == (Word.PRIVATE, None)
        assert file.withheld == (await page.screened()).withheld[0]
        unknown = await house.file(index, "0" * 64, GEARS)
        assert (unknown.source, unknown.withheld) == (None, None)
    assert upstream.asked_for("gears") == []


async def test_another_project_of_the_index_goes_on_serving_its_files(house: House) -> None:
    house.publish("acme/widgets", GEARS, content="theirs")
    own = house.publish("acme/sandbox", wheel("gears", "2.0"))
    quarantine(house, "acme/widgets")
    page = await house.page("acme", "gears")
    assert [file.filename for file in (await page.screened()).page.files] == [own.filename]
    assert (await house.file("acme", own.sha256, own.filename)).source is not None
