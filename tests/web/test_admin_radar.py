"""The confusion radar over the administration API and in the metrics (contract 12)."""

from __future__ import annotations

from tests.web.house import House

CONFUSION = "/api/v1/audit/confusion"


def test_what_was_found_is_told_to_owners_of_the_instance_and_counted(house: House) -> None:
    for name in ("acme-radar-one", "acme-radar-two"):
        house.upstream.add_project(name)
    listed = house.server.json("audit", "confusion")["items"]
    asked = f"{CONFUSION}?name=acme-Radar.two"
    (found,) = house.wire.send("GET", asked, token=house.owner).json["items"]
    assert found in listed
    assert found | {"first_seen": "…"} == {
        "name": "acme-radar-two",
        "tenant": "acme",
        "claim": "acme-*",
        "kind": "reserve",
        "upstream": "pypi",
        "match": "same",
        "first_seen": "…",
    }
    pages = [
        house.wire.send("GET", f"{CONFUSION}?per_page=1&page={page}", token=house.owner) for page in (1, 2)
    ]
    assert [page.json["items"] for page in pages] == [[item] for item in listed[:2]]
    assert pages[0].json["next"] == 2
    statuses = [
        house.wire.send("GET", CONFUSION, token=token).status for token in (None, house.tokens["alice"])
    ]
    assert statuses == [401, 403]
    assert house.wire.send("GET", f"{CONFUSION}?name=%20", token=house.owner).status == 400
    counts = [
        len(
            house.wire.send("GET", f"{CONFUSION}?per_page=100&since={since}", token=house.owner).json["items"]
        )
        for since in ("1d", "2100-01-01")
    ]
    assert counts == [len(listed), 0]

    told = house.wire.get("/metrics").text.splitlines()
    same = sum(item["kind"] == "reserve" and item["match"] == "same" for item in listed)
    assert f'pypi_overlay_confusions{{kind="reserve",match="same"}} {same}.0' in told
    assert any(line.startswith('pypi_overlay_names_list_names{upstream="pypi"} ') for line in told)
    assert house.upstream.asked_for("acme-radar-one") == []
