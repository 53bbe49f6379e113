"""Names (protocol 9.2; T-NAME1 to T-NAME3, T-CONF9): one canonicaliser on every route, and nothing is repaired."""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

import pytest

from tests.web import forms
from tests.web.house import House, spellings
from tests.web.wire import Answer

KEY = "0" * 64

VALID = [
    ("Friendly-Bard", "friendly-bard"),
    ("friendly.bard", "friendly-bard"),
    ("friendly__bard", "friendly-bard"),
    ("FrIeNdLy-._.-bArD", "friendly-bard"),
    ("a", "a"),
    ("0", "0"),
    ("0-._.-._.-0", "0-0"),
    ("%66riendly%2Dbard", "friendly-bard"),
]
# As they stand in the request line.
INVALID = [
    "-a",
    "a-",
    "_a",
    "a_",
    ".a",
    "a.",
    "a%20b",
    "a+b",
    "a%2Fb",
    "a%5Cb",
    "a%00",
    "a%0A",
    "a%0D%0A",
    "a;b",
    "a,b",
    "a%3Bb",
    "a~b",
    "a!b",
    "a@b",
    "a*",
    "a%2500",
    "%2e",
    "%2e%2e",
    "...",
    "%C3%A9",
    "%E2%84%AAivy",
    "a%C5%BFs",
    "%EF%BD%81",
    "%c4%b1",
    "a%FF",
    "a%ZZ",
    "a%",
    "a" * 513,
    "%",
]


def page_routes(segment: str) -> list[str]:
    return [
        f"{base}/simple/{segment}{slash}"
        for base in (*spellings("open"), *spellings("open/tools"), "")
        for slash in ("/", "")
    ]


def other_routes(segment: str) -> list[str]:
    """Every other route that takes a name as a segment and reads."""
    return [
        *(f"{base}/+simple/{segment}{slash}" for base in ("/open/tools", "/legacy") for slash in ("/", "")),
        *(
            f"{base}/{below}"
            for base in ("", "/open", "/api/v4/projects/44/packages/pypi")
            for below in (f"pypi/{segment}/json", f"pypi/{segment}/1.0/json", f"{segment}/json")
        ),
    ]


def is_no_page(answer: Answer) -> bool:
    return answer.status == 404 and answer["X-Overlay-Decision"] is None and answer["Location"] is None


@pytest.mark.parametrize("segment", INVALID)
def test_T_NAME2_T_NAME3_what_is_no_name_is_404_on_every_route(house: House, segment: str) -> None:
    house.upstream.reset_requests()
    for target in page_routes(segment):
        for method in ("GET", "HEAD"):
            assert is_no_page(house.wire.send(method, target)), (method, target)
    for target in other_routes(segment):
        assert is_no_page(house.wire.get(target)), target
    for suffix in ("", ".metadata", ".provenance"):
        for ending in ("-1.0-py3-none-any.whl", "-1.0.tar.gz"):
            answer = house.wire.get(f"/open/files/{KEY}/{segment}{ending}{suffix}")
            assert answer.status == 404, ending + suffix
    asked = [request.path for request in house.upstream.requests()]
    # The filename of a file may stand for names of its own, all of them in normal form.
    assert all(path.isascii() and "%" not in path for path in asked), asked


@pytest.mark.parametrize("segment", ["a b", "\u212aivy", "a\u017fs", "a\n", "", "-a", "a/b", "\uff41"])
def test_T_NAME3_explain_refuses_what_is_no_name(house: House, segment: str) -> None:
    house.upstream.reset_requests()
    answer = house.wire.get(f"/api/v1/explain?index=/open&name={quote(segment, safe='')}")
    assert answer.status == 404
    assert "is not a valid project name" in answer.json["message"]
    assert house.upstream.requests() == []


