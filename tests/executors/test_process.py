"""The process executor: the suite, for sync and async functions, and what only processes can do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from executors.behaviours import BEHAVIOURS, REPLACED, SETTINGS, asynchronous, behaving

from runtime.clock import SystemClock
from runtime.contracts import Executor
from runtime.errors import DataError, Unavailable, WorkerDied
from runtime.executors.batch import Batch
from runtime.executors.pools import IDLE, Pool
from runtime.executors.process import Processes
from runtime.flow.failure import error_of, told
from runtime.specs import FunctionSpec
from runtime.testing import ExecutorSuite, SuiteCall, VirtualClock


def isolated(text: str) -> str:
    """Return behaviours in processes of their own."""
    return text.replace("@function(", "@function(isolate=True, ")


class ProcessSuite(ExecutorSuite):
    """What both kinds of isolated functions pass; a resource is opened in the worker, and so is a test of its own."""

    resources = False
    text = BEHAVIOURS

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.before = behaving(tmp_path / "before", isolated(self.text), SETTINGS)
        self.after = behaving(tmp_path / "after", isolated(REPLACED))
        self.folder = tmp_path

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Executor]:
        processes = Processes(SystemClock(), self.folder)
        try:
            yield processes.call
        finally:
            await processes.close()

    def function(self, behaviour: str) -> FunctionSpec:
        return self.after.by_name["wait"] if behaviour == "replaced" else self.before.by_name[behaviour]


class TestSync(ProcessSuite):
    """A sync function has the main thread of its process."""


class TestAsync(ProcessSuite):
    """An async function has a loop in its process."""

    text = asynchronous(BEHAVIOURS)


DEEDS = """
import asyncio, ctypes, logging, os, subprocess, sys, time
from runtime import Context, Unavailable, function, resource
from ._helper import HELP

@resource
def shelf(settings):
    with open(settings["path"], "a") as file:
        print("opened", file=file, flush=True)
        yield settings["what"]
        print("closed", file=file, flush=True)

@function(isolate=True)
def pid(data): return os.getpid()

@function(isolate=True)
def helped(data): return HELP

@function(isolate=True)
def takes(data, shelf): return shelf

@function(isolate=True)
async def awaits(data, shelf): return shelf

@function(isolate=True)
def starts(data):
    child = subprocess.Popen(["sleep", "1000"])
    with open(data, "w") as file:
        print(child.pid, file=file)
    time.sleep(1000)

@function(isolate=True)
def quick_or_slow(data):
    if data:
        with open(data, "a") as file:
            print("begun", file=file)
        time.sleep(1000)

@function(isolate=True)
def segfault(data): ctypes.string_at(0)

@function(isolate=True, memory="200MB")
def fills(data): return len(b"x" * data)

@function(isolate=True)
def where(data): return [os.getcwd(), os.environ.get("COLOUR"), os.environ.get("BOX")]

@function(isolate=True)
def logs(data, context: Context):
    context.log.warning("it is %s", data, extra={"order": data})

@function(isolate=True)
def full(data): raise Unavailable("full", 7.0)

@function(isolate=True)
def odd(data): return object()

@function(isolate=True, batch=3)
def many(data: list[int], context: list[Context]):
    for one, its in zip(data, context):
        its.emit("seen", one)
    return [10 * one for one in data]

@function(isolate=True, concurrency=8)
def mixed(data):
    number, pause, path = data
    with open(path, "a") as file:
        file.write(f"{number} ")
    time.sleep(pause or 0)
    if pause is None:
        os._exit(7)
    return number

@function(isolate=True)
async def sleeps(data): await asyncio.sleep(data)
"""

TABLES = """
[functions.where]
cwd = "there"
env = { COLOUR = "red" }
sandbox = ["env", "BOX=1"]

[functions.pid]
max_calls = 3

[resources.shelf]
path = "PATH"
what = "A"
"""


def alive(pid: int) -> bool:
    """Return whether a process runs, which one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.005)


class Deeds:
    """The functions of `DEEDS`, in processes."""

    def __init__(self, folder: Path) -> None:
        (folder / "there").mkdir()
        (folder / "functions").mkdir()
        (folder / "functions" / "_helper.py").write_text("HELP = 1")
        self.folder = folder
        self.graph = behaving(folder, DEEDS, TABLES.replace("PATH", str(folder / "shelf")))
        self.processes = Processes(SystemClock(), folder)

    def pool(self, name: str) -> Pool:
        return self.processes._pool(self.graph.by_name[name])

    async def __call__(self, name: str, data: Any = None) -> Any:
        return await self.processes.call(SuiteCall(self.graph.by_name[name], data))


