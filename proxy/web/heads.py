"""Request heads as the front reads them: only as far as a finished answer may depend on them.

The front must never take for one request what aiohttp would take for another. So a head is read only where nobody
can read it in two ways: the bytes are one `GET` or `HEAD` from its first to its last byte, no body can follow, every
line ends in CR LF, the strict parser of llhttp finds nothing to object to. All else is left to aiohttp whole.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

READ = frozenset({b"accept", b"accept-encoding", b"authorization", b"if-none-match"})
"""What the answer to a plain head depends on, besides its target."""

_WITHOUT_EFFECT = frozenset(
    {
        # Read for the log alone.
        b"user-agent",
        b"x-forwarded-for",
        # Of a page or a file nothing but relative addresses, or those of `external_url`, are told.
        b"host",
        b"forwarded",
        b"via",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-real-ip",
        b"x-scheme",
        # What caches between should do; this is the origin, and what it keeps is never too old.
        b"cache-control",
        b"pragma",
        # Any other value than `keep-alive` is looked at.
        b"connection",
        b"keep-alive",
        # Pages are in no language; what is public is open to every origin.
        b"accept-charset",
        b"accept-language",
        b"dnt",
        b"origin",
        b"priority",
        b"referer",
        b"sec-ch-ua",
        b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-site",
        b"sec-fetch-user",
        b"sec-gpc",
        b"upgrade-insecure-requests",
        # There is no body that it could describe.
        b"content-type",
        # Ids of others; ours are made here.
        b"traceparent",
        b"tracestate",
        b"x-amzn-trace-id",
        b"x-correlation-id",
        b"x-request-id",
    }
)
"""What no handler looks at when it answers a page or a file."""

_PLAIN = READ | _WITHOUT_EFFECT
_MORE_FOLLOWS = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_VERSIONS = frozenset({"1.0", "1.1"})
_END = b"\r\n\r\n"
_LONGEST = 8 << 10
"""aiohttp refuses longer lines; longer heads are rare enough to be left to it."""


class Head:
    """One whole request without a body.

    Attributes:
        data: the bytes.
        is_head: the method is HEAD, else GET.
        is_plain: the answer depends on target, method and the headers in `READ` alone; each stands once at most.
        target: as it was sent: a path without query.
        headers: of a plain head, by their names in lower case.
    """

    __slots__ = ("_ended", "data", "headers", "is_head", "is_plain", "target")

    def __init__(self, data: bytes) -> None:
        """Begin with the bytes; `read` fills in what they say."""
        self.data = data
        self.is_head = data.startswith(b"HEAD")
        self.is_plain = True
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self._ended = 0

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        """Take the target, or a further piece of it."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name in self.headers:
            self.is_plain = False
        self.headers[name] = value.rstrip(b" \t")

    def on_message_complete(self) -> None:
        """Count the requests."""
        self._ended += 1

    def finish(self, parser: HttpRequestParser) -> bool:
        """Judge what was read; returns whether it is one whole request without a body."""
        headers, version = self.headers, parser.get_http_version()
        if self._ended != 1 or version not in _VERSIONS or not _MORE_FOLLOWS.isdisjoint(headers):
            return False
        if (
            not headers.keys() <= _PLAIN
            or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive"
            or not self.target.startswith(b"/")
            or b"?" in self.target
            or version != "1.1"
            # aiohttp refuses it (RFC 9112 3.2).
            or b"host" not in headers
        ):
            self.is_plain = False
        return True


def read_head(data: bytes) -> Head | None:
    """What is asked, where `data` is exactly one whole GET or HEAD without a body; None: aiohttp is to say."""
    if not data.startswith((b"GET ", b"HEAD ")) or len(data) > _LONGEST:
        return None
    end = len(data) - len(_END)
    if data.find(_END) != end or not data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n"):
        return None
    head = Head(data)
    parser = HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except (HttpParserError, HttpParserUpgrade):
        return None
    return head if head.finish(parser) else None
