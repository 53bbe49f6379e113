"""Filenames (protocol 9.3) at every place that takes one: uploads, pages of upstreams, file addresses, the API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.wheels import make_sdist, make_wheel
from tests.web import forms
from tests.web.house import House
from tests.web.wire import JSON, Answer

KEY = "0" * 64
WHEEL = "py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class Vector:
    """One filename of the project `{}-bar`; `{}` is another word for each place.

    Attributes:
        uploaded: whether it may be published.
        listed: whether a page shows it where an upstream has it, and serves it: an index has what old projects
            have, and what an upload must not be called. None: it makes no difference, since no client takes it.
        version: what the form says.
    """

    filename: str
    uploaded: bool
    listed: bool | None
    version: str = "1.0"

    def __str__(self) -> str:
        """The id of its test."""
        return ascii(self.filename)


VECTORS = [
    Vector(f"{{}}_bar-1.0-{WHEEL}", uploaded=True, listed=True),
    Vector("{}_bar-1.0.tar.gz", uploaded=True, listed=True),
    # Older spellings leave no doubt whose they are.
    Vector(f"{{}}.Bar-1.0-{WHEEL}", uploaded=True, listed=True),
    Vector("{}-Bar-1.0.tar.gz", uploaded=True, listed=True),
    Vector(f"{{}}_bar-1.0-1a-{WHEEL}", uploaded=True, listed=True),
    Vector(f"{{}}_bar-01.0-{WHEEL}", uploaded=True, listed=True),
    Vector(f"{{}}_bar-1.0+cu118-{WHEEL}", uploaded=True, listed=True, version="1.0+cu118"),
    Vector(f"{{}}__bar-1.0-{WHEEL}", uploaded=False, listed=True),
    # To a reader this is version `bar` of another project, with a build tag that is none.
    Vector(f"{{}}-bar-1.0-{WHEEL}", uploaded=False, listed=None),
    Vector("{}_bar-1.0-py3-none-any.WHL", uploaded=False, listed=None),
    Vector("{}_bar-1.0.TAR.GZ", uploaded=False, listed=None),
    # Only where `file_types` asks for others.
    Vector("{}_bar-1.0.tar.bz2", uploaded=False, listed=False),
    Vector("../{}_bar-1.0.tar.gz", uploaded=False, listed=False),
    Vector(f"\u212a{{}}_bar-1.0-{WHEEL}", uploaded=False, listed=False),
    Vector("{}_bar-1.0\n.tar.gz", uploaded=False, listed=False),
    Vector("{}_bar-1.0.tar.gz.metadata", uploaded=False, listed=False),
]
UNSAFE = [
    vector.filename
    for vector in VECTORS
    if "/" in vector.filename or not vector.filename.isascii() or "\n" in vector.filename
]


def archive(name: str, vector: Vector) -> bytes:
    """What would be a good file of that name."""
    make = make_wheel if vector.filename.lower().endswith(".whl") else make_sdist
    return make(name, vector.version)[1]


def filenames(page: Answer) -> list[str]:
    return [file["filename"] for file in page.json["files"]]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_filename_is_published_or_refused(house: House, vector: Vector) -> None:
    stem = house.name()
    name, filename = f"{stem}-bar", vector.filename.format(stem)
    filetype = "bdist_wheel" if filename.lower().endswith(".whl") else "sdist"
    body = forms.upload(filename, archive(name, vector), name=name, version=vector.version, filetype=filetype)
    answer = house.upload("open/tools", body, token=house.owner)
    assert answer.status == (201 if vector.uploaded else 400), answer.reason
    page = house.wire.get(f"/open/simple/{name}/", headers={"Accept": JSON})
    assert (page.status == 200 and filename in filenames(page)) == vector.uploaded
    if vector.uploaded:
        key = page.json["files"][0]["hashes"]["sha256"]
        for spelled in {quote(filename, safe=""), quote(filename, safe="+")}:
            assert house.wire.get(f"/open/files/{key}/{spelled}").status == 200, spelled


@pytest.mark.parametrize("vector", VECTORS, ids=str)
@pytest.mark.parametrize("form", ["json", "html"])
def test_a_filename_of_an_upstream_is_listed_and_served_or_left_out(
    house: House, tmp_path: Path, form: str, vector: Vector
) -> None:
    stem = house.name("up")
    name, filename = f"{stem}-bar", vector.filename.format(stem)
    usual, content = make_wheel(name, "2.0")
    house.upstream.add_file(name, usual, content)
    odd = tmp_path / "odd"
    odd.write_text(stem)
    house.upstream.add_file(name, filename, odd)
    house.upstream.change_project(name, form=form)
    page = house.wire.get(f"/open/simple/{name}/", headers={"Accept": JSON})
    assert page.status == 200
    if form == "html" and "/" in filename:
        # A page in HTML names no files but by the last part of their addresses.
        filename = filename.rpartition("/")[2]
        assert filename in filenames(page)
    elif vector.listed is not None:
        assert set(filenames(page)) == ({usual, filename} if vector.listed else {usual})
    if vector.listed:
        key = next(file["hashes"]["sha256"] for file in page.json["files"] if file["filename"] == filename)
        assert house.wire.get(f"/open/files/{key}/{quote(filename, safe='')}").text == stem


@pytest.mark.parametrize("filename", UNSAFE)
def test_what_is_no_filename_has_no_address_and_is_asked_of_nobody(house: House, filename: str) -> None:
    house.upstream.reset_requests()
    spelled = quote(filename.format("thing"), safe="")
    for suffix in ("", ".metadata", ".provenance"):
        for base in ("", "/open", "/api/v4/projects/44/packages/pypi"):
            assert house.wire.get(f"{base}/files/{KEY}/{spelled}{suffix}").status == 404
    deleted = house.wire.send(
        "DELETE", f"/api/v1/packages/open%2Ftools/thing-bar/1.0/{spelled}", token=house.owner
    )
    assert deleted.status in {400, 404}
    assert house.upstream.requests() == []
