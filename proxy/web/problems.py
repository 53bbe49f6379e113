"""Refusals and errors as answers: the one table from exception or decision to status, phrase and body.

Clients show either the reason phrase or the body (protocol 3.2), so the message stands in both (contract 10).
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace
from http import HTTPStatus

from aiohttp import web

from proxy import errors
from proxy.domain.decision import Decision, Trouble, Word
from proxy.domain.moments import iso
from proxy.domain.negotiate import wants_json_error
from proxy.domain.screen import Withheld
from proxy.web.notes import DECIDED, FAILURE

REALM = 'Basic realm="pypi-overlay", charset="UTF-8"'

STATUSES: dict[type[errors.OverlayError], int] = {
    errors.InvalidInput: 400,
    errors.NoLongerOffered: 410,
    errors.NotAuthenticated: 401,
    errors.Throttled: 429,
    errors.IssuerUnavailable: 503,
    errors.NotPermitted: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 400,
    errors.StillInUse: 409,
    errors.Outdated: 503,
    errors.TooLarge: 413,
    errors.UpstreamBusy: 503,
    errors.UpstreamTimeout: 504,
    errors.UpstreamError: 502,
    errors.DiskFull: 507,
    errors.StorageError: 503,
    errors.ConfigError: 500,
}
"""The nearest class in an exception's line of descent counts."""

_REFUSED = frozenset({Word.CLAIMED, Word.DENIED, Word.NOT_FORWARDED, Word.UNKNOWN, Word.UNAVAILABLE})
_TROUBLE_STATUS = {Trouble.FAULTY: 502, Trouble.BUSY: 503, Trouble.TIMEOUT: 504}
_TITLES = {
    Word.CLAIMED: "Claimed on this index",
    Word.DENIED: "Denied by policy",
    Word.NOT_FORWARDED: "Not forwarded by policy",
    Word.WITHHELD: "Withheld by policy",
}

DECISION = "X-Overlay-Decision"
NO_STORE = {"Cache-Control": "no-store"}

_LONGEST_PHRASE = 300


def status_of(error: errors.OverlayError) -> int:
    """The status for an exception of this package."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def reason_phrase(text: str) -> str:
    """`text` as one line of at most 300 printable ASCII characters: a phrase cannot carry more (T-UP8).

    Letters lose their accents, since reasons are written in all languages; what is too long ends in dots.
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    line = re.sub(r"[^!-~]+", " ", plain).strip()
    return line if len(line) <= _LONGEST_PHRASE else f"{line[: _LONGEST_PHRASE - 3].rstrip()}..."


def decision_header(decision: Decision) -> str:
    """The decision as an RFC 8941 item: its word and, where there is one, the rule."""
    item = str(decision.word)
    if decision.rule is None:
        return item
    quoted = reason_phrase(decision.rule).replace("\\", "\\\\").replace('"', '\\"')
    return f'{item};rule="{quoted}"'


def decided(decision: Decision, cache: str = "") -> dict[str, str]:
    """The headers that every page and file answer carries (contract 2): the decision, and what the cache did.

    Args:
        cache: parameters for `Cache-Status` (RFC 9211); without them it says that the decision settled it.
    """
    if not cache:
        before = {Word.PRIVATE: "hit; ", Word.UNAVAILABLE: "fwd=miss; "}.get(decision.word, "")
        cache = f"{before}detail={decision.word}"
    return {DECISION: decision_header(decision), "Cache-Status": f"pypi-overlay; {cache}"}


def refusal_of_page(request: web.Request, decision: Decision) -> web.Response:
    """The answer where a page's decision is not to serve it (contract 4).

    Raises:
        NotAuthenticated: the owner may be readable for callers who say who they are.
    """
    return _refusal(request, decision, page_status(decision))


