"""The limits under it: the same work by what lies below, without anything that the runtime promises."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import apsw

from benchmarks.ours import events
from runtime import Event

ROW = b'{"n": 1, "source": "bench", "time": "2026-01-01T00:00:00Z", "steps": [["nothing", 1, 1.5, 1.6]]}'


async def queue(count: int) -> float:
    """Return events per second through an `asyncio.Queue` with one worker."""
    waiting: asyncio.Queue[Event] = asyncio.Queue()

    async def nothing(data: Any) -> None: ...

    async def work() -> None:
        for _ in range(count):
            await nothing((await waiting.get()).data)

    worker = asyncio.create_task(work())
    batch = events(count)
    began = time.perf_counter()
    for event in batch:
        await waiting.put(event)
    await worker
    return count / (time.perf_counter() - began)


async def sleeps(count: int) -> float:
    """Return `sleep(0)` per second, one after another."""
    began = time.perf_counter()
    for _ in range(count):
        await asyncio.sleep(0)
    return count / (time.perf_counter() - began)


async def awaits(count: int, steps: int) -> float:
    """Return chains per second of so many awaits, each handed the result of the last."""

    async def step(data: Any) -> Any:
        return data

    chain = [step] * steps
    batch = events(count)
    began = time.perf_counter()
    for event in batch:
        data = event.data
        for one in chain:
            data = await one(data)
    return count / (time.perf_counter() - began)


def sqlite(together: int, commits: int) -> float:
    """Return events per second of inserts, so many together, each commit with the updates that end those before."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        connection = apsw.Connection(str(Path(folder) / "bare.db"))
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, status INTEGER, event BLOB)")
        began = time.perf_counter()
        for first in range(1, together * commits + 1, together):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO events VALUES (?, ?, ?)", [(seq, 0, ROW) for seq in range(first, first + together)])
            connection.executemany(
                "UPDATE events SET status = ? WHERE seq = ?", [(1, seq - together) for seq in range(first, first + together)]
            )
            connection.execute("COMMIT")
        rate = together * commits / (time.perf_counter() - began)
        connection.close()
    return rate


def sync(times: int) -> float:
    """Return the milliseconds that the disk takes to have a block of 4 KiB, the median of so many."""
    taken = []
    with tempfile.NamedTemporaryFile(prefix="bench-") as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


async def web(scope: Any, receive: Any, send: Any) -> None:
    """Answer a request with its body: the least that an ASGI app can do."""
    if scope["type"] != "http":
        return
    body = (await receive())["body"]
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
