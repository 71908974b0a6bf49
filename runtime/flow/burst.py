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
from runtime.flow.run import Attempt, context_of
from runtime.function import Context
from runtime.graph import Plan
from runtime.records import Entry, Step
from runtime.specs import FunctionSpec


class Burst:
    """The event that is at its turn; its functions are called with this, as others are with their attempt.

    `entries` yields the events, which whoever runs them notes here: `steps`, `results` and `emitted` are what has ended of
    the present one, whose present step has `started`; `made` is the context of that, if it has asked for one. `attempt` is
    there when it has landed.
    """

    __slots__ = ("attempt", "emitted", "entries", "entry", "event", "generation", "made", "plan", "results", "started", "steps", "task")

    entry: Entry
    event: Event
    started: float
    steps: list[Step]
    results: dict[str, Any]
    emitted: list[Entry]

    def __init__(self, entries: Generator[Entry, None, None], plan: Plan, generation: int, task: asyncio.Task[None]) -> None:
        self.entries = entries
        self.plan = plan
        self.generation = generation
        self.task = task
        self.made: Context | None = None
        self.attempt: Attempt | None = None

    @property
    def function(self) -> FunctionSpec:
        """The function that is at its turn."""
        return self.plan.functions[len(self.steps)]

    @property
    def context(self) -> Context:
        """The context of the present step, made when first asked for."""
        if self.made is None:
            self.made = context_of(self.entry, self.function, 1, self.started)
        return self.made
