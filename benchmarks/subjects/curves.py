"""How throughput goes with size, number of functions, subscriptions, backlog, attempts in flight, and width and depth of the graph."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

from benchmarks.children import run
from benchmarks.ours import MEMORY, SQLITE, events, project, rate, running
from benchmarks.sheet import Curve, Sheet
from benchmarks.subjects import backlog, chains
from runtime import Event

ROUNDS = 3
EVENTS = 20_000
STEPS = 40_000
TENS = (1, 10, 100, 1000, 10_000)
SIZES = (100, 1000, 10_000, 100_000, 1_000_000)
WAITING = (1000, 10_000, 100_000, 1_000_000)
WIDE = (3, 10, 30, 100, 300, 1000)

HEAD = "from runtime import function\n"
FUNCTION = '@function(on="{type}")\nasync def f{number}(data): ...\n'
BLOCKED = """
import asyncio
from runtime import function

@function(on="bulk", concurrency=1)
async def bulk(data): await asyncio.sleep(1000)

@function(on="go")
async def nothing(data): ...
"""
SERVED = """
from benchmarks.subjects import curves
from runtime import function

@function(on="bulk")
async def bulk(data): curves.COUNTER.tick()
"""
TOGETHER = """
from benchmarks.subjects import curves
from runtime import function

@function(on="go", concurrency={together})
async def nothing(data): await curves.COUNTER.gather({together})
"""


class Counter:
    """Counts calls of functions, and can hold them until so many are there."""

    def __init__(self) -> None:
        self.count = 0
        self.began = 0.0
        self.many = asyncio.Event()
        self._all = asyncio.Event()

    def tick(self) -> None:
        """Count a call; `many` is set at the last of `EVENTS`, `began` is when the first one came."""
        self.began = self.began or time.perf_counter()
        self.count += 1
        if self.count == EVENTS:
            self.many.set()

    async def gather(self, together: int) -> None:
        """Return when so many wait here."""
        self.count += 1
        if self.count % together == 0:
            self._all.set()
            self._all = asyncio.Event()
        else:
            await self._all.wait()


COUNTER = Counter()


async def sized(size: int, journal: str) -> float:
    """Return events per second whose data has so many bytes, put in lists of up to a megabyte."""
    count, many = max(40, min(EVENTS, 40_000_000 // size)), max(1, min(1000, 1_000_000 // size))
    data = {"n": 1, "text": "x" * size}
    with project(journal) as folder:
        async with running(folder) as app:
            return await rate(app, [Event(type="go", source="bench", data=data) for _ in range(count)], many)


async def functions(count: int, used: int) -> float:
    """Return events per second with so many functions, of which so many get events in turn."""
    text = HEAD + "".join(FUNCTION.format(number=number, type=f"t{number}") for number in range(count))
    with project(MEMORY, text) as folder:
        async with running(folder) as app:
            batch = [event for number in range(used) for event in events(EVENTS // used, f"t{number}")]
            ordered = [batch[place] for start in range(EVENTS // used) for place in range(start, EVENTS, EVENTS // used)]
            await rate(app, ordered[:used], 1000)  # the plan of a type is made when its first event comes
            return await rate(app, ordered, 1000)


async def subscribed(count: int) -> float:
    """Return steps per second when so many functions get each event."""
    text = HEAD + "".join(FUNCTION.format(number=number, type="go") for number in range(count))
    with project(MEMORY, text) as folder:
        async with running(folder) as app:
            return count * await rate(app, events(STEPS // count), 1000)


async def beside(waiting: int) -> float:
    """Return events per second through one function on SQLite while so many wait for another."""
    with project(SQLITE, BLOCKED) as folder:
        await backlog.fill(folder / ".runtime" / "journal.db", waiting)
        async with running(folder) as app:
            inlet, batch = app.inlet("bench"), events(EVENTS)
            began = time.perf_counter()
            for start in range(0, EVENTS, 1000):
                await inlet.put(batch[start : start + 1000])
            while (await app.stats())["done"] < EVENTS:
                await asyncio.sleep(0.005)
            return EVENTS / (time.perf_counter() - began)


async def behind(waiting: int) -> float:
    """Return events per second of a backlog of so many on SQLite: the first ones after a start."""
    with project(SQLITE, SERVED) as folder:
        await backlog.fill(folder / ".runtime" / "journal.db", waiting)
        async with running(folder):
            await COUNTER.many.wait()
            return EVENTS / (time.perf_counter() - COUNTER.began)


async def together(count: int) -> float:
    """Return events per second of a function that suspends until so many of it are in flight."""
    with project(f"{MEMORY}[dispatch]\nin_flight = {count}\n", TOGETHER.format(together=count)) as folder:
        async with running(folder) as app:
            await rate(app, events(count), 1000)  # workers are made when they are first needed
            return await rate(app, events(EVENTS), 1000)


def steps(kind: str, size: int) -> float:
    """Return steps per second of a chain or diamond of so many functions."""
    return size * float(run(chains.ours, kind, size, max(20, STEPS // size)))


def line(points: Sequence[int], measure: Callable[[int], float]) -> list[tuple[float, float]]:
    """Return the median of some rounds at each point."""
    found: dict[int, list[float]] = {point: [] for point in points}
    for _ in range(ROUNDS):
        for point in points:
            found[point].append(measure(point))
    return [(float(point), statistics.median(values)) for point, values in found.items()]


def measure(sheet: Sheet) -> None:
    """See above."""
    many = WAITING if sheet.full else WAITING[:-1]
    throughput = {
        "payload": (
            "bytes of data",
            "events/s",
            {
                "memory": line(SIZES, lambda size: run(sized, size, MEMORY)),
                "SQLite": line(SIZES, lambda size: run(sized, size, SQLITE)),
            },
        ),
        "functions": (
            "functions",
            "events/s",
            {
                "all get events": line(TENS, lambda count: run(functions, count, count)),
                "one gets events": line(TENS, lambda count: run(functions, count, 1)),
            },
        ),
        "subscriptions": ("functions for each event", "steps/s", {"memory": line(TENS[:-1], lambda count: run(subscribed, count))}),
        "backlog": (
            "events waiting",
            "events/s",
            {
                "of another function": line(many, lambda count: run(beside, count)),
                "of the backlog": line((EVENTS, *many[2:]), lambda count: run(behind, count)),
            },
        ),
        "in-flight": ("attempts in flight", "events/s", {"memory": line(TENS, lambda count: run(together, count))}),
        "graph": (
            "functions",
            "steps/s",
            {
                "depth: a chain": line(WIDE, lambda size: steps("chain", size)),
                "width: a diamond": line(WIDE, lambda size: steps("diamond", size)),
            },
        ),
    }
    for name, (x, y, lines) in throughput.items():
        sheet.curves.append(Curve(name=name, x=x, y=y, lines=lines))
        for label, points in lines.items():
            sheet.add(f"{name}, {label}: {y} at {points[-1][0]:,.0f} / at the first point", [points[-1][1] / points[0][1]], "x")
