"""Functions fail, again and again or all at once, or take the process with them: nothing is lost, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import broken
from faults.ledger import Connection, drained, event, post, project, until
from running import COMMAND, Running

pytestmark = pytest.mark.timeout(30)

FUNCTIONS = """
import asyncio
import os
import signal
import time
from pathlib import Path

from runtime import Context, function

TRACE = os.open("trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
TOGETHER = asyncio.Event()


def trace(context: Context) -> None:
    words = (context.function, context.event.id, context.attempt, time.monotonic(), context.idempotency_key)
    os.write(TRACE, (" ".join(map(str, words)) + "\\n").encode())


async def die(when: str) -> None:
    while not Path(when).exists():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@function(on="hopeless", retries=3, backoff=0.4)
async def hopeless(data: int, context: Context) -> None:
    trace(context)
    raise OSError("as always")


@function(on="calm")
async def calm(data: int, context: Context) -> None:
    trace(context)


@function(on="crowd", concurrency=1000, backoff=2)
async def crowd(data: int, context: Context) -> None:
    trace(context)
    if context.attempt == 1:
        await TOGETHER.wait()
        raise OSError("all at once")


@function(on="now")
async def now(data: int) -> None:
    TOGETHER.set()


@function(on="keyed", retries=10_000, backoff=0.05, backoff_max=0.05)
async def keyed(data: int, context: Context) -> None:
    if context.event.id == "head" and not Path("open").exists():
        raise OSError("not yet")
    trace(context)


@function(on="work", concurrency=1)
async def work(data: int, context: Context) -> None:
    trace(context)
    await asyncio.sleep(0.02)


@function(on="deadly", retries=1, backoff=0.01)
async def deadly(data: int, context: Context) -> int:
    trace(context)
    if context.attempt == 1:
        await die("answered")
    if context.attempt == 2:
        raise OSError("once")
    return data


@function(after="deadly", retries=0)
async def last(deadly: int, context: Context) -> None:
    trace(context)
    if context.attempt == 1:
        await die("recorded")
"""


class Call(NamedTuple):
    """A line of the trace: what was called for which event, and when (monotonic)."""

    function: str
    id: str
    attempt: int
    at: float
    key: str


def calls(folder: Path, *functions: str) -> list[Call]:
    """Return the calls of functions in the order in which they were made."""
    path = folder / "trace"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    found = [Call(function, id, int(attempt), float(at), key) for function, id, attempt, at, key in lines]
    return [call for call in found if call.function in functions]


# --- a function that always raises --------------------------------------------------------------------


def fail_for_good(folder: Path, command: Sequence[str] = COMMAND) -> None:
    with Running(project(folder, FUNCTIONS), command) as running:
        post(running, ("fails", "hopeless"))
        until(lambda: bool(calls(folder, "hopeless")))
        post(running, *((f"calm-{number}", "calm") for number in range(20)))
        assert drained(running)["dead"] == 1
        attempts, others = calls(folder, "hopeless"), calls(folder, "calm")
        assert [call.attempt for call in attempts] == [1, 2, 3, 4]
        pauses = [after.at - before.at for before, after in itertools.pairwise(attempts)]
        assert pauses == sorted(pauses)
        assert pauses[-1] >= 2 * pauses[0] * 0.9, "from 0.2 … 0.4 s to 0.8 … 1.6 s"
        assert len(others) == 20
        assert others[-1].at < attempts[-1].at, "the others had to wait"
        found = event(running, "fails")
        (step,) = found["steps"]
        assert (found["status"], found["attempts"], step["attempts"], step["status"]) == ("dead", 4, 4, "failed")
        assert (step["error"]["type"], step["error"]["message"]) == ("OSError", "as always")
        assert 'load.py", line 28, in hopeless' in step["error"]["traceback"]
        assert running.stop() == 0


def test_a_function_that_always_raises_is_tried_with_growing_pauses_and_delays_nobody(tmp_path: Path) -> None:
    fail_for_good(tmp_path)


def test_a_failure_that_delays_others_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the others had to wait"):
        fail_for_good(tmp_path, broken.command("stalled"))


# --- a thousand that fail at once ---------------------------------------------------------------------


CROWD = 1000


def fail_together(folder: Path, command: Sequence[str] = COMMAND) -> None:
    async def post_crowd(web: str, client: int) -> None:
        async with Connection.open(web) as connection:
            for number in range(client, CROWD, 20):
                await connection.post(f"crowd-{number}", "crowd", number)

    async def post_all(web: str) -> None:
        await asyncio.gather(*(post_crowd(web, client) for client in range(20)))

    with Running(project(folder, FUNCTIONS, "[dispatch]\nin_flight = 2000\n"), command) as running:
        asyncio.run(post_all(running.web))
        until(lambda: len(calls(folder, "crowd")) == CROWD)
        failed = time.monotonic()
        post(running, ("now", "now"), *((f"calm-{number}", "calm") for number in range(20)))
        stats = drained(running)
        assert (stats["accepted"], stats["done"]) == (CROWD + 21, CROWD + 21)
        tries = Counter((call.id, call.attempt) for call in calls(folder, "crowd"))
        assert tries == {(f"crowd-{number}", attempt): 1 for number in range(CROWD) for attempt in (1, 2)}
        again = sorted(call.at - failed for call in calls(folder, "crowd") if call.attempt == 2)
        assert calls(folder, "calm")[-1].at - failed < again[-1], "the others had to wait"
        assert again[0] >= 0.9, "half of the pause is fixed"
        densest = max(sum(start <= at < start + 0.1 for at in again) for start in again)
        assert densest < CROWD // 3, f"{densest} came back within a tenth of the time they had"
        assert running.stop() == 0


def test_a_thousand_that_fail_at_once_do_not_come_back_at_once(tmp_path: Path) -> None:
    fail_together(tmp_path)


def test_pauses_without_chance_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="came back within a tenth of the time"):
        fail_together(tmp_path, broken.command("even"))


# --- a key whose first event fails --------------------------------------------------------------------


def block_a_key(folder: Path, command: Sequence[str] = COMMAND) -> None:
    async def post_keyed(running: Running) -> None:
        async with Connection.open(running.web) as connection:
            await connection.post("head", "keyed", 0, partitionkey="blocked")
            for number in range(1, 40):
                await connection.post(f"behind-{number}", "keyed", number, partitionkey="blocked")
                await connection.post(f"other-{number}", "keyed", number, partitionkey=f"key-{number % 10}")

    with Running(project(folder, FUNCTIONS), command) as running:
        asyncio.run(post_keyed(running))
        until(lambda: sum(call.id.startswith("other") for call in calls(folder, "keyed")) == 39)
        assert all(call.id.startswith("other") for call in calls(folder, "keyed")), "an event started before the one its key waits for"
        (folder / "open").touch()
        assert drained(running)["done"] == 79
        blocked = [call.id for call in calls(folder, "keyed") if not call.id.startswith("other")]
        assert blocked == ["head", *(f"behind-{number}" for number in range(1, 40))]
        assert running.stop() == 0


def test_a_key_blocked_by_a_failing_head_holds_up_nobody_else(tmp_path: Path) -> None:
    block_a_key(tmp_path)


def test_a_key_that_is_not_held_through_retries_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="an event started before the one its key waits for"):
        block_a_key(tmp_path, broken.command("unheld"))


# --- urgent events without end ------------------------------------------------------------------------


async def serve_bulk(running: Running, seconds: float) -> None:
    """Post urgent events, more than can be served, until a bulk event among them is served."""

    async def post_urgent(client: int) -> None:
        async with Connection.open(running.web) as connection:
            for number in itertools.count():
                await connection.post(f"urgent-{client}-{number}", "work", number, priority=9)
                await asyncio.sleep(0.005)

    urgent = [asyncio.create_task(post_urgent(client)) for client in range(2)]
    try:
        async with Connection.open(running.web) as connection, asyncio.timeout(seconds):
            while len(calls(running.folder, "work")) < 5:
                await asyncio.sleep(0.01)
            await connection.post("bulk", "work", 0, priority=0)
            while not any(call.id == "bulk" for call in calls(running.folder, "work")):
                await asyncio.sleep(0.01)
    finally:
        for task in urgent:
            task.cancel()
        await asyncio.gather(*urgent, return_exceptions=True)


def test_bulk_is_served_while_urgent_events_keep_coming(tmp_path: Path) -> None:
    with Running(project(tmp_path, FUNCTIONS, '[dispatch]\norder = "priority"\naging = 0.02\n')) as running:
        asyncio.run(serve_bulk(running, 20))
        before = [call.id for call in calls(tmp_path, "work")].index("bulk")
        stats = running.api.get("/api/stats").json()
        assert stats["queued"] > 0, "there were never more urgent events than could be served"
        assert before > 20, "it went before urgent events that had come as early"


def test_bulk_that_starves_would_be_noticed(tmp_path: Path) -> None:
    command = broken.command("strict")
    with (
        Running(project(tmp_path, FUNCTIONS, '[dispatch]\norder = "priority"\naging = 0.02\n'), command) as running,
        pytest.raises(TimeoutError),
    ):
        asyncio.run(serve_bulk(running, 2))


# --- the process dies between what a function does and its record -------------------------------------


def test_what_was_done_but_not_recorded_is_done_again_as_another_attempt(tmp_path: Path) -> None:
    folder = project(tmp_path, FUNCTIONS)
    with Running(folder) as running:
        post(running, ("dies", "deadly"))
        (folder / "answered").touch()
        assert running.process.wait(10) == -signal.SIGKILL
    with Running(folder) as running:
        until(lambda: event(running, "dies")["steps"][0]["status"] == "done")
        (folder / "recorded").touch()
        assert running.process.wait(10) == -signal.SIGKILL
    with Running(folder) as running:
        drained(running)
        found = event(running, "dies")
        assert (found["status"], found["crashes"], found["attempts"]) == ("done", 2, 3)
        assert [(step["function"], step["attempts"]) for step in found["steps"]] == [("deadly", 3), ("last", 2)]
        assert running.stop() == 0
    keys = defaultdict(set)
    for call in calls(folder, "deadly", "last"):
        assert call.id == "dies"
        keys[call.function].add(call.key)
    assert [call.attempt for call in calls(folder, "deadly")] == [1, 2, 3], "a crash is an attempt, and no retry"
    assert [call.attempt for call in calls(folder, "last")] == [1, 2], "the crashes of other steps are not its own"
    assert [len(found) for found in keys.values()] == [1, 1]


def test_an_attempt_that_is_forgotten_in_a_crash_would_be_noticed(tmp_path: Path) -> None:
    project(tmp_path, FUNCTIONS)
    with Running(tmp_path, broken.command("forgetful")) as running:
        post(running, ("dies", "deadly"))
        (tmp_path / "answered").touch()
        assert running.process.wait(10) == -signal.SIGKILL
    (tmp_path / "answered").unlink()
    with Running(tmp_path) as running:
        until(lambda: len(calls(tmp_path, "deadly")) == 2)
    assert [call.attempt for call in calls(tmp_path, "deadly")] == [1, 1]
