"""Delivery to sinks: own queue, order per key, retries and dead letters of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from support import Bench

from runtime import Event, PartialFailure, Reject, Sink, Unavailable, function
from runtime.specs import SinkSpec


class Memory(Sink):
    """Keeps what it is given; `fail` decides which write raises what."""

    def __init__(self) -> None:
        super().__init__("memory", None)
        self.batches: list[list[Event]] = []
        self.fail: list[BaseException | None] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, events: list[Event]) -> None:
        self.batches.append(events)
        await self.gate.wait()
        failure = self.fail.pop(0) if self.fail else None
        if failure is not None:
            raise failure

    @property
    def data(self) -> list[Any]:
        return [event.data for batch in self.batches for event in batch]


def nothing() -> None: ...


def spec(**options: Any) -> SinkSpec:
    return SinkSpec(**{"name": "out", "on": ("go",), "plugin": "memory", **options})


async def test_a_sink_gets_the_event_itself_and_the_event_ends_with_it() -> None:
    sink = Memory()
    async with Bench(nothing, sinks=[(spec(), sink)]) as bench:
        event = await bench.put("go", {"n": 1})
        await bench.settled()
        assert sink.batches == [[event]]
        entry = await bench.entry(event)
        assert (entry.status, entry.steps["out"].status) == ("done", "done")


async def test_a_sink_never_holds_up_a_reply_and_its_failure_makes_the_event_dead_later() -> None:
    def declare() -> None:
        @function(on="go")
        async def double(data: int) -> int:
            return 2 * data

    sink = Memory()
    sink.fail = [OSError("down")] * 3
    async with Bench(declare, sinks=[(spec(retries=2, backoff=10), sink)]) as bench:
        assert await bench.inlet().call(Event(type="go", source="t", id="x", data=4)) == 8
        entry = (await bench.journal.find("x"))[0]
        assert entry.status == "queued"
        await bench.clock.advance(100)
        await bench.settled()
        entry = (await bench.journal.find("x"))[0]
        assert (entry.status, entry.steps["double"].status, entry.steps["out"].attempts) == ("dead", "done", 3)
        assert await bench.engine.redrive(entry)
        await bench.settled()
        assert (await bench.journal.find("x"))[0].status == "done"
        assert sink.data == [4] * 4


async def test_only_the_events_a_partial_failure_names_are_tried_again() -> None:
    sink = Memory()
    async with Bench(nothing, sinks=[(spec(batch=10, batch_wait=1, backoff=10), sink)]) as bench:
        events = [Event(type="go", source="t", id=f"e{number}", data=number) for number in range(3)]
        sink.fail = [PartialFailure({"e1": "busy"})]
        await bench.inlet().put(events)
        await bench.clock.advance(1)
        await bench.settled()
        assert sink.data == [0, 1, 2]
        await bench.clock.advance(11)
        await bench.settled()
        assert sink.data == [0, 1, 2, 1]
        assert (await bench.journal.counts()).done == 3


async def test_an_error_in_a_partial_failure_counts_for_its_event_alone() -> None:
    sink = Memory()
    async with Bench(nothing, sinks=[(spec(batch=10, batch_wait=1, backoff=10), sink)]) as bench:
        sink.fail = [PartialFailure({"e0": "busy", "e1": Reject("never"), "e2": Unavailable("later", retry_after=100)})]
        await bench.inlet().put([Event(type="go", source="t", id=f"e{number}", data=number) for number in range(4)])
        await bench.clock.advance(1)
        await bench.settled()
        steps = [(await bench.journal.find(f"e{number}"))[0].steps["out"] for number in range(4)]
        assert [step.status for step in steps] == ["retrying", "failed", "retrying", "done"]
        assert [step.error and (step.error.type, step.error.message) for step in steps] == [
            ("PartialFailure", "e0: busy"), ("Reject", "never"), ("Unavailable", "later"), None
        ]  # fmt: skip
        await bench.clock.advance(100)
        await bench.settled()
        assert sink.data == [0, 1, 2, 3, 0]
        await bench.clock.advance(11)
        await bench.settled()
        assert sink.data == [0, 1, 2, 3, 0, 2]


async def test_a_reject_fails_without_retries() -> None:
    sink = Memory()
    sink.fail = [Reject("never")]
    async with Bench(nothing, sinks=[(spec(), sink)]) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        assert (await bench.entry(event)).status == "dead"


async def test_events_of_a_key_are_written_in_order_through_a_failure_and_others_pass() -> None:
    sink = Memory()
    sink.fail = [OSError("once")]
    async with Bench(nothing, sinks=[(spec(backoff=10), sink)]) as bench:
        for data, key in [(1, "k"), (2, "k"), (3, "other")]:
            await bench.put("go", data, key=key)
        await bench.settled()
        assert sink.data == [1, 3]
        await bench.clock.advance(10)
        await bench.settled()
        assert sink.data == [1, 3, 1, 2]


async def test_no_two_events_of_one_batch_share_a_key_and_batches_fill() -> None:
    sink = Memory()
    async with Bench(nothing, sinks=[(spec(batch=3, batch_wait=1), sink)]) as bench:
        await bench.inlet().put([Event(type="go", source="t", data=number, key="k" if number < 2 else None) for number in range(6)])
        await bench.clock.advance(5)
        await bench.settled()
        assert sorted(sink.data) == list(range(6))
        assert all(len([event for event in batch if event.key == "k"]) <= 1 for batch in sink.batches)
        assert max(map(len, sink.batches)) == 3


async def test_a_write_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    sink = Memory()
    sink.gate.clear()
    async with Bench(nothing, sinks=[(spec(timeout=0.01, retries=0), sink)]) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        await bench.clock.advance(0.01)
        await bench.settled()
        assert (await bench.entry(event)).status == "dead"
        error = (await bench.entry(event)).steps["out"].error
        assert error is not None
        assert error.message == 'sink "out" took longer than 0.01 s'


async def test_a_write_whose_process_stood_still_is_given_a_little_more_once() -> None:
    sink = Memory()
    sink.gate.clear()
    async with Bench(nothing, sinks=[(spec(timeout=5, retries=0), sink)]) as bench:
        ends = await bench.put("go", 1)
        await bench.settled()
        bench.clock._now += 60
        await bench.clock.advance(0)
        sink.gate.set()
        await bench.settled()
        assert (await bench.entry(ends)).status == "done"
        sink.gate.clear()
        hangs = await bench.put("go", 2)
        await bench.settled()
        bench.clock._now += 60
        await bench.clock.advance(1)
        await bench.settled()
        assert (await bench.entry(hangs)).status == "dead"


async def test_an_event_that_only_waits_for_a_sink_is_kept_in_memory_nowhere_else() -> None:
    well, ill = Memory(), Memory()
    ill.gate.clear()

    def declare() -> None:
        @function(on="go")
        async def take(data: int) -> int:
            return data

    sinks = [(spec(name="well"), well), (spec(name="ill", concurrency=1), ill)]
    async with Bench(declare, sinks=sinks) as bench:
        for number in range(20):
            await bench.put("go", number)
        await bench.settled()
        assert bench.engine.outcomes.begun() == []
        assert (await bench.journal.counts()).done == 0
        ill.gate.set()
        await bench.settled()
        assert (await bench.journal.counts()).done == 20


# --- a connection that is lost ------------------------------------------------------------------------


class Connected(Memory):
    """Has a connection; while the server is `down`, it cannot be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.down = False

    async def open(self) -> None:
        self.steps.append("open")
        if self.down:
            raise ConnectionError("nobody is there")

    async def close(self) -> None:
        self.steps.append("close")


