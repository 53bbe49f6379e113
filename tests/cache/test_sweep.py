"""What may not be shown any more goes, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from proxy.cache.sweep import sweep
from proxy.cache.variants import AtRest, Place, VariantFiles
from proxy.domain.names import Name
from proxy.storage.layout import Layout

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEEP = timedelta(days=30)
LONG = Name("n" * 300)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path / "data"))
    layout.prepare()
    return layout


def nothing(_path: str) -> bool:
    """No page is needed."""
    return False


def write(path: str, age: timedelta) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"content")
    at = (NOW - age).timestamp()
    os.utime(file, (at, at))
    return file


@pytest.mark.parametrize("name", [Name("widgets"), LONG])
def test_what_was_confirmed_too_long_ago_goes_with_what_was_made_of_it(layout: Layout, name: Name) -> None:
    kept = VariantFiles(layout)
    old = [
        write(layout.cached_page("pypi", name), KEEP + timedelta(seconds=1)),
        write(layout.cached_document("pypi", name, None), KEEP + timedelta(seconds=1)),
        write(layout.cached_document("gone", name, "1.0"), timedelta(days=400)),
    ]
    new = [
        write(layout.cached_page("other", name), KEEP - timedelta(seconds=1)),
        write(layout.cached_document("other", name, "1.0"), timedelta(0)),
    ]
    for upstream in ("pypi", "other"):
        kept.put(Place(upstream, name, "json", "gzip"), "token", AtRest("tag", b"body"))
    assert sweep(layout, KEEP, NOW, nothing) == 3
    assert [file.exists() for file in old] == [False] * 3
    assert [file.exists() for file in new] == [True] * 2
    assert not Path(layout.variants_of("pypi", name)).exists()
    assert Path(layout.cached_variant("other", name, "json", "gzip")).exists()
    assert sweep(layout, KEEP, NOW, nothing) == 0


def test_it_stops_when_it_is_told_to(layout: Layout) -> None:
    old = write(layout.cached_page("pypi", Name("widgets")), timedelta(days=400))
    assert sweep(layout, KEEP, NOW, nothing, lambda: True) == 0
    assert old.exists()


def test_a_page_that_is_needed_stays_for_as_long_again(layout: Layout) -> None:
    kept, gone = (write(layout.cached_page("pypi", Name(name)), KEEP * 2) for name in ("widgets", "gadgets"))
    document = write(layout.cached_document("pypi", Name("widgets"), None), KEEP * 2)

    def is_needed(path: str) -> bool:
        assert path != str(document)
        return path == str(kept)

    assert sweep(layout, KEEP, NOW, is_needed) == 2
    assert [file.exists() for file in (kept, gone, document)] == [True, False, False]
    assert sweep(layout, KEEP, NOW, nothing) == 0
    assert sweep(layout, KEEP, NOW + KEEP * 2, nothing) == 1
