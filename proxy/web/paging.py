"""Lists in pieces: which piece a query asks for, and how an answer says what comes before and after it.

Two forms: the administration API's `{"items", "next"}`, and GitLab's headers beside a bare list (contract 12).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from proxy.errors import InvalidInput
from proxy.registry.listing import Window

DEFAULT = 20
MOST = 100
"""Items of one piece; whoever asks for more gets these, as from GitLab."""

_NUMBER = re.compile(r"0*[1-9][0-9]{0,8}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Paging:
    """The piece that is asked for; pages count from 1."""

    page: int
    per_page: int

    @property
    def offset(self) -> int:
        """How many items come before it."""
        return (self.page - 1) * self.per_page

    @property
    def window(self) -> Window:
        """The piece as queries take it."""
        return Window(self.per_page, self.offset)

    @property
    def and_one(self) -> Window:
        """The piece and one item more, if there is one: what `enumerated` needs to tell whether more follow."""
        return Window(self.per_page + 1, self.offset)


def paging(query: Mapping[str, str]) -> Paging:
    """What `page` and `per_page` of a query ask for.

    Raises:
        InvalidInput: one of them is no number above zero.
    """
    return Paging(_number(query, "page", 1), min(MOST, _number(query, "per_page", DEFAULT)))


def _number(query: Mapping[str, str], key: str, default: int) -> int:
    text = query.get(key, str(default))
    if _NUMBER.match(text) is None:
        raise InvalidInput(f"{key} is not valid: {text[:40]!a}", hint="expected a number from 1 on")
    return int(text)


def enumerated(items: Sequence[object], asked: Paging) -> dict[str, object]:
    """The shape of a list: its items and the number of the next page, if there is one.

    Args:
        items: what lies in `asked.and_one`.
    """
    has_more = len(items) > asked.per_page
    return {"items": list(items[: asked.per_page]), "next": asked.page + 1 if has_more else None}


def gitlab_headers(asked: Paging, total: int, path: str, filters: Mapping[str, str]) -> dict[str, str]:
    """What GitLab says beside a list.

    Args:
        total: items of the whole list.
        path: address of the list, without a query: as it was asked, or absolute.
        filters: what else the query said that counts; it goes into the links.
    """
    last = max(1, -(-total // asked.per_page))
    following = asked.page + 1 if asked.page < last else None
    preceding = asked.page - 1 if 1 < asked.page <= last else None
    linked = {"prev": preceding, "next": following, "first": 1, "last": last}
    links = []
    for relation, page in linked.items():
        if page is not None:
            query = urlencode({**filters, "page": page, "per_page": asked.per_page})
            links.append(f'<{path}?{query}>; rel="{relation}"')
    return {
        "Link": ", ".join(links),
        "X-Next-Page": str(following or ""),
        "X-Page": str(asked.page),
        "X-Per-Page": str(asked.per_page),
        "X-Prev-Page": str(preceding or ""),
        "X-Total": str(total),
        "X-Total-Pages": str(last),
    }
