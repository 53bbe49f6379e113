"""The decision table: many generated policies, and every route gives the same answer under each of them.

A project page, each file, its `.metadata`, the JSON documents and `explain` are asked for under some hundred
policies at once: in all spellings of the index, with GET and HEAD, first by the handlers and then by what the front
kept, after a lock file was made while nothing was forbidden. Each answer is compared with what the contract says of
the policy, worked out here once more, and by other means.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.support.forked import ForkedServer
from tests.support.server import OverlayServer, base_config
from tests.support.upstream import FakeUpstream
from tests.support.wheels import make_sdist, make_wheel
from tests.web import forms
from tests.web.wire import HTML, JSON, Wire, basic

POLICIES = 320
NAME = "widgets"
NOW = datetime.now(UTC)
SEVERITIES = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True)
class Offered:
    """A file of the upstream, and what counts when it is judged."""

    filename: str
    version: str
    kind: str
    age: timedelta
    content: bytes
    is_yanked: bool = False
    is_vulnerable: bool = False

    @property
    def uploaded(self) -> datetime:
        return NOW - self.age


def _offered() -> Iterator[Offered]:
    old, young, fresh = timedelta(days=900), timedelta(days=1, minutes=30), timedelta(hours=2, minutes=30)

    def wheel(
        version: str, age: timedelta, *, is_yanked: bool = False, is_vulnerable: bool = False
    ) -> Offered:
        filename, content = make_wheel(NAME, version)
        return Offered(filename, version, "wheel", age, content, is_yanked, is_vulnerable)

    yield wheel("1.0", old, is_vulnerable=True)
    yield wheel("1.1", old - timedelta(days=100), is_yanked=True)
    yield wheel("1.2+acme.1", old - timedelta(days=200))
    yield wheel("2.0", young)
    yield wheel("2.1rc1", fresh)
    filename, content = make_sdist(NAME, "1.0")
    yield Offered(filename, "1.0", "sdist", old, content, is_vulnerable=True)
    yield Offered(f"{NAME}-0.9.tar.bz2", "0.9", "other", old, make_sdist(NAME, "0.9")[1])


OFFERED = tuple(_offered())
OFFERED_AS = {file.filename: file for file in OFFERED}
YOUNG = OFFERED[4].filename
OWN_VERSION = "1.0"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-0001"],
    "summary": "widgets turn the wrong way",
    "modified": "2026-01-02T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": NAME},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0.95"}, {"fixed": "1.1"}]}],
        }
    ],
    "database_specific": {"severity": "HIGH"},
}

PAST, FUTURE = "2026-01-01", "2999-01-01"
CHOICES: dict[str, Sequence[Any]] = {
    "forward": (True, True, True, True, True, False),
    "not_forwarded": (404, 451),
    "refused": (451, 403),
    "reserve": ((), (), (), (), (), ("widg*",), ({"match": NAME, "until": PAST},)),
    "deny": (
        *((), (), (), ("other",), (NAME,), ("widgets==1.0",), ("Widgets<1.1", "w*==2.1rc1"), ("wid*>=2",)),
        *(({"match": NAME, "until": PAST},), ({"match": "widgets==2.0", "reason": "bad", "until": FUTURE},)),
        *(("widgets==1.2",), ("widgets!=2.0",)),
    ),
    "allow": (
        *(("*",), ("*",), ("*",), ("*",), (NAME,), ("gears",), ("widgets>=1.1",)),
        *(("widgets==1.0", "w*>=2.0"), ("widgets!=1.1",), ("widgets==1.2",), ("gears", "widgets<=2")),
    ),
    "merge": ((), (), ("wid*",), ({"match": NAME, "until": PAST},)),
    "min_age": ("0s", "0s", "12h", "3d"),
    "min_age_exempt": ((), (), ("widgets==2.0",), ({"match": "wid*", "until": PAST},), ("w*>=2.1",)),
    "uploaded_before": (None, None, None, "2024-10-01", "2026-01-01"),
    "file_types": (
        ("wheel", "sdist"),
        ("wheel", "sdist"),
        ("wheel",),
        ("sdist",),
        ("wheel", "sdist", "other"),
    ),
    "yanked": ("keep", "hide"),
    "withheld": ("mark", "hide"),
    # What a young version fixes depends on all that is served in its place: `domain/test_screen` has that.
    "min_age_fixes": (False,),
    "vulnerable": ("off", "off", "warn", "deny"),
    "severity": SEVERITIES,
    "vulnerable_exempt": (
        (),
        (),
        ({"id": "cve-2026-0001", "name": NAME, "until": FUTURE, "reason": "not reachable"},),
        ({"id": "PYSEC-2026-1", "name": NAME, "until": PAST, "reason": "was not reachable"},),
    ),
    "warn": ((), (), (), ("deny",), ("allow", "min_age"), ("uploaded_before", "file_types", "deny")),
}
LENIENT = {"file_types": ["wheel", "sdist", "other"]}
FACTS = ("free", "free", "free", "free", "private", "private", "elsewhere", "tombstone")


@dataclass(frozen=True, slots=True)
class Case:
    """One policy, at a group of its own, and what is published there."""

    group: str
    number: int
    facts: str
    policy: Mapping[str, Any]

    @property
    def index(self) -> str:
        """The index that is asked: the group, or for what lies elsewhere a project that does not have it."""
        return f"{self.group}/other" if self.facts == "elsewhere" else self.group

    @property
    def spellings(self) -> tuple[str, str, str]:
        if self.facts == "elsewhere":
            gitlab, end, number = "/api/v4/projects", "packages/pypi", self.number + 10_000
        else:
            gitlab, end, number = "/api/v4/groups", "-/packages/pypi", self.number
        return f"/{self.index}", f"{gitlab}/{quote(self.index, safe='')}/{end}", f"{gitlab}/{number}/{end}"


def _cases() -> tuple[Case, ...]:
    chance = random.Random(6)  # the same policies each time
    made = []
    for number in range(1, POLICIES + 1):
        policy = {key: chance.choice(values) for key, values in CHOICES.items()}
        made.append(Case(f"g{number:03}", number, chance.choice(FACTS), policy))
    return tuple(made)


CASES = _cases()


@dataclass(frozen=True, slots=True)
class Expected:
    """What the contract says of a case.

    Attributes:
        page, file: statuses, as far as the name decides them.
        rules: upstream's files → the key of the policy that keeps a file back; None: it is served.
        is_own: whether the project's own file is served.
        is_marked: whether what is kept back is listed, as far as its rule may be.
    """

    word: str
    page: int
    file: int
    rules: Mapping[str, str | None] = field(default_factory=dict)
    is_own: bool = False
    is_marked: bool = False

    @property
    def listed(self) -> frozenset[str]:
        """The upstream's files that stand on the page."""
        marks = {"deny", "allow", "min_age", "vulnerable"} if self.is_marked else set()
        return frozenset(name for name, rule in self.rules.items() if rule is None or rule in marks)


