"""What executes: attempts are counted at the gates of their functions, and their events are marked in the journal."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

from runtime.contracts import Clock, Journal
from runtime.flow.gates import Gates
from runtime.flow.lanes import Gate
from runtime.flow.run import Attempt, Run

SUSPECT: Final = 2  # crashes after which an event runs only while no other such event does


class Executing:
    """Begins attempts and takes them back; `runs` is how many runs execute, `ready` takes steps that may begin after all."""

    def __init__(self, clock: Clock, journal: Journal, gates: Gates, ready: deque[tuple[Run, int]]) -> None:
        self.runs = 0
        self._clock = clock
        self._mark, self._unmark = journal.mark, journal.unmark
        self._gates = gates
        self._ready = ready
        self._suspect: Run | None = None
        self._suspects: deque[tuple[Run, int]] = deque()

    def begin(self, run: Run, index: int) -> Attempt | None:
        """Begin an attempt when the function's gate is open; otherwise the step waits before it."""
        function = run.plan.functions[index]
        gate = self._gates.get(function)
        now = self._clock.monotonic() if gate.interval else 0.0
        stateful = function.parameters.takes_state and run.entry.event.key is None
        if not gate.is_open(now) or (stateful and gate.stateful):
            heapq.heappush(gate.waiting, (run.entry.rank, run.entry.seq, index, run, self._clock.time()))
            self._gates.time(gate)
            return None
        if run.entry.crashes >= SUSPECT and self._suspect not in (None, run):
            self._suspects.append((run, index))
            return None
        if gate.interval:
            gate.next = max(now, gate.next) + gate.interval
            if gate.waiting:
                self._gates.time(gate)
        gate.stateful = gate.stateful or stateful
        return self.count(run, index, gate, self._clock.time())

    def count(self, run: Run, index: int, gate: Gate, started: float) -> Attempt:
        """Count an attempt as executing from now on."""
        gate.running += 1
        if not run.executing:
            self.runs += 1
            self._mark(run.entry.seq)
            if run.entry.crashes >= SUSPECT:
                self._suspect = run
        run.executing += 1
        return Attempt(run, index, run.attempts(index) + 1, started, gate)

    def ended(self, attempt: Attempt) -> None:
        """Take back the place of an attempt that has ended."""
        run = attempt.run
        run.executing -= 1
        if not run.executing:
            self.runs -= 1
            self._unmark(run.entry.seq)
            if self._suspect is run:
                self._suspect = None
                self._ready.extend(self._suspects)
                self._suspects.clear()
        gate = attempt.gate
        gate.running -= 1
        if gate.waiting or gate.blocked:
            self._gates.admit(gate)

    def recorded(self, attempt: Attempt) -> None:
        """Let the next attempt without a key of a function with state go: this one's is recorded."""
        if attempt.event.key is None:
            attempt.gate.stateful = False
            self._gates.admit(attempt.gate)
