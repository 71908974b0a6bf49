"""A run: one event going through the functions of its plan, as a state machine; and its attempts.

It decides which steps are ready, and what a result, a skip or a failure means for the steps after it. It
knows no time, no limits and no journal: it takes what happened to an attempt and answers with steps to
record and steps to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.contracts import Timer
from runtime.errors import RunFailed
from runtime.event import Event, answer_of
from runtime.function import Context
from runtime.graph import Plan
from runtime.records import DONE, FAILED, RETRYING, RUNNING, SKIPPED, Entry, Status, Step, StepError, is_pending
from runtime.resources import Lease, ResourceSpec
from runtime.specs import FunctionSpec

REMOVED = "its function was removed"


class Run:
    """One event on its way; `generation` is the number of the functions it runs on."""

    __slots__ = ("attempted", "entry", "executing", "generation", "missing", "open", "plan", "results", "retrying", "steps")

    def __init__(self, entry: Entry, plan: Plan, generation: int) -> None:
        self.entry = entry
        self.plan = plan
        self.generation = generation
        self.steps: dict[str, Step] = {}
        self.attempted: dict[str, int] = {}
        self.results: dict[str, Any] = {}
        self.missing = list(plan.indegrees)
        self.open = len(plan.functions)
        self.executing = 0
        self.retrying = 0

    @property
    def status(self) -> Status:
        """`running`, or `retrying` when nothing executes and a step waits for its next attempt."""
        return RETRYING if self.retrying and not self.executing else RUNNING

    def wants(self, resource: ResourceSpec) -> bool:
        """Return whether a step that has not ended takes a resource."""
        return any(resource in function.resources and function.name not in self.steps for function in self.plan.functions)

    def start(self) -> tuple[list[Step], list[int]]:
        """Take up what is recorded; return steps that are to be skipped because of it, and steps to start with."""
        if not self.entry.steps:
            return [], list(self.plan.roots)
        skipped = self._vanished()
        for index, function in enumerate(self.plan.functions):
            recorded = self.entry.steps.get(function.name)
            if recorded is None or is_pending(recorded) or function.name in self.steps:
                continue
            self._close(recorded)
            if recorded.status == DONE:
                self.results[recorded.function] = recorded.result
                for successor in self.plan.successors[index]:
                    self.missing[successor] -= 1
            else:
                skipped += self._skip_after(index, recorded)
        names = [function.name for function in self.plan.functions]
        return skipped, [index for index, name in enumerate(names) if name not in self.steps and not self.missing[index]]

    def _vanished(self) -> list[Step]:
        """Return as skipped what was under way of functions that are not there any more."""
        names = {function.name for function in self.plan.functions}
        gone = [one for name, one in self.entry.steps.items() if is_pending(one) and name not in names and name not in self.entry.sinks]
        return [msgspec.structs.replace(step, status=SKIPPED, reason=REMOVED, due=0.0) for step in gone]

    @property
    def is_resting(self) -> bool:
        """Whether all of it that can go on waits for its next attempt."""
        if self.executing:
            return False
        able = sum(not self.missing[index] for index, function in enumerate(self.plan.functions) if function.name not in self.steps)
        return self.retrying == able

    @property
    def is_recorded(self) -> bool:
        """Whether the record of its event tells all that has happened to it."""
        told = self.entry.steps
        return all(told.get(name) is step for name, step in self.steps.items()) and all(
            name in told and told[name].attempts >= number for name, number in self.attempted.items()
        )

    def attempts(self, index: int) -> int:
        """Return how often the step has been tried, attempts that ended with the process included."""
        name = self.plan.functions[index].name
        if name in self.attempted:
            return self.attempted[name]
        step = self.entry.steps.get(name)
        if step is not None and step.attempts:
            return step.attempts + max(0, self.entry.crashes - step.crashes)
        return self.crashes(index)

    def crashes(self, index: int) -> int:
        """Return how many attempts of the step ended with the process: one for each crash since the steps before it ended."""
        if not self.entry.crashes:
            return 0
        before = (self.steps[name].crashes for name in self.plan.functions[index].after)
        return max(0, self.entry.crashes - max(before, default=0))

    def pause(self, index: int, now: float) -> float:
        """Return how many seconds the step has still to wait for its next attempt by the record."""
        step = self.entry.steps.get(self.plan.functions[index].name)
        return step.pause(now) if step is not None else 0.0

    def finished(self, index: int, step: Step, result: Any = None) -> tuple[list[Step], list[int]]:
        """Take a step that has ended, and what it returned; return the steps to record and the ones that are ready now."""
        self._close(step)
        if step.status == DONE:
            self.results[step.function] = result
            ready = []
            for successor in self.plan.successors[index]:
                self.missing[successor] -= 1
                if not self.missing[successor]:
                    ready.append(successor)
            return [step], ready
        return [step, *self._skip_after(index, step)], []

    def _close(self, step: Step) -> None:
        self.steps[step.function] = step
        self.open -= 1

    def _skip_after(self, index: int, ended: Step) -> list[Step]:
        """Skip everything after a step that was skipped or failed; return the steps to record."""
        failed = ended.status == FAILED
        cause = ended.function if failed else ""
        reason = f'"{ended.function}" failed' if failed else f'"{ended.function}" was skipped: {ended.reason}'
        skipped = []
        pending = list(self.plan.successors[index])
        while pending:
            successor = pending.pop()
            name = self.plan.functions[successor].name
            if name in self.steps:
                continue
            recorded = self.entry.steps.get(name)
            if recorded is not None and not is_pending(recorded):
                continue  # taken up by `start`
            step = Step(name, SKIPPED, 0, self.generation, ended.finished, ended.finished, reason=reason, cause=cause)
            self._close(step)
            skipped.append(step)
            pending += self.plan.successors[successor]
        return skipped


class Attempt:
    """One try of a step: what the executor calls with, and what came of it.

    `gate` is where dispatch counts it, `made` its context if it has asked for one.
    `expired`: its timeout has cancelled it; `ended`: the call has returned;
    `settled`: its outcome is told; `abandoned`: it was left behind, and its worker is not waited for any more.
    """

    __slots__ = (
        "abandoned",
        "ended",
        "event",
        "expired",
        "function",
        "gate",
        "index",
        "made",
        "number",
        "resources",
        "results",
        "run",
        "settled",
        "started",
        "state",
        "timer",
    )

    def __init__(self, run: Run, index: int, number: int, started: float, gate: Any = None) -> None:
        self.run = run
        self.gate = gate
        self.index = index
        self.function: FunctionSpec = run.plan.functions[index]
        self.number = number
        self.started = started
        self.event: Event = run.entry.event
        self.results = run.results
        self.state: dict[str, Any] = {}
        self.resources: Lease | None = None
        self.timer: Timer | None = None
        self.expired = False
        self.ended = False
        self.settled = False
        self.abandoned = False
        self.made: Context | None = None

    @property
    def context(self) -> Context:
        """The context of the attempt, made when first asked for."""
        if self.made is None:
            self.made = context_of(self.run.entry, self.function, self.number, self.started)
        return self.made

    def step(self, status: str, finished: float, **more: Any) -> Step:
        """Return the record of this attempt."""
        run = self.run
        return Step(self.function.name, status, self.number, run.generation, self.started, finished, crashes=run.entry.crashes, **more)  # type: ignore[arg-type]


def context_of(entry: Entry, function: FunctionSpec, attempt: int, started: float) -> Context:
    """Return the context of an attempt at a step."""
    return Context(
        entry.event,
        function.name,
        attempt=attempt,
        deadline=started + function.timeout,
        settings=function.settings,
        idempotency_key=f"{entry.uid}/{function.name}",
        max_emits=function.max_emits,
    )


def reply(entry: Entry, plan: Plan, steps: Mapping[str, Step]) -> Any:
    """Return the result of a run: that of the one leaf, or a dict by leaf name; None for leaves without one.

    It is an `Answer` when an HTTP request is answered by a function that is annotated so.

    Raises:
        RunFailed: a step has failed; the first in the order of the plan is named.
    """
    for function in plan.functions:
        step = steps.get(function.name)
        if step is not None and step.status == FAILED:
            error = step.error or StepError("Error", "")
            rejected = error.type == "Reject"
            raise RunFailed(entry.event.id, step.function, error.type, error.message, status=error.status, rejected=rejected)
    leaves = [steps.get(name) or Step(name) for name in (plan.functions[leaf].name for leaf in plan.leaves)]
    if len(leaves) == 1:
        answers = entry.event.request is not None and plan.functions[plan.leaves[0]].parameters.answers
        return answer_of(leaves[0].result) if answers else leaves[0].result
    if all(leaf.status != DONE for leaf in leaves):
        return None
    return {leaf.function: leaf.result for leaf in leaves}
