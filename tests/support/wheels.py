"""Real wheels and sdists, made on the spot: pip and uv install them without a network.

Equal arguments give equal bytes, so a digest can be asked for twice. Padding is random, hence incompressible,
and is streamed: a file of hundreds of MiB costs disk, not memory. An sdist brings its own build backend
(`backend-path`), which needs nothing but the standard library.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypedDict, Unpack

CHUNK = 1024 * 1024
EPOCH = (1990, 1, 1, 0, 0, 0)
ZIP64 = 2**31  # from here on zipfile must be told beforehand that a member is large

# Lies in the sdist as `_backend/in_tree_backend.py`. Reads PKG-INFO, so that sdist and wheel cannot disagree.
BACKEND = '''\
"""A build backend without dependencies: packs `src/` and PKG-INFO into a pure wheel."""

import base64
import hashlib
import os
import pathlib
import re
import zipfile
from email.parser import Parser


def get_requires_for_build_wheel(config_settings=None):
    return []


def _stem():
    fields = Parser().parsestr(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
    return "-".join([re.sub(r"[-_.]+", "_", fields["Name"]).lower(), fields["Version"].replace("-", "_")])


def _members():
    info = _stem() + ".dist-info/"
    source = pathlib.Path("src")
    for path in sorted(source.rglob("*")):
        if path.is_file():
            yield path.relative_to(source).as_posix(), path.read_bytes()
    yield info + "METADATA", pathlib.Path("PKG-INFO").read_bytes()
    tags = "Wheel-Version: 1.0\\nGenerator: in-tree\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    yield info + "WHEEL", tags.encode()


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = _stem() + ".dist-info"
    folder = pathlib.Path(metadata_directory, name)
    os.makedirs(folder, exist_ok=True)
    for path, content in _members():
        if path.startswith(name + "/"):
            (folder / path.split("/")[1]).write_bytes(content)
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    filename = _stem() + "-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(pathlib.Path(wheel_directory, filename), "w") as archive:
        for path, content in _members():
            archive.writestr(path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(content)}\\n")
        path = _stem() + ".dist-info/RECORD"
        archive.writestr(path, "".join(record) + path + ",,\\n")
    return filename
'''

PYPROJECT = """\
[build-system]
requires = []
build-backend = "in_tree_backend"
backend-path = ["_backend"]
"""


class Contents(TypedDict, total=False):
    """What may be said of a wheel or an sdist.

    requires: values of Requires-Dist. requires_python: value of Requires-Python.
    modules: path below site-packages → content; by default one package that has `__version__`.
    metadata_name, metadata_version_field: another Name or Version in METADATA than in the filename.
    description: text of the description. fields: further METADATA headers, in order.
    size: bytes of random padding; the file is slightly larger.
    """

    requires: Sequence[str]
    requires_python: str | None
    modules: Mapping[str, str | bytes] | None
    metadata_name: str | None
    metadata_version_field: str | None
    description: str
    fields: Sequence[tuple[str, str]]
    size: int | None


class WheelContents(Contents, total=False):
    """What may be said of a wheel besides: its compatibility tags and its build tag."""

    tag: str
    build: str | None


def make_wheel(name: str, version: str, **contents: Unpack[WheelContents]) -> tuple[str, bytes]:
    """Make a wheel in memory; return its filename and its bytes. Name and version are METADATA's spelling."""
    stream = io.BytesIO()
    _pack_wheel(stream, name, version, contents)
    return _wheel_filename(name, version, contents), stream.getvalue()


def write_wheel(directory: Path, name: str, version: str, **contents: Unpack[WheelContents]) -> Path:
    """Write what `make_wheel` makes into `directory`, in constant memory; return the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _wheel_filename(name, version, contents)
    with path.open("wb") as stream:
        _pack_wheel(stream, name, version, contents)
    return path


def make_sdist(name: str, version: str, **contents: Unpack[Contents]) -> tuple[str, bytes]:
    """Make a `.tar.gz` sdist in memory that builds without a network; return its filename and its bytes."""
    stream = io.BytesIO()
    _pack_sdist(stream, name, version, contents)
    return f"{_stem(name, version)}.tar.gz", stream.getvalue()


def write_sdist(directory: Path, name: str, version: str, **contents: Unpack[Contents]) -> Path:
    """Write what `make_sdist` makes into `directory`, in constant memory; return the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{_stem(name, version)}.tar.gz"
    with path.open("wb") as stream:
        _pack_sdist(stream, name, version, contents)
    return path


