"""What a developer at a terminal sees of each refusal: pip, uv and poetry against a real server.

TRANSCRIPTS=DIRECTORY pytest -m "" tests/clients/test_refusals.py

writes what each client printed to a file of its own. poetry takes seconds to start: its runs are `slow`. So are most
of pip's, which takes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.domain.moments import iso
from tests.clients.matrix.installers import installer
from tests.clients.talking import Done, failed, fetch, index_url, succeeded
from tests.support.clients import Client, installed
from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel

ADVISORY = "GHSA-aaaa-bbbb-cccc"
GROUPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reserving": {"reserve": ["acme-*"]},
    "denying": {"deny": [{"match": "gears", "reason": "use cogs", "until": "2099-01-01"}]},
    "forbidding": {"deny": ["gears"], "refused": 403},
    "private-only": {"forward": False},
    "telling": {"forward": False, "not_forwarded": 451},
    "deny-2": {"deny": ["gears==2.*"]},
    "allow-1": {"allow": ["gears<2"]},
    "ageing": {"min_age": "3d"},
    "dated": {"uploaded_before": "2024-06-01"},
    "sdists": {"file_types": ["sdist"]},
    "unyanked": {"yanked": "hide"},
    "safe": {"vulnerable": "deny"},
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. Its group stands in `GROUPS`.

    Attributes:
        group: whose index is asked.
        asked: the requirement.
        says: what the reason says, as a regular expression.
        filename: the file that is refused; None: the page is.
        status: of the page, or of the file.
        is_listed: the file stands on the page, so a client can come to it by a version; else only a lock file does.
    """

    group: str
    asked: str
    says: str
    filename: str | None = None
    status: int = 403
    is_listed: bool = False

    @property
    def name(self) -> str:
        return self.asked.partition("=")[0]

    def __str__(self) -> str:
        """As tests and transcripts are called."""
        return f"{self.group}-{self.name}"


PAGES = [
    Refusal("reserving", "acme-thing", r"acme-thing is reserved by reserving \(acme-\*\)", status=451),
    Refusal("denying", "gears", r"gears is denied by denying .* until 1 Jan 2099 .*: use cogs", status=451),
    Refusal("forbidding", "gears", r"gears is denied by forbidding", status=403),
    Refusal(
        "telling", "gears", r"gears is not published here, and forwarding is off for telling", status=451
    ),
    Refusal("private-only", "gears", r"gears is not published here, and forwarding is off", status=404),
]
UNTIL = r"until \d+ [A-Z][a-z]{2} (\d{4} )?\d\d:\d\d UTC"
GEARS = "gears-2.0-py3-none-any.whl"
LISTED = [
    Refusal("deny-2", "gears==2.0", r"gears 2.0 is denied by deny-2 \(gears==2\.\*\)", GEARS, is_listed=True),
    Refusal("allow-1", "gears==2.0", "gears 2.0 is not allowed by allow-1.*gears<2", GEARS, is_listed=True),
    Refusal(
        "ageing", "gears==2.0", f"gears 2.0 is 4 hours old; ageing .* 3 days, {UNTIL}", GEARS, is_listed=True
    ),
    Refusal("safe", "gears==2.0", f"gears 2.0 .*{ADVISORY}", GEARS, is_listed=True),
]
UNLISTED = [
    Refusal("dated", "gears", "gears 2.0 was uploaded on .*; dated serves only .* before 2024-06-01", GEARS),
    Refusal("sdists", "gears", f"{GEARS} is a wheel; sdists serves only", GEARS),
    Refusal(
        "unyanked",
        "faulty",
        "unyanked hides .* faulty 1.0 was yanked upstream: broken",
        "faulty-1.0-py3-none-any.whl",
    ),
    Refusal("plain", "removed", "removed 1.0 was removed upstream on", "removed-1.0-py3-none-any.whl"),
    Refusal("plain", "caught", "caught is quarantined upstream: malware", "caught-1.0-py3-none-any.whl"),
]


