"""Archives in processes of their own: the same answers, and no archive that harms more than its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from proxy.archive.inspect import inspect
from proxy.archive.sandbox import MEMORY, Sandbox
from proxy.domain.filenames import parse_distribution
from proxy.errors import InvalidArchive, StorageError, StoreUnavailable
from tests.archive.making import Entry, forged, metadata, sdist, wheel
from tests.support.waiting import wait_until, wait_until_async

WHEEL = parse_distribution("widgets-1.0-py3-none-any.whl")
SDIST = parse_distribution("widgets-1.0.tar.gz")

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox()
    yield made
    await made.close()
    assert not made._readers


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound"
    path.write_bytes(wheel())
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A wheel that takes longer to read than any test waits: 64 GiB of a hole in a file."""
    size = 64 << 30
    numbers = b"\1\0\x10\0" + size.to_bytes(8, "little") * 2
    told = {"size": 2**32 - 1, "packed": 2**32 - 1, "extra": numbers}
    entry = Entry(b"widgets.py", content=b"", method=0, everywhere=told)
    path = tmp_path / "slow"
    with path.open("wb") as file:
        head = entry.local_header()
        file.write(head)
        file.truncate(len(head) + size)
        file.seek(len(head) + size)
        listing = entry.central_header(0)
        file.write(listing)
        # The end of an archive of one member, with the place of the directory in its ZIP64 form.
        record = len(listing).to_bytes(8, "little") + (len(head) + size).to_bytes(8, "little")
        counts = (1).to_bytes(8, "little") * 2
        place = len(head) + size + len(listing)
        file.write(b"PK\6\6" + (44).to_bytes(8, "little") + b"\x2d\0" * 2 + bytes(8) + counts + record)
        file.write(b"PK\6\7" + bytes(4) + place.to_bytes(8, "little") + b"\1\0\0\0")
        file.write(b"PK\5\6" + bytes(4) + b"\xff" * 12 + bytes(2))
    return path


def processes(sandbox: Sandbox) -> set[int]:
    return {reader.pid for reader in sandbox._readers}


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def has_open(process: int, path: Path) -> bool:
    """Whether the process reads `path` now."""
    links = Path(f"/proc/{process}/fd")
    return links.exists() and str(path) in {str(link.readlink()) for link in links.iterdir() if link.exists()}