@pytest.fixture
async def deeds(tmp_path: Path) -> AsyncIterator[Deeds]:
    made = Deeds(tmp_path)
    yield made
    await made.processes.close()


async def test_a_worker_is_kept_and_used_again(deeds: Deeds) -> None:
    assert await deeds("helped") == await deeds("helped") == 1
    assert len(deeds.pool("helped").workers) == 1


async def test_a_worker_never_reads_a_file_of_the_folder(deeds: Deeds) -> None:
    (deeds.folder / "functions" / "_helper.py").write_text("HELP = 2")
    (deeds.folder / "functions" / "behaviours.py").unlink()
    assert await deeds("helped") == 1


async def test_a_worker_is_replaced_after_so_many_calls(deeds: Deeds) -> None:
    served = [await deeds("pid") for _ in range(7)]
    assert served[0] == served[2]
    assert len(set(served)) == 3


async def test_a_cancelled_call_ends_with_all_that_it_has_started(deeds: Deeds) -> None:
    told = deeds.folder / "child"
    calling = asyncio.ensure_future(deeds("starts", str(told)))
    await until(lambda: told.exists() and told.read_text())
    child = int(told.read_text())
    assert alive(child)
    calling.cancel()
    await until(lambda: not alive(child))


async def test_what_waits_behind_a_call_that_turns_out_slow_is_given_to_another_worker(deeds: Deeds) -> None:
    for _ in range(20):
        await deeds("quick_or_slow")
    assert deeds.pool("quick_or_slow")._depth > 1
    begun = deeds.folder / "begun"
    calls = [asyncio.ensure_future(deeds("quick_or_slow", data)) for data in (str(begun), *[None] * 10)]
    async with asyncio.timeout(10):
        await asyncio.gather(*calls[1:])
    assert begun.read_text() == "begun\n"
    assert not calls[0].done()
    calls[0].cancel()


async def test_a_killed_worker_fails_the_call_that_it_was_in_and_no_other(deeds: Deeds) -> None:
    for _ in range(20):
        await deeds("quick_or_slow")
    begun = deeds.folder / "begun"
    calls = [asyncio.ensure_future(deeds("quick_or_slow", data)) for data in (None, str(begun), None, None)]
    await until(lambda: begun.exists() and begun.read_text())
    (slow,) = [worker for worker in deeds.pool("quick_or_slow").workers if calls[1] and worker.mark.begun in worker.sent]
    deeds.processes._zygotes.kill(slow._number)
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    assert [type(one).__name__ for one in results] == ["NoneType", "WorkerDied", "NoneType", "NoneType"]
    assert begun.read_text() == "begun\n"


async def test_a_death_names_the_function_and_how_its_process_ended(deeds: Deeds) -> None:
    where = deeds.graph.by_name["segfault"].where
    with pytest.raises(WorkerDied) as caught:
        await deeds("segfault")
    assert str(caught.value) == f'the worker process of "segfault" ({where}) was killed by signal 11 (SIGSEGV) in the middle of the call'


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process maps")
async def test_what_needs_more_memory_than_the_limit_fails_alone_and_is_told_the_limit(deeds: Deeds) -> None:
    with pytest.raises(MemoryError, match='"fills" needs more than its memory limit of 200,000,000 bytes'):
        await deeds("fills", 400_000_000)
    assert await deeds("fills", 1000) == 1000


async def test_directory_variables_and_sandbox_are_those_of_the_table(deeds: Deeds) -> None:
    assert await deeds("where") == [str(deeds.folder / "there"), "red", "1"]


@pytest.mark.parametrize("name", ["takes", "awaits"])
async def test_a_worker_opens_its_own_resources_once_and_closes_them(deeds: Deeds, name: str) -> None:
    assert [await deeds(name) for _ in range(3)] == ["A", "A", "A"]
    assert (deeds.folder / "shelf").read_text() == "opened\n"
    await deeds.processes.close()
    assert (deeds.folder / "shelf").read_text() == "opened\nclosed\n"


async def test_what_is_logged_in_a_worker_is_logged_here(deeds: Deeds, caplog: pytest.LogCaptureFixture) -> None:
    await deeds("logs", "late")
    (record,) = [one for one in caplog.records if one.name == "functions.logs"]
    assert (record.getMessage(), record.levelname, vars(record)["order"]) == ("it is late", "WARNING", "late")


async def test_errors_of_ours_arrive_with_what_they_carry(deeds: Deeds) -> None:
    with pytest.raises(Unavailable) as unavailable:
        await deeds("full")
    assert (unavailable.value.reason, unavailable.value.retry_after) == ("full", 7.0)
    with pytest.raises(DataError, match='the result of "odd" cannot be encoded'):
        await deeds("odd")


