"""The whole way of an event on the journal on SQLite, accepted (fsync) to recorded as done, beside the inserts and updates alone."""

from __future__ import annotations

import asyncio
import time

from benchmarks import bare
from benchmarks.children import child
from benchmarks.ours import SQLITE, events, project, running
from benchmarks.peers import durable
from benchmarks.sheet import Sheet

WARM = 2_000


async def ours(publishers: int, puts: int, size: int) -> float:
    """Return events per second of publishers that each wait for the acknowledgement of a list before they put the next."""
    with project(SQLITE) as folder:
        async with running(folder) as app:
            inlet = app.inlet("bench")
            await inlet.put(events(WARM))
            await app.finished()
            batches = [[events(size) for _ in range(puts)] for _ in range(publishers)]

            async def publish(lists: list[list[object]]) -> None:
                for batch in lists:
                    await inlet.put(batch if size > 1 else batch[0])  # type: ignore[arg-type]

            began = time.perf_counter()
            await asyncio.gather(*(publish(lists) for lists in batches))  # type: ignore[arg-type]
            await app.finished()
            return publishers * puts * size / (time.perf_counter() - began)


def measure(sheet: Sheet) -> None:
    """See above."""
    sheet.compare(
        "events/s",
        {
            "4 publishers, lists of 1,000": child(ours, 4, 25, 1000),
            "bare SQLite, batches of 1,000": child(bare.sqlite, 1000, 100),
            "64 publishers, one put an event": child(ours, 64, 300, 1),
            "bare SQLite, one commit an event": child(bare.sqlite, 1, 2000),
            "1 publisher, one put an event": child(ours, 1, 2000, 1),
            "huey on SQLite with fsync": child(durable.huey, 1000),
            "DBOS on SQLite, one step": child(durable.dbos, 200, 1),
            "litequeue": child(durable.litequeue, 2000),
            "persist-queue": child(durable.persistqueue, 1000),
        },
    )
    sheet.ratio("4 publishers, lists of 1,000", "bare SQLite, batches of 1,000", "≥ 0.8")
    sheet.ratio("4 publishers, lists of 1,000", "huey on SQLite with fsync", "≥ 100")
    sheet.ratio("4 publishers, lists of 1,000", "DBOS on SQLite, one step", "≥ 1,000")
    sheet.ratio("64 publishers, one put an event", "bare SQLite, one commit an event", "≥ 30")
    sheet.ratio("1 publisher, one put an event", "bare SQLite, one commit an event", "≥ 1.0")