async def reading(sandbox: Sandbox, path: Path) -> int:
    """The process that reads `path`, as soon as one does."""
    found = await wait_until_async(lambda: [p for p in processes(sandbox) if has_open(p, path)])
    return found[0]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_says_what_inspect_says_on_every_loop(
    sound: Path, tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(sdist(metadata(requires_python=">=3.9", requires_dist="gears", summary="caf\u00e9")))
    hostile = tmp_path / "hostile"
    hostile.write_bytes(wheel()[:-1])

    async def run() -> None:
        sandbox = Sandbox()
        try:
            for path, distribution in ((sound, WHEEL), (source, SDIST), (sound, WHEEL)):
                assert await sandbox.inspect(path, distribution) == inspect(path, distribution)
                assert len(processes(sandbox)) == 1
            with pytest.raises(InvalidArchive) as direct:
                inspect(hostile, WHEEL)
            with pytest.raises(InvalidArchive) as caught:
                await sandbox.inspect(hostile, WHEEL)
            assert str(caught.value) == str(direct.value)
            worker = processes(sandbox)
            assert await sandbox.inspect(sound, WHEEL) == inspect(sound, WHEEL)
            assert processes(sandbox) == worker, "a refusal costs no process"
        finally:
            await sandbox.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


async def test_a_hint_comes_along(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "described"
    path.write_bytes(forged(Entry(b"a", everywhere={"flags": 8})))
    with pytest.raises(InvalidArchive) as caught:
        await sandbox.inspect(path, WHEEL)
    assert caught.value.hint == "write the archive to a file, not to a pipe"


async def test_a_path_may_be_relative(sandbox: Sandbox, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sound.parent)
    assert (await sandbox.inspect(sound.name, WHEEL)).name == "widgets"


async def test_nothing_starts_before_there_is_an_archive(sandbox: Sandbox) -> None:
    assert not processes(sandbox)


@only_linux
async def test_a_process_may_do_little_and_knows_nothing(
    sandbox: Sandbox, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_PASSWORD", "secret")
    await sandbox.inspect(sound, WHEEL)
    (process,) = processes(sandbox)
    place = Path(f"/proc/{process}")
    limits = {
        line[:25].rstrip(): line[26:46].rstrip() for line in (place / "limits").read_text().splitlines()
    }
    assert limits["Max address space"] == str(MEMORY)
    assert limits["Max file size"] == "0"
    assert limits["Max core file size"] == "0"
    assert limits["Max processes"] == "0"
    assert limits["Max open files"] == "16"
    assert int(limits["Max cpu time"]) < 60
    assert (place / "environ").read_bytes() == b""
    assert {link.name for link in (place / "fd").iterdir()} == {"0", "1", "2"}
    assert (place / "cwd").readlink() == Path("/")
    assert "NoNewPrivs:\t1" in (place / "status").read_text()


def test_it_imports_little() -> None:
    program = "import sys, proxy.archive.confined; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not {"aiohttp", "asyncio", "sqlalchemy", "pydantic", "structlog"} & set(modules.split())


@only_linux
async def test_an_archive_that_takes_too_long_is_refused_and_its_process_ended(
    sound: Path, slow: Path
) -> None:
    sandbox = Sandbox(time_for=lambda size: timedelta(seconds=0.3 if size > 1 << 30 else 60))
    try:
        with pytest.raises(InvalidArchive, match="takes too long to read"):
            await sandbox.inspect(slow, WHEEL)
        assert not processes(sandbox)
        assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
    finally:
        await sandbox.close()


@only_linux
async def test_an_archive_that_takes_too_much_memory_is_refused(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(wheel(metadata() + "\U0001f600" * 1_900_000))
    assert inspect(path, WHEEL).name == "widgets"
    sandbox = Sandbox(memory=48 << 20)
    try:
        assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
        with pytest.raises(InvalidArchive, match="takes too much memory to read"):
            await sandbox.inspect(path, WHEEL)
        assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
    finally:
        await sandbox.close()


@only_linux
async def test_what_breaks_its_reader_is_refused(
    sandbox: Sandbox, slow: Path, sound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = asyncio.create_task(sandbox.inspect(slow, WHEEL))
    os.kill(await reading(sandbox, slow), signal.SIGKILL)
    with pytest.raises(InvalidArchive, match="breaks its reader"):
        await task
    assert "status -9" in caplog.text
    assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"


@only_linux
async def test_a_process_that_broke_is_replaced_once_before_its_archive_is_blamed(
    sandbox: Sandbox, slow: Path, sound: Path
) -> None:
    await sandbox.inspect(sound, WHEEL)
    task = asyncio.create_task(sandbox.inspect(slow, WHEEL))
    first = await reading(sandbox, slow)
    os.kill(first, signal.SIGKILL)
    second = await wait_until_async(lambda: processes(sandbox) - {first})
    os.kill(await reading(sandbox, slow), signal.SIGKILL)
    with pytest.raises(InvalidArchive, match="breaks its reader"):
        await task
    assert len(second) == 1


async def test_a_process_that_died_while_it_waited_is_replaced(sandbox: Sandbox, sound: Path) -> None:
    await sandbox.inspect(sound, WHEEL)
    before = processes(sandbox)
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
    assert not processes(sandbox) & before


async def test_signals_that_are_for_the_server_do_not_end_it(sandbox: Sandbox, sound: Path) -> None:
    await sandbox.inspect(sound, WHEEL)
    (process,) = processes(sandbox)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process, number)
    await sandbox.inspect(sound, WHEEL)
    assert processes(sandbox) == {process}


async def test_two_are_read_at_once_and_the_others_wait(sandbox: Sandbox, sound: Path) -> None:
    most = 0

    async def one() -> None:
        nonlocal most
        await sandbox.inspect(sound, WHEEL)
        most = max(most, len(processes(sandbox)))

    await asyncio.gather(*(one() for _ in range(12)))
    assert most == 2


@only_linux
async def test_a_slow_archive_holds_up_no_other(sandbox: Sandbox, slow: Path, sound: Path) -> None:
    task = asyncio.create_task(sandbox.inspect(slow, WHEEL))
    process = await reading(sandbox, slow)
    assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
    assert has_open(process, slow)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process not in processes(sandbox)
    await wait_until_async(lambda: is_gone(process))


async def test_a_process_without_work_is_ended(sound: Path) -> None:
    sandbox = Sandbox(idle=timedelta(milliseconds=50))
    try:
        await sandbox.inspect(sound, WHEEL)
        (process,) = processes(sandbox)
        await wait_until_async(lambda: is_gone(process))
        assert (await sandbox.inspect(sound, WHEEL)).name == "widgets"
    finally:
        await sandbox.close()


@only_linux
async def test_the_end_of_the_sandbox_ends_all_processes(sandbox: Sandbox, slow: Path, sound: Path) -> None:
    await sandbox.inspect(sound, WHEEL)
    task = asyncio.create_task(sandbox.inspect(slow, WHEEL))
    await reading(sandbox, slow)
    await sandbox.inspect(sound, WHEEL)
    both = processes(sandbox)
    assert len(both) == 2
    await sandbox.close()
    assert all(is_gone(process) for process in both)
    with pytest.raises(StoreUnavailable, match="stopping"):
        await task
    with pytest.raises(StoreUnavailable, match="stopping"):
        await sandbox.inspect(sound, WHEEL)


@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false", "/bin/echo"])
async def test_where_none_can_be_started_nothing_is_taken_for_sound(
    sandbox: Sandbox, sound: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(StoreUnavailable) as caught:
        await sandbox.inspect(sound, WHEEL)
    assert program not in str(caught.value)
    assert not processes(sandbox)


async def test_a_file_that_is_not_there_is_the_storages_trouble(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        await sandbox.inspect(tmp_path / "absent", WHEEL)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(StorageError, match="cannot be read"):
        await sandbox.inspect(tmp_path, WHEEL)


SERVER = """
import asyncio, sys
from proxy.archive.sandbox import Sandbox
from proxy.domain.filenames import parse_distribution

async def main():
    sandbox = Sandbox()
    wheel = parse_distribution("widgets-1.0-py3-none-any.whl")
    for path in sys.argv[1:]:
        task = asyncio.create_task(sandbox.inspect(path, wheel))
        while not sandbox._readers:
            await asyncio.sleep(0.01)
        print(*(reader.pid for reader in sandbox._readers), flush=True)
        await task
    await asyncio.sleep(60)

asyncio.run(main())
"""


@only_linux
@pytest.mark.parametrize("is_busy", [True, False])
def test_a_killed_server_leaves_no_process_behind(sound: Path, slow: Path, is_busy: bool) -> None:
    program = [sys.executable, "-c", SERVER, str(slow if is_busy else sound)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        process = int(server.stdout.readline())
        wait_until(lambda: has_open(process, slow) if is_busy else has_limits(process))
        server.kill()
    wait_until(lambda: is_gone(process), what="the end of the reading process")


def has_limits(process: int) -> bool:
    return "Max file size             0" in Path(f"/proc/{process}/limits").read_text()
