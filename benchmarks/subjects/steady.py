"""A journal on SQLite under load for a minute that keeps ended events for five seconds: it neither grows nor stalls."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.children import run
from benchmarks.ours import events, project, running
from benchmarks.sheet import Sheet

KEEP = 5.0  # seconds; also those of one part
CONFIG = f'[journal]\nurl = "sqlite:.runtime/journal.db"\nkeep = {KEEP}\ndedupe = {KEEP}\n'
PUBLISHERS = 64


def size(folder: Path) -> int:
    """Return the bytes of the files of a journal, without the reserve, which is always there."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix != ".reserve")


async def ours(seconds: float) -> list[tuple[float, float, float]]:
    """Return for each part the events accepted per second, the MB of the files and the longest put in milliseconds."""
    with project(CONFIG) as folder:
        async with running(folder) as app:
            inlet = app.inlet("bench")
            puts: list[float] = []
            parts: list[tuple[float, float, float]] = []
            end = time.perf_counter() + seconds

            async def publish() -> None:
                while time.perf_counter() < end:
                    began = time.perf_counter()
                    await inlet.put(events(1)[0])
                    puts.append(time.perf_counter() - began)

            publishing = asyncio.gather(*(publish() for _ in range(PUBLISHERS)))
            while not publishing.done():
                await asyncio.sleep(KEEP)
                parts.append((len(puts) / KEEP, size(folder / ".runtime") / 1e6, 1000 * max(puts)))
                puts.clear()
            return parts


def measure(sheet: Sheet) -> None:
    """See above: what came in the first part begins to go in the second."""
    parts = run(ours, 60.0 if sheet.full else 40.0)
    growing, pruning = parts[:2], parts[2:-1]
    sheet.add("events while nothing is old enough to go", [rate for rate, _, _ in growing], "events/s")
    sheet.add("events while as many go as come", [rate for rate, _, _ in pruning], "events/s")
    sheet.add("the longest put while nothing goes", [longest for _, _, longest in growing], "ms")
    sheet.add("the longest put while as many go as come", [longest for _, _, longest in pruning], "ms")
    sheet.add("files on the disk while as many go as come", [megabytes for _, megabytes, _ in pruning], "MB")
    sheet.add("files at the end / after three times `keep`", [pruning[-1][1] / pruning[0][1]], "x")
