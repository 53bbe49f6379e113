"""What the audit says of upstreams that replace files under their names."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import select

from proxy.storage.tables import audit
from tests.index.conftest import House, OpenHouse
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_wheel

FILENAME, FIRST = make_wheel("widgets", "1.0")
SECOND = make_wheel("widgets", "1.0", modules={"new.py": "x = 1"})[1]


def recorded(house: House) -> list[tuple[str, str, str]]:
    """Kind and name of who did it, and the digest that came of it, of each event; the rest is always the same."""
    query = select(audit).where(audit.c.action == "changed").order_by(audit.c.id)
    rows = house.instance.registry.read_now(lambda connection: connection.execute(query).all())
    for row in rows:
        assert (row.name, row.version, row.filename) == ("widgets", "1.0", FILENAME)
        assert (row.namespace, row.who_id, row.address, row.request_id) == (None, None, None, None)
        assert isinstance(row.at, datetime)
        assert set(row.detail) == {"upstream", "before", "after"}
        assert row.detail["upstream"] == row.who_user
    return [(row.who_kind, row.who_user, row.detail["after"]) for row in rows]


async def test_T_CONF6_a_file_that_its_upstream_replaced_is_recorded_once(
    open_house: OpenHouse, upstream: FakeUpstream
) -> None:
    cache = {"fresh_for": "0s", "stale_while_revalidate": "0s"}
    house = open_house({**base_config(upstream), "cache": cache})
    first, second = (hashlib.sha256(content).hexdigest() for content in (FIRST, SECOND))
    for content in (FIRST, SECOND, SECOND, FIRST, SECOND):
        upstream.add_file("widgets", FILENAME, content)
        house.clock.advance(seconds=1)
        digest = hashlib.sha256(content).hexdigest()
        screened = await (await house.page("", "widgets")).screened()
        assert screened.page.files[0].sha256 == digest
        assert (await house.file("", digest, FILENAME)).source is not None
    # There, and back again; what happens once more is known.
    assert recorded(house) == [("upstream", "pypi", second), ("upstream", "pypi", first)]
