"""A backlog far larger than memory: only windows of it are held, and order, keys and dues are kept all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from support import Bench, graph_of

from runtime import Context, Event, Sink, function
from runtime.journal.memory import MemoryJournal
from runtime.records import Entry, Step
from runtime.specs import SinkSpec

WINDOW = 8


class Kept(MemoryJournal):
    """A journal whose entries survive the process, as far as dispatch can tell; `crashed` counts as marked in the last one."""

    persistent: ClassVar[bool] = True
    before: ClassVar[list[Entry]] = []

    async def open(self) -> None:
        for entry in self.before:
            self._entries[entry.seq] = entry
            self._by_status[entry.status] += 1
            self._seq = max(self._seq, entry.seq)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    Kept.before = []
    yield
    Kept.before = []


def bench(declare: Any, **more: Any) -> Bench:
    return Bench(declare, journal=Kept, window=WINDOW, **more)


def held(flow: Bench) -> int:
    """Return how many waiting entries dispatch has in memory."""
    dispatch = flow.engine.dispatch
    return sum(len(lane) for lane in dispatch._order.lanes.values()) + sum(len(queue.waiting) for queue in dispatch._keys._queues.values())


@pytest.mark.parametrize("order", ["fifo", "priority"])
async def test_a_long_backlog_is_held_in_a_window_and_runs_in_order(order: str) -> None:
    seen: list[int] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1, timeout=10_000)
        async def take(data: int) -> None:
            await gate.wait()
            seen.append(data)

    async with bench(declare, order=order, aging=0.0) as flow:
        for number in range(200):
            await flow.put("go", number, priority=number % 3)
            if number == 0:
                await flow.settled()
        await flow.settled()
        assert flow.engine.dispatch.waiting == 199
        assert held(flow) <= 3 * WINDOW
        gate.set()
        await flow.clock.settle(3000)
        await flow.settled()
        rest = list(range(1, 200))
        assert seen == [0, *(rest if order == "fifo" else sorted(rest, key=lambda number: -(number % 3)))]
        assert flow.engine.dispatch.waiting == 0


async def test_an_urgent_event_overtakes_a_backlog_that_is_not_in_memory() -> None:
    seen: list[int] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1, timeout=10_000)
        async def take(data: int) -> None:
            await gate.wait()
            seen.append(data)

    async with bench(declare, order="priority", aging=0.0) as flow:
        await flow.put("go", 0)
        await flow.settled()
        for number in range(1, 50):
            await flow.put("go", number)
        await flow.put("go", -1, priority=9)
        gate.set()
        await flow.clock.settle(1000)
        assert seen[:3] == [0, -1, 1]


async def test_a_busy_key_is_held_in_a_window_and_others_pass_it() -> None:
    seen: list[tuple[str, int]] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", timeout=10_000)
        async def take(event: Event) -> None:
            if event.key == "busy":
                await gate.wait()
            seen.append((event.key or "", event.data))

    async with bench(declare) as flow:
        for number in range(60):
            await flow.put("go", number, key="busy", priority=number % 2 * 5)
        for number in range(20):
            await flow.put("go", number, key=f"other{number}")
        await flow.clock.settle(500)
        assert sorted(number for key, number in seen if key != "busy") == list(range(20))
        assert held(flow) <= 4 * WINDOW
        gate.set()
        await flow.clock.settle(3000)
        await flow.settled()
        assert [number for key, number in seen if key == "busy"] == list(range(60))
        assert flow.engine.dispatch._keys._queues == {}


async def test_delayed_events_are_read_before_they_are_due() -> None:
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None:
            seen.append(data)

    async with bench(declare) as flow:
        for delay in (30, 1000, 200):
            await flow.put("go", delay, due=datetime.fromtimestamp(flow.clock.time() + delay, UTC))
        assert flow.engine.dispatch.waiting == 3
        for end, expected in ((29, []), (31, [30]), (199, [30]), (201, [30, 200]), (1001, [30, 200, 1000])):
            await flow.clock.advance(end - (flow.clock.time() - 1_800_000_000))
            await flow.settled()
            assert seen == expected
        assert flow.engine.dispatch.waiting == 0


class Memory(Sink):
    def __init__(self) -> None:
        super().__init__("out", None)
        self.data: list[Any] = []
        self.gate = asyncio.Event()

    async def write(self, events: list[Event]) -> None:
        await self.gate.wait()
        self.data += [event.data for event in events]


async def test_a_sink_that_is_slow_holds_a_window_and_catches_up_in_order() -> None:
    sink = Memory()
    spec = SinkSpec(name="out", on=("go",), plugin="p", concurrency=1, timeout=10_000)
    async with bench(lambda: None, sinks=[(spec, sink)]) as flow:
        for number in range(100):
            await flow.put("go", number)
        assert flow.engine.deliveries[0].waiting <= WINDOW + 1
        sink.gate.set()
        await flow.clock.settle(3000)
        await flow.settled()
        assert sink.data == list(range(100))
        assert (await flow.journal.counts()).done == 100


def waiting(seq: int, **more: Any) -> Entry:
    return Entry(event=Event(type="go", source="t", id=str(seq), data=seq), seq=seq, accepted=1_800_000_000.0, **more)


async def test_an_event_that_killed_the_process_twice_runs_alone_and_the_third_time_is_dead() -> None:
    running: set[int] = set()
    together: list[set[int]] = []

    def declare() -> None:
        @function(on="go", timeout=10_000)
        async def take(data: int, context: Context) -> None:
            running.add(data)
            together.append(set(running))
            await flow.clock.sleep(1)
            running.discard(data)

    Kept.before = [waiting(1, crashes=3), *(waiting(seq, crashes=2) for seq in (2, 3, 4)), waiting(5, crashes=1), waiting(6)]
    flow = bench(declare)
    async with flow:
        await flow.clock.advance(10)
        await flow.settled()
        quarantined = Kept.before[0]
        assert (quarantined.status, quarantined.reason) == ("dead", "killed the process")
        assert all(entry.status == "done" for entry in Kept.before[1:])
        assert not any(len(at_once & {2, 3, 4}) > 1 for at_once in together), "suspects run one at a time"
        assert any({5, 6} <= at_once for at_once in together), "bystanders wait for nobody"


async def test_an_event_whose_functions_were_removed_waits_and_is_dead_after_a_while() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None: ...

    async with Bench(declare) as flow:
        flow.engine.adopt(graph_of(lambda: None), 2)
        event = await flow.put("go", 1, key="k")
        await flow.settled()
        entry = await flow.entry(event)
        assert (entry.status, flow.engine.reason(entry)) == ("queued", "no function")
        await flow.clock.advance(86_400 + 60)
        await flow.settled()
        assert (entry.status, entry.reason) == ("dead", "no function")


async def test_a_sink_that_killed_the_process_three_times_gets_the_event_no_more() -> None:
    sink = Memory()
    sink.gate.set()
    spec = SinkSpec(name="out", on=("go",), plugin="p")
    Kept.before = [waiting(1, crashes=3, ran=True, sinks=("out",)), waiting(2, ran=True, sinks=("out",))]
    async with bench(lambda: None, sinks=[(spec, sink)]) as flow:
        await flow.settled()
        assert [(entry.status, entry.reason) for entry in Kept.before] == [("dead", "killed the process"), ("done", "")]
        assert sink.data == [2]


async def test_what_waits_for_a_sink_that_was_removed_ends_and_for_one_that_is_broken_goes_on_waiting() -> None:
    spec = SinkSpec(name="broken", on=("go",), plugin="p")
    Kept.before = [waiting(1, ran=True, sinks=("removed",)), waiting(2, ran=True, sinks=("broken",))]
    flow = bench(lambda: None)
    flow.graph = graph_of(lambda: None, [spec])  # as the app does when the plugin of a sink cannot be imported
    async with flow:
        await flow.settled()
        assert [entry.status for entry in Kept.before] == ["done", "queued"]
        assert Kept.before[0].steps["removed"].reason == "the sink was removed from the configuration"


async def test_what_has_begun_does_not_hide_what_waits_before_it() -> None:
    seen: list[int] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None:
            seen.append(data)

    retrying = waiting(30)
    retrying.steps = {"take": Step("take", "retrying", 1)}
    Kept.before = [*(waiting(seq) for seq in range(1, 30)), retrying]
    async with bench(declare) as flow:
        await flow.clock.settle(500)
        await flow.settled()
        assert sorted(seen) == list(range(1, 31))


async def test_a_key_is_taken_up_in_order_over_lanes_that_are_not_in_memory() -> None:
    seen: list[tuple[str, int]] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="a", concurrency=1, timeout=10_000)
        async def slow(event: Event) -> None:
            await gate.wait()
            if event.key is not None:
                seen.append(("a", event.data))

        @function(on="b")
        async def fast(event: Event) -> None:
            seen.append(("b", event.data))

    async with bench(declare) as flow:
        for number in range(3 * WINDOW):
            await flow.put("a", number)
        await flow.put("a", -1, key="k")
        await flow.put("b", -2, key="k")
        await flow.clock.settle(200)
        assert seen == [], "the first of the key waits for its function, and the second for the first"
        gate.set()
        await flow.clock.settle(2000)
        assert seen == [("a", -1), ("b", -2)]


async def test_a_sink_with_large_batches_goes_on_when_its_writes_are_done() -> None:
    sink = Memory()
    spec = SinkSpec(name="out", on=("go",), plugin="p", concurrency=4, batch=WINDOW // 2, batch_wait=0.0, timeout=10_000)
    async with bench(lambda: None, sinks=[(spec, sink)]) as flow:
        for number in range(10 * WINDOW):
            await flow.put("go", number)
        sink.gate.set()
        await flow.clock.settle(2000)
        await flow.settled()
        assert sorted(sink.data) == list(range(10 * WINDOW))


async def test_a_sink_that_is_down_holds_a_window_of_retries_too() -> None:
    class Down(Memory):
        async def write(self, events: list[Event]) -> None:
            raise OSError("down")

    spec = SinkSpec(name="out", on=("go",), plugin="p", retries=100)
    async with bench(lambda: None, sinks=[(spec, Down())]) as flow:
        for number in range(20 * WINDOW):
            await flow.put("go", number)
            await flow.clock.settle(2)
        assert len(flow.engine.deliveries[0]._attempts) <= 2 * WINDOW


async def test_events_of_one_key_whose_functions_were_removed_expire_together() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> None: ...

    async with Bench(declare) as flow:
        flow.engine.adopt(graph_of(lambda: None), 2)
        for number in range(10):
            await flow.put("go", number, key="k")
        await flow.clock.advance(86_400 + 60)
        await flow.settled()
        counts = await flow.journal.counts()
        assert (counts.dead, counts.open, flow.engine.dispatch.waiting) == (10, 0, 0)
