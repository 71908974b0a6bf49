from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runtime.loading.notify import Hints
from runtime.loading.watch import YOUNG, Watcher, has_changed, scan


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


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no notification come through, as on a network file system or when the queue of the system overflows."""
    monkeypatch.setattr(Hints, "follow", lambda *_: None)


async def test_a_scan_finds_a_save_of_the_same_size_and_modification_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf(monkeypatch)
    before = (folder / "a.py").stat()
    async with watching(folder, every=0.05) as calls:
        (folder / "a.py").write_text("A = 2\n")
        os.utime(folder / "a.py", ns=(before.st_atime_ns, before.st_mtime_ns))
        await calls.next()


async def test_after_a_hint_one_look_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf(monkeypatch)
    looks = 0

    def look(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return scan(*arguments)  # type: ignore[arg-type]

    calls = Calls()
    watcher = Watcher([folder], calls, debounce=0.01, every=60)
    watcher.start(asyncio.get_running_loop())
    monkeypatch.setattr("runtime.loading.watch.scan", look)
    (folder / "a.py").write_text("A = 22\n")
    watcher._hinted.set()
    await calls.next()
    assert looks == 1
    watcher.stop()


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


async def test_whatever_goes_wrong_in_a_look_the_watching_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deaf(monkeypatch)
    wrong: list[Exception] = [OSError(5, "gone"), RuntimeError("unheard of")]

    def look(*arguments: object) -> object:
        if wrong:
            raise wrong.pop()
        return scan(*arguments)  # type: ignore[arg-type]

    async with watching(folder, every=0.02) as calls:
        monkeypatch.setattr("runtime.loading.watch.scan", look)
        (folder / "a.py").write_text("A = 22\n")
        await calls.next()
    assert "unheard of" in caplog.text
    assert "the files cannot be looked at, and are again in 0.02 s: [Errno 5] gone" in caplog.text


def test_a_young_file_is_told_by_its_content_and_an_old_one_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 10**18
    now = [at + 1]
    monkeypatch.setattr("runtime.loading.watch.file_signature", lambda _: (at, at, 6, 1))
    monkeypatch.setattr("time.time_ns", lambda: now[0])
    first = scan([folder], {})
    (folder / "a.py").write_text("A = 2\n")
    now[0] = at + int(YOUNG * 2e9)
    second = scan([folder], first)
    assert has_changed(second, first), "saved again within a tick of the clock of the file system, and looked at once more"
    (folder / "a.py").write_text("A = 3\n")
    assert scan([folder], second) == second, "no file system is that coarse"


async def test_a_touch_is_told_and_left_to_the_loader(folder: Path) -> None:
    async with watching(folder, every=60) as calls:
        os.utime(folder / "a.py", (1, 1))
        await calls.next()


@pytest.mark.parametrize("notified", [True, False])
async def test_files_that_are_copied_with_their_times_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notified: bool
) -> None:
    if not notified:
        deaf(monkeypatch)
    other = tmp_path / "other.py"
    other.write_text("A = 2\n")
    for file in (other, folder / "a.py"):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    async with watching(folder, every=60 if notified else 0.05) as calls:
        shutil.copy2(other, folder / "a.py")
        await calls.next()


async def test_the_swap_that_kubernetes_does_is_told_by_a_hint(tmp_path: Path) -> None:
    folder = tmp_path / "functions"
    for name in ("..one", "..two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.py").write_text(name)
    (folder / "..data").symlink_to("..one")
    (folder / "a.py").symlink_to("..data/a.py")
    async with watching(folder, every=60) as calls:
        (folder / "..data_tmp").symlink_to("..two")
        (folder / "..data_tmp").replace(folder / "..data")
        await calls.next()
        shutil.rmtree(folder / "..one")


async def test_the_target_of_a_link_outside_the_folder_is_looked_at(tmp_path: Path, folder: Path) -> None:
    shared = tmp_path / "shared.py"
    shared.write_text("A = 1\n")
    (folder / "linked.py").symlink_to(shared)
    async with watching(folder, every=0.05) as calls:
        shared.write_text("A = 22\n")
        await calls.next()


@pytest.mark.parametrize("notified", [True, False])
async def test_a_folder_swapped_by_rename_is_told_and_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notified: bool
) -> None:
    if not notified:
        deaf(monkeypatch)
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "a.py").write_text("A = 2\n")
    async with watching(folder, every=0.05) as calls:
        folder.rename(tmp_path / "last")
        (tmp_path / "next").rename(folder)
        await calls.next()
        (folder / "b.py").write_text("B = 1\n")
        await calls.next()
        (tmp_path / "last" / "a.py").write_text("A = 3\n")
        await asyncio.sleep(0.2)
        assert calls.count in (2, 3), "the rename may be told in its two steps, the old folder not at all"
