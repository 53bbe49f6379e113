from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.names import parse_name
from proxy.domain.pages import url_key
from proxy.errors import StorageError
from proxy.storage.layout import Layout

DIGEST = "ab" + "0" * 62


def test_everything_made_is_closed_to_others(layout: Layout) -> None:
    root = Path(layout.data_dir)
    modes = {path.relative_to(root).as_posix(): path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert root.stat().st_mode & 0o777 == 0o700
    assert modes.pop("registry.sqlite") == modes.pop("cache.sqlite") == 0o600
    assert set(modes.values()) == {0o700}
    assert {"objects", "incoming", "run", "cache/files", "cache/partial", "cache/pages-v1"} <= set(modes)


def test_preparing_again_changes_nothing(layout: Layout) -> None:
    Path(layout.registry_database).write_bytes(b"precious")
    Path(layout.data_dir).chmod(0o750)
    layout.prepare()
    assert Path(layout.registry_database).read_bytes() == b"precious"
    assert Path(layout.data_dir).stat().st_mode & 0o777 == 0o750


def test_a_data_directory_that_cannot_be_made_is_an_error_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError) as caught:
        Layout(str(tmp_path / "file" / "data")).prepare()
    assert "storage.data_dir" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_files_are_sharded_by_the_start_of_their_digest(layout: Layout) -> None:
    key = url_key("https://files.example/x.whl")
    assert layout.object(DIGEST) == f"{layout.data_dir}/objects/ab/{DIGEST}"
    assert layout.cached_file(DIGEST) == f"{layout.data_dir}/cache/files/ab/{DIGEST}"
    assert layout.cached_file(key) == f"{layout.data_dir}/cache/files/{key[4:6]}/{key}"
    assert layout.partial_file(key, "a").startswith(f"{layout.data_dir}/cache/partial/{key}-")
    assert layout.partial_file(key, "a") != layout.partial_file(key, "b")


@pytest.mark.parametrize(
    "key", ["", "../../etc/passwd", DIGEST + "\n", DIGEST.upper(), DIGEST + "0", "url-ab"]
)
def test_what_is_no_key_never_becomes_a_path(layout: Layout, key: str) -> None:
    for method in (layout.object, layout.cached_file, lambda wrong: layout.partial_file(wrong, "a")):
        with pytest.raises(StorageError):
            method(key)


@pytest.mark.parametrize("upstream", ["", "..", ".hidden", "a/b", "a\0b"])
def test_what_is_no_upstream_never_becomes_a_path(layout: Layout, upstream: str) -> None:
    with pytest.raises(StorageError):
        layout.cached_page(upstream, parse_name("six"))


def test_names_of_any_length_have_pages_of_their_own(layout: Layout) -> None:
    names = [parse_name(text) for text in ("six", "a" * 150, "a" * 151, "a" * 512)]
    paths = [Path(layout.cached_page("pypi", name)) for name in names]
    assert len(set(paths)) == len(names)
    assert paths[0].name == "six"
    assert paths[1].name == "a" * 150
    assert paths[2].name.startswith("+")
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()  # short enough for the file system


def test_requests_are_recorded_below_the_data_directory_or_where_a_path_says(layout: Layout) -> None:
    assert layout.request_log("logs/../requests.jsonl") == str(Path(layout.data_dir) / "requests.jsonl")
    assert layout.request_log("/var/log/requests.jsonl") == "/var/log/requests.jsonl"


@pytest.mark.parametrize(
    "file", ["registry.sqlite", "./cache.sqlite-wal", "run/board", "x/../objects/aa", "owner-token", ".", ""]
)
def test_requests_are_not_recorded_where_something_else_lies(layout: Layout, file: str) -> None:
    with pytest.raises(StorageError, match="that is taken"):
        layout.request_log(file)
