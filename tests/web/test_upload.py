"""Uploads by raw requests: what is refused, in which order, how it is said, and what gets through."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
import socket
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import proxy
from tests.support.attestations import attest
from tests.support.waiting import wait_until
from tests.support.wheels import make_sdist, make_wheel
from tests.web import forms
from tests.web.house import MAX_DESCRIPTION, MAX_FILE, House, keep_house, spellings
from tests.web.wire import JSON, Answer, basic, receive

PROJECT = "open/tools"
# Clients take an answer that says one of these for "skip this file" (protocol 3.3).
SKIPPED = (
    "already exist",
    "already been taken",
    "was ever registered",
    "updating asset",
    "cannot be updated",
    "overwrite artifact",
)


def refused(answer: Answer, status: int, *said: str, duplicate: bool = False) -> None:
    """See that a refusal says what is wrong in the reason phrase and in the body, in one line of ASCII."""
    assert answer.status == status, (answer.status, answer.reason)
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Cache-Control"] == "no-store"
    assert re.fullmatch(r"[ -~]{1,300}", answer.reason), answer.reason
    assert answer.text.startswith(f"{status} {answer.reason[:200]}")
    for words in said:
        assert words in answer.reason, answer.reason
    told = (answer.text + answer.reason).lower()
    assert any(words in told for words in SKIPPED) == duplicate, told
    assert "traceback" not in told
    assert "/data" not in told


def page_of(house: House, name: str) -> list[str]:
    """The filenames that a name has in the project, at this moment."""
    answer = house.wire.get(f"/{PROJECT}/simple/{name}/", headers={"Accept": JSON}, token=house.owner)
    if answer.status == 404:
        return []
    return [file["filename"] for file in answer.json["files"]]


def stored_fields(house: House, name: str) -> dict[str, Any]:
    """What the registry keeps of the form of a name's only file."""
    address = f"file:{house.server.data_dir / 'registry.sqlite'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as registry:
        tables = [row[0] for row in registry.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in registry.execute(f"PRAGMA table_info({table})")]
            if {"fields", "filename"} <= set(columns):
                found = registry.execute(
                    f"SELECT fields FROM {table} WHERE filename LIKE ?", (f"{name}-%",)
                ).fetchall()
                assert len(found) == 1
                fields: dict[str, Any] = json.loads(found[0][0])
                return fields
    raise AssertionError("no table has the fields of uploads")


# What gets through


@pytest.mark.parametrize("sdist", [False, True], ids=["wheel", "sdist"])
@pytest.mark.parametrize("base", [base + slash for base in spellings(PROJECT) for slash in ("", "/")])
def test_an_upload_succeeds_at_every_spelling_of_its_project(house: House, base: str, sdist: bool) -> None:
    name = house.name()
    filename, content = make_sdist(name, "1.0") if sdist else make_wheel(name, "1.0")
    answer = house.wire.send(
        "POST", base, token=house.tokens["dan"], headers=forms.FORM_TYPE, body=forms.upload(filename, content)
    )
    assert answer.status == 201
    assert answer.json == {
        "name": name,
        "version": "1.0",
        "filename": filename,
        "sha256": hashlib.sha256(content).hexdigest(),
        "project": PROJECT,
        "warnings": [],
    }
    assert answer["Content-Type"] == "application/json"
    assert answer["Cache-Control"] == "no-store"
    file = house.wire.get(f"/{PROJECT}/files/{answer.json['sha256']}/{filename}")
    assert (file.status, file.body) == (200, content)


@pytest.mark.parametrize("target", ["/legacy", "/legacy/"])
def test_the_legacy_address_publishes_to_the_default_project(house: House, target: str) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content)
    answer = house.wire.send("POST", target, token=house.owner, headers=forms.FORM_TYPE, body=body)
    assert (answer.status, answer.json["project"]) == (201, "default")
    assert house.wire.get(f"/default/files/{stored.sha256}/{stored.filename}").status == 200


def test_the_order_of_fields_does_not_matter(house: House) -> None:
    for order in (lambda parts: [parts[-1], *parts[:-1]], lambda parts: parts[::-1]):
        stored = house.wheel(house.name())
        parts = [*forms.fields(stored.filename, stored.content), forms.file(stored.filename, stored.content)]
        answer = house.upload(PROJECT, forms.encode(order(parts)), token=house.owner)
        assert answer.status == 201, answer


def test_fields_behind_the_file_count(house: House) -> None:
    stored = house.wheel(house.name())
    body = forms.encode(
        [
            forms.file(stored.filename, stored.content),
            *forms.fields(stored.filename, stored.content, sha256_digest="0" * 64),
        ]
    )
    refused(house.upload(PROJECT, body, token=house.owner), 400, "sha256_digest does not match")


def test_the_action_may_stand_in_the_query(house: House) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content, action=None)
    answer = house.wire.send(
        "POST", f"/{PROJECT}/?:action=file_upload", token=house.owner, headers=forms.FORM_TYPE, body=body
    )
    assert answer.status == 201


