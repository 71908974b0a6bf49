"""Routing: what an event of a type needs by the present graph, and to whom an accepted event goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime import pattern
from runtime.graph import Graph, Plan
from runtime.records import DEAD, DONE, ENDED, FAILED, PENDING, QUEUED, SKIPPED, UNROUTED, Entry, Outcome, Route, Step, is_pending

MANY_TYPES = 100_000  # routes kept at most

Push = Callable[[Entry], None]


class Routes(dict[str, Route]):
    """How an event of each type begins, found out when it is first asked for: `unrouted` when nobody ever subscribed to it."""

    def __init__(self, find: Callable[[str], Route]) -> None:
        self._find = find

    def __missing__(self, type: str) -> Route:
        if len(self) >= MANY_TYPES:
            self.clear()
        route = self[type] = self._find(type)
        return route


class Router:
    """Knows the present graph, and the patterns that functions of earlier ones subscribed to.

    `dispatch` takes entries with functions to run, `deliveries` by sink's name those to write.
    """

    def __init__(self, *, dispatch: Push, deliveries: Mapping[str, Push]) -> None:
        self._dispatch = dispatch
        self._deliveries = deliveries
        self._graph: Graph | None = None
        self._formerly: set[str] = set()
        self.routes = Routes(self._route)

    def adopt(self, graph: Graph) -> None:
        """Route by a new graph from now on."""
        if self._graph is not None:
            self._formerly.update(text for function in self._graph.functions for text in function.on if not function.after)
        self._graph = graph
        self.routes.clear()

    def plan(self, type: str) -> Plan:
        """Return the plan of an event type by the present graph."""
        assert self._graph is not None
        return self._graph.plan(type)

    def was_handled(self, type: str) -> bool:
        """Return whether a function of an earlier generation handled the type."""
        return any(pattern.matches(text, type) for text in self._formerly)

    def is_sink(self, name: str) -> bool:
        """Return whether a sink of the name is configured."""
        assert self._graph is not None
        return any(sink.name == name for sink in self._graph.sinks)

    def _route(self, type: str) -> Route:
        plan = self.plan(type)
        waits = bool(plan.functions) or self.was_handled(type)
        sinks = tuple(sink.name for sink in plan.sinks)
        return Route(QUEUED if waits or sinks else UNROUTED, sinks, not waits)

    def admit(self, entries: Sequence[Entry]) -> None:
        """Hand accepted entries to everybody who has something to do with them."""
        dispatch = self._dispatch
        for entry in entries:
            if entry.status in ENDED:
                continue
            if not entry.ran:
                dispatch(entry)
            for name in entry.sinks:
                delivery = self._deliveries.get(name)  # none while the plugin of the sink is broken: the event waits for it
                if delivery is not None and is_pending(entry.steps.get(name)):
                    delivery(entry)

    def redrive(self, entry: Entry) -> Outcome | None:
        """Return the outcome that makes a dead or unrouted entry wait again, or None when it has to stay.

        Steps that failed, and what was skipped because of them, are to be done again; what is done stays.
        """
        if entry.status == UNROUTED or (entry.status == DEAD and entry.ran and not entry.steps):  # nothing of it has ever been done
            route = self.routes[entry.event.type]
            if route.status == UNROUTED:
                return None
            entry.sinks = route.sinks
            return Outcome(entry=entry, status=QUEUED, ran=route.ran, deliver=route.sinks)
        if entry.status != DEAD:
            return None
        for step in entry.steps.values():
            step.crashes = 0  # they are counted anew
        again = [step for step in entry.steps.values() if step.status == FAILED or (step.status == SKIPPED and step.cause)]
        steps = {**entry.steps, **{step.function: Step(step.function, PENDING) for step in again}}
        functions = self.plan(entry.event.type).functions
        ran = not any(is_pending(steps.get(function.name)) for function in functions)
        ran = ran and (bool(functions) or any(name not in entry.sinks for name in steps))  # otherwise it waits for a function
        deliver = tuple(sink for sink in entry.sinks if is_pending(steps.get(sink)))
        return Outcome(
            entry=entry,
            steps=[steps[step.function] for step in again],
            status=DONE if ran and not deliver else QUEUED,
            ran=ran,
            deliver=deliver,
            at=entry.ended,
        )
