"""An event loop in a thread of its own, which knows when nothing is left to do.

A loop asks its selector to wait only when nothing is ready: at that moment, and while nothing that was begun is still
under way elsewhere (`busy`), everything that needs no time has been done. That is exact, where a number of rounds of
`sleep(0)` would be a guess, and it waits for threads and for sockets without polling.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Selector(selectors.DefaultSelector):
    """A selector that tells when the loop has come to rest; `rests` counts how often it has."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        super().__init__()
        self._busy = busy
        self._waiting: list[asyncio.Future[None]] = []
        self.rests = 0

    def wait_for(self, future: asyncio.Future[None]) -> None:
        """Set the future when the loop comes to rest."""
        self._waiting.append(future)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what has happened, or nothing as soon as the loop is at rest and somebody waits for that."""
        if not self._waiting or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        events = super().select(0)
        if events:
            return events
        if self._busy():
            return super().select(timeout)
        self.rests += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
        return []


class LoopThread:
    """Runs coroutines of another thread; `busy` tells whether something is under way that needs no time of the clock."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._selector = Selector(busy)
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="harness", daemon=True)
        self._thread.start()
        self._started.wait()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector)) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._started.set()
        await self._end.wait()

    async def rest(self) -> None:
        """Return when nothing is left to do."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._selector.wait_for(future)
        await future

    def call(self, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
        """Return what a coroutine returns.

        Raises:
            Stuck: the loop has not come to rest for `patience` seconds.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            rests = self._selector.rests
            try:
                return future.result(patience)
            except TimeoutError:
                if future.done():
                    raise
                if self._selector.rests == rests:
                    future.cancel()
                    raise Stuck from None

    def close(self, patience: float) -> bool:
        """Cancel what is left and close the loop; return whether that was done in `patience` seconds."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(patience)
        return not self._thread.is_alive()


class Stuck(Exception):
    """Raised when a loop does not come to rest."""