@dataclass(frozen=True, slots=True)
class Site:
    """The server, and the digests of its upstream's files."""

    server: OverlayServer
    digests: dict[str, str]

    def address(self, refusal: Refusal) -> str:
        """Where what is refused lies."""
        if refusal.filename is None:
            return f"{index_url(self.server, refusal.group)}{refusal.name}/"
        digest = self.digests[refusal.filename]
        return f"{self.server.url}/{refusal.group}/files/{digest}/{refusal.filename}"

    def asked(self, refusal: Refusal) -> str:
        """What a client is given for a file: the version that is listed, else its address, as lock files have it."""
        return refusal.asked if refusal.is_listed else self.address(refusal)

    def reason(self, refusal: Refusal) -> str:
        """The sentence with which the server refuses it, seen to be the one that is meant."""
        answer = fetch(self.address(refusal))
        assert answer.status == refusal.status, answer
        assert re.search(refusal.says, answer.reason), answer.reason
        if answer.status != 404:
            assert answer.json["detail"] == answer.reason
        return answer.reason


@pytest.fixture(scope="module")
def site(public: FakeUpstream, place: Path) -> Iterator[Site]:
    """Serve an index for each rule, of an upstream that has removed and quarantined what was installed before."""
    digests = {}

    def offer(name: str, version: str, *, days_ago: float = 900, **said: Any) -> None:
        filename, content = make_wheel(name, version)
        digests[filename] = hashlib.sha256(content).hexdigest()
        said["upload_time"] = iso(datetime.now(UTC) - timedelta(days=days_ago))
        public.add_file(name, filename, content, **said)

    offer("gears", "1.0")
    # Half an hour of leeway: its age is told in whole hours.
    offer("gears", "2.0", days_ago=4.5 / 24)
    offer("faulty", "1.0", yanked="broken")
    for name in ("acme-thing", "removed", "caught"):
        offer(name, "1.0")
    public.add_file("removed", *make_sdist("removed", "0.9"))
    osv = place / "osv"
    osv.mkdir()
    affected = [{"package": {"ecosystem": "PyPI", "name": "gears"}, "versions": ["2.0"]}]
    advisory: dict[str, Any] = {"id": ADVISORY, "modified": "2024-01-01T00:00:00Z", "affected": affected}
    advisory |= {"summary": "Teeth fall out", "database_specific": {"severity": "HIGH"}}
    (osv / f"{ADVISORY}.json").write_text(json.dumps(advisory), encoding="utf-8")
    config = base_config(public) | {
        "advisories": {"osv_dir": str(osv)},
        "cache": {"fresh_for": "0s", "stale_while_revalidate": "0s"},
        "groups": {group: {"visibility": "public", "policy": policy} for group, policy in GROUPS.items()},
    }
    with ForkedServer(config, place / "server") as server:
        # Until the advisories are read, nothing is served where they count.
        safe = f"{index_url(server, 'safe')}gears/"
        wait_until(lambda: fetch(safe).status == 200, what="the advisories")
        for name in ("removed", "caught"):
            file = f"{name}-1.0-py3-none-any.whl"
            assert fetch(f"{server.url}/plain/files/{digests[file]}/{file}").status == 200
        public.remove_file("removed", "removed-1.0-py3-none-any.whl")
        public.change_project("caught", status="quarantined", status_reason="malware")
        yield Site(server, digests)


def transcribe(refusal: Refusal, client: str, done: Done) -> Done:
    """Keep what a client printed, where somebody wants to read it."""
    directory = os.environ.get("TRANSCRIPTS")
    if directory:
        place = Path(directory)
        place.mkdir(parents=True, exist_ok=True)
        text = f"$ {shlex.join(done.args)}\n{done.stdout}{done.stderr}"
        (place / f"{refusal}-{client}.txt").write_text(text, encoding="utf-8")
    return done


def each(*refusals: Refusal) -> pytest.MarkDecorator:
    """Parametrise a test by refusals."""
    return pytest.mark.parametrize("refusal", refusals, ids=str)


