"""Wheels and sdists in memory, sound ones and broken ones, made with the standard library's writers."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

Files = Mapping[str, bytes | str]


def metadata(name: str = "widgets", version: str = "1.0", **fields: str) -> str:
    """Core metadata; further fields by keyword, with `_` for `-`."""
    given = {"metadata_version": "2.1", "name": name, "version": version} | fields
    head = "".join(f"{field.replace('_', '-').title()}: {value}\n" for field, value in given.items())
    return f"{head}\nA description.\n"


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive of `files`, in their order."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return target.getvalue()


def wheel(
    text: bytes | str | None = None, dist_info: str = "widgets-1.0.dist-info", more: Files | None = None
) -> bytes:
    """A wheel as build tools write it; `more` are further members."""
    files: dict[str, bytes | str] = {
        "widgets/__init__.py": "answer = 42\n",
        f"{dist_info}/METADATA": metadata() if text is None else text,
        f"{dist_info}/WHEEL": "Wheel-Version: 1.0\n",
        f"{dist_info}/RECORD": "",
    }
    return zipped(files | dict(more or {}))


def tarred(
    files: Files, tar_format: int = tarfile.PAX_FORMAT, extra: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    """A gzipped tar archive of `files`; `extra` members without contents come first."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=tar_format) as archive:
        for info in extra:
            archive.addfile(info)
        for path, content in files.items():
            encoded = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(path)
            info.size = len(encoded)
            info.mtime = 1700000000.5  # a fraction, as setuptools writes it, needs a pax header
            archive.addfile(info, io.BytesIO(encoded))
    return target.getvalue()


def sdist(text: str | None = None, top: str = "widgets-1.0", tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """An sdist as build tools write it, PKG-INFO not first."""
    return tarred(
        {
            f"{top}/LICENSE": "MIT\n",
            f"{top}/src/widgets.egg-info/PKG-INFO": metadata("decoy", "9"),
            f"{top}/PKG-INFO": metadata() if text is None else text,
            f"{top}/setup.py": "raise SystemExit\n",
        },
        tar_format,
    )
