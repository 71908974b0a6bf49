"""The graph: all functions and sinks, what triggers them and what they come after, sorted topologically.

A function's *triggers* are the patterns of the event types that bring it into a run: what its `on` says for
a root; for a function that comes after others what triggers all of them, narrowed by its own `on`. Patterns
are closed under intersection, so that "can never be in one run" is decided when the files are loaded.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from runtime import pattern
from runtime.errors import Fault, nearest
from runtime.resources import ResourceSpec
from runtime.specs import FunctionSpec, SinkSpec

MANY_TYPES = 100_000  # plans kept at most, so that a stream of ever new types does not fill the memory
GUESSES = 10  # missing names for which one like them is looked for, which takes a look at all names for each


Bound = tuple[Callable[[Any], Awaitable[Any]], str, str | None]


class Plan(msgspec.Struct, frozen=True):
    """What one event type triggers: functions in topological order with their edges as index lists, and sinks.

    `bound` calls each function with the arguments for a call, beside its name and what it emits, when all of them can run
    in place: async functions without state, resources, rate and batches; it is empty otherwise.
    """

    type: str
    functions: tuple[FunctionSpec, ...]
    indegrees: tuple[int, ...]
    successors: tuple[tuple[int, ...], ...]
    roots: tuple[int, ...]
    leaves: tuple[int, ...]
    sinks: tuple[SinkSpec, ...]
    bound: tuple[Bound, ...] = ()

    def is_like(self, other: Plan) -> bool:
        """Return whether the other plan has the same functions, made of the same code, in the same places."""
        mine, theirs = [(one.name, one.call) for one in self.functions], [(one.name, one.call) for one in other.functions]
        return mine == theirs and self.successors == other.successors


class Graph:
    """Functions in topological order, sinks, resources, and the plan of each event type, compiled on first use."""

    def __init__(
        self,
        functions: Sequence[FunctionSpec],
        sinks: Sequence[SinkSpec],
        triggers: dict[str, tuple[str, ...]],
        resources: Sequence[ResourceSpec] = (),
    ) -> None:
        self.functions = tuple(functions)
        self.sinks = tuple(sinks)
        self.by_name = {function.name: function for function in functions}
        self.triggers = triggers
        self.resources = {resource.name: resource for resource in resources}
        self._plans: dict[str, Plan] = {}
        self._rooted: dict[str, list[int]] = {}
        self._wild: list[tuple[str, int]] = []
        for index, function in enumerate(self.functions):
            if not function.after:
                for text in function.on:
                    if pattern.is_literal(text):
                        self._rooted.setdefault(text, []).append(index)
                    else:
                        self._wild.append((text, index))
        positions = {function.name: index for index, function in enumerate(self.functions)}
        self._successors: list[list[int]] = [[] for _ in self.functions]
        for index, function in enumerate(self.functions):
            for name in set(function.after):
                self._successors[positions[name]].append(index)

    def plan(self, type: str) -> Plan:
        """Return the plan of an event type; it has no functions when nobody handles the type."""
        plan = self._plans.get(type)
        if plan is None:
            if len(self._plans) >= MANY_TYPES:
                self._plans.clear()
            plan = self._plans[type] = self._compile(type, self._reached(type))
        return plan

    def plan_of(self, name: str, type: str) -> Plan:
        """Return the plan that runs one function alone, whatever it comes after.

        Raises:
            KeyError: there is no function of that name.
        """
        function = self.by_name[name]
        return Plan(type, (function,), (0,), ((),), (0,), (0,), ())

    def _reached(self, type: str) -> list[int]:
        """Return the functions of a run of `type`, in topological order.

        Goes along the edges from the roots, so that the cost is that of the plan and not of the graph.
        """
        roots = set(self._rooted.get(type, ())) | {index for text, index in self._wild if pattern.matches(text, type)}
        waiting = list(roots)
        heapq.heapify(waiting)
        seen = set(waiting)
        members: set[str] = set()
        order: list[int] = []
        while waiting:
            index = heapq.heappop(waiting)
            function = self.functions[index]
            if index not in roots and not self._included(function, members, type):
                continue
            order.append(index)
            members.add(function.name)
            for successor in self._successors[index]:
                if successor not in seen:
                    seen.add(successor)
                    heapq.heappush(waiting, successor)
        return order

    @staticmethod
    def _included(function: FunctionSpec, members: set[str], type: str) -> bool:
        if not members.issuperset(function.after):
            return False
        return not function.on or any(pattern.matches(text, type) for text in function.on)

    def _compile(self, type: str, indexes: list[int]) -> Plan:
        functions = tuple(self.functions[index] for index in indexes)
        position = {function.name: index for index, function in enumerate(functions)}
        successors: list[list[int]] = [[] for _ in functions]
        for index, function in enumerate(functions):
            for name in set(function.after):
                successors[position[name]].append(index)
        return Plan(
            type=type,
            functions=functions,
            indegrees=tuple(len(set(function.after)) for function in functions),
            successors=tuple(map(tuple, successors)),
            roots=tuple(index for index, function in enumerate(functions) if not function.after),
            leaves=tuple(index for index, following in enumerate(successors) if not following),
            sinks=tuple(sink for sink in self.sinks if any(pattern.matches(text, type) for text in sink.on)),
            bound=tuple((one.parameters.bound(one.call), one.name, one.emits) for one in functions)
            if all(map(_runs_in_place, functions))
            else (),
        )


def _runs_in_place(function: FunctionSpec) -> bool:
    is_simple = function.kind == "async" and not function.isolate and function.batch == 1 and function.rate is None
    return is_simple and not function.parameters.takes_state and not function.parameters.resources


def topological_order(successors: Sequence[Sequence[int]]) -> list[int]:
    """Return the nodes so that each comes before its successors; those of a cycle and behind it are left out.

    Kahn's algorithm (Communications of the ACM 5, 1962) over index lists: linear in nodes and edges.
    """
    indegrees = [0] * len(successors)
    for following in successors:
        for index in following:
            indegrees[index] += 1
    order = [index for index, count in enumerate(indegrees) if not count]
    for index in order:  # grows while it is walked
        for successor in successors[index]:
            indegrees[successor] -= 1
            if not indegrees[successor]:
                order.append(successor)
    return order


def build_graph(
    functions: Sequence[FunctionSpec], sinks: Sequence[SinkSpec] = (), resources: Sequence[ResourceSpec] = ()
) -> Graph | list[Fault]:
    """Return the graph of functions and sinks, with the resources, or every fault that keeps them from being one."""
    faults = _name_faults(functions, sinks, resources)
    if faults:
        return faults
    position = {function.name: index for index, function in enumerate(functions)}
    successors: list[list[int]] = [[] for _ in functions]
    for index, function in enumerate(functions):
        for name in set(function.after):
            successors[position[name]].append(index)
    order = topological_order(successors)
    if len(order) < len(functions):
        return _cycle_faults(functions, position, set(order))
    ordered = [functions[index] for index in order]
    triggers, faults = _triggers(ordered)
    return faults or Graph(ordered, sinks, triggers, resources)


def _name_faults(functions: Sequence[FunctionSpec], sinks: Sequence[SinkSpec], resources: Sequence[ResourceSpec]) -> list[Fault]:
    """Return the faults of names: given twice, or not there."""
    faults = []
    first: dict[str, FunctionSpec] = {}
    for function in functions:
        other = first.setdefault(function.name, function)
        if other is not function:
            message = (
                f'the name "{function.name}" is taken by {other.where}; names are unique over the folder: rename one or set name = "…"'
            )
            faults.append(Fault(function.where, message))
    for sink in sinks:
        if sink.name in first:
            message = f'the name "{sink.name}" is that of a sink too ([sinks.{sink.name}] in runtime.toml); rename one of them'
            faults.append(Fault(first[sink.name].where, message))
    for resource in resources:
        if resource.name in first:
            message = f'the name "{resource.name}" is that of a function too ({first[resource.name].where}); rename one of them'
            faults.append(Fault(resource.where, message))
    known = Known(first)
    for function in functions:
        faults += known.faults(function.name, function.where, function.after)
    return faults


class Known:
    """The names that functions may come after; tells of those that are missing, of a thousand as fast as of one."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._told: dict[str, str] = {}

    def faults(self, name: str, where: str, after: Iterable[str]) -> list[Fault]:
        """Return a fault for each function that the function `name` comes after and that is not known."""
        return [Fault(where, f'"{name}" comes after "{before}", {self._tell(before)}') for before in after if before not in self._names]

    def _tell(self, missing: str) -> str:
        if missing not in self._told:
            near = nearest(missing, self._names) if len(self._told) < GUESSES else ""
            self._told[missing] = f"which does not exist{near}; {self._there}"
        return self._told[missing]

    @cached_property
    def _there(self) -> str:
        return f"functions here: {', '.join(sorted(self._names)[:20])}"