def page_status(decision: Decision) -> int:
    """The status of a page that is not served: of a refusal by policy as the policy of the index has it."""
    match decision.word:
        case Word.CLAIMED | Word.DENIED:
            return decision.refused
        case Word.NOT_FORWARDED:
            return decision.not_forwarded
        case Word.UNAVAILABLE:
            return _TROUBLE_STATUS[decision.trouble or Trouble.FAULTY]
        case _:
            return 404


def _file_status(decision: Decision) -> int:
    """The same of a file: what is not there is 404, and what may not be had is 403."""
    status = page_status(decision)
    return 403 if status == 451 else status


def refusal_of_file(
    request: web.Request, decision: Decision, withheld: Withheld | None, filename: str
) -> web.Response:
    """The answer where a file is not served: by its name's decision, because it is withheld, or not there.

    Raises:
        NotAuthenticated: as `refusal_of_page`.
    """
    if withheld is not None:
        decision = replace(
            decision,
            word=Word.WITHHELD,
            rule=withheld.rule,
            reason=withheld.reason,
            until=withheld.until,
        )
        request[DECIDED] = decision
        return _policy(request, 403, decision)
    if decision.word in _REFUSED:
        return _refusal(request, decision, _file_status(decision))
    return plain(request, 404, f"no file {filename} at this address", decided(decision))


def _refusal(request: web.Request, decision: Decision, status: int) -> web.Response:
    if decision.challenge:
        raise errors.NotAuthenticated("this name may be yours to read", hint="send credentials")
    headers = decided(decision)
    if decision.word is Word.UNAVAILABLE:
        headers["Retry-After"] = str(decision.retry_after or 2)
        return plain(request, status, decision.reason, headers)
    if status == 404:
        return plain(request, status, decision.reason, headers)
    return _policy(request, status, decision)


def _policy(request: web.Request, status: int, decision: Decision) -> web.Response:
    body = {
        "type": "about:blank",
        "title": _TITLES[decision.word],
        "status": status,
        "detail": decision.reason,
        "decision": str(decision.word),
        "rule": decision.rule,
        "until": iso(decision.until),
    }
    return _response(request, status, decision.reason, body, "application/problem+json", decided(decision))


def answer_error(request: web.Request, error: errors.OverlayError, *, is_api: bool = False) -> web.Response:
    """The answer to an exception of this package; `is_api`: always JSON."""
    status = status_of(error)
    headers = {}
    decision = request.get(DECIDED)
    if decision is not None and isinstance(error, errors.UpstreamError):
        # Its page is known, the file cannot be had now.
        decision = request[DECIDED] = replace(decision, word=Word.UNAVAILABLE, rule=None)
        headers = decided(decision)
    elif decision is not None and isinstance(error, errors.NotFound):
        headers = decided(decision)
    if status == 401:
        headers["WWW-Authenticate"] = REALM
    if isinstance(error, errors.Throttled):
        headers["Retry-After"] = str(error.retry_after)
    if status in {502, 503, 504}:
        headers["Retry-After"] = "2"
    return plain(request, status, str(error), headers, is_api=is_api)


def plain(
    request: web.Request,
    status: int,
    message: str,
    headers: dict[str, str] | None = None,
    *,
    is_api: bool = False,
) -> web.Response:
    """An error in the form the caller asked for: JSON where it names `application/json`, else plain text."""
    if is_api or wants_json_error(request.headers.get("Accept")):
        title = HTTPStatus(status).phrase
        body = {"code": f"{status} {message}", "message": message, "title": title}
        return _response(request, status, message, body, "application/json", headers or {})
    return _response(request, status, message, None, "text/plain; charset=utf-8", headers or {})


def _response(
    request: web.Request,
    status: int,
    message: str,
    body: dict[str, object] | dict[str, str] | None,
    content_type: str,
    headers: dict[str, str],
) -> web.Response:
    content = f"{status} {message}\n".encode() if body is None else json.dumps(body).encode()
    response = web.Response(
        status=status,
        reason=reason_phrase(message) or HTTPStatus(status).phrase,
        body=content,
        headers={**NO_STORE, "Content-Type": content_type, **headers},
    )
    request[FAILURE] = message
    return response