def test_empty_fields_and_UNKNOWN_count_as_absent_and_strangers_are_ignored(house: House) -> None:
    stored = house.wheel(house.name())
    parts = forms.fields(stored.filename, stored.content, md5_digest="", blake2_256_digest="UNKNOWN")
    parts += [
        forms.text(name, "") for name in ("summary", "classifiers", "keywords", "maintainer", "comment")
    ]
    parts += [forms.text(name, "UNKNOWN") for name in ("author", "license", "home_page")]
    parts += [
        forms.text("never-heard-of", "x"),
        forms.text("provides_extras", "y"),
        forms.text("import_names", "z"),
        forms.text("attestations", ""),
    ]
    parts.append(forms.file(stored.filename, stored.content))
    assert house.upload(PROJECT, forms.encode(parts), token=house.owner).status == 201


def test_a_signature_is_read_and_forgotten(house: House) -> None:
    stored = house.wheel(house.name())
    signature = forms.file(f"{stored.filename}.asc", b"-----BEGIN PGP SIGNATURE-----", name="gpg_signature")
    parts = [
        signature,
        *forms.fields(stored.filename, stored.content),
        forms.file(stored.filename, stored.content),
    ]
    assert house.upload(PROJECT, forms.encode(parts), token=house.owner).status == 201
    assert page_of(house, stored.name) == [stored.filename]


def test_a_file_part_without_a_content_type_is_accepted(house: House) -> None:
    stored = house.wheel(house.name())
    part = forms.Part(f'name="content"; filename="{stored.filename}"', stored.content)
    body = forms.encode([*forms.fields(stored.filename, stored.content), part])
    assert house.upload(PROJECT, body, token=house.owner).status == 201


def test_a_chunked_upload_is_accepted(house: House) -> None:
    stored = house.wheel(house.name(), size=300_000)
    body = forms.upload(stored.filename, stored.content)
    pieces = [body[start : start + 7777] for start in range(0, len(body), 7777)]
    answer = house.wire.send("POST", f"/{PROJECT}/", token=house.owner, headers=forms.FORM_TYPE, body=pieces)
    assert answer.status == 201


def test_every_digest_is_checked_and_right_ones_pass_in_any_case(house: House) -> None:
    stored = house.wheel(house.name())
    digests = {
        "md5_digest": hashlib.md5(stored.content).hexdigest(),
        "sha256_digest": stored.sha256,
        "blake2_256_digest": hashlib.blake2b(stored.content, digest_size=32).hexdigest(),
    }
    for key, value in digests.items():
        wrong = digests | {key: "0" * len(value)}
        answer = house.upload(
            PROJECT, forms.upload(stored.filename, stored.content, **wrong), token=house.owner
        )
        refused(answer, 400, f"{key} does not match the file")
    right = {key: value.upper() for key, value in digests.items()}
    answer = house.upload(PROJECT, forms.upload(stored.filename, stored.content, **right), token=house.owner)
    assert answer.status == 201


def test_a_long_description_is_cut_at_the_limit_and_not_refused(house: House) -> None:
    stored = house.wheel(house.name())
    description = "ä" * MAX_DESCRIPTION + "b" * (2 << 20)
    body = forms.upload(stored.filename, stored.content, description=description, summary="s" * 600)
    assert house.upload(PROJECT, body, token=house.owner).status == 201
    assert stored_fields(house, stored.name)["description"] == "ä" * MAX_DESCRIPTION


def test_what_the_index_says_comes_from_the_file_and_not_from_the_form(house: House) -> None:
    stored = house.wheel(house.name(), requires_python=">=3.9")
    body = forms.upload(stored.filename, stored.content, requires_python=">=2.7")
    assert house.upload(PROJECT, body, token=house.owner).status == 201
    page = house.wire.get(f"/{PROJECT}/simple/{stored.name}/", headers={"Accept": JSON})
    assert page.json["files"][0]["requires-python"] == ">=3.9"


# What is refused


def changed(**fields: str | None) -> dict[str, str | None]:
    return fields


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (changed(action=None), ":action"),
        (changed(action="remove_pkg"), "unknown :action 'remove_pkg'"),
        (changed(protocol_version="2"), "protocol_version"),
        (changed(name=None), "lacks name"),
        (changed(version=None), "lacks version"),
        (changed(name=None, version="UNKNOWN"), "lacks name and version"),
        (changed(name="-x-"), "'-x-' is not a valid project name"),
        (changed(name="a b"), "is not a valid project name"),
        (changed(name="\u212aivy"), "is not a valid project name"),
        (changed(name="n" * 600), "is not a valid project name"),
        (changed(version="one"), "'one' is not a valid version"),
        (changed(version="1.0 "), "'1.0 ' is not a valid version"),
        (changed(version="1.0\n"), "is not a valid version"),
        (changed(version="\u0661.0"), "is not a valid version"),
        (changed(version="1.0/../2"), "'1.0/../2' is not a valid version"),
        (changed(version="2.0"), "says version 1.0, the form 2.0"),
        (changed(name="another"), "not to another"),
        (changed(filetype=None), "filetype"),
        (changed(filetype="bdist_egg"), "filetype 'bdist_egg'"),
        (changed(filetype="sdist", pyversion="source"), "is no sdist"),
        (changed(filetype="sdist"), "pyversion 'py3'"),
        (changed(sha256_digest="abc"), "sha256_digest is not 64 hexadecimal digits"),
        (changed(md5_digest="g" * 32), "md5_digest is not 32 hexadecimal digits"),
        (changed(blake2_256_digest="0" * 63), "blake2_256_digest is not 64"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_form_that_makes_no_sense_is_400(house: House, fields: dict[str, str | None], said: str) -> None:
    stored = house.wheel(house.name())
    answer = house.upload(PROJECT, forms.upload(stored.filename, stored.content, **fields), token=house.owner)
    refused(answer, 400, said)
    assert page_of(house, stored.name) == []


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("submit", "no longer registered"),
        ("submit_pkg_info", "no longer registered"),
        ("doc_upload", "documentation"),
    ],
)
def test_what_indexes_used_to_do_is_410(house: House, action: str, said: str) -> None:
    for target, fields in (
        (f"/{PROJECT}/", [forms.text(":action", action)]),
        (f"/{PROJECT}/?:action={action}", []),
    ):
        body = forms.encode([forms.text("name", "x"), forms.text("version", "1"), *fields])
        answer = house.wire.send("POST", target, token=house.owner, headers=forms.FORM_TYPE, body=body)
        refused(answer, 410, said, "upload the files of a release instead")