def _covering(policy: Mapping[str, Any], key: str) -> list[SpecifierSet | None]:
    """The versions of which the entries of a key speak that cover the name and are not void."""
    found: list[SpecifierSet | None] = []
    for entry in policy[key]:
        text = entry if isinstance(entry, str) else entry["match"]
        if not isinstance(entry, str) and entry["until"] == PAST:
            continue
        name, *said = re.split("(?=[<>=!])", text.lower(), maxsplit=1)
        if name == NAME or (name.endswith("*") and NAME.startswith(name[:-1])):
            found.append(SpecifierSet(said[0]) if said else None)
    return found


def _admits(specifier: SpecifierSet | None, version: Version) -> bool:
    if specifier is None:
        return True
    equals_public = any(one.operator == "==" and "+" not in one.version for one in specifier)
    return not (equals_public and version.local) and specifier.contains(version, prereleases=True)


def _denies(specifier: SpecifierSet | None, version: Version) -> bool:
    if specifier is None:
        return False  # that is about the name
    return all(
        one.contains(version, prereleases=True) or (one.operator == "!=" and version.local is not None)
        for one in specifier
    )


def _rule_of(policy: Mapping[str, Any], file: Offered) -> str | None:
    """The key of the policy by which a file is kept back; None: it is served."""
    version, before = Version(file.version), policy["uploaded_before"]
    least = {"0s": timedelta(0), "12h": timedelta(hours=12), "3d": timedelta(days=3)}[policy["min_age"]]
    allowed = _covering(policy, "allow")
    counts = SEVERITIES.index("high") >= SEVERITIES.index(policy["severity"])
    against = {
        "deny": any(_denies(one, version) for one in _covering(policy, "deny")),
        "allow": bool(allowed) and not any(_admits(one, version) for one in allowed),
        "file_types": file.kind not in policy["file_types"],
        "yanked": file.is_yanked and policy["yanked"] == "hide",
        "uploaded_before": before is not None
        and file.uploaded >= datetime.fromisoformat(f"{before}T00:00:00+00:00"),
        "min_age": file.age < least
        and not any(_admits(one, version) for one in _covering(policy, "min_age_exempt")),
        "vulnerable": file.is_vulnerable
        and counts
        and policy["vulnerable"] == "deny"
        and all(entry["until"] == PAST for entry in policy["vulnerable_exempt"]),
    }
    return next((key for key, speaks in against.items() if speaks and key not in policy["warn"]), None)


