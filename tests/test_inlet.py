"""What a source is promised by its inlet: settings applied, events accepted, duplicates joined, results waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import Bench

from runtime import DataError, Event, Full, Malformed, MalformedEvent, NotRouted, Reject, ResultTimeout, RunFailed, Stopping, function
from runtime.contracts import Journal, Query
from runtime.journal.memory import MemoryJournal
from runtime.journal.sqlite.journal import SqliteJournal
from runtime.specs import SinkSpec
from runtime.testing import VirtualClock
from runtime.testing.recorder import Recorder


def take_go() -> None:
    @function(on="go")
    async def take(data: Any) -> Any:
        return data


def event(id: str = "", data: Any = None, type: str = "go", **more: Any) -> Event:
    return Event(type=type, source="test", id=id, data=data, **more)


# --- settings of the source ---------------------------------------------------------------------------


async def test_priority_and_key_of_the_source_go_to_events_that_say_none() -> None:
    async with Bench(take_go) as bench:
        inlet = bench.inlet(priority=7, key="customer.id")
        plain, own = event("1", {"customer": {"id": "ann"}}), event("2", {"customer": {"id": "ann"}}, priority=0, key="mine")
        await inlet.put([plain, own])
        recorded = [(await bench.entry(one)).event for one in (plain, own)]
        assert [(one.priority, one.key) for one in recorded] == [(7, "ann"), (0, "mine")]
        assert (plain.priority, plain.key) == (None, None), "the event of the source stays as it was"


@pytest.mark.parametrize(
    ("data", "key"),
    [({"id": "a"}, "a"), ({"id": 5}, "5"), ({"id": ["a", 1]}, '["a",1]'), ({}, None), ("text", None), (None, None)],
    ids=str,
)
async def test_a_key_is_text_whatever_it_is_taken_from(data: Any, key: str | None) -> None:
    async with Bench(take_go) as bench:
        one = event("1", data)
        await bench.inlet(key="id").put(one)
        assert (await bench.entry(one)).event.key == key


async def test_a_rate_spaces_what_a_source_brings_in() -> None:
    async with Bench(take_go) as bench:
        inlet = bench.inlet(rate=2)
        times: list[float] = []

        async def bring() -> None:
            for batch in ([event("1")], [event("2"), event("3")], [event("4")]):
                await inlet.put(batch)
                times.append(bench.clock.monotonic())

        start = bench.clock.monotonic()
        task = asyncio.create_task(bring())
        await bench.clock.advance(10)
        await task
        assert [time - start for time in times] == [0, 0.5, 1.5]
        assert inlet.events == 4


# --- acceptance ---------------------------------------------------------------------------------------


async def test_what_is_missing_of_an_event_is_filled_in() -> None:
    async with Bench(take_go) as bench:
        id, mine = await bench.inlet().put([event(), event("mine")])
        (entry,) = await bench.journal.find(id)
        assert id == entry.uid == entry.event.id
        assert entry.event.time is not None
        assert entry.event.time.timestamp() == bench.clock.time()
        assert mine == "mine"


async def test_one_event_put_again_and_again_is_many_when_it_has_no_id() -> None:
    async with Bench(take_go) as bench:
        tick = event()
        ids = [id for _ in range(5) for id in await bench.inlet().put(tick)]
        assert len(set(ids)) == 5
        assert tick.id == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"type": ""}, "type: expected a text that is not empty, found ''"),
        ({"source": ""}, "source: expected a text that is not empty, found ''"),
        ({"priority": 11}, "priority"),
        ({"due": datetime(2027, 1, 1)}, "due"),  # noqa: DTZ001 - it is naive on purpose
        ({"extensions": {"trace_id": "x"}}, "trace_id"),
    ],
)
async def test_an_event_that_cloudevents_cannot_say_is_not_accepted(wrong: dict[str, Any], message: str) -> None:
    async with Bench(take_go) as bench:
        with pytest.raises(MalformedEvent, match=message):
            await bench.inlet().put(Event(**{"type": "go", "source": "t", **wrong}))
        with pytest.raises(MalformedEvent, match="expected an Event, found a value of type dict"):
            await bench.inlet().put([{"type": "go"}])  # type: ignore[list-item]
        assert (await bench.journal.counts()).accepted == 0


async def test_a_cursor_is_recorded_with_the_events_or_alone() -> None:
    async with Bench(take_go) as bench:
        inlet = bench.inlet("files")
        assert inlet.cursor is None
        await inlet.put(event("1"), cursor={"offset": 5})
        assert inlet.cursor == {"offset": 5}
        assert await bench.journal.cursor("files") == {"offset": 5}
        await inlet.put([], cursor={"offset": 9})
        assert await bench.journal.cursor("files") == {"offset": 9}
        await inlet.put(event("2"))
        assert inlet.cursor == {"offset": 9}
        assert await bench.journal.cursor("other") is None


async def test_a_second_event_with_the_same_source_and_id_joins_the_first() -> None:
    async with Bench(take_go) as bench:
        await bench.inlet("one").put(event("1", "first"))
        await bench.inlet("two").put(event("1", "second"))
        await bench.settled()
        (entry,) = await bench.journal.query(Query())
        assert entry.event.data == "first"
        assert (await bench.journal.counts()).duplicates == 1


async def test_when_the_first_is_dead_the_second_redrives_it() -> None:
    broken = True

    def declare() -> None:
        @function(on="go", retries=0)
        async def take(data: Any) -> Any:
            if broken:
                raise ValueError("no")

    async with Bench(declare) as bench:
        await bench.inlet().put(event("1"))
        await bench.settled()
        assert (await bench.journal.counts()).dead == 1
        broken = False
        await bench.inlet().put(event("1"))
        await bench.settled()
        counts = await bench.journal.counts()
        assert (counts.done, counts.dead, counts.duplicates) == (1, 0, 1)


async def test_a_full_runtime_refuses_who_does_not_wait_and_lets_the_other_in_when_there_is_room() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", concurrency=1)
        async def take(data: Any) -> Any:
            await gate.wait()

    async with Bench(declare, max_backlog=1) as bench, asyncio.timeout(5):
        inlet = bench.inlet()
        await inlet.put(event("1"))
        await bench.settled()
        await inlet.put(event("2"))
        with pytest.raises(Full, match=r"^1 events are waiting and max_backlog is 1; try again in 1 s$"):
            await inlet.put(event("3"), wait=False)
        with pytest.raises(Full):
            await inlet.call(event("3"))
        waiting = asyncio.create_task(inlet.put(event("4")))
        await bench.settled()
        assert not waiting.done()
        gate.set()
        await waiting
        await bench.settled()
        assert (await bench.journal.counts()).done == 3


async def test_where_the_journal_does_not_last_a_put_can_wait_for_the_end_of_its_events() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", retries=0)
        async def take(data: Any) -> Any:
            await gate.wait()
            if data == "bad":
                raise ValueError("no")

    async with Bench(declare) as bench, asyncio.timeout(5):
        inlet = bench.inlet()
        inlet._wait_for_end = True
        waiting = asyncio.create_task(inlet.put([event("1"), event("2", "bad"), event("3", type="nobody")]))
        await bench.settled()
        assert not waiting.done()
        gate.set()
        await waiting
        counts = await bench.journal.counts()
        assert (counts.done, counts.dead, counts.unrouted) == (1, 1, 1)


# --- calls --------------------------------------------------------------------------------------------


async def test_a_call_returns_the_result_and_the_same_id_again_returns_it_again() -> None:
    calls: list[Any] = []

    def declare() -> None:
        @function(on="go")
        async def take(data: Any) -> Any:
            calls.append(data)
            return {"n": data}

    async with Bench(declare) as bench:
        inlet = bench.inlet()
        assert await inlet.call(event("1", 5)) == {"n": 5}
        assert await inlet.call(event("1", 6)) == {"n": 5}
        assert calls == [5]
        assert inlet.events == 2


async def test_callers_with_the_same_id_at_the_same_time_get_one_result() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def take(data: Any) -> Any:
            await gate.wait()
            return data

    async with Bench(declare) as bench, asyncio.timeout(5):
        calls = [asyncio.create_task(bench.inlet().call(event("1", number))) for number in (1, 2)]
        await bench.settled()
        gate.set()
        assert await asyncio.gather(*calls) == [1, 1]


async def test_a_failed_step_of_a_call_is_tried_again_only_as_the_caller_says() -> None:
    calls: list[Any] = []

    def declare() -> None:
        @function(on="go", retries=5, backoff=0)
        async def take(data: Any) -> Any:
            calls.append(data)
            raise ValueError("no")

    async with Bench(declare) as bench:
        with pytest.raises(RunFailed, match=r'^event 1: "take" failed: ValueError: no$') as caught:
            await bench.inlet().call(event("1", "a"))
        assert (caught.value.status, caught.value.rejected) == (500, False)
        assert calls == ["a"]
        call = asyncio.create_task(bench.inlet().call(event("2", "b"), retries=2))
        await bench.clock.advance(1)
        with pytest.raises(RunFailed):
            await call
        assert calls == ["a", "b", "b", "b"]


async def test_data_is_checked_against_all_roots_and_has_to_fit_one() -> None:
    def declare() -> None:
        @function(on="go")
        async def number(value: int) -> int:
            return value

        @function(on="go", retries=0)
        async def text(value: str) -> str:
            return value

    async with Bench(declare) as bench:
        with pytest.raises(DataError) as caught:
            await bench.inlet().call(event("1", [1]))
        assert str(caught.value) == 'parameter "value" of "number" does not fit: Expected `int`, got `array`'
        assert (await bench.journal.counts()).accepted == 0
        with pytest.raises(RunFailed):
            await bench.inlet().call(event("2", 1))
        assert (await bench.journal.counts()).dead == 1


async def test_a_type_that_nobody_handles_has_no_result_also_when_it_has_a_sink() -> None:
    async with Bench(take_go) as bench:
        with pytest.raises(NotRouted, match=r'^no result for "other": no function handles it$'):
            await bench.inlet().call(event("1", type="other"))
        assert (await bench.journal.counts()).accepted == 0


async def test_a_caller_waits_as_long_as_it_says_and_the_run_goes_on() -> None:
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go")
        async def take(data: Any) -> Any:
            await gate.wait()
            return data

    async with Bench(declare) as bench:
        with pytest.raises(ResultTimeout, match=r"^event 1: no result after 0\.01 s; it goes on$"):
            await bench.inlet().call(event("1", 5), timeout=0.01)
        gate.set()
        assert await bench.inlet().call(event("1"), timeout=5) == 5


async def test_an_unrouted_event_is_called_when_its_function_has_come() -> None:
    from support import graph_of

    def nothing() -> None: ...

    async with Bench(nothing) as bench:
        await bench.inlet().put(event("1", 5))
        assert (await bench.journal.counts()).unrouted == 1
        bench.engine.adopt(graph_of(take_go), 2)
        assert await bench.inlet().call(event("1")) == 5


async def test_a_discarded_event_has_no_result_but_does_not_keep_its_caller_waiting() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(data: Any) -> Any:
            raise Reject("no", status=409)

    async with Bench(declare) as bench, asyncio.timeout(5):
        one = event("1")
        await bench.inlet().put(one)
        await bench.settled()
        assert await bench.engine.discard(await bench.entry(one))
        with pytest.raises(RunFailed, match=r'^event 1: "take" failed: Reject: no$'):
            await bench.inlet().call(event("1"))


async def test_who_still_waits_when_the_runtime_stops_is_told_so() -> None:
    def declare() -> None:
        @function(on="go")
        async def take(data: Any) -> Any:
            await asyncio.get_running_loop().create_future()

    async with Bench(declare) as bench:
        call = asyncio.create_task(bench.inlet().call(event("1")))
        await bench.settled()
    with pytest.raises(Stopping, match=r"^event 1: the runtime is stopping; send it again with the same id for its result$"):
        await call


# --- messages that cannot be understood ---------------------------------------------------------------


def malformed(id: str = "1") -> Malformed:
    return Malformed(type="go", source="test", id=id, data=b"\xff{", why="expected JSON")


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[VirtualClock], Journal]:
    return MemoryJournal if request.param == "memory" else lambda clock: SqliteJournal(tmp_path / "journal.db", clock)


async def test_a_malformed_message_is_a_dead_letter_with_its_raw_bytes_and_nobody_gets_it(
    journal: Callable[[VirtualClock], Journal],
) -> None:
    async with Bench(take_go, journal=journal) as bench:
        await bench.inlet().put([event("0"), malformed(), event("2")])
        await bench.settled()
        entry = (await bench.journal.find("1"))[0]
        assert (entry.status, entry.reason, entry.steps) == ("dead", "expected JSON", {})
        assert (type(entry.event), entry.event.data) == (Event, b"\xff{")
        counts = await bench.journal.counts()
        assert (counts.done, counts.dead, counts.open) == (2, 1, 0)


async def test_a_malformed_message_that_comes_again_joins_the_first_and_stays_dead(journal: Callable[[VirtualClock], Journal]) -> None:
    async with Bench(take_go, journal=journal) as bench:
        for _ in range(2):
            await bench.inlet().put(malformed())
            await bench.settled()
        counts = await bench.journal.counts()
        assert (counts.dead, counts.duplicates, counts.accepted) == (1, 1, 1)


async def test_a_malformed_message_can_be_redriven_through_functions_and_sinks(journal: Callable[[VirtualClock], Journal]) -> None:
    sink = Recorder("out")
    async with Bench(take_go, journal=journal, sinks=[(SinkSpec(name="out", on=("go",), plugin="out"), sink)]) as bench:
        await bench.inlet().put(malformed())
        await bench.settled()
        assert sink.events == []
        assert await bench.engine.redrive((await bench.journal.find("1"))[0])
        await bench.settled()
        entry = (await bench.journal.find("1"))[0]
        assert (entry.status, entry.steps["take"].result) == ("done", b"\xff{")
        assert [one.data for one in sink.events] == [b"\xff{"]


async def test_a_malformed_message_is_told_of_like_any_dead_letter() -> None:
    def declare() -> None:
        @function(on="runtime.dead")
        async def told(data: Any) -> Any:
            return data

    async with Bench(declare) as bench:
        await bench.inlet().put(malformed())
        await bench.settled()
        [entry] = await bench.journal.query(Query(type="runtime.dead"))
        assert (entry.event.data["id"], entry.event.data["error"]) == ("1", {"type": None, "message": "expected JSON"})
        await bench.inlet().put(malformed())
        await bench.settled()
        assert len(await bench.journal.query(Query(type="runtime.dead"))) == 1
