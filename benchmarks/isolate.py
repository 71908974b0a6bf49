"""What a call in a worker process costs beside `concurrent.futures.ProcessPoolExecutor`, and how soon a killed worker is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

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

Report = Callable[[str, list[float], str], None]


def nothing(data: int) -> int:
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


async def replaced(call: Callable[[], Awaitable[int]]) -> float:
    """Return the milliseconds from the kill of a worker to the answer of the next one."""
    worker = await call()
    began = time.perf_counter()
    os.kill(worker, signal.SIGKILL)
    while True:
        try:
            if await call() != worker:
                return 1000 * (time.perf_counter() - began)
        except WorkerDied:
            continue


async def measure(report: Report, rounds: int) -> None:
    """Measure ours and the other in turn, and `report`."""
    with tempfile.TemporaryDirectory() as place, ProcessPoolExecutor() as pool:
        folder = Path(place)
        (folder / "functions").mkdir()
        (folder / "functions" / "bench.py").write_text(FUNCTIONS)
        graph = load_graph(config.load(folder / "runtime.toml"))
        processes = Processes(SystemClock(), folder)
        processes.adopt(graph.by_name.values())
        loop = asyncio.get_running_loop()

        def ours(name: str) -> Callable[[], Awaitable[Any]]:
            call = SuiteCall(graph.by_name[name], 7)
            return lambda: processes.call(call)

        for together in (1, TOGETHER):
            theirs, sync, on_loop = [], [], []
            for _ in range(rounds):
                theirs.append(await rate(lambda: loop.run_in_executor(pool, nothing, 7), together))
                sync.append(await rate(ours("nothing"), together))
                on_loop.append(await rate(ours("nothing_async"), together))
            what = f"{together} at once" if together > 1 else "one by one"
            report(f"isolate: ProcessPoolExecutor, {what}", theirs, "calls/s")
            report(f"isolate: sync, {what}", sync, "calls/s")
            report(f"isolate: async, {what}", on_loop, "calls/s")
            ratios = [mine / other for mine, other in zip(sync, theirs, strict=True)]
            goal = " (goal >= 20)" if together > 1 else ""
            report(f"isolate: sync / ProcessPoolExecutor, {what}{goal}", ratios, "x")
        report("isolate: killed worker replaced (goal < 10)", [await replaced(ours("pid")) for _ in range(10 * rounds)], "ms")
        await processes.close()
