"""T-NAME4: whatever bytes stand where a name belongs, what is decided on and what is asked for is one string.

What is a name is worked out here once more and otherwise: byte by byte, and not by the expression under test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.web import forms
from tests.web.house import House

KEY = "0" * 64
WORDS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SEPARATORS = b"-_."
ASKED = re.compile(r"/simple/([a-z0-9]+(?:-[a-z0-9]+)*)/|/pypi/([a-z0-9]+(?:-[a-z0-9]+)*)/(?:[^/]+/)?json")


def normal(raw: bytes) -> str | None:
    """The name that some bytes spell, or None."""
    if not 0 < len(raw) <= 512 or raw[0] not in WORDS or raw[-1] not in WORDS:
        return None
    if any(byte not in WORDS + SEPARATORS for byte in raw):
        return None
    words = "".join(chr(byte) if byte in WORDS else " " for byte in raw).split()
    return "-".join(words).lower()


@dataclass(frozen=True, slots=True)
class Route:
    """A way to say a name in an address."""

    target: Callable[[str], str]
    method: str = "GET"
    body: bytes | None = None


ROUTES: Mapping[str, Route] = {
    "page": Route(lambda name: f"/open/simple/{name}/"),
    "page without slash": Route(lambda name: f"/open/simple/{name}"),
    "page at the root": Route(lambda name: f"/simple/{name}/", "HEAD"),
    "page by number": Route(lambda name: f"/api/v4/projects/44/packages/pypi/simple/{name}/"),
    "own files": Route(lambda name: f"/open/tools/+simple/{name}/"),
    "own files for hatch": Route(lambda name: f"/legacy/+simple/{name}/"),
    "document": Route(lambda name: f"/open/pypi/{name}/json"),
    "document of a version": Route(lambda name: f"/open/pypi/{name}/1.0/json", "HEAD"),
    "document for pip-tools": Route(lambda name: f"/open/{name}/json"),
    "explain": Route(lambda name: f"/api/v1/explain?index=/open&name={name}"),
    "list": Route(lambda name: f"/api/v1/packages?namespace=open&name={name}"),
    "deletion": Route(lambda name: f"/api/v1/packages/open%2Ftools/{name}", "DELETE"),
    "yank": Route(lambda name: f"/api/v1/packages/open%2Ftools/{name}/1.0/yank", "PUT", b"{}"),
    "status": Route(
        lambda name: f"/api/v1/packages/open%2Ftools/{name}/status", "PUT", b'{"status": "active"}'
    ),
    "release of a claim": Route(lambda name: f"/api/v1/claims/open/{name}", "DELETE"),
    "GitLab's list": Route(lambda name: f"/api/v4/groups/8/packages?package_name={name}"),
}


def escaped(raw: bytes, keep: Callable[[int], bool]) -> str:
    """`raw` for a request line: what would end the segment is always escaped, other bytes unless they are kept."""
    ends = b" \t\r\n/?#%&+;=" + bytes(range(32)) + b"\x7f"
    return b"".join(
        bytes([byte]) if keep(byte) and byte not in ends else b"%%%02X" % byte for byte in raw
    ).decode("utf-8", "surrogateescape")


def spelled(raw: bytes) -> st.SearchStrategy[str]:
    return st.sampled_from(
        [
            escaped(raw, lambda _: True),
            escaped(raw, lambda _: False),
            escaped(raw, lambda byte: byte < 128),
            escaped(raw, lambda byte: byte in WORDS + SEPARATORS),
        ]
    )


ODD = [
    *(
        b" ",
        b"\t",
        b"\n",
        b"\r\n",
        b"\0",
        b"/",
        b"\\",
        b";",
        b",",
        b"+",
        b"~",
        b"%2e",
        b"%41",
        b"..",
        b"-",
        b"_.",
    ),
    *("\u212a".encode(), "\u017f".encode(), "\uff41".encode(), "\u0131".encode(), "\u200b".encode()),
    *(b"\xc0\xaf", b"\xff", b"\x85"),
]
"""What may stand in, before or behind a name, and what some normalisers drop, fold or take for a dash."""
NEARLY = st.tuples(
    st.sampled_from([b"zz", b"Q9", b""]), st.sampled_from(ODD), st.sampled_from([b"k", b"Y.x", b""])
)
SEGMENTS = (st.binary(min_size=1, max_size=12) | NEARLY.map(b"".join)).flatmap(spelled)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(segment="zzq%2Dname")
@example(segment="zz%20k")
@example(segment="zz%0A")
@example(segment="%E2%84%AAivy")
@given(segment=SEGMENTS)
def test_T_NAME4_what_is_decided_on_is_what_is_asked_for(house: House, segment: str) -> None:
    raw = unquote_to_bytes(segment.encode("utf-8", "surrogateescape"))
    name = normal(raw)
    house.upstream.reset_requests()
    for title, route in ROUTES.items():
        answer = house.wire.send(route.method, route.target(segment), token=house.owner, body=route.body)
        assert answer.status in {200, 301, 400, 404}, title
        # GitLab's filter is a text that may stand anywhere in a name.
        if name is None and title != "GitLab's list":
            assert answer.status in {400, 404}, title
    field = forms.text("name", raw)
    fields = forms.fields("thing-1.0-py3-none-any.whl", b"x", name=None)
    form = forms.encode([field, *fields, forms.file("thing-1.0-py3-none-any.whl", b"x")])
    assert house.upload("open/tools", form, token=house.owner).status == 400
    asked = [ASKED.fullmatch(path) for path in paths(house)]
    assert all(asked), paths(house)
    # What was asked for in an earlier example is kept, so the upstream need not be asked once more.
    assert {found[1] or found[2] for found in asked if found} <= {name} - {None}


def paths(house: House) -> list[str]:
    return [request.path for request in house.upstream.requests()]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    segment=SEGMENTS,
    ending=st.sampled_from(["-1.0-py3-none-any.whl", "-1.0.tar.gz", "-1-2.zip"]),
    suffix=st.sampled_from(["", ".metadata", ".provenance"]),
)
def test_T_NAME4_a_filename_of_any_bytes_asks_for_names_in_normal_form_alone(
    house: House, segment: str, ending: str, suffix: str
) -> None:
    house.upstream.reset_requests()
    answer = house.wire.get(f"/open/files/{KEY}/{segment}{ending}{suffix}", token=house.owner)
    assert answer.status in {400, 403, 404}
    raw = unquote_to_bytes(segment.encode("utf-8", "surrogateescape"))
    for path in paths(house):
        found = ASKED.fullmatch(path)
        assert found is not None, path
        # A name that the filename can begin with, up to one of its dashes.
        starts = {normal((raw + ending.encode())[:end]) for end in range(1, len(raw) + 3)}
        assert found[1] in starts
