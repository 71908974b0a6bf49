"""The whole way of an event on the journal in memory, beside a bare `asyncio.Queue` and task queues in memory."""

from __future__ import annotations

from benchmarks import bare
from benchmarks.children import child
from benchmarks.ours import MEMORY, NOTHING, PRIORITY, events, project, rate, running
from benchmarks.peers import queues
from benchmarks.sheet import Sheet

EVENTS = 50_000
WARM = 2_000

SUSPENDS = """
import asyncio
from runtime import function

@function(on="go")
async def nothing(data):
    await asyncio.sleep(0)
"""


async def ours(size: int, text: str = MEMORY, functions: str = NOTHING, priorities: int = 0) -> float:
    """Return events per second, put in lists of `size`."""
    with project(text, functions) as folder:
        async with running(folder) as app:
            await rate(app, events(WARM, priorities=priorities), size)
            return await rate(app, events(EVENTS, priorities=priorities), size)


def measure(sheet: Sheet) -> None:
    """See above."""
    sheet.compare(
        "events/s",
        {
            "one put an event": child(ours, 1),
            "bare asyncio.Queue, one worker": child(bare.queue, EVENTS),
            "puts of 1,000": child(ours, 1000),
            "one put an event, priority with aging": child(ours, 1, MEMORY + PRIORITY, NOTHING, 10),
            "a function that suspends": child(ours, 1, MEMORY, SUSPENDS),
            "bare loop over sleep(0)": child(bare.sleeps, EVENTS),
            "taskiq, InMemoryBroker": child(queues.taskiq, EVENTS // 5),
            "huey in memory, with a consumer": child(queues.huey, EVENTS // 5),
            "dramatiq, StubBroker": child(queues.dramatiq, EVENTS // 10),
            "Celery in memory": child(queues.celery, EVENTS // 50),
        },
    )
    sheet.ratio("one put an event", "bare asyncio.Queue, one worker", "≥ 1.0")
    sheet.ratio("one put an event", "taskiq, InMemoryBroker", "≥ 25")
    sheet.ratio("one put an event", "huey in memory, with a consumer", "≥ 25")
    sheet.ratio("puts of 1,000", "bare asyncio.Queue, one worker", "≥ 2.0")
    sheet.ratio("one put an event, priority with aging", "one put an event", "≥ 0.7")
    sheet.ratio("a function that suspends", "bare loop over sleep(0)", "≥ 0.6")
