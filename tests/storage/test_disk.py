from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxy.errors import DiskFull, StorageError
from proxy.storage.disk import free_space, translated, write_whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_full_disk(code: int) -> None:
    with (
        pytest.raises(DiskFull, match="the upload cannot be stored: no space"),
        translated("the upload cannot be stored"),
    ):
        raise OSError(code, os.strerror(code), "/secret/path")


def test_other_failures_are_told_without_their_path() -> None:
    with pytest.raises(StorageError) as caught, translated("it cannot be read"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/secret/path")
    assert not isinstance(caught.value, DiskFull)
    assert str(caught.value) == "it cannot be read (Input/output error)"


def test_a_file_is_written_whole_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    path.parent.mkdir()
    write_whole(str(path), b"first")
    write_whole(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    (taken / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_whole(str(taken), b"a file cannot replace a directory")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_free_space_is_in_bytes(tmp_path: Path) -> None:
    assert free_space(str(tmp_path)) > 1 << 20