def _forwarded(policy: Mapping[str, Any]) -> Expected:
    """The steps 5 to 7 of the decision."""
    if not policy["forward"]:
        code = policy["not_forwarded"]
        return Expected("not-forwarded", code, 404 if code == 404 else 403)
    is_denied = None in _covering(policy, "deny") and "deny" not in policy["warn"]
    is_allowed = "*" in policy["allow"] or _covering(policy, "allow") or "allow" in policy["warn"]
    if is_denied or not is_allowed:
        return Expected("denied", policy["refused"], 403)
    rules = {file.filename: _rule_of(policy, file) for file in OFFERED}
    return Expected("upstream", 200, 200, rules, is_marked=policy["withheld"] == "mark")


def expected_of(case: Case) -> Expected:
    """What section 4 of the contract says of a case."""
    policy, is_reserved = case.policy, bool(_covering(case.policy, "reserve"))
    if case.facts == "private":
        beyond = _forwarded(policy)
        if is_reserved or beyond.word != "upstream" or not _covering(policy, "merge"):
            return Expected("private", 200, 404, is_own=True)
        rules = {
            name: "merge" if Version(OFFERED_AS[name].version).public == OWN_VERSION else rule
            for name, rule in beyond.rules.items()
        }
        return replace(beyond, word="merged", rules=rules, is_own=True)
    if is_reserved or case.facts != "free":
        return Expected("claimed", policy["refused"], 403)
    return _forwarded(policy)


class Client:
    """Asks over one connection that stays."""

    def __init__(self, server: OverlayServer, token: str) -> None:
        host = urlsplit(server.url).netloc
        self._connection = http.client.HTTPConnection(host, timeout=30)
        self._headers = {"Authorization": basic(token)}

    def ask(self, target: str, *, method: str = "GET", accept: str = "*/*") -> Told:
        self._connection.request(method, target, headers={**self._headers, "Accept": accept})
        answer = self._connection.getresponse()
        return Told(answer.status, answer.reason, answer.headers, answer.read())

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Told:
    """An answer."""

    status: int
    reason: str
    headers: Message
    body: bytes

    @property
    def word(self) -> str:
        return str(self.headers["X-Overlay-Decision"]).partition(";")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class House:
    """A server with all the policies in force, and a lock file from before: filename → key of the address."""

    server: OverlayServer
    client: Client
    locked: Mapping[str, str]
    own: Mapping[str, tuple[str, str]]


