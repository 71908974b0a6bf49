"""The limits of functions: a gate before each counts attempts, keeps the rate, and holds what waits for it in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from runtime.contracts import Clock
from runtime.flow.lanes import Gate, Lane, limit_of
from runtime.flow.run import Run
from runtime.flow.waits import note
from runtime.graph import Graph
from runtime.specs import FunctionSpec

FLOOD = 10_000  # runs that may wait for one function before no further event is started that needs it


class Gates:
    """All gates, by function; they outlive generations, so that counts carry over.

    `ready` takes a step that may go through, `offer` a lane that may try again.
    """

    def __init__(self, clock: Clock, *, ready: Callable[[Run, int], None], offer: Callable[[Lane], None], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._ready = ready
        self._offer = offer
        self._wake = wake
        self._gates: dict[str, Gate] = {}
        self._graph: Graph | None = None

    def get(self, function: FunctionSpec) -> Gate:
        """Return the gate of a function."""
        gate = self._gates.get(function.name)
        if gate is None:
            gate = self._gates[function.name] = Gate(function)
        return gate

    def adopt(self, graph: Graph) -> None:
        """Take the limits of a new generation; gates of functions that are gone go when nothing stands before them."""
        self._graph = graph
        for name, gate in list(self._gates.items()):
            function = graph.by_name.get(name)
            if function is not None:
                gate.adopt(function)
                gate.next = min(gate.next, self._clock.monotonic() + gate.interval)
                self.time(gate)
            elif not gate.running and not gate.waiting:
                del self._gates[name]

    def reopen(self) -> None:
        """Forget which lanes had stepped aside, and let steps through."""
        for gate in self._gates.values():
            gate.blocked.clear()
            self.admit(gate)

    def startable(self, lane: Lane) -> bool:
        """Return whether the lane's plan can start now; otherwise the lane steps aside until it can."""
        plan = lane.plan
        if plan is None:
            assert self._graph is not None
            plan = lane.plan = self._graph.plan(lane.type)
            lane.gates = tuple(self.get(function) for function in plan.functions)
            lane.roots = tuple(lane.gates[root] for root in plan.roots)
            lane.bound = plan.bound
        for gate in lane.gates:
            if len(gate.waiting) >= FLOOD:
                self.block(lane, (gate,))
                self.pass_on(lane, but=gate)
                return False
        now = self._clock.monotonic() if any(gate.interval for gate in lane.roots) else 0.0
        head = lane.head()
        for gate in lane.roots:
            if gate.is_open(now) and (not gate.waiting or (head is not None and head.order < gate.waiting[0][:2])):
                return True
        self.block(lane, lane.roots)  # without functions it waits here for a generation that has some
        return False

    @staticmethod
    def fit(lane: Lane) -> bool:
        """Return whether the first events of a lane that can start can run to their end in place."""
        return bool(lane.bound) and not lane.late and all(gate.running < gate.limit and not gate.waiting for gate in lane.gates)

    def block(self, lane: Lane, gates: Iterable[Gate]) -> None:
        """Let a lane step aside until one of the gates opens."""
        head = lane.head()
        assert head is not None
        lane.step_aside(self._clock.time())
        for gate in gates:
            heapq.heappush(gate.blocked, (head.rank, head.seq, lane))
            self.time(gate)

    def pass_on(self, lane: Lane, *, but: Gate | None = None) -> None:
        """Let the next lane that waits for the same functions try, too."""
        for gate in lane.roots:
            if gate.blocked and gate is not but:
                self._unblock(gate)

    def admit(self, gate: Gate) -> None:
        """Let steps, then lanes, through a gate that may have opened."""
        free = 1 if gate.stateful else gate.limit - gate.running
        while gate.waiting and free > 0 and not (gate.blocked and gate.blocked[0][:2] < gate.waiting[0][:2]):
            _, _, index, run, since = heapq.heappop(gate.waiting)
            note(run.entry, limit_of(gate.function.name), self._clock.time() - since)
            self._ready(run, index)
            free -= 1
            if gate.interval:
                break
        if gate.blocked and (free > 0 or len(gate.waiting) < FLOOD):
            self._unblock(gate)
        self._wake()

    def _unblock(self, gate: Gate) -> None:
        """Let the best lane that waits for a gate try again; it lets the next one try when it has started."""
        while gate.blocked:
            _, _, lane = heapq.heappop(gate.blocked)
            if lane.blocked:
                lane.come_back(self._clock.time())
                self._offer(lane)
                if lane:
                    return

    def time(self, gate: Gate) -> None:
        """See to it that a gate closed by its rate opens in time."""
        if gate.timed or not gate.interval:
            return
        gate.timed = True
        self._clock.call_later(max(gate.next - self._clock.monotonic(), 0.0), self._rate_due, gate)

    def _rate_due(self, gate: Gate) -> None:
        gate.timed = False
        self.admit(gate)
        if (gate.waiting or gate.blocked) and gate.next > self._clock.monotonic():
            self.time(gate)
