"""The links of an index page, made absolute.

What leaves here is http or https, without user info, in ASCII and with its path quoted, or None. Where a link leads
is not judged here (`client.Upstream.check_url` does, when it is followed).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import quote, urljoin, urlsplit

MAX_URL = 4000
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9])?\Z|\[[0-9a-f:.]+\]\Z")
# Letters that quoting leaves as they are, in segments that joining does.
_PLAIN_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.~%@!$&'()*+,=-]*+"
_PLAIN = re.compile(
    r"(https?://[a-z0-9][a-z0-9.-]*(?::[1-9][0-9]{3,4})?/|/|(?:\.\./)*)"  # what a link is relative to
    rf"(?:{_PLAIN_SEGMENT}/)*+{_PLAIN_SEGMENT}"
    r"(?:#[a-z0-9]+=[0-9a-f]+)?\Z",
    re.ASCII,
)
_PLAIN_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-/"
"""Letters of paths that need no closer look, if no segment is empty or begins with a dot."""


class Links:
    """The links of one page made absolute, as `urljoin_safely` does; plain ones at a tenth of the cost."""

    def __init__(self, base_url: str) -> None:
        """`base_url`: the page's own, as for `parse_page`."""
        self._base = base_url
        self._starts: dict[str, str | None] = {}

    def absolute(self, href: str) -> str | None:
        """As `urljoin_safely`."""
        return self.plain(href) or urljoin_safely(self._base, href)

    def all_absolute(self, hrefs: Sequence[str]) -> list[str | None]:
        """Each as `absolute`; together where they are all alike, as nearly always."""
        return self._all_plain(hrefs) or [self.absolute(href) for href in hrefs]

    def _all_plain(self, hrefs: Sequence[str]) -> list[str | None] | None:
        """Each as `plain`; None where that is not to be seen of all of them at once."""
        if not hrefs or max(map(len, hrefs)) > MAX_URL:
            return None
        # What lies between the first and the last in order begins as these two do.
        shared = os.path.commonprefix((min(hrefs), max(hrefs)))  # noqa: RUF071 - cut at a slash below
        shared = shared[: shared.rfind("/") + 1]
        joined = self.plain(f"{shared}x")
        length = len(shared)
        rests = [href[length:] for href in hrefs]
        segments = f"/{'/'.join(rests)}/"
        if joined is None or not segments.isascii() or segments.encode().translate(None, _PLAIN_LETTERS):
            return None
        if "//" in segments or "/." in segments:
            return None
        start = joined[:-1]
        return [start + rest for rest in rests]

    def plain(self, href: str) -> str | None:
        """As `urljoin_safely`; None where that is not to be seen at a glance."""
        found = _PLAIN.match(href)
        if found is None or len(href) > MAX_URL:
            return None
        start = found[1]
        if start not in self._starts:
            joined = urljoin_safely(self._base, f"{start}x")
            self._starts[start] = joined[:-1] if joined is not None and joined.endswith("/x") else None
        joined = self._starts[start]
        return None if joined is None else joined + href[len(start) :]


def urljoin_safely(base_url: str, href: str) -> str | None:
    """`href` made absolute: http or https, no user info, default port dropped, ASCII; None if that fails."""
    if len(href) > MAX_URL:
        return None
    try:
        parts = urlsplit(urljoin(base_url, href.strip()))
        port = parts.port
        host = (parts.hostname or "").lower()
    except ValueError:
        return None
    if ":" in host:
        host = f"[{host}]"
    if parts.scheme not in ("http", "https") or _HOST.match(host) is None:
        return None
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        host = f"{host}:{port}"
    try:
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        fragment = quote(parts.fragment, safe="=&")
    except UnicodeError:
        return None
    return f"{parts.scheme}://{host}{path or '/'}{'?' + query if query else ''}{'#' + fragment if fragment else ''}"
