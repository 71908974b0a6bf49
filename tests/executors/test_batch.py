"""Batches: filled or waited for, called once for all, answered one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from faults.ledger import until
from running import Running, run
from support import Bench, faults_of, graph_of

from runtime import Context, Event, PartialFailure, Reject, Skip, function, resource
from runtime.contracts import Query


class Order(msgspec.Struct):
    id: int
    total: float = 0.0


def collector(seen: list[Any], **options: Any) -> Callable[[], object]:
    """Declare a function that answers each number of a batch with its double."""

    def declare() -> None:
        @function(on="go", **options)
        async def collect(data: list[int]) -> list[int]:
            seen.append(data)
            return [2 * one for one in data]

    return declare


async def statuses(bench: Bench) -> dict[Any, str]:
    return {entry.event.data: entry.status for entry in await bench.journal.query(Query())}


# --- gathering ----------------------------------------------------------------------------------------


async def test_a_full_batch_is_called_at_once() -> None:
    seen: list[Any] = []
    async with Bench(collector(seen, batch=3, batch_wait=60)) as bench:
        for number in range(7):
            await bench.put("go", number)
        await bench.settled()
        assert seen == [[0, 1, 2], [3, 4, 5]]


async def test_one_that_is_not_full_is_called_when_the_first_has_waited_long_enough() -> None:
    seen: list[Any] = []
    async with Bench(collector(seen, batch=3, batch_wait=5)) as bench:
        await bench.put("go", 1)
        await bench.clock.advance(4)
        await bench.put("go", 2)
        assert seen == []
        await bench.clock.advance(1.1)
        assert seen == [[1, 2]]
        await bench.put("go", 3)
        await bench.clock.advance(4)
        assert len(seen) == 1
        await bench.clock.advance(1.1)
        assert seen == [[1, 2], [3]]


async def test_each_caller_is_given_the_result_of_its_own_event() -> None:
    async with Bench(collector([], batch=3)) as bench:
        calls = [bench.inlet().call(Event(type="go", source="t", data=number)) for number in range(3)]
        assert await asyncio.gather(*calls) == [0, 2, 4]


async def test_concurrency_counts_calls_and_all_of_them_may_be_full() -> None:
    seen: list[Any] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", batch=2, batch_wait=1, concurrency=2)
        async def hold(data: list[int]) -> None:
            seen.append(data)
            await gate.wait()

    async with Bench(declare) as bench:
        await bench.put("go", 0)
        await bench.clock.advance(1.1)
        for number in range(1, 8):
            await bench.put("go", number)
        await bench.clock.advance(5)
        assert seen == [[0], [1, 2]]  # a third call would have had room for one event
        gate.set()
        await bench.clock.advance(5)
        assert seen == [[0], [1, 2], [3, 4], [5, 6], [7]]


async def test_no_two_events_of_a_batch_share_a_key_and_each_key_keeps_its_order() -> None:
    seen: list[list[Event]] = []

    def declare() -> None:
        @function(on="go", batch=10, batch_wait=1)
        async def collect(events: list[Event]) -> None:
            seen.append(events)

    async with Bench(declare) as bench:
        for number in range(6):
            await bench.put("go", number, key="ab"[number % 2])
        await bench.clock.advance(10)
    assert [[event.data for event in batch] for batch in seen] == [[0, 1], [2, 3], [4, 5]]


# --- parameters ---------------------------------------------------------------------------------------


async def test_what_belongs_to_an_event_is_a_list_and_a_resource_is_not() -> None:
    given: dict[str, Any] = {}

    def declare() -> None:
        @resource
        def ledger() -> str:
            return "the ledger"

        @function(on="go")
        async def validate(order: Order) -> Order:
            return msgspec.structs.replace(order, total=1.5)

        @function(after="validate", batch=2)
        async def charge(
            validate: list[Order],
            data: list[dict[str, Any]],
            event: list[Event],
            context: list[Context],
            state: list[dict[str, Any]],
            ledger: str,
        ) -> None:
            given.update(locals())
            for one, own in zip(state, context, strict=True):
                one["seen"] = own.event.data["id"]

    async with Bench(declare) as bench:
        for number in (1, 2):
            await bench.put("go", {"id": number}, key=str(number))
        await bench.settled()
        assert given["validate"] == [Order(1, 1.5), Order(2, 1.5)]
        assert given["data"] == [{"id": 1}, {"id": 2}]
        assert [event.key for event in given["event"]] == ["1", "2"]
        assert [context.attempt for context in given["context"]] == [1, 1]
        assert given["ledger"] == "the ledger"
        assert [await bench.journal.state("charge", key) for key in ("1", "2")] == [{"seen": 1}, {"seen": 2}]


async def test_data_that_does_not_fit_fails_only_its_event() -> None:
    seen: list[Any] = []
    async with Bench(collector(seen, batch=3)) as bench:
        for data in (1, "two", 3):
            await bench.put("go", data)
        await bench.settled()
        assert seen == [[1, 3]]
        assert await statuses(bench) == {1: "done", "two": "dead", 3: "done"}


async def test_what_is_emitted_belongs_to_its_own_event() -> None:
    def declare() -> None:
        @function(on="go", emits="went", batch=2)
        async def emit(data: list[int], contexts: list[Context]) -> list[Any]:
            contexts[1].emit("extra", "x")
            return [None, data[1]]

    async with Bench(declare) as bench:
        await bench.put("go", 1, key="a")
        await bench.put("go", 2, key="b")
        await bench.settled()
        emitted = await bench.journal.query(Query(status=("unrouted",)))
        assert sorted((entry.event.type, entry.event.data, entry.event.key) for entry in emitted) == [("extra", "x", "b"), ("went", 2, "b")]


@pytest.mark.parametrize(
    ("annotation", "written"),
    [("Order", "order: list[Order]` for `order: Order"), ("dict[str, Any]", "order: list[dict[str, Any]]` for `order: dict[str, Any]")],
)
def test_a_parameter_that_is_no_list_is_a_fault_which_shows_the_line_to_write(annotation: str, written: str) -> None:
    async def collect(order: Any) -> None: ...

    collect.__annotations__["order"] = {"Order": Order, "dict[str, Any]": dict[str, Any]}[annotation]
    text = f'"collect" has batch = 2, so that each parameter of an event is a list: write `{written}`'
    (fault,) = faults_of(lambda: function(on="go", batch=2)(collect))
    assert fault.replace("typing.", "") == f"functions/test.py:10: {text}" or "dict" in annotation


@pytest.mark.parametrize("wrong", ["event: Event", "context: Context", "state: dict", "start: int", "e: Event"])
def test_no_parameter_of_an_event_may_be_single(wrong: str) -> None:
    scope: dict[str, Any] = {"Event": Event, "Context": Context}
    exec(f"async def collect({wrong}): ...", scope)

    def declare() -> None:
        @function(on="go")
        async def start(data: int) -> None: ...

        function(after="start", batch=2)(scope["collect"])

    name, _, kind = wrong.partition(": ")
    expected = f"each parameter of an event is a list: write `{name}: list[{kind}]` for `{wrong}`"
    assert faults_of(declare) == [f'functions/test.py:20: "collect" has batch = 2, so that {expected}']


def test_an_unknown_parameter_of_a_batch_is_told_with_the_line_to_write() -> None:
    def declare() -> None:
        @function(on="go")
        async def start(data: int) -> None: ...

        @function(after="start", batch=2)
        async def collect(begin: list[int]) -> None: ...

    (fault,) = faults_of(declare)
    assert "write `start: list[int]` for that function's result or `data: list[int]` for the event's data" in fault


def test_a_generator_cannot_have_a_batch() -> None:
    def declare() -> None:
        @function(on="go", emits="went", batch=2)
        async def spread(data: list[int]) -> Any:
            yield data

    text = '@function "spread": what a generator yields would belong to no event of the batch; return a list'
    assert faults_of(declare) == [f"functions/test.py:10: {text}"]


def test_data_is_checked_for_one_event_before_it_is_accepted() -> None:
    (one,) = graph_of(collector([], batch=2)).functions
    assert one.parameters.payload is int
    assert [decode(5) for decode in one.parameters.data] == [5]


# --- failures -----------------------------------------------------------------------------------------


async def test_only_the_events_that_a_partial_failure_names_are_tried_again() -> None:
    seen: list[list[int]] = []

    def declare() -> None:
        @function(on="go", batch=3, backoff=1)
        async def collect(data: list[int], events: list[Event]) -> None:
            seen.append(data)
            if len(seen) == 1:
                raise PartialFailure({events[1].id: "later", events[2].id: Reject("never")})

    async with Bench(declare) as bench:
        for number in range(3):
            await bench.put("go", number)
        await bench.clock.advance(5)
        assert seen == [[0, 1, 2], [1]]
        assert await statuses(bench) == {0: "done", 1: "done", 2: "dead"}


@pytest.mark.parametrize(
    ("error", "status"), [(Skip("no"), "done"), (Reject("no"), "dead"), (ValueError("no"), "dead"), (SystemExit(1), "dead")]
)
async def test_what_is_raised_holds_for_all_events_of_the_batch(error: BaseException, status: str) -> None:
    def declare() -> None:
        @function(on="go", batch=2, retries=0)
        async def collect(data: list[int]) -> None:
            raise error

    async with Bench(declare) as bench:
        for number in range(2):
            await bench.put("go", number)
        await bench.settled()
        assert await statuses(bench) == {0: status, 1: status}


@pytest.mark.parametrize(("answer", "found"), [([1], "1 results"), ({"a": 1, "b": 2}, "a dict"), ("ab", "a str")])
async def test_a_wrong_answer_fails_all_with_what_was_found_and_what_to_return(answer: Any, found: str) -> None:
    def declare() -> None:
        @function(on="go", batch=2, retries=0)
        async def collect(data: list[int]) -> Any:
            return answer

    async with Bench(declare) as bench:
        for number in range(2):
            await bench.put("go", number)
        await bench.settled()
        errors = [entry.steps["collect"].error for entry in await bench.journal.query(Query())]
        text = f'"collect" answered a batch of 2 events with {found}; return a list of 2 results, or None'
        assert [error and error.message for error in errors] == [text, text]


async def test_a_partial_failure_that_names_no_event_of_the_batch_fails_all() -> None:
    def declare() -> None:
        @function(on="go", batch=2, retries=0)
        async def collect(data: list[int]) -> None:
            raise PartialFailure({"17": "what is that"})

    async with Bench(declare) as bench:
        for number in range(2):
            await bench.put("go", number)
        await bench.settled()
        (error, _) = [entry.steps["collect"].error for entry in await bench.journal.query(Query())]
        assert error is not None
        assert error.message == '"collect" raised PartialFailure for events that are not in its batch (17); name them by event.id'


# --- time ---------------------------------------------------------------------------------------------


async def test_the_timeout_begins_with_the_call_and_ends_it_for_all() -> None:
    ended: list[str] = []

    def declare() -> None:
        @function(on="go", batch=2, batch_wait=100, timeout=10, retries=0)
        async def hang(data: list[int], contexts: list[Context]) -> None:
            assert all(context.deadline == bench.clock.time() + 10 for context in contexts)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")

    async with Bench(declare) as bench:
        await bench.put("go", 1)
        await bench.clock.advance(50)
        assert [entry.steps for entry in await bench.journal.query(Query())] == [{}]
        await bench.put("go", 2)
        await bench.clock.advance(9)
        assert ended == []
        await bench.clock.advance(2)
        assert ended == ["ended"]
        errors = [entry.steps["hang"].error for entry in await bench.journal.query(Query())]
        assert [error and error.message for error in errors] == ['"hang" took longer than 10 s'] * 2


async def test_a_call_that_swallows_its_cancellation_is_left_behind_and_the_next_one_begins() -> None:
    seen: list[list[int]] = []
    gate = asyncio.Event()

    def declare() -> None:
        @function(on="go", batch=2, timeout=10, retries=0, concurrency=1)
        async def stubborn(data: list[int]) -> None:
            seen.append(data)
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

    async with Bench(declare) as bench:
        for number in range(4):
            await bench.put("go", number)
        await bench.clock.advance(10.5)
        before = list(seen)
        await bench.clock.advance(2)
        after, found = list(seen), await statuses(bench)
        gate.set()
        await bench.settled()
    assert (before, after) == ([[0, 1]], [[0, 1], [2, 3]])
    assert found == {0: "dead", 1: "dead", 2: "queued", 3: "queued"}


async def test_a_sync_function_is_called_in_a_thread() -> None:
    names: list[str] = []

    def declare() -> None:
        @function(on="go", batch=2)
        def collect(data: list[int]) -> list[int]:
            names.append(threading.current_thread().name)
            return data

    async with Bench(declare) as bench, asyncio.timeout(5):
        calls = [bench.inlet().call(Event(type="go", source="t", data=number)) for number in range(2)]
        assert await asyncio.gather(*calls) == [0, 1]
    assert names == ["function-1"]


async def test_the_stop_lets_no_batch_wait_to_be_filled() -> None:
    seen: list[Any] = []
    async with Bench(collector(seen, batch=3, batch_wait=60)) as bench:
        await bench.put("go", 1)
        await bench.settled()
        await bench.engine.stop(5.0)
        assert (seen, await statuses(bench)) == ([[1]], {1: "done"})


async def test_a_call_that_the_stop_interrupts_is_charged_to_none_of_its_events() -> None:
    def declare() -> None:
        @function(on="go", batch=2)
        async def hang(data: list[int]) -> None:
            await asyncio.Event().wait()

    async with Bench(declare) as bench:
        for number in range(3):
            await bench.put("go", number)
        await bench.settled()
        await bench.engine.stop(0.0)
        entries = await bench.journal.query(Query())
        assert [(entry.status, entry.steps) for entry in entries] == [("queued", {})] * 3


# --- in a process -------------------------------------------------------------------------------------

TOML = '[sources.web]\nplugin = "http"\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'

FUNCTIONS = """
from runtime import Context, Event, PartialFailure, function


