"""Where the header of METADATA and PKG-INFO ends and the description begins: the one place that says so.

Only the header is ever parsed as mail: on a whole message the parser would follow MIME types, which means recursion
as deep as the sender likes.
"""

from __future__ import annotations

import re

_LINE_END = r"(?:\r\n|\n|\r(?!\n))"
# The first empty line, by every convention of ending lines that the parser knows. Twice and not `{2}`: only so the
# first character of a match is known beforehand, and eight MiB without one are passed over in a fifth of the time.
_HEADER_END = re.compile(_LINE_END + _LINE_END)


def split_header(text: str) -> tuple[str, str]:
    """The header and the body behind it, without the empty line between them; without one all is header."""
    end = _HEADER_END.search(text)
    return (text, "") if end is None else (text[: end.start()], text[end.end() :])
