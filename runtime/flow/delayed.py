"""What is not due yet: it waits for the wall clock, which may jump, and not for a length of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from runtime.contracts import Clock, Timer
from runtime.records import Entry

LOOK = 2.0  # seconds between two looks at the clock: as late may what is due be after a jump


class Delayed:
    """Holds entries until they are due, and hands them to `due` then, the earliest first."""

    def __init__(self, clock: Clock, due: Callable[[Entry], None]) -> None:
        self._clock = clock
        self._due = due
        self._entries: list[tuple[float, int, Entry]] = []
        self._timer: Timer | None = None

    def takes(self, entry: Entry) -> bool:
        """Hold an entry that is not due yet; return whether it was one."""
        if entry.due <= self._clock.time():
            return False
        heapq.heappush(self._entries, (entry.due, entry.seq, entry))
        if self._entries[0][2] is entry:
            self._set_timer()
        return True

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = self._entries[0][0] - self._clock.time()
        self._timer = self._clock.call_later(min(max(wait, 0.0), LOOK), self._look)

    def _look(self) -> None:
        now = self._clock.time()
        while self._entries and self._entries[0][0] <= now:  # not yet, when the timer has fired a little early
            self._due(heapq.heappop(self._entries)[2])
        if self._entries:
            self._set_timer()
