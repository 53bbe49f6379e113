"""Attacks on uploads (protocol 7): T-UP1 to T-UP8."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from typing import Any

import pytest

from tests.support.wheels import make_sdist, make_wheel
from tests.web import forms
from tests.web.house import House
from tests.web.wire import JSON, Answer, basic

PROJECT = "open/tools"


def send(house: House, body: bytes) -> Answer:
    return house.upload(PROJECT, body, token=house.owner)


def is_refused(answer: Answer, said: str = "") -> bool:
    assert re.fullmatch(r"[ -~]{1,300}", answer.reason)
    assert said in answer.reason, answer.reason
    return answer.status == 400


def is_published(house: House, name: str) -> bool:
    return house.wire.get(f"/{PROJECT}/simple/{name}/")["X-Overlay-Decision"] == "private"


def test_T_UP1_form_filename_and_metadata_must_name_the_same_project_and_version(house: House) -> None:
    mine, other = house.name(), house.name()
    for filename, content, fields in (
        (make_wheel(other, "1.0")[0], make_wheel(other, "1.0")[1], {"name": mine}),
        (make_wheel(mine, "1.0")[0], make_wheel(other, "1.0")[1], {}),
        (make_wheel(mine, "1.0")[0], make_wheel(mine, "2.0")[1], {}),
        (make_wheel(mine, "1.0")[0], make_wheel(mine, "1.0")[1], {"version": "2.0"}),
        (make_sdist(other, "1.0")[0], make_sdist(other, "1.0")[1], {"name": mine}),
        (make_sdist(mine, "1.0")[0], make_sdist(other, "1.0")[1], {}),
    ):
        said = {"name": mine, "version": "1.0"} | fields
        assert is_refused(send(house, forms.upload(filename, content, **said)))
    assert not is_published(house, mine)
    assert not is_published(house, other)


def test_T_UP2_an_ambiguous_sdist_belongs_to_the_name_before_its_last_dash(house: House) -> None:
    stem = house.name()
    filename, content = f"{stem}-bar-1.0.tar.gz", make_sdist(stem, "1.0")[1]
    assert is_refused(send(house, forms.upload(filename, content, name=stem, version="1.0")), f"{stem}-bar")
    # As version 2 of a name that ends in a number, it cannot be had as post-release 1-2.
    filename, content = f"{stem}-1-2.tar.gz", make_sdist(stem, "1-2")[1]
    assert is_refused(send(house, forms.upload(filename, content, name=stem, version="1-2")))
    assert not is_published(house, stem)


@pytest.mark.parametrize(
    "filename",
    [
        "../{name}-1.0.tar.gz",
        "..\\{name}-1.0.tar.gz",
        "C:\\{name}-1.0.tar.gz",
        "/etc/{name}-1.0.tar.gz",
        "a%2f{name}-1.0.tar.gz",
        "{name}-1.0.tar.gz/",
        "{name}-1.0.tar.gz\x00",
        "{name}-1.0.tar.gz\x00.whl",
        "{name}-1.0\t.tar.gz",
        " {name}-1.0.tar.gz",
        "{name}-1.0.tar.gz ",
        "{name}-1.0.TAR.GZ",
        "{name}-1.0.tar.bz2",
        "{name}-1.0.exe",
        "{name}-1.0.egg",
        "{name}-1.0.tar.gz.metadata",
        "{name}-1.0",
        "{name}.tar.gz",
        "-1.0.tar.gz",
        ".tar.gz",
        "",
        ".{name}-1.0.tar.gz",
        "-{name}-1.0.tar.gz",
        "{name}-1.0;x.tar.gz",
        "{name}-1.0\u212a.tar.gz",
        "{name}-1.0.tar.gz\u202e",
        "{name}-" + "1" * 300 + ".tar.gz",
        "{name}-1.0-py3-none-any.WHL",
        "{name}-1.0-py3-none.whl",
        "{name}-1.0-py3-none-any-x-y.whl",
        "{name}-1.0-x-py3-none-any.whl",
        "{name}-x-1.0-py3-none-any.whl",
        "{name}__x-1.0-py3-none-any.whl",
    ],
)
def test_T_UP3_a_filename_that_is_none_is_refused_and_never_a_path(house: House, filename: str) -> None:
    name = house.name()
    content = make_sdist(name, "1.0")[1]
    filename = filename.format(name=name)
    before = sorted(
        str(path) for path in house.server.data_dir.parent.rglob("*") if "objects" not in path.parts
    )
    for filetype in ("sdist", "bdist_wheel"):
        body = forms.upload(filename, content, name=name, version="1.0", filetype=filetype)
        assert is_refused(send(house, body))
    assert not is_published(house, name)
    after = sorted(
        str(path) for path in house.server.data_dir.parent.rglob("*") if "objects" not in path.parts
    )
    assert [path for path in after if path not in before and name in path] == []


@pytest.mark.parametrize(
    "disposition",
    [
        'name="content"; filename="{good}"; filename="{bad}"',
        'name="content"; filename="{good}"; filename*=UTF-8\'\'{bad}',
        'name="content"; name="other"; filename="{good}"',
        "name=\"content\"; filename*=UTF-8''..%2F{good}",
        'filename="{good}"',
        'name=""; filename="{good}"',
        'name="content";; filename="{good}"; filename*0="{bad}"; filename*1="x"',
    ],
)
def test_T_UP3_two_names_in_one_part_are_never_taken_for_the_wrong_one(
    house: House, disposition: str
) -> None:
    name = house.name()
    good, content = make_wheel(name, "1.0")
    bad = f"other{name}-1.0-py3-none-any.whl"
    part = forms.Part(disposition.format(good=good, bad=bad), content)
    answer = send(house, forms.encode([*forms.fields(good, content), part]))
    assert not is_published(house, f"other{name}")
    if answer.status == 201:
        assert answer.json["filename"] == good
    else:
        assert is_refused(answer)


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "version",
        ":action",
        "filetype",
        "protocol_version",
        "metadata_version",
        "sha256_digest",
        "summary",
    ],
)
def test_T_UP4_a_field_that_may_stand_once_stands_once(house: House, field: str) -> None:
    name = house.name()
    filename, content = make_wheel(name, "1.0")
    fields = [*forms.fields(filename, content), forms.text("summary", "x")]
    (given,) = (part for part in fields if part.disposition == f'name="{field}"')
    for second in (given.content, b"", b"UNKNOWN", b"other"):
        for order in (1, -1):
            twice = [*fields, forms.text(field, second)][::order]
            body = forms.encode([*twice, forms.file(filename, content)])
            assert is_refused(send(house, body), f"the field '{field}' stands twice")
    assert not is_published(house, name)


def test_T_UP4_lists_may_have_many_values(house: House) -> None:
    filename, content = make_wheel(house.name(), "1.0")
    lists = [forms.text("classifiers", f"C :: {number}") for number in range(800)]
    lists += [forms.text("requires_dist", f"r{number}") for number in range(800)]
    body = forms.encode([*forms.fields(filename, content), *lists, forms.file(filename, content)])
    assert send(house, body).status == 201


def test_T_UP5_a_file_is_never_overwritten(house: House) -> None:
    mine = house.publish(PROJECT)
    for filename, content in (
        make_wheel(mine.name, "1.0", modules={"x.py": "other"}),
        make_wheel(mine.name, "1.0", size=1000),
    ):
        assert filename == mine.filename
        assert is_refused(send(house, forms.upload(filename, content)), "already exists")
    page = house.wire.get(f"/{PROJECT}/simple/{mine.name}/", headers={"Accept": JSON})
    assert [file["hashes"]["sha256"] for file in page.json["files"]] == [mine.sha256]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([forms.text("classifiers", "x")] * 2001, "more than 2000 fields"),
        ([forms.text("keywords", "k" * ((1 << 20) + 1))], "'keywords' is over 1 MiB"),
        ([forms.text("x" * 3000, "y" * ((1 << 20) + 1))], "is over 1 MiB"),
        ([forms.text(f"x{number}", "y" * (1 << 20)) for number in range(17)], "more than 16 MiB"),
        ([forms.file("x.asc", b"s" * ((1 << 20) + 1), name="gpg_signature")], "is over 1 MiB"),
        ([forms.text("summary", b"\xff\xfe")], "'summary' is not UTF-8"),
    ],
    ids=["parts", "field", "unknown field", "text", "signature", "encoding"],
)
def test_T_UP6_a_form_has_limits(house: House, parts: list[forms.Part], said: str) -> None:
    name = house.name()
    filename, content = make_wheel(name, "1.0")
    body = forms.encode([*forms.fields(filename, content), *parts, forms.file(filename, content)])
    assert is_refused(send(house, body), said)
    assert not is_published(house, name)


def test_T_UP6_the_head_of_a_part_has_limits(house: House) -> None:
    filename, content = make_wheel(house.name(), "1.0")
    for headers in ({"X-Long": "y" * 200_000}, {f"X-{number}": "y" for number in range(5000)}):
        part = forms.Part('name="summary"', b"x", headers)
        body = forms.encode([part, *forms.fields(filename, content), forms.file(filename, content)])
        assert is_refused(send(house, body))


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "deflate"},
        {"Content_Transfer_Encoding": "base64"},
        {"Content_Transfer_Encoding": "quoted-printable"},
        {"Content_Transfer_Encoding": "nonsense"},
    ],
)
def test_T_UP7_an_encoded_part_is_refused(house: House, headers: dict[str, Any]) -> None:
    name = house.name()
    filename, content = make_wheel(name, "1.0")
    fields = forms.fields(filename, content)
    encoded = forms.file(filename, gzip.compress(content), **headers)
    assert is_refused(send(house, forms.encode([*fields, encoded])), "'content' is encoded")
    field = forms.text("summary", gzip.compress(b"x"), **headers)
    assert is_refused(
        send(house, forms.encode([*fields, field, forms.file(filename, content)])), "is encoded"
    )
    assert not is_published(house, name)


@pytest.mark.parametrize("coding", ["binary", "8bit", "7bit", "BINARY"])
def test_T_UP7_an_encoding_that_changes_nothing_is_accepted(house: House, coding: str) -> None:
    filename, content = make_wheel(house.name(), "1.0")
    part = forms.file(filename, content, Content_Transfer_Encoding=coding)
    assert send(house, forms.encode([*forms.fields(filename, content), part])).status == 201


@pytest.mark.parametrize(
    "text", ["1\r\nSet-Cookie: a=b", "1\r\n\r\n<script>", "\u2028\x00\x1b[31m", "x" * 100_000, "ü" * 400]
)
@pytest.mark.parametrize("field", ["name", "version", "filetype", ":action", "sha256_digest"])
def test_T_UP8_no_text_of_the_form_gets_out_of_the_reason_phrase(house: House, field: str, text: str) -> None:
    filename, content = make_wheel(house.name(), "1.0")
    key = "action" if field == ":action" else field
    answer = send(house, forms.upload(filename, content, **{key: text}))
    assert is_refused(answer)
    assert answer["Set-Cookie"] is None
    assert "\x1b" not in answer.text
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nnonsense\r\n0\r\n\r\n", b"5\r\n--a-bXXXX", b"-1\r\nx\r\n0\r\n\r\n", b"fffffffffffffffffff\r\n"],
)
def test_T_POIS4_chunks_that_are_none_are_400_and_no_fault_of_ours(house: House, body: bytes) -> None:
    begin = house.log_end()
    head = f"POST /{PROJECT}/ HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(house.owner)}\r\n"
    head += f"Content-Type: {forms.FORM_TYPE['Content-Type']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert house.wire.exchange([head.encode(), body]).status == 400
    assert [line for line in house.log(begin) if line["event"] == "request failed"] == []


@pytest.mark.parametrize(
    "target",
    [
        *("/legacy", "/legacy/", "/open/tools", "/open/tools/", "/api/v4/projects/44/packages/pypi", "/"),
        *("/simple", "/simple/", "/open/simple", "/open/simple/Foo", "/open/simple/Foo/", "/open/simple/foo"),
        *("/open", "/open/", "/open/tools/simple", "/open/pypi/foo/json/", "/legacy/+simple/Foo", "/nowhere"),
    ],
)
def test_no_POST_is_ever_redirected(house: House, target: str) -> None:
    """flit takes a 301 for a GET and reports success; every other client but uv fails (protocol 3.2)."""
    answer = house.wire.send("POST", target, token=house.owner, headers=forms.FORM_TYPE, body=b"")
    assert 400 <= answer.status < 500, answer
    assert answer["Location"] is None


@pytest.mark.parametrize("version", ["1.0", "2.0", "2.5", "2.99"])
def test_every_metadata_version_that_a_backend_may_write_is_taken(house: House, version: str) -> None:
    """hatchling writes 2.5 already, and an index that knows a list of versions stops working one day."""
    name = house.name()
    filename, made = make_wheel(name, "1.0")
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(made)) as old, zipfile.ZipFile(packed, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member.endswith("/METADATA"):
                content = re.sub(
                    rb"(?m)^Metadata-Version: .*$", b"Metadata-Version: " + version.encode(), content
                )
            new.writestr(member, content)
    body = forms.upload(filename, packed.getvalue(), metadata_version=version)
    assert send(house, body).status == 201
    assert is_published(house, name)


@pytest.mark.parametrize("field", ["name", "version", "summary", "classifiers", ":action"])
def test_a_text_that_comes_as_a_file_is_refused(house: House, field: str) -> None:
    name = house.name()
    filename, content = make_wheel(name, "1.0")
    fields = [part for part in forms.fields(filename, content) if part.disposition != f'name="{field}"']
    as_file = forms.file("x.txt", b"file_upload" if field == ":action" else b"1.0", name=field)
    body = forms.encode([*fields, as_file, forms.file(filename, content)])
    assert is_refused(send(house, body), "must be text, not a file")
    assert not is_published(house, name)
