"""A process that starts with a million waiting events on the disk (ten with `--full`), and urgent ones that overtake them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from benchmarks.client import Client, connect
from benchmarks.ours import ADMIN, PRIORITY, SQLITE, WEB, project, serving
from benchmarks.sheet import Sheet
from runtime import Event
from runtime.clock import SystemClock
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.records import Entry

MANY = 1_000_000
MOST = 9_990_000  # `max_backlog` is 10,000,000: there has to be room for the urgent ones
URGENT = 50

CONFIG = SQLITE + PRIORITY + WEB + ADMIN
BULK = """
import asyncio
from pathlib import Path

from runtime import function


@function(on="bulk", concurrency=1)
async def bulk(data):
    Path("served").touch()
    await asyncio.sleep(0.001)


@function(on="bulk.urgent")
async def urgent(data): return data
"""


async def fill(path: Path, count: int) -> None:
    """Write a journal of waiting events."""
    journal = SqliteJournal(path, SystemClock())
    await journal.open()
    for _ in range(0, count, 10_000):
        now = time.time()
        await journal.append([Entry(event=Event(type="bulk", source="bench", data={"n": 1}), accepted=now) for _ in range(10_000)])
    await journal.close()


async def urgent(client: Client, number: int) -> float:
    """Return the milliseconds from the post of an urgent event to the answer that tells its result."""
    event = {
        "specversion": "1.0",
        "id": f"{time.time_ns()}",
        "source": "bench",
        "type": "bulk.urgent",
        "priority": 9,
        "data": {"n": number},
    }
    began = time.perf_counter()
    head = "POST /api/events?wait=30"
    await client.ask(head, json.dumps(event).encode(), "application/cloudevents+json")
    return (time.perf_counter() - began) * 1000


async def ask(admin: str, count: int) -> list[float]:
    """Post urgent events one after another while all others wait; see `urgent`."""
    client = await connect(admin)
    taken = [await urgent(client, number) for number in range(URGENT)]
    assert json.loads(await client.ask("GET /api/stats"))["queued"] > 0.99 * count
    return taken


def start(folder: Path, count: int) -> tuple[float, float, float]:
    """Start with so many waiting events; return the seconds to the first one served, the memory in MB, and the longest urgent event."""
    (folder / "served").unlink(missing_ok=True)
    began = time.perf_counter()
    with serving(folder) as served:
        while not (folder / "served").exists():
            time.sleep(0.002)
        first = time.perf_counter() - began
        taken = asyncio.run(ask(served.banner["admin"], count))
        return first, served.memory(), max(taken)


def measure(sheet: Sheet) -> None:
    """See above; each round is a start on the same journal, of which next to nothing is served."""
    count = MOST if sheet.full else MANY
    with project(CONFIG, BULK) as folder:
        with serving(folder) as served:
            time.sleep(1)
            idle = served.memory()
        asyncio.run(fill(folder / ".runtime" / "journal.db", count))
        starts = [start(folder, count) for _ in range(sheet.rounds)]
    sheet.add(f"{count:,} waiting: from start to the first event served", [first for first, _, _ in starts], "s", "< 2")
    sheet.add(f"{count:,} waiting: memory above idle", [memory - idle for _, memory, _ in starts], "MB", "< 150")
    sheet.add(f"{count:,} waiting: the longest of {URGENT} urgent events, post to result", [late for _, _, late in starts], "ms", "< 50")
