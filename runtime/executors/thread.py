"""Calls sync functions in threads.

The standard pool is not used: it cannot replace a thread that hangs, and joins its threads when the process
ends. These threads are daemons; one that overruns its timeout is left behind and another takes its place, up to a cap:
beyond it those that hang count among all others, so that their number is bounded whatever a function does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

import msgspec

from runtime.contracts import Call
from runtime.errors import Fault
from runtime.resources import Lease
from runtime.specs import FunctionSpec
from runtime.stacks import line_of
from runtime.threads import settle

log = logging.getLogger("runtime.threads")

LIMIT = 256  # threads at work
SPARE = 64  # threads that hang and are replaced

Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class Overdue(msgspec.Struct, frozen=True):
    """A thread that was left behind: its `ident`, what it runs, since when (monotonic), and what stays open until it returns."""

    function: FunctionSpec
    thread: int
    since: float
    lease: Lease | None


class Threads:
    """At most `limit` threads at work, started when needed and kept; `spare` of those that hang do not count.

    `overran` is told of each function that overruns its timeout, and returns whether that runs isolated from now on.
    """

    def __init__(self, limit: int = LIMIT, spare: int = SPARE, *, overran: Callable[[FunctionSpec], bool] = lambda _: False) -> None:
        self._limit = limit
        self._spare = spare
        self._overran = overran
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._working: dict[asyncio.Future[Any], int] = {}
        self._overdue: dict[asyncio.Future[Any], Overdue] = {}
        self._count = 0
        self._idle = 0
        self._closed = False

    def call(self, call: Call) -> Awaitable[Any]:
        """Return the awaitable of one call in a thread; see `runtime.contracts.Executor`."""
        args, kwargs = call.function.parameters.bind(call)
        return self._submit(lambda: _run(call, args, kwargs), call)

    async def _submit(self, job: Callable[[], Any], call: Call) -> Any:
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            self._jobs.append((job, future))
            self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            raise asyncio.CancelledError(self._leave_behind(future, call)) from None

    def hanging(self) -> dict[str, list[str]]:
        """Return for each function with threads that were left behind the lines in which they are now."""
        found: dict[str, list[str]] = {}
        with self._changed:
            overdue = list(self._overdue.values())
        for one in overdue:
            line = line_of(one.thread)
            found.setdefault(one.function.name, []).append(line[1] if line else "")
        return found

    def faults(self) -> list[Fault]:
        """Return for each function with threads that hang a fault, when there are so many that no more are replaced."""
        with self._changed:
            functions = {one.function.name: one.function for one in self._overdue.values()}
            count = len(self._overdue)
        if count < self._spare:
            return []
        message = (
            '{} threads of "{}" have overrun its timeout and hang (at {}): {} hang altogether, no more are replaced, and other functions'
            " in threads may have to wait; let it give up by itself, or set isolate = true"
        )
        return [
            Fault(functions[name].where, message.format(len(lines), name, lines[0], count))
            for name, lines in self.hanging().items()
            if name in functions
        ]

    def _serve(self) -> None:
        """Wake or start a thread for the jobs that wait; called with the lock."""
        if len(self._jobs) > self._idle and self._at_work < self._limit:
            self._count += 1
            threading.Thread(target=self._work, name=f"function-{self._count}", daemon=True).start()
        self._changed.notify()

    @property
    def _at_work(self) -> int:
        """How many threads there are, without those that hang and are replaced."""
        return self._count - min(len(self._overdue), self._spare)

    def _leave_behind(self, future: asyncio.Future[Any], call: Call) -> str:
        """Let another thread take the place of the one that works on `future`; return what there is to tell of it.

        A job that still waits is passed over.
        """
        function, lease = call.function, call.resources
        with self._changed:
            thread = self._working.pop(future, None)
            if thread is None:
                waits = any(other is future for _, other in self._jobs)
                return f"it waited for a thread: {self._count} are there and {len(self._overdue)} of them hang" if waits else ""
            if lease is not None:  # what the thread uses stays open until it returns
                lease.share()
            self._overdue[future] = Overdue(function, thread, time.monotonic(), lease)
            count = sum(one.function.name == function.name for one in self._overdue.values())
            if self._jobs:
                self._serve()
        line = line_of(thread)
        after = "; it runs isolated from now on, until it is saved" if call.expired and self._overran(function) else ""
        return f"its thread goes on, at {line[1] if line else function.where}; that makes {count} of this function that hang{after}"

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
                self._working[future] = threading.get_ident()
            Context().run(settle, future, job)  # so that no event sees the context variables of another
            with self._changed:
                if self._working.pop(future, None) is None:
                    self._let_go(self._overdue.pop(future), future.get_loop())
                    if self._at_work > self._limit:
                        self._count -= 1
                        return  # another has its place
            del job, future  # an idle thread keeps nothing alive

    def _let_go(self, overdue: Overdue, loop: asyncio.AbstractEventLoop) -> None:
        function, seconds = overdue.function, time.monotonic() - overdue.since
        log.info('"%s" (%s) has returned from its thread, %.1f s after it was left behind', function.name, function.where, seconds)
        if overdue.lease is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(overdue.lease.release)

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
