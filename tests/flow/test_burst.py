"""Events that run in place: nobody can tell them from those that get a run and an attempt of their own."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Bench

from runtime import Context, Reject, Skip, function
from runtime.records import DONE, Entry

ACTIONS = ("return", "emit", "suspend", "skip", "reject", "raise", "no data", "cancel")


async def act(action: str, context: Context | None = None) -> Any:
    match action:
        case "emit" if context is not None:
            context.emit("told", {"by": context.function})
        case "suspend":
            await asyncio.sleep(0)
        case "skip":
            raise Skip("not today")
        case "reject":
            raise Reject("never")
        case "raise":
            raise ValueError("oh")
        case "no data":
            return object()
        case "cancel":
            raise asyncio.CancelledError
    return {"did": action}


def declare() -> None:
    @function(on="diamond", retries=1, backoff=1.0)
    async def top(data: dict[str, str], context: Context) -> Any:
        return await act(data["top"], context)

    @function(after="top", emits="went.left", retries=0)
    async def left(top: Any, data: dict[str, str]) -> Any:
        return await act(data["left"])

    @function(after="top", concurrency=1, retries=0)
    async def right(top: Any, data: dict[str, str]) -> Any:
        return await act(data["right"])

    @function(after=["left", "right"], retries=0)
    async def bottom(left: Any, right: Any, data: dict[str, str]) -> Any:
        return await act(data["bottom"])

    @function(on=["told", "went.left"])
    async def hear(data: Any) -> None: ...


def told(entry: Entry) -> Any:
    """Return all that a record says, but times and what differs from run to run."""
    steps = {
        name: (step.status, step.attempts, step.generation, step.result, step.reason, step.cause, step.error and step.error.type)
        for name, step in sorted(entry.steps.items())
    }
    return entry.event.type, entry.status, entry.reason, entry.ran, entry.hops, entry.event.data, steps


async def recorded(events: list[tuple[dict[str, str], str | None]], *, in_place: bool) -> list[Any]:
    async with Bench(declare) as flow:
        flow.engine.dispatch.in_place = in_place
        for data, key in events:
            await flow.put("diamond", data, key=key)
        await flow.settled()
        for _ in events:  # those of a key wait for each other's retries
            await flow.clock.advance(2)
            await flow.settled()
        assert flow.engine.dispatch.executing == 0
        assert flow.engine.dispatch.waiting == 0
        assert flow.engine.dispatch.runs == {}
        entries = list(flow.journal._entries.values())  # type: ignore[attr-defined]
        return sorted((told(entry) for entry in entries), key=str)


plans = st.fixed_dictionaries({name: st.sampled_from(ACTIONS) for name in ("top", "left", "right", "bottom")})


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(plans, st.sampled_from([None, None, "k"])), min_size=1, max_size=6))
def test_what_is_recorded_is_the_same_as_of_runs_and_attempts(events: list[tuple[dict[str, str], str | None]]) -> None:
    assert asyncio.run(recorded(events, in_place=True)) == asyncio.run(recorded(events, in_place=False))


@pytest.mark.parametrize("limit", [1, 3])
async def test_an_event_that_suspends_counts_at_its_limit(limit: int) -> None:
    executing, most = 0, 0

    def declare() -> None:
        @function(on="go", concurrency=limit)
        async def sometimes(data: int) -> None:
            nonlocal executing, most
            executing += 1
            most = max(most, executing)
            if data % 3 == 0:
                await asyncio.sleep(0)
            executing -= 1

    async with Bench(declare) as flow:
        for number in range(50):
            await flow.put("go", number)
        await flow.settled()
        assert (await flow.journal.counts()).done == 50
    assert most == limit


async def test_steps_that_have_ended_are_recorded_while_a_later_one_suspends() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def first(data: int) -> int:
            return data + 1

        @function(after="first")
        async def second(first: int) -> int:
            await gate.wait()
            return first + 1

    async with Bench(declare) as flow:
        event = await flow.put("go", 1)
        await flow.settled()
        entry = await flow.entry(event)
        assert {name: step.result for name, step in entry.steps.items()} == {"first": 2}
        assert [run.entry for run in flow.engine.dispatch.runs.values()] == [entry]
        gate.set()
        await flow.settled()
        assert entry.status == DONE
        assert entry.steps["second"].result == 3


async def test_branches_that_can_go_on_do_so_while_another_suspends() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def waits(data: int) -> None:
            await gate.wait()

        @function(on="go")
        async def goes_on(data: int) -> None: ...

    async with Bench(declare) as flow:
        entry = await flow.entry(await flow.put("go", 1))
        await flow.settled()
        assert set(entry.steps) == {"goes_on"}
        gate.set()
        await flow.settled()
        assert entry.status == DONE


async def test_an_event_does_not_see_the_context_variables_of_the_one_before() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def leaves_one(data: int) -> None:
            seen.append(variable.get())
            variable.set(data)

    async with Bench(declare) as flow:
        for number in range(1, 5):
            await flow.put("go", number)
        await flow.settled()
    assert seen == [0, 0, 0, 0]


async def test_what_runs_in_place_has_its_timeout_as_soon_as_it_suspends() -> None:
    def declare() -> None:
        @function(on="go", timeout=5, retries=0)
        async def hangs(data: int) -> None:
            await asyncio.Event().wait()

    async with Bench(declare) as flow:
        entry = await flow.entry(await flow.put("go", 1))
        await flow.settled()
        await flow.clock.advance(6)
        await flow.settled()
        assert entry.steps["hangs"].error is not None
        assert entry.steps["hangs"].error.type == "StepTimeout"
