"""A function at its limit holds up no other, however many events wait for it."""

from __future__ import annotations

import asyncio
import time

from benchmarks.children import run
from benchmarks.ours import MEMORY, events, project, running
from benchmarks.sheet import Sheet

WAITING = 100_000
FUNCTIONS = """
import asyncio
from benchmarks.subjects.crowd import STARTED
from runtime import function
import time

@function(on="slow", concurrency=1)
async def slow(data):
    await asyncio.sleep(1000)

@function(on="fast")
async def fast(data):
    STARTED.append(time.perf_counter())
"""
STARTED: list[float] = []


async def ours(times: int) -> list[float]:
    """Return the milliseconds from put to start of a function while 100,000 events wait for another."""
    taken = []
    with project(MEMORY, FUNCTIONS) as folder:
        async with running(folder) as app:
            inlet = app.inlet("bench")
            await inlet.put(events(WAITING, "slow"))
            for event in events(times, "fast"):
                began = time.perf_counter()
                await inlet.put(event)
                while not STARTED:
                    await asyncio.sleep(0)
                taken.append((STARTED.pop() - began) * 1000)
    return taken


def measure(sheet: Sheet) -> None:
    """See above."""
    sheet.add(f"an event, put to start, while {WAITING:,} wait for another function", run(ours, 200), "ms", "< 20")