def one_of_a_kind(*refusals: Refusal) -> pytest.MarkDecorator:
    """Parametrise a test by refusals, of which the first of each status, listed or not, is tried every day."""
    seen = set()
    given = []
    for refusal in refusals:
        kind = (refusal.status, refusal.is_listed)
        given.append(pytest.param(refusal, id=str(refusal), marks=[pytest.mark.slow] if kind in seen else []))
        seen.add(kind)
    return pytest.mark.parametrize("refusal", given)


@one_of_a_kind(*PAGES)
def test_pip_tells_of_a_refused_page_where_it_is_asked_for_details(
    site: Site, wide: Client, tmp_path: Path, refusal: Refusal
) -> None:
    """It takes any failure of a page for a page without files, and goes on."""
    reason = site.reason(refusal)
    done = wide.pip_install(tmp_path, index_url(site.server, refusal.group), "-vv", refusal.asked)
    shown = failed(transcribe(refusal, "pip", done))
    assert f"{refusal.status} Client Error: {reason} for url" in shown
    assert "No matching distribution found" in shown


@each(*PAGES)
def test_uv_shows_the_reason_of_a_451_and_goes_by_any_other_status(
    site: Site, wide: Client, tmp_path: Path, refusal: Refusal
) -> None:
    reason = site.reason(refusal)
    done = wide.uv_pip_install(tmp_path, index_url(site.server, refusal.group), refusal.asked)
    shown = failed(transcribe(refusal, "uv", done))
    if refusal.status == 451:
        assert f"{reason} cause: HTTP status client error (451 {reason})" in shown
    else:
        assert f"{refusal.name} was not found in the package registry" in shown
        assert ("returned a 403 Forbidden error" in shown) == (refusal.status == 403)


@one_of_a_kind(*LISTED, *UNLISTED)
def test_pip_shows_the_reason_of_a_refused_file(
    site: Site, wide: Client, tmp_path: Path, refusal: Refusal
) -> None:
    reason = site.reason(refusal)
    done = wide.pip_install(tmp_path, index_url(site.server, refusal.group), site.asked(refusal))
    shown = failed(transcribe(refusal, "pip", done))
    assert f"403 Client Error: {reason} for url" in shown
    assert installed(tmp_path) == set()


@each(*LISTED, *UNLISTED)
def test_uv_shows_the_reason_of_a_refused_file(
    site: Site, wide: Client, tmp_path: Path, refusal: Refusal
) -> None:
    reason = site.reason(refusal)
    done = wide.uv_pip_install(tmp_path, index_url(site.server, refusal.group), site.asked(refusal))
    shown = failed(transcribe(refusal, "uv", done))
    assert f"Withheld by policy, {reason} cause: HTTP status client error (403 {reason})" in shown
    assert installed(tmp_path) == set()


@each(*LISTED)
def test_a_marked_file_is_passed_over_and_uv_says_why_where_nothing_else_will_do(
    site: Site, wide: Client, tmp_path: Path, refusal: Refusal
) -> None:
    reason, index = site.reason(refusal), index_url(site.server, refusal.group)
    succeeded(wide.uv_pip_install(tmp_path, index, "gears"))
    assert installed(tmp_path) == {"gears-1.0"}
    shown = failed(transcribe(refusal, "uv-range", wide.uv_pip_install(tmp_path, index, "gears>=2")))
    assert f"gears==2.0 was yanked (reason: {reason})" in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
@each(*PAGES, *LISTED)
def test_poetry_shows_the_reason_of_a_451_and_of_a_refused_file(
    site: Site, wide: Client, refusal: Refusal
) -> None:
    reason, index = site.reason(refusal), index_url(site.server, refusal.group)
    shown = failed(transcribe(refusal, "poetry", installer(wide, "poetry").resolve(index, refusal.asked)))
    if refusal.status == 451 or refusal.is_listed:
        assert f"{451 if refusal.filename is None else 403} Client Error: {reason} for url" in shown
    else:
        assert "doesn't match any versions" in shown
        assert ("Authorization error" in shown) == (refusal.status == 403)