@pytest.mark.parametrize(
    "accept", ["application/json", "application/json;q=0.9, text/plain;q=0.8, text/html;q=0.7"]
)
def test_a_refusal_is_bare_JSON_for_those_who_ask_for_it(house: House, accept: str) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content, version="ö1")
    answer = house.upload(PROJECT, body, token=house.owner, Accept=accept)
    assert (answer.status, answer["Content-Type"]) == (400, "application/json")
    message = answer.json["message"]
    assert answer.json == {"code": f"400 {message}", "message": message, "title": "Bad Request"}
    assert answer.reason == message
    assert message.isascii()


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*", "application/problem+json", "text/html", "application/json;q=0"]
)
def test_a_refusal_is_plain_text_for_all_others(house: House, accept: str) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content, version="x")
    refused(house.upload(PROJECT, body, token=house.owner, Accept=accept), 400, "'x' is not a valid version")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda name: make_wheel(name, "1.0", metadata_name="another"),
            "metadata says another 1.0 but the filename says",
        ),
        (lambda name: make_wheel(name, "1.0", metadata_version_field="2.0"), "2.0 but the filename says"),
        (lambda name: make_sdist(name, "1.0", metadata_name="another"), "metadata says another 1.0 but"),
        (lambda name: (make_wheel(name, "1.0")[0], b"PK\x03\x04 no zip at all"), ""),
        (lambda name: (make_wheel(name, "1.0")[0], make_wheel(name, "1.0")[1][:-30]), ""),
        (lambda name: (make_wheel(name, "1.0")[0], b""), ""),
        (lambda name: (make_wheel(name, "1.0")[0], make_sdist(name, "1.0")[1]), ""),
        (lambda name: (make_sdist(name, "1.0")[0], b"\x1f\x8b no gzip"), ""),
        (lambda name: (make_sdist(name, "1.0")[0], make_sdist(name, "1.0")[1][:100]), ""),
    ],
    ids=[
        "name",
        "version",
        "sdist's name",
        "no zip",
        "half a zip",
        "empty",
        "sdist as wheel",
        "no gzip",
        "stump of a tar",
    ],
)
def test_an_archive_that_is_broken_or_says_otherwise_is_400(house: House, make: Any, said: str) -> None:
    name = house.name()
    filename, content = make(name)
    refused(house.upload(PROJECT, forms.upload(filename, content), token=house.owner), 400, said)
    assert page_of(house, name) == []


def test_a_body_that_is_no_form_is_400(house: House) -> None:
    for headers in (
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ):
        answer = house.wire.send("POST", f"/{PROJECT}/", token=house.owner, headers=headers, body=b"name=x")
        refused(answer, 400, "multipart/form-data")
    for body in (b"", b"nothing of a form", b"--x\r\n\r\n", f"--{forms.BOUNDARY}".encode(), b"\x00" * 1000):
        refused(house.upload(PROJECT, body, token=house.owner), 400)
    nested = forms.text("x", "y", Content_Type="multipart/mixed; boundary=inner")
    refused(house.upload(PROJECT, forms.encode([nested]), token=house.owner), 400)
    answer = house.wire.send(
        "POST", f"/{PROJECT}/", token=house.owner, headers={"Content-Type": "multipart/form-data"}, body=b"x"
    )
    refused(answer, 400)


def test_T_UP6_a_form_without_its_end_is_400_and_leaves_nothing(house: House) -> None:
    stored = house.wheel(house.name())
    parts = [*forms.fields(stored.filename, stored.content), forms.file(stored.filename, stored.content)]
    for body in (
        forms.encode(parts, end=False),
        forms.encode(parts, end=False)[:-2],
        forms.encode(parts)[:-10],
    ):
        refused(house.upload(PROJECT, body, token=house.owner), 400)
    assert page_of(house, stored.name) == []


def test_a_form_needs_exactly_one_file_in_the_field_content(house: House) -> None:
    stored = house.wheel(house.name())
    fields = forms.fields(stored.filename, stored.content)
    file = forms.file(stored.filename, stored.content)
    for parts, said in (
        (fields, "the form has no file"),
        ([*fields, file, file], "one file"),
        ([*fields, forms.text("content", stored.content)], "one file"),
        ([*fields, forms.file(stored.filename, stored.content, name="file")], "must be text"),
    ):
        refused(house.upload(PROJECT, forms.encode(parts), token=house.owner), 400, said)


