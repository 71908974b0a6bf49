"""Calls sync functions in threads.

The standard pool is not used: it cannot replace a thread that hangs, and joins its threads when the process
ends. These threads are daemons; one that overruns its timeout is written off and another takes its place.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from runtime.contracts import Call
from runtime.resources import Lease
from runtime.threads import settle

Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class Threads:
    """At most `limit` threads at work, started when needed and kept; those written off do not count."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._working: set[asyncio.Future[Any]] = set()
        self._overdue: dict[asyncio.Future[Any], Lease] = {}
        self._count = 0
        self._idle = 0
        self._closed = False

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call in a thread; see `runtime.contracts.Executor`."""
        args, kwargs = call.function.parameters.bind(call)
        return self._submit(lambda: _run(call, args, kwargs), call.resources)

    async def _submit(self, job: Callable[[], Any], lease: Lease | None) -> Any:
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            self._jobs.append((job, future))
            self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            self._write_off(future, lease)
            raise

    def _serve(self) -> None:
        """Wake or start a thread for the jobs that wait; called with the lock."""
        if len(self._jobs) > self._idle and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name=f"function-{self._count}", daemon=True).start()
        self._changed.notify()

    def _write_off(self, future: asyncio.Future[Any], lease: Lease | None) -> None:
        """Let another thread take the place of the one that still works on `future`; a job that still waits is passed over."""
        with self._changed:
            if future in self._working:
                if lease is not None:  # what the thread uses stays open until it returns
                    lease.share()
                    self._overdue[future] = lease
                self._working.discard(future)
                self._count -= 1
                if self._jobs:
                    self._serve()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._jobs:
                    return
                job, future = self._jobs.popleft()
                if future.cancelled():
                    continue
                self._working.add(future)
            Context().run(settle, future, job)  # so that no event sees the context variables of another
            with self._changed:
                if future not in self._working:
                    self._let_go(future)
                    return  # it was written off, and another thread has its place
                self._working.discard(future)
            del job, future  # an idle thread keeps nothing alive

    def _let_go(self, future: asyncio.Future[Any]) -> None:
        lease = self._overdue.pop(future, None)
        if lease is not None:
            with suppress(RuntimeError):  # the loop is closed
                future.get_loop().call_soon_threadsafe(lease.release)

    def close(self) -> None:
        """Let idle threads end; those at work end with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


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