@function(on="go", batch=50, batch_wait=0.2, backoff=0.05)
def collect(events: list[Event], data: list[int]) -> list[int] | None:
    failed = {event.id: "not yet" for event in events if event.data % 10 == 0}
    with open("batches", "a") as file:
        file.write(f"{len(data)} {len({event.key for event in events})}\\n")
    if failed and len(data) > 10:
        raise PartialFailure(failed)
    return data


@function(after="collect")
def after(collect: int | None) -> int | None:
    return collect


@function(on="double", batch=2, batch_wait=5, isolate=True)
def double(data: list[int], contexts: list[Context], state: list[dict]) -> list[int]:
    for context, one in zip(contexts, state, strict=True):
        one["seen"] = one.get("seen", 0) + 1
        context.emit("doubled", [one["seen"], len(data)])
    return [2 * one for one in data]
"""


def test_a_batch_in_a_real_runtime(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "all.py").write_text(FUNCTIONS)
    (tmp_path / "runtime.toml").write_text(TOML)
    with Running(tmp_path) as runtime, httpx.Client(base_url=runtime.web) as web:
        events = [
            {"specversion": "1.0", "id": str(n), "source": "t", "type": "go", "data": n, "partitionkey": str(n % 60)} for n in range(100)
        ]
        headers = {"content-type": "application/cloudevents-batch+json"}
        assert web.post("/events", content=msgspec.json.encode(events), headers=headers).status_code == 202
        until(lambda: runtime.api.get("/api/stats").json()["done"] == 100)
    lines = [[int(word) for word in line.split()] for line in (tmp_path / "batches").read_text().splitlines()]
    assert all(size == keys for size, keys in lines)
    assert max(size for size, _ in lines) > 10
    assert sum(size for size, _ in lines) > 100
    invoked = run(tmp_path, "invoke", "collect", "--data", "7")
    assert invoked.stdout.strip() == "7", invoked.stderr


def test_a_batch_in_a_worker_process(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "all.py").write_text(FUNCTIONS)
    (tmp_path / "runtime.toml").write_text(TOML)
    with Running(tmp_path) as runtime, httpx.Client(base_url=runtime.web) as web, ThreadPoolExecutor() as pool:
        headers = [{"ce-id": key, "ce-source": "t", "ce-type": "double", "ce-specversion": "1.0", "ce-partitionkey": key} for key in "ab"]
        calls = [pool.submit(web.post, "/events?wait=20", json=n, headers=headers[n], timeout=30) for n in range(2)]
        assert [call.result().json() for call in calls] == [0, 2]
        emitted = runtime.api.get("/api/events", params={"type": "doubled"}).json()["events"]
        shown = [runtime.api.get(f"/api/events/{event['uid']}").json()["event"] for event in emitted]
        assert sorted((one["partitionkey"], one["data"]) for one in shown) == [("a", [1, 2]), ("b", [1, 2])]
