"""A burst: events of one lane that run to their end in place, one after the other, as long as none of them suspends.

Most functions return at once, or most of the time. Of such an event nothing is counted, no run and no attempt is made:
while it runs nothing else does. When it suspends (the loop has got its turn) or fails it lands: it becomes a run with
an attempt, like all others, before anything else is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from runtime.event import Event
from runtime.flow.run import Attempt
from runtime.graph import Plan
from runtime.records import Entry, Step


class Burst:
    """The event that is at its turn; its functions are called with this, as others are with their attempt.

    `entries` yields the events, which whoever runs them notes here: `steps` and `results` are what has ended of the
    present one, whose present step has `started`. `attempt` is there when it has landed.
    """

    __slots__ = ("attempt", "entries", "entry", "event", "generation", "plan", "results", "started", "steps", "task")

    entry: Entry
    event: Event
    started: float
    steps: list[Step]
    results: dict[str, Any]

    def __init__(self, entries: Generator[Entry, None, None], plan: Plan, generation: int, task: asyncio.Task[None]) -> None:
        self.entries = entries
        self.plan = plan
        self.generation = generation
        self.task = task
        self.attempt: Attempt | None = None
