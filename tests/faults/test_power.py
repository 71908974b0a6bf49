"""The power is cut: of what the process wrote only what it synced is there, and that is all it has acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import Ledger, check, lost, project
from faults.tracing import needs_strace, power_cut, recorded
from running import COMMAND, Running

pytestmark = [needs_strace, pytest.mark.timeout(40)]


def cut(folder: Path, command: Sequence[str] = COMMAND) -> Ledger:
    """Return the ledger of a load at the end of which the power went out."""
    ledger = Ledger()
    project(folder)
    log, journal = folder / "strace", folder / ".runtime" / "journal.db"
    with Running(folder) as running:
        assert running.stop() == 0
    before = journal.read_bytes()
    with Running(folder, recorded(log, command)) as running:
        asyncio.run(ledger.load(running, 300))
    power_cut(log, running.process.pid, journal, before)
    return ledger


def test_a_power_cut_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    ledger = cut(tmp_path)
    for left in ("trace", "out.jsonl"):
        (tmp_path / left).unlink()  # no promise is made of what functions and sinks had not synced
    with Running(tmp_path) as running:
        assert not lost(running, ledger)
        assert running.stop() == 0


@pytest.mark.parametrize("build", ["normal", "off"])
def test_less_than_a_sync_for_each_commit_would_be_noticed(tmp_path: Path, build: str) -> None:
    ledger = cut(tmp_path, broken.command(build))
    with Running(tmp_path) as running, pytest.raises(AssertionError, match="accepted events are lost"):
        check(running, ledger)
