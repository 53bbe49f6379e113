"""What never leaves the process in a log line or a message: tokens, credentials in headers, in addresses.

This module owns the recognising of secrets in text. It errs on the side of hiding too much: a log line that
lost a word is a nuisance, one that kept a token is a breach. It cannot know a secret that has no shape, such
as an owner token preset by the operator; such a one is caught by where it stands (a header, an address, a
key of `SECRET_KEYS`). So whoever logs passes credentials under their own key or, better, not at all.

Every pattern is linear in the length of the text, since callers choose the text.
"""

from __future__ import annotations

import re

TOKEN_MARK = "pyo_"  # noqa: S105 - how tokens begin, not one of them
"""What every token made by this program begins with; a word for its kind and another `_` follow."""

REDACTED = "[redacted]"

SECRET_KEYS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie"}
    | {"private-token", "deploy-token", "job-token"}
    | {"password", "secret", "token", "credentials"}
)
"""Keys whose text is a secret whatever it looks like, in lower case with `-` for `_`."""

_TOKEN = re.compile(rf"({TOKEN_MARK}[a-z]{{1,16}}_)[A-Za-z0-9_-]+")
# A JSON Web Token: two parts that begin as `{"` does in base64, and a signature.
_IDENTITY = re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_USERINFO = re.compile(r"""(?<=//)[^/\s?#"'<>]+@""")
# A word behind the scheme that is no plain word: "Basic authentication" stays as it is.
_SCHEME = re.compile(r"(?i:\b(basic|bearer))([ \t]{1,8})(?=\S*[A-Z0-9=])[A-Za-z0-9+/=._~-]{4,}")
_HEADER = re.compile(
    r"""(?i)\b((?:proxy-)?authorization|(?:private|deploy|job)-token|(?:set-)?cookie)"""
    r"""(["']?\s{0,8}[:=]\s{0,8}["']?)[^"'\r\n,}]+"""
)


def redact(text: str) -> str:
    """Return `text` with everything that looks like a secret replaced.

    Tokens of this program keep their readable beginning (`pyo_pat_[redacted]`); identity tokens of other
    issuers (JSON Web Tokens), credentials in addresses (`https://user:password@host/`), behind `Basic` and
    `Bearer`, and values of headers that carry credentials go whole. Raises nothing.

    Sources: T-TOK2 in the list of attacks; RFC 3986 3.2.1; RFC 7617; RFC 6750.
    """
    if TOKEN_MARK in text:
        text = _TOKEN.sub(rf"\1{REDACTED}", text)
    if "eyJ" in text:
        text = _IDENTITY.sub(REDACTED, text)
    if "@" in text:
        text = _USERINFO.sub(f"{REDACTED}@", text)
    # The tests before are many times cheaper than the patterns; every value of every log line comes by.
    if ":" in text or "=" in text:
        text = _HEADER.sub(rf"\1\2{REDACTED}", text)
    if " " in text or "\t" in text:
        text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    return text


def is_secret_key(key: str) -> bool:
    """Whether text under this key is to be hidden, however it looks."""
    return key.lower().replace("_", "-") in SECRET_KEYS
