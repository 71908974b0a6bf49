"""Measure what the README and the docs claim, and print a line for each: `python -m benchmarks [NAME…]`.

Ratios are of runs in one process, ours and the bare limit in turn; min, median and max of `ROUNDS` are shown,
since machines are noisy.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import apsw

from benchmarks import isolate as isolation
from benchmarks.calls import measure
from benchmarks.reload import reload
from runtime import Event, config, function
from runtime.cli import drawing
from runtime.clock import SystemClock
from runtime.engine import Engine
from runtime.function import collecting
from runtime.graph import Graph, build_graph
from runtime.inlet import HostInlet
from runtime.journal.memory import MemoryJournal
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.loading import importer
from runtime.loading.generation import make_graph
from runtime.records import Entry
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


# --- the journal on SQLite ------------------------------------------------------------------------------


async def _through_sqlite(publishers: int, each: int) -> float:
    """Return events per second from the first put to the last recorded end, of publishers that put one event after another."""
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.db", SystemClock())
        await journal.open()
        engine = Engine(journal, SystemClock())
        engine.adopt(graph_of(idle_function()), 1)
        await engine.start()
        inlet = HostInlet("bench", SourceSettings(plugin="bench"), engine)

        async def publish() -> None:
            for _ in range(each):
                await inlet.put(Event(type="go", source="bench", data=1))

        began = time.perf_counter()
        await asyncio.gather(*(publish() for _ in range(publishers)))
        await engine.outcomes.settled()
        rate = publishers * each / (time.perf_counter() - began)
        await engine.stop(0.0)
        await journal.close()
    return rate


def _bare_sqlite(together: int, commits: int) -> float:
    """Return events per second of inserts, so many together, each commit with the updates that end those before."""
    with tempfile.TemporaryDirectory() as folder:
        connection = apsw.Connection(str(Path(folder) / "bare.db"))
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, status INTEGER, event BLOB)")
        began = time.perf_counter()
        for number in range(commits):
            first = number * together + 1
            connection.execute("BEGIN IMMEDIATE")
            rows = [(seq, 0, b"x" * 100) for seq in range(first, first + together)]
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
            connection.executemany("UPDATE events SET status = ? WHERE seq = ?", [(1, seq - together) for seq, _, _ in rows])
            connection.execute("COMMIT")
        rate = together * commits / (time.perf_counter() - began)
        connection.close()
    return rate


def sqlite() -> None:
    """Compare the way of an event on the journal on SQLite with the inserts and updates alone."""
    for publishers, each in ((1, 2000), (64, 300)):
        bare, ours = [], []
        for _ in range(ROUNDS):
            bare.append(_bare_sqlite(publishers, each))
            ours.append(asyncio.run(_through_sqlite(publishers, each)))
        name = f"sqlite: {publishers} publisher{'s' if publishers > 1 else ''}"
        report(f"{name}, bare insert and update", bare, "events/s")
        report(f"{name}, accepted to done", ours, "events/s")
        report(f"{name}, ours / bare", [one / limit for one, limit in zip(ours, bare, strict=True)], "x")


WAITING = 1_000_000

BULK = """
import asyncio
from pathlib import Path

from runtime import function


@function(on="bulk", concurrency=1)
async def bulk(data: int) -> None:
    Path("served").touch()
    await asyncio.sleep(0.001)


@function(on="bulk.urgent")
async def urgent(data: int) -> int:
    return data
"""

BULK_CONFIG = """
[dispatch]
order = "priority"
[sources.web]
plugin = "http"
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""


async def _fill(path: Path) -> None:
    journal = SqliteJournal(path, SystemClock())
    await journal.open()
    for _ in range(0, WAITING, 10_000):
        now = time.time()
        await journal.append([Entry(event=Event(type="bulk", source="bench", data=1), accepted=now) for _ in range(10_000)])
    await journal.close()