def _cycle_faults(functions: Sequence[FunctionSpec], position: dict[str, int], sorted_nodes: set[int]) -> list[Fault]:
    """Return a fault for each cycle, spelled out with file and line of each member."""
    faults = []
    done = set(sorted_nodes)
    for start in range(len(functions)):
        path: list[int] = []
        places: dict[int, int] = {}
        node: int | None = start
        while node is not None and node not in done and node not in places:
            places[node] = len(path)
            path.append(node)
            node = next((position[name] for name in functions[node].after if position[name] not in sorted_nodes), None)
        if node in places:
            cycle = [functions[index] for index in path[places[node] :]]
            spelled = " after ".join(f'"{member.name}" ({member.where})' for member in [*cycle, cycle[0]])
            faults.append(Fault(cycle[0].where, f"functions come after each other in a cycle: {spelled}; remove one `after`"))
        done.update(path)
    return faults


def _triggers(ordered: Sequence[FunctionSpec]) -> tuple[dict[str, tuple[str, ...]], list[Fault]]:
    """Return by name the patterns of the types that bring each function into a run, and what can never be."""
    triggers: dict[str, tuple[str, ...]] = {}
    faults: list[Fault] = []
    roots = {function.name for function in ordered if not function.after}
    for function in ordered:
        if not function.after:
            triggers[function.name] = function.on
            continue
        common = triggers[function.after[0]]
        for name in function.after[1:]:
            common = pattern.intersect_all(common, triggers[name])
        if function.on and common:
            common = pattern.intersect_all(common, function.on)
        triggers[function.name] = common
        if not common and all(triggers[name] for name in function.after):
            faults.append(Fault(function.where, _never_together(function, triggers)))
        elif not common:
            untriggered = [name for name in function.after if not triggers[name]]
            if not roots.isdisjoint(untriggered):
                message = f'"{function.name}" comes after "{untriggered[0]}", which no event triggers; give that one `on` or `after`'
                faults.append(Fault(function.where, message))
    return triggers, faults


def _never_together(function: FunctionSpec, triggers: dict[str, tuple[str, ...]]) -> str:
    said = "; ".join(f'"{name}" on {", ".join(triggers[name])}' for name in function.after)
    narrowed = f", and its own on = {', '.join(function.on)}" if function.on else ""
    return f'"{function.name}" can never run: no event type brings in all it comes after ({said}{narrowed}); give them a common `on`'