def _config(upstream: FakeUpstream, osv: Path, *, strict: bool) -> dict[str, Any]:
    groups = {
        case.group: {
            "id": case.number,
            "visibility": "private",
            # A copy of its own, without tuples.
            "policy": json.loads(json.dumps(case.policy if strict else LENIENT)),
            "projects": {"p": {}, "other": {"id": case.number + 10_000}},
        }
        for case in CASES
    }
    advisories = {"osv_dir": str(osv)}
    people = {"users": {"rita": {}}, "members": {"rita": "reporter"}}
    return base_config(upstream) | people | {"advisories": advisories, "groups": groups}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("table")
    osv = directory / "osv"
    osv.mkdir()
    (osv / "PYSEC-2026-1.json").write_text(json.dumps(ADVISORY))
    with FakeUpstream() as upstream:
        for file in OFFERED:
            uploaded = file.uploaded.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
            upstream.add_file(
                NAME,
                file.filename,
                file.content,
                upload_time=uploaded,
                yanked="broken" if file.is_yanked else False,
            )
        with (
            ForkedServer(_config(upstream, osv, strict=False), directory) as server,
            closing(Client(server, server.token_for_user("rita"))) as client,
        ):
            locked = _lock(client)
            own = {case.group: _publish(server, case) for case in CASES if case.facts != "free"}
            server.configure(_config(upstream, osv, strict=True))
            server.reload()
            yield House(server, client, locked, own)


def _lock(client: Client) -> dict[str, str]:
    """Make a lock file while nothing is forbidden: that also has the server keep answers of those days."""
    locked: dict[str, str] = {}
    for case in CASES:
        page = client.ask(f"/{case.group}/simple/{NAME}/", accept=JSON).json
        locked |= {file["filename"]: file["url"].split("/")[-2] for file in page["files"]}
        young = f"/{case.group}/files/{locked[YOUNG]}/{YOUNG}"
        assert [client.ask(young).status for _ in range(2)] == [200, 200]
    assert locked.keys() == OFFERED_AS.keys()
    return locked


def _publish(server: OverlayServer, case: Case) -> tuple[str, str]:
    """Publish a wheel of the group's own under the name; filename and key of its address."""
    filename, content = make_wheel(NAME, OWN_VERSION, requires=[f"made-by-{case.group}"])
    body = forms.upload(filename, content)
    wire, token = Wire(server.url), server.owner_token()
    answer = wire.send("POST", f"/{case.group}/p/", token=token, headers=forms.FORM_TYPE, body=body)
    assert answer.status == 201, answer
    if case.facts == "tombstone":
        gone = wire.send("DELETE", f"/api/v1/packages/{case.group}%2Fp/{NAME}", token=token)
        assert gone.status == 204, gone
    return filename, hashlib.sha256(content).hexdigest()


def _name(case: Case) -> str:
    return case.group


def _shown(answer: Told) -> str:
    return f"{answer.status} {answer.reason}: {answer.body[:300]!r}"


def _page(house: House, case: Case, base: str, expected: Expected) -> None:
    """The page in all forms, cold and kept."""
    target = f"{base}/simple/{NAME}/"
    answers = [house.client.ask(target, accept=accept) for accept in (JSON, HTML, JSON, JSON)]
    answers.append(house.client.ask(target, method="HEAD", accept=JSON))
    for answer in answers:
        assert (answer.status, answer.word) == (expected.page, expected.word), _shown(answer)
    cold, html, again, warm, head = answers
    assert cold.body == again.body == warm.body
    assert head.headers["Content-Length"] == cold.headers["Content-Length"]
    if expected.page != 200:
        if expected.page != 404:
            assert cold.json["decision"] == expected.word
            assert cold.reason in cold.json["detail"]
        return
    own = {house.own[case.group]} if expected.is_own else set()
    listed = {(name, house.locked[name]) for name in expected.listed} | own
    files = cold.json["files"]
    assert {(file["filename"], file["url"].split("/")[-2]) for file in files} == listed
    marked = {file["filename"] for file in files if file.get("yanked")} - {f[0] for f in own}
    back = {name for name in expected.listed if expected.rules[name] is not None}
    assert marked == back | {name for name in expected.listed if OFFERED_AS[name].is_yanked}
    withheld = {one["filename"]: one for one in cold.json.get("_withheld", [])}
    assert withheld.keys() == {name for name, rule in expected.rules.items() if rule is not None}
    for name, rule in expected.rules.items():
        if rule is not None:
            assert withheld[name]["rule"].split()[0] == rule
            assert f"/files/{house.locked[name]}/".encode() not in html.body or name in expected.listed