async def test_an_error_is_recorded_as_it_was_raised_there(deeds: Deeds, tmp_path: Path) -> None:
    graph = behaving(tmp_path, isolated(BEHAVIOURS))
    with pytest.raises(Exception, match="no luck") as caught:
        await deeds.processes.call(SuiteCall(graph.by_name["fail"]))
    record = error_of(caught.value)
    assert record.type == "ValueError"
    assert "behaviours.py" in record.traceback.splitlines()[1]
    line = BEHAVIOURS[: BEHAVIOURS.index("deeper")].count("\n") + 1
    assert told(caught.value) == f"ValueError: {record.message} (behaviours.py:{line})"


async def test_a_batch_is_one_call_with_what_each_event_emits(deeds: Deeds) -> None:
    function = deeds.graph.by_name["many"]
    calls = [SuiteCall(function, data) for data in (1, 2, 3)]
    batch = Batch(calls, [[get(call) for call in calls] for get in function.parameters.each])
    assert await deeds.processes.call(batch) == [10, 20, 30]
    assert [[one.data for one in call.context.emitted] for call in calls] == [[1], [2], [3]]


async def test_workers_are_as_many_as_calls_that_take_long(deeds: Deeds) -> None:
    calls = [asyncio.ensure_future(deeds("sleeps", 1000)) for _ in range(5)]
    pool = deeds.pool("sleeps")
    await until(lambda: sum(worker.mark.begun for worker in pool.workers if worker.ready) == 5)
    assert len(pool.workers) == 5
    for call in calls:
        call.cancel()


async def test_idle_workers_end(tmp_path: Path) -> None:
    deeds = Deeds(tmp_path)
    deeds.processes = Processes(clock := VirtualClock(), tmp_path)
    await deeds("helped")
    pool = deeds.pool("helped")
    await clock.advance(IDLE - 2)
    assert len(pool.workers) == 1
    await clock.advance(3)
    await until(lambda: not pool.workers)
    assert await deeds("helped") == 1
    await deeds.processes.close()


async def test_a_generation_keeps_the_workers_of_what_has_not_changed(deeds: Deeds) -> None:
    first = await deeds("helped")
    deeds.processes.adopt(deeds.graph.by_name.values())
    before = deeds.pool("helped").workers
    (deeds.folder / "functions" / "other.py").write_text("x = 1")
    deeds.graph = behaving(deeds.folder, DEEDS, (deeds.folder / "runtime.toml").read_text())
    deeds.processes.adopt(deeds.graph.by_name.values())
    assert deeds.pool("helped").workers is before
    (deeds.folder / "functions" / "_helper.py").write_text("HELP = 2")
    deeds.graph = behaving(deeds.folder, DEEDS, (deeds.folder / "runtime.toml").read_text())
    deeds.processes.adopt(deeds.graph.by_name.values())
    assert (first, await deeds("helped")) == (1, 2)
    await until(lambda: not before)


async def test_when_the_zygote_dies_another_takes_its_place(deeds: Deeds) -> None:
    assert await deeds("helped") == 1
    process = deeds.processes._zygotes._process
    assert process is not None
    process.kill()
    process.wait()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await deeds("helped") == 1
            except WorkerDied:
                continue
            if deeds.processes._zygotes._process is not process:
                break


async def test_nothing_is_left_when_the_executor_has_ended(deeds: Deeds) -> None:
    pid = await deeds("pid")
    process = deeds.processes._zygotes._process
    assert process is not None
    await deeds.processes.close()
    assert process.returncode is not None
    assert not alive(pid)


async def test_whatever_dies_each_call_is_done_once_and_deaths_are_charged_to_those_who_died(deeds: Deeds) -> None:
    count, path = 1000, deeds.folder / "done"
    path.touch()
    together = asyncio.Semaphore(64)

    async def call(number: int) -> object:
        pause = None if number % 50 == 7 else 0.05 if number % 50 == 11 else 1000 if number % 200 == 13 else 0
        async with together:
            calling = asyncio.ensure_future(deeds("mixed", [number, pause, str(path)]))
            if pause == 1000:
                await until(lambda: f" {number} " in path.read_text())
                calling.cancel()
            result: object = (await asyncio.gather(calling, return_exceptions=True))[0]
            return result if pause != 1000 or isinstance(result, asyncio.CancelledError) else AssertionError(result)

    results = await asyncio.wait_for(asyncio.gather(*map(call, range(count))), 40)
    died = {number for number, result in enumerate(results) if isinstance(result, WorkerDied)}
    assert died == set(range(7, count, 50))
    assert all(result == number for number, result in enumerate(results) if number not in died and number % 200 != 13)
    assert sorted(map(int, path.read_text().split())) == list(range(count))
