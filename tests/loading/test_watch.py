from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.loading import watch
from runtime.loading.watch import Watcher, matters


class Calls:
    def __init__(self) -> None:
        self.count = 0
        self.called = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.called.set()

    async def next(self) -> None:
        await asyncio.wait_for(self.called.wait(), 5)
        self.called.clear()


@asynccontextmanager
async def watching(*folders: Path, every: float = 2.0) -> AsyncIterator[Calls]:
    calls = Calls()
    watcher = Watcher(folders, calls, debounce=0.03, every=every)
    watcher.start(asyncio.get_running_loop())
    try:
        yield calls
    finally:
        watcher.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "functions"
    made.mkdir()
    (made / "a.py").write_text("A = 1\n")
    return made


async def test_a_save_is_told_at_once_by_a_hint(folder: Path) -> None:
    async with watching(folder, every=60) as calls:
        (folder / "a.py").write_text("A = 2\n")
        await calls.next()


async def test_an_atomic_rename_a_new_file_and_a_deleted_one_are_told(folder: Path) -> None:
    async with watching(folder, every=60) as calls:
        (folder / ".a.tmp").write_text("A = 2\n")
        (folder / ".a.tmp").replace(folder / "a.py")
        await calls.next()
        (folder / "sub").mkdir()
        (folder / "sub" / "b.py").write_text("B = 1\n")
        await calls.next()
        (folder / "a.py").unlink()
        await calls.next()


async def test_a_bulk_change_gives_one_call(folder: Path) -> None:
    async with watching(folder, every=0.2) as calls:
        for number in range(200):
            (folder / f"f{number}.py").write_text("X = 1\n")
        await calls.next()
        await asyncio.sleep(0.5)
        assert calls.count == 1


async def test_reading_bytecode_and_hidden_files_are_no_change(folder: Path) -> None:
    async with watching(folder, every=0.05) as calls:
        (folder / "a.py").read_text()
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
        (folder / ".git").mkdir()
        (folder / ".git" / "x.py").write_text("X = 1\n")
        await asyncio.sleep(0.3)
        assert calls.count == 0


@pytest.mark.parametrize(("path", "expected"), [("a.py", True), (".x/a.py", False), ("__pycache__/a", False), ("a.pyc", False), ("", True)])
def test_hints_are_filtered_by_the_part_of_the_path_below_the_folder(path: str, expected: bool) -> None:
    folder = Path("/home/.hidden/functions")
    assert matters(folder, str(folder / path)) is expected
    assert not matters(folder, "/elsewhere/a.py")


def broken(error: OSError) -> Callable[[], object]:
    def observer() -> object:
        raise error

    return observer


async def test_without_notifications_scans_alone_find_the_change_and_the_log_names_the_sysctl(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "Observer", broken(OSError(28, "inotify watch limit reached")))
    with caplog.at_level(logging.WARNING):
        async with watching(folder, every=0.05) as calls:
            (folder / "a.py").write_text("A = 2\n")
            await calls.next()
    assert "fs.inotify.max_user_watches" in caplog.text
    assert "inotify watch limit reached" in caplog.text


async def test_a_scan_finds_a_save_of_the_same_size_and_modification_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "Observer", broken(OSError(28, "limit")))
    before = (folder / "a.py").stat()
    async with watching(folder, every=0.05) as calls:
        (folder / "a.py").write_text("A = 2\n")
        os.utime(folder / "a.py", ns=(before.st_atime_ns, before.st_mtime_ns))
        await calls.next()


async def test_a_folder_that_is_missing_comes_later_and_is_replaced_is_survived(tmp_path: Path) -> None:
    folder = tmp_path / "functions"
    async with watching(folder, every=0.05) as calls:
        folder.mkdir()
        (folder / "a.py").write_text("A = 1\n")
        await calls.next()
        shutil.rmtree(folder)
        await calls.next()
        folder.mkdir()
        (folder / "a.py").write_text("A = 2\n")
        await calls.next()


async def test_swapping_the_link_a_folder_is_gives_a_call(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(name)
    (tmp_path / "functions").symlink_to("one")
    async with watching(tmp_path / "functions", every=0.05) as calls:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(tmp_path / "functions")
        await calls.next()


async def test_a_single_file_can_be_watched(tmp_path: Path) -> None:
    file = tmp_path / "runtime.toml"
    file.write_text("")
    async with watching(file, every=60) as calls:
        file.write_text("[log]\n")
        await calls.next()


async def test_a_call_that_raises_does_not_end_the_watching(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    called = asyncio.Event()

    def changed() -> None:
        called.set()
        raise ValueError("no")

    watcher = Watcher([folder], changed, debounce=0.01, every=0.05)
    watcher.start(asyncio.get_running_loop())
    for number in range(2):
        (folder / "a.py").write_text(f"A = {number}0\n")
        await asyncio.wait_for(called.wait(), 5)
        called.clear()
    watcher.stop()
    assert "watching goes on" in caplog.text
