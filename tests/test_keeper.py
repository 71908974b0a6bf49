"""Resources are opened once, on first use, kept, and closed after their last use, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support import Bench, graph_of

from runtime import Reject, function, resource
from runtime.errors import ResourceError
from runtime.graph import Graph
from runtime.keeper import SWEEP, Keeper
from runtime.records import Entry
from runtime.testing import VirtualClock


class Client:
    """What a resource gives: it tells when it is opened and closed."""

    def __init__(self, log: list[str], name: str = "db") -> None:
        self.log = log
        self.name = name
        self.is_open = True
        log.append(f"open {name}")

    def close(self) -> None:
        self.is_open = False
        self.log.append(f"close {self.name}")


def opening(log: list[str], name: str = "db", **options: Any) -> Callable[..., Any]:
    """Declare an async resource that tells when it is opened and closed."""

    async def db() -> AsyncIterator[Client]:
        client = Client(log, name)
        await asyncio.sleep(0)
        yield client
        client.close()

    return resource(**options)(db)


def using(seen: list[Any], gate: asyncio.Event | None = None) -> None:
    """Declare a function that uses the resource, and waits for the gate."""

    @function(on="go", retries=0)
    async def use(data: Any, db: Client) -> None:
        seen.append(db)
        if gate is not None:
            await gate.wait()
        assert db.is_open


async def run(bench: Bench, type: str = "go", data: Any = None) -> Entry:
    """Return the record of an event that has been dealt with."""
    event = await bench.put(type, data)
    await bench.settled()
    return await bench.entry(event)


async def settled(bench: Bench, is_so: Callable[[], bool]) -> None:
    """Let threads come to where it is so."""
    for _ in range(2000):
        await bench.settled()
        if is_so():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never came to be")


def error_of(entry: Entry, step: str = "use") -> str:
    error = entry.steps[step].error
    assert error is not None
    return f"{error.type}: {error.message}"


# --- opening ------------------------------------------------------------------------------------------


async def test_a_resource_is_opened_on_first_use_and_kept_until_the_stop() -> None:
    log: list[str] = []
    seen: list[Any] = []

    def declare() -> None:
        opening(log)
        using(seen)

    async with Bench(declare) as bench:
        await bench.settled()
        assert log == []
        assert [(await run(bench)).status for _ in range(3)] == ["done"] * 3
        assert log == ["open db"]
        assert seen[0] is seen[1] is seen[2]
    assert log == ["open db", "close db"]


async def test_attempts_that_need_it_at_the_same_time_open_it_once() -> None:
    log: list[str] = []
    seen: list[Any] = []

    def declare() -> None:
        opening(log)
        using(seen)

    async with Bench(declare) as bench:
        events = [await bench.put("go") for _ in range(50)]
        await bench.settled()
        assert [(await bench.entry(event)).status for event in events] == ["done"] * 50
    assert log == ["open db", "close db"]
    assert len(set(seen)) == 1


THREADS: list[threading.Thread] = []
CLOSED: list[str] = []


async def async_generator() -> AsyncIterator[int]:
    yield 7
    CLOSED.append("async generator")


def generator() -> Iterator[int]:
    THREADS.append(threading.current_thread())
    yield 7
    THREADS.append(threading.current_thread())
    CLOSED.append("generator")


async def coroutine() -> int:
    return 7


def plain() -> int:
    THREADS.append(threading.current_thread())
    return 7


@pytest.mark.parametrize("call", [async_generator, generator, coroutine, plain], ids=lambda call: call.__name__)
async def test_every_kind_of_resource_serves_functions_on_the_loop_and_in_threads(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    THREADS.clear()
    CLOSED.clear()
    kind = call.__name__
    monkeypatch.setattr(call, "__name__", "seven")

    def declare() -> None:
        resource(call)

        @function(on="go")
        async def on_loop(data: int, seven: int) -> int:
            return data + seven

        @function(after="on_loop")
        def in_thread(on_loop: int, *, seven: int) -> int:
            return on_loop + seven

    async with Bench(declare) as bench:
        event = await bench.put("go", 1)
        await settled(bench, lambda: not bench.engine.dispatch.runs)
        steps = (await bench.entry(event)).steps
        assert [steps[name].result for name in ("on_loop", "in_thread")] == [8, 15]
    assert ([kind.replace("_", " ")] if "generator" in kind else []) == CLOSED
    assert threading.main_thread() not in THREADS, "a sync one never blocks the loop"


async def test_a_resource_is_given_others_and_its_settings_and_closed_before_them() -> None:
    log: list[str] = []

    def declare() -> None:
        opening(log)

        @resource
        async def shop(settings: dict[str, Any], db: Client, *, other: int = 3) -> AsyncIterator[str]:
            settings["seen"] = True
            log.append("open shop")
            yield f"{settings['name']} on {db.name} {other}"
            log.append("close shop")

        @function(on="go")
        async def use(data: None, shop: str) -> str:
            return shop

    tables = {"shop": {"name": "tea"}}
    clock = VirtualClock()
    graph = graph_of(declare, tables=tables)
    keeper = Keeper(clock)
    keeper.adopt(graph.resources.values())
    lease = await keeper.lease(graph.functions[0].resources)
    assert lease["shop"] == "tea on db 3"
    assert tables == {"shop": {"name": "tea"}}, "it was given a copy"
    lease.release()
    await keeper.close()
    assert log == ["open db", "open shop", "close shop", "close db"]


async def test_what_opens_a_resource_closes_it_so_that_task_groups_work() -> None:
    tasks: list[Any] = []

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[asyncio.Queue[int]]:
            queue: asyncio.Queue[int] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(queue.put(7))
                tasks.append(asyncio.current_task())
                yield queue
                tasks.append(asyncio.current_task())
                pump.cancel()

        @function(on="go")
        async def use(data: None, db: asyncio.Queue[int]) -> int:
            return await db.get()

    async with Bench(declare) as bench:
        assert (await run(bench)).steps["use"].result == 7
    assert tasks[0] is tasks[1]


# --- what goes wrong while opening --------------------------------------------------------------------


async def test_an_opening_that_fails_fails_the_attempt_and_the_next_one_tries_again() -> None:
    tries: list[int] = []

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[str]:
            tries.append(1)
            if len(tries) < 3:
                raise OSError("connection refused")
            yield "db"

        @function(on="go", retries=2, backoff=1)
        async def use(data: None, db: str) -> str:
            return db

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.settled()
        step = (await bench.entry(event)).steps["use"]
        assert step.status == "retrying"
        assert step.error is not None
        assert step.error.message == 'the resource "db" (functions/test.py:10) could not be opened: OSError: connection refused'
        assert "test_keeper.py" in step.error.traceback, "it leads to the line that raised"
        await bench.clock.advance(10)
        await bench.settled()
        step = (await bench.entry(event)).steps["use"]
        assert (step.status, step.attempts, step.result, len(tries)) == ("done", 3, "db", 3)


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (Reject("no"), "Reject: no"),
        (ValueError(), "ValueError"),
        (SystemExit(1), "SystemExit: 1"),
    ],
)
async def test_whatever_an_opening_raises_is_an_error_that_is_tried_again(raised: BaseException, text: str) -> None:
    def declare() -> None:
        @resource
        def db() -> None:
            raise raised

        @function(on="go", retries=1)
        async def use(data: None, db: None) -> None: ...

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await settled(bench, lambda: bool(next(iter(bench.engine.dispatch.runs.values())).retrying))
        where = 'ResourceError: the resource "db" (functions/test.py:10) could not be opened: '
        assert error_of(await bench.entry(event)) == where + text


async def test_a_generator_that_yields_nothing_is_an_error() -> None:
    log: list[str] = []

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[None]:
            if log:
                yield

        using([])

    async with Bench(declare) as bench:
        assert error_of(await run(bench)) == (
            'ResourceError: the resource "db" (functions/test.py:10) could not be opened: RuntimeError: generator didn\'t yield'
        )


async def test_the_error_of_a_resource_that_another_takes_names_the_one_that_failed() -> None:
    def declare() -> None:
        @resource
        async def db() -> None:
            raise OSError("refused")

        @resource
        async def shop(db: None) -> None: ...

        @function(on="go", retries=0)
        async def use(data: None, shop: None) -> None: ...

    async with Bench(declare) as bench:
        text = 'ResourceError: the resource "db" (functions/test.py:10) could not be opened: OSError: refused'
        assert error_of(await run(bench)) == text


@pytest.mark.parametrize("stubborn", [False, True])
async def test_an_opening_that_takes_too_long_is_given_up_and_tried_again(stubborn: bool) -> None:
    log: list[str] = []
    late = asyncio.Event()

    def declare() -> None:
        @resource(timeout=5)
        async def db() -> AsyncIterator[Client]:
            if not log:
                log.append("hangs")
                try:
                    await late.wait()
                except asyncio.CancelledError:
                    if not stubborn:
                        raise
                    await late.wait()
            client = Client(log)
            yield client
            client.close()

        @function(on="go", retries=1, backoff=100)
        async def use(data: None, db: Client) -> None:
            assert db.is_open

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.clock.advance(5)
        await bench.settled()
        text = 'the resource "db" (functions/test.py:10) could not be opened: it took longer than its timeout of 5 s'
        assert error_of(await bench.entry(event)) == f"ResourceError: {text}"
        await bench.clock.advance(100)
        await bench.settled()
        assert (await bench.entry(event)).status == "done"
        assert log == ["hangs", "open db"]
        late.set()
        await bench.settled()
        assert log == ["hangs", "open db", "open db", "close db"][: 4 if stubborn else 2], "what opened too late is closed again"


async def test_a_thread_that_opens_too_late_closes_what_it_opened() -> None:
    log: list[str] = []
    late = threading.Event()

    def declare() -> None:
        @resource(timeout=5)
        def db() -> Iterator[Client]:
            late.wait(20)
            client = Client(log)
            yield client
            client.close()

        using([])

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.clock.advance(5)
        await bench.settled()
        assert "it took longer than its timeout of 5 s" in error_of(await bench.entry(event))
        late.set()
        await settled(bench, lambda: log == ["open db", "close db"])


async def test_an_attempt_that_times_out_while_it_waits_leaves_the_opening_to_the_next_one() -> None:
    log: list[str] = []
    gate = asyncio.Event()

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[Client]:
            log.append("begin")
            await gate.wait()
            client = Client(log)
            yield client
            client.close()

        @function(on="go", timeout=2, retries=1, backoff=10)
        async def use(data: None, db: Client) -> bool:
            return db.is_open

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.clock.advance(2)
        await bench.settled()
        text = '"use" took longer than 2 s, and waited for what it takes to open: "db" (functions/test.py:10)'
        assert error_of(await bench.entry(event)) == f"StepTimeout: {text}"
        gate.set()
        await bench.clock.advance(10)
        await bench.settled()
        assert (await bench.entry(event)).steps["use"].result is True
    assert log == ["begin", "open db", "close db"], "opened once, and not leaked"


async def test_one_that_is_still_opening_at_the_stop_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.keeper.CLOSING", 1000)
    log: list[str] = []

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[None]:
            try:
                await asyncio.Event().wait()
                yield
            finally:
                log.append("cancelled")

        using([])

    async with Bench(declare) as bench:
        await bench.put("go")
        await bench.settled()
    assert log == ["cancelled"]


async def test_an_error_is_that_of_one_opening_and_not_told_to_the_next_who_asks() -> None:
    tries: list[int] = []

    def declare() -> None:
        @resource
        async def db() -> int:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("refused")
            return 7

    keeper = Keeper(VirtualClock())
    spec = graph_of(declare).resources["db"]
    keeper.adopt([spec])
    with pytest.raises(ResourceError, match="refused"):
        await keeper.lease([spec])
    assert (await keeper.lease([spec]))["db"] == 7
    await keeper.close()


async def test_an_attempt_that_is_cancelled_while_it_waits_holds_nothing() -> None:
    log: list[str] = []
    gate = asyncio.Event()

    def declare() -> None:
        opening(log)

        @resource
        async def slow() -> None:
            await gate.wait()

    clock = VirtualClock()
    keeper = Keeper(clock)
    resources = list(graph_of(declare).resources.values())
    keeper.adopt(resources)
    waiting = asyncio.create_task(keeper.lease(resources))
    await clock.settle()
    waiting.cancel()
    await clock.settle()
    keeper.adopt([])
    await clock.settle()
    assert log == ["open db", "close db"]
    await keeper.close()


# --- closing ------------------------------------------------------------------------------------------


def swap(bench: Bench, declare: Callable[[], object], number: int = 2) -> Graph:
    """Let the bench go over to another generation, of which all is made anew."""
    graph = graph_of(declare)
    bench.engine.adopt(graph, number)
    bench.graph = graph
    return graph


async def test_an_old_one_that_nobody_uses_is_closed_at_once_and_the_new_one_opened_on_first_use() -> None:
    log: list[str] = []

    def declare(name: str) -> None:
        opening(log, name)
        using([])

    async with Bench(lambda: declare("old")) as bench:
        await run(bench)
        swap(bench, lambda: declare("new"))
        await bench.settled()
        assert log == ["open old", "close old"]
        await run(bench)
        assert log == ["open old", "close old", "open new"]


async def test_an_old_one_is_closed_after_the_last_attempt_that_uses_it() -> None:
    log: list[str] = []
    seen: list[Any] = []
    gates = [asyncio.Event(), asyncio.Event()]

    def declare() -> None:
        opening(log, "old")

        @function(on="go")
        async def use(data: int, db: Client) -> None:
            await gates[data].wait()
            assert db.is_open

    def anew() -> None:
        opening(log, "new")
        using(seen)

    async with Bench(declare) as bench:
        first, second = await bench.put("go", 0), await bench.put("go", 1)
        await bench.settled()
        swap(bench, anew)
        await run(bench)
        gates[0].set()
        await bench.settled()
        assert log == ["open old", "open new"]
        gates[1].set()
        await bench.settled()
        assert log == ["open old", "open new", "close old"]
        assert [(await bench.entry(event)).status for event in (first, second)] == ["done", "done"]


async def test_an_old_one_stays_open_for_the_later_steps_of_a_run() -> None:
    log: list[str] = []
    gate = asyncio.Event()

    def declare() -> None:
        opening(log, "old")

        @function(on="go")
        async def first(data: None, db: Client) -> None:
            await gate.wait()

        @function(after="first", retries=0)
        async def between(first: None) -> None:
            raise Reject("on purpose")

        @function(after="first")
        async def last(first: None, db: Client) -> bool:
            return db.is_open

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.settled()
        swap(bench, lambda: opening(log, "new"))
        gate.set()
        await bench.settled()
        assert (await bench.entry(event)).steps["last"].result is True
        assert log == ["open old", "close old"], "opened once for all steps"


async def test_an_old_one_is_closed_also_when_the_step_it_was_kept_for_is_skipped() -> None:
    log: list[str] = []
    gate = asyncio.Event()

    def declare() -> None:
        opening(log, "old")

        @function(on="go")
        async def first(data: None, db: Client) -> None: ...

        @function(after="first")
        async def between(first: None) -> None:
            await gate.wait()
            raise Reject("on purpose")

        @function(after="between")
        async def last(between: None, db: Client) -> None: ...

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await bench.settled()
        swap(bench, lambda: opening(log, "new"))
        await bench.settled()
        assert log == ["open old"]
        gate.set()
        await bench.settled()
        assert (await bench.entry(event)).steps["last"].status == "skipped"
        await bench.clock.advance(2 * SWEEP)
        assert log == ["open old", "close old"]


async def test_what_a_thread_uses_stays_open_until_the_thread_returns_though_its_attempt_timed_out() -> None:
    log: list[str] = []
    going, done = threading.Event(), threading.Event()

    def declare() -> None:
        opening(log, "old")

        @function(on="go", timeout=3, retries=0)
        def use(data: None, db: Client) -> None:
            going.set()
            done.wait(20)
            log.append(f"used {db.is_open}")

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await settled(bench, going.is_set)
        await bench.clock.advance(3)
        await bench.settled()
        assert error_of(await bench.entry(event)).startswith('StepTimeout: "use" took longer than 3 s; its thread goes on, at ')
        swap(bench, lambda: opening(log, "new"))
        await bench.clock.advance(2 * SWEEP)
        assert log == ["open old"]
        done.set()
        await settled(bench, lambda: log == ["open old", "used True", "close old"])


async def test_one_that_is_needed_again_while_it_closes_is_opened_when_it_is_closed() -> None:
    log: list[str] = []
    gate = asyncio.Event()

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[Client]:
            client = Client(log)
            yield client
            await gate.wait()
            client.close()

    clock = VirtualClock()
    keeper = Keeper(clock)
    spec = graph_of(declare).resources["db"]
    (await keeper.lease([spec])).release()
    again = asyncio.create_task(keeper.lease([spec]))
    await clock.settle()
    assert log == ["open db"]
    gate.set()
    lease = await again
    assert log == ["open db", "close db", "open db"]
    assert lease["db"].is_open
    await keeper.close()


async def test_a_teardown_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[None]:
            yield
            raise OSError("gone already")

        @resource
        def twice() -> Iterator[None]:
            yield
            yield

        @function(on="go")
        async def use(data: None, db: None, twice: None) -> None: ...

    async with Bench(declare) as bench:
        event = await bench.put("go")
        await settled(bench, lambda: not bench.engine.dispatch.runs)
        assert (await bench.entry(event)).status == "done"
    told = [record.getMessage().rpartition(" (")[0] for record in caplog.records if record.name == "runtime.resources"]
    assert told == [
        'the resource "twice" (functions/test.py:20) was closed with an error: RuntimeError: generator didn\'t stop',
        'the resource "db" (functions/test.py:10) was closed with an error: OSError: gone already',
    ]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_teardown_that_hangs_at_the_stop_is_named_and_left_behind(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.keeper.CLOSING", 0.2)
    log: list[str] = []
    end = threading.Event()

    def declare() -> None:
        opening(log, "fine")

        @resource
        async def hangs() -> AsyncIterator[None]:
            yield
            await asyncio.Event().wait()

        @resource
        def stuck() -> Iterator[None]:
            yield
            end.wait(20)

        if kind == "async":
            function(on="go", name="use")(lambda data, db, hangs: None)
        else:
            function(on="go", name="use")(lambda data, db, stuck: None)

    async with Bench(declare) as bench:
        await bench.put("go")
        await settled(bench, lambda: not bench.engine.dispatch.runs)
    end.set()
    place = 'hangs" (functions/test.py:20)' if kind == "async" else 'stuck" (functions/test.py:30)'
    assert f'the resource "{place} did not close in time, and is left behind' in caplog.text
    assert log == ["open fine", "close fine"], "the others are closed"


async def test_a_teardown_that_hangs_is_left_behind_when_its_timeout_is_over(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []

    def declare() -> None:
        @resource(timeout=3)
        async def db() -> AsyncIterator[None]:
            yield
            try:
                await asyncio.Event().wait()
            finally:
                log.append("cancelled")

        @function(on="go")
        async def use(data: None, db: None) -> None: ...

    async with Bench(declare) as bench:
        await run(bench)
        swap(bench, lambda: using([]) if log else opening(log, "new"))
        await bench.clock.advance(3)
        await bench.settled()
        assert log == ["cancelled"]
        assert 'the resource "db" (functions/test.py:10) did not close in time, and is left behind' in caplog.text


async def test_one_that_ends_by_itself_is_told_and_opened_anew(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    broken = asyncio.Event()

    async def break_down() -> None:
        await broken.wait()
        raise OSError("connection lost")

    def declare() -> None:
        @resource
        async def db() -> AsyncIterator[Client]:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(break_down())
                client = Client(log)
                yield client
                client.close()
                watching.cancel()

        using([])

    async with Bench(declare) as bench:
        await run(bench)
        broken.set()
        await bench.settled()
        assert 'the resource "db" (functions/test.py:10) has ended by itself, and is opened anew when it is needed' in caplog.text
        broken.clear()
        assert (await run(bench)).status == "done"
        assert log == ["open db", "open db"]


async def test_what_is_as_it_was_is_kept_and_what_takes_something_new_is_made_anew() -> None:
    log: list[str] = []
    db = opening(log)

    @asynccontextmanager
    async def noted(name: str) -> AsyncIterator[str]:
        log.append(f"open {name}")
        yield name
        log.append(f"close {name}")

    async def shop(db: Client) -> AsyncIterator[str]:
        async with noted("shop") as name:
            yield name

    async def alone() -> AsyncIterator[str]:
        async with noted("alone") as name:
            yield name

    def declare(db: Callable[..., Any]) -> None:
        for call in (db, shop, alone):
            resource(call)

        @function(on="go")
        async def use(data: None, shop: str, alone: str) -> None: ...

    async with Bench(lambda: declare(db)) as bench:
        await run(bench)
        same = graph_of(lambda: declare(db), previous=bench.graph)
        assert same.resources == bench.graph.resources
        bench.engine.adopt(same, 2)
        await run(bench)
        assert sorted(log) == ["open alone", "open db", "open shop"]
        db2 = opening(log, "db2")
        other = graph_of(lambda: declare(db2), previous=same)
        bench.engine.adopt(other, 3)
        await bench.settled()
        assert log[3:] == ["close shop", "close db"]
        await run(bench)
        assert log[5:] == ["open db2", "open shop"]


async def test_other_settings_or_another_timeout_make_a_resource_anew() -> None:
    def db(settings: dict[str, Any]) -> None: ...

    def declare() -> None:
        resource(db)

    def patient() -> None:
        resource(timeout=5)(db)

    graph = graph_of(declare, tables={"db": {"size": 1}})
    assert graph_of(declare, tables={"db": {"size": 1}}, previous=graph).resources == graph.resources
    assert graph_of(declare, tables={"db": {"size": 2}}, previous=graph).resources != graph.resources
    assert graph_of(patient, tables={"db": {"size": 1}}, previous=graph).resources != graph.resources


async def test_a_closed_one_is_let_go_of() -> None:
    log: list[str] = []
    seen: list[Any] = []

    def declare() -> None:
        opening(log)
        using(seen)

    def anew() -> None:
        opening(log, "new")
        using([])

    async with Bench(declare) as bench:
        await run(bench)
        ref = weakref.ref(seen.pop())
        spec = weakref.ref(bench.graph.resources["db"].call)
        swap(bench, anew)
        await bench.clock.advance(100)  # the clock itself keeps what was due until then
        await run(bench)
        gc.collect()
        assert ref() is None
        assert spec() is None, "and so is the code it came from"
