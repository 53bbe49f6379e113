"""Upload forms, part by part, so that a test can send what no client does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

BOUNDARY = "a-boundary-that-no-file-has"
FORM_TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True, slots=True)
class Part:
    """One part. `disposition` stands behind `form-data; ` as it is."""

    disposition: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def text(name: str, value: str | bytes, **headers: str) -> Part:
    """A text field; `Content_Encoding="gzip"` adds a header to the part."""
    content = value.encode() if isinstance(value, str) else value
    return Part(f'name="{name}"', content, {key.replace("_", "-"): item for key, item in headers.items()})


def file(filename: str, content: bytes, *, name: str = "content", **headers: str) -> Part:
    """The file, as twine and poetry send it."""
    said = {"Content-Type": "application/octet-stream"} | {
        key.replace("_", "-"): item for key, item in headers.items()
    }
    return Part(f'name="{name}"; filename="{filename}"', content, said)


def fields(filename: str, content: bytes, **changed: str | None) -> list[Part]:
    """The fields that belong to a file; `version="2"` sets one, `version=None` leaves it out.

    `action` and `pyversion` are spelled so; name and version follow from the filename.
    """
    stem = filename.removesuffix(".tar.gz").removesuffix(".zip").removesuffix(".whl")
    wheel = filename.endswith(".whl")
    name, _, version = stem.partition("-") if wheel else stem.rpartition("-")
    values: dict[str, str | None] = {
        "action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.2",
        "name": name,
        "version": version.partition("-")[0],
        "filetype": "bdist_wheel" if wheel else "sdist",
        "pyversion": "py3" if wheel else "source",
        "sha256_digest": hashlib.sha256(content).hexdigest(),
        **changed,
    }
    return [
        text(":action" if key == "action" else key, value)
        for key, value in values.items()
        if value is not None
    ]


def upload(filename: str, content: bytes, **changed: str | None) -> bytes:
    """A whole form as clients send it: the fields of `fields`, then the file."""
    return encode([*fields(filename, content, **changed), file(filename, content)])


def encode(parts: Iterable[Part], *, end: bool = True) -> bytes:
    """The body of a form; without `end` the last boundary is missing."""
    pieces = []
    for part in parts:
        head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {part.disposition}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in part.headers.items())
        pieces.append(head.encode("utf-8", "surrogateescape") + b"\r\n" + part.content + b"\r\n")
    if end:
        pieces.append(f"--{BOUNDARY}--\r\n".encode())
    return b"".join(pieces)
