"""A single write or sync fails, or is the last thing the process does."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import Ledger, check, lost, project
from faults.tracing import injecting, needs_strace
from running import Running

pytestmark = [needs_strace, pytest.mark.timeout(40)]

MANY = 10**9  # events, so that the load lasts as long as the process


@pytest.mark.parametrize(
    "when", ["pwrite64:signal=SIGKILL:when=131", "pwrite64:signal=SIGKILL:when=262", "fdatasync:signal=SIGKILL:when=29"]
)
def test_a_kill_at_a_single_write_loses_nothing(tmp_path: Path, when: str) -> None:
    ledger = Ledger()
    project(tmp_path)
    with Running(tmp_path) as running:  # so that the schema is there, and the writes are those of events
        asyncio.run(ledger.load(running, 20, end=0))
        assert running.stop() == 0
    with Running(tmp_path, injecting(tmp_path / "strace", when)) as running:
        asyncio.run(ledger.load(running, MANY, end=0))
        assert running.process.wait(10) == -signal.SIGKILL
    with Running(tmp_path) as running:
        check(running, ledger)


def test_after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends(tmp_path: Path) -> None:
    ledger = Ledger()
    project(tmp_path)
    with Running(tmp_path, injecting(tmp_path / "strace", "fdatasync:error=EIO:when=20")) as running:
        asyncio.run(ledger.load(running, MANY, end=0))
        assert running.process.wait(10) == 1
        running.stop()
        assert "nothing is acknowledged any more" in running.log
        assert "IOError" in running.log
    assert {refused.status for refused in ledger.refused} <= {503}
    with Running(tmp_path) as running:
        check(running, ledger)


def test_a_failed_sync_that_is_passed_over_would_be_noticed(tmp_path: Path) -> None:
    ledger = Ledger()
    project(tmp_path)
    command = injecting(tmp_path / "strace", "fdatasync:error=EIO:when=20..24", command=broken.command("deaf"))
    with Running(tmp_path, command) as running:
        asyncio.run(ledger.load(running, 2000))
    with Running(tmp_path) as running:
        assert lost(running, ledger)
