"""Routing: what an event of a type needs by the present graph, and to whom an accepted event goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime import pattern
from runtime.contracts import Clock
from runtime.flow.run import is_pending
from runtime.graph import Graph, Plan
from runtime.records import DEAD, DONE, FAILED, PENDING, QUEUED, SKIPPED, UNROUTED, Entry, Outcome, Status, Step

Push = Callable[[Entry], None]


class Router:
    """Knows the present graph, and the patterns that functions of earlier ones subscribed to.

    `dispatch` takes entries with functions to run, `deliveries` by sink's name those to write, `expect` is
    told of how many parts an event consists, `change` takes the outcome of an event that needs nothing.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        dispatch: Push,
        deliveries: Mapping[str, Push],
        expect: Callable[[Entry, int], None],
        change: Callable[[Outcome], None],
    ) -> None:
        self._clock = clock
        self._dispatch = dispatch
        self._deliveries = deliveries
        self._expect = expect
        self._change = change
        self._graph: Graph | None = None
        self._formerly: set[str] = set()
        self._statuses: dict[str, Status] = {}

    def adopt(self, graph: Graph) -> None:
        """Route by a new graph from now on."""
        if self._graph is not None:
            self._formerly.update(text for function in self._graph.functions for text in function.on if not function.after)
        self._graph = graph
        self._statuses.clear()

    def plan(self, type: str) -> Plan:
        """Return the plan of an event type by the present graph."""
        assert self._graph is not None
        return self._graph.plan(type)

    def was_handled(self, type: str) -> bool:
        """Return whether a function of an earlier generation handled the type."""
        return any(pattern.matches(text, type) for text in self._formerly)

    def status_of(self, type: str) -> Status:
        """Return how an event of the type begins: `queued`, or `unrouted` when nobody ever subscribed to it."""
        status = self._statuses.get(type)
        if status is None:
            plan = self.plan(type)
            status = QUEUED if plan.functions or plan.sinks or self.was_handled(type) else UNROUTED
            if len(self._statuses) > 100_000:
                self._statuses.clear()
            self._statuses[type] = status
        return status

    def admit(self, entry: Entry) -> None:
        """Hand an accepted entry to everybody who has something to do with it."""
        if entry.status == UNROUTED:
            return
        plan = self.plan(entry.event.type)
        if not plan.sinks and not entry.steps:
            self._dispatch(entry)
            return
        sinks = [sink.name for sink in plan.sinks if is_pending(entry.steps.get(sink.name))]
        runs = any(is_pending(entry.steps.get(function.name)) for function in plan.functions)
        waits = not plan.functions and self.was_handled(entry.event.type)
        parts = len(sinks) + (runs or waits)
        if not parts:
            failed = any(step.status == FAILED for step in entry.steps.values())
            self._change(Outcome(entry=entry, status=DEAD if failed else DONE, at=self._clock.time()))
            return
        self._expect(entry, parts)
        if runs or waits:
            self._dispatch(entry)
        for name in sinks:
            self._deliveries[name](entry)

    def redrive(self, entry: Entry) -> Outcome | None:
        """Return the outcome that makes a dead or unrouted entry wait again, or None when it has to stay.

        Steps that failed, and what was skipped because of them, are to be done again; what is done stays.
        """
        if entry.status == UNROUTED and self.status_of(entry.event.type) == UNROUTED:
            return None
        if entry.status not in (DEAD, UNROUTED):
            return None
        again = [step for step in entry.steps.values() if step.status == FAILED or (step.status == SKIPPED and step.cause)]
        return Outcome(entry=entry, steps=[Step(step.function, PENDING) for step in again], status=QUEUED)
