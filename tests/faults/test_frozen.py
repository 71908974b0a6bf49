"""The process is stopped for a while and goes on: nothing is lost, nothing has timed out, and nobody took its journal meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults import broken
from faults.ledger import Ledger, check, drained, event, plugin, post, project, until
from running import COMMAND, Running, run

pytestmark = pytest.mark.timeout(30)

FUNCTIONS = """
import asyncio
from pathlib import Path

from runtime import function


@function(on="patient", timeout=0.6, retries=0)
async def patient(data: int) -> None:
    Path("called").touch()
    await asyncio.sleep(0.3)
"""

SINK = """
import asyncio

from runtime import Event, Sink, hookimpl


class Patient(Sink):
    async def write(self, events: list[Event]) -> None:
        (self.folder / "writing").touch()
        await asyncio.sleep(0.3)


@hookimpl
def register_sinks():
    return {"patient": Patient}
"""

CONFIG = """
[sinks.waiting]
plugin = "patient"
on = "patient"
timeout = 0.6
retries = 0
"""


def freeze(folder: Path, command: Sequence[str] = COMMAND) -> None:
    """Stop a process in the middle of a function and a write for longer than their timeouts, and let it go on."""
    project(folder, FUNCTIONS, CONFIG)
    plugin(folder, "patient", SINK)
    with Running(folder, command) as running:
        post(running, ("waits", "patient"))
        until(lambda: (folder / "called").exists() and (folder / "writing").exists())
        os.killpg(running.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.killpg(running.process.pid, signal.SIGCONT)
        drained(running)
        assert [(step["function"], step["error"]) for step in event(running, "waits")["steps"]] == [("patient", None), ("waiting", None)]
        assert running.stop() == 0


def test_what_a_frozen_process_was_doing_has_not_timed_out(tmp_path: Path) -> None:
    freeze(tmp_path)


def test_a_timeout_that_takes_a_frozen_process_for_a_slow_function_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="StepTimeout"):
        freeze(tmp_path, broken.command("hasty"))


def test_a_process_that_is_frozen_under_load_goes_on_and_nobody_takes_its_journal(tmp_path: Path) -> None:
    ledger = Ledger()

    async def load_frozen(running: Running) -> None:
        loading = asyncio.create_task(ledger.load(running, 500, end=0))
        while len(ledger.accepted) < 100:
            await asyncio.sleep(0.01)
        os.killpg(running.process.pid, signal.SIGSTOP)
        second = await asyncio.to_thread(run, tmp_path, "run")
        assert second.returncode == 1
        assert f"journal.db is in use by process {running.process.pid}" in second.stderr
        os.killpg(running.process.pid, signal.SIGCONT)
        await loading

    with Running(project(tmp_path)) as running:
        asyncio.run(load_frozen(running))
        check(running, ledger)
        assert running.stop() == 0