async def test_a_sink_that_has_lost_its_connection_is_opened_anew_and_nothing_is_tried_before() -> None:
    sink = Connected()
    sink.fail, sink.down = [ConnectionError("gone")], False
    async with Bench(nothing, sinks=[(spec(retries=1, backoff=0.1), sink)]) as bench:
        await bench.settled()
        sink.down = True
        events = [await bench.put("go", number) for number in range(2)]
        await bench.settled()
        delivery = bench.engine.deliveries[0]
        assert (delivery.state, delivery.detail) == ("failing", "ConnectionError: nobody is there")
        await bench.clock.advance(300)
        written = len(sink.batches)
        await bench.clock.advance(300)
        assert len(sink.batches) == written, "a server that is down costs no attempts"
        sink.down = False
        await bench.clock.advance(60)
        await bench.settled()
        assert [(await bench.entry(event)).status for event in events] == ["done", "done"]
        assert (delivery.state, delivery.detail) == ("running", "")
    assert sink.steps[:3] == ["open", "close", "open"]
    assert sink.steps[-2:] == ["open", "close"]


async def test_a_partial_failure_may_tell_that_the_connection_is_lost() -> None:
    sink = Connected()
    sink.fail = [PartialFailure({"e1": ConnectionError("gone")})]
    async with Bench(nothing, sinks=[(spec(batch=2, batch_wait=1, backoff=10), sink)]) as bench:
        await bench.inlet().put([Event(type="go", source="t", id=f"e{number}", data=number) for number in range(2)])
        await bench.clock.advance(1)
        await bench.settled()
        assert sink.steps == ["open", "close", "open"]
        await bench.clock.advance(12)
        await bench.settled()
        assert sink.data == [0, 1, 1]


async def test_a_sink_is_opened_anew_only_when_the_other_writes_have_ended() -> None:
    sink = Connected()
    sink.gate.clear()
    sink.fail = [ConnectionError("gone")]
    async with Bench(nothing, sinks=[(spec(backoff=10), sink)]) as bench:
        await bench.settled()
        for number in range(2):
            await bench.put("go", number)
        await bench.settled()
        assert sink.steps == ["open"]
        sink.gate.set()
        await bench.settled()
        assert sink.steps == ["open", "close", "open"]
        await bench.clock.advance(12)
        await bench.settled()
        assert sorted(sink.data) == [0, 0, 1]


async def test_other_errors_open_nothing_anew() -> None:
    sink = Connected()
    sink.fail = [OSError("full")]
    async with Bench(nothing, sinks=[(spec(backoff=10), sink)]) as bench:
        await bench.put("go", 1)
        await bench.settled()
        await bench.clock.advance(12)
        await bench.settled()
        assert sink.steps == ["open"]
        assert sink.data == [1, 1]


async def test_a_sink_that_is_replaced_while_it_is_opened_anew_is_closed_once() -> None:
    sink = Connected()
    sink.fail = [ConnectionError("gone")]
    async with Bench(nothing, sinks=[(spec(backoff=10), sink)]) as bench:
        await bench.settled()
        sink.down = True
        await bench.put("go", 1)
        await bench.settled()
        other = Connected()
        await bench.engine.replace_sink(spec(backoff=10), other)
        await bench.clock.advance(12)
        await bench.settled()
        assert other.data == [1]
    assert sink.steps == ["open", "close", "open"]
