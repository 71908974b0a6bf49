"""What was under way when the process was killed goes on where its record ends, once."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faults.ledger import SINK, Connection, drained, event, listing, post, project, until
from running import Running

pytestmark = pytest.mark.timeout(30)

FUNCTIONS = """
import asyncio
import os
import time
from pathlib import Path

from runtime import Context, function

TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def trace(*words: object) -> None:
    os.write(TRACE, (" ".join(map(str, words)) + "\\n").encode())


@function(on="go", emits="made.first")
async def root(data: int) -> int:
    trace("root")
    return data


@function(after="root")
async def left(root: int, state: dict) -> int:
    trace("left")
    state["count"] = state.get("count", 0) + 1
    return state["count"]


@function(after="root")
async def right(root: int) -> int:
    trace("right")
    return root + 1


@function(after=["left", "right"], emits="loaded")
async def join(left: int, right: int, context: Context) -> dict:
    trace("join", context.attempt)
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return {"left": left, "right": right}


@function(on="later")
async def later(data: int) -> None:
    trace("later", time.time())


@function(on="plan")
async def plan(data: int, context: Context) -> None:
    context.emit("later", 2, delay=1.0)


@function(on="line")
async def line(data: dict) -> None:
    trace(data["number"])
"""

LINES = """
[sources.lines]
plugin = "jsonl"
path = "in.jsonl"
type = "line"
follow = true
every = 0.05
"""


def kill(running: Running) -> None:
    assert running.stop(signal.SIGKILL) == -signal.SIGKILL


def steps(running: Running, id: str) -> dict[str, Any]:
    return {step["function"]: step for step in event(running, id)["steps"]}


def traced(folder: Path) -> list[str]:
    return (folder / "trace").read_text().splitlines()


def test_finished_steps_are_not_run_again_a_join_fires_once_and_what_is_emitted_is_emitted_once(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS)
    with Running(tmp_path) as running:
        post(running, ("go-1", "go"))
        until(lambda: [steps(running, "go-1")[name]["status"] for name in ("root", "left", "right")] == ["done"] * 3)
        until(lambda: "join 1" in traced(tmp_path))
        kill(running)
    (tmp_path / "open").touch()
    with Running(tmp_path) as running:
        drained(running)
        assert Counter(word.split()[0] for word in traced(tmp_path)) == {"root": 1, "left": 1, "right": 1, "join": 2}
        found = event(running, "go-1")
        assert found["status"] == "done"
        assert steps(running, "go-1")["join"]["result"] == {"left": 1, "right": 2}
        assert Counter(one["type"] for one in listing(running)) == {"go": 1, "made.first": 1, "loaded": 1}
        assert len(found["effects"]) == 2
        (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
        assert json.loads(line)["data"] == {"left": 1, "right": 2}
        assert running.stop() == 0


def test_state_is_recorded_with_the_step_that_changed_it(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS)
    (tmp_path / "open").touch()
    for number in range(1, 4):
        with Running(tmp_path) as running:
            post(running, (f"go-{number}", "go"))
            drained(running)
            assert steps(running, f"go-{number}")["left"]["result"] == number
            kill(running)


def test_the_same_id_after_a_restart_joins_the_first(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS)
    with Running(tmp_path) as running:
        post(running, ("go-1", "go"))
        kill(running)
    (tmp_path / "open").touch()
    with Running(tmp_path) as running:
        post(running, ("go-1", "go"))
        stats = drained(running)
        assert (len(listing(running, type="go")), stats["duplicates"]) == (1, 1)
        kill(running)
    with Running(tmp_path) as running:
        post(running, ("go-1", "go"))
        assert (len(listing(running, type="go")), drained(running)["duplicates"]) == (1, 2)
        assert traced(tmp_path).count("root") <= 2, "the first may have been under way when the process was killed"


def test_fifty_posts_of_one_id_at_once_are_one_event(tmp_path: Path) -> None:
    async def post_all() -> None:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(Connection.open(running.web)) for _ in range(50)]
            await asyncio.gather(*(connection.post("go-1", "go", 1) for connection in connections))

    project(tmp_path, FUNCTIONS)
    (tmp_path / "open").touch()
    with Running(tmp_path) as running:
        asyncio.run(post_all())
        stats = drained(running)
        assert (len(listing(running, type="go")), stats["duplicates"]) == (1, 49)
        assert traced(tmp_path).count("root") == 1
        assert running.stop() == 0


def test_delayed_events_wait_for_their_time_over_a_restart(tmp_path: Path) -> None:
    async def post_due(at: datetime) -> None:
        async with Connection.open(running.web) as connection:
            await connection.post("later-1", "later", 1, due=at.isoformat())
            await connection.post("plan-1", "plan", 1)

    project(tmp_path, FUNCTIONS)
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    with Running(tmp_path) as running:
        asyncio.run(post_due(due))
        until(lambda: event(running, "plan-1")["status"] == "done")
        kill(running)
    with Running(tmp_path) as running:
        assert [one["status"] for one in listing(running, type="later")] == ["queued", "queued"]
        drained(running)
        times = [float(line.split()[1]) for line in traced(tmp_path)]
        assert len(times) == 2
        assert max(times) >= due.timestamp() - 0.01, "but for the grain of a timer"
        assert running.stop() == 0


def test_a_source_goes_on_behind_its_last_recorded_cursor(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS, SINK + LINES)
    count = 8000
    (tmp_path / "in.jsonl").write_text("".join(f'{{"number": {number}}}\n' for number in range(count)))
    for number in range(3):
        with Running(tmp_path) as running:
            until(lambda number=number: running.api.get("/api/stats").json()["accepted"] > 1000 * number)  # type: ignore[misc]
            kill(running)
    with Running(tmp_path) as running:
        until(lambda: running.api.get("/api/stats").json()["accepted"] >= count)
        assert drained(running)["accepted"] == count, "as many events as lines, whatever was read twice"
        assert set(map(int, traced(tmp_path))) == set(range(count))
        assert running.stop() == 0
