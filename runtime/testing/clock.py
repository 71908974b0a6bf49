"""Clocks for tests: one that stands still until it is moved, and one that makes no long pauses."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from typing import Any, Final

from runtime.clock import SystemClock
from runtime.contracts import Timer

START: Final = 1_800_000_000.0
PAUSE: Final = 0.01  # seconds


class VirtualTimer:
    """A call on a virtual clock."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        """Take the call back."""
        self.callback = None


class VirtualClock:
    """A clock that stands still until `advance` moves it; see `runtime.contracts.Clock`.

    `settle` returns when all that needs no time has been done; without it the loop is given some rounds.
    """

    def __init__(self, start: float = START, *, settle: Callable[[], Awaitable[None]] | None = None) -> None:
        self._settle = settle
        self._now = start
        self._count = 0
        self._timers: list[tuple[float, int, VirtualTimer]] = []

    def time(self) -> float:
        """Return the virtual Unix time."""
        return self._now

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback(*args)` when the clock has advanced by `delay` seconds."""
        timer = VirtualTimer(callback, args)
        self._count += 1
        heapq.heappush(self._timers, (self._now + max(delay, 0.0), self._count, timer))
        return timer

    async def sleep(self, delay: float) -> None:
        """Return when the clock has advanced by `delay` seconds."""
        if delay <= 0:
            await asyncio.sleep(0)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay, _finish, done)
        try:
            await done
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Move the clock, making every call that becomes due in its order and letting the loop follow."""
        end = self._now + seconds
        await self.settle()
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if timer.callback is not None:
                timer.callback(*timer.args)
                await self.settle()
        self._now = end
        await self.settle()

    async def settle(self, rounds: int = 30) -> None:
        """Let the loop do what is ready."""
        if self._settle is not None:
            await self._settle()
            return
        for _ in range(rounds):
            await asyncio.sleep(0)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class HastyClock(SystemClock):
    """The clock of the machine, but a pause takes no longer than `PAUSE`."""

    async def sleep(self, delay: float) -> None:
        """Return after `delay` seconds, or sooner."""
        await asyncio.sleep(min(delay, PAUSE))
