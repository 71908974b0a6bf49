"""Steps that wait for their next attempt, and how a run that only waits goes over to a new generation.

A run is on one generation as long as anything of it executes. When all of it waits and a newer generation is there, it
goes over as a whole: it is taken up from its record, as after a restart. Where the code of its functions is the same
in both it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runtime.contracts import Clock
from runtime.flow.run import Run
from runtime.flow.waits import note
from runtime.graph import Graph
from runtime.records import Entry

SLICE: Final = 200  # runs that go over before others get their turn
MOMENT: Final = 0.01  # seconds in which a record that is on its way is made


class Retries:
    """Waits for steps; `again` takes one whose time has come, `take_up` an event that begins again on the present generation.

    `runs` are all that have started and whose functions have not ended, by `seq`; `wake` is called after either.
    """

    def __init__(
        self,
        clock: Clock,
        runs: dict[int, Run],
        *,
        again: Callable[[Run, int], None],
        take_up: Callable[[Entry], None],
        wake: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._runs = runs
        self._again = again
        self._take_up = take_up
        self._wake = wake
        self._graph: Graph | None = None
        self._generation = 0

    def adopt(self, graph: Graph, generation: int) -> None:
        """Let runs that only wait go over to a new generation, some at a time."""
        self._graph = graph
        self._generation = generation
        self._move_on(list(self._runs.values()))

    def add(self, run: Run, index: int, delay: float) -> None:
        """Take a step that is to be tried again `delay` seconds from now."""
        run.retrying += 1
        self._clock.call_later(delay, self._due, run, index, delay)

    def _due(self, run: Run, index: int, delay: float) -> None:
        if self._is_outdated(run):
            self._move(run)
            if self._is_outdated(run):  # what happened to it is not recorded yet
                self._clock.call_later(MOMENT, self._due, run, index, delay)
        if self._runs.get(run.entry.seq) is not run or self._is_outdated(run):
            return
        run.retrying -= 1
        note(run.entry, f'a retry of "{run.plan.functions[index].name}"', delay)
        self._again(run, index)
        self._wake()

    def _is_outdated(self, run: Run) -> bool:
        """Return whether a run can go over to the present generation."""
        return run.generation != self._generation and self._runs.get(run.entry.seq) is run and run.is_resting

    def _move_on(self, runs: list[Run]) -> None:
        for run in runs[:SLICE]:
            if self._is_outdated(run):
                self._move(run)
        if runs[SLICE:]:
            self._clock.call_later(0.0, self._move_on, runs[SLICE:])

    def _move(self, run: Run) -> None:
        assert self._graph is not None
        plan = self._graph.plan(run.entry.event.type)
        if run.plan.is_like(plan):
            run.plan, run.generation = plan, self._generation
        elif run.is_recorded:
            self._take_up(run.entry)
            self._wake()
        else:
            self._clock.call_later(MOMENT, self._move_on, [run])
