"""A run is on one generation; one that only waits for retries goes over to the newest, with what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Bench, graph_of

from runtime import Context, Event, function
from runtime.journal.memory import MemoryJournal
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.records import Entry
from runtime.testing import VirtualClock

Calls = list[tuple[str, object]]


def chain(calls: Calls, version: str, *, fails: bool = False, extra: bool = False, second: bool = True) -> Callable[[], None]:
    """Return a declaration of `first`, `second` after it, which may fail or be left out, and perhaps `third`."""

    def declare() -> None:
        @function(on="go")
        async def first(data: int) -> int:
            calls.append((f"first {version}", data))
            return data + 1

        if second:

            @function(after="first", name="second", backoff=10.0)
            async def second_(first: int, context: Context) -> int:
                calls.append((f"second {version}", context.attempt))
                if fails:
                    raise OSError("not yet")
                return first + 1

        if extra:

            @function(after="first", name="third")
            async def third(first: int) -> None:
                calls.append((f"third {version}", first))

    return declare


async def entry_of(bench: Bench, event: Event) -> Entry:
    return await bench.entry(event)


async def test_a_run_that_waits_for_a_retry_goes_over_to_the_new_generation_at_once() -> None:
    calls: Calls = []
    async with Bench(chain(calls, "old", fails=True)) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        bench.engine.adopt(graph_of(chain(calls, "new", extra=True)), 2)
        await bench.settled()
        assert calls == [("first old", 1), ("second old", 1), ("third new", 2)], "a new step need not wait for the retry of another"
        await bench.clock.advance(10)
        assert calls[3:] == [("second new", 2)], "the result of a step that still exists is kept, and attempts count on"
        entry = await entry_of(bench, event)
        assert entry.status == "done"
        assert {name: step.generation for name, step in entry.steps.items()} == {"first": 1, "second": 2, "third": 2}


async def test_a_run_of_which_something_executes_stays_on_its_generation() -> None:
    calls: Calls = []
    gate = asyncio.Event()

    def declare(version: str) -> Callable[[], None]:
        def declare() -> None:
            @function(on="go")
            async def held(data: int) -> int:
                await gate.wait()
                return data

            @function(after="held", name="last")
            async def last(held: int) -> None:
                calls.append((version, held))

        return declare

    async with Bench(declare("old")) as bench:
        await bench.put("go", 1)
        await bench.settled()
        bench.engine.adopt(graph_of(declare("new")), 2)
        await bench.put("go", 2)
        gate.set()
        await bench.settled()
        assert sorted(calls) == [("new", 2), ("old", 1)]


async def test_a_run_goes_over_when_the_last_of_it_that_executed_has_ended() -> None:
    calls: Calls = []
    gate = asyncio.Event()

    def declare(version: str, *, fails: bool) -> Callable[[], None]:
        def declare() -> None:
            @function(on="go", backoff=1.0)
            async def failing(data: int) -> None:
                calls.append((f"failing {version}", data))
                if fails:
                    raise OSError("not yet")

            @function(on="go")
            async def held(data: int) -> None:
                calls.append((f"held {version}", data))
                await gate.wait()

        return declare

    async with Bench(declare("old", fails=True)) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        bench.engine.adopt(graph_of(declare("new", fails=False)), 2)
        await bench.clock.advance(1)
        assert calls[2:] == [("failing old", 1)], "never on two generations"
        gate.set()
        await bench.settled()
        await bench.clock.advance(2)
        assert calls[3:] == [("failing new", 1)]
        assert (await entry_of(bench, event)).status == "done"


async def test_a_step_whose_function_is_gone_is_dropped_and_noted() -> None:
    calls: Calls = []
    async with Bench(chain(calls, "old", fails=True)) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        bench.engine.adopt(graph_of(chain(calls, "new", second=False)), 2)
        await bench.settled()
        entry = await entry_of(bench, event)
        assert entry.status == "done"
        assert (entry.steps["second"].status, entry.steps["second"].reason) == ("skipped", "its function was removed")
        await bench.clock.advance(100)
        assert len(calls) == 2


async def test_a_run_whose_functions_are_all_gone_waits_for_them() -> None:
    calls: Calls = []
    async with Bench(chain(calls, "old", fails=True)) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        bench.engine.adopt(graph_of(lambda: None), 2)
        await bench.clock.advance(100)
        entry = await entry_of(bench, event)
        assert (entry.status, bench.engine.reason(entry)) == ("queued", "no function")
        bench.engine.adopt(graph_of(chain(calls, "new")), 3)
        await bench.settled()
        assert calls[2:] == [("second new", 2)]
        assert (await entry_of(bench, event)).status == "done"


@pytest.mark.parametrize("order", ["fifo", "priority"])
async def test_the_key_is_held_while_a_run_goes_over(order: str) -> None:
    calls: Calls = []
    async with Bench(chain(calls, "old", fails=True), order=order, aging=0.0) as bench:
        await bench.put("go", 1, key="k", priority=1)
        await bench.settled()
        bench.engine.adopt(graph_of(chain(calls, "new")), 2)
        await bench.put("go", 5, key="k", priority=9)
        await bench.settled()
        assert ("first new", 5) not in calls
        await bench.clock.advance(10)
        assert [call for call in calls if call[0].startswith(("second new", "first new"))] == [
            ("second new", 2),
            ("first new", 5),
            ("second new", 1),
        ]


async def test_a_save_elsewhere_leaves_a_waiting_run_where_it_is() -> None:
    calls: Calls = []
    same = graph_of(chain(calls, "old", fails=True))
    async with Bench(lambda: None) as bench:
        bench.engine.adopt(same, 2)
        await bench.put("go", 1)
        await bench.settled()
        before = dict(bench.engine.dispatch.runs)
        bench.engine.adopt(same, 3)
        await bench.settled()
        assert bench.engine.dispatch.runs == before
        assert [run.generation for run in before.values()] == [3]


async def test_a_caller_gets_the_result_of_the_generation_that_ended_it() -> None:
    calls: Calls = []
    async with Bench(chain(calls, "old", fails=True)) as bench:
        asking = asyncio.create_task(bench.inlet().call(Event(type="go", source="test", data=1), retries=3))
        await bench.settled()
        bench.engine.adopt(graph_of(chain(calls, "new")), 2)
        await bench.clock.advance(10)
        assert await asking == 3


@pytest.mark.parametrize("durable", [False, True])
async def test_thousands_of_waiting_runs_go_over_and_none_is_lost(durable: bool, tmp_path: Path) -> None:
    calls: Calls = []

    def journal(clock: VirtualClock) -> MemoryJournal | SqliteJournal:
        return SqliteJournal(tmp_path / "journal.db", clock) if durable else MemoryJournal(clock)

    async with Bench(chain(calls, "old", fails=True), journal=journal) as bench:
        inlet = bench.inlet()
        await inlet.put([Event(type="go", source="test", data=number, key=f"k{number % 700}") for number in range(1400)])
        while len(calls) < 1400:
            await asyncio.sleep(0.001)
            await bench.settled()
        bench.engine.adopt(graph_of(chain(calls, "new")), 2)
        while (await bench.journal.counts()).open:
            await bench.clock.advance(5)
            await bench.engine.outcomes.settled()
            await asyncio.sleep(0.001)
        assert (await bench.journal.counts()).done == 1400
        assert sum(name == "second new" for name, _ in calls) == 1400
        assert sum(name.startswith("first") for name, _ in calls) == 1400
    await bench.journal.close()