@pytest.mark.parametrize("segment", INVALID)
def test_T_NAME2_T_NAME3_what_is_no_name_is_neither_uploaded_nor_administered(
    house: House, segment: str
) -> None:
    house.upstream.reset_requests()
    filename, content = house.wheel("thing").filename, b"x"
    field = forms.text("name", unquote_to_bytes(segment))
    fields = [part for part in forms.fields(filename, content) if part.disposition != 'name="name"']
    form = forms.encode([field, *fields, forms.file(filename, content)])
    assert house.upload("open/tools", form, token=house.owner).status == 400
    package = f"/api/v1/packages/open%2Ftools/{segment}"
    for method, target in (
        ("DELETE", package),
        ("DELETE", f"{package}/1.0"),
        ("PUT", f"{package}/1.0/yank"),
        ("PUT", f"{package}/status"),
        ("DELETE", f"/api/v1/claims/open/{segment}"),
        ("GET", f"/api/v1/packages?namespace=open&name={segment}"),
    ):
        sent = b'{"status": "active"}' if target.endswith("status") else b"{}"
        answer = house.wire.send(method, target, token=house.owner, body=sent if method == "PUT" else None)
        assert answer.status in {400, 404}, (method, target, answer)
    assert house.upstream.requests() == []


@pytest.mark.parametrize("target", ["/open/simple//", "/open/tools/+simple//", "/legacy/+simple//", "//json"])
def test_T_NAME2_an_empty_segment_is_no_name(house: House, target: str) -> None:
    assert is_no_page(house.wire.get(target))
    assert is_no_page(house.wire.get("/open/pypi//json"))


@pytest.mark.parametrize(("spelled", "name"), VALID)
def test_T_NAME1_every_spelling_is_the_one_name_of_a_document(house: House, spelled: str, name: str) -> None:
    house.upstream.reset_requests()
    for target in (f"/open/pypi/{spelled}/json", f"/open/pypi/{spelled}/1.0/json", f"/open/{spelled}/json"):
        answer = house.wire.get(target)
        assert (answer.status, answer["X-Overlay-Decision"]) == (404, "unknown")
    asked = {request.path for request in house.upstream.requests()}
    assert asked <= {f"/simple/{name}/"}


@pytest.mark.parametrize(("spelled", "name"), VALID)
def test_T_NAME1_every_spelling_leads_to_the_one_page(house: House, spelled: str, name: str) -> None:
    for target in page_routes(spelled):
        answer = house.wire.get(target)
        if spelled != name or not target.endswith("/"):
            is_normal = spelled.startswith("%66") and target.endswith("/")
            assert answer.status == (404 if is_normal else 301), target
            if not is_normal:
                assert (answer["Location"] or "").rpartition("../")[2] == f"{name}/"
        else:
            assert (answer.status, answer["X-Overlay-Decision"]) == (404, "unknown")
    explained = house.wire.get(f"/api/v1/explain?index=/open&name={spelled}")
    assert explained.json["name"] == name


@pytest.mark.parametrize(
    "change",
    [str.upper, str.title, lambda name: name.replace("-", "_"), lambda name: name.replace("-", "..")],
)
def test_T_NAME1_a_claimed_name_is_claimed_in_every_spelling_and_never_asked_upstream(
    house: House, change: object
) -> None:
    assert callable(change)
    mine = house.publish("open/tools", f"{house.name()}-the-core")
    house.upstream.add_file(mine.name, mine.filename, mine.content)
    house.upstream.reset_requests()
    spelled = change(mine.name)
    answer = house.wire.get(f"/open/gear/simple/{spelled}/")
    assert (answer.status, answer["Location"]) == (301, f"../{mine.name}/")
    assert house.wire.get(f"/open/gear/simple/{mine.name}/").status == 451
    for filename in (f"{spelled}-1.0.tar.gz", f"{spelled.replace('-', '_')}-1.0-py3-none-any.whl"):
        for beside in ("", ".metadata"):
            answer = house.wire.get(f"/open/gear/files/{mine.sha256}/{filename}{beside}")
            assert (answer.status, answer["X-Overlay-Decision"]) == (403, 'claimed;rule="package open/tools"')
    explained = house.wire.get(f"/api/v1/explain?index=/open/gear&name={spelled}")
    assert explained.json["decision"] == "claimed"
    assert [one for one in house.upstream.asked_for(mine.name) if one.path.startswith("/simple/")] == []


def test_what_is_sent_upstream_is_the_normal_form_alone(house: House) -> None:
    stem = house.name()
    for path in (f"/open/files/{KEY}/{stem.upper()}_X.Y-1.0-py3-none-any.whl", f"/open/simple/{stem}-x-y/"):
        house.wire.get(path)
    assert {one.path for one in house.upstream.asked_for(f"{stem}-x-y")} == {f"/simple/{stem}-x-y/"}
