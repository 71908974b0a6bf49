"""Calls one function, or the plan of an event type, in this process: once, without retries, sending nothing."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.clock import SystemClock
from runtime.contracts import Executor
from runtime.errors import Fault, LoadError, RunFailed, Skip, nearest
from runtime.event import Event
from runtime.executors.batch import call_alone
from runtime.executors.kinds import Executors
from runtime.flow.failure import error_of
from runtime.flow.intake import Intake
from runtime.flow.results import emissions_of, plain_result
from runtime.flow.run import Attempt, Run, reply
from runtime.graph import Graph, Plan
from runtime.journal.memory import MemoryJournal
from runtime.keeper import Keeper
from runtime.loading.loader import load_graph
from runtime.plugins import load_conventions
from runtime.records import DONE, FAILED, SKIPPED, UNROUTED, Entry, Route, Step, StepError
from runtime.settings import Settings
from runtime.timeouts import overrun


class Invocation(msgspec.Struct):
    """What an invocation gave: the `result`, the events it would have `emitted`, and the text of its failure."""

    result: Any
    emitted: list[Event]
    failed: str | None = None
    traceback: str = ""


async def invoke(settings: Settings, name: str | None, data: Any, *, type: str | None = None) -> Invocation:
    """Invoke the function `name`, or with `type` all functions that an event of the type triggers.

    `data` is the event's data. A function that comes after one other is given `data` as that one's result;
    after several, `data` is an object of results by name.

    Raises:
        LoadError: the folder does not make a generation, or there is no such function or plan.
    """
    graph = load_graph(settings, load_conventions(settings, SystemClock()))
    plan = _plan(graph, name, type)
    event = Event(type=plan.type, source="invoke", data=data)
    journal, clock = MemoryJournal(SystemClock()), SystemClock()
    await journal.open()
    routes: defaultdict[str, Route] = defaultdict(lambda: Route(UNROUTED, (), ran=True))
    intake = Intake(journal, clock, routes=routes, admit=lambda _: None, backlog=Nothing(), max_backlog=1)
    entry = intake.entry(event)
    await intake.accept([entry], wait=False)
    run = Run(entry, plan, 1)
    if name is not None:
        run.results.update(_given_results(graph, name, data))
    keeper, executors = Keeper(clock), Executors(clock, settings.path.parent)
    keeper.adopt(graph.resources.values())
    try:
        return await _run(run, intake, keeper, executors.by_name())
    finally:
        await keeper.close()
        await executors.close()


def _plan(graph: Graph, name: str | None, type: str | None) -> Plan:
    if name is not None:
        if name not in graph.by_name:
            raise LoadError([Fault("invoke", f'there is no function "{name}"{nearest(name, graph.by_name)}')])
        return graph.plan_of(name, type or next(iter(graph.triggers[name]), "invoke"))
    assert type is not None
    plan = graph.plan(type)
    if not plan.functions:
        raise LoadError([Fault("invoke", f'no function handles events of type "{type}"')])
    return plan


def _given_results(graph: Graph, name: str, data: Any) -> dict[str, Any]:
    """Return the results a function is to be given for what it comes after."""
    after = graph.by_name[name].after
    if len(after) == 1:
        return {after[0]: data}
    if after and not (isinstance(data, Mapping) and data.keys() >= set(after)):
        allowed = ", ".join(f'"{other}": …' for other in after)
        raise LoadError([Fault("invoke", f'"{name}" comes after several functions: give their results as data, {{{allowed}}}')])
    return {other: data[other] for other in after}


class Nothing:
    """A backlog in which nothing waits."""

    waiting = 0


async def _run(run: Run, intake: Intake, keeper: Keeper, executors: Mapping[str, Executor]) -> Invocation:
    emitted: list[Event] = []
    ready = list(run.plan.roots)
    while ready:
        index = ready.pop(0)
        attempt = Attempt(run, index, 1, SystemClock.time())
        step, result, entries = await _call(attempt, executors[attempt.function.executor], intake, keeper)
        emitted += [entry.event for entry in entries]
        ready += run.finished(index, step, result)[1]
    try:
        return Invocation(reply(run.entry, run.plan, run.steps), emitted)
    except RunFailed as failure:
        error = run.steps[failure.step].error or StepError("Error", "")
        return Invocation(None, emitted, f'"{failure.step}" failed: {error.type}: {error.message}', error.traceback)


async def _call(attempt: Attempt, executor: Executor, intake: Intake, keeper: Keeper) -> tuple[Step, Any, list[Entry]]:
    """Return the step that one call made, what it returned and what it would have emitted."""
    function = attempt.function
    step = Step(function.name, DONE, 1, 1, attempt.started)
    entries: list[Entry] = []
    result: Any = None
    try:
        async with asyncio.timeout(function.timeout):
            attempt.resources = await keeper.lease(function.resources)
            result = await (executor(attempt) if function.batch == 1 else call_alone(executor, attempt))
        step.result = plain_result(function.name, result)
        entries = intake.emitted(attempt.run.entry, function.name, emissions_of(attempt, step.result))
    except Skip as skip:
        step.status, step.reason = SKIPPED, skip.reason
    except TimeoutError:
        step.status, step.error = FAILED, error_of(overrun(attempt))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the function raises is its failure
        step.status, step.error = FAILED, error_of(error)
    finally:
        if attempt.resources is not None:
            attempt.resources.release()
    return step, result, entries
