"""One event, one function or one sink that misbehaves hurts itself alone: each of these once stopped the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support import Bench, graph_of

from runtime import Context, Event, Reject, Sink, Skip, function
from runtime.contracts import Query
from runtime.journal.memory import MemoryJournal
from runtime.specs import SinkSpec


class SlowJournal(MemoryJournal):
    """Takes a few turns of the loop for each commit, as one on disk does."""

    async def append(self, *arguments: Any, then: Any = None, **more: Any) -> Any:
        async def commit() -> Any:
            for _ in range(5):
                await asyncio.sleep(0)
            return await super(SlowJournal, self).append(*arguments, then=then, **more)

        return await asyncio.shield(asyncio.ensure_future(commit()))

    async def record(self, outcomes: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await super().record(outcomes)


async def alive(bench: Bench) -> bool:
    """Return whether another function still answers."""
    async with asyncio.timeout(5):
        return bool(await bench.inlet().call(Event(type="alive", source="t", data=True)))


def still_alive() -> None:
    @function(on="alive")
    async def living(data: bool) -> bool:
        return data


def with_life(declare: Any) -> Any:
    def both() -> None:
        declare()
        still_alive()

    return both


@pytest.mark.parametrize("value", [object(), float("nan"), 2**70])
async def test_state_that_is_no_data_fails_the_step(value: Any) -> None:
    @with_life
    def declare() -> None:
        @function(on="go")
        async def keeps(data: int, state: dict[str, Any]) -> None:
            state["x"] = value

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        entry = await bench.entry(event)
        error = entry.steps["keeps"].error
        assert (entry.status, error.type if error else None) == ("dead", "DataError")
        assert error is not None
        assert error.message.startswith('the state of "keeps" cannot be encoded')
        assert await bench.journal.state("keeps", None) == {}
        assert await alive(bench)


async def test_a_cancellation_raised_by_a_function_is_its_failure() -> None:
    @with_life
    def declare() -> None:
        @function(on="raises", retries=0)
        async def raises(data: int) -> None:
            raise asyncio.CancelledError

        @function(on="cancels", retries=0)
        async def cancels(data: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        @function(on="sync", retries=0)
        def sync(data: int) -> None:
            raise asyncio.CancelledError

    async with Bench(declare) as bench:
        events = [await bench.put(type, 1) for type in ("raises", "cancels", "sync")]
        async with asyncio.timeout(5):
            while (await bench.journal.counts()).dead < len(events):
                await asyncio.sleep(0.001)
        for event in events:
            (step,) = (await bench.entry(event)).steps.values()
            assert step.error is not None
            assert step.error.type == "CancelledError"
        assert await alive(bench)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delay": float("inf")}, "emit: delay is in seconds, from 0 to 3155760000, found inf"),
        ({"delay": 1e12}, "emit: delay is in seconds, from 0 to 3155760000, found 1000000000000.0"),
        ({"key": 5}, "emit: key is a text, found 5"),
        ({"id": 7}, "emit: id is a text, found 7"),
    ],
)
async def test_an_emission_that_cannot_be_fails_the_step(wrong: dict[str, Any], message: str) -> None:
    @with_life
    def declare() -> None:
        @function(on="go", retries=0)
        async def emitter(data: int, context: Context) -> None:
            context.emit("next", 1, **wrong)

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        error = (await bench.entry(event)).steps["emitter"].error
        assert error is not None
        assert error.message == message
        assert await alive(bench)


async def test_a_function_left_behind_frees_its_place() -> None:
    stopping = False

    @with_life
    def declare() -> None:
        @function(on="go", timeout=5, retries=0)
        async def stubborn(data: int) -> None:
            while not stopping:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if stopping:
                        raise

    async with Bench(declare, in_flight=1) as bench:
        await bench.put("go", 1)
        await bench.settled()
        waiting = await bench.put("alive", True)
        await bench.clock.advance(6)
        await bench.settled()
        assert (await bench.entry(waiting)).status == "done"
        stopping = True


async def test_a_function_that_returns_late_leaves_its_worker_as_it_was() -> None:
    def declare() -> None:
        @function(on="late", timeout=5)
        async def late(data: int) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
            return ""

        @function(on="next")
        async def follower(data: int) -> int:
            task = asyncio.current_task()
            assert task is not None
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return task.cancelling()

    async with Bench(declare) as bench:
        event = await bench.put("late", 1)
        await bench.settled()
        await bench.clock.advance(5)
        await bench.settled()
        assert (await bench.entry(event)).steps["late"].result == "late"
        assert await bench.inlet().call(Event(type="next", source="t", data=1)) == 0


async def test_what_the_stop_interrupts_is_not_charged_whatever_it_raises() -> None:
    def declare() -> None:
        @function(on="go", retries=0)
        async def converts(data: int) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OSError("interrupted") from None

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        await bench.engine.stop(0.0)
        entry = await bench.entry(event)
        assert (entry.status, entry.steps) == ("queued", {})


async def test_a_put_that_is_cancelled_in_its_commit_still_runs_its_event() -> None:
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None:
            seen.append(data)

    async with Bench(declare, journal=SlowJournal) as bench:
        putting = asyncio.create_task(bench.inlet().put(Event(type="go", source="t", data=1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        await bench.settled()
        assert seen == [1]
        assert (await bench.journal.counts()).done == 1


async def test_a_dead_event_that_comes_again_five_times_is_redriven_once() -> None:
    calls: list[int] = []

    def declare() -> None:
        @function(on="go", retries=0)
        async def take(data: int) -> None:
            calls.append(data)
            if len(calls) == 1:
                raise ValueError("once")

    async with Bench(declare, journal=SlowJournal) as bench:
        await bench.put("go", 1, id="same")
        await bench.settled()
        assert (await bench.journal.counts()).dead == 1
        await asyncio.gather(*(bench.inlet().put(Event(type="go", source="test", id="same", data=1)) for _ in range(5)))
        await bench.settled()
        assert calls == [1, 1]
        assert (await bench.journal.counts()).done == 1


async def test_a_join_after_a_failure_and_a_skip_stays_skipped_when_redriven() -> None:
    broken = True

    def declare() -> None:
        @function(on="go", retries=0)
        async def fails(data: int) -> int:
            if broken:
                raise ValueError("no")
            return data

        @function(on="go")
        async def skips(data: int) -> int:
            raise Skip("on purpose")

        @function(after=["fails", "skips"])
        async def join(fails: int, skips: int) -> int:
            raise AssertionError

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        broken = False
        assert await bench.engine.redrive(await bench.entry(event))
        await bench.settled()
        entry = await bench.entry(event)
        assert {step.function: step.status for step in entry.steps.values()} == {"fails": "done", "skips": "skipped", "join": "skipped"}
        assert entry.status == "done"


async def test_a_redriven_event_of_which_nothing_is_left_ends_and_frees_its_key() -> None:
    def before() -> None:
        @function(on="go")
        async def fine(data: int) -> int:
            return data

        @function(on="go", retries=0)
        async def fails(data: int) -> int:
            raise ValueError("no")

    def after() -> None:
        @function(on="go")
        async def fine(data: int) -> int:
            return data

    async with Bench(before) as bench:
        event = await bench.put("go", 1, key="k")
        await bench.settled()
        bench.engine.adopt(graph_of(after), 2)
        assert await bench.engine.redrive(await bench.entry(event))
        follower = await bench.put("go", 2, key="k")
        await bench.settled()
        assert [(await bench.entry(one)).status for one in (event, follower)] == ["done", "done"]
        assert bench.engine.dispatch.runs == {}


async def test_a_caller_that_joins_a_run_which_is_over_is_answered_also_after_a_save() -> None:
    def before() -> None:
        @function(on="go")
        async def one(data: int) -> int:
            return data

    def after() -> None:
        before()

        @function(after="one")
        async def two(one: int) -> int:
            return one + 1

    async with Bench(before) as bench:
        await bench.put("go", 5, id="same")
        await bench.settled()
        bench.engine.adopt(graph_of(after), 2)
        async with asyncio.timeout(5):
            assert await bench.inlet().call(Event(type="go", source="test", id="same", data=5)) is None
        assert bench.engine.outcomes._callers == {}


async def test_a_source_that_gives_up_waiting_for_room_leaves_it_to_the_next() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1)
        async def take(data: int) -> None:
            await gate.wait()

    async with Bench(declare, max_backlog=1) as bench:
        for number in range(2):
            await bench.put("go", number)
            await bench.settled()
        puts = [asyncio.create_task(bench.inlet().put(Event(type="go", source="t", data=number))) for number in range(2)]
        await bench.settled()
        puts[0].cancel()
        await asyncio.gather(puts[0], return_exceptions=True)
        gate.set()
        async with asyncio.timeout(5):
            await puts[1]


async def test_a_rate_holds_on_a_later_step_too() -> None:
    starts: list[float] = []

    def declare() -> None:
        @function(on="go")
        async def first(data: int) -> int:
            return data

        @function(after="first", rate=10, timeout=1000)
        async def second(first: int) -> None:
            starts.append(bench.clock.time())
            await bench.clock.sleep(60)

    async with Bench(declare) as bench:
        await bench.inlet().put([Event(type="go", source="t", data=number) for number in range(5)])
        await bench.clock.advance(1)
        assert [round(start - starts[0], 3) for start in starts] == [0, 0.1, 0.2, 0.3, 0.4]


async def test_an_urgent_event_goes_before_retries_that_wait_for_the_same_function() -> None:
    seen: list[Any] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1, retries=1, backoff=1, timeout=1000)
        async def take(data: Any, context: Context) -> None:
            if data not in ("blocker", "urgent") and context.attempt == 1:
                raise OSError("once")
            seen.append(data)
            if data == "blocker":
                await gate.wait()

    async with Bench(declare, order="priority", aging=0) as bench:
        for number in range(5):
            await bench.put("go", number)
        await bench.settled()
        await bench.put("go", "blocker", priority=9)
        await bench.settled()
        await bench.clock.advance(2)
        await bench.put("go", "urgent", priority=9)
        gate.set()
        await bench.settled()
        assert seen[:2] == ["blocker", "urgent"]
        assert sorted(seen[2:]) == [0, 1, 2, 3, 4]


async def test_ten_thousand_runs_that_wait_for_one_function_do_not_spin_the_loop() -> None:
    never = asyncio.Event()
    fast: list[int] = []

    def declare() -> None:
        @function(on="both", concurrency=1, timeout=1000)
        async def stuck(data: int) -> None:
            await never.wait()

        @function(on="both")
        async def quick(data: int) -> None:
            fast.append(data)

        still_alive()

    async with Bench(declare) as bench:
        await bench.inlet().put([Event(type="both", source="t", data=number) for number in range(11_000)])
        await bench.clock.settle(500)
        assert len(fast) >= 10_000
        assert await alive(bench)


class Stubborn(Sink):
    """Swallows its cancellation, or raises one."""

    def __init__(self, raises: BaseException | None = None) -> None:
        super().__init__("out", None)
        self.raises = raises
        self.released = asyncio.Event()

    async def write(self, events: list[Event]) -> None:
        if self.raises is not None:
            raise self.raises
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue


def spec(**options: Any) -> SinkSpec:
    return SinkSpec(**{"name": "out", "on": ("go",), "plugin": "p", "retries": 0, **options})


async def test_a_sink_that_swallows_its_timeout_is_left_behind_and_does_not_hold_up_the_stop() -> None:
    sink = Stubborn()
    async with Bench(still_alive, sinks=[(spec(timeout=5, concurrency=1), sink)]) as bench:
        events = [await bench.put("go", number, key="k") for number in range(2)]
        await bench.settled()
        await bench.clock.advance(6)
        await bench.settled()
        assert (await bench.entry(events[0])).status == "dead"
        assert bench.engine.deliveries[0].live() == {(await bench.entry(events[1])).seq: "running"}
        async with asyncio.timeout(5):
            await bench.engine.stop(0.0)
        sink.released.set()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3)])
async def test_whatever_a_sink_raises_is_its_failure(error: BaseException) -> None:
    async with Bench(still_alive, sinks=[(spec(), Stubborn(error))]) as bench:
        event = await bench.put("go", 1, key="k")
        await bench.settled()
        assert (await bench.entry(event)).status == "dead"


async def test_results_and_data_are_not_shared() -> None:
    reused: dict[str, int] = {}

    def declare() -> None:
        @function(on="go")
        async def same(data: int) -> dict[str, int]:
            reused["id"] = data
            return reused

        @function(on="changed", backoff=1)
        async def changes(order: dict[str, Any], context: Context) -> None:
            order.pop("items")
            if context.attempt == 1:
                raise OSError("once")

        @function(on="changed")
        async def event_too(event: Event) -> None:
            event.data.pop("items")

    async with Bench(declare) as bench:
        calls = [bench.inlet().call(Event(type="go", source="t", data=number)) for number in range(3)]
        assert await asyncio.gather(*calls) == [{"id": 0}, {"id": 1}, {"id": 2}]
        event = await bench.put("changed", {"items": [1]})
        await bench.clock.advance(2)
        await bench.settled()
        entry = await bench.entry(event)
        assert entry.status == "done"
        assert entry.event.data == {"items": [1]}


async def test_a_death_is_an_event_where_somebody_subscribes_to_it() -> None:
    told: list[Any] = []

    def declare() -> None:
        @function(on="go")
        async def dies(data: int) -> None:
            raise Reject("never")

        @function(on="runtime.dead")
        async def mourn(event: Event) -> None:
            told.append(event)
            raise Reject("this one too, and nobody is told of that")

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        (death,) = told
        entry = await bench.entry(event)
        assert death.source == "runtime"
        assert death.data == {
            "uid": entry.uid,
            "id": event.id,
            "type": "go",
            "source": "test",
            "function": "dies",
            "error": {"type": "Reject", "message": "never"},
        }
        assert len(await bench.journal.query(Query())) == 2


async def test_text_that_cannot_be_written_is_made_to_be(tmp_path: Any) -> None:
    broken = "half \ud800 of it"

    @with_life
    def declare() -> None:
        @function(on="raises", retries=0)
        async def raises(data: int) -> None:
            raise ValueError(broken)

        @function(on="skips")
        async def skips(data: int) -> None:
            raise Skip(broken)

        @function(on="emits", retries=0)
        async def emits(data: int, context: Context) -> None:
            context.emit("next", 1, subject=broken)

    from runtime.journal.sqlite.journal import SqliteJournal

    class OnDisk(SqliteJournal):
        def __init__(self, clock: Any) -> None:
            super().__init__(tmp_path / "journal.db", clock)

    async with Bench(declare, journal=OnDisk) as bench:
        events = [await bench.put(type, 1) for type in ("raises", "skips", "emits")]
        async with asyncio.timeout(10):
            while (await bench.journal.counts()).open:
                await asyncio.sleep(0.01)
        entries = [await bench.entry(event) for event in events]
        assert [entry.status for entry in entries] == ["dead", "done", "dead"]
        assert entries[0].steps["raises"].error is not None
        assert entries[0].steps["raises"].error.message == "half ? of it"
        assert entries[1].steps["skips"].reason == "half ? of it"
        assert await alive(bench)
    await bench.journal.close()


async def test_a_redriven_event_runs_the_functions_that_had_not_ended() -> None:
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None:
            seen.append(data)

    sink = Stubborn(OSError("no"))
    async with Bench(declare, sinks=[(spec(), sink)]) as bench:
        bench.engine.pool._stopping = True  # the function does not get its turn
        event = await bench.put("go", 1)
        await bench.settled()
        entry = await bench.entry(event)
        bench.engine.outcomes.end(entry, "dead", "killed the process")
        await bench.settled()
        outcome = bench.engine.router.redrive(entry)
        assert outcome is not None
        assert (outcome.ran, outcome.deliver, outcome.status) == (False, ("out",), "queued")
