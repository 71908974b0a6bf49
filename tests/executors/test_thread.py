"""Threads: kept for reuse, replaced when they hang, never in the way of the end of the process."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any, Self

import pytest
from support import attempt_of

from runtime.executors.thread import Threads
from runtime.threads import settle


async def test_a_thread_is_used_again_when_it_is_idle() -> None:
    names: list[str] = []

    def call(data: int) -> int:
        names.append(threading.current_thread().name)
        return data

    threads = Threads()
    for _ in range(3):
        assert await threads.call(attempt_of(call)) == 7
        while threads._idle == 0:  # the thread says that it is idle after it has handed over the result
            await asyncio.sleep(0)
    assert len(set(names)) == 1
    threads.close()


async def test_a_hung_thread_is_left_behind_and_another_takes_its_place() -> None:
    gate = threading.Event()

    def hang(data: int) -> None:
        gate.wait()

    def fine(data: int) -> int:
        return data

    threads = Threads(limit=1)
    hanging = asyncio.ensure_future(threads.call(attempt_of(hang)))
    await asyncio.sleep(0)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    async with asyncio.timeout(5):
        assert await threads.call(attempt_of(fine)) == 7
    gate.set()
    threads.close()


async def test_at_most_so_many_threads_work_and_the_rest_waits() -> None:
    running, most = 0, 0
    lock, gate = threading.Lock(), threading.Semaphore(0)

    def work(data: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.acquire()
        with lock:
            running -= 1

    threads = Threads(limit=2)
    calls = [asyncio.ensure_future(threads.call(attempt_of(work))) for _ in range(6)]
    await asyncio.sleep(0)
    for _ in range(6):
        gate.release()
    async with asyncio.timeout(5):
        await asyncio.gather(*calls)
    assert most <= 2
    threads.close()


@pytest.mark.parametrize("error", [SystemExit(3), KeyError("x")])
async def test_what_a_thread_raises_reaches_the_caller(error: BaseException) -> None:
    def fail(data: int) -> None:
        raise error

    threads = Threads()
    with pytest.raises(type(error)):
        await threads.call(attempt_of(fail))
    threads.close()


async def test_a_stop_iteration_fails_the_call_and_not_the_future() -> None:
    def exhausted(data: int) -> Any:
        return next(iter(()))

    threads = Threads()
    with pytest.raises(RuntimeError, match="StopIteration raised"):
        await threads.call(attempt_of(exhausted))
    threads.close()


def test_a_loop_that_is_closed_wants_no_result() -> None:
    loop = asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.close()
    settle(future, lambda: 1)
    assert not future.done()


async def test_a_burst_beyond_the_limit_leaves_no_thread_too_few() -> None:
    gate = threading.Event()

    def work(data: int) -> int:
        return data

    def hang(data: int) -> None:
        gate.wait()

    threads = Threads(limit=4)
    async with asyncio.timeout(10):
        await asyncio.gather(*(threads.call(attempt_of(work)) for _ in range(40)))
        hanging = [asyncio.ensure_future(threads.call(attempt_of(hang))) for _ in range(8)]
        await asyncio.sleep(0.05)
        for one in hanging:
            one.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        assert await asyncio.gather(*(threads.call(attempt_of(work)) for _ in range(20))) == [7] * 20
    gate.set()
    threads.close()


async def test_context_variables_do_not_reach_the_next_call_in_the_same_thread() -> None:
    variable: ContextVar[int] = ContextVar("leak", default=0)

    def leak(data: int) -> int:
        before = variable.get()
        variable.set(data)
        return before

    threads = Threads(limit=1)
    assert [await threads.call(attempt_of(leak)) for _ in range(3)] == [0, 0, 0]
    threads.close()


# --- threads that hang --------------------------------------------------------------------------------


class Hanging:
    """Threads of which some hang until the gate is opened."""

    def __init__(self, limit: int, spare: int) -> None:
        self.threads = Threads(limit, spare)
        self.gate = threading.Event()
        self.first = self.hang.__func__.__code__.co_firstlineno  # type: ignore[attr-defined]

    def hang(self, data: int) -> int:
        self.gate.wait()
        return data

    async def leave_behind(self, seconds: float = 0.05) -> str:
        """Abandon a call when it has had so much time; return what is told of it."""
        attempt = attempt_of(self.hang)
        call = asyncio.ensure_future(self.threads.call(attempt))
        await asyncio.wait([call], timeout=seconds)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as told:
            await call
        return str(told.value)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        self.threads.close()


async def test_a_thread_that_is_left_behind_is_told_with_its_line_and_how_many_there_are() -> None:
    async with Hanging(limit=4, spare=4) as hanging:
        place = f"tests/executors/test_thread.py:{hanging.first + 1}"
        for count in (1, 2):
            assert await hanging.leave_behind() == f"its thread goes on, at {place}; that makes {count} of this function that hang"
        assert hanging.threads.hanging() == {"call": [place, place]}
        assert hanging.threads.faults() == []


async def test_beyond_the_cap_no_thread_is_replaced_and_that_is_a_fault_until_one_returns() -> None:
    async with Hanging(limit=2, spare=2) as hanging:
        for _ in range(4):
            await hanging.leave_behind()
        told = await hanging.leave_behind()
        assert told == "it waited for a thread: 4 are there and 4 of them hang"
        (fault,) = hanging.threads.faults()
        assert fault.where == "functions/test.py:10"
        assert fault.message == (
            f'4 threads of "call" have overrun its timeout and hang (at tests/executors/test_thread.py:{hanging.first + 1}): 4 hang'
            " altogether, no more are replaced, and other functions in threads may have to wait; let it give up by itself, or set"
            " isolate = true"
        )
        hanging.gate.set()
        async with asyncio.timeout(5):
            assert await hanging.threads.call(attempt_of(hanging.hang)) == 7
            while hanging.threads.hanging() or hanging.threads._count > 2:
                await asyncio.sleep(0.01)
        assert hanging.threads.faults() == []


async def test_its_return_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Hanging(limit=2, spare=2) as hanging:
        await hanging.leave_behind()
        hanging.gate.set()
        async with asyncio.timeout(5):
            while not caplog.records:
                await asyncio.sleep(0.01)
    assert caplog.messages[0].startswith('"call" (functions/test.py:10) has returned from its thread, 0.')
