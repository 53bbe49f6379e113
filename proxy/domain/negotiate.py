"""Content negotiation: from `Accept`, `?format=` and `Accept-Encoding` to what is sent (RFC 9110, PEP 691).

Never fails: headers are anything that somebody sent. What cannot be read is ignored, and where nothing fits the
answer is HTML, as PyPI's is, since clients cope with that better than with a 406 (protocol 1.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum


class Representation(StrEnum):
    """The forms of a page; the values are their media types, exactly as they are sent."""

    HTML = "text/html"
    HTML_V1 = "application/vnd.pypi.simple.v1+html"
    JSON = "application/vnd.pypi.simple.v1+json"


class Coding(StrEnum):
    """How a body is packed; the values are those of `Content-Encoding`, but `identity` is never sent."""

    IDENTITY = "identity"
    GZIP = "gzip"
    ZSTD = "zstd"


_LATEST = {
    "application/vnd.pypi.simple.latest+html": Representation.HTML_V1,
    "application/vnd.pypi.simple.latest+json": Representation.JSON,
}
_TYPES: dict[str, Representation] = {**{item.value: item for item in Representation}, **_LATEST}

# Which wins among equals: where types are named the richest, where wildcards admit all what a browser shows.
_NAMED_ORDER = (Representation.JSON, Representation.HTML_V1, Representation.HTML)
_WILDCARD_ORDER = (Representation.HTML, Representation.JSON, Representation.HTML_V1)

_LONGEST = 4096
"""Characters of a list that are read: many lines of a header may make one of a megabyte."""

_RANGE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+\Z", re.ASCII)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z", re.ASCII)


def negotiate(accept: str | None, wanted: str | None) -> Representation:
    """The form in which a page is sent.

    Args:
        accept: the `Accept` header, several joined by commas; None if there is none.
        wanted: the decoded value of `?format=`; one of the known types is used alone.

    Sources: RFC 9110 12.5.1, PEP 691; protocol 1.2 has the algorithm.
    """
    if wanted:
        # Whoever decodes a query as a form reads the type's `+` as a space.
        asked = _TYPES.get(wanted.lower().replace(" ", "+"))
        if asked is not None:
            return asked
    named: dict[Representation, float] = {}
    wildcards: dict[str, float] = {}
    for media_range, quality in _elements(accept or ""):
        if media_range in _TYPES:
            offer = _TYPES[media_range]
            named[offer] = max(quality, named.get(offer, 0.0))
        elif media_range.endswith("/*"):
            wildcards[media_range] = max(quality, wildcards.get(media_range, 0.0))
    return (
        _best(named, _NAMED_ORDER)
        or _best(
            {
                offer: wildcards.get(f"{offer.partition('/')[0]}/*", wildcards.get("*/*", 0.0))
                for offer in Representation
                if offer not in named
            },
            _WILDCARD_ORDER,
        )
        or Representation.HTML
    )


def coding(accept_encoding: str | None) -> Coding:
    """How a page is packed: in the best liked coding that is admitted, unless a named `identity` is liked better.

    Among equals zstd comes first: its bodies are a fifth smaller here. It has to be named; `*` is understood as what
    all who send it can read, gzip. Without the header nothing is packed: who does not say that it can unpack gets
    what needs no unpacking.

    Sources: RFC 9110 12.5.3; RFC 8878.
    """
    liked = dict(_elements(accept_encoding or "", ranges=False))
    offers = {
        Coding.ZSTD: liked.get("zstd", 0.0),
        Coding.GZIP: liked.get("gzip", liked.get("x-gzip", liked.get("*", 0.0))),
    }
    best = max(offers, key=lambda offer: offers[offer])
    return best if offers[best] > 0 and offers[best] >= liked.get("identity", 0.0) else Coding.IDENTITY


def wants_json_error(accept: str | None) -> bool:
    """Whether `Accept` names `application/json` itself; wildcards and other JSON types do not count (contract 10)."""
    return any(
        media_range == "application/json" and quality > 0 for media_range, quality in _elements(accept or "")
    )


def _best(qualities: dict[Representation, float], order: tuple[Representation, ...]) -> Representation | None:
    """The best liked offer, the first in `order` among equals; None where none is admitted."""
    admitted = [offer for offer in order if qualities.get(offer, 0.0) > 0]
    return max(admitted, key=lambda offer: qualities[offer], default=None)


def _elements(header: str, *, ranges: bool = True) -> Iterator[tuple[str, float]]:
    """The elements of a list header in lower case with their quality; unreadable ones are left out.

    Parameters besides `q` are ignored: no offer differs by them.
    """
    for element in header[:_LONGEST].split(","):
        value, *parameters = (part.strip(" \t") for part in element.lower().split(";"))
        if not value or (ranges and _RANGE.match(value) is None):
            continue
        quality = "1"
        for parameter in parameters:
            key, _, setting = parameter.partition("=")
            if key.strip(" \t") == "q":
                quality = setting.strip(" \t")
                break
        if _QUALITY.match(quality):
            yield value, float(quality)
