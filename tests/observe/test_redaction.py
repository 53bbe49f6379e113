"""Secrets in text: what is hidden, and what stays readable."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.redaction import is_secret_key, redact

SECRET = "pyo_pat_Zm9v-YmFy_0123456789"
PAIR = base64.b64encode(f"alice:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (SECRET, "pyo_pat_[redacted]"),
        (f"token {SECRET}, and pyo_job_abc.", "token pyo_pat_[redacted], and pyo_job_[redacted]."),
        (f"https://alice:{SECRET}@pkg.example/simple/", "https://[redacted]@pkg.example/simple/"),
        ("http://alice:pass@word@host:8080/x", "http://[redacted]@host:8080/x"),
        ("https://hunter2@host/", "https://[redacted]@host/"),
        (f"Basic {PAIR}", "Basic [redacted]"),
        ("got bearer eyJhbGciOi.J9.abc_-", "got bearer [redacted]"),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln-_ of it", "got [redacted] of it"),
        ("PRIVATE-TOKEN: hunter2", "PRIVATE-TOKEN: [redacted]"),
        (
            "{'Authorization': 'Digest hunter2', 'Accept': '*/*'}",
            "{'Authorization': '[redacted]', 'Accept': '*/*'}",
        ),
        ("cookie=hunter2; a=b", "cookie=[redacted]"),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(text: str, safe: str) -> None:
    assert redact(text) == safe


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GET /acme/simple/widgets/ HTTP/1.1",
        "pyo+deploy-7 published widgets 1.0",
        "https://pkg.example/simple/?to=a@b",
        "Basic authentication is asked for, a bearer token will do",
        "alice@example.org",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(before=st.text(max_size=30), after=st.text(max_size=30))
def test_no_surroundings_bring_a_token_through(before: str, after: str) -> None:
    assert SECRET not in redact(before + SECRET + after)


@given(st.text(max_size=30), st.sampled_from([SECRET, f"https://a:b@c/{SECRET}", f"Basic {PAIR}"]))
def test_what_was_redacted_is_not_changed_again(text: str, secret: str) -> None:
    once = redact(text + secret)

    assert redact(once) == once


@pytest.mark.parametrize(
    "part", ["//", "://a", "pyo_", "pyo_pat_", "basic ", "Basic a", "authorization", "authorization: "]
)
def test_hostile_repetitions_do_not_take_long(part: str) -> None:
    # A pattern that is not linear would need hours for these, not the fraction of a second of the time limit.
    redact(part * 200_000)
    redact(part + "a" * 1_000_000)


def test_keys_of_secrets_are_known_in_every_spelling() -> None:
    for key in ("Authorization", "private_token", "PRIVATE-TOKEN", "password", "Set-Cookie"):
        assert is_secret_key(key)
    for key in ("token_id", "path", "user"):
        assert not is_secret_key(key)
