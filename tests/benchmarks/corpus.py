"""What the upstream of a benchmark holds: pages and files of the sizes that the workloads name."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.wheels import make_wheel

MANY_PER_PAGE = 1000
LIBRARIES = 70
VERSIONS = 3
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is of everything: as the targets have it, or a part of that for a trial."""

    small_page: int
    large_page: int
    wheels: int
    middle: int
    large: int

    @classmethod
    def scaled(cls, scale: float) -> Sizes:
        """Sizes at a part of the real ones, 0 to 1; never nothing."""
        return cls(
            small_page=50,
            large_page=max(50, int(4000 * scale)),
            wheels=max(50, int(20_000 * scale)),
            middle=max(MEGABYTE, int(60 * MEGABYTE * scale)),
            large=max(2 * MEGABYTE, int(500 * MEGABYTE * scale)),
        )


class Corpus:
    """The directory: `simple/NAME/index.json` and `files/FILENAME`. The same for the same sizes."""

    def __init__(self, directory: Path, sizes: Sizes, cold_pages: int) -> None:
        """Write everything. `cold_pages`: so many small and as many large pages that nobody asks for beforehand."""
        self.directory = directory
        self.sizes = sizes
        self._random = random.Random("benchmarks")
        self._files = directory / "files"
        self._files.mkdir(parents=True)
        self.wheel = self._write_small()
        self._write_page("large", list(self._made_up("large", sizes.large_page)))
        for number in range(cold_pages + 1):
            self._write_page(f"cold-{number}", list(self._made_up(f"cold-{number}", sizes.small_page)))
            name = f"cold-large-{number}"
            self._write_page(name, list(self._made_up(name, sizes.large_page)))
        self.many = self._write_many()
        self.middle = self._write_blob("middle", sizes.middle, "files")
        self.middle_capped = self._write_blob("herd", sizes.middle, "capped-100")
        self.large = self._write_blob("huge", sizes.large, "files")
        self.large_capped = self._write_blob("slow", sizes.large, "capped-50")
        self._write_libraries()

    def address(self, name: str, filename: str) -> str:
        """The path of a file on the upstream, as the project's page has it."""
        page = json.loads((self.directory / "simple" / name / "index.json").read_bytes())
        found: str = next(file["url"] for file in page["files"] if file["filename"] == filename)
        return found.removeprefix("../..")

    def _write_small(self) -> str:
        filename, content = make_wheel(
            "small", "0.0", size=30_000, description="An honest description. " * 100
        )
        entries = list(self._made_up("small", self.sizes.small_page - 1))
        self._write_page("small", [*entries, self._write_wheel(filename, content)])
        return filename

    def _write_many(self) -> Sequence[tuple[str, str]]:
        """Wheels of 30 KB, each different; returns projects and filenames."""
        padding = self._random.randbytes(30_000)
        written = []
        for first in range(0, self.sizes.wheels, MANY_PER_PAGE):
            name, entries = f"many-{first}", []
            for number in range(first, min(first + MANY_PER_PAGE, self.sizes.wheels)):
                filename = f"many_{first}-1.{number}-py3-none-any.whl"
                content = number.to_bytes(8) + padding
                (self._files / filename).write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                entries.append(self._entry(filename, digest, len(content), self._any_digest()))
                written.append((name, filename))
            self._write_page(name, entries)
        return written

    def _write_blob(self, name: str, size: int, prefix: str) -> str:
        filename = f"{name}-1.0-py3-none-any.whl"
        piece, digest = self._random.randbytes(MEGABYTE), hashlib.sha256()
        with (self._files / filename).open("wb") as blob:
            for _ in range(size // MEGABYTE):
                digest.update(piece)
                blob.write(piece)
        length = size // MEGABYTE * MEGABYTE
        self._write_page(
            name, [self._entry(filename, digest.hexdigest(), length, self._any_digest(), prefix)]
        )
        return filename

    def _write_libraries(self) -> None:
        """Packages that need each other: `lib-0` needs them all, by and by."""
        for number in range(LIBRARIES):
            entries = []
            for version in range(VERSIONS):
                needs = [2 * number + 1, 2 * number + 2, number + 7]
                requires = [f"lib-{other}>=1.{version}" for other in needs if other < LIBRARIES]
                filename, content = make_wheel(
                    f"lib-{number}", f"1.{version}", requires=requires, size=20_000
                )
                entries.append(self._write_wheel(filename, content))
            self._write_page(f"lib-{number}", entries)

    def _write_wheel(self, filename: str, content: bytes) -> dict[str, Any]:
        """Write a wheel and its metadata beside it; return its entry."""
        import io
        import zipfile

        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            metadata = archive.read(next(one for one in archive.namelist() if one.endswith("/METADATA")))
        (self._files / filename).write_bytes(content)
        (self._files / f"{filename}.metadata").write_bytes(metadata)
        digests = hashlib.sha256(content).hexdigest(), hashlib.sha256(metadata).hexdigest()
        return self._entry(filename, digests[0], len(content), digests[1])

    def _made_up(self, name: str, count: int) -> Iterator[dict[str, Any]]:
        """Entries of files that are not there, as a page of so many releases has them."""
        spelt = name.replace("-", "_")
        for number in range(count):
            filename = f"{spelt}-1.{number}-cp311-cp311-manylinux_2_28_x86_64.whl"
            yield self._entry(filename, self._any_digest(), 1_000_000 + number, self._any_digest())

    def _entry(
        self, filename: str, digest: str, size: int, metadata: str, prefix: str = "files"
    ) -> dict[str, Any]:
        place = self._any_digest()  # unlike the sha256, as on PyPI: half of a page does not shrink
        return {
            "filename": filename,
            "url": f"../../{prefix}/{place[:2]}/{place[2:4]}/{place[4:]}/{filename}",
            "hashes": {"sha256": digest},
            "requires-python": ">=3.9",
            "size": size,
            "upload-time": "2024-01-01T00:00:00.000000Z",
            "yanked": False,
            "core-metadata": {"sha256": metadata},
        }

    def _any_digest(self) -> str:
        return self._random.randbytes(32).hex()

    def _write_page(self, name: str, entries: list[dict[str, Any]]) -> None:
        folder = self.directory / "simple" / name
        folder.mkdir(parents=True)
        versions = list(dict.fromkeys(entry["filename"].split("-")[1] for entry in entries))
        page = {"meta": {"api-version": "1.1"}, "name": name, "versions": versions, "files": entries}
        (folder / "index.json").write_text(json.dumps(page), encoding="utf-8")
