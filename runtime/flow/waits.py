"""What events waited for: noted on the entry at the end of each wait, and recorded with what happens to it next.

An event that comes to stand in its lane is told how long the lane has stepped aside so far, so that at its start one
subtraction tells its share: nothing is done for an event while it waits.
"""

from __future__ import annotations

from typing import Final

from runtime.flow.lanes import Lane
from runtime.records import Entry

GRAIN: Final = 0.001  # seconds below which a wait is not worth a word

DUE: Final = "its time"
DOWN: Final = "the runtime to start"
OTHERS: Final = "others before it"
REDRIVE: Final = "somebody to retry it"


def note(entry: Entry, what: str, seconds: float) -> None:
    """Note that an event has waited for something, in addition to what it waited for that before."""
    if seconds >= GRAIN:
        waits = entry.waits or {}
        entry.waits = {**waits, what: waits.get(what, 0.0) + seconds}


class Waits:
    """Notes the waits of events before they start; `opened` is when this process took up its work (Unix time)."""

    def __init__(self, opened: float) -> None:
        self._opened = opened

    def _since(self, entry: Entry) -> float:
        """Return from when the present wait counts."""
        return entry.since or max(entry.accepted, entry.due, self._opened)

    def for_key(self, entry: Entry, now: float) -> None:
        """Note that an event has waited for its key until now."""
        note(entry, f"key {entry.event.key}", now - self._since(entry))
        entry.since = now

    def until_start(self, entry: Entry, lane: Lane, now: float) -> None:
        """Note what an event waited for that starts now."""
        if entry.waits is None and not entry.due and not entry.since and not lane.has_blocked and entry.accepted >= self._opened:
            if now - entry.accepted >= GRAIN:
                entry.waits = {OTHERS: now - entry.accepted}
            return
        if not entry.due and now - (entry.since or entry.accepted) < GRAIN:
            return
        if not entry.begun:
            note(entry, DUE, entry.due - entry.accepted)
            note(entry, DOWN, self._opened - max(entry.accepted, entry.due))
        waited = now - self._since(entry)
        aside = min(lane.aside(now) - entry.aside, waited)
        note(entry, lane.obstacle, aside)
        note(entry, OTHERS, waited - aside)