def _escaped(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _stem(name: str, version: str) -> str:
    """Return name and version as PEP 427 and PEP 625 spell them at the head of a filename."""
    return f"{_escaped(name)}-{version.replace('-', '_')}"


def _wheel_filename(name: str, version: str, contents: WheelContents) -> str:
    build = contents.get("build")
    parts = [_stem(name, version), *([build] if build else []), contents.get("tag", "py3-none-any")]
    return "-".join(parts) + ".whl"


def _metadata(name: str, version: str, contents: Contents) -> bytes:
    """Return METADATA, which is PKG-INFO as well: version 2.2 without Dynamic, so an sdist's is final."""
    lines = [
        "Metadata-Version: 2.2",
        f"Name: {contents.get('metadata_name') or name}",
        f"Version: {contents.get('metadata_version_field') or version}",
        "Summary: made for a test",
    ]
    if requires_python := contents.get("requires_python"):
        lines.append(f"Requires-Python: {requires_python}")
    lines += [f"Requires-Dist: {requirement}" for requirement in contents.get("requires", ())]
    lines += [f"{key}: {value}" for key, value in contents.get("fields", ())]
    if description := contents.get("description"):
        lines += ["Description-Content-Type: text/plain", "", description]
    return ("\n".join(lines) + "\n").encode()


def _sources(name: str, version: str, contents: Contents) -> dict[str, bytes]:
    modules = contents.get("modules")
    if modules is None:
        modules = {f"{_escaped(name)}/__init__.py": f'__version__ = "{version}"\n'}
    return {path: text.encode() if isinstance(text, str) else text for path, text in modules.items()}


def _padding(seed: str, size: int) -> Iterator[bytes]:
    """Yield `size` random bytes in chunks, the same for the same seed."""
    source = random.Random(seed)  # a str seeds alike in every process
    while size > 0:
        chunk = source.randbytes(min(CHUNK, size))
        size -= len(chunk)
        yield chunk


class _PaddingFile(io.RawIOBase):
    """Padding as the file that tarfile reads."""

    def __init__(self, seed: str, size: int) -> None:
        super().__init__()
        self._chunks = _padding(seed, size)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._rest = self._rest or next(self._chunks, b"")
        taken, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(taken)] = taken
        return len(taken)


def _pack_wheel(stream: IO[bytes], name: str, version: str, contents: WheelContents) -> None:
    folder = f"{_stem(name, version)}.dist-info"
    tag = contents.get("tag", "py3-none-any")
    wheel = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    members: dict[str, Iterator[bytes]] = {}
    if size := contents.get("size"):
        members[f"{_escaped(name)}_padding.bin"] = _padding(f"{name} {version}", size)
    members |= {path: iter([content]) for path, content in _sources(name, version, contents).items()}
    members[f"{folder}/METADATA"] = iter([_metadata(name, version, contents)])
    members[f"{folder}/WHEEL"] = iter([wheel.encode()])
    record: list[str] = []
    with zipfile.ZipFile(stream, "w") as archive:
        for path, chunks in members.items():
            digest, length = hashlib.sha256(), 0
            with archive.open(zipfile.ZipInfo(path, EPOCH), "w", force_zip64=(size or 0) >= ZIP64) as member:
                for chunk in chunks:
                    member.write(chunk)
                    digest.update(chunk)
                    length += len(chunk)
            encoded = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={encoded},{length}\n")
        record.append(f"{folder}/RECORD,,\n")
        archive.writestr(zipfile.ZipInfo(f"{folder}/RECORD", EPOCH), "".join(record))


def _pack_sdist(stream: IO[bytes], name: str, version: str, contents: Contents) -> None:
    top = _stem(name, version)
    level = 0 if contents.get("size") else 9  # random bytes do not shrink
    members = {
        "PKG-INFO": _metadata(name, version, contents),
        "pyproject.toml": PYPROJECT.encode(),
        "_backend/in_tree_backend.py": BACKEND.encode(),
    } | {f"src/{path}": content for path, content in _sources(name, version, contents).items()}
    with (
        gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=level, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, content in members.items():
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if size := contents.get("size"):
            member = tarfile.TarInfo(f"{top}/padding.bin")
            member.size = size
            archive.addfile(member, io.BufferedReader(_PaddingFile(top, size), CHUNK))
