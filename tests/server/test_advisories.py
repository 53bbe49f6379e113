"""A server with a database of advisories: before it is read, from then on, and after a restart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.server.conftest import await_log
from tests.support.forked import ForkedServer
from tests.support.osv import osv_entry, osv_zip
from tests.support.server import base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_wheel
from tests.web.wire import Wire

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def test_nothing_that_may_be_vulnerable_is_served_before_the_advisories_are_read(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    files = {version: make_wheel("cogs", version) for version in ("1.0", "1.1")}
    for filename, content in files.values():
        upstream.add_file("cogs", filename, content)
    osv_zip(
        tmp_path / "osv" / "all.zip", [osv_entry("GHSA-1", "Cogs", {"introduced": "0"}, {"fixed": "1.1"})]
    )

    def config(directory: str) -> dict[str, Any]:
        known = {"osv_dir": str(tmp_path / directory)}
        return base_config(upstream) | {"policy": {"vulnerable": "deny"}, "advisories": known}

    with ForkedServer(config("none"), tmp_path) as server:
        wire = Wire(server.url)
        refused = wire.get("/simple/cogs/")
        assert (refused.status, "advisories have not been read yet" in refused.text) == (503, True)
        await_log(server, "none: it cannot be read (No such file or directory)")
        server.configure(config("osv"))
        server.reload()
        wait_until(lambda: wire.get("/simple/cogs/", headers=JSON).status == 200, what="the advisories")
        for _ in range(2):
            page = wire.get("/simple/cogs/", headers=JSON).json
            assert [bool(file.get("yanked")) for file in page["files"]] == [True, False]
            (withheld,) = page["_withheld"]
            assert withheld["rule"] == "vulnerable GHSA-1"
            assert "\npypi_overlay_advisories_age_seconds " in wire.get("/metrics").text
            assert withheld["reason"].endswith("; fixed in 1.1; the instance withholds vulnerable versions")
            for version, status in (("1.0", 403), ("1.1", 200)):
                filename, content = files[version]
                digest = hashlib.sha256(content).hexdigest()
                for address in (filename, f"{filename}.metadata"):
                    assert wire.get(f"/files/{digest}/{address}").status == status
            server.restart()
            wire = Wire(server.url)
