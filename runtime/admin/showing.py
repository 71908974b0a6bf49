"""All that is known of one event, as the API and the test harness show it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runtime.admin.shapes import details_shape, entry_shape
from runtime.app import App
from runtime.records import Entry


async def show(app: App, entry: Entry, others: Iterable[Entry]) -> dict[str, Any]:
    """Return an event with its steps, waits, cause and effects; `others` have the same id."""
    plan = app.generation.graph.plan(entry.event.type)
    details = details_shape(
        entry,
        now=app.clock.time(),
        planned=[step.name for step in (*plan.functions, *plan.sinks)],
        effects=await app.journal.effects(entry.seq),
        others=others,
    )
    return entry_shape(entry, app.engine.live(), app.engine.reason(entry)) | details
