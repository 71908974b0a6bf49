"""Dispatch against a simple model: order, keys, limits; nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import Bench, graph_of

from runtime import Context, Event, Full, function
from runtime.flow.dispatch import Dispatch
from runtime.flow.lanes import Lane, Ranking
from runtime.flow.run import Attempt
from runtime.journal.memory import MemoryJournal
from runtime.records import DONE, Entry, Step
from runtime.testing import VirtualClock, entry

LIMITS = {"slow": 1, "fast": 3, "shared": 2}


def declare() -> None:
    @function(on="a", concurrency=LIMITS["slow"])
    async def slow(data: Any) -> None: ...

    @function(on="b", concurrency=LIMITS["fast"])
    async def fast(data: Any) -> None: ...

    @function(on="c", concurrency=LIMITS["shared"])
    async def shared(data: Any) -> None: ...


FUNCTION_OF = {"a": "slow", "b": "fast", "c": "shared"}


class DispatchMachine(RuleBasedStateMachine):
    """Pushes, takes and ends events at random; the model is a list searched by the definition of the order."""

    @initialize(order=st.sampled_from(["fifo", "priority", "strict"]), in_flight=st.integers(1, 5))
    def make(self, order: str, in_flight: int) -> None:
        self.clock = VirtualClock()
        self.ranking = Ranking("fifo" if order == "fifo" else "priority", 0.0 if order == "strict" else 30.0)
        self.in_flight = in_flight
        self.dispatch = Dispatch(
            self.clock,
            self.ranking,
            MemoryJournal(self.clock),
            in_flight=in_flight,
            wake=lambda: None,
            room=lambda: None,
            settle=lambda run, steps: None,
            feed=lambda shelf, after: None,
        )
        self.dispatch.adopt(graph_of(declare), 1)
        self.seq = 0
        self.waiting: list[Entry] = []
        self.running: list[Attempt] = []
        self.held: set[str] = set()

    @rule(type=st.sampled_from("abc"), key=st.sampled_from([None, None, "k", "l"]), priority=st.integers(0, 9), delay=st.integers(0, 50))
    def push(self, type: str, key: str | None, priority: int, delay: int) -> None:
        self.seq += 1
        self.clock._now += delay
        one = entry(type, now=self.clock.time())
        one.event = Event(type=type, source="s", id=str(self.seq), key=key, priority=priority)
        one.seq = self.seq
        one.rank = self.ranking.rank(priority, self.clock.time())
        self.waiting.append(one)
        self.dispatch.push(one)

    def startable(self, one: Entry) -> bool:
        """By the definition: the function has room, and nothing of the key goes before."""
        name = FUNCTION_OF[one.event.type]
        if Counter(attempt.function.name for attempt in self.running)[name] >= LIMITS[name]:
            return False
        if one.event.key is None:
            return True
        if one.event.key in self.held:
            return False
        return not any(other.event.key == one.event.key and other.order < one.order for other in self.waiting)

    def next(self) -> Entry | None:
        """By the definition: the first of those that can start."""
        allowed = [one for one in self.waiting if self.startable(one)] if len(self.running) < self.in_flight else []
        return min(allowed, key=lambda one: one.order, default=None)

    @rule(in_place=st.integers(0, 5))
    def take(self, in_place: int = 0) -> None:
        """Take the next attempt; of what can run in place so many end there, and the one behind them suspends."""
        taken = self.dispatch.take()
        attempt = self.run_in_place(taken, in_place) if isinstance(taken, Lane) else taken
        if attempt is None:
            assert isinstance(taken, Lane) or self.next() is None
            return
        assert isinstance(taken, Lane) or attempt.run.entry is self.next()
        self.running.append(attempt)
        self.waiting.remove(attempt.run.entry)
        if attempt.event.key is not None:
            self.held.add(attempt.event.key)

    def run_in_place(self, lane: Lane, in_place: int) -> Attempt | None:
        burst = self.dispatch.burst(lane, cast("asyncio.Task[None]", None))
        ended: list[Entry] = []
        attempt = None
        for count, one in enumerate(burst.entries):
            burst.entry, burst.event, burst.started, burst.steps, burst.results = one, one.event, self.clock.time(), [], {}
            if count == in_place:
                attempt = self.dispatch.land(burst)
                burst.entries.close()
                assert one is self.next()
                break
            assert one is self.next()
            self.waiting.remove(one)
            ended.append(one)
            if one.event.key is not None:
                self.held.add(one.event.key)
        for one in ended:  # when that is recorded
            self.dispatch.release(one)
            self.held.discard(one.event.key or "")
        return attempt

    @precondition(lambda self: self.running)
    @rule(choice=st.randoms(use_true_random=False))
    def end(self, choice: Any) -> None:
        attempt = self.running.pop(choice.randrange(len(self.running)))
        attempt.run.finished(attempt.index, Step(attempt.function.name, DONE, 1))
        self.dispatch.ended(attempt)
        self.dispatch.forget(attempt.run)
        self.dispatch.release(attempt.run.entry)
        if attempt.event.key is not None:
            self.held.discard(attempt.event.key)

    @rule()
    def swap(self) -> None:
        self.dispatch.adopt(graph_of(declare), self.dispatch.generation + 1)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "dispatch"):
            assert self.dispatch.waiting == len(self.waiting)
            assert self.dispatch.executing == len(self.running)

    def teardown(self) -> None:
        """Whatever is left can be run to the end."""
        if not hasattr(self, "dispatch"):
            return
        for _ in range(3 * len(self.waiting) + 3 * len(self.running) + 3):
            self.take()
            if self.running and len(self.running) >= 1:
                attempt = self.running.pop(0)
                attempt.run.finished(attempt.index, Step(attempt.function.name, DONE, 1))
                self.dispatch.ended(attempt)
                self.dispatch.release(attempt.run.entry)
                self.held.discard(attempt.event.key or "")
        assert not self.waiting


TestDispatchMachine = DispatchMachine.TestCase
TestDispatchMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("order", "aging", "expected"),
    [
        ("fifo", 30.0, [0, 1, 2, 3]),
        ("priority", 0.0, [3, 1, 0, 2]),
        ("priority", 30.0, [1, 3, 0, 2]),
    ],
)
async def test_the_order_of_starting_is_fifo_strict_or_aging(order: str, aging: float, expected: list[int]) -> None:
    started: list[int] = []
    gate = asyncio.Event()

    def one_at_a_time() -> None:
        @function(on="go", concurrency=1, timeout=1000)
        async def take(data: int) -> None:
            started.append(data)
            await gate.wait()

    async with Bench(one_at_a_time, order=order, aging=aging) as bench:
        await bench.put("go", -1)
        await bench.settled()
        for data, priority in enumerate([4, 5, 4, 9]):
            await bench.put("go", data, priority=priority)
            await bench.clock.advance(140 if data == 2 else 1)
        gate.set()
        await bench.settled()
        assert started[1:] == expected


async def test_events_of_one_key_go_one_at_a_time_over_all_types_and_through_retries() -> None:
    seen: list[tuple[str, int]] = []

    def declare() -> None:
        @function(on="a", backoff=10)
        async def first(data: int, context: Context) -> None:
            seen.append(("a", context.attempt))
            if context.attempt == 1:
                raise OSError("once")

        @function(on="b")
        async def second(data: int) -> None:
            seen.append(("b", data))

    async with Bench(declare) as bench:
        await bench.put("a", 0, key="k")
        await bench.put("b", 1, key="k")
        await bench.put("b", 2, key="other")
        await bench.settled()
        assert seen == [("a", 1), ("b", 2)]
        await bench.clock.advance(10)
        await bench.settled()
        assert seen == [("a", 1), ("b", 2), ("a", 2), ("b", 1)]


async def test_a_function_with_a_hundred_thousand_events_waiting_holds_up_no_other() -> None:
    never = asyncio.Event()

    def declare() -> None:
        @function(on="slow", concurrency=2)
        async def slow(data: int) -> None:
            await never.wait()

        @function(on="fast")
        async def fast(data: int) -> int:
            return data

    async with Bench(declare) as bench:
        inlet = bench.inlet()
        for _ in range(100):
            await inlet.put([Event(type="slow", source="t", data=1) for _ in range(1000)])
        await bench.settled()
        began = time.perf_counter()
        for number in range(20):
            assert await inlet.call(Event(type="fast", source="t", data=number)) == number
        assert (time.perf_counter() - began) / 20 < 0.02
        assert bench.engine.dispatch.waiting == 99_998


async def test_a_slow_branch_does_not_hold_up_another_function_of_the_same_event() -> None:
    never = asyncio.Event()
    fast: list[int] = []

    def declare() -> None:
        @function(on="go", concurrency=1)
        async def stuck(data: int) -> None:
            await never.wait()

        @function(on="go")
        async def quick(data: int) -> None:
            fast.append(data)

    async with Bench(declare) as bench:
        await bench.inlet().put([Event(type="go", source="t", data=number) for number in range(3000)])
        await bench.clock.settle(200)
        assert fast == list(range(3000))


async def test_a_rate_spaces_attempts_and_the_rest_waits() -> None:
    started: list[float] = []

    def declare() -> None:
        @function(on="go", rate=2)
        async def paced(data: int) -> None:
            started.append(bench.clock.time())

    async with Bench(declare) as bench:
        await bench.inlet().put([Event(type="go", source="t", data=number) for number in range(5)])
        await bench.clock.advance(10)
        assert [round(moment - started[0], 3) for moment in started] == [0, 0.5, 1.0, 1.5, 2.0]


async def test_in_flight_bounds_runs_that_execute_and_not_those_that_wait() -> None:
    gate = asyncio.Event()
    running = 0
    most = 0

    def declare() -> None:
        @function(on="go")
        async def work(data: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1

        @function(on="retry", backoff=100)
        async def fails(data: int) -> None:
            raise OSError("later")

    async with Bench(declare, in_flight=3) as bench:
        await bench.inlet().put([Event(type="retry", source="t", data=number) for number in range(10)])
        await bench.inlet().put([Event(type="go", source="t", data=number) for number in range(10)])
        await bench.settled()
        assert (running, most) == (3, 3)
        gate.set()
        await bench.settled()
        assert most == 3
        assert (await bench.journal.counts()).done == 10


async def test_a_due_event_waits_for_its_time_without_holding_its_key() -> None:
    from datetime import UTC, datetime

    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None:
            seen.append(data)

    async with Bench(declare) as bench:
        due = datetime.fromtimestamp(bench.clock.time() + 60, UTC)
        await bench.put("go", 1, key="k", due=due)
        await bench.put("go", 2, key="k")
        await bench.settled()
        assert seen == [2]
        await bench.clock.advance(60)
        await bench.settled()
        assert seen == [2, 1]


async def test_when_the_backlog_is_full_sources_wait_and_nothing_is_dropped() -> None:
    gate = asyncio.Event()
    seen: list[int] = []

    def declare() -> None:
        @function(on="go", concurrency=1)
        async def take(data: int) -> None:
            await gate.wait()
            seen.append(data)

    async with Bench(declare, max_backlog=5) as bench:
        inlet = bench.inlet()

        async def bring() -> None:
            for number in range(50):
                await inlet.put(Event(type="go", source="t", data=number))

        bringing = asyncio.create_task(bring())
        await bench.settled()
        assert not bringing.done()
        with pytest.raises(Full, match="5 events are waiting and max_backlog is 5; try again in 1 s"):
            await inlet.put(Event(type="go", source="t", data=99), wait=False)
        gate.set()
        await bringing
        await bench.settled()
        assert seen == list(range(50))


async def test_an_event_that_is_overtaken_again_and_again_stands_in_its_lane_once() -> None:
    never = asyncio.Event()

    def declare() -> None:
        @function(on="slow", concurrency=1, timeout=1000)
        async def slow(data: int) -> None:
            await never.wait()

        @function(on="fast")
        async def fast(data: int) -> None: ...

    async with Bench(declare, order="priority", aging=0.0) as bench:
        await bench.put("slow", 0)
        await bench.settled()
        await bench.put("slow", 1, key="k")
        for number in range(100):
            await bench.put("fast", number, key="k", priority=9)
            await bench.settled()
        assert sum(len(lane) for lane in bench.engine.dispatch._order.lanes.values()) == 1
        assert bench.engine.dispatch.waiting == 1


async def test_very_many_types_do_not_make_each_new_one_slow() -> None:
    def declare() -> None:
        @function(on="t.*")
        async def take(data: int) -> None: ...

    async with Bench(lambda: None, in_flight=1) as bench:
        bench.engine.adopt(graph_of(declare), 1)
        bench.engine.adopt(graph_of(lambda: None), 2)
        for number in range(10_050):
            await bench.put(f"t.{number}", number)
        assert bench.engine.dispatch._order._many == 20_000


async def test_it_can_be_told_what_an_event_waits_for() -> None:
    from datetime import UTC, datetime

    never = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1, timeout=1000)
        async def take(data: int) -> None:
            await never.wait()

        @function(on="other")
        async def other(data: int) -> None: ...

    async with Bench(declare) as bench:
        first = await bench.put("go", 1, key="k")
        limited, keyed = await bench.put("go", 2), await bench.put("other", 3, key="k")
        delayed = await bench.put("go", 4, due=datetime.fromtimestamp(bench.clock.time() + 60, UTC))
        await bench.settled()
        reasons = [bench.engine.reason(await bench.entry(event)) for event in (first, limited, keyed, delayed)]
        assert reasons == ["", '"take" at the limit', f"its key is held by event {first.id}", "not due yet"]