def _urgent(admin: str) -> float:
    """Return the milliseconds from the post of an urgent event to the answer that tells its result."""
    event = {"specversion": "1.0", "id": str(time.time_ns()), "source": "bench", "type": "bulk.urgent", "priority": 9, "data": 1}
    headers = {"content-type": "application/cloudevents+json"}
    request = urllib.request.Request(f"{admin}/api/events?wait=30", json.dumps(event).encode(), headers)
    began = time.perf_counter()
    urllib.request.urlopen(request).read()
    return (time.perf_counter() - began) * 1000


def backlog() -> None:
    """Start the process with 1,000,000 waiting events, and let urgent ones overtake them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "functions").mkdir()
        (folder / "functions" / "bulk.py").write_text(BULK)
        (folder / "runtime.toml").write_text(BULK_CONFIG)
        asyncio.run(_fill(folder / ".runtime" / "journal.db"))
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "runtime", "run"], cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            while not (folder / "served").exists():
                time.sleep(0.005)
            first = time.perf_counter() - began
            assert process.stdout is not None
            admin = next(line.split()[1] for line in process.stdout if line.split()[:1] == ["admin"])
            delays = [_urgent(admin) for _ in range(50)]
            assert json.loads(urllib.request.urlopen(f"{admin}/api/stats").read())["queued"] > WAITING * 0.99
            status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        finally:
            process.kill()
            process.wait()
    report("backlog of 1,000,000: start to first event served (goal < 2)", [first], "s")
    report("backlog of 1,000,000: resident memory (goal < 150)", [int(status["VmRSS"].split()[0]) / 1024], "MB")
    report("backlog of 1,000,000: an urgent event, post to result (goal < 50)", delays, "ms")


def _size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix != ".reserve")


async def _steady(seconds: float, keep: float) -> list[tuple[int, float, float]]:
    """Return for each part of `keep` seconds the events accepted, the bytes of the files and the longest put in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal.db", SystemClock(), keep=keep, dedupe=keep)
        await journal.open()
        engine = Engine(journal, SystemClock())
        engine.adopt(graph_of(idle_function()), 1)
        await engine.start()
        inlet = HostInlet("bench", SourceSettings(plugin="bench"), engine)
        puts: list[float] = []
        end = time.perf_counter() + seconds

        async def publish() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter()
                await inlet.put(Event(type="go", source="bench", data=1))
                puts.append(time.perf_counter() - began)

        publishing = asyncio.gather(*(publish() for _ in range(64)))
        parts: list[tuple[int, float, float]] = []
        while not publishing.done():
            await asyncio.sleep(keep)
            parts.append((len(puts), _size(folder), 1000 * max(puts)))
            puts.clear()
        await engine.stop(0.0)
        await journal.close()
    return parts


def steady() -> None:
    """Load the journal on SQLite for a minute that keeps ended events for five seconds: it neither grows nor stalls."""
    parts = asyncio.run(_steady(60.0, 5.0))
    growing, pruning = parts[:2], parts[2:-1]  # what came in the first part begins to go in the second
    report("steady: events/s while nothing is old enough to go", [count / 5 for count, _, _ in growing], "events/s")
    report("steady: events/s while as many go as come", [count / 5 for count, _, _ in pruning], "events/s")
    report("steady: longest put while nothing goes", [longest for _, _, longest in growing], "ms")
    report("steady: longest put while as many go as come", [longest for _, _, longest in pruning], "ms")
    report("steady: files on disk while as many go as come", [size / 1e6 for _, size, _ in pruning], "MB")
    report("steady: files at the end / after three times keep", [pruning[-1][1] / pruning[0][1]], "x")


def calls() -> None:
    """Call the smallest of functions by each executor."""
    asyncio.run(measure(report, 3))


def isolate() -> None:
    """Call the smallest of functions in worker processes."""
    asyncio.run(isolation.measure(report, 3))


BENCHMARKS = {
    "graph": graph,
    "crowd": crowd,
    "memory": memory,
    "calls": calls,
    "isolate": isolate,
    "sqlite": sqlite,
    "backlog": backlog,
    "steady": steady,
    "reload": reload,
}

if __name__ == "__main__":
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()
