"""Measure what the README and the docs claim, and print a line for each: `python -m benchmarks [NAME…]`.

Ratios are of runs in one process, ours and the bare limit in turn; min, median and max of `ROUNDS` are shown,
since machines are noisy.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from runtime import Event, config, function
from runtime.cli import drawing
from runtime.clock import SystemClock
from runtime.engine import Engine
from runtime.function import collecting
from runtime.graph import Graph, build_graph
from runtime.inlet import HostInlet
from runtime.journal.memory import MemoryJournal
from runtime.loading import importer
from runtime.loading.generation import make_graph
from runtime.settings import SourceSettings
from runtime.specs import FunctionSpec, make_function

ROUNDS = 5
EVENTS = 50_000


def graph_of(declare: Callable[[], object]) -> Graph:
    """Return the graph of the functions that `declare` declares."""
    with collecting() as declarations:
        declare()
    made = [make_function(declaration, "functions/bench.py", 1, 1, {}) for declaration in declarations]
    graph = build_graph([one for one in made if isinstance(one, FunctionSpec)])
    assert isinstance(graph, Graph)
    return graph


def report(name: str, values: list[float], unit: str) -> None:
    """Print min, median and max."""
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{name:58} {middle:12,.2f} {unit:9} (min {low:,.2f}, max {high:,.2f})", flush=True)


def graph() -> None:
    """Load, sort and print 10,000 functions; the import itself is measured apart."""
    count = 10_000
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "functions"
        files.mkdir()
        for file in range(10):
            lines = ["from runtime import function\n"]
            for number in range(file * count // 10, (file + 1) * count // 10):
                if number % 10 == 0:
                    lines.append(f'@function(on="t{number}")\nasync def f{number}(data: int) -> int: return data\n')
                else:
                    before = f"f{number - 1}"
                    lines.append(f'@function(after="{before}")\nasync def f{number}({before}: int) -> int: return {before}\n')
            (files / f"part{file}.py").write_text("".join(lines))
        settings = config.load(Path(folder) / "runtime.toml")
        imports, rest = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            modules = importer.load(settings.functions_dir)
            imported = time.perf_counter()
            drawing.text(make_graph(modules, settings, 1))
            imports.append(imported - began)
            rest.append(time.perf_counter() - imported)
    report("graph of 10,000 functions: import", imports, "s")
    report("graph of 10,000 functions: check, sort, print (goal < 2)", rest, "s")


def idle_function(concurrency: int = 64) -> Callable[[], object]:
    """Return a declaration of a function that does nothing."""

    def declare() -> None:
        @function(on="go", concurrency=concurrency)
        async def nothing(data: int) -> None: ...

    return declare


async def _engine(declare: Callable[[], object]) -> tuple[Engine, HostInlet]:
    journal = MemoryJournal(SystemClock())
    await journal.open()
    engine = Engine(journal, SystemClock())
    engine.adopt(graph_of(declare), 1)
    await engine.start()
    return engine, HostInlet("bench", SourceSettings(plugin="bench"), engine)


async def _drained(engine: Engine) -> None:
    while (await engine.journal.counts()).open:
        await asyncio.sleep(0)


async def _puts(size: int) -> float:
    """Return events per second, put in lists of `size`, from the first put to the last recorded end."""
    engine, inlet = await _engine(idle_function())
    events = [Event(type="go", source="bench", data=1) for _ in range(EVENTS)]
    began = time.perf_counter()
    if size == 1:
        for event in events:
            await inlet.put(event)
    else:
        for start in range(0, EVENTS, size):
            await inlet.put(events[start : start + size])
    await _drained(engine)
    rate = EVENTS / (time.perf_counter() - began)
    await engine.stop(0.0)
    return rate


async def _bare_queue() -> float:
    """Return events per second through an `asyncio.Queue` with one worker."""
    queue: asyncio.Queue[Event] = asyncio.Queue()

    async def nothing(data: int) -> None: ...

    async def work() -> None:
        for _ in range(EVENTS):
            await nothing((await queue.get()).data)

    worker = asyncio.create_task(work())
    events = [Event(type="go", source="bench", data=1) for _ in range(EVENTS)]
    began = time.perf_counter()
    for event in events:
        await queue.put(event)
    await worker
    return EVENTS / (time.perf_counter() - began)


def memory() -> None:
    """Compare the whole way of an event on the journal in memory with a bare asyncio.Queue."""
    ones, lists, bare = [], [], []
    for _ in range(ROUNDS):
        bare.append(asyncio.run(_bare_queue()))
        ones.append(asyncio.run(_puts(1)))
        lists.append(asyncio.run(_puts(1000)))
    report("memory: bare asyncio.Queue, one worker", bare, "events/s")
    report("memory: one put an event", ones, "events/s")
    report("memory: puts of 1,000", lists, "events/s")
    report("memory: one put / bare queue", [one / limit for one, limit in zip(ones, bare, strict=True)], "x")
    report("memory: puts of 1,000 / bare queue", [one / limit for one, limit in zip(lists, bare, strict=True)], "x")


async def _start_behind_a_crowd() -> list[float]:
    """Return the milliseconds from put to start of a function while 100,000 events wait for another."""
    never = asyncio.Event()
    started: list[float] = []

    def declare() -> None:
        @function(on="slow", concurrency=1, timeout=1000)
        async def slow(data: int) -> None:
            await never.wait()

        @function(on="fast")
        async def fast(data: int) -> None:
            started.append(time.perf_counter())

    engine, inlet = await _engine(declare)
    for _ in range(100):
        await inlet.put([Event(type="slow", source="bench", data=1) for _ in range(1000)])
    delays = []
    for number in range(200):
        began = time.perf_counter()
        await inlet.put(Event(type="fast", source="bench", data=number))
        while len(started) <= number:
            await asyncio.sleep(0)
        delays.append((started[-1] - began) * 1000)
    await engine.stop(0.0)
    return delays


def crowd() -> None:
    """Show that a function at its limit holds up no other."""
    report("start while 100,000 wait for another (goal < 20)", asyncio.run(_start_behind_a_crowd()), "ms")


BENCHMARKS = {"graph": graph, "crowd": crowd, "memory": memory}

if __name__ == "__main__":
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()
