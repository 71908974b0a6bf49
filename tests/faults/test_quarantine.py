"""A function that kills the process is charged for it, after the third time for good; nobody else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.ledger import drained, event, post, project, until
from running import Running, run

pytestmark = pytest.mark.timeout(30)

FUNCTIONS = """
import asyncio
import os
from pathlib import Path

from runtime import function


@function(on="bomb")
async def bomb(data: int) -> None:
    await asyncio.sleep(0.05)
    os._exit(7)


@function(on="slow")
async def slow(data: int) -> None:
    await asyncio.sleep(0.3)


@function(on="calm")
async def calm(data: int) -> None: ...


@function(on="patient")
async def patient(data: int) -> int:
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return data
"""


def explode(folder: Path) -> None:
    """Kill the process three times by an event `bomb`, with others around it."""
    with Running(project(folder, FUNCTIONS)) as running:
        post(running, ("bystander", "slow"), ("bomb", "bomb"), ("other", "calm"))
        assert running.process.wait(10) == 7
    assert [run(folder, "run").returncode for _ in range(2)] == [7, 7]


def test_an_event_that_kills_the_process_three_times_is_dead_and_bystanders_are_not(tmp_path: Path) -> None:
    explode(tmp_path)
    with Running(tmp_path) as running:
        post(running, ("later", "calm"))
        drained(running)
        dead = event(running, "bomb")
        assert (dead["status"], dead["error"]["message"]) == ("dead", "killed the process")
        assert [event(running, id)["status"] for id in ("bystander", "other", "later")] == ["done"] * 3
        assert running.stop() == 0


def test_two_that_kill_the_process_do_not_hide_behind_each_other(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS)
    with Running(tmp_path) as running:
        post(running, ("bystander", "slow"), ("one", "bomb"), ("two", "bomb"))
        assert running.process.wait(10) == 7
    assert [run(tmp_path, "run").returncode for _ in range(3)] == [7, 7, 7]
    with Running(tmp_path) as running:
        drained(running)
        assert [event(running, id)["status"] for id in ("one", "two", "bystander")] == ["dead", "dead", "done"]
        assert running.stop() == 0


def test_a_redriven_event_that_kills_again_is_tried_three_times_more(tmp_path: Path) -> None:
    explode(tmp_path)
    with Running(tmp_path) as running:
        drained(running)
        assert running.api.post("/api/events/bomb/retry", json={}).status_code == 200
        assert running.process.wait(10) == 7
    assert [run(tmp_path, "run").returncode for _ in range(2)] == [7, 7]
    with Running(tmp_path) as running:
        assert event(running, "bomb")["status"] == "dead"
        assert running.stop() == 0


def test_a_stop_charges_nothing(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS, "[runtime]\ngrace = 0.1\n")
    with Running(tmp_path) as running:
        post(running, ("waits", "patient"))
        assert running.stop() == 0
    for _ in range(3):
        with Running(tmp_path) as running:
            until(lambda: event(running, "waits")["status"] == "running")
            assert running.stop() == 0
    (tmp_path / "open").touch()
    with Running(tmp_path) as running:
        drained(running)
        found = event(running, "waits")
        assert (found["status"], found["attempts"]) == ("done", 1)
        assert running.stop() == 0
