"""The loop of the harness knows when nothing is left to do, and when nothing comes of waiting for that."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from runtime.testing.loop import LoopThread, Stuck


async def rested(loop: LoopThread, done: list[str]) -> list[str]:
    await loop.rest()
    return list(done)


def test_it_rests_when_all_that_is_ready_has_been_done() -> None:
    done: list[str] = []
    loop = LoopThread(lambda: False)

    async def chain(length: int) -> None:
        for _ in range(length):
            await asyncio.sleep(0)
        done.append("chain")

    async def start() -> list[str]:
        task = asyncio.create_task(chain(1000))
        found = await rested(loop, done)
        assert task.done()
        return found

    assert loop.call(start(), 10) == ["chain"]
    assert loop.close(10)


def test_it_waits_for_what_is_under_way_in_a_thread() -> None:
    busy, done = [True], list[str]()
    loop = LoopThread(lambda: busy[0])

    def end() -> None:
        done.append("thread")
        busy.clear()
        busy.append(False)

    async def start() -> list[str]:
        running = asyncio.get_running_loop()
        threading.Timer(0.05, lambda: running.call_soon_threadsafe(end)).start()
        return await rested(loop, done)

    assert loop.call(start(), 10) == ["thread"]
    assert loop.close(10)


def test_what_never_rests_and_what_blocks_the_loop_is_given_up() -> None:
    loop = LoopThread(lambda: True)
    with pytest.raises(Stuck):
        loop.call(loop.rest(), 0.1)

    async def block() -> None:
        time.sleep(0.3)  # noqa: ASYNC251 - the very mistake

    with pytest.raises(Stuck):
        loop.call(block(), 0.1)
    assert not loop.close(0.0)
    assert loop.close(10)


def test_an_error_is_raised_where_the_call_stands() -> None:
    loop = LoopThread(lambda: False)

    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        loop.call(fail(), 10)
    assert loop.close(10)
