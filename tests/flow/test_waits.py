"""What an event waited for, and for how long, is told for each of the things it can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import Bench

from runtime import Event, Reject, Sink, function
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.specs import SinkSpec
from runtime.testing import START, VirtualClock


async def waits(bench: Bench, event: Event) -> dict[str, float]:
    found = (await bench.entry(event)).waits or {}
    return {what: round(seconds, 3) for what, seconds in found.items()}


def holding(gates: dict[str, asyncio.Event], **options: object) -> Callable[[], None]:
    """Return the declaration of a function `work` that goes on when the gate its data names is open."""

    def declare() -> None:
        @function(on="go", **options)
        async def work(data: str) -> None:
            await gates.setdefault(data, asyncio.Event()).wait()

    return declare


async def test_what_starts_at_once_has_waited_for_nothing() -> None:
    def declare() -> None:
        @function(on="go")
        async def work(data: int) -> int:
            return data

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        assert (await bench.entry(event)).waits is None


async def test_a_key_is_told_with_the_seconds_it_was_held_by_others() -> None:
    gates: dict[str, asyncio.Event] = {}
    async with Bench(holding(gates)) as bench:
        await bench.put("go", "a", key="ann")
        second = await bench.put("go", "b", key="ann")
        await bench.settled()
        await bench.clock.advance(3)
        gates["a"].set()
        await bench.settled()
        gates["b"].set()
        await bench.settled()
        assert await waits(bench, second) == {"key ann": 3.0}


async def test_a_function_at_its_limit_is_told_and_apart_from_those_before() -> None:
    gates: dict[str, asyncio.Event] = {}
    async with Bench(holding(gates, concurrency=1)) as bench:
        first, second, third = [await bench.put("go", name) for name in ("a", "b", "c")]
        await bench.settled()
        for gate in ("a", "b", "c"):
            await bench.clock.advance(2)
            gates.setdefault(gate, asyncio.Event()).set()
            await bench.settled()
        assert await waits(bench, first) == {}
        assert await waits(bench, second) == {'"work" at the limit': 2.0}
        assert await waits(bench, third) == {'"work" at the limit': 4.0}


async def test_a_later_step_at_its_limit_is_told() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def first(data: int) -> int:
            return data

        @function(after="first", concurrency=1)
        async def second(first: int) -> None:
            await gate.wait()

    async with Bench(declare) as bench:
        await bench.put("go", 1)
        waiting = await bench.put("go", 2)
        await bench.settled()
        await bench.clock.advance(5)
        gate.set()
        await bench.settled()
        assert await waits(bench, waiting) == {'"second" at the limit': 5.0}


async def test_the_time_of_a_delayed_event_is_told() -> None:
    async with Bench(holding({})) as bench:
        event = await bench.put("go", "a", due=datetime.fromtimestamp(START + 60, UTC))
        await bench.clock.advance(61)
        await bench.engine.stop(0)
        entry = await bench.entry(event)
        assert entry.waits == {"its time": 60.0}


async def test_events_that_go_before_are_told_when_all_places_are_taken() -> None:
    gates: dict[str, asyncio.Event] = {}
    async with Bench(holding(gates), in_flight=1) as bench:
        await bench.put("go", "a")
        second = await bench.put("go", "b")
        await bench.settled()
        await bench.clock.advance(4)
        gates["a"].set()
        await bench.settled()
        gates["b"].set()
        await bench.settled()
        assert await waits(bench, second) == {"others before it": 4.0}


async def test_retries_are_told_with_their_delays_and_a_redrive_with_the_time_until_somebody_asked() -> None:
    failures = [OSError("no"), Reject("never")]

    def declare() -> None:
        @function(on="go", backoff=2.0)
        async def work(data: int) -> None:
            if failures:
                raise failures.pop(0)

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await bench.settled()
        await bench.clock.advance(2)
        entry = await bench.entry(event)
        assert entry.status == "dead"
        told = await waits(bench, event)
        assert list(told) == ['a retry of "work"']
        assert 1.0 <= told['a retry of "work"'] <= 2.0
        await bench.clock.advance(98)
        assert await bench.engine.redrive(entry)
        await bench.settled()
        assert (await bench.entry(event)).status == "done"
        assert (await waits(bench, event))["somebody to retry it"] == pytest.approx(100 - told['a retry of "work"'], abs=0.01)


async def test_the_turn_at_a_sink_and_its_retries_are_told() -> None:
    class Down(Sink):
        failures = 1

        async def write(self, events: list[Event]) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError("down")

    spec = SinkSpec(name="out", on=("go",), plugin="down", backoff=2.0)
    async with Bench(lambda: None, sinks=[(spec, Down("out", None))]) as bench:
        event = await bench.put("go", 1, key="ann")
        behind = await bench.put("go", 2, key="ann")
        await bench.settled()
        await bench.clock.advance(2)
        await bench.settled()
        retry = (await waits(bench, event))['a retry of "out"']
        assert 1.0 <= retry <= 2.0
        assert await waits(bench, behind) == {'its turn at "out"': retry}


async def test_what_was_accepted_before_the_runtime_was_started_waited_for_that(tmp_path: Path) -> None:
    def journal(clock: VirtualClock) -> SqliteJournal:
        return SqliteJournal(tmp_path / "journal.db", clock)

    async with Bench(holding({}), journal=journal) as bench:
        bench.engine.pool._stopping = True
        event = await bench.put("go", "a")
    await bench.journal.close()

    def later(clock: VirtualClock) -> SqliteJournal:
        clock._now += 50
        return journal(clock)

    gate = asyncio.Event()
    gate.set()
    async with Bench(holding({"a": gate}), journal=later) as bench:
        while (await bench.entry(event)).status != "done":
            await asyncio.sleep(0.001)
        assert await waits(bench, event) == {"the runtime to start": 50.0}
    await bench.journal.close()