# Duplicates


def test_the_same_file_again_is_400_whatever_its_bytes(house: House) -> None:
    stored = house.publish(PROJECT)
    for content in (stored.content, make_wheel(stored.name, "1.0", modules={"x.py": "1"})[1]):
        answer = house.upload(PROJECT, forms.upload(stored.filename, content), token=house.owner)
        refused(answer, 400, stored.filename, "already exists", duplicate=True)
    assert house.wire.get(f"/{PROJECT}/files/{stored.sha256}/{stored.filename}").body == stored.content


@pytest.mark.parametrize("version", ["1.0.0", "v1.0", "1"])
def test_an_equal_version_in_another_spelling_is_a_duplicate(house: House, version: str) -> None:
    stored = house.publish(PROJECT)
    filename, content = make_wheel(stored.name, version)
    answer = house.upload(PROJECT, forms.upload(filename, content), token=house.owner)
    refused(answer, 400, "already exists", duplicate=True)


def test_an_sdist_in_another_spelling_is_a_duplicate(house: House) -> None:
    stem = house.name()
    house.publish(PROJECT, f"{stem}-core", sdist=True)
    content = make_sdist(f"{stem}-core", "1.0")[1]
    answer = house.upload(PROJECT, forms.upload(f"{stem}.Core-1.0.tar.gz", content), token=house.owner)
    refused(answer, 400, "already exists", duplicate=True)


def test_other_tags_builds_and_kinds_of_a_release_are_no_duplicates(house: House) -> None:
    stored = house.publish(PROJECT)
    for contents in ({"tag": "py2-none-any"}, {"tag": "cp311-cp311-linux_x86_64"}, {"build": "1"}):
        house.publish(PROJECT, stored.name, **contents)  # type: ignore[arg-type]
    house.publish(PROJECT, stored.name, sdist=True)
    assert len(page_of(house, stored.name)) == 5


def test_T_UP5_a_deleted_file_may_be_published_again_and_the_audit_has_both(house: House) -> None:
    stored = house.publish(PROJECT)
    house.delete(PROJECT, stored.name)
    assert page_of(house, stored.name) == []
    content = make_wheel(stored.name, "1.0", modules={"x.py": "1"})[1]
    assert house.upload(PROJECT, forms.upload(stored.filename, content), token=house.owner).status == 201
    assert page_of(house, stored.name) == [stored.filename]
    address = f"file:{house.server.data_dir / 'registry.sqlite'}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as registry:
        query = "SELECT action FROM audit WHERE name = ? ORDER BY id"
        actions = [row[0] for row in registry.execute(query, (stored.name,))]
    assert actions == ["file.upload", "file.delete", "file.upload"]


def test_of_racing_uploads_of_one_filename_exactly_one_succeeds(house: House) -> None:
    name = house.name()
    contents = [
        make_wheel(name, "1.0", size=200_000, modules={"x.py": str(number)})[1] for number in range(6)
    ]
    filename = f"{name}-1.0-py3-none-any.whl"
    begin = threading.Barrier(len(contents))

    def send(content: bytes) -> Answer:
        body = forms.upload(filename, content)
        begin.wait(10)
        return house.upload(PROJECT, body, token=house.owner)

    with ThreadPoolExecutor(len(contents)) as pool:
        answers = list(pool.map(send, contents))
    assert sorted(answer.status for answer in answers) == [201] + [400] * 5
    (winner,) = (content for content, answer in zip(contents, answers, strict=True) if answer.status == 201)
    digest = hashlib.sha256(winner).hexdigest()
    assert house.wire.get(f"/{PROJECT}/files/{digest}/{filename}").body == winner
    assert page_of(house, name) == [filename]


ACCEPTING = "vault/safe"
"""A project whose policy accepts identical uploads and rejects local versions."""


def test_the_same_bytes_again_are_200_where_the_policy_accepts_them(house: House) -> None:
    stored = house.publish(ACCEPTING)
    again = house.upload(ACCEPTING, forms.upload(stored.filename, stored.content), token=house.owner)
    assert (again.status, again["Content-Type"]) == (200, "application/json")
    assert again.json == {
        "name": stored.name,
        "version": "1.0",
        "filename": stored.filename,
        "sha256": stored.sha256,
        "project": ACCEPTING,
        "warnings": ["these bytes are published; nothing was changed"],
    }
    other = make_wheel(stored.name, "1.0", modules={"x.py": "1"})[1]
    answer = house.upload(ACCEPTING, forms.upload(stored.filename, other), token=house.owner)
    refused(answer, 400, f"File already exists: {stored.filename}", duplicate=True)
    file = house.wire.get(f"/{ACCEPTING}/files/{stored.sha256}/{stored.filename}")
    assert file.body == stored.content


def test_a_local_version_is_400_and_quoted_where_the_policy_rejects_them(house: House) -> None:
    filename, content = make_wheel(house.name(), "1.0+acme")
    answer = house.upload(ACCEPTING, forms.upload(filename, content), token=house.owner)
    refused(answer, 400, "'1.0+acme' is a local version, which is not accepted here")
    assert house.upload(PROJECT, forms.upload(filename, content), token=house.owner).status == 201


