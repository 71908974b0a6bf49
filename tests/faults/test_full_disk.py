"""The disk is full: what comes in is refused, what was running is recorded, and it heals by itself when there is room."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import FUNCTIONS, SINK, Ledger, Refused, check, event, post, project, until
from running import COMMAND, Running

pytestmark = pytest.mark.timeout(40)

PATIENT = """

@function(on="patient")
async def patient(data: int, context: Context) -> int:
    while not os.path.exists("open"):
        await asyncio.sleep(0.01)
    return data
"""

MB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def can_post(running: Running, id: str) -> bool:
    try:
        post(running, (id, "idle"))
    except Refused:
        return False
    return True


def faults(running: Running) -> list[str]:
    return [fault["message"] for fault in running.api.get("/health").json()["faults"]]


def survive(folder: Path, ballast: Path, size: int, command: Sequence[str] = COMMAND) -> None:
    """Fill the disk by a file under load, empty it, and see that everything is as it should be."""
    ledger = Ledger()
    config = SINK + '[sinks.idle]\nplugin = "jsonl"\npath = "idle.jsonl"\non = "idle"\n'
    project(folder / "project", "import asyncio\n" + FUNCTIONS + PATIENT, config)
    with Running(folder / "project", command) as running:
        asyncio.run(ledger.load(running, 100, end=0))
        post(running, ("waits", "patient"))
        until(lambda: event(running, "waits")["status"] == "running")
        fill(ballast, size)
        asyncio.run(ledger.load(running, 10**9, end=0))  # until all clients are refused
        assert {refused.status for refused in ledger.refused} == {503}
        assert all(int(refused.retry_after or 0) >= 1 for refused in ledger.refused)
        until(lambda: faults(running) == ["the disk is full; events are taken again when there is room"])
        assert not can_post(running, "idle-1")
        (folder / "project" / "open").touch()
        until(lambda: event(running, "waits")["status"] == "done")
        assert not can_post(running, "idle-2")
        ballast.unlink()
        until(lambda: can_post(running, "idle-3"))
        assert faults(running) == []
        asyncio.run(ledger.load(running, 20, end=0))
        assert running.stop() == 0
    with Running(folder / "project") as running:
        assert event(running, "waits")["status"] == "done"
        check(running, ledger, others=("idle", "patient"))


def fill(path: Path, size: int) -> None:
    """Write a file until it has a size or there is no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.tell() < size:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_disk_that_is_full_refuses_events_records_what_was_running_and_heals(small_disk: Path) -> None:
    survive(small_disk, small_disk / "ballast", 32 * MB)


def test_a_disk_that_is_found_full_refuses_events_records_what_was_running_and_heals(tmp_path: Path) -> None:
    survive(tmp_path, tmp_path / "project" / "full", 0, broken.command("full"))
