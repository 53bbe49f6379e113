"""The cache over the administration API: counted, purged, verified, warmed (contract 12)."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.index.jobs import KEPT_FOR
from tests.support.waiting import wait_until
from tests.web.house import House, Stored, keep_house
from tests.web.wire import JSON, Answer

CACHE = "/api/v1/cache"
JOBS = "/api/v1/jobs"


def post(house: House, what: str, body: Any, by: str | None = "owner") -> Answer:
    token = house.owner if by == "owner" else by and house.tokens[by]
    return house.wire.send("POST", f"{CACHE}/{what}", token=token, body=json.dumps(body).encode())


def job(house: House, what: str, body: Any) -> dict[str, Any]:
    """Have a job done, and return what became of it."""
    begun = post(house, what, body)
    assert begun.status == 202, begun
    (only,) = begun.json.values()

    def ended() -> dict[str, Any] | None:
        answer = house.wire.send("GET", f"{JOBS}/{begun.json['id']}", token=house.owner)
        assert answer.status == 200, answer
        said: dict[str, Any] = answer.json
        return said if said["state"] in {"done", "failed"} else None

    found = wait_until(ended, what="the job to end")
    assert found is not None
    assert (set(found), found["id"]) == ({"id", "state", "done", "total", "errors"}, only)
    return found


def get(house: House, stored: Stored) -> None:
    """Ask for a page and its file, until both are answered from memory where anything is, and lie on disk."""
    for _ in range(3):
        assert house.wire.get(f"/simple/{stored.name}/", headers={"Accept": JSON}).status == 200
        answer = house.wire.get(f"/files/{stored.sha256}/{stored.filename}")
        assert (answer.status, answer.body) == (200, stored.content)
    # A file is put into place behind the last byte of its first download.
    wait_until(path_of(house, stored).exists, what="the file to lie in the cache")


def path_of(house: House, stored: Stored) -> Path:
    return house.server.data_dir / "cache" / "files" / stored.sha256[:2] / stored.sha256


def asked(house: House, stored: Stored) -> list[str]:
    """The last segments of what the upstream was asked for, of one name, since the last look."""
    paths = [request.path for request in house.upstream.asked_for(stored.name)]
    house.upstream.reset_requests()
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


def test_the_cache_is_counted_as_the_command_counts_it(house: House) -> None:
    job(house, "warm", {"names": [house.offer().name]})
    answer = house.wire.send("GET", CACHE, token=house.owner)
    assert (answer.status, answer["Cache-Control"]) == (200, "no-store")
    said = answer.json
    assert list(said) == ["files", "bytes", "max_bytes", "pages", "negative", "oldest_use", "damaged"]
    assert said["files"] >= 1
    assert said["max_bytes"] == 50 << 30


@pytest.mark.parametrize("by", ["over HTTP", "by command"])
def test_what_is_purged_is_asked_for_again_at_the_very_next_request(house: House, by: str) -> None:
    stored, other = house.offer(), house.offer()
    for each in (stored, other):
        get(house, each)
    house.upstream.reset_requests()
    get(house, stored)
    assert asked(house, stored) == []

    if by == "over HTTP":
        assert job(house, "purge", {"names": [stored.name.upper()]})["state"] == "done"
    else:
        assert house.server.json("cache", "purge", stored.name, "--yes")["pages"] == 1

    get(house, stored)
    assert asked(house, stored) == [stored.name, stored.filename]
    get(house, other)
    assert asked(house, other) == []


def test_a_warmed_name_needs_its_upstream_no_more(house: House) -> None:
    stored, spare = house.offer(), house.offer()
    text = f"-r other.txt\n{stored.name}==1.0 \\\n  --hash=sha256:{stored.sha256}\n"
    done = job(house, "warm", {"names": [f"{spare.name}>=1"], "requirements": text})
    assert (done["state"], done["done"], done["total"], done["errors"]) == ("done", 4, 4, [])
    house.upstream.reset_requests()
    for each in (stored, spare):
        get(house, each)
    assert house.wire.get(f"/files/{stored.sha256}/{stored.filename}.metadata").status == 200
    assert asked(house, stored) == []


def test_only_what_the_index_serves_is_warmed(house: House) -> None:
    claimed, denied, free = house.offer("acme-rocket"), house.offer("evil-twin"), house.offer()
    lock = "version = 1\n" + "".join(
        f'[[package]]\nname = "{each.name}"\nversion = "1.0"\nsource = {{registry = "http://169.254.0.1/"}}\n'
        f'wheels = [{{url = "http://169.254.0.1/{each.filename}", hash = "sha256:{each.sha256}"}}]\n'
        for each in (claimed, denied, free)
    )
    house.upstream.reset_requests()
    assert job(house, "warm", {"index": "open", "lock": lock})["state"] == "done"
    assert (asked(house, free) != [], house.upstream.asked_for("acme-rocket")) == (True, [])
    assert job(house, "warm", {"index": "vault/safe", "names": [free.name]})["state"] == "done"
    assert house.upstream.requests() == []


def test_a_job_fails_where_the_command_would(house: House) -> None:
    failed = job(house, "warm", {"names": ["unheardof"]})
    assert (failed["state"], failed["done"], len(failed["errors"])) == ("failed", 1, 1)
    assert failed["errors"][0].startswith("unheardof: ")


def test_damaged_files_are_told_and_repaired(house: House) -> None:
    stored = house.offer()
    get(house, stored)
    path = path_of(house, stored)
    path.write_bytes(bytes(len(stored.content)))
    assert job(house, "verify", {})["errors"] == [f"the cached file {stored.sha256} is damaged"]
    assert house.wire.send("GET", CACHE, token=house.owner).json["damaged"] == 1
    repaired = job(house, "verify", {"repair": True})
    assert (repaired["state"], repaired["errors"]) == ("done", [])
    assert repaired["done"] == repaired["total"] > 0
    assert not path.exists()


def test_what_was_repaired_is_given_by_heart_no_more(house: House) -> None:
    """The wrong bytes were read often enough to stay in memory."""
    stored = house.offer()
    get(house, stored)
    connection = http.client.HTTPConnection(house.server.url.partition("://")[2], timeout=30)

    def read() -> bytes:
        connection.request("GET", f"/files/{stored.sha256}/{stored.filename}")
        return connection.getresponse().read()

    with contextlib.closing(connection):
        path_of(house, stored).write_bytes(bytes(len(stored.content)))
        assert {read() for _ in range(5)} == {bytes(len(stored.content))}
        path_of(house, stored).unlink()
        assert read() == bytes(len(stored.content)), "it does not lie in memory"
        path_of(house, stored).write_bytes(bytes(len(stored.content)))
        assert job(house, "verify", {"repair": True})["errors"] == []
        assert read() == stored.content


@pytest.mark.parametrize(("by", "status"), [(None, 401), ("rita", 403), ("alice", 403)])
def test_the_cache_is_a_matter_of_owners(house: House, by: str | None, status: int) -> None:
    token = by and house.tokens[by]
    for target in (CACHE, f"{JOBS}/{'0' * 16}", f"{JOBS}/x"):
        assert house.wire.send("GET", target, token=token).status == status
    for what, body in (
        ("purge", {"all": True}),
        ("verify", {}),
        ("warm", {"names": ["x"]}),
        ("warm", {"no": 1}),
    ):
        assert post(house, what, body, by).status == status


@pytest.mark.parametrize(
    ("what", "body", "said"),
    [
        ("purge", {}, "either names or all"),
        ("purge", {"names": ["x"], "all": True}, "either names or all"),
        ("purge", {"names": ["../x"]}, "not a valid project name"),
        ("purge", {"name": "x"}, "unknown field"),
        ("verify", {"repair": "yes"}, "Expected `bool`"),
        ("warm", {}, "nothing is asked for"),
        ("warm", {"names": ["x @ http://169.254.0.1/x.whl"]}, "comes from an address of its own"),
        ("warm", {"requirements": "fine\nnot fine\n"}, "requirements:2 is no requirement"),
        ("warm", {"lock": "a = 1"}, "no lock file known here"),
        ("warm", {"lock": "["}, "not valid TOML"),
    ],
)
def test_a_body_that_is_not_in_order_begins_nothing(
    house: House, what: str, body: dict[str, Any], said: str
) -> None:
    answer = post(house, what, body)
    assert (answer.status, said in answer.json["message"]) == (400, True), answer


def test_other_refusals(house: House) -> None:
    assert post(house, "warm", {"index": "nowhere", "names": ["x"]}).status == 404
    assert post(house, "warm", {"requirements": "# " + "x" * (9 << 20)}).status == 413
    unknown = house.wire.send("GET", f"{JOBS}/{'0' * 16}", token=house.owner)
    assert (unknown.status, "kept for a day" in unknown.json["message"]) == (404, KEPT_FOR.days == 1)
    wrong = house.wire.send("GET", f"{CACHE}/purge", token=house.owner)
    assert (wrong.status, wrong["Allow"]) == (405, "POST")


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Give a server of two workers; a new connection goes to either of them."""
    yield from keep_house(tmp_path_factory.mktemp("crew"), server={"workers": 2})


def test_every_worker_tells_of_a_job_and_forgets_what_one_purged(crew: House) -> None:
    stored = crew.offer()
    for _ in range(10):
        get(crew, stored)
    assert asked(crew, stored) == [stored.name, stored.filename]
    for _ in range(5):
        # Asks for the job's state over a new connection each time.
        assert job(crew, "purge", {"names": [stored.name]})["errors"] == []
        get(crew, stored)
        assert asked(crew, stored) == [stored.name, stored.filename]
    begun = post(crew, "verify", {}).json["id"]
    seen = {crew.wire.send("GET", f"{JOBS}/{begun}", token=crew.owner).status for _ in range(30)}
    assert seen == {200}