# Attestations


@pytest.mark.parametrize("last", [True, False], ids=["as uv sends them", "as twine sends them"])
def test_attestations_are_served_as_provenance(house: House, last: bool) -> None:
    stored = house.wheel(house.name())
    given = [attest(stored.filename, stored.content)]
    field = forms.text("attestations", json.dumps(given))
    file = forms.file(stored.filename, stored.content)
    parts = [*forms.fields(stored.filename, stored.content), *([file, field] if last else [field, file])]
    assert house.upload(PROJECT, forms.encode(parts), token=house.tokens["dan"]).status == 201
    answer = house.wire.get(f"/{PROJECT}/files/{stored.sha256}/{stored.filename}.provenance")
    assert answer.status == 200
    assert answer.json == {
        "version": 1,
        "attestation_bundles": [
            {"publisher": {"kind": "pypi-overlay", "user": "dan"}, "attestations": given}
        ],
    }


def test_attestations_that_are_none_are_400_and_the_file_is_not_published(house: House) -> None:
    stored = house.wheel(house.name())
    for text, said in (
        ("nonsense", "the field attestations cannot be read"),
        ("[]", "the field attestations holds none"),
        (json.dumps([attest(stored.filename, b"other")]), "another sha256"),
        (json.dumps([attest("other-1.0-py3-none-any.whl", stored.content)]), "is about 'other-1.0"),
    ):
        body = forms.upload(stored.filename, stored.content, attestations=text)
        refused(house.upload(PROJECT, body, token=house.owner), 400, said)
    assert page_of(house, stored.name) == []


# Size and space


def test_a_file_over_the_limit_is_413_and_the_client_gets_to_see_it(house: House) -> None:
    name = house.name()
    filename, content = f"{name}-1.0-py3-none-any.whl", b"x" * (MAX_FILE + 1)
    body = forms.upload(filename, content)
    answer = house.upload(PROJECT, body, token=house.owner)
    refused(answer, 413, f"limit of {MAX_FILE} bytes")
    pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    answer = house.wire.send("POST", f"/{PROJECT}/", token=house.owner, headers=forms.FORM_TYPE, body=pieces)
    refused(answer, 413, f"limit of {MAX_FILE} bytes")
    assert page_of(house, name) == []


def test_a_body_far_over_the_limit_is_413_after_all_of_it_was_read(house: House) -> None:
    """40 MiB: far more than socket buffers hold, so a server that stops reading would break the connection."""
    filename, content = f"{house.name()}-1.0-py3-none-any.whl", b"x" * (40 << 20)
    refused(house.upload(PROJECT, forms.upload(filename, content), token=house.owner), 413)


def test_a_file_of_exactly_the_limit_is_not_too_large(house: House) -> None:
    filename = f"{house.name()}-1.0-py3-none-any.whl"
    answer = house.upload(PROJECT, forms.upload(filename, b"x" * MAX_FILE), token=house.owner)
    refused(answer, 400)