def _files(house: House, case: Case, base: str, expected: Expected, *, methods: Sequence[str]) -> None:
    """Every address of the lock file, and what lies beside it."""
    for name, key in house.locked.items():
        rule = expected.rules.get(name)
        status, word = (expected.file, expected.word)
        if expected.rules and rule is not None:
            status, word = 403, "withheld"
        for method in methods:
            answer = house.client.ask(f"{base}/files/{key}/{name}", method=method)
            assert (answer.status, answer.word) == (status, word), (name, _shown(answer))
            if status == 200 and method == "GET":
                assert hashlib.sha256(answer.body).hexdigest() == key
            if rule is not None and method == "GET":
                assert answer.json["rule"].split()[0] == rule
                assert rule == "merge" or NAME in answer.json["detail"]
        beside = house.client.ask(f"{base}/files/{key}/{name}.metadata", method=methods[-1])
        has_none = status == 200 and not name.endswith(".whl")
        assert beside.status == (404 if has_none else status), (name, _shown(beside))
    if case.group in house.own:
        name, key = house.own[case.group]
        answer = house.client.ask(f"{base}/files/{key}/{name}")
        assert answer.status == (200 if expected.is_own else expected.file), _shown(answer)


def _documents(house: House, base: str, expected: Expected) -> None:
    document = house.client.ask(f"{base}/pypi/{NAME}/json")
    head = house.client.ask(f"{base}/{NAME}/json", method="HEAD")
    for answer in (document, head):
        assert (answer.status, answer.word) == (expected.page, expected.word), _shown(answer)
    if expected.page == 200:
        files = {file["filename"] for files in document.json["releases"].values() for file in files}
        own = {make_wheel(NAME, OWN_VERSION)[0]} if expected.is_own else set()
        assert files == expected.listed | own


def _explained(house: House, case: Case, expected: Expected) -> None:
    told = house.client.ask(f"/api/v1/explain?index={case.index}&name={NAME}").json
    assert told["decision"] == expected.word, told
    theirs = {file["filename"]: file for file in told["files"] if file["source"] == "pypi"}
    assert theirs.keys() == expected.rules.keys()
    for name, rule in expected.rules.items():
        assert theirs[name]["served"] == (rule is None)
        assert rule is None or theirs[name]["rule"].split()[0] == rule
    ours = [file for file in told["files"] if file["source"] != "pypi"]
    assert len(ours) == expected.is_own


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_T_CONF9_every_route_says_what_the_policy_says(house: House, case: Case) -> None:
    expected = expected_of(case)
    base = case.spellings[case.number % 3]
    method = ("GET", "HEAD")[case.number % 2]
    _files(house, case, base, expected, methods=("GET", method))
    _page(house, case, base, expected)
    _documents(house, base, expected)
    _explained(house, case, expected)


@pytest.mark.slow
def test_T_CONF9_so_it_does_in_every_spelling_and_by_every_method(house: House) -> None:
    for case in CASES:
        expected = expected_of(case)
        for base in case.spellings:
            _files(house, case, base, expected, methods=("GET", "HEAD", "GET", "GET", "HEAD"))
            _page(house, case, base, expected)
            _documents(house, base, expected)


def test_the_table_has_every_word_and_every_rule() -> None:
    table = [expected_of(case) for case in CASES]
    words = {expected.word for expected in table}
    assert words == {"private", "upstream", "merged", "claimed", "denied", "not-forwarded"}
    rules = {rule for expected in table for rule in expected.rules.values()}
    assert rules == {None, "merge"} | {
        *("deny", "allow", "file_types", "yanked", "uploaded_before", "min_age", "vulnerable")
    }
