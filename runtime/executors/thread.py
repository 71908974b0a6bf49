"""Calls sync functions in threads.

The standard pool is not used: it cannot replace a thread that hangs, and joins its threads when the process
ends. These threads are daemons; one that overruns its timeout is written off and another takes its place.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from runtime.contracts import Call
from runtime.threads import settle

Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class Threads:
    """At most `limit` threads at work, started when needed and kept; those written off do not count."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._idle = 0
        self._written_off: set[asyncio.Future[Any]] = set()

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call in a thread; see `runtime.contracts.Executor`."""
        args, kwargs = call.function.parameters.bind(call)
        return self._submit(lambda: _run(call, args, kwargs))

    async def _submit(self, job: Callable[[], Any]) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._jobs.put((job, future))
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._count < self._limit:
                self._count += 1
                threading.Thread(target=self._work, name=f"function-{self._count}", daemon=True).start()
        try:
            return await future
        except asyncio.CancelledError:
            self._write_off(future)
            raise

    def _write_off(self, future: asyncio.Future[Any]) -> None:
        """Let another thread take the place of the one that still works on `future`."""
        with self._lock:
            self._written_off.add(future)
            self._count -= 1

    def _work(self) -> None:
        while True:
            item = self._jobs.get()
            if item is None:
                return
            job, future = item
            if not future.cancelled():
                settle(future, job)
            with self._lock:
                if future in self._written_off:
                    self._written_off.discard(future)
                    return
                self._idle += 1

    def close(self) -> None:
        """Let idle threads end; those at work end with the process."""
        with self._lock:
            for _ in range(self._count):
                self._jobs.put(None)


def _run(call: Call, args: list[Any], kwargs: dict[str, Any]) -> Any:
    function = call.function
    result = function.call(*args, **kwargs)
    if function.kind != "generator":
        return result
    assert function.emits is not None
    for value in result:
        if value is not None:
            call.context.emit(function.emits, value)
    return None