def test_without_room_an_upload_is_507_at_once_but_only_for_those_who_may_publish(house: House) -> None:
    """The body never comes: a 507 does not wait for it, any other refusal does for as long as one may stand still."""
    for token, status, said in (
        (None, 401, "publishing needs credentials"),
        (house.tokens["rita"], 403, "may not publish to open/tools"),
        (house.owner, 507, "no room"),
    ):
        lines = [f"POST /{PROJECT}/ HTTP/1.1", f"Host: {house.wire.host}", f"Content-Length: {1 << 60}"]
        lines.append(f"Content-Type: {forms.FORM_TYPE['Content-Type']}")
        if token:
            lines.append(f"Authorization: {basic(token)}")
        with socket.create_connection(house.wire.address, 20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = receive(connection)
        refused(answer, status, said)
        assert (house.logged(answer)["ms"] > 900) == (status != 507)


# Every refusal that there is, in both forms: clients show the phrase or the body (protocol 3.2)

UV_ACCEPTS = "application/json;q=0.9, text/plain;q=0.8, text/html;q=0.7"


@dataclass(frozen=True, slots=True)
class Try:
    """An upload that is refused: to `target`, by `user`, with a wheel whose form was changed."""

    status: int
    said: str
    target: str = f"/{PROJECT}/"
    user: str | None = "owner"
    fields: dict[str, str | None] = field(default_factory=dict)
    more: tuple[forms.Part, ...] = ()
    file: Callable[[str], tuple[str, bytes]] = lambda name: make_wheel(name, "1.0")
    name: Callable[[House], str] = lambda house: house.name()
    headers: dict[str, str] = field(default_factory=lambda: dict(forms.FORM_TYPE))
    body: bytes | None = None

    def send(self, house: House, accept: str) -> Answer:
        filename, content = self.file(self.name(house))
        fields = forms.fields(filename, content, **self.fields)
        body = forms.encode([*fields, *self.more, forms.file(filename, content)])
        tokens = {None: None, "owner": house.owner, "nobody": "pyo_pat_nonsense"}
        token = tokens[self.user] if self.user in tokens else house.tokens[str(self.user)]
        return house.wire.send(
            "POST",
            self.target,
            token=token,
            headers={**self.headers, "Accept": accept},
            body=body if self.body is None else self.body,
        )


def owned_by(project: str) -> Callable[[House], str]:
    """The name of a package that was published there just now."""
    return lambda house: house.publish(project).name


REFUSALS = [
    Try(401, "publishing needs credentials", user=None),
    Try(401, "these credentials are not valid", user="nobody"),
    Try(401, "needs credentials", "/acme/widgets/", user=None),
    Try(403, "may not publish to open/tools", user="rita"),
    Try(403, "belongs to another project of acme", "/acme/widgets/", "dan", name=owned_by("acme/sandbox")),
    Try(403, "belongs to the instance", user="dan", name=owned_by("default")),
    Try(403, "reserved by another group", user="dan", name=lambda house: house.name("acme-")),
    Try(404, "there is no group or project", "/acme/widgets/", "otto"),
    Try(404, "there is no group or project", "/nowhere/", "dan"),
    Try(405, "open is a group", "/open/"),
    Try(405, "open is a group", "/open/", user=None),
    Try(405, "publish to /open/tools/", "/open/tools/simple/"),
    Try(410, "no longer registered", fields={"action": "submit"}),
    Try(410, "documentation is not hosted", fields={"action": "doc_upload"}),
    Try(413, "limit of", file=lambda name: (f"{name}-1.0-py3-none-any.whl", b"x" * (MAX_FILE + 1))),
    Try(400, "multipart/form-data", headers={"Content-Type": "text/plain"}),
    Try(400, "not a well-formed multipart form", body=b"nothing of a form"),
    Try(400, "form within", more=(forms.text("x", "", Content_Type="multipart/mixed; boundary=y"),)),
    Try(400, "has no name", more=(forms.Part('nothing="x"', b""),)),
    Try(400, "'x' is encoded", more=(forms.text("x", "y", Content_Encoding="gzip"),)),
    Try(400, "'name' stands twice", more=(forms.text("name", "x"),)),
    Try(400, "'summary' must be text", more=(forms.file("x", b"y", name="summary"),)),
    Try(400, "'summary' is not UTF-8", more=(forms.text("summary", b"\xff"),)),
    Try(400, "over 1 MiB", more=(forms.text("summary", "x" * ((1 << 20) + 1)),)),
    Try(400, "more than 2000 fields", more=(forms.text("classifiers", "x"),) * 2001),
    Try(400, "one file", more=(forms.file("x", b"y"),)),
    Try(400, "has no file", body=forms.encode(forms.fields("x-1.0-py3-none-any.whl", b""))),
    Try(400, "unknown :action", fields={"action": "x"}),
    Try(400, "unknown protocol_version", fields={"protocol_version": "2"}),
    Try(400, "lacks name and version", fields={"name": None, "version": None}),
    Try(400, "not a valid project name", fields={"name": "a b"}),
    Try(400, "'x' is not a valid version", fields={"version": "x"}),
    Try(400, "is a local version", f"/{ACCEPTING}/", file=lambda name: make_wheel(name, "1.0+a")),
    Try(400, "filetype 'x'", fields={"filetype": "x"}),
    Try(400, "pyversion 'x'", fields={"filetype": "sdist", "pyversion": "x"}),
    Try(400, "is no sdist", fields={"filetype": "sdist", "pyversion": None}),
    Try(400, "not 64 hexadecimal digits", fields={"sha256_digest": "x"}),
    Try(400, "does not match the file", fields={"sha256_digest": "0" * 64}),
    Try(400, "not to another", fields={"name": "another"}),
    Try(400, "says version 1.0, the form 2.0", fields={"version": "2.0"}),
    Try(
        400,
        "not the filename of",
        fields={"version": "1.0"},
        file=lambda name: (f"{name}-1.0.egg", b"x"),
    ),
    Try(400, "not a valid wheel filename", file=lambda name: (f"{name}-1.0-x.whl", b"x")),
    Try(400, "but the filename says", file=lambda name: make_wheel(name, "1.0", metadata_name="other")),
    Try(400, "", file=lambda name: (make_wheel(name, "1.0")[0], b"no zip")),
    Try(400, "", file=lambda name: (make_sdist(name, "1.0")[0], b"no gzip")),
    Try(400, "holds none", fields={"attestations": "[]"}),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.status} {refusal.said}")
def test_every_refusal_is_readable_in_every_client(house: House, refusal: Try) -> None:
    answer = refusal.send(house, "*/*")
    refused(answer, refusal.status, refusal.said)
    told = refusal.send(house, UV_ACCEPTS)
    assert told["Content-Type"] == "application/json"
    assert set(told.json) == {"code", "message", "title"}
    assert told.json["code"] == f"{refusal.status} {told.json['message']}"
    assert refusal.said in told.json["message"]
    assert told.reason == told.json["message"][:300].strip()
    assert not [words for words in SKIPPED if words in told.text.lower()]
    for each in (answer, told):
        assert ("WWW-Authenticate" in each.headers) == (refusal.status == 401)
        assert ("Allow" in each.headers) == (refusal.status == 405)
        assert each["Location"] is None


def test_only_a_real_duplicate_says_what_clients_take_for_one() -> None:
    """No text that an answer may hold has the phrases but one: what no test drives cannot have them either."""
    found = []
    program = Path(proxy.__file__).parent
    for path in sorted(program.rglob("*.py")):
        if path.relative_to(program).parts[0] in {"cli", "config"}:
            continue
        tree = ast.parse(path.read_text())
        remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in remarks:
                found += [(path.name, node.value) for words in SKIPPED if words in node.value.lower()]
    assert found == [("packages.py", "File already exists: ")]


# The order of checks: each refusal stands before all that follow


def test_the_checks_come_in_the_order_of_the_contract(house: House) -> None:
    other = house.publish("open/gear")
    name = other.name
    filename, content = make_wheel(name, "1.0", metadata_version_field="3.0")
    wrong = {
        "name": f"{name}!",
        "version": "1..0",
        "action": "nonsense",
        "sha256_digest": "0" * 64,
    }
    large = b"x" * (MAX_FILE + 1)
    bad_name = f"{name}-2.0-py3-none-any.whl"
    dan = house.tokens["dan"]

    def send(token: str | None, file: bytes, filename: str = filename, **fields: str | None) -> Answer:
        return house.upload(PROJECT, forms.upload(filename, file, **fields), token=token)

    # From the last check back to the first, one more thing is wrong each time. Ownership: gear has the name, and dan
    # may not publish there.
    sound = make_wheel(name, "1.0", modules={"x.py": "2"})[1]
    refused(send(dan, sound), 403, "belongs to another project of open")
    refused(send(dan, content), 400, "metadata says")
    refused(send(dan, content, sha256_digest="0" * 64), 400, "sha256_digest does not match")
    refused(send(dan, content, bad_name, version="1.0", sha256_digest="0" * 64), 400, "says version 2.0")
    refused(send(dan, content, bad_name, version=wrong["version"], sha256_digest="0" * 64), 400, "'1..0'")
    refused(send(dan, content, bad_name, **(wrong | {"action": "file_upload"})), 400, f"'{name}!'")
    refused(send(dan, content, bad_name, **wrong), 400, ":action")
    refused(send(dan, large, bad_name, **wrong), 413)
    refused(send(house.tokens["rita"], large, bad_name, **wrong), 403, "may not publish")
    refused(send(None, large, bad_name, **wrong), 401)


def test_ownership_comes_before_duplicates(house: House) -> None:
    name = house.name()
    # dan publishes to tools first, alice of gear takes part; then tools' file is a duplicate for dan, but gear's name
    # is another project's as well.
    stored = house.publish(PROJECT, name)
    house.publish("open/gear", name, "2.0")
    answer = house.upload(PROJECT, forms.upload(stored.filename, stored.content), token=house.tokens["dan"])
    refused(answer, 403, "belongs to another project of open")


# Ownership


def test_a_name_of_another_project_is_403_without_the_role_there(house: House) -> None:
    mine = house.publish("acme/sandbox")
    stored = house.wheel(mine.name, "2.0")
    body = forms.upload(stored.filename, stored.content)
    refused(
        house.upload("acme/widgets", body, token=house.tokens["dan"]),
        403,
        f"{mine.name} belongs to another project of acme",
    )
    assert house.upload("acme/widgets", body, token=house.tokens["alice"]).status == 201


def test_a_tombstone_keeps_a_name_from_other_projects(house: House) -> None:
    mine = house.publish("acme/sandbox")
    house.delete("acme/sandbox", mine.name)
    answer = house.upload(
        "acme/widgets", forms.upload(mine.filename, mine.content), token=house.tokens["dan"]
    )
    refused(answer, 403, f"{mine.name} belongs to another project of acme")


def test_another_tenants_pattern_is_403_and_names_nobody(house: House) -> None:
    stored = house.wheel(house.name("acme-"))
    answer = house.upload(PROJECT, forms.upload(stored.filename, stored.content), token=house.tokens["dan"])
    refused(answer, 403, "is reserved by another group")
    assert "by acme" not in answer.text


def test_a_name_of_the_instance_is_403_without_the_role_there(house: House) -> None:
    stored = house.publish("default")
    body = forms.upload(stored.filename, stored.content)
    refused(house.upload(PROJECT, body, token=house.tokens["dan"]), 403, "belongs to the instance")


# Slow and broken bodies


def test_T_UP6_a_body_that_stands_still_is_given_up_and_leaves_nothing(house: House) -> None:
    stored = house.wheel(house.name(), size=500_000)
    body = forms.upload(stored.filename, stored.content)
    head = [
        f"POST /{PROJECT}/ HTTP/1.1",
        f"Host: {house.wire.host}",
        f"Authorization: {basic(house.owner)}",
        f"Content-Type: {forms.FORM_TYPE['Content-Type']}",
        f"Content-Length: {len(body)}",
    ]
    with socket.create_connection(house.wire.address, 20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body[: len(body) // 2])
        refused(receive(connection), 400, "stood still for too long")
    assert page_of(house, stored.name) == []
    assert list((house.server.data_dir / "incoming").glob("*")) == []


def test_a_client_that_goes_away_leaves_nothing_and_harms_nobody(house: House) -> None:
    stored = house.wheel(house.name(), size=500_000)
    body = forms.upload(stored.filename, stored.content)
    begin = house.log_end()
    head = f"POST /{PROJECT}/ HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(house.owner)}\r\n"
    head += f"Content-Type: {forms.FORM_TYPE['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(house.wire.address, 20) as connection:
        connection.sendall(head.encode() + body[: len(body) // 2])
    wait_until(
        lambda: [line for line in house.log(begin) if line["event"] == "request"], what="its line in the log"
    )
    assert [line for line in house.log(begin) if line["level"] in {"error", "warning"}] == []
    assert page_of(house, stored.name) == []
    assert house.upload(PROJECT, body, token=house.owner).status == 201


def test_a_client_that_waits_for_leave_to_send_gets_it(house: House) -> None:
    stored = house.wheel(house.name())
    body = forms.upload(stored.filename, stored.content)
    head = f"POST /{PROJECT}/ HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(house.owner)}\r\nExpect: 100-continue\r\n"
    head += f"Content-Type: {forms.FORM_TYPE['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(house.wire.address, 20) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert receive(connection).status == 201


# Wrong addresses and methods

GROUP = "open is a group; publish to a project such as open/tools"


@pytest.mark.parametrize(
    ("method", "target", "allow", "said"),
    [
        ("POST", "/open/", "GET, HEAD", GROUP),
        ("POST", "/open", "GET, HEAD", GROUP),
        ("POST", "/open/simple/", "GET, HEAD", GROUP),
        ("POST", "/api/v4/groups/8/-/packages/pypi", "GET, HEAD", GROUP),
        ("POST", "/open/simple/flask/", "GET, HEAD", GROUP),
        ("POST", "/", "GET, HEAD", "/ is a group; publish to a project such as default"),
        ("POST", "/simple/", "GET, HEAD", "/ is a group; publish to a project such as default"),
        ("POST", "/open/tools/simple/", "GET, HEAD", "publish to /open/tools/"),
        ("PUT", "/open/tools/simple/flask/", "GET, HEAD", "publish to /open/tools/"),
        ("DELETE", f"/open/files/{'0' * 64}/x-1.0.tar.gz", "GET, HEAD", GROUP),
        ("PUT", "/open/tools/", "POST", "open/tools takes uploads here"),
        ("DELETE", "/open/tools", "POST", "open/tools takes uploads here"),
        ("GET", "/open/tools/", "POST", "open/tools takes uploads here"),
        ("HEAD", "/api/v4/projects/44/packages/pypi", "POST", "open/tools takes uploads here"),
        ("GET", "/legacy/", "POST", ""),
        ("PUT", "/legacy", "POST", ""),
        ("POST", "/healthz", "GET, HEAD", ""),
        ("DELETE", "/readyz", "GET, HEAD", ""),
        ("PATCH", "/api/v1/explain?index=/&name=x", "GET, HEAD", ""),
        ("OPTIONS", "/open/simple/", "GET, HEAD", ""),
        ("TRACE", "/open/simple/flask/", "GET, HEAD", ""),
    ],
)
def test_a_method_that_an_address_does_not_take_is_405(
    house: House, method: str, target: str, allow: str, said: str
) -> None:
    answer = house.wire.send(method, target, token=house.owner)
    assert answer.status == 405
    assert answer["Allow"] == allow
    assert said in answer.reason


@pytest.mark.parametrize(
    "target",
    [
        "/nowhere/",
        "/open/nowhere/",
        "/open/tools/nothing",
        "/_/oidc/mint-token",
        "/pypi",
        "/xmlrpc/x/y",
        "/api/v4/projects/999/packages/pypi",
    ],
)
def test_a_POST_to_no_address_at_all_is_404(house: House, target: str) -> None:
    assert house.wire.send("POST", target, token=house.owner, body=b"x" * 100).status == 404


def test_a_405_to_an_upload_comes_after_all_of_it_was_read(house: House) -> None:
    filename, content = f"{house.name()}-1.0-py3-none-any.whl", b"x" * (40 << 20)
    body = forms.upload(filename, content)
    for target in ("/open/", "/open/simple/", "/open/tools/simple/"):
        answer = house.wire.send("POST", target, token=house.owner, headers=forms.FORM_TYPE, body=body)
        assert answer.status == 405


def test_a_405_names_no_project_that_the_caller_may_not_see(house: House) -> None:
    answer = house.wire.send("POST", "/acme/", token=house.tokens["dan"])
    assert (answer.status, answer.reason) == (
        405,
        "acme is a group; publish to a project such as acme/widgets",
    )
    sandbox = house.server.job_token("acme/sandbox")
    for token in (house.tokens["otto"], None):
        assert "acme" not in house.wire.send("POST", "/", token=token).text
    assert house.wire.send("POST", "/acme/", token=sandbox).status == 405


def test_the_legacy_address_without_a_default_project_is_404_and_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    keeping = keep_house(tmp_path_factory.mktemp("bare"), projects={})
    house = next(keeping)
    try:
        stored = house.wheel(house.name())
        body = forms.upload(stored.filename, stored.content)
        answer = house.wire.send("POST", "/legacy/", token=house.owner, headers=forms.FORM_TYPE, body=body)
        refused(answer, 404, "there is none", "server.default_project")
        answer = house.wire.send("POST", "/", token=house.owner)
        assert (answer.status, answer["Allow"]) == (405, "GET, HEAD")
    finally:
        keeping.close()
