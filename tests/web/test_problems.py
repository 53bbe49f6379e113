"""The one table from exceptions and decisions to answers: nothing is left out, and texts cannot break out of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from http import HTTPStatus

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from proxy import errors
from proxy.domain.decision import Decision, FileRules, Trouble, Word
from proxy.domain.names import parse_name
from proxy.domain.namespaces import ROOT
from proxy.domain.pages import Page, ProjectStatus, Status
from proxy.domain.screen import Circumstances, Withheld, screen
from proxy.web import problems
from proxy.web.notes import DECIDED
from tests.support.trees import NOW

EXPECTED = {
    errors.InvalidInput: 400,
    errors.InvalidName: 400,
    errors.InvalidVersion: 400,
    errors.InvalidFilename: 400,
    errors.InvalidForm: 400,
    errors.InvalidMoment: 400,
    errors.InvalidArchive: 400,
    errors.NoLongerOffered: 410,
    errors.DigestMismatch: 400,
    errors.ConfigError: 500,
    errors.NotAuthenticated: 401,
    errors.Throttled: 429,
    errors.IssuerUnavailable: 503,
    errors.NotPermitted: 403,
    errors.NotFound: 404,
    errors.NoSuchNamespace: 404,
    errors.NoSuchName: 404,
    errors.NoSuchFile: 404,
    errors.AlreadyExists: 400,
    errors.StillInUse: 409,
    errors.Outdated: 503,
    errors.TooLarge: 413,
    errors.UpstreamError: 502,
    errors.UpstreamUnreachable: 502,
    errors.UpstreamTimeout: 504,
    errors.UpstreamBusy: 503,
    errors.UpstreamFaulty: 502,
    errors.ContentMismatch: 502,
    errors.RangesRefused: 502,
    errors.StorageError: 503,
    errors.DiskFull: 507,
    errors.StoreUnavailable: 503,
}


def made(kind: type[errors.OverlayError], message: str = "it went wrong") -> errors.OverlayError:
    if kind is errors.ConfigError:
        return errors.ConfigError([errors.Problem("f.yaml", 1, "a", message)])
    if issubclass(kind, errors.UpstreamError):
        return kind("pypi", message)
    return kind(message)


def all_kinds() -> list[type[errors.OverlayError]]:
    found: list[type[errors.OverlayError]] = []
    waiting = [errors.OverlayError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.append(kind)
    return [kind for kind in found if kind is not errors.OverlayError and kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_every_exception_has_the_status_of_the_contract(kind: type[errors.OverlayError]) -> None:
    assert kind in EXPECTED, (
        "a new exception needs its row here and, where it differs from its base, in the table"
    )
    answer = problems.answer_error(make_mocked_request("GET", "/"), made(kind))
    assert answer.status == EXPECTED[kind]
    HTTPStatus(answer.status)
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in answer.headers) == (answer.status == 401)
    assert (answer.headers.get("Retry-After") is not None) == (answer.status in {429, 502, 503, 504})


@pytest.mark.parametrize("word", list(Word))
def test_every_word_of_a_decision_has_an_answer(word: Word) -> None:
    request = make_mocked_request("GET", "/")
    decision = Decision(word, "because", (), rule="deny x")
    if word in {Word.PRIVATE, Word.UPSTREAM, Word.MERGED}:
        # Served pages; a file that such a page does not list is not there.
        assert problems.refusal_of_file(request, decision, None, "x-1.0.tar.gz").status == 404
        return
    if word is Word.WITHHELD:
        # Said of files alone.
        withheld = Withheld("x-1.0.tar.gz", "1.0", "min_age", "too young")
        answer = problems.refusal_of_file(request, Decision(Word.UPSTREAM, "", ()), withheld, "x-1.0.tar.gz")
        assert (answer.status, answer.reason) == (403, "too young")
        assert answer.headers["X-Overlay-Decision"] == 'withheld;rule="min_age"'
        assert request[DECIDED].word is Word.WITHHELD
        return
    statuses = {
        Word.CLAIMED: (451, 403),
        Word.DENIED: (451, 403),
        Word.NOT_FORWARDED: (404, 404),
        Word.UNKNOWN: (404, 404),
        Word.UNAVAILABLE: (502, 502),
    }
    page = problems.refusal_of_page(request, decision)
    file = problems.refusal_of_file(request, decision, None, "x-1.0.tar.gz")
    assert (page.status, file.status) == statuses[word]
    for answer in (page, file):
        assert answer.headers["X-Overlay-Decision"] == f'{word};rule="deny x"'
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("word", "policy", "page", "file"),
    [
        (Word.CLAIMED, {"refused": 403}, 403, 403),
        (Word.DENIED, {"refused": 403}, 403, 403),
        (Word.CLAIMED, {"not_forwarded": 451}, 451, 403),
        (Word.NOT_FORWARDED, {"not_forwarded": 451}, 451, 403),
        (Word.NOT_FORWARDED, {"refused": 403}, 404, 404),
        (Word.UNKNOWN, {"refused": 403, "not_forwarded": 451}, 404, 404),
    ],
)
def test_the_policy_of_an_index_says_with_which_status_it_refuses(
    word: Word, policy: dict[str, int], page: int, file: int
) -> None:
    statuses = {"refused": 451, "not_forwarded": 404} | policy
    refused, not_forwarded = statuses["refused"], statuses["not_forwarded"]
    decision = Decision(word, "because", (), rule="deny x", refused=refused, not_forwarded=not_forwarded)
    request = make_mocked_request("GET", "/")
    refusals = {
        problems.refusal_of_page(request, decision): page,
        problems.refusal_of_file(request, decision, None, "x-1.0.tar.gz"): file,
    }
    for answer, status in refusals.items():
        assert (answer.status, answer.reason) == (status, "because")
        assert answer.headers["X-Overlay-Decision"] == f'{word};rule="deny x"'
        is_problem = answer.headers["Content-Type"] == "application/problem+json"
        assert is_problem == (status != 404)


UNTIL = datetime(2026, 11, 24, 8, tzinfo=UTC)


@pytest.mark.parametrize("until", [None, UNTIL])
def test_a_problem_has_the_keys_of_the_contract(until: datetime | None) -> None:
    shown = None if until is None else "2026-11-24T08:00:00Z"
    denied = Decision(Word.DENIED, "x is denied by acme", (), rule="deny x", until=until)
    withheld = Withheld("x-1.0.tar.gz", "1.0", "min_age 3d", "x 1.0 is an hour old", until)
    # What the name's own rule says of its end is no matter of the file's.
    upstream = Decision(Word.UPSTREAM, "pypi has x", (), until=datetime(2030, 1, 1, tzinfo=UTC))
    request = make_mocked_request("GET", "/")
    page = problems.refusal_of_page(request, denied)
    file = problems.refusal_of_file(request, upstream, withheld, "x-1.0.tar.gz")
    assert isinstance(page.body, bytes)
    assert isinstance(file.body, bytes)
    assert list(json.loads(page.body).items()) == [
        ("type", "about:blank"),
        ("title", "Denied by policy"),
        ("status", 451),
        ("detail", "x is denied by acme"),
        ("decision", "denied"),
        ("rule", "deny x"),
        ("until", shown),
    ]
    assert list(json.loads(file.body).items()) == [
        ("type", "about:blank"),
        ("title", "Withheld by policy"),
        ("status", 403),
        ("detail", "x 1.0 is an hour old"),
        ("decision", "withheld"),
        ("rule", "min_age 3d"),
        ("until", shown),
    ]


@pytest.mark.parametrize(
    ("trouble", "status"), [(Trouble.FAULTY, 502), (Trouble.BUSY, 503), (Trouble.TIMEOUT, 504)]
)
def test_every_trouble_of_an_upstream_has_its_status(trouble: Trouble, status: int) -> None:
    assert set(Trouble) == {Trouble.FAULTY, Trouble.BUSY, Trouble.TIMEOUT}
    decision = Decision(Word.UNAVAILABLE, "", (), trouble=trouble, retry_after=3)
    answer = problems.refusal_of_page(make_mocked_request("GET", "/"), decision)
    assert (answer.status, answer.headers["Retry-After"]) == (status, "3")


@pytest.mark.parametrize("word", [Word.CLAIMED, Word.DENIED, Word.UNKNOWN, Word.UNAVAILABLE])
def test_a_challenge_is_401_in_place_of_any_refusal(word: Word) -> None:
    decision = Decision(word, "secret reason", (), rule="package acme/widgets", challenge=True)

    def refuse_file(request: web.Request, decision: Decision) -> web.Response:
        return problems.refusal_of_file(request, decision, None, "x-1.0.tar.gz")

    for refuse in (problems.refusal_of_page, refuse_file):
        request = make_mocked_request("GET", "/")
        request[DECIDED] = decision
        with pytest.raises(errors.NotAuthenticated) as raised:
            refuse(request, decision)
        answer = problems.answer_error(request, raised.value)
        assert answer.status == 401
        assert "X-Overlay-Decision" not in answer.headers
        assert "secret" not in f"{answer.text}{answer.reason}"


HOSTILE = 'a\r\nSet-Cookie: x=1\r\n\r\n<b>"\\;ü\u2028\x00\x7f' + "y" * 5000


def test_T_UP8_no_text_gets_out_of_the_reason_phrase() -> None:
    answer = problems.answer_error(make_mocked_request("GET", "/"), made(errors.InvalidForm, HOSTILE))
    assert len(answer.reason) <= 300
    assert all(" " <= sign <= "~" for sign in answer.reason)
    assert problems.reason_phrase("\r\n \u2028\u0301 \x00") == ""
    empty = problems.answer_error(make_mocked_request("GET", "/"), made(errors.InvalidForm, "\u2028"))
    assert empty.reason == "Bad Request"


def test_a_phrase_keeps_letters_without_their_accents_and_ends_in_dots_where_it_is_cut() -> None:
    assert problems.reason_phrase("gesperrt für alle: Ångström – déjà vu") == (
        "gesperrt fur alle: Angstrom deja vu"
    )
    assert problems.reason_phrase("x" * 300) == "x" * 300
    assert problems.reason_phrase("x" * 296 + " yyyyyy") == "x" * 296 + "..."


def test_no_rule_gets_out_of_the_decision_header() -> None:
    header = problems.decision_header(Decision(Word.DENIED, "", (), rule=HOSTILE))
    begin, end = 'denied;rule="', '"'
    assert header.startswith(begin)
    assert header.endswith(end)
    inner = header[len(begin) : -len(end)]
    assert all(" " <= sign <= "~" for sign in inner)
    # RFC 8941 3.3.3: quotes and backslashes inside are escaped, and nothing else is.
    assert inner.replace("\\\\", "").replace('\\"', "").count('"') == 0
    assert inner.replace("\\\\", "").replace('\\"', "").count("\\") == 0


def test_a_problem_carries_the_reason_of_the_decision_whole() -> None:
    decision = Decision(Word.CLAIMED, HOSTILE, (), rule=None)
    answer = problems.refusal_of_page(make_mocked_request("GET", "/"), decision)
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert body["detail"] == HOSTILE
    assert body["rule"] is None


def test_a_quarantined_project_withholds_every_file_of_it() -> None:
    page = Page(parse_name("x"), status=ProjectStatus(Status.QUARANTINED, "malware"))
    withheld = screen(page, FileRules(ROOT), Circumstances(), NOW).withheld_file("x-1.0.tar.gz")
    assert withheld == Withheld("x-1.0.tar.gz", "1.0", "quarantined", "x is quarantined upstream: malware")
    unharmed = screen(Page(parse_name("x")), FileRules(ROOT), Circumstances(), NOW)
    assert unharmed.withheld_file("x-1.0.tar.gz") is None
