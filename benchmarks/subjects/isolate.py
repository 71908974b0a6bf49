"""What a call in a worker process costs beside `concurrent.futures.ProcessPoolExecutor`, and how soon a killed worker is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.children import child, run
from benchmarks.ours import MEMORY, project
from benchmarks.sheet import Sheet
from runtime import config
from runtime.clock import SystemClock
from runtime.errors import WorkerDied
from runtime.executors.process import Processes
from runtime.loading.loader import load_graph
from runtime.testing import SuiteCall

SECONDS = 1.0  # that each is measured
TOGETHER = 64
FUNCTIONS = """
import os
from runtime import function

@function(isolate=True)
def nothing(data): return data

@function(isolate=True)
async def nothing_async(data): return data

@function(isolate=True)
def pid(data): return os.getpid()
"""


def nothing(data: dict[str, int]) -> dict[str, int]:
    """Return the data."""
    return data


async def rate(call: Callable[[], Awaitable[Any]], together: int) -> float:
    """Return calls per second, so many at once."""
    await call()
    began, count = time.perf_counter(), 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() - began < SECONDS:
            await call()
            count += 1

    await asyncio.gather(*(caller() for _ in range(together)))
    return count / (time.perf_counter() - began)


@asynccontextmanager
async def workers(name: str) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Give a call of a function in a worker process."""
    with project(MEMORY, FUNCTIONS) as folder:
        graph = load_graph(config.load(folder / "runtime.toml"))
        processes = Processes(SystemClock(), folder)
        processes.adopt(graph.by_name.values())
        call = SuiteCall(graph.by_name[name], {"n": 1})
        yield lambda: processes.call(call)
        await processes.close()


async def ours(name: str, together: int) -> float:
    """Return calls per second of a function in worker processes."""
    async with workers(name) as call:
        return await rate(call, together)


async def library(together: int) -> float:
    """Return calls per second in a `ProcessPoolExecutor`."""
    with ProcessPoolExecutor() as pool:
        loop = asyncio.get_running_loop()
        return await rate(lambda: loop.run_in_executor(pool, nothing, {"n": 1}), together)


async def replaced(times: int) -> list[float]:
    """Return the milliseconds from the kill of a worker to the answer of the next one."""
    async with workers("pid") as call:
        return [await _replaced(call) for _ in range(times)]


async def _replaced(call: Callable[[], Awaitable[int]]) -> float:
    worker = await call()
    began = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    while True:
        try:
            if await call() != worker:
                return 1000 * (time.perf_counter() - began)
        except WorkerDied:
            continue


def measure(sheet: Sheet) -> None:
    """See above."""
    for together, goal in ((1, "≥ 2"), (TOGETHER, "≥ 20")):
        what = f"{together} calls in flight" if together > 1 else "one at a time"
        sheet.compare(
            "calls/s",
            {
                f"isolated, {what}": child(ours, "nothing", together),
                f"isolated `async def`, {what}": child(ours, "nothing_async", together),
                f"ProcessPoolExecutor, {what}": child(library, together),
            },
        )
        sheet.ratio(f"isolated, {what}", f"ProcessPoolExecutor, {what}", goal)
    sheet.add("a killed worker is replaced", run(replaced, 10 * sheet.rounds), "ms", "≤ 10")
