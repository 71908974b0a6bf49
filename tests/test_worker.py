"""The way of an event through dispatch, run, worker and outcomes, on a virtual clock."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from typing import Any

import msgspec
import pytest
from support import Bench, graph_of

from runtime import Context, DataError, Event, NotRouted, Reject, ResultTimeout, RunFailed, Skip, Unavailable, function
from runtime.contracts import Query
from runtime.flow.run import Run
from runtime.records import Entry, Step


class Order(msgspec.Struct):
    id: str
    total: float


async def test_a_chain_passes_typed_results_and_the_leaf_answers() -> None:
    def declare() -> None:
        @function(on="order.placed")
        def validate(order: Order) -> Order:
            return order

        @function(after="validate")
        async def charge(validate: Order) -> dict[str, Any]:
            return {"amount": validate.total}

        @function(after=["validate", "charge"])
        async def receipt(validate: Order, charge: dict[str, Any], context: Context) -> dict[str, Any]:
            return {"order": validate.id, "charged": charge["amount"], "attempt": context.attempt}

    async with Bench(declare) as bench:
        result = await bench.inlet().call(Event(type="order.placed", source="t", data={"id": "7", "total": 12.5}))
        assert result == {"order": "7", "charged": 12.5, "attempt": 1}
        (entry,) = await bench.journal.query(Query())
        assert entry.status == "done"
        assert {name: step.status for name, step in entry.steps.items()} == {"validate": "done", "charge": "done", "receipt": "done"}


async def test_branches_run_at_the_same_time_and_the_join_waits_for_all() -> None:
    meet = asyncio.Barrier(2)

    def declare() -> None:
        @function(on="go")
        async def start(data: int) -> int:
            return data

        @function(after="start")
        async def left(start: int) -> int:
            await meet.wait()
            return start + 1

        @function(after="start")
        async def right(start: int) -> int:
            await meet.wait()
            return start + 2

        @function(after=["left", "right"])
        async def join(left: int, right: int) -> list[int]:
            return [left, right]

    async with Bench(declare) as bench, asyncio.timeout(5):
        assert await bench.inlet().call(Event(type="go", source="t", data=10)) == [11, 12]


async def test_several_leaves_answer_as_an_object_and_skipped_ones_as_null() -> None:
    def declare() -> None:
        @function(on="go")
        async def one(data: int) -> int:
            return data

        @function(on="go")
        async def two(data: int) -> int:
            raise Skip("not today")

    async with Bench(declare) as bench:
        assert await bench.inlet().call(Event(type="go", source="t", data=1)) == {"one": 1, "two": None}


async def test_skip_skips_all_after_it_and_the_run_succeeds() -> None:
    def declare() -> None:
        @function(on="go")
        async def a(data: int) -> int:
            raise Skip("enough")

        @function(after="a")
        async def b(a: int) -> int:
            return a

        @function(after="b")
        async def c(b: int) -> int:
            return b

    async with Bench(declare) as bench:
        assert await bench.inlet().call(Event(type="go", source="t", data=1)) is None
        (entry,) = await bench.journal.query(Query())
        assert entry.status == "done"
        assert {step.function: (step.status, step.reason) for step in entry.steps.values()} == {
            "a": ("skipped", "enough"),
            "b": ("skipped", '"a" was skipped: enough'),
            "c": ("skipped", '"a" was skipped: enough'),
        }


async def test_a_failure_skips_only_what_depends_on_it_and_a_redrive_runs_only_that() -> None:
    calls: list[str] = []
    broken = True

    def declare() -> None:
        @function(on="go")
        async def a(data: int) -> int:
            calls.append("a")
            return data

        @function(after="a", retries=0)
        async def b(a: int) -> int:
            calls.append("b")
            if broken:
                raise ValueError("no")
            return a + 1

        @function(after="a")
        async def other(a: int) -> int:
            calls.append("other")
            return a

        @function(after=["b", "other"])
        async def c(b: int, other: int) -> int:
            calls.append("c")
            return b + other

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        entry = await bench.entry(event)
        assert entry.status == "dead"
        assert {step.function: step.status for step in entry.steps.values()} == {
            "a": "done",
            "b": "failed",
            "other": "done",
            "c": "skipped",
        }
        assert entry.steps["c"].cause == "b"
        error = entry.steps["b"].error
        assert error is not None
        assert (error.type, error.message) == ("ValueError", "no")
        assert "test_worker.py" in error.traceback
        calls.clear()
        broken = False
        assert await bench.engine.redrive(entry)
        await bench.settled()
        assert calls == ["b", "c"]
        assert (await bench.entry(event)).status == "done"
        assert (await bench.entry(event)).steps["c"].result == 3


async def test_retries_wait_longer_each_time_and_end_as_a_dead_letter() -> None:
    times: list[float] = []

    def declare() -> None:
        @function(on="go", retries=3, backoff=10, backoff_max=25)
        async def flaky(data: int, context: Context) -> None:
            times.append(context.deadline)
            raise OSError("down")

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        assert bench.engine.dispatch.runs[1].status == "retrying"
        await bench.clock.advance(100)
        await bench.settled()
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert len(times) == 4
        assert 5 <= gaps[0] <= 10 <= gaps[1] <= 20
        assert 12.5 <= gaps[2] <= 25
        entry = await bench.entry(event)
        assert (entry.status, entry.steps["flaky"].attempts) == ("dead", 4)


@pytest.mark.parametrize(("asked", "least", "most"), [(3600, 3605, 3610), (1, 6, 11), (0, 5, 10), (1e9, 86_405, 86_410)])
async def test_an_attempt_that_was_unavailable_is_not_made_again_before_the_time_it_asks_for(
    asked: float, least: float, most: float
) -> None:
    calls: list[int] = []

    def declare() -> None:
        @function(on="go", backoff=10, backoff_max=10)
        async def closed(data: int) -> None:
            calls.append(data)
            raise Unavailable("closed for lunch", retry_after=asked)

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        step = (await bench.entry(event)).steps["closed"]
        assert step.error is not None
        assert (step.error.type, step.error.message) == ("Unavailable", "closed for lunch")
        assert least <= step.due - bench.clock.time() <= most
        await bench.clock.advance(least)
        assert len(calls) == 1
        await bench.clock.advance(most - least)
        assert len(calls) == 2


@pytest.mark.parametrize("failure", [Reject("no", status=418), "data"])
async def test_rejects_and_misfits_are_not_retried(failure: Any) -> None:
    calls = []

    def declare() -> None:
        @function(on="go")
        async def refuse(order: Any) -> None:
            calls.append(order)
            raise failure

        @function(on="typed", name="typed")
        async def typed(order: Order) -> None:
            calls.append(order)

    async with Bench(declare) as bench:
        event = await bench.put("typed" if failure == "data" else "go", {"id": "7", "total": "much"})
        await bench.settled()
        entry = await bench.entry(event)
        assert entry.status == "dead"
        (error,) = [step.error for step in entry.steps.values()]
        assert error is not None
        if failure == "data":
            assert calls == []
            assert error.message == 'parameter "order" of "typed" does not fit: Expected `float`, got `str` - at `$.total`'
        else:
            assert len(calls) == 1
            assert (error.type, error.status) == ("Reject", 418)


async def test_a_timeout_cancels_the_attempt_and_a_stubborn_function_is_left_behind() -> None:
    def declare() -> None:
        @function(on="slow", timeout=5, retries=0)
        async def slow(data: int) -> None:
            await asyncio.Event().wait()

        @function(on="stubborn", timeout=5, retries=0)
        async def stubborn(data: int) -> None:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if stopping:
                        raise

        @function(on="fine")
        async def fine(data: int) -> int:
            async with asyncio.timeout(1):
                await asyncio.sleep(0)
                return data

    stopping = False
    async with Bench(declare) as bench:
        slow, stubborn = await bench.put("slow", 1), await bench.put("stubborn", 1)
        await bench.clock.advance(5)
        await bench.settled()
        error = (await bench.entry(slow)).steps["slow"].error
        assert error is not None
        assert (error.type, error.message) == ("StepTimeout", '"slow" took longer than 5 s')
        await bench.clock.advance(1)
        await bench.settled()
        assert (await bench.entry(stubborn)).status == "dead"
        assert await bench.inlet().call(Event(type="fine", source="t", data=3)) == 3
        stopping = True


async def test_sync_functions_run_in_threads_and_generators_emit_what_they_yield() -> None:
    threads: list[str] = []

    def declare() -> None:
        @function(on="go", emits="part")
        def parts(data: int) -> Any:
            threads.append(threading.current_thread().name)
            yield from range(data)

        @function(on="go", emits="part")
        async def more(data: int) -> Any:
            yield 10
            yield None

        @function(on="part")
        async def take(data: int) -> int:
            taken.append(data)
            return data

    taken: list[int] = []
    async with Bench(declare) as bench, asyncio.timeout(5):
        await bench.put("go", 3)
        while len(taken) < 4:
            await asyncio.sleep(0.001)
        assert sorted(taken) == [0, 1, 2, 10]
        assert threads[0] != "MainThread"


async def test_emitted_events_inherit_and_carry_their_origin_and_appear_only_on_success() -> None:
    seen: list[Event] = []

    def declare() -> None:
        @function(on="go", backoff=1)
        async def emitter(data: int, context: Context) -> None:
            context.emit("next", {"n": data})
            context.emit("next", {"n": data + 1}, key="other", priority=9, delay=30)
            if context.attempt == 1:
                raise OSError("once")

        @function(on="next")
        async def take(event: Event) -> None:
            seen.append(event)

    async with Bench(declare) as bench:
        cause = await bench.put("go", 1, key="k", priority=2)
        await bench.settled()
        assert seen == []
        await bench.clock.advance(2)
        await bench.settled()
        (first,) = seen
        assert (first.source, first.key, first.priority, first.data) == ("function/emitter", "k", 2, {"n": 1})
        assert first.extensions == {"causationid": cause.id, "correlationid": cause.id, "hops": 1}
        await bench.clock.advance(30)
        await bench.settled()
        assert (seen[1].key, seen[1].priority) == ("other", 9)
        entry = await bench.entry(cause)
        assert [effect.event.id for effect in await bench.journal.effects(entry.seq)] == [event.id for event in seen]


async def test_an_endless_chain_of_emissions_is_cut_off_as_a_dead_letter() -> None:
    def declare() -> None:
        @function(on="ping", emits="ping")
        async def ping(data: int) -> int:
            return data + 1

    async with Bench(declare) as bench:
        await bench.put("ping", 0)
        await bench.clock.settle(1000)
        (dead,) = await bench.journal.query(Query(status=("dead",)))
        assert dead.hops == 65
        assert (await bench.journal.counts()).done == 65


async def test_state_is_kept_per_function_and_key_and_recorded_with_success_only() -> None:
    def declare() -> None:
        @function(on="hit", retries=0)
        async def count(data: Any, state: dict[str, int]) -> int:
            state["n"] = state.get("n", 0) + 1
            await asyncio.sleep(0)
            if data == "fail":
                raise ValueError("no")
            return state["n"]

    async with Bench(declare) as bench:
        for data, key in [(1, "a"), (1, "a"), ("fail", "a"), (1, "a"), (1, "b"), *[(1, None)] * 5]:
            await bench.put("hit", data, key=key)
        await bench.settled()
        assert await bench.journal.state("count", "a") == {"n": 3}
        assert await bench.journal.state("count", "b") == {"n": 1}
        assert await bench.journal.state("count", None) == {"n": 5}


async def test_context_variables_of_one_event_do_not_reach_the_next() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("leak", default=0)
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def leak(data: int) -> None:
            seen.append(variable.get())
            variable.set(data)

    async with Bench(declare) as bench:
        for number in range(1, 5):
            await bench.put("go", number)
        await bench.settled()
        assert seen == [0, 0, 0, 0]


async def test_a_call_is_refused_before_acceptance_when_it_cannot_work() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(order: Order) -> None: ...

    async with Bench(declare) as bench:
        inlet = bench.inlet()
        with pytest.raises(NotRouted, match='no result for "other": no function handles it'):
            await inlet.call(Event(type="other", source="t"))
        with pytest.raises(DataError, match=r"Object missing required field `id`"):
            await inlet.call(Event(type="go", source="t", data={}))
        assert (await bench.journal.counts()).accepted == 0


async def test_a_failed_call_raises_and_the_same_id_again_redrives_it() -> None:
    broken = True

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> int:
            if broken:
                raise Reject("closed", status=409)
            return data

    async with Bench(declare) as bench:

        def event() -> Event:
            return Event(type="go", source="t", id="one", data=5)

        with pytest.raises(RunFailed) as failure:
            await bench.inlet().call(event())
        assert (failure.value.status, failure.value.rejected, failure.value.reason) == (409, True, "closed")
        broken = False
        assert await bench.inlet().call(event()) == 5
        assert await bench.inlet().call(event()) == 5
        counts = await bench.journal.counts()
        assert (counts.accepted, counts.done, counts.duplicates) == (1, 1, 2)


async def test_a_caller_that_gives_up_leaves_the_run_alone() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> int:
            await gate.wait()
            return data

    async with Bench(declare) as bench:
        with pytest.raises(ResultTimeout):
            await bench.inlet().call(Event(type="go", source="t", data=1), timeout=0.01)
        gate.set()
        await bench.settled()
        assert (await bench.journal.counts()).done == 1


async def test_an_attempt_whose_process_stood_still_is_given_a_little_more_once() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", timeout=5, retries=0)
        async def take(data: int) -> None:
            await (gate if data else asyncio.Event()).wait()

    async with Bench(declare) as bench:
        ends, hangs = await bench.put("go", 1), await bench.put("go", 0)
        await bench.settled()
        bench.clock._now += 60
        await bench.clock.advance(0)
        gate.set()
        await bench.settled()
        assert (await bench.entry(ends)).status == "done"
        await bench.clock.advance(1)
        await bench.settled()
        assert (await bench.entry(hangs)).status == "dead"


def test_attempts_that_ended_with_the_process_count_for_the_steps_that_could_run_then() -> None:
    def declare() -> None:
        @function(on="go")
        async def first(data: int) -> int:
            return data

        @function(after="first")
        async def second(first: int) -> int:
            return first

        @function(after="second")
        async def third(second: int) -> int:
            return second

    def tried(crashes: int, *steps: Step) -> tuple[int, int]:
        entry = Entry(event=Event(type="go", source="t"), crashes=crashes, steps={step.function: step for step in steps})
        run = Run(entry, graph_of(declare).plan("go"), 1)
        (index,) = run.start()[1]
        return run.attempts(index), run.crashes(index)

    first, second = Step("first", "done", 3, crashes=1), Step("second", "retrying", 3, crashes=2)
    assert tried(0) == (0, 0)
    assert tried(2) == (2, 2)
    assert tried(1, first) == (0, 0)
    assert tried(2, first) == (1, 1)
    assert tried(2, first, second) == (3, 1)
    assert tried(3, first, second) == (4, 2)
    assert tried(0, first, second) == (3, 0), "a redrive begins to count anew"


async def test_results_that_cannot_be_encoded_fail_the_step_for_good() -> None:
    def declare() -> None:
        @function(on="go")
        async def opaque(data: int) -> object:
            return object()

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        error = (await bench.entry(event)).steps["opaque"].error
        assert error is not None
        assert error.message == 'the result of "opaque" cannot be encoded: `object` is not a type of data'


async def test_nobody_subscribed_means_unrouted_and_a_removed_function_means_waiting() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> int:
            return data

    def nothing() -> None: ...

    async with Bench(declare) as bench:
        nobody = await bench.put("nobody", 1)
        assert (await bench.entry(nobody)).status == "unrouted"
        bench.engine.adopt(graph_of(nothing), 2)
        waiting = await bench.put("go", 1)
        with pytest.raises(NotRouted, match="were removed"):
            await bench.inlet().call(Event(type="go", source="t", data=1))
        await bench.settled()
        assert (await bench.entry(waiting)).status == "queued"
        bench.engine.adopt(graph_of(declare), 3)
        await bench.settled()
        assert (await bench.entry(waiting)).status == "done"
