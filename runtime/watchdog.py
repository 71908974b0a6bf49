"""Notices when the loop is blocked, and names what blocks it.

A thread asks the loop for a sign of life, a few times a second. When none comes it looks where the loop's thread is:
that is the line which blocks everything else. Time in which neither this thread ran nor the process used the processor
counts for nothing: it was stopped, or the machine was asleep. A process that is busy all the while is another matter: then
something in C, like the search of a regular expression, has held the interpreter, and this thread with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress

from runtime.errors import Fault
from runtime.stacks import line_of

log = logging.getLogger("runtime.watchdog")

TICK = 0.2  # seconds between two looks
IDLE = 0.1  # the share of the time below which the process did nothing
LIMIT = 0.5  # seconds without a sign of life from which the loop counts as blocked
TOLD = 60.0  # seconds for which a blockage that has ended is still a fault


class Watchdog:
    """Watches the loop in which it is started; `count` is how often that was blocked, `seconds` for how long altogether."""

    def __init__(self, *, tick: float = TICK, limit: float = LIMIT) -> None:
        self.count = 0
        self.seconds = 0.0
        self._tick = tick
        self._limit = limit
        self._stopped = threading.Event()
        self._watched = 0
        self._asked = 0.0
        self._answered: float | None = None
        self._blocked: tuple[str, str] | None = None
        self._last: tuple[float, Fault] | None = None

    def start(self) -> None:
        """Begin to watch the running loop, which is that of the calling thread."""
        self._watched = threading.get_ident()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, args=(loop,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def faults(self) -> list[Fault]:
        """Return the last blockage while it is not long ago."""
        return [self._last[1]] if self._last is not None and time.monotonic() - self._last[0] < TOLD else []

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._ask(loop)
            woke, busy = time.monotonic(), time.process_time()
            while not self._stopped.wait(self._tick):
                now, used = time.monotonic(), time.process_time()
                late = now - woke - self._tick
                if used - busy < late * IDLE:
                    self._asked += late
                woke, busy = now, used
                if self._answered is not None:
                    self._end(self._answered - self._asked)
                    self._ask(loop)
                elif self._blocked is None and now - self._asked > self._limit:
                    self._begin(now - self._asked)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        self._answered = None
        self._asked = time.monotonic()
        loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered = time.monotonic()

    def _begin(self, seconds: float) -> None:
        """Tell that the loop is blocked, once for each time."""
        found = line_of(self._watched)
        if found is None or self._answered is not None:
            return
        self._blocked = found
        self.count += 1
        log.warning(
            'the loop has been blocked for %.1f s by "%s" (%s): everything else waits; make it a plain `def`, which runs in a thread,'
            " or await what it waits for",
            seconds,
            *found,
        )

    def _end(self, seconds: float) -> None:
        if self._blocked is None:
            return
        (name, place), self._blocked = self._blocked, None
        self.seconds += seconds
        log.warning('the loop is free again: "%s" (%s) has blocked it for %.1f s', name, place, seconds)
        self._last = time.monotonic(), Fault(place, f'"{name}" has blocked the loop for {seconds:.1f} s; make it a plain `def`, or await')
